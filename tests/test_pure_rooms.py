"""The rooms that touch nothing: order, names, words, the lexer of schema scripts."""

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


def test_the_order_of_tables() -> None:
    """Those that others refer to come first, and the order is the same every time."""
    assert order("fla", "fl", "la") == "alf"
    assert {
        order("".join(names), "ad") for names in itertools.permutations("dcba")
    } == {"bcda"}
    assert order("ab", "aa", "ab") == "ba"  # a self-reference is no cycle
    assert order("a", "az", "za") == "a"  # nor do keys to other tables matter
    found = order("abcd", "ab", "ba", "ca", "dc")
    assert sorted(found) == list("abcd")  # a cycle keeps the rest in order
    assert found.index("a") < found.index("c") < found.index("d")


FILE_NAMES = {
    ("public", "leads"): "leads.csv",
    ("sales", "orders"): "sales.orders.csv",
    ("public", "sales.orders"): "sales=2Eorders.csv",
    ("public", "../../etc/passwd"): "=2E=2E=2F=2E=2E=2Fetc=2Fpasswd.csv",
    ("public", "a b?*"): "a=20b=3F=2A.csv",
    ("public", "Größe"): "Größe.csv",
    ("public", "con"): "=63on.csv",
    ("public", "LPT1"): "=4CPT1.csv",
    ("public", "OrderItem"): "OrderItem.csv",
    ("public", ".hidden"): "=2Ehidden.csv",
}


def test_file_names() -> None:
    relations = {er.Relation(*names): file for names, file in FILE_NAMES.items()}
    assert er.csv_names(relations) == relations
    devices = [("public", name) for name in ("nul", "COM1", "com¹", "lpt³")]
    devices.append(("con", "orders"))  # what Windows keeps for them
    for name in er.csv_names(er.Relation(*names) for names in devices).values():
        assert name.startswith("=")
        assert not er.WINDOWS_DEVICES.match(name.split(".")[0])


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


def test_words_for_people() -> None:
    assert str(er.Relation("public", "leads")) == "leads"
    assert str(er.Relation("sales", "leads")) == "sales.leads"
    assert str(er.Relation("public", 'A "b"')) == '"A ""b"""'
    sizes = [er.human_size(each) for each in (0, 999, 1000, 2_500_000, 10**13)]
    assert sizes == ["0 B", "999 B", "1.0 kB", "2.5 MB", "10.0 TB"]
    text = er.render_table(("table", "rows"), [("a", "1"), ("leads", "1,000")])
    assert text == " rows  table\n    1  a\n1,000  leads"
    for name, columns, shown in (
        ("leads", 5, "leads"),
        ("leads_of_2026", 8, "lead…026"),
        ("a\nb  c", 8, "a b c"),
        ("顧客台帳", 8, "顧客台帳"),
        ("顧客注文明細台帳", 8, "顧客…帳"),  # each letter takes two columns
        ("orders_顧客", 8, "order…客"),
        ("x" * 99_999, 8, "xxxx…xxx"),
    ):
        assert er.shortened(name, columns) == shown


# ---- the lexer of schema scripts


def statements(text: str) -> list[str]:
    return [
        each.text for each in er.parse_script(text.encode(), "schema.sql").statements
    ]


SPLITS = {
    "plain": ("a; b;c", ["a", "b", "c"]),
    "empty statements": (";;a;;", ["a"]),
    "semicolons in quotes": ("a ';' b; c \";\" d", ["a ';' b", 'c ";" d']),
    "doubled quotes": ("a ''';'; b \"\"\";\"", ["a ''';'", 'b """;"']),
    "escape strings": (r"a E'\';'; b", [r"a E'\';'", "b"]),
    "a backslash in a plain string": (r"a '\'; b", [r"a '\'", "b"]),
    "dollar quotes": (
        "a $$;$$; b $x$ $$;$y$ $x$; c",
        ["a $$;$$", "b $x$ $$;$y$ $x$", "c"],
    ),
    "a dollar in a name": ("a b$c$d; e", ["a b$c$d", "e"]),
    "parameters": ("a $1; b", ["a $1", "b"]),
    "comments": ("a -- ;'\n b; /* ; /* ' */ ; */ c", ["a -- ;'\n b", "c"]),
    "comment at the end": ("a; -- over\n", ["a"]),
    "minus and slash": ("a - b / c; d", ["a - b / c", "d"]),
    "parentheses": ("create rule r do (a; b); c", ["create rule r do (a; b)", "c"]),
    "atomic bodies": (
        "create function f() returns int begin atomic select 1;"
        " select case when true then 1 else 2 end; end; next",
        [
            "create function f() returns int begin atomic select 1;"
            " select case when true then 1 else 2 end; end",
            "next",
        ],
    ),
    "or replace procedure": (
        "CREATE OR REPLACE PROCEDURE p() BEGIN ATOMIC a; b; END; c",
        ["CREATE OR REPLACE PROCEDURE p() BEGIN ATOMIC a; b; END", "c"],
    ),
    "a body with a column called end": (
        "create function f() returns int begin atomic select 1 as end; end; b",
        ["create function f() returns int begin atomic select 1 as end; end", "b"],
    ),
    "a routine called begin": (
        "create function begin() returns int language sql as 'select 1'; b",
        ["create function begin() returns int language sql as 'select 1'", "b"],
    ),
    "a string that goes on": ("a E'x'\n  'it\\'s;'; b", ["a E'x'\n  'it\\'s;'", "b"]),
    "restrict lines": ("\\restrict AbC\na;\n\\unrestrict AbC\n", ["a"]),
    "byte-order mark and CRLF": ("\ufeffa;\r\nb;\r\n", ["a", "b"]),
    "prepare of a plain statement": (
        "prepare p as select 1",
        ["prepare p as select 1"],
    ),
    "no-break space is a letter": ("a\u00a0b; c", ["a\u00a0b", "c"]),
}


def test_statements_end_where_postgresql_ends_them() -> None:
    found = {name: statements(text) for name, (text, _) in SPLITS.items()}
    assert found == {name: expected for name, (_, expected) in SPLITS.items()}


def test_lines_and_positions() -> None:
    text = "\n-- first\na;\n/* x\n*/ b\n c"
    first, second = er.parse_script(text.encode(), "s").statements
    assert (first.line, second.line) == (3, 5)
    assert (second.line_at(1), second.line_at(4)) == (5, 6)


FAULTS = {
    "open quote": ("a;\n b 'c", "line 2: the quote ' opened"),
    "open name": ('a "b', 'the quote " opened'),
    "open dollar quote": ("a $x$ b $y$", "the quote $x$ opened"),
    "open comment": ("a /* /* */", "the comment /* opened"),
    "nothing": ("-- nothing\n;", "holds no statement"),
    "empty": ("", "holds no statement"),
    "rollback": ("a;\nrollback;", "line 2: ROLLBACK cannot"),
    "savepoint": ("savepoint x", "SAVEPOINT cannot"),
    "two phases": ("prepare transaction 'x'", "PREPARE cannot"),
    "no transaction": ("a;\nvacuum t", "line 2: vacuum t cannot run"),
    "concurrently": ("create index concurrently i on t (a)", "cannot run in a"),
    "a NUL": ("a;\n'\0'", "schema.sql, line 2: not UTF-8"),
    "LATIN1": ("a;\n'\xff'", "schema.sql, line 2: not UTF-8"),
    "rows": ("copy t from stdin;\n1\n\\.\n", "line 1: COPY … FROM stdin carries rows"),
    "psql": ("a;\n\\i other.sql\n", "line 2: \\i is a command of psql"),
}


@pytest.mark.parametrize("text, message", FAULTS.values(), ids=FAULTS.keys())
def test_faults_are_named_with_their_line(text: str, message: str) -> None:
    with pytest.raises(er.SnapshotError) as caught:
        er.parse_script(text.encode("latin-1"), "schema.sql")
    assert message in str(caught.value)
    assert caught.value.hint
    assert caught.value.code == er.EXIT_USAGE


def test_large_scripts_take_linear_time() -> None:
    """A literal of megabytes and a list of 100,000 words are no special case."""
    text = "a '" + "x''" * 1_000_000 + "'; b " + "w," * 100_000 + ";"
    text += "insert into t values (1);\n" * 20_000
    assert len(statements(text)) == 20_002


def test_names_are_stored_as_the_catalog_stores_them() -> None:
    text = (
        'CREATE TABLE Leads ("Full ""Name""" int, ÄÖ int, '
        + "x" * 70
        + " int); DO $$ create table hidden() $$; -- remark\n SELECT 'string'"
    )
    names = er.parse_script(text.encode(), "s").names
    assert {"leads", 'Full "Name"', "ÄÖ", "x" * 63, "hidden"} <= names
    assert not {"remark", "string", "Leads"} & names
