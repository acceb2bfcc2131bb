"""What is worth its time only now and then."""

from __future__ import annotations

import pytest

from mxtrt.system import patience
from mxtrt.system.patience import Patience


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time; tests move it."""
    now = [100.0]
    monkeypatch.setattr(patience.time, "monotonic", lambda: now[0])
    return now


def test_a_few_in_a_row_are_allowed_then_one_for_each_pause(clock):
    """The pause is many times as long as the last one took."""
    one = Patience(3, 10.0)
    for _ in range(3):
        assert one.allows()
        one.spent(2.0)
    assert not one.allows()
    clock[0] += 19.0
    assert not one.allows()
    clock[0] += 1.5
    assert one.allows()
    one.spent(2.0)
    assert not one.allows()


def test_what_was_not_in_vain_counts_for_nothing(clock):
    """However often."""
    one = Patience(1, 10.0)
    assert all(one.allows() for _ in range(100))


def test_a_long_time_allows_as_many_as_at_first(clock):
    """And no more."""
    one = Patience(2, 10.0)
    one.spent(1.0)
    clock[0] += 1e6
    for expected in (True, True, False):
        assert one.allows() == expected
        one.spent(1.0)
