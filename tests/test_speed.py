"""What makes it fast changes nothing: jobs, parts, gzip, indexes built late."""

from __future__ import annotations

import concurrent.futures.process
import contextlib
import gzip
import json
import os
import re
import signal
import sys
import threading
import time
import zlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import psycopg2
import pytest
from cases import ALL_AT_ONCE, CASES, compare, validated
from conftest import Build, Fail, Run, Succeed, both_versions, fork_process, wait_until
from psycopg2 import sql
from servers import Database, Server, line, meanwhile

import export_restore as er


@pytest.fixture
def everything(build: Build) -> Path:
    """A database with every feature, and schema.sql; returns the env file."""
    return build(*ALL_AT_ONCE)


def csvs(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("*.csv")}


# ---- jobs


@pytest.fixture
def tiny_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let tables of the tests count as large ones."""
    monkeypatch.setattr(er, "LARGE_TABLE", 1)


@pytest.mark.usefixtures("tiny_is_large")
def test_jobs_write_the_same_bytes(
    everything: Path, work: Path, succeed: Succeed
) -> None:
    for jobs in (1, 2, 3):
        succeed("export", "--env-file", everything, "--dir", jobs, "--jobs", jobs)
    assert csvs(work / "1") == csvs(work / "2") == csvs(work / "3")
    succeed("verify", "--env-file", everything, "--dir", "3")


@pytest.mark.usefixtures("tiny_is_large")
@pytest.mark.parametrize("ids", ["i", "i * i - 500000", "i + 9223372036854000000"])
def test_a_large_table_in_parts_is_one_ordered_file(
    build: Build,
    work: Path,
    succeed: Succeed,
    monkeypatch: pytest.MonkeyPatch,
    ids: str,
) -> None:
    schema = "CREATE TABLE t (b text, id bigint PRIMARY KEY); CREATE TABLE u (a int)"
    env = build(
        schema,
        "INSERT INTO t SELECT repeat('é\n\"', i % 9),"
        f" {ids} FROM generate_series(1, 5000) AS i ORDER BY i % 7",
    )
    ranges: list[er.KeyRange] = []
    split = er.Jobs.split

    def watched(*arguments: Any) -> list[er.CopyTask]:
        parts = list(split(*arguments))
        ranges.extend(part.rows for part in parts if part.rows is not None)
        return parts

    monkeypatch.setattr(er.Jobs, "split", watched)
    succeed("export", "--env-file", env, "--dir", "one", "--jobs", "1")
    assert ranges == []
    succeed("export", "--env-file", env, "--dir", "many", "--jobs", "3")
    assert len(ranges) == 3
    assert csvs(work / "one") == csvs(work / "many")
    assert sorted(path.name for path in (work / "many").iterdir()) == [
        ".gitattributes", ".gitignore", "catalog.txt", "datapackage.json",
        "schema.sql", "t.csv",
        "u.csv",
    ]  # fmt: skip
    succeed("verify", "--env-file", env, "--dir", "many")


@pytest.mark.usefixtures("tiny_is_large")
def test_jobs_read_one_transaction_snapshot(
    seeded: Database, work: Path, succeed: Succeed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who writes after it was taken is not seen by any of them."""
    export_snapshot = er.Database.export_snapshot

    def and_then_write(db: er.Database) -> str:
        name = export_snapshot(db)
        seeded.execute("DELETE FROM feedback; DELETE FROM leads; DELETE FROM agents")
        return name

    env = seeded.env_file(work)
    succeed("export", "--env-file", env, "--dir", "before")
    monkeypatch.setattr(er.Database, "export_snapshot", and_then_write)
    succeed("export", "--env-file", env, "--jobs", "3")
    assert csvs(work / "exports") == csvs(work / "before")


@pytest.mark.usefixtures("tiny_is_large")
def test_without_more_connections_one_does(
    seeded: Database, work: Path, run: Run, succeed: Succeed
) -> None:
    seeded.execute("CREATE ROLE single LOGIN CONNECTION LIMIT 1")
    seeded.execute("GRANT SELECT ON ALL TABLES IN SCHEMA public TO single")
    seeded.execute("GRANT SELECT ON ALL SEQUENCES IN SCHEMA public TO single")
    try:
        succeed("export", "--env-file", seeded.env_file(work), "--dir", "before")
        env = seeded.env_file(work, DB_USER="single")
        result = run("export", "--env-file", env, "--jobs", "2")
        assert result.status == 0, result.err
        assert "no connection or lock to be had: going on with one job" in result.err
        assert csvs(work / "exports") == csvs(work / "before")
    finally:
        seeded.execute("DROP OWNED BY single; DROP ROLE single")


@pytest.mark.usefixtures("tiny_is_large")
def test_jobs_do_not_wait_behind_who_waits_for_the_first(
    seeded: Database, work: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server would not see that deadlock: its other half is our own process."""
    copy_in_processes = er.Jobs.copy_in_processes
    waiting = "SELECT FROM pg_locks WHERE NOT granted AND relation = 'leads'::regclass"
    with contextlib.ExitStack() as stack:

        def queue_up_first(*arguments: Any) -> None:
            lock = "BEGIN; LOCK TABLE leads IN ACCESS EXCLUSIVE MODE; ROLLBACK"
            stack.enter_context(meanwhile(seeded, lock))
            wait_until(lambda: seeded.fetch(waiting))
            copy_in_processes(*arguments)

        monkeypatch.setattr(er.Jobs, "copy_in_processes", queue_up_first)
        result = run("export", "--env-file", seeded.env_file(work), "--jobs", "2")
    assert result.status == 0, result.err
    assert "no connection or lock to be had: going on with one job" in result.err


def test_a_server_that_exports_no_snapshot(
    seeded: Database, work: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(db: er.Database) -> str:
        with pytest.raises(psycopg2.Error):  # breaks the transaction, as it would
            db.execute("SELECT no_such_function()")
        raise er.SnapshotError("no")

    monkeypatch.setattr(er, "LARGE_TABLE", 1)
    monkeypatch.setattr(er.Database, "export_snapshot", refuse)
    env = seeded.env_file(work)
    result = run("export", "--env-file", env, "--jobs", "2")
    assert result.status == 0, result.err
    assert "going on with one job" in result.err
    assert run("verify", "--env-file", env).status == 0


def test_an_error_in_a_job_is_told_in_two_lines(
    build: Build, work: Path, fail: Fail, monkeypatch: pytest.MonkeyPatch
) -> None:
    schema = (
        "CREATE FUNCTION boom() RETURNS text LANGUAGE plpgsql AS"
        " 'BEGIN RAISE EXCEPTION ''boom''; END';"
        "CREATE TABLE t (id int PRIMARY KEY); CREATE TABLE u (id int PRIMARY KEY);"
        "CREATE POLICY p ON u USING (boom() = ''); "
    )
    env = build(schema, "INSERT INTO u VALUES (1); INSERT INTO t VALUES (1)")

    def copy_to_file(*_: object) -> er.TableFile:
        raise er.SnapshotError("table u: boom", hint="no harm done")

    monkeypatch.setattr(er, "copy_to_file", copy_to_file)
    assert "table u: boom" in fail(1, "export", "--env-file", env, "--jobs", "2")
    assert not (work / "exports").exists()


@pytest.mark.parametrize("blow", [signal.SIGKILL, signal.SIGINT])
def test_jobs_die_with_their_parent(
    source: Database, build: Build, work: Path, blow: signal.Signals
) -> None:
    """No process goes on writing when the export was killed or interrupted."""
    build(
        "CREATE TABLE t (id int PRIMARY KEY, a text); CREATE TABLE u (a text)",
        "INSERT INTO t SELECT i, repeat('x', 600) FROM generate_series(1, 20000) AS i;"
        "INSERT INTO u SELECT a FROM t",
    )
    with line(source, work, word="TO STDOUT", pace=0.1) as (proxy, env):
        process = fork_process("export", "--env-file", env, "--jobs", "2")
        parent = psutil.Process(process.pid)
        wait_until(lambda: len(parent.children()) == 2 and proxy.silent.is_set())
        children = parent.children()
        process.send_signal(blow)
        start = time.monotonic()
        _, err = process.communicate(timeout=60)
        gone, alive = psutil.wait_procs(children, timeout=60)
    assert (len(gone), alive) == (2, [])
    if blow == signal.SIGINT:
        assert time.monotonic() - start < 2
        assert process.returncode == 130
        said = ["export_restore: interrupted", "exports holds no snapshot"]
        assert err.splitlines()[1:] == said
        assert not (work / "exports").exists()


@pytest.mark.usefixtures("tiny_is_large")
def test_ctrl_c_while_jobs_start(
    seeded: Database, work: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pool of processes that is half started cannot be ended: it ends up whole."""
    manager = concurrent.futures.process._ExecutorManagerThread
    start = manager.start

    def interrupted_start(thread: threading.Thread) -> None:
        signal.raise_signal(signal.SIGINT)
        start(thread)

    monkeypatch.setattr(manager, "start", interrupted_start)
    result = run("export", "--env-file", seeded.env_file(work), "--jobs", "2")
    assert result.status == 130
    said = ["export_restore: interrupted", "exports holds no snapshot"]
    assert result.err.splitlines()[-2:] == said
    assert not (work / "exports").exists()


def test_how_many_jobs_pay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    table = er.Table(
        1, er.Relation("public", "t"), False, True, False, False,
        (er.Column("id", "integer", False, False, True),), ("id",), (),
    )  # fmt: skip

    def jobs(*sizes: int) -> int:
        tasks = [
            er.CopyTask(table, Path(str(n)), size, False)
            for n, size in enumerate(sizes)
        ]
        return er.default_jobs(tasks)

    assert jobs(1000, 2000) == 1
    assert jobs(*[1 << 20] * 500) == 1
    assert jobs(40 << 20, 33 << 20, 1 << 10) == 2
    assert jobs(900 << 20) == er.MOST_JOBS


# ---- gzip


def test_gzip_holds_the_same_text(everything: Path, work: Path, run: Run) -> None:
    for folder, options in (("plain", ()), ("exports", ("--gzip", "--jobs", "2"))):
        result = run("export", "--env-file", everything, "--dir", folder, *options)
        assert result.status == 0, result.err
    texts = {
        path.name.removesuffix(".gz"): gzip.decompress(path.read_bytes())
        for path in (work / "exports").glob("*.csv.gz")
    }
    assert texts == csvs(work / "plain")
    assert csvs(work / "exports") == {}
    assert run("verify", "--env-file", everything).status == 0


def test_gzip_comes_back(
    everything: Path, source: Database, target: Database, work: Path, succeed: Succeed
) -> None:
    succeed("export", "--env-file", everything, "--gzip")
    env = target.env_file(work)
    succeed("restore", "--env-file", env, "--checksum")
    compare(source, target)
    succeed("verify", "--env-file", env)
    succeed("restore", "--env-file", env, "--data-only", "--yes")
    compare(source, target)
    # Without a manifest, too.
    (work / "exports/datapackage.json").unlink()


def test_gzip_in_the_manifest(exported: Database, work: Path, succeed: Succeed) -> None:
    """Others read the folder; plain files of an export before it go."""
    env = exported.env_file(work)
    succeed("export", "--env-file", env, "--gzip")
    names = sorted(path.name for path in (work / "exports").iterdir())
    assert names == [
        ".gitattributes", ".gitignore", "agents.csv.gz", "catalog.txt",
        "datapackage.json",
        "feedback.csv.gz", "leads.csv.gz", "schema.sql",
    ]  # fmt: skip
    assert len(validated(work / "exports")) == 3
    first = {path.name: path.read_bytes() for path in (work / "exports").glob("*.gz")}
    succeed("export", "--env-file", env, "--gzip")
    assert first == {
        path.name: path.read_bytes() for path in (work / "exports").glob("*.gz")
    }
    package = json.loads((work / "exports/datapackage.json").read_text())
    agents = package["resources"][0]
    assert agents["path"] == "agents.csv.gz"
    assert agents["bytes"] == len(first["agents.csv.gz"])
    exported.execute("DELETE FROM feedback WHERE id = 3")
    assert er.main(["verify", "-q", "--env-file", str(env)]) == 3
    (work / "exports/datapackage.json").unlink()
    succeed("restore", "--env-file", env, "--yes")
    assert exported.fetch("SELECT count(*) FROM feedback") == [(90,)]


def test_what_compresses_changes_no_text(
    exported: Database, work: Path, succeed: Succeed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """isal is used if it is installed; the manifest's checksum of the text stays."""
    env = exported.env_file(work)
    asked = []

    def compressobj(level: int, *, wbits: int) -> Any:
        asked.append(level)
        return zlib.compressobj(9, wbits=wbits)

    hashes = []
    for folder, isal_zlib in (("zlib", None), ("isal", compressobj)):
        package = SimpleNamespace(isal_zlib=SimpleNamespace(compressobj=isal_zlib))
        monkeypatch.setitem(sys.modules, "isal", package if isal_zlib else None)
        succeed("export", "--env-file", env, "--gzip", "--dir", folder)
        succeed("verify", "--env-file", env, "--dir", folder)
        with er.Folder(work / folder).opened() as snapshot:
            hashes.append([each.text_sha256 for each in snapshot.csvs.values()])
    assert asked == [er.ISAL_LEVEL] * 3
    assert hashes[0] == hashes[1]
    names = [work / folder / "leads.csv.gz" for folder in ("zlib", "isal")]
    assert names[0].read_bytes() != names[1].read_bytes()


@pytest.mark.parametrize("harm", ["cut", "flipped", "no gzip"])
def test_damaged_gzip_changes_nothing(
    exported: Database, work: Path, fail: Fail, succeed: Succeed, harm: str
) -> None:
    env = exported.env_file(work)
    succeed("export", "--env-file", env, "--gzip")
    path = work / "exports/leads.csv.gz"
    raw = path.read_bytes()
    middle = len(raw) // 2
    path.write_bytes(
        {
            "cut": raw[:middle],
            "flipped": raw[:middle] + bytes([raw[middle] ^ 1]) + raw[middle + 1 :],
            "no gzip": b"id\n1\n",
        }[harm]
    )
    before = exported.state()
    assert "sha256 differs" in fail(3, "restore", "--env-file", env)
    message = fail(3, "restore", "--env-file", env, "--accept-edits")
    assert "leads.csv.gz" in message
    assert exported.state() == before


# ---- indexes


@pytest.fixture
def all_aside(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a restore set every index aside, whatever the size of its table."""
    monkeypatch.setattr(er, "LARGE_FILE", 0)


@both_versions
@pytest.mark.usefixtures("all_aside")
def test_everything_set_aside_comes_back(
    everything: Path, source: Database, target: Database, work: Path, succeed: Succeed
) -> None:
    """pg_dump judges: names, options, marks, comments, statistics, attachments."""
    succeed("export", "--env-file", everything)
    env = target.env_file(work)
    for options in ((), ("--data-only", "--yes")):
        succeed("restore", "--env-file", env, *options)
        compare(source, target)
        succeed("verify", "--env-file", env)


@both_versions
def test_what_is_set_aside(source: Database) -> None:
    """All but what something else depends on, or what SQL cannot tell."""
    schema, _ = CASES["indexes of every kind"]
    source.execute(schema)
    with er.Database(settings_of(source)) as db:
        db.begin_restore()
        aside = db.fetch_indexes(db.fetch_catalog().tables)
    found = source.fetch(
        "SELECT indexname FROM pg_indexes WHERE schemaname <> 'pg_catalog'"
    )
    kept = {name for (name,) in found} - {
        re.split(r"CONSTRAINT |\.", drop)[-1].strip('"') for _, drop, _ in aside
    }
    assert kept == {
        "ix_grouped_pkey",
        "ix_filled_pkey",
        "ix_rule_key",
        # Not of every partition, so it is invalid: nothing builds it as a whole.
        "top_only",
        "in_one",
        # What more is said of them goes with them.
        "ix_cluster",
        "ix_identity",
        "ix_lower",
        "top_lower",
        "ix_part_1_lower_idx",
        "ix_part_2_lower_idx",
        "ix_part_2a_lower_idx",
    }
    assert len(aside) > 15


def settings_of(database: Database) -> er.Settings:
    server = database.server
    return er.Settings(
        server.host, server.port, database.name, server.user, "", "prefer", "", Path()
    )


@pytest.mark.usefixtures("all_aside")
def test_a_failure_in_any_step_of_the_rebuild_changes_nothing(
    source: Database,
    build: Build,
    run: Run,
    succeed: Succeed,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    schema, rows = CASES["indexes of every kind"]
    drop = "DROP TABLE IF EXISTS ix_ref, ix_part, ix_rule, ix_filled, ix CASCADE;"
    drop += "DROP TABLE IF EXISTS ix_state, ix_grouped CASCADE;"
    env = build(drop + schema, rows)
    succeed("export", "--env-file", env)
    source.execute("DELETE FROM ix_ref; CREATE TABLE later (a int)")
    before = source.state()
    rebuild = er.Database.rebuild
    steps: list[int] = []

    def breaking(db: er.Database, statements: list[object]) -> None:
        statements = list(statements)
        steps.append(len(statements))
        statements[len(steps) - 1] = sql.SQL("SELECT 1 / 0")
        rebuild(db, statements)  # type: ignore[arg-type]

    monkeypatch.setattr(er.Database, "rebuild", breaking)
    while not steps or len(steps) < steps[0]:
        result = run("restore", "--env-file", env, "-q")
        assert result.status == 1
        assert "division by zero" in result.err
        assert source.rows() == before[1]
    assert len(steps) > 28
    assert source.state() == before
    monkeypatch.setattr(er.Database, "rebuild", rebuild)
    succeed("restore", "--env-file", env)
    assert source.fetch("SELECT count(*) FROM ix_ref") == [(3,)]


@pytest.mark.usefixtures("all_aside")
def test_a_duplicate_key_is_told_after_the_load(
    exported: Database, work: Path, fail: Fail
) -> None:
    path = work / "exports/agents.csv"
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    path.write_text("".join([*lines, lines[-1]]), encoding="utf-8")
    before = exported.state()
    env = exported.env_file(work)
    message = fail(3, "restore", "--env-file", env, "--accept-edits")
    assert "agents_pkey" in message
    assert "duplicated" in message
    assert exported.state() == before


@pytest.mark.usefixtures("all_aside")
def test_without_the_right_to_make_indexes_they_stay(
    exported: Database, server: Server, work: Path, succeed: Succeed
) -> None:
    """An owner of tables need not have CREATE on their schema."""
    server.execute("CREATE ROLE keeper LOGIN")
    try:
        exported.execute(
            "ALTER TABLE agents OWNER TO keeper; ALTER TABLE leads OWNER TO keeper;"
            "ALTER TABLE feedback OWNER TO keeper; DELETE FROM feedback"
        )
        env = exported.env_file(work, DB_USER="keeper")
        succeed("restore", "--env-file", env, "--data-only")
        assert exported.fetch("SELECT count(*) FROM feedback") == [(90,)]
    finally:
        exported.execute("REASSIGN OWNED BY keeper TO postgres; DROP ROLE keeper")


TRICKY = {
    "a partition's constraint under a plain index": (
        "CREATE TABLE p (id int NOT NULL, x int) PARTITION BY LIST (id);"
        "CREATE TABLE p1 PARTITION OF p FOR VALUES IN (1);"
        "ALTER TABLE p1 ADD CONSTRAINT p1u UNIQUE (id);"
        "CREATE TABLE p2 PARTITION OF p FOR VALUES IN (2);"
        "CREATE UNIQUE INDEX pu ON p (id);",
        "INSERT INTO p VALUES (1, 1), (2, 2)",
    ),
    "a domain whose check calls by bare names": (
        "CREATE FUNCTION okk(x text) RETURNS bool LANGUAGE sql IMMUTABLE"
        " AS 'SELECT true';"
        "CREATE FUNCTION ok(x text) RETURNS bool LANGUAGE plpgsql IMMUTABLE"
        " AS 'BEGIN RETURN okk(x); END';"
        "CREATE DOMAIN dd AS text CHECK (ok(VALUE));"
        "CREATE TABLE a (id int PRIMARY KEY, t text);"
        "CREATE INDEX ai ON a (((t)::dd));",
        "INSERT INTO a VALUES (1, 'x')",
    ),
    "a function of a name that PostgreSQL has, too": (
        "CREATE TABLE a (id int PRIMARY KEY, t text);"
        "CREATE INDEX ai ON a (lower(t));"
        "CREATE FUNCTION public.lower(text) RETURNS text LANGUAGE sql IMMUTABLE"
        " AS 'SELECT ''Q''::text';"
        "DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET search_path = public,"
        " pg_catalog', current_database()); END $$;",
        "INSERT INTO a VALUES (1, 'x')",
    ),
}


@both_versions
@pytest.mark.usefixtures("all_aside")
@pytest.mark.parametrize(("schema", "rows"), TRICKY.values(), ids=TRICKY)
def test_tricky_indexes_come_back(
    source: Database, build: Build, succeed: Succeed, schema: str, rows: str
) -> None:
    env = build(schema, rows)
    succeed("export", "--env-file", env)
    before = source.state()
    succeed("restore", "--env-file", env, "--data-only")
    assert source.state() == before


def test_a_job_that_is_killed_is_told_in_two_lines(
    seeded: Database, work: Path, fail: Fail, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel does so when memory runs out."""
    parent = os.getpid()

    def die(*_: object) -> er.TableFile:
        assert os.getpid() != parent
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError

    monkeypatch.setattr(er, "copy_to_file", die)
    env = seeded.env_file(work)
    message = fail(1, "export", "--env-file", env, "--jobs", "2")
    assert "a copying process died" in message
    assert not (work / "exports").exists()


def test_a_stranger_in_the_folder_is_named(
    exported: Database, work: Path, run: Run
) -> None:
    """It is in nobody's way now, and will be in a restore's."""
    (work / "exports/mine.csv").write_text("a\n")
    result = run("export", "--env-file", exported.env_file(work), "--gzip")
    assert result.status == 0
    assert "note: exports/mine.csv is not of this snapshot" in result.err
    assert "agents.csv" not in result.err
    assert not (work / "exports/agents.csv").exists()
    assert (work / "exports/mine.csv").exists()


# ---- the check of the files


def test_files_are_checked_while_the_command_connects(
    exported: Database, work: Path, fail: Fail, run: Run,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """What is damaged is told first all the same, and before anybody is asked."""
    connected = threading.Event()
    begin, file_hash = er.Database.begin_restore, er.file_hash

    def begin_restore(db: er.Database) -> None:
        connected.set()
        begin(db)

    def late_hash(path: Path) -> str:
        assert connected.wait(60)
        return file_hash(path)

    monkeypatch.setattr(er, "LARGE_FILE", 0)
    monkeypatch.setattr(er.Report, "can_ask", lambda report: True)
    exported.execute("DELETE FROM feedback")
    env = exported.env_file(work)
    before = exported.state()
    path = work / "exports/leads.csv"
    path.write_text(path.read_text(encoding="utf-8") + "1\n", encoding="utf-8")
    nowhere = exported.env_file(work.parent, DB_PORT="1")
    assert "leads.csv was changed" in fail(3, "restore", "--env-file", nowhere)
    with monkeypatch.context() as patch:
        patch.setattr(er.Database, "begin_restore", begin_restore)
        patch.setattr(er, "file_hash", late_hash)
        assert "leads.csv was changed" in fail(3, "restore", "--env-file", env)
        assert connected.is_set()
    assert exported.state() == before


# ---- what comes is ready

CURSOR = "DECLARE still_open CURSOR WITH HOLD FOR SELECT 1;"
DUMPED = "SELECT pg_catalog.set_config('search_path', '', false);"
READY = """
    DROP TABLE IF EXISTS public.plain, public.seeded, public.parted CASCADE;
    DROP FUNCTION IF EXISTS public.f CASCADE;
    CREATE FUNCTION public.f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN END';
    CREATE TABLE public.plain (id int PRIMARY KEY);
    CREATE TABLE public.seeded (a int);
    CREATE TABLE public.parted (a int) PARTITION BY RANGE (a);
    CREATE TABLE public.part PARTITION OF public.parted DEFAULT;
"""


@both_versions
@pytest.mark.parametrize("first", [CURSOR, DUMPED], ids=["script", "dump"])
def test_rows_come_frozen(
    build: Build, target: Database, work: Path, succeed: Succeed, first: str
) -> None:
    """Nobody has to write their pages again. PostgreSQL freezes no partition's."""
    rows = "SELECT i FROM generate_series(1, 5000) AS i"
    fill = f"INSERT INTO public.seeded {rows};"
    env = build(
        f"{READY}{first}{fill}",
        f"INSERT INTO public.plain {rows}; INSERT INTO public.parted {rows}",
    )
    succeed("export", "--env-file", env)
    # What goes with the function comes back before the rows do.
    target.execute(
        "CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN END';"
        "CREATE TABLE mine (a int);"
        "CREATE TRIGGER t BEFORE INSERT ON mine FOR EACH ROW EXECUTE FUNCTION f()"
    )
    for options in ((), (), ("--data-only",)):
        succeed("restore", "--env-file", target.env_file(work), "--yes", *options)
        pages = target.fetch(
            "SELECT relallvisible > relpages / 2 FROM pg_class"
            " WHERE relname IN ('plain', 'seeded')"
        )
        assert pages == [(True,), (True,)]
    assert target.fetch("SELECT tgname FROM pg_trigger WHERE tgname = 't'")


@pytest.mark.usefixtures("all_aside")
def test_tables_with_rows_are_analyzed_by_several_connections(
    build: Build,
    target: Database,
    work: Path,
    succeed: Succeed,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One that is not to be had is no error."""
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    env = build(
        "CREATE TABLE a (id int); CREATE TABLE b (id int); CREATE TABLE empty (id int)",
        "INSERT INTO a VALUES (1); INSERT INTO b VALUES (1), (2)",
    )
    succeed("export", "--env-file", env)
    rows = (
        "SELECT relname, reltuples FROM pg_class WHERE relnamespace = 2200 ORDER BY 1"
    )
    for limit in (-1, 1):
        target.execute(
            "DROP TABLE IF EXISTS a, b, empty; CREATE ROLE single LOGIN PASSWORD"
            f" 'over the line' CONNECTION LIMIT {limit};"
            "GRANT CREATE ON SCHEMA public TO single"
        )
        try:
            with line(target, work) as (proxy, _):
                place = {"DB_HOST": "127.0.0.1", "DB_PORT": str(proxy.port)}
                who = {"DB_USER": "single", "DB_PASSWORD": "'over the line'"}
                succeed("restore", "--env-file", target.env_file(work, **place, **who))
                assert len(proxy.sockets) == 2 * 2
            assert target.fetch(rows) == [("a", 1), ("b", 2), ("empty", -1)]
        finally:
            target.execute("DROP OWNED BY single; DROP ROLE single")


# ---- round trips

TABLES = 100


def test_few_round_trips_a_table(
    source: Database, target: Database, build: Build, work: Path, succeed: Succeed
) -> None:
    """100 tables with 300 rows: a COPY out is one, a COPY in two, and the rest few."""
    build(
        "".join(
            f"DROP TABLE IF EXISTS t{n} CASCADE;\n"
            f"CREATE TABLE t{n} "
            f"(id serial PRIMARY KEY, up int REFERENCES t{max(n - 1, 0)});\n"
            f"CREATE INDEX ON t{n} (up);\n"
            for n in range(TABLES)
        ),
        "".join(f"INSERT INTO t{n} (up) VALUES (1), (1), (2);" for n in range(TABLES)),
    )
    for command, database, each in (("export", source, 1), ("restore", target, 2)):
        with line(database, work) as (proxy, env):
            succeed(command, "--env-file", env)
            assert 0 < proxy.round_trips - each * TABLES <= 40 * each
    assert target.state() == source.state()
