"""restore --data-only: the target's schema stays, the snapshot's rows come."""

from __future__ import annotations

import contextlib
from pathlib import Path

import psycopg2
import pytest
from conftest import Fail, Run, Succeed, fork_process, wait_until
from servers import Database

import export_restore as er


def test_rows_and_sequences_are_replaced(
    exported: Database, work: Path, succeed: Succeed
) -> None:
    """Policies, triggers, grants and other tables' keys stay as they are."""
    env = exported.env_file(work)
    before = exported.rows()
    exported.execute(
        "DELETE FROM leads WHERE id < 9; SELECT setval('leads_id_seq', 999);"
        "INSERT INTO agents (full_name, email, region, hired_on)"
        " VALUES ('New', 'new@example.com', 'North', now());"
        "ALTER TABLE leads ENABLE ROW LEVEL SECURITY; CREATE POLICY p ON leads;"
        "CREATE TABLE visits (lead int REFERENCES leads);"
        "INSERT INTO visits VALUES (20);"
        "CREATE INDEX more ON leads (company); GRANT SELECT ON leads TO PUBLIC;"
        "CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql"
        " AS $$ BEGIN RAISE EXCEPTION 'no'; END $$;"
        "CREATE TRIGGER no BEFORE INSERT ON leads EXECUTE FUNCTION no()"
    )
    schema = exported.schema()
    succeed("restore", "--env-file", env, "--data-only")
    assert exported.schema() == schema
    assert exported.rows() == {**before, "public.visits": ["(20)"]}
    assert exported.sequences()["public.leads_id_seq"] == (60, True)
    grants = "SELECT has_table_privilege('pg_monitor', 'leads', 'SELECT')"
    assert exported.fetch(grants) == [(True,)]


def test_some_of_the_tables(exported: Database, work: Path, succeed: Succeed) -> None:
    before = exported.rows()
    exported.execute("UPDATE agents SET region = 'x'; DELETE FROM feedback")
    succeed(
        "restore",
        "--env-file",
        exported.env_file(work),
        "--data-only",
        "--tables",
        "feed*",
    )
    after = exported.rows()
    assert after["public.feedback"] == before["public.feedback"]
    assert after["public.agents"] != before["public.agents"]


def test_columns_that_differ(exported: Database, work: Path, run: Run) -> None:
    exported.execute("ALTER TABLE leads RENAME company TO firm")
    before = exported.state()
    result = run("restore", "--env-file", exported.env_file(work), "--data-only")
    assert (result.status, result.out) == (3, "")
    assert "  leads.csv has unknown columns: company\n" in result.err
    assert exported.state() == before


def test_all_or_nothing(exported: Database, work: Path, fail: Fail) -> None:
    """A row of another table refers to one that the snapshot does not have."""
    exported.execute(
        "INSERT INTO leads (id, full_name, email) VALUES (777, 'x', 'x');"
        "CREATE TABLE visits (lead int REFERENCES leads);"
        "INSERT INTO visits VALUES (777)"
    )
    before = exported.state()
    message = fail(3, "restore", "--env-file", exported.env_file(work), "--data-only")
    assert 'violates foreign key constraint "visits_lead_fkey"' in message
    assert exported.state() == before


def test_missing_table(exported: Database, work: Path, fail: Fail) -> None:
    exported.execute("DROP TABLE feedback")
    before = exported.state()
    message = fail(3, "restore", "--env-file", exported.env_file(work), "--data-only")
    assert "feedback.csv belongs to no table" in message
    assert exported.state() == before


def test_tables_alone_is_refused(exported: Database, work: Path, fail: Fail) -> None:
    env = exported.env_file(work)
    message = fail(2, "restore", "--env-file", env, "--tables", "leads")
    assert "--tables goes with --data-only" in message


def test_without_a_manifest_a_sequence_goes_on(
    exported: Database, work: Path, succeed: Succeed
) -> None:
    """The folder does not say which ids were given out; the target does."""
    (work / "exports/datapackage.json").unlink()
    exported.execute("SELECT setval('leads_id_seq', 999), setval('agents_id_seq', 7)")
    env = exported.env_file(work)
    succeed("restore", "--env-file", env, "--data-only", "--yes")
    sequences = exported.sequences()
    assert sequences["public.leads_id_seq"] == (999, True)
    assert sequences["public.agents_id_seq"] == (8, True)


def test_what_others_alter_until_the_lock_is_seen(
    exported: Database, work: Path, succeed: Succeed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A trigger that comes after the catalog was read must not fire."""
    plan_loads = er.Restore.plan_loads
    before = exported.rows()

    def and_then_alter(restore: er.Restore) -> list[er.Load]:
        monkeypatch.setattr(er.Restore, "plan_loads", plan_loads)
        exported.execute(
            "CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql"
            " AS 'BEGIN RETURN NULL; END';"
            "CREATE TRIGGER no BEFORE INSERT ON leads"
            " FOR EACH ROW EXECUTE FUNCTION no()"
        )
        return plan_loads(restore)

    monkeypatch.setattr(er.Restore, "plan_loads", and_then_alter)
    succeed("restore", "--env-file", exported.env_file(work), "--data-only")
    assert exported.rows() == before


def test_what_would_not_come_back_is_told(
    exported: Database, work: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the cause: here an index is forgotten."""
    rebuild = er.Database.rebuild

    def forgetful(db: er.Database, parts: list[str]) -> None:
        rebuild(db, [part for part in parts if "CREATE INDEX" not in part])

    monkeypatch.setattr(er.Database, "rebuild", forgetful)
    monkeypatch.setattr(er, "LARGE_FILE", 0)
    exported.execute("DELETE FROM feedback")
    before = exported.state()
    env = exported.env_file(work)
    result = run("restore", "--env-file", env, "--data-only", "-q")
    assert result.status == 3
    assert "the tables would not be what they were:" in result.err
    assert "\n  -index public." in result.err
    assert exported.state() == before
    accepted = run("restore", "--env-file", env, "--data-only", "--accept-drift")
    assert accepted.status == 0


def test_an_index_that_was_invalid_is_whole_afterwards(
    exported: Database, work: Path, succeed: Succeed
) -> None:
    """TRUNCATE makes it so."""
    exported.execute(
        "CREATE INDEX half ON leads (company);"
        "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'half'::regclass"
    )
    succeed("restore", "--env-file", exported.env_file(work), "--data-only")
    valid = "SELECT indisvalid FROM pg_index WHERE indexrelid = 'half'::regclass"
    assert exported.fetch(valid) == [(True,)]


def test_nobody_adds_rows_to_a_table_that_stays(
    source: Database, work: Path, succeed: Succeed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A script without DROP fills a table that others can see."""
    schema = "CREATE TABLE IF NOT EXISTS t (a int)"
    (work / "schema.sql").write_text(schema)
    source.execute(schema)
    env = source.env_file(work)
    succeed("export", "--env-file", env)
    fetch_seeded = er.Restore.fetch_seeded

    def and_then_write(restore: er.Restore) -> list[er.Table]:
        seeded = fetch_seeded(restore)
        with pytest.raises(psycopg2.errors.LockNotAvailable):
            source.execute("SET lock_timeout = '50ms'; INSERT INTO t VALUES (1)")
        return seeded

    monkeypatch.setattr(er.Restore, "fetch_seeded", and_then_write)
    succeed("restore", "--env-file", env)


def test_who_adds_rows_meanwhile_meets_no_deadlock(
    exported: Database, work: Path
) -> None:
    """An INSERT locks its table before those that it refers to; so does the restore."""
    add = "INSERT INTO leads (full_name, email, agent_id) VALUES ('x', %s, %s)"
    waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted"
    env = exported.env_file(work)
    with contextlib.closing(exported.connect()) as db, db.cursor() as cursor:
        cursor.execute("BEGIN")
        cursor.execute(add, ["a@example.org", None])
        process = fork_process("restore", "--env-file", env, "--data-only", "-q")
        wait_until(lambda: exported.fetch(waiting) != [(0,)])
        cursor.execute(add, ["b@example.org", 1])
        cursor.execute("COMMIT")
    _, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (0, "")
