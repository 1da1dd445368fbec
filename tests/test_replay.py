"""The replay means what schema.sql means: to psql, and to the database it came from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from conftest import OLD_AND_NEW, Fail, Run, old_and_new
from servers import Database, Server

import export_restore as er


def quiet(run: Run, *argv: object) -> str:
    """Run a command that has to succeed without a word of warning; return stderr."""
    result = run(*argv)
    assert result.status == 0, result.err
    assert "note:" not in result.err
    assert "skipped" not in result.err
    return result.err


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
    source: Database, target: Database, work: Path, run: Run, options: tuple[str, ...]
) -> None:
    """Into nothing, where there is nothing to drop, and over what is there."""
    source.execute(TAKEN_APART + "INSERT INTO looped VALUES (1, 'a')")
    text = source.pg_dump("--no-owner", "--no-privileges", *options)
    (work / "schema.sql").write_text(er.without_versions(text))
    before = source.state()
    quiet(run, "export", "--env-file", source.env_file(work))
    for each in (target, target, source):
        quiet(run, "restore", "--env-file", each.env_file(work), "--yes")
        assert each.state() == before


def test_what_is_called_alike_is_not_dropped_instead(
    source: Database, work: Path, fail: Fail
) -> None:
    """A view where the script has a table: the drop finds none, the CREATE tells."""
    (work / "exports").mkdir()
    (work / "exports/schema.sql").write_text("DROP TABLE t; CREATE TABLE t (a int)")
    (work / "exports/t.csv").write_text("a\n1\n")
    source.execute("CREATE VIEW t AS SELECT 1 AS a")
    message = fail(1, "restore", "--env-file", source.env_file(work))
    assert 'relation "t" already exists in: CREATE TABLE' in message


@pytest.mark.parametrize("server", {15, 17} & {*OLD_AND_NEW}, indirect=True)
def test_an_extension_stays(source: Database, work: Path, run: Run) -> None:
    """Whatever outside of the snapshot uses it, and who may call what it brought."""
    text = """
        DROP TABLE IF EXISTS ext.t; DROP EXTENSION IF EXISTS citext;
        DROP SCHEMA IF EXISTS ext; CREATE SCHEMA ext;
        CREATE EXTENSION citext WITH SCHEMA ext;
        CREATE TABLE ext.t (a ext.citext);
    """
    (work / "schema.sql").write_text(text)
    source.execute("ALTER DEFAULT PRIVILEGES REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC")
    source.execute(text)
    source.execute("GRANT EXECUTE ON FUNCTION ext.citext(boolean) TO pg_monitor")
    env = source.env_file(work)
    grants = "SELECT oid, proacl::text FROM pg_proc WHERE proname = 'citext'"
    before = source.fetch(grants)
    quiet(run, "export", "--env-file", env)
    source.execute("CREATE TABLE outside (a ext.citext DEFAULT 'x')")
    quiet(run, "restore", "--env-file", env)
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
def test_checks_that_wait_are_brought_up_to_date(
    source: Database, work: Path, run: Run, fail: Fail
) -> None:
    (work / "exports").mkdir()
    (work / "exports/child.csv").write_text("id,note\n1,a\n")
    (work / "exports/parent.csv").write_text("id,more\n1,2\n")
    file = work / "exports/schema.sql"
    env = source.env_file(work)
    file.write_text(ROWS_AND_DDL)
    result = run("restore", "--env-file", env)
    assert result.status == 0, result.err
    assert source.fetch("SELECT id, note FROM child") == [(1, "a")]
    file.write_text(ROWS_AND_DDL.replace("(2, 'y')", "(3, 'y')"))
    message = fail(1, "restore", "--env-file", env)
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


def build_by_settings(source: Database, work: Path) -> Path:
    """Give the source settings of its own, then make it by the script."""
    (work / "schema.sql").write_text(MEANT)
    for name, value in SETTINGS.items():
        quoted = value if name == "search_path" else f"'{value}'"
        source.execute(f"ALTER DATABASE {source.name} SET {name} = {quoted}")
    source.execute("CREATE SCHEMA app")
    source.execute(f"{MEANT} INSERT INTO app.day VALUES ('2024-02-01 00:00+01');")
    return source.env_file(work)


@old_and_new
def test_a_script_means_what_it_meant_to_its_source(
    source: Database, target: Database, work: Path, run: Run
) -> None:
    """Whatever the target is set to; what the script sets itself comes after."""
    env = build_by_settings(source, work)
    quiet(run, "export", "--env-file", env)
    there = target.env_file(work)
    target.execute(f"ALTER DATABASE {target.name} SET TimeZone = 'America/New_York'")
    target.execute(f"ALTER DATABASE {target.name} SET DateStyle = 'ISO, MDY'")
    for _ in range(2):
        quiet(run, "restore", "--env-file", there, "--yes")
        quiet(run, "verify", "--env-file", there)
    quiet(run, "restore", "--env-file", env)
    quiet(run, "rehearse", "--env-file", env)
    (work / "schema.sql").write_text(
        "SET TimeZone = 'America/New_York'; SET search_path = public;" + MEANT
    )
    source.execute("DROP SCHEMA app CASCADE; CREATE SCHEMA app")
    source.execute((work / "schema.sql").read_text())
    quiet(run, "export", "--env-file", env)
    target.execute("DROP SCHEMA app CASCADE")
    quiet(run, "restore", "--env-file", there)
    assert target.fetch("SELECT to_regclass('public.day') IS NULL") == [(False,)]


def change_settings(folder: Path, **changes: str | None) -> None:
    """Change what the manifest says of settings, or drop all of it."""
    path = folder / "datapackage.json"
    package = json.loads(path.read_text())
    settings: dict[str, Any] = package["postgresql"].pop("settings")
    if changes:
        package["postgresql"]["settings"] = {**settings, **changes}
    old = package["postgresql"]["checksum"]
    text = json.dumps(package, indent=1, ensure_ascii=False) + "\n"
    path.write_text(text.replace(old, er.checksum(text, old)))


def test_settings_that_the_target_does_not_know(
    source: Database, target: Database, work: Path, run: Run
) -> None:
    """A locale matters where there is money; none in an older manifest is as before."""
    for schema, said in (
        ("DROP TABLE IF EXISTS t; CREATE TABLE t (a int)", ["TimeZone"]),
        (
            "DROP TABLE IF EXISTS t; CREATE TABLE t (a money)",
            ["TimeZone", "lc_monetary"],
        ),
    ):
        (work / "schema.sql").write_text(schema)
        source.execute(schema)
        quiet(run, "export", "--env-file", source.env_file(work))
        change_settings(
            work / "exports", TimeZone="Mars/X", lc_monetary="Mars", work_mem="x"
        )
        result = run("restore", "--env-file", target.env_file(work))
        assert result.status == 0, result.err
        notes = [line for line in result.err.splitlines() if "does not know" in line]
        assert [
            f"source's {name};" in note for name, note in zip(said, notes, strict=True)
        ]
    change_settings(work / "exports")
    quiet(run, "restore", "--env-file", target.env_file(work))


# ---- values of enums

LATE = """
DROP TABLE IF EXISTS t; DROP TYPE IF EXISTS mood; CREATE TYPE mood AS ENUM ('sad');
ALTER TYPE mood ADD VALUE 'ok' BEFORE 'sad';
CREATE TABLE t (m mood);
"""


@old_and_new
def test_a_value_that_comes_too_late(
    source: Database, server: Server, work: Path, run: Run
) -> None:
    """Since 17 a transaction can use it if it made the type; before, export says so."""
    for part in LATE.split(";")[:-1]:
        source.execute(part)
    source.execute("INSERT INTO t VALUES ('ok')")
    env = source.env_file(work)
    (work / "schema.sql").write_text(LATE)
    said = "schema.sql, line 3: PostgreSQL uses what ALTER TYPE … ADD VALUE adds"
    if server.version >= 17:
        quiet(run, "export", "--env-file", env)
        quiet(run, "restore", "--env-file", env)
    else:
        assert said in run("export", "--env-file", env).err
        result = run("restore", "--env-file", env, "-q")
        assert result.status == 1
        assert "t.csv, line 2, column m: unsafe use of new value" in result.err
        assert '\nhint: put "ok" into the CREATE TYPE of schema.sql' in result.err
    lines = LATE.split("\n")
    lines[1] = "DROP TABLE IF EXISTS t; DO $$ BEGIN CREATE TYPE mood AS ENUM ('sad');"
    lines[1] += " EXCEPTION WHEN duplicate_object THEN NULL; END $$;"
    lines[2] = "ALTER TYPE mood ADD VALUE IF NOT EXISTS 'ok' BEFORE 'sad';"
    (work / "schema.sql").write_text("\n".join(lines))
    assert said in run("export", "--env-file", env).err
    quiet(run, "restore", "--env-file", env)  # the value is there
