"""Make the README's terminal pictures from real runs, as SVG.

    python -m pip install -r requirements-dev.txt
    python docs/pictures.py

Everything runs in a folder of its own that is gone afterwards: two private servers, the
sample database on one, the snapshot, and its restore on the other. The commands run on
a pseudo-terminal; what is drawn is what stood on its screen.
"""

from __future__ import annotations

import io
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pexpect
import pyte
from rich.console import Console
from rich.text import Text

DOCS = Path(__file__).resolve().parent
ROOT = DOCS.parent
sys.path.insert(0, str(ROOT))

import export_restore as er  # noqa: E402

WIDTH, HEIGHT = 88, 60

# rich's own template asks a web server for its font.
TEMPLATE = """\
<svg viewBox="0 0 {width} {height}" xmlns="http://www.w3.org/2000/svg">
<style>
.{unique_id}-matrix {{ font-family: ui-monospace, Menlo, Consolas, monospace;
  font-size: {char_height}px; line-height: {line_height}px; }}
.{unique_id}-title {{ font-size: 18px; font-weight: bold; font-family: sans-serif; }}
{styles}
</style>
<defs><clipPath id="{unique_id}-clip-terminal">
<rect x="0" y="0" width="{terminal_width}" height="{terminal_height}"/></clipPath>
{lines}</defs>
{chrome}
<g transform="translate({terminal_x}, {terminal_y})"
 clip-path="url(#{unique_id}-clip-terminal)">
{backgrounds}<g class="{unique_id}-matrix">{matrix}</g></g></svg>
"""


class Terminal:
    """A pseudo-terminal whose screen can be looked at."""

    def __init__(self, folder: Path, **environment: str) -> None:
        self.folder, self.environment = folder, environment
        self.screen = pyte.Screen(WIDTH, HEIGHT)
        self.stream = pyte.Stream(self.screen)

    def run(self, command: str, answers: tuple[tuple[str, str], ...] = ()) -> None:
        """Type a command, answer what it asks, and wait for its end."""
        gap = "\r\n" if any(self.lines()) else ""
        self.stream.feed(f"{gap}$ {command}\r\n")
        child = self.start(command)
        for question, answer in answers:
            child.expect(question)
            self.stream.feed(child.before + child.after)
            child.sendline(answer)
        child.expect(pexpect.EOF)
        self.stream.feed(child.before)
        child.close()

    def start(self, command: str) -> pexpect.spawn[str]:
        """Start a command on the terminal."""
        python = command.replace("python ", f"{sys.executable} ", 1)
        return pexpect.spawn(
            "/bin/sh",
            ["-c", python],
            cwd=str(self.folder),
            dimensions=(HEIGHT, WIDTH),
            encoding="utf-8",
            timeout=300,
            env={
                **os.environ,
                "TERM": "xterm",
                "LC_ALL": "C.UTF-8",
                **self.environment,
            },
        )

    def watch(self, command: str, until: str) -> None:
        """Type a command, and look away when the screen first shows a text."""
        self.stream.feed(f"$ {command}\r\n")
        child = self.start(command)
        child.expect(until)
        self.stream.feed(child.before + child.after)
        child.sendintr()
        child.close()

    def lines(self) -> Iterator[str]:
        """Yield what is on the screen, without the empty end."""
        rows = [row.rstrip() for row in self.screen.display]
        while rows and not rows[-1]:
            rows.pop()
        yield from rows

    def draw(self, name: str, title: str) -> None:
        """Write the screen as a picture, and clear it."""
        console = Console(record=True, width=WIDTH, file=io.StringIO())
        for line in (*self.lines(), ""):  # the last one is cut at its foot
            style = "bold" if line.startswith("$ ") else ""
            console.print(Text(line, style), soft_wrap=True)
        svg = console.export_svg(
            title=title, code_format=TEMPLATE, unique_id=name, font_aspect_ratio=0.6
        )
        (DOCS / f"{name}.svg").write_text(svg, encoding="utf-8")
        self.screen.reset()


def write_env(folder: Path, dbname: str) -> None:
    """Make a folder with an env file that leads to a private server in it."""
    folder.mkdir(exist_ok=True)
    text = f"DB_HOST=embedded\nDB_NAME={dbname}\n"
    (folder / ".env").write_text(text, encoding="utf-8")


def execute(env_file: Path, statement: str) -> None:
    """Run a statement in the database of an env file."""
    with er.reachable(er.read_settings(env_file)) as server, er.Database(server) as db:
        db.execute(statement)


def draw_promise(folder: Path) -> None:
    """Draw what it is for: export, lose a row, find that out, restore."""
    with er.reachable(er.read_settings(folder / ".env")) as server:
        assert server.programs
        terminal = Terminal(
            folder,
            PATH=f"{server.programs.folder}{os.pathsep}{os.environ['PATH']}",
            PGHOST=server.host,
            PGPORT=str(server.port),
            PGUSER=server.user,
            PGPASSWORD=server.password,
            PGDATABASE=server.dbname,
        )
        terminal.run("python export_restore.py export -q")
        terminal.run('psql -c "DELETE FROM leads WHERE id = 4711"')
        terminal.run("python export_restore.py verify -q")
        terminal.run("python export_restore.py restore -q")
        terminal.run("python export_restore.py verify")
        terminal.draw("walk", "export, lose a row, restore")


def draw_everything(folder: Path) -> None:
    """Run the commands of the README and draw them."""
    for name in ("export_restore.py", "setup_db.py", "schema.sql"):
        shutil.copy(ROOT / name, folder)
    write_env(folder, "sales")
    write_env(folder / "laptop", "sales_copy")
    terminal = Terminal(folder)
    terminal.run("python setup_db.py -q --agents 200 --leads 40000 --feedback 60000")
    terminal.screen.reset()
    terminal.run("python export_restore.py export --env-file .env")
    terminal.draw("export", "export")
    terminal.run("ls exports")
    terminal.run("head -n 4 exports/leads.csv | cut -c 1-86")
    terminal.run("grep '^column public.feedback' exports/catalog.txt")
    terminal.draw("folder", "the folder")
    execute(folder / "laptop/.env", (ROOT / "schema.sql").read_text(encoding="utf-8"))
    sample = "INSERT INTO agents (full_name, email, region, hired_on)"
    execute(
        folder / "laptop/.env",
        f"{sample} VALUES ('A. Nother', 'a@example.org', 'north', '2020-01-01')",
    )
    terminal.run(
        "python export_restore.py restore --env-file laptop/.env",
        (("(?m)[^\n]*: $", "sales_copy"),),
    )
    terminal.draw("restore", "restore into a second server")
    execute(folder / "laptop/.env", "DELETE FROM leads WHERE id = 4711")
    terminal.run("python export_restore.py verify --env-file laptop/.env")
    terminal.draw("verify", "verify finds the lead that somebody deleted")
    draw_promise(folder)


def main() -> int:
    folder = Path(tempfile.mkdtemp(prefix="pictures-"))
    try:
        draw_everything(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
