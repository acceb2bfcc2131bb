"""Releasing weights: bytes that an engine owns leave MXNet's resident memory.

The user's arrays stay valid: same NDArray, same contents.  Everything works as before on them.

In host memory their whole pages are written to an unlinked file and mapped back privately, so
that they take no memory until somebody reads or writes them: reading pages them in, writing makes
a private copy, ``fork`` shares them, freeing them frees the file.  An array costs two memory
mappings, of which the kernel allows a process so many (``vm.max_map_count``): half of them are left
to others, and what is left of that goes to the largest arrays.

On a GPU they become managed memory that lives on the host.  When MXNet's own operators use them
again, because a graph is trained or bound with the integration off, CUDA brings them back.
"""

from __future__ import annotations

import bisect
import contextlib
import ctypes
import errno
import mmap
import os
import sys
import tempfile
import weakref
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import platformdirs

from mxtrt.node import library
from mxtrt.node.watch import Watch
from mxtrt.system.threads import lock

__all__ = [
    "PagedOut",
    "address_of",
    "by_place",
    "copy_from_gpu",
    "evict",
    "gpu_of",
    "in_host_memory",
    "in_rows",
    "page_out",
    "places_of",
    "size_of",
    "spill_directory",
    "untouched",
    "whole_pages",
]

#: Arrays in host memory below this size stay where they are: each would cost two mappings.
SMALLEST = 128 * 1024
# Likewise on a GPU, where releasing costs no memory mappings.
_SMALLEST_ON_GPU = 64 * 1024
# Bytes in whole pages of the smallest such array, wherever in a page it begins.
_LEAST = SMALLEST - mmap.PAGESIZE

# Words of MXNet's error for an array that is in oneDNN's layout, and how often to ask again.
_ONEDNN, _TRIES = "MKLDNN data", 100

_PREFIX = "mxtrt-weights-"

# Memory mappings that one released array adds at the most; the kernel's default limit.
_EACH, _USUAL_LIMIT = 2, 65530
# Flags of an entry of /proc/self/pagemap (Documentation/admin-guide/mm/pagemap.rst of Linux):
# the page is present or swapped, and it is a page of a file.
_IN_MEMORY = np.uint64(0b11 << 62)
_OF_A_FILE = np.uint64(1 << 61)


def gpu_of(context: Any) -> int | None:
    """Ordinal of the GPU of an MXNet context, None for host memory."""
    return int(context.device_id) if context.device_type == "gpu" else None


def size_of(array: Any) -> int:
    """Bytes of a dense NDArray's values."""
    return int(array.size * np.dtype(array.dtype).itemsize)


def by_place(arrays: Iterable[Any]) -> tuple[list[Any], list[Any]]:
    """Arrays in host memory, and arrays on GPUs."""
    places: tuple[list[Any], list[Any]] = [], []
    for array in arrays:
        places[gpu_of(array.ctx) is not None].append(array)
    return places


def in_host_memory(array: Any) -> tuple[int, Any]:
    """A dense NDArray's bytes in host memory, pending writes finished.

    Returns:
        The address of the first byte, and what has to stay alive for it: the array itself, or
        a copy if it is on a GPU.
    """
    import mxnet as mx

    # To MXNet's engine `asnumpy` is a write to an array on a GPU.
    if gpu_of(array.ctx) is not None:
        array = array.copyto(mx.cpu())
    return address_of(array), array


def evict(arrays: Sequence[Any], watch: Watch | None = None) -> int:
    """Move arrays off their GPUs; returns the number of bytes.

    Small arrays, and those whose memory is not MXNet's own, stay where they are.

    Args:
        arrays: The arrays.
        watch: A watch that is not to take this for a write.

    Raises:
        OSError: An array could not be moved; every array is still intact.
    """
    moved = 0
    for array in arrays:
        if size_of(array) >= _SMALLEST_ON_GPU:
            moved += library().evict(array, array.ctx.device_id, watch)
    return moved


def address_of(array: Any) -> int:
    """Address of the first byte of a dense CPU NDArray, pending writes finished.

    MXNet turns an array that oneDNN keeps in a layout of its own back into rows first.
    """
    array.wait_to_read()
    return _address(array)


def in_rows(arrays: Iterable[Any]) -> None:
    """Have arrays on the CPU in rows, which oneDNN may keep in a layout of its own."""
    for array in arrays:
        if gpu_of(array.ctx) is None:
            address_of(array)


def copy_from_gpu(array: Any, ordinal: int) -> np.ndarray[Any, Any]:
    """The values that a dense NDArray on a GPU has now; waits for nothing of MXNet's.

    What was evicted is read where it lives: on the GPU it would take memory again.

    Args:
        array: The array; no write to it is under way.
        ordinal: The GPU.

    Raises:
        NodeError: The GPU does not answer.
    """
    values = np.empty(array.shape, array.dtype)
    if library().is_evicted(array):
        ctypes.memmove(values.ctypes.data, _address(array), values.nbytes)
    else:
        library().cuda.copy_out(ordinal, _address(array), values)
    return values


def _address(array: Any) -> int:
    from mxnet.base import _LIB, MXNetError, check_call

    pointer = ctypes.c_void_p()
    for left in reversed(range(_TRIES)):
        try:
            check_call(_LIB.MXNDArrayGetData(array.handle, ctypes.byref(pointer)))
            break
        except MXNetError as error:
            # Another thread's operators put the array back into oneDNN's layout first: ask again.
            if not left or _ONEDNN not in str(error):
                raise
    return pointer.value or 0


def spill_directory(configured: str) -> Path:
    """Directory of spill files: the option's, else the user's cache directory.

    Raises:
        OSError: It cannot be created.
    """
    path = Path(configured) if configured else Path(platformdirs.user_cache_dir("mxtrt"), "spill")
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    return path


class PagedOut(NamedTuple):
    """What became of arrays that were to be paged out.

    Attributes:
        released: Bytes that were.
        left: Bytes of arrays that were not, because the process would have too many mappings.
        mappings: How many it has.
        limit: How many the kernel allows.
    """

    released: int
    left: int
    mappings: int
    limit: int


def page_out(arrays: Iterable[Any], directory: Path, watch: Watch | None = None) -> PagedOut:
    """Page out the arrays' whole pages.

    Arrays that are small, paged out already or in shared memory stay as they are.

    Args:
        arrays: The arrays.
        directory: Where the file is made.
        watch: A watch that is not to take this for a write.

    Raises:
        OSError: The file could not be written; every array is still intact.
    """
    from mxnet import cpu

    places = []
    for array in arrays:
        size = size_of(array)
        if size >= SMALLEST and array.ctx.device_type == cpu().device_type:
            begin = address_of(array)
            places.append((array, *whole_pages(begin, begin + size)))
    spans = [
        _Span(begin, end, private, array)
        for array, begin, end in places
        if (private := _private_bytes(begin, end)) >= _LEAST
    ]
    if not spans:  # the kernel takes milliseconds to list the mappings
        return PagedOut(0, 0, 0, 0)
    mappings, regions = _mappings()  # after every array's memory is allocated
    limit = _mappings_allowed()
    spans = [span for span in spans if _covered(span.begin, span.end, regions)]
    spans.sort(key=lambda span: span.private, reverse=True)
    # A plan takes a quarter of what is left, so that later plans get some too.
    room = max(limit // 2 - mappings, 0) // 4 // _EACH
    wanted = sum(span.private for span in spans)
    released = 0
    with _unlinked_file(directory) as file:
        offset = 0
        # Neighbours in memory are neighbours in the file: the kernel makes one mapping of them.
        for span in sorted(spans[:room], key=lambda span: span.begin):
            with _untouched_lock:  # a plan that noted these pages before has to compare them again
                _untouched.pop(span.begin, None)
            size = span.end - span.begin
            try:
                library().page_out(span.array, span.begin, size, file, offset, watch)
            except OSError as error:
                if error.errno != errno.ENOMEM:
                    raise
                break  # other threads took the mappings meanwhile
            offset += size
            released += span.private
    return PagedOut(released, wanted - released, mappings, limit)


def places_of(array: Any) -> dict[str, int]:
    """Where an NDArray's bytes are now: ``"host"``, ``"gpu 0"``, ..., or ``"file"``."""
    size = size_of(array)
    gpu = gpu_of(array.ctx)
    if gpu is not None:
        return {"host" if library().is_evicted(array) else f"gpu {gpu}": size}
    begin = address_of(array)
    low, high = whole_pages(begin, begin + size)
    if high <= low:
        return {"host": size}
    absent = high - low - _private_bytes(low, high)
    return {"host": size - absent, "file": absent}


class _Untouched:
    """Pages of a file that nobody has written to since this object was made."""

    __slots__ = ("__weakref__",)


_untouched: weakref.WeakValueDictionary[int, _Untouched] = weakref.WeakValueDictionary()
_untouched_lock = lock()


def whole_pages(begin: int, end: int) -> tuple[int, int]:
    """Where the pages that lie wholly between two addresses begin and end."""
    page = mmap.PAGESIZE
    return -(-begin // page) * page, end // page * page


def untouched(begin: int, end: int) -> object | None:
    """What stands for the present contents of the whole pages of an array in host memory.

    The same object is returned for as long as nobody writes to them, if somebody keeps it.

    Args:
        begin: Address of the array's first byte.
        end: Address behind its last.

    Returns:
        None where pages were not paged out, or were written to after that.

    Raises:
        OSError: The kernel does not say where the pages are.
    """
    low, high = whole_pages(begin, end)
    if end - begin < SMALLEST:
        return None
    with _untouched_lock:
        if _private_bytes(low, high):
            return None
        return _untouched.setdefault(low, _Untouched())


def _private_bytes(begin: int, end: int) -> int:
    """Bytes of these whole pages that are this process's own and in memory (or swapped)."""
    page = mmap.PAGESIZE
    with open("/proc/self/pagemap", "rb") as pagemap:
        pagemap.seek(begin // page * 8)
        entries = np.frombuffer(pagemap.read((end - begin) // page * 8), dtype=np.uint64)
    in_memory = (entries & _IN_MEMORY) != 0
    return page * int(np.count_nonzero(in_memory & ((entries & _OF_A_FILE) == 0)))


@contextlib.contextmanager
def _unlinked_file(directory: Path) -> Iterator[int]:
    file, name = tempfile.mkstemp(prefix=_PREFIX, dir=directory)
    os.unlink(name)
    try:
        yield file
    finally:
        os.close(file)


class _Span(NamedTuple):
    """The whole pages of an array, and how many of their bytes are this process's own."""

    begin: int
    end: int
    private: int
    array: Any


def _mappings_allowed() -> int:
    try:
        return int(Path("/proc/sys/vm/max_map_count").read_text())
    except (OSError, ValueError):
        return _USUAL_LIMIT


def _mappings() -> tuple[int, list[tuple[int, int]]]:
    """How many mappings there are, and the private writable memory, adjacent regions joined.

    No file backs that memory, or one of ours: MXNet and the C library reuse memory that was paged
    out once, for other arrays.
    """
    regions: list[tuple[int, int]] = []
    count = 0
    with open("/proc/self/maps") as maps:
        for line in maps:
            count += 1
            fields = line.split(maxsplit=5)
            ours = len(fields) == 6 and f"/{_PREFIX}" in fields[5] and "(deleted)" in fields[5]
            if fields[1] != "rw-p" or (fields[4] != "0" and not ours):
                continue
            low, high = (int(text, 16) for text in fields[0].split("-"))
            if regions and regions[-1][1] == low:
                low = regions.pop()[0]
            regions.append((low, high))
    return count, regions


def _covered(begin: int, end: int, regions: list[tuple[int, int]]) -> bool:
    place = bisect.bisect_right(regions, (begin, sys.maxsize)) - 1
    return place >= 0 and end <= regions[place][1]
