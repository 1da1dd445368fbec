"""Every mistake gets two lines, an exit status, and an untouched target."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import ROOT, Fail, Run, both_versions
from servers import Database, Server

import export_restore as er


@pytest.fixture(autouse=True)
def untouched(exported: Database) -> Iterator[None]:
    """The target is the same after the test as before it."""
    exported.execute("DELETE FROM leads WHERE id = 1")
    before = exported.state()
    yield
    assert exported.state() == before


# ---- command lines


@pytest.mark.parametrize(
    "line, meant",
    [
        ("exprot", "did you mean export? "),
        ("restore --dryrun", "did you mean --dry-run? "),
        ("restore --chekcsum --yes", "did you mean --checksum? "),
        ("export --compress", ""),
        ("verify --lock-timeout 3", ""),  # another command's
        # No option may be shortened.
        ("restore --accept-edit", "did you mean --accept-edits? "),
        ("restore --y", "did you mean --yes? "),
    ],
)
def test_a_mistyped_command_line(fail: Fail, line: str, meant: str) -> None:
    message = fail(2, *line.split())
    assert f"hint: {meant}see python export_restore.py" in message


def test_no_command_line_is_a_question(capsys: pytest.CaptureFixture[str]) -> None:
    texts = []
    for line in ([], ["--help"]):
        assert er.main(line) == 0
        texts.append(capsys.readouterr())
    assert texts[0] == texts[1]
    assert texts[0].out.startswith("usage: python export_restore.py COMMAND")


# ---- env files


def test_env_file_missing(work: Path, fail: Fail) -> None:
    for command in ("export", "restore"):
        message = fail(2, command, "--env-file", "nowhere.env")
        assert "there is no env file nowhere.env" in message
        assert "cp .env.example .env" in message


def test_all_missing_keys_are_named_at_once(work: Path, fail: Fail) -> None:
    (work / "a.env").write_text("DB_HOST=localhost\nDB_NAME=\nDB_USER\n")
    message = fail(2, "export", "--env-file", "a.env")
    assert "missing or empty in a.env: DB_NAME, DB_USER, DB_PASSWORD" in message


LIBPQ = "PGHOST=h\nPGPORT=6543\nPGDATABASE=d\nPGUSER=u\nPGPASSWORD=p\n"
DOCKER = "POSTGRES_DB=d\nPOSTGRES_USER=u\nPOSTGRES_PASSWORD=p\n"
OURS = "DB_HOST=h\nDB_NAME=d\nDB_USER=u\nDB_PASSWORD=\n"


@pytest.mark.parametrize(
    "text, missing, hint",
    [
        (LIBPQ, "DB_HOST, DB_NAME, DB_USER, DB_PASSWORD, DB_PORT", "PGHOST DB_HOST, "
         "PGPORT DB_PORT, PGDATABASE DB_NAME, PGUSER DB_USER, PGPASSWORD DB_PASSWORD"),
        (DOCKER + "DB_HOST=h", "DB_NAME, DB_USER, DB_PASSWORD", "POSTGRES_DB DB_NAME, "
         "POSTGRES_USER DB_USER, POSTGRES_PASSWORD DB_PASSWORD"),
        (OURS + "PGPORT=6543", "DB_PORT", "PGPORT DB_PORT"),
        (OURS + "PGSSLMODE=verify-full\nPGSSLROOTCERT=a\nPGCHANNELBINDING=require",
         "DB_SSLMODE, DB_SSLROOTCERT, DB_CHANNEL_BINDING", "PGSSLMODE DB_SSLMODE, "
         "PGSSLROOTCERT DB_SSLROOTCERT, PGCHANNELBINDING DB_CHANNEL_BINDING"),
    ],
)  # fmt: skip
def test_other_names_for_the_keys(
    work: Path, fail: Fail, text: str, missing: str, hint: str
) -> None:
    """Of libpq, and of the image for Docker: none that matters is passed over."""
    (work / "a.env").write_text(text)
    message = fail(2, "export", "--env-file", "a.env")
    assert f"missing or empty in a.env: {missing}\nhint: call {hint}\n" in message


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-be"])
def test_an_env_file_in_utf_16(work: Path, fail: Fail, encoding: str) -> None:
    (work / "a.env").write_bytes("\ufeffDB_HOST=localhost\n".encode(encoding))
    message = fail(2, "export", "--env-file", "a.env")
    assert "a.env is UTF-16, as PowerShell's > writes it" in message


def test_no_password_is_looked_up_elsewhere(
    exported: Database, work: Path, fail: Fail, monkeypatch: pytest.MonkeyPatch
) -> None:
    exported.execute("ALTER ROLE postgres PASSWORD 'kept'")
    (work / ".pgpass").write_text("*:*:*:*:kept\n")
    (work / ".pgpass").chmod(0o600)
    monkeypatch.setenv("HOME", str(work))
    env = exported.env_file(work, DB_HOST="127.0.0.1", DB_PASSWORD="")
    assert "no password supplied" in fail(1, "export", "--env-file", env)


@pytest.mark.parametrize("port", ["five", "0", "70000", "-1", "5432x", "٥"])
def test_port_is_no_number(
    exported: Database, work: Path, fail: Fail, port: str
) -> None:
    env = exported.env_file(work, DB_PORT=port)
    assert f"no port number: {port}" in fail(2, "restore", "--env-file", env)


def test_a_line_that_is_no_setting(work: Path, fail: Fail) -> None:
    (work / "a.env").write_text("DB_HOST=localhost\nDB_PASSWORD='open\n")
    assert "a.env, line 2: not a KEY=value line" in fail(
        2, "export", "--env-file", "a.env"
    )


def test_url_that_is_none(work: Path, fail: Fail) -> None:
    (work / "a.env").write_text("DATABASE_URL=mysql://u:geheim@h/d\n")
    message = fail(2, "export", "--env-file", "a.env")
    assert "no PostgreSQL URL" in message
    assert "geheim" not in message


# ---- connections


def unused_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_server_unreachable(exported: Database, work: Path, fail: Fail) -> None:
    env = exported.env_file(
        work, DB_HOST="127.0.0.1", DB_PORT=str(unused_port()), DB_PASSWORD="geheim"
    )
    message = fail(1, "restore", "--env-file", env)
    assert "Connection refused" in message
    assert "DB_HOST and DB_PORT" in message
    assert "geheim" not in message


def test_socket_folder_without_a_server(
    exported: Database, work: Path, fail: Fail
) -> None:
    env = exported.env_file(work, DB_HOST=str(work))
    assert "No such file" in fail(1, "restore", "--env-file", env)


def test_host_unknown(exported: Database, work: Path, fail: Fail) -> None:
    env = exported.env_file(work, DB_HOST="no-such-host.invalid", DB_PASSWORD="geheim")
    message = fail(1, "restore", "--env-file", env)
    assert "the host name no-such-host.invalid is unknown" in message
    assert "geheim" not in message


def test_wrong_password(
    exported: Database, server: Server, work: Path, fail: Fail
) -> None:
    server.execute("ALTER ROLE postgres PASSWORD 'right'")
    env = exported.env_file(work, DB_HOST="127.0.0.1", DB_PASSWORD="geheim")
    message = fail(1, "restore", "--env-file", env)
    assert "password authentication failed" in message
    assert "geheim" not in message


def test_database_absent(exported: Database, work: Path, fail: Fail) -> None:
    env = exported.env_file(work, DB_NAME="no_such_db")
    message = fail(1, "restore", "--env-file", env)
    assert 'database "no_such_db" does not exist' in message


# ---- rights


@pytest.fixture
def stranger(exported: Database, server: Server) -> Iterator[str]:
    """A role that owns nothing."""
    server.execute("CREATE ROLE stranger LOGIN")
    yield "stranger"
    exported.execute("DROP OWNED BY stranger; DROP ROLE stranger")


@both_versions
def test_no_right_to_drop(
    exported: Database, stranger: str, work: Path, fail: Fail
) -> None:
    env = exported.env_file(work, DB_USER=stranger)
    message = fail(1, "restore", "--env-file", env)
    assert "must be owner of table feedback" in message
    assert "schema.sql, line 4" in message
    assert "owner of the tables" in message


@both_versions
def test_no_right_to_create(
    exported: Database, stranger: str, work: Path, fail: Fail
) -> None:
    path = work / "exports/schema.sql"
    path.write_text("CREATE TABLE more ();\n" + path.read_text())
    env = exported.env_file(work, DB_USER=stranger)
    message = fail(1, "restore", "--accept-edits", "--env-file", env)
    assert "permission denied for schema public" in message
    assert "schema.sql, line 1" in message
    assert "GRANT USAGE, CREATE ON SCHEMA public TO" in message


@both_versions
def test_no_right_to_read(
    exported: Database, stranger: str, work: Path, fail: Fail
) -> None:
    env = exported.env_file(work, DB_USER=stranger)
    assert "permission denied for table agents" in fail(1, "export", "--env-file", env)


def test_rows_hidden_by_policies(
    exported: Database, stranger: str, work: Path, fail: Fail
) -> None:
    """Row-level security must not thin out a snapshot in silence."""
    exported.execute(
        "GRANT SELECT ON agents, leads, feedback TO stranger;"
        "ALTER TABLE leads ENABLE ROW LEVEL SECURITY"
    )
    try:
        env = exported.env_file(work, DB_USER=stranger)
        message = fail(1, "export", "--env-file", env)
        assert "row-level security hides rows of leads" in message
    finally:
        exported.execute(
            "REVOKE ALL ON agents, leads, feedback FROM stranger;"
            "ALTER TABLE leads DISABLE ROW LEVEL SECURITY"
        )


@both_versions
def test_rows_hidden_from_their_owner(
    exported: Database, stranger: str, work: Path, fail: Fail
) -> None:
    """FORCE ROW LEVEL SECURITY binds the owner, who cannot lift it to read."""
    exported.execute(
        "ALTER TABLE leads ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;"
        "GRANT USAGE, CREATE ON SCHEMA public TO stranger;"
        "GRANT SELECT ON ALL TABLES IN SCHEMA public TO stranger;"
        "ALTER TABLE leads OWNER TO stranger"
    )
    try:
        env = exported.env_file(work, DB_USER=stranger)
        message = fail(1, "export", "--env-file", env)
        assert "row-level security hides rows of leads" in message
        assert "BYPASSRLS" in message
    finally:
        exported.execute(
            "ALTER TABLE leads OWNER TO postgres;"
            "REVOKE ALL ON ALL TABLES IN SCHEMA public FROM stranger;"
            "REVOKE ALL ON SCHEMA public FROM stranger;"
            "ALTER TABLE leads NO FORCE ROW LEVEL SECURITY, DISABLE ROW LEVEL SECURITY"
        )


# ---- schema.sql


def test_schema_file_missing_at_export(
    exported: Database, work: Path, fail: Fail
) -> None:
    env = exported.env_file(work)
    message = fail(2, "export", "--env-file", env, "--schema-file", "none.sql")
    assert "the schema file none.sql cannot be read: No such file" in message


def test_schema_file_empty_at_export(
    exported: Database, work: Path, fail: Fail
) -> None:
    (work / "schema.sql").write_text("")
    message = fail(2, "export", "--env-file", exported.env_file(work))
    assert "schema.sql holds no statement" in message


def test_schema_file_missing_in_the_folder(
    exported: Database, work: Path, fail: Fail
) -> None:
    (work / "exports/schema.sql").unlink()
    message = fail(3, "restore", "--env-file", exported.env_file(work))
    assert "it has no schema.sql" in message


def test_schema_file_empty_in_the_folder(
    exported: Database, work: Path, fail: Fail
) -> None:
    (work / "exports/schema.sql").write_text("  -- nothing\n")
    message = fail(
        2, "restore", "--accept-edits", "--env-file", exported.env_file(work)
    )
    assert "schema.sql holds no statement" in message


@both_versions
@pytest.mark.parametrize(
    "text, line, said",
    [
        ("SELECT 1;\n\nCREAT TABLE x ();", 3, 'syntax error at or near "CREAT"'),
        ("SELECT 1;\nCREATE TABLE x (\n  a int,\n  b nosuch);", 4, '"nosuch" does not'),
        ("SELECT 1;\nDO $$ BEGIN\n PERFORM 1/0; END $$;", 2, "division by zero"),
        ("SELECT 1;\n\n\nINSERT INTO agents VALUES\n (1)", 4, "null value in column"),
        ("CREATE TABLE agents ()", 1, 'relation "agents" already exists'),
    ],
)
def test_faulty_statement_is_named_with_its_line(
    exported: Database, work: Path, fail: Fail, text: str, line: int, said: str
) -> None:
    (work / "exports/schema.sql").write_text(text)
    message = fail(
        1, "restore", "--accept-edits", "--env-file", exported.env_file(work)
    )
    assert f"exports/schema.sql, line {line}: " in message
    assert said in message
    assert " in: " in message


def test_schema_script_behind_the_database(
    exported: Database, work: Path, fail: Fail
) -> None:
    exported.execute("CREATE TABLE extra (id int)")
    exported.execute("ALTER TABLE agents ADD COLUMN nickname text")
    try:
        message = fail(1, "export", "--env-file", exported.env_file(work))
        assert "does not mention agents.nickname, extra" in message
    finally:
        exported.execute("DROP TABLE extra; ALTER TABLE agents DROP COLUMN nickname")


def test_schema_script_without_drops(
    exported: Database, work: Path, fail: Fail
) -> None:
    path = work / "exports/schema.sql"
    path.write_text(
        "CREATE TABLE IF NOT EXISTS agents (); CREATE TABLE IF NOT EXISTS leads ();"
        "CREATE TABLE IF NOT EXISTS feedback ()"
    )
    message = fail(
        1, "restore", "--accept-edits", "--env-file", exported.env_file(work)
    )
    assert "not empty after schema.sql: agents, leads, feedback" in message


# ---- the folder


def test_folder_missing(exported: Database, work: Path, fail: Fail) -> None:
    env = exported.env_file(work)
    message = fail(2, "restore", "--env-file", env, "--dir", "nowhere")
    assert "there is no snapshot folder nowhere" in message


def test_folder_without_csvs(exported: Database, work: Path, fail: Fail) -> None:
    for path in (work / "exports").glob("*.csv"):
        path.unlink()
    message = fail(3, "restore", "--env-file", exported.env_file(work))
    assert "it has no CSV files" in message


def test_folder_not_writable(exported: Database, work: Path, fail: Fail) -> None:
    (work / "file").write_text("")
    env = exported.env_file(work)
    message = fail(2, "export", "--env-file", env, "--dir", "file/exports")
    assert "file is no folder" in message


# ---- CSVs: what is done to a file of the snapshot, and what is said


def edit(work: Path, name: str, change: Callable[[list[str]], list[str]]) -> None:
    path = work / "exports" / name
    path.write_text("\n".join(change(path.read_text().split("\n"))), encoding="utf-8")


AGENT = "x,x@example.com,,North,0.05,t,2026-01-01,2026-01-01 00:00:00+00"
EDITS: dict[str, tuple[str, Callable[[list[str]], list[str]], str]] = {
    "column too many": (
        "agents.csv",
        lambda lines: [line and line + ",x" for line in lines],
        "agents.csv has unknown columns: x",
    ),
    "column too few": (
        "agents.csv",
        lambda lines: [line.split(",", 1)[-1] for line in lines],
        "agents.csv has missing columns: id",
    ),
    "column unknown": (
        "agents.csv",
        lambda lines: [lines[0].replace("region", "area"), *lines[1:]],
        "agents.csv has unknown columns: area\n"
        "  agents.csv has missing columns: region",
    ),
    "column twice": (
        "agents.csv",
        lambda lines: [lines[0].replace("region", "phone"), *lines[1:]],
        "agents.csv has repeated columns: phone",
    ),
    "cell too many": (
        "agents.csv",
        lambda lines: [lines[0], lines[1] + ",x", *lines[2:]],
        "agents.csv, line 2: extra data after last expected column",
    ),
    "cell too few": (
        "agents.csv",
        lambda lines: [*lines[:2], "77", *lines[2:]],
        'agents.csv, line 3: missing data for column "full_name"',
    ),
    "value that does not fit": (
        "agents.csv",
        lambda lines: [lines[0], f"seven,{AGENT}", *lines[1:]],
        "agents.csv, line 2, column id: invalid input syntax for type integer",
    ),
    "value out of bounds": (
        "agents.csv",
        lambda lines: [lines[0], f"77,{AGENT.replace('0.05', '7.5')}", *lines[1:]],
        'line 2: new row for relation "agents" violates check constraint '
        '"agents_commission_rate_check"',
    ),
    "NULL where none may be": (
        "agents.csv",
        lambda lines: [lines[0], f"77,{AGENT.replace('North', '')}", *lines[1:]],
        "agents.csv, line 2, column region: null value",
    ),
    "number too large": (
        "agents.csv",
        lambda lines: [lines[0], f"77777777777,{AGENT}", *lines[1:]],
        "agents.csv, line 2, column id: value",
    ),
    "duplicate key": (
        "agents.csv",
        lambda lines: [*lines[:2], f"1,{AGENT}", *lines[2:]],
        'line 3: duplicate key value violates unique constraint "agents_pkey" '
        "(Key (id)=(1) already exists.)",
    ),
    "foreign key": (
        "agents.csv",
        lambda lines: lines[:2],
        'violates foreign key constraint "leads_agent_id_fkey" (Key (agent_id)=',
    ),
    "open quote": (
        "agents.csv",
        lambda lines: [*lines[:2], '77,"x', *lines[2:]],
        "unterminated CSV quoted field",
    ),
    "unknown enum label": (
        "leads.csv",
        lambda lines: [
            lines[0],
            *(line.replace(",won,", ",gained,") for line in lines[1:]),
        ],
        'column status: invalid input value for enum lead_status: "gained"',
    ),
    "empty file": (
        "leads.csv",
        lambda lines: [],
        "leads.csv has missing columns: id, agent_id",
    ),
}


@both_versions
@pytest.mark.parametrize("name, change, said", EDITS.values(), ids=EDITS.keys())
def test_edited_file(
    exported: Database,
    work: Path,
    run: Run,
    name: str,
    change: Callable[[list[str]], list[str]],
    said: str,
) -> None:
    edit(work, name, change)
    env = exported.env_file(work)
    result = run("restore", "--accept-edits", "--env-file", env, "-q")
    assert (result.status, result.out) == (3, "")
    assert said in result.err
    assert result.err.splitlines()[-1].startswith("hint: ")


def test_csv_missing(exported: Database, work: Path, fail: Fail) -> None:
    (work / "exports/leads.csv").unlink()
    for manifest in (True, False):
        if not manifest:
            (work / "exports/datapackage.json").unlink()
        message = fail(3, "restore", "--env-file", exported.env_file(work), "--yes")
        assert "leads.csv is missing" in message


def test_csv_of_no_table(exported: Database, work: Path, fail: Fail) -> None:
    (work / "exports/other.csv").write_text("a\n1\n")
    message = fail(3, "restore", "--env-file", exported.env_file(work))
    assert "other.csv is not part of the snapshot" in message
    (work / "exports/datapackage.json").unlink()
    message = fail(3, "restore", "--env-file", exported.env_file(work), "--yes")
    assert "other.csv belongs to no table" in message


@pytest.mark.parametrize("where", ["header", "row"])
def test_invalid_utf8(exported: Database, work: Path, fail: Fail, where: str) -> None:
    path = work / "exports/agents.csv"
    raw = path.read_bytes()
    bad = {"header": raw.replace(b"email", b"\xff", 1), "row": raw + b"77,\xff,,,,,,\n"}
    path.write_bytes(bad[where])
    message = fail(
        3, "restore", "--accept-edits", "--env-file", exported.env_file(work)
    )
    line = 1 if where == "header" else raw.count(b"\n") + 1
    assert f"agents.csv, line {line}: " in message
    assert "codec" in message or "invalid byte sequence" in message


def test_usage_errors_exit_with_2(work: Path) -> None:
    import sys

    for argv in (["exprot"], ["export", "--no-such-option"]):
        command = [sys.executable, str(ROOT / "export_restore.py"), *argv]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 2
        assert done.stdout == ""
        assert "Traceback" not in done.stderr
