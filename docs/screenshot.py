"""Show the restored tables in pgAdmin, and take a picture of the window.

    python -m pip install -r requirements.txt pgadmin4 playwright
    python docs/screenshot.py --chromium /usr/bin/chromium

A font with Japanese letters has to be installed (fonts-noto-cjk).
It fills one private server with the sample, exports it, restores the snapshot into a
second one, and looks at the table leads there. Nothing but the picture is left behind.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

DOCS = Path(__file__).resolve().parent
ROOT = DOCS.parent
sys.path.insert(0, str(ROOT))

import export_restore as er  # noqa: E402
import setup_db  # noqa: E402

PORT = 5050
BROWSER_OPTIONS = ("--no-sandbox", "--disable-gpu", "--disable-background-networking")
# pgAdmin reads its settings from a module; these stand in for a file beside it.
START = """
import builtins, runpy, sys
builtins.SERVER_MODE = False
import config
config.MASTER_PASSWORD_REQUIRED = config.UPGRADE_CHECK_ENABLED = False
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
TREE = (
    "Servers", "restored", "Databases", "sales_copy", "Schemas", "public", "Tables",
    "leads",
)  # fmt: skip


def restored(folder: Path) -> Path:
    """Make, export and restore the sample; return the second server's env file."""
    files = []
    for name in ("sales", "sales_copy"):
        (folder / name).mkdir()
        files.append(folder / name / ".env")
        files[-1].write_text(f"DB_HOST=embedded\nDB_NAME={name}\n", encoding="utf-8")
    source, target = files
    snapshot = ["-q", "--dir", str(folder / "exports")]
    setup_db.main(["-q", "--env-file", str(source)])
    er.main(["export", "--env-file", str(source), *snapshot])
    er.main(["restore", "--env-file", str(target), *snapshot])
    return target


@contextlib.contextmanager
def pgadmin(folder: Path, server: er.Settings) -> Iterator[str]:
    """Run pgAdmin with one server in its list; give its address."""
    spec = importlib.util.find_spec("pgadmin4")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("python -m pip install pgadmin4 playwright")
    package = Path(spec.submodule_search_locations[0])
    entry = {
        "Name": "restored", "Group": "Servers", "Host": server.host,
        "Port": server.port, "MaintenanceDB": server.dbname, "Username": server.user,
        "SSLMode": "prefer",
    }  # fmt: skip
    servers = folder / "servers.json"
    servers.write_text(json.dumps({"Servers": {"1": entry}}), encoding="utf-8")
    environment = {**os.environ, "HOME": str(folder)}

    def command(script: str, *arguments: str) -> list[str]:
        return [sys.executable, "-c", START, str(package / script), *arguments]

    for arguments in (["setup-db"], ["load-servers", str(servers)]):
        subprocess.run(
            command("setup.py", *arguments),
            cwd=package,
            env=environment,
            check=True,
            stdout=subprocess.DEVNULL,
        )
    with subprocess.Popen(
        command("pgAdmin4.py"), cwd=package, env=environment, stdout=subprocess.DEVNULL
    ) as process:
        try:
            yield wait_for(f"http://127.0.0.1:{PORT}/browser/")
        finally:
            process.terminate()


def wait_for(address: str) -> str:
    """Return the address once somebody answers there."""
    for _ in range(120):
        try:
            with urllib.request.urlopen(address):
                return address
        except OSError as error:
            why = error
        time.sleep(0.5)
    raise SystemExit(f"{address} does not answer: {why}")


def show_rows(page: Any) -> None:
    """Open the tree down to the table, and its rows beside it."""
    for parent, child in itertools.pairwise(TREE):
        while not entry(page, child).count():
            entry(page, parent).dblclick()
            page.wait_for_timeout(4000)
            password = page.locator("input[type=password]:visible")
            if password.count():  # the server asks for none
                password.fill("none")
                page.keyboard.press("Enter")
                page.wait_for_timeout(4000)
    entry(page, TREE[-1]).click()
    page.wait_for_timeout(1500)
    page.mouse.click(175, 45)  # "View Data" in the tree's toolbar
    page.mouse.move(700, 600)
    while not any(frame.locator(".rdg-row").count() for frame in page.frames):
        page.wait_for_timeout(1000)
    page.wait_for_timeout(2000)
    while page.get_by_text("Successfully run").count():  # it covers some rows
        page.wait_for_timeout(500)
    page.wait_for_timeout(1000)


def entry(page: Any, name: str) -> Any:
    """Return the line of the tree that has a name, and perhaps a count after it."""
    exactly = re.compile(rf"^\s*{re.escape(name)}( \(\d+\))?\s*$")
    return page.locator(".file-entry", has_text=exactly).first


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--chromium", default="/usr/bin/chromium", metavar="FILE")
    arguments = parser.parse_args()
    from playwright.sync_api import sync_playwright

    folder = Path(tempfile.mkdtemp(prefix="screenshot-"))
    settings = er.read_settings(restored(folder))
    try:
        with (
            er.reachable(settings) as server,
            pgadmin(folder, server) as address,
            sync_playwright() as playwright,
        ):
            browser = playwright.chromium.launch(
                executable_path=arguments.chromium, args=list(BROWSER_OPTIONS)
            )
            page = browser.new_page(viewport={"width": 1280, "height": 760})
            page.goto(address)
            entry(page, TREE[0]).wait_for(timeout=60_000)
            page.wait_for_timeout(3000)
            show_rows(page)
            page.screenshot(path=str(DOCS / "pgadmin.png"))
            browser.close()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
