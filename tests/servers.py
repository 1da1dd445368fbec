"""Real PostgreSQL servers for the tests: start, stop, kill, look inside."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import itertools
import multiprocessing
import os
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import psycopg2
import psycopg2.extensions
from psycopg2 import sql

import export_restore as er

PASSWORD = "it's $ecret #1 @ 100%"
HBA = "local all all trust\nhost all all 127.0.0.1/32 scram-sha-256\n"
SETTINGS = (
    "fsync = off\nfull_page_writes = off\nsynchronous_commit = off\n"
    "max_wal_senders = 0\nwal_level = minimal\nshared_buffers = '64MB'\n"
    "max_prepared_transactions = 2\n"
)
HOME = tempfile.gettempdir()  # whatever a test makes of it later
DEBIAN_15 = Path("/usr/lib/postgresql/15/bin")
_numbers = itertools.count(1)


@functools.cache
def servers() -> dict[int, er.Programs]:
    """Return the programs of servers by version.

    16 and 18 are the embedded ones; 17 is a fuller build with contrib and libxml, and
    15 is Debian's, where the machine has it.
    """
    return {each.major: each for each in reversed(er.find_programs("postgres"))}


def binaries() -> dict[int, Path]:
    """Return the folders that they lie in."""
    return {version: each.folder for version, each in servers().items()}


class Server:
    """One PostgreSQL, by socket (trust) and TCP (password)."""

    user = "postgres"

    def __init__(self, version: int, settings: str = SETTINGS) -> None:
        self.version = version
        self.data = Path(tempfile.mkdtemp(prefix=f"er{version}-", dir=HOME))
        programs = servers()[version]
        self.system_user = er.free_user() if er.is_root() else None
        if self.system_user:
            programs = programs.for_all()
        self.bin = programs.folder
        self.own = er.OwnServer(self.data, programs, self.system_user, ("fsync=off",))
        self.own.create("postgres")
        (self.data / "pg_hba.conf").write_text(HBA)
        with (self.data / "postgresql.conf").open("a") as config:
            config.write(settings)
        self.port = er.free_port()
        self.host = str(self.data)

    def pg_ctl(self, *arguments: str) -> None:
        self.own.run("pg_ctl", "-w", *arguments)

    def start(self) -> None:
        options = f"-h 127.0.0.1 -p {self.port} -k {self.data}"
        self.pg_ctl("-l", str(self.data / "log"), "-o", options, "start")

    def stop(self, mode: str = "immediate") -> None:
        self.pg_ctl("-m", mode, "stop")

    def connect(self, dbname: str = "postgres") -> Any:
        db = psycopg2.connect(
            host=self.host, port=self.port, user=self.user, dbname=dbname
        )
        db.autocommit = True
        return db

    def execute(self, query: Any, dbname: str = "postgres") -> None:
        with contextlib.closing(self.connect(dbname)) as db, db.cursor() as cursor:
            cursor.execute(query)

    @contextlib.contextmanager
    def database(self, options: str = "", name: str = "") -> Iterator[Database]:
        """Give a new database, dropped at the end."""
        name = name or f"test_{os.getpid()}_{next(_numbers)}"
        ident = sql.Identifier(name)
        # Half the work of copying it through the WAL.
        options += " STRATEGY FILE_COPY"
        self.execute(sql.SQL("CREATE DATABASE {} " + options).format(ident))
        try:
            yield Database(self, name)
        finally:
            self.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(ident))


class Proxy:
    """Passes bytes on to a server; counts round trips; cuts lines.

    It falls silent once so many bytes went by after a client has said a `word`: lines
    stay open, and are taken, but nothing goes through them. With a `pace` it does not,
    but every chunk takes so many seconds from then on.
    """

    def __init__(
        self,
        port: int,
        word: str | None = None,
        size: int = 0,
        pace: float = 0,
    ) -> None:
        self.target = port
        self.pace = pace
        self.round_trips = 0
        self.word = None if word is None else word.encode()
        self.size = size
        self.silent = threading.Event()
        self.said = False
        self.sockets: list[socket.socket] = []
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self) -> None:
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            self.fall_silent(b"")
            server = socket.create_connection(("127.0.0.1", self.target))
            self.last = server
            self.sockets += [client, server]
            for source, sink in ((client, server), (server, client)):
                threading.Thread(
                    target=self.forward, args=(source, sink, client), daemon=True
                ).start()

    def forward(
        self, source: socket.socket, sink: socket.socket, client: socket.socket
    ) -> None:
        try:
            while chunk := source.recv(1 << 20):
                if source is client and self.last is not client:
                    self.round_trips += 1  # the client speaks after the server did
                self.last = source
                if source is client or self.said:
                    self.fall_silent(chunk)
                if self.pace and self.said:
                    time.sleep(self.pace)
                while self.silent.is_set() and not self.pace:
                    time.sleep(0.02)
                sink.sendall(chunk)
        except OSError:  # the line was cut
            pass
        finally:
            hang_up(sink)

    def fall_silent(self, chunk: bytes) -> None:
        """Pass nothing on any more if the time for that has come."""
        if self.said:
            self.size -= len(chunk)
        self.said = self.said or (self.word is not None and self.word in chunk)
        if self.said and self.size <= 0:
            self.silent.set()

    def hear(self) -> None:
        """Pass on what comes from now on."""
        self.word, self.said, self.pace = None, False, 0
        self.silent.clear()

    def cut(self) -> None:
        """Cut every line in the middle of whatever goes through it."""
        for each in self.sockets:
            hang_up(each)
        self.sockets.clear()

    def close(self) -> None:
        self.listener.close()
        self.cut()


def hang_up(line: socket.socket) -> None:
    """End a connection even if another thread waits for it."""
    with contextlib.suppress(OSError):
        line.shutdown(socket.SHUT_RDWR)
    line.close()


@dataclasses.dataclass(frozen=True)
class Database:
    server: Server
    name: str

    def env_file(self, folder: Path, **changes: str | None) -> Path:
        """Write an env file that leads here; None leaves a key out."""
        values = {
            "DB_HOST": self.server.host,
            "DB_PORT": str(self.server.port),
            "DB_NAME": self.name,
            "DB_USER": self.server.user,
            **changes,
        }
        path = folder / f"{self.name}.env"
        lines = [
            f"{key}={value}\n" for key, value in values.items() if value is not None
        ]
        path.write_text("".join(lines), encoding="utf-8")
        return path

    def connect(self) -> Any:
        return self.server.connect(self.name)

    def execute(self, query: Any, values: Any = None) -> None:
        with contextlib.closing(self.connect()) as db, db.cursor() as cursor:
            cursor.execute(query, values)

    def fetch(self, query: Any, values: Any = None) -> list[tuple[Any, ...]]:
        with contextlib.closing(self.connect()) as db, db.cursor() as cursor:
            cursor.execute(query, values)
            rows: list[tuple[Any, ...]] = cursor.fetchall()
            return rows

    def rows(self) -> dict[str, list[str]]:
        """Return every table's rows as text, sorted: the state cell by cell."""
        with contextlib.closing(self.connect()) as db, db.cursor() as cursor:
            cursor.execute(
                "SELECT format('%I.%I', schemaname, tablename) FROM pg_tables "
                "WHERE schemaname NOT IN ('pg_catalog', 'information_schema')"
            )
            found = {}
            for (name,) in cursor.fetchall():
                cursor.execute(
                    f'SELECT t::text FROM ONLY {name} AS t ORDER BY t::text COLLATE "C"'
                )
                found[name] = [row for (row,) in cursor.fetchall()]
            return found

    def sequences(self) -> dict[str, tuple[Any, ...]]:
        """Return every sequence's last_value and is_called."""
        with contextlib.closing(self.connect()) as db, db.cursor() as cursor:
            cursor.execute(
                "SELECT format('%I.%I', n.nspname, c.relname) FROM pg_class AS c JOIN "
                "pg_namespace AS n ON n.oid = c.relnamespace WHERE c.relkind = 'S'"
            )
            found = {}
            for (name,) in cursor.fetchall():
                cursor.execute(f"SELECT last_value, is_called FROM {name}")
                found[name] = cursor.fetchone()
            return found

    def pg_dump(self, *options: str) -> str:
        """Return the schema as the newest pg_dump writes it."""
        versions = binaries()
        place = [f"--host={self.server.host}", f"--port={self.server.port}"]
        command = [str(versions[max(versions)] / "pg_dump"), "--schema-only", *options]
        return subprocess.run(
            [*command, *place, f"--username={self.server.user}", self.name],
            check=True,
            capture_output=True,
            text=True,
        ).stdout

    def schema(self) -> str:
        """Return what pg_dump says of the schema: an independent judge."""
        text = self.pg_dump("--no-owner", "--no-privileges")
        return "".join(
            line
            for line in text.splitlines(keepends=True)
            if not line.startswith(("\\restrict", "\\unrestrict", "-- Dumped"))
        )

    def state(self) -> tuple[Any, ...]:
        """Return all there is to compare: schema, rows, sequences."""
        return self.schema(), self.rows(), self.sequences()


@contextlib.contextmanager
def line(
    database: Database, folder: Path, **silence: Any
) -> Iterator[tuple[Proxy, Path]]:
    """Give a line to a database, and the env file that leads over it."""
    database.server.execute("ALTER ROLE postgres PASSWORD 'over the line'")
    with contextlib.closing(Proxy(database.server.port, **silence)) as proxy:
        place = {"DB_HOST": "127.0.0.1", "DB_PORT": str(proxy.port)}
        way = dict(place, DB_PASSWORD="'over the line'")
        yield proxy, database.env_file(folder, **way)


@contextlib.contextmanager
def meanwhile(database: Database, query: str) -> Iterator[BaseProcess]:
    """Run a statement in another process, to its end or, if it loops, to ours.

    Not in a thread: how psycopg2 waits is the whole process's.
    """

    def work() -> None:
        psycopg2.extensions.set_wait_callback(None)
        with contextlib.suppress(psycopg2.OperationalError):  # it is ended by others
            database.execute(query)

    process = multiprocessing.get_context("fork").Process(target=work)
    process.start()
    try:
        yield process
    except BaseException:
        process.kill()
        raise
    if "END LOOP" in query:
        assert process.is_alive()
        running = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        database.execute(f"{running} WHERE query = %s", [query])
    process.join(60)
    assert process.exitcode == 0
