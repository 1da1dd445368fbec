"""Deaths at fifty moments of a restore: the old state or the new, nothing between."""

from __future__ import annotations

import contextlib
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import run_process
from servers import Database, Proxy, Server

Succeed = Callable[..., str]
MOMENTS = 50

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


def endure(
    database: Database,
    env: Path,
    work: Path,
    succeed: Succeed,
    strike: Callable[[subprocess.Popen[str]], None],
) -> set[str]:
    """Strike at moments spread over a restore; return which states were met."""
    (work / "schema.sql").write_text(BLUEPRINT)
    database.execute(BLUEPRINT + ROWS)
    succeed("export", "--env-file", env)
    new = state(database)
    start = time.monotonic()
    assert run_process("restore", "--env-file", env).wait() == 0
    whole = time.monotonic() - start
    database.execute(LATER)
    old = state(database)
    met = set()
    for step in range(MOMENTS):
        process = run_process("restore", "--env-file", env)
        time.sleep(whole * (0.2 + 0.85 * step / MOMENTS))
        ended = process.poll()
        strike(process)
        _, err = process.communicate(timeout=60)
        assert "Traceback" not in err
        wait_for_calm(database)
        found = state(database)
        assert found in (old, new), f"a mixture at moment {step}"
        assert found == new or process.returncode != 0, "confirmed, and yet not there"
        assert ended is None or found == new
        met.add("new" if found == new else "old")
        if found == new:
            database.execute(LATER)
            old = state(database)
    succeed("restore", "--env-file", env)
    assert state(database) == new
    return met


def test_the_client_is_killed(source: Database, work: Path, succeed: Succeed) -> None:
    env = source.env_file(work)
    met = endure(source, env, work, succeed, lambda process: process.kill())
    assert "old" in met


def test_the_server_stops_at_once(
    private_server: Server, work: Path, succeed: Succeed
) -> None:
    def strike(process: subprocess.Popen[str]) -> None:
        private_server.stop("immediate")
        process.wait(60)
        private_server.start()

    with private_server.database() as database:
        private_server.execute("CHECKPOINT")
        met = endure(database, database.env_file(work), work, succeed, strike)
    assert "old" in met


@pytest.fixture
def proxy(server: Server) -> Iterator[Proxy]:
    with contextlib.closing(Proxy(server.port)) as proxy:
        yield proxy


@pytest.mark.parametrize("server", [18], indirect=True)
def test_the_connection_is_cut(
    source: Database, server: Server, proxy: Proxy, work: Path, succeed: Succeed
) -> None:
    server.execute("ALTER ROLE postgres PASSWORD 'over the line'")
    place = {"DB_HOST": "127.0.0.1", "DB_PORT": str(proxy.port)}
    env = source.env_file(work, **place, DB_PASSWORD="'over the line'")
    met = endure(source, env, work, succeed, lambda process: proxy.cut())
    assert "old" in met
