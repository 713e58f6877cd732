"""`procbench init`: from a checkout and from a wheel; and what a wheel brings along."""

import stat
import subprocess
import zipfile
from pathlib import Path

import pytest

from procbench import cli
from procbench.errors import InvalidInputError
from procbench.views import workspace
from procbench.views.jupyter import lab_command
from procbench.views.notebooks import find_notebooks, notebook_folders
from procbench.views.workspace import TOUR, make_workspace
from tests.command_line import INSTALLED_ENVIRONMENT

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted(path.name for path in (ROOT / "notebooks").glob("*.ipynb"))


def test_a_wheel_brings_every_notebook_and_template_and_no_leftover(wheel: Path):
    names = zipfile.ZipFile(wheel).namelist()
    shipped = sorted(Path(name).name for name in names if name.startswith("procbench/notebooks/"))
    assert shipped == NOTEBOOKS
    assert "procbench/views/templates/style.css" in names
    assert not [name for name in names if "checkpoint" in name or name.startswith(("tests", "benchmarks", "data"))]


def test_a_folder_made_from_a_wheel_holds_its_notebooks_and_they_are_those_that_run(installed: Path, tmp_path: Path):
    """No checkout is near: notebooks come from the wheel, can be changed, and the report runs the changed ones."""

    def procbench(*arguments: str) -> subprocess.CompletedProcess[str]:
        argv = [str(installed / "bin" / "procbench"), *arguments]
        return subprocess.run(
            argv, cwd=tmp_path, env=INSTALLED_ENVIRONMENT, capture_output=True, text=True, timeout=300
        )

    done = procbench("init", "mine")
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{tmp_path / 'mine'}\n"
    assert sorted(path.name for path in (tmp_path / "mine" / "notebooks").iterdir()) == NOTEBOOKS
    pools = next((tmp_path / "mine" / "notebooks").glob("*_pools.ipynb"))
    pools.write_text(pools.read_text().replace("# ", "# Mine: ", 1))
    asked = ("--notebooks", "mine/notebooks", "--only", "pools", "--set", "budget_s=0.5", "--data", "mine/data")
    done = procbench("report", *asked, "--out", "mine/reports")
    assert done.returncode == 0, done.stderr
    assert "Mine: " in Path(done.stdout.strip()).read_text()
    assert list((tmp_path / "mine" / "data").rglob("*.parquet"))


def test_a_folder_has_copies_to_change_and_room_beside_them(tmp_path: Path):
    made = make_workspace(tmp_path / "a" / "b")
    assert made == tmp_path / "a" / "b"
    assert sorted(path.name for path in made.iterdir()) == ["README.md", "data", "notebooks", "reports"]
    for source in find_notebooks(notebook_folders()[1:]):
        copy = made / "notebooks" / source.name
        assert copy.read_bytes() == source.read_bytes()
        assert copy.stat().st_mode & stat.S_IWUSR


@pytest.mark.parametrize("name", ["notebooks", "data", "reports", "README.md"])
def test_nothing_is_overwritten(tmp_path: Path, name: str):
    """A taken name is refused, and nothing else is made; what else lies in the folder is no matter."""
    (tmp_path / "jobs.txt").write_text("true\n")
    (tmp_path / name).symlink_to("nowhere")
    with pytest.raises(InvalidInputError, match=f"has {name} already"):
        make_workspace(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["jobs.txt", name])
    (tmp_path / name).unlink()
    make_workspace(tmp_path)
    assert (tmp_path / "jobs.txt").read_text() == "true\n"


def test_a_file_is_no_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "file").touch()
    assert cli.run_command(["init", str(tmp_path / "file")]) == 2
    assert "is a file; name a folder" in capsys.readouterr().err
    assert cli.run_command(["init", str(tmp_path / "file" / "below")]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_what_was_half_made_is_taken_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A name that is taken at the last moment leaves the folder as it was."""
    fill = workspace._fill

    def fill_while_another_makes_reports(hidden: Path, notebooks: list[Path]) -> None:
        fill(hidden, notebooks)
        (tmp_path / "reports").mkdir()

    monkeypatch.setattr(workspace, "_fill", fill_while_another_makes_reports)
    with pytest.raises(InvalidInputError, match="reports has been made meanwhile"):
        make_workspace(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["reports"]


def test_lab_opens_on_the_tour(tmp_path: Path):
    """In a folder of one's own, and in that of the notebooks; where there is no tour Jupyter opens as it does."""
    made = make_workspace(tmp_path / "mine")
    (made / "notebooks" / TOUR).touch()
    assert f"--LabApp.default_url=/lab/tree/notebooks/{TOUR}" in lab_command(made, no_browser=True)
    assert f"--LabApp.default_url=/lab/tree/{TOUR}" in lab_command(made / "notebooks", no_browser=True)
    assert "default_url" not in " ".join(lab_command(tmp_path, no_browser=True))
