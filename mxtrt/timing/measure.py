"""Measuring two ways to compute the same: paired latencies, ratio, parity, memory."""

from __future__ import annotations

import mmap
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = [
    "Pairs",
    "bootstrap_ratio",
    "interleave",
    "parity_error",
    "resident_bytes",
    "seconds_of",
]

#: One row per pair of calls: seconds of the first, seconds of the second.
Pairs = npt.NDArray[np.float64]

_RESAMPLES = 2000
_MOST_AT_ONCE = 1 << 20  # numbers


def seconds_of(call: Callable[[], object], clock: Callable[[], float] = time.perf_counter) -> float:
    """How long a call takes, in seconds by a clock."""
    begin = clock()
    call()
    return clock() - begin


def interleave(
    a: Callable[[], object],
    b: Callable[[], object],
    seconds: float,
    warmup: int = 5,
    *,
    at_least: int = 5,
    progress: Callable[[float], object] | None = None,
) -> Pairs:
    """Call ``a`` and ``b`` in the order ABBA until the time is over.

    Each round gives two pairs, one with ``a`` first and one with ``b`` first, so that neither
    a drift of the machine nor the order favours one of them.

    Args:
        a: One way; it returns when its result is there.
        b: The other way.
        seconds: Time to spend after the warm-up.
        warmup: Calls of each beforehand, not measured.
        at_least: Rounds to measure even if the time is over.
        progress: Is told the part done, 0 to 1, after every round.
    """
    for _ in range(warmup):
        a()
        b()
    pairs: list[tuple[float, float]] = []
    begin = time.perf_counter()
    rounds = 0
    while rounds < at_least or time.perf_counter() - begin < seconds:
        first = seconds_of(a), seconds_of(b)
        second = seconds_of(b), seconds_of(a)
        pairs += [first, (second[1], second[0])]
        rounds += 1
        if progress is not None:
            spent = (time.perf_counter() - begin) / seconds if seconds > 0 else 1.0
            progress(min(spent, rounds / at_least if at_least else 1.0, 1.0))
    return np.array(pairs, dtype=np.float64).reshape(-1, 2)


def bootstrap_ratio(pairs: Pairs, level: float = 0.99, seed: int = 0) -> tuple[float, float, float]:
    """How many times as long ``a`` takes as ``b``: median of the paired log ratios.

    The interval is a percentile interval of a circular block bootstrap, because neighbouring
    pairs share what the machine was doing; blocks have ``n ** (1/3)`` pairs, two at least.

    Args:
        pairs: Seconds of ``a`` and ``b``, one row per pair, in the order of measuring.
        level: Level of the interval.
        seed: Seed of the resampling.

    Returns:
        The ratio, and the interval's low and high end.
    """
    logs = np.log(pairs[:, 0]) - np.log(pairs[:, 1])
    count = len(logs)
    length = min(max(round(count ** (1 / 3)), 2), count)
    blocks = -(-count // length)
    rng = np.random.default_rng(seed)
    medians = np.empty(_RESAMPLES)
    rows = max(_MOST_AT_ONCE // (blocks * length), 1)  # resamples at once
    for begin in range(0, _RESAMPLES, rows):
        part = medians[begin : begin + rows]
        starts = rng.integers(0, count, size=(len(part), blocks, 1))
        places = (starts + np.arange(length)).reshape(len(part), -1)[:, :count] % count
        part[:] = np.median(logs[places], axis=1)
    tail = (1 - level) / 2
    low, high = np.exp(np.quantile(medians, (tail, 1 - tail)))
    return float(np.exp(np.median(logs))), float(low), float(high)


def parity_error(expected: Sequence[Any], seen: Sequence[Any]) -> float:
    """Largest difference of outputs over the largest magnitude expected; NaN counts as infinite.

    Args:
        expected: Outputs as NumPy arrays.
        seen: The same outputs computed the other way.
    """
    worst = 0.0
    for want, got in zip(expected, seen, strict=True):
        want, got = np.asarray(want, np.float64), np.asarray(got, np.float64)
        if want.shape != got.shape:
            return float("inf")
        if want.size == 0:
            continue
        with np.errstate(invalid="ignore"):
            difference = np.where(want == got, 0.0, np.abs(want - got)).max()
        largest = np.abs(want[np.isfinite(want)]).max(initial=0.0)
        error = difference / largest if largest > 0 else difference
        worst = max(worst, float(error) if np.isfinite(error) else float("inf"))
    return worst


def resident_bytes() -> int:
    """Resident memory of this process (Linux)."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * mmap.PAGESIZE
