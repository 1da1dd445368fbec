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
import itertools
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest
from cases import rewrite
from commands import ROOT, Place, Result, run
from servers import Database

import export_restore as er

Tries = Iterator[tuple[int, Random]]


@pytest.fixture
def tries(request: pytest.FixtureRequest, no_hang: Callable[[], None]) -> Tries:
    """Give numbered tries, and the chance that rules them."""
    rng = Random(request.config.getoption("--fuzz-seed"))

    def each() -> Tries:
        for number in range(request.config.getoption("--fuzz")):
            no_hang()
            yield number, rng

    return each()


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
        start, rest = raw[:place], raw[place:]
        lines = mutate_lines(rng, raw)
        raw = rng.choice((
            start + rng.choice(SPICE) + rest,
            start + bytes([rng.randrange(256)]) + rest[1:],
            start + rest[rng.randrange(40) :],
            start + raw[max(0, place - rng.randrange(200)) :],
            start if rng.random() < 0.3 else lines,
            lines,
        ))  # fmt: skip
    return raw


def mutate_lines(rng: Random, raw: bytes) -> bytes:
    lines = raw.split(b"\n")
    place, other = rng.randrange(len(lines)), rng.choice(lines)
    line = lines[place]
    odd = rng.choice((b"\\.", b"", b",", b'"'))
    lines[place : place + 1] = rng.choice(([], [other, line], [other], [odd, line]))
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
    kind = rng.randrange(6)
    with contextlib.suppress(OSError):
        if kind < 4:
            path.unlink(missing_ok=True)
        if kind == 1:
            path.symlink_to(rng.choice((outside, outside / "leads.csv", Path(".."))))
        elif kind == 2:
            os.mkfifo(path)
        elif kind == 3:
            path.mkdir()
        elif kind == 4:
            other.rename(path)
        elif kind == 5:
            shutil.copytree(folder, folder / ".ready", symlinks=True)


def sha(raw: bytes) -> str:
    return f"sha256:{hashlib.sha256(raw).hexdigest()}"


def put_right(folder: Path) -> None:
    """Give the manifest the checksums and sizes that the files have now."""

    def right(package: Any) -> None:
        for each in package["resources"]:
            raw = er.read_plain(folder / each["path"])
            each |= {"hash": sha(raw), "bytes": len(raw)}
            if each["path"].endswith(".gz"):
                each["postgresql"]["text"] = sha(gzip.decompress(raw))
            each["postgresql"]["rows"] = rows_in(folder / each["path"])
        for name in package["postgresql"]["files"]:
            digest = sha(er.read_plain(folder / name))
            package["postgresql"]["files"][name] = digest

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


def test_folders(exported: Place, work: Path, tries: Tries) -> None:
    env = exported.env
    assert exported.call("export", "--gzip", "--dir", "gzipped").status == 0
    shutil.copytree("exports", "by-hand")
    (work / "by-hand/datapackage.json").unlink()
    shutil.copytree("exports", "outside")
    got = work / "got"
    before = look(exported)
    world = seen(work, got)
    statuses = []
    for number, rng in tries:
        shutil.rmtree(got, ignore_errors=True)
        origin = rng.choice(("exports", "exports", "gzipped", "by-hand"))
        shutil.copytree(origin, got)
        mutate_folder(rng, got, work / "outside")
        command = rng.choice(COMMANDS)
        result = run(*command, "--dir", got, "--env-file", env, "-q")
        trace = (number, origin, command, result)
        assert told(result), trace
        statuses.append(result.status)
        if result.status or command[0] != "restore" or "--dry-run" in command:
            assert look(exported) == before, trace
        else:
            for table, rows in exported.rows().items():
                name = table.removeprefix("public.")
                paths = [*got.glob(f"{name}.csv"), *got.glob(f"{name}.csv.gz")]
                # By hand, --data-only leaves alone what has no file.
                sizes = [*map(rows_in, paths)] or [len(before[0][table])]
                assert sizes == [len(rows)], (trace, table)
            assert exported.call("restore", "--yes", "-q").status == 0, trace
            before = look(exported)
        assert seen(work, got) == world, trace
    assert {0, 3} <= {*statuses} or len(statuses) < 50, statuses


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


def test_env_files(work: Path, tries: Tries, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is reached, and nothing of a password is told."""

    def refuse(settings: er.Settings) -> None:
        raise er.SnapshotError(f"cannot connect to {settings}", hint="x")

    monkeypatch.setattr(er, "reachable", refuse)
    path = work / "some.env"
    for number, rng in itertools.islice(tries, 0, None, 3):
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


def test_scripts(exported: Place, tries: Tries) -> None:
    """A restore with one happens, or leaves the target as it is."""
    schema = (ROOT / "schema.sql").read_bytes()
    path = Path("exports/schema.sql")
    Path("exports/datapackage.json").unlink()
    before = look(exported)
    parts = [part.encode() for part in SQL.split(";")]
    for number, rng in itertools.islice(tries, 0, None, 3):
        extra = b";".join(rng.sample(parts, rng.randint(0, 5)))
        raw = schema + extra if rng.random() < 0.5 else extra + b";" + schema
        path.write_bytes(mutate_bytes(rng, raw) if rng.random() < 0.8 else raw)
        result = exported.call("restore", "--yes", "-q")
        trace = (number, path.read_bytes(), result)
        assert told(result), trace
        if result.status == 0:
            found = exported.rows()
            sizes = [len(found[f"public.{each}"]) for each in ("agents", "leads")]
            assert sizes == [8, 60], trace
            before = look(exported)
        else:
            assert look(exported) == before, trace
