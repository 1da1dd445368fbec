"""Owners: what runs as somebody must not run as somebody else after a restore."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from commands import Place
from conftest import old_and_new
from servers import Database

DROPS = """
DROP MATERIALIZED VIEW IF EXISTS filled; DROP VIEW IF EXISTS shown, asked;
DROP FUNCTION IF EXISTS acts; DROP FUNCTION IF EXISTS asks;
DROP TABLE IF EXISTS t, ruled; DROP TYPE IF EXISTS mood, pair;
DROP SEQUENCE IF EXISTS s; DROP COLLATION IF EXISTS c; DROP CONVERSION IF EXISTS "C";
DROP TEXT SEARCH CONFIGURATION IF EXISTS cfg; DROP TEXT SEARCH DICTIONARY IF EXISTS d;
DROP OPERATOR IF EXISTS === (int, int);
"""
SCHEMA = """
CREATE TYPE mood AS ENUM ('glad'); CREATE TYPE pair AS (a int);
CREATE SEQUENCE s; CREATE TABLE t (id serial PRIMARY KEY); CREATE TABLE ruled (a int);
CREATE RULE also AS ON INSERT TO ruled DO ALSO INSERT INTO t DEFAULT VALUES;
CREATE VIEW shown AS SELECT * FROM t; CREATE MATERIALIZED VIEW filled AS SELECT 1 AS a;
CREATE VIEW asked WITH ({invoker}) AS SELECT * FROM t;
CREATE FUNCTION acts() RETURNS int LANGUAGE sql SECURITY DEFINER AS 'SELECT 1';
CREATE FUNCTION asks() RETURNS int LANGUAGE sql AS 'SELECT 1';
CREATE COLLATION c FROM "C"; CREATE CONVERSION "C" FOR 'LATIN1' TO 'UTF8'
    FROM iso8859_1_to_utf8;
CREATE TEXT SEARCH CONFIGURATION cfg (COPY = simple);
CREATE TEXT SEARCH DICTIONARY d (TEMPLATE = simple);
CREATE OPERATOR === (FUNCTION = int4eq, LEFTARG = int, RIGHTARG = int);
CREATE STATISTICS more ON id, (id + 1) FROM t;
"""
THINGS = (
    "TYPE mood", "TYPE pair", "SEQUENCE s", "TABLE t", "TABLE ruled", "VIEW shown",
    "MATERIALIZED VIEW filled", "VIEW asked", "FUNCTION acts()", "FUNCTION asks()",
    "COLLATION c", 'CONVERSION "C"', "TEXT SEARCH CONFIGURATION cfg",
    "TEXT SEARCH DICTIONARY d", "OPERATOR === (int, int)", "STATISTICS more",
)  # fmt: skip
# What takes a superuser to make.
FAMILY = """
DROP OPERATOR FAMILY IF EXISTS fam USING btree; CREATE OPERATOR FAMILY fam USING btree;
CREATE OPERATOR CLASS cls FOR TYPE int USING btree FAMILY fam AS FUNCTION 1 btint4cmp;
"""
ACTS = ("shown", "filled", "ruled", "acts()")


def owners(database: Database) -> str:
    """Return what pg_dump says of owners."""
    lines = database.pg_dump("--no-privileges").splitlines()
    return "\n".join(line for line in lines if " OWNER TO " in line)


@pytest.fixture
def owned(source: Place) -> Iterator[Place]:
    """All belongs to a role that may not create things in the schema public."""
    schema = SCHEMA.format(invoker="security_invoker = on")
    Path("schema.sql").write_text(DROPS + schema)
    source.execute("CREATE ROLE app; CREATE ROLE boss LOGIN IN ROLE app")
    source.execute(schema)
    for thing in THINGS:
        source.execute(f"ALTER {thing} OWNER TO app")
    source.execute("REVOKE CREATE ON SCHEMA public FROM PUBLIC")
    source.execute("GRANT CREATE, USAGE ON SCHEMA public TO boss")
    yield source
    source.execute("DROP OWNED BY app, boss CASCADE")
    source.server.execute("DROP ROLE boss; DROP ROLE app")


@old_and_new
def test_a_superuser_gives_every_owner_back(owned: Place) -> None:
    file = Path("schema.sql")
    file.write_text(file.read_text() + FAMILY)
    owned.execute(FAMILY + "ALTER OPERATOR CLASS cls USING btree OWNER TO app")
    before = owners(owned)
    owned.succeed("export")
    for _ in range(2):
        owned.quiet("restore")
        assert owners(owned) == before


@old_and_new
def test_what_runs_as_its_owner_stops_the_restore(owned: Place) -> None:
    """A plain role cannot give it back: the owner may not create in the schema.

    It may be lost on purpose.
    """
    boss = owned.but(DB_USER="boss")
    boss.succeed("export")
    for name in ACTS:
        before = owners(owned)
        told = boss.told(3, "restore", "-q")
        assert "belongs to boss, not app, and runs as its owner\n" in told
        assert owners(owned) == before
        kind = next(each for each in THINGS if each.endswith(f" {name}"))
        owned.execute(f"ALTER {kind} OWNER TO boss")
    told = boss.told(0, "restore")
    for name in ("t", "asked", "asks()", "t"):
        assert f"note: public.{name} belongs to boss, not app\n" in told
    for name in ACTS:
        kind = next(each for each in THINGS if each.endswith(f" {name}"))
        owned.execute(f"ALTER {kind} OWNER TO app")
    told = boss.told(0, "restore", "--accept-drift")
    for name in ACTS:
        assert f"note: public.{name} belongs to boss, not app\n" in told
