"""Commands as they are typed: in this process, in one of their own, for a database."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import itertools
import os
import re
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from servers import Database, Server

import export_restore as er

ROOT = Path(__file__).resolve().parents[1]


@dataclasses.dataclass(frozen=True)
class Result:
    """What a command left behind."""

    status: int
    out: str
    err: str


# How a restore or an export that came to nothing ends.
LAST_WORDS = re.compile(
    r".* (is as it was|still holds the snapshot of .* ago)|.* holds no snapshot"
)

Run = Callable[..., Result]
Succeed = Callable[..., str]
Fail = Callable[..., str]


def run(*argv: object) -> Result:
    """Run a command line of export_restore in this process."""
    out, err = (
        io.TextIOWrapper(io.BytesIO(), "utf-8", newline="", write_through=True)
        for _ in range(2)
    )
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = er.main([str(each) for each in argv])
    said = (each.detach().getvalue().decode() for each in (out, err))
    return Result(status, *said)


def succeed(*argv: object) -> str:
    """Run a command quietly; it has to succeed and to leave stderr empty."""
    result = run(*argv, "-q")
    assert (result.status, result.err) == (0, ""), result.err
    return result.out


def fail(status: int, *argv: object) -> str:
    """Run a command that has to fail as promised; return what it said on stderr."""
    result = run(*argv, "-q")
    assert (result.status, result.out) == (status, ""), result
    check_error(result.err)
    return result.err


def check_error(err: str, program: str = "export_restore") -> None:
    """See that a command has told in two lines why it ended, then what it left.

    Several faults are a heading and a line each.
    """
    error, *rest = err.splitlines()
    faults = [*itertools.takewhile(lambda line: line.startswith("  "), rest)]
    hint, *last = rest[len(faults) :]
    assert error.startswith(f"{program}: error: "), err
    assert bool(faults) == error.endswith(":"), err
    assert hint.startswith("hint: "), err
    assert not last or LAST_WORDS.fullmatch("\n".join(last)), err


def run_process(*argv: object) -> subprocess.Popen[str]:
    """Start a command line of export_restore as a process of its own."""
    command = [sys.executable, str(ROOT / "export_restore.py"), *map(str, argv)]
    return subprocess.Popen(
        command, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def fork_process(
    *argv: object, first: Callable[[], object] = lambda: None
) -> subprocess.Popen[str]:
    """Start a command line in a fork of this process: most of a start is imports."""

    def instead_of_exec() -> None:
        os.closerange(3, 1 << 12)  # as exec would: the parent waits for one of them
        sys.stdin = os.fdopen(os.open(os.devnull, os.O_RDONLY))
        sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w", 1)
        er.Call.idle.clear()  # their threads stay behind
        signal.signal(signal.SIGINT, signal.default_int_handler)
        sys.argv = ["export_restore.py", *map(str, argv)]
        status = 99
        try:
            first()
            status = er.main()
            for thread in threading.enumerate():
                if not thread.daemon and thread is not threading.current_thread():
                    thread.join()
        except SystemExit as ended:
            status = int(ended.code or 0)
        except BaseException:
            traceback.print_exc()
        finally:
            with contextlib.suppress(OSError):
                sys.stdout.flush()
            os._exit(status)

    return subprocess.Popen(
        "forked",
        preexec_fn=instead_of_exec,
        restore_signals=False,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def wait_until(condition: Callable[[], object]) -> None:
    """Wait for something that only has to happen at some time."""
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.005)


def at_step(
    patch: pytest.MonkeyPatch,
    owner: object,
    name: str,
    before: Callable[..., object] = lambda *_: None,
    after: Callable[..., object] = lambda *_: None,
) -> None:
    """Do something whenever the program comes to a step, or has made it."""
    really = getattr(owner, name)

    def step(*arguments: object, **named: object) -> object:
        before(*arguments)
        result = really(*arguments, **named)
        after(*arguments)
        return result

    patch.setattr(owner, name, step)


@dataclasses.dataclass(frozen=True)
class Place(Database):
    """A database, and the commands that are given for it in the current folder."""

    changes: tuple[tuple[str, str | None], ...] = ()

    def but(self, **changes: str | None) -> Place:
        """Return the same with other lines in its env file."""
        return dataclasses.replace(self, changes=(*self.changes, *changes.items()))

    @property
    def env(self) -> Path:
        return self.env_file(Path.cwd(), **dict(self.changes))

    @property
    def as_it_was(self) -> str:
        """The last line of a restore that came to nothing."""
        return f"{er.read_settings(self.env)} is as it was"

    def call(self, command: str, *options: object) -> Result:
        return run(command, "--env-file", self.env, *options)

    def succeed(self, command: str, *options: object) -> str:
        return succeed(command, "--env-file", self.env, *options)

    def fail(self, status: int, command: str, *options: object) -> str:
        return fail(status, command, "--env-file", self.env, *options)

    def told(self, status: int, command: str, *options: object) -> str:
        """Run a command that ends with a status; return what it said on stderr."""
        result = self.call(command, *options)
        assert result.status == status, result.err
        return result.err

    @contextlib.contextmanager
    def untouched(self) -> Iterator[None]:
        before = self.state()
        yield
        assert self.state() == before

    def refuse(self, status: int, command: str, *options: object) -> str:
        """Run a command that has to fail, to change nothing and to say so."""
        with self.untouched():
            said = self.fail(status, command, *options)
        writes = command in ("export", "restore")
        assert not writes or LAST_WORDS.fullmatch(said.splitlines()[-1]), said
        return said

    def quiet(self, command: str, *options: object) -> str:
        """Run a command that succeeds without a warning; return its progress."""
        result = self.call(command, *options)
        assert result.status == 0, result.err
        assert not {"note:", "skipped"} & {*result.err.split()}, result.err
        return result.err

    def start(
        self, command: str, *options: object, **more: Callable[[], object]
    ) -> subprocess.Popen[str]:
        return fork_process(command, "--env-file", self.env, *options, **more)

    def make(self, schema: str, rows: str = "", script: str | None = None) -> None:
        """Make the database by a schema, and by it or another one a schema.sql."""
        text = schema if script is None else script
        Path("schema.sql").write_text(text, encoding="utf-8", newline="")
        self.execute(schema)
        if rows:
            self.execute(rows)


@contextlib.contextmanager
def place(server: Server, options: str = "", name: str = "") -> Iterator[Place]:
    """Give a new database of a server, dropped at the end."""
    with server.database(options, name) as made:
        yield Place(server, made.name)


def by_hand(schema: str, folder: str = "exports", **tables: str) -> Path:
    """Write a snapshot without a manifest: a schema script, the CSV of each table."""
    place = Path(folder)
    place.mkdir(exist_ok=True)
    (place / "schema.sql").write_text(schema, encoding="utf-8", newline="")
    for name, text in tables.items():
        (place / f"{name}.csv").write_text(text, encoding="utf-8", newline="")
    return place
