"""Execute one notebook: ``python -m procbench.views.render`` reads a job on stdin and says on stdout how it went.

A process of its own for each notebook, because papermill changes the working folder of the whole process, can hang, and
leaves processes behind when it is ended. The job is one JSON object, see `RenderJob`; the answer is one JSON line, see
`RenderOutcome`. This process is the subreaper of everything that the notebook starts, and ends all of it before it ends
itself: when the notebook is done, on SIGTERM, on Ctrl-C, and when its parent is gone.
"""

from __future__ import annotations

import json
import math
import os
import select
import shutil
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from procbench.errors import InvalidInputError, NotebookError
from procbench.linux import set_child_subreaper
from procbench.views.families import end_descendants, reap_everything
from procbench.views.notebooks import (
    PARAMETERS_TAG,
    Plain,
    check_parameters,
    declared_parameters,
    has_tag,
    read_notebook,
)

Status = Literal["ok", "failed", "timed_out", "kernel_died"]

EXIT_STATUS: Mapping[str, int] = {"ok": 0, "failed": 3, "timed_out": 4, "kernel_died": 5}
"""The process's exit status for each outcome; 2 is a job that makes no sense, 143 and 130 are signals."""

_IOPUB_TIMEOUT_S = 60  # papermill's own 4 s are fatal on a busy machine
_LONGEST_BASE = 70  # a Unix socket's path has 108 bytes (unix(7)); the rest is for our folder and the socket's name


@dataclass(frozen=True)
class RenderJob:
    """One notebook to execute.

    Attributes:
        notebook: Absolute path of the notebook.
        output: Absolute path for the executed notebook; it appears whole or not at all.
        parameters: Plain JSON values by name; checked against the notebook's declaration.
        cell_timeout_s: Limit for each cell, in seconds; rounded up to whole ones.
        cwd: Working folder of the kernel.
        scratch: Private folder (0700) for sockets and settings, short enough for a Unix socket's path.
    """

    notebook: Path
    output: Path
    parameters: Mapping[str, Plain]
    cell_timeout_s: float
    cwd: Path
    scratch: Path

    def to_json(self) -> str:
        """Return the job as JSON text."""
        return json.dumps({k: str(v) if isinstance(v, Path) else v for k, v in vars(self).items()}, allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> RenderJob:
        """Read a job.

        Raises:
            InvalidInputError: It is no JSON object of these fields, or a path is not absolute.
        """
        try:
            data = json.loads(text)
            paths = {name: Path(data[name]) for name in ("notebook", "output", "cwd", "scratch")}
            job = cls(parameters=dict(data["parameters"]), cell_timeout_s=float(data["cell_timeout_s"]), **paths)
        except (ValueError, KeyError, TypeError) as error:
            raise InvalidInputError(f"this is no render job: {type(error).__name__}: {error}") from error
        if relative := [name for name, path in paths.items() if not path.is_absolute()]:
            raise InvalidInputError(f"a render job's paths must be absolute; these are not: {', '.join(relative)}")
        return job

    @property
    def partial_output(self) -> Path:
        """Where the notebook grows, cell by cell, while it runs; what a killed process leaves behind."""
        return self.output.with_name(f".{self.output.stem}.partial.ipynb")


@dataclass(frozen=True)
class RenderOutcome:
    """How the execution of a notebook ended.

    Attributes:
        status: ``ok``, ``failed`` (a cell raised), ``timed_out`` (a cell ran past its limit) or ``kernel_died``.
        error: What went wrong, ``""`` when nothing did.
        cell: The 1-based position in the notebook of the cell that was running when it did, else ``None``.
        strays: How many processes the notebook had left behind; they were ended.
    """

    status: Status
    error: str = ""
    cell: int | None = None
    strays: int = 0


@contextmanager
def scratch_folder(inside: Path | None = None) -> Iterator[Path]:
    """Make a private folder whose path is short enough for Unix sockets, and remove it at the end.

    Args:
        inside: Where it should stand, so that whoever removes that folder removes it too; where the path gets too long
            it stands in the system's folder of temporary files instead.
    """
    bases = [*([str(inside)] if inside else []), tempfile.gettempdir()]
    fallback = "/tmp"  # noqa: S108 - mkdtemp makes a folder of mode 0700 with a name that nobody can guess
    base = next((base for base in bases if len(os.fsencode(base)) <= _LONGEST_BASE), fallback)
    folder = Path(tempfile.mkdtemp(prefix="procbench-", dir=base))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def child_environment(scratch: Path, inherited: Mapping[str, str]) -> dict[str, str]:
    """Return the environment in which a notebook runs, and prepare the folders that it names.

    The user's Jupyter and IPython settings stay out: a start-up script or a foreign kernel called ``python3`` would
    change what is measured. ``python3`` becomes this interpreter with this procbench.

    Args:
        scratch: A private folder.
        inherited: The environment to start from.
    """
    # PYTHONWARNINGS=error is meant for the user's own code; some of Jupyter's libraries would not even start with it.
    left_out = ("MPLBACKEND", "JUPYTER_PATH", "PYTHONWARNINGS")
    env = {key: value for key, value in inherited.items() if key not in left_out}
    for variable, name in {
        "IPYTHONDIR": "ipython",
        "JUPYTER_CONFIG_DIR": "config",
        "JUPYTER_DATA_DIR": "data",
        "JUPYTER_RUNTIME_DIR": "runtime",
    }.items():
        env[variable] = str(scratch / name)
        (scratch / name).mkdir(mode=0o700, exist_ok=True)
    # What a notebook that is killed leaves in its temporary folder then goes with the scratch folder.
    env["TMPDIR"] = str(scratch / "tmp")
    (scratch / "tmp").mkdir(mode=0o700, exist_ok=True)
    spec = scratch / "data" / "kernels" / "python3"
    spec.mkdir(parents=True, exist_ok=True)
    argv = [sys.executable, "-P", "-m", "procbench.views.kernel", "-f", "{connection_file}"]
    (spec / "kernel.json").write_text(json.dumps({"argv": argv, "display_name": "Python 3", "language": "python"}))
    env["JUPYTER_PATH"] = str(scratch / "data")  # comes before the interpreter's own kernels, the data folder does not
    package_home = str(Path(__file__).resolve().parents[2])
    env["PYTHONPATH"] = os.pathsep.join(filter(None, [package_home, env.get("PYTHONPATH")]))
    env["PYDEVD_DISABLE_FILE_VALIDATION"] = "1"  # debugpy, which ipykernel loads, else warns on stderr
    return env


def execute(job: RenderJob) -> RenderOutcome:
    """Execute the job's notebook with papermill and store the result under ``job.output``.

    Waits for the notebook, however long its cells take within their limits; the caller keeps the outer limit. Changes
    the working folder while it runs.

    Raises:
        NotebookError: The notebook cannot be read.
        InvalidInputError: The notebook does not declare a parameter, or declares another type.
    """
    notebook = read_notebook(job.notebook)
    parameters = check_parameters(declared_parameters(notebook, str(job.notebook)), job.parameters)
    running: list[int] = []
    problem = _run_papermill(job, parameters, running)
    position = None
    if problem is not None and running:
        # papermill adds one cell of its own behind the parameters, so later positions are one too high
        first = next((i for i, cell in enumerate(notebook.cells) if has_tag(cell, PARAMETERS_TAG)), -1)
        position = running[-1] + 1 - (1 if parameters and running[-1] > first else 0)
    if job.partial_output.exists():
        job.partial_output.replace(job.output)
    return _described(problem, position)


def _run_papermill(job: RenderJob, parameters: Mapping[str, Plain], running: list[int]) -> Exception | None:
    """Let papermill run the notebook; note each cell that starts, and return what went wrong."""
    import papermill
    from traitlets.config import Config

    config = Config()
    # Sockets in a private folder instead of TCP ports, which every local user could connect to.
    config.KernelManager.transport = "ipc"
    config.KernelManager.ip = str(job.scratch / "k")
    config.KernelManager.connection_file = str(job.scratch / "kernel.json")
    config.KernelManager.shutdown_wait_time = 2.0
    try:
        papermill.execute_notebook(
            _literal_path(job.notebook),
            _literal_path(job.partial_output),
            parameters=dict(parameters),
            kernel_name="python3",
            language="python",  # a notebook that never ran does not say so, and papermill then refuses it
            progress_bar=False,
            cwd=_existing_folder(job.cwd),
            iopub_timeout=_IOPUB_TIMEOUT_S,
            execution_timeout=max(1, math.ceil(job.cell_timeout_s)),
            config=config,
            on_cell_execute=lambda cell, cell_index: running.append(cell_index),
        )
    except Exception as error:
        return error
    return None


def _literal_path(path: Path) -> str:
    """Return a path that papermill, which formats every path as a template, turns back into itself."""
    return str(path).replace("{", "{{").replace("}", "}}")


def _existing_folder(path: Path) -> str:
    """Return a folder's path, or say that it is not there."""
    if not path.is_dir():
        raise InvalidInputError(f"the working folder {path} does not exist")
    return str(path)


def _described(problem: Exception | None, cell: int | None) -> RenderOutcome:
    """Sort what papermill raised. Its own metadata lies after a time-out, so the exception's type decides."""
    from nbclient.exceptions import CellTimeoutError, DeadKernelError
    from papermill.exceptions import PapermillExecutionError

    if problem is None:
        return RenderOutcome("ok")
    text = str(problem).strip()
    if isinstance(problem, CellTimeoutError):
        return RenderOutcome("timed_out", text.splitlines()[0] if text else "a cell timed out", cell)
    if isinstance(problem, DeadKernelError) or text.startswith("Kernel died"):
        return RenderOutcome("kernel_died", "the kernel process ended in the middle of the notebook", cell)
    if isinstance(problem, PapermillExecutionError):
        return RenderOutcome("failed", f"{problem.ename}: {problem.evalue}", cell)
    return RenderOutcome("failed", f"{type(problem).__name__}: {text}", cell)


def _end_at_once(status: int) -> None:
    """End everything that was started, and this process; safe from a signal handler and from any thread."""
    end_descendants(os.getpid())
    os._exit(status)


def _end_with_parent(scratch: Path) -> None:
    """End this process with all it started as soon as its parent is gone, and clean up in its place."""
    parent = os.getppid()
    handle = os.pidfd_open(parent)

    def wait() -> None:
        poller = select.poll()
        poller.register(handle, select.POLLIN)
        poller.poll()
        end_descendants(os.getpid())
        shutil.rmtree(scratch, ignore_errors=True)
        os._exit(1)

    if os.getppid() != parent:
        _end_at_once(1)
    threading.Thread(target=wait, name="end with parent", daemon=True).start()


def main() -> int:
    """Execute the job on stdin; write one JSON line to stdout and return the exit status."""
    set_child_subreaper(True)
    signal.signal(signal.SIGTERM, lambda *_: _end_at_once(128 + signal.SIGTERM))
    signal.signal(signal.SIGINT, lambda *_: _end_at_once(128 + signal.SIGINT))
    # The kernel inherits stdout, and what the notebook's children write there must not mix with the answer.
    answer = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    try:
        job = RenderJob.from_json(sys.stdin.read())
        _end_with_parent(job.scratch)
        environment = child_environment(job.scratch, os.environ)
        os.environ.clear()
        os.environ.update(environment)
        outcome = execute(job)
        status = EXIT_STATUS[outcome.status]
    except (NotebookError, InvalidInputError) as error:
        outcome, status = RenderOutcome("failed", f"{type(error).__name__}: {error}"), 2
    strays = end_descendants(os.getpid())
    with suppress(ChildProcessError):
        reap_everything()
    answer.write(json.dumps({**asdict(outcome), "strays": len(strays)}) + "\n")
    answer.close()
    return status


def outcome_from_json(text: str) -> RenderOutcome | None:
    """Read the answer of a render process, or return ``None`` when it gave none."""
    try:
        data: dict[str, Any] = json.loads(text.strip().splitlines()[-1])
        if data["status"] not in EXIT_STATUS:
            return None
        return RenderOutcome(data["status"], str(data["error"]), data["cell"], int(data["strays"]))
    except (ValueError, KeyError, IndexError, TypeError):
        return None


if __name__ == "__main__":
    sys.exit(main())
