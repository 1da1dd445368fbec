"""What a restore says before it replaces anything, when it asks, and --keep."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pexpect
import psycopg2
import pytest
from conftest import ROOT, Fail, Run, Succeed, wait_until
from servers import Database, Server

import export_restore as er


@pytest.fixture
def changed(exported: Database) -> Database:
    """A database that has lost a lead and its feedback since it was exported."""
    exported.execute("DELETE FROM leads WHERE id = 1")
    return exported


@pytest.fixture
def remote(changed: Database, work: Path) -> Path:
    """An env file that leads there by a name that does not look local."""
    changed.server.execute("ALTER ROLE postgres PASSWORD 'far away'")
    return changed.env_file(work, DB_HOST="LOCALHOST", DB_PASSWORD="'far away'")


def at_terminal(*argv: object, size: tuple[int, int] = (50, 200)) -> Any:
    """Start a restore on a terminal."""
    script = str(ROOT / "export_restore.py")
    arguments = [script, "restore", *map(str, argv)]
    return pexpect.spawn(
        sys.executable, arguments, encoding="utf-8", timeout=30, dimensions=size
    )


def end(process: Any) -> tuple[int, list[str]]:
    """Wait for the end; return the exit status and the lines since the question.

    Of a line where a bar was, what stands there at the end.
    """
    process.expect(pexpect.EOF)
    process.close()
    lines = process.before.split("\r\n")
    return process.exitstatus, [line.rpartition("\r")[2] for line in lines]


QUESTION = (
    r"Replace \d+ rows in 3 tables with 158 rows\?\r\n"
    r"  from  .*?, \S+ .*? old\r\n  into  .*?\r\n"
    r"To go on, type the database's name, .*?: "
)


def untouched(env: Path) -> str:
    """Return the last words of a restore that came to nothing."""
    return f"{er.read_settings(env)} is as it was"


# ---- what is said --------------------------------------------------------------------


def test_the_rows_now_and_then(
    seeded: Database, work: Path, run: Run, succeed: Succeed
) -> None:
    succeed("export", "--env-file", seeded.env_file(work))
    seeded.execute("DELETE FROM leads WHERE id = 1")
    leads = seeded.fetch("SELECT count(*) FROM leads")[0][0]
    feedback = seeded.fetch("SELECT count(*) FROM feedback")[0][0]
    place = f"{seeded.name} on {seeded.server.host}"
    result = run("restore", "--env-file", seeded.env_file(work))
    first, age, origin, third, *table, blank = result.err.splitlines()
    assert blank == ""
    assert first == f"restoring exports into {place}"
    assert re.fullmatch(r"the snapshot in exports is \S+ .*? old; it comes", age)
    assert origin.startswith(f"from {place} (PostgreSQL 18.")
    assert third == f"to be replaced in {place}, as user postgres:"
    assert [line.split() for line in table] == [
        ["rows", "now", "rows", "then", "table"],
        [str(feedback), "90", "feedback"],
        [str(leads), "60", "leads"],
        ["8", "8", "agents"],
    ]


def test_nothing_is_lost_in_an_empty_database(
    exported: Database, target: Database, work: Path, run: Run
) -> None:
    err = run("restore", "--env-file", target.env_file(work)).err
    assert f"nothing is lost in {target.name} on " in err
    assert "rows now" not in err
    assert "(PostgreSQL 18" in err
    assert ", another database than this\n" in err


def test_rows_of_many_are_not_counted(
    changed: Database, work: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(er, "COUNTED_ROWS", 50)
    changed.execute(
        "CREATE TABLE fresh (LIKE leads INCLUDING ALL);"
        "INSERT INTO fresh SELECT * FROM leads; ALTER TABLE leads RENAME TO gone;"
        "ALTER TABLE fresh RENAME TO leads; ANALYZE feedback"
    )
    counts = "SELECT count(*)::text FROM {0} UNION ALL SELECT count(*)::text FROM {1}"
    [(leads,), (feedback,)] = changed.fetch(counts.format("leads", "feedback"))
    live = "SELECT FROM pg_stat_user_tables WHERE relname = 'leads' AND n_live_tup > 50"
    wait_until(lambda: changed.fetch(live))
    for told_of_leads in ["about", leads], ["over", "50"]:
        err = run("restore", "--env-file", changed.env_file(work), "--dry-run").err
        told = {line.split()[-1]: line.split()[:-2] for line in err.splitlines()[4:8]}
        assert told["agents"] == ["8"]
        assert told["leads"] == told_of_leads
        assert told["feedback"] == ["about", feedback]
        changed.execute("SELECT pg_stat_reset()")  # as after a crash


def test_a_table_that_only_goes(changed: Database, work: Path, remote: Path) -> None:
    """DROP TABLE, with and without a schema, DROP SCHEMA, and what CASCADE takes."""
    changed.execute(
        "CREATE SCHEMA s; CREATE TABLE s.a AS SELECT 1; CREATE TABLE b AS SELECT 1;"
        "CREATE SCHEMA old; CREATE TABLE old.c AS SELECT 1; CREATE TABLE a (x int);"
        "CREATE TABLE stays AS SELECT 1; CREATE TABLE s.b AS SELECT 1;"
        "CREATE TABLE heir () INHERITS (b); INSERT INTO heir VALUES (1)"
    )
    script = work / "exports/schema.sql"
    script.write_text(
        'DROP TABLE IF EXISTS s.a, public."b" CASCADE; DROP SCHEMA old CASCADE;'
        + script.read_text()
    )
    options = ("--accept-edits", "--accept-drift")
    process = at_terminal("--env-file", remote, *options)
    process.expect("To go on, type ")
    lines = [line.split() for line in process.before.split("\r\n")]
    [place] = [i for i, line in enumerate(lines) if line[-1:] == ["table"]]
    assert lines[place + 1 : place + 5] == [  # before the larger ones that come back
        ["1", "-", "old.c"], ["1", "-", "b"], ["1", "-", "heir"], ["1", "-", "s.a"],
    ]  # fmt: skip
    process.sendline("")
    assert end(process)[0] == 1


def test_rows_alone(changed: Database, work: Path, run: Run) -> None:
    options = ("--data-only", "--tables", "leads", "feedback")
    err = run("restore", "--env-file", changed.env_file(work), *options).err
    assert [line.split()[-1] for line in err.splitlines()[4:-1]] == [
        "table", "feedback", "leads",
    ]  # fmt: skip


def test_a_snapshot_of_unknown_origin(changed: Database, work: Path, run: Run) -> None:
    (work / "exports/datapackage.json").unlink()
    err = run("restore", "--env-file", changed.env_file(work)).err
    assert "the snapshot in exports is of unknown age and origin\n" in err
    assert ["8", "?", "agents"] in [line.split() for line in err.splitlines()]


class Spoken(er.Report):
    """A report that has a person, and keeps what it asks."""

    question: tuple[str, ...] = ()

    def can_ask(self) -> bool:
        return True

    def confirm(self, question: str, what: str, wanted: str) -> None:
        self.question = (question, f"To go on, type the {what}, {wanted}: ")


def test_the_readme_shows_the_question(exported: Database, work: Path) -> None:
    pooler = {
        "DB_HOST": "aws-0-eu-central-1.pooler.supabase.com",
        "DB_NAME": "postgres",
        "DB_USER": "postgres.abcdefghijklmnopqrst",
    }
    lines = [f"{key}={value}\n" for key, value in pooler.items()]
    (work / "supabase.env").write_text("".join(lines) + "DB_PORT=5432\nDB_PASSWORD=x")
    settings = er.read_settings(work / "supabase.env")
    with (
        er.Folder(work / "exports").opened() as snapshot,
        er.Database(er.read_settings(exported.env_file(work))) as db,
    ):
        tables = db.fetch_catalog().tables
    assert snapshot.manifest is not None
    rows = {"agents": (20, 20), "feedback": (1_204_117, 800), "leads": (812, 500)}
    two_days_ago = time.strftime(er.TIME_FORMAT, time.gmtime(time.time() - 200_000))
    manifest = dataclasses.replace(
        snapshot.manifest,
        created=two_days_ago,
        server_version="18.1",
        origin=er.Origin("localhost", 5432, "sales", "1"),
        files=tuple(
            dataclasses.replace(each, rows=rows[each.relation.name][1])
            for each in snapshot.manifest.files
        ),
    )
    files = {
        file.path.stem: dataclasses.replace(file, rows=rows[file.path.stem][1])
        for file in snapshot.csvs.values()
    }
    replaced = [
        er.Replaced(table, er.RowCount(now, exact=now < er.COUNTED_ROWS), files[name])
        for table in tables
        for name in [table.relation.name]
        for now, _ in [rows[name]]
    ]
    snapshot = dataclasses.replace(snapshot, folder=Path("exports"), manifest=manifest)
    shown = er.render_replacement(replaced, snapshot, settings, home=False)
    report = Spoken()
    er.Restore(settings, snapshot, er.Options(), report).ask(replaced)
    shown += "\n" + "".join(report.question)
    assert shown in (ROOT / "README.md").read_text(encoding="utf-8")


# ---- where a snapshot comes from -----------------------------------------------------


def origin_of(folder: Path) -> er.Origin | None:
    manifest = er.read_manifest(folder / "datapackage.json")
    assert manifest is not None
    return manifest.origin


def test_a_snapshot_names_its_origin(exported: Database, work: Path) -> None:
    query = "SELECT system_identifier::text FROM pg_control_system()"
    server = exported.server
    assert origin_of(work / "exports") == er.Origin(
        server.host, server.port, exported.name, exported.fetch(query)[0][0]
    )


def test_a_role_that_may_not_ask_the_server(
    source: Database, work: Path, succeed: Succeed
) -> None:
    schema = "DROP TABLE IF EXISTS t; CREATE TABLE t (id int PRIMARY KEY);"
    (work / "schema.sql").write_text(schema)
    source.execute(
        "CREATE ROLE plain_asker LOGIN; REVOKE EXECUTE ON FUNCTION pg_control_system() "
        "FROM PUBLIC; GRANT CREATE ON SCHEMA public TO plain_asker;"
        f"SET ROLE plain_asker; {schema}; INSERT INTO t VALUES (1)"
    )
    try:
        env = source.env_file(work, DB_USER="plain_asker")
        succeed("export", "--env-file", env)
        origin = origin_of(work / "exports")
        assert origin is not None
        assert origin.system is None
        succeed("restore", "--env-file", env)
        assert source.fetch("SELECT id FROM t") == [(1,)]
    finally:
        source.execute("DROP OWNED BY plain_asker; DROP ROLE plain_asker")


def test_a_manifest_of_an_older_version_is_read(
    changed: Database, work: Path, succeed: Succeed, fail: Fail
) -> None:
    """Nobody knows which database it is of."""
    path = work / "exports/datapackage.json"
    package = json.loads(path.read_text())
    del package["postgresql"]["origin"]
    package["postgresql"]["checksum"] = er.NO_CHECKSUM
    text = json.dumps(package)
    checksum = er.checksum(text, er.NO_CHECKSUM)
    path.write_text(text.replace(er.NO_CHECKSUM, checksum))
    env = ("--env-file", changed.env_file(work))
    assert "would go\n" in fail(2, "restore", *env)
    succeed("restore", *env, "--yes")
    assert changed.fetch("SELECT count(*) FROM leads") == [(60,)]


HERE = er.Origin("h", 5432, "sales", "7")


@pytest.mark.parametrize(
    ("other", "same"),
    [
        (er.Origin("pooler", 6543, "sales", "7"), True),
        (er.Origin("h", 5432, "sales", "8"), False),
        (er.Origin("h", 5432, "other", "7"), False),
        (er.Origin("h", 5432, "sales", None), True),
        (er.Origin("h", 5433, "sales", None), False),
        (er.Origin("i", 5432, "sales", None), False),
    ],
)
def test_what_is_one_database(server: object, other: er.Origin, same: bool) -> None:
    assert HERE.is_same(other) is same
    assert other.is_same(HERE) is same


def test_embedded_servers_are_many(server: object) -> None:
    embedded = er.Origin(er.EMBEDDED, 5432, "sales", None)
    assert not embedded.is_same(embedded)


# ---- the question --------------------------------------------------------------------


@pytest.mark.parametrize("option", ["--quiet", "--checksum"])
def test_the_right_name_goes_on(remote: Path, changed: Database, option: str) -> None:
    process = at_terminal("--env-file", remote, option)
    process.expect(QUESTION)
    shown = process.before
    assert ("rows now" in shown) is (option != "--quiet")
    assert shown == "" or option != "--quiet"
    sessions = "SELECT FROM pg_stat_activity WHERE application_name = 'export_restore'"
    here = " AND datname = current_database()"
    assert changed.fetch(sessions + here) == []  # nothing is locked meanwhile
    process.sendline(changed.name)
    status, lines = end(process)
    assert status == 0, lines
    assert changed.fetch("SELECT count(*) FROM leads") == [(60,)]


@pytest.mark.parametrize(
    ("answer", "status", "said"),
    [
        ("postgres\n", 1, "error: not restored: 'postgres' is not the database's name"),
        ("\n", 1, "error: not restored: nobody typed the database's name"),
        ("\x04", 1, "error: not restored: nobody typed the database's name"),
        ("\x03", 130, "interrupted"),
    ],
)
def test_anything_else_changes_nothing(
    remote: Path, changed: Database, answer: str, status: int, said: str
) -> None:
    before = changed.rows()
    process = at_terminal("--env-file", remote)
    process.expect(QUESTION)
    process.send(answer)
    ended, lines = end(process)
    assert ended == status, lines
    [place] = [i for i, line in enumerate(lines) if line == f"export_restore: {said}"]
    hint = f"hint: type {changed.name} if you mean that database, or add --yes"
    last = [untouched(remote), ""]
    assert lines[place + 1 :] == ([hint, *last] if status == 1 else last)
    assert changed.rows() == before


@pytest.mark.parametrize("option", ["--yes", "--dry-run"])
def test_who_said_so_is_not_asked(remote: Path, option: str) -> None:
    process = at_terminal("--env-file", remote, option)
    status, lines = end(process)
    assert status == 0, lines
    assert any("rows now" in line for line in lines)
    assert not any("Replace" in line for line in lines)


def test_nobody_is_asked_at_home(changed: Database, work: Path) -> None:
    process = at_terminal("--env-file", changed.env_file(work))
    status, lines = end(process)
    assert (status, any("Replace" in line for line in lines)) == (0, False), lines


def test_another_database_of_this_machine_is_asked_for(
    exported: Database, target: Database, work: Path, succeed: Succeed
) -> None:
    env = target.env_file(work)
    succeed("restore", "--env-file", env)
    process = at_terminal("--env-file", env)
    process.expect(QUESTION)
    process.sendline("no")
    assert end(process)[0] == 1


@pytest.fixture
def other(exported: Database, target: Database, work: Path, succeed: Succeed) -> Path:
    """An env file that leads to another database with rows in the same tables."""
    env = target.env_file(work)
    succeed("restore", "--env-file", env)
    target.execute("DELETE FROM leads WHERE id = 1; CREATE TABLE besides AS SELECT 1 x")
    return env


def test_at_home_a_script_restores(remote: Path, changed: Database, run: Run) -> None:
    result = run("restore", "--env-file", remote)
    assert (result.status, "Replace" in result.err) == (0, False)
    assert "rows now" in result.err


NOT_ASKED: dict[tuple[str, ...], str] = {
    (): "agents, feedback, leads",
    ("--checksum", "--accept-drift"): "agents, feedback, leads",
    ("--keep", "kept"): "agents, feedback, leads",
    ("--data-only",): "agents, feedback, leads",
    ("--data-only", "--tables", "leads", "agents"): "agents, leads",
}


def test_where_nobody_can_be_asked(
    other: Path, target: Database, work: Path, fail: Fail, run: Run
) -> None:
    before = target.state()
    for options, tables in NOT_ASKED.items():
        said = fail(2, "restore", "--env-file", other, *options)
        counts = target.fetch(
            "SELECT sum(n) FROM (SELECT count(*) FROM agents UNION ALL SELECT count(*) "
            "FROM leads UNION ALL SELECT count(*) FROM feedback WHERE %s) AS c (n)",
            ["feedback" in tables],
        )
        loss = f"not restored: {counts[0][0]} rows of {tables} would go\n"
        assert said.startswith(f"export_restore: error: {loss}"), options
        assert "hint: add --yes if " in said
        assert said.endswith(f"\n{untouched(other)}\n"), options
        assert target.state() == before, options
        assert not (work / "kept").exists()
    assert run("restore", "--env-file", other, "--dry-run").status == 0
    assert target.state() == before
    (work / "exports/datapackage.json").unlink()
    assert run("restore", "--env-file", other).status == 2
    assert target.state() == before


@pytest.mark.parametrize("how", ["{} 2>&1 | tee log", "{} </dev/null", "{} 2>log"])
def test_one_stream_that_is_no_terminal(
    other: Path, target: Database, work: Path, how: str
) -> None:
    before = target.state()
    line = f"{sys.executable} {ROOT}/export_restore.py restore --env-file {other}"
    script = f"{how.format(line)}; exit ${{PIPESTATUS[0]}}"
    process = pexpect.spawn("bash", ["-c", script], encoding="utf-8", timeout=30)
    status, lines = end(process)
    log = work / "log"
    text = log.read_text() if log.exists() else "\n".join(lines)
    assert status == 2, lines
    assert "would go" in text
    assert "Replace" not in text
    assert target.state() == before


@pytest.mark.parametrize(
    "options", [("--yes",), ("--yes", "--data-only"), ("--yes", "--keep", "kept")]
)
def test_who_says_yes_has_it(
    other: Path, target: Database, succeed: Succeed, options: tuple[str, ...]
) -> None:
    if "--keep" in options:
        target.execute("DROP TABLE besides")
    succeed("restore", "--env-file", other, *options)
    assert target.fetch("SELECT count(*) FROM leads") == [(60,)]


def test_rows_that_no_restore_touches_may_be_there(
    exported: Database, target: Database, work: Path, succeed: Succeed
) -> None:
    target.execute(
        "CREATE TABLE besides AS SELECT 1 AS x;"
        "CREATE SCHEMA s; CREATE TABLE s.leads AS SELECT 1 AS x"
    )
    succeed("restore", "--env-file", target.env_file(work))
    assert target.fetch("SELECT x FROM besides UNION ALL TABLE s.leads") == [(1,), (1,)]


# What is to be typed where the database, the user and the host are called so.
APART = [
    ("sales", "me", "localhost", "database's name", "sales"),
    ("postgres", "postgres.abcdefghij", "aws-0-eu.pooler.supabase.com", "project's ID",
     "abcdefghij"),
    ("postgres", "app.abcdefghij", "aws-1-eu.pooler.supabase.com", "project's ID",
     "abcdefghij"),
    ("postgres", "postgres", "db.abcdefghij.supabase.co", "project's ID", "abcdefghij"),
    ("postgres", "postgres.abcdefghij", "127.0.0.1", "project's ID", "abcdefghij"),
    ("postgres", "anna.smith", "db.example.org", "host", "db.example.org"),
    ("postgres", "me", "mine.x.eu-west-1.rds.amazonaws.com", "host",
     "mine.x.eu-west-1.rds.amazonaws.com"),
    ("neondb", "me", "ep-old-sea-1-pooler.eu-central-1.aws.neon.tech", "host",
     "ep-old-sea-1-pooler.eu-central-1.aws.neon.tech"),
    ("shop", "postgres.abcdefghij", "aws-0-eu.pooler.supabase.com", "database's name",
     "shop"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "user", "host", "what", "word"), APART)
def test_the_word_that_tells_it_apart(
    work: Path, name: str, user: str, host: str, what: str, word: str
) -> None:
    env = work / "x.env"
    env.write_text(f"DB_HOST={host}\nDB_NAME={name}\nDB_USER={user}\nDB_PASSWORD=x\n")
    settings = er.read_settings(env)
    assert er.told_apart(settings, namesake=False) == (what, word)
    if what != "project's ID":  # from a database of the same name on another host
        assert er.told_apart(settings, namesake=True) == ("host", host)


def test_a_database_that_every_project_has(
    exported: Database, work: Path, succeed: Succeed
) -> None:
    """On 80 columns; the database's name is not enough."""
    role = '"Anna.Smith"'
    exported.server.execute(f"CREATE ROLE {role} LOGIN SUPERUSER")
    with exported.server.database(name="neondb") as neondb:
        env = neondb.env_file(work, DB_USER="Anna.Smith")
        succeed("restore", "--env-file", env)
        for answer, status in (("neondb", 1), (str(neondb.server.host), 0)):
            process = at_terminal("--env-file", env, "-q", size=(24, 80))
            process.expect("To go on, type the host, .*?: ")
            assert max(map(len, process.before.split("\r\n"))) <= 80
            process.sendline(answer)
            ended, lines = end(process)
            assert ended == status, lines
    exported.server.execute(f"DROP ROLE {role}")


# ---- the last words ------------------------------------------------------------------


@pytest.fixture
def at_step(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, object], None]:
    """Let something happen at a step of a command, before it begins."""

    def hook(label: str, happen: Any) -> None:
        step = er.Report.step

        def step_and_more(report: er.Report, name: str) -> None:
            step(report, name)
            if name == label:
                happen()

        monkeypatch.setattr(er.Report, "step", step_and_more)

    return hook


def cut(database: Database) -> None:
    database.execute(
        "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity "
        "WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )


def rewrite(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")


def bad_row() -> None:
    with Path("exports/agents.csv").open("a") as file:
        file.write("nonsense\n")


LOADING = "building indexes and keys"
# What happens, at a step or before the restore begins; how that ends; with which words.
FAILURES: dict[str, tuple[str, Any, tuple[str, ...], int, str]] = {
    "interrupted": (LOADING, lambda _: os.kill(os.getpid(), signal.SIGINT), (), 130,
                    "interrupted"),
    "terminated": (LOADING, lambda _: os.kill(os.getpid(), signal.SIGTERM), (), 143,
                   "terminated"),
    "lost connection": (LOADING, cut, (), 1, "connection to the server was lost"),
    "damaged folder": ("", lambda _: bad_row(), (), 3, "agents.csv was changed since"),
    "bad row": ("", lambda _: bad_row(), ("--accept-edits",), 3, "agents.csv, line 10"),
    "no folder": ("", lambda _: None, ("--dir", "none"), 2, "no snapshot folder none"),
    "drift": ("", lambda _: rewrite(Path("exports/schema.sql"), "region", "area"),
              ("--accept-edits",), 3, "the files do not fit the tables"),
    "script": ("", lambda _: rewrite(Path("exports/schema.sql"), "CREATE TABLE",
               "SELECT 1/0; CREATE TABLE"), ("--accept-edits",), 1, "division by zero"),
    "usage": ("", lambda _: None, ("--tables", "leads"), 2, "--tables goes with"),
    "fault of ours": (LOADING, lambda _: [].pop(), (), 1, "a fault of this program"),
    "dry run": (LOADING, cut, ("--dry-run",), 1, "connection to the server was lost"),
}  # fmt: skip


@pytest.mark.parametrize("how", FAILURES)
def test_a_restore_that_comes_to_nothing_ends_alike(
    changed: Database,
    work: Path,
    run: Run,
    at_step: Callable[..., None],
    how: str,
) -> None:
    step, happen, options, status, said = FAILURES[how]
    before, env = changed.state(), changed.env_file(work)
    if step:
        at_step(step, lambda: happen(changed))
    else:
        happen(changed)
    result = run("restore", "--env-file", env, "-q", *options)
    assert result.status == status, result.err
    first, *more, last = result.err.splitlines()
    hint = [line[:6] for line in more if not line.startswith("  ")]
    assert said in first
    assert hint == ([] if status > 100 else ["hint: "])
    assert last == untouched(env)
    assert changed.state() == before


def test_a_lock_that_is_not_free_in_time(
    changed: Database, work: Path, fail: Fail
) -> None:
    env = changed.env_file(work)
    with contextlib.closing(changed.connect()) as db, db.cursor() as cursor:
        cursor.execute("BEGIN; LOCK TABLE leads")
        said = fail(1, "restore", "--env-file", env, "--lock-timeout", "0.1")
    assert "lock timeout" in said
    assert said.endswith(f"\n{untouched(env)}\n")


def test_a_server_that_is_killed(
    private_server: Server, snapshots: Any, work: Path, run: Run,
    at_step: Callable[..., None],
) -> None:  # fmt: skip
    with private_server.database() as database:
        env, place = database.env_file(work), ("--dir", snapshots(private_server))
        assert run("restore", "--env-file", env, *place).status == 0
        # What is committed is to outlast the server's death.
        database.execute("SET synchronous_commit = on; DELETE FROM leads WHERE id = 1")
        before = database.state()
        at_step(LOADING, private_server.stop)
        result = run("restore", "--env-file", env, *place, "--yes", "-q")
        assert result.status == 1
        assert result.err.endswith(f"back\n{untouched(env)}\n")
        result = run("restore", "--env-file", env, *place, "--yes", "-q")
        assert result.err.endswith(f"\n{untouched(env)}\n")
        private_server.start()
        assert database.state() == before


def of_two_days_ago(folder: Path) -> None:
    """Let a snapshot be that old."""
    path = folder / "datapackage.json"
    package = json.loads(path.read_text())
    then = time.gmtime(time.time() - 200_000)
    package["created"] = time.strftime(er.TIME_FORMAT, then)
    package["postgresql"]["checksum"] = er.NO_CHECKSUM
    text = json.dumps(package)
    path.write_text(text.replace(er.NO_CHECKSUM, er.checksum(text, er.NO_CHECKSUM)))


COPYING = "writing the catalog"
EXPORTS: dict[str, tuple[str, Any, tuple[str, ...], int, str]] = {
    "interrupted": (COPYING, lambda _: os.kill(os.getpid(), signal.SIGINT), (), 130,
                    "interrupted"),
    "lost connection": (COPYING, cut, (), 1, "was lost"),
    "not mentioned": ("", lambda db: db.execute("CREATE TABLE besides ()"), (), 1,
                      "does not mention besides"),
    "no script": ("", lambda _: None, ("--schema-file", "none.sql"), 2, "none.sql"),
}  # fmt: skip


@pytest.mark.parametrize("folder", ["exports", "new", "other"])
@pytest.mark.parametrize("how", EXPORTS)
def test_an_export_that_comes_to_nothing_ends_alike(
    exported: Database,
    work: Path,
    run: Run,
    at_step: Callable[..., None],
    how: str,
    folder: str,
) -> None:
    step, happen, options, status, said = EXPORTS[how]
    of_two_days_ago(work / "exports")
    (work / "other").mkdir()
    (work / "other/notes.txt").touch()
    if step:
        at_step(step, lambda: happen(exported))
    else:
        happen(exported)
    env = ("--env-file", exported.env_file(work))
    result = run("export", *env, "-q", "--dir", folder, *options)
    assert result.status == status, result.err
    first, *_, last = result.err.splitlines()
    assert said in first
    assert last == {
        "exports": "exports still holds the snapshot of 2 days ago",
        "new": "new holds no snapshot",
        "other": "other is as it was",
    }[folder]  # fmt: skip
    assert not (work / "new").exists()
    found = run("verify", *env)
    assert found.status == (3 if how == "not mentioned" else 0), found.err


def test_others_have_no_last_words(
    exported: Database, work: Path, fail: Fail, run: Run
) -> None:
    """What changes nothing says nothing of it; nor what was done before it failed."""
    env = ("--env-file", exported.env_file(work))
    exported.execute("ALTER TABLE agents ADD CHECK (id <> 9) NOT VALID")
    rewrite(work / "schema.sql", "CREATE TABLE", "SELECT 1/0; CREATE TABLE")
    err = run("export", *env, "--rehearse", "-q").err
    assert len(err.splitlines()) == 2, err
    for argv in (("rehearse",), ("verify", "--dir", "none", *env), ("schema", *env)):
        found = run(*argv, "-q")
        assert len(found.err.splitlines()) == 2, found


# ---- --keep --------------------------------------------------------------------------


def test_the_state_before_is_kept(changed: Database, work: Path, run: Run) -> None:
    env = changed.env_file(work)
    before = changed.state()
    result = run("restore", "--env-file", env, "--keep", "kept")
    assert result.status == 0, result.err
    assert result.out.endswith(
        "What was there before is in kept. Restore it with:\n"
        f"  python export_restore.py restore --env-file {env} --dir kept\n"
    )
    assert changed.state() != before
    assert run("restore", "--env-file", env, "--dir", "kept").status == 0
    assert changed.state() == before


def test_nobody_writes_between_keeping_and_replacing(
    changed: Database, work: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    export = er.Export.run

    def export_and_write(*arguments: Any) -> Any:
        copied = export(*arguments)
        with pytest.raises(psycopg2.errors.LockNotAvailable):
            changed.execute("SET lock_timeout = 100; DELETE FROM leads")
        return copied

    monkeypatch.setattr(er.Export, "run", export_and_write)
    result = run("restore", "--env-file", changed.env_file(work), "--keep", "kept")
    assert result.status == 0, result.err


@pytest.mark.parametrize("folder", ["exports", "exports/../exports/in", "link/in"])
def test_not_into_the_snapshot(
    changed: Database, work: Path, fail: Fail, folder: str
) -> None:
    (work / "link").symlink_to("exports")
    before = changed.rows(), sorted((work / "exports").iterdir())
    said = fail(2, "restore", "--env-file", changed.env_file(work), "--keep", folder)
    assert f"{folder} is part of the snapshot that is to be restored" in said
    assert (changed.rows(), sorted((work / "exports").iterdir())) == before


def test_not_over_another_snapshot(
    changed: Database, work: Path, succeed: Succeed, fail: Fail
) -> None:
    env = changed.env_file(work)
    succeed("restore", "--env-file", env, "--keep", "kept")
    said = fail(2, "restore", "--env-file", env, "--keep", "kept")
    assert "kept holds a snapshot, which would be lost" in said


def test_what_the_schema_script_lacks_needs_another(
    changed: Database, work: Path, fail: Fail, succeed: Succeed
) -> None:
    changed.execute("CREATE TABLE besides AS SELECT 1 AS x")
    env = changed.env_file(work)
    before = changed.state()
    said = fail(1, "restore", "--env-file", env, "--keep", "kept")
    assert "exports/schema.sql does not mention besides\n" in said
    assert "add --keep-schema-file present.sql" in said
    assert changed.state() == before
    (work / "present.sql").write_text(changed.pg_dump("--clean", "--if-exists"))
    options = ("--keep", "kept", "--keep-schema-file", "present.sql")
    succeed("restore", "--env-file", env, *options)
    succeed("restore", "--env-file", env, "--dir", "kept")
    assert changed.state() == before
    said = fail(2, "restore", "--env-file", env, "--keep-schema-file", "present.sql")
    assert "--keep-schema-file goes with --keep" in said


@pytest.mark.parametrize("option", ["--dry-run", "--checksum"])
def test_there_may_be_nothing_to_keep(
    exported: Database, target: Database, work: Path, run: Run, option: str
) -> None:
    env = target.env_file(work)
    result = run("restore", "--env-file", env, "--keep", "kept", option)
    assert result.status == 0, result.err
    assert "nothing is kept in kept: " in result.err
    assert "Bring it back" not in result.out
    assert not (work / "kept").exists()
