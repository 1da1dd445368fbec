"""A snapshot is whole or not there: killed exports, damaged and hostile folders."""

from __future__ import annotations

import functools
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

import pytest
from cases import (
    ALL_AT_ONCE,
    FILES,
    HARM,
    Damage,
    drop_last_row,
    flip,
    forge,
    swap,
    validated,
)
from conftest import Fail, Run, Succeed, fork_process, wait_until
from servers import Database, meanwhile

import export_restore as er


def harm(what: str, name: str, folder: Path) -> None:
    HARM[what](folder / name)


DAMAGE: dict[str, Damage] = {
    f"{name} {what}": functools.partial(harm, what, name)
    for name in FILES
    for what in HARM
    if (name, what) != (er.MANIFEST_FILE, "missing")  # such a folder restores
}
DAMAGE |= {
    "two CSVs swapped": lambda f: swap(f / "agents.csv", f / "leads.csv"),
    "a CSV of another table": lambda f: shutil.copy(f / "agents.csv", f / "leads.csv"),
    "a CSV too many": lambda f: (f / "more.csv").write_text("a\n"),
    "a row too few": lambda f: drop_last_row(f / "leads.csv"),
}


FORGED: dict[str, Damage] = {
    "path up": forge("resources", 0, "path", value="../agents.csv"),
    "path absolute": forge("resources", 0, "path", value="/etc/passwd.csv"),
    "path of Windows": forge("resources", 0, "path", value="..\\agents.csv"),
    "path hidden": forge("resources", 0, "path", value=".env.csv"),
    "path of another kind": forge("resources", 0, "path", value="schema.sql"),
    "path twice": forge("resources", 1, "path", value="agents.csv"),
    "table twice": forge("resources", 1, "postgresql", "name", value="agents"),
    "table unknown": forge("resources", 0, "postgresql", "name", value="nobody"),
    "hash of another kind": forge("resources", 0, "hash", value="md5:abc"),
    "hash wrong": forge("resources", 0, "hash", value="sha256:" + "0" * 64),
    "rows wrong": forge("resources", 0, "postgresql", "rows", value=7),
    "rows no number": forge("resources", 0, "postgresql", "rows", value="7"),
    "bytes wrong": forge("resources", 0, "bytes", value=1),
    "fields wrong": forge("resources", 0, "schema", "fields", value=[]),
    "types wrong": forge("resources", 0, "postgresql", "types", value=["int"]),
    "no resources": forge("resources", value=[]),
    "resources no list": forge("resources", value=7),
    "newer format": forge("postgresql", "format", value=99),
    "format no number": forge("postgresql", "format", value="one"),
    "sequence unknown": forge(
        "postgresql",
        "sequences",
        value=[{"schema": "public", "name": "x", "last_value": 1, "is_called": True}],
    ),
    "sequence broken": forge("postgresql", "sequences", 0, "last_value", value="x"),
    "other files up": forge("postgresql", "files", value={"../x": "sha256:0"}),
    "no other files": forge("postgresql", "files", value={}),
    "no key of ours": forge("postgresql", "database", value=None),
}


@pytest.mark.parametrize("damages", [DAMAGE, FORGED], ids=["damaged", "forged"])
def test_damaged_folders_change_nothing(
    exported: Database, work: Path, run: Run, damages: dict[str, Damage]
) -> None:
    exported.execute("DELETE FROM leads WHERE id < 5")
    before = exported.state()
    env = exported.env_file(work)
    for what, damage in damages.items():
        folder = work / what / "exports"
        shutil.copytree(work / "exports", folder)
        damage(folder)
        result = run("restore", "--dir", folder, "--env-file", env, "-q")
        assert result.status in (2, 3), (what, result)
        assert result.out == ""
        first, *_, hint, last = result.err.splitlines()
        assert first.startswith("export_restore: error: ")
        assert hint.startswith("hint: ")
        assert last.endswith(" is as it was")
        assert exported.rows() == before[1], what
    assert exported.state() == before


def test_all_faults_are_named_at_once(exported: Database, work: Path, run: Run) -> None:
    folder = work / "exports"
    (folder / "agents.csv").unlink()
    flip(folder / "leads.csv", 5)
    flip(folder / "schema.sql", 5)
    (folder / "more.csv").write_text("a\n")
    (folder / "notes.txt").write_text("not ours")
    result = run("restore", "--env-file", exported.env_file(work))
    assert (result.status, result.out) == (3, "")
    for fault in (
        "agents.csv is missing",
        "leads.csv was changed since the export (sha256 differs)",
        "schema.sql was changed since the export (sha256 differs)",
        "more.csv is not part of the snapshot",
    ):
        assert f"\n  {fault}\n" in result.err
    assert "notes.txt" not in result.err


def test_files_are_checked_before_connecting(
    exported: Database, work: Path, fail: Fail
) -> None:
    flip(work / "exports/leads.csv", 5)
    env = exported.env_file(work, DB_HOST="no-such-host.invalid", DB_PASSWORD="x")
    assert "sha256 differs" in fail(3, "restore", "--env-file", env)


def test_accepted_edits_are_restored(
    exported: Database, work: Path, succeed: Succeed
) -> None:
    path = work / "exports/leads.csv"
    lines = path.read_text(encoding="utf-8").replace(",won,", ",lost,").split("\n")
    path.write_text("\n".join(lines), encoding="utf-8")
    succeed("restore", "--env-file", exported.env_file(work), "--accept-edits")
    assert exported.fetch("SELECT count(*) FROM leads WHERE status = 'won'") == [(0,)]


def test_two_exports_differ_in_the_time_alone(
    exported: Database, work: Path, succeed: Succeed
) -> None:
    succeed("export", "--env-file", exported.env_file(work), "--dir", "again")
    one, two = (work / folder for folder in ("exports", "again"))
    texts = []
    for folder in (one, two):
        package = json.loads((folder / er.MANIFEST_FILE).read_text())
        del package["created"], package["postgresql"]["checksum"]
        texts.append(json.dumps(package))
        (folder / er.MANIFEST_FILE).unlink()
    assert texts[0] == texts[1]
    names = {path.name: path.read_bytes() for path in one.iterdir()}
    assert names == {path.name: path.read_bytes() for path in two.iterdir()}


def test_dry_run_does_all_and_changes_nothing(
    exported: Database, work: Path, run: Run
) -> None:
    exported.execute(
        "DELETE FROM leads WHERE id = 1; SELECT setval('leads_id_seq', 999);"
        "CREATE SEQUENCE other"
    )
    before = exported.state()
    env = exported.env_file(work)
    result = run("restore", "--env-file", env, "--dry-run")
    assert result.status == 0
    assert "It would work. Nothing was changed" in result.out
    assert exported.state() == before
    exported.execute("CREATE VIEW v AS SELECT 1")  # outside: no drift
    assert run("restore", "--env-file", env, "--dry-run").status == 0


# ---- killed exports


def kill_at(count: int, events: Collection[str]) -> Callable[[], None]:
    """Return what lets a process die before so many of these calls are done."""

    def hook(event: str, arguments: object) -> None:
        nonlocal count
        if event in events:
            count -= 1
            if count == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    return lambda: sys.addaudithook(hook)


EVENTS = ("os.rename", "os.remove", "os.rmdir", "os.mkdir", "fcntl.flock")


@pytest.fixture
def changing(exported: Database, work: Path) -> Iterator[tuple[Database, Path]]:
    """A snapshot of the old state, and a database that has moved on since."""
    exported.execute("DROP TABLE feedback; DELETE FROM leads WHERE id % 2 = 0")
    yield exported, exported.env_file(work)


def state_of(folder: Path) -> dict[str, bytes]:
    """Return what a reader of the snapshot would get, without its time."""
    with er.Folder(folder).opened() as snapshot:
        return {name: file.path.read_bytes() for name, file in snapshot.csvs.items()}


def test_killed_at_each_step_of_publishing(
    changing: tuple[Database, Path], work: Path, succeed: Succeed
) -> None:
    """Old or new, never a mixture, and what others put there stays."""
    _, env = changing
    (work / "exports/notes.txt").write_text("mine")
    shutil.copytree(work / "exports", work / "old")
    old = state_of(work / "old")
    succeed("export", "--env-file", env, "--dir", "new")
    new = state_of(work / "new")
    assert set(old) - set(new) == {"feedback.csv"}
    seen = set()
    for count in range(1, 60):
        shutil.rmtree(work / "exports")
        shutil.copytree(work / "old", work / "exports")
        hook = kill_at(count, EVENTS)
        done = fork_process("export", "-q", "--env-file", env, first=hook)
        done.communicate()
        found = state_of(work / "exports")
        assert found in (old, new), f"a mixture after step {count}"
        assert (work / "exports/notes.txt").read_text() == "mine"
        if done.returncode == 0:
            break
        assert done.returncode == -signal.SIGKILL
        seen.add(found == new)
    else:
        raise AssertionError("the export never ended")
    assert seen == {True, False}
    assert count > 10


def test_killed_at_any_moment(
    exported: Database, work: Path, succeed: Succeed, moments: int
) -> None:
    """Spread over the whole run; each folder restores, to the old state or the new."""
    exported.execute("DELETE FROM leads WHERE id % 2 = 0; UPDATE agents SET phone = ''")
    moments = moments or 80
    env = exported.env_file(work)
    shutil.copytree(work / "exports", work / "old")
    succeed("export", "--env-file", env, "--dir", "new")
    states = {}
    with exported.server.database() as target:
        for folder in ("old", "new"):
            env_there = target.env_file(work)
            succeed("restore", "--env-file", env_there, "--dir", folder, "--yes")
            states[folder] = (state_of(work / folder), target.rows())
        start = time.monotonic()
        fork_process("export", "--env-file", env, "--dir", "timed").communicate()
        whole = time.monotonic() - start
        found = set()
        for step in range(moments):
            process = fork_process("export", "--env-file", env)
            time.sleep(whole * step / moments)
            process.kill()
            process.communicate()
            state = state_of(work / "exports")
            [name] = [each for each in states if states[each][0] == state]
            if name not in found or step % 10 == 0:
                succeed("restore", "--env-file", target.env_file(work), "--yes")
                assert target.rows() == states[name][1]
            found.add(name)
            if name == "new" and step < moments * 0.9:
                shutil.rmtree(work / "exports")
                shutil.copytree(work / "old", work / "exports")
    for stage in (work / "exports").glob(".export-*"):
        os.utime(stage, (0, 0))
    succeed("export", "--env-file", env)
    assert state_of(work / "exports") == states["new"][0]
    assert not list((work / "exports").glob(".[er]*"))


def test_two_exports_at_once_do_not_mix(
    seeded: Database, work: Path, succeed: Succeed
) -> None:
    """Each changes every row of all tables; readers see one whole snapshot."""
    env = seeded.env_file(work)
    succeed("export", "--env-file", env)
    mark = """
        DO $$ BEGIN FOR n IN 1..1000000 LOOP
            UPDATE agents SET region = 'mark ' || n;
            UPDATE leads SET company = 'mark ' || n;
            UPDATE feedback SET comment = 'mark ' || n;
            COMMIT; PERFORM pg_sleep(0.002);
        END LOOP; END $$
    """
    with meanwhile(seeded, mark):
        wait_until(
            lambda: not seeded.fetch("SELECT FROM agents WHERE region !~ 'mark'")
        )
        for _ in range(6):
            exports = [fork_process("export", "--env-file", env) for _ in "12"]
            for process in exports:
                process.communicate()
                assert process.returncode == 0
            text = b"".join(state_of(work / "exports").values()).decode()
            assert (
                len({word for word in text.split(",") if word.startswith("mark ")}) >= 1
            )
            marks = {
                part.split(",")[0].split("\n")[0] for part in text.split("mark ")[1:]
            }
            assert len(marks) == 1, marks


def test_an_export_waits_for_readers(
    changing: tuple[Database, Path], work: Path
) -> None:
    """A restore reads the files for a while; they must not change under it."""
    _, env = changing
    old = state_of(work / "exports")
    with er.Folder(work / "exports").opened():
        process = fork_process("export", "--env-file", env)
        time.sleep(1.5)
        assert process.poll() is None
        names = {path.name for path in (work / "exports").glob("*.csv")}
        assert names == set(old)
    process.communicate(timeout=30)
    assert process.returncode == 0
    assert state_of(work / "exports") != old


def test_disk_full(exported: Database, work: Path) -> None:
    """The old snapshot stays whole, and the message says why."""
    before = state_of(work / "exports")
    exported.execute("UPDATE leads SET notes = repeat('x', 100000)")

    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))

    argv = ("export", "-q", "--env-file", exported.env_file(work))
    done = fork_process(*argv, first=limit)
    _, err = done.communicate()
    assert done.returncode == 1
    assert err.splitlines() == [
        "export_restore: error: exports cannot be written: File too large",
        "hint: make room, make it writable and close what has its files open, or name"
        " another folder with --dir",
        "exports still holds the snapshot of less than a minute ago",
    ]
    assert state_of(work / "exports") == before
    assert not list((work / "exports").glob(".[er]*"))


def test_checksum_reads_every_row_again(
    exported: Database, work: Path, run: Run, succeed: Succeed
) -> None:
    """Something that changes rows as they come: here an event trigger."""
    env = exported.env_file(work)
    succeed("restore", "--env-file", env, "--checksum")
    exported.execute(
        "CREATE FUNCTION meddle() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN"
        " IF EXISTS (SELECT FROM pg_tables WHERE tablename = 'leads') THEN"
        " UPDATE public.leads SET company = 'meddled'; END IF; END $$;"
        "CREATE EVENT TRIGGER meddle ON ddl_command_end WHEN TAG IN ('ALTER TABLE')"
        " EXECUTE FUNCTION meddle()"
    )
    before = exported.rows()
    result = run("restore", "--env-file", env, "--checksum", "-q")
    assert result.status == 3
    assert "the rows are not those of the snapshot: leads: 60 changed" in result.err
    assert exported.rows() == before


# ---- line ends


def by_git(folder: Path) -> None:
    """Put a snapshot into git and take it out as git for Windows does."""
    git = ["git", "-C", str(folder), "-c", "core.autocrlf=true", "-c", "core.eol=crlf"]
    subprocess.run([*git, "init", "-q"], check=True)
    subprocess.run([*git, "add", "-f", "."], check=True, capture_output=True)
    for path in filter(Path.is_file, list(folder.iterdir())):
        path.unlink()
    subprocess.run([*git, "checkout-index", "-a"], check=True)
    shutil.rmtree(folder / ".git")


def test_git_takes_no_snapshot_unasked(exported: Database, work: Path) -> None:
    subprocess.run(["git", "init", "-q"], check=True)
    status = ["git", "status", "--porcelain", "-uall", "exports"]
    assert subprocess.run(status, check=True, capture_output=True).stdout == b""


def test_git_leaves_a_snapshot_as_it_is(exported: Database, work: Path) -> None:
    assert (work / "exports/.gitattributes").read_bytes() == b"* -text\n"
    before = {path.name: path.read_bytes() for path in (work / "exports").iterdir()}
    by_git(work / "exports")
    after = {path.name: path.read_bytes() for path in (work / "exports").iterdir()}
    assert after == before


@pytest.mark.parametrize("moved", [0, 1, 2])
def test_rules_for_git_in_a_new_folder_whose_export_was_killed(
    exported: Database, work: Path, moved: int
) -> None:
    """It died when so many files had been moved into place; the next one goes on."""
    export = ("export", "-q", "--env-file", exported.env_file(work), "--dir", "new")
    done = fork_process(*export, first=kill_at(moved + 1, ("os.rename",)))
    assert done.wait() == -signal.SIGKILL
    for stage in (work / "new").glob(".export-*"):
        os.utime(stage, (0, 0))
    assert er.main([*map(str, export)]) == 0
    assert (work / "new/.gitattributes").read_bytes() == b"* -text\n"
    assert (work / "new/.gitignore").read_bytes() == b"*\n"
    assert not list((work / "new").glob(".[er]*"))


def test_an_older_folder_stays_without_rules_for_git(
    exported: Database, work: Path, succeed: Succeed
) -> None:
    (work / "exports/.gitattributes").unlink()
    succeed("export", "--env-file", exported.env_file(work))
    assert not (work / "exports/.gitattributes").exists()


def test_line_ends_that_git_has_changed(
    exported: Database, work: Path, run: Run, fail: Fail
) -> None:
    """All of them, or those of some files: the hint is how to get them back."""
    env = exported.env_file(work)
    folder = work / "exports"
    shutil.copytree(folder, work / "whole")
    said = "has other line ends now, most likely by git (core.autocrlf)"
    (folder / ".gitattributes").unlink()
    by_git(folder)
    assert b"\r\n" in (folder / "leads.csv").read_bytes()
    for command in ("restore", "verify", "rehearse"):
        message = fail(3, command, "--env-file", env)
        assert f"exports/datapackage.json {said}" in message
        assert 'hint: put "* -text" into exports/.gitattributes, delete' in message
    shutil.copy(work / "whole/datapackage.json", folder)
    message = run("restore", "--env-file", env).err
    for name in ("agents.csv", "catalog.txt", "feedback.csv", "leads.csv"):
        assert f"\n  {name} {said}\n" in message
    assert "exports/.gitattributes" in message
    (folder / "leads.csv").write_bytes(b"id\r\n")
    message = run("restore", "--env-file", env).err
    assert "\n  leads.csv was changed since the export" in message


def test_a_script_from_windows_in_git(
    seeded: Database, work: Path, fail: Fail, succeed: Succeed
) -> None:
    """On the way out git may also take away what was there."""
    env = seeded.env_file(work)
    text = (work / "schema.sql").read_bytes()
    (work / "schema.sql").write_bytes(text.replace(b"\n", b"\r\n"))
    succeed("export", "--env-file", env)
    (work / "exports/schema.sql").write_bytes(text)
    message = fail(3, "verify", "--env-file", env)
    assert "schema.sql has other line ends now, most likely by git" in message


BY_HAND = {
    "LF": (b'id,a\n1,x\n2,"y\r\nz"\n', [(1, "x"), (2, "y\r\nz")]),
    "CRLF": (b'id,a\r\n1,x\r\n2,"y\nz"\r\n', [(1, "x"), (2, "y\nz")]),
    "CRLF, without an end": (b"id,a\r\n1,x", [(1, "x")]),
    "CRLF, quoted": (b'"id","a"\r\n"1","x""\ny"\r\n', [(1, 'x"\ny')]),
    "CRLF everywhere": (b'id,a\r\n1,x\r\n2,"y\r\nz"\r\n', "line 3: CRLF in a value"),
    "CRLF, then LF": (b"id,a\r\n1,x\n2,y\r\n", "line 2: unquoted newline"),
    "LF, then CRLF": (b"id,a\n1,x\r\n", "line 2: unquoted carriage return"),
}


@pytest.mark.parametrize("case", BY_HAND)
def test_line_ends_of_files_made_by_hand(
    source: Database, work: Path, succeed: Succeed, fail: Fail, case: str
) -> None:
    """A CR that git or an editor has put there does not get into a value."""
    text, expected = BY_HAND[case]
    folder = work / "exports"
    folder.mkdir()
    (folder / "schema.sql").write_bytes(b"CREATE TABLE t (id int,\r\n a text);\r\n")
    (folder / "t.csv").write_bytes(text)
    env = source.env_file(work)
    if isinstance(expected, str):
        assert f"t.csv, {expected}" in fail(3, "restore", "--env-file", env)
    else:
        succeed("restore", "--env-file", env)
        assert source.fetch("SELECT * FROM t ORDER BY id") == expected


# ---- others


def test_the_same_rows_in_another_order_are_the_same(
    source: Database, target: Database, work: Path, succeed: Succeed
) -> None:
    """schema.sql may order columns and make keys otherwise than the database did."""
    (work / "schema.sql").write_text(
        "CREATE TABLE columns (id int PRIMARY KEY, a int, b int);"
        "CREATE TABLE keys (a int NOT NULL UNIQUE, b int NOT NULL UNIQUE)"
    )
    source.execute(
        "CREATE TABLE columns (id int PRIMARY KEY, b int, a int);"
        "CREATE TABLE keys (a int NOT NULL, b int NOT NULL);"
        "ALTER TABLE keys ADD UNIQUE (b), ADD UNIQUE (a);"
        "INSERT INTO columns VALUES (1, 9, 8), (2, 8, 7);"
        "INSERT INTO keys VALUES (1, 9), (2, 8)"
    )
    succeed("export", "--env-file", source.env_file(work))
    env = target.env_file(work)
    succeed("restore", "--env-file", env, "--checksum")
    succeed("export", "--env-file", env, "--dir", "again")
    for name in ("exports", "again"):
        assert (work / name / "keys.csv").read_text() == "a,b\n1,9\n2,8\n"


def test_a_data_package_that_others_can_read(exported: Database, work: Path) -> None:
    """frictionless finds no fault, and DuckDB the rows that the database has."""
    tasks = validated(work / "exports")
    assert len(tasks) == 3
    package = json.loads((work / "exports/datapackage.json").read_text())
    leads = package["resources"][1]["schema"]
    assert leads["primaryKey"] == ["id"]
    assert leads["foreignKeys"][0]["reference"]["resource"] == "agents"
    kinds = {field["name"]: field["type"] for field in leads["fields"]}
    assert (kinds["id"], kinds["estimated_value"]) == ("integer", "number")
    assert counted_by_duckdb(work / "exports/leads.csv") == 60


def test_every_feature_in_a_data_package(
    source: Database, work: Path, succeed: Succeed
) -> None:
    for part in ALL_AT_ONCE:
        source.execute(part)
    (work / "schema.sql").write_text(ALL_AT_ONCE[0], encoding="utf-8")
    succeed("export", "--env-file", source.env_file(work))
    # The one thing that a table may have and the standard forbids.
    tasks = validated(work / "exports", faults=[" ", " "])
    with er.Folder(work / "exports").opened() as snapshot:
        assert snapshot.manifest is not None
        files = snapshot.manifest.files
    assert len(tasks) == len(files) > 50
    for each in files:
        # A row of nothing but NULLs is an empty line to others.
        if (work / "exports" / each.path).read_bytes().split(b"\n")[0].count(b","):
            assert counted_by_duckdb(work / "exports" / each.path) == each.rows, each


def counted_by_duckdb(path: Path) -> int:
    """Return how many rows DuckDB finds in a CSV."""
    import duckdb

    query = "SELECT count(*) FROM read_csv(?, header = true, all_varchar = true)"
    return int(duckdb.execute(query, [str(path)]).fetchall()[0][0])
