"""The report: what people see on a terminal, and programs in a pipe."""

from __future__ import annotations

import codecs
import json
import os
import pty
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pexpect
import pyte
import pytest
from cases import rewrite
from conftest import ROOT, Result, run_process
from servers import Database, Server

import export_restore as er

Run = Callable[..., Result]
Succeed = Callable[..., str]
Fail = Callable[..., str]


@pytest.fixture
def server(server18: Server) -> Server:
    """One version is enough: this is about what is said."""
    return server18


@pytest.fixture
def at_step(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Let something happen at a step of a command, before it begins."""

    def hook(label: str, happen: Callable[[], object]) -> None:
        step = er.Report.step

        def step_and_more(report: er.Report, name: str) -> None:
            step(report, name)
            if name == label:
                happen()

        monkeypatch.setattr(er.Report, "step", step_and_more)

    return hook


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a tenth of a second count as long."""
    monkeypatch.setattr(er, "LINE_EVERY", 0.1)
    monkeypatch.setattr(er, "TICK", 0.02)


# ---- on a terminal


class Screen:
    """A terminal with Python in it."""

    def __init__(self, *argv: object, columns: int = 80, rows: int = 40) -> None:
        self._screen = pyte.Screen(columns, rows)
        self._stream = pyte.Stream(self._screen)
        self._decode = codecs.getincrementaldecoder("utf-8")().decode
        self.process = pexpect.spawn(
            sys.executable, list(map(str, argv)), dimensions=(rows, columns), timeout=30
        )
        self.seen = ""

    def read(self) -> bool:
        """Take what the command wrote; tell whether there may be more."""
        try:
            text = self._decode(self.process.read_nonblocking(1 << 16, timeout=10))
        except pexpect.EOF:
            return False
        self.seen += text
        self._stream.feed(text)
        return True

    def until(self, pattern: str) -> None:
        """Wait until the last line is such."""
        while not re.search(pattern, (self.lines() or [""])[-1]):
            assert self.read(), self.lines()

    def end(self) -> int:
        """Wait for the end; return the exit status."""
        while self.read():
            pass
        self.process.wait()
        return int(self.process.exitstatus or 0)

    def lines(self) -> list[str]:
        return [line.rstrip() for line in self._screen.display if line.strip()]


def at_shell(folder: Path, line: str, **size: int) -> Screen:
    """Start a line of the shell, with ER for the program, in a folder."""
    line = line.replace("ER", f"{sys.executable} {PROGRAM}")
    code = "import os, sys; os.chdir(sys.argv[1]); os.execl('/bin/sh', *sys.argv[2:])"
    return Screen("-c", code, folder, "sh", "-c", line, **size)


PROGRAM = ROOT / "export_restore.py"
BAR = r"^\|█+[^|]*\| \d+ % of all [\d.]+B, .* left  a_v\w*…\w*xxx$"
LONG = "a_very_long_name_of_a_table_" + "x" * 30
SLOW = """
    CREATE OR REPLACE FUNCTION slow(int) RETURNS int LANGUAGE plpgsql IMMUTABLE
        AS 'BEGIN PERFORM pg_sleep(0.1); RETURN $1; END'
"""
BLUEPRINT = f"""
    DROP TABLE IF EXISTS a_first, "{LONG}";
    {SLOW};
    CREATE TABLE a_first (id int PRIMARY KEY);
    CREATE TABLE "{LONG}" (id int PRIMARY KEY CHECK (public.slow(id) > 0));
"""


@pytest.fixture
def slow(source: Database, work: Path, succeed: Succeed) -> Path:
    """A snapshot whose rows take a second to load; returns the env file."""
    (work / "schema.sql").write_text(BLUEPRINT)
    source.execute(BLUEPRINT.replace("pg_sleep(0.1)", "1"))
    source.execute("INSERT INTO a_first VALUES (7)")
    source.execute(f'INSERT INTO "{LONG}" SELECT generate_series(1, 14)')
    source.execute(SLOW)
    succeed("export", "--env-file", source.env_file(work))
    return source.env_file(work)


def test_a_bar_for_the_job_and_a_line_for_each_table(slow: Path) -> None:
    screen = Screen(PROGRAM, "restore", "--env-file", slow)
    screen.until(BAR)
    assert screen.end() == 0
    lines = screen.lines()
    assert lines[0].startswith("restoring exports into ")
    heading, first, second, total, end = lines[-5:]
    assert re.fullmatch(r" +rows +size +seconds  table", heading)
    assert re.fullmatch(r" +1 +5 B +\d\.\d\d  a_first", first)
    assert re.fullmatch(rf" +14 +36 B +\d\.\d\d  {LONG[:23]}…x{{23}}", second)
    assert re.fullmatch(r" +15 +41 B +\d\.\d\d  total", total)
    assert end.startswith("Restored into ")
    assert "█" not in "".join(lines)


def test_the_total_is_the_time_of_the_whole_command(
    seeded: Database, work: Path, run: Run, at_step: Callable[..., None]
) -> None:
    """Not the sum of the tables: jobs work at once, and keys take their time, too."""
    at_step("writing the catalog", lambda: time.sleep(0.2))
    argv = ("export", "--env-file", seeded.env_file(work))
    assert json.loads(run(*argv, "--json").out)["total"]["seconds"] > 0.2
    total = re.search(r" (\d+\.\d\d)  total$", run(*argv).out, re.MULTILINE)
    assert total is not None
    assert float(total.group(1)) > 0.2


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_the_bar_is_gone_when_somebody_ends_it(slow: Path, how: int) -> None:
    screen = Screen(PROGRAM, "restore", "--env-file", slow)
    screen.until(BAR)
    screen.process.kill(how)
    assert screen.end() in (130, 143)
    *_, table, said, last = screen.lines()
    assert table.endswith("  a_first")
    assert said in ("export_restore: interrupted", "export_restore: terminated")
    assert last.endswith(" is as it was")


def test_the_bar_is_gone_before_an_error(work: Path, slow: Path) -> None:
    with (work / "exports" / f"{LONG}.csv").open("a") as file:
        file.write("nonsense,\n")
    screen = Screen(PROGRAM, "restore", "--env-file", slow, "--accept-edits")
    assert screen.end() == 3
    assert "█" in screen.seen
    done = r" \d+ B +[\d.]+  a_first"
    error = rf"export_restore: error: {LONG}\.csv, line 16: .*hint: .*"
    assert re.search(done + error, "".join(screen.lines()))


REPORT = f"""
import sys, time
sys.path.insert(0, {str(ROOT)!r})
import export_restore as er
report = er.Report()
with report.working():
    report.doing("\\x1b[2J" + "é" * 90 + "of 2026", moving=True)
    report.expect(3_400_000_000)
    report.advance(1_200_000_000)
    time.sleep(0.3)
    print("tqdm" in sys.modules)
    time.sleep(0.7)
    report.note("something")
    time.sleep(0.5)
    report.doing("building keys")
    time.sleep(0.5)
    report.tell("the result")
    time.sleep(0.5)
"""


@pytest.mark.parametrize("columns, name", [(80, r"\?\[2Jé+…é*of 2026"), (40, "")])
def test_what_a_terminal_shows(columns: int, name: str) -> None:
    """Nothing at first, notes above the bar, never more than a line, no trace of it."""
    screen = Screen("-c", REPORT, columns=columns)
    screen.until("^False$")
    screen.until(r"^\|███▌ +\| 35 % of all" + (name and rf" 3\.40GB, .* left  {name}$"))
    while "something" not in screen.seen:
        assert screen.read()
    screen.until(r"^\|███▌ +\| 35 %")
    assert screen.lines()[:-1] == ["False", "something"]
    screen.until(r"^\|███▌ +\| 00:0\d  build")
    assert screen.end() == 0
    assert screen.lines() == ["False", "something", "the result"]
    assert "\x1b" not in screen.seen.replace("\x1b[A", "")


@pytest.mark.usefixtures("impatient")
def test_jobs_tell_of_each_table_once(
    source: Database, work: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The parts of a table are one line; at the end as much is done as there was."""
    (work / "schema.sql").write_text("CREATE TABLE t (id int PRIMARY KEY, a text);")
    source.execute("CREATE TABLE t (id int PRIMARY KEY, a text)")
    source.execute("INSERT INTO t SELECT i, repeat('x', 50) FROM"
                   " generate_series(1, 5000) AS i")  # fmt: skip
    monkeypatch.setattr(er, "LARGE_TABLE", 1)
    finished, told = er.Report.finished, []

    def slowly(report: er.Report, done: er.Copied) -> None:
        finished(report, done)
        told.append(done)
        time.sleep(0.4)

    monkeypatch.setattr(er.Report, "finished", slowly)
    err = run("export", "--jobs", "3", "--env-file", source.env_file(work)).err
    size = (work / "exports" / "t.csv").stat().st_size
    assert [(str(t.relation), t.rows, t.size) for t in told] == [("t", 5000, size)]
    assert re.search(rf"^100 % of all {size / 1000:.0f}kB,", err, re.MULTILINE)


def test_a_terminal_that_is_gone_ends_nothing(
    exported: Database,
    work: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The line of a table is lost; the restore is not, and that is told."""
    ours, theirs = pty.openpty()
    monkeypatch.setattr(sys, "stdout", os.fdopen(theirs, "w"))
    assert sys.stdout.isatty()
    os.close(ours)
    exported.execute("DELETE FROM feedback")
    argv = ["restore", "--env-file", str(exported.env_file(work))]
    assert er.main(argv) == er.EXIT_UNTOLD
    said = "the snapshot is restored, but then: the result cannot be"
    assert said in capsys.readouterr().err
    assert exported.fetch("SELECT count(*) FROM feedback") == [(90,)]


# ---- many tables, and long names


NAMES = ("short", "a_long_name_" + "x" * 48, "顧客注文明細履歴台帳テーブル")
TABLES = [f"{NAMES[number % 3]}{number}" for number in range(40)]  # with so many rows
SCHEMA = "".join(
    f'DROP TABLE IF EXISTS "{name}"; CREATE TABLE "{name}" (id int);' for name in TABLES
)
FILL = "".join(
    f'INSERT INTO "{name}" SELECT generate_series(1, {number});'
    for number, name in enumerate(TABLES)
)


@pytest.fixture(scope="module")
def many(
    server18: Server, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Path, Database]]:
    """A folder with a snapshot of many tables, and their database."""
    work = tmp_path_factory.mktemp("many")
    (work / "schema.sql").write_text(SCHEMA, encoding="utf-8")
    with server18.database() as database:
        database.execute(SCHEMA + FILL)
        database.env_file(work).rename(work / ".env")
        argv = ["export", "--env-file", work / ".env", "--dir", work / "exports", "-q"]
        argv += ["--schema-file", work / "schema.sql"]
        assert er.main(list(map(str, argv))) == 0
        yield work, database


DONE = r" *[\d,]+ +[\d.]+ k?B +\d+\.\d\d  (.+)"
SAME = r" *[\d,]+ +0 +0 +0  (.+)"
PREVIEW = 1 + 2 + 2 + 15 + 1  # lines of what goes


@pytest.mark.parametrize(
    ("command", "line", "others"),
    [
        ("ER export --dir new", DONE, 1 + 3),
        ("ER export --dir new2 --jobs 2", DONE, 1 + 3),
        ("ER restore", DONE, PREVIEW + 2),
        ("ER restore --dry-run --checksum", DONE, PREVIEW + 2),
        ("ER restore --data-only --keep kept", DONE, PREVIEW + 1 + 4),
        ("ER verify", SAME, 1 + 2),
        ("ER rehearse --env-file .env", DONE, 1 + 4),
        # Wherever stdout leads, it has all of them; and stderr none.
        ("ER restore 2>&1 | tee log", DONE, PREVIEW + 2),
        ("ER verify | tee log", SAME, 1 + 2),
        ("ER restore > out; cat out", DONE, PREVIEW + 2),
        ("ER restore 2> err", DONE, 2),
    ],
)
def test_each_table_is_one_line(
    many: tuple[Path, Database], command: str, line: str, others: int
) -> None:
    work, _ = many
    on_terminal = command.endswith(" 2> err") or not {*"|>"} & {*command}
    columns = 80 if on_terminal else 120
    screen = at_shell(work, command, rows=120, columns=columns)
    assert screen.end() == 0, screen.lines()
    found = [re.fullmatch(line, each) for each in screen.lines()]
    names = [each.group(1) for each in found if each]
    assert (len(names), len({*names}), names[-1]) == (41, 41, "total"), screen.lines()
    assert found.count(None) <= others, screen.lines()
    assert on_terminal is any("…" in each for each in names)
    assert not re.search(r"\d left", " ".join(screen.lines()))


def test_no_line_is_wrapped(many: tuple[Path, Database]) -> None:
    """Not by a long name, and not by one whose letters take two columns."""
    work, _ = many
    for columns in (80, 60):
        screen = at_shell(work, "ER restore", rows=120, columns=columns)
        assert screen.end() == 0
        lines = screen.lines()
        told = lines[lines.index("rows now  rows then  table") :]
        assert len(told) == 1 + 15 + 1 + 1 + 41 + 1
        assert max(map(er.columns_of, told[:-1])) == columns - 1


def test_the_largest_of_many_that_go(
    many: tuple[Path, Database], run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    work, _ = many
    monkeypatch.chdir(work)
    lines = run("restore", "--dry-run").err.splitlines()
    place = lines.index("rows now  rows then  table")
    assert [line.split()[:2] for line in lines[place + 1 : place + 16]] == [
        [str(rows)] * 2 for rows in range(39, 24, -1)
    ]
    assert lines[place + 16] == f"and 24 more, {sum(range(25))} rows"


@pytest.mark.parametrize(
    "command",
    [
        "export --dir quiet", "restore", "restore --dry-run", "restore --data-only",
        "verify", "rehearse --env-file .env", "schema --output new.sql --force",
    ],
)  # fmt: skip
def test_quiet_says_nothing_of_success(
    many: tuple[Path, Database], command: str
) -> None:
    work, _ = many
    screen = at_shell(work, f"ER {command} -q")
    assert (screen.end(), screen.seen) == (0, "")


def test_quiet_leaves_out_nothing_that_is_wanted(
    exported: Database, work: Path, run: Run
) -> None:
    """Errors, differences, the object of --json, a file that goes to stdout."""
    env = ("-q", "--env-file", exported.env_file(work))
    assert answer(run("restore", *env, "--json"))["tables"]
    assert "CREATE TABLE" in run("schema", *env, "--output", "-").out
    assert run("export", *env, "--dir", "schema.sql").err.count("\n") == 3
    exported.execute("DELETE FROM feedback WHERE id = 3")
    found = run("verify", *env)
    assert (found.status, found.err) == (3, "")
    assert "\n\nfeedback: 1 missing (id=3)\n\n" in found.out


# ---- without a terminal


def next_lines(capsys: pytest.CaptureFixture[str]) -> list[str]:
    """Return the next two lines that a pipe is told."""
    capsys.readouterr()
    said, deadline = "", time.monotonic() + 10
    while said.count("\n") < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
        said += capsys.readouterr().err
    return said.splitlines()


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize(
    "done, total, shown",
    [
        (10**10, 4 * 10**10, r"25 % of all 40\.0GB, [\d.]+GB/s, 0\d:\d\d left"),
        (3, 3, r"100 % of all 3\.00B, [\d.]+B/s, 00:00 left"),
        (0, 3, r"0 % of all 3\.00B, \?B/s, \? left"),
        # An estimate that was too low is no percentage, and no time that is left.
        (7, 3, r"7\.00B so far, [\d.]+B/s"),
        (7, 0, r"7\.00B so far, [\d.]+B/s"),
        (0, 0, r"0\.00B so far, \?B/s"),
        (None, 0, "00:00"),  # of a step without bytes: how long it takes
    ],
)
def test_how_far_how_fast_and_how_long(
    capsys: pytest.CaptureFixture[str], done: int | None, total: int, shown: str
) -> None:
    report = er.Report()
    with report.working():
        report.doing(LONG, moving=done is not None)
        report.expect(total)
        report.advance(done or 0)
        for line in next_lines(capsys):
            assert re.fullmatch(rf"{shown}  a_very\w*…?x*", line)
            assert len(line) < 80


@pytest.mark.usefixtures("impatient")
def test_a_step_without_bytes_does_not_slow_them_down(
    capsys: pytest.CaptureFixture[str],
) -> None:
    report = er.Report()
    with report.working():
        report.expect(10**10)
        for label, seconds in (("leads", 0.2), ("building keys", 0.8), ("feedback", 0)):
            report.doing(label, moving=seconds != 0.8)
            report.advance(10_000_000 if label == "leads" else 0)
            time.sleep(seconds)
        for line in next_lines(capsys):
            [rate] = re.findall(r"([\d.]+)MB/s", line)
            assert float(rate) > 20


@pytest.mark.usefixtures("impatient")
def test_lines_tell_a_pipe_of_long_work(slow: Path, run: Run) -> None:
    lines = run("restore", "--env-file", slow).err.splitlines()
    bar = r"\d+ % of all .*B, .* left  a_v\w*…?\w*"
    assert any(re.fullmatch(bar, line) for line in lines)
    assert not any("\r" in line or "\x1b" in line for line in lines)


def test_short_work_needs_no_lines(exported: Database, work: Path, run: Run) -> None:
    for command in ("export", "verify"):
        err = run(command, "--env-file", exported.env_file(work)).err
        assert len(err.splitlines()) == 1


def test_verbose_says_what_is_done_when(
    exported: Database, work: Path, run: Run
) -> None:
    err = run("restore", "-v", "--env-file", exported.env_file(work)).err
    steps = re.findall(r"^ +(\d+\.\d\d) s  (.*)$", err, re.MULTILINE)
    assert [float(when) for when, _ in steps] == sorted(float(w) for w, _ in steps)
    assert [what for _, what in steps][:2] == [
        "checking the files",
        f"connecting to {er.read_settings(exported.env_file(work))}",
    ]
    for what in ("replaying schema.sql", "leads", "building indexes and keys",
                 "checking the catalog", "committing"):  # fmt: skip
        assert what in [each for _, each in steps]


def test_verbose_says_what_caused_an_error(
    exported: Database, work: Path, run: Run
) -> None:
    (work / "schema.sql").write_text("CREATE TABLE agents (id int);")
    (work / "exports" / "schema.sql").write_text("CREATE TABLE t (a nonsense);")
    options = ("--accept-edits", "--env-file", exported.env_file(work))
    loud = run("restore", "-v", *options)
    plain = run("restore", *options)
    assert '\ncause: UndefinedObject: type "nonsense" does not exist' in loud.err
    assert "cause:" not in plain.err
    assert loud.status == plain.status == 1


def test_a_dead_watcher_ends_with_the_command(
    exported: Database, work: Path, run: Run
) -> None:
    run("verify", "--env-file", exported.env_file(work))
    deadline = time.monotonic() + 5
    while any(each.name.endswith("(_watch)") for each in threading.enumerate()):
        assert time.monotonic() < deadline
        time.sleep(0.02)


# ---- for programs


def answer(result: Result) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(result.out)
    assert found["status"] == result.status
    return found


def test_json_of_each_command(exported: Database, work: Path, run: Run) -> None:
    env = ("--env-file", exported.env_file(work))
    common = {"command", "status", "seconds", "notes", "database", "folder"}
    tables = [("agents", 8), ("leads", 60), ("feedback", 90)]
    for argv, keys in {
        ("export", *env): {"tables", "total"},
        ("restore", *env): {
            "tables", "total", "skipped", "dry_run", "replaced", "home",
        },
        ("verify", *env): {"tables", "equal", "states", "catalog"},
        ("rehearse", *env): {
            "tables", "total", "skipped", "server_version", "server_programs",
            "compared",
        },
    }.items():  # fmt: skip
        found = answer(run(*argv, "--json"))
        assert found.keys() == common | keys
        assert (found["command"], found["status"]) == (argv[0], 0)
        assert found["folder"] == str(work / "exports")
        assert [(t["table"], t["rows"]) for t in found["tables"]] == tables
    assert found["database"] == {
        "host": exported.server.host, "port": exported.server.port,
        "name": exported.name, "user": "postgres",
    }  # fmt: skip


def test_json_of_what_a_restore_replaces(
    exported: Database, work: Path, run: Run
) -> None:
    exported.execute("DELETE FROM feedback WHERE id > 10")
    found = answer(run("restore", "--env-file", exported.env_file(work), "--json"))
    assert found["home"] is True
    assert found["replaced"][1] == {
        "schema": "public", "table": "feedback",
        "rows_now": 10, "exact": True, "rows_then": 90,
    }  # fmt: skip


def test_json_of_a_schema_script(exported: Database, work: Path, run: Run) -> None:
    argv = ("schema", "--json", "--env-file", exported.env_file(work), "--output")
    found = answer(run(*argv, "new.sql"))
    assert (found["file"], found["text"], found["left_out"]) == ("new.sql", None, [])
    assert found["written_by"].startswith("pg_dump ")
    assert found["database"]["name"] == exported.name
    printed = answer(run(*argv, "-"))
    assert printed["text"] == (work / "new.sql").read_text(encoding="utf-8")


def test_json_of_a_rehearsed_export(exported: Database, work: Path, run: Run) -> None:
    argv = ("export", "--rehearse", "--env-file", exported.env_file(work))
    found = answer(run(*argv, "--json"))
    assert found["tables"] and found["rehearsal"]["tables"]
    assert "skipped" not in found


def test_json_of_differences(exported: Database, work: Path, run: Run) -> None:
    exported.execute("DELETE FROM feedback WHERE id = 3")
    exported.execute("UPDATE leads SET phone = '' WHERE id = 7")
    exported.execute("CREATE INDEX odd ON leads (phone)")
    result = run("verify", "--env-file", exported.env_file(work), "--json")
    found = answer(result)
    assert (result.status, found["equal"]) == (3, False)
    _, leads, feedback = found["tables"]
    assert leads["changed"] == {
        "count": 1, "first": [{"row": {"id": "7"}, "columns": ["phone"]}],
    }  # fmt: skip
    assert feedback["missing"] == {
        "count": 1, "first": [{"row": {"id": "3"}, "columns": []}],
    }  # fmt: skip
    assert any("odd" in line for line in found["catalog"])


def test_json_of_errors(exported: Database, work: Path, run: Run) -> None:
    """The same exit status and the same words on stderr as without it."""
    env = ("--env-file", exported.env_file(work))
    (work / "exports" / "leads.csv").write_text("id\n")
    for argv, status in {
        ("verify", *env): 3,
        ("restore", *env, "--dir", "nowhere"): 2,
        ("restore", *env, "--tables", "leads"): 2,
        ("export", "--env-file", "nowhere"): 2,
        ("export", "--jobs", "0"): 2,
        ("verify", "--nonsense"): 2,
        ("nonsense",): 2,
        ("--nonsense",): 2,
    }.items():
        plain, found = run(*argv), run(*argv, "--json")
        assert plain.status == found.status == status, argv
        assert plain.err == found.err
        data = answer(found)
        assert f"export_restore: error: {data['error']}\n" in found.err
        assert f"hint: {data['hint']}\n" in found.err
        assert plain.out == ""


def test_json_of_drift(exported: Database, work: Path, run: Run) -> None:
    script = work / "exports" / "schema.sql"
    script.write_text(script.read_text() + "CREATE INDEX odd ON leads (phone);")
    env = ("--env-file", exported.env_file(work))
    found = answer(run("restore", *env, "--accept-edits", "--json"))
    assert found["status"] == 3
    assert found["error"] == "schema.sql does not make the database that was exported"
    assert len(found["lines"]) == 3  # with the names of both sides
    assert "odd" in found["lines"][-1]


def test_json_of_skipped_statements(exported: Database, work: Path, run: Run) -> None:
    script = work / "exports" / "schema.sql"
    script.write_text("BEGIN;\n" + script.read_text())
    env = ("--env-file", exported.env_file(work))
    result = run("restore", *env, "--accept-edits", "--json")
    found = answer(result)
    assert found["skipped"] == [
        {"line": 1, "reason": "the restore is a transaction already"}
    ]
    assert all(note in result.err for note in found["notes"])


def test_json_of_an_interrupted_command(slow: Path, source: Database) -> None:
    process = run_process("restore", "--env-file", slow, "--json")
    deadline = time.monotonic() + 30
    query = "SELECT FROM pg_stat_activity WHERE query LIKE 'COPY %a_very%'"
    while not source.fetch(query):
        assert time.monotonic() < deadline
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    found = json.loads(out)
    assert process.returncode == found["status"] == 130
    assert found["error"] == "interrupted"
    assert err.splitlines()[-2] == "export_restore: interrupted"


# ---- streams that take nothing

UNTOLD = [
    ("export", er.EXIT_UNTOLD, "the snapshot is published, but then: "),
    ("restore", er.EXIT_UNTOLD, "the snapshot is restored, but then: "),
    ("restore --json", er.EXIT_UNTOLD, "the snapshot is restored, but then: "),
    ("verify", 1, ""),
    ("schema --output -", 1, ""),
]


@pytest.mark.parametrize("command, status, done", UNTOLD)
def test_nobody_takes_the_result(
    exported: Database, work: Path, command: str, status: int, done: str
) -> None:
    """What is done is done; the status says that much even so."""
    if "restore" in command:
        exported.execute("DELETE FROM feedback")
    line = [sys.executable, ROOT / "export_restore.py", *command.split()]
    line += ["--env-file", exported.env_file(work)]
    for shell, reason in {
        '"$@" > /dev/full': "No space left on device",
        'exec "$@" >&-': "Bad file descriptor",
        '{ "$@"; echo "$?" > status; } | true': "Broken pipe",
    }.items():
        ended = subprocess.run(
            ["sh", "-c", shell, "sh", *map(str, line)],
            capture_output=True, text=True, timeout=60,
        )  # fmt: skip
        broken = "Broken" in reason
        found = int(Path("status").read_text()) if broken else ended.returncode
        reader_gone = done == "" and broken
        assert found == (er.EXIT_BROKEN_PIPE if reader_gone else status), ended
        assert ended.stdout == ""
        _, _, error = ended.stderr.partition("export_restore: error: ")
        said = f"{done}the result cannot be told: {reason}\n"
        assert error.startswith(said) or reader_gone, shell
        assert error.count("\n") == (0 if reader_gone else 2)
    assert exported.fetch("SELECT count(*) FROM feedback") == [(90,)]


@pytest.mark.parametrize(
    "command, status",
    [("--help", 1), ("--version", 1), ("export --help", 1), ("verify --json", 3)],
)
def test_nobody_takes_what_is_no_result(
    exported: Database, work: Path, command: str, status: int
) -> None:
    """Help, and the differences for a program: that they are lost is said."""
    exported.execute("DELETE FROM feedback")
    line = [sys.executable, ROOT / "export_restore.py", *command.split(), "-q"]
    line += ["--env-file", exported.env_file(work)]
    for shell in ('"$@" > /dev/full', 'exec "$@" >&-'):
        ended = subprocess.run(
            ["env", "-u", "PYTHONUNBUFFERED", "sh", "-c", shell, "sh", *map(str, line)],
            capture_output=True, text=True, timeout=60,
        )  # fmt: skip
        assert (ended.returncode, ended.stdout) == (status, "")
        assert "the result cannot be told: " in ended.stderr
        assert ended.stderr.count("\n") == 2


def test_notes_do_not_go_to_stdout(exported: Database, work: Path) -> None:
    """Not where stderr is closed or full, either."""
    script = ROOT / "export_restore.py"
    line = [sys.executable, script, "restore", "--json", "--env-file"]
    for shell in ('exec "$@" 2>&-', '"$@" 2> /dev/full'):
        ended = subprocess.run(
            ["sh", "-c", shell, "sh", *map(str, line), exported.env_file(work)],
            capture_output=True, text=True, timeout=60,
        )  # fmt: skip
        assert (ended.returncode, json.loads(ended.stdout)["status"]) == (0, 0)


# ---- what to do next


@pytest.mark.parametrize(
    "folder, shown",
    [("exports", ""), ("other", " --dir other"), ("my dir", " --dir 'my dir'")],
)
def test_the_next_command_names_what_was_used(
    seeded: Database, work: Path, run: Run, folder: str, shown: str
) -> None:
    env = seeded.env_file(work).rename(work / "my $.env").name
    out = run("export", "--env-file", env, "--dir", folder).out
    assert out.endswith(
        f"\n  python export_restore.py restore --env-file 'my $.env'{shown}\n"
    )


@pytest.mark.parametrize("folder", [".", "../new", "../new/."])
def test_a_folder_of_dots_is_named(
    seeded: Database, work: Path, run: Run, monkeypatch: pytest.MonkeyPatch, folder: str
) -> None:
    """No sentence says that something is in .. or comes from there."""
    env = seeded.env_file(work)
    (work / "new").mkdir()
    monkeypatch.chdir(work / "new")
    argv = ("--schema-file", "../schema.sql", "--env-file", env, "--dir", folder)
    result = run("export", *argv)
    shown = str(work / "new") if folder == "." else "../new"
    assert result.err == f"exporting {er.read_settings(env)} to {shown}\n"
    assert f"\nThe snapshot is in {shown}. Restore it, here or elsewhere" in result.out
    assert result.out.endswith(f" --dir {shown}\n")


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert er.main(["--version"]) == 0
    assert capsys.readouterr().out == f"export_restore {er.VERSION}\n"


# ---- text of others on the terminal


HOSTILE = "\x1b]0;owned\x07\x1b[2J\r\x9b31m\u202e"


def test_text_of_others_moves_no_cursor(
    exported: Database, work: Path, run: Run
) -> None:
    """Rows, names, the manifest, the server's words: in notes, results and errors."""
    env = exported.env_file(work)
    name = f"leads {HOSTILE}\n"
    said = []
    exported.execute("UPDATE agents SET region = %s WHERE id = 1", [HOSTILE])
    exported.execute('CREATE TABLE "{}" (a text)'.format(name.replace("%", "%%")))
    said.append(run("verify", "--env-file", env))  # a row, a name in the catalog
    said.append(run("export", "--env-file", env))  # a name that schema.sql lacks
    said.append(run("restore", "--env-file", env, "--dry-run"))
    with (work / "schema.sql").open("a") as file:
        file.write(f'DROP TABLE IF EXISTS "{name}"; CREATE TABLE "{name}" (a text);')
        file.write(f"CREATE FUNCTION f() RETURNS int AS '/{name}' LANGUAGE c")
    said.append(run("export", "--env-file", env, "--dir", "two", "-v"))
    said.append(run("restore", "--env-file", env, "--dir", "two"))  # the server's words
    said.append(run("verify", "--env-file", env, "--dir", HOSTILE))
    rewrite(work / "exports", say_hostile)
    said.append(run("restore", "--env-file", env, "--dry-run"))
    assert [each.status for each in said] == [3, 1, 0, 0, 1, 2, 0]
    for each in said:
        assert all(
            letter.isprintable() or letter in "\n\t" for letter in each.out + each.err
        ), each
    assert "?" in said[0].out
    assert len(said[-3].err.splitlines()) < 13


def say_hostile(package: dict[str, Any]) -> None:
    package["postgresql"]["origin"]["database"] += f"{HOSTILE}\nto be replaced: nothing"
    package["postgresql"]["server"] += HOSTILE
