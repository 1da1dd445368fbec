"""Deaths at any moment of a restore: the old state or the new, nothing between."""

from __future__ import annotations

import contextlib
import itertools
import random
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import Succeed, run_process
from servers import Database, Proxy, Server

import export_restore as er

Strike = Callable[[subprocess.Popen[str]], None]


BLUEPRINT = """
    DROP TABLE IF EXISTS big, small CASCADE;
    CREATE TABLE small (id serial PRIMARY KEY, note text);
    CREATE TABLE big (id serial PRIMARY KEY, small_id int REFERENCES small, note text);
    CREATE INDEX ON big (small_id);
"""
ROWS = """
    INSERT INTO small (note) VALUES ('first');
    INSERT INTO big (small_id, note)
    SELECT 1, repeat('x', 50) FROM generate_series(1, 8000);
"""
LATER = """
    DROP TABLE IF EXISTS big, small CASCADE;
    CREATE TABLE small (id serial PRIMARY KEY, note text, later int DEFAULT 7);
    CREATE TABLE big (id serial PRIMARY KEY, small_id int REFERENCES small, note text);
    INSERT INTO small (note) SELECT 'since then' FROM generate_series(1, 20);
"""


def state(database: Database) -> tuple[Any, ...]:
    """Return what can be told apart; waits for a server that recovers."""
    return database.rows(), database.sequences()


def wait_for_calm(database: Database) -> None:
    """Wait until no other connection is left in the database."""
    query = (
        "SELECT FROM pg_stat_activity WHERE datname = current_database() "
        "AND backend_type = 'client backend' AND pid <> pg_backend_pid()"
    )
    deadline = time.monotonic() + 30
    while database.fetch(query):
        assert time.monotonic() < deadline, "a connection stays"
        time.sleep(0.005)


@pytest.fixture
def env(source: Database, work: Path, succeed: Succeed) -> Path:
    """A database that is another than its snapshot."""
    (work / "schema.sql").write_text(BLUEPRINT)
    source.execute(BLUEPRINT + ROWS)
    path = source.env_file(work)
    succeed("export", "--env-file", path)
    source.execute(LATER)
    return path


class Victim:
    """A restore that is struck again and again, and the states of its target."""

    def __init__(self, database: Database, env: Path) -> None:
        self.database, self.env = database, env
        start = time.monotonic()
        assert run_process("restore", "--env-file", env).wait() == 0
        self.seconds = time.monotonic() - start
        self.new = state(database)
        self.renew()

    def renew(self) -> None:
        self.database.execute(LATER)
        self.old = state(self.database)

    def judge(self, process: subprocess.Popen[str], where: object) -> bool:
        """See that status and target agree; tell whether the new state is there."""
        _, err = process.communicate(timeout=60)
        assert "Traceback" not in err
        wait_for_calm(self.database)
        found = state(self.database)
        assert found in (self.old, self.new), f"a mixture at {where}"
        restored = found == self.new
        assert restored or process.returncode != 0, f"{where}: confirmed, but not there"
        if process.returncode in (1, 130, 143):
            assert not restored, f"{where}: denied, but there: {err}"
        if restored:
            self.renew()
        return restored

    def endure(self, moments: int, strike: Strike) -> set[bool]:
        """Strike at moments spread over the restore; return which states were met."""
        met = set()
        for step in range(moments):
            process = run_process("restore", "--env-file", self.env)
            assert process.stderr and process.stderr.readline()  # it has begun
            time.sleep(self.seconds * 0.85 * step / moments)
            ended = process.poll()
            strike(process)
            met.add(self.judge(process, f"moment {step}"))
            assert ended is None or process.returncode == 0
        assert run_process("restore", "--env-file", self.env).wait() == 0
        assert state(self.database) == self.new
        return met


def test_the_client_is_killed(source: Database, env: Path, moments: int) -> None:
    met = Victim(source, env).endure(moments or 30, lambda process: process.kill())
    assert False in met


def test_somebody_ends_it(source: Database, env: Path, moments: int) -> None:
    """By Ctrl-C, SIGTERM and SIGHUP in turn: each says what became of the target."""
    ways = itertools.cycle([signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
    victim = Victim(source, env)
    met = victim.endure(moments or 20, lambda process: process.send_signal(next(ways)))
    assert False in met


def test_the_server_stops_at_once(
    private_server: Server, work: Path, succeed: Succeed, moments: int
) -> None:
    def strike(process: subprocess.Popen[str]) -> None:
        private_server.stop("immediate")
        private_server.start()

    with private_server.database() as database:
        private_server.execute("CHECKPOINT")
        (work / "schema.sql").write_text(BLUEPRINT)
        database.execute(BLUEPRINT + ROWS)
        succeed("export", "--env-file", database.env_file(work))
        victim = Victim(database, database.env_file(work))
        assert False in victim.endure(moments or 30, strike)


# ---- through a line that is cut, or falls silent


@contextlib.contextmanager
def line(
    database: Database, work: Path, **silence: Any
) -> Iterator[tuple[Proxy, Path]]:
    """Give a line to a database, and the env file that leads over it."""
    database.server.execute("ALTER ROLE postgres PASSWORD 'over the line'")
    with contextlib.closing(Proxy(database.server.port, **silence)) as proxy:
        place = {"DB_HOST": "127.0.0.1", "DB_PORT": str(proxy.port)}
        way = dict(place, DB_PASSWORD="'over the line'")
        yield proxy, database.env_file(work, **way)


def test_the_connection_is_cut(
    source: Database, env: Path, work: Path, moments: int
) -> None:
    victim = Victim(source, env)
    with line(source, work) as (proxy, victim.env):
        met = victim.endure(moments or 30, lambda process: proxy.cut())
    assert False in met


def test_signals_in_commit_and_after(
    source: Database, env: Path, work: Path, moments: int
) -> None:
    """The server takes its time for either: what it does then is what is told."""
    victim = Victim(source, env)
    rng = random.Random(1)
    for step in range(moments or 8):
        word = ("COMMIT\0", "ANALYZE")[step % 2]
        with line(source, work, word=word, size=step // 2 % 2) as (proxy, way):
            process = run_process("restore", "--env-file", way)
            assert proxy.silent.wait(20)
            time.sleep(rng.uniform(0, 0.2))
            process.send_signal(rng.choice([signal.SIGINT, signal.SIGTERM]))
            time.sleep(rng.uniform(0, 0.6))
            proxy.hear()
            assert victim.judge(process, word)
            assert process.returncode == 0


@pytest.mark.parametrize("reached", [False, True])
def test_a_commit_that_is_cut(
    source: Database, env: Path, work: Path, reached: bool
) -> None:
    """Another connection finds out what came of it."""
    victim = Victim(source, env)
    with line(source, work, word="COMMIT\0", size=int(reached)) as (proxy, way):
        process = run_process("restore", "--env-file", way)
        assert proxy.silent.wait(20)
        time.sleep(0.3)
        proxy.cut()
        proxy.hear()
        assert victim.judge(process, "COMMIT") == reached
        assert process.returncode == (0 if reached else 1)


def test_a_commit_that_nobody_knows_of(
    source: Database, env: Path, work: Path, server16: Server
) -> None:
    """Another server counts transactions, too."""
    victim = Victim(source, env)
    server16.execute("ALTER ROLE postgres PASSWORD 'over the line'")
    server16.execute(f"CREATE DATABASE {source.name}")
    with line(source, work, word="COMMIT\0", size=1) as (proxy, way):
        process = run_process("restore", "--env-file", way)
        assert proxy.silent.wait(20)
        proxy.target = server16.port
        proxy.cut()
        proxy.hear()
        assert victim.judge(process, "COMMIT")
    server16.execute(f"DROP DATABASE {source.name}")
    assert process.returncode == er.EXIT_UNKNOWN


def test_a_server_that_dies_in_commit(
    private_server: Server, work: Path, succeed: Succeed
) -> None:
    """It starts again, and knows."""
    with private_server.database() as database:
        (work / "schema.sql").write_text(BLUEPRINT)
        database.execute(BLUEPRINT + ROWS)
        succeed("export", "--env-file", database.env_file(work))
        victim = Victim(database, database.env_file(work))
        with line(database, work, word="COMMIT\0", size=1) as (proxy, way):
            process = run_process("restore", "--env-file", way)
            assert proxy.silent.wait(20)
            private_server.stop("immediate")
            proxy.hear()
            private_server.start()
            assert victim.judge(process, "COMMIT") == (process.returncode == 0)
            assert process.returncode in (0, 1)


def test_a_standby_that_is_away(
    private_server: Server, work: Path, succeed: Succeed
) -> None:
    """COMMIT waits for it; Ctrl-C ends that, and what is committed is."""
    with private_server.database() as database:
        (work / "schema.sql").write_text(BLUEPRINT)
        database.execute(BLUEPRINT + ROWS)
        env = database.env_file(work)
        succeed("export", "--env-file", env)
        victim = Victim(database, env)
        private_server.stop("fast")
        with (private_server.data / "postgresql.conf").open("a") as file:
            file.write("wal_level = replica\nmax_wal_senders = 1\n")
            file.write("synchronous_standby_names = far\nsynchronous_commit = on\n")
        private_server.start()
        process = run_process("restore", "--env-file", env)
        query = "SELECT FROM pg_stat_activity WHERE wait_event = 'SyncRep'"
        while not database.fetch(query):
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=10)
        private_server.execute("ALTER SYSTEM SET synchronous_standby_names = ''")
        private_server.execute("SELECT pg_reload_conf()")
        assert (process.returncode, state(database)) == (0, victim.new)
    assert "Restored into" in out
    assert "has already committed locally" in err
