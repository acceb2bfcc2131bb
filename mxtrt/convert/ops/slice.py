"""Converters of operators that take, drop or replace a range of an axis."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from mxtrt.convert.ops.creation import fill, number
from mxtrt.convert.ops.indexing import select
from mxtrt.convert.ops.registry import NUMBERS, Call, converter

_END = int(np.iinfo(np.int64).max)


@converter("slice_axis", moves_data_only=True, outputs=1)
def slice_axis(call: Call) -> None:
    """``Slice`` of one axis; ``end`` may be ``None`` for the rest."""
    call.require_numbers()
    (end,) = call.optional_integers("end", (None,))
    limits = [[call.integer("begin")], [_END if end is None else end]]
    begins, ends = (call.indices(values) for values in limits)
    axes = call.indices([call.axis("axis")])
    call.emit("Slice", [call.input(), begins, ends, axes], output=call.output())


@converter("slice", "crop", "_npx_slice", "_npi_slice", moves_data_only=True, outputs=1)
def slice_axes(call: Call) -> None:
    """``Slice`` with NumPy's rules for negative and missing limits and for negative steps."""
    call.require_numbers()
    begin, end = call.optional_integers("begin"), call.optional_integers("end")
    step = call.optional_integers("step", ()) or (None,) * len(begin)
    call.require(len(begin) == len(end) == len(step) <= call.rank(), "limits of unequal length")
    rows = [
        (axis, *_limits(*limits))
        for axis, limits in enumerate(zip(begin, end, step, strict=True))
        if limits[0] not in (None, 0) or limits[1] is not None or limits[2] not in (None, 1)
    ]
    call.require(all(stride for *_, stride in rows), "a step of zero")
    sliced = np.empty(call.shape(), np.bool_)[
        tuple(slice(*limits) for limits in zip(begin, end, step, strict=True))
    ]
    call.require(sliced.shape == call.out_shape(), "limits that MXNet reads differently")
    _slice(call, rows)


def _limits(begin: int | None, end: int | None, step: int | None) -> tuple[int, int, int]:
    """ONNX's begin, end and step; the largest integers stand for the edges."""
    stride = 1 if step is None else step
    first, last = (_END, -_END) if stride < 0 else (0, _END)
    return first if begin is None else begin, last if end is None else end, stride


@converter("SliceChannel", "split", moves_data_only=True)
def slice_channel(call: Call) -> None:
    """``Split`` in equal parts along ``axis``, 1 by default, and ``Squeeze`` if asked."""
    call.require_numbers()
    axis, count = call.axis("axis", 1), call.integer("num_outputs")
    call.require(len(call.outputs) == count, f"{len(call.outputs)} outputs, not {count}")
    call.require(call.shape()[axis] % count == 0, "parts of unequal size")
    _split(call, axis, [call.shape()[axis] // count] * count)


def _split(call: Call, axis: int, sizes: Sequence[int]) -> None:
    """``Split`` in parts of these sizes, and ``Squeeze`` if ``squeeze_axis`` asks for it."""
    names = [call.output(i) for i in range(len(sizes))]
    squeezed = call.flag("squeeze_axis")
    parts = [call.fresh("part") for _ in names] if squeezed else names
    if len(sizes) == 1:
        call.emit("Identity", [call.input()], output=parts[0])
    elif len(set(sizes)) == 1:
        call.emit_many("Split", [call.input()], parts, axis=axis)
    else:
        call.emit_many("Split", [call.input(), call.indices(sizes)], parts, axis=axis)
    if squeezed:
        axes = call.indices([axis])
        for part, name in zip(parts, names, strict=True):
            call.emit("Squeeze", [part, axes], output=name)


@converter("slice_like", moves_data_only=True, outputs=1, shape_only=(1,))
def slice_like(call: Call) -> None:
    """``Slice`` from the front to the sizes of the second input; axes of that size are left out."""
    for tensor in (call.inputs[0], call.outputs[0]):
        call.require_dtype(tensor, NUMBERS)
    pairs = enumerate(zip(call.shape(), call.out_shape(), strict=True))
    _slice(call, [(axis, 0, size, 1) for axis, (whole, size) in pairs if size != whole])


@converter("Crop", moves_data_only=True, outputs=1, shape_only=(1,))
def crop(call: Call) -> None:
    """``Slice`` of height and width, given or those of a second input, at an offset or centred."""
    call.require_dtype(call.inputs[0], NUMBERS)
    spaces = [whole - size for whole, size in zip(call.shape(), call.out_shape(), strict=True)][2:]
    offsets = call.integers("offset", (0, 0))
    if call.flag("center_crop"):
        offsets = tuple(space // 2 for space in spaces)
    limits = zip(offsets, call.out_shape()[2:], strict=True)
    rows = [(axis, begin, begin + size, 1) for axis, (begin, size) in enumerate(limits, 2)]
    _slice(call, rows)


@converter("reverse", "flip", "_npi_flip", moves_data_only=True, outputs=1)
def reverse(call: Call) -> None:
    """``Slice`` with steps of -1."""
    call.require_numbers()
    axes = call.integers("axis")
    if call.node.op == "_npi_flip":
        axes = tuple(axis % call.rank() for axis in axes)
    # MXNet reads the size of a negative axis beside the shape.
    call.require(all(0 <= axis < call.rank() for axis in axes), f"axis={axes} is out of range")
    # An axis that is given twice is reversed twice.
    odd = sorted(axis for axis in set(axes) if axes.count(axis) % 2)
    _slice(call, [(axis, _END, -_END, -1) for axis in odd])


def _slice(call: Call, rows: Sequence[tuple[int, int, int, int]]) -> None:
    """``Slice`` by axis, begin, end and step."""
    if not rows:
        call.emit("Identity", [call.input()], output=call.output())
        return
    axes, begins, ends, steps = (call.indices(column) for column in zip(*rows, strict=True))
    call.emit("Slice", [call.input(), begins, ends, axes, steps], output=call.output())


@converter("_split_v2", "_npi_split", moves_data_only=True)
def split_v2(call: Call) -> None:
    """``Split`` in parts of the sizes that MXNet inferred."""
    call.require_numbers()
    axis = call.axis("axis", 1)
    squeezed = call.flag("squeeze_axis")
    sizes = [1 if squeezed else call.out_shape(i)[axis] for i in range(len(call.outputs))]
    # MXNet takes the sizes of the parts for the whole, and infers a smaller input.
    call.require(sum(sizes) == call.shape()[axis], "the first part does not begin at 0")
    _split(call, axis, sizes)


# -- assignment to a slice -------------------------------------------------------------------


def _ranges(call: Call) -> list[tuple[int, range]]:
    """Axes of which not all is assigned to, in order, and which places are."""
    begin, end = call.optional_integers("begin"), call.optional_integers("end")
    step = call.optional_integers("step", ()) or (None,) * len(begin)
    call.require(len(begin) == len(end) == len(step) <= call.rank(), "limits of unequal length")
    call.require(0 not in step, "a step of zero")
    shape = call.shape()
    found = [
        (axis, range(*slice(*limits).indices(shape[axis])))
        for axis, limits in enumerate(zip(begin, end, step, strict=True))
    ]
    return [(axis, places) for axis, places in found if places != range(shape[axis])]


def _mask(call: Call, ranges: Sequence[tuple[int, range]]) -> str:
    """What is assigned to, as booleans of size one along the axes of which all is."""
    mask: np.ndarray[Any, Any] = np.ones((1,) * call.rank(), np.bool_)
    for axis, places in ranges:
        column = np.zeros(call.shape()[axis], np.bool_)
        column[list(places)] = True
        sizes = [1] * call.rank()
        sizes[axis] = -1
        mask = mask & column.reshape(sizes)
    return call.constant(mask, np.bool_)


@converter("_slice_assign", "_crop_assign", "_npi_slice_assign", moves_data_only=True, outputs=1)
def slice_assign(call: Call) -> None:
    """``Where`` a constant mask says so, the values moved to their places by ``Gather``."""
    call.require_numbers()
    ranges = _ranges(call)
    values = call.input(1)
    for axis, places in ranges:
        source = np.zeros(call.shape()[axis], np.int64)
        source[list(places)] = np.arange(len(places))
        call.require(len(places) == call.shape(1)[axis], "limits that MXNet reads differently")
        values = call.emit("Gather", [values, call.constant(source, np.int64)], axis=axis)
    select(call, _mask(call, ranges), values, call.input(), call.dtype())


@converter(
    "_slice_assign_scalar",
    "_crop_assign_scalar",
    "_npi_slice_assign_scalar",
    moves_data_only=True,
    outputs=1,
)
def slice_assign_scalar(call: Call) -> None:
    """``Where`` a constant mask says so, the scalar; ``Expand`` of it where all is assigned to.

    TensorRT 8.5 slices a ``Where`` that comes to one scalar wrongly.
    """
    call.require_numbers()
    value, ranges = number(call, "scalar", call.dtype(), 0.0), _ranges(call)
    if not ranges:
        fill(call, call.emit("Shape", [call.input()]), value, call.output())
        return
    filled = call.constant(value, call.dtype())
    select(call, _mask(call, ranges), filled, call.input(), call.dtype())
