"""Every mistake gets two lines, an exit status, and an untouched target."""

from __future__ import annotations

import functools
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from cases import Damage
from commands import ROOT, Fail, Place
from conftest import both_versions
from supabase import free_port

import export_restore as er

# ---- command lines

MISTYPED = {
    "exprot": "did you mean export? ",
    "restore --dryrun": "did you mean --dry-run? ",
    "restore --chekcsum --yes": "did you mean --checksum? ",
    "export --compress": "",
    "verify --lock-timeout 3": "",  # another command's
    # No option may be shortened.
    "restore --accept-edit": "did you mean --accept-edits? ",
    "restore --y": "did you mean --yes? ",
}


def test_a_mistyped_command_line(fail: Fail) -> None:
    for line, meant in MISTYPED.items():
        assert f"hint: {meant}see python export_restore.py" in fail(2, *line.split())
    command = [sys.executable, str(ROOT / "export_restore.py"), "exprot"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines() == fail(2, "exprot").splitlines()


def test_no_command_line_is_a_question(capsys: pytest.CaptureFixture[str]) -> None:
    texts = []
    for line in ([], ["--help"]):
        assert er.main(line) == 0
        texts.append(capsys.readouterr())
    assert texts[0] == texts[1]
    assert texts[0].out.startswith("usage: python export_restore.py COMMAND")


# ---- env files and connections

OURS = "DB_HOST=h\nDB_NAME=d\nDB_USER=u\nDB_PASSWORD=\n"
ENV_FILES = (
    ("DB_HOST=localhost\nDB_NAME=\nDB_USER\n", "utf-8",
     "missing or empty in a.env: DB_NAME, DB_USER, DB_PASSWORD\n"),
    # Names of libpq, and of the image for Docker: none that matters is passed over.
    ("PGHOST=h\nPGPORT=6543\nPGDATABASE=d\nPGUSER=u\nPGPASSWORD=p\n", "utf-8",
     "missing or empty in a.env: DB_HOST, DB_NAME, DB_USER, DB_PASSWORD, DB_PORT\n"
     "hint: call PGHOST DB_HOST, PGPORT DB_PORT, PGDATABASE DB_NAME, PGUSER DB_USER, "
     "PGPASSWORD DB_PASSWORD\n"),
    ("POSTGRES_DB=d\nPOSTGRES_USER=u\nPOSTGRES_PASSWORD=p\nDB_HOST=h", "utf-8",
     "missing or empty in a.env: DB_NAME, DB_USER, DB_PASSWORD\nhint: call "
     "POSTGRES_DB DB_NAME, POSTGRES_USER DB_USER, POSTGRES_PASSWORD DB_PASSWORD\n"),
    (f"{OURS}PGPORT=6543", "utf-8",
     "missing or empty in a.env: DB_PORT\nhint: call PGPORT DB_PORT\n"),
    (f"{OURS}PGSSLMODE=verify-full\nPGSSLROOTCERT=a\nPGCHANNELBINDING=require", "utf-8",
     "missing or empty in a.env: DB_SSLMODE, DB_SSLROOTCERT, DB_CHANNEL_BINDING\n"
     "hint: call PGSSLMODE DB_SSLMODE, PGSSLROOTCERT DB_SSLROOTCERT, "
     "PGCHANNELBINDING DB_CHANNEL_BINDING\n"),
    ("\ufeffDB_HOST=localhost\n", "utf-16-le",
     "a.env is UTF-16, as PowerShell's > writes it"),
    ("\ufeffDB_HOST=localhost\n", "utf-16-be",
     "a.env is UTF-16, as PowerShell's > writes it"),
    ("DB_HOST=localhost\nDB_PASSWORD='open\n", "utf-8",
     "a.env, line 2: not a KEY=value line"),
    ("DATABASE_URL=mysql://u:geheim@h/d\n", "utf-8", "no PostgreSQL URL"),
)  # fmt: skip


def test_env_files(work: Path, fail: Fail) -> None:
    for command in ("export", "restore"):
        message = fail(2, command, "--env-file", "nowhere.env")
        assert "there is no env file nowhere.env" in message
        assert "cp .env.example .env" in message
    for text, encoding, said in ENV_FILES:
        (work / "a.env").write_bytes(text.encode(encoding))
        message = fail(2, "export", "--env-file", "a.env")
        assert said in message
        assert "geheim" not in message


LOOPBACK = {"DB_HOST": "127.0.0.1", "DB_PASSWORD": "geheim"}
WAYS: tuple[tuple[dict[str, str], int, str], ...] = (
    ({**LOOPBACK, "DB_PORT": "{free}"}, 1, "Connection refused"),
    ({**LOOPBACK, "DB_PORT": "{free}"}, 1, "DB_HOST and DB_PORT"),
    ({"DB_HOST": "{folder}"}, 1, "No such file"),
    ({**LOOPBACK, "DB_HOST": "no-such-host.invalid"}, 1,
     "the host name no-such-host.invalid is unknown"),
    (LOOPBACK, 1, "password authentication failed"),
    # None is looked up in ~/.pgpass, where the right one stands.
    ({**LOOPBACK, "DB_PASSWORD": ""}, 1, "no password supplied"),
    ({"DB_NAME": "no_such_db"}, 1, 'database "no_such_db" does not exist'),
    *(({"DB_PORT": port}, 2, f"no port number: {port}")
      for port in ("five", "0", "70000", "-1", "5432x", "٥")),
)  # fmt: skip


def test_connections(
    exported: Place, work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exported.execute("ALTER ROLE postgres PASSWORD 'kept'")
    (work / ".pgpass").write_text("*:*:*:*:kept\n")
    (work / ".pgpass").chmod(0o600)
    monkeypatch.setenv("HOME", str(work))
    with exported.untouched():
        for changes, status, said in WAYS:
            here = {
                key: value.format(free=free_port(), folder=work)
                for key, value in changes.items()
            }
            message = exported.but(**here).fail(status, "restore")
            assert said in message
            assert "geheim" not in message


# ---- what the role may

# What is done by others, what the stranger does then, and what is said.
RIGHTS = (
    ("", "export", ["permission denied for table agents"]),
    ("", "restore", ["must be owner of table feedback", "schema.sql, line 4",
                     "owner of the tables"]),
    # Row-level security must not thin out a snapshot in silence.
    ("GRANT SELECT ON agents, leads, feedback TO stranger;"
     "ALTER TABLE leads ENABLE ROW LEVEL SECURITY",
     "export", ["row-level security hides rows of leads"]),
    # FORCE binds the owner, who cannot lift it to read.
    ("ALTER TABLE leads FORCE ROW LEVEL SECURITY, OWNER TO stranger",
     "export", ["row-level security hides rows of leads", "BYPASSRLS"]),
)  # fmt: skip


@both_versions
def test_who_may_not(exported: Place) -> None:
    exported.execute("CREATE ROLE stranger LOGIN")
    stranger = exported.but(DB_USER="stranger")
    try:
        for meanwhile, command, said in RIGHTS:
            if meanwhile:
                exported.execute(meanwhile)
            message = stranger.refuse(1, command)
            assert [each for each in said if each not in message] == []
        path = Path("exports/schema.sql")
        path.write_text("CREATE TABLE more ();\n" + path.read_text())
        message = stranger.refuse(1, "restore", "--accept-edits")
        assert "permission denied for schema public" in message
        assert "schema.sql, line 1" in message
        assert "GRANT USAGE, CREATE ON SCHEMA public TO" in message
    finally:
        exported.execute("DROP OWNED BY stranger CASCADE; DROP ROLE stranger")


# ---- exports


def test_exports(exported: Place) -> None:
    exported.execute("CREATE TABLE extra (id int)")
    exported.execute("ALTER TABLE agents ADD COLUMN nickname text")
    message = exported.refuse(1, "export")
    assert "does not mention agents.nickname, extra" in message
    Path("file").write_text("mine")
    Path("empty.sql").write_text("")
    for options, said in (
        (["--schema-file", "none.sql"],
         "the schema file none.sql cannot be read: No such file"),
        (["--schema-file", "empty.sql"], "empty.sql holds no statement"),
        (["--dir", "file"], "file is no folder"),
        (["--dir", "file/exports"], "file is no folder"),
    ):  # fmt: skip
        assert said in exported.fail(2, "export", *options)
    assert Path("file").read_text() == "mine"


# ---- folders: what is done to one, the status, and what a restore says


def drop(pattern: str, *more: str) -> Damage:
    def act(folder: Path) -> None:
        for each in (pattern, *more):
            for path in folder.glob(each):
                path.unlink()

    return act


def put(name: str, text: str) -> Damage:
    return lambda folder: (folder / name).write_text(text)


def edit(name: str, change: Callable[[list[str]], list[str]]) -> Damage:
    def act(folder: Path) -> None:
        lines = (folder / name).read_text().split("\n")
        (folder / name).write_text("\n".join(change(lines)), encoding="utf-8")

    return act


def mend(name: str, old: bytes, new: bytes) -> Damage:
    def act(folder: Path) -> None:
        raw = (folder / name).read_bytes()
        (folder / name).write_bytes(raw.replace(old, new, 1))

    return act


def both(one: Damage, two: Damage) -> Damage:
    return lambda folder: (one(folder), two(folder))


script = functools.partial(put, "schema.sql")
agents = functools.partial(edit, "agents.csv")
leads = functools.partial(edit, "leads.csv")
no_manifest = drop("datapackage.json")
UNEDITED: tuple[tuple[Damage, str], ...] = (
    (drop("schema.sql"), "it has no schema.sql"),
    (drop("*.csv"), "it has no CSV files"),
    (drop("leads.csv"), "leads.csv is missing"),
    (both(no_manifest, drop("leads.csv")), "leads.csv is missing"),
    (put("other.csv", "a\n1\n"), "other.csv is not part of the snapshot"),
    (both(no_manifest, put("other.csv", "a\n1\n")), "other.csv belongs to no table"),
)
SCRIPTS = (
    ("SELECT 1;\n\nCREAT TABLE x ();", 3, 'syntax error at or near "CREAT"'),
    ("SELECT 1;\nCREATE TABLE x (\n  a int,\n  b nosuch);", 4, 'type "nosuch"'),
    ("SELECT 1;\nDO $$ BEGIN\n PERFORM 1/0; END $$;", 2, "division by zero"),
    ("SELECT 1;\n\n\nINSERT INTO agents VALUES\n (1)", 4, "null value in column"),
    ("CREATE TABLE agents ()", 1, 'relation "agents" already exists'),
)
NO_DROPS = (
    "CREATE TABLE IF NOT EXISTS agents (); CREATE TABLE IF NOT EXISTS leads ();"
    "CREATE TABLE IF NOT EXISTS feedback ()"
)
AGENT = "x,x@example.com,,North,0.05,t,2026-01-01,2026-01-01 00:00:00+00"
ROW = f"77,{AGENT}"
EDITED: tuple[tuple[Damage, str], ...] = (
    (agents(lambda a: [line and line + ",x" for line in a]),
     "agents.csv has unknown columns: x"),
    (agents(lambda a: [line.split(",", 1)[-1] for line in a]),
     "agents.csv has missing columns: id"),
    (mend("agents.csv", b"region", b"area"),
     "agents.csv has unknown columns: area\n  agents.csv has missing columns: region"),
    (mend("agents.csv", b"region", b"phone"), "agents.csv has repeated columns: phone"),
    (agents(lambda a: [a[0], a[1] + ",x", *a[2:]]),
     "agents.csv, line 2: extra data after last expected column"),
    (agents(lambda a: [*a[:2], "77", *a[2:]]),
     'agents.csv, line 3: missing data for column "full_name"'),
    (agents(lambda a: [a[0], f"seven,{AGENT}", *a[1:]]),
     "agents.csv, line 2, column id: invalid input syntax for type integer"),
    (agents(lambda a: [a[0], ROW.replace("0.05", "7.5"), *a[1:]]),
     'line 2: new row for relation "agents" violates check constraint '
     '"agents_commission_rate_check"'),
    (agents(lambda a: [a[0], ROW.replace("North", ""), *a[1:]]),
     "agents.csv, line 2, column region: null value"),
    (agents(lambda a: [a[0], f"77777777777,{AGENT}", *a[1:]]),
     "agents.csv, line 2, column id: value"),
    (agents(lambda a: [*a[:2], f"1,{AGENT}", *a[2:]]),
     'line 3: duplicate key value violates unique constraint "agents_pkey" '
     "(Key (id)=(1) already exists.)"),
    (agents(lambda a: a[:2]),
     'violates foreign key constraint "leads_agent_id_fkey" (Key (agent_id)='),
    (agents(lambda a: [*a[:2], '77,"x', *a[2:]]), "unterminated CSV quoted field"),
    (leads(lambda a: [line.replace(",won,", ",gained,") for line in a]),
     'column status: invalid input value for enum lead_status: "gained"'),
    (put("leads.csv", ""), "leads.csv has missing columns: id, agent_id"),
    (mend("agents.csv", b"email", b"\xff"), "agents.csv, line 1: "),
    (mend("agents.csv", b"\n8,", b"\n77,\xff,,,,,,\n8,"), "agents.csv, line 9: "),
    # After everything else has come.
    (edit("feedback.csv", lambda a: [*a[:-1], "999,2,six,,2026-01-01 00:00:00+00", ""]),
     ", column rating: invalid input syntax"),
    (mend("catalog.txt", b"\n", b"\xff\xfe\n"), "catalog.txt, line 1"),
)  # fmt: skip


@both_versions
def test_restores(exported: Place, work: Path) -> None:
    exported.execute("DELETE FROM leads WHERE id = 1")
    assert "there is no snapshot folder nowhere" in exported.fail(
        2, "restore", "--dir", "nowhere"
    )
    edited: list[tuple[int, Damage, str]] = [
        *((1, script(text), f"exports/schema.sql, line {line}: {said}")
          for text, line, said in SCRIPTS),
        (1, script(NO_DROPS), "not empty after schema.sql: agents, leads, feedback"),
        (2, script("  -- nothing\n"), "schema.sql holds no statement"),
        *((3, *case) for case in EDITED),
    ]  # fmt: skip
    cases = [
        *((3, damage, said, ("--yes",)) for damage, said in UNEDITED),
        *((*case, ("--accept-edits",)) for case in edited),
    ]
    with exported.untouched():
        before = exported.rows()
        for number, (status, damage, said, options) in enumerate(cases):
            folder = work / str(number) / "exports"
            shutil.copytree(work / "exports", folder)
            damage(folder)
            message = exported.fail(status, "restore", "--dir", folder, *options)
            assert said in message
            assert status != 1 or " in: " in message or "not empty" in message
            assert exported.rows() == before, said
