"""Conditions that a fault needs: a folder that is read-only, a disk that is full, no memory left.

They hold for this thread or process while a ``with`` block runs.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import resource
from collections.abc import Iterator
from pathlib import Path

import pytest

__all__ = ["full_disk", "little_memory", "read_only"]

# capabilities(7): the superuser's ways around permissions, CAP_DAC_OVERRIDE and READ_SEARCH.
_AROUND_PERMISSIONS = 1 << 1 | 1 << 2
_VERSION_3 = 0x20080522


class _Header(ctypes.Structure):
    _fields_ = [("version", ctypes.c_uint32), ("pid", ctypes.c_int)]


class _Set(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint32) for name in ("effective", "permitted", "inheritable")]


@contextlib.contextmanager
def _bound_by_permissions() -> Iterator[None]:
    """Take from this thread what lets the superuser write where nobody may."""
    libc = ctypes.CDLL(None, use_errno=True)
    header, sets = _Header(_VERSION_3, 0), (_Set * 2)()
    if libc.capget(ctypes.byref(header), sets):
        pytest.skip("the capabilities of this thread cannot be read")
    before = sets[0].effective
    sets[0].effective = before & ~_AROUND_PERMISSIONS
    if libc.capset(ctypes.byref(header), sets):
        pytest.skip("the capabilities of this thread cannot be changed")
    try:
        yield
    finally:
        sets[0].effective = before
        libc.capset(ctypes.byref(header), sets)


@contextlib.contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """Nothing in a folder can be created, renamed or removed."""
    mode = folder.stat().st_mode
    folder.chmod(0o500)
    try:
        with _bound_by_permissions():
            assert not os.access(folder, os.W_OK, effective_ids=True)
            yield
    finally:
        folder.chmod(mode)


@contextlib.contextmanager
def full_disk(room: int) -> Iterator[None]:
    """No file of this process gets larger than this; Python ignores the signal."""
    with _limited(resource.RLIMIT_FSIZE, room):
        yield


@contextlib.contextmanager
def little_memory(spare: int) -> Iterator[None]:
    """This process gets no more than so much memory beyond what it has."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    with _limited(resource.RLIMIT_AS, pages * mmap.PAGESIZE + spare):
        yield


@contextlib.contextmanager
def _limited(kind: int, limit: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(kind)
    resource.setrlimit(kind, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(kind, (soft, hard))
