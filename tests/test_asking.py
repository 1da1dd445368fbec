"""What a restore says before it replaces anything, when it asks, and --keep."""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from pathlib import Path
from typing import Any

import pexpect
import psycopg2
import pytest
from conftest import ROOT, Fail, Run, Succeed
from servers import Database

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


def at_terminal(*argv: object) -> Any:
    """Start a restore on a terminal."""
    script = str(ROOT / "export_restore.py")
    arguments = [script, "restore", *map(str, argv)]
    return pexpect.spawn(
        sys.executable, arguments, encoding="utf-8", timeout=30, dimensions=(50, 200)
    )


def end(process: Any) -> tuple[int, list[str]]:
    """Wait for the end; return the exit status and the lines since the question."""
    process.expect(pexpect.EOF)
    process.close()
    return process.exitstatus, process.before.split("\r\n")


QUESTION = "Replace 3 tables in .*?\r\nTo go on, type the database's name, .*: "


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
    assert age == "the snapshot in exports is less than a minute old; it comes"
    assert origin.startswith(f"from {place} (PostgreSQL 18.")
    assert third == f"to be replaced in {place}, as user postgres:"
    assert [line.split() for line in table] == [
        ["table", "rows", "now", "rows", "then"],
        ["agents", "8", "8"],
        ["feedback", str(feedback), "90"],
        ["leads", str(leads), "60"],
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
    err = run("restore", "--env-file", changed.env_file(work), "--dry-run").err
    told = {line.split()[0]: line.split()[1:-1] for line in err.splitlines()[4:8]}
    [(feedback,)] = changed.fetch("SELECT count(*) FROM feedback")
    assert told["agents"] == ["8"]
    assert told["leads"] == ["over", "50"]
    assert told["feedback"] == ["about", str(feedback)]


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
    assert [line for line in lines if line[-1:] == ["-"]] == [
        ["old.c", "1", "-"], ["b", "1", "-"], ["heir", "1", "-"], ["s.a", "1", "-"],
    ]  # fmt: skip
    process.sendline("")
    assert end(process)[0] == 1


def test_rows_alone(changed: Database, work: Path, run: Run) -> None:
    options = ("--data-only", "--tables", "leads", "feedback")
    err = run("restore", "--env-file", changed.env_file(work), *options).err
    assert [line.split()[0] for line in err.splitlines()[4:-1]] == [
        "table", "feedback", "leads",
    ]  # fmt: skip


def test_a_snapshot_of_unknown_origin(changed: Database, work: Path, run: Run) -> None:
    (work / "exports/datapackage.json").unlink()
    err = run("restore", "--env-file", changed.env_file(work)).err
    assert "the snapshot in exports is of unknown age and origin\n" in err
    assert ["agents", "8", "?"] in [line.split() for line in err.splitlines()]


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
    two_days_ago = time.strftime(er.TIME_FORMAT, time.gmtime(time.time() - 200_000))
    manifest = dataclasses.replace(
        snapshot.manifest,
        created=two_days_ago,
        server_version="18.1",
        origin=er.Origin("localhost", 5432, "sales", "1"),
    )
    rows = {"agents": (20, 20), "feedback": (1_204_117, 800), "leads": (812, 500)}
    replaced = [
        er.Replaced(
            table,
            er.RowCount(now, exact=now < er.COUNTED_ROWS),
            dataclasses.replace(next(iter(snapshot.csvs.values())), rows=then),
        )
        for table in tables
        for now, then in [rows[table.relation.name]]
    ]
    snapshot = dataclasses.replace(snapshot, folder=Path("exports"), manifest=manifest)
    shown = er.render_replacement(replaced, snapshot, settings, home=False)
    shown += "\n" + er.render_question(replaced, settings)
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
    changed: Database, work: Path, succeed: Succeed
) -> None:
    path = work / "exports/datapackage.json"
    package = json.loads(path.read_text())
    del package["postgresql"]["origin"]
    package["postgresql"]["checksum"] = er.NO_CHECKSUM
    text = json.dumps(package)
    checksum = er.checksum(text, er.NO_CHECKSUM)
    path.write_text(text.replace(er.NO_CHECKSUM, checksum))
    succeed("restore", "--env-file", changed.env_file(work))
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
    assert lines[place + 1 :] == ([hint, ""] if status == 1 else [""])
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


def test_without_a_terminal_nobody_is_asked(
    remote: Path, changed: Database, run: Run
) -> None:
    result = run("restore", "--env-file", remote)
    assert (result.status, "Replace" in result.err) == (0, False)
    assert "rows now" in result.err


# ---- --keep --------------------------------------------------------------------------


def test_the_state_before_is_kept(changed: Database, work: Path, run: Run) -> None:
    env = changed.env_file(work)
    before = changed.state()
    result = run("restore", "--env-file", env, "--keep", "kept")
    assert result.status == 0, result.err
    assert result.out.endswith(
        "What was there before is in kept. Bring it back with:\n"
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


def test_what_the_blueprint_lacks_needs_another(
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
