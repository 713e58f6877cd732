"""After every test, nothing is left: no descriptor, child, memory file or thread that was not there before."""

from __future__ import annotations

import gc
import importlib.util
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.waiting import ROOT

_PATIENCE_S = 5.0
_LOST = pytest.StashKey[bool]()
_KEPT_BY_OTHERS = ("Trio thread ", "tqdm_monitor")
"""Threads that other libraries keep for the next time, by how their names begin."""

# What takes long, in the order in which it starts where tests run side by side; each is marked ``slow``.
SLOW = (
    "test_every_widget_works_in_jupyterlab",
    "test_the_tour_of_an_installed_procbench",
    "test_every_notebook_says_what_it_said_before",
    "test_a_notebook_of_the_report_holds_what_it_holds_by_hand_and_can_be_used_by_everybody",
    "test_a_report_is_built_and_an_interrupted_one_leaves_it_in_place",
    "test_a_million_acquisitions_by_eight_threads",
    "test_a_kill_at_any_system_call_leaves_the_run_absent_or_whole",
    "test_style_types_and_floors_are_kept",
    "test_twenty_thousand_commands_of_every_kind",
    "test_ten_thousand_commands_with_every_fault_of_a_child",
    "test_two_hundred_killed_of_five_thousand_are_made_up_for",
    "test_many_threads_lend_and_give_back",
    "test_a_checked_cell_that_says_something_else_is_seen",
    "test_ten_thousand_rebalances",
    "test_a_million_items_by_eight_producers_and_consumers",
    "test_more_than_two_gibibytes",
    "test_three_gibibytes",
)


def place_among_slow(nodeid: str) -> int:
    """Return a test's place among those that take long, or their number when it is none of them."""
    name = nodeid.partition("[")[0].rpartition("::")[2]
    return SLOW.index(name) if name in SLOW else len(SLOW)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark what takes long, and put it first where tests run side by side: begun last, it would be waited for alone."""
    for item in items:
        if place_among_slow(item.nodeid) < len(SLOW):
            item.add_marker("slow")
    if hasattr(config, "workerinput"):
        items.sort(key=lambda item: place_among_slow(item.nodeid))


def pytest_collection_finish() -> None:
    """Let no collection look at what the imports made, again and again: it stays, and a test's own garbage is little."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> object:
    """Hand out what takes long test by test, and all else file by file, because a file's tests share what they set up.

    xdist's own groups cannot say so: it writes them into node ids, and pytest 9.2 no longer lets it, without a word.
    """
    from xdist.scheduler import LoadScopeScheduling

    config.option.loadscopereorder = False  # the order is this file's

    class SlowTestsAndFiles(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return nodeid.partition("::")[0] if place_among_slow(nodeid) == len(SLOW) else nodeid

    return SlowTestsAndFiles(config, log)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any, error: object) -> None:
    """Remember that a worker was lost: the tests that it still had were not run, and the run is no mere failure."""
    if error:
        node.config.stash[_LOST] = True


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Say by the exit status that tests were not run, so that to run again what failed is not taken for the whole."""
    if session.config.stash.get(_LOST, False):
        session.exitstatus = pytest.ExitCode.INTERNAL_ERROR


class Possessions(NamedTuple):
    """What this process has and a test must give back."""

    fds: frozenset[tuple[int, str]]
    children: frozenset[int]
    threads: frozenset[str]
    memory_files: int


def possessions() -> Possessions:
    """Look what this process has now."""
    fds = set()
    for link in Path("/proc/self/fd").iterdir():
        try:
            target = str(link.readlink())
        except FileNotFoundError:
            continue  # the listing's own
        if not target.endswith(".ttf"):  # matplotlib keeps the fonts that it has used
            fds.add((int(link.name), target))
    children = set()
    for path in Path("/proc/self/task").glob("*/children"):
        try:
            children.update(map(int, path.read_text().split()))
        except OSError:
            continue  # the thread ended meanwhile
    threads = {f"{t.name}#{t.ident}" for t in threading.enumerate() if not t.name.startswith(_KEPT_BY_OTHERS)}
    memory_files = Path("/proc/self/maps").read_bytes().count(b"/memfd:")
    return Possessions(frozenset(fds), frozenset(children), frozenset(threads), memory_files)


def left_behind(before: Possessions) -> list[str]:
    """Name what is there now and was not before."""
    now = possessions()
    left = [f"descriptor {fd} -> {target}" for fd, target in sorted(now.fds - before.fds)]
    left += [f"child {pid}" for pid in sorted(now.children - before.children)]
    left += [f"thread {name}" for name in sorted(now.threads - before.threads)]
    if now.memory_files > before.memory_files:
        left.append(f"{now.memory_files - before.memory_files} mapped memory files")
    return left


@pytest.fixture
def shaken() -> Iterator[None]:
    """Have threads change places at nearly every bytecode."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.fixture(autouse=True)
def leaves_nothing() -> Iterator[None]:
    """Fail a test that leaves something behind; what is just going away gets a moment."""
    before = possessions()
    yield
    end = time.monotonic() + _PATIENCE_S
    while left := left_behind(before):
        assert time.monotonic() < end, "left behind: " + "; ".join(left)
        gc.collect()
        time.sleep(0.01)


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel of this checkout, built where it changes nothing."""
    if importlib.util.find_spec("hatchling") is None:
        pytest.skip("hatchling, which builds the wheel, is not installed beside this Python")
    folder = tmp_path_factory.mktemp("wheel")
    ignored = shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints")
    for name in ("procbench", "notebooks", "data/recorded"):
        shutil.copytree(ROOT / name, folder / "source" / name, ignore=ignored)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder / "source")
    build = f"from hatchling.build import build_wheel; build_wheel({str(folder)!r})"
    done = subprocess.run([sys.executable, "-c", build], cwd=folder / "source", capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="session")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel in an environment of its own, which borrows the libraries, but not this checkout's procbench."""
    home = tmp_path_factory.mktemp("installed") / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", home], check=True)
    pip = [
        sys.executable,
        "-m",
        "pip",
        "--python",
        home / "bin" / "python",
        "install",
        "--no-deps",
        "--no-index",
        wheel,
    ]
    done = subprocess.run(pip, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (site,) = home.glob("lib/python*/site-packages")
    libraries = Path(importlib.util.find_spec("papermill").origin).parents[1]
    (site / "libraries.pth").write_text(f"{libraries}\n")
    for name in ("share", "etc"):  # nbconvert's templates and JupyterLab's pages; what belongs to a Jupyter server
        (home / name).mkdir(exist_ok=True)
        (home / name / "jupyter").symlink_to(libraries.parents[2] / name / "jupyter")
    return home


@pytest.fixture
def has_a_browser() -> None:
    """Skip where there is no browser; continuous integration brings one and says so."""
    from tests.browser import require_browser

    require_browser()
