"""A real JupyterLab on loopback, as ``procbench lab`` opens it, and Debian's Chromium that looks at it."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from procbench.views.jupyter import lab_command
from tests.command_line import INSTALLED_ENVIRONMENT
from tests.waiting import ROOT, wait_until

CHROMIUM = Path("/usr/bin/chromium")
FLAGS = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync", "--disable-dev-shm-usage"),
)
_START_S = 90.0

# What a screen reader would say of each control; nothing is what it must not be.
_NAMES = """() => [...document.querySelectorAll('.procbench button, .procbench input, .procbench select, .procbench progress,'
  + ' .procbench canvas')].map(e => [e.tagName, (e.getAttribute('aria-label') || [...(e.labels ?? [])].map(l => l.innerText)
  .join(' ') || (e.tagName == 'BUTTON' ? e.innerText : '')).trim(), e.outerHTML.slice(0, 200)])"""

_INK = """c => { const d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data; let n = 0;
  for (let i = 3; i < d.length; i += 4) n += d[i] > 0; return n }"""


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


def require_browser() -> None:
    """Skip a test where there is no browser, with the reason; fail where ``PROCBENCH_BROWSER`` says that there must be one."""
    why = why_not()
    if why and os.environ.get("PROCBENCH_BROWSER"):
        pytest.fail(f"PROCBENCH_BROWSER is set, and {why}")
    if why:
        pytest.skip(why)


@contextlib.contextmanager
def jupyter_lab(folder: Path, home: Path, *, python: Path | None = None) -> Iterator[Server]:
    """Run JupyterLab on a folder with nothing of the user's own, and end it with its kernels.

    Args:
        folder: What it shows.
        home: An empty folder for its settings, logs and whatever it keeps.
        python: The interpreter of an environment with procbench installed; None for this one, with this checkout.
    """
    home.mkdir(parents=True, exist_ok=True)
    log, runtime = home / "log", home / "runtime"
    names = ("CONFIG_DIR", "DATA_DIR", "RUNTIME_DIR")
    environment = {
        **({**os.environ, "PYTHONPATH": str(ROOT)} if python is None else INSTALLED_ENVIRONMENT),
        **{f"JUPYTER_{name}": str(home / name.partition("_")[0].lower()) for name in names},
        "JUPYTERLAB_SETTINGS_DIR": str(home / "settings"),
        "JUPYTERLAB_WORKSPACES_DIR": str(home / "workspaces"),
        "IPYTHONDIR": str(home / "ipython"),
        "JUPYTER_PREFER_ENV_PATH": "1",
    }
    for place, values in (
        ("apputils-extension/notification", {"fetchNews": "false", "checkForUpdates": False}),
        ("apputils-extension/themes", {"theme": "JupyterLab Light"}),
    ):
        path = home / "settings" / "@jupyterlab" / f"{place}.jupyterlab-settings"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(values))
    argv = [*lab_command(folder, no_browser=True), "--ServerApp.port=0", "--LabApp.news_url="]
    if python is not None:
        argv[0] = str(python)
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
        page.on("console", self._said)
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("request", lambda request: self._asked(request.url))

    def _said(self, said: Any) -> None:
        if said.type == "error":
            self.errors.append(f"{said.text} ({said.location['url']})")

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
    wait_for_notebook(page)


def wait_for_notebook(page: Any) -> None:
    """Wait until a notebook is open and its kernel is idle."""
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


def wait_for(page: Any, condition: Any, what: str) -> None:
    """Wait as the page goes on: playwright's events come only while it is asked for something."""
    for _ in range(600):
        if condition():
            return
        page.wait_for_timeout(50)
    pytest.fail(f"{what} did not come true")


def photograph(page: Any, tmp_path: Path, name: str) -> None:
    """Take a picture; kept where somebody wants to look at it."""
    page.screenshot(path=tmp_path / f"{name}.png")
    if kept := os.environ.get("PROCBENCH_SCREENSHOTS"):
        Path(kept).mkdir(parents=True, exist_ok=True)
        shutil.copy(tmp_path / f"{name}.png", kept)


def monitor_is_live(page: Any) -> None:
    dashboard = page.locator(".procbench-monitor")
    canvas = dashboard.locator("canvas").first
    canvas.wait_for()
    drawn = int(canvas.get_attribute("data-drawn") or 0)
    wait_for(page, lambda: int(canvas.get_attribute("data-drawn") or 0) > drawn + 2, "the charts move")
    assert canvas.evaluate(_INK) > 1000
    dashboard.get_by_label("Window").select_option("5 min")
    dashboard.get_by_label("Note").fill("hello <i>there</i>")
    dashboard.get_by_role("button", name="Mark").click()
    dashboard.get_by_role("button", name="Pause").click()
    dashboard.get_by_text("paused").wait_for()
    dashboard.get_by_role("button", name="Go on").click()
    dashboard.get_by_role("button", name="Pause").wait_for()


def turn_dark(page: Any) -> None:
    """Choose the dark theme from the menu, and wait until everything has its colours."""
    page.get_by_role("menuitem", name="Settings", exact=True).click()
    page.get_by_text("Theme", exact=True).click()
    page.get_by_text("JupyterLab Dark", exact=True).click()
    page.locator("body[data-jp-theme-light=false]").wait_for(state="attached")
    page.wait_for_timeout(700)


def cell_problems(page: Any) -> list[str]:
    """Return what cells say that nobody should have to read: errors, and what went to standard error."""
    return page.locator("[data-mime-type='application/vnd.jupyter.stderr'], .jp-mod-error").all_inner_texts()


def looks_right_in_both_themes(page: Any, tmp_path: Path, name: str = "") -> list[Any]:
    """Take pictures in light and in dark, and find every control usable; return the controls.

    Args:
        page: A notebook whose widgets were used, in the light theme; it is in the dark one then.
        tmp_path: Where the pictures go.
        name: The beginning of their names; empty for none.
    """
    for theme in ("light", "dark"):
        if theme == "dark":
            turn_dark(page)
        photograph(page, tmp_path, f"{name}{theme}")
        assert barriers(page, ".procbench") == []
    names = page.evaluate(_NAMES)
    assert [html for _, said, html in names if not said] == []
    assert not any(twin.is_visible() for twin in page.locator(".procbench-twin").all())
    return names


def nobody_complains(page: Any, seen: Seen, server: Server) -> None:
    """See that neither a cell, the page's console nor the server's log has an error, and that nothing came from outside."""
    assert cell_problems(page) == []
    assert (seen.errors, seen.outside, server.problems()) == ([], [], [])
