"""What Windows and macOS do differently, as far as Linux can imitate it."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from cases import contents
from commands import Place

import export_restore as er


@pytest.mark.parametrize("options", [[], ["--gzip"]])
def test_files_are_created_binary(
    seeded: Place, monkeypatch: pytest.MonkeyPatch, options: list[str]
) -> None:
    """Windows would write two bytes for each newline."""
    created = []
    really = os.open

    def spy(path: Any, flags: int, *rest: Any, **more: Any) -> int:
        if flags & os.O_CREAT:
            created.append((Path(path).name, bool(flags & os.O_CLOEXEC)))
        return really(path, flags, *rest, **more)

    monkeypatch.setattr(os, "O_BINARY", os.O_CLOEXEC, raising=False)
    monkeypatch.setattr(os, "open", spy)
    seeded.succeed("export", *options)
    assert {name.removesuffix(".gz") for name, _ in created} == {
        *("agents.csv", "leads.csv", "feedback.csv"),
        *(er.SCHEMA_FILE, er.CATALOG_FILE, er.MANIFEST_FILE, *er.GIT_FILES),
    }
    assert all(binary for _, binary in created)


def test_without_flock(seeded: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything works; a stage that may be in use stays, an old one goes."""
    monkeypatch.setattr(er, "fcntl", None)
    for name, age in (("used", 3_600), ("forgotten", 2 * 86_400)):
        stage = Path("exports") / f"{er.STAGING_PREFIX}{name}"
        stage.mkdir(parents=True)
        os.utime(stage, (time.time() - age,) * 2)
    for command in ("export", "restore", "verify"):
        seeded.succeed(command)
    left = [path.name for path in Path("exports").iterdir() if path.is_dir()]
    assert left == [f"{er.STAGING_PREFIX}used"]


def test_jobs_are_spawned(seeded: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Elsewhere than on Linux a job is a new Python, which has to be told all."""
    monkeypatch.setattr(er, "LARGE_TABLE", 1)
    seeded.succeed("export", "--dir", "one", "--jobs", 1)
    monkeypatch.setattr(er, "START_METHOD", "spawn")
    told = seeded.told(0, "export", "--dir", "two", "--jobs", 2)
    assert "going on with one job" not in told
    assert contents(Path("one"), "*.csv") == contents(Path("two"), "*.csv")


def test_waiting_wakes_up(
    source: Place, work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On Windows Ctrl-C ends no wait of Python's: none must be long."""
    naps: list[float | None] = []
    really = threading.Event.wait

    def asleep(event: threading.Event, timeout: float | None = None) -> bool:
        if threading.current_thread() is threading.main_thread():
            naps.append(timeout)
        return really(event, timeout)

    with er.Database(er.read_settings(source.env_file(work))) as db:
        monkeypatch.setattr(threading.Event, "wait", asleep)
        assert db.fetch("SELECT 7 FROM pg_sleep(0.3)") == [(7,)]
    assert len(naps) > 1
    assert all(nap is not None and nap <= 1 for nap in naps)


def test_a_new_file_whose_old_name_had_another_case(
    source: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed between two files, the publication goes on and removes no new one."""
    unlink, move = Path.unlink, er.move

    def unlink_in_any_case(path: Path, missing_ok: bool = False) -> None:
        """Remove a file as Windows and macOS do."""
        for entry in list(path.parent.iterdir()):
            if entry.name.casefold() == path.name.casefold():
                unlink(entry)

    def killing_move(path: Path, target: Path) -> None:
        if path.name == er.MANIFEST_FILE:
            raise GeneratorExit  # no error that anybody handles
        move(path, target)

    monkeypatch.setattr(Path, "unlink", unlink_in_any_case)
    schema = 'DROP TABLE IF EXISTS "Leads"; CREATE TABLE "{}" (a int)'
    source.make(schema.format("Leads"))
    source.succeed("export")
    source.make(schema.format("leads"))
    with monkeypatch.context() as patched, pytest.raises(GeneratorExit):
        patched.setattr(er, "move", killing_move)
        source.call("export", "-q")
    with er.Folder(Path("exports")).opened() as snapshot:
        assert [*snapshot.csvs] == ["leads.csv"]


def test_a_file_that_is_held_for_a_moment(
    work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Virus scanners on Windows do that to new files."""
    refusals = iter([PermissionError, PermissionError])
    really = Path.replace

    def replace(path: Path, target: Path) -> Path:
        if error := next(refusals, None):
            raise error
        return really(path, target)

    (work / "new").write_text("new")
    monkeypatch.setattr(er, "WINDOWS", True)
    monkeypatch.setattr(Path, "replace", replace)
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    er.move(work / "new", work / "old")
    assert (work / "old").read_text() == "new"
