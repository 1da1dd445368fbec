"""A connection that fails: what happened, and the line of the env file to change."""

from __future__ import annotations

import contextlib
import functools
import re
import shutil
import socket
import ssl
import string
import threading
from pathlib import Path
from typing import Any

import psycopg2
import pytest
import trustme
from cases import forge_catalog
from conftest import Fail, Run, Succeed, both_versions
from servers import Database, Server
from supabase import Project

import export_restore as er

SSL_REQUEST = b"\x00\x00\x00\x08\x04\xd2\x16\x2f"


class Imitation:
    """A server on loopback that speaks TLS and turns everybody away with one text."""

    def __init__(self, answer: bytes, *, tls: bool = True) -> None:
        self.answer = answer
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER) if tls else None
        if self.context is not None:
            certificate().configure_cert(self.context)
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                self.turn_away(self.listener.accept()[0])

    def turn_away(self, client: socket.socket) -> None:
        with contextlib.suppress(OSError), client:
            if client.recv(8) == SSL_REQUEST and self.context is not None:
                client.sendall(b"S")
                client = self.context.wrap_socket(client, server_side=True)
                client.recv(10_000)
            client.sendall(self.answer)
            client.close()


@functools.cache
def certificate() -> trustme.LeafCert:
    return trustme.CA().issue_cert("localhost")


def refusal(message: str, code: str = "XX000") -> bytes:
    """Return an ErrorResponse of the protocol."""
    fields = f"SFATAL\0VFATAL\0C{code}\0M{message}\0\0".encode()
    return b"E" + (len(fields) + 4).to_bytes(4, "big") + fields


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every host name lead to this machine."""
    connect = psycopg2.connect

    def call(**how: Any) -> Any:
        return connect(**{**how, "hostaddr": "127.0.0.1"})

    monkeypatch.setattr(er, "psycopg2", er.LazyModule("psycopg2"))
    monkeypatch.setattr(psycopg2, "connect", call)


def env_file(folder: Path, host: str, port: int = 5432, **changes: str) -> Path:
    """Write an env file for a server that will not let us in."""
    values = {"DB_HOST": host, "DB_PORT": str(port), "DB_NAME": "postgres",
              "DB_USER": "postgres", "DB_PASSWORD": "x", **changes}  # fmt: skip
    path = folder / "some.env"
    path.write_text("".join(f"{key}={value}\n" for key, value in values.items()))
    return path


DIRECT = "db.abcdefghijklmnopqrst.supabase.co"
POOLER = "aws-0-eu-central-1.pooler.supabase.com"
NEON = "ep-cool-river-123456.eu-central-1.aws.neon.tech"
RDS = "shop.abc123.eu-central-1.rds.amazonaws.com"
NO_IPV4 = (
    "DB_HOST=aws-0-<region>.pooler.supabase.com (the dashboard shows it under "
    "Connect), DB_PORT=5432, DB_USER=postgres.abcdefghijklmnopqrst"
)


@pytest.mark.parametrize(
    "host, user, said, hint",
    [
        (DIRECT, "postgres", 'password authentication failed for user "postgres"',
         "the dashboard resets it under Database, Settings"),
        (DIRECT, "postgres", "sorry, too many clients already",
         "DB_PORT=6543, DB_USER=postgres.abcdefghijklmnopqrst"),
        (POOLER, "postgres", "Tenant or user not found", "DB_USER=postgres.<project>,"),
        (POOLER, "postgres",
         "(ENOIDENTIFIER) no tenant identifier provided (external_id or sni_hostname "
         "required)", "DB_USER=postgres.<project>,"),
        (POOLER, "postgres.ref",
         "(ENOTFOUND) tenant/user postgres.ref not found", "the project is not paused"),
        (POOLER, "me.ref", 'password authentication failed for user "me"',
         "DB_USER=me.ref, and as DB_PASSWORD the database's own password"),
        (POOLER, "me.ref", "(EMAXCLIENTSESSION) max clients reached in session mode - "
         "max clients are limited to pool_size: 15", "DB_PORT=6543"),
        (POOLER, "me.ref", "(ECIRCUITBREAKER) too many authentication failures",
         "wait some minutes"),
        (POOLER, "me.ref", "(EADDRNOTALLOWED) address not in tenant allow_list: {1}",
         "Network Restrictions"),
        (POOLER, "me.ref", "(ESSLREQUIRED) SSL connection is required for user: me",
         "DB_SSLMODE=require"),
        (POOLER, "me.ref", "max client connections reached, limit: 200",
         "close other connections"),
        (NEON, "me", "The endpoint has been disabled. Enable it using Neon API",
         "enable the compute in Neon's console"),
        (NEON, "me", "sorry, too many clients already",
         "DB_HOST=ep-cool-river-123456-pooler.eu-central-1.aws.neon.tech"),
        (NEON, "me", 'password authentication failed for user "me"',
         "Neon's console, Connect"),
        ("10.1.2.3", "me", "Endpoint ID is not specified. Either please upgrade the "
         "postgres client library (libpq) for SNI support", "DB_HOST=ep-….neon.tech"),
        ("10.1.2.3", "me", "connection is insecure (try using `sslmode=require`)",
         "DB_SSLMODE=require"),
        (RDS, "me", 'no pg_hba.conf entry for host "1.2.3.4", user "me", database '
         '"postgres", no encryption', "DB_SSLMODE=require"),
        (RDS, "me", 'no pg_hba.conf entry for host "1.2.3.4", user "me", database '
         '"postgres", SSL encryption', "check DB_USER and DB_NAME"),
        (RDS, "me", "remaining connection slots are reserved for roles with the "
         "SUPERUSER attribute", "close other connections"),
        ("pg.example.com", "me", "the database system is starting up",
         "try again when the server is up"),
        ("pg.example.com", "me", 'role "me" does not exist', "check DB_USER"),
        ("pg.example.com", "me", "no more connections allowed (max_client_conn)",
         "close other connections"),
    ],
)  # fmt: skip
@pytest.mark.usefixtures("elsewhere")
def test_what_providers_say(
    work: Path, fail: Fail, host: str, user: str, said: str, hint: str
) -> None:
    with contextlib.closing(Imitation(refusal(said)).listener) as listener:
        port = listener.getsockname()[1]
        env = env_file(work, host, port, DB_USER=user)
        message = fail(1, "export", "--env-file", env, "--schema-file", blank(work))
    assert f"cannot connect to postgres on {host}:{port}: {said}\n" in message
    assert hint in message.splitlines()[1]


def blank(work: Path) -> Path:
    (work / "schema.sql").write_text("CREATE TABLE t (a int);")
    return work / "schema.sql"


@pytest.mark.parametrize(
    "said",
    [
        f'could not translate host name "{DIRECT}" to address: No address associated '
        "with hostname",
        f'connection to server at "{DIRECT}" (2a05:d014::1), port 5432 failed: Network '
        "is unreachable\n\tIs the server running on that host and accepting TCP/IP "
        "connections?",
        f'connection to server at "{DIRECT}" (2a05:d014::1), port 5432 failed: No '
        "route to host",
        f'connection to server at "{DIRECT}" (2a05:d014::1), port 5432 failed: Cannot '
        "assign requested address",
        f'connection to server at "{DIRECT}" (2a05:d014::1), port 5432 failed: timeout '
        "expired",
    ],
)
def test_direct_host_without_ipv6(
    work: Path, fail: Fail, monkeypatch: pytest.MonkeyPatch, said: str
) -> None:
    """Word for word what libpq says on Linux, macOS and Windows."""

    def connect(**_: Any) -> None:
        raise psycopg2.OperationalError(said + "\n")

    monkeypatch.setattr(er, "psycopg2", er.LazyModule("psycopg2"))
    monkeypatch.setattr(psycopg2, "connect", connect)
    message = fail(
        1, "export", "--env-file", env_file(work, DIRECT), "--schema-file", blank(work)
    )
    assert "cannot connect to postgres on db.abcdefghijklmnopqrst" in message
    assert NO_IPV4 in message


@pytest.mark.parametrize(
    "host, said, hint",
    [
        (POOLER, "timeout expired", "see whether your network lets port 6543 out"),
        (POOLER, "SSL error: certificate verify failed", "prod-ca-2021.crt"),
        (NEON, 'root certificate file "/root/.postgresql/root.crt" does not exist',
         "DB_SSLROOTCERT=/etc/ssl/certs/ca-certificates.crt"),
        (RDS, "timeout expired", "its security group to let this machine's address in"),
        (RDS, "SSL error: certificate verify failed", "DB_SSLROOTCERT=global-bundle"),
    ],
)  # fmt: skip
def test_what_libpq_says(host: str, said: str, hint: str) -> None:
    settings = er.Settings(host, 6543, "d", "me.ref", "x", "require", "", Path())
    text = f'connection to server at "{host}" (1.2.3.4), port 6543 failed: {said}'
    assert hint in er.connection_hint(settings, text)


def test_every_hint_can_be_told() -> None:
    for host, said, hint in er.HINTS:
        named = {*re.compile(host).groupindex, *re.compile(said).groupindex}
        asked = {field for _, field, _, _ in string.Formatter().parse(hint) if field}
        assert asked <= named | {"role", "project", "port", "file"}, hint


def refused(work: Path, fail: Fail, host: str, port: int = 5432, **more: str) -> str:
    env = env_file(work, host, port, **more)
    return fail(1, "export", "--env-file", env, "--schema-file", blank(work))


def test_unknown_host(work: Path, fail: Fail) -> None:
    message = refused(work, fail, "nowhere.invalid")
    assert "the host name nowhere.invalid is unknown" in message
    assert "hint: check DB_HOST and your network's DNS" in message


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "[::1]"])
def test_closed_port(work: Path, fail: Fail, host: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    message = refused(work, fail, host, port)
    shown = "127.0.0.1" if "." in host else "[::1]"
    assert (
        f"cannot connect to postgres on {shown}:{port}: Connection refused" in message
    )
    assert "hint: check DB_HOST and DB_PORT, and that the server is running" in message


@pytest.mark.parametrize("mode", ["prefer", "require", "disable"])
def test_a_web_server(work: Path, fail: Fail, mode: str) -> None:
    answer = b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n"
    web = Imitation(answer, tls=False)
    message = refused(work, fail, "127.0.0.1", web.port, DB_SSLMODE=mode)
    web.listener.close()
    assert "hint: is that a PostgreSQL server? check DB_HOST and DB_PORT" in message


# ---- TLS, on real servers


def test_server_without_tls(server18: Server, work: Path, fail: Fail) -> None:
    message = refused(work, fail, "127.0.0.1", server18.port, DB_SSLMODE="require")
    assert "server does not support SSL, but SSL was required" in message
    assert "in a network that you trust: DB_SSLMODE=disable" in message


def test_server_that_demands_tls(project: Project, work: Path, fail: Fail) -> None:
    blank(work)
    env = project.env_file(work, DB_SSLMODE="disable")
    message = fail(1, "export", "--env-file", env)
    assert "no encryption" in message
    assert "hint: the server wants TLS: DB_SSLMODE=require" in message


@pytest.mark.parametrize(
    "host, mode, root, said, hint",
    [
        ("127.0.0.1", "verify-full", "ca.crt", "does not match host name",
         "DB_HOST=localhost"),
        ("localhost", "verify-full", "other.crt", "certificate verify failed",
         "DB_SSLROOTCERT=/path/to/ca.crt"),
        ("localhost", "verify-ca", "absent.crt", "does not exist",
         "DB_SSLROOTCERT=/path/to/ca.crt"),
    ],
)  # fmt: skip
def test_certificates(
    project: Project,
    work: Path,
    fail: Fail,
    succeed: Succeed,
    host: str,
    mode: str,
    root: str,
    said: str,
    hint: str,
) -> None:
    blank(work)
    project.run("CREATE TABLE t (a int)")
    tls = project.server.data / "tls"
    trustme.CA().cert_pem.write_to_path(str(work / "other.crt"))
    authority = work / "ca.crt"
    authority.write_bytes((tls / "ca.crt").read_bytes())
    wrong = {"DB_HOST": host, "DB_SSLMODE": mode, "DB_SSLROOTCERT": str(work / root)}
    message = fail(1, "export", "--env-file", project.env_file(work, **wrong))
    assert said in message.splitlines()[0]
    assert hint in message.splitlines()[1]
    right = {"DB_HOST": "localhost", "DB_SSLMODE": "verify-full"}
    env = project.env_file(work, **right, DB_SSLROOTCERT=str(authority))
    succeed("export", "--env-file", env)


def test_wrong_password(project: Project, work: Path, fail: Fail) -> None:
    blank(work)
    message = fail(1, "export", "--env-file", project.env_file(work, DB_PASSWORD="x"))
    assert 'password authentication failed for user "postgres"' in message
    assert "hint: check DB_USER and DB_PASSWORD in " in message
    assert f"{project.name}.env\n" in message


def test_channel_binding(
    project: Project, server18: Server, work: Path, fail: Fail, succeed: Succeed
) -> None:
    """As Neon's URLs want it: nobody in between may end TLS, and read along."""
    blank(work)
    project.run("CREATE TABLE t (a int)")
    how = {"DB_HOST": "localhost", "DB_CHANNEL_BINDING": "require"}
    succeed("export", "--env-file", project.env_file(work, **how))
    how = {"DB_CHANNEL_BINDING": "require", "DB_SSLMODE": "disable"}
    message = refused(work, fail, "127.0.0.1", server18.port, **how)
    assert "channel binding required, but SSL not in use" in message
    assert f"and behind poolers: take it out of {work / 'some.env'}\n" in message


@pytest.mark.parametrize("where", ["?sslmode=no-verify", "\nDB_SSLMODE=no-verify"])
def test_sslmode_of_node(work: Path, fail: Fail, where: str) -> None:
    blank(work)
    url = f"DATABASE_URL=postgresql://u:p@localhost/d{where}\n"
    (work / "a.env").write_text(url)
    message = fail(1, "export", "--env-file", "a.env")
    assert 'invalid sslmode value: "no-verify"' in message
    assert "what node calls no-verify is require" in message


def test_too_many_connections(project: Project, work: Path, fail: Fail) -> None:
    blank(work)
    project.execute(f"ALTER DATABASE {project.name} CONNECTION LIMIT 0")
    message = fail(1, "export", "--env-file", project.env_file(work))
    assert "too many connections for database" in message
    assert "hint: close other connections, or try again later" in message


# ---- A server that lets us in and then says no


@both_versions
def test_role_that_is_no_owner(exported: Database, work: Path, fail: Fail) -> None:
    before = exported.state()
    exported.execute("CREATE ROLE guest LOGIN; GRANT ALL ON SCHEMA public TO guest")
    exported.execute("GRANT ALL ON ALL TABLES IN SCHEMA public TO guest")
    try:
        env = exported.env_file(work, DB_USER="guest")
        for options in ((), ("--data-only",)):
            message = fail(1, "restore", "--env-file", env, *options)
            assert "must be owner of" in message
            assert "hint: connect as the owner of the tables (DB_USER)" in message
    finally:
        exported.execute("DROP OWNED BY guest; DROP ROLE guest")
    assert exported.state() == before


@pytest.mark.parametrize(
    "statement, said, hint",
    [
        ("CREATE EXTENSION nowhere;", 'extension "nowhere" is not available',
         "install the extension on the server"),
        ("CREATE EXTENSION file_fdw;", "permission denied to create extension",
         "ask a superuser to create it, or switch it on in the provider's dashboard"),
        ("CREATE POLICY p ON t TO nobody USING (true);",
         'role "nobody" does not exist', "create it first: CREATE ROLE nobody"),
        ("CREATE TABLE u (a absent.kind);", 'schema "absent" does not exist',
         "CREATE SCHEMA absent comes first in schema.sql"),
        ("CREATE TABLE u (a vector);", 'type "vector" does not exist',
         "if an extension has it: CREATE EXTENSION comes first"),
    ],
)  # fmt: skip
def test_schema_that_wants_more(
    project: Project, work: Path, fail: Fail, statement: str, said: str, hint: str
) -> None:
    (work / "exports").mkdir()
    (work / "exports/schema.sql").write_text(f"CREATE TABLE t (a int);\n{statement}")
    (work / "exports/t.csv").write_text("a\n1\n")
    message = fail(1, "restore", "--env-file", project.env_file(work))
    assert f"schema.sql, line 2: {said}" in message
    assert hint in message.splitlines()[1]


@pytest.mark.parametrize("what", ["ROLE postgres IN DATABASE {}", "DATABASE {}"])
def test_read_only_by_default(
    exported: Database, work: Path, fail: Fail, what: str
) -> None:
    """Somebody wants nothing to change there, or the provider's disk is full."""
    target = what.format(exported.name)
    exported.execute(f"ALTER {target} SET default_transaction_read_only = on")
    message = fail(1, "restore", "--env-file", exported.env_file(work))
    assert "is set to read only" in message
    assert "SET default_transaction_read_only = off" in message


def test_standby(work: Path, succeed: Succeed, fail: Fail, run: Run) -> None:
    """It can be exported, jobs included, and verified, but not restored into."""
    server = Server(18)
    with (server.data / "postgresql.conf").open("a") as config:
        config.write("wal_level = replica\n")
    server.start()
    schema = "CREATE TABLE a (b int PRIMARY KEY, s varchar CHECK (s IN ('x', 'y')));"
    schema += "CREATE TABLE c (d int)"
    try:
        server.execute(schema)
        server.stop("fast")
        (server.data / "standby.signal").touch()
        server.start()
        (work / "schema.sql").write_text(schema)
        env = Database(server, "postgres").env_file(work)
        succeed("export", "--env-file", env, "--jobs", "2")
        succeed("verify", "--env-file", env)
        for options in ((), ("--data-only",), ("--dry-run",)):
            message = fail(1, "restore", "--env-file", env, *options)
            assert "the server is a standby, which only reads" in message
            assert "hint: set DB_HOST to the primary server" in message
        # It cannot be asked what a text means that it would print otherwise.
        forge_catalog(work / "exports", "(ARRAY['x'::character varying", "(ARRAY['x'")
        result = run("verify", "--env-file", env)
        assert result.status == 3
        assert "is not known: cannot set transaction read-write mode" in result.out
    finally:
        server.stop()
        shutil.rmtree(server.data)
