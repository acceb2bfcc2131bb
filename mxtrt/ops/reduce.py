"""Converters of reductions over axes."""

from __future__ import annotations

from mxtrt.ops.registry import Call, converter

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


def _axes(call: Call) -> list[int]:
    """The axes to reduce: no ``axis`` means all, ``exclude`` means all others."""
    rank = call.rank()
    given = call.integers("axis", ())
    call.require(all(-rank <= axis < rank for axis in given), f"axis={given} on rank {rank}")
    axes = sorted({axis % rank for axis in given})
    if call.flag("exclude"):
        call.require(bool(given), "exclude without axis")
        axes = [axis for axis in range(rank) if axis not in axes]
        call.require(bool(axes), "exclude of every axis")
    return axes or list(range(rank))


@converter(*_REDUCTIONS, outputs=1)
def reduce(call: Call) -> None:
    """``ReduceMean``, ``ReduceSum`` and so on; all axes give shape (1,) where ONNX gives ()."""
    call.require_floats()
    axes = _axes(call)
    keep = call.flag("keepdims")
    op_type = _REDUCTIONS[call.node.op]
    whole = len(axes) == call.rank() and not keep
    operands, attributes = [call.input()], {"axes": axes}
    if op_type == "ReduceSum":
        operands, attributes = [call.input(), call.indices(axes)], {}
    output = None if whole else call.output()
    total = call.emit(op_type, operands, output=output, keepdims=int(keep or whole), **attributes)
    if whole:
        call.emit("Reshape", [total, call.indices([1])], output=call.output())
