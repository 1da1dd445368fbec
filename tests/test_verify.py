"""verify: what differs between a database and a snapshot, to the row."""

from __future__ import annotations

import contextlib
import io
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from conftest import ROOT, Build, Fail, Run, Succeed, both_versions
from hypothesis import given
from hypothesis import strategies as st
from servers import Database

import export_restore as er


def differences(run: Run, *argv: object) -> list[str]:
    """Verify a database that differs; return the lines that say in what."""
    result = run("verify", *argv, "-q")
    assert (result.status, result.err) == (3, ""), result
    blocks = result.out.split("\n\n")
    assert len(blocks) == 3, result.out
    assert blocks[2].endswith("differs from the snapshot in exports.\n")
    return blocks[1].splitlines()


@both_versions
def test_equal_after_export_and_after_restore(
    exported: Database, target: Database, work: Path, run: Run, succeed: Succeed
) -> None:
    succeed("restore", "--env-file", target.env_file(work))
    for database in (exported, target):
        before = database.state()
        result = run("verify", "--env-file", database.env_file(work))
        assert result.status == 0
        assert result.out.endswith("equals the snapshot in exports.\n")
        assert database.state() == before


def test_equal_tables_are_read_once(
    exported: Database, work: Path, succeed: Succeed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their checksums tell; gzip'ed or not."""

    def compare_rows(*_: object) -> None:
        raise AssertionError("row by row")

    monkeypatch.setattr(er.Comparison, "compare_rows", compare_rows)
    env = exported.env_file(work)
    succeed("verify", "--env-file", env)
    succeed("export", "--env-file", env, "--gzip")
    succeed("verify", "--env-file", env)


def test_rows_missing_extra_and_changed_are_named(
    exported: Database, work: Path, run: Run
) -> None:
    exported.execute(
        "DELETE FROM feedback;"
        "DELETE FROM leads WHERE id = 1;"
        "UPDATE leads SET status = 'lost', company = NULL WHERE id IN (5, 9);"
        "INSERT INTO agents SELECT 77, 'x', 'y@example.org', phone, region,"
        " 0, true, hired_on FROM agents LIMIT 1"
    )
    found = differences(run, "--env-file", exported.env_file(work))
    assert found[0] == "agents: 1 extra (id=77)"
    assert found[1].startswith("leads: 1 missing (id=1), 2 changed (id=5: ")
    assert "company" in found[1]
    assert "id=9: " in found[1]
    assert found[2] == (
        "feedback: 90 missing (id=1; id=2; id=3; id=4; id=5; and 85 more)"
    )
    assert len(found) == 3


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ("ALTER TABLE leads DROP COLUMN notes", "leads: has no column notes; its rows"),
        ("ALTER TABLE leads ADD more int DEFAULT 1", "+column public.leads.more: int"),
        ("DROP TABLE feedback", "feedback: is no table of the database"),
        ("CREATE TABLE other (a int)", "+table public.other:"),
        (
            "SELECT nextval('leads_id_seq')",
            "leads_id_seq: the next value is 62, not 61",
        ),
        ("ALTER TABLE leads DROP CONSTRAINT leads_pkey CASCADE", "-index public.leads"),
    ],
)
def test_what_else_differs_is_named(
    exported: Database, work: Path, run: Run, change: str, line: str
) -> None:
    exported.execute(change)
    found = differences(run, "--env-file", exported.env_file(work))
    assert any(each.startswith(line) for each in found), found
    rows_compared = "has no column" in line or "is no table" in line
    assert rows_compared or not any(each.startswith("leads: ") for each in found)


def test_null_and_empty_are_not_the_same(
    source: Database, build: Build, run: Run, succeed: Succeed
) -> None:
    schema = """CREATE TABLE t ("The id" int PRIMARY KEY, "a,b" text, c text)"""
    env = build(
        schema, "INSERT INTO t VALUES (1, '', 'x\n\"y'), (2, NULL, 'a'), (3, 'z', '')"
    )
    succeed("export", "--env-file", env)
    source.execute('UPDATE t SET "a,b" = nullif(\'\', "a,b") WHERE "The id" < 3')
    source.execute('UPDATE t SET c = \'x\n"z\' WHERE "The id" = 1')
    assert differences(run, "--env-file", env) == [
        't: 2 changed ("The id"=1: "a,b", c; "The id"=2: "a,b")'
    ]


@both_versions
def test_rows_without_a_key(
    source: Database, build: Build, run: Run, succeed: Succeed
) -> None:
    """The order does not count, how often a row is there does."""
    schema = "CREATE TABLE t (a int, b text)"
    env = build(
        schema, "INSERT INTO t SELECT i % 5, 'x' FROM generate_series(1, 100) AS i"
    )
    succeed("export", "--env-file", env)
    source.execute(
        "CREATE TABLE u AS TABLE t; TRUNCATE t;"
        "INSERT INTO t SELECT * FROM u ORDER BY a; DROP TABLE u"
    )
    assert run("verify", "--env-file", env).status == 0
    source.execute(
        "DELETE FROM t WHERE ctid = (SELECT min(ctid) FROM t);"
        "INSERT INTO t VALUES (7, NULL), (4, 'x')"
    )
    assert differences(run, "--env-file", env) == [
        "t: 1 missing (a=0, b=x), 2 extra (a=7, b=NULL; a=4, b=x)"
    ]


def test_a_sequence_that_the_restore_raised_is_no_difference(
    source: Database, target: Database, work: Path, run: Run, succeed: Succeed
) -> None:
    """The source had inserted ids by hand; the target must not give them again."""
    schema = "CREATE TABLE t (id serial PRIMARY KEY, b int)"
    (work / "schema.sql").write_text(schema)
    source.execute(f"{schema}; INSERT INTO t VALUES (10), (20)")
    succeed("export", "--env-file", source.env_file(work))
    env = target.env_file(work)
    succeed("restore", "--env-file", env)
    assert target.sequences() == {"public.t_id_seq": (20, True)}
    assert run("verify", "--env-file", env).status == 0
    target.execute("SELECT setval('t_id_seq', 25)")
    assert differences(run, "--env-file", env) == [
        "t_id_seq: the next value is 26, not 1"
    ]


def test_a_view_that_was_filled(
    source: Database, build: Build, run: Run, succeed: Succeed
) -> None:
    schema = "CREATE MATERIALIZED VIEW v AS SELECT 1 AS a; CREATE TABLE t (a int)"
    env = build(schema)
    succeed("export", "--env-file", env)
    source.execute("REFRESH MATERIALIZED VIEW v WITH NO DATA")
    assert differences(run, "--env-file", env) == ["v: is not filled"]


def peak_memory(*argv: object, status: int = 0) -> int:
    """Run a command line as a process; return its peak resident memory in kB."""
    code = (
        "import sys; sys.path.insert(0, sys.argv.pop(1)); import export_restore as er\n"
        "status = int(sys.argv.pop()); assert er.main(sys.argv[1:]) == status\n"
        "import resource, pathlib\n"
        "status = pathlib.Path('/proc/self/status')\n"
        # Where there is a /proc, ru_maxrss also counts what ran before exec.
        "print(status.read_text().split('VmHWM:')[1].split()[0] if status.exists()\n"
        "      else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)"
    )
    command = [sys.executable, "-c", code, str(ROOT), *map(str, argv), str(status)]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    return int(run.stdout.split()[-1])


def test_memory_stays_small_whatever_the_size(
    source: Database, target: Database, build: Build, work: Path, run: Run
) -> None:
    """Half a million rows, 100 MB: export, restore and verify stay under 80 MB."""
    schema = "CREATE TABLE t (id int PRIMARY KEY, a text, b text)"
    env = build(
        schema,
        "INSERT INTO t SELECT i, md5(i::text), repeat('x', 140 + i % 60)"
        " FROM generate_series(1, 500000) AS i",
    )
    assert peak_memory("export", "--env-file", env) < 80_000
    there = target.env_file(work)
    assert peak_memory("restore", "--env-file", there) < 80_000
    assert peak_memory("verify", "--env-file", there) < 80_000
    target.execute(
        "UPDATE t SET a = 'other' WHERE id IN (10, 300000);"
        "UPDATE t SET a = '', b = NULL WHERE id = 499999;"
        "DELETE FROM t WHERE id IN (1, 400000); INSERT INTO t VALUES (500001)"
    )
    found = differences(run, "--env-file", there)
    assert found == [
        "t: 2 missing (id=1; id=400000), 1 extra (id=500001), "
        "3 changed (id=10: a; id=300000: a; id=499999: a, b)"
    ]
    assert peak_memory("verify", "--env-file", there, status=3) < 80_000


def test_memory_stays_small_where_everything_differs(
    source: Database, build: Build, run: Run, succeed: Succeed
) -> None:
    """No row in its place: the comparison goes in parts."""
    schema = "CREATE TABLE t (id int, a text)"
    env = build(
        schema, "INSERT INTO t SELECT i, 'a' FROM generate_series(1, 200000) AS i"
    )
    succeed("export", "--env-file", env)
    source.execute(
        "TRUNCATE t; INSERT INTO t SELECT 200001 - i, 'a'"
        " FROM generate_series(1, 200000) AS i; UPDATE t SET a = 'b' WHERE id < 3"
    )
    assert differences(run, "--env-file", env) == [
        "t: 2 missing (id=1, a=a; id=2, a=a), 2 extra (id=2, a=b; id=1, a=b)"
    ]
    assert peak_memory("verify", "--env-file", env, status=3) < 80_000


@pytest.mark.parametrize(
    ("schema", "rows", "change", "line"),
    [
        (
            "CREATE TABLE t (a boolean)",
            "INSERT INTO t SELECT true FROM generate_series(1, 120000)",
            "DELETE FROM t WHERE ctid <> '(0,1)'",
            "t: 119,999 missing (a=t; a=t; a=t; a=t; a=t; and 119,994 more)",
        ),
        (
            "CREATE TABLE t (id int PRIMARY KEY, a text)",
            "INSERT INTO t VALUES (1, repeat('x', 25000000))",
            "UPDATE t SET a = a || 'y'",
            "t: 1 changed (id=1: a)",
        ),
        (
            "CREATE TABLE t (a int, c text, v int,"
            " g text GENERATED ALWAYS AS (c || 'x') STORED, PRIMARY KEY (a, g))",
            "INSERT INTO t (a, c) VALUES (1, 'x'), (1, 'y'), (1, 'z')",
            "DELETE FROM t WHERE c = 'x'",
            "t: 1 missing (a=1, c=x, v=NULL)",
        ),
        (
            "CREATE TABLE t (a int, c text, v int,"
            " g text GENERATED ALWAYS AS (c || 'x') STORED, PRIMARY KEY (a, g))",
            "INSERT INTO t (a, c) VALUES (1, 'x')",
            "ALTER TABLE t DROP COLUMN g CASCADE",
            "-column public.t.g: text not null stored default ‹(c || 'x'::text)›",
        ),
    ],
)
def test_rows_that_are_hard_to_pair(
    source: Database,
    build: Build,
    run: Run,
    succeed: Succeed,
    schema: str,
    rows: str,
    change: str,
    line: str,
) -> None:
    """Equal ones by the thousand, large ones, keys that no CSV holds whole."""
    env = build(schema, rows)
    succeed("export", "--env-file", env)
    succeed("verify", "--env-file", env)
    source.execute(change)
    assert line in differences(run, "--env-file", env)


def test_what_cannot_be_compared(exported: Database, work: Path, fail: Fail) -> None:
    env = exported.env_file(work)
    assert "there is no snapshot folder" in fail(
        2, "verify", "--env-file", env, "--dir", "nowhere"
    )
    path = work / "exports/leads.csv"
    path.write_text(path.read_text(encoding="utf-8") + "1\n", encoding="utf-8")
    assert "sha256 differs" in fail(3, "verify", "--env-file", env)
    (work / "exports/datapackage.json").unlink()
    assert "has no manifest" in fail(3, "verify", "--env-file", env)


@both_versions
def test_nothing_is_written(exported: Database, work: Path, succeed: Succeed) -> None:
    """Not even a transaction number is taken."""
    ask = "SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint"
    before = exported.fetch(ask)
    succeed("verify", "--env-file", exported.env_file(work))
    assert exported.fetch(ask) == before


# ---- the comparison by itself

CELLS = st.one_of(st.none(), st.text(alphabet='a,"\n\\.é', max_size=4))
ROWS = st.lists(st.tuples(st.integers(0, 12), CELLS), max_size=14)


def record(row: tuple[object, ...]) -> bytes:
    """Return a row as COPY writes it."""
    cells = [
        ""
        if cell is None
        else '"' + str(cell).replace('"', '""') + '"'
        if cell == "" or set(str(cell)) & set(',"\n\r')
        else str(cell)
        for cell in row
    ]
    return ",".join(cells).encode() + b"\n"


def compared(
    ours: list[tuple[object, ...]],
    theirs: list[tuple[object, ...]],
    key: tuple[str, ...],
    parts: int,
) -> tuple[er.RowDifferences, ...]:
    found = []
    for part in range(parts):
        comparison = er.RowComparison(("k", "v"), key, part, parts)
        for place in range(max(len(ours), len(theirs))):
            comparison.pair(
                record(ours[place]) if place < len(ours) else None,
                record(theirs[place]) if place < len(theirs) else None,
            )
        found.append(comparison)
    return er.differences_of(found)


@given(ROWS, ROWS, st.integers(1, 3))
def test_rows_pair_by_key_in_any_order(ours: list, theirs: list, parts: int) -> None:  # type: ignore[type-arg]
    one, two = ({key: (key, value) for key, value in rows} for rows in (ours, theirs))
    missing, extra, changed = compared(
        list(one.values()), list(two.values()), ("k",), parts
    )
    assert missing.count == len(one.keys() - two.keys())
    assert extra.count == len(two.keys() - one.keys())
    expected = {k for k in one.keys() & two.keys() if one[k] != two[k]}
    assert changed.count == len(expected)
    assert {str(name).split(":")[0] for name in changed.first} <= {
        f"k={key}" for key in expected
    }


@given(ROWS, ROWS, st.integers(1, 3))
def test_rows_pair_as_a_multiset(ours: list, theirs: list, parts: int) -> None:  # type: ignore[type-arg]
    missing, extra, changed = compared(ours, theirs, (), parts)
    assert missing.count == sum((Counter(ours) - Counter(theirs)).values())
    assert extra.count == sum((Counter(theirs) - Counter(ours)).values())
    assert changed.count == 0


@given(st.lists(st.tuples(CELLS, CELLS), max_size=8))
def test_records_and_cells_are_those_of_copy(rows: list) -> None:  # type: ignore[type-arg]
    text = b"".join(map(record, rows))
    with contextlib.closing(io.BytesIO(text)) as file:
        records = list(er.split_records(file, ""))
    assert records == [record(row) for row in rows]
    for row, raw in zip(rows, records, strict=True):
        expected = [None if cell is None else cell.encode() for cell in row]
        assert er.csv_cells(raw) == expected
