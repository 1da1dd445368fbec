"""Deaths and interruptions at any moment: the old state or the new, nothing between."""

from __future__ import annotations

import contextlib
import itertools
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from cases import contents
from commands import (
    ROOT,
    Place,
    check_error,
    fork_process,
    place,
    succeed,
    wait_until,
)
from conftest import both_versions
from servers import Database, Proxy, Server, hang_up, line

import export_restore as er

Process = subprocess.Popen[str]

SCRIPT = """
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


# ---- a restore that is struck


def state(database: Database) -> tuple[Any, ...]:
    """Return what can be told apart."""
    return database.rows(), database.sequences()


class Victim:
    """A restore that is struck again and again, and the states of its target."""

    def __init__(self, database: Place, work: Path) -> None:
        self.database, self.work = database, work
        database.make(SCRIPT, ROWS)
        database.succeed("export")
        self.env = database.env
        self.renew()
        start = time.monotonic()
        assert self.start().wait() == 0
        self.seconds = time.monotonic() - start
        self.new = state(database)
        self.renew()

    def renew(self) -> None:
        self.database.execute(LATER)
        self.old = state(self.database)

    def start(self, env: Path | None = None) -> Process:
        return fork_process("restore", "--env-file", env or self.env)

    def judge(self, process: Process, where: object) -> bool:
        """See that status and target agree; tell whether the new state is there."""
        _, err = process.communicate(timeout=60)
        assert "Traceback" not in err
        others = (
            "SELECT FROM pg_stat_activity WHERE datname = current_database() "
            "AND backend_type = 'client backend' AND pid <> pg_backend_pid()"
        )
        wait_until(lambda: not self.database.fetch(others))
        found = state(self.database)
        assert found in (self.old, self.new), f"a mixture at {where}"
        restored = found == self.new
        assert restored or process.returncode != 0, f"{where}: confirmed, but not there"
        if process.returncode in (1, 130, 143):
            assert not restored, f"{where}: denied, but there: {err}"
        if process.returncode == 1:
            check_error("\n".join(err.splitlines()[-3:]))
            assert err.endswith(" is as it was\n"), err
        if restored:
            self.renew()
        return restored

    def endure(self, moments: int, strike: Callable[[Process], object]) -> None:
        """Strike at moments spread over the restore; at some it came to nothing."""
        met = set()
        for step in range(moments):
            process = self.start()
            assert process.stderr and process.stderr.readline()  # it has begun
            time.sleep(self.seconds * 0.85 * step / moments)
            ended = process.poll()
            strike(process)
            met.add(self.judge(process, f"moment {step}"))
            assert ended is None or process.returncode == 0
        assert self.start().wait() == 0
        assert state(self.database) == self.new
        assert False in met

    @contextlib.contextmanager
    def at(self, word: str, size: int) -> Iterator[tuple[Process, Proxy]]:
        """Give a restore over a line that has fallen silent so far after a word."""
        with line(self.database, self.work, word=word, size=size) as (proxy, way):
            process = self.start(way)
            assert proxy.silent.wait(60)
            yield process, proxy

    def strike_while_loading(self, strike: Callable[[Process], object]) -> None:
        """Strike when some of the rows have come."""
        self.renew()
        schema = self.database.schema()
        with self.at("FROM STDIN", 1 << 18) as (process, _):
            strike(process)
        assert not self.judge(process, "COPY")
        assert self.database.schema() == schema


@pytest.fixture
def victim(source: Place, work: Path) -> Victim:
    return Victim(source, work)


@pytest.fixture
def private(private_server: Server, work: Path) -> Iterator[tuple[Server, Victim]]:
    """A victim on a server that may be killed."""
    with place(private_server) as database:
        private_server.execute("CHECKPOINT")
        yield private_server, Victim(database, work)


def test_the_client_is_killed(victim: Victim, moments: int) -> None:
    victim.endure(moments or 30, subprocess.Popen.kill)
    victim.strike_while_loading(subprocess.Popen.kill)


def test_somebody_ends_it(victim: Victim, moments: int) -> None:
    """By Ctrl-C, SIGTERM and SIGHUP in turn: each says what became of the target."""
    ways = itertools.cycle([signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
    victim.endure(moments or 20, lambda process: process.send_signal(next(ways)))


def test_the_server_stops_at_once(private: tuple[Server, Victim], moments: int) -> None:
    """At any moment, while rows load, and in COMMIT: it starts again, and knows."""
    server, victim = private

    def strike(_: Process) -> None:
        server.stop("immediate")
        server.start()

    victim.endure(moments or 20, strike)
    victim.strike_while_loading(strike)
    with victim.at("COMMIT\0", 1) as (process, proxy):
        server.stop("immediate")
        proxy.hear()
        server.start()
        assert victim.judge(process, "COMMIT") == (process.returncode == 0)
        assert process.returncode in (0, 1)


def test_the_connection_is_cut(victim: Victim, moments: int) -> None:
    with line(victim.database, victim.work) as (proxy, victim.env):
        victim.endure(moments or 30, lambda _: proxy.cut())


def test_signals_in_commit_and_after(victim: Victim, moments: int) -> None:
    """The server takes its time for either: what it does then is what is told."""
    rng = random.Random(1)
    for step in range(moments or 8):
        word = ("COMMIT\0", "ANALYZE")[step % 2]
        with victim.at(word, step // 2 % 2) as (process, proxy):
            time.sleep(rng.uniform(0, 0.2))
            process.send_signal(rng.choice([signal.SIGINT, signal.SIGTERM]))
            time.sleep(rng.uniform(0, 0.6))
            proxy.hear()
            assert victim.judge(process, word)
        assert process.returncode == 0


@pytest.mark.parametrize("reached", [False, True])
def test_a_commit_that_is_cut(victim: Victim, reached: bool) -> None:
    """Another connection finds out what came of it."""
    with victim.at("COMMIT\0", int(reached)) as (process, proxy):
        time.sleep(0.3)
        proxy.cut()
        proxy.hear()
        assert victim.judge(process, "COMMIT") == reached
    assert process.returncode == (0 if reached else 1)


def test_a_commit_that_nobody_knows_of(victim: Victim, server16: Server) -> None:
    """Another server counts transactions, too."""
    server16.execute("ALTER ROLE postgres PASSWORD 'over the line'")
    same_name = server16.database(name=victim.database.name)
    with same_name, victim.at("COMMIT\0", 1) as (process, proxy):
        proxy.target = server16.port
        proxy.cut()
        proxy.hear()
        assert victim.judge(process, "COMMIT")
    assert process.returncode == er.EXIT_UNKNOWN


def test_a_standby_that_is_away(private: tuple[Server, Victim]) -> None:
    """COMMIT waits for it; Ctrl-C ends that, and what is committed is."""
    server, victim = private
    server.stop("fast")
    with (server.data / "postgresql.conf").open("a") as file:
        file.write("wal_level = replica\nmax_wal_senders = 1\n")
        file.write("synchronous_standby_names = far\nsynchronous_commit = on\n")
    server.start()
    process = victim.start()
    query = "SELECT FROM pg_stat_activity WHERE wait_event = 'SyncRep'"
    wait_until(lambda: process.poll() is not None or victim.database.fetch(query))
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    server.execute("ALTER SYSTEM SET synchronous_standby_names = ''")
    server.execute("SELECT pg_reload_conf()")
    assert (process.returncode, state(victim.database)) == (0, victim.new)
    assert "Restored into" in out
    assert "has already committed locally" in err


TRAPS = (
    "COMMIT;", "COMMIT AND CHAIN;", "END;", "ROLLBACK;", "ABORT;", "ROLLBACK; BEGIN;",
    "DO $$ BEGIN COMMIT; END $$;", "DO $$ BEGIN ROLLBACK; END $$;",
    "DO $$ BEGIN EXECUTE 'COMMIT'; END $$;", "PREPARE TRANSACTION 'x';",
    "CREATE PROCEDURE p() LANGUAGE plpgsql AS 'BEGIN COMMIT; END'; CALL p();",
    "SAVEPOINT s; ROLLBACK TO s;",
)  # fmt: skip


@both_versions
def test_a_script_cannot_end_the_transaction(exported: Place) -> None:
    """Even then a restore that fails later has changed nothing."""
    path = Path("exports/schema.sql")
    whole = path.read_text()
    header = "id,lead_id,rating,comment,created_at\n"
    Path("exports/feedback.csv").write_text(f"{header}x\n")
    before = exported.state()
    for trap in TRAPS:
        path.write_text(whole + trap)
        result = exported.call("restore", "--accept-edits", "-q")
        assert "sha256" not in result.err
        assert result.status in (1, 2, 3), trap
        assert exported.state() == before, trap


def test_a_peer_that_is_gone_is_noticed(source: Place, work: Path) -> None:
    """Within two minutes, whether we wait for it or it for us."""
    with (
        line(source, work) as (_, env),
        er.Database(er.read_settings(env)) as db,
        socket.fromfd(
            db.connection.fileno(), socket.AF_INET, socket.SOCK_STREAM
        ) as ours,
    ):
        idle, interval, count, unconfirmed = (
            ours.getsockopt(socket.IPPROTO_TCP, getattr(socket, f"TCP_{name}"))
            for name in ("KEEPIDLE", "KEEPINTVL", "KEEPCNT", "USER_TIMEOUT")
        )
        assert ours.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
    assert idle + interval * count <= 120
    assert 0 < unconfirmed <= 120_000


# ---- commands that are ended

# Rows are slow to load where the database says so.
SLOW = """
    DROP TABLE IF EXISTS t, u CASCADE; CREATE TABLE u (id int PRIMARY KEY);
    CREATE OR REPLACE FUNCTION slow(int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS
    'BEGIN PERFORM pg_sleep(current_setting(''test.slow'', true)::float); RETURN $1;
     END';
    CREATE TABLE t (id int PRIMARY KEY, a text, CHECK (slow(id) = id));
    CREATE INDEX ON t (a);
"""
SLOW_ROWS = """
    DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET test.slow = 0.002',
    current_database()); END $$
"""
SLOW_KEYS = """
    CREATE FUNCTION sleep() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN
    IF current_query() ~ '^[^D].*ADD CONSTRAINT' THEN PERFORM pg_sleep(20); END IF;
    END $$;
    CREATE EVENT TRIGGER slow ON ddl_command_end EXECUTE FUNCTION sleep();
"""
FEW = """
    INSERT INTO t SELECT i, repeat(md5(i::text), 8) FROM generate_series(1, 20000) i;
    INSERT INTO u VALUES (1)
"""
ENDS = {
    signal.SIGINT: (130, "interrupted"),
    signal.SIGTERM: (143, "terminated"),
    signal.SIGHUP: (143, "terminated"),  # the terminal is gone
}


@pytest.fixture(scope="module")
def small(
    server18: Server, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Place, Path]]:
    """A database of some megabytes, and a folder with its snapshot."""
    folder = tmp_path_factory.mktemp("small")
    (folder / "schema.sql").write_text(SLOW)
    with place(server18) as database:
        database.execute(SLOW + FEW)
        database.execute("ALTER ROLE postgres PASSWORD 'over the line'")
        options = ["--dir", folder / "exports", "--schema-file", folder / "schema.sql"]
        succeed("export", "--env-file", database.env_file(folder), *options)
        yield database, folder


@pytest.fixture
def used(small: tuple[Place, Path], work: Path) -> Iterator[Place]:
    """The same without some rows, and the snapshot, to do with as one likes."""
    template, folder = small
    shutil.copytree(folder, work, dirs_exist_ok=True)
    with place(template.server, f"TEMPLATE {template.name}") as database:
        database.execute("DELETE FROM t WHERE id < 9")
        yield database


def end(process: Process, how: signal.Signals, presses: int = 1) -> None:
    """End a command; it has to say so in one line, and soon."""
    start = time.monotonic()
    for _ in range(presses):
        process.send_signal(how)
        time.sleep(0.01 * (presses - 1))
    out, err = process.communicate(timeout=60)
    assert time.monotonic() - start < 2
    status, word = ENDS[how]
    assert (process.returncode, out) == (status, ""), err
    assert f"export_restore: {word}" in err.splitlines()[-2:]
    assert err.count("export_restore:") == 1


@contextlib.contextmanager
def all_left(database: Place) -> Iterator[None]:
    """See that a command that was ended has changed nothing."""

    def look() -> object:
        rows = database.fetch("SELECT count(*), max(id) FROM t")
        return contents(Path("exports")), rows

    before = look()
    yield
    assert look() == before


@pytest.mark.parametrize(
    "slow, words", [(SLOW_ROWS, "COPY"), (SLOW_KEYS, "ADD CONSTRAINT")]
)
def test_a_restore_is_ended(used: Place, slow: str, words: str) -> None:
    used.execute(slow)
    query = (
        "SELECT FROM pg_stat_activity WHERE datname = current_database()"
        f" AND wait_event = 'PgSleep' AND query LIKE '%{words}%'"
    )
    for how in ENDS:
        with all_left(used):
            process = used.start("restore", "--yes")
            wait_until(lambda: used.fetch(query))
            end(process, how)


def test_an_export_or_a_verification_is_ended(used: Place, work: Path) -> None:
    """Once or twice, over a slow line."""
    ends = itertools.product((1, 2), (signal.SIGINT, signal.SIGTERM))
    for command, (presses, how) in itertools.product(("export", "verify"), ends):
        with (
            all_left(used),
            line(used, work, word="TO STDOUT", pace=0.05) as (proxy, way),
        ):
            process = fork_process(command, "--env-file", way)
            assert proxy.silent.wait(60)
            end(process, how, presses)


def test_nohup(used: Place, work: Path) -> None:
    """What shall outlive its terminal does."""
    with line(used, work, word="TO STDOUT", pace=0.05) as (proxy, way):
        ignored = signal.signal(signal.SIGHUP, signal.SIG_IGN)
        process = fork_process("verify", "--env-file", way)
        signal.signal(signal.SIGHUP, ignored)
        assert proxy.silent.wait(60)
        process.send_signal(signal.SIGHUP)
        proxy.hear()
        _, err = process.communicate(timeout=60)
    assert process.returncode == 3, err


def test_a_wait_for_a_lock_is_ended(used: Place) -> None:
    """The server answers nothing, and libpq would not look up."""
    waits = "SELECT FROM pg_locks WHERE NOT granted AND relation = 't'::regclass"
    with contextlib.closing(used.connect()) as other, other.cursor() as cursor:
        cursor.execute("BEGIN; LOCK TABLE t IN ACCESS EXCLUSIVE MODE")
        for how in (signal.SIGINT, signal.SIGTERM):
            for command in ("export", "restore", "verify"):
                process = used.start(command)
                wait_until(lambda: used.fetch(waits))
                end(process, how)
                wait_until(lambda: not used.fetch(waits))


# ---- over a line that falls silent

# The command, a word that it says, how many bytes later it falls silent; and how Ctrl-C
# then ends the command.
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
LOST = "the connection to the server was lost: "
ENDED = f"{LOST}terminating connection due to administrator command\n"
# The same; what the administrator does, and what the program then says: a process that
# cannot send can give no reason.
STRUCK = [
    ("restore --yes", "FROM STDIN", 1 << 20, "terminate", ENDED),
    ("restore --yes", "ADD CONSTRAINT", 0, "terminate", ENDED),
    ("verify", "TO STDOUT", 1, "terminate", LOST),
    ("export --jobs 1 --dir one", "TO STDOUT", 1, "terminate", LOST),
    ("export --jobs 2 --dir two", "TO STDOUT", 1, "terminate", LOST),
    ("restore --yes", "FROM STDIN", 1 << 20, "cancel", "error: t.csv, line "),
]


class Silence:
    """A command with a database of its own, over a line that falls silent."""

    def __init__(self, database: Place, word: str, size: int) -> None:
        self.proxy = Proxy(database.server.port, word=word, size=size)
        way = {"DB_HOST": "127.0.0.1", "DB_PORT": str(self.proxy.port)}
        self.database = database.but(**way, DB_PASSWORD="'over the line'")

    def begin(self, command: str) -> None:
        self.process = self.database.start(*command.split())

    def wait(self) -> None:
        assert self.proxy.silent.wait(60), self.process.communicate(timeout=1)

    def interrupt(self, presses: int) -> None:
        """Press Ctrl-C until it is over; tell from the last one on how long it took."""
        for _ in range(presses):
            time.sleep(0.3)
            self.process.send_signal(signal.SIGINT)
            start = time.monotonic()
        _, self.err = self.process.communicate(timeout=60)
        self.seconds = time.monotonic() - start

    def check_reason(self, said: str, program: str = "export_restore") -> None:
        """See that a command has told why it ended, and no row."""
        out, err = self.process.communicate(timeout=60)
        assert (self.process.returncode, out) == (1, ""), err
        check_error(err, program)
        assert said in err
        assert "c4ca4238a0b92382" not in err  # the first row's


@contextlib.contextmanager
def silences(
    small: tuple[Place, Path], *cases: tuple[str, int]
) -> Iterator[tuple[Silence, ...]]:
    """Give such commands for each word and size, in a folder with the snapshot."""
    template, folder = small
    shutil.copytree(folder, Path.cwd(), dirs_exist_ok=True)
    with contextlib.ExitStack() as stack:
        make = f"TEMPLATE {template.name}"
        lines = tuple(
            Silence(stack.enter_context(place(template.server, make)), *case)
            for case in cases
        )
        try:
            yield lines
        finally:  # a process that cannot send lets drop no database
            for each in lines:
                each.proxy.close()


@pytest.mark.parametrize("presses", [1, 2])
def test_a_line_that_falls_silent(
    small: tuple[Place, Path], work: Path, presses: int
) -> None:
    """Ctrl-C ends it within three seconds all the same; a second one, at once."""
    cases = [(word, size) for _, word, size, _ in SILENCE]
    with ThreadPoolExecutor(len(cases)) as pool, silences(small, *cases) as lines:
        for each, (command, *_) in zip(lines, SILENCE, strict=True):
            each.begin(command)
        list(pool.map(Silence.wait, lines))
        list(pool.map(lambda each: each.interrupt(presses), lines))
    # The next rehearsal would drop its scratch database: here nothing was heard.
    query = "SELECT datname FROM pg_database WHERE starts_with(datname, %s)"
    for (name,) in small[0].fetch(query, [er.SCRATCH_PREFIX]):
        small[0].execute(f"DROP DATABASE {name} WITH (FORCE)")
    for (*where, status), each in zip(SILENCE, lines, strict=True):
        assert each.process.returncode == status, (where, each.err)
        assert each.seconds < 3 / presses, where
        assert "Traceback" not in each.err
    assert not list(work.glob("new*/.export-*"))


def test_the_administrator_ends_it(small: tuple[Place, Path], work: Path) -> None:
    """Two lines, with the true reason and no row; the file is not to blame."""
    silent = [(word, size) for _, word, size, _, _ in STRUCK]
    with silences(small, *silent, ("FROM STDIN", 1 << 20)) as (*lines, setup):
        for each, (command, *_) in zip(lines, STRUCK, strict=True):
            each.begin(f"{command} -q")
        for each in lines:
            each.wait()
        shutil.copy(ROOT / "schema.sql", work)
        program = [sys.executable, str(ROOT / "setup_db.py"), "--leads", "20000"]
        argv = [*program, "-q", "--env-file", str(setup.database.env)]
        setup.process = subprocess.Popen(
            argv, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        setup.wait()
        time.sleep(0.3)
        cases = [(*case[3:], "export_restore") for case in STRUCK]
        cases.append(("terminate", ENDED, "setup_db"))
        for each, (act, said, name) in zip((*lines, setup), cases, strict=True):
            each.database.execute(
                f"SELECT pg_{act}_backend(pid) FROM pg_stat_activity WHERE datname ="
                " current_database() AND application_name = 'export_restore'"
                " AND state <> 'idle'"  # not who looks for locks meanwhile
            )
            each.proxy.hear()
            each.check_reason(said, name)


def test_jobs_end_with_the_connection_that_began(
    small: tuple[Place, Path], work: Path
) -> None:
    """At once: without it what they copy is for nothing."""
    with silences(small, ("TO STDOUT", 0)) as [each]:
        each.begin("export -q --jobs 2")
        each.wait()
        wait_until(lambda: len(each.proxy.sockets) >= 4)
        time.sleep(0.3)
        hang_up(each.proxy.sockets[1])  # the server's end of the first
        start = time.monotonic()
        each.check_reason(LOST)
    assert time.monotonic() - start < 2
