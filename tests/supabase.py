"""A server that is set up as Supabase sets one up, with poolers in front of it.

After the public sources (github.com/supabase/postgres, migrations/db) as far as plain
PostgreSQL goes: the roles, the schemas and who owns them, the default privileges, the
timeouts, the event triggers, the publication, TLS demanded.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg2
import pytest
import trustme
from commands import Place
from servers import HOME, Server

import export_restore as er

PROJECT = "abcdefghijklmnopqrst"
PASSWORD = "a b%40 #1"
_numbers = itertools.count(1)

# Nobody gets in without TLS; the administrator comes by the socket.
HBA = """
local all supabase_admin trust
local all all reject
hostssl all all 127.0.0.1/32 scram-sha-256
"""

TAKE_THE_PLACE_OF_THE_FIRST_SUPERUSER = "CREATE ROLE helper SUPERUSER LOGIN"
RENAME = "ALTER ROLE postgres RENAME TO supabase_admin"

ROLES = f"""
    DROP ROLE helper;
    CREATE ROLE postgres LOGIN CREATEDB CREATEROLE REPLICATION BYPASSRLS;
    ALTER ROLE postgres PASSWORD '{PASSWORD}'; CREATE ROLE anon NOLOGIN NOINHERIT;
    CREATE ROLE authenticated NOLOGIN NOINHERIT;
    CREATE ROLE service_role NOLOGIN NOINHERIT BYPASSRLS;
    CREATE ROLE authenticator LOGIN NOINHERIT;
    GRANT anon, authenticated, service_role TO authenticator;
    GRANT anon, authenticated, service_role TO postgres WITH ADMIN OPTION;
    CREATE ROLE supabase_auth_admin LOGIN NOINHERIT CREATEROLE;
    CREATE ROLE supabase_storage_admin LOGIN NOINHERIT CREATEROLE;
    CREATE ROLE dashboard_user CREATEDB CREATEROLE REPLICATION;
    GRANT pg_monitor, pg_read_all_data, pg_signal_backend TO postgres;
    ALTER ROLE anon SET statement_timeout = '3s';
    ALTER ROLE authenticated SET statement_timeout = '8s';
    ALTER ROLE authenticator SET statement_timeout = '8s';
    ALTER ROLE postgres SET statement_timeout = '2min';
    ALTER ROLE postgres SET search_path TO "$user", public, extensions;
    ALTER ROLE supabase_auth_admin SET search_path TO auth;
    CREATE DATABASE project OWNER postgres;
"""

PROJECT_DATABASE = """
    CREATE SCHEMA extensions; CREATE EXTENSION pgcrypto SCHEMA extensions;
    CREATE EXTENSION pg_stat_statements SCHEMA extensions;
    GRANT USAGE ON SCHEMA extensions TO postgres, anon, authenticated, service_role;

    GRANT USAGE ON SCHEMA public TO postgres, anon, authenticated, service_role;
    ALTER DEFAULT PRIVILEGES FOR ROLE postgres IN SCHEMA public
        GRANT ALL ON TABLES TO postgres, anon, authenticated, service_role;
    ALTER DEFAULT PRIVILEGES FOR ROLE postgres IN SCHEMA public
        GRANT ALL ON FUNCTIONS TO postgres, anon, authenticated, service_role;
    ALTER DEFAULT PRIVILEGES FOR ROLE postgres IN SCHEMA public
        GRANT ALL ON SEQUENCES TO postgres, anon, authenticated, service_role;
    ALTER DEFAULT PRIVILEGES FOR ROLE supabase_admin IN SCHEMA public
        GRANT ALL ON TABLES TO postgres, anon, authenticated, service_role;

    CREATE SCHEMA auth AUTHORIZATION supabase_admin;
    CREATE TABLE auth.users (id uuid PRIMARY KEY, email varchar(255) UNIQUE,
                             raw_user_meta_data jsonb);
    CREATE TABLE auth.schema_migrations (version varchar(255) PRIMARY KEY);
    CREATE FUNCTION auth.uid() RETURNS uuid LANGUAGE sql STABLE
        RETURN nullif(current_setting('request.jwt.claim.sub', true), '')::uuid;
    ALTER TABLE auth.users OWNER TO supabase_auth_admin;
    ALTER TABLE auth.schema_migrations OWNER TO supabase_auth_admin;
    ALTER FUNCTION auth.uid() OWNER TO supabase_auth_admin;
    ALTER TABLE auth.users ENABLE ROW LEVEL SECURITY;
    GRANT USAGE ON SCHEMA auth
        TO postgres, anon, authenticated, service_role, supabase_auth_admin;
    GRANT ALL ON auth.users TO postgres;
    GRANT SELECT ON auth.schema_migrations TO postgres;
    GRANT USAGE ON SCHEMA public TO supabase_auth_admin;
    INSERT INTO auth.schema_migrations VALUES ('20171026211738');
    INSERT INTO auth.users VALUES
        ('00000000-0000-0000-0000-000000000001', 'ada@example.org', '{"name": "Ada"}'),
        ('00000000-0000-0000-0000-000000000002', 'bob@example.org', '{"name": "Bob"}');

    CREATE SCHEMA storage AUTHORIZATION supabase_admin;
    CREATE TABLE storage.buckets (id text PRIMARY KEY, public boolean);
    CREATE TABLE storage.objects (id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
                                  bucket_id text REFERENCES storage.buckets,
                                  name text, owner uuid);
    ALTER TABLE storage.buckets ENABLE ROW LEVEL SECURITY;
    ALTER TABLE storage.objects ENABLE ROW LEVEL SECURITY;
    ALTER TABLE storage.buckets OWNER TO supabase_storage_admin;
    ALTER TABLE storage.objects OWNER TO supabase_storage_admin;
    GRANT USAGE ON SCHEMA storage
        TO postgres, anon, authenticated, service_role, supabase_storage_admin;
    GRANT ALL ON storage.buckets, storage.objects
        TO postgres, anon, authenticated, service_role;
    INSERT INTO storage.buckets VALUES ('avatars', true);
    INSERT INTO storage.objects (bucket_id, name) VALUES ('avatars', 'ada.png');

    CREATE SCHEMA realtime AUTHORIZATION supabase_admin;
    CREATE TABLE realtime.messages (id bigserial PRIMARY KEY, topic text);
    CREATE SCHEMA vault AUTHORIZATION supabase_admin;
    CREATE TABLE vault.secrets (id uuid PRIMARY KEY, secret text);
    INSERT INTO vault.secrets VALUES (gen_random_uuid(), 'nobody sees this');
    CREATE SCHEMA graphql AUTHORIZATION supabase_admin;
    CREATE FUNCTION graphql.resolve(query text) RETURNS jsonb LANGUAGE sql
        RETURN jsonb_build_object('data', query);
    CREATE SCHEMA supabase_migrations AUTHORIZATION postgres;
    CREATE TABLE supabase_migrations.schema_migrations (version text PRIMARY KEY);
    ALTER TABLE supabase_migrations.schema_migrations OWNER TO postgres;

    CREATE PUBLICATION supabase_realtime;
    ALTER PUBLICATION supabase_realtime OWNER TO postgres;

    CREATE FUNCTION extensions.pgrst_ddl_watch() RETURNS event_trigger
        LANGUAGE plpgsql AS $$
        BEGIN
            IF EXISTS (SELECT FROM pg_event_trigger_ddl_commands() AS c
                       WHERE c.command_tag LIKE 'CREATE %') THEN
                NOTIFY pgrst, 'reload schema';
            END IF;
        END $$;
    CREATE EVENT TRIGGER pgrst_ddl_watch ON ddl_command_end
        EXECUTE FUNCTION extensions.pgrst_ddl_watch();
    CREATE FUNCTION extensions.pgrst_drop_watch() RETURNS event_trigger
        LANGUAGE plpgsql AS $$ BEGIN NOTIFY pgrst, 'reload schema'; END $$;
    CREATE EVENT TRIGGER pgrst_drop_watch ON sql_drop
        EXECUTE FUNCTION extensions.pgrst_drop_watch();
    CREATE FUNCTION extensions.grant_pg_cron_access() RETURNS event_trigger
        LANGUAGE plpgsql AS $$
        BEGIN
            IF (SELECT bool_or(n.nspname = 'cron')
                FROM pg_event_trigger_ddl_commands() AS c
                LEFT JOIN pg_catalog.pg_namespace AS n ON c.objid = n.oid) THEN
                GRANT USAGE ON SCHEMA cron TO postgres WITH GRANT OPTION;
            END IF;
        END $$;
    CREATE EVENT TRIGGER issue_pg_cron_access ON ddl_command_end
        WHEN TAG IN ('CREATE SCHEMA')
        EXECUTE FUNCTION extensions.grant_pg_cron_access();
"""


class SupabaseServer(Server):
    """PostgreSQL 17 with Supabase's roles; each database is a project of its own."""

    user = "supabase_admin"

    def __init__(self) -> None:
        super().__init__(17)
        self.certificate_folder = self.data / "tls"
        self.authority = make_certificates(self.certificate_folder)
        give(self.certificate_folder, self.system_user)
        (self.data / "pg_hba.conf").write_text("local all all trust\n")
        with (self.data / "postgresql.conf").open("a") as config:
            config.write(
                "ssl = on\n"
                f"ssl_cert_file = '{self.certificate_folder}/server.crt'\n"
                f"ssl_key_file = '{self.certificate_folder}/server.key'\n"
                "shared_preload_libraries = 'pg_stat_statements'\n"
            )

    def set_up(self) -> None:
        """Make the roles and the database that every project is copied from."""
        for user, query in (
            ("postgres", TAKE_THE_PLACE_OF_THE_FIRST_SUPERUSER),
            ("helper", RENAME),
        ):
            with contextlib.closing(self.connect_as(user)) as db, db.cursor() as cursor:
                cursor.execute(query)
        for statement in ROLES.split(";\n")[:-1]:
            self.execute(statement)
        self.execute(PROJECT_DATABASE, "project")
        (self.data / "pg_hba.conf").write_text(HBA)
        self.pg_ctl("reload")

    def connect_as(self, user: str) -> Any:
        db = psycopg2.connect(
            host=self.host, port=self.port, user=user, dbname="postgres"
        )
        db.autocommit = True
        return db

    @contextlib.contextmanager
    def project(self) -> Iterator[Project]:
        """Give a new project, dropped at the end."""
        name = f"project_{os.getpid()}_{next(_numbers)}"
        self.execute(f"CREATE DATABASE {name} TEMPLATE project OWNER postgres")
        try:
            yield Project(self, name)
        finally:
            self.execute(f"DROP DATABASE {name} WITH (FORCE)")


@dataclasses.dataclass(frozen=True)
class Project(Place):
    """A database of the server; `execute` and `fetch` act as the administrator."""

    def env_file(self, folder: Path, **changes: str | None) -> Path:
        """Write an env file that leads to the server itself, as its user postgres."""
        direct = {
            "DB_HOST": "127.0.0.1",
            "DB_USER": "postgres",
            "DB_PASSWORD": f'"{PASSWORD}"',
            "DB_SSLMODE": "require",
        }
        return super().env_file(folder, **{**direct, **changes})

    def pooled(self, pooler: Pooler) -> Project:
        """Return the same by way of a pooler."""
        way = {"DB_PORT": str(pooler.port), "DB_USER": f"postgres.{PROJECT}"}
        return dataclasses.replace(self, changes=(*self.changes, *way.items()))

    def run(self, script: str) -> None:
        """Run statements as the project's own user, under its search_path."""
        with contextlib.closing(self.connect()) as db, db.cursor() as cursor:
            cursor.execute(
                "SET SESSION AUTHORIZATION postgres;"
                'SET search_path TO "$user", public, extensions'
            )
            cursor.execute(script)

    def privileges(self) -> list[str]:
        """Return who owns what and may do what, everywhere."""
        words = ("ALTER DEFAULT PRIVILEGES", "GRANT ", "REVOKE ")
        lines = self.pg_dump().splitlines()
        return sorted(x for x in lines if x.startswith(words) or " OWNER TO " in x)

    def managed(self) -> tuple[str, dict[str, list[str]]]:
        """Return the schemas that Supabase manages, to the last grant and row."""
        schemas = ("auth", "storage", "realtime", "vault", "graphql", "extensions")
        rows = self.rows().items()
        found = {name: each for name, each in rows if name.split(".")[0] in schemas}
        dump = self.pg_dump(*(f"--schema={schema}" for schema in schemas))
        lines = dump.splitlines()
        return "\n".join(line for line in lines if line[:1] != "\\"), found


def make_certificates(folder: Path) -> trustme.CA:
    """Write a certificate for localhost and what it was signed with."""
    folder.mkdir()
    authority = trustme.CA()
    certificate = authority.issue_cert("localhost")
    authority.cert_pem.write_to_path(str(folder / "ca.crt"))
    certificate.cert_chain_pems[0].write_to_path(str(folder / "server.crt"))
    certificate.private_key_pem.write_to_path(str(folder / "server.key"))
    (folder / "server.key").chmod(0o600)
    return authority


def give(folder: Path, user: int | None) -> None:
    """Make a folder and its files another user's, if there is one to be."""
    if user is not None:
        er.give(folder, user)


def pgbouncer_program() -> str:
    """Return the path of PgBouncer; skip the test where there is none, fail in CI."""
    path = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin")
    if path is None:
        reason = "PgBouncer is not installed (apt install pgbouncer)"
        (pytest.fail if os.environ.get("CI") else pytest.skip)(reason)
    return str(path)


class Pooler:
    """A PgBouncer before a server, with TLS demanded on both sides."""

    def __init__(self, server: SupabaseServer, mode: str, size: int = 20) -> None:
        self.program = pgbouncer_program()
        self.folder = Path(tempfile.mkdtemp(prefix="erpool-", dir=HOME))
        for _ in range(5):  # another process may take the port meanwhile
            self.port = free_port()
            self.configure(server, mode, size)
            self.process = self.start(server.system_user)
            if self.listens():
                return
        raise AssertionError((self.folder / "log").read_text())

    def configure(self, server: SupabaseServer, mode: str, size: int) -> None:
        tls = server.certificate_folder
        (self.folder / "users").write_text(
            "".join(
                f'"{user}" "{PASSWORD}"\n'
                for user in ("postgres", f"postgres.{PROJECT}")
            )
        )
        (self.folder / "pgbouncer.ini").write_text(
            "[databases]\n"
            f"* = host=127.0.0.1 port={server.port} "
            f"user=postgres password='{PASSWORD}'\n"
            "[pgbouncer]\n"
            f"listen_addr = 127.0.0.1\nlisten_port = {self.port}\nunix_socket_dir =\n"
            f"auth_type = scram-sha-256\nauth_file = {self.folder}/users\n"
            f"pool_mode = {mode}\ndefault_pool_size = {size}\nmax_client_conn = 50\n"
            "client_tls_sslmode = require\nserver_tls_sslmode = require\n"
            f"client_tls_cert_file = {tls}/server.crt\n"
            f"client_tls_key_file = {tls}/server.key\n"
            f"logfile = {self.folder}/log\n"
        )
        give(self.folder, server.system_user)

    def start(self, user: int | None) -> subprocess.Popen[bytes]:
        """Start it as a user that it does not refuse: root it does."""
        return subprocess.Popen(
            [self.program, "-q", str(self.folder / "pgbouncer.ini")],
            user=user,
            stderr=subprocess.DEVNULL,
        )

    def listens(self) -> bool:
        """Wait until it listens, or is gone."""
        while self.process.poll() is None:
            time.sleep(0.02)
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", self.port)).close()
                return self.process.poll() is None
        return False

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()
        shutil.rmtree(self.folder)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
        return port
