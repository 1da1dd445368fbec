#!/usr/bin/env python3
"""Create the sample tables from schema.sql and fill them with believable data.

Whatever the three tables held before is gone: every run gives a fresh baseline.
"""

from __future__ import annotations

import signal

if __name__ == "__main__" and signal.getsignal(2) is signal.default_int_handler:
    signal.signal(2, signal.SIG_DFL)  # Ctrl-C while nothing has begun needs no words

import argparse
import csv
import io
import itertools
import os
import random
import shlex
import shutil
import subprocess
import sys
import time
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from export_restore import (
    EMBEDDED,
    EXIT_DONE,
    EXIT_USAGE,
    Database,
    OwnServer,
    Relation,
    Report,
    Settings,
    SnapshotError,
    become_program,
    find_schema_file,
    is_local,
    reachable,
    read_script,
    read_settings,
    render_table,
    run_command,
)

# ---- Constants — no code ------------------------------------------------------------

BATCH_ROWS = 5_000
POOL = 420  # Faker is slow: it makes this many people, and rows draw from them
NULL = r"\N"  # csv.writer writes None and '' alike, so NULL needs a mark of its own

LOCALES = ("en_US", "de_DE", "fr_FR", "pl_PL", "es_ES", "ja_JP", "el_GR")
NEWEST = datetime(2026, 6, 30, 18, 0, tzinfo=timezone.utc)  # fixed: --seed must repeat
REGIONS = ("North", "South", "East", "West", "Île-de-France", "São Paulo", "関東")
OPEN_STATUSES = ("new", "contacted", "qualified", "proposal")
CLOSED_STATUSES = ("won", "lost")
REMARKS = (
    'Asked for the "enterprise" plan, again.',
    "Call back on Monday,\nnot before 10:00.",
    "Prefers e-mail; phone number is a fax, really.",
    "Budget: 5,000 – 10,000 €",
    r"Their files are under C:\sales\2026",
    "Très intéressée 👍",
    "",
)

AGENT_COLUMNS = (
    "full_name", "email", "phone", "region", "commission_rate", "active", "hired_on",
    "created_at",
)  # fmt: skip
LEAD_COLUMNS = (
    "agent_id", "full_name", "company", "email", "phone", "status", "estimated_value",
    "notes", "created_at", "closed_at",
)  # fmt: skip
FEEDBACK_COLUMNS = ("lead_id", "rating", "comment", "created_at")

Row = tuple[Any, ...]

# ---- Sample data — pure: random numbers in, rows out ---------------------------------


@dataclass(frozen=True, slots=True)
class Person:
    """Someone whose name, firm and phone number fit one country."""

    first: str
    last: str
    company: str
    phone: str


@dataclass(frozen=True, slots=True)
class Filling:
    """What goes into one table."""

    table: str
    columns: Sequence[str]
    rows: Iterable[Row]
    count: int


def make_people(seed: int) -> list[Person]:
    """Let Faker make up people from several countries."""
    from faker import Faker

    fake = Faker(list(LOCALES))
    fake.seed_instance(seed)
    return [
        Person(here.first_name(), here.last_name(), here.company(), here.phone_number())
        for locale in LOCALES
        for here in [fake[locale]]
        for _ in range(POOL // len(LOCALES))
    ]


def make_sentences(seed: int) -> list[str]:
    """Let Faker make up what a note may say."""
    from faker import Faker

    fake = Faker("en_US")
    fake.seed_instance(seed)
    return [f"{fake.catch_phrase()}, {fake.bs()}." for _ in range(POOL)]


def make_agents(
    rng: random.Random, people: Sequence[Person], count: int
) -> Iterator[Row]:
    """Yield agents, the eldest first."""
    for number, hired in enumerate(moments(rng, count, between=(8, 2)), 1):
        person = rng.choice(people)
        yield (
            f"{person.first} {person.last}",
            address(person, number, "example.com"),
            maybe(rng, 0.9, person.phone),
            rng.choice(REGIONS),
            f"{rng.randint(200, 1200) / 10_000:.4f}",
            rng.random() < 0.9,
            hired.date(),
            hired,
        )


def make_leads(
    rng: random.Random,
    people: Sequence[Person],
    sentences: Sequence[str],
    count: int,
    agents: int,
) -> Iterator[Row]:
    """Yield leads, the oldest first; only a new one may be without an agent."""
    for number, created in enumerate(moments(rng, count, between=(2, 0)), 1):
        person = rng.choice(people)
        closed = closing_time(rng, created)
        status = rng.choice(CLOSED_STATUSES if closed else OPEN_STATUSES)
        free = agents == 0 or (status == "new" and rng.random() < 0.5)
        yield (
            None if free else rng.randint(1, agents),
            f"{person.first} {person.last}",
            maybe(rng, 0.8, person.company),
            address(person, number, "example.org"),
            maybe(rng, 0.8, person.phone) or "",
            status,
            maybe(rng, 0.9, f"{rng.lognormvariate(8.5, 1):.2f}"),
            maybe(rng, 0.7, remark(rng, sentences)),
            created,
            closed,
        )


def make_feedback(
    rng: random.Random, sentences: Sequence[str], count: int, asked: Sequence[datetime]
) -> Iterator[Row]:
    """Yield feedback on the leads that were created at the moments `asked`."""
    for _ in range(count):
        lead = rng.randrange(len(asked))
        yield (
            lead + 1,
            rng.choices((1, 2, 3, 4, 5), (1, 1, 3, 6, 5))[0],
            maybe(rng, 0.75, remark(rng, sentences)),
            asked[lead] + (NEWEST - asked[lead]) * rng.random(),
        )


def moments(
    rng: random.Random, count: int, *, between: tuple[int, int]
) -> list[datetime]:
    """Return sorted moments between so many years ago and so many, to the second."""
    farthest, nearest = (years * 365 * 86_400 for years in between)
    ages = sorted((rng.randint(nearest, farthest) for _ in range(count)), reverse=True)
    return [NEWEST - timedelta(seconds=age) for age in ages]


def closing_time(rng: random.Random, created: datetime) -> datetime | None:
    """Return when a lead was won or lost; None while it is open."""
    closed = created + timedelta(days=rng.expovariate(1 / 60))
    return closed if closed < NEWEST and rng.random() < 0.6 else None


def remark(rng: random.Random, sentences: Sequence[str]) -> str:
    """Return what a salesperson would note down, awkward characters among it."""
    return rng.choice(REMARKS if rng.random() < 0.3 else sentences)


def maybe(rng: random.Random, share: float, value: str) -> str | None:
    """Return the value in that share of cases, else None."""
    return value if rng.random() < share else None


def address(person: Person, number: int, domain: str) -> str:
    """Return an e-mail address that nobody else has."""
    name = unicodedata.normalize("NFKD", f"{person.first}.{person.last}")
    plain = name.encode("ascii", "ignore").decode().lower()
    word = "".join(c for c in plain if c.isalnum() or c == ".").strip(".")
    return f"{word or 'contact'}.{number}@{domain}"


# ---- Loading — the connection alone --------------------------------------------------


def load(db: Database, filling: Filling, report: Report) -> int:
    """Load rows with COPY, a batch at a time; return how many."""
    table = Relation("public", filling.table)
    iterator = iter(filling.rows)
    loaded = 0
    with report.progress(filling.table, filling.count) as advance:
        while batch := list(itertools.islice(iterator, BATCH_ROWS)):
            stream = io.BytesIO(render_csv(filling.columns, batch).encode())
            loaded += db.copy_in(table, filling.columns, stream, null=NULL)
            advance(len(batch))
    return loaded


def render_csv(columns: Sequence[str], rows: Iterable[Row]) -> str:
    """Return rows as CSV with a header line and NULL told apart from ''."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([NULL if v is None else v for v in row] for row in rows)
    return text.getvalue()


def check_expendable(db: Database, settings: Settings) -> None:
    """Raise SnapshotError if rows on another machine would be thrown away."""
    tables = (
        "SELECT to_regclass('agents'), to_regclass('leads'), to_regclass('feedback')"
    )
    there = [name for name in db.fetch(tables)[0] if name]
    filled = [name for name in there if db.fetch(f"SELECT FROM {name} LIMIT 1")]
    if filled:
        raise SnapshotError(
            f"{settings} has rows in {', '.join(filled)}, which would be replaced",
            hint="add --yes if that is what you want",
            code=EXIT_USAGE,
        )


# ---- Jobs — each reads like what it does ---------------------------------------------


def set_up(settings: Settings, arguments: argparse.Namespace, report: Report) -> None:
    """Replay schema.sql and fill its tables, all in one transaction."""
    script_file = find_schema_file(None)
    script = read_script(script_file)
    start = time.monotonic()
    with reachable(settings) as server, Database(server) as db:
        if not (is_local(settings) or arguments.yes):
            check_expendable(db, settings)
        db.begin_restore()
        db.use_settings_of_source({})
        db.run_script(script.statements, str(script_file))
        counts = fill(db, arguments, report)
        db.commit()
    rows = [(name, f"{count:,}") for name, count in counts]
    summary = f"Created in {settings} in {time.monotonic() - start:.1f} s."
    report.tell(f"{render_table(('table', 'rows'), rows)}\n\n{summary}")


def fill(
    db: Database, arguments: argparse.Namespace, report: Report
) -> list[tuple[str, int]]:
    """Make up the rows and load them; return each table's name and row count."""
    report.doing("making up people")
    fillings = plan_fillings(arguments)
    report.expect(sum(filling.count for filling in fillings))
    return [(filling.table, load(db, filling, report)) for filling in fillings]


def plan_fillings(arguments: argparse.Namespace) -> list[Filling]:
    """Return what goes into each table, referenced tables first."""
    rng = random.Random(arguments.seed)  # noqa: S311 - sample data, no secrets
    people = make_people(arguments.seed)
    sentences = make_sentences(arguments.seed)
    n_agents, n_leads, n_feedback = (
        arguments.agents,
        arguments.leads,
        arguments.feedback,
    )
    agents = make_agents(rng, people, n_agents)
    leads = make_leads(rng, people, sentences, n_leads, n_agents)
    asked: list[datetime] = []
    feedback = make_feedback(rng, sentences, n_feedback, asked)
    return [
        Filling("agents", AGENT_COLUMNS, agents, n_agents),
        Filling("leads", LEAD_COLUMNS, noting_time(leads, asked), n_leads),
        Filling("feedback", FEEDBACK_COLUMNS, feedback, n_feedback),
    ]


def noting_time(leads: Iterable[Row], asked: list[datetime]) -> Iterator[Row]:
    """Pass leads on, keeping when each was created for its feedback."""
    for lead in leads:
        asked.append(lead[LEAD_COLUMNS.index("created_at")])
        yield lead


def serve(settings: Settings) -> None:
    """Keep the embedded server running until Ctrl-C, and say how to reach it."""
    if settings.host != EMBEDDED:
        raise SnapshotError(
            f"--serve is for DB_HOST=embedded; {settings} runs on its own",
            hint="leave out --serve",
            code=EXIT_USAGE,
        )
    with reachable(settings) as server:
        print(f"{settings} is running until you press Ctrl-C. Reach it with:")
        print(f"  {psql_line(settings, server)}")
        print(
            f"or from pgAdmin: host {server.host}, port {server.port}, "
            f"database {server.dbname}, user {server.user}, "
            + (f"password {server.password}" if server.password else "no password"),
            flush=True,
        )
        wait_for_interrupt()


def psql_line(settings: Settings, server: Settings) -> str:
    """Return the command that opens psql there: the one installed, else the wheel's."""
    folder = OwnServer.of(settings.data_folder).programs.folder
    psql = "psql" if shutil.which("psql") else str(folder / "psql")
    place = ("-h", server.host, "-p", str(server.port), "-U", server.user)
    joined = subprocess.list2cmdline if os.name == "nt" else shlex.join
    return joined([psql, *place, server.dbname])


def wait_for_interrupt() -> None:
    """Sleep until Ctrl-C."""
    try:
        while True:
            time.sleep(3600)
    except KeyboardInterrupt:
        print("\nStopping the server.", file=sys.stderr)


# ---- Command line — the only room that exits -----------------------------------------


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        prog="setup_db",
        description="Create the sample tables agents, leads and feedback from "
        "schema.sql, and fill them. Rows they had before are gone.",
    )
    add = parser.add_argument
    add("--env-file", type=Path, default=Path(".env"), metavar="FILE",
        help="how to reach the database (default: %(default)s)")  # fmt: skip
    for name, default in (("agents", 20), ("leads", 500), ("feedback", 800)):
        add(f"--{name}", type=row_count, default=default, metavar="N",
            help=f"how many {name} to make up (default: %(default)s)")  # fmt: skip
    add("--seed", type=int, default=1, metavar="N",
        help="the same number gives the same data (default: %(default)s)")  # fmt: skip
    add("--yes", action="store_true",
        help="replace rows even if the database is on another machine")  # fmt: skip
    add("--serve", action="store_true",
        help="keep the embedded server running, for psql or pgAdmin")  # fmt: skip
    add("-q", "--quiet", action="store_true", help="show no progress")
    parser.set_defaults(run=command_setup)
    return parser


def row_count(text: str) -> int:
    """Return a number of rows; argparse tells the user if it is none."""
    count = int(text)
    if count < 0:
        raise ValueError(text)
    return count


def command_setup(arguments: argparse.Namespace, report: Report) -> int:
    """Do what the command line asks for."""
    settings = read_settings(arguments.env_file)
    if arguments.serve:
        serve(settings)
        return EXIT_DONE
    if arguments.feedback and not arguments.leads:
        raise SnapshotError(
            "feedback needs leads to be about",
            hint="raise --leads, or set --feedback 0",
            code=EXIT_USAGE,
        )
    set_up(settings, arguments, report)
    return EXIT_DONE


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv` (default: sys.argv) and return the exit status."""
    report = Report("setup_db", unit=" rows")
    return run_command(report, build_parser(), argv)


if __name__ == "__main__":
    become_program()
    sys.exit(main())
