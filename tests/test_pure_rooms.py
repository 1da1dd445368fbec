"""Rooms 4 and 5, file names and small tables: no database, no files."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

import export_restore as er

NAMES = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1
)


def relation(name: str) -> er.Relation:
    return er.Relation("public", name)


def keys(*pairs: str) -> list[er.ForeignKey]:
    return [er.ForeignKey(pair, relation(pair[0]), relation(pair[1])) for pair in pairs]


def order(names: str, *pairs: str) -> str:
    return "".join(
        each.name for each in er.load_order(map(relation, names), keys(*pairs), {})
    )


def test_referenced_tables_come_first() -> None:
    assert order("fla", "fl", "la") == "alf"


def test_order_is_the_same_every_time() -> None:
    for names in itertools.permutations("dcba"):
        assert order("".join(names), "ad") == "bcda"


def test_a_self_reference_is_no_cycle() -> None:
    assert order("ab", "aa", "ab") == "ba"


def test_cycles_keep_the_rest_in_order() -> None:
    found = order("abcd", "ab", "ba", "ca", "dc")
    assert sorted(found) == list("abcd")
    assert found.index("a") < found.index("c") < found.index("d")


def test_keys_to_other_tables_do_not_matter() -> None:
    assert order("a", "az", "za") == "a"


@pytest.mark.parametrize(
    "schema, name, expected",
    [
        ("public", "leads", "leads.csv"),
        ("sales", "orders", "sales.orders.csv"),
        ("public", "sales.orders", "sales=2Eorders.csv"),
        ("public", "../../etc/passwd", "=2E=2E=2F=2E=2E=2Fetc=2Fpasswd.csv"),
        ("public", "a b?*", "a=20b=3F=2A.csv"),
        ("public", "Größe", "Größe.csv"),
        ("public", "con", "=63on.csv"),
        ("public", "LPT1", "=4CPT1.csv"),
        ("public", "OrderItem", "OrderItem.csv"),
        ("public", ".hidden", "=2Ehidden.csv"),
    ],
)
def test_file_names(schema: str, name: str, expected: str) -> None:
    one = er.Relation(schema, name)
    assert er.csv_names([one]) == {one: expected}


@given(st.lists(st.builds(er.Relation, NAMES, NAMES), unique=True, max_size=8))
def test_file_names_never_collide_and_never_leave_the_folder(
    relations: list[er.Relation],
) -> None:
    names = list(er.csv_names(relations).values())
    assert len({name.casefold() for name in names}) == len(relations)
    for name in names:
        assert len(name.encode()) <= 255
        assert not set(name) & set('/\\:*?"<>|\0\n')
        assert name[0] not in ". "


def test_names_that_differ_in_case_alone() -> None:
    names = er.csv_names(map(relation, ["Leads", "LEADS", "leads", "other"]))
    assert names[relation("leads")] == "leads.csv"
    assert names[relation("other")] == "other.csv"
    assert len({name.casefold() for name in names.values()}) == 4


@pytest.mark.parametrize(
    "one, expected",
    [
        (er.Relation("public", "leads"), "leads"),
        (er.Relation("sales", "leads"), "sales.leads"),
        (er.Relation("public", 'A "b"'), '"A ""b"""'),
    ],
)
def test_names_for_people(one: er.Relation, expected: str) -> None:
    assert str(one) == expected


@pytest.mark.parametrize(
    "size, expected",
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (2_500_000, "2.5 MB"),
        (10**13, "10.0 TB"),
    ],
)
def test_human_size(size: int, expected: str) -> None:
    assert er.human_size(size) == expected


def test_render_table() -> None:
    text = er.render_table(("table", "rows"), [("a", "1"), ("leads", "1,000")])
    assert text == " rows  table\n    1  a\n1,000  leads"


@pytest.mark.parametrize(
    ("name", "columns", "shown"),
    [
        ("leads", 5, "leads"),
        ("leads_of_2026", 8, "lead…026"),
        ("a\nb  c", 8, "a b c"),
        ("顧客台帳", 8, "顧客台帳"),
        ("顧客注文明細台帳", 8, "顧客…帳"),  # each letter takes two columns
        ("orders_顧客", 8, "order…客"),
        ("x" * 99_999, 8, "xxxx…xxx"),
    ],
)
def test_names_are_cut_in_the_middle(name: str, columns: int, shown: str) -> None:
    assert er.shortened(name, columns) == shown
