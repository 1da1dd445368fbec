"""schema.sql from anywhere: what is skipped, what it must not break."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from commands import Place, by_hand, place
from servers import Server

import export_restore as er

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
    # As on Supabase: the provider owns the extension, and we the tables.
    ("CREATE EXTENSION IF NOT EXISTS hstore WITH SCHEMA public", ""),
    ("ALTER TABLE t ADD COLUMN pairs hstore", ""),
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


def test_what_the_server_may_refuse(server17: Server, work: Path) -> None:
    """The server says what cannot be; the rest of the script is run all the same."""
    roles = ("boss", "friend", "me")
    server17.execute("".join(f"CREATE ROLE {role} LOGIN;" for role in roles))
    script = "CREATE TABLE t (id int); CREATE FUNCTION f(int, text) RETURNS int"
    script += " LANGUAGE sql AS 'SELECT 1';\n"
    script += "".join(f"{text};\n" for text, _ in SKIPPED)
    try:
        with place(server17, "OWNER me") as database:
            database.execute(
                "CREATE EXTENSION hstore; ALTER SCHEMA public OWNER TO postgres;"
                "GRANT ALL ON SCHEMA public TO me; GRANT friend TO me;"
                "CREATE SCHEMA kept AUTHORIZATION me; CREATE TABLE kept.old (a int)"
            )
            me = database.but(DB_USER="me")
            for text, why in REFUSED:
                by_hand(f"CREATE TABLE t (id int);\n{text};", t="id\n1\n")
                message = me.refuse(1, "restore")
                assert "schema.sql, line 2: " in message
                assert why in message
            by_hand(script, t='id,pairs\n1,"""a""=>""b"""\n')
            result = me.call("restore", "--json")
            assert result.status == 0, result.err
            found: dict[int, str] = {
                each["line"]: each["reason"]
                for each in json.loads(result.out)["skipped"]
            }
            for line, (text, why) in enumerate(SKIPPED, 2):
                assert bool(why) == (line in found), (text, found.get(line))
                assert why in found.get(line, ""), text
            assert database.fetch("SELECT id, pairs -> 'a' FROM t") == [(1, "b")]
            assert database.fetch("SELECT count(*) FROM kept.old") == [(0,)]
    finally:
        server17.execute("".join(f"DROP ROLE {role};" for role in roles))


DUMP_LIKE = (
    """\ufeff--
-- PostgreSQL database dump
--
\\restrict nCeXyZ

SET statement_timeout = 0;
SET no_such_timeout = 0;
SET client_encoding = LATIN1; SET DateStyle = 'SQL, DMY';
SELECT pg_catalog.set_config('search_path', '', false);
BEGIN;
DROP SCHEMA IF EXISTS public;
CREATE SCHEMA public;
ALTER SCHEMA public OWNER TO somebody_else;
CREATE TABLE public.t (
    id integer NOT NULL, day date, word text
);
ALTER TABLE public.t OWNER TO somebody_else;
SET default_tablespace = '';
CREATE FUNCTION public.f() RETURNS integer LANGUAGE sql
    BEGIN ATOMIC SELECT 1; END;
REVOKE ALL ON TABLE public.t FROM PUBLIC;
COMMIT;
"""
    + "GRANT SELECT ON TABLE public.t TO somebody_else;\n" * 8
    + "\\unrestrict nCeXyZ\n"
)


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_a_foreign_dump(source: Place, newline: str) -> None:
    """Its settings are not those under which the rows are read."""
    by_hand(DUMP_LIKE.replace("\n", newline), t="id,day,word\n1,02/01/2026,é\n")
    grants = "SELECT nspacl::text FROM pg_namespace WHERE nspname = 'public'"
    before = source.fetch(grants)
    told = source.told(0, "restore")
    assert told.splitlines()[4:] == [
        "skipped in schema.sql, line 7: unrecognized configuration parameter "
        '"no_such_timeout"',
        "skipped in schema.sql, lines 10, 22: the restore is a transaction already",
        "skipped in schema.sql, line 11: the schema public stays; "
        "dropping it would lose its grants",
        "skipped in schema.sql, lines 13, 17, 23, 24, 25, 26, 27, 28 and 2 more: "
        'role "somebody_else" does not exist',
    ]
    rows = source.fetch("SELECT id, day::text, word, public.f() FROM public.t")
    assert rows == [(1, "2026-02-01", "é", 1)]
    assert source.fetch(grants) == before


def test_bare_names_follow_the_role(source: Place) -> None:
    """schema.sql without schemas goes where the role's search_path leads."""
    source.execute("CREATE SCHEMA app")
    source.execute(f"ALTER DATABASE {source.name} SET search_path = app, public")
    by_hand("CREATE TABLE t (id serial)", **{"app.t": "id\n5\n"})
    source.succeed("restore")
    assert source.fetch("INSERT INTO app.t DEFAULT VALUES RETURNING id") == [(6,)]


def test_tables_outside_keep_their_foreign_keys(source: Place) -> None:
    """outside -> inside: DROP … CASCADE takes the key; the restore brings it back."""
    schema = (
        "DROP TABLE IF EXISTS inside CASCADE; CREATE TABLE inside (id int PRIMARY KEY)"
    )
    source.make(schema, "INSERT INTO inside VALUES (1)")
    source.succeed("export")
    source.execute(
        "CREATE TABLE outside (a int REFERENCES inside); INSERT INTO outside VALUES (1)"
    )
    with source.untouched():
        source.succeed("restore")
    source.execute("INSERT INTO inside VALUES (2); INSERT INTO outside VALUES (2)")
    assert "outside_a_fkey" in source.refuse(3, "restore")


def test_rows_that_the_schema_script_inserts_give_way(
    source: Place, target: Place
) -> None:
    """A lookup table filled by schema.sql must not be filled twice."""
    source.make(
        "CREATE TABLE kind (id serial PRIMARY KEY, name text);"
        "CREATE TABLE thing (kind int REFERENCES kind DEFERRABLE INITIALLY DEFERRED);"
        "INSERT INTO kind (name) VALUES ('a'), ('b'); INSERT INTO thing VALUES (1);",
        "DELETE FROM kind WHERE id = 2; UPDATE kind SET name = 'A'",
    )
    source.succeed("export")
    told = target.told(0, "restore")
    said = "the snapshot's rows replace those of schema.sql: kind, thing\n"
    assert said in told
    assert target.state() == source.state()


# What the script drops, what others have made meanwhile, and what is said then; with
# --accept-drift, too.
ENDANGERED = (
    ("DROP TABLE IF EXISTS t CASCADE; CREATE TABLE t (id int PRIMARY KEY)",
     "CREATE VIEW on_top AS SELECT * FROM t",
     "view on_top goes with DROP TABLE IF EXISTS t CASCADE, and is not made again\n",
     "dropped by schema.sql: view on_top\n"),
    ("DROP TABLE IF EXISTS t; DROP TYPE IF EXISTS mood CASCADE;"
     "CREATE TYPE mood AS ENUM ('ok'); CREATE TABLE t (m mood)",
     "CREATE TABLE docs (m mood, x text); INSERT INTO docs VALUES ('ok')",
     "column docs.m goes with DROP TYPE IF EXISTS mood CASCADE",
     "dropped by schema.sql: column docs.m\n"),
    ("DROP TABLE IF EXISTS t; DROP TYPE IF EXISTS mood CASCADE;"
     "CREATE TYPE mood AS ENUM ('ok'); CREATE TABLE t (m mood)",
     "CREATE FUNCTION cheer(mood) RETURNS text LANGUAGE sql RETURN 'hey'",
     "function cheer(public.mood) goes",
     "dropped by schema.sql: function cheer(public.mood)"),
    # A partial snapshot over the whole database.
    ("DROP TABLE IF EXISTS t; DROP TABLE IF EXISTS audit;"
     "CREATE TABLE t (a int); CREATE TABLE audit (a int)",
     "INSERT INTO audit VALUES (1)",
     "schema.sql drops audit; the snapshot lacks those rows", ""),
)  # fmt: skip


@pytest.mark.parametrize("schema, meanwhile, said, accepted", ENDANGERED)
def test_what_the_script_would_take(
    source: Place, schema: str, meanwhile: str, said: str, accepted: str
) -> None:
    source.make(schema)
    source.succeed("export", "--tables", "t")
    source.execute(meanwhile)
    assert said in source.refuse(3, "restore")
    result = source.call("restore", "--accept-drift")
    assert (result.status, accepted in result.err) == (0, True), result.err


def test_the_next_value_is_above_every_id(source: Place, target: Place) -> None:
    """Ids given out stay given out; a sequence behind its data catches up."""
    source.make(
        "CREATE TABLE ahead (id serial PRIMARY KEY); CREATE TABLE behind (id serial);"
        "CREATE TABLE down (id int); CREATE SEQUENCE falling INCREMENT -1;"
        "ALTER TABLE down ALTER id SET DEFAULT nextval('falling');",
        "INSERT INTO ahead SELECT FROM generate_series(1, 9);"
        "DELETE FROM ahead WHERE id > 2; INSERT INTO behind VALUES (50);"
        "INSERT INTO down VALUES (-50)",
    )
    source.succeed("export")
    target.succeed("restore")
    target.succeed("verify")  # what the restore has raised is no difference
    for table, expected in (("ahead", 10), ("behind", 51), ("down", -51)):
        query = f"INSERT INTO {table} DEFAULT VALUES RETURNING id"
        assert target.fetch(query) == [(expected,)]


def test_a_failed_restore_does_not_move_a_sequence(
    source: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """setval is not transactional on a sequence that was there before."""
    source.make(
        "CREATE SEQUENCE IF NOT EXISTS stays; DROP TABLE IF EXISTS t;"
        "CREATE TABLE t (id int DEFAULT nextval('stays'))",
        "INSERT INTO t DEFAULT VALUES; INSERT INTO t VALUES (70)",
    )
    source.succeed("export")
    source.execute("SELECT setval('stays', 30)")

    def refuse(*_: object) -> None:
        raise er.SnapshotError("no", hint="no")

    with monkeypatch.context() as patch:
        patch.setattr(er.Database, "commit", refuse)
        source.refuse(1, "restore")
    source.succeed("restore")
    assert source.sequences() == {"public.stays": (70, True)}


def test_setval_in_a_script_that_fails(source: Place) -> None:
    by_hand(
        "CREATE TABLE IF NOT EXISTS t (id serial); SELECT setval('t_id_seq', 1, false)",
        t="id\n1\n",
    )
    source.execute("CREATE TABLE t (id serial); INSERT INTO t DEFAULT VALUES")
    assert "not empty" in source.refuse(1, "restore", "--yes")


def test_public_dropped_with_all_that_is_in_it(source: Place) -> None:
    """The usual first lines of a hand-written script."""
    source.make("DROP SCHEMA public CASCADE; CREATE SCHEMA public; CREATE TABLE t ()")
    source.succeed("export")
    for _ in "12":
        source.succeed("restore")
