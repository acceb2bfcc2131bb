"""Whether a file of NDArrays is whole and sane, before MXNet reads it.

MXNet's reader allocates what a header asks for and believes every count.  The format is the one
of ``NDArray::Save`` and ``NDArray::Load`` in src/ndarray/ndarray.cc, versions 0 to 3.
"""

from __future__ import annotations

import struct
from math import prod

from mxtrt.errors import GraphError

__all__ = ["check_params"]

#: First bytes of a file of NDArrays (kMXAPINDArrayListMagic).
MAGIC = 0x112
_V1, _V2, _V3 = 0xF993FAC8, 0xF993FAC9, 0xF993FACA
#: Bytes of an element by type flag (mshadow/base.h).
_ITEM_SIZES = {0: 4, 1: 8, 2: 2, 3: 1, 4: 4, 5: 1, 6: 8, 7: 1, 8: 2, 9: 2, 10: 4, 11: 8, 12: 2}
_CPU_LIKE = (1, 2, 3, 5)  # cpu, gpu, cpu_pinned, cpu_shared

#: More than any model has.
MOST_ARRAYS, MOST_AXES, LONGEST_NAME = 1_000_000, 32, 4096


class _Reader:
    def __init__(self, data: bytes) -> None:
        self._data = memoryview(data)
        self._at = 0

    def numbers(self, form: str) -> tuple[int, ...]:
        """Little-endian integers, see :mod:`struct`."""
        size = struct.calcsize("<" + form)
        return struct.unpack("<" + form, self.take(size))

    def take(self, size: int) -> memoryview:
        if size > len(self._data) - self._at:
            raise GraphError("it is cut off or damaged")
        self._at += size
        return self._data[self._at - size : self._at]


def check_params(data: bytes) -> None:
    """See that MXNet can read a file of named NDArrays.

    Args:
        data: What the file holds.

    Raises:
        GraphError: It is cut off, damaged, made to exhaust memory, or has what no model has; the
            message says which and names no file.
    """
    reader = _Reader(data)
    magic, _, count = reader.numbers("QQQ")
    if magic != MAGIC:
        raise GraphError("it is not a file of MXNet's NDArrays")
    if count > MOST_ARRAYS:
        raise GraphError(f"it claims {count} arrays, expected {MOST_ARRAYS} at the most")
    for _ in range(count):
        _check_array(reader)
    (names,) = reader.numbers("Q")
    if names not in (0, count):
        raise GraphError(f"it has {count} arrays and {names} names")
    seen: set[bytes] = set()
    for _ in range(names):
        (length,) = reader.numbers("Q")
        if length > LONGEST_NAME:
            raise GraphError(f"it has a name of {length} bytes, expected {LONGEST_NAME}")
        name = bytes(reader.take(length))
        try:
            name.decode()
        except UnicodeDecodeError:
            raise GraphError("it has a name that is not text") from None
        if b"\0" in name or name in seen:
            raise GraphError(f"it has the name {name.decode()!r} twice, or with a zero byte in it")
        seen.add(name)


def _check_array(reader: _Reader) -> None:
    (version,) = reader.numbers("I")
    if version in (_V2, _V3):
        (storage,) = reader.numbers("i")
        if storage != 0:
            raise GraphError(f"it has an array of storage type {storage}, expected dense arrays")
    wide = version in (_V1, _V2, _V3)
    axes = reader.numbers("i")[0] if wide else version
    if axes == -1 or (axes == 0 and version != _V3):  # no array, and nothing more of it
        return
    if not 0 <= axes <= MOST_AXES:
        raise GraphError(f"it has an array of {axes} axes, expected {MOST_AXES} at the most")
    shape = reader.numbers(("q" if wide else "I") * axes)
    if any(size < 0 for size in shape):
        raise GraphError(f"it has an array of shape {shape}")
    device, ordinal, kind = reader.numbers("iii")
    if device not in _CPU_LIKE or ordinal < 0:
        raise GraphError(f"it has an array on device {device}:{ordinal}, which MXNet does not have")
    if kind not in _ITEM_SIZES:
        raise GraphError(f"it has an array of type {kind}, which MXNet does not have")
    reader.take(prod(shape) * _ITEM_SIZES[kind])
