"""verify: what differs between a database and a snapshot, to the row."""

from __future__ import annotations

import contextlib
import io
import itertools
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from cases import replace_csv
from commands import ROOT, Place
from conftest import both_versions
from hypothesis import given
from hypothesis import strategies as st

import export_restore as er


def differences(database: Place) -> list[str]:
    """Verify a database that differs; return the lines that say in what."""
    result = database.call("verify", "-q")
    assert (result.status, result.err) == (3, ""), result
    blocks = result.out.split("\n\n")
    assert len(blocks) == 3, result.out
    assert blocks[2].endswith("differs from the snapshot in exports.\n")
    return blocks[1].splitlines()


@both_versions
def test_equal_after_export_and_after_restore(exported: Place, target: Place) -> None:
    """Nothing is written: not even a transaction number is taken."""
    ask = "SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint"
    target.succeed("restore")
    for database in (exported, target):
        before = database.fetch(ask)
        result = database.call("verify")
        assert database.fetch(ask) == before
        assert result.status == 0
        assert result.out.endswith("equals the snapshot in exports.\n")


def test_equal_tables_are_read_once(
    exported: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their checksums tell; gzip'ed or not."""

    def compare_rows(*_: object) -> None:
        raise AssertionError("row by row")

    monkeypatch.setattr(er.Comparison, "compare_rows", compare_rows)
    exported.succeed("verify")
    exported.succeed("export", "--gzip")
    exported.succeed("verify")


def test_rows_missing_extra_and_changed_are_named(exported: Place) -> None:
    exported.execute(
        "DELETE FROM feedback;"
        "DELETE FROM leads WHERE id = 1;"
        "UPDATE leads SET full_name = 'x', notes = 'x' WHERE id IN (5, 9);"
        "INSERT INTO agents SELECT 77, 'x', 'y@example.org', phone, region,"
        " 0, true, hired_on FROM agents LIMIT 1"
    )
    assert differences(exported) == [
        "agents: 1 extra (id=77)",
        "leads: 1 missing (id=1),"
        " 2 changed (id=5: full_name, notes; id=9: full_name, notes)",
        "feedback: 90 missing (id=1; id=2; id=3; id=4; id=5; and 85 more)",
    ]


def test_what_else_differs_is_named(exported: Place) -> None:
    """Each by itself, and the rows are compared all the same where that is possible."""
    for change, line in (
        ("SELECT nextval('leads_id_seq')",
         "leads_id_seq: the next value is 62, not 61"),
        ("ALTER TABLE leads ADD more int DEFAULT 1", "+column public.leads.more: int"),
        ("CREATE TABLE other (a int)", "+table public.other:"),
        ("ALTER TABLE leads DROP CONSTRAINT leads_pkey CASCADE", "-index public.leads"),
        ("ALTER TABLE leads DROP COLUMN notes", "leads: has no column notes; its rows"),
        ("DROP TABLE feedback", "feedback: is no table of the database"),
    ):  # fmt: skip
        exported.execute(change)
        found = differences(exported)
        assert any(each.startswith(line) for each in found), found
        rows_compared = "notes" in change or "feedback" in change
        assert rows_compared or not any(each.startswith("leads: ") for each in found)


def test_what_cannot_be_compared(exported: Place) -> None:
    missing = exported.fail(2, "verify", "--dir", "nowhere")
    assert "there is no snapshot folder" in missing
    path = Path("exports/leads.csv")
    path.write_text(path.read_text(encoding="utf-8") + "1\n", encoding="utf-8")
    assert "sha256 differs" in exported.fail(3, "verify")
    Path("exports/datapackage.json").unlink()
    assert "has no manifest" in exported.fail(3, "verify")


@both_versions
def test_rows_without_a_key(source: Place) -> None:
    """The order does not count, how often a row is there does."""
    rows = "INSERT INTO t SELECT i % 5, 'x' FROM generate_series(1, 100) AS i"
    source.make("CREATE TABLE t (a int, b text)", rows)
    source.succeed("export")
    source.execute(
        "CREATE TABLE u AS TABLE t; TRUNCATE t;"
        "INSERT INTO t SELECT * FROM u ORDER BY a; DROP TABLE u"
    )
    source.told(0, "verify")
    source.execute(
        "DELETE FROM t WHERE ctid = (SELECT min(ctid) FROM t);"
        "INSERT INTO t VALUES (7, NULL), (4, 'x')"
    )
    assert differences(source) == [
        "t: 1 missing (a=0, b=x), 2 extra (a=7, b=NULL; a=4, b=x)"
    ]


GENERATED = (
    "CREATE TABLE t (a int, c text, v int,"
    " g text GENERATED ALWAYS AS (c || 'x') STORED, PRIMARY KEY (a, g))"
)
# Equal rows by the thousand, large ones, keys that no CSV holds whole, …
HARD = (
    ("CREATE TABLE t (a boolean)",
     "INSERT INTO t SELECT true FROM generate_series(1, 120000)",
     "DELETE FROM t WHERE ctid <> '(0,1)'",
     "t: 119,999 missing (a=t; a=t; a=t; a=t; a=t; and 119,994 more)"),
    ("CREATE TABLE t (id int PRIMARY KEY, a text)",
     "INSERT INTO t VALUES (1, repeat('x', 25000000))",
     "UPDATE t SET a = a || 'y'", "t: 1 changed (id=1: a)"),
    (GENERATED, "INSERT INTO t (a, c) VALUES (1, 'x'), (1, 'y'), (1, 'z')",
     "DELETE FROM t WHERE c = 'x'", "t: 1 missing (a=1, c=x, v=NULL)"),
    (GENERATED, "INSERT INTO t (a, c) VALUES (1, 'x')",
     "ALTER TABLE t DROP COLUMN g CASCADE",
     "-column public.t.g: text not null stored default ‹(c || 'x'::text)›"),
    ('CREATE TABLE t ("The id" int PRIMARY KEY, "a,b" text, c text)',
     "INSERT INTO t VALUES (1, '', 'x\n\"y'), (2, NULL, 'a'), (3, 'z', '')",
     'UPDATE t SET "a,b" = nullif(\'\', "a,b") WHERE "The id" < 3;'
     'UPDATE t SET c = \'x\n"z\' WHERE "The id" = 1',
     't: 2 changed ("The id"=1: "a,b", c; "The id"=2: "a,b")'),
    # … and what is no row.
    ("CREATE MATERIALIZED VIEW v AS SELECT 1 AS a; CREATE TABLE t (a int)", "",
     "REFRESH MATERIALIZED VIEW v WITH NO DATA", "v: is not filled"),
)  # fmt: skip


def test_what_is_hard_to_compare(source: Place) -> None:
    for schema, rows, change, line in HARD:
        source.make(schema, rows)
        source.succeed("export")
        source.succeed("verify")
        source.execute(change)
        found = differences(source)
        assert line in found
        assert line.startswith("-") or found == [line]
        source.execute("DROP TABLE t; DROP MATERIALIZED VIEW IF EXISTS v")


def test_short_rows_of_a_table_without_a_key(source: Place) -> None:
    source.make(
        "CREATE TABLE t (a int, b int); CREATE TABLE k (a int PRIMARY KEY)",
        "INSERT INTO t VALUES (1, 2); INSERT INTO k VALUES (1)",
    )
    source.succeed("export")
    for number, raw in enumerate((b"a\n\n1,2\n", b"a,b\n1\n\n1,2,3\n")):
        replace_csv(Path("exports"), number, raw)
    result = source.call("verify")
    assert result.status == 3
    assert "t: 3 missing" in result.out


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


def test_memory_stays_small_whatever_the_size(source: Place, target: Place) -> None:
    """Half a million rows, 100 MB: export, restore and verify stay under 80 MB."""
    source.make(
        "CREATE TABLE t (id int PRIMARY KEY, a text, b text)",
        "INSERT INTO t SELECT i, md5(i::text), repeat('x', 140 + i % 60)"
        " FROM generate_series(1, 500000) AS i",
    )
    for database, *command in (
        (source, "export"), (target, "restore"), (target, "verify"),
    ):  # fmt: skip
        assert peak_memory(*command, "--env-file", database.env) < 80_000
    target.execute(
        "UPDATE t SET a = 'other' WHERE id IN (10, 300000);"
        "UPDATE t SET a = '', b = NULL WHERE id = 499999;"
        "DELETE FROM t WHERE id IN (1, 400000); INSERT INTO t VALUES (500001)"
    )
    assert differences(target) == [
        "t: 2 missing (id=1; id=400000), 1 extra (id=500001), "
        "3 changed (id=10: a; id=300000: a; id=499999: a, b)"
    ]
    assert peak_memory("verify", "--env-file", target.env, status=3) < 80_000


def test_memory_stays_small_where_everything_differs(source: Place) -> None:
    """No row in its place: the comparison goes in parts."""
    source.make(
        "CREATE TABLE t (id int, a text)",
        "INSERT INTO t SELECT i, 'a' FROM generate_series(1, 200000) AS i",
    )
    source.succeed("export")
    source.execute(
        "TRUNCATE t; INSERT INTO t SELECT 200001 - i, 'a'"
        " FROM generate_series(1, 200000) AS i; UPDATE t SET a = 'b' WHERE id < 3"
    )
    assert differences(source) == [
        "t: 2 missing (id=1, a=a; id=2, a=a), 2 extra (id=2, a=b; id=1, a=b)"
    ]
    assert peak_memory("verify", "--env-file", source.env, status=3) < 80_000


# ---- the comparison by itself

Rows = list[tuple[Any, ...]]
CELLS = st.one_of(st.none(), st.text(alphabet='a,"\n\\.é', max_size=4))
ROWS = st.lists(st.tuples(st.integers(0, 12), CELLS), max_size=14)


def record(row: tuple[Any, ...]) -> bytes:
    """Return a row as COPY writes it."""

    def cell(value: object) -> str:
        text = "" if value is None else str(value)
        quoted = value == "" or set(text) & set(',"\n\r')
        return '"' + text.replace('"', '""') + '"' if quoted else text

    return ",".join(map(cell, row)).encode() + b"\n"


def compared(
    ours: Rows, theirs: Rows, key: tuple[str, ...], parts: int
) -> tuple[er.RowDifferences, ...]:
    found = []
    for part in range(parts):
        comparison = er.RowComparison(("k", "v"), key, part, parts)
        for pair in itertools.zip_longest(map(record, ours), map(record, theirs)):
            comparison.pair(*pair)
        found.append(comparison)
    return er.differences_of(found)


@given(ROWS, ROWS, st.integers(1, 3))
def test_rows_pair_by_key_in_any_order(ours: Rows, theirs: Rows, parts: int) -> None:
    one, two = ({key: (key, value) for key, value in rows} for rows in (ours, theirs))
    missing, extra, changed = compared([*one.values()], [*two.values()], ("k",), parts)
    expected = {k for k in one.keys() & two.keys() if one[k] != two[k]}
    counts = [each.count for each in (missing, extra, changed)]
    assert counts == [len(one.keys() - two), len(two.keys() - one), len(expected)]
    named = {str(name).split(":")[0] for name in changed.first}
    assert named <= {f"k={key}" for key in expected}


@given(ROWS, ROWS, st.integers(1, 3))
def test_rows_pair_as_a_multiset(ours: Rows, theirs: Rows, parts: int) -> None:
    missing, extra, changed = compared(ours, theirs, (), parts)
    assert missing.count == sum((Counter(ours) - Counter(theirs)).values())
    assert extra.count == sum((Counter(theirs) - Counter(ours)).values())
    assert changed.count == 0


@given(st.lists(st.tuples(CELLS, CELLS), max_size=8))
def test_records_and_cells_are_those_of_copy(rows: Rows) -> None:
    text = b"".join(map(record, rows))
    with contextlib.closing(io.BytesIO(text)) as file:
        records = list(er.split_records(file, ""))
    assert records == [record(row) for row in rows]
    for row, raw in zip(rows, records, strict=True):
        expected = [None if cell is None else cell.encode() for cell in row]
        assert er.csv_cells(raw) == expected
