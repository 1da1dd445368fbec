"""What goes out comes back: the sample database, other servers, awkward values."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, Succeed, both_versions, wait_until
from servers import Database, Server, meanwhile, servers

import export_restore as er
import setup_db


@both_versions
def test_the_check_of_the_brief(
    exported: Database, work: Path, succeed: Succeed
) -> None:
    """feedback -> leads -> agents: delete a lead, change an agent, restore twice."""
    env = exported.env_file(work)
    before = exported.state()
    exported.execute("DELETE FROM leads WHERE id = 1")
    exported.execute("UPDATE agents SET full_name = 'Nobody', phone = '' WHERE id = 2")
    assert exported.rows() != before[1]

    for _ in range(2):
        succeed("restore", "--env-file", env)
        assert exported.state() == before

    for insert in (
        "INSERT INTO agents (full_name, email, region, hired_on) "
        "VALUES ('New', 'new@example.com', 'North', '2026-01-01') RETURNING id",
        "INSERT INTO leads (full_name, email) VALUES ('N', 'n@e.org') RETURNING id",
        "INSERT INTO feedback (lead_id, rating) VALUES (1, 5) RETURNING id",
    ):
        table = insert.split()[2]
        (highest,) = exported.fetch(f"SELECT max(id) FROM {table}")[0]
        assert exported.fetch(insert) == [(highest + 1,)]


def test_schema_file_is_copied_byte_for_byte(exported: Database, work: Path) -> None:
    assert (work / "exports/schema.sql").read_bytes() == (
        ROOT / "schema.sql"
    ).read_bytes()


def test_same_data_gives_same_bytes(
    exported: Database, work: Path, succeed: Succeed
) -> None:
    """Rows that were touched move in the heap; the files must not show it."""
    first = {p.name: p.read_bytes() for p in (work / "exports").glob("*.csv")}
    assert len(first) == 3
    exported.execute("UPDATE leads SET notes = notes WHERE id % 3 = 0")
    succeed("export", "--env-file", exported.env_file(work))
    assert {p.name: p.read_bytes() for p in (work / "exports").glob("*.csv")} == first


def test_files_are_private_and_nothing_is_left_behind(
    exported: Database, work: Path
) -> None:
    names = sorted(path.name for path in (work / "exports").iterdir())
    assert names == [
        ".gitattributes",
        ".gitignore",
        "agents.csv",
        "catalog.txt",
        "datapackage.json",
        "feedback.csv",
        "leads.csv",
        "schema.sql",
    ]
    for path in (work / "exports").iterdir():
        assert path.stat().st_mode & 0o077 == 0


def test_export_over_an_older_snapshot(
    exported: Database, work: Path, succeed: Succeed
) -> None:
    """The CSV of a table that is gone goes; what others put there stays."""
    (work / "exports/notes.txt").write_text("mine")
    exported.execute("DROP TABLE feedback")
    env = exported.env_file(work)
    for damage in (None, "{"):
        if damage:
            (work / "exports/datapackage.json").write_text(damage)
        succeed("export", "--env-file", env)
        names = sorted(path.name for path in (work / "exports").iterdir())
        assert names == [
            ".gitattributes",
            ".gitignore",
            "agents.csv",
            "catalog.txt",
            "datapackage.json",
            "leads.csv",
            "notes.txt",
            "schema.sql",
        ]


@pytest.mark.parametrize("versions", [(18, 16), (16, 18)])
def test_from_one_embedded_server_to_another(
    versions: tuple[int, int], tmp_path: Path, succeed: Succeed
) -> None:
    """Two env files, two folders, two versions; the second database is empty."""
    envs = []
    for version in versions:
        home = tmp_path / f"pg{version}"
        home.mkdir()
        er.OwnServer.of(home / er.EMBEDDED_FOLDER, servers()[version]).create()
        envs.append(home / ".env")
        envs[-1].write_text("DB_HOST=embedded\nDB_NAME=sales\n")
    first, second = envs
    assert setup_db.main(["--env-file", str(first), "-q", "--leads", "50"]) == 0
    script = ROOT / "schema.sql"
    one, two = tmp_path / "one", tmp_path / "two"
    common = ["export", "--schema-file", script, "--dir"]
    succeed(*common, one, "--env-file", first)
    succeed("restore", "--dir", one, "--env-file", second)
    succeed(*common, two, "--env-file", second)
    for path in one.glob("*.csv"):
        assert path.read_bytes() == (two / path.name).read_bytes()
    for env in envs:
        assert not (env.parent / er.EMBEDDED_FOLDER / "postmaster.pid").exists()


def script(work: Path, database: Database, text: str) -> None:
    """Make `text` the schema.sql of the folder and of the database."""
    (work / "schema.sql").write_text(text, encoding="utf-8")
    database.execute(text)


def test_null_and_empty_string_stay_apart(
    source: Database, target: Database, work: Path, succeed: Succeed
) -> None:
    script(work, source, "CREATE TABLE notes (id int PRIMARY KEY, a text, b text)")
    source.execute(
        "INSERT INTO notes VALUES (1, NULL, ''), (2, '', NULL), (3, '\"', ',')"
    )
    succeed("export", "--env-file", source.env_file(work))
    assert '1,,""\n2,"",\n' in (work / "exports/notes.csv").read_text()
    succeed("restore", "--env-file", target.env_file(work))
    assert target.fetch("SELECT * FROM notes ORDER BY id") == [
        (1, None, ""),
        (2, "", None),
        (3, '"', ","),
    ]


def test_a_blank_cell_typed_by_hand_is_null(
    source: Database, work: Path, succeed: Succeed
) -> None:
    """A spreadsheet may reorder columns, add a byte-order mark and write CRLF."""
    text = "CREATE TABLE notes (id serial PRIMARY KEY, a text, b text)"
    (work / "exports").mkdir()
    (work / "exports/schema.sql").write_text(text)
    (work / "exports/notes.csv").write_bytes(
        b'\xef\xbb\xbfb,a,id\r\n,x,1\r\ny,,7\r\n"",\xc3\xa9,3\r\n'
    )
    succeed("restore", "--env-file", source.env_file(work))
    assert source.fetch("SELECT id, a, b FROM notes ORDER BY id") == [
        (1, "x", None),
        (3, "é", ""),
        (7, None, "y"),
    ]
    assert source.fetch("INSERT INTO notes DEFAULT VALUES RETURNING id") == [(8,)]


@both_versions
def test_foreign_keys_in_any_shape(
    source: Database, target: Database, work: Path, succeed: Succeed
) -> None:
    """a -> b -> c -> a (a cycle), c -> c (itself), and two columns at once."""
    text = """
        CREATE TABLE a (id int PRIMARY KEY, b int NOT NULL, UNIQUE (id, b));
        CREATE TABLE b (id int PRIMARY KEY, c int NOT NULL);
        CREATE TABLE c (id int PRIMARY KEY, a int, parent int REFERENCES c,
                        a_b int, FOREIGN KEY (a, a_b) REFERENCES a (id, b) MATCH FULL);
        ALTER TABLE a ADD CONSTRAINT to_b FOREIGN KEY (b) REFERENCES b
            ON DELETE CASCADE DEFERRABLE INITIALLY DEFERRED;
        ALTER TABLE b ADD CONSTRAINT to_c FOREIGN KEY (c) REFERENCES c DEFERRABLE;
        COMMENT ON CONSTRAINT to_b ON a IS 'the 100% {cycle}';
    """
    script(work, source, text)
    source.execute(
        "BEGIN; INSERT INTO c VALUES (2, NULL, NULL), (1, NULL, 2);"
        "INSERT INTO b VALUES (1, 1), (2, 2); INSERT INTO a VALUES (1, 1), (2, 1);"
        "UPDATE c SET a = id, a_b = 1; COMMIT"
    )
    succeed("export", "--env-file", source.env_file(work))
    succeed("restore", "--env-file", target.env_file(work))
    assert target.state() == source.state()


@both_versions
def test_triggers_rest_while_rows_load(
    source: Database, target: Database, work: Path, succeed: Succeed
) -> None:
    text = """
        CREATE TABLE log (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, what text);
        CREATE TABLE item (id int PRIMARY KEY);
        CREATE FUNCTION noted() RETURNS trigger LANGUAGE plpgsql AS $$
            BEGIN INSERT INTO log (what) VALUES (TG_NAME); RETURN NEW; END $$;
        CREATE TRIGGER enabled BEFORE INSERT ON item
            FOR EACH ROW EXECUTE FUNCTION noted();
        CREATE TRIGGER always AFTER INSERT ON item EXECUTE FUNCTION noted();
        CREATE TRIGGER replica AFTER INSERT ON item EXECUTE FUNCTION noted();
        CREATE TRIGGER disabled AFTER INSERT ON item EXECUTE FUNCTION noted();
        ALTER TABLE item ENABLE ALWAYS TRIGGER always;
        ALTER TABLE item ENABLE REPLICA TRIGGER replica;
        ALTER TABLE item DISABLE TRIGGER disabled;
    """
    script(work, source, text)
    source.execute("INSERT INTO item VALUES (1), (2)")
    succeed("export", "--env-file", source.env_file(work))
    succeed("restore", "--env-file", target.env_file(work))
    assert target.state() == source.state()


WRITE = """
    DO $$ DECLARE n int := 1000; BEGIN LOOP
        n := n + 1;
        INSERT INTO agents (id, full_name, email, region, hired_on)
            VALUES (n, 'x', n, 'x', now());
        INSERT INTO leads (id, agent_id, full_name, email) VALUES (n, n, 'x', n);
        INSERT INTO feedback (lead_id, rating) VALUES (n, 1);
        UPDATE leads SET agent_id = n WHERE id = 2;
        DELETE FROM leads WHERE id = n - 20;
        COMMIT;
    END LOOP; END $$
"""


def test_writers_at_work_never_tear_a_snapshot(
    seeded: Database, work: Path, succeed: Succeed
) -> None:
    """While another connection writes to all three tables, no key dangles."""

    def written() -> int:
        [(last,)] = seeded.fetch("SELECT max(id) FROM agents")
        return int(last)

    with meanwhile(seeded, WRITE):
        wait_until(lambda: written() > 1000)
        for _ in range(15):
            before = written()
            succeed("export", "--env-file", seeded.env_file(work))
            assert written() > before, "the writer stood still"
            check_references(work / "exports")


def test_truncate_by_others_does_not_empty_a_snapshot(
    source: Database, work: Path, succeed: Succeed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TRUNCATE shows older transaction snapshots an empty table; it has to wait."""
    schema = "CREATE TABLE a_first (a int PRIMARY KEY); CREATE TABLE z (a int)"
    (work / "schema.sql").write_text(schema)
    source.execute(schema + "; INSERT INTO z SELECT generate_series(1, 1000)")
    copy_out = er.Database.copy_out
    waiting = "SELECT FROM pg_locks WHERE NOT granted AND relation = 'z'::regclass"
    with contextlib.ExitStack() as stack:

        def truncate_first(*arguments: Any) -> int:
            if not source.fetch(waiting):
                query = "TRUNCATE z; INSERT INTO z VALUES (1)"
                stack.enter_context(meanwhile(source, query))
                wait_until(lambda: source.fetch(waiting))
            return copy_out(*arguments)

        monkeypatch.setattr(er.Database, "copy_out", truncate_first)
        succeed("export", "--env-file", source.env_file(work))
    assert len((work / "exports/z.csv").read_text().splitlines()) == 1001
    assert source.fetch("SELECT count(*) FROM z") == [(1,)]


def check_references(folder: Path) -> None:
    """Every exported feedback has its lead, and every lead its agent."""
    agents, leads, feedback = (
        read_csv(folder / f"{name}.csv") for name in ("agents", "leads", "feedback")
    )
    ids = {row["id"] for row in agents}
    assert {row["agent_id"] for row in leads} - {""} <= ids
    assert {row["lead_id"] for row in feedback} <= {row["id"] for row in leads}


def read_csv(path: Path) -> list[dict[str, str]]:
    import csv

    with path.open(encoding="utf-8", newline="") as lines:
        return list(csv.DictReader(lines))


def test_env_file_by_password_and_url(
    exported: Database,
    server: Server,
    work: Path,
    succeed: Succeed,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A password with $, #, @, % and a quote works in both spellings.

    libpq's variables, which would lead the connection astray, have no say.
    """
    from servers import PASSWORD

    server.execute("ALTER ROLE postgres PASSWORD '" + PASSWORD.replace("'", "''") + "'")
    quoted = "'" + PASSWORD.replace("'", "\\'") + "'"
    by_parts = exported.env_file(work, DB_HOST="127.0.0.1", DB_PASSWORD=quoted)
    by_url = work / "url.env"
    by_url.write_text(
        f'DATABASE_URL="postgresql://postgres:{PASSWORD}'
        f'@127.0.0.1:{server.port}/{exported.name}"\n'
    )
    with monkeypatch.context() as shell:
        for name in ("HOSTADDR", "OPTIONS", "SSLMODE", "SERVICE", "DATABASE"):
            shell.setenv(f"PG{name}", "nonsense")
        succeed("export", "--env-file", by_parts)
        succeed("export", "--env-file", by_url)
