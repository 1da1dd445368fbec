"""Which tables go out, what is said of the rest, and what a script must mention."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from commands import Place
from conftest import Fail, Run, Succeed, both_versions
from servers import Database, Server

import export_restore as er

SCHEMA = """
    CREATE SCHEMA sales; CREATE SCHEMA "my.shop";
    CREATE TABLE leads (id serial PRIMARY KEY);
    CREATE TABLE lead_notes (lead int REFERENCES leads);
    CREATE TABLE sales.leads (id int);
    CREATE TABLE sales.orders (id serial PRIMARY KEY);
    CREATE TABLE "my.shop"."odd*" (id int);
    CREATE SEQUENCE invoice_numbers;
"""


@pytest.fixture
def shop(source: Database, work: Path) -> Database:
    (work / "schema.sql").write_text(SCHEMA)
    source.execute(SCHEMA)
    return source


def exported(work: Path) -> set[str]:
    return {path.name for path in (work / "exports").glob("*.csv")}


@pytest.mark.parametrize(
    "options, expected",
    [
        (["--tables", "leads"], {"leads"}),
        (["--tables", "lead*"], {"leads", "lead_notes"}),
        (["--tables", "sales.*"], {"sales.leads", "sales.orders"}),
        (["--tables", "*.leads"], {"leads", "sales.leads"}),
        (["--tables", "leads", "sales.leads"], {"leads", "sales.leads"}),
        (["--tables", '"my.shop"."odd*"'], {"my=2Eshop.odd=2A"}),
        (["--exclude", "lead_notes", "*.o*"], {"leads", "sales.leads"}),
        (["--tables", "*", "--exclude", "lead_*"], {"leads"}),
    ],
)
def test_patterns(
    shop: Database, work: Path, succeed: Succeed, options: list[str], expected: set[str]
) -> None:
    succeed("export", "--env-file", shop.env_file(work), *options)
    assert exported(work) == {f"{name}.csv" for name in expected}


def test_pattern_that_matches_nothing(shop: Database, work: Path, fail: Fail) -> None:
    env = shop.env_file(work)
    for option in ("--tables", "--exclude"):
        assert "no table matches laeds" in fail(
            2, "export", "--env-file", env, option, "laeds"
        )


def test_what_is_left_out_is_said(shop: Database, work: Path, run: Run) -> None:
    env = shop.env_file(work)
    result = run("export", "--env-file", env, "--exclude", "sales.*")
    assert "left out as you asked: sales.leads, sales.orders\n" in result.err
    # A restore makes the tables of the script and leaves those empty.
    assert run("restore", "--env-file", env, "-q").status == 1  # no DROP statements


@both_versions
def test_excluded_tables_come_back_empty(
    shop: Database, target: Database, work: Path, succeed: Succeed
) -> None:
    shop.execute("INSERT INTO leads VALUES (7); INSERT INTO sales.leads VALUES (1)")
    shop.execute("SELECT nextval('sales.orders_id_seq'), nextval('invoice_numbers')")
    succeed("export", "--env-file", shop.env_file(work), "--exclude", "sales.*")
    succeed("restore", "--env-file", target.env_file(work))
    assert target.schema() == shop.schema()
    rows = {"public.leads": ["(7)"]}
    assert {name: found for name, found in target.rows().items() if found} == rows
    states = target.sequences()
    assert states["public.leads_id_seq"] == (7, True)
    assert states["public.invoice_numbers"] == (1, True)
    assert states["sales.orders_id_seq"] == (1, False)


def test_reference_to_a_table_left_out(shop: Database, work: Path, fail: Fail) -> None:
    env = shop.env_file(work)
    message = fail(2, "export", "--env-file", env, "--exclude", "leads")
    assert (
        "lead_notes refers to leads (lead_notes_lead_fkey), which is left out"
        in message
    )
    assert "export leads, too, or leave out lead_notes" in message


def test_every_table_that_is_needed_is_told(
    shop: Database, work: Path, run: Run
) -> None:
    more = "ALTER TABLE sales.leads ADD FOREIGN KEY (id) REFERENCES sales.orders;"
    shop.execute(more)
    (work / "schema.sql").write_text(SCHEMA + more)
    result = run(
        "export", "--env-file", shop.env_file(work),
        "--exclude", "leads", "sales.orders",
    )  # fmt: skip
    assert result.status == 2
    assert "error: foreign keys lead to tables that are left out:\n" in result.err
    assert result.err.count("\n  ") == 2
    advice = "export leads, sales.orders, too, or leave out lead_notes, sales.leads\n"
    assert result.err.endswith(f"{advice}exports holds no snapshot\n")


def test_what_to_do_next(
    shop: Database, target: Database, work: Path, run: Run, succeed: Succeed
) -> None:
    """The line that an export prints works; a refused restore says which one does."""
    (work / "schema.sql").write_text(
        "DROP TABLE IF EXISTS lead_notes, leads, sales.leads, sales.orders CASCADE;"
        'DROP TABLE IF EXISTS "my.shop"."odd*";'
        "DROP SEQUENCE IF EXISTS invoice_numbers;"
        + SCHEMA.replace("SCHEMA", "SCHEMA IF NOT EXISTS")
    )
    shop.execute("INSERT INTO leads VALUES (7); INSERT INTO sales.leads VALUES (1)")
    env = shop.env_file(work)
    said = run("export", "--env-file", env, "--tables", "leads").out
    assert "Restore it into a new database,\nor replace the rows" in said
    [line] = said.split("export_restore.py ")[1:]
    assert line.split()[-1] == "--data-only"
    shop.execute("DELETE FROM leads")
    succeed(*line.split())
    assert shop.fetch("SELECT * FROM leads") == [(7,)]
    result = run("restore", "--env-file", env, "--yes")
    assert result.status in (1, 3)
    assert "hint: restore it into a new database, or the rows" in result.err
    assert "--accept-drift" not in result.err
    assert "restore --data-only" in result.err
    result = run("restore", "--env-file", env, "--accept-drift", "--dry-run")
    assert re.search(r"\n +1 +- +sales\.leads\n", result.err)
    result = run("restore", "--env-file", target.env_file(work))
    assert result.status == 0, result.err
    empty = '"my.shop"."odd*", lead_notes, sales.leads, sales.orders\n'
    assert f"note: the snapshot has no rows of {empty}" in result.err


def test_free_sequence_unknown_to_the_schema_script(
    shop: Database, work: Path, fail: Fail
) -> None:
    shop.execute("CREATE SEQUENCE stray")
    message = fail(1, "export", "--env-file", shop.env_file(work))
    assert "does not mention sequence stray" in message


@pytest.fixture
def supabase(server: Server) -> Iterator[None]:
    """A server that has the role by which Supabase manages its schemas."""
    server.execute("CREATE ROLE supabase_admin")
    yield
    server.execute("DROP ROLE supabase_admin")


@pytest.mark.usefixtures("supabase")
def test_schemas_of_a_provider(shop: Database, work: Path, run: Run) -> None:
    """auth.users stays where it is; a key to it is checked by the restore."""
    extra = """
        CREATE SCHEMA auth; CREATE TABLE auth.users (id int PRIMARY KEY);
        CREATE SCHEMA storage; CREATE TABLE storage.objects (id int);
    """
    profile = "CREATE TABLE profiles (id int REFERENCES auth.users);"
    shop.execute(extra + profile + "INSERT INTO auth.users VALUES (1)")
    (work / "schema.sql").write_text(SCHEMA + profile)
    result = run("export", "--env-file", shop.env_file(work))
    assert result.status == 0
    assert (
        "not exported: schemas that the provider manages: auth, storage\n" in result.err
    )
    assert "profiles refers to auth.users (profiles_id_fkey), whose rows" in result.err
    assert not {name for name in exported(work) if name.startswith(("auth", "storage"))}


@both_versions
def test_own_schemas_of_such_names(
    source: Database, target: Database, work: Path, succeed: Succeed
) -> None:
    """On a server of one's own, auth is a schema like others."""
    schema = "CREATE SCHEMA auth; CREATE TABLE auth.users (id serial PRIMARY KEY);"
    (work / "schema.sql").write_text(schema)
    source.execute(schema + "INSERT INTO auth.users DEFAULT VALUES")
    succeed("export", "--env-file", source.env_file(work))
    succeed("restore", "--env-file", target.env_file(work))
    assert target.state() == source.state()


def test_large_objects_and_foreign_tables_are_named(
    shop: Database, work: Path, run: Run
) -> None:
    shop.execute("SELECT lo_create(4711)")
    shop.execute(
        "CREATE FOREIGN DATA WRAPPER w; CREATE SERVER far FOREIGN DATA WRAPPER w;"
        "CREATE FOREIGN TABLE elsewhere (a int) SERVER far"
    )
    result = run("export", "--env-file", shop.env_file(work))
    assert "not exported: large objects: 1\n" in result.err
    assert "not exported: foreign tables: public.elsewhere\n" in result.err
    assert "elsewhere.csv" not in exported(work)


def test_a_foreign_partition_is_refused(shop: Database, work: Path, fail: Fail) -> None:
    extra = """
        CREATE FOREIGN DATA WRAPPER w; CREATE SERVER far FOREIGN DATA WRAPPER w;
        CREATE TABLE parted (a int) PARTITION BY RANGE (a);
        CREATE FOREIGN TABLE far_part PARTITION OF parted DEFAULT SERVER far;
    """
    shop.execute(extra)
    (work / "schema.sql").write_text(SCHEMA + extra)
    message = fail(1, "export", "--env-file", shop.env_file(work))
    assert "far_part, a partition of parted, is a foreign table" in message


def test_tables_of_extensions(server17: Server, work: Path, run: Run) -> None:
    """What belongs to an extension comes with it; rows in its tables are named."""
    schema = "CREATE EXTENSION pg_stat_statements; CREATE TABLE t (a int);"
    (work / "schema.sql").write_text(schema)
    with server17.database() as database:
        database.execute(
            schema + "CREATE TABLE config (a int);"
            "ALTER EXTENSION pg_stat_statements ADD TABLE config;"
            "UPDATE pg_extension SET extconfig = ARRAY['config'::regclass::oid], "
            "extcondition = '{\"\"}' WHERE extname = 'pg_stat_statements'"
        )
        result = run("export", "--env-file", database.env_file(work))
        assert result.status == 0
        assert (
            "rows of tables of the extension pg_stat_statements: public.config"
            in result.err
        )
        assert exported(work) == {"t.csv"}


def test_temporary_tables_are_not_there(shop: Database, work: Path, run: Run) -> None:
    db = shop.connect()
    db.cursor().execute("CREATE TEMP TABLE passing (a int)")
    assert run("export", "--env-file", shop.env_file(work), "-q").status == 0
    db.close()


@pytest.mark.parametrize(
    "pattern, schema, name, hit",
    [
        ("leads", "public", "leads", True),
        ("leads", "sales", "leads", False),
        ("LEADS", "public", "leads", False),
        ("sales.*", "sales", "any.thing", True),
        ('"a.b"', "public", "a.b", True),
        ('"a*"', "public", "ab", False),
        ('s."q""t"', "s", 'q"t', True),
        ("a.b.c", "a", "b.c", False),
        ("", "public", "leads", False),
    ],
)
def test_matches(pattern: str, schema: str, name: str, hit: bool) -> None:
    assert er.matches(er.Relation(schema, name), pattern) is hit


def test_what_the_only_table_does_not_need(source: Place) -> None:
    """No table is left out, but a function is: verify does not miss it."""
    source.make(
        "CREATE TABLE t (a int);"
        "CREATE FUNCTION et() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN END';"
        "CREATE EVENT TRIGGER e ON ddl_command_end EXECUTE FUNCTION et()"
    )
    source.succeed("schema", "--tables", "t", "--force")
    source.succeed("export", "--tables", "t")
    source.succeed("verify")
