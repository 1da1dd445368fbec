"""Rows: all of them, under one set of settings, whatever the planner makes of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cases import contents
from commands import Place
from conftest import OLD_AND_NEW, both_versions

import export_restore as er


@pytest.fixture
def tiny_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let tables go in parts, and indexes be set aside, whatever their size."""
    monkeypatch.setattr(er, "LARGE_TABLE", 1)
    monkeypatch.setattr(er, "LARGE_FILE", 0)


# ---- keys and parts


@pytest.mark.usefixtures("tiny_is_large")
def test_nulls_under_not_null(source: Place, target: Place) -> None:
    """Since 18 NOT NULL may be NOT VALID: such a column is no key."""
    source.execute(
        "CREATE TABLE target (a int, b int, UNIQUE (a, b));"
        "CREATE TABLE big (k int UNIQUE, v text);"
        "CREATE TABLE pairs (a int, b int, FOREIGN KEY (a, b) REFERENCES target (a, b)"
        ");"
        "CREATE TABLE parted (k int UNIQUE, v text) PARTITION BY RANGE (k);"
        "CREATE TABLE parted_1 PARTITION OF parted FOR VALUES FROM (0) TO (4000);"
        "CREATE TABLE parted_2 PARTITION OF parted DEFAULT;"
    )
    for table in ("big", "parted"):
        source.execute(
            f"INSERT INTO {table} SELECT i, i FROM generate_series(1, 5000) AS i;"
            f"INSERT INTO {table} SELECT NULL, i FROM generate_series(1, 100) AS i;"
            f"ALTER TABLE {table} ADD CONSTRAINT nn NOT NULL k NOT VALID"
        )
    source.execute("INSERT INTO pairs VALUES (NULL, 1)")
    for column in "ab":
        source.execute(f"ALTER TABLE pairs ADD NOT NULL {column} NOT VALID")
    source.succeed("schema")
    source.succeed("export", "--jobs", "2", "--rehearse")
    package = json.loads(Path("exports/datapackage.json").read_text())
    for each in package["resources"]:
        assert not {"primaryKey", "foreignKeys"} & each["schema"].keys()
        assert "required" not in str(each["schema"])
    for options in (["--checksum"], ["--data-only", "--yes"]):
        target.succeed("restore", *options)
        assert target.state() == source.state()
    assert target.fetch("SELECT count(*) FROM big WHERE k IS NULL") == [(100,)]
    target.execute("DELETE FROM big WHERE k IS NULL AND v = '7'")
    assert "big: 1 missing (k=NULL, v=7)\n" in target.call("verify", "-q").out


NO_NULLS = (
    "UPDATE pg_attribute SET attnotnull = {} "
    "WHERE attrelid = 'big'::regclass AND attname = 'k'"
)


@pytest.fixture
def nulls_in_a_key(source: Place) -> Place:
    """A table whose catalog is wrong: there are NULLs where it says that none are."""
    source.make(
        "CREATE TABLE big (k int UNIQUE, v text)",
        "INSERT INTO big SELECT i, md5(i::text) FROM generate_series(1, 5000) i;"
        "INSERT INTO big SELECT NULL, i FROM generate_series(1, 100) i;",
    )
    source.execute(NO_NULLS.format("true"))
    return source


@pytest.mark.usefixtures("tiny_is_large")
@pytest.mark.parametrize("server", [16], indirect=True)
def test_parts_that_are_not_the_whole(nulls_in_a_key: Place) -> None:
    message = nulls_in_a_key.fail(1, "export", "--jobs", "2")
    assert "the parts of big have 5,000 rows, the table 5,100" in message
    assert "--jobs 1" in message
    assert not contents(Path("exports"), "*.csv")
    nulls_in_a_key.succeed("export", "--jobs", "1")
    assert Path("exports/big.csv").read_bytes().count(b"\n") == 5101


@both_versions
def test_rows_with_null_for_a_key_are_compared_whole(nulls_in_a_key: Place) -> None:
    """Even if the manifest says that it is one."""
    nulls_in_a_key.succeed("export")

    def replace(old: str, new: str) -> None:
        nulls_in_a_key.execute(NO_NULLS.format("false"))
        nulls_in_a_key.execute("DELETE FROM big WHERE v = %s", [old])
        nulls_in_a_key.execute("INSERT INTO big (v) VALUES (%s)", [new])
        nulls_in_a_key.execute(NO_NULLS.format("true"))

    replace("7", "7")
    nulls_in_a_key.succeed("verify")
    replace("8", "x")
    result = nulls_in_a_key.call("verify", "-q")
    assert "big: 1 missing (k=NULL, v=8), 1 extra (k=NULL, v=x)" in result.out


# ---- what the planner opens up

# f is inlined, and what it calls by a bare name then has to be found.
BARE = """
    DROP MATERIALIZED VIEW IF EXISTS filled;
    DROP TABLE IF EXISTS refers, indexed, counted, parted, checked CASCADE;
    DROP OPERATOR IF EXISTS ||| (text, text);
    DROP DOMAIN IF EXISTS word;
    DROP FUNCTION IF EXISTS twice(text, text), f(text), helper(text);
    CREATE FUNCTION helper(text) RETURNS text IMMUTABLE LANGUAGE plpgsql
        AS 'BEGIN RETURN lower($1); END';
    CREATE FUNCTION f(text) RETURNS text IMMUTABLE LANGUAGE sql AS 'SELECT helper($1)';
    CREATE FUNCTION twice(text, text) RETURNS text IMMUTABLE LANGUAGE sql
        AS 'SELECT f($1 || $2)';
    CREATE OPERATOR ||| (LEFTARG = text, RIGHTARG = text, FUNCTION = twice);
    CREATE DOMAIN word AS text CHECK (f(VALUE) <> 'zz');
    CREATE TABLE counted (id int PRIMARY KEY, s text);
    CREATE INDEX ON counted (s);
    CREATE TABLE parted (id int, s text) PARTITION BY LIST (f(s));
    CREATE TABLE parted_a PARTITION OF parted FOR VALUES IN ('a', 'b');
    CREATE TABLE parted_rest PARTITION OF parted DEFAULT;
    CREATE TABLE checked (id int PRIMARY KEY, s word UNIQUE CHECK (f(s) <> 'yy'),
                          g text GENERATED ALWAYS AS (f(s) || 'x') STORED, r regclass);
    CREATE TABLE refers (id serial PRIMARY KEY, counted int REFERENCES counted);
    CREATE STATISTICS one ON (f(s)) FROM counted;
    CREATE STATISTICS two ON (s ||| s) FROM checked;
"""
# Since 17 nobody can make these: "a safe search_path" while an index is built.
INDEXES = """
    CREATE TABLE indexed (id int PRIMARY KEY, s text, r regclass);
    CREATE UNIQUE INDEX ON indexed (f(s), id);
    CREATE INDEX ON indexed (id) WHERE f(s) <> 'yy';
    CREATE INDEX ON indexed ((s ||| s));
    CREATE INDEX ON indexed (s);
    ALTER TABLE refers ADD indexed int REFERENCES indexed;
    CREATE INDEX ON parted (id);
    CREATE MATERIALIZED VIEW filled AS SELECT f(s) AS s FROM indexed;
    CREATE INDEX ON filled (f(s));
"""
WORDS = "SELECT i, chr(97 + i % 24) || i FROM generate_series(1, 3000) AS i"
ROWS = f"""
    INSERT INTO counted {WORDS};
    INSERT INTO parted {WORDS};
    INSERT INTO checked (id, s) {WORDS};
    INSERT INTO refers (counted) SELECT id FROM counted;
    UPDATE checked SET r = 'refers';
"""
INDEXED_ROWS = f"""
    INSERT INTO indexed {WORDS};
    UPDATE indexed SET r = 'refers';
    REFRESH MATERIALIZED VIEW filled;
    UPDATE refers SET indexed = 4 - id WHERE id < 4;
"""


@pytest.mark.usefixtures("tiny_is_large")
@pytest.mark.parametrize("server", [16, *OLD_AND_NEW], indirect=True)
def test_functions_that_call_others_by_bare_names(source: Place, target: Place) -> None:
    if source.server.version < 17:
        source.make(BARE + INDEXES, ROWS + INDEXED_ROWS)
    else:
        source.make(BARE, ROWS)
    for script in ("by hand", "by pg_dump"):
        if script == "by pg_dump":
            source.succeed("schema", "--force")
        source.succeed("export", "--jobs", "2")
        source.succeed("verify")
        for options in ((), ("--data-only",)):
            target.succeed("restore", "--yes", "--checksum", *options)
            assert target.state() == source.state()
            target.succeed("verify")
    target.succeed("export", "--dir", "again")
    assert contents(Path("again"), "*.csv") == contents(Path("exports"), "*.csv")


@pytest.mark.usefixtures("tiny_is_large")
@pytest.mark.parametrize("server", [17, 18], indirect=True)
def test_indexes_that_nobody_could_make_today(source: Place, target: Place) -> None:
    """Their function was another one then, or pg_upgrade brought them."""
    script = BARE + INDEXES
    sound = script.replace("SELECT helper", "SELECT public.helper")
    sound = sound.replace("SELECT f", "SELECT public.f")
    source.make(sound, ROWS + INDEXED_ROWS, script=script)
    source.execute(
        "CREATE OR REPLACE FUNCTION f(text) RETURNS text IMMUTABLE LANGUAGE sql "
        "AS 'SELECT helper($1)'"
    )
    source.succeed("export", "--jobs", "2")
    source.succeed("verify")
    message = target.fail(1, "restore")
    assert "line 26: function helper(text) does not exist" in message
    assert "ALTER FUNCTION f SET search_path = … in schema.sql" in message


ELSEWHERE = """
    DROP SCHEMA IF EXISTS app CASCADE;
    CREATE SCHEMA app;
    SET search_path = app;
    CREATE FUNCTION helper(text) RETURNS text IMMUTABLE LANGUAGE sql AS 'SELECT $1';
    CREATE FUNCTION f(text) RETURNS text IMMUTABLE LANGUAGE sql AS 'SELECT helper($1)';
    CREATE TABLE t (id int PRIMARY KEY, s text);
    CREATE INDEX ON t (f(s));
"""


@pytest.mark.parametrize("server", [16], indirect=True)
def test_names_that_another_role_finds(source: Place) -> None:
    """Who may read everything need not have the application's search_path."""
    source.make(ELSEWHERE, "SET search_path = app; INSERT INTO t VALUES (1, 'a')")
    source.succeed("export")
    source.succeed("verify")


# ---- names of objects

# As the server prints them under pg_catalog alone: public.names, but integer.
NAMES = """
    SET search_path = public;
    DROP TABLE IF EXISTS names, listed, kept CASCADE;
    DROP TYPE IF EXISTS pair CASCADE;
    DROP DOMAIN IF EXISTS place CASCADE;
    DROP FUNCTION IF EXISTS twice(int) CASCADE;
    DROP TEXT SEARCH CONFIGURATION IF EXISTS plain;
    CREATE FUNCTION twice(int) RETURNS int LANGUAGE sql AS 'SELECT $1 * 2';
    CREATE OPERATOR !!! (RIGHTARG = int, FUNCTION = twice);
    CREATE TEXT SEARCH CONFIGURATION plain (COPY = simple);
    CREATE TYPE pair AS (a regclass, b regtype);
    CREATE DOMAIN place AS regclass CHECK (VALUE <> 0);
    CREATE TABLE listed (what regclass PRIMARY KEY, note text);
    CREATE TABLE kept (kind regtype, which regproc, PRIMARY KEY (kind, which));
    CREATE TABLE names (
        id int PRIMARY KEY, a regclass, b regproc, c regprocedure, d regtype, e regoper,
        f regoperator, g regconfig, h regdictionary, i regcollation, j regrole,
        k regnamespace, l regclass[], m pair, n place);
"""
NAMED = """
    INSERT INTO names VALUES
        (1, 'names', 'twice', 'twice(int)', 'pair', '!!!', '!!!(NONE, int)', 'plain',
         'simple', 'pg_catalog."default"', 'postgres', 'public', '{names,pg_class}',
         '(names,pair[])', 'names'),
        (2, 'pg_class', 'now', 'abs(int)', 'int', '^@', '+(int, int)', 'english',
         'english_stem', '"C"', 'postgres', 'pg_catalog', '{}', '(pg_class,int)',
         'pg_class'),
        (3, '0', '0', '0', '0', '0', '0', '0', '0', '0', '0', '0', NULL, NULL, NULL);
    INSERT INTO listed VALUES ('names', 'c'), ('listed', 'b'), ('pg_class', 'a');
    INSERT INTO kept VALUES ('int', 'now'), ('pair', 'twice'), ('int', 'twice');
"""


@both_versions
def test_names_of_objects_come_back(source: Place, target: Place) -> None:
    """They are read and written under one search_path, whatever the role's own is."""
    source.make(NAMES, NAMED)
    source.execute(f"ALTER DATABASE {source.name} SET search_path = public, pg_catalog")
    source.succeed("export", "--rehearse")
    expected = contents(Path("exports"), "*.csv")
    first = b"1,public.names,public.twice,public.twice(integer),"
    assert first in expected["names.csv"]
    listed = b"what,note\npg_class,a\npublic.listed,b\npublic.names,c\n"
    assert expected["listed.csv"] == listed
    target.execute(f"ALTER DATABASE {target.name} SET search_path = ''")
    source.succeed("rehearse")
    for options in ((), ("--data-only",)):
        target.succeed("restore", "--checksum", "--yes", *options)
        target.succeed("verify")
    target.succeed("export", "--dir", "again")
    assert contents(Path("again"), "*.csv") == expected


# ---- checks that look beyond their row

BEYOND = """
    DROP TABLE IF EXISTS customers, a CASCADE;
    DROP DOMAIN IF EXISTS customer;
    DROP FUNCTION IF EXISTS must_be_known(int), known(int);
    CREATE TABLE customers (id int PRIMARY KEY);
    CREATE FUNCTION known(int) RETURNS boolean LANGUAGE sql
        AS 'SELECT EXISTS (SELECT FROM customers WHERE id = $1)';
    CREATE FUNCTION must_be_known(int) RETURNS boolean LANGUAGE plpgsql AS '
        BEGIN IF NOT known($1) THEN RAISE EXCEPTION ''% is unknown'', $1; END IF;
        RETURN true; END';
    CREATE DOMAIN customer AS int CHECK (known(VALUE));
"""
BEYOND_ROWS = "INSERT INTO customers VALUES (1); INSERT INTO a VALUES (1)"


def test_a_check_of_other_tables(source: Place, target: Place) -> None:
    """Rows come in the order that foreign keys make, which a check does not."""
    for table, function in (
        ("a (customer int CHECK (known(customer)))", "known"),
        ("a (customer int CHECK (must_be_known(customer)))", "must_be_known"),
        ("a (customer customer)", "known"),
    ):
        source.make(f"{BEYOND}CREATE TABLE {table}", BEYOND_ROWS)
        source.succeed("export")
        message = target.fail(3, "restore")
        assert "a.csv, line 2" in message
        assert f"hint: {function}(integer) may look beyond its row" in message
        assert "NOT VALID there and in schema.sql" in message
    # What the hint says does help.
    check = "ALTER TABLE a ADD CHECK (known(customer)) NOT VALID"
    source.make(f"{BEYOND}CREATE TABLE a (customer int); {check}", BEYOND_ROWS)
    source.succeed("export")
    target.succeed("restore")
    assert target.state() == source.state()
