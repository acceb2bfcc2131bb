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
    """

    def __init__(self, lib: ctypes.CDLL, arrays: Sequence[Any]) -> None:
        lib.mxtrt_watch.restype = ctypes.c_void_p
        lib.mxtrt_watch_changed.argtypes = [ctypes.c_void_p]
        lib.mxtrt_watch_written.argtypes = [ctypes.c_void_p]
        lib.mxtrt_watch_remember.argtypes = [ctypes.c_void_p]
        lib.mxtrt_watch_free.argtypes = [ctypes.c_void_p]
        lib.mxtrt_watch_free.restype = None
        self._changed = lib.mxtrt_watch_changed
        self._written = lib.mxtrt_watch_written
        self._remember = lib.mxtrt_watch_remember
        self._free = lib.mxtrt_watch_free
        handles = (ctypes.c_void_p * len(arrays))(*(array.handle for array in arrays))
        self._handle: int | None = None  # __del__ comes also when the next line fails
        self._handle = lib.mxtrt_watch(handles, len(arrays)) or _raise()

    def changed(self) -> bool:
        """Whether an array was written to since it is watched; pending writes are waited for.

        Raises:
            MXNetError: A pending write failed.
        """
        if self._handle is None:  # the garbage collector was here first
            return True
        state: int = self._changed(self._handle)
        if state < 0:
            _raise()
        return state != 0

    def written(self) -> bool:
        """Whether a write that is done by now came after the watch; waits for nothing."""
        return self._handle is None or bool(self._written(self._handle))

    def remember(self) -> None:
        """Watch from now on.

        Raises:
            MXNetError: A pending write failed.
        """
        if self._handle is not None and not self._remember(self._handle):
            _raise()

    def __del__(self) -> None:
        # Collected together with what asks it, in any order.
        handle, self._handle = self._handle, None
        if handle is not None:
            self._free(handle)


def _raise() -> Any:
    """Raise MXNet's error."""
    from mxnet.base import check_call

    check_call(-1)
