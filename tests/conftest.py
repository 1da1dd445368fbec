"""Fixtures: two servers for the whole run, a fresh database for each test."""

from __future__ import annotations

import codecs
import contextlib
import functools
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

# Hundreds of databases come and go: in memory, where there is enough of it.
MEMORY = Path("/dev/shm")
if MEMORY.is_dir() and shutil.disk_usage(MEMORY).free > 8 << 30:
    os.environ["TMPDIR"] = tempfile.tempdir = str(MEMORY)

from servers import DEBIAN_15, Database, Server  # noqa: E402
from supabase import Pooler, Project, SupabaseServer  # noqa: E402

import export_restore as er  # noqa: E402
import setup_db  # noqa: E402

# Some tests act as another user, who may not be let into Python's own folder; and what
# Python did not find once, it never looks for again.
codecs.lookup("utf-8-sig")

# A test's server is of the newest version unless a mark asks for others.
VERSIONS = (18, 16)
OLD_AND_NEW = (15, 17, 18) if DEBIAN_15.is_dir() else (16, 17, 18)
both_versions = pytest.mark.parametrize("server", VERSIONS, indirect=True)
old_and_new = pytest.mark.parametrize("server", OLD_AND_NEW, indirect=True)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--fuzz", type=int, default=40, help="tries of test_fuzz.py")
    parser.addoption("--fuzz-seed", type=int, default=1, help="what makes them up")
    parser.addoption(
        "--moments", type=int, default=0,
        help="strike commands at so many moments (default: as many as are quick)",
    )  # fmt: skip


@pytest.fixture
def moments(request: pytest.FixtureRequest) -> int:
    """At how many moments to strike; 0: the test knows what is quick."""
    return int(request.config.getoption("--moments"))


def pytest_report_header() -> str:
    return f"PostgreSQL: embedded {' and '.join(map(str, VERSIONS))}, 17 with contrib"


def start_server(version: int) -> Iterator[Server]:
    server = Server(version)
    server.start()
    try:
        yield server
    finally:
        server.stop()
        subprocess.run(["rm", "-rf", str(server.data)], check=True)


@pytest.fixture(scope="session", autouse=True)
def root_place() -> Iterator[Path]:
    """Where embedded servers of root lie if they are started in this process."""
    with tempfile.TemporaryDirectory() as folder:
        er.ROOT_PLACE = Path(folder)
        er.ROOT_PLACE.chmod(0o711)
        yield er.ROOT_PLACE


@pytest.fixture(scope="session")
def server18() -> Iterator[Server]:
    yield from start_server(18)


@pytest.fixture(scope="session")
def server15() -> Iterator[Server]:
    yield from start_server(15)


@pytest.fixture(scope="session")
def server16() -> Iterator[Server]:
    yield from start_server(16)


@pytest.fixture(scope="session")
def server17() -> Iterator[Server]:
    yield from start_server(17)


@pytest.fixture(scope="session")
def supabase_server() -> Iterator[SupabaseServer]:
    """A server that is set up as Supabase sets one up."""
    server = SupabaseServer()
    server.start()
    try:
        server.set_up()
        yield server
    finally:
        server.stop()
        shutil.rmtree(server.data)


@pytest.fixture
def project(supabase_server: SupabaseServer) -> Iterator[Project]:
    """A new project on that server."""
    with supabase_server.project() as project:
        yield project


@pytest.fixture(scope="session")
def session_pooler(supabase_server: SupabaseServer) -> Iterator[Pooler]:
    """Supabase's port 5432."""
    pooler = Pooler(supabase_server, "session")
    yield pooler
    pooler.stop()


@pytest.fixture(scope="session")
def transaction_pooler(supabase_server: SupabaseServer) -> Iterator[Pooler]:
    """Supabase's port 6543."""
    pooler = Pooler(supabase_server, "transaction")
    yield pooler
    pooler.stop()


@pytest.fixture
def server(request: pytest.FixtureRequest) -> Server:
    """A server of the newest version, or of the one that a mark asks for."""
    version = getattr(request, "param", VERSIONS[0])
    found: Server = request.getfixturevalue(f"server{version}")
    return found


@pytest.fixture
def private_server() -> Iterator[Server]:
    """A server that the test may kill."""
    yield from start_server(18)


@pytest.fixture
def source(server: Server) -> Iterator[Database]:
    """An empty database."""
    with server.database() as database:
        yield database


@pytest.fixture
def target(server: Server) -> Iterator[Database]:
    """Another empty database of the same server."""
    with server.database() as database:
        yield database


@dataclass(frozen=True)
class Result:
    """What a command left behind."""

    status: int
    out: str
    err: str


# What the fixtures of these names give.
Run = Callable[..., Result]
Succeed = Callable[..., str]
Fail = Callable[..., str]
Build = Callable[..., Path]


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that other users can enter, so that a server of root can lie there."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command line of export_restore in this process."""

    def call(*argv: object) -> Result:
        capsys.readouterr()
        status = er.main([str(each) for each in argv])
        return Result(status, *capsys.readouterr())

    return call


@pytest.fixture
def succeed(run: Run) -> Succeed:
    """Run a command quietly; it has to succeed and to leave stderr empty."""

    def call(*argv: object) -> str:
        result = run(*argv, "-q")
        assert (result.status, result.err) == (0, ""), result.err
        return result.out

    return call


# How a restore or an export that came to nothing ends.
LAST_WORDS = re.compile(
    r".* (is as it was|still holds the snapshot of .* ago)|.* holds no snapshot"
)


@pytest.fixture
def fail(run: Run) -> Fail:
    """Run a command that has to fail as promised; return what it said on stderr."""

    def call(status: int, *argv: object) -> str:
        result = run(*argv, "-q")
        lines = result.err.splitlines()
        assert result.status == status, result
        assert result.out == ""
        assert len(lines) == 2 or LAST_WORDS.fullmatch("\n".join(lines[2:])), result.err
        assert lines[0].startswith("export_restore: error: ")
        assert lines[1].startswith("hint: ")
        assert "Traceback" not in result.err
        return result.err

    return call


@pytest.fixture
def build(source: Database, work: Path) -> Build:
    """Make the source by a script, with rows; returns its env file."""

    def call(schema: str, rows: str = "") -> Path:
        (work / "schema.sql").write_text(schema, encoding="utf-8")
        source.execute(schema)
        if rows:
            source.execute(rows)
        return source.env_file(work)

    return call


@pytest.fixture(scope="session")
def snapshots(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Server], Path]:
    """Give a snapshot of the sample tables; their database is the server's template.

    All databases that are made of it have the name that the snapshot knows.
    """

    @functools.cache
    def make(server: Server) -> Path:
        folder = tmp_path_factory.mktemp("seed")
        with server.database(name=SEEDED) as database:
            env = f"--env-file={database.env_file(folder)}"
            sizes = ["--agents=8", "--leads=60", "--feedback=90"]
            assert setup_db.main([env, "-q", *sizes]) == 0
            place = [f"--dir={folder}/exports", f"--schema-file={ROOT}/schema.sql"]
            assert er.main(["export", "-q", env, *place]) == 0
            server.execute(f"CREATE DATABASE {SEEDED}_template TEMPLATE {SEEDED}")
        return folder / "exports"

    return make


SEEDED = f"test_{os.getpid()}_seeded"


@pytest.fixture
def seeded(
    server: Server, work: Path, snapshots: Callable[[Server], Path]
) -> Iterator[Database]:
    """A database with the sample tables in it; schema.sql lies in the work folder."""
    shutil.copy(ROOT / "schema.sql", work)
    snapshots(server)
    with server.database(f"TEMPLATE {SEEDED}_template", SEEDED) as database:
        yield database


@pytest.fixture
def exported(
    seeded: Database, work: Path, snapshots: Callable[[Server], Path]
) -> Database:
    """The seeded database, with its snapshot in the folder exports."""
    shutil.copytree(snapshots(seeded.server), work / "exports")
    return seeded


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
