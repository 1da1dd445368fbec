"""Deaths in the middle: the client's, the server's. The target keeps what it had."""

from __future__ import annotations

import contextlib
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psycopg2
import pytest
from conftest import ROOT, Fail, Run, Succeed, both_versions, run_process
from servers import Database, Proxy, Server, hang_up

import export_restore as er

BLUEPRINT = """
    DROP TABLE IF EXISTS big, small CASCADE;
    CREATE TABLE small (id serial PRIMARY KEY, note text);
    CREATE TABLE big (id serial PRIMARY KEY, small_id int REFERENCES small, note text);
"""


def big_snapshot(database: Database, work: Path, succeed: Succeed, rows: int) -> Path:
    """Make a snapshot of `rows` rows, then give the database other contents."""
    (work / "schema.sql").write_text(BLUEPRINT)
    database.execute(BLUEPRINT)
    database.execute(
        "INSERT INTO small (note) VALUES ('first');"
        "INSERT INTO big (small_id, note) SELECT 1, repeat('x', 50) "
        f"FROM generate_series(1, {rows})"
    )
    env = database.env_file(work)
    succeed("export", "--env-file", env)
    database.execute(
        "DELETE FROM big WHERE id > 3; ALTER TABLE small ADD COLUMN later int;"
        "INSERT INTO small (note) VALUES ('since then')"
    )
    return env


def wait_for_copy(database: Database) -> None:
    """Wait until a COPY FROM has loaded rows."""
    query = (
        "SELECT FROM pg_stat_progress_copy WHERE command = 'COPY FROM' "
        "AND datname = current_database() AND tuples_processed > 1000"
    )
    deadline = time.monotonic() + 30
    with contextlib.closing(database.connect()) as db, db.cursor() as cursor:
        while time.monotonic() < deadline:
            cursor.execute(query)
            if cursor.rowcount:
                return
    raise AssertionError("no COPY was seen")


def wait_for_calm(database: Database) -> None:
    """Wait until no other connection is left in the database."""
    query = (
        "SELECT FROM pg_stat_activity WHERE datname = current_database() "
        "AND backend_type = 'client backend' AND pid <> pg_backend_pid()"
    )
    deadline = time.monotonic() + 30
    while database.fetch(query) and time.monotonic() < deadline:
        time.sleep(0.01)


def test_a_killed_client_leaves_the_target_as_it_was(
    source: Database, work: Path, succeed: Succeed
) -> None:
    env = big_snapshot(source, work, succeed, rows=300_000)
    before = source.state()
    process = run_process("restore", "--env-file", env)
    wait_for_copy(source)
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    wait_for_calm(source)
    assert source.state() == before


def test_a_killed_server_leaves_the_target_as_it_was(
    private_server: Server, work: Path, succeed: Succeed
) -> None:
    with private_server.database() as database:
        env = big_snapshot(database, work, succeed, rows=300_000)
        private_server.execute("CHECKPOINT")
        before = database.state()
        process = run_process("restore", "--env-file", env)
        wait_for_copy(database)
        private_server.stop("immediate")
        out, err = process.communicate()
        private_server.start()
        assert process.returncode == 1
        assert out == ""
        assert err.splitlines()[-2].startswith("export_restore: error: ")
        assert err.splitlines()[-1].startswith("hint: ")
        assert "Traceback" not in err
        assert database.state() == before


def test_a_bad_row_in_the_last_file_leaves_the_target_as_it_was(
    exported: Database, work: Path, fail: Fail
) -> None:
    exported.execute("DELETE FROM leads WHERE id < 5")
    before = exported.state()
    with (work / "exports/feedback.csv").open("a") as file:
        file.write("9999,2,six,,2026-01-01 00:00:00+00\n")
    env = exported.env_file(work)
    message = fail(3, "restore", "--env-file", env, "--accept-edits")
    assert "feedback.csv, line" in message
    assert "column rating" in message
    assert exported.state() == before


@both_versions
@pytest.mark.parametrize(
    "trap",
    [
        "COMMIT;",
        "COMMIT AND CHAIN;",
        "END;",
        "DO $$ BEGIN COMMIT; END $$;",
        "DO $$ BEGIN ROLLBACK; END $$;",
        "DO $$ BEGIN EXECUTE 'COMMIT'; END $$;",
        "CREATE PROCEDURE p() LANGUAGE plpgsql AS 'BEGIN COMMIT; END'; CALL p();",
        "ROLLBACK;",
        "ABORT;",
        "ROLLBACK; BEGIN;",
        "PREPARE TRANSACTION 'x';",
        "SAVEPOINT s; ROLLBACK TO s;",
    ],
)
def test_a_blueprint_cannot_end_the_transaction(
    trap: str, exported: Database, work: Path, run: Run
) -> None:
    """Even then a restore that fails later has changed nothing."""
    path = work / "exports/schema.sql"
    path.write_text(path.read_text() + trap)
    (work / "exports/feedback.csv").write_text(
        "id,lead_id,rating,comment,created_at\nx\n"
    )
    before = exported.state()
    env = exported.env_file(work)
    result = run("restore", "--env-file", env, "--accept-edits", "-q")
    assert "sha256" not in result.err
    assert result.status in (1, 2, 3)
    assert exported.state() == before


@both_versions
def test_settings_of_a_blueprint_do_not_outlive_the_restore(
    source: Database, work: Path, succeed: Succeed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """pg_dump empties search_path; rows must load, and the session must not keep it."""
    left_behind = []

    def look(db: psycopg2.extensions.connection, _: object) -> None:
        query = "SELECT name, setting FROM pg_settings WHERE source = 'session'"
        left_behind.extend(er.fetch(db, query))

    monkeypatch.setattr(er, "analyze", look)
    (work / "exports").mkdir()
    (work / "exports/schema.sql").write_text(
        "SELECT pg_catalog.set_config('search_path', '', false);"
        "SET DateStyle = 'SQL, DMY'; SET client_encoding = LATIN1;"
        "CREATE TABLE public.t (a date, b text);"
    )
    (work / "exports/t.csv").write_text("a,b\n2026-02-01,é\n", encoding="utf-8")
    succeed("restore", "--env-file", source.env_file(work))
    assert source.fetch("SELECT a::text, b FROM t") == [("2026-02-01", "é")]
    assert left_behind == []


def test_memory_stays_small_whatever_the_size(
    source: Database, target: Database, work: Path, succeed: Succeed
) -> None:
    """A table of 1,000,000 rows: both commands stay under 80 MB."""
    (work / "schema.sql").write_text(BLUEPRINT)
    source.execute(BLUEPRINT)
    source.execute(
        "INSERT INTO small (note) VALUES ('first');"
        "INSERT INTO big (small_id, note) SELECT 1, repeat('x', 60) "
        "FROM generate_series(1, 1000000)"
    )
    for command, database in (("export", source), ("restore", target)):
        peak = peak_memory(command, "--env-file", database.env_file(work))
        assert 0 < peak < 80_000, f"{command}: {peak} kB"
    assert target.fetch("SELECT count(*) FROM big") == [(1_000_000,)]


def peak_memory(*argv: object, status: int = 0) -> int:
    """Run a command line as a process; return its peak resident memory in kB."""
    code = (
        "import sys; sys.path.insert(0, sys.argv.pop(1)); import export_restore as er\n"
        "status = int(sys.argv.pop()); assert er.main(sys.argv[1:]) == status\n"
        "import resource, pathlib\n"
        "status = pathlib.Path('/proc/self/status')\n"
        # Where there is a /proc, ru_maxrss also counts what ran before exec.
        "print(status.read_text().split('VmHWM:')[1].split()[0] if status.exists()\n"
        "      else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)"
    )
    command = [sys.executable, "-c", code, str(ROOT), *map(str, argv), str(status)]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    return int(run.stdout.split()[-1])


LOST = "the connection to the server was lost: "
ENDED = f"{LOST}terminating connection due to administrator command\n"

# The program, where its line falls silent, what the administrator does, and what the
# program then says; a process that cannot send can give no reason.
STRUCK = [
    ("export_restore restore", "FROM STDIN", 1 << 20, "terminate", ENDED),
    ("export_restore restore", "ADD CONSTRAINT", 0, "terminate", ENDED),
    ("export_restore verify", "TO STDOUT", 1, "terminate", LOST),
    ("export_restore export --jobs 1", "TO STDOUT", 1, "terminate", LOST),
    ("export_restore export --jobs 2", "TO STDOUT", 1, "terminate", LOST),
    ("setup_db --leads 20000 --feedback 0", "FROM STDIN", 1 << 20, "terminate", ENDED),
    (
        "export_restore restore",
        "FROM STDIN",
        1 << 20,
        "cancel",
        "error: big.csv, line ",
    ),
]


@pytest.mark.parametrize("command, word, size, act, said", STRUCK)
def test_the_administrator_ends_it(
    source: Database,
    work: Path,
    succeed: Succeed,
    command: str,
    word: str,
    size: int,
    act: str,
    said: str,
) -> None:
    """Two lines, with the true reason and no row; the file is not to blame."""
    big_snapshot(source, work, succeed, rows=40_000)
    (work / "schema.sql").write_bytes((ROOT / "schema.sql").read_bytes())
    source.execute("ALTER ROLE postgres PASSWORD 'over the line'")
    program, *options = command.split()
    if "export" in options:
        options += ["--dir", "new", "--schema-file", "exports/schema.sql"]
        source.execute("ALTER TABLE small DROP COLUMN later")
        source.execute("INSERT INTO big (note) SELECT repeat('x', 50)"
                       " FROM generate_series(1, 40000)")  # fmt: skip
    with contextlib.closing(Proxy(source.server.port, word=word, size=size)) as proxy:
        place = {"DB_HOST": "127.0.0.1", "DB_PORT": str(proxy.port)}
        env = source.env_file(work, **place, DB_PASSWORD="'over the line'")
        line = [sys.executable, str(ROOT / f"{program}.py"), *options, "-q"]
        line += ["--env-file", str(env)]
        process = subprocess.Popen(
            line, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        assert proxy.silent.wait(30)
        time.sleep(0.3)
        source.execute(
            f"SELECT pg_{act}_backend(pid) FROM pg_stat_activity"
            " WHERE application_name = 'export_restore'"
        )
        proxy.hear()
        out, err = process.communicate(timeout=30)
    assert (process.returncode, out, len(err.splitlines())) == (1, "", 2), err
    assert err.startswith(f"{program}: error: ")
    assert said in err
    assert "xxx" not in err


def test_jobs_end_with_the_connection_that_began(
    source: Database, work: Path, succeed: Succeed
) -> None:
    """At once: without it what they copy is for nothing."""
    big_snapshot(source, work, succeed, rows=40_000)
    source.execute("ALTER TABLE small DROP COLUMN later")
    source.execute("ALTER ROLE postgres PASSWORD 'over the line'")
    with contextlib.closing(Proxy(source.server.port, word="TO STDOUT")) as proxy:
        place = {"DB_HOST": "127.0.0.1", "DB_PORT": str(proxy.port)}
        env = source.env_file(work, **place, DB_PASSWORD="'over the line'")
        process = run_process("export", "-q", "--jobs", 2, "--env-file", env)
        assert proxy.silent.wait(30)
        time.sleep(0.5)
        hang_up(proxy.sockets[1])  # the server's end of the first
        start = time.monotonic()
        _, err = process.communicate(timeout=30)
    assert time.monotonic() - start < 2
    assert (process.returncode, len(err.splitlines())) == (1, 2), err
    assert "the connection to the server was lost: " in err


def test_a_peer_that_is_gone_is_noticed(source: Database, work: Path) -> None:
    """Within two minutes, whether we wait for it or it for us."""
    source.execute("ALTER ROLE postgres PASSWORD 'x'")
    env = source.env_file(work, DB_HOST="127.0.0.1", DB_PASSWORD="x")
    with (
        er.connected(er.read_settings(env)) as db,
        socket.fromfd(db.fileno(), socket.AF_INET, socket.SOCK_STREAM) as line,
    ):
        idle, interval, count, unconfirmed = (
            line.getsockopt(socket.IPPROTO_TCP, getattr(socket, f"TCP_{name}"))
            for name in ("KEEPIDLE", "KEEPINTVL", "KEEPCNT", "USER_TIMEOUT")
        )
        assert line.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
    assert idle + interval * count <= 120
    assert 0 < unconfirmed <= 120_000


def test_a_lost_connection_is_told_in_two_lines(
    seeded: Database,
    work: Path,
    fail: Fail,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The server ends the session while the command talks to it."""
    fetch_catalog = er.fetch_catalog

    def cut(db: psycopg2.extensions.connection) -> er.Catalog:
        catalog = fetch_catalog(db)
        pid = db.info.backend_pid
        seeded.execute("SELECT pg_terminate_backend(%s, 5000)", [pid])
        return catalog

    monkeypatch.setattr(er, "fetch_catalog", cut)
    message = fail(1, "export", "--env-file", seeded.env_file(work))
    assert "the connection to the server was lost" in message
    assert not list((work / "exports").iterdir())
