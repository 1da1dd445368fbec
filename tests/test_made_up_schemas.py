"""Schemas that nobody thought of: names, types, keys and cycles made up."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from conftest import Succeed
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg2 import sql
from servers import Database

TAKEN = {"id_", "ref_0", "ref_1", "ctid", "xmin", "xmax", "cmin", "cmax", "tableoid"}
NAMES = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1
).filter(lambda name: len(name.encode()) <= 63 and name not in TAKEN)
TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))
TYPES: dict[str, st.SearchStrategy[Any]] = {
    "text": TEXTS,
    "bigint": st.integers(-(2**63), 2**63 - 1),
    "numeric": st.decimals(allow_nan=False, allow_infinity=False),
    "boolean": st.booleans(),
    "text[]": st.lists(st.none() | TEXTS, max_size=3),
    "bytea": st.binary(),
    "varchar": TEXTS,
    "date": st.dates(),
}


@dataclass(frozen=True)
class MadeUp:
    """A table: its columns' types, its rows, and which tables its rows refer to."""

    name: str
    columns: list[tuple[str, str]]
    keyed: bool
    rows: list[list[Any]]
    references: list[int]


@st.composite
def made_up(draw: st.DrawFn) -> list[MadeUp]:
    names = draw(st.lists(NAMES, unique=True, min_size=1, max_size=4))
    tables = []
    for name in names:
        labels = draw(st.lists(NAMES, unique=True, max_size=3))
        kinds = [draw(st.sampled_from(sorted(TYPES))) for _ in labels]
        values = st.tuples(*(st.none() | TYPES[kind] for kind in kinds)).map(list)
        tables.append(
            MadeUp(
                name,
                list(zip(labels, kinds, strict=True)),
                draw(st.booleans()),
                draw(st.lists(values, max_size=4)),
                draw(st.lists(st.integers(0, len(names) - 1), max_size=2)),
            )
        )
    return tables


def ident(name: str) -> sql.Identifier:
    return sql.Identifier("made", name)


def schema_of(tables: list[MadeUp]) -> sql.Composable:
    """Every table has an id; those with a key are referred to, cycles and all."""
    parts: list[sql.Composable] = [
        sql.SQL("DROP SCHEMA IF EXISTS made CASCADE; CREATE SCHEMA made")
    ]
    for table in tables:
        columns: list[sql.Composable] = [
            sql.SQL("id_ serial PRIMARY KEY" if table.keyed else "id_ serial")
        ]
        columns += [
            sql.SQL("{} {}").format(sql.Identifier(name), sql.SQL(kind))
            for name, kind in table.columns
        ]
        columns += [sql.SQL(f"ref_{n} int") for n in range(len(table.references))]
        parts.append(
            sql.SQL("CREATE TABLE {} ({})").format(
                ident(table.name), sql.SQL(", ").join(columns)
            )
        )
    for table in tables:
        for n, other in enumerate(table.references):
            if tables[other].keyed:
                parts.append(
                    sql.SQL("ALTER TABLE {} ADD FOREIGN KEY ({}) REFERENCES {}").format(
                        ident(table.name),
                        sql.Identifier(f"ref_{n}"),
                        ident(tables[other].name),
                    )
                )
    return sql.SQL(";\n").join(parts)


def fill(database: Database, tables: list[MadeUp]) -> None:
    """Insert the rows, then let each refer to the first row of the other table."""
    parts: list[sql.Composable] = []
    for table in tables:
        for row in table.rows:
            names = ["id_", *(name for name, _ in table.columns)]
            values: list[sql.Composable] = [sql.SQL("DEFAULT")]
            values += [
                sql.SQL("CAST({} AS {})").format(sql.Literal(value), sql.SQL(kind))
                for value, (_, kind) in zip(row, table.columns, strict=True)
            ]
            parts.append(
                sql.SQL("INSERT INTO {} ({}) VALUES ({})").format(
                    ident(table.name),
                    sql.SQL(", ").join(map(sql.Identifier, names)),
                    sql.SQL(", ").join(values),
                )
            )
    for table in tables:
        for n, other in enumerate(table.references):
            first = sql.SQL("(SELECT min(id_) FROM {})").format(
                ident(tables[other].name)
            )
            parts.append(
                sql.SQL("UPDATE {} SET {} = {} WHERE id_ % 2 = 0").format(
                    ident(table.name), sql.Identifier(f"ref_{n}"), first
                )
            )
    if parts:
        database.execute(sql.SQL(";\n").join(parts))


@settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(tables=made_up())
def test_made_up_schemas_come_back(
    source: Database,
    target: Database,
    work: Path,
    succeed: Succeed,
    tables: list[MadeUp],
) -> None:
    db = source.connect()
    text = schema_of(tables).as_string(db)
    db.close()
    (work / "schema.sql").write_text(text, encoding="utf-8", newline="")
    source.execute(text)
    fill(source, tables)
    target.execute("DROP SCHEMA IF EXISTS made CASCADE")  # of the example before
    succeed("export", "--env-file", source.env_file(work))
    succeed("restore", "--env-file", target.env_file(work))
    assert target.schema() == source.schema()
    assert target.rows() == source.rows()
    assert target.sequences() == source.sequences()
