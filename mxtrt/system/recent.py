"""The last few results of something slow."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

from mxtrt.system.threads import lock

__all__ = ["Recent"]

_T = TypeVar("_T")


class Recent(Generic[_T]):
    """Results by what they were made of, those used longest ago given up.

    Args:
        most: How many are kept.
        size: What they may come to together, in the unit of :meth:`put`.
    """

    def __init__(self, most: int, size: int) -> None:
        self._most, self._size = most, size
        self._lock = lock()
        self._kept: OrderedDict[Hashable, tuple[_T, int]] = OrderedDict()

    def get(self, key: Hashable) -> _T | None:
        """The result, or None where it is not kept."""
        with self._lock:
            found = self._kept.get(key)
            if found is None:
                return None
            self._kept.move_to_end(key)
            return found[0]

    def put(self, key: Hashable, value: _T, size: int) -> None:
        """Keep a result, unless it is too large."""
        if size > self._size:
            return
        with self._lock:
            self._kept[key] = value, size
            self._kept.move_to_end(key)
            while (
                len(self._kept) > self._most
                or sum(held for _, held in self._kept.values()) > self._size
            ):
                self._kept.popitem(last=False)

    def values(self) -> list[_T]:
        """What is kept, the result used latest last."""
        with self._lock:
            return [value for value, _ in self._kept.values()]

    def discard(self, key: Hashable) -> None:
        """Give up a result, if it is kept."""
        with self._lock:
            self._kept.pop(key, None)

    def clear(self) -> None:
        """Give up all of them."""
        with self._lock:
            self._kept.clear()
