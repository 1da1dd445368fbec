"""Folders that somebody else has made: nothing is lost, read or moved in silence."""

from __future__ import annotations

import gzip
import itertools
import json
import os
import shutil
from pathlib import Path

import pytest
from cases import FILES, HARM, Damage, replace_csv
from commands import Place, at_step
from conftest import old_and_new

import export_restore as er


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
    exported: Place, work: Path, name: str
) -> None:
    """Nothing outside of the folder is read, moved or removed; nobody waits."""
    outside = work / "outside"
    exported.env_file(work)  # before the copies
    with exported.untouched():
        for kind, manifest in itertools.product(("link", "pipe"), (True, False)):
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
                result = exported.call(command, "--dir", got, "-q")
                assert result.status == 3, (kind, manifest, command, result)
                assert name in result.err
                assert kind in result.err or command == "verify"
            assert tree(outside) == tree(work, but="outside")
            shutil.rmtree(outside)


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
def test_an_export_into_a_folder_with_links_and_pipes(exported: Place) -> None:
    precious = Path("precious")
    precious.mkdir()
    (precious / "x").write_text("mine")
    os.utime(precious, (0, 0))
    Path("exports/.export-link").symlink_to(precious)
    os.mkfifo(Path("exports/.export-pipe"))
    os.utime(Path("exports/.export-pipe"), (0, 0))
    exported.told(0, "export")
    assert (precious / "x").read_text() == "mine"
    for name in OUR_NAMES:
        path = Path("exports") / name
        for become in (lambda path: path.symlink_to(precious), os.mkfifo):
            path.unlink(missing_ok=True)
            become(path)
            result = exported.call("export", "-q")
            assert (result.status in (2, 3), name in result.err) == (True, True), name
        path.unlink()
    assert (precious / "x").read_text() == "mine"


MINE = {
    "agents.csv": "my,own\n",
    "AGENTS.CSV": "my,own\n",
    "schema.sql": "-- mine",
    "catalog.txt": "cats",
    "datapackage.json": '{"name": "of-another-program", "resources": []}',
}


def test_files_that_no_export_has_made_stay(exported: Place) -> None:
    """Named and refused, by --keep, --dir "" and --dir of a folder of one's own."""
    for name, content in MINE.items():
        for argv in (("export", "--dir"), ("restore", "--yes", "--keep")):
            folder = Path(f"{argv[0]}-{name}")
            folder.mkdir()
            (folder / name).write_text(content)
            if name == "AGENTS.CSV":  # on macOS it is the same file
                exported.succeed(*argv, folder)
            else:
                message = exported.fail(2, *argv, folder)
                assert f"holds {name}, which no export" in message
            assert (folder / name).read_text() == content
    assert "schema.sql" in exported.fail(2, "export", "--dir", "")


def test_a_snapshot_with_a_damaged_manifest_may_be_replaced(exported: Place) -> None:
    """A merge conflict, an edit, a file that was cut short: it was ours before.

    The CSV of a table that is gone goes; what others put there stays.
    """
    folder = Path("exports")
    whole = (folder / "datapackage.json").read_text()
    exported.execute("DROP TABLE feedback")
    for damage in (
        whole,
        whole[: int(len(whole) * 0.9)],
        f"<<<<<<< ours\n{whole}=======\n{whole}>>>>>>> theirs\n",
        json.dumps(json.loads(whole), indent=4),
    ):
        (folder / "datapackage.json").write_text(damage)
        (folder / "feedback.csv").write_text("id\n")
        (folder / "mine.csv").write_text("id\n")
        exported.succeed("export")
        assert not (folder / "feedback.csv").exists()
        (folder / "mine.csv").unlink()
        exported.succeed("verify")


READY_DAMAGE: dict[str, Damage] = {
    "manifest cut short": lambda f: HARM["truncated"](f / er.MANIFEST_FILE),
    "manifest gone": lambda f: (f / er.MANIFEST_FILE).unlink(),
    "a file too many": lambda f: (f / "more.csv").write_text("a\n"),
    "a folder in it": lambda f: (f / "leads.csv.gz").mkdir(),
    "a file of others": lambda f: (f / "notes.txt").write_text("x"),
}


@pytest.mark.parametrize("damage", READY_DAMAGE)
def test_a_damaged_publication(exported: Place, damage: str) -> None:
    """Readers name it; an export takes its place, unless it is not ours to remove."""
    ready = Path("exports/.ready")
    shutil.copytree(Path("exports"), Path("copy"))
    Path("copy").rename(ready)
    READY_DAMAGE[damage](ready)
    names = sorted(path.name for path in ready.iterdir())
    for command in ("restore", "verify"):
        assert ".ready" in exported.fail(3, command)
    assert sorted(path.name for path in ready.iterdir()) == names
    if " in it" in damage or "of others" in damage:
        assert ".ready holds" in exported.fail(3, "export")
        assert ready.exists()
    else:
        exported.succeed("export")
        assert not ready.exists()
        exported.succeed("verify")


@old_and_new
def test_rows_behind_the_end_of_data_are_missed(exported: Place) -> None:
    r"""Servers before 18 take a line \. in a CSV for its end, and say nothing."""
    file = Path("exports/agents.csv")
    whole = file.read_text(encoding="utf-8")
    lines = whole.split("\n")
    for manifest in (True, False):
        argv = ["restore", "--yes", "--checksum"]
        if manifest:
            argv.append("--accept-edits")
        else:
            Path("exports/datapackage.json").unlink()
        for end in ("\n", "\r\n"):
            edited = [*lines[:4], "\\.", *lines[4:]]
            file.write_text(end.join(edited), encoding="utf-8", newline="")
            said = exported.refuse(3, *argv)
            assert "agents.csv" in said
            if exported.server.version < 18:
                assert "has 9 rows, of which 3 came" in said
            for text in (end.join(lines), end.join(lines).rstrip()):
                file.write_text(text, encoding="utf-8", newline="")
                exported.succeed(*argv)
                assert exported.fetch("SELECT count(*) FROM agents") == [(8,)]
        file.write_text(whole, encoding="utf-8")


def test_files_that_are_exchanged_after_the_check(exported: Place) -> None:
    """What reaches the database, or is compared with it, is what was checked."""
    for owner, step, name, command, *options in (
        (er.Database, "begin_restore", "leads.csv", "restore"),
        (er.Database, "begin_restore", "leads.csv", "restore", "--accept-edits"),
        (er.Comparison, "hash_rows", "leads.csv", "verify"),
    ):
        path = Path("exports") / name
        whole = path.read_bytes()

        def exchange(*_: object, path: Path = path) -> None:
            changed = path.read_bytes().replace(b"@example", b"@sample")
            path.write_bytes(changed.replace(b"leads", b"leads2"))

        if options:
            path.write_bytes(whole.replace(b".org", b".edu"))
        with pytest.MonkeyPatch.context() as patch:
            at_step(patch, owner, step, after=exchange)
            said = exported.refuse(3, command, *options)
            assert f"{name} was changed while it was read" in said, step
        path.write_bytes(whole)
        if command == "restore":  # another row than the file has
            exported.execute("DELETE FROM feedback; DELETE FROM leads WHERE id = 1")


def test_a_record_without_end(exported: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """A small gzip file may hold more than fits into memory."""
    monkeypatch.setattr(er, "LONGEST_RECORD", 1 << 20)
    exported.succeed("export", "--gzip")
    exported.execute("DELETE FROM agents WHERE id = 7")
    path = Path("exports/agents.csv.gz")
    text = gzip.decompress(path.read_bytes()) + b'9,"' + b"x" * (4 << 20)
    replace_csv(Path("exports"), 0, gzip.compress(text))
    message = exported.fail(3, "verify")
    assert "agents.csv.gz, line 10: a record of more than" in message


def test_folders_are_for_their_owner_alone(seeded: Place) -> None:
    for mask in (0, 0o022, 0o277):
        before = os.umask(mask)
        try:
            folder = Path(f"new-{mask}/of/mine")
            seeded.succeed("export", "--dir", folder)
        finally:
            os.umask(before)
        for made in (folder, *folder.parents[:2]):
            assert made.stat().st_mode & 0o777 == 0o700
        assert not [file for file in folder.iterdir() if file.stat().st_mode & 0o077]
