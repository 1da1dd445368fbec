"""What goes out comes back: whatever a schema holds, to whatever server."""

from __future__ import annotations

import contextlib
import itertools
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from cases import ALL_AT_ONCE, CONTRIB, compare, contents, validated
from commands import ROOT, Place, Succeed, at_step, by_hand, place, wait_until
from conftest import both_versions
from servers import PASSWORD, Server, meanwhile, servers

import export_restore as er
import setup_db


@both_versions
def test_the_check_of_the_brief(exported: Place) -> None:
    """feedback -> leads -> agents: delete a lead, change an agent, restore twice."""
    before = exported.state()
    exported.execute("DELETE FROM leads WHERE id = 1")
    exported.execute("UPDATE agents SET full_name = 'Nobody', phone = '' WHERE id = 2")
    assert exported.rows() != before[1]
    for _ in range(2):
        exported.succeed("restore")
        assert exported.state() == before
    for insert in (
        "INSERT INTO agents (full_name, email, region, hired_on) "
        "VALUES ('New', 'new@example.com', 'North', '2026-01-01') RETURNING id",
        "INSERT INTO leads (full_name, email) VALUES ('N', 'n@e.org') RETURNING id",
        "INSERT INTO feedback (lead_id, rating) VALUES (1, 5) RETURNING id",
    ):
        [(highest,)] = exported.fetch(f"SELECT max(id) FROM {insert.split()[2]}")
        assert exported.fetch(insert) == [(highest + 1,)]


@pytest.mark.parametrize("versions", [(18, 16), (16, 18)])
def test_from_one_embedded_server_to_another(
    versions: tuple[int, int], tmp_path: Path, succeed: Succeed
) -> None:
    """Two env files, two folders, two versions; the second database is empty."""
    envs = []
    for version in versions:
        home = tmp_path / f"pg{version}"
        home.mkdir()
        er.OwnServer.of(home / er.EMBEDDED_FOLDER, servers()[version]).create()
        envs.append(home / ".env")
        envs[-1].write_text("DB_HOST=embedded\nDB_NAME=sales\n")
    assert setup_db.main(["--env-file", str(envs[0]), "-q", "--leads", "50"]) == 0
    one, two = tmp_path / "one", tmp_path / "two"
    common = ["export", "--schema-file", ROOT / "schema.sql", "--dir"]
    succeed(*common, one, "--env-file", envs[0])
    succeed("restore", "--dir", one, "--env-file", envs[1])
    succeed(*common, two, "--env-file", envs[1])
    assert contents(one, "*.csv") == contents(two, "*.csv")
    for env in envs:
        assert not (env.parent / er.EMBEDDED_FOLDER / "postmaster.pid").exists()


# ---- every feature at once


def round_trip(source: Place, *targets: Place) -> None:
    """Take a database from its source to others, and let pg_dump judge."""
    source.succeed("export")
    for target in targets:
        target.succeed("restore")
        compare(source, target)
        target.but(DB_USER="postgres").succeed("verify")


@pytest.fixture
def elsewhere(server: Server, server16: Server, server18: Server) -> Iterator[Place]:
    """An empty database of the other version."""
    with place(server16 if server is server18 else server18) as database:
        yield database


@pytest.fixture
def plain(server: Server, work: Path) -> Iterator[Place]:
    """A database whose owner is no superuser."""
    server.execute("CREATE ROLE plain LOGIN")
    with place(server, "OWNER plain") as database:
        yield database.but(DB_USER="plain")
    server.execute("DROP ROLE plain")


@both_versions
def test_everything(
    source: Place, target: Place, elsewhere: Place, plain: Place
) -> None:
    source.make(*ALL_AT_ONCE)
    round_trip(source, target, elsewhere, plain)
    target.succeed("export", "--dir", "again")
    found = contents(Path("exports"))
    assert contents(Path("again"), "*.csv") == contents(Path("exports"), "*.csv")
    assert {*contents(Path("again"))} == {*found}
    # To frictionless and DuckDB it is a data package; what one of its tables has, and
    # the standard forbids, is two blank names.
    tasks = validated(Path("exports"), faults=[" ", " "])
    with er.Folder(Path("exports")).opened() as snapshot:
        assert snapshot.manifest is not None
        files = snapshot.manifest.files
    assert len(tasks) == len(files) > 50
    for each in files:
        # A row of nothing but NULLs is an empty line to others.
        if found[each.path].split(b"\n")[0].count(b","):
            assert counted_by_duckdb(Path("exports") / each.path) == each.rows, each


def counted_by_duckdb(path: Path) -> int:
    """Return how many rows DuckDB finds in a CSV."""
    import duckdb

    query = "SELECT count(*) FROM read_csv(?, header = true, all_varchar = true)"
    return int(duckdb.execute(query, [str(path)]).fetchall()[0][0])


@both_versions
def test_everything_by_a_schema_of_pg_dump(source: Place, target: Place) -> None:
    source.make(*ALL_AT_ONCE)
    Path("schema.sql").write_text(source.pg_dump(), encoding="utf-8")
    round_trip(source, target)


VERSION_PAIRS = tuple(itertools.combinations_with_replacement((16, 17, 18), 2))


@pytest.mark.parametrize("pair", VERSION_PAIRS, ids=str)
def test_everything_there_and_back(
    pair: tuple[int, int], request: pytest.FixtureRequest, work: Path
) -> None:
    """By our own schema, to the same version or a newer one and back: no false note."""
    with contextlib.ExitStack() as stack:
        one, other = (
            stack.enter_context(place(request.getfixturevalue(f"server{version}")))
            for version in pair
        )
        one.make(*ALL_AT_ONCE)
        before, rows = one.schema(), one.rows()
        for source, target in ((one, other), (other, one)):
            for database, *command in (
                (source, "schema", "--force"), (source, "export"),
                (target, "restore", "--yes"), (target, "verify"),
            ):  # fmt: skip
                result = database.call(*command)
                notes = re.findall(
                    "^(?:note|skipped|dropped|-|\\+).*", result.err, re.MULTILINE
                )
                assert (result.status, notes) == (0, []), result.err
            compare(source, target)
        assert pair[0] != pair[1] or one.schema() == before
        assert one.rows() == rows


def test_what_only_18_has(source: Place, target: Place) -> None:
    """And a name that begins like the file of a spreadsheet."""
    source.make(
        'CREATE TABLE marked ("\ufeffa" int PRIMARY KEY, b int);'
        "CREATE TABLE virtual (a int, b int GENERATED ALWAYS AS (a + 1) VIRTUAL);"
        "CREATE TABLE lax (a int REFERENCES marked NOT ENFORCED);",
        "INSERT INTO marked VALUES (1, 2); INSERT INTO virtual VALUES (1), (NULL);"
        "INSERT INTO lax VALUES (7);",
    )
    round_trip(source, target)


@pytest.mark.parametrize("case", CONTRIB.values(), ids=CONTRIB.keys())
def test_contrib_and_xml(server17: Server, work: Path, case: tuple[str, str]) -> None:
    with place(server17) as source, place(server17) as target:
        source.make(*case)
        round_trip(source, target)


# ---- encodings

OPTIONS = "ENCODING '{}' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0"


@pytest.mark.parametrize("encoding", ["LATIN1", "SQL_ASCII"])
def test_other_encodings(server: Server, target: Place, encoding: str) -> None:
    """To a UTF-8 database and back."""
    schema = 'CREATE TABLE "tëst" (a text PRIMARY KEY, "ñ" text)'
    csv = Path("exports/tëst.csv")
    with contextlib.ExitStack() as stack:
        options = OPTIONS.format(encoding)
        first, last = (stack.enter_context(place(server, options)) for _ in "12")
        first.execute(f"ALTER DATABASE {first.name} SET client_encoding = 'UTF8'")
        rows = "INSERT INTO \"tëst\" VALUES ('é', 'ü, \"ß\"'), ('a', NULL)"
        first.make(schema, rows)
        for source, database in ((first, target), (target, last), (last, None)):
            source.succeed("export")
            expected = 'a,ñ\na,\né,"ü, ""ß"""\n'
            assert csv.read_text(encoding="utf-8") == expected
            if database:
                database.succeed("restore")


def test_text_that_cannot_be_held(server: Server, source: Place) -> None:
    """A CSV is UTF-8 or it is not written; not every database can hold it."""
    schema = "CREATE TABLE t (a text)"
    with place(server, OPTIONS.format("SQL_ASCII")) as database:
        database.make(schema, "INSERT INTO t VALUES (E'\\xff')")
        message = database.fail(1, "export")
        assert 'table t: invalid byte sequence for encoding "UTF8": 0xff' in message
        assert not Path("exports").exists()
    source.make(schema, "INSERT INTO t VALUES ('fine'), ('👍')")
    source.succeed("export")
    with place(server, OPTIONS.format("LATIN1")) as target:
        message = target.fail(3, "restore")
        assert "t.csv, line 3" in message
        assert "LATIN1" in message


def test_text_keys_are_ordered_alike_everywhere(
    source: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the database's collation: these servers have none but C to try."""
    queries: list[str] = []
    terms = er.order_terms

    def spy(table: er.Table) -> object:
        with contextlib.closing(source.connect()) as db:
            queries.append(terms(table).as_string(db))
        return terms(table)

    monkeypatch.setattr(er, "order_terms", spy)
    schema = "CREATE TABLE t (a text, b int, c varchar(9), PRIMARY KEY (c, b, a))"
    source.make(schema, "INSERT INTO t VALUES ('b', 1, ''), ('A', 1, '')")
    source.succeed("export")
    assert queries == ['"c" COLLATE "C", "b", "a" COLLATE "C"']
    assert Path("exports/t.csv").read_text() == 'a,b,c\nA,1,""\nb,1,""\n'


# ---- others


def test_a_blank_cell_typed_by_hand_is_null(source: Place) -> None:
    """A spreadsheet may reorder columns, add a byte-order mark and write CRLF."""
    by_hand(
        "CREATE TABLE notes (id serial PRIMARY KEY, a text, b text)",
        notes='\ufeffb,a,id\r\n,x,1\r\ny,,7\r\n"",é,3\r\n',
    )
    source.succeed("restore")
    rows = source.fetch("SELECT id, a, b FROM notes ORDER BY id")
    assert rows == [(1, "x", None), (3, "é", ""), (7, None, "y")]
    assert source.fetch("INSERT INTO notes DEFAULT VALUES RETURNING id") == [(8,)]


def test_truncate_by_others_does_not_empty_a_snapshot(
    source: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TRUNCATE shows older transaction snapshots an empty table; it has to wait."""
    schema = "CREATE TABLE a_first (a int PRIMARY KEY); CREATE TABLE z (a int)"
    source.make(schema, "INSERT INTO z SELECT generate_series(1, 1000)")
    waiting = "SELECT FROM pg_locks WHERE NOT granted AND relation = 'z'::regclass"
    with contextlib.ExitStack() as stack:

        def truncate(*_: object) -> None:
            if not source.fetch(waiting):
                query = "TRUNCATE z; INSERT INTO z VALUES (1)"
                stack.enter_context(meanwhile(source, query))
                wait_until(lambda: source.fetch(waiting))

        at_step(monkeypatch, er.Database, "copy_out", before=truncate)
        source.succeed("export")
    assert len(Path("exports/z.csv").read_text().splitlines()) == 1001
    assert source.fetch("SELECT count(*) FROM z") == [(1,)]


def test_env_file_by_password_and_url(
    exported: Place, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A password with $, #, @, % and a quote works in both spellings.

    libpq's variables, which would lead the connection astray, have no say.
    """
    server.execute("ALTER ROLE postgres PASSWORD '" + PASSWORD.replace("'", "''") + "'")
    quoted = "'" + PASSWORD.replace("'", "\\'") + "'"
    url = f"postgresql://postgres:{PASSWORD}@127.0.0.1:{server.port}/{exported.name}"
    parts = ("DB_HOST", "DB_PORT", "DB_NAME", "DB_USER")
    by_url = {**dict.fromkeys(parts), "DATABASE_URL": f'"{url}"'}
    with monkeypatch.context() as shell:
        for name in ("HOSTADDR", "OPTIONS", "SSLMODE", "SERVICE", "DATABASE"):
            shell.setenv(f"PG{name}", "nonsense")
        exported.but(DB_HOST="127.0.0.1", DB_PASSWORD=quoted).succeed("export")
        exported.but(**by_url).succeed("export")
