"""The catalog is compared by meaning: PostgreSQL prints one thing in many ways."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from cases import forge_catalog
from commands import Place, place
from conftest import OLD_AND_NEW, old_and_new
from servers import Server

BASE = """
    CREATE TABLE base (id int PRIMARY KEY, s varchar, n int);
    CREATE TABLE ruled (id int, s varchar, n int);
    CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
"""
# As it was typed, and as PostgreSQL prints that, or prints what it has printed.
SAME = (
    ("{s} IN ('a', 'b')",
     "(({s})::text = ANY (ARRAY[('a'::character varying)::text,"
     " ('b'::character varying)::text]))"),
    ("{s} NOT IN ('x', 'y')",
     "(({s})::text <> ALL ((ARRAY['x'::character varying,"
     " 'y'::character varying])::text[]))"),
    ("{n} BETWEEN 1 AND 9 AND {n} BETWEEN 2 AND 8",
     "((({n} >= 1) AND ({n} <= 9)) AND (({n} >= 2) AND ({n} <= 8)))"),
    ("{n} NOT BETWEEN 3 AND 4 OR {n} IS NULL",
     "((({n} < 3) OR ({n} > 4)) OR ({n} IS NULL))"),
)  # fmt: skip
OTHER = (
    ("({n} > 1 OR {n} < 5) AND {n} <> 3", "{n} > 1 OR ({n} < 5 AND {n} <> 3)"),
    ("{n} <= 3", "{n} < 3"),
    ("{s} = 'abc'", "{s}::varchar(1) = 'abc'"),
    ("{s} < 'b'", "{s} COLLATE \"C\" < 'b'"),
    ("{s} IN ('a', 'b')", "{s} IN ('a', 'B')"),
)
KINDS = {
    "check": "CREATE TABLE {name} (s varchar, n int, CONSTRAINT {name} CHECK ({e}))",
    "domain": "CREATE DOMAIN {name} AS {type} CONSTRAINT {name} CHECK ({value})",
    "partial": "CREATE INDEX {name} ON base (n) WHERE {e}",
    "expression": "CREATE INDEX {name} ON base (id, ({e}))",
    "exclude": "CREATE TABLE {name} (s varchar, n int,"
    " CONSTRAINT {name}_x EXCLUDE USING btree (n WITH =) WHERE ({e}))",
    "stored": "CREATE TABLE {name} (s varchar, n int,"
    " g boolean GENERATED ALWAYS AS ({e}) STORED)",
    "ready": "CREATE TABLE {name} (a boolean DEFAULT ({constant}))",
    "shown": "CREATE VIEW {name} AS SELECT n FROM base WHERE {e}",
    "kept": "CREATE MATERIALIZED VIEW {name} AS SELECT n FROM base WHERE {e}",
    "ruling": "CREATE RULE {name} AS ON INSERT TO ruled"
    " WHERE {new} DO ALSO DELETE FROM base",
    "policy": "CREATE POLICY {name} ON base USING ({e}) WITH CHECK ({e})",
    "trigger": "CREATE TRIGGER {name} BEFORE UPDATE ON base FOR EACH ROW"
    " WHEN (({new}) AND old.id = new.id) EXECUTE FUNCTION touch()",
    "statistics": "CREATE STATISTICS {name} ON n, ({e}) FROM base",
    "parted": "CREATE TABLE {name} (s varchar, n int) PARTITION BY LIST (({e}))",
    "atomic": "CREATE FUNCTION {name}(s varchar, n int) RETURNS boolean LANGUAGE sql"
    " BEGIN ATOMIC SELECT {e}; END",
}


def schema(pairs: tuple[tuple[str, str], ...], side: int) -> dict[str, str]:
    """Return a statement for each kind of object and each pair, by its name."""
    found = {}
    for kind, (number, pair) in itertools.product(KINDS, enumerate(pairs)):
        e = pair[side]
        found[f"{kind}_{number}"] = KINDS[kind].format(
            name=f"{kind}_{number}",
            e=e.format(s="s", n="n"),
            new=e.format(s="new.s", n="new.n"),
            value=e.format(s="VALUE", n="VALUE"),
            constant=e.format(s="'q'::varchar", n="7"),
            type="varchar" if "{s}" in e else "int",
        )
    return found


def script(statements: dict[str, str]) -> str:
    return BASE + ";\n".join(statements.values())


@old_and_new
def test_the_same_meaning(source: Place, target: Place) -> None:
    """60 pairs of texts: the database has the one, schema.sql the other."""
    source.make(script(schema(SAME, 0)), script=script(schema(SAME, 1)))
    source.succeed("export")
    for command in ("restore", "verify", "rehearse"):
        target.succeed(command)


@old_and_new
def test_another_meaning(source: Place, target: Place) -> None:
    """75 pairs: every one is named, and before the rows."""
    statements, other = schema(OTHER, 0), script(schema(OTHER, 1))
    source.make(script(statements), script=other)
    source.succeed("export")
    restored = target.call("restore", "-q")
    target.execute(other)
    verified = target.call("verify", "-q")
    assert (restored.status, verified.status) == (3, 3)
    for text in (restored.err, verified.out):
        assert [name for name in statements if name not in text] == []


# What each version prints in its own way.
PRINTED_BY_VERSION = """;
    CREATE TYPE pair AS (a int, b int);
    CREATE FUNCTION as_json(pair) RETURNS json LANGUAGE sql IMMUTABLE
        AS 'SELECT row_to_json($1)';
    CREATE CAST (pair AS json) WITH FUNCTION as_json(pair);
    CREATE FUNCTION size(json) RETURNS int LANGUAGE sql IMMUTABLE
        AS 'SELECT length($1::text)';
    COMMENT ON FUNCTION size(json) IS 'in characters';
    CREATE OPERATOR @@ (RIGHTARG = json, FUNCTION = size);
    CREATE FUNCTION later(json, json) RETURNS json LANGUAGE sql AS 'SELECT $2';
    CREATE AGGREGATE last_json(json) (SFUNC = later, STYPE = json);
    CREATE TABLE counted (n int GENERATED BY DEFAULT AS IDENTITY, k int)
        PARTITION BY LIST (k);
    CREATE TABLE counted_1 PARTITION OF counted FOR VALUES IN (1);
"""


@pytest.fixture
def newer(server18: Server) -> Iterator[Place]:
    with place(server18) as database:
        yield database


@pytest.mark.parametrize("server", OLD_AND_NEW[:2], indirect=True)
def test_between_versions(source: Place, newer: Place) -> None:
    """There and back; and what means another thing there is seen."""
    one, two = (script(schema(SAME, side)) + PRINTED_BY_VERSION for side in (0, 1))
    source.make(one, script=two)
    source.succeed("export")
    newer.succeed("restore")
    newer.succeed("verify")
    newer.succeed("export")
    source.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
    source.succeed("restore")
    newer.execute("CREATE OR REPLACE VIEW shown_0 AS SELECT n FROM base WHERE s = 'a'")
    assert "shown_0" in newer.call("verify").out


@pytest.fixture
def differing(source: Place, target: Place) -> Place:
    """A database whose texts are not those of its snapshot, but mean the same."""
    source.make(script(schema(SAME, 0)))
    source.succeed("export")
    target.execute(script(schema(SAME, 1)))
    return target


def test_a_server_that_cannot_be_asked(differing: Place) -> None:
    """Who may only read is told that the texts differ, and why no more is known."""
    differing.execute("CREATE ROLE only_reads LOGIN IN ROLE pg_read_all_data BYPASSRLS")
    reader = differing.but(DB_USER="only_reads")
    try:
        differing.execute(
            f"REVOKE TEMP ON DATABASE {differing.name} FROM PUBLIC;"
            "REVOKE CREATE ON SCHEMA public FROM PUBLIC"
        )
        result = reader.call("verify")
        assert result.status == 3
        unknown = "whether they mean the same is not known: permission denied"
        assert unknown in result.out
        differing.execute("GRANT CREATE ON SCHEMA public TO only_reads")
        reader.told(0, "verify")
    finally:
        differing.execute("DROP OWNED BY only_reads; DROP ROLE only_reads")


def test_nothing_in_catalog_txt_is_run(differing: Place) -> None:
    """Its texts are read by the server, which must not do what they say."""
    evil = "‹n) AS a FROM base; CREATE TABLE evil (a int); SELECT (1›"
    text = Path("exports/catalog.txt").read_text(encoding="utf-8")
    for kind in ("check", "shown", "ruling", "atomic"):
        for line in re.findall(rf".*{kind}_0\b.*‹.*", text):
            forge_catalog(Path("exports"), line, re.sub("‹[^›]*›", evil, line))
    differing.told(3, "verify")
    assert differing.fetch("SELECT to_regclass('evil')") == [(None,)]


def test_a_refusal_comes_before_the_rows(source: Place, target: Place) -> None:
    """The CSV cannot be loaded either, which nobody finds out."""
    check = "CREATE TABLE t (a int CHECK (a {} 0));"
    source.make(check.format(">"), script=check.format(">="))
    source.succeed("export")
    Path("exports/t.csv").write_text("a\nno number\n")
    for option, line in (("-q", "-constraint t"), ("--accept-drift", "t.csv, line 2")):
        told = target.told(3, "restore", "--accept-edits", option)
        assert line in told.replace("public.", "")


def test_ends_of_lines_in_a_body(source: Place, target: Place) -> None:
    """A diff of two lines that look alike helps nobody."""
    body = (
        "CREATE FUNCTION f() RETURNS int LANGUAGE plpgsql AS 'BEGIN{0}RETURN 1;{0}END';"
        "CREATE TABLE t (a int)"
    )
    source.make(body.format("\r\n"), script=body.format("\n"))
    source.succeed("export")
    told = target.told(3, "restore", "-q")
    assert "BEGIN\\r\\nRETURN 1;\\r\\nEND" in told
    assert "function public.f(): only the ends of lines differ" in told
