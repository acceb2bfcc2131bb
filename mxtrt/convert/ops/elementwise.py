"""Converters of elementwise arithmetic."""

from __future__ import annotations

from math import factorial, isfinite, log

import numpy as np

from mxtrt.convert.ops.registry import FLOATS, Call, Converter, converter

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
        "_npi_add",
    ),
    "Sub": (
        "elemwise_sub",
        "_minus",
        "_Minus",
        "_sub",
        "broadcast_sub",
        "broadcast_minus",
        "_npi_subtract",
    ),
    "Mul": ("elemwise_mul", "_mul", "_Mul", "broadcast_mul", "_npi_multiply"),
    "Div": (
        "elemwise_div",
        "_div",
        "_Div",
        "broadcast_div",
        "_scatter_elemwise_div",
        "_npi_true_divide",
    ),
    "Max": ("_maximum", "_Maximum", "broadcast_maximum", "_npi_maximum"),
    "Min": ("_minimum", "_Minimum", "broadcast_minimum", "_npi_minimum"),
    "Pow": ("_power", "_Power", "broadcast_power", "_npi_power"),
}

#: Operators of a tensor and the attribute ``scalar``: ONNX operator, scalar first.
_SCALAR = {
    ("_plus_scalar", "_PlusScalar", "_scatter_plus_scalar", "_npi_add_scalar"): ("Add", False),
    ("_minus_scalar", "_MinusScalar", "_scatter_minus_scalar", "_npi_subtract_scalar"): (
        "Sub",
        False,
    ),
    ("_rminus_scalar", "_RMinusScalar", "_npi_rsubtract_scalar"): ("Sub", True),
    ("_mul_scalar", "_MulScalar", "_npi_multiply_scalar"): ("Mul", False),
    ("_div_scalar", "_DivScalar", "_npi_true_divide_scalar"): ("Div", False),
    ("_rdiv_scalar", "_RDivScalar", "_npi_rtrue_divide_scalar"): ("Div", True),
    ("_power_scalar", "_PowerScalar", "_npi_power_scalar"): ("Pow", False),
    ("_rpower_scalar", "_RPowerScalar", "_npi_rpower_scalar"): ("Pow", True),
    ("_maximum_scalar", "_MaximumScalar", "_npi_maximum_scalar"): ("Max", False),
    ("_minimum_scalar", "_MinimumScalar", "_npi_minimum_scalar"): ("Min", False),
}

#: What integers are computed with too.  MXNet cuts or wraps the results of the rest.
_WHOLE = {"Abs", "Add", "Max", "Min", "Mul", "Neg", "Sign", "Sub"}

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

_LOG_BASES = {"log2": 2, "log10": 10, "_npi_log2": 2, "_npi_log10": 10}

_PI = np.float32(np.pi)
#: MXNet divides in float32 (``mshadow_op.h``).
_DEGREES, _RADIANS = np.float32(180) / _PI, _PI / np.float32(180)
_ANGLES = {
    "degrees": _DEGREES,
    "_npi_degrees": _DEGREES,
    "radians": _RADIANS,
    "_npi_radians": _RADIANS,
}


def _require(call: Call, op_type: str) -> None:
    if op_type in _WHOLE:
        call.require_arithmetic()
    else:
        call.require_floats()


def _binary(op_type: str) -> Converter:
    def convert(call: Call) -> None:
        _require(call, op_type)
        call.emit(op_type, [call.input(0), call.input(1)], output=call.output())

    convert.__doc__ = f"``{op_type}`` of two tensors, broadcast as in NumPy."
    return convert


def _scalar(op_type: str, scalar_first: bool) -> Converter:
    def convert(call: Call) -> None:
        _require(call, op_type)
        operands = [call.input(), scalar(call)]
        call.emit(op_type, operands[::-1] if scalar_first else operands, output=call.output())

    convert.__doc__ = f"``{op_type}`` of a tensor and a scalar."
    return convert


def _unary(op_type: str) -> Converter:
    def convert(call: Call) -> None:
        _require(call, op_type)
        call.emit(op_type, [call.input()], output=call.output())

    convert.__doc__ = f"``{op_type}``."
    return convert


def scalar_value(call: Call, key: str, default: float | None = None) -> float:
    """A number as the input's dtype in MXNet holds it; integers are cut as in C."""
    value, dtype = call.number(key, default), call.dtype()
    if dtype.kind in "iu":
        info = np.iinfo(dtype)
        fits = isfinite(value) and info.min <= int(value) <= info.max
        call.require(fits, f"{key}={value} is no {dtype}")
        return int(value)
    fits = abs(value) <= _FLOAT_MAX or not isfinite(value)
    call.require(fits, f"{key}={value} is not a float32")
    with np.errstate(over="ignore"):
        return float(np.float16(value)) if call.half else value


def scalar(call: Call, key: str = "scalar", default: float | None = None) -> str:
    """Name of a constant of the input's dtype."""
    return call.constant(scalar_value(call, key, default), call.dtype())


for _op_type, _names in _BINARY.items():
    converter(*_names, outputs=1)(_binary(_op_type))
for _names, (_op_type, _first) in _SCALAR.items():
    converter(*_names, outputs=1)(_scalar(_op_type, _first))
for _name, _op_type in _UNARY.items():
    converter(_name, outputs=1)(_unary(_op_type))


@converter("add_n", "ElementWiseSum", outputs=1)
def add_n(call: Call) -> None:
    """``Sum`` of any number of tensors of one shape; ``Add`` of two, and of integers."""
    call.require_arithmetic()
    names = [call.input(i) for i in range(len(call.inputs))]
    while call.dtype() not in FLOATS and len(names) > 2:
        names[:2] = [call.emit("Add", names[:2])]
    op_type = {1: "Identity", 2: "Add"}.get(len(names), "Sum")
    call.emit(op_type, names, output=call.output())


@converter("clip", outputs=1)
def clip(call: Call) -> None:
    """``Clip`` with constant bounds; ``Max`` and ``Min`` of integers, which TensorRT clips not."""
    call.require_arithmetic()
    low, high = (scalar(call, key) for key in ("a_min", "a_max"))
    call.require(call.number("a_min") <= call.number("a_max"), "a_min is above a_max")
    if call.dtype() in FLOATS:
        call.emit("Clip", [call.input(), low, high], output=call.output())
    else:
        call.emit("Min", [call.emit("Max", [call.input(), low]), high], output=call.output())


@converter(
    "_copy",
    "identity",
    "_np_copy",
    "BlockGrad",
    "stop_gradient",
    "_contrib_gradientmultiplier",
    "_identity_with_attr_like_rhs",
    moves_data_only=True,
    outputs=1,
)
def identity(call: Call) -> None:
    """``Identity``: gradients do not matter at inference."""
    call.require_numbers()
    call.emit("Identity", [call.input()], output=call.output())


@converter("square", outputs=1)
def square(call: Call) -> None:
    """``Mul`` of the tensor with itself."""
    call.require_arithmetic()
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
    call.emit("Mul", [call.emit("Sign", [call.input()]), _root(call)], output=call.output())


@converter("rcbrt", outputs=1)
def rcbrt(call: Call) -> None:
    """The reciprocal of the cube root, infinite for zeros: of the sign that 1 / x has."""
    call.require_floats()
    inverse = call.emit("Reciprocal", [_root(call)])
    sign = call.emit("Reciprocal", [call.input()])
    negative = call.emit("Less", [sign, call.constant(0)])
    operands = [negative, call.emit("Neg", [inverse]), inverse]
    call.emit("Where", operands, output=call.output())


def _root(call: Call) -> str:
    """The cube root of the absolute value."""
    return call.emit("Pow", [call.emit("Abs", [call.input()]), call.constant(1 / 3)])


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


# -- what ONNX does not have ------------------------------------------------------------------


@converter(*_ANGLES, outputs=1)
def angle(call: Call) -> None:
    """``Mul`` by 180 / pi, or by pi / 180."""
    call.require_floats()
    factor = call.constant(_ANGLES[call.node.op])
    call.emit("Mul", [call.input(), factor], output=call.output())


@converter("expm1", outputs=1)
def expm1(call: Call) -> None:
    """exp(x) - 1; where x is small its Taylor polynomial of degree 8, which cancels nothing."""
    call.require_floats()
    data = call.input()
    plain = call.emit("Sub", [call.emit("Exp", [data]), call.constant(1)])
    factor = call.constant(1 / factorial(8))
    for degree in range(7, 0, -1):
        term = call.constant(1 / factorial(degree))
        factor = call.emit("Add", [call.emit("Mul", [factor, data]), term])
    small = call.emit("Less", [call.emit("Abs", [data]), call.constant(0.5)])
    precise = call.emit("Mul", [factor, data])
    call.emit("Where", [small, precise, plain], output=call.output())


@converter("log1p", outputs=1)
def log1p(call: Call) -> None:
    """log(1 + x); where x is small 2 * atanh(x / (2 + x)), which rounds no sum with one."""
    call.require_floats()
    data = call.input()
    plain = call.emit("Log", [call.emit("Add", [data, call.constant(1)])])
    ratio = call.emit("Div", [data, call.emit("Add", [data, call.constant(2)])])
    precise = call.emit("Mul", [call.emit("Atanh", [ratio]), call.constant(2)])
    small = call.emit("Less", [call.emit("Abs", [data]), call.constant(0.5)])
    call.emit("Where", [small, precise, plain], output=call.output())


@converter("_mod", "_Mod", "broadcast_mod", "_npi_mod", outputs=1)
def mod(call: Call) -> None:
    """``Mod`` with the divisor's sign; zero for a divisor of zero (``mshadow_op.h``)."""
    _mod(call, call.input(0), call.input(1))


@converter("_mod_scalar", "_ModScalar", "_npi_mod_scalar", outputs=1)
def mod_scalar(call: Call) -> None:
    """``Mod`` by a scalar."""
    _mod(call, call.input(), scalar(call))


@converter("_rmod_scalar", "_RModScalar", "_npi_rmod_scalar", outputs=1)
def rmod_scalar(call: Call) -> None:
    """``Mod`` of a scalar."""
    _mod(call, scalar(call), call.input())


def _mod(call: Call, dividend: str, divisor: str) -> None:
    call.require_arithmetic()
    zero = call.constant(0, call.dtype())
    undivided = call.emit("Equal", [divisor, zero])
    if call.dtype() not in FLOATS:
        # Of integers, ONNX's remainder has the divisor's sign.  Division by zero would trap.
        divisor = call.emit("Where", [undivided, call.constant(1, call.dtype()), divisor])
        call.emit("Mod", [dividend, divisor], output=call.output())
        return
    rest = call.emit("Mod", [dividend, divisor], fmod=1)
    signs = call.emit("Mul", [call.emit("Sign", [rest]), call.emit("Sign", [divisor])])
    wrong = call.emit("Less", [signs, zero])
    rest = call.emit("Where", [wrong, call.emit("Add", [rest, divisor]), rest])
    call.emit("Where", [undivided, zero, rest], output=call.output())


@converter("_hypot", "_Hypot", "broadcast_hypot", "_npi_hypot", outputs=1)
def hypot(call: Call) -> None:
    """The larger times sqrt(1 + ratio ** 2), which does not overflow."""
    _hypot(call, call.input(1))


@converter("_hypot_scalar", "_HypotScalar", "_npi_hypot_scalar", outputs=1)
def hypot_scalar(call: Call) -> None:
    """:func:`hypot` of a tensor and a scalar."""
    _hypot(call, scalar(call))


def _hypot(call: Call, other: str) -> None:
    call.require_floats()
    sizes = [call.emit("Abs", [name]) for name in (call.input(), other)]
    larger = call.emit("Max", sizes)
    ratio = call.emit("Div", [call.emit("Min", sizes), larger])
    more = call.emit("Add", [call.emit("Mul", [ratio, ratio]), call.constant(1)])
    length = call.emit("Mul", [larger, call.emit("Sqrt", [more])])
    # Both are zero, or both are infinite.
    equal = call.emit("IsNaN", [ratio])
    call.emit("Where", [equal, larger, length], output=call.output())


@converter("smooth_l1", "_npx_smooth_l1", outputs=1)
def smooth_l1(call: Call) -> None:
    """Half of (scalar * x) ** 2 where abs(x) <= 1 / scalar ** 2, and a line of slope 1 beyond."""
    call.require_floats()
    squared = call.number("scalar", 1) ** 2
    call.require(0 < squared < _FLOAT_MAX, f"scalar={call.number('scalar', 1)}")
    bound = float(1 / np.float32(squared))
    size = call.emit("Abs", [call.input()])
    line = call.emit("Sub", [size, call.constant(0.5 * bound)])
    square = call.emit("Mul", [call.input(), call.input()])
    parabola = call.emit("Mul", [square, call.constant(0.5 * squared)])
    far = call.emit("Greater", [size, call.constant(bound)])
    call.emit("Where", [far, line, parabola], output=call.output())


@converter("_contrib_quadratic", outputs=1)
def quadratic(call: Call) -> None:
    """The polynomial x * (a * x + b) + c."""
    call.require_floats()
    data = call.input()
    a, b, c = (scalar(call, key, 0.0) for key in "abc")
    line = call.emit("Add", [call.emit("Mul", [data, a]), b])
    call.emit("Add", [call.emit("Mul", [data, line]), c], output=call.output())
