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
COUNTS = (12, 30, 120, 600, 5_000)
LONG = 600  # from so many samples on a quarter of the draws must do
WANTED = (0.05, 0.95, 0.05, 0.05, 0.9)  # at most, at least, at most, at most, at least
NOISES: dict[str, Callable[[np.random.Generator, int, int], Floats]] = {
    "white": lambda source, draws, count: source.standard_normal((draws, count)),
    "AR(1) 0.3": lambda source, draws, count: wandering(source, draws, count, 0.3),
    "AR(1) 0.6": lambda source, draws, count: wandering(source, draws, count, 0.6),
    "t, 3 degrees": lambda source, draws, count: source.standard_t(3, (draws, count)) / math.sqrt(3),
}


def report(rounds: int) -> None:
    """Measure and print shares over synthetic series, then the ratio of times of 10 million samples and 100,000."""
    draws = 50 * rounds
    print(
        f"\ntrends and jumps: shares of {draws} series, of {LONG} samples on a quarter as many; the noise's deviation is 1"
    )
    print("wanted: at most 5 % seen where there is none, a rise in at least 95 %, a jump in at least 90 %")
    print("what misses that by more than two standard errors of that many draws is marked with !")
    print(
        f"{'noise':14}{'samples':>8}   trend in noise   rise of 8   jump in noise   jump in the rise   jump of 8 within 3"
    )
    for name, noise in NOISES.items():
        for count in COUNTS:
            own = draws if count < LONG else max(1, draws // 4)
            _show(name, noise(np.random.default_rng(count), own, count))
    _seasons(draws)
    _cost(rounds)


def _show(name: str, series: Floats) -> None:
    draws, count = series.shape
    line, source = 8 * np.linspace(0, 1, count), random.Random(count)
    seen = [trend(one).direction != "stable" for one in series]
    risen = [trend(line + one).direction == "increasing" for one in series]
    jumped = [bool(change_points(one)) for one in series]
    cut = [bool(change_points(line + one)) for one in series]
    near = []
    for one in series:
        place = source.randint(count // 4 + 1, count - count // 4 - 1)
        found = change_points(one + np.where(np.arange(count) < place, 0.0, 8.0))
        near.append(any(abs(jump.index - place) <= 3 for jump in found))
    shares = [sum(each) / draws for each in (seen, risen, jumped, cut, near)]
    words = [f"{share:6.1%}{_mark(share, wanted, draws)}" for share, wanted in zip(shares, WANTED, strict=True)]
    print(f"{name:14}{count:8,}   {words[0]:>14}   {words[1]:>9}   {words[2]:>13}   {words[3]:>16}   {words[4]:>18}")


def _mark(share: float, wanted: float, draws: int) -> str:
    error = math.sqrt(wanted * (1 - wanted) / draws)
    missed = share - wanted if wanted < 0.5 else wanted - share
    return "!" if missed > 2 * error else " "


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
