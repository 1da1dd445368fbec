"""A database in another continent: every round trip counts."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import Succeed
from servers import Database, Proxy, Server

TABLES = 100
DELAY = 0.010  # seconds, there and back; the bound is on round trips


@pytest.fixture
def proxy(server18: Server) -> Iterator[Proxy]:
    with contextlib.closing(Proxy(server18.port, DELAY)) as proxy:
        yield proxy


def test_few_round_trips_a_table(
    source: Database,
    target: Database,
    server: Server,
    proxy: Proxy,
    work: Path,
    succeed: Succeed,
) -> None:
    """100 tables with 300 rows: at most 5 round trips a table."""
    tables = range(TABLES)
    schema = "".join(
        f"DROP TABLE IF EXISTS t{n} CASCADE;\n"
        f"CREATE TABLE t{n} "
        f"(id serial PRIMARY KEY, up int REFERENCES t{max(n - 1, 0)});\n"
        f"CREATE INDEX ON t{n} (up);\n"
        for n in tables
    )
    (work / "schema.sql").write_text(schema)
    source.execute(schema)
    source.execute(
        "".join(f"INSERT INTO t{n} (up) VALUES (1), (1), (2);" for n in tables)
    )
    server.execute("ALTER ROLE postgres PASSWORD 'far away'")
    figures = []
    for command, database in (("export", source), ("restore", target)):
        env = database.env_file(
            work,
            DB_HOST="127.0.0.1",
            DB_PORT=str(proxy.port),
            DB_PASSWORD="'far away'",
        )
        proxy.round_trips = 0
        start = time.monotonic()
        succeed(command, "--env-file", env)
        seconds = time.monotonic() - start
        figures.append(f"{command}: {proxy.round_trips} round trips, {seconds:.1f} s")
        assert TABLES < proxy.round_trips <= 5 * TABLES
    assert target.state() == source.state()
    print("\n", *figures, sep="\n")
