"""How far an answer may be off: derived for every element from noisy evaluations.

The limit is eight standard deviations of the noisy samples, at least those pooled over the
element's row, plus four units in the last place; integers have to be equal.  Where TensorRT's
approximations are coarser than that it is the furthest that samples of these alone went.  Elements
that the noise decides (a sign that flips, a class that changes) are undetermined: no answer to them
is wrong.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mxtrt.graph.symbol import Entry
from mxtrt_fuzz.reference import DEVIATIONS, Noise, Reach, Reference, Values
from mxtrt_fuzz.specs import INTEGERS
from mxtrt_fuzz.values import Array

__all__ = ["ESCALATED", "SAMPLES", "Limit", "limits"]

#: Noisy evaluations of every case, and of one that is about to be reported.
SAMPLES, ESCALATED = 8, 64

_ULPS = 4.0
# A float32 evaluation that is so far off (relatively) overflowed or vanished on the way.
_OVERFLOWED = 1e-3
# A limit that huge numbers make larger than this (relatively) does not bound the error: near the
# poles of a tangent the samples have no standard deviation.
_AMPLIFIED = 0.1


@dataclass(frozen=True, slots=True)
class Limit:
    """What is known of one entry.

    Attributes:
        exact: The float64 reference.
        limit: Largest allowed distance of each element, 0 where ``exact`` is not finite.
        undetermined: Elements that rounding decides.
    """

    exact: Array
    limit: Array
    undetermined: Array

    def error(self, answer: Array) -> float:
        """Largest distance of an answer from the reference, in units of the limit.

        Infinite where the class (finite, NaN, infinity of a sign) is another one.
        """
        return float(self._errors(answer).max(initial=0.0))

    def worst(self, answer: Array) -> str:
        """The largest error in words: where it is, what is there, and what would be right."""
        errors = self._errors(answer)
        place = np.unravel_index(errors.argmax(), errors.shape)
        where, right = tuple(map(int, place)), f"{self.exact[place]:.9g}"
        return (
            f"{answer[place]:.9g} at {where} where {right} is right to {self.limit[place]:.2g}, "
            f"{np.count_nonzero(errors > 1)} of {errors.size} off"
        )

    def _errors(self, answer: Array) -> Array:
        with np.errstate(all="ignore"):
            answer = answer.astype(np.float64)
            finite = np.isfinite(self.exact)
            ratio = np.abs(answer - self.exact) / self.limit
            same = (answer == self.exact) | (np.isnan(answer) & np.isnan(self.exact))
            ratio = np.where(finite & np.isfinite(answer), ratio, np.where(same, 0.0, np.inf))
            errors: Array = np.where(self.undetermined | (answer == self.exact), 0.0, ratio)
        return errors


def limits(reference: Reference, entries: tuple[Entry, ...], samples: int = SAMPLES) -> list[Limit]:
    """Limits of some entries of a case.

    Args:
        reference: The case with the values of its variables.
        entries: Which entries.
        samples: Number of noisy evaluations.
    """
    exact = reference.values()
    noisy = [reference.values(Noise(seed)) for seed in range(samples)]
    masks = {entry: _class_changes(exact[entry], [s[entry] for s in noisy]) for entry in entries}
    _mark_jumps(reference, exact, noisy, masks)
    found = {}
    furthest = [reference.values(Reach(seed)) for seed in range(samples * reference.coarse)]
    for entry in set(entries):
        dtype = reference.case.tensor(entry).dtype
        limit = _limit(exact[entry], [s[entry] for s in noisy], masks[entry], dtype)
        if furthest and dtype not in INTEGERS:
            reached = _reached(exact[entry], [s[entry] for s in furthest], masks[entry])
            limit = np.maximum(limit, reached)
        found[entry] = Limit(exact[entry], limit, masks[entry])
    if reference.beyond_half(exact):
        for known in found.values():
            known.undetermined[...] = True
    _mark_special(reference, exact, found)
    return [found[entry] for entry in entries]


def _limit(exact: Array, noisy: list[Array], undetermined: Array, dtype: str) -> Array:
    if dtype in INTEGERS:
        return np.full(exact.shape, 0.5)
    with np.errstate(all="ignore"):
        deviations = np.stack(noisy) - exact
        finite = np.isfinite(exact) & np.isfinite(deviations).all(0)
        # Elements that jump do not count in the variance of their row.
        variance = np.where(finite & ~undetermined, np.square(deviations).mean(0), 0.0)
        pooled = variance.mean(-1, keepdims=True) if variance.ndim > 1 else variance.mean()
        spacing = np.spacing(np.abs(exact).astype(dtype)).astype(np.float64)
        limit: Array = DEVIATIONS * np.sqrt(np.maximum(variance, pooled)) + _ULPS * spacing
        return np.where(np.isfinite(exact), limit, 0.0)


def _reached(exact: Array, furthest: list[Array], undetermined: Array) -> Array:
    """How far samples went, at least what is usual in the element's row."""
    with np.errstate(all="ignore"):
        reach = np.abs(np.stack(furthest) - exact).max(0)
        reach = np.where(np.isfinite(reach) & np.isfinite(exact) & ~undetermined, reach, 0.0)
        squares = np.square(reach)
        usual = squares.mean(-1, keepdims=True) if reach.ndim > 1 else squares.mean()
        return np.where(np.isfinite(exact), np.maximum(reach, np.sqrt(usual)), 0.0)


def _class_changes(exact: Array, noisy: list[Array]) -> Array:
    stacked = np.stack([exact, *noisy])
    nan, infinite = np.isnan(stacked), np.isinf(stacked) * np.sign(stacked)
    changed: Array = (nan != nan[0]).any(0)
    with np.errstate(invalid="ignore"):
        return changed | ((infinite != infinite[0]) & ~nan).any(0)


def _mark_jumps(
    reference: Reference, exact: Values, noisy: list[Values], masks: dict[Entry, Array]
) -> None:
    _mark(reference, exact, reference.jumped(exact, noisy) if reference.jumps else {}, masks)


def _mark(
    reference: Reference, exact: Values, poison: dict[Entry, Array], masks: dict[Entry, Array]
) -> None:
    """Mark some elements, and all that depends on them."""
    if poison:
        poisoned, tamed = (reference.values(poison=poison, mark=x) for x in (np.nan, 0.0))
        for entry, mask in masks.items():
            nan = np.isnan(exact[entry]) & np.isnan(tamed[entry])  # NaN in any case
            mask |= np.isnan(poisoned[entry]) & ~nan


def _mark_special(reference: Reference, exact: Values, found: dict[Entry, Limit]) -> None:
    """What huge numbers, and a NaN where MXNet does not say, leave to an implementation."""
    if all(np.isfinite(value).all() for value in exact.values()) and (
        reference.case.lane in ("uniform", "grid")
    ):
        return
    masks = {entry: known.undetermined for entry, known in found.items()}
    _mark(reference, exact, reference.undefined(exact), masks)
    single = reference.single()
    blind, compared = reference.nan_blind(exact)
    for entry, known in found.items():
        value = single[entry].astype(np.float64)
        mask = known.undetermined
        mask |= _class_changes(exact[entry], [value])
        with np.errstate(all="ignore"):
            mask |= np.abs(value - exact[entry]) > known.limit + _OVERFLOWED * np.abs(exact[entry])
            mask |= known.limit > _AMPLIFIED * np.abs(exact[entry])
        if entry in blind:
            mask |= ~np.isfinite(exact[entry]) | (entry in compared)
