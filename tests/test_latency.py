"""A database in another continent: every round trip counts."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from servers import Database, Server

Succeed = Callable[..., str]
TABLES = 100
DELAY = 0.050  # seconds, there and back


class Proxy:
    """Passes bytes on to a server half a round trip late, and counts round trips."""

    def __init__(self, port: int) -> None:
        self.target = port
        self.round_trips = 0
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self) -> None:
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            server = socket.create_connection(("127.0.0.1", self.target))
            self.last = server
            for source, sink in ((client, server), (server, client)):
                threading.Thread(
                    target=self.forward, args=(source, sink, client), daemon=True
                ).start()

    def forward(
        self, source: socket.socket, sink: socket.socket, client: socket.socket
    ) -> None:
        while chunk := source.recv(1 << 20):
            if source is client and self.last is not client:
                self.round_trips += 1  # the client speaks after the server did
            self.last = source
            time.sleep(DELAY / 2)
            sink.sendall(chunk)
        sink.close()


@pytest.fixture
def proxy(server18: Server) -> Iterator[Proxy]:
    proxy = Proxy(server18.port)
    yield proxy
    proxy.listener.close()


@pytest.mark.parametrize("server", [18], indirect=True)
def test_few_round_trips_a_table(
    source: Database,
    target: Database,
    server: Server,
    proxy: Proxy,
    work: Path,
    succeed: Succeed,
) -> None:
    """100 tables with 300 rows at 50 ms: at most 5 round trips a table."""
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
