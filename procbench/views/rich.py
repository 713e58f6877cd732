"""How procbench's own objects look in a notebook: HTML whose every word is escaped, and plain text for terminals.

Each function takes an object and returns HTML, or a text; :mod:`procbench.views.in_notebook` tells IPython about them.
"""

from __future__ import annotations

import math
import os
import shlex
from collections.abc import Iterable, Sequence
from html import escape
from typing import TYPE_CHECKING, Final

from procbench.views.terminal import one_line, without_colours

if TYPE_CHECKING:
    from procbench.analysis.statistics import Effect
    from procbench.analysis.suggestions import OptimizationSuggestion
    from procbench.lab.host import HostFacts
    from procbench.lab.noise import NoiseWarning
    from procbench.scheduling.settings import RunSettings
    from procbench.scheduling.task import TaskResult

_MOST_OUTPUT: Final = 2000
_MOST_LINES: Final = 20

Pairs = Sequence[tuple[str, str]]
"""Labels with what belongs to them, text."""


def pairs_html(pairs: Pairs, caption: str) -> str:
    """Return a table of labels and texts."""
    rows = "".join(f'<tr><th scope="row">{escape(label)}</th><td>{_cell(text)}</td></tr>' for label, text in pairs)
    return f'<table class="procbench-card"><caption>{escape(caption)}</caption><tbody>{rows}</tbody></table>'


def pairs_text(pairs: Pairs, caption: str) -> str:
    """Return the same as lines."""
    width = max((len(label) for label, _ in pairs), default=0)
    lines = [f"  {label:<{width}}  {text}".replace("\n", "\n" + " " * (width + 4)).rstrip() for label, text in pairs]
    return "\n".join([caption, *lines])


def _cell(text: str) -> str:
    return f"<pre>{escape(text)}</pre>" if "\n" in text else escape(text)


# --- a task's result ---------------------------------------------------------------------------------------------------------


def task_result(result: TaskResult) -> tuple[Pairs, str]:
    """Return what a person wants to know of how a command ended."""
    from procbench.views.live import for_people
    from procbench.views.summary import how_it_failed, seconds_for_people

    command = one_line(shlex.join(os.fsdecode(word) for word in result.args), longest=500)
    ended = (
        "succeeded" if result.outcome == "succeeded" else f"{result.outcome.replace('_', ' ')}: {how_it_failed(result)}"
    )
    if result.outcome == "cancelled" and result.error is None:
        ended = "cancelled"
    pairs = [("command", command), ("ended", one_line(ended))]
    if result.pid:
        cpu = f"{seconds_for_people(result.user_s)} of its own, {seconds_for_people(result.system_s)} in the kernel"
        memory = f"{'at most ' * result.peak_memory_is_bound}{for_people(result.peak_memory_bytes, 'bytes')}"
        pairs += [
            ("took", seconds_for_people(result.wall_s)),
            ("waited before", seconds_for_people(max(0.0, result.queue_wait_s))),
            ("CPU time", cpu),
            ("peak memory", memory),
            ("worker", _worker(result)),
        ]
    if result.attempts > 1:
        pairs.append(("attempts", str(result.attempts)))
    for name in ("stdout", "stderr"):
        data: bytes | None = getattr(result, name)
        if data:
            pairs.append((name, _output(data, getattr(result, f"{name}_bytes"))))
    return pairs, f"TaskResult of task {result.task.id}"


def _worker(result: TaskResult) -> str:
    stolen = "" if result.stolen_from is None else f", stolen from worker {result.stolen_from}"
    return f"{result.worker}{stolen}"


def _output(data: bytes, wrote: int) -> str:
    text = without_colours(data[-4 * _MOST_OUTPUT :].decode(errors="backslashreplace"))
    end = "\n".join(text[-_MOST_OUTPUT:].rstrip("\n").split("\n")[-_MOST_LINES:])
    return end if wrote <= len(data) and end == text.rstrip("\n") else f"… the end of {wrote:,} bytes:\n{end}"


# --- an effect ---------------------------------------------------------------------------------------------------------------


def effect(found: Effect) -> tuple[Pairs, str]:
    """Return how many times better something is, how sure that is, and what noise alone would show."""
    floor = found.noise_floor
    noise = "not measured" if floor is None else f"{floor:.1%}" if math.isfinite(floor) else "unknown: too few blocks"
    known = math.isfinite(found.half_width)
    interval = f"{found.low:.3g} to {found.high:.3g}" if known else "unknown: too few blocks"
    pairs = [
        ("compared", one_line(f"{found.condition} with {found.baseline}")),
        ("times as good", f"{found.ratio:.3g}"),
        (f"{found.confidence * 100:g} % interval", interval),
        ("noise alone", noise),
        ("blocks", f"{found.blocks:,}"),
        ("says", found.verdict),
    ]
    return pairs, "Effect"


# --- a suggestion ------------------------------------------------------------------------------------------------------------


def suggestion(one: OptimizationSuggestion) -> tuple[Pairs, str]:
    """Return what was seen, what to change, and what is known of the gain."""
    gain = "nobody has measured it on this machine" if one.effect is None else str(one.effect)
    pairs = [
        ("seen", one_line(one.description, longest=600)),
        ("why it hurts", one_line(one.why, longest=600)),
        ("change", one_line(str(one.change), longest=600)),
        ("about", f"{one.category.replace('_', ' ')}; priority {one.priority}; cost {one.cost.replace('_', ' ')}"),
        ("status", one.status),
        (f"gain in {one.gain}", gain),
    ]
    if one.effect is None and math.isfinite(one.at_most):
        pairs.append(("at most", f"{one.at_most:.3g} times as good, if what was seen were all of it"))
    pairs += [(f"beside it: {name.replace('_', ' ')}", str(found)) for name, found in one.side_effects.items()]
    if one.evidence:
        pairs.append(("evidence", one_line(one.evidence)))
    if one.note:
        pairs.append(("note", one_line(one.note, longest=600)))
    return pairs, f"Suggestion {one.rule}".rstrip()


# --- settings, hosts, warnings -----------------------------------------------------------------------------------------------


def settings(given: RunSettings) -> tuple[Pairs, str]:
    """Return the settings that differ from the defaults, each with its unit and meaning."""
    default, facts = type(given)(), type(given).describe()
    pairs = []
    for name, fact in facts.items():
        value = getattr(given, name)
        if value != getattr(default, name):
            unit = f" {fact['unit']}" if fact["unit"] and value is not None else ""
            pairs.append((name, one_line(f"{value}{unit}: {fact['meaning']}")))
    if not pairs:
        pairs = [("everything", "as by default")]
    return pairs, "RunSettings, where they differ from the defaults"


def host(facts: HostFacts) -> tuple[Pairs, str]:
    """Return the host card, and how many warnings there are."""
    from procbench.views.summary import host_card

    return list(host_card(facts).items()), "Host"


def warning(one: NoiseWarning) -> tuple[Pairs, str]:
    """Return what was seen, why it matters and what to do."""
    pairs = [("seen", one.seen), ("why it matters", one.why), ("what to do", one.what_to_do)]
    return [(label, one_line(text, longest=600)) for label, text in pairs], "These results may waver"


def settings_changed(before: RunSettings, now: RunSettings) -> Iterable[str]:
    """Yield in words every setting that differs."""
    for name in type(now).describe():
        old, new = getattr(before, name), getattr(now, name)
        if old != new:
            yield f"{name}: {old} → {new}"
