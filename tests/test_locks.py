"""A lock that somebody else holds is no silent wait."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import Fail, Run, Succeed, run_process, wait_until
from servers import Database, meanwhile

import export_restore as er

BLUEPRINT = """
    SET lock_timeout = 0;
    DROP TABLE IF EXISTS t;
    CREATE TABLE t (id int PRIMARY KEY);
"""


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(er, "LOCK_PATIENCE", 0.2)


@pytest.fixture
def env(source: Database, work: Path, succeed: Succeed) -> Path:
    """A database with a row more than its snapshot."""
    (work / "schema.sql").write_text(BLUEPRINT)
    source.execute(BLUEPRINT)
    source.execute("INSERT INTO t VALUES (1)")
    path = source.env_file(work)
    succeed("export", "--env-file", path)
    source.execute("INSERT INTO t VALUES (2)")
    return path


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


def held_by(db: Any, statement: str) -> tuple[str, str]:
    return (
        f"held by process {db.info.backend_pid} (user postgres, a report, "
        "idle in transaction, its transaction "
    ), f" old): {statement}"


@pytest.mark.parametrize("command", ["restore", "export", "verify"])
def test_the_holder_is_named(
    source: Database, env: Path, run: Run, command: str
) -> None:
    statement = READ if command == "restore" else LOCK
    with holding(source, statement) as db:
        before, after = held_by(db, statement)
        later(1.2, db.close)
        result = run(command, "--env-file", env)
    said = [line for line in result.err.splitlines() if "lock" in line]
    assert len(said) == 1, result.err
    assert said[0].startswith("waiting for a lock, " + before)
    assert said[0].endswith(after)
    assert result.status == (3 if command == "verify" else 0)


def test_through_a_pooler_the_process_is_unknown(
    source: Database, env: Path, run: Run
) -> None:
    """It tells its clients a number of its own."""
    seen: list[list[Any]] = []
    values = {"pid": 1, "application": er.APPLICATION}
    with holding(source, READ) as db, contextlib.closing(source.connect()) as other:
        way = er.way_of(other)
        later(1, lambda: seen.append(er.ask(way, er.LIST_HOLDERS, values)))
        pid = db.info.backend_pid
        later(1.5, db.close)
        assert run("restore", "--env-file", env).status == 0
        assert [er.Holder(*each).pid for each in seen[0]] == [pid]


@pytest.mark.parametrize("command", ["restore", "export"])
def test_the_wait_may_have_an_end(
    source: Database, env: Path, fail: Fail, command: str
) -> None:
    """Even where the script, a dump, says that there is none."""
    statement = READ if command == "restore" else LOCK
    with holding(source, statement) as db:
        said = fail(1, command, "--env-file", env, "--lock-timeout", "0.8")
        before, after = held_by(db, statement)
    assert "canceling statement due to lock timeout (held by " in said
    assert before in said
    assert after in said
    assert source.fetch("SELECT id FROM t ORDER BY id") == [(1,), (2,)]


def test_no_lock_and_no_word(source: Database, env: Path, run: Run) -> None:
    """A statement may as well be slow."""
    source.execute("ALTER TABLE t ADD CHECK (pg_sleep(0.5) IS NOT NULL) NOT VALID")
    script = env.parent / "exports/schema.sql"
    script.write_text(BLUEPRINT + "SELECT pg_sleep(0.8);")
    result = run("restore", "--env-file", env, "--accept-edits")
    assert result.status == 0
    assert "lock" not in result.err


def test_a_prepared_transaction(source: Database, env: Path, fail: Fail) -> None:
    source.execute(f"BEGIN; {READ}; PREPARE TRANSACTION 'forgotten'")
    try:
        said = fail(1, "restore", "--env-file", env, "--lock-timeout", "0.8")
    finally:
        source.execute("ROLLBACK PREPARED 'forgotten'")
    assert "held by a prepared transaction (see pg_prepared_xacts)" in said


def test_no_second_connection(
    source: Database, env: Path, work: Path, run: Run
) -> None:
    source.execute(
        "CREATE ROLE lonely LOGIN CONNECTION LIMIT 1; ALTER TABLE t OWNER TO lonely;"
        "GRANT CREATE ON SCHEMA public TO lonely"
    )
    try:
        alone = source.env_file(work, DB_USER="lonely")
        with holding(source, READ) as db:
            later(0.8, db.close)
            result = run("restore", "--env-file", alone)
    finally:
        source.execute("DROP OWNED BY lonely; DROP ROLE lonely")
    assert result.status == 0, result.err
    assert result.err.count(er.CANNOT_LOOK) == 1


def test_ctrl_c_ends_a_wait_that_was_told_of(source: Database, env: Path) -> None:
    with holding(source, READ):
        options = ("--lock-timeout", "1.5")  # half of it is the patience
        process = run_process("restore", "--env-file", env, *options)
        assert process.stderr is not None
        while "waiting for a lock" not in process.stderr.readline():
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
    said, last = err.splitlines()
    assert (process.returncode, said) == (130, "export_restore: interrupted")
    assert last == f"{er.read_settings(env)} is as it was"


@pytest.mark.parametrize("text", ["0", "-1", "soon", "1e9", "0.0001"])
def test_seconds_are_a_number(env: Path, fail: Fail, text: str) -> None:
    said = fail(2, "restore", "--env-file", env, f"--lock-timeout={text}")
    assert f"argument --lock-timeout: {text} is no number of seconds" in said


def test_rows_that_come_while_a_drop_waits(
    source: Database, work: Path, succeed: Succeed, fail: Fail
) -> None:
    """A table is empty when it is looked at, and not when it can be dropped."""
    (work / "schema.sql").write_text(
        "DROP TABLE IF EXISTS late, t; CREATE TABLE t (a int)"
    )
    source.execute("CREATE TABLE t (a int)")
    env = source.env_file(work)
    succeed("export", "--env-file", env)
    source.execute("CREATE TABLE late (a int)")
    rows = "INSERT INTO late SELECT generate_series(1, 500)"
    sleeps = "SELECT FROM pg_stat_activity WHERE wait_event = 'PgSleep'"
    with meanwhile(source, f"BEGIN; {rows}; SELECT pg_sleep(1.5); COMMIT"):
        wait_until(lambda: source.fetch(sleeps))
        message = fail(3, "restore", "--env-file", env)
    assert "schema.sql drops late; the snapshot lacks those rows" in message
    assert source.fetch("SELECT count(*) FROM late") == [(500,)]


def test_rows_that_come_while_the_schema_script_waits_are_missed(
    source: Database, work: Path, succeed: Succeed, run: Run
) -> None:
    """What it empties or deletes is named, though it was empty when looked at."""
    (work / "schema.sql").write_text(
        "DROP TABLE IF EXISTS t; CREATE TABLE t (a int); TRUNCATE late; "
        "DELETE FROM later"
    )
    source.execute("CREATE TABLE t (a int)")
    env = source.env_file(work)
    source.execute("CREATE TABLE late (a int); CREATE TABLE later (a int)")
    succeed("export", "--env-file", env, "--tables", "t")
    rows = "SELECT generate_series(1, 500)"
    inserts = f"INSERT INTO late {rows}; INSERT INTO later {rows}"
    sleeps = "SELECT FROM pg_stat_activity WHERE wait_event = 'PgSleep'"
    with meanwhile(source, f"BEGIN; {inserts}; SELECT pg_sleep(1.5); COMMIT"):
        wait_until(lambda: source.fetch(sleeps))
        result = run("restore", "--env-file", env, "--yes")
    assert result.status == 0, result.err
    assert "note: schema.sql changes all rows of late\n" in result.err
    assert "note: schema.sql changes all rows of later\n" in result.err
