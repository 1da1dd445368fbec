"""Folders, env files and scripts of any shape: found by chance, repeated by a seed.

    pytest tests/test_fuzz.py -n 1 --fuzz 1500 --fuzz-seed 7

Whatever comes: no traceback, no hang, nothing read or written outside of the folder, no
changed target after a failure, and after a success the rows that the folder holds.
"""

from __future__ import annotations

import contextlib
import csv
import gzip
import hashlib
import io
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest
from cases import rewrite
from conftest import ROOT, Result, Run
from servers import Database

import export_restore as er


@pytest.fixture
def rng(request: pytest.FixtureRequest) -> Random:
    return Random(request.config.getoption("--fuzz-seed"))


@pytest.fixture
def count(request: pytest.FixtureRequest) -> int:
    return int(request.config.getoption("--fuzz"))


@pytest.fixture(autouse=True)
def no_hang() -> Iterator[Callable[[], None]]:
    """Give what to call before each try, which then has 30 seconds."""

    def give_up(*_: object) -> None:
        raise AssertionError("it hangs")

    before = signal.signal(signal.SIGALRM, give_up)
    yield lambda: signal.setitimer(signal.ITIMER_REAL, 30, 30) and None
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


def told(result: Result) -> bool:
    """Return whether an end was told as ours are."""
    lines = result.err.splitlines()
    hints = [line for line in lines if line.startswith("hint: ")]
    failed = result.status in (1, 2, 3) and len(hints) == 1
    fault = "Traceback" in result.err or "a fault of this program" in result.err
    differs = result.status == 3 and "differs from the snapshot" in result.out
    return not fault and (result.status == 0 or failed or differs)


def look(database: Database) -> tuple[Any, ...]:
    """Return what shows any change of a database: rows, and objects by their number."""
    objects = database.fetch(
        "SELECT oid, relname, relfilenode FROM pg_class WHERE oid >= 16384 UNION ALL "
        "SELECT oid, conname, NULL FROM pg_constraint UNION ALL "
        "SELECT oid, tgname, ascii(tgenabled) FROM pg_trigger ORDER BY 1, 2"
    )
    return database.rows(), database.sequences(), objects


# ---- folders

SPICE = (b'"', b",", b"\n", b"\r", b"\\.", b"\\.\n", b"\0", b"\xff", b"\xef\xbb\xbf",
         b"1", b"-", b"{", b"[" * 2000, b"'", b";", b"$$", b"NULL")  # fmt: skip
VALUES: tuple[Any, ...] = (
    None, True, 0, -1, 10**30, 0.5, "", "x", "../x.csv", "leads.csv", "agents.csv",
    "\0", "\ud800", "sha256:0", [], {}, [1], {"name": "x"},
)  # fmt: skip


def mutate_bytes(rng: Random, raw: bytes) -> bytes:
    """Change a few bytes: flip, cut, double, add what means something."""
    for _ in range(rng.randint(1, 4)):
        place = rng.randrange(len(raw) + 1)
        kind = rng.randrange(6)
        if kind == 0:
            raw = raw[:place] + rng.choice(SPICE) + raw[place:]
        elif kind == 1:
            raw = raw[:place] + bytes([rng.randrange(256)]) + raw[place + 1 :]
        elif kind == 2:
            raw = raw[:place] + raw[place + rng.randrange(40) :]
        elif kind == 3:
            raw = raw[:place] + raw[max(0, place - rng.randrange(200)) :]
        elif kind == 4 and rng.random() < 0.3:
            raw = raw[:place]
        else:
            raw = mutate_lines(rng, raw)
    return raw


def mutate_lines(rng: Random, raw: bytes) -> bytes:
    lines = raw.split(b"\n")
    place = rng.randrange(len(lines))
    other = rng.randrange(len(lines))
    kind = rng.randrange(4)
    if kind == 0:
        del lines[place]
    elif kind == 1:
        lines.insert(place, lines[other])
    elif kind == 2:
        lines[place], lines[other] = lines[other], lines[place]
    else:
        lines.insert(place, rng.choice((b"\\.", b"", b",", b'"')))
    return b"\n".join(lines)


def mutate_manifest(rng: Random, package: Any) -> None:
    """Put another value somewhere into a manifest."""
    place = package
    while True:
        key = rng.choice(list(place) if isinstance(place, dict) else range(len(place)))
        inner = place[key]
        if rng.random() < 0.35 or not isinstance(inner, (dict, list)) or not inner:
            break
        place = inner
    if rng.random() < 0.2:
        del place[key]
    else:
        place[key] = rng.choice(VALUES)


def mutate_names(rng: Random, folder: Path, outside: Path) -> None:
    """Put something else in the place of a file, or add a file."""
    names = [*(path.name for path in folder.iterdir()), ".ready", ".export-x", "x.csv"]
    path = folder / rng.choice(names)
    other = folder / rng.choice(names)
    with contextlib.suppress(OSError):
        kind = rng.randrange(6)
        if kind == 0:
            path.unlink()
        elif kind == 1:
            path.unlink(missing_ok=True)
            path.symlink_to(rng.choice((outside, outside / "leads.csv", Path(".."))))
        elif kind == 2:
            path.unlink(missing_ok=True)
            os.mkfifo(path)
        elif kind == 3:
            path.unlink(missing_ok=True)
            path.mkdir()
        elif kind == 4:
            other.rename(path)
        else:
            shutil.copytree(folder, folder / ".ready", symlinks=True)


def put_right(folder: Path) -> None:
    """Give the manifest the checksums and sizes that the files have now."""

    def right(package: Any) -> None:
        for each in package["resources"]:
            raw = er.read_plain(folder / each["path"])
            each["hash"] = f"sha256:{hashlib.sha256(raw).hexdigest()}"
            each["bytes"] = len(raw)
            if each["path"].endswith(".gz"):
                text = gzip.decompress(raw)
                each["postgresql"]["text"] = (
                    f"sha256:{hashlib.sha256(text).hexdigest()}"
                )
            each["postgresql"]["rows"] = rows_in(folder / each["path"])
        for name in package["postgresql"]["files"]:
            digest = hashlib.sha256(er.read_plain(folder / name)).hexdigest()
            package["postgresql"]["files"][name] = f"sha256:{digest}"

    with contextlib.suppress(Exception):  # there is nothing to put right
        rewrite(folder, right)


def rows_in(path: Path) -> int:
    """Return how many rows a CSV has, as another reader counts them."""
    raw = path.read_bytes()
    text = gzip.decompress(raw) if path.name.endswith(".gz") else raw
    reader = csv.reader(io.StringIO(text.decode("utf-8-sig"), newline=""), strict=True)
    return sum(1 for _ in reader) - 1


def mutate_folder(rng: Random, folder: Path, outside: Path) -> None:
    files = sorted(path for path in folder.iterdir() if path.is_file())
    for _ in range(rng.randint(1, 2)):
        path = rng.choice(files)
        if rng.random() < 0.7 and path.is_file() and not path.is_symlink():
            if path.name.endswith(".gz") and rng.random() < 0.7:
                text = mutate_bytes(rng, gzip.decompress(path.read_bytes()))
                path.write_bytes(gzip.compress(text, 1))
            else:
                path.write_bytes(mutate_bytes(rng, path.read_bytes()))
            break
        mutate_names(rng, folder, outside)
    if rng.random() < 0.5:
        put_right(folder)
    if rng.random() < 0.3:
        with contextlib.suppress(Exception):
            rewrite(folder, lambda package: mutate_manifest(rng, package))


COMMANDS = (
    ("restore", "--yes"), ("restore", "--yes"), ("restore", "--yes", "--accept-edits"),
    ("restore", "--yes", "--accept-edits", "--accept-drift", "--checksum"),
    ("restore", "--yes", "--data-only", "--accept-edits"), ("restore", "--dry-run"),
    ("verify",), ("export",),
)  # fmt: skip


def seen(folder: Path, *but: Path) -> dict[str, bytes | str]:
    """Return what is below a folder, no link followed."""
    found: dict[str, bytes | str] = {}
    for path in sorted(folder.rglob("*")):
        if not any(path.is_relative_to(each) for each in but):
            kind = er.kind_of(path)
            found[str(path)] = path.read_bytes() if kind == er.PLAIN_FILE else kind
    return found


def test_folders(
    exported: Database, work: Path, run: Run, rng: Random, count: int,
    no_hang: Callable[[], None],
) -> None:  # fmt: skip
    env = exported.env_file(work)
    assert run("export", "--gzip", "--dir", "gzipped", "--env-file", env).status == 0
    shutil.copytree("exports", "by-hand")
    (work / "by-hand/datapackage.json").unlink()
    shutil.copytree("exports", "outside")
    got = work / "got"
    before = look(exported)
    world = seen(work, got)
    statuses = dict.fromkeys(range(4), 0)
    for number in range(count):
        shutil.rmtree(got, ignore_errors=True)
        origin = rng.choice(("exports", "exports", "gzipped", "by-hand"))
        shutil.copytree(origin, got)
        mutate_folder(rng, got, work / "outside")
        command = rng.choice(COMMANDS)
        no_hang()
        result = run(*command, "--dir", got, "--env-file", env, "-q")
        trace = (number, origin, command, result)
        assert told(result), trace
        statuses[result.status] += 1
        if (
            command[0] == "restore"
            and result.status == 0
            and "--dry-run" not in command
        ):
            for table, rows in exported.rows().items():
                name = table.removeprefix("public.")
                paths = [*got.glob(f"{name}.csv"), *got.glob(f"{name}.csv.gz")]
                # By hand, --data-only leaves alone what has no file.
                sizes = [*map(rows_in, paths)] or [len(before[0][table])]
                assert sizes == [len(rows)], (trace, table)
            no_hang()
            again = run("restore", "--yes", "--env-file", env, "-q")
            assert again.status == 0, trace
            before = look(exported)
        else:
            assert look(exported) == before, trace
        assert seen(work, got) == world, trace
    assert all(statuses[each] for each in (0, 3)) or count < 50, statuses


# ---- env files

KEYS = (
    "DB_HOST", "DB_PORT", "DB_NAME", "DB_USER", "DB_PASSWORD", "DB_SSLMODE",
    "DATABASE_URL", "PGHOST", "export DB_NAME", "",
)  # fmt: skip
PIECES = (
    "localhost", "embedded", "5432", "db", "'", '"', "#", " ", "\\", "$HOME", "${X}",
    "=", "@", "/", ":", "?", "%00", "%40", "\x00", "é", "\u2028", "[::1]", "\n",
    "postgresql://", "u", "?host=/tmp", "&port=1",
)  # fmt: skip
SECRET = "gEheIm7"


def test_env_files(
    exported: Database, work: Path, run: Run, rng: Random, count: int,
    no_hang: Callable[[], None], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Nothing is reached, and nothing of a password is told."""

    def refuse(settings: er.Settings) -> None:
        raise er.SnapshotError(f"cannot connect to {settings}", hint="x")

    monkeypatch.setattr(er, "reachable", refuse)
    path = work / "some.env"
    for number in range(count // 3):
        lines = []
        for _ in range(rng.randint(1, 7)):
            value = "".join(rng.choices(PIECES, k=rng.randint(0, 6)))
            if rng.random() < 0.5:
                spot = rng.choice(("u:{}@h/d", "u:x{}@h:1/d", "u:@{}?/@h/d", "u:{}@"))
                value = "postgresql://" + spot.format(SECRET + rng.choice(PIECES))
                lines.append(f"DATABASE_URL={rng.choice((value, repr(value)))}")
                continue
            lines.append(f"{rng.choice(KEYS)}={value}")
        raw = "\n".join(lines).encode()
        path.write_bytes(mutate_bytes(rng, raw) if rng.random() < 0.2 else raw)
        no_hang()
        result = run("verify", "--env-file", path, "-v")
        assert told(result), (number, raw, result)
        if SECRET.encode() in path.read_bytes():
            assert SECRET not in result.err + result.out, (number, raw, result)


# ---- scripts

SQL = """
CREATE TABLE IF NOT EXISTS extra (a int); INSERT INTO extra VALUES (1);
DO $x$ BEGIN EXECUTE 'CREATE TABLE more (b text)'; END $x$;
CREATE FUNCTION f() RETURNS int LANGUAGE sql BEGIN ATOMIC SELECT 1; SELECT 2; END;
/* a /* nested */ comment */ -- and ; another
COMMENT ON TABLE agents IS E'it\\'s'; SET search_path = public; SELECT $$;$$, U&"a";
ALTER TABLE leads ADD COLUMN IF NOT EXISTS z text; DELETE FROM feedback; COMMIT;
TRUNCATE agents CASCADE; DROP TABLE leads CASCADE; ROLLBACK; \\restrict x
"""


def test_scripts(
    exported: Database, work: Path, run: Run, rng: Random, count: int,
    no_hang: Callable[[], None],
) -> None:  # fmt: skip
    """A restore with one happens, or leaves the target as it is."""
    env = exported.env_file(work)
    schema = (ROOT / "schema.sql").read_bytes()
    path = work / "exports/schema.sql"
    (work / "exports/datapackage.json").unlink()
    before = look(exported)
    parts = [part.encode() for part in SQL.split(";")]
    for number in range(count // 3):
        extra = b";".join(rng.sample(parts, rng.randint(0, 5)))
        raw = schema + extra if rng.random() < 0.5 else extra + b";" + schema
        path.write_bytes(mutate_bytes(rng, raw) if rng.random() < 0.8 else raw)
        no_hang()
        result = run("restore", "--yes", "--env-file", env, "-q")
        assert told(result), (number, path.read_bytes(), result)
        if result.status == 0:
            found = exported.rows()
            sizes = [len(found[f"public.{each}"]) for each in ("agents", "leads")]
            assert sizes == [8, 60], (number, path.read_bytes())
            before = look(exported)
        else:
            assert look(exported) == before, (number, path.read_bytes(), result)
