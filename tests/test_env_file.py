"""The env file decides, alone and literally."""

from __future__ import annotations

import re
from pathlib import Path
from random import Random

import pytest
from conftest import ROOT, Run

import export_restore as er


def settings(tmp_path: Path, text: str) -> er.Settings:
    path = tmp_path / "some.env"
    path.write_text(text, encoding="utf-8")
    return er.read_settings(path)


PARTS = "DB_HOST=db.example.com\nDB_NAME=sales\nDB_USER=me\n"


@pytest.mark.parametrize(
    "line, password",
    [
        ("DB_PASSWORD=plain", "plain"),
        ("DB_PASSWORD=a$HOME${HOME}", "a$HOME${HOME}"),
        ("DB_PASSWORD=a#b@c%20d", "a#b@c%20d"),
        ("DB_PASSWORD='sp ace # \"x\"'", 'sp ace # "x"'),
        ('DB_PASSWORD="it\'s"', "it's"),
        ("export DB_PASSWORD=x", "x"),
        ("DB_PASSWORD=ünï", "ünï"),
        ("DB_PASSWORD=x # a remark", "x"),
        ("DB_PASSWORD=", ""),
        ("DB_PASSWORD=''", ""),
    ],
)
def test_passwords_are_literal(tmp_path: Path, line: str, password: str) -> None:
    assert settings(tmp_path, PARTS + line).password == password


def test_the_shell_never_overrides(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DB_HOST", "elsewhere.example.com")
    monkeypatch.setenv("DATABASE_URL", "postgresql://x@elsewhere/x")
    monkeypatch.setenv("PGHOSTADDR", "127.0.0.9")
    assert settings(tmp_path, PARTS + "DB_PASSWORD=x").host == "db.example.com"


@pytest.mark.parametrize(
    "url, expected",
    [
        ("postgresql://u:p@h:6543/d", ("h", 6543, "d", "u", "p")),
        ("postgres://u:p@h/d", ("h", 5432, "d", "u", "p")),
        (
            "postgresql://u.ref:p%40%2F@h/d?sslmode=verify-full",
            ("h", 5432, "d", "u.ref", "p@/"),
        ),
        ("postgresql://u:p@ss#w/rd%@h:1/d", ("h", 1, "d", "u", "p@ss#w/rd%")),
        (
            "postgresql://app:p@ss/word@db.example.org/prod",
            ("db.example.org", 5432, "prod", "app", "p@ss/word"),
        ),
        ("postgresql://u:[a]:b%3F@h/d", ("h", 5432, "d", "u", "[a]:b?")),
        (
            "postgresql://u:p@h/d?pgbouncer=true&connection_limit=1&supa=base-pooler.x",
            ("h", 5432, "d", "u", "p"),
        ),
        (
            "postgresql://u:p@h:1/d?application_name=me@home",
            ("h", 1, "d", "u", "p"),
        ),
        ("postgresql://u:p@[::1]:5433/d", ("::1", 5433, "d", "u", "p")),
        ("postgresql://u:@h/d", ("h", 5432, "d", "u", "")),
        ("postgresql://u@/d?host=/run/pg&port=5433", ("/run/pg", 5433, "d", "u", "")),
    ],
)
def test_database_url(tmp_path: Path, url: str, expected: tuple[object, ...]) -> None:
    found = settings(tmp_path, f"DATABASE_URL='{url}'\n")
    assert (
        found.host,
        found.port,
        found.dbname,
        found.user,
        found.password,
    ) == expected


def test_a_url_stands_alone(tmp_path: Path) -> None:
    """Other keys of the file must not fill its gaps."""
    parts = "DB_HOST=dev\nDB_PORT=6543\nDB_NAME=dev\nDB_PASSWORD=devpw\n"
    with pytest.raises(er.SnapshotError, match="DB_NAME, DB_PASSWORD"):
        settings(tmp_path, parts + "DATABASE_URL=postgresql://u@prod.example.com\n")
    found = settings(tmp_path, parts + "DATABASE_URL=postgresql://u:p@prod/db\n")
    assert (found.host, found.port, found.dbname) == ("prod", 5432, "db")


def test_parameters_that_would_lead_elsewhere(tmp_path: Path) -> None:
    with pytest.raises(er.SnapshotError, match="has the parameter options"):
        settings(
            tmp_path, "DATABASE_URL=postgresql://u:p@h/d?options=-csearch_path=a\n"
        )


@pytest.mark.parametrize(
    "host, mode",
    [
        ("localhost", "prefer"),
        ("db", "prefer"),
        ("/var/run/postgresql", "prefer"),
        ("127.0.0.1", "prefer"),
        ("10.1.2.3", "prefer"),
        ("192.168.0.9", "prefer"),
        ("::1", "prefer"),
        ("8.8.8.8", "require"),
        ("db.abc.supabase.co", "require"),
    ],
)
def test_sslmode_by_host(host: str, mode: str) -> None:
    assert er.default_sslmode(host) == mode


@pytest.mark.parametrize(
    "query, mode",
    [
        ("", "prefer"),
        ("?ssl=true", "require"),
        ("?ssl=false", "prefer"),
        ("?ssl=true&sslmode=verify-full", "verify-full"),
    ],
)
def test_ssl_in_a_url(tmp_path: Path, query: str, mode: str) -> None:
    found = settings(tmp_path, f"DATABASE_URL=postgresql://u:p@10.1.2.3/d{query}")
    assert found.sslmode == mode


def test_sslmode_of_the_file_wins(tmp_path: Path) -> None:
    text = PARTS + "DB_PASSWORD=x\nDB_SSLMODE=verify-full\nDB_SSLROOTCERT=/ca.crt\n"
    found = settings(tmp_path, text)
    assert (found.sslmode, found.sslrootcert) == ("verify-full", "/ca.crt")


@pytest.mark.parametrize(
    "text",
    [
        "DATABASE_URL=postgresql://u:p@h/d?sslmode=require&channel_binding=require",
        "DATABASE_URL=postgresql://u:p@h/d?sslmode=require\nDB_CHANNEL_BINDING=require",
        PARTS + "DB_PASSWORD=x\nDB_SSLMODE=require\nDB_CHANNEL_BINDING=require",
    ],
)
def test_channel_binding_of_neon(tmp_path: Path, text: str) -> None:
    found = settings(tmp_path, text)
    assert (found.sslmode, found.channel_binding) == ("require", "require")
    assert er.libpq_options(found)["channel_binding"] == "require"


@pytest.mark.parametrize(
    "text, noted",
    [
        ("DATABASE_URL=postgresql://u:p@{}/d?schema=tenant1&pgbouncer=true", True),
        ("DATABASE_URL=postgresql://u:p@{}/d?schema=public", False),
        ("DATABASE_URL=postgresql://u:p@{}/d\nschema=tenant1", False),
        ("DB_HOST={}\nDB_NAME=d\nDB_USER=u\nDB_PASSWORD=\nschema=a", False),
    ],
)
def test_the_schema_of_prisma(work: Path, run: Run, text: str, noted: bool) -> None:
    """Nobody is to think that one tenant was exported, or goes elsewhere."""
    (work / "schema.sql").write_text("CREATE TABLE t (a int);")
    (work / "a.env").write_text(text.format("nowhere.invalid"))
    result = run("export", "--env-file", "a.env")
    assert result.status == 1
    assert ("schema=tenant1 in DATABASE_URL is Prisma's" in result.err) == noted
    assert ("--tables 'tenant1.*'" in result.err) == noted


def test_password_never_shows(tmp_path: Path) -> None:
    found = settings(tmp_path, PARTS + "DB_PASSWORD=geheim")
    assert "geheim" not in repr(found) + str(found)


def test_the_example_is_the_embedded_server(tmp_path: Path) -> None:
    found = settings(tmp_path, (ROOT / ".env.example").read_text())
    assert (found.host, found.dbname) == ("embedded", "sales")
    assert found.data_folder == tmp_path / ".postgres"


AWKWARD = "@/#:?%&= $[]aZ0é"


def test_a_password_in_a_url_leads_nowhere_else(tmp_path: Path) -> None:
    """The last @ before ? ends it; what cannot be told apart is refused unseen."""
    random = Random(1)
    refused = 0
    for _ in range(2000):
        password = "".join(random.choices(AWKWARD, k=random.randint(1, 12)))
        tail = random.choice(("", "?sslmode=require", "?application_name=me@home"))
        url = f"postgresql://u:{password}@real.example.com:6543/sales{tail}"
        try:
            found = settings(tmp_path, f"DATABASE_URL='{url}'\n")
        except er.SnapshotError as error:
            refused += 1
            told = f"{error} {error.hint}".replace("user:password@host", "")
            assert not any(part in told for part in pieces(password)), (url, told)
            assert "?" in password or "%0" in password, url
        else:
            expected = ("real.example.com", 6543, "sales", "u")
            assert (found.host, found.port, found.dbname, found.user) == expected, url
    assert refused < 1200


def pieces(password: str) -> list[str]:
    """Return the longer parts of a password that a message might give away."""
    return [part for part in re.split(r"[@/:?&#]", password) if len(part) > 3]


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://u:secret1host:5432/d",
        "postgresql://u:secret1@h:secret1/d",
        "postgresql://user:secret1?more@h/d",
        "postgresql://user:5?secret1@h/d",
        "postgresql://user:a@b?secret1@h/d",
        "postgresql://user:a@b?secret1=x@h/d",
        "postgresql://u:secret1%00@h/d",
        "postgresql://u%00:secret1@h/d",
    ],
)
def test_nothing_of_a_password_is_in_an_error(tmp_path: Path, url: str) -> None:
    with pytest.raises(er.SnapshotError) as raised:
        settings(tmp_path, f"DATABASE_URL='{url}'\n")
    assert "secret1" not in str(raised.value) + raised.value.hint
    assert raised.value.code == er.EXIT_USAGE
    assert ("zero byte" in str(raised.value)) == ("%00" in url)
