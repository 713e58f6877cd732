"""The rules of the house that a machine can check."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.conftest import SLOW

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def requirements() -> set[str]:
    return {*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["test"]}


def name_of(requirement: str) -> str:
    return re.split(r"[<>=!~ \[]", requirement, maxsplit=1)[0].lower().replace("_", "-")


def test_environment_yml_names_the_packages_and_bounds_of_pyproject():
    listed = re.findall(r"^  - ([^\s:]+)$", (ROOT / "environment.yml").read_text(), re.M)
    of_conda = {"conda-forge", "pip", "python" + PROJECT["requires-python"]}
    assert set(listed) - of_conda == requirements()
    assert of_conda <= set(listed)


def test_every_requirement_is_pinned_by_name_and_version_alone():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9._!+-]+", line) for line in lines)
    pinned = {name_of(line) for line in lines}
    assert {name_of(requirement) for requirement in requirements()} <= pinned


def test_importing_procbench_loads_no_heavy_library():
    heavy = ("pandas", "numpy", "matplotlib", "psutil", "ipywidgets", "scipy", "pyarrow", "papermill")
    code = (
        "import sys, procbench; procbench.run, procbench.WorkStealingScheduler;"
        f"print([name for name in {heavy} if name in sys.modules])"
    )
    said = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert said.stdout.strip() == "[]"


def test_every_public_name_can_be_had():
    import procbench

    assert all(getattr(procbench, name) is not None for name in procbench.__all__)
    assert set(procbench.__all__) <= set(dir(procbench))
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        procbench.nonsense  # noqa: B018 - the look itself is what raises


@pytest.mark.parametrize(
    "command", [["ruff", "check", "."], ["ruff", "format", "--check", "."], ["mypy"], ["lint-imports"]]
)
def test_style_types_and_floors_are_kept(command: list[str]):
    tool = Path(sys.executable).with_name(command[0])
    if not tool.exists():
        pytest.skip(f"{command[0]} is not installed beside this Python")
    said = subprocess.run([tool, *command[1:]], cwd=ROOT, capture_output=True, text=True)
    assert said.returncode == 0, said.stdout + said.stderr


def test_no_code_runs_between_fork_and_exec():
    """L23: a lock that another thread holds at the fork would be held in the child for ever."""
    for path in (ROOT / "procbench").rglob("*.py"):
        assert not re.search(r"preexec_fn\s*=|\bos\.fork\(|shell\s*=\s*True|\bselect\.select\(", path.read_text()), path


def test_what_is_listed_as_slow_is_there():
    tests = "".join(path.read_text() for path in Path(__file__).parent.glob("test_*.py"))
    assert [name for name in SLOW if f"def {name}(" not in tests] == []


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md"])
def test_every_relative_link_of_a_page_leads_somewhere(page: str):
    links = re.findall(r"\]\((?!https?:)([^)#]+)\)", (ROOT / page).read_text())
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_the_benchmarks_can_be_started():
    """They are run by hand, so that nothing else would notice an import that is no longer there."""
    argv = [sys.executable, "-m", "benchmarks", "--help"]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "section" in done.stdout
