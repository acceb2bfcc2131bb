"""Measuring: the order of calls, the ratio, parity."""

from __future__ import annotations

import numpy as np
import pytest

from mxtrt.timing.measure import bootstrap_ratio, interleave, parity_error, resident_bytes


def test_calls_alternate_abba_after_the_warmup() -> None:
    """Each round is ABBA, so that neither way is always the second."""
    calls: list[str] = []
    pairs = interleave(lambda: calls.append("a"), lambda: calls.append("b"), 0.0, 2, at_least=3)
    assert "".join(calls) == "abab" + "abba" * 3
    assert pairs.shape == (6, 2)
    assert (pairs >= 0).all()


def test_progress_is_told_up_to_the_end() -> None:
    """The parts told grow, and end with 1."""
    told: list[float] = []
    interleave(lambda: None, lambda: None, 0.0, 0, at_least=4, progress=told.append)
    assert told == sorted(told)
    assert told[-1] == 1.0


def test_ratio_is_the_median_of_the_pairs() -> None:
    """A constant ratio is found exactly, drift or not."""
    b = np.linspace(1, 3, 50)
    ratio, low, high = bootstrap_ratio(np.stack([2 * b, b], axis=1))
    assert ratio == pytest.approx(2)
    assert (low, high) == pytest.approx((2, 2))


def test_interval_covers_the_true_ratio() -> None:
    """A 99 % interval misses rarely; the seeds are fixed."""
    hits = 0
    for seed in range(20):
        rng = np.random.default_rng(seed)
        noise = rng.lognormal(0, 0.2, size=(80, 2))
        _, low, high = bootstrap_ratio(noise * (1.5, 1.0), seed=seed)
        hits += low <= 1.5 <= high
    assert hits >= 18


def test_interval_is_the_same_for_the_same_seed() -> None:
    """Resampling is seeded, and a higher level gives a wider interval."""
    pairs = np.random.default_rng(1).lognormal(size=(40, 2))
    assert bootstrap_ratio(pairs, seed=3) == bootstrap_ratio(pairs, seed=3)
    _, low, high = bootstrap_ratio(pairs, 0.5, seed=3)
    _, lower, higher = bootstrap_ratio(pairs, 0.99, seed=3)
    assert lower < low < high < higher


def test_one_pair_gives_an_interval() -> None:
    """The fewest pairs are no special case."""
    assert bootstrap_ratio(np.array([[3.0, 1.0]])) == pytest.approx((3, 3, 3))


@pytest.mark.parametrize(
    ("expected", "seen", "error"),
    [
        ([[1.0, -4.0]], [[1.0, -4.4]], 0.1),
        ([[0.0]], [[0.0]], 0.0),
        ([[0.0]], [[0.5]], 0.5),
        ([[1.0], [2.0]], [[1.0], [3.0]], 0.5),
        ([[]], [[]], 0.0),
        ([[1.0]], [[np.nan]], np.inf),
        ([[np.inf, 1.0]], [[np.inf, 1.0]], 0.0),
        ([[np.inf, 1.0]], [[np.inf, 2.0]], 1.0),
        ([[np.inf, 1.0]], [[9.0, 1.0]], np.inf),
        ([[1.0]], [[1.0, 2.0]], np.inf),
    ],
)
def test_parity_error(expected: list[object], seen: list[object], error: float) -> None:
    """Largest difference over the largest output, over all outputs."""
    assert parity_error(expected, seen) == pytest.approx(error)


def test_resident_memory_is_that_of_this_process() -> None:
    """A Python process takes some megabytes."""
    assert 2**22 < resident_bytes() < 2**36
