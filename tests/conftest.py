"""Fixtures: two servers for the whole run, a fresh database for each test."""

from __future__ import annotations

import codecs
import functools
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

# Hundreds of databases come and go: in memory, where there is enough of it.
MEMORY = Path("/dev/shm")
if MEMORY.is_dir() and shutil.disk_usage(MEMORY).free > 8 << 30:
    os.environ["TMPDIR"] = tempfile.tempdir = str(MEMORY)

import commands  # noqa: E402
from commands import (  # noqa: E402
    Fail,
    Place,
    Result,
    Run,
    Succeed,
    fork_process,
    place,
    run_process,
    wait_until,
)
from servers import DEBIAN_15, Server  # noqa: E402
from supabase import Pooler, Project, SupabaseServer  # noqa: E402

import export_restore as er  # noqa: E402
import setup_db  # noqa: E402

# Some tests act as another user, who may not be let into Python's own folder; and what
# Python did not find once, it never looks for again.
codecs.lookup("utf-8-sig")

__all__ = [
    "Fail", "Place", "Result", "Run", "Succeed", "fork_process", "run_process",
    "wait_until",
]  # fmt: skip

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


def server_of(version: int) -> Callable[[], Iterator[Server]]:
    def server() -> Iterator[Server]:
        yield from start_server(version)

    return pytest.fixture(server, scope="session", name=f"server{version}")


server15, server16, server17, server18 = map(server_of, (15, 16, 17, 18))


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
def project(supabase_server: SupabaseServer, work: Path) -> Iterator[Project]:
    """A new project on that server."""
    with supabase_server.project() as project:
        yield project


def pooler_of(mode: str) -> Callable[[SupabaseServer], Iterator[Pooler]]:
    def pooler(supabase_server: SupabaseServer) -> Iterator[Pooler]:
        made = Pooler(supabase_server, mode)
        yield made
        made.stop()

    return pytest.fixture(pooler, scope="session", name=f"{mode}_pooler")


# Supabase's ports 5432 and 6543.
session_pooler, transaction_pooler = map(pooler_of, ("session", "transaction"))


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
def source(server: Server, work: Path) -> Iterator[Place]:
    """An empty database."""
    with place(server) as database:
        yield database


@pytest.fixture
def target(server: Server, work: Path) -> Iterator[Place]:
    """Another empty database of the same server."""
    with place(server) as database:
        yield database


Build = Callable[..., Path]


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def no_hang() -> Iterator[Callable[[], None]]:
    """Raise where a command waits for ever; give what begins the 30 seconds anew."""

    def give_up(*_: object) -> None:
        raise AssertionError("it hangs")

    def begin() -> None:
        signal.setitimer(signal.ITIMER_REAL, 30, 30)

    before = signal.signal(signal.SIGALRM, give_up)
    begin()
    yield begin
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that other users can enter, so that a server of root can lie there."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


@pytest.fixture
def run() -> Run:
    return commands.run


@pytest.fixture
def succeed() -> Succeed:
    return commands.succeed


@pytest.fixture
def fail() -> Fail:
    return commands.fail


@pytest.fixture
def build(source: Place) -> Build:
    """Make the source by a script, with rows; returns its env file."""

    def call(schema: str, rows: str = "") -> Path:
        source.make(schema, rows)
        return source.env

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
) -> Iterator[Place]:
    """A database with the sample tables in it; schema.sql lies in the work folder."""
    shutil.copy(ROOT / "schema.sql", work)
    snapshots(server)
    with place(server, f"TEMPLATE {SEEDED}_template", SEEDED) as database:
        yield database


@pytest.fixture
def exported(seeded: Place, work: Path, snapshots: Callable[[Server], Path]) -> Place:
    """The seeded database, with its snapshot in the folder exports."""
    shutil.copytree(snapshots(seeded.server), work / "exports")
    return seeded
