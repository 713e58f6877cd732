"""One notebook runs in a child process, and nothing of it is left afterwards."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
import tempfile
import uuid
from pathlib import Path

import nbformat
import pytest

from procbench.errors import InvalidInputError
from procbench.views.children import render_in_child, run_child
from procbench.views.notebooks import read_notebook
from procbench.views.render import EXIT_STATUS, RenderJob, child_environment, outcome_from_json, scratch_folder
from tests.waiting import processes_with, wait_until

PATIENCE_S = 60.0

STRAYS = """import subprocess, sys
wait = "import signal, sys; signal.signal(signal.SIGTERM, signal.SIG_IGN); signal.pause()"
subprocess.Popen([sys.executable, "-c", wait, marker], start_new_session=True, env={})
twice = "import os, sys; os.fork() and os._exit(0); os.setsid(); import signal; signal.pause()"
subprocess.run([sys.executable, "-c", twice, marker])"""

TCP = """import os
links = (os.readlink(entry.path) for entry in os.scandir("/proc/self/fd") if os.path.islink(entry.path))
own = {link[8:-1] for link in links if link.startswith("socket:")}
rows = [line.split() for name in ("tcp", "tcp6") for line in open(f"/proc/self/net/{name}").readlines()[1:]]
print("tcp:", [row[1] for row in rows if row[9] in own], "unix:", any(row.split()[6] in own for row in
      open("/proc/self/net/unix").readlines()[1:]))"""


def write(path: Path, *sources: str) -> Path:
    """Write a notebook whose first cell is tagged ``parameters``."""
    cells = [nbformat.v4.new_code_cell(source) for source in sources]
    cells[0].metadata["tags"] = ["parameters"]
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(nbformat.v4.new_notebook(cells=cells), str(path))
    return path


@pytest.fixture
def marker():
    """A word for command lines; no process that carries it survives the test."""
    word = f"procbench-test-{uuid.uuid4().hex}"
    yield word
    left = processes_with(word)
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    assert not left


@pytest.fixture
def scratch():
    with scratch_folder() as folder:
        yield folder


def job_for(notebook: Path, scratch: Path, **parameters) -> RenderJob:
    return RenderJob(notebook, notebook.with_name("executed.ipynb"), parameters, 50, notebook.parent, scratch)


def printed(notebook: Path) -> str:
    return "".join(
        output.get("text", "") for cell in read_notebook(notebook).cells for output in cell.get("outputs", ())
    )


def test_a_notebook_runs_with_its_parameters_on_unix_sockets_and_leaves_nothing(tmp_path, scratch, marker, monkeypatch):
    """R12: braces in a path are plain characters; R09: daemons of a notebook end with it; no TCP port is opened."""
    monkeypatch.setenv("MPLBACKEND", "agg")
    folder = tmp_path / "o {a} {a.__class__.__mro__} {{b}} {}"
    show = "import os, sys\nprint(workers, batches, os.getcwd() == folder, sys.executable, os.environ['IPYTHONDIR'])"
    fork = """import multiprocessing
child = multiprocessing.get_context("fork").Process(target=print, args=("forked",))
child.start()
child.join()"""
    plot = "from matplotlib import pyplot\npyplot.figure(figsize=(1, 1)).subplots()\nNone"
    first = "workers: int = 1\nbatches: tuple[int, ...] = (1,)\nmarker: str = ''\nfolder: str = ''"
    notebook = write(folder / "in.ipynb", first, show, TCP, fork, plot, STRAYS)
    job = job_for(notebook, scratch, workers=3, batches=[1, 2], marker=marker, folder=str(folder))
    outcome, _ = render_in_child(job, PATIENCE_S)
    assert (outcome.status, outcome.error, outcome.cell) == ("ok", "", None)
    assert outcome.strays == 2
    assert processes_with(marker) == []
    text = printed(job.output)
    assert f"3 [1, 2] True {sys.executable} {scratch}" in text
    assert "tcp: [] unix: True" in text
    assert "forked" in text
    pictures = [
        o for c in read_notebook(job.output).cells for o in c.get("outputs", ()) if "image/png" in o.get("data", {})
    ]
    assert len(pictures) == 1
    assert sorted(path.name for path in folder.iterdir()) == ["executed.ipynb", "in.ipynb"]
    assert [path.name for path in tmp_path.iterdir()] == [folder.name]


def test_a_kernel_that_is_killed_is_told_apart_and_what_it_had_done_is_kept(tmp_path, scratch, marker):
    """R08: the outcome is kernel_died with the cell, and the output is a valid notebook."""
    kill = "import os\nos.kill(os.getpid(), 9)"
    notebook = write(tmp_path / "in.ipynb", "marker: str = ''", f"print('so far')\n{STRAYS}", kill, "print('never')")
    job = job_for(notebook, scratch, marker=marker)
    outcome, _ = render_in_child(job, PATIENCE_S)
    assert (outcome.status, outcome.cell) == ("kernel_died", 3)
    assert printed(job.output) == "so far\n"
    assert processes_with(marker) == []


def test_a_cell_that_hangs_is_ended_by_its_limit(tmp_path, scratch):
    hang = "import threading\nthreading.Event().wait()"
    notebook = write(tmp_path / "in.ipynb", "x = 1", "print('so far')", hang)
    job = RenderJob(notebook, tmp_path / "out.ipynb", {}, 0.5, tmp_path, scratch)
    outcome, _ = render_in_child(job, PATIENCE_S)
    assert (outcome.status, outcome.cell) == ("timed_out", 3)
    assert printed(job.output) == "so far\n"


def test_an_undeclared_parameter_never_reaches_papermill(tmp_path, scratch):
    """R11: the rendering process checks names itself, whoever wrote its job."""
    notebook = write(tmp_path / "in.ipynb", "x = 1")
    owned = tmp_path / "owned"
    name = f"x = 1\nopen({str(owned)!r}, 'w')\ny"
    outcome, _ = render_in_child(job_for(notebook, scratch, **{name: 1}), PATIENCE_S)
    assert outcome.status == "failed"
    assert "has no parameter" in outcome.error
    assert not owned.exists()
    assert not (tmp_path / "executed.ipynb").exists()


def test_a_corrupt_notebook_is_an_outcome_with_its_name(tmp_path, scratch):
    """R10: typed, and the message names the file."""
    (tmp_path / "in.ipynb").write_text("{")
    outcome, _ = render_in_child(job_for(tmp_path / "in.ipynb", scratch), PATIENCE_S)
    assert outcome.status == "failed"
    assert "NotebookError" in outcome.error
    assert str(tmp_path / "in.ipynb") in outcome.error


@pytest.mark.parametrize(
    ("number", "how"),
    [(signal.SIGTERM, "with status 143"), (signal.SIGINT, "with status 130"), (signal.SIGKILL, "by signal 9")],
)
def test_a_rendering_process_that_gets_a_signal_leaves_no_process(tmp_path, scratch, marker, number, how):
    """R09: kernel and daemons are gone after TERM, INT and KILL, and the part that was done can be read."""
    ready = tmp_path / "ready"
    last = f"open({str(ready)!r}, 'w').write(str(os.getppid()))\nimport threading\nthreading.Event().wait()"
    notebook = write(tmp_path / "in.ipynb", "marker: str = ''", "print('so far')", f"import os\n{STRAYS}\n{last}")
    job = job_for(notebook, scratch, marker=marker)

    def strike(_seconds: float) -> None:
        if ready.exists() and ready.read_text():
            os.kill(int(ready.read_text()), number)

    outcome, _ = render_in_child(job, PATIENCE_S, strike)
    assert outcome.status == "failed"
    assert how in outcome.error
    assert printed(job.output) == "so far\n"
    if number != signal.SIGKILL:
        assert processes_with(marker) == []
    else:  # the marker in the environment tells the orphans; the one that cleared its environment is the price
        for pid in processes_with(marker):
            assert b"PROCBENCH" not in Path(f"/proc/{pid}/environ").read_bytes()
            os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not processes_with(marker), "the last orphan's end", PATIENCE_S)


def test_the_limit_ends_a_child_with_its_daemons(scratch, marker):
    """L05: even one in a session of its own, twice forked, with an empty environment."""
    source = """import os, signal, sys
from procbench.linux import set_child_subreaper
set_child_subreaper(True)
if not os.fork():
    os.setsid()
    os.fork() and os._exit(0)
    os.execve(sys.executable, [sys.executable, "-c", "import signal; signal.pause()", sys.argv[1]], {})
os.wait()
print("up", flush=True)
signal.pause()"""
    argv = [sys.executable, "-c", source, marker]
    waits = []
    end = run_child(
        argv, job="", env=child_environment(scratch, os.environ), folder=scratch, timeout_s=2.5, on_wait=waits.append
    )
    assert end.timed_out
    assert end.returncode == -signal.SIGKILL
    assert end.output == "up\n"
    assert waits == sorted(waits)
    assert len(waits) >= 2
    assert processes_with(marker) == []


def test_what_interrupts_the_waiting_ends_the_child_too(scratch, marker):
    """L10: Ctrl-C in the reporting process leaves no child behind."""

    def interrupt(_seconds: float) -> None:
        raise KeyboardInterrupt

    argv = [sys.executable, "-c", "import signal; signal.pause()", marker]
    with pytest.raises(KeyboardInterrupt):
        run_child(argv, job="", env=os.environ, folder=scratch, timeout_s=PATIENCE_S, on_wait=interrupt)
    assert processes_with(marker) == []


def test_a_rendering_process_ends_when_its_parent_is_killed(tmp_path, scratch, marker):
    """R09, L08: a killed reporter leaves neither renderer nor kernel nor daemons."""
    ready = tmp_path / "ready"
    last = f"open({str(ready)!r}, 'w').close()\nimport threading\nthreading.Event().wait()"
    notebook = write(tmp_path / "in.ipynb", "marker: str = ''", f"{STRAYS}\n{last}")
    job = job_for(notebook, scratch, marker=marker)
    (tmp_path / "job").write_text(job.to_json())
    source = """import subprocess, sys
subprocess.run([sys.executable, "-P", "-m", "procbench.views.render"], stdin=open(sys.argv[1]))"""
    env = child_environment(scratch, os.environ)
    parent = subprocess.Popen([sys.executable, "-c", source, str(tmp_path / "job")], env=env)
    try:
        wait_until(ready.exists, "the notebook's last cell", PATIENCE_S)
    finally:
        parent.kill()
        parent.wait()
    wait_until(
        lambda: not processes_with(marker) and not processes_with(str(scratch)), "the end of the orphans", PATIENCE_S
    )
    wait_until(lambda: not scratch.exists(), "the removal of the sockets", PATIENCE_S)
    assert not job.output.exists()


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"notebook": 3}'])
def test_what_is_no_job_is_refused(text):
    with pytest.raises(InvalidInputError, match="no render job"):
        RenderJob.from_json(text)


def test_a_job_with_a_relative_path_is_refused(tmp_path):
    """R12: nothing depends on the working folder."""
    job = RenderJob(Path("a.ipynb"), tmp_path / "b.ipynb", {}, 1, tmp_path, tmp_path)
    with pytest.raises(InvalidInputError, match="notebook"):
        RenderJob.from_json(job.to_json())


def test_every_outcome_has_an_exit_status_of_its_own():
    assert len(set(EXIT_STATUS.values())) == len(EXIT_STATUS) == 4
    assert EXIT_STATUS["ok"] == 0


@pytest.mark.parametrize("text", ["", "Traceback", "{}", '{"status": "great"}', '{"status": "ok"}', "3"])
def test_an_answer_that_is_none_is_not_taken_for_one(text):
    assert outcome_from_json(text) is None


def test_the_scratch_folder_is_private_short_and_gone_afterwards(tmp_path, monkeypatch):
    """The connection file holds the kernel's key, and a Unix socket's path has 108 bytes."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / ("x" * 100)))
    with scratch_folder() as folder:
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert len(os.fsencode(folder / "k-12345-forked")) < 108
    assert not folder.exists()
    with tempfile.TemporaryDirectory(dir="/tmp") as short, scratch_folder(Path(short)) as folder:
        assert folder.parent == Path(short)


def test_the_users_own_jupyter_stays_out(tmp_path):
    theirs = {
        "JUPYTER_PATH": "/theirs",
        "MPLBACKEND": "tkagg",
        "IPYTHONDIR": "/theirs",
        "HOME": "/home/they",
        "PYTHONPATH": "/p",
    }
    env = child_environment(tmp_path, theirs)
    assert "/theirs" not in "".join(env.values())
    assert "MPLBACKEND" not in env
    assert env["HOME"] == "/home/they"
    assert env["PYTHONPATH"].endswith(f"{os.pathsep}/p")
    spec = json.loads((tmp_path / "data" / "kernels" / "python3" / "kernel.json").read_text())
    assert spec["argv"][0] == sys.executable
