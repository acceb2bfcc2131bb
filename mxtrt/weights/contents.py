"""What arrays hold: digests of what is in memory, and the state of pages that are in a file."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Sequence
from typing import Any

import xxhash

from mxtrt.node import library
from mxtrt.weights import paging

__all__ = ["Contents"]


class Contents:
    """What some arrays hold now.

    Pages of a file that nobody has written to are not read for it: they stay out of memory.

    Args:
        arrays: NDArrays, kept.

    Raises:
        OSError: The kernel does not say where their pages are.
    """

    def __init__(self, arrays: Sequence[Any]) -> None:
        self._seen = [_Seen(array) for array in arrays]

    def same(self) -> bool:
        """Whether the arrays hold the same, at the same addresses, pending writes finished.

        Raises:
            OSError: The kernel does not say where their pages are.
        """
        return all(seen.same() for seen in self._seen)


class _Seen:
    """What one array held: a digest of what is in memory, and the state of what is in a file."""

    def __init__(self, array: Any) -> None:
        self._array = array
        self._begin, self._end = _place(array)
        on_gpu = paging.gpu_of(array.ctx) is not None
        self._pages = None if on_gpu else paging.untouched(self._begin, self._end)
        self._digest = self._digest_now()

    def same(self) -> bool:
        """Whether it holds the same."""
        if _place(self._array) != (self._begin, self._end):
            return False
        if self._pages and paging.untouched(self._begin, self._end) is not self._pages:
            return False
        return self._digest_now() == self._digest

    def _digest_now(self) -> bytes:
        digest = xxhash.xxh3_128()
        for begin, end in self._in_memory():
            if end > begin:
                digest.update((ctypes.c_char * (end - begin)).from_address(begin))
        return digest.digest()

    def _in_memory(self) -> Iterator[tuple[int, int]]:
        """Where its bytes can be read, but for those of pages in a file."""
        begin, end = self._begin, self._end
        if self._pages:
            low, high = paging.whole_pages(begin, end)
            yield begin, low
            yield high, end
        elif paging.gpu_of(self._array.ctx) is None or library().is_evicted(self._array):
            yield begin, end
        else:
            address, copy = paging.in_host_memory(self._array)
            yield address, address + end - begin
            del copy


def _place(array: Any) -> tuple[int, int]:
    """Addresses of an array's first byte and of the one behind its last."""
    begin = paging.address_of(array)
    return begin, begin + paging.size_of(array)
