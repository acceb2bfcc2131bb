"""Converters of operators that choose elements: by index, by condition, by order.

MXNet's indices are of any dtype, float32 mostly, and are truncated to integers.  What an
operator does with one that is out of range is its ``mode``.
"""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from mxtrt.convert.onnx_builder import tensor_type
from mxtrt.convert.ops.creation import fill, number
from mxtrt.convert.ops.registry import FLOATS, NUMBERS, Call, Converter, converter

#: Dtypes that ONNX Runtime does not sort.
_NARROW = frozenset(np.dtype(kind) for kind in (np.int8, np.uint8))
#: Dtypes whose largest element it finds.
_SEARCHED = frozenset(np.dtype(kind) for kind in (np.float32, np.int32, np.int8, np.uint8))
_LARGEST = float(np.finfo(np.float32).max)
#: Most elements that libstdc++'s ``std::sort`` sorts by insertion.
_INSERTED = 16


def cast(call: Call, value: str, dtype: Any, output: str | None = None) -> str:
    """``Cast`` to a dtype."""
    return call.emit("Cast", [value], output=output, to=tensor_type(np.dtype(dtype)))


def _integers(call: Call, value: str, dtype: np.dtype[Any]) -> str:
    """Indices as ONNX wants them."""
    return value if dtype == np.int64 else cast(call, value, np.int64)


def _in_range(call: Call, index: int, size: int, default: str = "clip") -> str:
    """An input as indices from 0 to ``size - 1`` under the attribute ``mode``."""
    call.require_dtype(call.inputs[index], NUMBERS)
    mode = call.text("mode", default)
    call.require(mode in ("clip", "wrap"), f"mode={mode}: an engine cannot raise an error")
    places = _integers(call, call.input(index), call.dtype(index))
    if mode == "wrap":
        return call.emit("Mod", [places, call.constant(size, np.int64)])
    places = call.emit("Max", [places, call.constant(0, np.int64)])
    return call.emit("Min", [places, call.constant(size - 1, np.int64)])


def _require_data(call: Call) -> None:
    """Leave the node to MXNet unless its output is of the first input's dtype, of ``NUMBERS``."""
    call.require_dtype(call.inputs[0], NUMBERS)
    call.require(call.outputs[0].dtype == call.dtype(), "its data change their dtype")


# -- by index --------------------------------------------------------------------------------


@converter("take", "_npi_take", outputs=1)
def take(call: Call) -> None:
    """``Gather`` along ``axis`` of indices that are clipped, the default, or wrapped."""
    _require_data(call)
    axis = call.axis("axis", 0)
    places = _in_range(call, 1, call.shape()[axis])
    call.emit("Gather", [call.input(), places], output=call.output(), axis=axis)


@converter("batch_take", outputs=1)
def batch_take(call: Call) -> None:
    """``GatherElements``: of every row the element at an index, which is clipped."""
    _require_data(call)
    # Of more axes MXNet takes the sizes for others, and reads beyond the data.
    call.require(call.rank() == 2, f"batch_take on rank {call.rank()}, not 2")
    _pick(call, 1, keep=False)


@converter("pick", "choose_element_0index", "_npx_pick", outputs=1)
def pick(call: Call) -> None:
    """``GatherElements`` along ``axis``, the last by default; ``mode`` as in ``take``."""
    _require_data(call)
    call.require(call.node.attrs.get("axis", "-1") != "None", "axis=None")
    _pick(call, call.axis("axis", -1), keep=call.flag("keepdims"))


def _pick(call: Call, axis: int, *, keep: bool) -> None:
    places = _in_range(call, 1, call.shape()[axis])
    axes = call.indices([axis])
    if call.rank() == 1:  # one element, whatever the rank of the index
        call.emit("Gather", [call.input(), places], output=call.output(), axis=0)
        return
    if call.rank(1) < call.rank():
        places = call.emit("Unsqueeze", [places, axes])
    output = call.output() if keep else None
    picked = call.emit("GatherElements", [call.input(), places], output=output, axis=axis)
    if not keep:
        call.emit("Squeeze", [picked, axes], output=call.output())


@converter("gather_nd", "_npi_gather_nd", "_npx_gather_nd", outputs=1)
def gather_nd(call: Call) -> None:
    """``GatherND``, whose indices lie along the last axis and MXNet's along the first.

    MXNet adds the size before it truncates, and takes the remainder.  Where an index is out of
    range it raises an error on a CPU; an engine wraps it as MXNet's kernel does.
    """
    _require_data(call)
    call.require_dtype(call.inputs[1], NUMBERS)
    rank, count = call.rank(1), call.shape(1)[0]
    places = call.input(1)
    if call.dtype(1) not in (np.float32, np.int64):
        places = cast(call, places, np.int64)
    order = [*range(1, rank), 0]
    places = call.emit("Transpose", [places], perm=order)
    sizes = call.shape()[:count]
    if call.dtype(1) == np.float32:
        shifted = call.emit("Add", [places, call.constant(sizes, np.float32)])
        places = cast(call, shifted, np.int64)
    places = call.emit("Mod", [places, call.indices(sizes)])
    call.emit("GatherND", [call.input(), places], output=call.output())


@converter("_contrib_index_copy", outputs=1)
def index_copy(call: Call) -> None:
    """``ScatterND``: rows of the first input replaced by those of the third."""
    call.require_dtype(call.inputs[0], NUMBERS)
    call.require_dtype(call.inputs[1], NUMBERS)
    call.require(call.dtype(2) == call.dtype(), "its inputs are of several dtypes")
    places = _integers(call, call.input(1), call.dtype(1))
    places = call.emit("Unsqueeze", [places, call.indices([1])])
    call.emit("ScatterND", [call.input(0), places, call.input(2)], output=call.output())


@converter("one_hot", "_npx_one_hot", outputs=1)
def one_hot(call: Call) -> None:
    """``Equal`` to the places along a new last axis: an index out of range is nowhere equal.

    ONNX's ``OneHot`` counts negative indices from the end.
    """
    call.require_dtype(call.inputs[0], NUMBERS)
    call.require_dtype(call.outputs[0], NUMBERS)
    dtype = call.outputs[0].dtype
    assert dtype is not None
    depth = call.out_shape()[-1]
    places = _integers(call, call.input(), call.dtype())
    places = call.emit("Unsqueeze", [places, call.indices([call.rank()])])
    equal = call.emit("Equal", [places, call.indices(range(depth))])
    on, off = number(call, "on_value", dtype, 1.0), number(call, "off_value", dtype, 0.0)
    if (on, off) == (1, 0):
        cast(call, equal, dtype, call.output())
    else:
        select(call, equal, call.constant(on, dtype), call.constant(off, dtype), dtype)


# -- by condition ----------------------------------------------------------------------------


def select(call: Call, condition: str, first: str, second: str, dtype: np.dtype[Any]) -> None:
    """``Where`` into the node's output; ONNX Runtime has none of int8."""
    if dtype != np.int8:
        call.emit("Where", [condition, first, second], output=call.output())
        return
    first, second = (cast(call, value, np.int32) for value in (first, second))
    cast(call, call.emit("Where", [condition, first, second]), dtype, call.output())


@converter("where", "_npi_where", outputs=1)
def where(call: Call) -> None:
    """``Where`` the condition, of any dtype, is not zero; a NaN is not.

    A condition of one axis chooses whole rows.
    """
    for index in range(3):
        call.require_dtype(call.inputs[index], NUMBERS)
    call.require(call.dtype(1) == call.dtype(2), "its inputs are of several dtypes")
    condition = cast(call, call.input(), np.bool_)
    if call.node.op == "where" and call.rank() < call.rank(1):
        condition = call.emit("Unsqueeze", [condition, call.indices(range(1, call.rank(1)))])
    select(call, condition, call.input(1), call.input(2), call.dtype(1))


# -- by order --------------------------------------------------------------------------------


def _search(op_type: str, nearer: str, limit: float) -> Converter:
    def convert(call: Call) -> None:
        """``ArgMax`` or ``ArgMin``, the first of equal elements; all axes give shape (1,).

        The first NaN comes before them all in MXNet: it stands in for an infinity here, and the
        largest finite number for that.
        """
        call.require_dtype(call.inputs[0], _SEARCHED)
        call.require_dtype(call.outputs[0], NUMBERS)
        channel = call.node.op == "argmax_channel"
        given = channel or call.given("axis")
        data, keep = call.input(), not channel and call.flag("keepdims")
        if call.dtype() in FLOATS:
            absent = call.emit("IsNaN", [data])
            finite = call.emit(nearer, [data, call.constant(limit)])
            data = call.emit("Where", [absent, call.constant(np.copysign(np.inf, limit)), finite])
        if given and call.rank() > 1:
            axis = 1 if channel else call.axis("axis")
            place = call.emit(op_type, [data], axis=axis, keepdims=int(keep))
        else:  # one row: TensorRT searches no tensor of one axis
            data = call.emit("Reshape", [data, call.indices([1, -1])])
            place = call.emit(op_type, [data], axis=1, keepdims=0)
            if keep:
                place = call.emit("Reshape", [place, call.indices([1] * call.rank())])
        cast(call, place, call.outputs[0].dtype, call.output())

    return convert


converter("argmax", "argmax_channel", outputs=1)(_search("ArgMax", "Min", _LARGEST))
converter("argmin", outputs=1)(_search("ArgMin", "Max", -_LARGEST))


def _sorted(call: Call, count: int = 0, *, ascending: bool, places: bool) -> tuple[str, str, int]:
    """``TopK`` of so many elements, 0 for all, along ``axis``: values, indices and the axis.

    Of equal elements the first is first.  MXNet keeps their order on a CPU where ``std::sort`` is
    an insertion sort, of up to sixteen elements, and where ``std::partial_sort``, which it takes
    for an eighth of them or less, looks for one (``ordering_op-inl.h``).

    Args:
        call: A node that sorts.
        count: How many elements of a row it gives.
        ascending: Whether the least of them is first.
        places: Whether it tells where they are.
    """
    call.require_dtype(call.inputs[0], NUMBERS)
    data, size = call.input(), prod(call.shape())
    if call.dtype() in _NARROW:
        data = cast(call, data, np.int32)
    if call.node.attrs.get("axis") == "None":
        data, axis = call.emit("Reshape", [data, call.indices([-1])]), 0
    else:
        axis = call.axis("axis", -1)
        size = call.shape()[axis]
    if places:
        wanted = count or size
        kept = wanted == 1 or (size <= _INSERTED and 8 * wanted > size)
        call.require(kept, "the order that MXNet's sort leaves equal elements in")
        call.require(not call.gpu, "the order that MXNet's sort leaves equal elements in on a GPU")
    values, indices = call.fresh("values"), call.fresh("indices")
    # TensorRT wants to know the number when it builds, so it is not read from the shape.
    call.emit_many(
        "TopK",
        [data, call.indices([count or size])],
        [values, indices],
        axis=axis,
        largest=int(not ascending),
    )
    return values, indices, axis


def _give_values(call: Call, values: str) -> None:
    """Sorted values as the first output."""
    if call.dtype() in _NARROW:
        cast(call, values, call.dtype(), call.output())
    else:
        call.emit("Identity", [values], output=call.output())


@converter("sort", "_npi_sort", outputs=1)
def sort(call: Call) -> None:
    """The values of a ``TopK`` of all elements."""
    values, _, _ = _sorted(call, ascending=call.flag("is_ascend", True), places=False)
    _give_values(call, values)


@converter("argsort", "_npi_argsort", outputs=1)
def argsort(call: Call) -> None:
    """The indices of a ``TopK`` of all elements."""
    call.require_dtype(call.outputs[0], NUMBERS)
    _, indices, _ = _sorted(call, ascending=call.flag("is_ascend", True), places=True)
    cast(call, indices, call.outputs[0].dtype, call.output())


@converter("topk", "_npx_topk")
def topk(call: Call) -> None:
    """``TopK``: indices by default, values, both, or a mask with ones at the indices."""
    kind = call.text("ret_typ", "indices")
    count = max(call.integer("k", 1), 0)
    ascending = call.flag("is_ascend")
    values, indices, axis = _sorted(call, count, ascending=ascending, places=kind != "value")
    if kind == "mask":
        _mask(call, indices, axis)
        return
    if kind in ("value", "both"):
        _give_values(call, values)
    if kind in ("indices", "both"):
        place = call.outputs[-1]
        call.require_dtype(place, NUMBERS)
        cast(call, indices, place.dtype, call.output(len(call.outputs) - 1))


def _mask(call: Call, indices: str, axis: int) -> None:
    """``ScatterElements`` of ones into zeros."""
    dtype = call.dtype()
    shape = call.emit("Shape", [call.input()])
    zeros = fill(call, shape, dtype.type(0))
    ones = fill(call, call.emit("Shape", [indices]), dtype.type(1))
    if call.node.attrs.get("axis") == "None":
        zeros = call.emit("Reshape", [zeros, call.indices([-1])])
        mask = call.emit("ScatterElements", [zeros, indices, ones], axis=axis)
        call.emit("Reshape", [mask, shape], output=call.output())
        return
    call.emit("ScatterElements", [zeros, indices, ones], output=call.output(), axis=axis)


# -- diagonals -------------------------------------------------------------------------------


@converter("diag", outputs=1)
def diag(call: Call) -> None:
    """The diagonal ``k`` of two axes as a new last axis; or of a vector a matrix with it there."""
    call.require_numbers()
    k = call.integer("k", 0)
    if call.rank() == 1:
        _diagonal_matrix(call, k)
        return
    axes = [call.axis("axis1", 0), call.axis("axis2", 1)]
    rest = [axis for axis in range(call.rank()) if axis not in axes]
    shape = call.shape()
    columns = shape[axes[1]]
    data = call.emit("Transpose", [call.input()], perm=[*rest, *axes])
    # The batch, where it is among the other axes, is kept.
    target = [0 if axis == 0 else shape[axis] for axis in rest]
    data = call.emit("Reshape", [data, call.indices([*target, -1])])
    places = np.arange(call.out_shape()[-1]) * (columns + 1) + max(k, 0) + max(-k, 0) * columns
    call.emit("Gather", [data, call.indices(places.tolist())], output=call.output(), axis=-1)


def _diagonal_matrix(call: Call, k: int) -> None:
    """``Where`` the diagonal is, the vector, as a column or a row of enough elements."""
    size = call.out_shape()[0]
    places = call.indices([min(place, call.shape()[0] - 1) for place in range(size)])
    line = call.emit("Gather", [call.input(), places])
    line = call.emit("Unsqueeze", [line, call.indices([1 if k >= 0 else 0])])
    zero = call.constant(0, call.dtype())
    select(call, call.constant(np.eye(size, k=k), np.bool_), line, zero, call.dtype())
