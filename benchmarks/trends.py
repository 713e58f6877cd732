"""How often trends and jumps are seen where there are some, and where there are none; and that their cost is linear."""

from __future__ import annotations

import math
import random
import statistics
import time
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from procbench.analysis.change_points import change_points
from procbench.analysis.slopes import trend
from procbench.analysis.trends import metric_trend

Floats = NDArray[np.float64]
COUNTS = (12, 30, 120, 600)
NOISES: dict[str, Callable[[np.random.Generator, int, int], Floats]] = {
    "white": lambda source, draws, count: source.standard_normal((draws, count)),
    "AR(1) 0.3": lambda source, draws, count: wandering(source, draws, count, 0.3),
    "AR(1) 0.6": lambda source, draws, count: wandering(source, draws, count, 0.6),
    "t, 3 degrees": lambda source, draws, count: source.standard_t(3, (draws, count)) / math.sqrt(3),
}


def report(rounds: int) -> None:
    """Measure and print shares over synthetic series, then the ratio of times of 10 million samples and 100,000."""
    draws = 50 * rounds
    print(f"\ntrends and jumps: shares of {draws} series; noise has a standard deviation of 1")
    print(
        f"{'noise':14}{'samples':>8}   no trend seen as one   no jump seen as one   line cut   rise of 8   jump of 8 within 3"
    )
    for name, noise in NOISES.items():
        for count in COUNTS:
            _show(name, noise(np.random.default_rng(count), draws, count))
    _seasons(draws)
    _cost(rounds)


def _show(name: str, series: Floats) -> None:
    draws, count = series.shape
    line, source = 8 * np.linspace(0, 1, count), random.Random(count)
    seen = [trend(one).direction != "stable" for one in series]
    jumped = [bool(change_points(one)) for one in series]
    cut = [bool(change_points(line + one)) for one in series]
    risen = [trend(line + one).direction == "increasing" for one in series]
    near = []
    for one in series:
        place = source.randint(count // 4 + 1, count - count // 4 - 1)
        found = change_points(one + np.where(np.arange(count) < place, 0.0, 8.0))
        near.append(any(abs(jump.index - place) <= 3 for jump in found))
    shares = [sum(each) / draws for each in (seen, jumped, cut, risen, near)]
    words = [f"{share:6.1%}" for share in shares]
    print(f"{name:14}{count:8}   {words[0]:>20}   {words[1]:>19}   {words[2]:>8}   {words[3]:>9}   {words[4]:>18}")


def _seasons(draws: int) -> None:
    """Print shares for ten seasons of 24 samples, three times as high as the noise, with and without a jump and a rise."""
    count, source = np.arange(240), np.random.default_rng(1)
    season = 3 * np.sin(2 * np.pi * count / 24)
    series = season + source.standard_normal((draws, 240))
    jump = np.where(count < 100, 0.0, 8.0)
    shares = {
        "a season alone seen as a trend": [trend(one, period=24).direction != "stable" for one in series],
        "the same, its period not named": [trend(one).direction != "stable" for one in series],
        "a season alone seen as a jump": [bool(change_points(one, period=24)) for one in series],
        "rise of 0.1 a sample beside it, and a fall of 8": [
            metric_trend("", one + 0.1 * count - jump, period=24).direction == "increasing" for one in series
        ],
        "that fall within 3 samples": [
            any(abs(each.index - 100) <= 3 for each in change_points(one + 0.1 * count - jump, period=24))
            for one in series
        ],
    }
    for words, found in shares.items():
        print(f"  {sum(found) / draws:6.1%}  {words}")


def _cost(rounds: int) -> None:
    small, large = (np.random.default_rng(2).standard_normal(count) for count in (100_000, 10_000_000))
    for name, way in {"trend": trend, "change_points": change_points}.items():
        way(small)  # imports
        ratios = sorted(_seconds(way, large) / _seconds(way, small) for _ in range(rounds))
        ratio, low, high = statistics.median(ratios), ratios[len(ratios) // 4], ratios[-1 - len(ratios) // 4]
        met = "met" if ratio <= 100 else "MISSED"
        print(f"  {ratio:6.1f} [{low:.1f}, {high:.1f}]  {name}: 100 times as many samples; wanted <= 100: {met}")


def _seconds(way: Callable[[Floats], object], values: Floats) -> float:
    started = time.perf_counter()
    way(values)
    return time.perf_counter() - started


def wandering(source: np.random.Generator, draws: int, count: int, correlation: float) -> Floats:
    """Return draws of an AR(1) process with a standard deviation of 1."""
    noise = source.standard_normal((draws, count + 50))
    for number in range(1, count + 50):
        noise[:, number] = correlation * noise[:, number - 1] + math.sqrt(1 - correlation**2) * noise[:, number]
    return noise[:, 50:]
