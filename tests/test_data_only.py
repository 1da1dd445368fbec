"""restore --data-only: the target's schema stays, the snapshot's rows come."""

from __future__ import annotations

import contextlib
from pathlib import Path

import psycopg2
import pytest
from commands import Place, at_step, wait_until

import export_restore as er

DATA_ONLY = ("restore", "--data-only")


def test_rows_and_sequences_are_replaced(exported: Place) -> None:
    """Policies, triggers, grants and other tables' keys stay as they are."""
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
        "CREATE TRIGGER no BEFORE INSERT ON leads EXECUTE FUNCTION no();"
        "CREATE INDEX half ON leads (company);"
    )
    schema = exported.schema()
    exported.execute(  # TRUNCATE makes it whole
        "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'half'::regclass"
    )
    exported.succeed(*DATA_ONLY)
    assert exported.schema() == schema
    assert exported.rows() == {**before, "public.visits": ["(20)"]}
    assert exported.sequences()["public.leads_id_seq"] == (60, True)
    assert exported.fetch(
        "SELECT has_table_privilege('pg_monitor', 'leads', 'SELECT'), indisvalid"
        " FROM pg_index WHERE indexrelid = 'half'::regclass"
    ) == [(True, True)]


def test_some_of_the_tables(exported: Place) -> None:
    before = exported.rows()
    exported.execute("UPDATE agents SET region = 'x'; DELETE FROM feedback")
    exported.succeed(*DATA_ONLY, "--tables", "feed*")
    after = exported.rows()
    assert after["public.feedback"] == before["public.feedback"]
    assert after["public.agents"] != before["public.agents"]
    message = exported.fail(2, "restore", "--tables", "leads")
    assert "--tables goes with --data-only" in message


@pytest.mark.parametrize(
    "change, said",
    [
        ("ALTER TABLE leads RENAME company TO firm",
         "leads.csv has unknown columns: company"),
        ("DROP TABLE feedback", "feedback.csv belongs to no table"),
        # A row of another table refers to one that the snapshot does not have.
        ("INSERT INTO leads (id, full_name, email) VALUES (777, 'x', 'x');"
         "CREATE TABLE visits (lead int REFERENCES leads);"
         "INSERT INTO visits VALUES (777)",
         'violates foreign key constraint "visits_lead_fkey"'),
    ],
)  # fmt: skip
def test_all_or_nothing(exported: Place, change: str, said: str) -> None:
    exported.execute(change)
    assert said in exported.refuse(3, *DATA_ONLY)


def test_without_a_manifest_a_sequence_goes_on(exported: Place) -> None:
    """The folder does not say which ids were given out; the target does."""
    Path("exports/datapackage.json").unlink()
    exported.execute("SELECT setval('leads_id_seq', 999), setval('agents_id_seq', 7)")
    exported.succeed(*DATA_ONLY, "--yes")
    sequences = exported.sequences()
    assert sequences["public.leads_id_seq"] == (999, True)
    assert sequences["public.agents_id_seq"] == (8, True)


def test_what_others_alter_until_the_lock_is_seen(
    exported: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A trigger that comes after the catalog was read must not fire."""
    before = exported.rows()
    changes = iter([
        "CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql"
        " AS 'BEGIN RETURN NULL; END';"
        "CREATE TRIGGER no BEFORE INSERT ON leads FOR EACH ROW EXECUTE FUNCTION no()"
    ])  # fmt: skip

    def alter(_: object) -> None:
        for change in changes:
            exported.execute(change)

    at_step(monkeypatch, er.Restore, "plan_loads", before=alter)
    exported.succeed(*DATA_ONLY)
    assert exported.rows() == before


def test_what_would_not_come_back_is_told(
    exported: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the cause: here an index is forgotten."""
    rebuild = er.Database.rebuild

    def forgetful(db: er.Database, parts: list[str]) -> None:
        rebuild(db, [part for part in parts if "CREATE INDEX" not in part])

    monkeypatch.setattr(er.Database, "rebuild", forgetful)
    monkeypatch.setattr(er, "LARGE_FILE", 0)
    exported.execute("DELETE FROM feedback")
    with exported.untouched():
        result = exported.call(*DATA_ONLY, "-q")
    assert result.status == 3
    assert "the tables would not be what they were:" in result.err
    assert "\n  -index public." in result.err
    exported.told(0, *DATA_ONLY, "--accept-drift")


def test_nobody_adds_rows_to_a_table_that_stays(
    source: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A script without DROP fills a table that others can see."""
    source.make("CREATE TABLE IF NOT EXISTS t (a int)")
    source.succeed("export")

    def write(_: object) -> None:
        with pytest.raises(psycopg2.errors.LockNotAvailable):
            source.execute("SET lock_timeout = '50ms'; INSERT INTO t VALUES (1)")

    at_step(monkeypatch, er.Restore, "fetch_seeded", after=write)
    source.succeed("restore")


def test_who_adds_rows_meanwhile_meets_no_deadlock(exported: Place) -> None:
    """An INSERT locks its table before those that it refers to; so does the restore."""
    add = "INSERT INTO leads (full_name, email, agent_id) VALUES ('x', %s, %s)"
    waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted"
    with contextlib.closing(exported.connect()) as db, db.cursor() as cursor:
        cursor.execute("BEGIN")
        cursor.execute(add, ["a@example.org", None])
        process = exported.start(*DATA_ONLY, "-q")
        wait_until(lambda: exported.fetch(waiting) != [(0,)])
        cursor.execute(add, ["b@example.org", 1])
        cursor.execute("COMMIT")
    _, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (0, "")
