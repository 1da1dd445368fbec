"""Values are sacred: whatever a column can hold comes back as it was."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from conftest import Succeed, both_versions
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from servers import Database

TEXTS = st.one_of(
    st.sampled_from(
        [
            "",
            "\\.",
            "\\N",
            "NULL",
            '"',
            "'",
            ",",
            "\n",
            "\r\n",
            "\t",
            "a\n\\.\nb",
            "👍",
            "\u2028",
        ]
    ),
    st.text(
        st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=30
    ),
)
NUMBERS = st.one_of(
    st.sampled_from(["NaN", "Infinity", "-Infinity", "0", "-0", "1e-300", "1E+130"]),
    st.decimals(allow_nan=False, allow_infinity=False).map(str),
)
FLOATS = st.floats().map(lambda x: repr(x).replace("inf", "Infinity"))
TIMES = st.one_of(
    st.sampled_from(
        [
            "infinity",
            "-infinity",
            "4713-01-01 00:00:00 BC",
            "294276-12-31 23:59:59.999999",
            "0001-01-01 00:00:00.000001",
            "1900-01-01 00:00:00+00:19:32",
            "epoch",
        ]
    ),
    st.datetimes().map(str),
)
DATES = st.one_of(
    st.sampled_from(["infinity", "-infinity", "4713-01-01 BC", "5874897-12-31"]),
    st.dates().map(str),
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
).map(__import__("json").dumps)
STRATEGIES: dict[str, st.SearchStrategy[Any]] = {
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
NAMES = [f"c{n}" for n in range(len(STRATEGIES))]
BLUEPRINT = (
    "DROP TABLE IF EXISTS hostile; DROP TYPE IF EXISTS mood;"
    """CREATE TYPE mood AS ENUM ('', 'so, so', 'quo"ted', 'back\\slash', 'ok');"""
    "CREATE TABLE hostile (id int PRIMARY KEY, "
    + ", ".join(f"{n} {t}" for n, t in zip(NAMES, STRATEGIES, strict=True))
    + ")"
)
ROWS = st.lists(
    st.tuples(*(st.none() | each for each in STRATEGIES.values())),
    min_size=1,
    max_size=25,
)


@pytest.fixture
def hostile(
    source: Database, target: Database, work: Path
) -> tuple[Database, Database, Path]:
    (work / "schema.sql").write_text(BLUEPRINT)
    source.execute(BLUEPRINT)
    return source, target, work


@both_versions
@settings(
    max_examples=30,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(rows=ROWS)
def test_hostile_values_come_back(
    hostile: tuple[Database, Database, Path],
    succeed: Succeed,
    rows: list[tuple[Any, ...]],
) -> None:
    source, target, work = hostile
    source.execute("TRUNCATE hostile")
    casts = ", ".join(f"%s::{kind}" for kind in STRATEGIES)
    db = source.connect()
    with db.cursor() as cursor:
        for number, row in enumerate(rows):
            cursor.execute(f"INSERT INTO hostile VALUES ({number}, {casts})", row)
    db.close()
    succeed("export", "--env-file", source.env_file(work))
    succeed("restore", "--env-file", target.env_file(work), "--yes")
    # The record's text form shows NULL, '' and every digit, but "json" only as text.
    query = "SELECT hostile::text FROM hostile ORDER BY id"
    assert target.fetch(query) == source.fetch(query)


@both_versions
def test_settings_of_role_and_database_do_not_matter(
    source: Database, target: Database, work: Path, succeed: Succeed
) -> None:
    text = "CREATE TABLE t (a timestamptz, b interval, c float8, d bytea, e date)"
    (work / "schema.sql").write_text(text)
    source.execute(text)
    source.execute(
        "INSERT INTO t VALUES ('2026-02-03 04:05:06.789+00', '-1 mon 3 days', "
        "0.1::float8 + 0.2::float8, '\\x00ff5c', '0044-03-15 BC')"
    )
    odd = (
        "DateStyle = 'SQL, DMY'",
        "IntervalStyle = sql_standard",
        "TimeZone = 'Asia/Tokyo'",
        "extra_float_digits = -5",
        "bytea_output = escape",
        "client_encoding = LATIN1",
        "statement_timeout = '1s'",
        "search_path = nowhere, public",
    )
    for setting in odd:
        source.execute(f"ALTER DATABASE {source.name} SET {setting}")
        target.execute(f"ALTER DATABASE {target.name} SET {setting}")
    succeed("export", "--env-file", source.env_file(work))
    assert (work / "exports/t.csv").read_text() == (
        "a,b,c,d,e\n2026-02-03 04:05:06.789+00,-1 mons +3 days,"
        "0.30000000000000004,\\x00ff5c,0044-03-15 BC\n"
    )
    succeed("restore", "--env-file", target.env_file(work), "--yes")
    assert target.rows() == source.rows()
