"""Converters of elementwise arithmetic."""

from __future__ import annotations

from math import isfinite, log

import numpy as np

from mxtrt.ops.registry import Call, Converter, converter

_FLOAT_MAX = float(np.finfo(np.float32).max)

#: MXNet's operators of two tensors, of one shape or (``broadcast_``) broadcast as in NumPy.
_BINARY = {
    "Add": (
        "elemwise_add",
        "_plus",
        "_Plus",
        "_add",
        "_grad_add",
        "broadcast_add",
        "broadcast_plus",
    ),
    "Sub": ("elemwise_sub", "_minus", "_Minus", "_sub", "broadcast_sub", "broadcast_minus"),
    "Mul": ("elemwise_mul", "_mul", "_Mul", "broadcast_mul"),
    "Div": ("elemwise_div", "_div", "_Div", "broadcast_div"),
    "Max": ("_maximum", "_Maximum", "broadcast_maximum"),
    "Min": ("_minimum", "_Minimum", "broadcast_minimum"),
    "Pow": ("_power", "_Power", "broadcast_power"),
}

#: Operators of a tensor and the attribute ``scalar``: ONNX operator, scalar first.
_SCALAR = {
    ("_plus_scalar", "_PlusScalar"): ("Add", False),
    ("_minus_scalar", "_MinusScalar"): ("Sub", False),
    ("_rminus_scalar", "_RMinusScalar"): ("Sub", True),
    ("_mul_scalar", "_MulScalar"): ("Mul", False),
    ("_div_scalar", "_DivScalar"): ("Div", False),
    ("_rdiv_scalar", "_RDivScalar"): ("Div", True),
    ("_power_scalar", "_PowerScalar"): ("Pow", False),
    ("_rpower_scalar", "_RPowerScalar"): ("Pow", True),
    ("_maximum_scalar", "_MaximumScalar"): ("Max", False),
    ("_minimum_scalar", "_MinimumScalar"): ("Min", False),
}

#: Functions that ONNX has under another name.
_UNARY = {
    "abs": "Abs",
    "arccos": "Acos",
    "arccosh": "Acosh",
    "arcsin": "Asin",
    "arcsinh": "Asinh",
    "arctan": "Atan",
    "arctanh": "Atanh",
    "ceil": "Ceil",
    "cos": "Cos",
    "cosh": "Cosh",
    "erf": "Erf",
    "exp": "Exp",
    "floor": "Floor",
    "log": "Log",
    "negative": "Neg",
    "reciprocal": "Reciprocal",
    "sign": "Sign",
    "sin": "Sin",
    "sinh": "Sinh",
    "softsign": "Softsign",
    "sqrt": "Sqrt",
    "tan": "Tan",
    "tanh": "Tanh",
}

_LOG_BASES = {"log2": 2, "log10": 10}


def _binary(op_type: str) -> Converter:
    def convert(call: Call) -> None:
        call.require_floats()
        call.emit(op_type, [call.input(0), call.input(1)], output=call.output())

    convert.__doc__ = f"``{op_type}`` of two tensors, broadcast as in NumPy."
    return convert


def _scalar(op_type: str, scalar_first: bool) -> Converter:
    def convert(call: Call) -> None:
        call.require_floats()
        operands = [call.input(), scalar(call)]
        call.emit(op_type, operands[::-1] if scalar_first else operands, output=call.output())

    convert.__doc__ = f"``{op_type}`` of a tensor and a float32 scalar."
    return convert


def _unary(op_type: str) -> Converter:
    def convert(call: Call) -> None:
        call.require_floats()
        call.emit(op_type, [call.input()], output=call.output())

    convert.__doc__ = f"``{op_type}``."
    return convert


def scalar(call: Call, key: str = "scalar", default: float | None = None) -> str:
    """Name of a constant of the input's dtype; MXNet's scalars are double.

    To integers they are cut as in C.
    """
    value, dtype = call.number(key, default), call.dtype()
    if dtype.kind in "iu":
        info = np.iinfo(dtype)
        fits = isfinite(value) and info.min <= int(value) <= info.max
        call.require(fits, f"{key}={value} is no {dtype}")
        return call.constant(int(value), dtype)
    fits = abs(value) <= _FLOAT_MAX or not isfinite(value)
    call.require(fits, f"{key}={value} is not a float32")
    return call.constant(value, dtype)


for _op_type, _names in _BINARY.items():
    converter(*_names, outputs=1)(_binary(_op_type))
for _names, (_op_type, _first) in _SCALAR.items():
    converter(*_names, outputs=1)(_scalar(_op_type, _first))
for _name, _op_type in _UNARY.items():
    converter(_name, outputs=1)(_unary(_op_type))


@converter("add_n", "ElementWiseSum", outputs=1)
def add_n(call: Call) -> None:
    """``Sum`` of any number of tensors of one shape; ``Add`` of two."""
    call.require_floats()
    names = [call.input(i) for i in range(len(call.inputs))]
    op_type = {1: "Identity", 2: "Add"}.get(len(names), "Sum")
    call.emit(op_type, names, output=call.output())


@converter("clip", outputs=1)
def clip(call: Call) -> None:
    """``Clip`` with constant bounds."""
    call.require_floats()
    bounds = [scalar(call, key) for key in ("a_min", "a_max")]
    call.require(call.number("a_min") <= call.number("a_max"), "a_min is above a_max")
    call.emit("Clip", [call.input(), *bounds], output=call.output())


@converter("_copy", "identity", "BlockGrad", "stop_gradient", moves_data_only=True, outputs=1)
def identity(call: Call) -> None:
    """``Identity``: gradients do not matter at inference."""
    call.require_numbers()
    call.emit("Identity", [call.input()], output=call.output())


@converter("square", outputs=1)
def square(call: Call) -> None:
    """``Mul`` of the tensor with itself."""
    call.require_floats()
    call.emit("Mul", [call.input(), call.input()], output=call.output())


@converter("rsqrt", outputs=1)
def rsqrt(call: Call) -> None:
    """``Reciprocal`` of ``Sqrt``."""
    call.require_floats()
    call.emit("Reciprocal", [call.emit("Sqrt", [call.input()])], output=call.output())


@converter("cbrt", outputs=1)
def cbrt(call: Call) -> None:
    """The cube root, negative for negative numbers: sign(x) * abs(x) ** (1/3)."""
    call.require_floats()
    size = call.emit("Abs", [call.input()])
    root = call.emit("Pow", [size, call.constant(1 / 3)])
    call.emit("Mul", [call.emit("Sign", [call.input()]), root], output=call.output())


@converter(*_LOG_BASES, outputs=1)
def log_to_base(call: Call) -> None:
    """``Log`` divided by the logarithm of the base."""
    call.require_floats()
    natural = call.emit("Log", [call.input()])
    divisor = call.constant(log(_LOG_BASES[call.node.op]))
    call.emit("Div", [natural, divisor], output=call.output())


@converter("trunc", "fix", outputs=1)
def trunc(call: Call) -> None:
    """Rounding towards zero: sign(x) * floor(abs(x)), exact in float32."""
    call.require_floats()
    size = call.emit("Floor", [call.emit("Abs", [call.input()])])
    call.emit("Mul", [call.emit("Sign", [call.input()]), size], output=call.output())


@converter("rint", outputs=1)
def rint(call: Call) -> None:
    """Rounding to the nearest integer, halves down (``mshadow_op.h``); ONNX rounds them to even."""
    call.require_floats()
    data = call.input()
    low, high = call.emit("Floor", [data]), call.emit("Ceil", [data])
    below, above = call.emit("Sub", [data, low]), call.emit("Sub", [high, data])
    down = call.emit("LessOrEqual", [below, above])
    call.emit("Where", [down, low, high], output=call.output())
