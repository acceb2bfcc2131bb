"""Converters of reductions over axes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mxtrt.convert.ops.registry import FLOATS, Call, converter

_REDUCTIONS = {
    "mean": "ReduceMean",
    "sum": "ReduceSum",
    "sum_axis": "ReduceSum",
    "max": "ReduceMax",
    "max_axis": "ReduceMax",
    "min": "ReduceMin",
    "min_axis": "ReduceMin",
    "prod": "ReduceProd",
}

#: Reductions that choose an element.
_CHOOSING = ("ReduceMax", "ReduceMin")

#: Reductions that leave NaN out: the ONNX operator, and what takes the place of a NaN.
_WITHOUT_NAN = {"nansum": ("ReduceSum", 0), "nanprod": ("ReduceProd", 1)}

_NORMS = {1: "ReduceL1", 2: "ReduceL2"}


def _axes(call: Call, key: str = "axis") -> list[int]:
    """The axes to reduce: none given means all, ``exclude`` means all others."""
    rank = call.rank()
    given = call.integers(key, ())
    call.require(all(-rank <= axis < rank for axis in given), f"{key}={given} on rank {rank}")
    axes = sorted({axis % rank for axis in given})
    if given and call.flag("exclude"):
        return [axis for axis in range(rank) if axis not in axes]
    return axes or list(range(rank))


def reduce_along(
    call: Call, op_type: str, data: str, axes: Sequence[int], keep: bool, output: str
) -> None:
    """Reduce; all axes give shape (1,) where ONNX gives ().

    The largest and the smallest are NaN in MXNet where an element is; ONNX Runtime's and TensorRT's
    are not, so that the sum of the absolute values tells.
    """
    if not axes:
        call.emit("Identity", [data], output=output)
        return
    if op_type in _CHOOSING and call.dtype() in FLOATS:
        chosen, total = call.fresh("chosen"), call.fresh("total")
        _reduce(call, op_type, data, axes, keep, chosen)
        _reduce(call, "ReduceSum", call.emit("Abs", [data]), axes, keep, total)
        call.emit("Where", [call.emit("IsNaN", [total]), total, chosen], output=output)
    else:
        _reduce(call, op_type, data, axes, keep, output)


def _reduce(
    call: Call, op_type: str, data: str, axes: Sequence[int], keep: bool, output: str
) -> None:
    whole = len(axes) == call.rank() and not keep
    total = None if whole else output
    if op_type == "ReduceSum":
        operands = [data, call.indices(axes)]
        reduced = call.emit(op_type, operands, output=total, keepdims=int(keep or whole))
    else:
        reduced = call.emit(op_type, [data], output=total, axes=axes, keepdims=int(keep or whole))
    if whole:
        call.emit("Reshape", [reduced, call.indices([1])], output=output)


@converter(*_REDUCTIONS, outputs=1)
def reduce(call: Call) -> None:
    """``ReduceMean``, ``ReduceSum`` and so on; of integers those that are exact.

    MXNet cuts a mean.  ONNX Runtime sums and multiplies integers as doubles, which hold the sums
    of int32 but neither those of int64 nor products.
    """
    op_type = _REDUCTIONS[call.node.op]
    if op_type in ("ReduceMean", "ReduceProd"):
        call.require_floats()
    else:
        call.require_arithmetic()
        exact = op_type != "ReduceSum" or call.dtype() != np.int64
        call.require(exact, "ONNX Runtime rounds sums of int64")
    reduce_along(call, op_type, call.input(), _axes(call), call.flag("keepdims"), call.output())


@converter(*_WITHOUT_NAN, outputs=1)
def reduce_without_nan(call: Call) -> None:
    """``ReduceSum`` or ``ReduceProd``, zero or one in place of NaN."""
    call.require_floats()
    op_type, neutral = _WITHOUT_NAN[call.node.op]
    absent = call.emit("IsNaN", [call.input()])
    data = call.emit("Where", [absent, call.constant(neutral), call.input()])
    reduce_along(call, op_type, data, _axes(call), call.flag("keepdims"), call.output())


@converter("norm", outputs=1)
def norm(call: Call) -> None:
    """``ReduceL1`` or ``ReduceL2``: over two axes too it is the norm of all their elements."""
    call.require_floats()
    order = call.integer("ord", 2)
    call.require(order in _NORMS, f"ord={order} is neither 1 nor 2")
    keep = call.flag("keepdims")
    reduce_along(call, _NORMS[order], call.input(), _axes(call), keep, call.output())


@converter("moments", outputs=2)
def moments(call: Call) -> None:
    """Mean and variance, from centred values as in ``nn/moments-inl.h``."""
    call.require_floats()
    axes, keep = _axes(call, "axes"), call.flag("keepdims")
    mean = call.emit("ReduceMean", [call.input()], axes=axes, keepdims=1)
    centred = call.emit("Sub", [call.input(), mean])
    squares = call.emit("Mul", [centred, centred])
    reduce_along(call, "ReduceMean", call.input(), axes, keep, call.output(0))
    reduce_along(call, "ReduceMean", squares, axes, keep, call.output(1))


@converter("_np_cumsum", "cumsum", outputs=1)
def cumsum(call: Call) -> None:
    """``CumSum`` along an axis, or over all elements in a row."""
    call.require_arithmetic()
    data, axis = call.input(), call.integer("axis", -1)
    if "axis" not in call.node.attrs or call.node.attrs["axis"] == "None":
        data, axis = call.emit("Reshape", [data, call.indices([-1])]), 0
    # MXNet reads the size of a negative axis from where no shape is.
    call.require(0 <= axis < call.rank(), f"axis={axis} on rank {call.rank()}")
    call.emit("CumSum", [data, call.constant(axis, "int64")], output=call.output())
