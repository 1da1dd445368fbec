"""Whatever a schema holds survives: each case by itself, and all of them at once."""

from __future__ import annotations

import contextlib
import itertools
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from cases import ALL_AT_ONCE, CASES, CONTRIB, compare
from conftest import Fail, Run, Succeed, both_versions
from servers import Database, Server

import export_restore as er

ONLY_18 = {
    "virtual columns": (
        "CREATE TABLE virtual (a int, b int GENERATED ALWAYS AS (a + 1) VIRTUAL);"
        "CREATE TABLE lax (a int REFERENCES virtual_target NOT ENFORCED);",
        "INSERT INTO virtual VALUES (1), (NULL); INSERT INTO lax VALUES (7);",
    ),
}


def round_trip(
    source: Database,
    target: Database,
    work: Path,
    succeed: Succeed,
    case: tuple[str, str],
) -> None:
    """Make the case, take it from source to target, and let pg_dump judge."""
    schema, rows = case
    (work / "schema.sql").write_text(schema, encoding="utf-8")
    source.execute(schema)
    source.execute(rows)
    succeed("export", "--env-file", source.env_file(work))
    succeed("restore", "--env-file", target.env_file(work))
    compare(source, target)
    succeed("verify", "--env-file", target.env_file(work))


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_each_case(
    source: Database,
    target: Database,
    work: Path,
    succeed: Succeed,
    case: tuple[str, str],
) -> None:
    round_trip(source, target, work, succeed, case)


def test_a_name_that_begins_like_a_file_of_a_spreadsheet(
    source: Database, target: Database, work: Path, succeed: Succeed
) -> None:
    schema = 'CREATE TABLE marked ("\ufeffa" int, b int)'
    rows = "INSERT INTO marked VALUES (1, 2)"
    round_trip(source, target, work, succeed, (schema, rows))


@pytest.fixture
def other(server: Server, server16: Server, server18: Server) -> Iterator[Database]:
    """An empty database of the other version."""
    with (server16 if server is server18 else server18).database() as database:
        yield database


@both_versions
def test_everything_between_versions(
    source: Database, other: Database, work: Path, succeed: Succeed
) -> None:
    """All cases in one database, from 16 to 18 and from 18 to 16."""
    round_trip(source, other, work, succeed, ALL_AT_ONCE)


@both_versions
def test_everything_is_stable(
    source: Database, target: Database, work: Path, succeed: Succeed
) -> None:
    """An export of what was restored has the same bytes in every CSV."""
    round_trip(source, target, work, succeed, ALL_AT_ONCE)
    succeed("export", "--env-file", target.env_file(work), "--dir", "again")
    names = sorted(path.name for path in (work / "exports").iterdir())
    assert names == sorted(path.name for path in (work / "again").iterdir())
    for name in names:
        if name.endswith(".csv"):
            one, two = (work / folder / name for folder in ("exports", "again"))
            assert one.read_bytes() == two.read_bytes(), name


@both_versions
def test_everything_by_a_schema_of_pg_dump(
    source: Database, target: Database, work: Path, succeed: Succeed
) -> None:
    for part in ALL_AT_ONCE:
        source.execute(part)
    (work / "schema.sql").write_text(source.pg_dump(), encoding="utf-8")
    succeed("export", "--env-file", source.env_file(work))
    succeed("restore", "--env-file", target.env_file(work))
    compare(source, target)


VERSION_PAIRS = tuple(itertools.combinations_with_replacement((16, 17, 18), 2))


@pytest.mark.parametrize("pair", VERSION_PAIRS, ids=str)
def test_everything_there_and_back(
    pair: tuple[int, int], request: pytest.FixtureRequest, work: Path, run: Run
) -> None:
    """By our own schema, to the same version or a newer one and back: no false note."""

    def quietly(*argv: object) -> None:
        result = run(*argv)
        notes = re.findall(
            r"^(?:note|skipped|dropped|-|\+).*", result.err, re.MULTILINE
        )
        assert (result.status, notes) == (0, []), result.err

    with contextlib.ExitStack() as stack:
        one, other = (
            stack.enter_context(request.getfixturevalue(f"server{version}").database())
            for version in pair
        )
        for part in ALL_AT_ONCE:
            one.execute(part)
        before, rows = one.schema(), one.rows()
        for source, target in ((one, other), (other, one)):
            env = source.env_file(work)
            quietly("schema", "--force", "--env-file", env)
            quietly("export", "--env-file", env)
            quietly("restore", "--yes", "--env-file", target.env_file(work))
            quietly("verify", "--env-file", target.env_file(work))
            compare(source, target)
        if pair[0] == pair[1]:
            assert one.schema() == before
        assert one.rows() == rows


@both_versions
def test_everything_without_superuser(
    source: Database, target: Database, work: Path, succeed: Succeed
) -> None:
    """Who owns a database restores into it, forced policies or not."""
    server = source.server
    for part in ALL_AT_ONCE:
        source.execute(part)
    (work / "schema.sql").write_text(ALL_AT_ONCE[0], encoding="utf-8")
    succeed("export", "--env-file", source.env_file(work))
    server.execute("DROP ROLE IF EXISTS plain; CREATE ROLE plain LOGIN")
    server.execute(f"ALTER DATABASE {target.name} OWNER TO plain")
    target.execute("GRANT ALL ON SCHEMA public TO plain")
    try:
        succeed("restore", "--env-file", target.env_file(work, DB_USER="plain"))
        compare(source, target)
    finally:
        server.execute(f"ALTER DATABASE {target.name} OWNER TO postgres")
        target.execute("DROP OWNED BY plain CASCADE; DROP ROLE plain")


def test_what_only_18_has(
    source: Database, target: Database, work: Path, succeed: Succeed
) -> None:
    schema, rows = ONLY_18["virtual columns"]
    target_table = "CREATE TABLE virtual_target (a int PRIMARY KEY);"
    round_trip(source, target, work, succeed, (target_table + schema, rows))


@pytest.mark.parametrize("case", CONTRIB.values(), ids=CONTRIB.keys())
def test_contrib_and_xml(
    server17: Server, work: Path, succeed: Succeed, case: tuple[str, str]
) -> None:
    with server17.database() as source, server17.database() as target:
        round_trip(source, target, work, succeed, case)


@pytest.mark.parametrize(
    "options",
    [
        "ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0",
        "ENCODING 'SQL_ASCII' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0",
    ],
)
def test_other_encodings(
    server: Server, work: Path, succeed: Succeed, options: str
) -> None:
    """To a UTF-8 database and back."""
    schema = 'CREATE TABLE "tëst" (a text PRIMARY KEY, "ñ" text)'
    (work / "schema.sql").write_text(schema, encoding="utf-8")
    with contextlib.ExitStack() as stack:
        first, last = (stack.enter_context(server.database(options)) for _ in "12")
        middle = stack.enter_context(server.database())
        with contextlib.closing(first.connect()) as db, db.cursor() as cursor:
            db.set_client_encoding("UTF8")
            cursor.execute(schema)
            cursor.execute("INSERT INTO \"tëst\" VALUES ('é', 'ü, \"ß\"'), ('a', NULL)")
        succeed("export", "--env-file", first.env_file(work))
        expected = 'a,ñ\na,\né,"ü, ""ß"""\n'
        assert (work / "exports/tëst.csv").read_text(encoding="utf-8") == expected
        succeed("restore", "--env-file", middle.env_file(work))
        succeed("export", "--env-file", middle.env_file(work))
        succeed("restore", "--env-file", last.env_file(work))
        succeed("export", "--env-file", last.env_file(work))
        assert (work / "exports/tëst.csv").read_text(encoding="utf-8") == expected


def test_bytes_in_no_encoding(server: Server, work: Path, fail: Fail) -> None:
    """A CSV is UTF-8 or it is not written."""
    options = "ENCODING 'SQL_ASCII' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0"
    (work / "schema.sql").write_text("CREATE TABLE t (a text)")
    with server.database(options) as database:
        database.execute("CREATE TABLE t (a text); INSERT INTO t VALUES (E'\\xff')")
        message = fail(1, "export", "--env-file", database.env_file(work))
        assert 'table t: invalid byte sequence for encoding "UTF8": 0xff' in message
        assert not list((work / "exports").iterdir())


def test_text_that_the_target_cannot_hold(
    server: Server,
    source: Database,
    work: Path,
    succeed: Succeed,
    fail: Fail,
) -> None:
    schema = "CREATE TABLE t (a text)"
    (work / "schema.sql").write_text(schema)
    source.execute(schema + "; INSERT INTO t VALUES ('fine'), ('👍')")
    succeed("export", "--env-file", source.env_file(work))
    options = "ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0"
    with server.database(options) as target:
        message = fail(3, "restore", "--env-file", target.env_file(work))
        assert "t.csv, line 3" in message
        assert "LATIN1" in message


def test_text_keys_are_ordered_alike_everywhere(
    source: Database, work: Path, succeed: Succeed, monkeypatch: pytest.MonkeyPatch
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
    (work / "schema.sql").write_text(schema)
    source.execute(schema + "; INSERT INTO t VALUES ('b', 1, ''), ('A', 1, '')")
    succeed("export", "--env-file", source.env_file(work))
    assert queries == ['"c" COLLATE "C", "b", "a" COLLATE "C"']
    assert (work / "exports/t.csv").read_text() == 'a,b,c\nA,1,""\nb,1,""\n'
