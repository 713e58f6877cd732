"""What ``procbench prove`` does, from the options to the exit status."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from procbench.analysis.rules import RULES
from procbench.analysis.suggestions import HostChange, OptimizationSuggestion
from procbench.errors import InvalidInputError
from procbench.io.signals import INTERRUPTED, ending_by_exception
from procbench.lab.advice import advise, prove_first
from procbench.lab.batches import TaskBatch
from procbench.lab.files import check_writable_folder
from procbench.lab.host import read_host
from procbench.lab.proof import Proof, proof_of
from procbench.lab.proof_records import StoredProof
from procbench.lab.results import Progress
from procbench.lab.store import Store, run_name
from procbench.scheduling.commands import read_batch, shell_words
from procbench.scheduling.grouping import PLACE
from procbench.scheduling.settings import RunSettings
from procbench.scheduling.task import ProcessTask
from procbench.views.measuring import measuring_progress
from procbench.views.run_options import check_folder, check_seconds
from procbench.views.suggestion_table import effect_words, show_suggestions
from procbench.views.terminal import one_line

DEFAULT_BUDGET_S: Final = 60.0

_RULES: Final = tuple(rule.__name__ for rule in RULES)

Tell = Callable[[OptimizationSuggestion, Progress], object]


@dataclass(frozen=True, slots=True, kw_only=True)
class ProveOptions:
    """The options of ``procbench prove``, as the command line names them.

    Attributes:
        words: A recorded proof to repeat, or with ``each`` a command.
        commands: File of commands.
        each: File of arguments.
        budget: Seconds; None for :data:`DEFAULT_BUDGET_S`, and for what a proof that is repeated had.
        most: How many suggestions are proved.
        only: The rule of the one to prove.
        settings: ``NAME=VALUE`` each: how the commands are run now.
        data: Where proofs are kept, and looked for.
        allow_host_changes: Whether the machine may be changed for the length of a run.
        as_json: Whether to say it as JSON.
        chosen: The settings.

    Raises:
        InvalidInputError: Two of them contradict each other, or one makes no sense.
    """

    words: Sequence[str] = ()
    commands: str | None = None
    each: str | None = None
    budget: float | None = None
    most: int = 3
    only: str = ""
    settings: Sequence[str] = ()
    data: Path = Path("data")
    allow_host_changes: bool = False
    as_json: bool = False
    chosen: RunSettings = field(init=False)

    def __post_init__(self) -> None:
        check_seconds(self.budget, "--budget")
        check_folder("--data", self.data)
        repeats = self.commands is None and self.each is None
        for contradicts, why in (
            (self.most < 1, f"--most is at least 1, and not {self.most}"),
            (
                bool(self.only) and self.only not in _RULES,
                f"there is no rule {self.only!r}; there are: {', '.join(_RULES)}",
            ),
            (bool(self.only) and self.most != 3, "--only names the one to prove; leave --most out"),
            (self.commands is not None and self.each is not None, "--commands and --each contradict each other"),
            (
                self.commands is not None and bool(self.words),
                "--commands brings whole commands; leave the other words out, be it a command or a recorded proof",
            ),
            (
                self.each is not None and not self.words,
                "--each needs a command: procbench prove --each FILE -- COMMAND",
            ),
            (
                repeats and len(self.words) != 1,
                "name one recorded proof to repeat, or a file of commands (--commands FILE)",
            ),
            (
                repeats and bool(self.only or self.settings),
                "a recorded proof has its own change and settings; leave --only and --set out, or prove --commands FILE",
            ),
        ):
            if contradicts:
                raise InvalidInputError(why)
        object.__setattr__(self, "chosen", RunSettings().changed_by_words(self.settings))


def prove_asked(options: ProveOptions, say: Callable[[str], None]) -> int:
    """Prove what was asked for, print what came out, and return the exit status: 1 where the budget was too small for anything.

    Args:
        options: What was asked.
        say: Writes one line to the person.

    Raises:
        InvalidInputError: The file of commands makes no sense, or there is no such proof; nothing was run.
        WorkloadError: The commands fail, or do something else when they run again.
        RecordError: The folder of runs cannot be read.
        OSError: A file cannot be read.
    """
    with ending_by_exception():
        if options.commands is None and options.each is None:
            return _again(options, say)
        return _anew(options, say)


def _anew(options: ProveOptions, say: Callable[[str], None]) -> int:
    batch = _batch(options)
    if warning := shell_words(task.argv for task in batch.tasks):
        say(warning)
    check_writable_folder(options.data)
    budget_s = options.budget or DEFAULT_BUDGET_S
    count = len(batch.tasks) or len(batch.arguments)
    say(f"observing {count:,} command{'s' * (count > 1)}, which run dozens of times")
    begun = time.monotonic()
    advice = advise(batch, options.chosen)
    left_s = budget_s - (time.monotonic() - begun)
    if advice.suggestions and left_s <= 0:
        say(
            f"{budget_s:g} s went by while the batch was observed, which took {advice.took_s:.1f} s each time; raise --budget"
        )
        return 1
    with _progress(say) as tell:
        proofs = prove_first(
            advice.suggestions,
            batch,
            options.chosen,
            budget_s=max(left_s, 0.001),
            most=options.most,
            only=options.only,
            data_dir=options.data,
            allow_host_changes=options.allow_host_changes,
            on_progress=tell,
        )
    found = [proof.suggestion for proof in proofs]
    if options.as_json:
        sys.stdout.write(json.dumps([one.to_dict() for one in found], indent=1) + "\n")
    elif found:
        show_suggestions(found, sys.stdout)
    else:
        sys.stdout.write("nothing is suggested: as far as the rules can see, this batch is run well\n")
    return _status(proofs, say)


def _again(options: ProveOptions, say: Callable[[str], None]) -> int:
    stored = StoredProof.of(Store(options.data).find(options.words[0]))
    if isinstance(stored.asked.change, HostChange) and not options.allow_host_changes:
        raise InvalidInputError(
            f"it changes the host ({stored.asked.change}); if you want that, add --allow-host-changes"
        )
    check_writable_folder(options.data)
    host = read_host()
    if stored.run.host_id != host.host_id:
        say("that proof comes from another host; what it gained there and gains here need not be alike")
    with _progress(say) as tell:
        proof = proof_of(
            stored.asked,
            stored.batch,
            stored.settings,
            budget_s=options.budget or stored.budget_s,
            data_dir=options.data,
            seed=stored.seed,
            allow_host_changes=options.allow_host_changes,
            repeats=run_name(stored.run.path),
            on_progress=lambda progress: tell(stored.asked, progress),
        )
    now = proof.suggestion
    if options.as_json:
        sys.stdout.write(json.dumps([now.to_dict()], indent=1) + "\n")
        return _status([proof], say)
    show_suggestions([now], sys.stdout)
    then = stored.suggestion
    sys.stdout.write(
        f"   {'before':12}{then.status}{f', {effect_words(then.effect)}' if then.effect else ''}, on "
        f"{stored.run.recorded_at:%Y-%m-%d %H:%M} UTC; it is {'' if then.status == now.status else 'not '}the same again\n"
    )
    return _status([proof], say)


def _status(proofs: Sequence[Proof], say: Callable[[str], None]) -> int:
    """Return 130 after Ctrl-C, and 1 where something was tried, and the budget did not suffice for a single measurement."""
    if any(proof.interrupted for proof in proofs):
        say("interrupted: what is said above rests on what was measured by then")
        return INTERRUPTED
    tried = [proof.suggestion for proof in proofs if proof.suggestion.status != "unmeasured"]
    return int(bool(tried) and all(one.effect is None and one.status == "inconclusive" for one in tried))


def _batch(options: ProveOptions) -> TaskBatch:
    if options.each is None:
        read = read_batch((), None, options.commands)
        return TaskBatch(tuple(ProcessTask(argv, id=number) for number, argv in enumerate(read.argvs)))
    inside = next((word for word in options.words if PLACE in word and word != PLACE), None)
    if inside is not None:
        raise InvalidInputError(
            f"{{}} stands inside the word {inside!r}; here it must stand alone, so that it can be several"
        )
    read = read_batch(options.words, options.each, None)
    return TaskBatch.from_template(options.words, (word for some in read.arguments or () for word in some))


@contextlib.contextmanager
def _progress(say: Callable[[str], None]) -> Iterator[Tell]:
    """Say which suggestion is being proved, and how far that has come."""
    told: set[str] = set()
    measuring = measuring_progress(sys.stderr)

    def tell(one: OptimizationSuggestion, progress: Progress) -> None:
        if one.rule not in told:
            told.add(one.rule)
            measuring.close()
            say(f"proving {one_line(str(one.change), 80)}, up to {progress.budget_s:.0f} s")
        measuring(progress)

    try:
        yield tell
    finally:
        measuring.close()
