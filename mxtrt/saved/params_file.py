"""Files of NDArrays: whether one is whole and sane before MXNet reads it, reading and writing.

MXNet's reader allocates what a header asks for and believes every count.  The format is the one
of ``NDArray::Save`` and ``NDArray::Load`` in src/ndarray/ndarray.cc, versions 0 to 3.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from mxtrt.errors import GraphError
from mxtrt.plain.dtypes import DTYPES

if TYPE_CHECKING:
    from mxtrt.engines import Weight

__all__ = ["check_params", "read_params", "write_params"]

#: First bytes of a file of NDArrays (kMXAPINDArrayListMagic).
MAGIC = 0x112
_V1, _V2, _V3 = 0xF993FAC8, 0xF993FAC9, 0xF993FACA
#: Bytes of an element by type flag (mshadow/base.h).
_ITEM_SIZES = {0: 4, 1: 8, 2: 2, 3: 1, 4: 4, 5: 1, 6: 8, 7: 1, 8: 2, 9: 2, 10: 4, 11: 8, 12: 2}
_NOTHING = -1  # in place of a type flag: an NDArray that was never given a shape
_DEVICES = (1, 2, 3, 5)  # cpu, gpu, cpu_pinned, cpu_shared

#: More than any model has.
MOST_ARRAYS, MOST_AXES, LONGEST_NAME = 1_000_000, 32, 1 << 20


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
    _read(data)


def read_params(data: bytes) -> dict[str, np.ndarray[Any, Any]]:
    """The named arrays of a file, as views of its bytes.

    Args:
        data: What the file holds.

    Raises:
        GraphError: As :func:`check_params`; or an array has no shape, or a type that NumPy does
            not have.
    """
    found = _read(data)
    named = {}
    for name, (shape, kind, values) in found.items():
        if kind not in DTYPES:
            raise GraphError(f"it has the array {name!r} of type {kind}, which is not supported")
        try:
            named[name] = np.frombuffer(values, DTYPES[kind]).reshape(shape)
        except ValueError as error:
            raise GraphError(f"it has the array {name!r} of shape {shape}: {error}") from None
    return named


def write_params(write: Callable[[Any], Any], weights: Mapping[str, Callable[[], Weight]]) -> None:
    """Write named arrays as MXNet does.

    Args:
        write: Takes the next bytes.
        weights: What returns an array, by name; it is asked when its turn has come.
    """
    flags = {dtype: flag for flag, dtype in DTYPES.items()}
    write(struct.pack("<QQQ", MAGIC, 0, len(weights)))
    for weight_of in weights.values():
        weight = weight_of()
        shape = weight.type.shape
        # Only version 3 has arrays without axes or elements.
        version = _V2 if prod(shape) and shape else _V3
        write(struct.pack(f"<Iii{len(shape)}q", version, 0, len(shape), *shape))
        write(struct.pack("<iii", 1, 0, flags[weight.type.dtype]))
        write(weight.data)
    write(struct.pack("<Q", len(weights)))
    for name in weights:
        write(struct.pack("<Q", len(name.encode())) + name.encode())


_Stored = tuple[tuple[int, ...], int, memoryview]


def _read(data: bytes) -> dict[str, _Stored]:
    """Shape, type flag and bytes of what has a name."""
    reader = _Reader(data)
    magic, _, count = reader.numbers("QQQ")
    if magic != MAGIC:
        raise GraphError("it is not a file of MXNet's NDArrays")
    if count > MOST_ARRAYS:
        raise GraphError(f"it claims {count} arrays, expected {MOST_ARRAYS} at the most")
    stored = [_read_array(reader) for _ in range(count)]
    (names,) = reader.numbers("Q")
    if names not in (0, count):
        raise GraphError(f"it has {count} arrays and {names} names")
    seen: dict[str, _Stored] = {}
    for place in range(names):
        (length,) = reader.numbers("Q")
        if length > LONGEST_NAME:
            raise GraphError(f"it has a name of {length} bytes, expected {LONGEST_NAME}")
        try:
            name = bytes(reader.take(length)).decode()
        except UnicodeDecodeError:
            raise GraphError("it has a name that is not text") from None
        if "\0" in name or name in seen:
            raise GraphError(f"it has the name {name!r} twice, or with a zero byte in it")
        seen[name] = stored[place]
    return seen


def _read_array(reader: _Reader) -> _Stored:
    (version,) = reader.numbers("I")
    if version in (_V2, _V3):
        (storage,) = reader.numbers("i")
        if storage != 0:
            raise GraphError(f"it has an array of storage type {storage}, expected dense arrays")
    wide = version in (_V1, _V2, _V3)
    axes = reader.numbers("i")[0] if wide else version
    # Of an NDArray without memory nothing else is stored.
    if axes == -1 or (axes == 0 and version != _V3):
        return (0,), _NOTHING, memoryview(b"")
    if not 0 <= axes <= MOST_AXES:
        raise GraphError(f"it has an array of {axes} axes, expected {MOST_AXES} at the most")
    shape = reader.numbers(("q" if wide else "I") * axes)
    if any(size < 0 for size in shape):
        raise GraphError(f"it has an array of shape {shape}")
    device, ordinal, kind = reader.numbers("iii")
    if device not in _DEVICES or ordinal < 0:
        raise GraphError(f"it has an array on device {device}:{ordinal}, which MXNet does not have")
    if kind not in _ITEM_SIZES:
        raise GraphError(f"it has an array of type {kind}, which MXNet does not have")
    return shape, kind, reader.take(prod(shape) * _ITEM_SIZES[kind])
