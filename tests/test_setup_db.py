"""The sample data: believable, awkward, and the same for the same seed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import ROOT
from servers import Database

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


def test_rows_on_another_machine_are_safe(
    source: Database, seed: Seed, monkeypatch: pytest.MonkeyPatch
) -> None:
    seed()
    before = source.state()
    monkeypatch.setattr(setup_db, "is_local", lambda settings: False)
    status, out, err = seed("--leads", "1")
    assert (status, out) == (2, "")
    assert "has rows in agents, leads, feedback" in err
    assert "--yes" in err
    assert source.state() == before
    assert seed("--leads", "1", "--yes")[0] == 0


def test_serve_is_for_the_embedded_server(seed: Seed) -> None:
    status, out, err = seed("--serve")
    assert (status, out) == (2, "")
    assert "--serve is for DB_HOST=embedded" in err


def test_serve_prints_a_line_that_works(
    open_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C ends it, and the server with it. The folder's name has a space."""
    import shlex
    import signal
    import subprocess
    import sys

    home = open_folder / "My Projects (2)"
    home.mkdir()
    monkeypatch.chdir(home)
    (home / ".env").write_text("DB_HOST=embedded\nDB_NAME=shop\n")
    command = [sys.executable, str(ROOT / "setup_db.py"), "--serve"]
    process = subprocess.Popen(command, text=True, stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    line = shlex.split(process.stdout.readline())
    query = ["-X", "-A", "-t", "-c", "SELECT current_database()"]
    done = subprocess.run([*line, *query], capture_output=True, text=True, check=True)
    assert done.stdout == "shop\n"
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=20)
    assert process.returncode == 0
    assert not (home / ".postgres/postmaster.pid").exists()
