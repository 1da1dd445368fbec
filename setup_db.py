#!/usr/bin/env python3
"""Create the sample tables from schema.sql and fill them with believable data.

Every run gives a fresh baseline. What it did not make itself goes with --yes alone,
unless the server is the embedded one.
"""

from __future__ import annotations

import signal

if __name__ == "__main__" and signal.getsignal(2) is signal.default_int_handler:
    signal.signal(2, signal.SIG_DFL)  # Ctrl-C while nothing has begun needs no words

import argparse
import contextlib
import csv
import difflib
import io
import itertools
import os
import random
import re
import shlex
import shutil
import subprocess
import sys
import time
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import Any, NoReturn

from export_restore import (
    COLUMN_ORDER,
    EMBEDDED,
    EXIT_DONE,
    EXIT_STATUS,
    EXIT_USAGE,
    OUTPUT,
    REMARKS,
    STORAGE,
    VALUES,
    VERSION,
    WHOLE_RELATIONS,
    CatalogLine,
    Database,
    LockWatch,
    Options,
    OwnServer,
    Parser,
    Relation,
    Report,
    Settings,
    SnapshotError,
    Table,
    add_options,
    become_program,
    find_schema_file,
    names_of,
    reachable,
    read_script,
    read_settings,
    render_table,
    run_command,
    shown,
    usage_error,
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
SAYINGS = (
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

SAMPLE = {Relation("public", name) for name in ("agents", "leads", "feedback")}
# Rows of ours have addresses like nobody else's, and came in one transaction: who has
# changed a row since, or added one, did so in another.
ASK_WHETHER_OURS = """
    SELECT count(DISTINCT transaction) <= 1 AND every(ours) IS NOT FALSE FROM (
        SELECT xmin::text, email LIKE '%.' || id || '@example.com' FROM public.agents
        UNION ALL
        SELECT xmin::text, email LIKE '%.' || id || '@example.org' FROM public.leads
        UNION ALL SELECT xmin::text, NULL FROM public.feedback
    ) AS r (transaction, ours)
"""

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
    return rng.choice(SAYINGS if rng.random() < 0.3 else sentences)


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


def run_schema(db: Database) -> None:
    """Run schema.sql inside the open transaction."""
    file = find_schema_file(None)
    db.use_settings_of_source({})
    db.run_script(read_script(file).statements, str(file))


def check_expendable(db: Database) -> None:
    """Raise SnapshotError if schema.sql takes what this program did not make.

    What that is a run shows that is taken back. Then the tables are locked: nobody
    adds a row between a look at them and their end.
    """
    before, lines = db.fetch_catalog(), db.fetch_catalog_lines(managed=())
    storage = db.fetch_of_parts(STORAGE, before.tables)
    run_schema(db)
    kept = db.fetch_of_parts(STORAGE, before.tables)
    there = {line.text for line in db.fetch_catalog_lines(managed=())}
    db.rollback()
    db.begin_restore()
    lost = [line for line in lines if line.text not in there]
    going = [each for each in before.tables if kept.get(each.oid) != storage[each.oid]]
    db.lock_tables(going, "EXCLUSIVE")
    if losses := [*lost_tables(db, going, lost), *lost_objects(going, lost)]:
        raise SnapshotError(
            f"{db.settings} would lose more than the sample as setup_db.py makes it",
            lines=losses,
            hint="set DB_NAME to another database, or lose all that with --yes",
            code=EXIT_USAGE,
        )


def lost_tables(
    db: Database, going: Sequence[Table], lost: Iterable[CatalogLine]
) -> Iterator[str]:
    """Yield the tables that are not as a run of this program leaves them."""
    altered = {line.relation for line in lost}
    ours = names_of(going) - altered >= SAMPLE and db.fetch(ASK_WHETHER_OURS)[0][0]
    counts = db.fetch_row_counts(going)
    for table in going:
        rows = counts.get(table.oid)
        expendable = (rows and not rows.rows) or (ours and table.relation in SAMPLE)
        if table.relation in altered or not expendable:
            yield f"table {table.relation}: {rows or 'unknown'} rows"


def lost_objects(going: Iterable[Table], lost: Sequence[CatalogLine]) -> Iterator[str]:
    """Yield what else goes, by CASCADE above all: views, foreign keys, functions."""
    whole = {line.relation for line in lost if line.kind in WHOLE_RELATIONS}
    for line in lost:
        part = line.relation in whole and line.kind not in WHOLE_RELATIONS
        belongs = line.relation in names_of(going) or " owned by " in line.text
        if not (part or belongs or line.kind in (*REMARKS, COLUMN_ORDER)):
            yield shown(line.key)


# ---- Jobs — each reads like what it does ---------------------------------------------


def set_up(settings: Settings, options: SetupOptions, report: Report) -> None:
    """Run schema.sql and fill its tables, all in one transaction."""
    start = time.monotonic()
    watch = LockWatch(report.note)
    with reachable(settings) as server, Database(server, watch) as db:
        db.begin_restore()
        if not (options.yes or settings.host == EMBEDDED):
            check_expendable(db)
        run_schema(db)
        counts = fill(db, options, report)
        db.commit()
        db.analyze([[Relation("public", name) for name in counts]])
    report.record(database=settings, rows=counts)
    table = render_table(
        ("table", "rows"), [(name, f"{count:,}") for name, count in counts.items()]
    )
    seconds = time.monotonic() - start
    report.tell(f"{table}\n\nCreated in {settings} in {seconds:.1f} s.")


def fill(db: Database, options: SetupOptions, report: Report) -> dict[str, int]:
    """Make up the rows and load them; return each table's row count."""
    report.doing("making up people")
    fillings = plan_fillings(options)
    report.expect(sum(filling.count for filling in fillings))
    return {filling.table: load(db, filling, report) for filling in fillings}


def plan_fillings(options: SetupOptions) -> list[Filling]:
    """Return what goes into each table, referenced tables first."""
    rng = random.Random(options.seed)  # noqa: S311 - sample data, no secrets
    people, sentences = make_people(options.seed), make_sentences(options.seed)
    agents = make_agents(rng, people, options.agents)
    leads = make_leads(rng, people, sentences, options.leads, options.agents)
    asked: list[datetime] = []
    feedback = make_feedback(rng, sentences, options.feedback, asked)
    return [
        Filling("agents", AGENT_COLUMNS, agents, options.agents),
        Filling("leads", LEAD_COLUMNS, noting_time(leads, asked), options.leads),
        Filling("feedback", FEEDBACK_COLUMNS, feedback, options.feedback),
    ]


def noting_time(leads: Iterable[Row], asked: list[datetime]) -> Iterator[Row]:
    """Pass leads on, keeping when each was created for its feedback."""
    for lead in leads:
        asked.append(lead[LEAD_COLUMNS.index("created_at")])
        yield lead


def serve(settings: Settings) -> None:
    """Keep the embedded server running until Ctrl-C, and say how to reach it."""
    if settings.host != EMBEDDED:
        raise usage_error(
            f"--serve is for DB_HOST=embedded; {settings} runs on its own",
            "leave out --serve",
        )
    with reachable(settings) as server:
        with contextlib.suppress(KeyboardInterrupt):
            print(f"{settings} is running until you press Ctrl-C. Reach it with:")
            print(f"  {psql_line(settings, server)}")
            print(
                f"or from pgAdmin: host {server.host}, port {server.port}, "
                f"database {server.dbname}, user {server.user}, "
                + (f"password {server.password}" if server.password else "no password"),
                flush=True,
            )
            while True:
                time.sleep(3600)
        print("\nStopping the server.", file=sys.stderr)


def psql_line(settings: Settings, server: Settings) -> str:
    """Return the command that opens psql there: the one installed, else the wheel's."""
    folder = OwnServer.of(settings.data_folder).programs.folder
    psql = "psql" if shutil.which("psql") else str(folder / "psql")
    place = ("-h", server.host, "-p", str(server.port), "-U", server.user)
    joined = subprocess.list2cmdline if os.name == "nt" else shlex.join
    return joined([psql, *place, server.dbname])


# ---- Command line — the only section that exits --------------------------------------

PROGRAM = "python setup_db.py"
OPTIONS = f"""\
where:
  --env-file FILE  how to reach the database (default: .env)
what to make up:
  --agents ROWS  how many agents (default: 20)
  --leads ROWS  how many leads (default: 500)
  --feedback ROWS  how much feedback (default: 800)
  --seed NUMBER  the same number gives the same data (default: 1)
what is there now:
  --yes  replace it even if this program did not make it
instead:
  --serve  keep the embedded server running, for psql or pgAdmin
{OUTPUT}"""
EXAMPLES = """\
examples:
  Fill the database of .env:
    python setup_db.py
  Fill another one, with more rows and other people:
    python setup_db.py --env-file test.env --leads 50000 --seed 2
  Keep the embedded server up, and see how psql reaches it:
    python setup_db.py --serve
"""


@dataclass
class SetupOptions(Options):
    """What a command line asks for."""

    agents: int = 20
    leads: int = 500
    feedback: int = 800
    seed: int = 1
    serve: bool = False


class SetupParser(Parser):
    """A parser that knows these options when it asks what was meant."""

    def error(self, message: str) -> NoReturn:
        wrong = re.search(r"arguments: (--[\w-]+)", message)
        known = re.findall(r"--[a-z-]+", OPTIONS)
        near = difflib.get_close_matches(wrong[1], known, 1) if wrong else []
        meant = f"did you mean {near[0]}? " if near else ""
        raise usage_error(message, f"{meant}see {self.prog} --help")


def build_parser() -> Parser:
    """Return the parser; what nobody says it leaves to the defaults of SetupOptions."""
    parser = SetupParser(
        prog=PROGRAM,
        usage=f"{PROGRAM} [options]",
        description="Create the sample tables of schema.sql (agents, leads, feedback), "
        "and fill them.",
        epilog=EXAMPLES + re.sub(r"  3 .*\n", "", EXIT_STATUS),
        argument_default=argparse.SUPPRESS,
        add_help=False,
    )
    VALUES.update(ROWS={"type": row_count}, NUMBER={"type": int})
    add_options(parser, OPTIONS)
    version = f"setup_db {VERSION}"
    parser.add_argument("--version", action="version", version=version)
    parser.set_defaults(run=command_setup)
    return parser


def row_count(text: str) -> int:
    """Return the number of rows that an argument says."""
    if not re.fullmatch(r"[0-9]{1,9}", text):
        raise argparse.ArgumentTypeError(f"{text} is no number of rows")
    return int(text)


def command_setup(options: SetupOptions, report: Report) -> int:
    """Do what the command line asks for."""
    settings = read_settings(options.env_file)
    if options.serve:
        serve(settings)
    elif options.feedback and not options.leads:
        raise usage_error(
            "feedback needs leads to be about", "raise --leads, or set --feedback 0"
        )
    else:
        set_up(settings, options, report)
    return EXIT_DONE


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv` (default: sys.argv) and return the exit status."""
    report = Report("setup_db", unit=" rows")
    words = sys.argv[1:] if argv is None else argv
    report.options = SetupOptions(json="--json" in words)
    return run_command(report, build_parser(), argv)


if __name__ == "__main__":
    become_program()
    sys.exit(main())
