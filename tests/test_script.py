"""Room 6: the lexer of schema scripts. No database."""

from __future__ import annotations

import pytest

import export_restore as er


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
    "no-break space is a letter": ("a\u00a0b; c", ["a\u00a0b", "c"]),
}


@pytest.mark.parametrize("text, expected", SPLITS.values(), ids=SPLITS.keys())
def test_statements_end_where_postgresql_ends_them(
    text: str, expected: list[str]
) -> None:
    assert statements(text) == expected


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
    "a NUL": ("a;\n'\0'", "line 2: not UTF-8"),
    "rows": ("copy t from stdin;\n1\n\\.\n", "line 1: COPY"),
    "psql": ("a;\n\\i other.sql\n", "line 2: \\i is a command of psql"),
}


@pytest.mark.parametrize("text, message", FAULTS.values(), ids=FAULTS.keys())
def test_faults_are_named_with_their_line(text: str, message: str) -> None:
    with pytest.raises(er.SnapshotError) as caught:
        er.parse_script(text.encode(), "schema.sql")
    assert message in str(caught.value)
    assert caught.value.hint
    assert caught.value.code == er.EXIT_USAGE


def test_not_utf8() -> None:
    with pytest.raises(er.SnapshotError, match=r"schema\.sql, line 2: not UTF-8"):
        er.parse_script(b"a;\n'\xff'", "schema.sql")


def test_prepare_of_a_plain_statement_is_no_transaction() -> None:
    assert statements("prepare p as select 1") == ["prepare p as select 1"]


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
