"""The interpreter in which batches meet a limit of descriptors: its own, so that nobody else's is ever lowered.

Started with the limit as its argument. Each line on standard input is a batch, as JSON; the answer is what became of it. The
end of standard input ends it.
"""

import errno
import json
import resource
import sys
import time
from typing import Any

from procbench.io.budget import shared_budget
from procbench.io.fd_limit import count_open
from procbench.scheduling.settings import RunSettings
from procbench.scheduling.stealing import WorkStealingScheduler

_SPENT = frozenset({errno.EMFILE, errno.ENFILE})


def answer(settings: RunSettings, tasks: int) -> dict[str, Any]:
    """Run a batch of ``true`` and return how it went.

    Returns:
        ``done`` and ``refused``, commands; ``waits``, for permits; ``wall_s``; and ``left``, descriptors that are open
        afterwards and were not before.
    """
    before, waits = count_open(), shared_budget().statistics().waits
    with WorkStealingScheduler(settings) as scheduler:
        begun = time.perf_counter()
        results = list(scheduler.map([["true"]] * tasks))
        wall_s = time.perf_counter() - begun
    after = count_open()
    return {
        "done": sum(result.returncode == 0 for result in results),
        "refused": sum(getattr(result.error, "errno", None) in _SPENT for result in results),
        "waits": shared_budget().statistics().waits - waits,
        "wall_s": wall_s,
        "left": (after or 0) - (before or 0),
    }


def main() -> None:
    """Lower this process's limit and answer batches until there are no more."""
    limit = int(sys.argv[1])
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    for line in sys.stdin:
        asked = json.loads(line)
        sys.stdout.write(json.dumps(answer(RunSettings.from_dict(asked["settings"]), asked["tasks"])) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
