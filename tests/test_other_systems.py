"""What Windows and macOS do differently, as far as Linux can imitate it."""

from __future__ import annotations

import argparse
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import Run, Succeed
from servers import Database

import export_restore as er


def csvs(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("*.csv")}


@pytest.mark.parametrize("options", [[], ["--gzip"]])
def test_files_are_created_binary(
    seeded: Database,
    work: Path,
    succeed: Succeed,
    monkeypatch: pytest.MonkeyPatch,
    options: list[str],
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
    succeed("export", "--env-file", seeded.env_file(work), *options)
    assert {name.removesuffix(".gz") for name, _ in created} == {
        *("agents.csv", "leads.csv", "feedback.csv"),
        *(er.SCHEMA_FILE, er.CATALOG_FILE, er.MANIFEST_FILE, *er.GIT_FILES),
    }
    assert all(binary for _, binary in created)


def test_without_flock(
    seeded: Database, work: Path, succeed: Succeed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Everything works; a stage that may be in use stays, an old one goes."""
    monkeypatch.setattr(er, "fcntl", None)
    for name, age in (("used", 3_600), ("forgotten", 2 * 86_400)):
        stage = work / "exports" / f"{er.STAGING_PREFIX}{name}"
        stage.mkdir(parents=True)
        os.utime(stage, (time.time() - age,) * 2)
    env = seeded.env_file(work)
    for command in ("export", "restore", "verify"):
        succeed(command, "--env-file", env)
    left = [path.name for path in (work / "exports").iterdir() if path.is_dir()]
    assert left == [f"{er.STAGING_PREFIX}used"]


def test_jobs_are_spawned(
    seeded: Database,
    work: Path,
    run: Run,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Elsewhere than on Linux a job is a new Python, which has to be told all."""
    monkeypatch.setattr(er, "LARGE_TABLE", 1)
    env = seeded.env_file(work)
    assert run("export", "--env-file", env, "--dir", "one", "--jobs", 1).status == 0
    monkeypatch.setattr(er, "START_METHOD", "spawn")
    result = run("export", "--env-file", env, "--dir", "two", "--jobs", 2)
    assert (result.status, "going on with one job" in result.err) == (0, False)
    assert csvs(work / "one") == csvs(work / "two")


def test_waiting_wakes_up(
    source: Database, work: Path, monkeypatch: pytest.MonkeyPatch
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


@pytest.fixture
def case_does_not_count(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Removing a file removes it whatever its case, as on Windows and macOS."""
    really = Path.unlink

    def unlink(path: Path, missing_ok: bool = False) -> None:
        for entry in list(path.parent.iterdir()):
            if entry.name.casefold() == path.name.casefold():
                really(entry)

    monkeypatch.setattr(Path, "unlink", unlink)
    yield


@pytest.mark.usefixtures("case_does_not_count")
def test_a_new_file_whose_old_name_had_another_case(
    source: Database, work: Path, succeed: Succeed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed between two files, the publication goes on and removes no new one."""
    env = source.env_file(work)
    for name in ("Leads", "leads"):
        schema = f'DROP TABLE IF EXISTS "Leads"; CREATE TABLE "{name}" (a int)'
        (work / "schema.sql").write_text(schema)
        source.execute(schema)
        if name == "Leads":
            succeed("export", "--env-file", env)
    with monkeypatch.context() as patched, pytest.raises(GeneratorExit):
        patched.setattr(er, "move", killing_move)
        er.main(["export", "--env-file", str(env), "-q"])
    with er.Folder(work / "exports").opened() as snapshot:
        assert [*snapshot.csvs] == ["leads.csv"]


def killing_move(path: Path, target: Path) -> None:
    if path.name == er.MANIFEST_FILE:
        raise GeneratorExit  # no error that anybody handles
    path.replace(target)


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


def test_names_that_windows_keeps_for_devices() -> None:
    names = [er.Relation("public", name) for name in ("nul", "COM1", "com¹", "lpt³")]
    names.append(er.Relation("con", "orders"))
    files = er.csv_names(names).values()
    assert not [name for name in files if er.WINDOWS_DEVICES.match(name.split(".")[0])]
    assert all(name.startswith("=") for name in files)


def test_help_fits_every_console() -> None:
    """A console of cp437 or ASCII has no ellipsis."""
    parser = er.build_parser()
    [commands] = (
        action.choices
        for action in parser._actions
        if isinstance(action, argparse._SubParsersAction)
    )
    for each in (parser, *commands.values()):
        assert each.format_help().isascii()
