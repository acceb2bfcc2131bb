"""Converters of operators that repeat values: broadcasting, tiling and repetition."""

from __future__ import annotations

from mxtrt.convert.ops.registry import NUMBERS, Call, converter
from mxtrt.convert.ops.shape import reshape_to_output


def _expand(call: Call) -> None:
    """``Expand`` to the output's shape; axes that keep their size, the batch, stay out of it."""
    shape, target = call.shape(), call.out_shape()
    leading = target[: len(target) - len(shape)]
    kept = [1 if one == other else other for one, other in _pairs(shape, target)]
    call.emit("Expand", [call.input(), call.indices([*leading, *kept])], output=call.output())


def _pairs(shape: tuple[int, ...], target: tuple[int, ...]) -> list[tuple[int, int]]:
    """Sizes of the axes of a tensor and of what it is broadcast to, aligned at the last."""
    return list(zip(shape, target[len(target) - len(shape) :], strict=True))


@converter(
    "broadcast_axis",
    "broadcast_axes",
    "broadcast_to",
    "_npi_broadcast_to",
    moves_data_only=True,
    outputs=1,
)
def broadcast_to(call: Call) -> None:
    """``Expand`` to the shape that MXNet inferred, in which 0 means to keep a size."""
    call.require_numbers()
    fits = all(one in (1, other) for one, other in _pairs(call.shape(), call.out_shape()))
    call.require(fits, "shapes that do not broadcast")
    _expand(call)


@converter("broadcast_like", moves_data_only=True, outputs=1, shape_only=(1,))
def broadcast_like(call: Call) -> None:
    """``Expand`` to the ``Shape`` of the second input, or of some of its axes."""
    call.require_dtype(call.inputs[0], NUMBERS)
    if not (call.given("lhs_axes") and call.given("rhs_axes")):
        shape = call.emit("Shape", [call.input(1)])
        call.emit("Expand", [call.input(), shape], output=call.output())
        return
    ranks = {"lhs_axes": call.rank(0), "rhs_axes": call.rank(1)}
    theirs, ours = ([axis % rank for axis in call.integers(k)] for k, rank in ranks.items())
    if 0 not in theirs:
        _expand(call)
        return
    # The batch may be one of these sizes: read it from the second input.
    batch = call.indices([ours[theirs.index(0)]])
    size = call.emit("Gather", [call.emit("Shape", [call.input(1)]), batch])
    rest = [
        1 if one == other else other
        for one, other in zip(call.shape()[1:], call.out_shape()[1:], strict=True)
    ]
    target = call.emit("Concat", [size, call.indices(rest)], axis=0) if rest else size
    call.emit("Expand", [call.input(), target], output=call.output())


@converter("tile", "_npi_tile", moves_data_only=True, outputs=1)
def tile(call: Call) -> None:
    """``Tile``; the shorter of the shape and ``reps`` is filled with ones at the front."""
    call.require_numbers()
    repeats = call.integers("reps")
    rank = call.rank()
    data = call.input()
    if len(repeats) > rank:
        data = call.emit("Unsqueeze", [data, call.indices(range(len(repeats) - rank))])
    repeats = (1,) * (rank - len(repeats)) + repeats
    call.emit("Tile", [data, call.indices(repeats)], output=call.output())


#: Up to so many copies are made by ``Concat``.
_FEW_COPIES = 16


@converter("repeat", "_np_repeat", moves_data_only=True, outputs=1)
def repeat(call: Call) -> None:
    """Copies along a new axis after the one that is repeated, and ``Reshape`` into it.

    A few copies are a ``Concat``, which ONNX Runtime does in a tenth of an ``Expand``'s time.
    Without ``axis`` MXNet repeats the flattened data.
    """
    call.require_numbers()
    repeats = call.integer("repeats")
    data, shape, axis = call.input(), call.shape(), 0
    if not call.given("axis"):
        data = call.emit("Reshape", [data, call.indices([-1])])
        shape = (-1,)
    else:
        axis = call.axis("axis")
    column = call.emit("Unsqueeze", [data, call.indices([axis + 1])])
    if 0 < repeats <= _FEW_COPIES:
        wide = call.emit("Concat", [column] * repeats, axis=axis + 1)
    else:
        copies = [1] * (len(shape) + 1)
        copies[axis + 1] = repeats
        wide = call.emit("Expand", [column, call.indices(copies)])
    reshape_to_output(call, wide)
