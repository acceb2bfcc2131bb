"""Slow changes over the history of a baseline, which no single comparison sees.

Change points are found by ``ruptures`` (PELT, Killick et al., JASA 2012).  Apache Otava is made
for the same and pins NumPy 2, which MXNet 1.9.1 does not import with.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = ["FEWEST", "Drift", "drifts"]

#: Recorded runs that a history needs before anything is said of it.
FEWEST = 6
_LEAST_CHANGE = 0.02
_FEWEST_BETWEEN = 3


@dataclass(frozen=True, slots=True)
class Drift:
    """A change of level in the history of a benchmark.

    Attributes:
        name: The benchmark.
        place: The first recorded run of the new level, counted from 0.
        commit: Its commit.
        before: Speed-up before, the median of that level.
        after: Speed-up from then on.
    """

    name: str
    place: int
    commit: str
    before: float
    after: float


def drifts(history: Sequence[Mapping[str, Any]]) -> list[Drift]:
    """The changes of level of every benchmark in a history.

    Args:
        history: Recorded runs, oldest first, as ``history.jsonl`` holds them.
    """
    found = []
    for name in sorted({name for entry in history for name in entry["ratios"]}):
        entries = [entry for entry in history if name in entry["ratios"]]
        logs = np.log([entry["ratios"][name][0] for entry in entries])
        ends = [0, *_change_points(logs), len(logs)]
        levels = [float(np.median(logs[a:b])) for a, b in itertools.pairwise(ends)]
        for place, before, after in zip(ends[1:], levels, levels[1:], strict=False):
            if abs(after - before) >= _LEAST_CHANGE:
                commit = entries[place]["commit"]
                found.append(Drift(name, place, commit, math.exp(before), math.exp(after)))
    return found


def _change_points(logs: Any) -> list[int]:
    """Where the level changes; empty for a history that is too short."""
    if len(logs) < FEWEST:
        return []
    import ruptures

    # The noise is that of the differences of neighbours, which hardly depend on changes of level.
    # 1.48 makes a standard deviation of the median absolute deviation, and a difference has twice
    # the variance of a value.
    steps = np.diff(logs)
    noise = 1.4826 * float(np.median(np.abs(steps - np.median(steps)))) / math.sqrt(2)
    signal = (logs / max(noise, _LEAST_CHANGE / 4)).reshape(-1, 1)
    # Twice BIC's penalty for the two parameters of a change, its level and its place: with less, a
    # short history has changes that are noise.
    penalty = 4 * math.log(len(logs))
    search = ruptures.Pelt(model="l2", min_size=_FEWEST_BETWEEN, jump=1).fit(signal)
    return [int(place) for place in search.predict(pen=penalty)[:-1]]
