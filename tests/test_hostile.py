"""Folders that somebody else has made: nothing is lost, read or moved in silence."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from cases import FILES, HARM, Damage, forge
from conftest import Fail, Run, Succeed, old_and_new
from servers import Database

import export_restore as er


@pytest.fixture
def no_hang() -> Iterator[None]:
    """Raise where a command waits for a pipe that nobody writes into."""

    def give_up(*_: object) -> None:
        raise AssertionError("it hangs")

    before = signal.signal(signal.SIGALRM, give_up)
    signal.setitimer(signal.ITIMER_REAL, 20, 20)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


def become_link(path: Path, target: Path) -> None:
    """Put a link to a copy of what is there, or to `target`, in a file's place."""
    if path.exists():
        path.rename(target)
    path.symlink_to(target)


def become_pipe(path: Path) -> None:
    path.unlink(missing_ok=True)
    os.mkfifo(path)


OUR_NAMES = (*FILES, ".ready")


@pytest.mark.usefixtures("no_hang")
@pytest.mark.parametrize("name", OUR_NAMES)
def test_links_and_pipes_are_faults_with_a_name(
    exported: Database, work: Path, run: Run, name: str
) -> None:
    """Nothing outside of the folder is read, moved or removed; nobody waits."""
    env = exported.env_file(work)
    before = exported.state()
    outside = work / "outside"
    for kind in ("link", "pipe"):
        for manifest in (True, False):
            got = work / f"got-{kind}-{manifest}"
            shutil.copytree(work / "exports", got)
            target = work / f"{kind}-{manifest}"
            if name == ".ready":
                shutil.copytree(work / "exports", target)
            if not manifest:
                (got / er.MANIFEST_FILE).unlink()
            if kind == "link":
                become_link(got / name, target)
            else:
                become_pipe(got / name)
            shutil.copytree(work, outside, symlinks=True, ignore=ignoring_pipes)
            for command in ("restore", "verify", "rehearse"):
                if not manifest and name == er.CATALOG_FILE:
                    continue  # nobody asks for it
                result = run(command, "--dir", got, "--env-file", env, "-q")
                assert result.status == 3, (kind, manifest, command, result)
                assert name in result.err
                assert kind in result.err or command == "verify"
            assert tree(outside) == tree(work, but="outside")
            shutil.rmtree(outside)
    assert exported.state() == before


def ignoring_pipes(folder: str, names: list[str]) -> list[str]:
    return ["outside", *(each for each in names if Path(folder, each).is_fifo())]


def tree(folder: Path, but: str = "") -> dict[str, bytes]:
    """Return every file below a folder, no link followed."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and not path.is_symlink() and but not in path.parts[:-1]
    }


@pytest.mark.usefixtures("no_hang")
def test_an_export_into_a_folder_with_links_and_pipes(
    exported: Database, work: Path, run: Run
) -> None:
    env = exported.env_file(work)
    precious = work / "precious"
    precious.mkdir()
    (precious / "x").write_text("mine")
    os.utime(precious, (0, 0))
    (work / "exports/.export-link").symlink_to(precious)
    os.mkfifo(work / "exports/.export-pipe")
    os.utime(work / "exports/.export-pipe", (0, 0))
    assert run("export", "--env-file", env).status == 0
    assert (precious / "x").read_text() == "mine"
    for name in OUR_NAMES:
        for become in (lambda path: path.symlink_to(precious), os.mkfifo):
            (work / "exports" / name).unlink(missing_ok=True)
            become(work / "exports" / name)
            result = run("export", "--env-file", env, "-q")
            assert result.status in (2, 3), name
            assert name in result.err
        (work / "exports" / name).unlink()
    assert (precious / "x").read_text() == "mine"


def test_files_that_no_export_has_made_stay(
    exported: Database, work: Path, run: Run, fail: Fail
) -> None:
    """Named and refused, by --keep, --dir "" and --dir of a folder of one's own."""
    env = exported.env_file(work)
    for name, content in {
        "agents.csv": "my,own\n",
        "AGENTS.CSV": "my,own\n",
        "schema.sql": "-- mine",
        "catalog.txt": "cats",
        "datapackage.json": '{"name": "of-another-program", "resources": []}',
    }.items():
        folder = work / f"mine-{name}"
        folder.mkdir()
        (folder / name).write_text(content)
        status = 0 if name == "AGENTS.CSV" else 2  # on macOS it is the same file
        for argv in (("export", "--dir"), ("restore", "--yes", "--keep")):
            if status:
                assert f"holds {name}, which no export" in fail(
                    status, *argv, folder, "--env-file", env
                )
            else:
                assert run(*argv, folder, "--env-file", env, "-q").status == 0
                shutil.move(folder / name, work / name)
                shutil.rmtree(folder)
                folder.mkdir()
                shutil.move(work / name, folder / name)
        assert (folder / name).read_text() == content
    assert "schema.sql" in fail(2, "export", "--dir", "", "--env-file", env)


def test_a_snapshot_with_a_damaged_manifest_may_be_replaced(
    exported: Database, work: Path, succeed: Succeed
) -> None:
    """A merge conflict, an edit, a file that was cut short: it was ours before."""
    env = exported.env_file(work)
    manifest = work / "exports/datapackage.json"
    whole = manifest.read_text()
    exported.execute("DROP TABLE feedback")
    for damage in (
        whole[: int(len(whole) * 0.9)],
        f"<<<<<<< ours\n{whole}=======\n{whole}>>>>>>> theirs\n",
        json.dumps(json.loads(whole), indent=4),
    ):
        manifest.write_text(damage)
        (work / "exports/feedback.csv").write_text("id\n")
        (work / "exports/mine.csv").write_text("id\n")
        succeed("export", "--env-file", env)
        assert not (work / "exports/feedback.csv").exists()
        assert (work / "exports/mine.csv").exists()
        (work / "exports/mine.csv").unlink()
        succeed("verify", "--env-file", env)


READY_DAMAGE: dict[str, Damage] = {
    "manifest cut short": lambda f: HARM["truncated"](f / er.MANIFEST_FILE),
    "manifest gone": lambda f: (f / er.MANIFEST_FILE).unlink(),
    "a file too many": lambda f: (f / "more.csv").write_text("a\n"),
    "a folder in it": lambda f: (f / "leads.csv.gz").mkdir(),
    "a file of others": lambda f: (f / "notes.txt").write_text("x"),
}


@pytest.mark.parametrize("damage", READY_DAMAGE)
def test_a_damaged_publication(
    exported: Database, work: Path, fail: Fail, run: Run, damage: str
) -> None:
    """Readers name it; an export takes its place, unless it is not ours to remove."""
    env = exported.env_file(work)
    ready = work / "exports/.ready"
    shutil.copytree(work / "exports", work / "copy")
    (work / "copy").rename(ready)
    READY_DAMAGE[damage](ready)
    names = sorted(path.name for path in ready.iterdir())
    for command in ("restore", "verify"):
        assert ".ready" in fail(3, command, "--env-file", env)
    assert sorted(path.name for path in ready.iterdir()) == names
    result = run("export", "--env-file", env, "-q")
    if " in it" in damage or "of others" in damage:
        assert (result.status, ready.exists()) == (3, True)
        assert ".ready holds" in result.err
    else:
        assert (result.status, ready.exists()) == (0, False), result.err
        assert run("verify", "--env-file", env).status == 0


@old_and_new
def test_rows_behind_the_end_of_data_are_missed(
    exported: Database, work: Path, fail: Fail, succeed: Succeed
) -> None:
    r"""Servers before 18 take a line \. in a CSV for its end, and say nothing."""
    env = exported.env_file(work)
    before = exported.state()
    file = work / "exports/agents.csv"
    whole = file.read_text(encoding="utf-8")
    lines = whole.split("\n")
    for manifest in (True, False):
        if not manifest:
            (work / "exports/datapackage.json").unlink()
        options = ["--accept-edits"] if manifest else []
        argv = ["restore", "--yes", "--env-file", env, "--checksum", *options]
        for end in ("\n", "\r\n"):
            edited = [*lines[:4], "\\.", *lines[4:]]
            file.write_text(end.join(edited), encoding="utf-8", newline="")
            said = fail(3, *argv)
            assert "agents.csv" in said
            if exported.server.version < 18:
                assert "has 9 rows, of which 3 came" in said
            assert exported.state() == before
            for text in (end.join(lines), end.join(lines).rstrip()):
                file.write_text(text, encoding="utf-8", newline="")
                succeed(*argv)
                assert exported.fetch("SELECT count(*) FROM agents") == [(8,)]
        file.write_text(whole, encoding="utf-8")
        before = exported.state()


def test_files_that_are_exchanged_after_the_check(
    exported: Database, work: Path, fail: Fail, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What reaches the database, or is compared with it, is what was checked."""
    env = exported.env_file(work)
    before = exported.state()
    folder = work / "exports"

    def rewrite(name: str) -> None:
        text = (folder / name).read_text(encoding="utf-8")
        changed = text.replace("@example", "@sample").replace("leads", "leads2")
        (folder / name).write_text(changed, encoding="utf-8")

    def after(owner: Any, step: str, name: str, patch: pytest.MonkeyPatch) -> None:
        work_of_step = getattr(owner, step)

        def exchange(*arguments: Any, **named: Any) -> Any:
            done = work_of_step(*arguments, **named)
            rewrite(name)
            return done

        patch.setattr(owner, step, exchange)

    for owner, step, name, command, *options in (
        (er.Database, "begin_restore", "leads.csv", "restore", "--yes"),
        (
            er.Database,
            "begin_restore",
            "leads.csv",
            "restore",
            "--yes",
            "--accept-edits",
        ),
        (er.Comparison, "hash_rows", "leads.csv", "verify"),
    ):
        whole = (folder / name).read_bytes()
        if "--accept-edits" in options:
            (folder / name).write_bytes(whole.replace(b".org", b".edu"))
        with monkeypatch.context() as patch:
            after(owner, step, name, patch)
            said = fail(3, command, "--env-file", env, *options)
            assert f"{name} was changed while it was read" in said, step
        (folder / name).write_bytes(whole)
        assert exported.state() == before
        if command == "restore":  # another row than the file has
            exported.execute("DELETE FROM feedback; DELETE FROM leads WHERE id = 1")
            before = exported.state()


def test_a_record_without_end(
    exported: Database, work: Path, fail: Fail, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A small gzip file may hold more than fits into memory."""
    import gzip

    monkeypatch.setattr(er, "LONGEST_RECORD", 1 << 20)
    env = exported.env_file(work)
    assert er.main(["export", "-q", "--gzip", "--env-file", str(env)]) == 0
    exported.execute("DELETE FROM agents WHERE id = 7")
    path = work / "exports/agents.csv.gz"
    text = gzip.decompress(path.read_bytes()) + b'9,"' + b"x" * (4 << 20)
    path.write_bytes(gzip.compress(text))
    digest = sha256(path.read_bytes()).hexdigest()
    forge("resources", 0, "hash", value=f"sha256:{digest}")(work / "exports")
    forge("resources", 0, "bytes", value=path.stat().st_size)(work / "exports")
    assert "agents.csv.gz, line 10: a record of more than" in fail(
        3, "verify", "--env-file", env
    )


def test_folders_are_for_their_owner_alone(
    seeded: Database, work: Path, succeed: Succeed
) -> None:
    for mask in (0, 0o022, 0o277):
        before = os.umask(mask)
        try:
            folder = work / f"new-{mask}/of/mine"
            succeed("export", "--dir", folder, "--env-file", seeded.env_file(work))
        finally:
            os.umask(before)
        for made in (folder, *folder.parents[:2]):
            assert made.stat().st_mode & 0o777 == 0o700
        for file in folder.iterdir():
            assert file.stat().st_mode & 0o077 == 0
