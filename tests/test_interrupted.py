"""Ctrl-C, SIGTERM and SIGHUP: within seconds, one line, and nothing is left."""

from __future__ import annotations

import contextlib
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from conftest import run_process
from servers import Database, Proxy, Server
from test_rehearse import is_dead, wait_for_private_server

import export_restore as er

BLUEPRINT = """
    DROP TABLE IF EXISTS t CASCADE;
    CREATE TABLE t (id int PRIMARY KEY, a text);
    CREATE INDEX ON t (a);
"""
ROWS = (
    "INSERT INTO t SELECT i, repeat(md5(i::text), 8) FROM generate_series(1, 300000) i"
)
ENDS = {signal.SIGINT: (130, "interrupted"), signal.SIGTERM: (143, "terminated")}
TERMINAL_GONE = {signal.SIGHUP: (143, "terminated")}


@pytest.fixture(scope="module")
def large(
    server18: Server, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Database, Path]]:
    """A database that a restore takes a while for, and its snapshot."""
    folder = tmp_path_factory.mktemp("large")
    (folder / "schema.sql").write_text(BLUEPRINT)
    with server18.database() as database:
        database.execute(BLUEPRINT + ROWS)
        place = ["--dir", folder / "exports", "--schema-file", folder / "schema.sql"]
        argv = ["export", "-q", "--env-file", database.env_file(folder), *place]
        assert er.main(list(map(str, argv))) == 0
        yield database, folder


@pytest.fixture
def env(source: Database, large: tuple[Database, Path], work: Path) -> Path:
    """The same database and snapshot, to do with as one likes."""
    template, folder = large
    shutil.copytree(folder, work, dirs_exist_ok=True)
    source.server.execute(f"DROP DATABASE {source.name}")
    source.server.execute(f"CREATE DATABASE {source.name} TEMPLATE {template.name}")
    return source.env_file(work)


@pytest.fixture(autouse=True)
def own_temp(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder for temporary files, short because of sockets, empty at the end."""
    with tempfile.TemporaryDirectory(prefix="er") as folder:
        Path(folder).chmod(0o711)  # the server's user has to pass
        monkeypatch.setenv("TMPDIR", folder)
        yield Path(folder)


def busy(database: Database, like: str) -> None:
    """Wait until a command runs such a statement."""
    query = (
        "SELECT FROM pg_stat_activity WHERE datname = current_database()"
        " AND application_name = 'export_restore' AND state = 'active'"
        " AND query LIKE %s"
    )
    deadline = time.monotonic() + 30
    while not database.fetch(query, [like]):
        assert time.monotonic() < deadline, f"no {like} was seen"


def end(process: subprocess.Popen[str], how: signal.Signals, presses: int = 1) -> None:
    """End a command; it has to say so in one line, and soon."""
    start = time.monotonic()
    for _ in range(presses):
        process.send_signal(how)
        time.sleep(0.01 * (presses - 1))
    out, err = process.communicate(timeout=30)
    assert time.monotonic() - start < 2
    status, word = (ENDS | TERMINAL_GONE)[how]
    assert (process.returncode, out) == (status, ""), err
    assert err.splitlines()[-1] == f"export_restore: {word}"
    assert err.count("export_restore:") == 1


@pytest.mark.parametrize("how", [*ENDS, *TERMINAL_GONE])
@pytest.mark.parametrize("phase", ["COPY % FROM STDIN%", "%ADD CONSTRAINT%"])
def test_a_restore(
    source: Database, env: Path, how: signal.Signals, phase: str
) -> None:
    source.execute("DELETE FROM t WHERE id < 9")
    before = source.fetch("SELECT count(*), max(id) FROM t")
    process = run_process("restore", "--env-file", env)
    busy(source, phase)
    end(process, how)
    assert source.fetch("SELECT count(*), max(id) FROM t") == before


def test_nohup(source: Database, env: Path) -> None:
    """What shall outlive its terminal does."""
    ignored = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    process = run_process("verify", "--env-file", env)
    signal.signal(signal.SIGHUP, ignored)
    busy(source, "COPY % TO STDOUT%")
    process.send_signal(signal.SIGHUP)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 0, err


@pytest.mark.parametrize("presses", [1, 2])
@pytest.mark.parametrize("how", ENDS)
def test_an_export(
    source: Database, work: Path, env: Path, how: signal.Signals, presses: int
) -> None:
    files = {path.name: path.read_bytes() for path in (work / "exports").iterdir()}
    source.execute("DELETE FROM t WHERE id < 9")
    process = run_process("export", "--env-file", env)
    busy(source, "COPY % TO STDOUT%")
    end(process, how, presses)
    assert files == {
        path.name: path.read_bytes() for path in (work / "exports").iterdir()
    }


@pytest.mark.parametrize("how", ENDS)
def test_a_verification(source: Database, env: Path, how: signal.Signals) -> None:
    process = run_process("verify", "--env-file", env)
    busy(source, "COPY % TO STDOUT%")
    end(process, how)


@pytest.mark.parametrize("how", ENDS)
def test_a_wait_for_a_lock(source: Database, env: Path, how: signal.Signals) -> None:
    """The server answers nothing, and libpq would not look up."""
    with source.connect() as other, other.cursor() as cursor:
        cursor.execute("BEGIN; LOCK TABLE t IN ACCESS EXCLUSIVE MODE")
        for command in ("export", "restore", "verify"):
            process = run_process(command, "--env-file", env)
            busy(source, "%t%")
            time.sleep(0.3)
            end(process, how)
        cursor.execute("ROLLBACK")
    other.close()


@pytest.mark.parametrize("how", ENDS)
def test_a_rehearsal(
    source: Database, env: Path, how: signal.Signals, own_temp: Path
) -> None:
    """Neither a private server nor a scratch database is left."""
    process = run_process("rehearse")
    server = wait_for_private_server(set(), process, own_temp)
    time.sleep(0.3)
    for _ in range(2):  # the second hastens it, but leaves nothing, either
        process.send_signal(how)
        time.sleep(0.01)
    _, err = process.communicate(timeout=30)
    assert process.returncode == ENDS[how][0], err
    assert list(own_temp.glob(er.PRIVATE_PREFIX + "*")) == []
    assert is_dead(server)
    names = "SELECT datname FROM pg_database WHERE datname LIKE 'export_restore%'"
    process = run_process("rehearse", "--env-file", env)
    deadline = time.monotonic() + 30
    while not source.fetch(names):
        assert time.monotonic() < deadline
    time.sleep(0.2)
    process.send_signal(how)
    process.communicate(timeout=30)
    assert process.returncode == ENDS[how][0]
    assert source.fetch(names) == []


@pytest.mark.parametrize("how", ENDS)
def test_a_rehearsal_at_any_moment(
    env: Path, how: signal.Signals, own_temp: Path
) -> None:
    """While its server starts, works and stops."""
    assert env.exists()
    for step in range(6):
        process = run_process("rehearse")
        assert process.stderr and process.stderr.readline()
        time.sleep(step * 0.4)
        process.send_signal(how)
        _, err = process.communicate(timeout=30)
        assert process.returncode in (ENDS[how][0], 0, -how), err
        assert process.returncode != 0 or step > 3
        assert list(own_temp.glob(er.PRIVATE_PREFIX + "*")) == [], step


# Where the line falls silent: the command, a word that it says, how many bytes later;
# and how it then ends.
SILENCE = [
    ("restore --yes", "", 0, 130),
    ("restore --yes", "SCRAM-SHA-256", 0, 130),
    ("restore --yes", "pg_control_system", 0, 130),
    ("restore --yes", "DO ", 0, 130),
    ("restore --yes", "FROM STDIN", 1 << 20, 130),
    ("restore --yes", "ADD CONSTRAINT", 0, 130),
    ("restore --yes", "COMMIT\0", 0, er.EXIT_UNKNOWN),
    ("restore --yes", "COMMIT\0", 1, er.EXIT_UNKNOWN),
    ("restore --yes", "ANALYZE", 0, 0),
    ("export --dir new", "TO STDOUT", 1 << 20, 130),
    ("export --dir newer --jobs 2", "TO STDOUT", 1 << 20, 130),
    ("verify", "TO STDOUT", 1 << 20, 130),
    ("schema --output -", "LOCK TABLE", 0, 130),
    ("rehearse", "FROM STDIN", 1 << 20, 130),
]


@pytest.fixture(scope="module")
def small(
    server18: Server, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Database, Path]]:
    """A database of some megabytes, and a folder with its snapshot."""
    folder = tmp_path_factory.mktemp("small")
    (folder / "schema.sql").write_text(BLUEPRINT)
    with server18.database() as database:
        database.execute(BLUEPRINT + ROWS.replace("300000", "20000"))
        server18.execute("ALTER ROLE postgres PASSWORD 'over the line'")
        place = ["--dir", folder / "exports", "--schema-file", folder / "schema.sql"]
        argv = ["export", "-q", "--env-file", database.env_file(folder), *place]
        assert er.main(list(map(str, argv))) == 0
        yield database, folder


class Silence:
    """A command with a database of its own, over a line that falls silent."""

    def __init__(
        self, stack: contextlib.ExitStack, template: Database, word: str, size: int
    ) -> None:
        server = template.server
        database = server.database(f"TEMPLATE {template.name}")
        self.database = stack.enter_context(database)
        self.proxy = Proxy(server.port, word=word, size=size)

    def begin(self, command: str, folder: Path) -> None:
        place = {"DB_HOST": "127.0.0.1", "DB_PORT": str(self.proxy.port)}
        env = self.database.env_file(folder, **place, DB_PASSWORD="'over the line'")
        self.process = run_process(*command.split(), "--env-file", env)

    def end(self, presses: int) -> tuple[int, float, str]:
        """Press Ctrl-C; return the status, how long it took and what was said."""
        assert self.proxy.silent.wait(30), self.process.communicate(timeout=1)
        for _ in range(presses):
            time.sleep(0.3)
            self.process.send_signal(signal.SIGINT)
            start = time.monotonic()
        _, err = self.process.communicate(timeout=30)
        return self.process.returncode, time.monotonic() - start, err


def drop_scratch_databases(database: Database) -> None:
    """Do what the next rehearsal would: where nothing is heard, one is left."""
    query = "SELECT datname FROM pg_database WHERE starts_with(datname, %s)"
    for (name,) in database.fetch(query, [er.SCRATCH_PREFIX]):
        database.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.mark.parametrize("presses", [1, 2])
def test_a_line_that_falls_silent(
    server: Server,
    small: tuple[Database, Path],
    monkeypatch: pytest.MonkeyPatch,
    presses: int,
) -> None:
    """Ctrl-C ends it within three seconds all the same; a second one, at once."""
    template, folder = small
    assert template.server is server
    monkeypatch.chdir(folder)
    with ThreadPoolExecutor(len(SILENCE)) as pool, contextlib.ExitStack() as stack:
        lines = [Silence(stack, template, word, size) for _, word, size, _ in SILENCE]
        for line, (command, *_) in zip(lines, SILENCE, strict=True):
            line.begin(command, folder)
        ends = list(pool.map(lambda line: line.end(presses), lines))
        for line in lines:  # a process that cannot send lets drop no database
            line.proxy.close()
        drop_scratch_databases(template)
    for (*where, status), (found, seconds, err) in zip(SILENCE, ends, strict=True):
        assert found == status, (where, err)
        assert seconds < 3 / presses, where
        assert "Traceback" not in err
    assert not list(folder.glob("new*/.export-*"))
