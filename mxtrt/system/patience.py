"""What is worth its time only now and then."""

from __future__ import annotations

import time

from mxtrt.system.threads import lock

__all__ = ["Patience"]


class Patience:
    """Says when something is to be tried that was often done in vain.

    It may be in vain a few times in a row, then once in each while that is many times as long as it
    took: it never costs more than a small part of the time that passes.

    Args:
        most: How often in a row.
        pause: The while, in times of how long it took last.
    """

    def __init__(self, most: int, pause: float) -> None:
        self._most, self._times = most, pause
        self._left = float(most)
        self._pause = self._since = 0.0
        self._lock = lock()

    def allows(self) -> bool:
        """Whether it is to be tried."""
        with self._lock:
            return self._now_left() >= 1

    def spent(self, seconds: float) -> None:
        """It was done in vain, and took so long."""
        with self._lock:
            self._left = max(self._now_left() - 1, 0.0)
            self._since = time.monotonic()
            self._pause = self._times * seconds

    def _now_left(self) -> float:
        if not self._pause:
            return self._left
        return min(self._most, self._left + (time.monotonic() - self._since) / self._pause)
