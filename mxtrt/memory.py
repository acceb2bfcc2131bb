"""Releasing weights: bytes that an engine owns leave MXNet's resident memory.

The user's arrays stay valid: same NDArray, same address, same contents.  Their whole pages
are written to an unlinked file and mapped back privately, so that they take no memory until
somebody reads or writes them.  Everything works as before on them: reading pages them in,
writing makes a private copy, ``fork`` shares them, freeing them frees the file.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import platformdirs

from mxtrt.node import library

__all__ = ["address_of", "page_out", "spill_directory"]

#: Arrays below this size stay where they are: a mapping each costs more than they take.
SMALLEST = 64 * 1024


def address_of(array: Any) -> int:
    """Address of the first byte of a dense CPU NDArray, pending writes finished.

    MXNet turns an array that oneDNN keeps in a layout of its own back into rows first.
    """
    import ctypes

    from mxnet.base import _LIB, check_call

    array.wait_to_read()
    pointer = ctypes.c_void_p()
    check_call(_LIB.MXNDArrayGetData(array.handle, ctypes.byref(pointer)))
    return pointer.value or 0


def spill_directory(configured: str) -> Path:
    """Directory of spill files: the option's, else the user's cache directory.

    Raises:
        OSError: It cannot be created.
    """
    path = Path(configured) if configured else Path(platformdirs.user_cache_dir("mxtrt"), "spill")
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    return path


def page_out(arrays: Iterable[Any], directory: Path) -> int:
    """Page out the arrays' whole pages; returns the number of bytes.

    Arrays that are small, already backed by a file or in shared memory stay as they are.

    Raises:
        OSError: The file could not be written; every array is still intact.
    """
    from mxnet import cpu

    regions = list(_anonymous_regions())
    page = mmap.PAGESIZE
    released = 0
    with _unlinked_file(directory) as file:
        offset = 0
        for array in arrays:
            if array.context.device_type != cpu().device_type:
                continue
            begin = address_of(array)
            end = begin + array.size * _itemsize(array)
            begin, end = -(-begin // page) * page, end // page * page
            if end - begin < SMALLEST or not _covered(begin, end, regions):
                continue
            library().page_out(array, begin, end - begin, file, offset)
            offset += end - begin
            released += end - begin
    return released


def _itemsize(array: Any) -> int:
    import numpy as np

    return int(np.dtype(array.dtype).itemsize)


@contextlib.contextmanager
def _unlinked_file(directory: Path) -> Iterator[int]:
    file, name = tempfile.mkstemp(prefix="weights-", dir=directory)
    os.unlink(name)
    try:
        yield file
    finally:
        os.close(file)


def _anonymous_regions() -> Iterator[tuple[int, int]]:
    """Private writable memory that no file backs, adjacent regions joined."""
    begin = end = 0
    with open("/proc/self/maps") as maps:
        for line in maps:
            fields = line.split(maxsplit=5)
            if fields[1] != "rw-p" or fields[4] != "0":
                continue
            low, high = (int(text, 16) for text in fields[0].split("-"))
            if low != end:
                if end:
                    yield begin, end
                begin = low
            end = high
    if end:
        yield begin, end


def _covered(begin: int, end: int, regions: list[tuple[int, int]]) -> bool:
    return any(low <= begin and end <= high for low, high in regions)
