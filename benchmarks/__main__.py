"""``python -m benchmarks [section ...]``: print procbench's ratios on this machine.

Every round runs every way once, in a new random order, and a ratio is the median of the rounds' ratios, with the range
of the middle half. An absolute time on a shared machine proves nothing; a ratio from one run says something.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable

from benchmarks import (
    arguments,
    makespan,
    monitoring,
    placing,
    pools,
    queues,
    spawning,
    streams,
    transfer,
    trends,
    widgets,
)

SECTIONS: dict[str, Callable[[argparse.Namespace], None]] = {
    "spawning": lambda options: spawning.report(options.rounds, options.count, options.workers),
    "arguments": lambda options: arguments.report(options.rounds, options.workers[:1]),
    "placing": lambda options: placing.report(options.rounds, options.count, options.workers),
    "transfer": lambda options: transfer.report(options.rounds),
    "pools": lambda options: pools.report(options.rounds),
    "monitoring": lambda options: monitoring.report(options.rounds, options.count),
    "makespan": lambda options: makespan.report(options.rounds),
    "queues": lambda options: queues.report(options.rounds),
    "widgets": lambda _: widgets.report(),
    "trends": lambda options: trends.report(options.rounds),
    "streams": lambda options: streams.report(options.rounds, streams.Sizes(short=options.count)),
}


def main() -> None:
    """Measure and print the tables of the sections that were asked for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__.splitlines()[0])
    parser.add_argument("sections", nargs="*", metavar="section", help=f"any of {', '.join(SECTIONS)}; default all")
    parser.add_argument("--count", type=int, default=2000, help="commands in a batch")
    parser.add_argument("--workers", type=int, nargs="+", default=[2, 3, 4])
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    if unknown := set(options.sections) - set(SECTIONS):
        parser.error(f"there is no section {', '.join(sorted(unknown))}; there are: {', '.join(SECTIONS)}")
    print(f"{options.rounds} rounds, Python {sys.version.split()[0]}")
    for name in options.sections or SECTIONS:
        SECTIONS[name](options)


if __name__ == "__main__":
    main()
