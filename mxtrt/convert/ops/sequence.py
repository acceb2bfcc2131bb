"""Converters of operators on sequences of several lengths."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np

from mxtrt.convert.onnx_builder import tensor_type
from mxtrt.convert.ops.creation import COUNTS_WHOLE
from mxtrt.convert.ops.registry import FLOATS, NUMBERS, Call, converter

__all__ = ["valid"]

_END = int(np.iinfo(np.int64).max)


def _lengths(call: Call, index: int, dtype: type[Any] = np.int32) -> str:
    """An input of lengths as integers; MXNet cuts off what is behind the point."""
    call.require_dtype(call.inputs[index], NUMBERS)
    if call.dtype(index) == dtype:
        return call.input(index)
    return call.emit("Cast", [call.input(index)], to=tensor_type(np.dtype(dtype)))


def _inside(call: Call, places: str, highest: int) -> str:
    """Places from 0 on: beyond them MXNet leaves its arrays, and a runtime fails."""
    above = call.emit("Max", [places, call.constant(0, np.int64)])
    return call.emit("Min", [above, call.constant(highest, np.int64)])


def valid(call: Call, index: int, axis: int, new_axes: Sequence[int]) -> str:
    """A mask of the data's elements before their sequence's length.

    Args:
        call: The node; its data are the first input.
        index: The input of lengths.
        axis: Axis of the sequences in the data.
        new_axes: Where the lengths need axes of size one to broadcast over the data.
    """
    rank = call.rank()
    lengths = _lengths(call, index)
    if new_axes:
        lengths = call.emit("Unsqueeze", [lengths, call.indices(new_axes)])
    places = np.arange(call.shape()[axis]).reshape(-1, *(1,) * (rank - 1 - axis))
    return call.emit("Less", [call.constant(places, np.int32), lengths])


def _axis(call: Call) -> int:
    axis = call.integer("axis", 0)
    call.require(axis in (0, 1), f"axis={axis} is not 0 or 1")
    return axis


def _require_data(call: Call) -> None:
    call.require_dtype(call.inputs[0], NUMBERS)
    count = 2 if call.flag("use_sequence_length") else 1
    call.require(len(call.inputs) == count, f"{len(call.inputs)} inputs, not {count}")


@converter("SequenceMask", moves_data_only=True, outputs=1)
def sequence_mask(call: Call) -> None:
    """``Where``: elements from their sequence's length on become ``value``."""
    _require_data(call)
    axis = _axis(call)
    if not call.flag("use_sequence_length"):
        call.emit("Identity", [call.input()], output=call.output())
        return
    value, dtype = call.number("value", 0.0), call.dtype()
    if dtype not in FLOATS:
        limits = np.iinfo(dtype)
        call.require(limits.min <= value <= limits.max, f"value={value} is not of dtype {dtype}")
    mask = valid(call, 1, axis, range(1, call.rank() - (axis == 0)))
    constant = call.constant(value if dtype in FLOATS else int(value), dtype)
    call.emit("Where", [mask, call.input(), constant], output=call.output())


@converter("SequenceLast", moves_data_only=True, outputs=1)
def sequence_last(call: Call) -> None:
    """``Slice`` of the last element, or ``GatherND`` of that before the sequence's length."""
    _require_data(call)
    axis = _axis(call)
    data = call.input()
    if not call.flag("use_sequence_length"):
        limits = [call.indices([place]) for place in (-1, _END, axis)]
        last = call.emit("Slice", [data, *limits])
        call.emit("Squeeze", [last, call.indices([axis])], output=call.output())
        return
    if axis == 0:
        data = call.emit("Transpose", [data], perm=[1, 0, *range(2, call.rank())])
    lengths = _lengths(call, 1, np.int64)
    last = call.emit("Sub", [lengths, call.constant(1, np.int64)])
    last = _inside(call, last, call.shape()[axis] - 1)
    places = call.emit("Unsqueeze", [last, call.indices([1])])
    call.emit("GatherND", [data, places], output=call.output(), batch_dims=1)


@converter("SequenceReverse", moves_data_only=True, outputs=1)
def sequence_reverse(call: Call) -> None:
    """``Slice`` with step -1, or ``Gather`` of places counted from each sequence's length.

    Not ``ReverseSequence``: TensorRT's parser slices by the lengths, which must not be data then
    (``builtin_op_importers.cpp`` of onnx-tensorrt 8.5).
    """
    _require_data(call)
    axis = call.integer("axis", 0)
    call.require(axis == 0, f"axis={axis} is not 0")
    if not call.flag("use_sequence_length"):
        limits = [call.indices([place]) for place in (-1, -_END, 0, -1)]
        call.emit("Slice", [call.input(), *limits], output=call.output())
        return
    steps, sequences, *rest = call.shape()
    lengths = _inside(call, _lengths(call, 1, np.int64), steps)
    places = call.constant(np.arange(steps).reshape(-1, 1), np.int64)
    last = call.emit("Sub", [lengths, call.constant(1, np.int64)])
    mirrored = call.emit("Sub", [last, places])
    inside = call.emit("Less", [places, lengths])
    before = call.emit("Where", [inside, mirrored, places])
    first = call.emit("Mul", [before, call.constant(sequences, np.int64)])
    rows = call.emit("Add", [first, call.constant(np.arange(sequences), np.int64)])
    flat = call.emit("Reshape", [call.input(), call.indices([steps * sequences, *rest])])
    call.emit("Gather", [flat, rows], output=call.output())


@converter(
    "_contrib_arange_like",
    "_npx_arange_like",
    moves_data_only=True,
    outputs=1,
    shape_only=(0,),
    not_in_half=COUNTS_WHOLE,
)
def arange_like(call: Call) -> None:
    """Place // repeat * step + start, of places along an axis or, without ``axis``, of all.

    A constant, or ``Range`` over the first axis, which keeps the batch size out of the graph.
    """
    call.require_numbers()
    start, step, repeat = call.number("start", 0), call.number("step", 1), call.integer("repeat", 1)
    call.require(repeat > 0, f"repeat={repeat}")
    dtype = call.dtype()
    if dtype not in FLOATS:  # MXNet cuts both off before it computes
        limits = np.iinfo(dtype)
        fits = all(limits.min <= value <= limits.max for value in (start, step))
        call.require(fits, f"start={start} or step={step} is not of dtype {dtype}")
        start, step = int(start), int(step)
    axis = None if call.text("axis", "None") == "None" else call.axis("axis")
    if axis:
        line = (np.arange(call.shape()[axis]) // repeat).astype(dtype)
        line = line * dtype.type(step) + dtype.type(start)
        call.emit("Identity", [call.constant(line, dtype)], output=call.output())
        return
    places = _places(call, whole=axis is None)
    if repeat != 1:
        places = call.emit("Div", [places, call.constant(repeat, np.int64)])
    numbers = call.emit("Cast", [places], to=tensor_type(dtype))
    if step != 1:
        numbers = call.emit("Mul", [numbers, call.constant(step, dtype)])
    call.emit("Add", [numbers, call.constant(start, dtype)], output=call.output())


def _places(call: Call, *, whole: bool) -> str:
    """Places along the first axis, or in the whole tensor, as int64."""
    zero, one = (call.constant(value, np.int64) for value in (0, 1))
    size = call.emit("Gather", [call.emit("Shape", [call.input()]), zero], axis=0)
    rows = call.emit("Range", [zero, size, one])
    if not whole or call.rank() == 1:
        return rows
    rest = call.shape()[1:]
    inner = np.arange(prod(rest)).reshape(rest)
    rows = call.emit("Mul", [rows, call.constant(inner.size, np.int64)])
    rows = call.emit("Unsqueeze", [rows, call.indices(range(1, call.rank()))])
    return call.emit("Add", [rows, call.constant(inner, np.int64)])
