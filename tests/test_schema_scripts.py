"""schema.sql from anywhere: what is skipped, what it must not break."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import Result
from servers import Database, Server

import export_restore as er

Succeed = Callable[..., str]
Run = Callable[..., Result]
Fail = Callable[..., str]

# What a script may say though the server has no such thing; what is said of it.
SKIPPED = [
    ("BEGIN", "the restore is a transaction already"),
    ("start transaction isolation level serializable", "transaction already"),
    ("COMMIT", "transaction already"),
    ("SET TRANSACTION ISOLATION LEVEL SERIALIZABLE", "transaction already"),
    ("SET no_such_timeout = 0", 'parameter "no_such_timeout"'),
    ("SET SESSION future_thing TO 'x'", 'parameter "future_thing"'),
    ("SET my.own = 'x'", ""),
    ("SET TIME ZONE 'UTC'", ""),
    ("SET CONSTRAINTS ALL DEFERRED", ""),
    ("DROP SCHEMA IF EXISTS public", "the schema public stays"),
    ('DROP SCHEMA "public" RESTRICT', "the schema public stays"),
    ("CREATE SCHEMA public", ""),
    ("COMMENT ON SCHEMA public IS 'x'", "must be owner of schema public"),
    ("COMMENT ON EXTENSION hstore IS 'x'", "must be owner of extension hstore"),
    ("ALTER EXTENSION hstore UPDATE", "must be owner of extension hstore"),
    ("DROP EXTENSION IF EXISTS hstore", ""),
    ("DROP EXTENSION hstore, absent CASCADE", ""),
    ("CREATE EXTENSION hstore", ""),
    ("ALTER TABLE t OWNER TO gone", 'role "gone" does not exist'),
    ("ALTER TABLE t OWNER TO boss", 'must be able to SET ROLE "boss"'),
    ("ALTER TABLE t OWNER TO me", ""),
    ("ALTER TABLE t OWNER TO CURRENT_USER", ""),
    ('ALTER FUNCTION f(int, text) OWNER TO "Gone"', 'role "Gone" does not exist'),
    ("ALTER TABLE t OWNER TO friend", "permission denied for schema public"),
    ("SET SESSION AUTHORIZATION gone", 'role "gone" does not exist'),
    ("SET ROLE TO boss", 'permission denied to set role "boss"'),
    ("SET LOCAL ROLE gone", 'role "gone" does not exist'),
    ("SET ROLE NONE", ""),
    ("GRANT SELECT ON TABLE t TO gone", 'role "gone" does not exist'),
    ("GRANT SELECT ON TABLE t TO boss", ""),
    ('GRANT SELECT ON t TO me, "Other Role"', 'role "Other Role" does not exist'),
    ("REVOKE ALL ON TABLE t FROM gone CASCADE", 'role "gone" does not exist'),
    ("GRANT gone TO me", 'role "gone" does not exist'),
    ("ALTER DEFAULT PRIVILEGES FOR ROLE boss GRANT SELECT ON TABLES TO me",
     "permission denied to change default privileges"),
    ("ALTER DEFAULT PRIVILEGES GRANT ALL ON TYPES TO x", 'role "x" does not exist'),
    ("ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO me", ""),
    ("DROP TABLE absent", ""),
    ("DROP FUNCTION absent(no_type)", ""),
    ("DROP VIEW no_schema.absent", ""),
    ("DROP SCHEMA absent", ""),
    ("DROP TRIGGER absent ON absent", ""),
    ("DROP TEXT SEARCH CONFIGURATION absent", ""),
    ("ALTER TABLE absent DROP CONSTRAINT absent", ""),
    ("ALTER TABLE t DROP CONSTRAINT absent", ""),
    ("ALTER TABLE t ALTER absent DROP DEFAULT", ""),
    ("ALTER DOMAIN absent DROP CONSTRAINT IF EXISTS absent", ""),
    ("CREATE OR REPLACE VIEW v AS SELECT NULL::absent AS a, NULL::int AS b", ""),
    ("CREATE OR REPLACE VIEW t AS SELECT NULL::int AS b", ""),
    ("CREATE SCHEMA kept", ""),
    ("DROP SCHEMA kept", ""),
]  # fmt: skip
# What stays an error: each is a script of its own.
REFUSED = [
    ("REVOKE ALL ON kept.old FROM PUBLIC", "permission denied for table old"),
    ("ALTER TABLE t ADD COLUMN a int, OWNER TO gone", 'role "gone" does not exist'),
    ("CREATE POLICY p ON t TO gone", 'role "gone" does not exist'),
    ("GRANT SELECT ON absent TO me", 'relation "absent" does not exist'),
    ("SET statement_timeout = 'x'", "invalid value for parameter"),
    ("CREATE SCHEMA kept CREATE TABLE n (a int)", 'schema "kept" already exists'),
    ("ALTER TABLE t ADD CHECK (dropped > 0)", 'column "dropped" does not exist'),
    ("CREATE VIEW n AS SELECT NULL::absent AS a", 'type "absent" does not exist'),
    ("CREATE OR REPLACE VIEW n AS SELECT NULL::int AS a FROM absent", "absent"),
    ("CREATE EXTENSION absent", 'extension "absent" is not available'),
]


def test_what_the_server_may_refuse(server17: Server, work: Path, run: Run) -> None:
    """The server says what cannot be; the rest of the script is run all the same."""
    roles = ("boss", "friend", "me")
    server17.execute("".join(f"CREATE ROLE {role} LOGIN;" for role in roles))
    script = "CREATE TABLE t (id int); CREATE FUNCTION f(int, text) RETURNS int"
    script += " LANGUAGE sql AS 'SELECT 1';\n"
    script += "".join(f"{text};\n" for text, _ in SKIPPED)
    try:
        with server17.database("OWNER me") as database:
            database.execute(
                "CREATE EXTENSION hstore; ALTER SCHEMA public OWNER TO postgres;"
                "GRANT ALL ON SCHEMA public TO me; GRANT friend TO me;"
                "CREATE SCHEMA kept AUTHORIZATION me; CREATE TABLE kept.old (a int)"
            )
            env = database.env_file(work, DB_USER="me")
            (work / "exports").mkdir()
            (work / "exports/t.csv").write_text("id\n1\n")
            before = database.state()
            for text, why in REFUSED:
                lines = f"CREATE TABLE t (id int);\n{text};"
                (work / "exports/schema.sql").write_text(lines)
                result = run("restore", "--env-file", env, "-q")
                assert result.status == 1, (text, result.err)
                assert "schema.sql, line 2: " in result.err, result.err
                assert why in result.err
                assert database.state() == before
            (work / "exports/schema.sql").write_text(script)
            result = run("restore", "--env-file", env, "--json")
            assert result.status == 0, result.err
            found: dict[int, str] = {
                each["line"]: each["reason"]
                for each in json.loads(result.out)["skipped"]
            }
            for line, (text, why) in enumerate(SKIPPED, 2):
                assert bool(why) == (line in found), (text, found.get(line))
                assert why in found.get(line, ""), text
            assert database.fetch("SELECT count(*) FROM t") == [(1,)]
            assert database.fetch("SELECT count(*) FROM kept.old") == [(0,)]
    finally:
        server17.execute("".join(f"DROP ROLE {role};" for role in roles))


def test_skips_are_reported_by_line() -> None:
    skips = [er.Skip(line, "why") for line in range(1, 12)] + [er.Skip(99, "other")]
    assert er.render_skips(skips, "schema.sql") == [
        "skipped in schema.sql, lines 1, 2, 3, 4, 5, 6, 7, 8 and 3 more: why",
        "skipped in schema.sql, line 99: other",
    ]


DUMP_LIKE = """\ufeff--
-- PostgreSQL database dump
--
\\restrict nCeXyZ

SET statement_timeout = 0;
SET no_such_timeout = 0;
SET client_encoding = 'UTF8';
SELECT pg_catalog.set_config('search_path', '', false);
BEGIN;
DROP SCHEMA IF EXISTS public;
CREATE SCHEMA public;
ALTER SCHEMA public OWNER TO somebody_else;
CREATE TABLE public.t (
    id integer NOT NULL
);
ALTER TABLE public.t OWNER TO somebody_else;
SET default_tablespace = '';
CREATE FUNCTION public.f() RETURNS integer LANGUAGE sql
    BEGIN ATOMIC SELECT 1; END;
GRANT SELECT ON TABLE public.t TO somebody_else;
REVOKE ALL ON TABLE public.t FROM PUBLIC;
COMMIT;
\\unrestrict nCeXyZ
"""


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_a_foreign_dump(source: Database, work: Path, run: Run, newline: str) -> None:
    (work / "exports").mkdir()
    (work / "exports/schema.sql").write_text(
        DUMP_LIKE, encoding="utf-8", newline=newline
    )
    (work / "exports/t.csv").write_text("id\n1\n")
    before = source.fetch(
        "SELECT nspacl::text FROM pg_namespace WHERE nspname = 'public'"
    )
    result = run("restore", "--env-file", source.env_file(work))
    assert result.status == 0, result.err
    assert result.err.splitlines()[4:] == [
        "skipped in schema.sql, line 7: unrecognized configuration parameter "
        '"no_such_timeout"',
        "skipped in schema.sql, lines 10, 23: the restore is a transaction already",
        "skipped in schema.sql, line 11: the schema public stays; "
        "dropping it would lose its grants",
        'skipped in schema.sql, lines 13, 17, 21: role "somebody_else" does not exist',
    ]
    assert source.fetch("SELECT * FROM public.t") == [(1,)]
    assert source.fetch("SELECT public.f()") == [(1,)]
    after = source.fetch(
        "SELECT nspacl::text FROM pg_namespace WHERE nspname = 'public'"
    )
    assert after == before


def test_bare_names_follow_the_role(
    source: Database, work: Path, succeed: Succeed
) -> None:
    """schema.sql without schemas goes where the role's search_path leads."""
    source.execute("CREATE SCHEMA app")
    source.execute(f"ALTER DATABASE {source.name} SET search_path = app, public")
    (work / "exports").mkdir()
    (work / "exports/schema.sql").write_text("CREATE TABLE t (id serial)")
    (work / "exports/app.t.csv").write_text("id\n5\n")
    succeed("restore", "--env-file", source.env_file(work))
    assert source.fetch("INSERT INTO app.t DEFAULT VALUES RETURNING id") == [(6,)]


def test_rows_in_the_script_are_refused_clearly(
    source: Database, work: Path, fail: Callable[..., str]
) -> None:
    """A full dump has COPY blocks, with quotes that open nowhere."""
    (work / "exports").mkdir()
    (work / "exports/schema.sql").write_text(
        "CREATE TABLE t (a text);\nCOPY public.t (a) FROM stdin;\nit's $1$\n\\.\n"
    )
    (work / "exports/t.csv").write_text("a\n")
    message = fail(2, "restore", "--env-file", source.env_file(work))
    assert "line 2: COPY … FROM stdin carries rows" in message
    assert "pg_dump --schema-only" in message


def test_tables_outside_keep_their_foreign_keys(
    source: Database, work: Path, succeed: Succeed, fail: Callable[..., str]
) -> None:
    """outside -> inside: DROP … CASCADE takes the key; the restore brings it back."""
    schema = (
        "DROP TABLE IF EXISTS inside CASCADE; CREATE TABLE inside (id int PRIMARY KEY)"
    )
    (work / "schema.sql").write_text(schema)
    source.execute(schema + "; INSERT INTO inside VALUES (1)")
    env = source.env_file(work)
    succeed("export", "--env-file", env)
    source.execute(
        "CREATE TABLE outside (a int REFERENCES inside); INSERT INTO outside VALUES (1)"
    )
    before = source.state()
    succeed("restore", "--env-file", env)
    assert source.state() == before
    source.execute("INSERT INTO inside VALUES (2); INSERT INTO outside VALUES (2)")
    before = source.state()
    assert "outside_a_fkey" in fail(3, "restore", "--env-file", env)
    assert source.state() == before


def test_rows_that_the_schema_script_inserts_give_way(
    source: Database, target: Database, work: Path, succeed: Succeed, run: Run
) -> None:
    """A lookup table filled by schema.sql must not be filled twice."""
    schema = (
        "CREATE TABLE kind (id serial PRIMARY KEY, name text);"
        "CREATE TABLE thing (kind int REFERENCES kind DEFERRABLE INITIALLY DEFERRED);"
        "INSERT INTO kind (name) VALUES ('a'), ('b'); INSERT INTO thing VALUES (1);"
    )
    (work / "schema.sql").write_text(schema)
    source.execute(schema + "DELETE FROM kind WHERE id = 2; UPDATE kind SET name = 'A'")
    succeed("export", "--env-file", source.env_file(work))
    result = run("restore", "--env-file", target.env_file(work))
    assert result.status == 0, result.err
    said = "the snapshot's rows replace those of schema.sql: kind, thing\n"
    assert said in result.err
    assert target.state() == source.state()


def test_what_cascade_takes_stops_a_restore(
    source: Database, work: Path, succeed: Succeed, fail: Fail, run: Run
) -> None:
    schema = "DROP TABLE IF EXISTS t CASCADE; CREATE TABLE t (id int PRIMARY KEY)"
    (work / "schema.sql").write_text(schema)
    source.execute(schema)
    succeed("export", "--env-file", source.env_file(work))
    source.execute("CREATE VIEW on_top AS SELECT * FROM t")
    env = source.env_file(work)
    message = fail(3, "restore", "--env-file", env)
    cause = "DROP TABLE IF EXISTS t CASCADE"
    assert f"view on_top goes with {cause}, and is not made again\n" in message
    result = run("restore", "--env-file", env, "--accept-drift")
    assert "dropped by schema.sql: view on_top\n" in result.err


def test_the_next_value_is_above_every_id(
    source: Database, target: Database, work: Path, succeed: Succeed
) -> None:
    """Ids given out stay given out; a sequence behind its data catches up."""
    schema = """
        CREATE TABLE ahead (id serial PRIMARY KEY); CREATE TABLE behind (id serial);
        CREATE TABLE down (id int); CREATE SEQUENCE falling INCREMENT -1;
        ALTER TABLE down ALTER id SET DEFAULT nextval('falling');
    """
    (work / "schema.sql").write_text(schema)
    source.execute(
        schema + "INSERT INTO ahead SELECT FROM generate_series(1, 9);"
        "DELETE FROM ahead WHERE id > 2; INSERT INTO behind VALUES (50);"
        "INSERT INTO down VALUES (-50)"
    )
    succeed("export", "--env-file", source.env_file(work))
    succeed("restore", "--env-file", target.env_file(work))
    for table, expected in (("ahead", 10), ("behind", 51), ("down", -51)):
        query = f"INSERT INTO {table} DEFAULT VALUES RETURNING id"
        assert target.fetch(query) == [(expected,)]


def test_a_failed_restore_does_not_move_a_sequence(
    source: Database, work: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """setval is not transactional on a sequence that was there before."""
    schema = (
        "CREATE SEQUENCE IF NOT EXISTS stays; DROP TABLE IF EXISTS t;"
        "CREATE TABLE t (id int DEFAULT nextval('stays'))"
    )
    (work / "schema.sql").write_text(schema)
    source.execute(schema + "; INSERT INTO t DEFAULT VALUES; INSERT INTO t VALUES (70)")
    env = source.env_file(work)
    assert run("export", "--env-file", env).status == 0
    source.execute("SELECT setval('stays', 30)")
    before = source.state()

    def refuse(*_: object) -> None:
        raise er.SnapshotError("no", hint="no")

    with monkeypatch.context() as patch:
        patch.setattr(er.Database, "commit", refuse)
        assert run("restore", "--env-file", env).status == 1
    assert source.state() == before
    assert run("restore", "--env-file", env).status == 0
    assert source.sequences() == {"public.stays": (70, True)}


def test_public_dropped_with_all_that_is_in_it(
    source: Database, work: Path, succeed: Succeed
) -> None:
    """The usual first lines of a hand-written script."""
    schema = "DROP SCHEMA public CASCADE; CREATE SCHEMA public; CREATE TABLE t (a int)"
    (work / "schema.sql").write_text(schema)
    source.execute(schema)
    env = source.env_file(work)
    succeed("export", "--env-file", env)
    for _ in "12":
        succeed("restore", "--env-file", env)


def test_rows_that_no_csv_brings_back_are_not_dropped(
    source: Database, work: Path, succeed: Succeed, fail: Callable[..., str]
) -> None:
    """A partial snapshot over the whole database."""
    schema = (
        "DROP TABLE IF EXISTS t; DROP TABLE IF EXISTS audit;"
        "CREATE TABLE t (a int); CREATE TABLE audit (a int)"
    )
    (work / "schema.sql").write_text(schema)
    source.execute(schema + "; INSERT INTO audit VALUES (1)")
    env = source.env_file(work)
    succeed("export", "--env-file", env, "--exclude", "audit")
    before = source.state()
    message = fail(3, "restore", "--env-file", env)
    assert "schema.sql drops audit; the snapshot lacks those rows" in message
    assert source.state() == before
    succeed("restore", "--env-file", env, "--accept-drift")
    assert source.fetch("SELECT count(*) FROM audit") == [(0,)]


def test_parts_that_cascade_takes_from_other_tables(
    source: Database, work: Path, succeed: Succeed, fail: Fail
) -> None:
    schema = (
        "DROP TABLE IF EXISTS t; DROP TYPE IF EXISTS mood CASCADE;"
        "CREATE TYPE mood AS ENUM ('ok'); CREATE TABLE t (m mood)"
    )
    (work / "schema.sql").write_text(schema)
    source.execute(schema)
    env = source.env_file(work)
    succeed("export", "--env-file", env)
    source.execute("CREATE TABLE docs (m mood, x text); INSERT INTO docs VALUES ('ok')")
    before = source.state()
    message = fail(3, "restore", "--env-file", env)
    assert "column docs.m goes with DROP TYPE IF EXISTS mood CASCADE" in message
    assert source.state() == before


def test_setval_in_a_script_that_fails(source: Database, work: Path, run: Run) -> None:
    (work / "exports").mkdir()
    (work / "exports/schema.sql").write_text(
        "CREATE TABLE IF NOT EXISTS t (id serial); SELECT setval('t_id_seq', 1, false)"
    )
    (work / "exports/t.csv").write_text("id\n1\n")
    source.execute("CREATE TABLE t (id serial); INSERT INTO t DEFAULT VALUES")
    before = source.state()
    result = run("restore", "--env-file", source.env_file(work), "-q", "--yes")
    assert result.status == 1
    assert "not empty" in result.err
    assert source.state() == before


def test_nothing_of_a_script_stays_in_its_session(
    source: Database, work: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a pooler the next client would get it."""
    left: list[object] = []

    def look(db: Any, _: object) -> None:
        left.append(db.fetch("SELECT current_user = session_user"))
        left.append(db.fetch("SELECT count(*) FROM pg_prepared_statements"))
        left.append(
            db.fetch("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'")
        )
        left.append(db.fetch("SELECT to_regclass('pg_temp.passing') IS NULL"))

    monkeypatch.setattr(er.Database, "analyze", look)
    (work / "exports").mkdir()
    (work / "exports/schema.sql").write_text(
        "CREATE TABLE t (a int); PREPARE p AS SELECT 1; SELECT pg_advisory_lock(42);"
        "CREATE TEMP TABLE passing (a int); SET ROLE pg_database_owner; RESET ROLE;"
    )
    (work / "exports/t.csv").write_text("a\n1\n")
    assert run("restore", "--env-file", source.env_file(work)).status == 0
    assert left == [[(True,)], [(0,)], [(0,)], [(True,)]]


def test_extension_of_another_role(server17: Server, work: Path, run: Run) -> None:
    """As on Supabase: the provider owns the extension, and we own the tables."""
    schema = (
        "DROP TABLE IF EXISTS t; DROP EXTENSION IF EXISTS hstore;\n"
        "CREATE EXTENSION IF NOT EXISTS hstore WITH SCHEMA public;\n"
        "COMMENT ON EXTENSION hstore IS 'pairs';\n"
        "CREATE TABLE t (id int PRIMARY KEY, a hstore);\n"
    )
    server17.execute("CREATE ROLE tenant LOGIN")
    (work / "exports").mkdir()
    (work / "exports/schema.sql").write_text(schema)
    (work / "exports/t.csv").write_text('id,a\n1,"""a""=>""b"""\n')
    try:
        with server17.database("OWNER tenant") as database:
            database.execute("CREATE EXTENSION hstore")
            env = database.env_file(work, DB_USER="tenant")
            result = run("restore", "--env-file", env)
            assert result.status == 0, result.err
            assert "line 3: must be owner of extension hstore\n" in result.err
            assert database.fetch("SELECT a -> 'a' FROM t") == [("b",)]
    finally:
        server17.execute("DROP ROLE tenant")
