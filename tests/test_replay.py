"""The replay means what schema.sql means: to psql, and to the database it came from."""

from __future__ import annotations

from pathlib import Path

import pytest
from cases import rewrite
from commands import Place, by_hand
from conftest import OLD_AND_NEW, old_and_new
from servers import Server

import export_restore as er

# What a dump takes apart before it drops it, and what cannot be dropped by itself.
TAKEN_APART = """
CREATE TYPE st AS ENUM ('a'); CREATE TABLE looped (id int PRIMARY KEY, s st);
CREATE VIEW in_a_loop AS SELECT id, s, count(*) AS n FROM looped GROUP BY id;
CREATE VIEW plain_loop AS SELECT id, count(*) AS n FROM looped GROUP BY id;
CREATE DOMAIN small AS int CONSTRAINT low CHECK (VALUE < 9);
ALTER DOMAIN small ADD CONSTRAINT high CHECK (VALUE > 0) NOT VALID;
CREATE TABLE parted (a small NOT NULL, b int NOT NULL) PARTITION BY LIST (a);
CREATE TABLE part_1 (a small NOT NULL, b int NOT NULL, CONSTRAINT own UNIQUE (a, b));
CREATE INDEX own_index ON part_1 (b);
ALTER TABLE parted ATTACH PARTITION part_1 FOR VALUES IN (1);
CREATE UNIQUE INDEX top_key ON parted (a, b); CREATE INDEX top_index ON parted (b);
CREATE TABLE keyed (a int PRIMARY KEY) PARTITION BY RANGE (a);
CREATE TABLE keyed_1 PARTITION OF keyed FOR VALUES FROM (0) TO (9);
CREATE SCHEMA apart; CREATE TABLE apart.t (id serial PRIMARY KEY, up int);
ALTER TABLE apart.t ADD FOREIGN KEY (up) REFERENCES apart.t;
"""


@old_and_new
@pytest.mark.parametrize("options", [("--clean", "--if-exists"), ("--clean",)])
def test_what_a_dump_takes_apart(
    source: Place, target: Place, options: tuple[str, ...]
) -> None:
    """Into nothing, where there is nothing to drop, and over what is there."""
    source.execute(TAKEN_APART + "INSERT INTO looped VALUES (1, 'a')")
    text = source.pg_dump("--no-owner", "--no-privileges", *options)
    Path("schema.sql").write_text(er.without_versions(text))
    before = source.state()
    source.quiet("export")
    for each in (target, target, source):
        each.quiet("restore", "--yes")
        assert each.state() == before


def test_what_is_called_alike_is_not_dropped_instead(source: Place) -> None:
    """A view where the script has a table: the drop finds none, the CREATE tells."""
    by_hand("DROP TABLE t; CREATE TABLE t (a int)", t="a\n1\n")
    source.execute("CREATE VIEW t AS SELECT 1 AS a")
    message = source.fail(1, "restore")
    assert 'relation "t" already exists in: CREATE TABLE' in message


@pytest.mark.parametrize("server", {15, 17} & {*OLD_AND_NEW}, indirect=True)
def test_an_extension_stays(source: Place) -> None:
    """Whatever outside of the snapshot uses it, and who may call what it brought."""
    source.execute("ALTER DEFAULT PRIVILEGES REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC")
    source.make(
        "DROP TABLE IF EXISTS ext.t; DROP EXTENSION IF EXISTS citext;"
        "DROP SCHEMA IF EXISTS ext; CREATE SCHEMA ext;"
        "CREATE EXTENSION citext WITH SCHEMA ext; CREATE TABLE ext.t (a ext.citext);",
        "GRANT EXECUTE ON FUNCTION ext.citext(boolean) TO pg_monitor",
    )
    grants = "SELECT oid, proacl::text FROM pg_proc WHERE proname = 'citext'"
    before = source.fetch(grants)
    source.quiet("export")
    source.execute("CREATE TABLE outside (a ext.citext DEFAULT 'x')")
    source.quiet("restore")
    assert source.fetch(grants) == before
    assert source.fetch("SELECT count(*) FROM outside") == [(0,)]


# psql commits after each statement; in one transaction the checks would still wait.
ROWS_AND_DDL = """
DROP TABLE IF EXISTS child, parent;
CREATE TABLE parent (id int PRIMARY KEY, more int);
CREATE TABLE child (id int REFERENCES parent DEFERRABLE INITIALLY DEFERRED);
BEGIN; INSERT INTO child VALUES (1); INSERT INTO parent VALUES (1); COMMIT;
CREATE TABLE other (a int);
BEGIN; INSERT INTO child VALUES (2); INSERT INTO parent VALUES (2); COMMIT;
ALTER TABLE child ADD COLUMN note text; CREATE INDEX ON child (note);
INSERT INTO child VALUES (1, 'x'); CREATE UNIQUE INDEX ON child (id, note);
INSERT INTO child VALUES (2, 'y'); ALTER TABLE child ALTER note SET DEFAULT 'z';
INSERT INTO child VALUES (2, 'z'); TRUNCATE child;
INSERT INTO child VALUES (2, 'z'); DROP TABLE child; DROP TABLE other;
CREATE TABLE child (id int REFERENCES parent, note text);
"""


@old_and_new
def test_checks_that_wait_are_brought_up_to_date(source: Place) -> None:
    tables = {"child": "id,note\n1,a\n", "parent": "id,more\n1,2\n"}
    by_hand(ROWS_AND_DDL, **tables)
    source.told(0, "restore")
    assert source.fetch("SELECT id, note FROM child") == [(1, "a")]
    by_hand(ROWS_AND_DDL.replace("(2, 'y')", "(3, 'y')"), **tables)
    message = source.fail(1, "restore")
    assert 'schema.sql, line 10: insert or update on table "child" violates' in message


# ---- settings that decide what a script means

MEANT = """
DROP TABLE IF EXISTS day, kept; DROP SCHEMA IF EXISTS app CASCADE; CREATE SCHEMA app;
CREATE TABLE day (at timestamptz) PARTITION BY RANGE (at);
CREATE TABLE day_1 PARTITION OF day FOR VALUES FROM ('01.02.2024') TO ('02.02.2024');
CREATE TABLE kept (id int, since timestamptz DEFAULT '01.02.2024 12:00',
    span interval DEFAULT '-1 2:03:04', odd text[] DEFAULT '{null}',
    CHECK (since >= '03.02.2020'));
CREATE INDEX ON kept (id) WHERE since > '04.02.2020 00:00 EST';
"""
SETTINGS = {
    "TimeZone": "Europe/Berlin",
    "DateStyle": "SQL, DMY",
    "IntervalStyle": "sql_standard",
    "array_nulls": "off",
    "timezone_abbreviations": "Australia",
    "search_path": "app, public",
}


@old_and_new
def test_a_script_means_what_it_meant_to_its_source(
    source: Place, target: Place
) -> None:
    """Whatever the target is set to; what the script sets itself comes after."""
    for name, value in SETTINGS.items():
        quoted = value if name == "search_path" else f"'{value}'"
        source.execute(f"ALTER DATABASE {source.name} SET {name} = {quoted}")
    source.execute("CREATE SCHEMA app")
    source.make(MEANT, "INSERT INTO app.day VALUES ('2024-02-01 00:00+01')")
    source.quiet("export")
    target.execute(f"ALTER DATABASE {target.name} SET TimeZone = 'America/New_York'")
    target.execute(f"ALTER DATABASE {target.name} SET DateStyle = 'ISO, MDY'")
    for _ in range(2):
        target.quiet("restore", "--yes")
        target.quiet("verify")
    source.quiet("restore")
    source.quiet("rehearse")
    source.execute("DROP SCHEMA app CASCADE; CREATE SCHEMA app")
    own = "SET TimeZone = 'America/New_York'; SET search_path = public;"
    source.make(own + MEANT)
    source.quiet("export")
    target.execute("DROP SCHEMA app CASCADE")
    target.quiet("restore")
    assert target.fetch("SELECT to_regclass('public.day') IS NULL") == [(False,)]


def test_settings_that_the_target_does_not_know(source: Place, target: Place) -> None:
    """A locale matters where there is money; none in an older manifest is as before."""
    changes = {"TimeZone": "Mars/X", "lc_monetary": "Mars", "work_mem": "x"}
    for kind, said in (("int", ["TimeZone"]), ("money", ["TimeZone", "lc_monetary"])):
        source.make(f"DROP TABLE IF EXISTS t; CREATE TABLE t (a {kind})")
        source.quiet("export")
        rewrite(Path("exports"), lambda p: p["postgresql"]["settings"].update(changes))
        told = target.told(0, "restore")
        notes = [line for line in told.splitlines() if "does not know" in line]
        assert [
            f"source's {name};" in note for name, note in zip(said, notes, strict=True)
        ]
    rewrite(Path("exports"), lambda package: package["postgresql"].pop("settings"))
    target.quiet("restore")


# ---- values of enums

LATE = """
DROP TABLE IF EXISTS t; DROP TYPE IF EXISTS mood; CREATE TYPE mood AS ENUM ('sad');
ALTER TYPE mood ADD VALUE 'ok' BEFORE 'sad';
CREATE TABLE t (m mood);
"""


@old_and_new
def test_a_value_that_comes_too_late(source: Place, server: Server) -> None:
    """Since 17 a transaction can use it if it made the type; before, export says so."""
    for part in LATE.split(";")[:-1]:
        source.execute(part)
    source.execute("INSERT INTO t VALUES ('ok')")
    Path("schema.sql").write_text(LATE)
    said = "schema.sql, line 3: PostgreSQL uses what ALTER TYPE … ADD VALUE adds"
    if server.version >= 17:
        source.quiet("export")
        source.quiet("restore")
    else:
        assert said in source.call("export").err
        message = source.fail(1, "restore")
        assert "t.csv, line 2, column m: unsafe use of new value" in message
        assert '\nhint: put "ok" into the CREATE TYPE of schema.sql' in message
    lines = LATE.split("\n")
    lines[1] = "DROP TABLE IF EXISTS t; DO $$ BEGIN CREATE TYPE mood AS ENUM ('sad');"
    lines[1] += " EXCEPTION WHEN duplicate_object THEN NULL; END $$;"
    lines[2] = "ALTER TYPE mood ADD VALUE IF NOT EXISTS 'ok' BEFORE 'sad';"
    Path("schema.sql").write_text("\n".join(lines))
    assert said in source.call("export").err
    source.quiet("restore")  # the value is there
