"""Converters of operators that move data: shapes, axes, slices, joins and padding."""

from __future__ import annotations

from math import prod

import numpy as np

from mxtrt.errors import Unsupported
from mxtrt.ops.registry import Call, converter

_END = int(np.iinfo(np.int64).max)


@converter("Concat", "concat", moves_data_only=True, outputs=1)
def concat(call: Call) -> None:
    """``Concat`` along ``dim``, 1 by default."""
    call.require_numbers()
    names = [call.input(i) for i in range(len(call.inputs))]
    call.emit("Concat", names, output=call.output(), axis=call.axis("dim", 1))


@converter("stack", moves_data_only=True, outputs=1)
def stack(call: Call) -> None:
    """``Concat`` of the inputs with a new axis, the first by default."""
    call.require_numbers()
    axis = call.axis("axis", 0, rank=call.rank() + 1)
    axes = call.indices([axis])
    names = [call.emit("Unsqueeze", [call.input(i), axes]) for i in range(len(call.inputs))]
    call.emit("Concat", names, output=call.output(), axis=axis)


@converter("Flatten", "flatten", moves_data_only=True, outputs=1)
def flatten(call: Call) -> None:
    """``Flatten`` of every axis but the first."""
    call.require_numbers()
    call.emit("Flatten", [call.input()], output=call.output(), axis=1)


@converter("Reshape", "reshape", moves_data_only=True, outputs=1)
def reshape(call: Call) -> None:
    """``Reshape`` to the shape that MXNet inferred, whatever codes it was written with.

    MXNet keeps the order of the elements in memory under every code (0, -1, -2, -3, -4 and
    ``reverse``), so the inferred shape says all.  The first axis is kept (0) or left to be
    inferred (-1), which keeps the batch size out of the graph.
    """
    call.require_numbers()
    shape, target = call.shape(), call.out_shape()
    call.require(prod(shape) == prod(target), "the target shape has another size")
    _reshape_to_output(call, call.input())


def _reshape_to_output(call: Call, data: str) -> None:
    target = list(call.out_shape())
    if target:
        target[0] = 0 if target[0] == call.shape()[0] else -1
    call.emit("Reshape", [data, call.indices(target)], output=call.output())


@converter("transpose", moves_data_only=True, outputs=1)
def transpose(call: Call) -> None:
    """``Transpose``; no ``axes`` means all of them reversed."""
    call.require_numbers()
    rank = call.rank()
    axes = call.integers("axes", ()) or tuple(reversed(range(rank)))
    call.require(sorted(axes) == list(range(rank)), f"axes={axes} is not a permutation")
    call.emit("Transpose", [call.input()], output=call.output(), perm=axes)


@converter("SwapAxis", "swapaxes", moves_data_only=True, outputs=1)
def swap_axis(call: Call) -> None:
    """``Transpose`` of two axes."""
    call.require_numbers()
    order = list(range(call.rank()))
    first, second = call.axis("dim1", 0), call.axis("dim2", 0)
    order[first], order[second] = second, first
    call.emit("Transpose", [call.input()], output=call.output(), perm=order)


@converter("expand_dims", moves_data_only=True, outputs=1)
def expand_dims(call: Call) -> None:
    """``Unsqueeze`` of one axis, counted in the output."""
    call.require_numbers()
    axes = call.indices([call.axis("axis", rank=call.rank() + 1)])
    call.emit("Unsqueeze", [call.input(), axes], output=call.output())


@converter("squeeze", moves_data_only=True, outputs=1)
def squeeze(call: Call) -> None:
    """``Squeeze``; without ``axis`` every axis of size one, the batch too.

    MXNet makes a tensor of one axis where ONNX would make one of none.
    """
    call.require_numbers()
    shape = call.shape()
    given = call.integers("axis", ())
    axes = sorted(i % len(shape) for i in given) or [i for i, n in enumerate(shape) if n == 1]
    left = tuple(n for i, n in enumerate(shape) if i not in axes)
    if left != call.out_shape():
        _reshape_to_output(call, call.input())
    elif axes:
        call.emit("Squeeze", [call.input(), call.indices(axes)], output=call.output())
    else:
        call.emit("Identity", [call.input()], output=call.output())


@converter("slice_axis", moves_data_only=True, outputs=1)
def slice_axis(call: Call) -> None:
    """``Slice`` of one axis; ``end`` may be ``None`` for the rest."""
    call.require_numbers()
    (end,) = call.optional_integers("end", (None,))
    limits = [[call.integer("begin")], [_END if end is None else end]]
    begins, ends = (call.indices(values) for values in limits)
    axes = call.indices([call.axis("axis")])
    call.emit("Slice", [call.input(), begins, ends, axes], output=call.output())


@converter("slice", "crop", moves_data_only=True, outputs=1)
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
    if not rows:
        call.emit("Identity", [call.input()], output=call.output())
        return
    axes, begins, ends, steps = (call.indices(column) for column in zip(*rows, strict=True))
    call.emit("Slice", [call.input(), begins, ends, axes, steps], output=call.output())


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
    names = [call.output(i) for i in range(count)]
    squeezed = call.flag("squeeze_axis")
    parts = [call.fresh("part") for _ in names] if squeezed else names
    if count == 1:
        call.emit("Identity", [call.input()], output=parts[0])
    else:
        call.emit_many("Split", [call.input()], parts, axis=axis)
    if squeezed:
        axes = call.indices([axis])
        for part, name in zip(parts, names, strict=True):
            call.emit("Squeeze", [part, axes], output=name)


@converter("Pad", "pad", moves_data_only=True, outputs=1)
def pad(call: Call) -> None:
    """``Pad`` of height and width, and depth; MXNet pads neither batch nor channels."""
    call.require_floats()
    mode = call.text("mode")
    if mode not in ("constant", "edge", "reflect"):
        raise Unsupported(f"mode={mode} is not known")
    widths = call.integers("pad_width")
    rank = call.rank()
    call.require(len(widths) == 2 * rank, f"pad_width has {len(widths)} values, not {2 * rank}")
    call.require(min(widths) >= 0, "a negative pad_width")
    call.require(
        mode != "reflect" or max(widths[::2] + widths[1::2]) < min(call.shape()[2:]),
        "a reflection wider than the data",
    )
    value = [call.constant(call.number("constant_value", 0.0))] if mode == "constant" else []
    pads = call.indices(widths[::2] + widths[1::2])
    call.emit("Pad", [call.input(), pads, *value], output=call.output(), mode=mode)
