"""The interpreter in which ``multiprocessing.Queue`` is measured; it stands alone and is run by its path.

Processes forked from a notebook's kernel would inherit its threads, and spawned ones would leave a resource tracker behind. In
an interpreter of its own that has no thread, forking is safe. Its arguments are producers, consumers and maxsize. Each line
on standard input is a number of items; the answer, JSON, is ``seconds`` and ``got``, what each consumer got. The end of
standard input ends it.
"""

import json
import multiprocessing
import sys
import time
from typing import Any

_STOP = -1


def produce(orders: Any, line: Any) -> None:
    """Put the numbers of each order in, and then one None; answer when it began."""
    while (numbers := orders.recv()) is not None:
        begun = time.monotonic()
        for number in numbers:
            line.put(number)
        line.put(None)
        orders.send(begun)


def consume(orders: Any, line: Any, ended: Any, producers: int, consumers: int) -> None:
    """Get numbers until every producer's None was got; answer when that was, and the numbers."""
    while orders.recv() is not None:
        got: list[int] = []
        while (number := line.get()) != _STOP:
            if number is not None:
                got.append(number)
                continue
            with ended.get_lock():
                ended.value += 1
                is_last = ended.value == producers
            if is_last:  # a producer's None comes after its numbers, so nothing is left
                ended.value = 0
                for _ in range(consumers - 1):
                    line.put(_STOP)
                break
        orders.send((time.monotonic(), got))


def main() -> None:
    """Answer orders until there are no more."""
    producers, consumers, maxsize = map(int, sys.argv[1:4])
    context = multiprocessing.get_context("fork")
    line: Any = context.Queue(maxsize)
    ended = context.Value("i", 0)
    ways = []
    for number in range(producers + consumers):
        here, there = context.Pipe()
        target, args = (
            (produce, (there, line)) if number < producers else (consume, (there, line, ended, producers, consumers))
        )
        context.Process(target=target, args=args, daemon=True).start()
        ways.append(here)
    for asked in sys.stdin:
        items = int(asked)
        for number, way in enumerate(ways):
            own = range(items * number // producers, items * (number + 1) // producers)
            way.send(own if number < producers else True)
        begun = min(way.recv() for way in ways[:producers])
        answers = [way.recv() for way in ways[producers:]]
        seconds = max(when for when, _ in answers) - begun
        sys.stdout.write(json.dumps({"seconds": seconds, "got": [got for _, got in answers]}) + "\n")
        sys.stdout.flush()
    for way in ways:
        way.send(None)
    for process in multiprocessing.active_children():
        process.join()


if __name__ == "__main__":
    main()
