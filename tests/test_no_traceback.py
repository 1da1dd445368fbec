"""Two lines, whatever comes."""

from __future__ import annotations

import contextlib
import json
import os
import re
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cases import contents, forge
from commands import ROOT, Place, at_step, check_error, run, run_process

import export_restore as er


@contextlib.contextmanager
def unprivileged() -> Iterator[None]:
    """Be a user whom modes hold back, which they do not hold root."""
    if os.geteuid():
        yield
        return
    os.seteuid(65_534)
    try:
        yield
    finally:
        os.seteuid(0)


PROGRAM = [sys.executable, str(ROOT / "export_restore.py")]


# ---- the net


def test_what_nobody_thought_of_is_told_in_two_lines(
    exported: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    for kind, said in (
        (ZeroDivisionError, "a fault of this program: ZeroDivisionError: ?[2J a"),
        (RecursionError, "a fault of this program: RecursionError"),
        (MemoryError, ""),
    ):

        def break_down(*_: object, kind: type[Exception] = kind) -> None:
            raise kind("\x1b[2J\na")

        monkeypatch.setattr(er.Database, "fetch_catalog", break_down)
        message = exported.fail(1, "verify")
        assert said in message
        assert kind is MemoryError or "hint: please report it" in message
    monkeypatch.setattr(er.Database, "fetch_catalog", lambda _: 1 // 0)
    result = exported.call("restore", "-v", "--json")
    assert json.loads(result.out)["error"].startswith("a fault of this program")
    [name] = re.findall(r"traceback in (\S+)", result.err)
    text = Path(name).read_text()
    Path(name).unlink()
    assert "ZeroDivisionError" in text
    assert "fetch_catalog" in text
    assert "Traceback" not in result.err


# ---- what somebody came across

WRONG: tuple[Any, ...] = (
    None, True, -1, 10**400, "\0", "\ud800", "x" * 300, [], {"a": 1},
)  # fmt: skip


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the way to each value of a manifest, of each list to the first alone."""
    yield path
    items: Any = value.items() if isinstance(value, dict) else ()
    items = list(enumerate(value))[:1] if isinstance(value, list) else items
    for key, each in items:
        yield from places(each, (*path, key))


def test_a_manifest_with_wrong_types(
    exported: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And a checksum that fits. The database is not asked: the files are first."""
    path = Path("exports/datapackage.json")
    whole = path.read_text(encoding="utf-8")
    exported.execute("DELETE FROM leads WHERE id = 3")
    monkeypatch.setattr(er, "open_connection", lambda way: 1 // 0)
    for way in list(places(json.loads(whole)))[1:]:
        for wrong in WRONG:
            path.write_text(whole, encoding="utf-8")
            with contextlib.suppress(UnicodeEncodeError, TypeError):
                forge(*way, value=wrong)(Path("exports"))
            result = exported.call("verify", "-q")
            if "ZeroDivisionError" in result.err:  # it is as good as before
                continue
            assert result.status == 3, (way, wrong, result)
            check_error(result.err)
            assert result.err.splitlines()[-1].startswith("hint: "), (way, wrong)
    for text in ("[" * 1500, '{"a":' * 1500, "[" * 100_000):
        path.write_text(text)
        for command in ("verify", "restore"):
            assert "is no manifest" in exported.call(command).err


def test_a_thousand_nested_quotes(exported: Place) -> None:
    """Dollar quotes in dollar quotes, and strings in them."""
    depth = 1000
    nested = "".join(f"$a{n}$ 'x' " for n in range(depth))
    nested += "".join(f"$a{n}$ " for n in reversed(range(depth)))
    with Path("schema.sql").open("a") as file:
        file.write(f"DO $do$ BEGIN RETURN; {nested}; END $do$;")
    told = exported.told(0, "export")
    assert "error" not in told


def test_little_memory(exported: Place) -> None:
    """What does not fit is told, or done all the same."""
    env = exported.env
    said = set()
    for megabytes in (40, 80, 88, 110):

        def limit(size: int = megabytes << 20) -> None:
            resource.setrlimit(resource.RLIMIT_AS, (size, size))

        done = subprocess.run(
            [*PROGRAM, "export", "-q", "--env-file", str(env), "--jobs=2", "--gzip"],
            capture_output=True, text=True, preexec_fn=limit, check=False, timeout=60,
        )  # fmt: skip
        if 'export_restore.py", line' in done.stderr:
            said.add(done.stderr)
    assert not said


def test_file_names_are_utf8_in_every_locale(source: Place) -> None:
    """A snapshot travels."""
    source.make('DROP TABLE IF EXISTS "größe"; CREATE TABLE "größe" (a int)')
    environment = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0",
                   "PYTHONCOERCECLOCALE": "0"}  # fmt: skip
    for command in (["export"], ["restore", "--yes"], ["verify"]):
        done = subprocess.run(
            [*PROGRAM, *command, "--env-file", str(source.env)],
            capture_output=True, env=environment, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert done.stdout.isascii() and done.stderr.isascii()
    assert "größe.csv".encode() in map(os.fsencode, contents(Path("exports")))
    source.succeed("verify")


def test_ctrl_c_before_anything_has_begun(work: Path) -> None:
    """From the first of our lines on; Python's own start is Python's."""
    for wait in range(12):
        process = run_process("export", "--env-file", "nowhere")
        time.sleep(0.15 + wait * 0.03)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate()
        assert not re.search(r'export_restore.py", line \d{3}', err), err
        assert process.returncode in (-signal.SIGINT, 1, 2, 130)


# ---- hints


def test_a_role_without_createdb(exported: Place) -> None:
    exported.server.execute("CREATE ROLE no_creator LOGIN")
    try:
        env = exported.but(DB_USER="no_creator")
        assert "CREATEDB" in env.fail(1, "rehearse").splitlines()[1]
    finally:
        exported.server.execute("DROP ROLE no_creator")


def test_files_that_may_not_be_read(exported: Place, work: Path) -> None:
    env = exported.env
    for folder in (work, *work.parents):
        if not folder.stat().st_mode & 1:
            folder.chmod(0o755)
    (work / "exports").chmod(0o755)
    for name in ("datapackage.json", "agents.csv", "schema.sql"):
        for path in (work / "exports").iterdir():
            path.chmod(0o000 if path.name == name else 0o644)
        with unprivileged():
            result = run("verify", "-q", "--env-file", env)
        assert result.status in (1, 3)
        assert len(result.err.splitlines()) == 2
        assert name in result.err
        assert "ermission denied" in result.err
        assert "export again" not in result.err


def test_an_export_that_races_with_ddl_looks_again(
    exported: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A table that is gone, renamed or moved when it is to be locked."""
    changes = iter((
        "DROP TABLE feedback",
        "ALTER TABLE leads RENAME TO leads_old",
        "ALTER TABLE leads_old RENAME TO leads",
        "CREATE SCHEMA s; CREATE TABLE s.t (a int)",
        "DROP SCHEMA s CASCADE",
    ))  # fmt: skip

    def race(_: object, tables: object, *more: object) -> None:
        if change := tables and next(changes, ""):
            exported.execute(change)

    at_step(monkeypatch, er.Database, "lock_tables", before=race)
    exported.succeed("export", "--jobs", "1")
    assert sorted(contents(Path("exports"), "*.csv")) == ["agents.csv", "leads.csv"]
    assert next(changes, "") == ""
