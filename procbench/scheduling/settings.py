"""The one vocabulary for *how* commands are run.

The scheduler obeys these settings, an experiment varies them, a report shows what changing one did. A new knob is a field
here, with its unit and its meaning, and every room knows it.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Self

from procbench.cpu.cpu_limit import LEAST_SHARE, check_share
from procbench.cpu.memory_limit import LEAST_MEMORY_BYTES, check_bytes
from procbench.cpu.placement import PLACEMENT_POLICIES, cpu_numbers, format_cpu_list
from procbench.cpu.topology import usable_workers
from procbench.errors import InvalidInputError
from procbench.io.contained import LEVELS
from procbench.io.keep import OVERFLOWS
from procbench.io.order import DRAIN_GRACE_S, KILL_GRACE_S
from procbench.memory.buffers import DEFAULT_SIZE_BYTES
from procbench.memory.transports import TRANSPORTS
from procbench.scheduling.halting import NEVER, HaltPolicy

ORDERS: Final = ("priority", "fifo", "longest_first")
"""In which order the tasks of a batch begin."""

INHERITED_POLICIES: Final = ("other", "batch", "idle")
"""Scheduling policies that a worker can hand down, sched(7). Real-time ones it cannot: they are always reset on fork."""

INHERITED_IO_CLASSES: Final = ("best-effort", "idle", "realtime")
"""I/O classes that a worker can hand down, ioprio_set(2)."""


def _knob(
    default: Any,
    unit: str,
    meaning: str,
    lowest: float | None = None,
    highest: float | None = None,
    choices: tuple[str, ...] | None = None,
) -> Any:
    facts = {"unit": unit, "meaning": meaning, "lowest": lowest, "highest": highest, "choices": choices}
    return field(default=default, metadata=facts)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSettings:
    """How a batch of commands is run. Immutable; ``changed`` gives a variant.

    Every field carries its unit, its meaning and its lowest and highest value, or the words to choose from, as metadata:
    ``describe`` returns it. Workers give ``pin``, ``nice``, ``policy`` and ``io_class`` to themselves, once, and their
    commands inherit them; ``None`` leaves what this process has.

    Attributes:
        workers: How many commands run at a time; ``None`` for as many as this process may use CPUs.
        timeout: Seconds until a command is ended, unless the task says otherwise; ``None`` for never.
        capture: Whether standard output and error are kept in the result; otherwise they go where this process's go.
        discard: Whether output that is not captured is sent to ``/dev/null``.
        max_output_bytes: Most bytes kept of each captured stream; the rest is counted. ``None`` keeps all.
        overflow: What becomes of captured output over ``max_output_bytes``: ``drop`` keeps the beginning, ``ring`` the beginning
            and the end, ``spool`` everything, in an unlinked file, and ``kill`` ends the command.
        buffer_size_bytes: Most bytes of captured output that one read(2) takes; each worker has one buffer of this size. A
            pipe holds 64 KiB unless it was made larger, so more pays only where pipes are larger too.
        transport: How a task's input goes to it, one of :data:`procbench.memory.transports.TRANSPORTS`: ``auto`` chooses by
            kind and size; a way that an input's kind does not allow becomes ``write``.
        pipe_size_bytes: Size to ask for, of each pipe to and from a command; ``None`` leaves the kernel's 64 KiB, but asks for
            1 MiB where more than that is sent. What was had stands in the result.
        pin: Which logical CPUs each worker's commands may run on: one of the policies of
            :func:`procbench.cpu.placement.place`, or a set for each worker, as CPU numbers or in the kernel's list format
            (``["0", "2-3"]``), which go round when there are more workers. ``none`` allows all.
        nice: Nice value, -20 to 19; lower than now needs CAP_SYS_NICE or RLIMIT_NICE.
        policy: Scheduling policy, one of ``INHERITED_POLICIES``.
        io_class: I/O class, one of ``INHERITED_IO_CLASSES``; ``realtime`` needs CAP_SYS_ADMIN or CAP_SYS_NICE.
        cpu_limit: Most CPUs that a command may use on average, such as 0.5.
        memory_limit_bytes: Most memory that a command may have.
        containment: How what a command starts is held together, to be ended with it: its process ``group``; ``subreaper``, also
            what left the group; or a ``cgroup`` of its own, where one can be made.
        descriptors: Whether a command for which no descriptor is left under RLIMIT_NOFILE shall ``wait`` for one, or ``fail``;
            ``off`` does not look before they are used up.
        order: In which order waiting tasks begin: by ``priority``, those alike in the order in which they came; ``fifo``, as
            they came, whatever their priority; or, of a batch that is given as one, the ``longest_first``, by the
            ``expected_s`` of its tasks, so that no long one is left over at the end. One of which nothing is expected goes
            before them all, because it may be the longest.
        args_per_task: How many arguments one command gets, where commands are made from arguments; as ``xargs -n``.
        retries: How many times a command is run again that failed or ran out of time, unless the task says otherwise.
        retry_delay_s: Seconds until it is, twice as long before each further attempt, up to a thousand times as long; its
            worker runs other tasks meanwhile.
        halt: When to stop because of what became of tasks: ``never``, or such as ``soon,fail=3`` (let what runs end, cancel
            what waits), ``now,fail=10%`` (end what runs too) or ``now,success=1``.
        start_below_load: Load average, of the last minute, from which on no further command is started; ``None`` for any.
        start_above_free_bytes: Available memory under which no further command is started; ``None`` for any.
        queue_size: How many tasks may wait before ``submit`` makes its caller wait.
        kill_grace_s: Seconds between SIGTERM and SIGKILL.
        drain_grace_s: Seconds that a descendant may hold a pipe after the command's end.
        ageing_s: Seconds of waiting that make a task count one priority higher; ``None`` for never. The default bounds a low
            task's wait behind more urgent ones to a minute and a half, and is long against what most commands take, so
            that among these it is the priority that decides.
        time_slice_s: Seconds after which a running command gives its worker to a waiting task of a higher priority and
            stands still meanwhile; ``None`` for never.
        spawn_patience_s: Seconds to go on trying while the system has no process or descriptor left.

    Raises:
        InvalidInputError: A value is of the wrong type or outside its range.
    """

    workers: int | None = _knob(None, "workers", "commands that run at a time", 1)
    timeout: float | None = _knob(None, "s", "time until a command is ended", 0)
    capture: bool = _knob(False, "", "keep standard output and error in the result")
    discard: bool = _knob(False, "", "send output that is not captured to /dev/null")
    max_output_bytes: int | None = _knob(8 << 20, "bytes", "most that is kept of each captured stream", 0)
    overflow: str = _knob("drop", "", "what becomes of captured output over the most", choices=OVERFLOWS)
    buffer_size_bytes: int = _knob(DEFAULT_SIZE_BYTES, "bytes", "most that one read of captured output takes", 1)
    transport: str = _knob("auto", "", "how a task's input goes to it", choices=TRANSPORTS)
    pipe_size_bytes: int | None = _knob(None, "bytes", "size of the pipes to and from a command", 1)
    pin: str | tuple[str, ...] = _knob(
        "none", "", "logical CPUs that each worker's commands may run on", choices=PLACEMENT_POLICIES
    )
    nice: int | None = _knob(None, "", "nice value of commands", -20, 19)
    policy: str | None = _knob(None, "", "scheduling policy of commands", choices=INHERITED_POLICIES)
    io_class: str | None = _knob(None, "", "I/O class of commands", choices=INHERITED_IO_CLASSES)
    cpu_limit: float | None = _knob(None, "CPUs", "most CPUs that a command may use on average", LEAST_SHARE)
    memory_limit_bytes: int | None = _knob(None, "bytes", "most memory that a command may have", LEAST_MEMORY_BYTES)
    containment: str = _knob("group", "", "how what a command starts is held together", choices=LEVELS)
    descriptors: str = _knob(
        "wait", "", "what a command does for which no descriptor is left", choices=("wait", "fail", "off")
    )
    order: str = _knob("priority", "", "in which order waiting tasks begin", choices=ORDERS)
    args_per_task: int = _knob(1, "arguments", "arguments that one command gets", 1)
    retries: int = _knob(0, "times", "how often a command is run again that failed", 0)
    retry_delay_s: float = _knob(0.0, "s", "time until it is, doubled for each further attempt", 0)
    halt: str = _knob(NEVER, "", "when to stop because of what became of tasks: never, or such as soon,fail=3")
    start_below_load: float | None = _knob(None, "", "load average from which on no command is started", 0.01)
    start_above_free_bytes: int | None = _knob(None, "bytes", "available memory under which no command is started", 1)
    queue_size: int = _knob(65_536, "tasks", "tasks that may wait before submitting waits", 1)
    kill_grace_s: float = _knob(KILL_GRACE_S, "s", "time between SIGTERM and SIGKILL", 0)
    drain_grace_s: float = _knob(DRAIN_GRACE_S, "s", "time a descendant may hold a pipe after the command's end", 0)
    ageing_s: float | None = _knob(30.0, "s", "waiting that makes a task count one priority higher", 0.001)
    time_slice_s: float | None = _knob(None, "s", "time until a command gives way to a more urgent task", 0.001)
    spawn_patience_s: float = _knob(10.0, "s", "time to go on trying while no process or descriptor is left", 0)

    def __post_init__(self) -> None:
        if not isinstance(self.pin, str):
            object.__setattr__(self, "pin", _cpu_lists(self.pin))
        for knob in dataclasses.fields(self):
            _check(knob, getattr(self, knob.name))

    def changed(self, **changes: Any) -> Self:
        """Return these settings with some fields changed.

        Raises:
            InvalidInputError: There is no such field, or its value makes no sense.
        """
        known = [knob.name for knob in dataclasses.fields(self)]
        unknown = sorted(set(changes) - set(known))
        if unknown:
            raise InvalidInputError(f"there is no setting {', '.join(unknown)}; there are: {', '.join(known)}")
        return dataclasses.replace(self, **changes)

    def changed_by_words(self, words: Iterable[str]) -> Self:
        """Return these settings with some fields changed as a person wrote them.

        Example:
            >>> settings = RunSettings().changed_by_words(["workers=4", "pin=core"])
            >>> settings.workers, settings.pin
            (4, 'core')

        Args:
            words: ``name=value`` each; the value as JSON, such as ``5``, ``true`` or ``["0", "2-3"]``, or a plain word.

        Raises:
            InvalidInputError: One is no such pair, there is no such field, or its value makes no sense.
        """
        changes: dict[str, Any] = {}
        for word in words:
            name, equals, text = word.partition("=")
            if not (name and equals):
                raise InvalidInputError(f"{word!r} sets nothing; write NAME=VALUE, such as pin=core")
            try:
                changes[name] = json.loads(text)
            except ValueError:
                changes[name] = text
        return self.changed(**changes)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as a plain dict, ready for JSON."""
        fields = dataclasses.asdict(self)
        return fields | {"pin": list(self.pin)} if isinstance(self.pin, tuple) else fields

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Self:
        """Return the settings that ``to_dict`` described."""
        return cls().changed(**fields)

    @classmethod
    def describe(cls) -> dict[str, Mapping[str, Any]]:
        """Return for every field its ``unit``, ``meaning``, ``lowest`` and ``highest`` value and ``choices``."""
        return {knob.name: knob.metadata for knob in dataclasses.fields(cls)}

    @property
    def worker_count(self) -> int:
        """How many workers these settings mean on this machine, now."""
        return usable_workers() if self.workers is None else self.workers


def _check(knob: dataclasses.Field[Any], value: Any) -> None:
    said = f"{knob.name} is {value!r}"
    if value is None and "None" in str(knob.type):
        return
    if "bool" in str(knob.type):
        if not isinstance(value, bool):
            raise InvalidInputError(f"{said}; it must be True or False, on the command line true or false")
        return
    if knob.name == "halt":
        HaltPolicy.parse(value)
        return
    if knob.metadata["choices"] is not None:
        if knob.name == "pin" and isinstance(value, tuple):
            return
        if value not in knob.metadata["choices"]:
            words = _PIN_WORDS if knob.name == "pin" else f"one of {', '.join(knob.metadata['choices'])}"
            raise InvalidInputError(f"{said}; it must be {words}")
        return
    whole = "int" in str(knob.type)
    if isinstance(value, bool) or not isinstance(value, int if whole else int | float) or not math.isfinite(value):
        unit = knob.metadata["unit"]
        raise InvalidInputError(
            f"{said}; it must be a {'whole ' if whole else ''}number{f' of {unit}' if unit else ''}"
        )
    if value < knob.metadata["lowest"]:
        raise InvalidInputError(f"{said}; the lowest that makes sense is {knob.metadata['lowest']}")
    if knob.metadata["highest"] is not None and value > knob.metadata["highest"]:
        raise InvalidInputError(f"{said}; the highest there is is {knob.metadata['highest']}")
    if knob.name == "cpu_limit":
        check_share(value, knob.name)
    elif knob.name == "memory_limit_bytes":
        check_bytes(knob.name, value, LEAST_MEMORY_BYTES)


_PIN_WORDS: Final = (
    f'one of {", ".join(PLACEMENT_POLICIES)}, or a list with a CPU set for each worker, such as ["0", "2-3"]'
)


def _cpu_lists(sets: Any) -> tuple[str, ...]:
    """Return explicit CPU sets in the kernel's list format, which survives JSON; whether they are allowed is seen later."""
    try:
        # In order, because worker i gets set i.
        lists = tuple(format_cpu_list(cpu_numbers(cpus)) for cpus in sets) if isinstance(sets, Sequence) else ()
    except InvalidInputError:
        lists = ()
    if not lists or not all(lists):
        raise InvalidInputError(f"pin is {sets!r}; it must be {_PIN_WORDS}")
    return lists
