"""How fast? Ratios to pg_dump, pg_restore and psql, measured in one run on one server.

    python tests/benchmark.py            3 million rows and 500 small tables, 5 rounds
    python tests/benchmark.py --scale 0.1 --rounds 3

It starts a private PostgreSQL 18 with the settings that initdb gives it, and leaves
nothing behind. A first round warms up and measures memory, which takes time of its own.
The commands of a round run one after the other, so that whatever else the machine does
meets all of them; the ratios are medians of each round's.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import export_restore as er  # noqa: E402

PROGRAM = [sys.executable, str(ROOT / "export_restore.py")]
AGENTS, LEADS, FEEDBACK = 20_000, 1_000_000, 2_000_000
SMALL_TABLES = 500

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
"""


# ---- the server ----------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Server:
    settings: er.Settings
    bin: Path

    def sql(self, text: str, dbname: str = "postgres") -> None:
        settings = dataclasses.replace(self.settings, dbname=dbname)
        with er.Database(settings) as db:
            db.execute(text)

    def fresh(self, dbname: str) -> None:
        """Make an empty database of that name."""
        self.sql(f"DROP DATABASE IF EXISTS {dbname} WITH (FORCE)")
        self.sql(f"CREATE DATABASE {dbname}")

    def env_file(self, folder: Path, dbname: str) -> str:
        path = folder / f"{dbname}.env"
        place = f"DB_HOST={self.settings.host}\nDB_PORT={self.settings.port}\n"
        path.write_text(f"{place}DB_NAME={dbname}\nDB_USER=postgres\n")
        return str(path)

    def client(self, program: str, dbname: str, *options: str) -> list[str]:
        place = [f"-h{self.settings.host}", f"-p{self.settings.port}", "-Upostgres"]
        return [str(self.bin / program), *place, f"-d{dbname}", *options]


@contextlib.contextmanager
def started_server() -> Iterator[Server]:
    with er.private_server(18) as settings:
        assert settings.programs
        yield Server(settings, settings.programs.folder)


def build_sample(server: Server, dbname: str, scale: float) -> None:
    """Make the sample database with that part of its rows."""
    server.fresh(dbname)
    server.sql((ROOT / "schema.sql").read_text(encoding="utf-8"), dbname)
    sizes = {
        "agents": max(1, int(AGENTS * scale)),
        "leads": max(1, int(LEADS * scale)),
        "feedback": max(1, int(FEEDBACK * scale)),
    }
    server.sql(FILL.format(**sizes), dbname)
    server.sql("VACUUM ANALYZE", dbname)


def small_schema() -> str:
    return "".join(
        f"DROP TABLE IF EXISTS small_{n} CASCADE;\n"
        f"CREATE TABLE small_{n} (id serial PRIMARY KEY, name text NOT NULL,"
        f" other int REFERENCES small_{max(n - 1, 0)});\n"
        f"CREATE INDEX ON small_{n} (other);\n"
        for n in range(SMALL_TABLES)
    )


def build_small(server: Server, dbname: str) -> None:
    """Make a database of many tables with few rows."""
    server.fresh(dbname)
    server.sql(small_schema(), dbname)
    server.sql(
        "".join(
            f"INSERT INTO small_{n} (name, other)"
            f" SELECT 'name ' || i, i FROM generate_series(1, 20) AS i;"
            for n in range(SMALL_TABLES)
        ),
        dbname,
    )
    server.sql("VACUUM ANALYZE", dbname)


# ---- one run -------------------------------------------------------------------------


@dataclasses.dataclass
class Job:
    """A command to measure; `prepare` runs before each time, unmeasured."""

    name: str
    commands: Sequence[Sequence[str]]
    prepare: Callable[[], object] = lambda: None
    seconds: list[float] = dataclasses.field(default_factory=list)
    peak: int = 0  # kB, of all its processes together

    def run(self, folder: Path, *, watched: bool = False) -> None:
        """Run it once, for its time or for its memory."""
        self.prepare()
        start = time.monotonic()
        for command in self.commands:
            with subprocess.Popen(
                command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
            ) as process:
                watch = PeakMemory(process.pid) if watched else None
                _, err = process.communicate()
                self.peak = max(self.peak, watch.stop() if watch else 0)
            if process.returncode:
                raise SystemExit(f"{self.name}: {command}\n{err.decode()}")
        if not watched:
            self.seconds.append(time.monotonic() - start)


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


# ---- what is measured ----------------------------------------------------------------


def emptied(folder: Path) -> Callable[[], object]:
    return lambda: shutil.rmtree(folder, ignore_errors=True)


def export_jobs(server: Server, folder: Path, db: str) -> list[Job]:
    """Return the exports, ours and theirs."""
    env = server.env_file(folder, db)
    shutil.copy(ROOT / "schema.sql", folder)

    def ours(name: str, target: str, *options: str) -> Job:
        out = ["--dir", target, "-q", *options]
        command = [*PROGRAM, "export", "--env-file", env, *out]
        return Job(name, [command], emptied(folder / target))

    def dump(name: str, target: str, *options: str) -> Job:
        command = server.client("pg_dump", db, f"-f{folder / target}", *options)
        return Job(name, [command], emptied(folder / target))

    copies = [
        f"\\copy {table} TO '{folder / table}.csv' (FORMAT csv, HEADER)"
        for table in ("agents", "leads", "feedback")
    ]
    return [
        ours("export, 1 job", "e1", "--jobs", "1"),
        Job("verify", [[*PROGRAM, "verify", "-q", "--env-file", env, "--dir", "e1"]]),
        ours("export, 2 jobs", "e2", "--jobs", "2"),
        ours("export --gzip, 1 job", "g1", "--jobs", "1", "--gzip"),
        ours("export --gzip, 2 jobs", "g2", "--jobs", "2", "--gzip"),
        dump("pg_dump -Fd -Z0 -j1", "d1", "-Fd", "-Z0", "-j1"),
        dump("pg_dump -Fd -Z0 -j2", "d2", "-Fd", "-Z0", "-j2"),
        dump("pg_dump -Fd", "dz1", "-Fd"),
        dump("pg_dump -Fd -j2", "dz2", "-Fd", "-j2"),
        Job("pg_dump", [server.client("pg_dump", db, f"-f{folder / 'plain.sql'}")]),
        Job("psql \\copy", [server.client("psql", db, "-q", *by_command(copies))]),
    ]


def by_command(lines: Sequence[str]) -> list[str]:
    return [part for line in lines for part in ("-c", line)]


def restore_jobs(server: Server, folder: Path) -> list[Job]:
    """Return the restores, ours and theirs, each into an empty database."""

    def made(db: str) -> Callable[[], object]:
        return lambda: server.fresh(db)

    def pg_restore(name: str, db: str, *options: str) -> Job:
        dump = str(folder / "d1")
        return Job(name, [server.client("pg_restore", db, *options, dump)], made(db))

    env = server.env_file(folder, "r_ours")
    loads = [
        f"\\copy {table} FROM '{folder / 'e1' / table}.csv' (FORMAT csv, HEADER)"
        for table in ("agents", "leads", "feedback")
    ]
    plain = ["-q", "-1", "-f", str(ROOT / "schema.sql"), *by_command(loads)]
    restore = [*PROGRAM, "restore", "-q", "--env-file", env, "--dir", "e1"]
    return [
        Job("restore", [restore], made("r_ours")),
        pg_restore("pg_restore --single-transaction", "r_one", "-1"),
        pg_restore("pg_restore -j1", "r_j1", "-j1"),
        pg_restore("pg_restore -j2", "r_j2", "-j2"),
        Job(
            "CSVs with all constraints",
            [server.client("psql", "r_csv", *plain)],
            made("r_csv"),
        ),
    ]


def small_jobs(server: Server, folder: Path) -> list[Job]:
    """Return the same for many small tables."""
    (folder / "small.sql").write_text(small_schema())
    env = server.env_file(folder, "small")
    target = server.env_file(folder, "s_ours")
    to = ["--dir", "s1", "-q"]
    return [
        Job(
            "small: export",
            [
                [
                    *PROGRAM,
                    "export",
                    "--env-file",
                    env,
                    "--schema-file",
                    "small.sql",
                    *to,
                ]
            ],
            emptied(folder / "s1"),
        ),
        Job(
            "small: pg_dump -Fd -Z0",
            [server.client("pg_dump", "small", f"-f{folder / 'sd'}", "-Fd", "-Z0")],
            emptied(folder / "sd"),
        ),
        Job(
            "small: restore",
            [[*PROGRAM, "restore", "--env-file", target, *to]],
            lambda: server.fresh("s_ours"),
        ),
        Job(
            "small: pg_restore --single-transaction",
            [server.client("pg_restore", "s_theirs", "-1", str(folder / "sd"))],
            lambda: server.fresh("s_theirs"),
        ),
    ]


# What must be reached, and what we aim at.
RATIOS = (
    ("export, 1 job", "pg_dump -Fd -Z0 -j1", 1.25, 1.0),
    ("export, 2 jobs", "pg_dump -Fd -Z0 -j2", 1.2, 1.0),
    ("export, 2 jobs", "pg_dump -Fd", 0.4, 0.3),
    ("export --gzip, 2 jobs", "pg_dump -Fd -j2", 1.0, 0.7),
    ("restore", "pg_restore --single-transaction", 1.1, 0.9),
    ("restore", "CSVs with all constraints", 0.25, 0.2),
    ("verify", "export, 1 job", 1.0, 0.8),
    ("small: export", "small: pg_dump -Fd -Z0", 1.3, 0.8),
    ("small: restore", "small: pg_restore --single-transaction", 1.3, 0.8),
)


def measure(rounds: int, scale: float, folder: Path) -> list[Job]:
    """Build the databases, and run every job that many times, in turn."""
    with started_server() as server:
        tell(f"building the sample database ({scale:g} of 3,020,000 rows)")
        build_sample(server, "sample", scale)
        build_small(server, "small")
        jobs = [
            *export_jobs(server, folder, "sample"),
            *restore_jobs(server, folder),
            *small_jobs(server, folder),
            Job("--help", [[*PROGRAM, "--help"]]),
        ]
        for number in range(rounds + 1):
            for job in jobs:
                tell(f"round {number} of {rounds}: {job.name}")
                job.run(folder, watched=number == 0)
        return jobs


def measure_growth(folder: Path) -> list[tuple[float, float, float, int]]:
    """Return scale, seconds of export and of restore, and the greater peak in kB."""
    found = []
    for scale in (0.1, 1.0, 10.0):
        with started_server() as server:
            tell(f"growth: {scale:g}")
            build_sample(server, "sample", scale)
            export = export_jobs(server, folder, "sample")[0]
            restore = restore_jobs(server, folder)[0]
            for watched in (False, True):
                export.run(folder, watched=watched)
                restore.run(folder, watched=watched)
            peak = max(export.peak, restore.peak)
            found.append((scale, export.seconds[0], restore.seconds[0], peak))
    return found


# ---- the report ----------------------------------------------------------------------


def tell(text: str) -> None:
    print(text, file=sys.stderr)


def ratio(jobs: dict[str, Job], ours: str, theirs: str) -> tuple[float, float]:
    """Return the median of the rounds' ratios, and their spread."""
    each = [
        mine / other
        for mine, other in zip(jobs[ours].seconds, jobs[theirs].seconds, strict=True)
    ]
    return statistics.median(each), max(each) - min(each)


def render(jobs: Sequence[Job]) -> str:
    """Return the tables of seconds and of ratios."""
    known = {job.name: job for job in jobs}
    seconds = [
        (
            job.name,
            f"{statistics.median(job.seconds):.2f}",
            f"{min(job.seconds):.2f}",
            f"{max(job.seconds):.2f}",
            f"{job.peak / 1000:.0f}",
        )
        for job in jobs
    ]
    ratios = [
        (
            f"{ours} ÷ {theirs}",
            f"{ratio(known, ours, theirs)[0]:.2f}",
            f"{ratio(known, ours, theirs)[1]:.2f}",
            f"{must:.2f}",
            f"{aim:.2f}",
        )
        for ours, theirs, must, aim in RATIOS
    ]
    return "\n\n".join(
        (
            er.render_table(("command", "seconds", "min", "max", "peak MB"), seconds),
            er.render_table(("ratio", "median", "spread", "must", "aim"), ratios),
        )
    )


def render_svg(jobs: Sequence[Job]) -> str:
    """Return the ratios as bars; the line is where we would be as fast."""
    known = {job.name: job for job in jobs}
    bars = []
    values = [ratio(known, ours, theirs)[0] for ours, theirs, *_ in RATIOS]
    unit = 570 / max(values)
    for place, (ours, theirs, *_) in enumerate(RATIOS):
        value = values[place]
        y = 28 + place * 34
        bars.append(
            f'<text x="10" y="{y}">{ours} ÷ {theirs}</text>'
            f'<rect x="10" y="{y + 5}" width="{value * unit:.0f}" height="9" rx="2"/>'
            f'<text x="{18 + value * unit:.0f}" y="{y + 14}">{value:.2f}</text>'
        )
    height = 40 + len(RATIOS) * 34
    one = round(10 + unit)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="640" height="{height}" '
        'font-family="sans-serif" font-size="12" fill="#336791">'
        f'<rect width="100%" height="100%" fill="white"/>{"".join(bars)}'
        f'<line x1="{one}" y1="10" x2="{one}" y2="{height - 10}" stroke="#999" '
        'stroke-dasharray="3"/></svg>\n'
    )


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--scale", type=float, default=1.0, help="part of the rows")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--svg", type=Path, metavar="FILE")
    parser.add_argument("--growth", action="store_true", help="0.1, 1 and 10 times")
    arguments = parser.parse_args(argv)
    folder = Path(tempfile.mkdtemp(prefix="bench-"))
    try:
        if arguments.growth:
            rows = [
                (f"{scale:g}", f"{out:.2f}", f"{back:.2f}", f"{peak / 1000:.0f}")
                for scale, out, back, peak in measure_growth(folder)
            ]
            headings = ("scale", "export s", "restore s", "peak MB")
            print(er.render_table(headings, rows))
            return 0
        jobs = measure(arguments.rounds, arguments.scale, folder)
        print(f"{os.cpu_count()} cores, {arguments.rounds} rounds\n\n{render(jobs)}")
        if arguments.json:
            figures = [dataclasses.asdict(job) for job in jobs]
            for figure in figures:
                del figure["prepare"], figure["commands"]
            arguments.json.write_text(json.dumps(figures, indent=1) + "\n")
        if arguments.svg:
            arguments.svg.write_text(render_svg(jobs), encoding="utf-8")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
