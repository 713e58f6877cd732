"""Output is shown once, whole, in the order asked for, with its tag, and little of it stands in memory."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from procbench.scheduling.settings import RunSettings
from procbench.scheduling.stealing import WorkStealingScheduler
from procbench.scheduling.task import ProcessTask, TaskResult
from procbench.views.outputs import Outputs, Said, tagged


def results_of(count: int, code: str = "echo $0; echo $0 >&2", **settings: object) -> list[TaskResult]:
    """Return the results of so many commands, by number."""
    tasks = [ProcessTask(["sh", "-c", code, str(number)], id=number) for number in range(count)]
    with WorkStealingScheduler(RunSettings(workers=2, capture=True, **settings)) as scheduler:
        return list(scheduler.map(tasks))


def shown(turns: Iterator[Said]) -> list[tuple[bytes, bytes]]:
    return [(b"".join(out.pieces()), b"".join(err.pieces())) for out, err in turns]


def lines(number: int) -> tuple[bytes, bytes]:
    return f"{number}\n".encode(), f"{number}\n".encode()


def test_without_an_order_each_is_shown_as_it_ends():
    """Nothing is held back."""
    outputs = Outputs()
    for number, result in enumerate(results_of(3)):
        assert shown(outputs.take(result)) == [lines(number)]
    assert shown(outputs.rest()) == []


def test_the_reverse_order_is_turned_round():
    """Nothing is shown before the first has ended, then everything is, once and in order."""
    outputs = Outputs(turns=range(5))
    seen = [shown(outputs.take(result)) for result in reversed(results_of(5))]
    assert seen == [[], [], [], [], [lines(number) for number in range(5)]]
    assert shown(outputs.rest()) == []


@pytest.mark.parametrize("most_held_bytes", [0, 3, 1 << 20])
def test_any_order_comes_out_right_with_any_memory(most_held_bytes: int):
    """With room for nothing, for some or for all, each is shown once; the file is used again when it is empty."""
    results = results_of(12)
    for seed in range(20):
        outputs = Outputs(turns=range(12), most_held_bytes=most_held_bytes)
        order = list(results)
        random.Random(seed).shuffle(order)
        seen = list(itertools.chain.from_iterable(shown(outputs.take(result)) for result in order))
        assert seen == [lines(number) for number in range(12)]
        assert (outputs._held_bytes, outputs._spooled, outputs._waiting) == (0, 0, {})
        outputs.close()


def test_what_waits_for_a_cancelled_command_is_shown_at_the_end():
    """Each once, in order, also behind several that never ended; only those that were to run have a turn."""
    outputs = Outputs(turns=[0, 2, 4, 5, 7])
    results = results_of(8)
    assert shown(outputs.take(results[7])) == []
    assert shown(outputs.take(results[4])) == []
    assert shown(outputs.take(results[0])) == [lines(0)]
    assert shown(outputs.rest()) == [lines(4), lines(7)]
    assert shown(outputs.rest()) == []


@pytest.mark.parametrize("turns", [None, range(2)])
def test_output_over_the_cap_comes_whole_from_its_file(turns: range | None):
    """With overflow=spool nothing is lost, shown at once or later, and no descriptor stays open."""
    code = "head -c 300000 /dev/zero | tr '\\0' $0"
    results = results_of(2, code, overflow="spool", max_output_bytes=1000)
    outputs = Outputs(turns=turns, most_held_bytes=10)
    seen = [out for result in reversed(results) for out, _ in shown(outputs.take(result))]
    assert sorted(seen) == [b"0" * 300_000, b"1" * 300_000]
    assert turns is None or seen[0].startswith(b"0")
    for result in results:
        assert result.stdout_over is not None
        assert result.stdout_over.file is not None
        assert result.stdout_over.file.closed
    outputs.close()


@given(pieces=st.lists(st.binary(max_size=8).map(lambda raw: raw.replace(b"a", b"\n"))))
def test_a_tag_stands_before_each_line_wherever_the_pieces_end(pieces: list[bytes]):
    """Binary output goes through as it is; only a line feed ends a line, and the last line gets one."""
    whole = b"".join(pieces)
    expected = b"".join(b"tag\t" + line + b"\n" for line in whole.removesuffix(b"\n").split(b"\n")) if whole else b""
    assert b"".join(tagged(pieces, b"tag\t")) == expected


def test_a_tag_is_one_field_of_one_line():
    """A line end or a tab in an argument cannot pass for the output's; its bytes stay as they are otherwise."""
    outputs = Outputs(tag=lambda number: "a\nb\tc\udce9")
    (result,) = results_of(1, "printf 'x\\0y\\r\\nz'")
    assert shown(outputs.take(result)) == [(b"a\\nb\\tc\xe9\tx\0y\r\na\\nb\\tc\xe9\tz\n", b"")]
