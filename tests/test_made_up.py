"""Values and schemas that nobody thought of come back as they were."""

from __future__ import annotations

import contextlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from commands import Place
from conftest import both_versions
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from servers import Database

ANY = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))
ODD = ("", "\\.", "\\N", "NULL", '"', "'", ",", "\n", "\r\n", "\t", "a\n\\.\nb", "👍",
       "\u2028")  # fmt: skip
TEXTS = st.sampled_from(ODD) | ANY.map(lambda text: text[:30])
NUMBERS = st.sampled_from(
    ["NaN", "Infinity", "-Infinity", "0", "-0", "1e-300", "1E+130"]
) | st.decimals(allow_nan=False, allow_infinity=False).map(str)
FLOATS = st.floats().map(lambda x: repr(x).replace("inf", "Infinity"))
TIMES = st.datetimes().map(str) | st.sampled_from(
    ["infinity", "-infinity", "4713-01-01 00:00:00 BC",
     "294276-12-31 23:59:59.999999", "0001-01-01 00:00:00.000001",
     "1900-01-01 00:00:00+00:19:32", "epoch"]
)  # fmt: skip
DATES = st.dates().map(str) | st.sampled_from(
    ["infinity", "-infinity", "4713-01-01 BC", "5874897-12-31"]
)
INTERVALS = st.builds(
    "{} mons {} days {} microseconds".format,
    st.integers(-(10**6), 10**6),
    st.integers(-(10**6), 10**6),
    st.integers(-(10**15), 10**15),
)
JSONS = st.recursive(
    st.none() | st.booleans() | st.integers() | TEXTS,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3)
    ),
    max_leaves=6,
).map(json.dumps)
CELLS: dict[str, st.SearchStrategy[Any]] = {
    "text": TEXTS,
    "numeric": NUMBERS,
    "double precision": FLOATS,
    "real": st.floats(width=32).map(lambda x: repr(x).replace("inf", "Infinity")),
    "timestamptz": TIMES,
    "date": DATES,
    "interval": INTERVALS,
    "bytea": st.binary(max_size=30),
    "json": JSONS,
    "text[]": st.lists(st.none() | TEXTS, max_size=4),
    "mood": st.sampled_from(["", "so, so", 'quo"ted', "back\\slash", "ok"]),
    "boolean": st.booleans(),
    "uuid": st.uuids().map(str),
}
CELL_NAMES = [f"c{n}" for n in range(len(CELLS))]
SCRIPT = (
    "DROP TABLE IF EXISTS hostile; DROP TYPE IF EXISTS mood;"
    """CREATE TYPE mood AS ENUM ('', 'so, so', 'quo"ted', 'back\\slash', 'ok');"""
    "CREATE TABLE hostile (id int PRIMARY KEY, "
    + ", ".join(f"{n} {t}" for n, t in zip(CELL_NAMES, CELLS, strict=True))
    + ")"
)
ROWS = st.lists(
    st.tuples(*(st.none() | each for each in CELLS.values())),
    min_size=1,
    max_size=25,
)


@both_versions
@settings(
    max_examples=30,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(rows=ROWS)
def test_hostile_values_come_back(
    source: Place, target: Place, rows: list[tuple[Any, ...]]
) -> None:
    source.make(SCRIPT)
    casts = ", ".join(f"%s::{kind}" for kind in CELLS)
    with contextlib.closing(source.connect()) as db, db.cursor() as cursor:
        for number, row in enumerate(rows):
            cursor.execute(f"INSERT INTO hostile VALUES ({number}, {casts})", row)
    source.succeed("export")
    target.succeed("restore", "--yes")
    # The record's text form shows NULL, '' and every digit, but "json" only as text.
    query = "SELECT hostile::text FROM hostile ORDER BY id"
    assert target.fetch(query) == source.fetch(query)


ODD_SETTINGS = (
    "DateStyle = 'SQL, DMY'", "IntervalStyle = sql_standard", "TimeZone = 'Asia/Tokyo'",
    "extra_float_digits = -5", "bytea_output = escape", "client_encoding = LATIN1",
    "statement_timeout = '1s'", "search_path = nowhere, public",
)  # fmt: skip


@both_versions
def test_settings_of_role_and_database_do_not_matter(
    source: Place, target: Place
) -> None:
    source.make(
        "CREATE TABLE t (a timestamptz, b interval, c float8, d bytea, e date)",
        "INSERT INTO t VALUES ('2026-02-03 04:05:06.789+00', '-1 mon 3 days', "
        "0.1::float8 + 0.2::float8, '\\x00ff5c', '0044-03-15 BC')",
    )
    for setting in ODD_SETTINGS:
        for database in (source, target):
            database.execute(f"ALTER DATABASE {database.name} SET {setting}")
    source.succeed("export")
    assert Path("exports/t.csv").read_text() == (
        "a,b,c,d,e\n2026-02-03 04:05:06.789+00,-1 mons +3 days,"
        "0.30000000000000004,\\x00ff5c,0044-03-15 BC\n"
    )
    target.succeed("restore", "--yes")
    assert target.rows() == source.rows()


# ---- schemas: names, types, keys and cycles

TAKEN = {"id_", "ref_0", "ref_1", "ctid", "xmin", "xmax", "cmin", "cmax", "tableoid"}
IDENTIFIERS = ANY.filter(lambda x: 0 < len(x.encode()) <= 63 and x not in TAKEN)
KINDS = sorted(CELLS.keys() - {"mood"})


def quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


@dataclass(frozen=True)
class MadeUp:
    """A table: its columns' types, its rows, and which tables its rows refer to."""

    name: str
    columns: list[tuple[str, str]]
    keyed: bool
    rows: list[list[Any]]
    references: list[int]

    def __str__(self) -> str:
        return f"made.{quoted(self.name)}"


@st.composite
def made_up(draw: st.DrawFn) -> list[MadeUp]:
    names = draw(st.lists(IDENTIFIERS, unique=True, min_size=1, max_size=4))
    tables = []
    for name in names:
        labels = draw(st.lists(IDENTIFIERS, unique=True, max_size=3))
        kinds = [draw(st.sampled_from(KINDS)) for _ in labels]
        values = st.tuples(*(st.none() | CELLS[kind] for kind in kinds)).map(list)
        rows = draw(st.lists(values, max_size=4))
        references = draw(st.lists(st.integers(0, len(names) - 1), max_size=2))
        columns = list(zip(labels, kinds, strict=True))
        tables.append(MadeUp(name, columns, draw(st.booleans()), rows, references))
    return tables


def schema_of(tables: list[MadeUp]) -> str:
    """Every table has an id; those with a key are referred to, cycles and all."""
    parts = ["DROP SCHEMA IF EXISTS made CASCADE; CREATE SCHEMA made"]
    for table in tables:
        columns = ["id_ serial PRIMARY KEY" if table.keyed else "id_ serial"]
        columns += [f"{quoted(name)} {kind}" for name, kind in table.columns]
        columns += [f"ref_{n} int" for n in range(len(table.references))]
        parts.append(f"CREATE TABLE {table} ({', '.join(columns)})")
    for table in tables:
        parts += [
            f"ALTER TABLE {table} ADD FOREIGN KEY (ref_{n}) REFERENCES {tables[other]}"
            for n, other in enumerate(table.references)
            if tables[other].keyed
        ]
    return ";\n".join(parts)


def fill(database: Database, tables: list[MadeUp]) -> None:
    """Insert the rows, then let each refer to the first row of the other table."""
    with contextlib.closing(database.connect()) as db, db.cursor() as cursor:
        for table in tables:
            names = ", ".join(["id_", *(quoted(name) for name, _ in table.columns)])
            casts = [f"CAST(%s AS {kind})" for _, kind in table.columns]
            query = f"INSERT INTO {table} ({names}) VALUES ".replace("%", "%%")
            for row in table.rows:
                cursor.execute(f"{query}({', '.join(['DEFAULT', *casts])})", row)
        for table in tables:
            for n, other in enumerate(table.references):
                first = f"SELECT min(id_) FROM {tables[other]}"
                update = f"UPDATE {table} SET ref_{n} = ({first})"
                cursor.execute(update + " WHERE id_ % 2 = 0")


@settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(tables=made_up())
def test_made_up_schemas_come_back(
    source: Place, target: Place, tables: list[MadeUp]
) -> None:
    source.make(schema_of(tables))
    fill(source, tables)
    target.execute("DROP SCHEMA IF EXISTS made CASCADE")  # of the example before
    source.succeed("export")
    target.succeed("restore")
    assert target.state() == source.state()
