"""Plain MXNet and mxtrt in turns, and a control of the measurement itself.

Times on a machine that others use drift by several per cent within a minute; the ratio of two
calls that are made one after the other does not.  Pairs are made in the order ABBA, so that
neither drift nor order favours one side (Duet benchmarking, Bulej et al., ICPE 2020).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from mxtrt.timing.measure import Pairs, bootstrap_ratio, seconds_of

__all__ = ["LEVEL", "MOST_NOISE", "Duet", "Paired", "paired"]

#: Level of the intervals.
LEVEL = 0.99
#: Where the control is farther than this from 1, noise may hide a regression of 10 %.
MOST_NOISE = 0.03

_FEWEST_ROUNDS = 8
_MOST_ROUNDS = 400


@dataclass(frozen=True, slots=True)
class Paired:
    """How many times as long plain MXNet takes.

    Attributes:
        ratio: Median of the paired ratios, plain MXNet over mxtrt: above 1 mxtrt is faster.
        low: Low end of its interval.
        high: High end of its interval.
        control: The same ratio of plain MXNet over itself, which is 1 but for noise.
        control_low: Low end of its interval.
        control_high: High end of its interval.
        plain_ms: Median of plain MXNet, milliseconds.
        mxtrt_ms: Median of mxtrt, milliseconds.
        pairs: Pairs of calls.
    """

    ratio: float
    low: float
    high: float
    control: float
    control_low: float
    control_high: float
    plain_ms: float
    mxtrt_ms: float
    pairs: int

    @property
    def noise(self) -> float:
        """How far from 1 the control may be, as a logarithm: its interval's farther end."""
        return float(max(abs(np.log(self.control_low)), abs(np.log(self.control_high))))

    @property
    def is_void(self) -> bool:
        """Whether the control fails: the machine was too busy to tell."""
        return self.noise > MOST_NOISE

    def to_dict(self) -> dict[str, Any]:
        """The figures as JSON-ready data."""
        return asdict(self)


def paired(pairs: Pairs, controls: Pairs) -> Paired:
    """Figures of measured pairs.

    Args:
        pairs: Seconds of plain MXNet and of mxtrt, one row per pair, in the order of measuring.
        controls: Seconds of plain MXNet and of plain MXNet.
    """
    plain_ms, mxtrt_ms = (float(value) * 1e3 for value in np.median(pairs, axis=0))
    return Paired(
        *bootstrap_ratio(pairs, LEVEL),
        *bootstrap_ratio(controls, LEVEL),
        plain_ms=plain_ms,
        mxtrt_ms=mxtrt_ms,
        pairs=len(pairs),
    )


class Duet:
    """Two calls measured in turns by a driver that knows one of them.

    A driver such as pytest-benchmark's ``pedantic`` calls :meth:`before`, unmeasured, and
    :meth:`call`, measured, once per round.  Round by round the calls are A B, then B A; between
    two such rounds A A and A A for the control.

    Args:
        plain: A; it returns when its result is there.
        mxtrt: B.
        seconds: Time to spend; the number of rounds follows from one call of each.
        warmup: Calls of each beforehand.
        fewest: Rounds that are driven even if they take longer.
        clock: What tells seconds.

    Attributes:
        rounds: How many rounds to drive.
    """

    def __init__(
        self,
        plain: Callable[[], object],
        mxtrt: Callable[[], object],
        seconds: float,
        warmup: int = 2,
        fewest: int = _FEWEST_ROUNDS,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._plain = plain
        self._mxtrt = mxtrt
        self._clock = clock
        for _ in range(warmup):
            plain()
            mxtrt()
        # A round is A B, and half of the rounds have A A behind them.
        cost = 2 * self._seconds(plain) + self._seconds(mxtrt)
        rounds = int(min(max(seconds / cost, fewest), _MOST_ROUNDS))
        self.rounds = rounds + rounds % 2
        self._round = 0
        self._first = 0.0
        self._mine = 0.0
        self._pairs: list[tuple[float, float]] = []
        self._controls: list[tuple[float, float]] = []

    def before(self) -> None:
        """What comes before the measured call of a round."""
        self._finish()
        if self._round % 2 == 0:
            self._first = self._seconds(self._plain)

    def call(self) -> None:
        """The measured call of a round."""
        self._mine = self._seconds(self._mxtrt)
        self._round += 1

    def _finish(self) -> None:
        """What comes after the measured call of the last round."""
        if self._round == len(self._pairs):
            return
        if self._round % 2:
            self._pairs.append((self._first, self._mine))
            return
        self._pairs.append((self._seconds(self._plain), self._mine))
        first, second = self._seconds(self._plain), self._seconds(self._plain)
        # Who is called first has no advantage either: every second pair is turned round.
        turned = len(self._controls) % 2
        self._controls.append((second, first) if turned else (first, second))

    def result(self) -> Paired:
        """The figures, after the last round."""
        self._finish()
        return paired(np.array(self._pairs), np.array(self._controls))

    def _seconds(self, call: Callable[[], object]) -> float:
        return seconds_of(call, self._clock)
