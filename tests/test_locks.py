"""A lock that somebody else holds is no silent wait."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from commands import Place, run_process, wait_until
from servers import Database, meanwhile

import export_restore as er

SCRIPT = """
    SET lock_timeout = 0;
    DROP TABLE IF EXISTS t;
    CREATE TABLE t (id int PRIMARY KEY);
"""


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(er, "LOCK_PATIENCE", 0.2)


@pytest.fixture
def ahead(source: Place) -> Place:
    """A database with a row more than its snapshot."""
    source.make(SCRIPT, "INSERT INTO t VALUES (1)")
    source.succeed("export")
    source.execute("INSERT INTO t VALUES (2)")
    return source


@contextlib.contextmanager
def holding(database: Database, statement: str) -> Iterator[Any]:
    """Hold a lock from another connection, which the test may end."""
    with contextlib.closing(database.connect()) as db, db.cursor() as cursor:
        cursor.execute("SET application_name = 'a report'; BEGIN")
        cursor.execute(statement)
        yield db


def later(seconds: float, act: Callable[..., object], *arguments: object) -> None:
    """Do something while a command waits."""
    threading.Timer(seconds, act, arguments).start()


READ = "SELECT count(*) FROM t"
LOCK = "LOCK TABLE t IN ACCESS EXCLUSIVE MODE"
LOCKS = {"restore": READ, "export": LOCK, "verify": LOCK}


def held_by(db: Any, statement: str) -> tuple[str, str]:
    return (
        f"held by process {db.info.backend_pid} (user postgres, a report, "
        "idle in transaction, its transaction "
    ), f" old): {statement}"


@pytest.mark.parametrize("command", LOCKS)
def test_the_holder_is_named(ahead: Place, command: str) -> None:
    with holding(ahead, LOCKS[command]) as db:
        before, after = held_by(db, LOCKS[command])
        later(1.2, db.close)
        result = ahead.call(command)
    [said] = [line for line in result.err.splitlines() if "lock" in line]
    assert said.startswith("waiting for a lock, " + before)
    assert said.endswith(after)
    assert result.status == (3 if command == "verify" else 0)


@pytest.mark.parametrize("command", ["restore", "export"])
def test_the_wait_may_have_an_end(ahead: Place, command: str) -> None:
    """Even where the script, a dump, says that there is none."""
    with holding(ahead, LOCKS[command]) as db:
        said = ahead.fail(1, command, "--lock-timeout", "0.8")
        before, after = held_by(db, LOCKS[command])
    assert "canceling statement due to lock timeout (held by " in said
    assert before in said
    assert after in said
    assert ahead.fetch("SELECT id FROM t ORDER BY id") == [(1,), (2,)]


def test_no_lock_and_no_word(ahead: Place) -> None:
    """A statement may as well be slow."""
    ahead.execute("ALTER TABLE t ADD CHECK (pg_sleep(0.5) IS NOT NULL) NOT VALID")
    Path("exports/schema.sql").write_text(SCRIPT + "SELECT pg_sleep(0.8);")
    told = ahead.told(0, "restore", "--accept-edits")
    assert "lock" not in told


def test_a_prepared_transaction(ahead: Place) -> None:
    ahead.execute(f"BEGIN; {READ}; PREPARE TRANSACTION 'forgotten'")
    try:
        said = ahead.fail(1, "restore", "--lock-timeout", "0.8")
    finally:
        ahead.execute("ROLLBACK PREPARED 'forgotten'")
    assert "held by a prepared transaction (see pg_prepared_xacts)" in said
    assert "hint: end it (ROLLBACK PREPARED" in said
    assert "pg_terminate_backend" not in said


def test_no_second_connection(ahead: Place) -> None:
    ahead.execute(
        "CREATE ROLE lonely LOGIN CONNECTION LIMIT 1; ALTER TABLE t OWNER TO lonely;"
        "GRANT CREATE ON SCHEMA public TO lonely"
    )
    try:
        with holding(ahead, READ) as db:
            later(0.8, db.close)
            result = ahead.but(DB_USER="lonely").call("restore")
    finally:
        ahead.execute("DROP OWNED BY lonely; DROP ROLE lonely")
    assert (result.status, result.err.count(er.CANNOT_LOOK)) == (0, 1), result.err


def test_ctrl_c_ends_a_wait_that_was_told_of(ahead: Place) -> None:
    with holding(ahead, READ):
        options = ("--lock-timeout", "1.5")  # half of it is the patience
        process = run_process("restore", "--env-file", ahead.env, *options)
        assert process.stderr is not None
        while "waiting for a lock" not in process.stderr.readline():
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
    said, last = err.splitlines()
    assert (process.returncode, said) == (130, "export_restore: interrupted")
    assert last == ahead.as_it_was


def test_seconds_are_a_number(source: Place) -> None:
    for text in ("0", "-1", "soon", "1e9", "0.0001"):
        said = source.fail(2, "restore", f"--lock-timeout={text}")
        assert f"argument --lock-timeout: {text} is no number of seconds" in said


@contextlib.contextmanager
def rows_that_come(database: Database, *tables: str) -> Iterator[None]:
    """Insert rows into tables that were empty, and commit when somebody waits."""
    rows = "".join(f"INSERT INTO {t} SELECT generate_series(1, 500);" for t in tables)
    sleeps = "SELECT FROM pg_stat_activity WHERE wait_event = 'PgSleep'"
    with meanwhile(database, f"BEGIN; {rows} SELECT pg_sleep(1.5); COMMIT"):
        wait_until(lambda: database.fetch(sleeps))
        yield


def test_rows_that_come_while_a_drop_waits(source: Place) -> None:
    """A table is empty when it is looked at, and not when it can be dropped."""
    source.make("DROP TABLE IF EXISTS late, t; CREATE TABLE t (a int)")
    source.succeed("export")
    source.execute("CREATE TABLE late (a int)")
    with rows_that_come(source, "late"):
        message = source.fail(3, "restore")
    assert "schema.sql drops late; the snapshot lacks those rows" in message
    assert source.fetch("SELECT count(*) FROM late") == [(500,)]


def test_rows_that_come_while_the_script_waits_are_missed(source: Place) -> None:
    """What it empties or deletes is named, though it was empty when looked at."""
    source.make(
        "CREATE TABLE t (a int); CREATE TABLE late (a int); CREATE TABLE later (a int)",
        script="DROP TABLE IF EXISTS t; CREATE TABLE t (a int); TRUNCATE late; "
        "DELETE FROM later",
    )
    source.succeed("export", "--tables", "t")
    with rows_that_come(source, "late", "later"):
        result = source.call("restore", "--yes")
    assert result.status == 0, result.err
    assert "note: schema.sql changes all rows of late\n" in result.err
    assert "note: schema.sql changes all rows of later\n" in result.err
