"""A real JupyterLab on loopback, as ``procbench lab`` opens it, and Debian's Chromium that looks at it."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from procbench.views.jupyter import lab_command
from tests.waiting import ROOT, wait_until

CHROMIUM = Path("/usr/bin/chromium")
FLAGS = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync", "--disable-dev-shm-usage"),
)
_START_S = 90.0


class Server(NamedTuple):
    """A JupyterLab that runs.

    Attributes:
        url: Its address, with the token.
        log: File that it writes its log to.
        folder: What it shows.
        pid: Its process.
    """

    url: str
    log: Path
    folder: Path
    pid: int

    def problems(self) -> list[str]:
        """Return the lines of its log that tell of an error, with what belongs to them."""
        lines = self.log.read_text(errors="replace").splitlines()
        return [line for line in lines if re.match(r"^\[E |.*Traceback|\w*Error\b", line)]


def why_not() -> str:
    """Return why nothing can be driven by a browser here, or nothing."""
    if not CHROMIUM.exists():
        return f"there is no {CHROMIUM}; on Debian: apt-get install chromium"
    try:
        import axe_playwright_python.sync_playwright  # noqa: F401 - whether they are there
        import playwright.sync_api  # noqa: F401
    except ImportError as error:
        return f"{error}; it belongs to the extra 'test'"
    return ""


@contextlib.contextmanager
def jupyter_lab(folder: Path, home: Path, *, theme: str = "JupyterLab Light") -> Iterator[Server]:
    """Run JupyterLab on a folder with nothing of the user's own, and end it with its kernels.

    Args:
        folder: What it shows.
        home: An empty folder for its settings, logs and whatever it keeps.
        theme: How it looks.
    """
    home.mkdir(parents=True, exist_ok=True)
    log, runtime = home / "log", home / "runtime"
    names = ("CONFIG_DIR", "DATA_DIR", "RUNTIME_DIR")
    environment = {
        **os.environ,
        **{f"JUPYTER_{name}": str(home / name.partition("_")[0].lower()) for name in names},
        "JUPYTERLAB_SETTINGS_DIR": str(home / "settings"),
        "JUPYTERLAB_WORKSPACES_DIR": str(home / "workspaces"),
        "IPYTHONDIR": str(home / "ipython"),
        "PYTHONPATH": str(ROOT),
        "JUPYTER_PREFER_ENV_PATH": "1",
    }
    for place, values in (
        ("apputils-extension/notification", {"fetchNews": "false", "checkForUpdates": False}),
        ("apputils-extension/themes", {"theme": theme}),
    ):
        path = home / "settings" / "@jupyterlab" / f"{place}.jupyterlab-settings"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(values))
    argv = [*lab_command(folder, no_browser=True), "--ServerApp.port=0", "--LabApp.news_url="]
    with log.open("wb") as out:
        child = subprocess.Popen(argv, env=environment, stdin=subprocess.DEVNULL, stdout=out, stderr=out, cwd=home)
    try:
        wait_until(lambda: _told(runtime, child, log), "JupyterLab's start", _START_S)
        told = _told(runtime, child, log)
        assert told["token"], "the token must be on"
        yield Server(f"{told['url']}lab?token={told['token']}", log, folder, child.pid)
    finally:
        child.send_signal(signal.SIGTERM)
        try:
            child.wait(30)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


def _told(runtime: Path, child: subprocess.Popen[bytes], log: Path) -> dict[str, Any]:
    assert child.poll() is None, f"JupyterLab ended: {log.read_text(errors='replace')}"
    for path in runtime.glob("jpserver-*.json"):
        with contextlib.suppress(ValueError):  # half written
            return json.loads(path.read_text())
    return {}


class Seen:
    """What a page said and asked for.

    Attributes:
        errors: Errors on its console, and exceptions that nobody caught.
        outside: Addresses that it asked for other than the server's.
    """

    def __init__(self, page: Any) -> None:
        self.errors: list[str] = []
        self.outside: list[str] = []
        page.on("console", lambda said: self.errors.append(said.text) if said.type == "error" else None)
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("request", lambda request: self._asked(request.url))

    def _asked(self, url: str) -> None:
        if not re.match(r"(https?|wss?)://127\.0\.0\.1:|data:|blob:|about:", url):
            self.outside.append(url)


@contextlib.contextmanager
def chromium(width: int = 1400, height: int = 3000) -> Iterator[Any]:
    """Yield a new page of Chromium; it has a profile of its own, and is gone at the end."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=[*FLAGS])
        try:
            page = browser.new_page(viewport={"width": width, "height": height})
            page.set_default_timeout(60_000)  # others may keep both cores busy
            yield page
        finally:
            browser.close()


def open_notebook(page: Any, server: Server, name: str) -> None:
    """Open a notebook, and wait until its kernel is idle."""
    page.goto(server.url.replace("/lab?", f"/lab/tree/{name}?"))
    page.wait_for_selector(".jp-Notebook .jp-Cell", timeout=90_000)
    # Asked before its kernel is there, JupyterLab would ask back which one is meant.
    page.get_by_text(re.compile(r"\| Idle$")).wait_for(timeout=90_000)


def barriers(page: Any, within: str) -> list[str]:
    """Return what axe-core finds serious or critical for people with a screen reader, a keyboard or poor sight."""
    from axe_playwright_python.sync_playwright import Axe

    response = Axe().run(page, context=within).response
    assert response["passes"], f"axe-core found nothing to look at within {within}"
    return [
        f"{one['id']}: {one['help']}: {node['html'][:200]}"
        for one in response["violations"]
        if one["impact"] in ("serious", "critical")
        for node in one["nodes"]
    ]


def run_all(page: Any, timeout_s: float = 60.0) -> None:
    """Run all cells from the menu, and wait until the last has ended."""
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_text("Run All Cells", exact=True).click()
    end = time.monotonic() + timeout_s
    cells = page.locator(".jp-CodeCell .jp-InputArea .jp-InputPrompt")
    while not all(re.match(r"\[\d+\]:", text) for text in cells.all_inner_texts()):
        assert time.monotonic() < end, f"cells still run: {cells.all_inner_texts()}"
        page.wait_for_timeout(50)
