"""Suggestions with buttons: prove one with one's own commands, apply it, undo it, and see what the verdict rests on."""

from __future__ import annotations

import atexit
import threading
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from typing import Any, Final

from procbench.analysis.suggestions import HostChange, OptimizationSuggestion
from procbench.errors import ClosedError, InvalidInputError
from procbench.io.command import Argument
from procbench.lab.batches import TaskBatch
from procbench.lab.host_change import HeldChange
from procbench.lab.proof import prove
from procbench.lab.results import Progress
from procbench.scheduling.settings import RunSettings
from procbench.scheduling.task import ProcessTask
from procbench.views.rich import pairs_html, settings_changed, suggestion
from procbench.views.terminal import one_line
from procbench.views.widgets_feed import INTERVAL_S, Feed
from procbench.views.widgets_proofs import Proofs
from procbench.views.widgets_shown import Shown, heading, row, table_html, text_field, tick

USUAL_BUDGET_S: Final = 60.0


class SuggestionBoard(Shown):
    """Shows suggestions, most urgent first, and does with them what a person asks for.

    A proof runs the commands dozens of times, in the background; several wait for each other. Applying changes
    :attr:`settings`, which the next batch is to be given; a change of the machine is made only where its box is ticked, and put
    back by undoing it, and when the board is closed.

    Args:
        suggestions: What :func:`procbench.analysis.suggestions.analyze` found, or some of it.
        workload: The commands that proofs run; without them nothing can be proved here.
        settings: What the commands are run with now.
        budget_s: Seconds that a proof may take; the field on the board changes it.
        data_dir: Folder of recorded runs that keeps the evidence; None keeps none.

    Attributes:
        settings: With everything that was applied.
        suggestions: With what proofs found.
    """

    name = "suggestions"

    def __init__(
        self,
        suggestions: Iterable[OptimizationSuggestion],
        workload: TaskBatch | Iterable[ProcessTask | Sequence[Argument]] | None = None,
        settings: RunSettings | None = None,
        *,
        budget_s: float = USUAL_BUDGET_S,
        data_dir: str | Path | None = None,
    ) -> None:
        super().__init__()
        import ipywidgets

        self.suggestions: list[OptimizationSuggestion] = list(suggestions)
        self.settings = self._given = settings or RunSettings()
        self._work = None if workload is None else TaskBatch.of(workload)
        self._data_dir = data_dir
        self._applied: dict[int, HeldChange | None] = {}
        self._running: dict[int, str] = {}  # proofs asked for, and how each stands
        self._ended = threading.Condition()
        self._proofs = Proofs(self._progressed, self._judged)
        self._feed: Feed[None] = Feed(lambda _: self._paint(), INTERVAL_S, "suggestions", self.not_painted)
        self._budget = text_field("Seconds for a proof", f"{budget_s:g}", "it ends earlier when the interval decides")
        self._host = tick(
            "allow changes of this machine", value=False, hint="each is undone with its button or the board"
        )
        self._now = ipywidgets.HTML()
        self._cards = [_Card(self, number) for number in range(len(self.suggestions))]
        self._paint()
        words = "What might help" if self.suggestions else "Nothing was seen that might help"
        self._arrange(heading(words), row(self._budget, self._host), *(card.root for card in self._cards), self._now)

    def prove(self, number: int) -> None:
        """Measure a suggestion in the background; ``wait`` waits for it.

        Args:
            number: Its place, from 0.

        Raises:
            InvalidInputError: There is no workload, the budget is no number, it is under way, or changes the host and may not.
        """
        one = self._at(number)
        if self._work is None:
            raise InvalidInputError("nothing to prove with: give the board the commands, as its workload")
        try:
            budget_s = float(self._budget.value)
        except ValueError:
            raise InvalidInputError(f"{self._budget.value!r} is no number of seconds") from None
        if isinstance(one.change, HostChange) and not self._host.value:
            raise InvalidInputError(f"this changes the machine ({one.change}); tick the box above if you want that")
        if isinstance(one.change, HostChange):
            self._check_host_is_as_it_was()
        work, allow = self._work, bool(self._host.value)
        before = one.undo(self.settings) if number in self._applied else self.settings
        one.apply(before)  # refuses settings that it is not for, now and not later
        with self._ended:
            if number in self._running:
                raise InvalidInputError("its proof is under way")
            self._running[number] = "waits for its turn"

        def job(tell: Any) -> None:
            self._running[number] = "runs the commands three times, to see whether they do the same"
            self._feed.offer(None)
            options: dict[str, Any] = {"data_dir": self._data_dir, "allow_host_changes": allow, "on_progress": tell}
            found = prove(self.suggestions[number], work, before, budget_s=budget_s, **options)
            self.suggestions[number] = found

        try:
            self._proofs.add(number, job)
        except ClosedError:
            self._judged(number, "the board was closed")
            raise
        self._feed.offer(None)

    def stop(self, number: int) -> None:
        """End a proof with what it has found so far, after the runs that are under way."""
        self._proofs.cancel(number)
        with self._ended:
            if number in self._running:
                self._running[number] = "ends after the runs that are under way"
        self._feed.offer(None)

    def apply(self, number: int) -> None:
        """Change :attr:`settings`, or the machine where that is allowed.

        Raises:
            InvalidInputError: It is applied, or for other settings, or changes the machine and may not.
            HostChangeError: The machine could not be changed.
        """
        one = self._at(number)
        if number in self._applied:
            raise InvalidInputError("it is applied already")
        held: HeldChange | None = None
        if isinstance(one.change, HostChange):
            if not self._host.value:
                raise InvalidInputError(f"this changes the machine ({one.change}); tick the box above if you want that")
            self._check_no_proof()
            atexit.register(self.close)  # a change of the machine does not outlive this process
            held = HeldChange(one.change)
        else:
            self.settings = one.apply(self.settings)
        self._applied[number] = held
        self._changed()

    def undo(self, number: int) -> None:
        """Put back what applying changed.

        Raises:
            InvalidInputError: It was not applied, or the settings do not have its change any more.
            HostChangeError: The machine could not be put back; the message says what to run.
        """
        one = self._at(number)
        if number not in self._applied:
            raise InvalidInputError("it is not applied")
        if not isinstance(one.change, HostChange):
            self.settings = one.undo(self.settings)
        elif self._applied[number] is not None:
            self._check_no_proof()
        held = self._applied.pop(number)
        if held is not None:
            held.undo()
        self._changed()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until no proof is under way, and the board shows it; return whether that is so."""
        with self._ended:
            if not self._ended.wait_for(lambda: not self._running, timeout):
                return False
        self._feed.offer(None)
        return self._feed.settle()

    def close(self) -> None:
        """End proofs, put the machine back as it was, and take the board off the page; the settings stay as they are."""
        self._proofs.close()
        errors: list[Exception] = []
        for held in reversed(self._applied.values()):
            try:
                if held is not None:
                    held.undo()
            except Exception as error:  # the others are put back, too
                errors.append(error)
        self._applied.clear()
        atexit.unregister(self.close)
        self._feed.close()
        super().close()
        if errors:
            raise errors[0]

    # --- what happens ------------------------------------------------------------------------------------------------------

    def _check_no_proof(self) -> None:
        with self._ended:
            if self._running:
                raise InvalidInputError(
                    "a proof is under way, and the machine must not change meanwhile; wait, or stop it"
                )

    def _check_host_is_as_it_was(self) -> None:
        if any(held is not None for held in self._applied.values()):
            raise InvalidInputError("the machine is changed now; undo that first, so that both sides can be measured")

    def _at(self, number: int) -> OptimizationSuggestion:
        if not 0 <= number < len(self.suggestions):
            raise InvalidInputError(f"there is no suggestion {number}; there are {len(self.suggestions)}, from 0")
        return self.suggestions[number]

    def _progressed(self, number: int, progress: Progress) -> None:
        so_far = f": so far {progress.effects[0]}" if progress.effects else ""
        words = f"{progress.blocks} blocks in {progress.elapsed_s:.1f} of {progress.budget_s:.0f} s{so_far}"
        with self._ended:
            self._running[number] = words
        self._feed.offer(None)

    def _judged(self, number: int, why: str | None) -> None:
        if why is not None:
            self.say(f"Suggestion {number + 1} was not judged: {why}", error=True)
        self._cards[number].evidence = why is None
        with self._ended:
            self._running.pop(number, None)
            self._ended.notify_all()
        self._changed()

    def _changed(self) -> None:
        self._feed.offer(None)
        if threading.current_thread() is threading.main_thread():
            self._feed.settle()

    def _paint(self) -> None:
        for card in self._cards:
            card.paint(self.suggestions[card.number], self._running.get(card.number), card.number in self._applied)
        self._now.value = self._settings_html()
        if not self._running:
            self._settled()

    def _settings_html(self) -> str:
        changed = list(settings_changed(self._given, self.settings))
        words = "; ".join(changed) if changed else "as they were given"
        return f"<p><b>Settings now:</b> {escape(one_line(words, longest=600))}</p>"

    # --- its twin ----------------------------------------------------------------------------------------------------------

    def twin_html(self) -> str:
        """Return a table of the suggestions with what is known of each."""
        heads = ("what might help", "seen", "priority", "status", "measured", "evidence")
        rows = [
            (
                one_line(str(one.change)) + " (applied)" * (number in self._applied),
                one_line(one.description, longest=400),
                one.priority,
                one.status,
                "" if one.effect is None else str(one.effect),
                one_line(one.evidence or ""),
            )
            for number, one in enumerate(self.suggestions)
        ]
        return table_html(heads, rows, "Suggestions") + self._settings_html()

    def twin_text(self) -> str:
        """Return a line for each suggestion."""
        lines = [f"{one_line(str(one.change))}: {one.status}" for one in self.suggestions]
        return "\n".join([f"SuggestionBoard: {len(lines)} suggestions", *lines])


class _Card:
    """One suggestion with its buttons.

    Attributes:
        evidence: Whether its details are open, as they are once it was judged.
    """

    def __init__(self, board: SuggestionBoard, number: int) -> None:
        import ipywidgets

        self.number = number
        self.evidence = False
        words = one_line(str(board.suggestions[number].change), longest=80)
        self._text = ipywidgets.HTML()
        self._prove = board._button("Prove", lambda: board.prove(number), hint=f"measure {words}", style="primary")
        self._stop = board._button("Stop", lambda: board.stop(number), hint=f"end the proof of {words}")
        self._apply = board._button("Apply", lambda: board.apply(number), hint=f"apply {words}")
        self._undo = board._button("Undo", lambda: board.undo(number), hint=f"undo {words}")
        self._show = board._button("Evidence", self._turn, hint=f"what is known of {words}")
        self._progress = ipywidgets.HTML()
        self._details = ipywidgets.HTML()
        buttons = row(self._prove, self._stop, self._apply, self._undo, self._show, self._progress)
        self.root = ipywidgets.VBox([self._text, buttons, self._details])
        self.root.add_class("procbench-suggestion")
        self._one = board.suggestions[number]

    def paint(self, one: OptimizationSuggestion, running: str | None, applied: bool) -> None:
        """Show how it stands."""
        self._one = one
        mark = {"proved": "✔", "harmful": "✘", "no gain": "=", "inconclusive": "?"}.get(one.status, "·")
        gain = "" if one.effect is None else f": {one.effect} in {one.gain}"
        said = [
            f"<b>{self.number + 1}. {escape(one_line(str(one.change), longest=300))}</b>{' · <b>applied</b>' * applied}",
            escape(one_line(f"{one.description.rstrip('.')}. {one.why}", longest=700)),
            f"{mark} <b>{escape(one.status)}</b>{escape(gain)} · priority {one.priority} · cost {one.cost.replace('_', ' ')}",
        ]
        if one.note:
            said.append(f"<i>{escape(one_line(one.note, longest=400))}</i>")
        self._text.value = f'<div style="line-height:1.4">{"<br>".join(said)}</div>'
        self._prove.disabled, self._stop.disabled = running is not None, running is None
        self._apply.disabled, self._undo.disabled = applied, not applied
        self._progress.value = f'<span role="status">{escape(running or "")}</span>'
        self._open()

    def _turn(self) -> None:
        self.evidence = not self.evidence
        self._open()

    def _open(self) -> None:
        self._details.value = pairs_html(*suggestion(self._one)) if self.evidence else ""
