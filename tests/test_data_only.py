"""restore --data-only: the target's schema stays, the snapshot's rows come."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from servers import Database

Succeed = Callable[..., str]
Fail = Callable[..., str]

pytestmark = pytest.mark.parametrize("server", [18], indirect=True)


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


def test_columns_that_differ(exported: Database, work: Path, fail: Fail) -> None:
    exported.execute("ALTER TABLE leads RENAME company TO firm")
    before = exported.state()
    message = fail(3, "restore", "--env-file", exported.env_file(work), "--data-only")
    assert "leads.csv has unknown columns: company" in message
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
    succeed("restore", "--env-file", exported.env_file(work), "--data-only")
    sequences = exported.sequences()
    assert sequences["public.leads_id_seq"] == (999, True)
    assert sequences["public.agents_id_seq"] == (8, True)
