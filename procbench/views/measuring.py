"""How far a measurement is: a bar of its own in a notebook, another on a terminal, plain lines in a pipe.

Nothing is shown of what takes less than two seconds.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, TextIO

from procbench.views.progress import for_people

if TYPE_CHECKING:
    from procbench.lab.results import Progress

SHOWN_FROM_S: Final = 2.0
"""Whatever ends before has shown nothing."""

_NOTEBOOK_S: Final = 0.25
_TERMINAL_S: Final = 0.1
_PIPE_S: Final = 10.0


def measuring_progress(
    stream: TextIO | None = None, *, clock: Callable[[], float] = time.monotonic
) -> MeasuringProgress:
    """Return what experiments take as ``on_progress``; where a program goes on after it, close it at the end.

    In a notebook it is a bar below the cell, which becomes a line of text when the cell is done. It is no widget, so that an
    exported page shows it too.

    Args:
        stream: Where to write outside a notebook; ``sys.stderr`` by default.
        clock: Seconds that only grow.
    """
    shell = _kernel_shell() if stream is None else None
    if shell is not None:
        return MeasuringProgress(_InNotebook(shell), _NOTEBOOK_S, clock)
    stream = sys.stderr if stream is None else stream
    on_terminal = stream.isatty()
    return MeasuringProgress(
        _OnTerminal(stream) if on_terminal else _InPipe(stream), _TERMINAL_S if on_terminal else _PIPE_S, clock
    )


def share_done(progress: Progress) -> float:
    """Return how much of a measurement is over at least, from 0 to 1: it ends when blocks or time are spent, or sooner."""
    blocks = progress.blocks / progress.max_blocks if progress.max_blocks else 0.0
    spent = progress.elapsed_s / progress.budget_s if progress.budget_s > 0 else 0.0
    return min(1.0, max(blocks, spent))


def words_of(progress: Progress) -> str:
    """Return how far it is, in words; the time left is the most that it can take."""
    left = max(0.0, progress.budget_s - progress.elapsed_s)
    block = "block" if progress.blocks == 1 else "blocks"
    return f"{progress.blocks} {block} of this part measured, at most {for_people(left)} left for it"


class MeasuringProgress:
    """Passes on what is worth showing: nothing in the first seconds, then so often at most."""

    def __init__(self, show: Any, interval_s: float, clock: Callable[[], float]) -> None:
        self._show, self._interval_s, self._clock = show, interval_s, clock
        self._began_s = clock()
        self._next_s = self._began_s + SHOWN_FROM_S

    def __call__(self, progress: Progress) -> None:
        """Be told how far it is."""
        now = self._clock()
        if now >= self._next_s:
            self._next_s = now + self._interval_s
            self._show(progress, now - self._began_s)

    def close(self) -> None:
        """Take a bar off the terminal."""
        if isinstance(self._show, _OnTerminal):
            self._show.close()


class _InNotebook:
    """One output that is replaced in place; a line of text once the cell has ended."""

    def __init__(self, shell: Any) -> None:
        self._shell = shell
        self._handle: Any = None
        self._began_s = time.monotonic()

    def __call__(self, progress: Progress, elapsed_s: float) -> None:
        from IPython.display import HTML, DisplayHandle

        words = words_of(progress)
        bar = HTML(  # type: ignore[no-untyped-call]
            f'<progress max="1" value="{share_done(progress):.3f}" aria-label="{words}"></progress> {words}'
        )
        if self._handle is None:
            self._began_s = time.monotonic() - elapsed_s
            self._handle = DisplayHandle()  # type: ignore[no-untyped-call]
            self._handle.display(bar)
            self._shell.events.register("post_run_cell", self._end)
        else:
            self._handle.update(bar)

    def _end(self, *_: object) -> None:
        from IPython.display import HTML

        self._shell.events.unregister("post_run_cell", self._end)
        words = f"<p>measured for {for_people(time.monotonic() - self._began_s)}</p>"
        self._handle.update(HTML(words))  # type: ignore[no-untyped-call]
        self._handle = None  # what another cell measures is shown below that one


class _OnTerminal:
    """A bar that paints over itself and is gone at the end of the program."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._bar: Any = None

    def __call__(self, progress: Progress, _elapsed_s: float) -> None:
        from tqdm.std import tqdm  # tqdm.auto would turn into a widget inside a notebook

        if self._bar is None:
            tqdm.monitor_interval = 0  # no thread of its own
            self._bar = tqdm(total=1, file=self._stream, leave=False, bar_format="measuring |{bar}| {postfix}")
        self._bar.n = share_done(progress)
        self._bar.set_postfix_str(words_of(progress), refresh=True)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None


class _InPipe:
    """A plain line now and then, so that a log shows that something goes on."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __call__(self, progress: Progress, elapsed_s: float) -> None:
        self._stream.write(f"measuring for {for_people(elapsed_s)}: {words_of(progress)}\n")
        self._stream.flush()


def _kernel_shell() -> Any:
    """Return the shell of a Jupyter kernel that runs this, or None: IPython on a terminal shows no HTML."""
    module = sys.modules.get("IPython")
    shell = module.get_ipython() if module is not None else None
    return shell if shell is not None and hasattr(shell, "kernel") else None
