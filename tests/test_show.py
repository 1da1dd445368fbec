"""show: what a folder holds, and every fault of it; and what is said of options."""

from __future__ import annotations

import ast
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from cases import flip
from conftest import ROOT, Run, Succeed
from servers import Database

import export_restore as er


def test_a_whole_folder(exported: Database, work: Path, succeed: Succeed) -> None:
    """No database is asked: there is not even an env file."""
    said = succeed("show")
    assert said == succeed("show", "exports") == succeed("show", "--dir", "exports")
    assert re.match(
        r"the snapshot in exports is \S+ .*old; it comes\nfrom test_\S+ on \S+ "
        r"\(PostgreSQL 18\..*\)\nexported 20\S+Z by export_restore 1.0, format 3\n\n"
        r"table     rows +size\nagents       8 +\d+ B\n",
        said,
    ), said
    assert "agents_id_seq             8\n" in said
    assert said.endswith("exports is whole: every file is as it was exported.\n")


def test_as_json(exported: Database, work: Path, run: Run, succeed: Succeed) -> None:
    env = exported.env_file(work)
    exported.execute("CREATE MATERIALIZED VIEW m AS SELECT 1 AS a")
    with (work / "schema.sql").open("a") as script:
        script.write("CREATE MATERIALIZED VIEW m AS SELECT 1 AS a;")
    succeed("export", "--env-file", env, "--exclude", "feedback")
    (work / "exports/leads.csv").unlink()
    result = run("show", "--json")
    assert (result.status, result.err) == (3, "")
    found = json.loads(result.out)
    assert found["status"] == 3
    assert not found["whole"]
    assert found["faults"] == ["leads.csv is missing"]
    leads = next(each for each in found["tables"] if each["table"] == "leads")
    assert (leads["schema"], leads["file"], leads["rows"]) == (
        "public",
        "leads.csv",
        60,
    )
    assert leads["fault"] == "leads.csv is missing"
    assert found["left_out"] == [{"schema": "public", "name": "feedback"}]
    assert found["source"]["database"] == exported.name
    assert found["sequences"][0]["last_value"] == 8
    view = {"schema": "public", "name": "m", "populated": True}
    assert found["materialized_views"] == [view]
    assert (found["format"], found["tool_version"]) == (3, "1.0")
    assert found["server_version"].startswith("18.")
    assert found["created"].startswith("20")


def test_each_fault_has_a_line_of_its_own(
    exported: Database, work: Path, run: Run
) -> None:
    """The same lines that a restore has; what is changed is told beside its table."""
    (work / "exports/agents.csv").unlink()
    flip(work / "exports/leads.csv", 5)
    flip(work / "exports/schema.sql", 5)
    (work / "exports/more.csv").write_text("a\n")
    faults = [
        "more.csv is not part of the snapshot",
        "agents.csv is missing",
        "leads.csv was changed since the export (sha256 differs)",
        "schema.sql was changed since the export (sha256 differs)",
    ]
    result = run("show")
    assert (result.status, result.err) == (3, "")
    assert result.out.endswith(
        "\n".join(["", *faults, "", "exports is not a whole snapshot.", ""])
    )
    assert re.search(r"\nagents +8 +\d+ B  +is missing\n", result.out)
    assert re.search(r"\nleads +60 +.* kB +was changed\n", result.out)
    env = exported.env_file(work)
    for command in ("restore", "verify", "rehearse"):
        result = run(command, "--env-file", env, "-q")
        assert result.status == 3
        lines = "".join(f"  {fault}\n" for fault in faults)
        heading = "export_restore: error: exports is not a whole snapshot:\n"
        assert heading + lines in result.err
        assert "--accept-edits" in result.err.splitlines()[-1]


@pytest.mark.parametrize(
    "content, status, said",
    [
        ("id,a\n1,x\n", 0, "exports can be read; without a manifest"),
        ('"id', 3, "t.csv, line 1: the column names cannot be read"),
        (None, 3, ""),
    ],
)
def test_a_folder_made_by_hand(
    work: Path, run: Run, content: str | None, status: int, said: str
) -> None:
    (work / "exports").mkdir()
    (work / "exports/schema.sql").write_text("CREATE TABLE t (id int, a text)")
    if content:
        (work / "exports/t.csv").write_text(content)
    result = run("show")
    assert result.status == status
    assert said in result.out
    found = json.loads(run("show", "--json").out)
    if content:
        [table] = found["tables"]
        assert (table["file"], table["rows"]) == ("t.csv", None)
        assert found["whole"] == (status == 0)
    else:
        assert "exports holds no snapshot: it has no CSV files" in result.err


def test_what_an_export_left_half_done(
    exported: Database, work: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is finished; where nobody may write, half of two snapshots is not shown."""
    shutil.copytree(work / "exports", work / "copy")
    shutil.rmtree(work / "copy/.ready", ignore_errors=True)
    (work / "copy").rename(work / "exports/.ready")
    (work / "exports/leads.csv").unlink()
    with monkeypatch.context() as patch:
        patch.setattr(er, "move", refuse)
        result = run("show")
        assert (result.status, result.out) == (1, "")
        assert "exports cannot be written: Read-only file system" in result.err
    assert run("show").status == 0
    assert not (work / "exports/.ready").exists()


def refuse(*_: object) -> None:
    raise OSError(30, "Read-only file system")


# ---- edits that somebody meant


def test_an_edited_snapshot_is_verified(
    exported: Database, work: Path, run: Run, succeed: Succeed
) -> None:
    """As it is now: the database has the rows of before, and then those of the file."""
    env = exported.env_file(work)
    file = work / "exports/agents.csv"
    lines = file.read_text().splitlines()
    assert lines[1].startswith("1,")
    lines[1] = re.sub("^1,[^,]*", "1,Somebody Else", lines[1])
    file.write_text("\n".join(lines) + "\n")
    assert run("verify", "--env-file", env).status == 3
    result = run("verify", "--env-file", env, "--accept-edits")
    assert result.status == 3
    assert "agents: 1 changed (id=1: " in result.out
    succeed("rehearse", "--accept-edits")
    succeed("restore", "--env-file", env, "--accept-edits")
    succeed("verify", "--env-file", env, "--accept-edits")


# ---- a folder for what was there


@pytest.mark.parametrize("folder", ["exports", "."])
def test_kept_beside_the_folder(
    exported: Database,
    work: Path,
    run: Run,
    monkeypatch: pytest.MonkeyPatch,
    folder: str,
) -> None:
    env = exported.env_file(work)
    exported.execute("DELETE FROM feedback")
    monkeypatch.chdir(work / "exports" if folder == "." else work)
    result = run("restore", "--env-file", env, "--dir", folder, "--keep", "--yes")
    assert result.status == 0, result.err
    [kept] = work.glob("exports-before-20??-??-??T??????")
    line = result.out.rstrip().splitlines()[-1]
    assert str(kept if folder == "." else kept.relative_to(work)) in line
    [done] = re.findall(r"export_restore.py (restore .*)", line)
    assert run(*done.split()).status == 0
    assert exported.fetch("SELECT count(*) FROM feedback") == [(0,)]


# ---- what hints say of options

TREE = ast.parse((ROOT / "export_restore.py").read_text(encoding="utf-8"))
OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]+")
# What a rehearsal does not come to: it asks nobody, and keeps nothing.
OF_RESTORE_ALONE = {"confirm", "check_apart", "KeptExport"}
# What people are to run of other programs.
OTHERS = re.compile("--schema-only|setup_db.py")


def names_in(node: ast.AST) -> set[str]:
    """Return every name and attribute that a piece of the program mentions."""
    return {
        each.id if isinstance(each, ast.Name) else each.attr
        for each in ast.walk(node)
        if isinstance(each, (ast.Name, ast.Attribute))
    }


def texts_in(node: ast.AST) -> Iterator[str]:
    """Yield the strings of a piece of the program that name an option of ours."""
    docstrings = {
        id(each.body[0].value)
        for each in ast.walk(node)
        if isinstance(each, (ast.FunctionDef, ast.ClassDef))
        and isinstance(each.body[0], ast.Expr)
    }
    inside = {
        id(part)
        for each in ast.walk(node)
        if isinstance(each, ast.JoinedStr)
        for part in ast.walk(each)
        if part is not each
    }
    for each in ast.walk(node):
        if isinstance(each, ast.JoinedStr):
            parts = [
                p.value if isinstance(p, ast.Constant) else "…" for p in each.values
            ]
            text = "".join(map(str, parts))
        elif isinstance(each, ast.Constant) and isinstance(each.value, str):
            text = each.value
        else:
            continue
        if not {id(each)} & (docstrings | inside) and OPTION.search(text):
            yield text


def pieces() -> dict[str, list[tuple[str, ast.AST]]]:
    """Return the program's pieces by name, each with the class that it is of."""
    found: dict[str, list[tuple[str, ast.AST]]] = {}
    for node in TREE.body:
        owner = node.name if isinstance(node, ast.ClassDef) else ""
        if isinstance(node, ast.ClassDef):
            found[owner] = [("", base) for base in node.bases]
        for part in node.body if isinstance(node, ast.ClassDef) else [node]:
            if isinstance(part, ast.FunctionDef):
                special = owner and part.name.startswith("__")
                found.setdefault(owner if special else part.name, []).append(
                    (owner, part)
                )
            elif isinstance(part, (ast.Assign, ast.AnnAssign)) and part.value:
                targets = (
                    part.targets if isinstance(part, ast.Assign) else [part.target]
                )
                for name in {each for target in targets for each in names_in(target)}:
                    found.setdefault(name, []).append((owner, part.value))
    return found


def reached(command: str) -> list[ast.AST]:
    """Return the pieces that a command may come to; methods, if it has the class."""
    known = pieces()
    names, new = {"COMMANDS", "EXAMPLES"}, {f"command_{command}"}
    while new:
        names |= new
        parts = [part for name in names for owner, part in known.get(name, ())
                 if not owner or owner in names]  # fmt: skip
        parts = [part for part in parts if part is not known["COMMANDS"][0][1]]
        new = {name for part in parts for name in names_in(part)} & known.keys() - names
        new -= OF_RESTORE_ALONE if command != "restore" else set()
    return parts


@pytest.mark.parametrize("command", er.COMMANDS)
def test_no_hint_names_an_option_that_its_command_lacks(command: str) -> None:
    """Unless it names another command with it: restore --accept-drift."""
    own = set(OPTION.findall(er.COMMANDS[command][1] + er.OUTPUT))
    named = re.compile(rf"\b({'|'.join(er.COMMANDS)})\b[^;,.(]*$")
    texts = {text for part in reached(command) for text in texts_in(part)}
    hints = {text for text in texts if " " in text.strip() and not OTHERS.search(text)}
    wrong = {
        text
        for text in hints
        for option in OPTION.finditer(text)
        if option.group() not in own and not named.search(text[: option.start()])
    }
    assert hints
    assert not wrong
