"""Elementwise arithmetic: of two tensors, of a tensor and a scalar, and functions of one."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from hypothesis import strategies as st

from mxtrt_fuzz.graphs import Shape
from mxtrt_fuzz.specs.base import (
    ARITHMETIC,
    FLOATS,
    INTEGERS,
    Application,
    Attributes,
    Draw,
    Operand,
    OpSpec,
    like,
    maybe,
    register,
)
from mxtrt_fuzz.values import Array

__all__ = ["broadcast", "equal_shapes", "erf", "of_arrays", "with_scalar"]

_erf: Callable[[Array], Any] = np.vectorize(math.erf, otypes=[np.float64])


def erf(x: Array) -> Array:
    """The error function in float64, in the dtype of its argument."""
    values: Array = _erf(x)
    return values.astype(x.dtype)


def _mod(x: Array, y: Any) -> Array:
    """The remainder with the divisor's sign, zero for a divisor of zero (``mshadow_op.h``)."""
    zero = np.equal(y, 0)
    rest: Array = np.where(zero, 0, np.mod(x, np.where(zero, 1, y)))
    return rest.astype(np.asarray(x).dtype)


def _quotient(x: Array, y: Any) -> Array:
    """How often :func:`_mod` takes the divisor away: it jumps from one number to the next."""
    zero = np.equal(y, 0)
    return np.where(zero, 0, np.floor(x / np.where(zero, 1, y)))


def _rint(x: Array) -> Array:
    """To the nearest integer, halves down (``mshadow_op.h``)."""
    low, high = np.floor(x), np.ceil(x)
    return np.where(x - low <= high - x, low, high)


# -- two tensors -----------------------------------------------------------------------------

_BINARY: tuple[tuple[str, str, Callable[..., Array]], ...] = (
    (
        "elemwise_add _plus _Plus _add _grad_add",
        "broadcast_add broadcast_plus",
        np.add,
    ),
    ("elemwise_sub _minus _Minus _sub", "broadcast_sub broadcast_minus", np.subtract),
    ("elemwise_mul _mul _Mul", "broadcast_mul", np.multiply),
    ("elemwise_div _div _Div _scatter_elemwise_div", "broadcast_div", np.divide),
    ("_maximum _Maximum", "broadcast_maximum _npi_maximum", np.maximum),
    ("_minimum _Minimum", "broadcast_minimum _npi_minimum", np.minimum),
    ("_power _Power", "broadcast_power", np.power),
    ("_mod _Mod", "broadcast_mod", _mod),
    ("_hypot _Hypot", "broadcast_hypot", np.hypot),
)

_OF_FLOATS = (np.divide, np.power, np.hypot)


def equal_shapes(low: float) -> Callable[[Draw, Shape], Application]:
    """Another tensor of the same shape, its values no smaller than ``low``."""
    return lambda draw, shape: Application({}, (Operand(shape, low=low),))


def broadcast(low: float) -> Callable[[Draw, Shape], Application]:
    """Another tensor that broadcasts with the first, its values no smaller than ``low``."""

    def apply(draw: Draw, shape: Shape) -> Application:
        ones = draw(st.lists(st.booleans(), min_size=len(shape), max_size=len(shape)))
        other = tuple(1 if one else size for one, size in zip(ones, shape, strict=True))
        other = other[draw(st.integers(0, len(shape) - 1)) :]  # a lower rank, aligned at the end
        if draw(st.booleans()):
            # The other tensor is the larger one where this one has ones.
            tail = shape[len(shape) - len(other) :]
            more = draw(st.integers(2, 3))
            other = tuple(more if n == 1 else o for n, o in zip(tail, other, strict=True))

        def fits(candidate: Shape) -> bool:
            pairs = zip(candidate[::-1], shape[::-1], strict=False)
            return all(a == b or 1 in (a, b) for a, b in pairs)

        return Application({}, (Operand(other, low=low, fits=fits),))

    return apply


def equal_to_a_weight(draw: Draw, shape: Shape) -> Application:
    """A weight of the same shape."""
    return Application({}, (Operand(shape, role="weight"),))


def of_arrays(function: Callable[..., Array]) -> Callable[..., Array]:
    """A function of arrays as a reference."""
    return lambda attrs, *arrays: function(*arrays)


for _equal, _wide, _function in _BINARY:
    _divides, _power = _function is np.divide, _function is np.power
    _extremum = _function in (np.maximum, np.minimum)
    _low = 0.3 if _divides else -2.0
    for _names, _apply in ((_equal, equal_shapes(_low)), (_wide, broadcast(_low))):
        register(
            *(
                OpSpec(
                    _name,
                    # MXNet lets the operator before it add to its first input in place, whether
                    # that operator can (BatchNorm does not): no operator is before a weight.
                    equal_to_a_weight if _name == "_grad_add" else _apply,
                    of_arrays(_function),
                    domain=(0.1, 3.0) if _power else None,
                    dtypes=FLOATS if _function in _OF_FLOATS else ARITHMETIC,
                    roundings=4.0 if _power else float(not _extremum),
                    on_inputs=_function is not _mod,
                    piece=of_arrays(_quotient) if _function is _mod else None,
                    nan_blind=_extremum or _power or _function is np.hypot,
                    hybrid=_name not in ("_grad_add", "_scatter_elemwise_div"),
                )
                for _name in _names.split()
            )
        )


# -- a tensor and a scalar -------------------------------------------------------------------


def _exchanged(function: Callable[[Array, Any], Array]) -> Callable[[Array, Any], Array]:
    """A function of a scalar and an array."""
    return lambda x, s: function(np.full_like(x, s), x)


_SCALAR: tuple[tuple[str, Callable[[Array, float], Array]], ...] = (
    ("_plus_scalar _PlusScalar _scatter_plus_scalar", lambda x, s: x + s),
    ("_minus_scalar _MinusScalar _scatter_minus_scalar", lambda x, s: x - s),
    ("_rminus_scalar _RMinusScalar", lambda x, s: s - x),
    ("_mul_scalar _MulScalar", lambda x, s: x * s),
    ("_div_scalar _DivScalar", lambda x, s: x / s),
    ("_rdiv_scalar _RDivScalar", lambda x, s: s / x),
    ("_maximum_scalar _MaximumScalar _npi_maximum_scalar", np.maximum),
    ("_minimum_scalar _MinimumScalar _npi_minimum_scalar", np.minimum),
    ("_mod_scalar _ModScalar", _mod),
    ("_rmod_scalar _RModScalar", _exchanged(_mod)),
    ("_hypot_scalar _HypotScalar _npi_hypot_scalar", np.hypot),
    ("_power_scalar _PowerScalar", np.power),
    ("_rpower_scalar _RPowerScalar", lambda x, s: np.power(s, x)),
)

_PIECES = {"_mod_scalar": _quotient, "_rmod_scalar": _exchanged(_quotient)}

#: Numbers that float32 and float64 both hold: MXNet rounds a scalar to the tensor's dtype.
_NUMBERS = st.one_of(
    st.sampled_from([2.0, 0.5, -1.0, 1.0, 3.0, 0.125]),
    # Not the very smallest: MXNet's parser of numbers makes a subnormal of them.
    st.floats(-4, 4, width=32, allow_subnormal=False).filter(lambda x: not 0 < abs(x) < 1e-30),
)


def _scalars(numbers: st.SearchStrategy[float]) -> Callable[[Draw, Shape], Application]:
    return lambda draw, shape: Application({"scalar": draw(numbers)})


def with_scalar(function: Callable[[Array, Any], Array]) -> Callable[..., Array]:
    """A function of an array and a scalar as a reference."""

    def reference(attrs: Attributes, x: Array) -> Array:
        scalar = attrs.scalar()
        if x.dtype.kind in "iu" and not math.isfinite(scalar):
            return np.full(x.shape, np.nan)  # undefined
        return function(x, x.dtype.type(scalar))

    return reference


for _names, _binary in _SCALAR:
    _is_power = "ower" in _names
    _piece = _PIECES.get(_names.split()[0])
    _of_floats = _is_power or "div" in _names or "hypot" in _names
    _numbers: st.SearchStrategy[float] = _NUMBERS
    if _names.startswith("_rpower"):
        _numbers = st.sampled_from([2.0, 0.5, 1.5, 3.0])
    elif _is_power:
        _numbers = st.sampled_from([2.0, 0.5, -1.5, 3.0, 1.0, 0.0, -1.0])
    elif _names.startswith("_div"):
        _numbers = _NUMBERS.filter(lambda value: abs(value) > 1e-3)
    register(
        *(
            OpSpec(
                _name,
                _scalars(_numbers),
                with_scalar(_binary),
                domain=(0.1, 3.0) if _names.startswith("_power") else None,
                roundings=4.0 if _is_power else float("imum" not in _names),
                on_inputs="mod" not in _names,
                piece=with_scalar(_piece) if _piece else None,
                dtypes=FLOATS if _of_floats else ARITHMETIC,
                nan_blind=_is_power or "imum" in _names or "hypot" in _names,
                hybrid="_scatter" not in _name,
            )
            for _name in _names.split()
        )
    )


# -- one tensor ------------------------------------------------------------------------------

_PI = np.float32(np.pi)

#: Function, range where it is tame, whether it jumps, roundings (0: exact).
_UNARY: dict[str, tuple[Callable[[Array], Array], tuple[float, float] | None, bool, float]] = {
    "abs": (np.abs, None, False, 0),
    "arccos": (np.arccos, (-0.99, 0.99), False, 2),
    "arccosh": (np.arccosh, (1.01, 4), False, 2),
    "arcsin": (np.arcsin, (-0.99, 0.99), False, 2),
    "arcsinh": (np.arcsinh, None, False, 2),
    "arctan": (np.arctan, None, False, 2),
    "arctanh": (np.arctanh, (-0.95, 0.95), False, 2),
    "cbrt": (np.cbrt, None, False, 4),
    "ceil": (np.ceil, None, True, 0),
    "cos": (np.cos, None, False, 2),
    "cosh": (np.cosh, None, False, 2),
    # MXNet's factors are of float32 whatever the dtype.
    "degrees": (lambda x: x * x.dtype.type(np.float32(180) / _PI), None, False, 2),
    "erf": (erf, None, False, 2),
    "exp": (np.exp, None, False, 2),
    "expm1": (np.expm1, None, False, 4),
    "fix": (np.trunc, None, True, 0),
    "floor": (np.floor, None, True, 0),
    "log": (np.log, (0.01, 9), False, 2),
    "log10": (np.log10, (0.01, 9), False, 2),
    "log1p": (np.log1p, (-0.95, 9), False, 4),
    "log2": (np.log2, (0.01, 9), False, 2),
    "negative": (np.negative, None, False, 0),
    "radians": (lambda x: x * x.dtype.type(_PI / np.float32(180)), None, False, 2),
    "rcbrt": (lambda x: 1 / np.cbrt(x), None, False, 4),
    "reciprocal": (np.reciprocal, None, False, 1),
    "rint": (_rint, None, True, 0),
    "rsqrt": (lambda x: 1 / np.sqrt(x), (0.1, 9), False, 2),
    "sign": (np.sign, None, True, 0),
    "sin": (np.sin, None, False, 2),
    "sinh": (np.sinh, None, False, 2),
    "sqrt": (np.sqrt, (0, 9), False, 1),
    "square": (np.square, None, False, 1),
    "tan": (np.tan, (-1.4, 1.4), False, 2),
    "trunc": (np.trunc, None, True, 0),
}

#: Absolute errors in roundoffs of one, as a standard deviation.  TensorRT 8.5 on an H100, inputs
#: to 20: sin and cos 40, tan 10.
_ABSOLUTE = {"erf": 1.0}
_COARSE = {"cos": 6.0, "sin": 6.0, "tan": 1.5}

for _name, (_unary, _domain, _jumps, _roundings) in _UNARY.items():
    register(
        OpSpec(
            _name,
            like,
            of_arrays(_unary),
            domain=_domain,
            dtypes=ARITHMETIC if _name in ("abs", "negative", "sign", "square") else FLOATS,
            jumps=_jumps,
            roundings=_roundings,
            absolute=_ABSOLUTE.get(_name, 0.0),
            coarse=_COARSE.get(_name, 0.0),
            nan_blind=_jumps,
        )
    )


# -- any number of tensors, bounds, identities -----------------------------------------------


def _add_n(draw: Draw, shape: Shape) -> Application:
    others = draw(st.integers(0, 3))
    return Application({"num_args": others + 1}, (Operand(shape),) * others)


#: Numbers of few digits: MXNet reads others as a float32 that is not always the nearest.
_SHORT = st.one_of(
    st.sampled_from([0.1, 0.3]), st.integers(-32, 32).map(lambda eighths: eighths / 8)
)


def _clip(draw: Draw, shape: Shape) -> Application:
    low, high = sorted(draw(st.tuples(_SHORT, _SHORT)))
    return Application({"a_min": low, "a_max": high})


def _smooth_l1(attrs: Attributes, x: Array) -> Array:
    squared = x.dtype.type(attrs.get("scalar", 1.0)) ** 2
    far = np.abs(x) > 1 / squared
    return np.where(far, np.abs(x) - 1 / (2 * squared), x**2 * squared / 2)


def _quadratic(attrs: Attributes, x: Array) -> Array:
    a, b, c = (x.dtype.type(attrs.get(key, 0.0)) for key in "abc")
    curve: Array = x * (a * x + b) + c
    return curve


register(
    *(
        OpSpec(
            name,
            lambda draw, shape: Application(maybe(draw, scalar=st.sampled_from([0.5, 2.0, 1.5]))),
            _smooth_l1,
            roundings=4,
        )
        for name in ("smooth_l1", "_npx_smooth_l1")
    ),
    OpSpec(
        "_contrib_quadratic",
        lambda draw, shape: Application(maybe(draw, a=_SHORT, b=_SHORT, c=_SHORT)),
        _quadratic,
        roundings=2,
        # Near a root the terms cancel.
        absolute=lambda attrs: 2 * sum(abs(attrs.get(key, 0.0)) for key in "abc"),
    ),
    OpSpec(
        "_identity_with_attr_like_rhs",
        equal_shapes(-2.0),
        lambda attrs, x, y: x,
        dtypes=FLOATS + INTEGERS,
        roundings=0,
        hybrid=False,
    ),
    OpSpec(
        "_contrib_gradientmultiplier",
        lambda draw, shape: Application({"scalar": 0.5}),
        lambda attrs, x: x,
        dtypes=FLOATS + INTEGERS,
        roundings=0,
        hybrid=False,
    ),
)

register(
    *(
        OpSpec(name, _add_n, lambda attrs, *arrays: sum(arrays[1:], arrays[0]), dtypes=ARITHMETIC)
        for name in ("add_n", "ElementWiseSum")
    ),
    OpSpec(
        "clip",
        _clip,
        lambda attrs, x: np.clip(
            x, *(x.dtype.type(np.float32(attrs[key])) for key in ("a_min", "a_max"))
        ),
        dtypes=ARITHMETIC,
        roundings=0,
        nan_blind=True,
    ),
    *(
        OpSpec(name, like, lambda attrs, x: x, dtypes=FLOATS + INTEGERS, roundings=0)
        for name in ("_copy", "identity", "_np_copy", "BlockGrad", "stop_gradient")
    ),
    *(OpSpec(name, like, lambda attrs, x: x, roundings=0) for name in ("MakeLoss", "make_loss")),
)
