"""A snapshot is whole or not there: killed exports, damaged and hostile folders."""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import pytest
from cases import (
    FILES,
    HARM,
    Damage,
    contents,
    flip,
    forge,
    validated,
)
from commands import Place, by_hand, wait_until
from servers import meanwhile

import export_restore as er


def harm(what: str, name: str) -> Damage:
    return lambda folder: HARM[what](folder / name)


def drop_last_row(folder: Path) -> None:
    lines = (folder / "leads.csv").read_text().split("\n")
    (folder / "leads.csv").write_text("\n".join(lines[:-2]) + "\n")


DAMAGE: dict[str, Damage] = {
    f"{name} {what}": harm(what, name)
    for name in FILES
    for what in HARM
    if (name, what) != (er.MANIFEST_FILE, "missing")  # such a folder restores
}
DAMAGE |= {
    "a CSV of another table": lambda f: shutil.copy(f / "agents.csv", f / "leads.csv"),
    "a CSV too many": lambda f: (f / "more.csv").write_text("a\n"),
    "a row too few": drop_last_row,
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
    "bytes wrong": forge("resources", 0, "bytes", value=1),
    "types wrong": forge("resources", 0, "postgresql", "types", value=["int"]),
    "no resources": forge("resources", value=[]),
    "newer format": forge("postgresql", "format", value=99),
    "sequence unknown": forge(
        "postgresql",
        "sequences",
        value=[{"schema": "public", "name": "x", "last_value": 1, "is_called": True}],
    ),
    "other files up": forge("postgresql", "files", value={"../x": "sha256:0"}),
    "no other files": forge("postgresql", "files", value={}),
}


def test_damaged_folders_change_nothing(exported: Place, work: Path) -> None:
    exported.execute("DELETE FROM leads WHERE id < 5")
    rows = exported.rows()
    with exported.untouched():
        for what, damage in (DAMAGE | FORGED).items():
            folder = work / what / "exports"
            shutil.copytree(work / "exports", folder)
            damage(folder)
            result = exported.call("restore", "--dir", folder, "-q")
            first, *_, hint, last = result.err.splitlines()
            assert (result.status in (2, 3), result.out) == (True, ""), (what, result)
            assert first.startswith("export_restore: error: ")
            assert (hint[:6], last) == ("hint: ", exported.as_it_was), what
            assert exported.rows() == rows, what


def test_all_faults_are_named_at_once(exported: Place) -> None:
    """And before anything is connected to."""
    folder = Path("exports")
    (folder / "agents.csv").unlink()
    flip(folder / "leads.csv", 5)
    flip(folder / "schema.sql", 5)
    (folder / "more.csv").write_text("a\n")
    (folder / "notes.txt").write_text("not ours")
    away = exported.but(DB_HOST="no-such-host.invalid", DB_PASSWORD="x")
    message = away.fail(3, "restore")
    for fault in (
        "agents.csv is missing",
        "leads.csv was changed since the export (sha256 differs)",
        "schema.sql was changed since the export (sha256 differs)",
        "more.csv is not part of the snapshot",
    ):
        assert f"\n  {fault}\n" in message
    assert "notes.txt" not in message


def test_accepted_edits_are_restored(exported: Place) -> None:
    path = Path("exports/leads.csv")
    path.write_text(path.read_text(encoding="utf-8").replace(",won,", ",lost,"))
    exported.succeed("restore", "--accept-edits")
    assert exported.fetch("SELECT count(*) FROM leads WHERE status = 'won'") == [(0,)]


def test_two_exports_differ_in_the_time_alone(exported: Place) -> None:
    """Rows that were touched move in the heap; the files must not show it."""
    exported.execute("UPDATE leads SET notes = notes WHERE id % 3 = 0")
    exported.succeed("export", "--dir", "again")
    found = []
    for folder in (Path("exports"), Path("again")):
        files: dict[str, Any] = {**contents(folder)}
        package = files[er.MANIFEST_FILE] = json.loads(files[er.MANIFEST_FILE])
        del package["created"], package["postgresql"]["checksum"]
        found.append({**files, "order": json.dumps(package)})
        assert all(path.stat().st_mode & 0o077 == 0 for path in folder.iterdir())
    assert found[0] == found[1]
    csvs = ("agents.csv", "feedback.csv", "leads.csv")
    ours = (*er.GIT_FILES, er.CATALOG_FILE, er.MANIFEST_FILE, er.SCHEMA_FILE)
    assert sorted(contents(Path("again"))) == sorted((*ours, *csvs))
    assert found[0]["schema.sql"] == Path("schema.sql").read_bytes()


def test_dry_run_does_all_and_changes_nothing(exported: Place) -> None:
    exported.execute(
        "DELETE FROM leads WHERE id = 1; SELECT setval('leads_id_seq', 999);"
        "CREATE SEQUENCE other"
    )
    with exported.untouched():
        result = exported.call("restore", "--dry-run")
    assert result.status == 0
    assert "It would work. Nothing was changed" in result.out
    exported.execute("CREATE VIEW v AS SELECT 1")  # outside: no drift
    exported.told(0, "restore", "--dry-run")


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


def state_of(folder: Path) -> dict[str, bytes]:
    """Return what a reader of the snapshot would get, without its time."""
    with er.Folder(folder).opened() as snapshot:
        return {name: file.path.read_bytes() for name, file in snapshot.csvs.items()}


MOVED_ON = "DROP TABLE feedback; DELETE FROM leads WHERE id % 2 = 0"


def test_killed_at_each_step_of_publishing(exported: Place) -> None:
    """Old or new, never a mixture, and what others put there stays."""
    exported.execute(MOVED_ON)
    Path("exports/notes.txt").write_text("mine")
    shutil.copytree(Path("exports"), Path("old"))
    exported.succeed("export", "--dir", "new")
    old, new = state_of(Path("old")), state_of(Path("new"))
    assert set(old) - set(new) == {"feedback.csv"}
    seen = set()
    for count in range(1, 60):
        shutil.rmtree(Path("exports"))
        shutil.copytree(Path("old"), Path("exports"))
        done = exported.start("export", "-q", first=kill_at(count, EVENTS))
        done.communicate()
        found = state_of(Path("exports"))
        assert found in (old, new), f"a mixture after step {count}"
        assert Path("exports/notes.txt").read_text() == "mine"
        if done.returncode == 0:
            break
        assert done.returncode == -signal.SIGKILL
        seen.add(found == new)
    else:
        raise AssertionError("the export never ended")
    assert seen == {True, False}
    assert count > 10


def age_stages(folder: Path) -> None:
    """Make what killed exports left old enough to go."""
    for stage in folder.glob(".export-*"):
        os.utime(stage, (0, 0))


def test_killed_at_any_moment(
    exported: Place, target: Place, work: Path, moments: int
) -> None:
    """Spread over the whole run; each folder restores, to the old state or the new."""
    exported.execute("DELETE FROM leads WHERE id % 2 = 0; UPDATE agents SET phone = ''")
    moments = moments or 80
    shutil.copytree(work / "exports", work / "old")
    exported.succeed("export", "--dir", "new")
    states = {}
    for folder in ("old", "new"):
        target.succeed("restore", "--dir", folder, "--yes")
        states[folder] = (state_of(work / folder), target.rows())
    start = time.monotonic()
    exported.start("export", "--dir", "timed").communicate()
    whole = time.monotonic() - start
    found = set()
    for step in range(moments):
        process = exported.start("export")
        time.sleep(whole * step / moments)
        process.kill()
        process.communicate()
        state = state_of(work / "exports")
        [name] = [each for each in states if states[each][0] == state]
        if name not in found or step % 10 == 0:
            target.succeed("restore", "--yes")
            assert target.rows() == states[name][1]
        found.add(name)
        if name == "new" and step < moments * 0.9:
            shutil.rmtree(work / "exports")
            shutil.copytree(work / "old", work / "exports")
    age_stages(work / "exports")
    exported.succeed("export")
    assert state_of(work / "exports") == states["new"][0]
    assert not list((work / "exports").glob(".[er]*"))


def test_two_exports_at_once_do_not_mix(seeded: Place) -> None:
    """Each changes every row of all tables; readers see one whole snapshot."""
    seeded.succeed("export")
    mark = """
        DO $$ BEGIN FOR n IN 1..1000000 LOOP
            UPDATE agents SET region = 'mark ' || n;
            UPDATE leads SET company = 'mark ' || n;
            UPDATE feedback SET comment = 'mark ' || n;
            COMMIT; PERFORM pg_sleep(0.002);
        END LOOP; END $$
    """
    with meanwhile(seeded, mark):
        unmarked = "SELECT FROM agents WHERE region !~ 'mark'"
        wait_until(lambda: not seeded.fetch(unmarked))
        for _ in range(6):
            for process in [seeded.start("export") for _ in "12"]:
                process.communicate()
                assert process.returncode == 0
            text = b"".join(state_of(Path("exports")).values()).decode()
            assert len(set(re.findall("mark \\d+", text))) == 1


def test_an_export_waits_for_readers(exported: Place) -> None:
    """A restore reads the files for a while; they must not change under it."""
    exported.execute(MOVED_ON)
    old = state_of(Path("exports"))
    with er.Folder(Path("exports")).opened():
        process = exported.start("export")
        time.sleep(1.5)
        assert process.poll() is None
        assert set(contents(Path("exports"), "*.csv")) == set(old)
    process.communicate(timeout=30)
    assert process.returncode == 0
    assert state_of(Path("exports")) != old


def test_disk_full(exported: Place) -> None:
    """The old snapshot stays whole, and the message says why."""
    before = state_of(Path("exports"))
    exported.execute("UPDATE leads SET notes = repeat('x', 100000)")

    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))

    done = exported.start("export", "-q", first=limit)
    _, err = done.communicate()
    assert done.returncode == 1
    *told, last = err.splitlines()
    assert told == [
        "export_restore: error: exports cannot be written: File too large",
        "hint: make room, make it writable and close what has its files open, or name"
        " another folder with --dir",
    ]
    assert re.fullmatch(r"exports still holds the snapshot of .* ago", last)
    assert state_of(Path("exports")) == before
    assert not list(Path("exports").glob(".[er]*"))


def test_checksum_reads_every_row_again(exported: Place) -> None:
    """Something that changes rows as they come: here an event trigger."""
    exported.succeed("restore", "--checksum")
    exported.execute(
        "CREATE FUNCTION meddle() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN"
        " IF EXISTS (SELECT FROM pg_tables WHERE tablename = 'leads') THEN"
        " UPDATE public.leads SET company = 'meddled'; END IF; END $$;"
        "CREATE EVENT TRIGGER meddle ON ddl_command_end WHEN TAG IN ('ALTER TABLE')"
        " EXECUTE FUNCTION meddle()"
    )
    with exported.untouched():
        result = exported.call("restore", "--checksum", "-q")
    assert result.status == 3
    assert "the rows are not those of the snapshot: leads: 60 changed" in result.err


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


def test_git_leaves_a_snapshot_as_it_is(exported: Place) -> None:
    """And takes none unasked."""
    subprocess.run(["git", "init", "-q"], check=True)
    status = ["git", "status", "--porcelain", "-uall", "exports"]
    assert subprocess.run(status, check=True, capture_output=True).stdout == b""
    before = contents(Path("exports"))
    assert before[".gitattributes"] == b"* -text\n"
    by_git(Path("exports"))
    assert contents(Path("exports")) == before


@pytest.mark.parametrize("moved", [0, 1, 2])
def test_rules_for_git_in_a_new_folder_whose_export_was_killed(
    exported: Place, moved: int
) -> None:
    """It died when so many files had been moved into place; the next one goes on."""
    export = ("export", "-q", "--dir", "new")
    done = exported.start(*export, first=kill_at(moved + 1, ("os.rename",)))
    assert done.wait() == -signal.SIGKILL
    age_stages(Path("new"))
    exported.succeed(*export)
    assert Path("new/.gitattributes").read_bytes() == b"* -text\n"
    assert Path("new/.gitignore").read_bytes() == b"*\n"
    assert not list(Path("new").glob(".[er]*"))
    Path("new/.gitattributes").unlink()  # an older folder stays without
    exported.succeed(*export)
    assert not Path("new/.gitattributes").exists()


def test_line_ends_that_git_has_changed(exported: Place) -> None:
    """All of them, or those of some files: the hint is how to get them back."""
    folder = Path("exports")
    shutil.copytree(folder, Path("whole"))
    said = "has other line ends now, most likely by git (core.autocrlf)"
    (folder / ".gitattributes").unlink()
    by_git(folder)
    assert b"\r\n" in (folder / "leads.csv").read_bytes()
    for command in ("restore", "verify", "rehearse"):
        message = exported.fail(3, command)
        assert f"exports/datapackage.json {said}" in message
        assert 'hint: put "* -text" into exports/.gitattributes, delete' in message
    shutil.copy(Path("whole/datapackage.json"), folder)
    message = exported.fail(3, "restore")
    for name in ("agents.csv", "catalog.txt", "feedback.csv", "leads.csv"):
        assert f"\n  {name} {said}\n" in message
    assert "exports/.gitattributes" in message
    (folder / "leads.csv").write_bytes(b"id\r\n")
    message = exported.fail(3, "restore")
    assert "\n  leads.csv was changed since the export" in message
    # On the way out git may also take away what was there.
    text = Path("schema.sql").read_bytes()
    Path("schema.sql").write_bytes(text.replace(b"\n", b"\r\n"))
    exported.succeed("export")
    (folder / "schema.sql").write_bytes(text)
    message = exported.fail(3, "verify")
    assert "schema.sql has other line ends now, most likely by git" in message


BY_HAND = {
    "LF": ('id,a\n1,x\n2,"y\r\nz"\n', [(1, "x"), (2, "y\r\nz")]),
    "CRLF": ('id,a\r\n1,x\r\n2,"y\nz"\r\n', [(1, "x"), (2, "y\nz")]),
    "CRLF, without an end": ("id,a\r\n1,x", [(1, "x")]),
    "CRLF, quoted": ('"id","a"\r\n"1","x""\ny"\r\n', [(1, 'x"\ny')]),
    "CRLF everywhere": ('id,a\r\n1,x\r\n2,"y\r\nz"\r\n', "line 3: CRLF in a value"),
    "CRLF, then LF": ("id,a\r\n1,x\n2,y\r\n", "line 2: unquoted newline"),
    "LF, then CRLF": ("id,a\n1,x\r\n", "line 2: unquoted carriage return"),
}


def test_line_ends_of_files_made_by_hand(source: Place) -> None:
    """A CR that git or an editor has put there does not get into a value."""
    for text, expected in BY_HAND.values():
        by_hand("DROP TABLE IF EXISTS t; CREATE TABLE t (id int,\r\n a text);", t=text)
        if isinstance(expected, str):
            assert f"t.csv, {expected}" in source.fail(3, "restore", "--yes")
        else:
            source.succeed("restore", "--yes")
            assert source.fetch("SELECT * FROM t ORDER BY id") == expected


# ---- others


def test_the_same_rows_in_another_order(
    source: Place, target: Place, work: Path
) -> None:
    """schema.sql may order columns and make keys otherwise than the database did."""
    source.make(
        "CREATE TABLE columns (id int PRIMARY KEY, b int, a int);"
        "CREATE TABLE keys (a int NOT NULL, b int NOT NULL);"
        "ALTER TABLE keys ADD UNIQUE (b), ADD UNIQUE (a);",
        "INSERT INTO columns VALUES (1, 9, 8), (2, 8, 7);"
        "INSERT INTO keys VALUES (1, 9), (2, 8)",
        script="CREATE TABLE columns (id int PRIMARY KEY, a int, b int);"
        "CREATE TABLE keys (a int NOT NULL UNIQUE, b int NOT NULL UNIQUE)",
    )
    source.succeed("export")
    target.succeed("restore", "--checksum")
    target.succeed("export", "--dir", "again")
    for name in ("exports", "again"):
        assert (work / name / "keys.csv").read_text() == "a,b\n1,9\n2,8\n"


def test_a_data_package_that_others_can_read(exported: Place) -> None:
    """frictionless finds no fault in it, nor DuckDB in that of test_any_database."""
    tasks = validated(Path("exports"))
    assert len(tasks) == 3
    package = json.loads(Path("exports/datapackage.json").read_text())
    leads = package["resources"][1]["schema"]
    assert leads["primaryKey"] == ["id"]
    assert leads["foreignKeys"][0]["reference"]["resource"] == "agents"
    kinds = {field["name"]: field["type"] for field in leads["fields"]}
    assert (kinds["id"], kinds["estimated_value"]) == ("integer", "number")
