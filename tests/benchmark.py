"""How fast? Ratios to pg_dump, pg_restore and psql, measured in one run on one server.

    python tests/benchmark.py            some ten minutes; alone on the machine
    python tests/benchmark.py --quick    a tenth of the rows: two minutes
    python tests/benchmark.py --docs     and puts the figures into README and docs

It starts a PostgreSQL 18 with the settings that initdb gives it, and leaves nothing
behind. A first round warms up, and is where memory is measured, which takes time of its
own. The commands of a round run one after the other, so that whatever else the machine
does meets all of them; the ratios are medians of each round's.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from time import monotonic

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import servers  # noqa: E402

import export_restore as er  # noqa: E402

PROGRAM = [sys.executable, str(ROOT / "export_restore.py")]
README, PAGE = ROOT / "README.md", ROOT / "docs/speed.md"
TABLES = {"agents": 20_000, "leads": 1_000_000, "feedback": 2_000_000}
SMALL_TABLES = 500
SCALES = (0.1, 1.0, 10.0)

FILL = """
INSERT INTO agents (full_name, email, phone, region, commission_rate, hired_on)
SELECT 'Agent Number ' || i, 'agent' || i || '@example.org',
       '+1 555 ' || lpad((i * 7919 % 10000000)::text, 7, '0'),
       (ARRAY['north', 'south', 'east', 'west'])[1 + i % 4], (i % 900) / 10000.0,
       date '2015-01-01' + i % 3000
FROM generate_series(1, {agents}) AS i;
INSERT INTO leads (agent_id, full_name, company, email, status, estimated_value, notes)
SELECT 1 + i % {agents}, 'Lead Number ' || i,
       nullif('Company ' || i % 5000, 'Company 0'), 'lead' || i || '@example.com',
       (enum_range(NULL::lead_status))[1 + i % 4], (i * 37 % 10000000) / 100.0,
       CASE i % 3 WHEN 0 THEN 'Wants a quote, "soon".' WHEN 1 THEN '' END
FROM generate_series(1, {leads}) AS i;
INSERT INTO feedback (lead_id, rating, comment)
SELECT 1 + i % {leads}, 1 + i % 5,
       CASE WHEN i % 2 = 0 THEN 'The demo took ' || i % 90 || ' minutes, as agreed.' END
FROM generate_series(1, {feedback}) AS i;
VACUUM ANALYZE
"""
ONE_TABLE = "CREATE TABLE one (id int PRIMARY KEY, name text NOT NULL, price numeric)"
FILL_ONE = """
INSERT INTO one SELECT i, 'Lead Number ' || i || ', as agreed', i % 90000 / 100.0
FROM generate_series(1, {rows}) AS i;
VACUUM ANALYZE
"""


# ---- the server and its databases ----------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Place:
    """A server, and a folder for everything else."""

    server: servers.Server
    folder: Path

    def sql(self, text: str, dbname: str = "postgres") -> None:
        """Run statements, of which VACUUM has to be on its own."""
        for part in re.split(r";\n(?=VACUUM|CREATE DATABASE)", text):
            self.server.execute(part, dbname)

    def fresh(self, dbname: str) -> None:
        """Make an empty database of that name."""
        drop = f"DROP DATABASE IF EXISTS {dbname} WITH (FORCE)"
        self.sql(f"{drop};\nCREATE DATABASE {dbname}")
        where = f"DB_HOST={self.server.host}\nDB_PORT={self.server.port}\n"
        text = f"{where}DB_NAME={dbname}\nDB_USER=postgres\n"
        (self.folder / f"{dbname}.env").write_text(text)

    def build(self, dbname: str, schema: str, fill: str) -> None:
        """Make a database by a schema script, which is then its own, and fill it."""
        self.fresh(dbname)
        (self.folder / f"{dbname}.sql").write_text(schema)
        self.sql(schema, dbname)
        self.sql(fill, dbname)

    def build_sample(self, dbname: str, scale: float) -> None:
        sizes = {table: max(1, int(rows * scale)) for table, rows in TABLES.items()}
        schema = (ROOT / "schema.sql").read_text(encoding="utf-8")
        self.build(dbname, schema, FILL.format(**sizes))

    def build_small(self, dbname: str) -> None:
        """Make a database of many tables with few rows."""
        schema = "".join(
            f"DROP TABLE IF EXISTS small_{n} CASCADE;\n"
            f"CREATE TABLE small_{n} (id serial PRIMARY KEY, name text NOT NULL,"
            f" other int REFERENCES small_{max(n - 1, 0)});\n"
            f"CREATE INDEX ON small_{n} (other);\n"
            for n in range(SMALL_TABLES)
        )
        rows = "".join(
            f"INSERT INTO small_{n} (name, other)"
            " SELECT 'name ' || i, i FROM generate_series(1, 20) AS i;"
            for n in range(SMALL_TABLES)
        )
        self.build(dbname, schema, f"{rows}\nVACUUM ANALYZE")

    # What is measured.

    def client(self, program: str, dbname: str, *options: str) -> list[str]:
        where = [f"-h{self.server.host}", f"-p{self.server.port}", "-Upostgres"]
        return [str(self.server.bin / program), *where, f"-d{dbname}", *options]

    def export(self, name: str, dbname: str, target: str, *options: str) -> Job:
        script = f"--schema-file={dbname}.sql"
        where = [f"--env-file={dbname}.env", f"--dir={target}", "-q", script]
        return Job(name, [[*PROGRAM, "export", *where, *options]], self.gone(target))

    def restore(self, name: str, snapshot: str, dbname: str) -> Job:
        where = [f"--env-file={dbname}.env", f"--dir={snapshot}", "-q"]
        command = [*PROGRAM, "restore", *where]
        return Job(name, [command], lambda: self.fresh(dbname))

    def dump(self, name: str, dbname: str, target: str, *options: str) -> Job:
        command = self.client("pg_dump", dbname, f"-f{target}", "-Fd", *options)
        return Job(name, [command], self.gone(target))

    def pg_restore(self, name: str, dump: str, dbname: str) -> Job:
        command = self.client("pg_restore", dbname, "-1", dump)
        return Job(name, [command], lambda: self.fresh(dbname))

    def copy_out(self, dbname: str) -> Job:
        """Return what one would write by hand to have files like ours."""
        copies = [
            f"-c\\copy (SELECT * FROM {table} ORDER BY id) TO '{table}.csv'"
            " (FORMAT csv, HEADER)"
            for table in TABLES
        ]
        commands = [self.client("psql", dbname, "-q", *copies)]
        commands.append(["sha256sum", *(f"{table}.csv" for table in TABLES)])
        return Job("psql: COPY in order, sha256sum", commands)

    def copy_in(self, snapshot: str, dbname: str) -> Job:
        """Return how CSVs are loaded by hand: with all constraints in place."""
        loads = [
            f"-c\\copy {table} FROM '{snapshot}/{table}.csv' (FORMAT csv, HEADER)"
            for table in TABLES
        ]
        script = ["-q", "-1", "-f", "sample.sql", *loads]
        command = self.client("psql", dbname, *script)
        return Job(
            "CSVs, all constraints in place", [command], lambda: self.fresh(dbname)
        )

    def until_ready(self, job: Job) -> Job:
        """Return a restore whose rows are then vacuumed and analyzed."""
        [command] = job.commands
        dbname = next(
            each.partition("=")[2].removesuffix(".env") if "=" in each else each[2:]
            for each in command
            if each.startswith(("--env-file", "-d"))
        )
        vacuum = self.client("vacuumdb", dbname, "-q", "--analyze")
        return dataclasses.replace(
            job, name=f"{job.name}, until ready", commands=[command, vacuum], seconds=[]
        )

    def gone(self, name: str) -> Callable[[], object]:
        return lambda: shutil.rmtree(self.folder / name, ignore_errors=True)


@contextlib.contextmanager
def started() -> Iterator[Place]:
    server = servers.Server(18, "")
    server.start()
    try:
        with tempfile.TemporaryDirectory(prefix="bench-") as folder:
            yield Place(server, Path(folder))
    finally:
        server.stop()
        shutil.rmtree(server.data)


# ---- one run -------------------------------------------------------------------------


@dataclasses.dataclass
class Job:
    """Commands to measure; `prepare` runs before each time, unmeasured."""

    name: str
    commands: Sequence[Sequence[str]]
    prepare: Callable[[], object] = lambda: None
    seconds: list[float] = dataclasses.field(default_factory=list)
    peak: int = 0  # kB, of all its processes together

    def run(self, folder: Path, *, watched: bool = False) -> float:
        """Run it once; return the seconds. If `watched`, see what memory it takes."""
        tell(self.name)
        self.prepare()
        start = monotonic()
        for command in self.commands:
            with subprocess.Popen(
                command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
            ) as process:
                watch = PeakMemory(process.pid) if watched else None
                _, err = process.communicate()
                self.peak = max(self.peak, watch.stop() if watch else 0)
            if process.returncode:
                raise SystemExit(f"{self.name}: {command}\n{err.decode()}")
        return monotonic() - start

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)


class PeakMemory:
    """Looks at a process and its children every 20 ms.

    What processes share is counted once: the kernel tells each one's proportional part.
    """

    def __init__(self, pid: int) -> None:
        self._peak = 0
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, args=(pid,))
        self._thread.start()

    def _watch(self, pid: int) -> None:
        while not self._done.wait(0.02):
            self._peak = max(self._peak, sum(map(memory_of, family(pid))))

    def stop(self) -> int:
        """Return the kilobytes that they took at most, added up."""
        self._done.set()
        self._thread.join()
        return self._peak


def memory_of(pid: int) -> int:
    """Return a process's part of the memory, in kilobytes; 0: it is gone."""
    with contextlib.suppress(OSError, IndexError):
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
        return int(text.split("Pss:")[1].split()[0])
    return 0


def family(pid: int) -> list[int]:
    """Return a process and its descendants; Linux alone can tell."""
    found = [pid]
    for each in found:
        with contextlib.suppress(OSError):
            for path in Path(f"/proc/{each}/task").glob("*/children"):
                found += map(int, path.read_text().split())
    return found


def jobs_of(place: Place) -> list[Job]:
    """Return everything that a round measures, in an order in which it can run."""
    restore = place.restore("restore", "e1", "r_ours")
    pg_restore = place.pg_restore("pg_restore -1", "d1", "r_theirs")
    return [
        place.export("export --jobs 1", "sample", "e1", "--jobs=1"),
        place.export("export", "sample", "e2"),
        place.export("export --gzip", "sample", "g2", "--gzip"),
        place.copy_out("sample"),
        place.dump("pg_dump -Fd -Z0", "sample", "d1", "-Z0"),
        place.dump("pg_dump -Fd -Z0 -j2", "sample", "d2", "-Z0", "-j2"),
        place.dump("pg_dump -Fd", "sample", "dz1"),
        place.dump("pg_dump -Fd -j2", "sample", "dz2", "-j2"),
        Job(
            "verify", [[*PROGRAM, "verify", "-q", "--env-file=sample.env", "--dir=e1"]]
        ),
        restore,
        place.until_ready(restore),
        place.until_ready(pg_restore),
        place.copy_in("e1", "r_csv"),
        place.export("one table: export --jobs 1", "one", "o1", "--jobs=1"),
        place.export("one table: export --jobs 2", "one", "o2", "--jobs=2"),
        place.export("500 small: export", "small", "s1"),
        place.dump("500 small: pg_dump -Fd -Z0", "small", "sd", "-Z0"),
        place.restore("500 small: restore", "s1", "s_ours"),
        place.pg_restore("500 small: pg_restore -1", "sd", "s_theirs"),
        Job("--help", [[*PROGRAM, "--help"]]),
    ]


# What is compared, what must be reached, and what we aim at.
RATIOS = (
    ("export --jobs 1", "psql: COPY in order, sha256sum", 0.76, 0.65),
    ("export", "psql: COPY in order, sha256sum", 0.55, 0.45),
    ("export", "pg_dump -Fd", 0.75, 0.6),
    ("export", "pg_dump -Fd -Z0 -j2", None, None),
    ("export --gzip", "pg_dump -Fd -j2", 0.95, 0.75),
    ("one table: export --jobs 2", "one table: export --jobs 1", 0.85, 0.7),
    ("restore, until ready", "pg_restore -1, until ready", 1.03, 0.95),
    ("restore", "CSVs, all constraints in place", 0.35, 0.3),
    ("verify", "export --jobs 1", 1.0, 0.8),
    ("500 small: export", "500 small: pg_dump -Fd -Z0", 2.8, 2.0),
    ("500 small: restore", "500 small: pg_restore -1", 1.25, 1.0),
)


IN_README = (
    "export ÷ pg_dump -Fd -Z0 -j2",
    "export ÷ pg_dump -Fd",
    "restore, until ready ÷ pg_restore -1, until ready",
    "verify ÷ export --jobs 1",
)


def measure(place: Place, rounds: int, scale: float) -> dict[str, Job]:
    """Build the databases, and run every job that many times, in turn."""
    tell("building the databases")
    place.build_sample("sample", scale)
    place.build("one", ONE_TABLE, FILL_ONE.format(rows=int(3_000_000 * scale)))
    place.build_small("small")
    jobs = jobs_of(place)
    for job in jobs:
        job.run(place.folder, watched=True)
    for number in range(1, rounds + 1):
        tell(f"round {number} of {rounds}")
        for job in jobs:
            job.seconds.append(job.run(place.folder))
    return {job.name: job for job in jobs}


def measure_growth(place: Place, scale: float) -> list[tuple[int, list[Job]]]:
    """Return exports and a restore of more and more rows, each run once."""
    found = []
    for times in SCALES:
        tell(f"building {times:g} times the rows")
        place.build_sample("grown", times * scale)
        jobs = [
            place.export("export --jobs 1", "grown", "grown1", "--jobs=1"),
            place.export("export", "grown", "grown2"),
            place.restore("restore", "grown1", "grown_too"),
        ]
        for job in jobs:
            job.seconds.append(job.run(place.folder, watched=True))
        found.append((int(sum(TABLES.values()) * times * scale), jobs))
        place.fresh("grown_too")
    return found


# ---- the report ----------------------------------------------------------------------


def tell(text: str) -> None:
    print(f"  {text}", file=sys.stderr)


def ratio(jobs: dict[str, Job], ours: str, theirs: str) -> float:
    """Return the median of the rounds' ratios."""
    pairs = zip(jobs[ours].seconds, jobs[theirs].seconds, strict=True)
    return statistics.median(mine / other for mine, other in pairs)


def markdown(headings: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    lines = [headings, ["---"] * len(headings), *rows]
    return "".join(f"| {' | '.join(map(str, each))} |\n" for each in lines)


def render_ratios(jobs: dict[str, Job], chosen: Collection[str] = ()) -> str:
    """Return a table of ratios: all, or those of the programs of ours chosen."""
    rows = [
        (f"`{ours}`", f"`{theirs}`", f"{ratio(jobs, ours, theirs):.2f}")
        for ours, theirs, *_ in RATIOS
        if not chosen or f"{ours} ÷ {theirs}" in chosen
    ]
    return markdown(("this program", "compared with", "time"), rows)


def render_bounds(jobs: dict[str, Job]) -> str:
    """Return what was to be reached, and what was."""
    rows = [
        (
            f"{ours} ÷ {theirs}",
            f"{ratio(jobs, ours, theirs):.2f}",
            f"{must:.2f}",
            f"{aim:.2f}",
        )
        for ours, theirs, must, aim in RATIOS
        if must
    ]
    return er.render_table(("ratio", "median", "must", "aim"), rows)


def render(jobs: dict[str, Job], growth: list[tuple[int, list[Job]]]) -> str:
    """Return the tables of ratios, of seconds and of growth."""
    seconds = [
        (f"`{name}`", f"{job.median:.2f}", f"{min(job.seconds):.2f}",
         f"{max(job.seconds):.2f}", round(job.peak / 1000))
        for name, job in jobs.items()
    ]  # fmt: skip
    grown = [
        (f"{rows:,}",
         *(f"{job.seconds[0]:.1f} s" for job in each),
         f"{max(job.peak for job in each) / 1000:.0f} MB")
        for rows, each in growth
    ]  # fmt: skip
    commands = [f"`{job.name}`" for job in growth[0][1]] if growth else []
    parts = [
        render_ratios(jobs),
        markdown(("rows", *commands, "most memory"), grown) if growth else "",
        markdown(("command", "median s", "least", "most", "peak MB"), seconds),
    ]
    return "\n".join(filter(None, parts))


def fill_in(page: Path, text: str) -> None:
    """Put figures where a page has its marks for them."""
    marked = re.compile("(?<=<!-- figures -->\n).*(?=<!-- end -->)", re.DOTALL)
    old = page.read_text(encoding="utf-8")
    page.write_text(marked.sub(lambda _: text, old), encoding="utf-8")


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--quick", action="store_true", help="a tenth of the rows")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--no-growth", action="store_true", help="one size alone")
    parser.add_argument("--docs", action="store_true", help="fill in README, docs")
    arguments = parser.parse_args(argv)
    scale = 0.1 if arguments.quick else 1.0
    with started() as place:
        jobs = measure(place, arguments.rounds, scale)
        growth = [] if arguments.no_growth else measure_growth(place, scale)
    text = render(jobs, growth)
    print(f"{os.cpu_count()} cores, {arguments.rounds} rounds\n\n{text}")
    print(render_bounds(jobs))
    if arguments.docs:
        fill_in(PAGE, text)
        fill_in(README, render_ratios(jobs, IN_README))
    return 0


if __name__ == "__main__":
    sys.exit(main())
