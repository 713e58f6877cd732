"""axe-core over a page of ours, in a real browser; nothing is loaded from outside."""

from __future__ import annotations

import html
import importlib.util
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
_OPTIONS = (
    "--headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking --virtual-time-budget=20000"
)
_RUN = """axe.run(document, {resultTypes: ["violations"]}).then(found => {
  const shown = document.createElement("pre");
  shown.id = "axe-result";
  shown.textContent = JSON.stringify(found.violations.map(one => ({
    id: one.id, impact: one.impact, help: one.help, where: one.nodes.map(node => node.html.slice(0, 200))})));
  document.body.append(shown);
});"""


def axe_source() -> str:
    """Return axe-core's script, or skip."""
    found = importlib.util.find_spec("axe_playwright_python")
    if CHROMIUM is None or found is None or not found.submodule_search_locations:
        pytest.skip("needs Chromium, and axe-core from the package axe-playwright-python")
    (script,) = Path(found.submodule_search_locations[0]).rglob("axe.min.js")
    return script.read_text(encoding="utf-8")


def violations(page: str, folder: Path, *, dark: bool = False) -> list[dict[str, Any]]:
    """Return what axe finds serious or critical in a page, as a person with light or dark settings has it."""
    # The page's own policy forbids every script: it is taken out of the copy that is looked at.
    opened = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", page)
    script = f"<script>{axe_source()}</script><script>{_RUN}</script>"
    copy = folder / "page.html"
    copy.write_text(opened.replace("</body>", f"{script}</body>"), encoding="utf-8")
    theme = ["--blink-settings=preferredColorScheme=0"] if dark else []
    argv = [
        str(CHROMIUM),
        *_OPTIONS.split(),
        *theme,
        f"--user-data-dir={folder / 'browser'}",
        "--dump-dom",
        copy.as_uri(),
    ]
    said = subprocess.run(argv, capture_output=True, text=True, timeout=120).stdout
    result = re.search(r'<pre id="axe-result">(.*?)</pre>', said, re.S)
    assert result is not None, "axe did not come to its end"
    found: list[dict[str, Any]] = json.loads(html.unescape(result[1]))
    return [one for one in found if one["impact"] in {"serious", "critical"}]
