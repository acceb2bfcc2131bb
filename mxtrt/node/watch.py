"""Watching MXNet arrays for writes."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

__all__ = ["Watch"]


class Watch:
    """Sees when any of some arrays is written to.

    The watch keeps the arrays' memory alive.

    Args:
        lib: The engine node's functions.
        arrays: NDArrays.

    Attributes:
        handle: The watch in C++; None when it is gone.
    """

    def __init__(self, lib: ctypes.CDLL, arrays: Sequence[Any]) -> None:
        self._changed = lib.mxtrt_watch_changed
        self._written = lib.mxtrt_watch_written
        self._remember = lib.mxtrt_watch_remember
        self._counts = lib.mxtrt_watch_counts
        self._since = lib.mxtrt_watch_since
        self._free = lib.mxtrt_watch_free
        handles = (ctypes.c_void_p * len(arrays))(*(array.handle for array in arrays))
        self._size = len(arrays)
        self.handle: int | None = None  # __del__ comes also when the next line fails
        self.handle = lib.mxtrt_watch(handles, len(arrays)) or _raise()

    def changed(self) -> bool:
        """Whether an array was written to since it is watched; pending writes are waited for.

        Raises:
            MXNetError: A pending write failed.
        """
        if self.handle is None:  # the garbage collector was here first
            return True
        state: int = self._changed(self.handle)
        if state < 0:
            _raise()
        return state != 0

    def written(self) -> bool:
        """Whether a write that is done by now came after the watch; waits for nothing."""
        return self.handle is None or bool(self._written(self.handle))

    def remember(self) -> None:
        """Watch from now on.

        Raises:
            MXNetError: A pending write failed.
        """
        if self.handle is not None and not self._remember(self.handle):
            _raise()

    def counts(self) -> Any:
        """How often the arrays were written to, for :meth:`since`; pending writes are waited for.

        Raises:
            MXNetError: A pending write failed.
        """
        counts = (ctypes.c_uint64 * self._size)()
        if self.handle is not None and not self._counts(self.handle, counts):
            _raise()
        return counts

    def since(self, counts: Any) -> None:
        """Watch from the moment at which these were the counts."""
        if self.handle is not None:
            self._since(self.handle, counts)

    def __del__(self) -> None:
        # Collected together with what asks it, in any order.
        handle, self.handle = self.handle, None
        if handle is not None:
            self._free(handle)


def _raise() -> Any:
    """Raise MXNet's error."""
    from mxnet.base import check_call

    check_call(-1)
