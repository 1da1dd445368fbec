"""The sample data: believable, awkward, and the same for the same seed."""

from __future__ import annotations

import contextlib
import json
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import ROOT, Succeed
from servers import Database

import export_restore as er
import setup_db


@pytest.fixture
def seed(
    source: Database, work: Path, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    (work / "schema.sql").write_bytes((ROOT / "schema.sql").read_bytes())
    env = source.env_file(work)

    def call(*argv: str) -> tuple[int, str, str]:
        capsys.readouterr()
        status = setup_db.main(["--env-file", str(env), *argv])
        return (status, *capsys.readouterr())

    return call


Seed = Callable[..., tuple[int, str, str]]


def test_the_same_seed_gives_the_same_data(source: Database, seed: Seed) -> None:
    states = []
    for number in ("7", "7", "8"):
        assert seed("--seed", number)[0] == 0
        states.append(source.state())
    assert states[0] == states[1] != states[2]


def test_counts_and_table(source: Database, seed: Seed) -> None:
    status, out, err = seed("--agents", "3", "--leads", "40", "--feedback", "1234")
    assert (status, err) == (0, "")
    assert out.startswith(
        " rows  table\n    3  agents\n   40  leads\n1,234  feedback\n"
    )
    assert [len(rows) for rows in source.rows().values()] == [3, 40, 1234]


def test_data_is_awkward_and_consistent(source: Database, seed: Seed) -> None:
    seed("--agents", "50", "--leads", "3000", "--feedback", "3000")
    claims = {
        "a NULL note": "SELECT FROM leads WHERE notes IS NULL",
        "an empty note": "SELECT FROM leads WHERE notes = ''",
        "a comma": "SELECT FROM leads WHERE company LIKE '%,%'",
        "a quote": "SELECT FROM leads WHERE notes LIKE '%\"%'",
        "a newline": "SELECT FROM feedback WHERE comment LIKE E'%\\n%'",
        "a name beyond ASCII": "SELECT FROM agents WHERE full_name ~ '[^ -~]'",
        "an emoji": "SELECT FROM leads WHERE notes LIKE '%👍%'",
        "a free lead": "SELECT FROM leads WHERE agent_id IS NULL",
        "every status": "SELECT FROM leads HAVING count(DISTINCT status) = 6",
        "every rating": "SELECT FROM feedback HAVING count(DISTINCT rating) = 5",
    }
    for what, query in claims.items():
        assert source.fetch(query), what
    never = {
        "feedback before its lead": "SELECT FROM feedback AS f JOIN leads AS l "
        "ON l.id = f.lead_id WHERE f.created_at < l.created_at",
        "a lead before its agent": "SELECT FROM leads AS l JOIN agents AS a "
        "ON a.id = l.agent_id WHERE l.created_at < a.hired_on",
        "a closed lead without a result": "SELECT FROM leads "
        "WHERE closed_at IS NOT NULL AND status NOT IN ('won', 'lost')",
    }
    for what, query in never.items():
        assert not source.fetch(query), what


def test_empty_tables(source: Database, seed: Seed) -> None:
    assert seed("--agents", "0", "--leads", "0", "--feedback", "0")[0] == 0
    assert set(map(len, source.rows().values())) == {0}
    status, out, err = seed("--leads", "0")
    assert (status, out) == (2, "")
    assert err.startswith("setup_db: error: feedback needs leads")


def test_next_insert_works(source: Database, seed: Seed) -> None:
    seed("--leads", "10")
    insert = "INSERT INTO leads (full_name, email) VALUES ('x', 'x') RETURNING id"
    assert source.fetch(insert) == [(11,)]


ROWS = ["table agents: 9 rows", "table feedback: 9 rows", "table leads: 9 rows"]
# What somebody did to the sample; how it is undone, if it can be; what is named.
CHANGES: list[tuple[str, str, list[str]]] = [
    ("CREATE VIEW hot AS SELECT id, email FROM leads; "
     "CREATE MATERIALIZED VIEW m AS SELECT id FROM leads; CREATE INDEX ON m (id); "
     "CREATE TABLE visits (lead int REFERENCES leads, s lead_status); "
     "CREATE FUNCTION f() RETURNS SETOF leads LANGUAGE sql AS 'TABLE leads'",
     "DROP VIEW hot; DROP MATERIALIZED VIEW m; DROP TABLE visits; DROP FUNCTION f()",
     ["column visits.s", "constraint visits.visits_lead_fkey", "function f()",
      "materialized view m", "view hot"]),
    ("ALTER TABLE leads ADD extra int", "ALTER TABLE leads DROP extra", ROWS),
    ("CREATE INDEX mine ON leads (company)", "DROP INDEX mine", ROWS),
    ("ALTER TABLE leads ENABLE ROW LEVEL SECURITY",
     "ALTER TABLE leads DISABLE ROW LEVEL SECURITY", ROWS),
    ("UPDATE leads SET notes = 'mine' WHERE id = 3", "", ROWS),
    ("UPDATE feedback SET comment = 'mine' WHERE id = 3", "", ROWS),
    ("INSERT INTO agents (full_name, email, region, hired_on) "
     "VALUES ('I', 'i.10@example.com', 'North', now())",
     "", ["table agents: 10 rows", *ROWS[1:]]),
]  # fmt: skip
FEW = ("--agents", "9", "--leads", "9", "--feedback", "9")


def named_losses(source: Database, result: tuple[int, str, str]) -> list[str]:
    """Return what a refusal names, which is one on whatever host."""
    status, out, err = result
    first, *lines, hint = err.splitlines()
    assert (status, out) == (2, "")
    assert first == (
        f"setup_db: error: {source.name} on {source.server.host} would lose more than "
        "the sample as setup_db.py makes it:"
    )
    assert hint == "hint: set DB_NAME to another database, or lose all that with --yes"
    return [line.strip() for line in lines]


def test_it_replaces_what_it_made_alone(source: Database, seed: Seed) -> None:
    """What was changed since, or goes besides, is named; --yes loses it."""
    assert seed(*FEW)[0] == 0
    for change, undo, named in CHANGES:
        source.execute(change)
        assert named_losses(source, seed(*FEW)) == named
        if undo:
            source.execute(undo)
        else:
            assert seed(*FEW, "--yes")[0] == 0
    assert seed(*FEW)[0] == 0


def test_tables_that_happen_to_be_called_so(source: Database, seed: Seed) -> None:
    source.execute("CREATE TABLE leads (a int); CREATE VIEW hot AS SELECT * FROM leads")
    assert named_losses(source, seed()) == ["table leads: 0 rows", "view hot"]
    source.execute("INSERT INTO leads SELECT generate_series(1, 12345)")
    before = source.state()
    assert named_losses(source, seed()) == ["table leads: 12,345 rows", "view hot"]
    assert source.state() == before
    assert seed("--yes")[0] == 0


def test_its_own_is_known_again(
    source: Database, seed: Seed, work: Path, succeed: Succeed
) -> None:
    """Whatever the numbers, without some rows, and when a snapshot brought it back."""
    env = source.env_file(work)
    for options in (("--leads", "0", "--feedback", "0"), ("--agents", "0"), ()):
        assert seed(*options)[0] == 0
    source.execute("DELETE FROM leads WHERE id < 100")
    assert seed()[0] == 0
    succeed("export", "--env-file", env)
    succeed("restore", "--env-file", env)
    source.execute("VACUUM FULL leads")
    assert seed("--seed", "3")[0] == 0


def test_it_waits_for_nobody_to_add_a_row(source: Database, seed: Seed) -> None:
    """Who does while it looks is seen, when the lock is there."""
    assert seed(*FEW)[0] == 0
    with contextlib.closing(source.connect()) as other, other.cursor() as cursor:
        cursor.execute("BEGIN; UPDATE leads SET notes = 'mine' WHERE id = 3")
        timer = threading.Timer(1, lambda: cursor.execute("COMMIT"))
        timer.start()
        status, _, err = seed(*FEW)
        timer.join()
    assert (status, "table leads: 9 rows" in err) == (2, True)


def test_the_tables_are_analyzed(source: Database, seed: Seed) -> None:
    """So the question of a restore tells their rows exactly."""
    seed("--leads", "1234")
    query = "SELECT reltuples::int FROM pg_class WHERE relname = 'leads'"
    assert source.fetch(query) == [(1234,)]


@pytest.mark.parametrize(
    "words, said, hint",
    [
        (["--led", "4"], "unrecognized arguments: --led 4", "did you mean --leads? "),
        (["--lead", "4"], "unrecognized arguments: --lead 4", "did you mean --leads? "),
        (["--y"], "unrecognized arguments: --y", "did you mean --yes? "),
        (["fill"], "unrecognized arguments: fill", ""),
        (["--leads", "-3"], "argument --leads: -3 is no number of rows", ""),
        (["--leads", "many"], "argument --leads: many is no number of rows", ""),
        (
            ["-q", "-v"],
            "argument -v/--verbose: not allowed with argument -q/--quiet",
            "",
        ),
    ],
)
def test_errors_are_two_lines(
    seed: Seed, words: list[str], said: str, hint: str
) -> None:
    hint = f"hint: {hint}see python setup_db.py --help"
    assert seed(*words) == (2, "", f"setup_db: error: {said}\n{hint}\n")


def test_help_version_and_json(source: Database, seed: Seed) -> None:
    assert seed("--version") == (0, f"setup_db {er.VERSION}\n", "")
    status, out, err = seed("--help")
    assert (status, err) == (0, "")
    assert max(map(len, out.splitlines())) <= 80
    status, out, err = seed(*FEW, "--json", "-q")
    facts = json.loads(out)
    assert (status, err, facts["status"]) == (0, "", 0)
    assert facts["rows"] == {"agents": 9, "leads": 9, "feedback": 9}
    status, out, err = seed("--leads", "0", "--json")
    assert (status, json.loads(out)["error"]) == (2, "feedback needs leads to be about")


@pytest.mark.parametrize("shell", ["sh", "bash"])
def test_the_quick_start_keeps_an_env_file(work: Path, shell: str) -> None:
    """It is pasted a second time by those who have written their own into it."""
    (work / ".env.example").write_text("first")
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    [line] = re.findall(r"^(.*cp .env.example .env.*) &&$", readme, re.MULTILINE)
    for text in ("first", "mine"):
        done = subprocess.run(
            [shell, "-euc", f"{line} && echo on"], capture_output=True
        )
        assert (done.stdout, done.stderr) == (b"on\n", b"")
        assert (work / ".env").read_text() == text
        (work / ".env").write_text("mine")


def test_serve_is_for_the_embedded_server(seed: Seed) -> None:
    status, out, err = seed("--serve")
    assert (status, out) == (2, "")
    assert "--serve is for DB_HOST=embedded" in err


@pytest.mark.parametrize("times", [1, 2])
def test_serve_prints_a_line_that_works(
    open_folder: Path, monkeypatch: pytest.MonkeyPatch, times: int
) -> None:
    """Ctrl-C ends it, and the server with it. The folder's name has a space."""
    home = open_folder / "My Projects (2)"
    home.mkdir()
    monkeypatch.chdir(home)
    (home / ".env").write_text("DB_HOST=embedded\nDB_NAME=shop\n")
    command = [sys.executable, str(ROOT / "setup_db.py"), "--serve"]
    pipe = subprocess.PIPE
    process = subprocess.Popen(command, text=True, stdout=pipe, stderr=pipe)
    assert process.stdout is not None
    process.stdout.readline()
    line = shlex.split(process.stdout.readline())
    query = ["-X", "-A", "-t", "-c", "SELECT current_database()"]
    done = subprocess.run([*line, *query], capture_output=True, text=True, check=True)
    assert done.stdout == "shop\n"
    for _ in range(times):
        process.send_signal(signal.SIGINT)
        time.sleep(0.02)
    _, err = process.communicate(timeout=20)
    assert (process.returncode, err) == (0, "\nStopping the server.\n")
    assert not (home / ".postgres/postmaster.pid").exists()
