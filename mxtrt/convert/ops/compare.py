"""Converters of comparisons and of logic: ones and zeros in the dtype of what is compared."""

from __future__ import annotations

from math import isnan

import numpy as np

from mxtrt.convert.onnx_builder import tensor_type
from mxtrt.convert.ops.creation import fill
from mxtrt.convert.ops.elementwise import scalar_value
from mxtrt.convert.ops.registry import Call, Converter, converter

#: Comparisons by MXNet's words for them: the ONNX operator, and whether its result is negated.
_COMPARISONS = {
    "equal": ("Equal", False),
    "not_equal": ("Equal", True),
    "greater": ("Greater", False),
    "greater_equal": ("GreaterOrEqual", False),
    "lesser": ("Less", False),
    "lesser_equal": ("LessOrEqual", False),
}

_LOGIC = {"logical_and": "And", "logical_or": "Or", "logical_xor": "Xor"}

# ONNX Runtime compares no smaller integers than these.
_SMALL = {np.dtype(np.int8), np.dtype(np.uint8)}


def _operand(call: Call, name: str) -> str:
    if call.dtype() in _SMALL:
        return call.emit("Cast", [name], to=tensor_type(np.dtype(np.int32)))
    return name


def _constant(call: Call, value: float) -> str:
    return call.constant(value, np.int32 if call.dtype() in _SMALL else call.dtype())


def _operands(call: Call, with_scalar: bool) -> list[str]:
    call.require_numbers()
    first = _operand(call, call.input(0))
    if with_scalar:
        return [first, _constant(call, scalar_value(call, "scalar"))]
    return [first, _operand(call, call.input(1))]


def _truth(call: Call, name: str) -> str:
    """Whether numbers differ from zero; NaN does, as in C."""
    return call.emit("Not", [call.emit("Equal", [name, _constant(call, 0)])])


def _finish(call: Call, truth: str) -> None:
    call.emit("Cast", [truth], output=call.output(), to=tensor_type(call.dtype()))


def _comparison(op_type: str, negated: bool, with_scalar: bool) -> Converter:
    def convert(call: Call) -> None:
        call.require_numbers()
        if with_scalar and isnan(scalar_value(call, "scalar")):  # TensorRT 8.5 may call it true
            shape = call.emit("Shape", [call.input()])
            fill(call, shape, call.dtype().type(negated), call.output())
            return
        truth = call.emit(op_type, _operands(call, with_scalar))
        _finish(call, call.emit("Not", [truth]) if negated else truth)

    other = "a scalar" if with_scalar else "a tensor, broadcast as in NumPy"
    convert.__doc__ = f"``{op_type}``{', negated,' if negated else ''} of a tensor and {other}."
    return convert


def _logic(op_type: str, with_scalar: bool) -> Converter:
    def of_tensors(call: Call) -> None:
        truths = [_truth(call, name) for name in _operands(call, False)]
        _finish(call, call.emit(op_type, truths))

    def of_scalar(call: Call) -> None:
        call.require_numbers()
        truth = _truth(call, _operand(call, call.input()))
        scalar = bool(np.asarray(scalar_value(call, "scalar")).astype(call.dtype()))
        if op_type == "Xor":
            found = call.emit("Not", [truth]) if scalar else truth
        elif scalar == (op_type == "And"):
            found = truth
        else:  # all of it true, or none
            found = call.emit(op_type, [truth, call.emit("Not", [truth])])
        _finish(call, found)

    convert = of_scalar if with_scalar else of_tensors
    other = "a scalar" if with_scalar else "a tensor, broadcast as in NumPy"
    convert.__doc__ = f"``{op_type}`` of whether a tensor and {other} differ from zero."
    return convert


def _names(word: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names of the operators of two tensors, and of those of a tensor and a scalar."""
    title = word.title()
    tensors = f"_{word}", f"_{title}", f"broadcast_{word}"
    return tensors, (f"_{word}_scalar", f"_{title.replace('_', '')}Scalar")


for _word, (_op_type, _negated) in _COMPARISONS.items():
    for _all_names, _with_scalar in zip(_names(_word), (False, True), strict=True):
        converter(*_all_names, outputs=1)(_comparison(_op_type, _negated, _with_scalar))
for _word, _op_type in _LOGIC.items():
    for _all_names, _with_scalar in zip(_names(_word), (False, True), strict=True):
        converter(*_all_names, outputs=1)(_logic(_op_type, _with_scalar))


@converter("logical_not", outputs=1)
def logical_not(call: Call) -> None:
    """``Equal`` to zero."""
    call.require_numbers()
    _finish(call, call.emit("Equal", [_operand(call, call.input()), _constant(call, 0)]))
