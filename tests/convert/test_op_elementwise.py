"""Elementwise arithmetic computes what MXNet computes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.converters import (
    SWEEP,
    check,
    check_op,
    data,
    mx,
    refusal,
    run_mxnet,
    run_onnx,
    symbol,
)

BINARY = ["elemwise_add", "elemwise_sub", "elemwise_mul", "elemwise_div", "_grad_add"]
BINARY += ["_maximum", "_minimum"]
BROADCAST = ["add", "sub", "mul", "div", "maximum", "minimum"]


@pytest.mark.parametrize("op", BINARY)
def test_operators_of_two_tensors_agree(op: str) -> None:
    """Equal shapes."""
    check_op(op, (2, 3, 4), (2, 3, 4))


@pytest.mark.parametrize("op", BROADCAST)
def test_broadcasting_agrees(op: str) -> None:
    """Any pattern of axes of length one on either side."""

    @SWEEP
    @given(st.lists(st.tuples(st.integers(1, 4), st.integers(0, 2)), min_size=1, max_size=4))
    def sweep(axes: list[tuple[int, int]]) -> None:
        left = [1 if side == 1 else size for size, side in axes]
        right = [1 if side == 2 else size for size, side in axes]
        check_op(f"broadcast_{op}", left, right)

    sweep()


def test_broadcasting_over_unequal_ranks_agrees() -> None:
    """Aligned at the last axis."""
    check_op("broadcast_add", (2, 3, 4), (3, 1))
    check_op("broadcast_mul", (4,), (2, 3, 4))


@pytest.mark.parametrize("op", ["_power", "broadcast_power"])
def test_powers_agree(op: str) -> None:
    """Positive bases, and negative ones that have no real power."""
    sym = symbol(op, mx.sym.var("x"), mx.sym.var("y"))
    x, y = data(0, 3, 4, low=0.1), data(1, 3, 4)
    check(sym, {"x": x, "y": y}, ("x", "y"))
    check(sym, {"x": -x, "y": np.round(y)}, ("x", "y"))
    check(sym, {"x": -x, "y": y}, ("x", "y"))


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_add_n_agrees(count: int) -> None:
    """Any number of tensors."""
    check_op("add_n", *[(2, 3)] * count, num_args=count)


@pytest.mark.parametrize("scalar", [2.0, -0.5, 1.0, 3.0, 0.1])
@pytest.mark.parametrize(
    "op", ["plus", "minus", "rminus", "mul", "div", "rdiv", "maximum", "minimum"]
)
def test_operators_with_a_scalar_agree(op: str, scalar: float) -> None:
    """The scalar on the right, or on the left where the name starts with r."""
    check_op(f"_{op}_scalar", (3, 4), scalar=scalar)


@pytest.mark.parametrize("scalar", [2.0, 0.5, -1.5, 3.0])
@pytest.mark.parametrize("op", ["_power_scalar", "_rpower_scalar"])
def test_powers_with_a_scalar_agree(op: str, scalar: float) -> None:
    """Positive bases."""
    sym = symbol(op, mx.sym.var("x"), scalar=abs(scalar) if op[1] == "r" else scalar)
    check(sym, {"x": data(0, 3, 4, low=0.1)})


def test_a_scalar_that_float32_cannot_hold_is_refused() -> None:
    """MXNet's scalars are double."""
    assert "not a float32" in refusal("_plus_scalar", (2,), scalar=1e300)
    assert "not a number" in refusal("_plus_scalar", (2,), scalar="many")
    assert "missing" in refusal("_plus_scalar", (2,))


@pytest.mark.parametrize(
    ("op", "low", "high"),
    [
        ("abs", -2, 2),
        ("arccos", -1, 1),
        ("arccosh", 1, 4),
        ("arcsin", -1, 1),
        ("arcsinh", -4, 4),
        ("arctan", -4, 4),
        ("arctanh", -0.9, 0.9),
        ("cbrt", -4, 4),
        ("ceil", -4, 4),
        ("cos", -4, 4),
        ("cosh", -3, 3),
        ("degrees", -4, 4),
        ("erf", -3, 3),
        ("exp", -3, 3),
        ("fix", -4, 4),
        ("floor", -4, 4),
        ("log", 0.01, 9),
        ("log10", 0.01, 9),
        ("log2", 0.01, 9),
        ("negative", -2, 2),
        ("radians", -400, 400),
        ("rcbrt", 0.1, 4),
        ("reciprocal", 0.1, 3),
        ("rint", -4, 4),
        ("rsqrt", 0.1, 9),
        ("sign", -2, 2),
        ("sin", -4, 4),
        ("sinh", -3, 3),
        ("sqrt", 0, 9),
        ("square", -3, 3),
        ("tan", -1.4, 1.4),
        ("tanh", -4, 4),
        ("trunc", -4, 4),
    ],
)
def test_functions_agree(op: str, low: float, high: float) -> None:
    """Over the range where the function is defined."""
    check(symbol(op, mx.sym.var("x")), {"x": data(0, 50, low=low, high=high)})


@pytest.mark.parametrize("op", ["rint", "fix", "trunc", "sign", "floor", "ceil"])
def test_rounding_agrees_on_halves_and_integers(op: str) -> None:
    """MXNet's rint takes halves down where ONNX's Round takes them to even."""
    x = np.arange(-4, 4.25, 0.25).astype(np.float32)
    check(symbol(op, mx.sym.var("x")), {"x": x}, tolerance=0)


def test_rint_takes_halves_down() -> None:
    """The trap that keeps rint from being ONNX's Round."""
    x = np.float32([0.5, 1.5, 2.5, -0.5, -1.5])
    (y,) = run_mxnet(symbol("rint", mx.sym.var("x")), {"x": x})
    assert y.tolist() == [0, 1, 2, -1, -2]


@pytest.mark.parametrize("dtype", ["float32", "int32", "int64"])
def test_remainders_have_the_divisors_sign(dtype: str) -> None:
    """As in Python; by zero it is zero."""
    x, y = np.meshgrid(np.arange(-7, 8), [3, -3, 1, -1, 4, 0])
    one, both = {"x": x.astype(dtype)}, {"x": x.astype(dtype), "y": y.astype(dtype)}
    pair = symbol("broadcast_mod", mx.sym.var("x"), mx.sym.var("y"))
    check(pair, both, ("x", "y"), tolerance=0)
    for scalar in (3, -3, 0):
        check(symbol("_mod_scalar", mx.sym.var("x"), scalar=scalar), one, tolerance=0)
        check(symbol("_rmod_scalar", mx.sym.var("x"), scalar=scalar), one, tolerance=0)


def test_remainders_of_fractions_and_infinities_agree() -> None:
    """A zero divisor wins over NaN."""
    x = np.float32([5.5, -5.5, 5.5, -5.5, 1, -1, np.inf, np.nan, np.nan])
    y = np.float32([2, 2, -2, -2, np.inf, np.inf, 2, 0, 2])
    check(symbol("_mod", mx.sym.var("x"), mx.sym.var("y")), {"x": x, "y": y}, ("x", "y"))


@pytest.mark.parametrize("dtype", ["int32", "int64"])
@pytest.mark.parametrize("op", ["plus", "minus", "rminus", "mul", "maximum", "minimum"])
def test_integers_take_a_scalar_cut_to_an_integer(op: str, dtype: str) -> None:
    """2.5 becomes 2, and sums wrap."""
    x = np.array([2**31 - 1, -5, 0, 7]).astype(dtype)
    sym = symbol(f"_{op}_scalar", mx.sym.var("x"), scalar=2.5)
    check(sym, {"x": x}, tolerance=0)


def test_an_integer_and_a_scalar_that_is_none_are_left_to_mxnet() -> None:
    """With is_int=False they make float64; integer quotients are cut."""
    assert "dtype int32" in refusal("_div_scalar", (2,), dtype=np.int32, scalar=2)
    assert "dtype uint8" in refusal("_plus_scalar", (2,), dtype=np.uint8, scalar=2)


@pytest.mark.parametrize("op", ["expm1", "log1p"])
def test_functions_that_cancel_near_zero_do_not(op: str) -> None:
    """To a few units in the last place, where exp(x) - 1 has no correct digit."""
    x = np.float32(np.concatenate([-np.logspace(-30, -0.1, 60), np.logspace(-30, 1, 60)]))
    sym = symbol(op, mx.sym.var("x"))
    (plain,), ours = run_mxnet(sym, {"x": x}), check(sym, {"x": x})
    np.testing.assert_allclose(run_onnx(ours)[0], plain, rtol=1e-6)
    check(sym, {"x": np.float32([-0.0, -1, -2, -3, 80, 3e38, np.inf, np.nan])})


def test_hypotenuses_do_not_overflow() -> None:
    """Nor are they NaN at zeros and infinities."""
    x, y = np.float32([3e38, 1e-30, 0, np.inf, np.inf]), np.float32([1e38, 1e-30, 0, np.inf, 1])
    sym = symbol("broadcast_hypot", mx.sym.var("x"), mx.sym.var("y"))
    check(sym, {"x": x, "y": y}, ("x", "y"))


@pytest.mark.parametrize("scalar", [None, 0.5, 2, -3])
def test_smooth_l1_agrees(scalar: float | None) -> None:
    """On both sides of its bounds."""
    attrs = {} if scalar is None else {"scalar": scalar}
    x = np.linspace(-6, 6, 101).astype(np.float32)
    check(symbol("smooth_l1", mx.sym.var("x"), **attrs), {"x": x})


def test_rcbrt_of_zeros_is_infinite() -> None:
    """Of their sign."""
    x = np.float32([0.0, -0.0, 8, -8])
    check(symbol("rcbrt", mx.sym.var("x")), {"x": x})


@pytest.mark.parametrize("attrs", [{}, {"a": 2, "b": -1.5, "c": 0.25}])
def test_quadratics_agree(attrs: dict[str, float]) -> None:
    """Every coefficient is zero unless given."""
    check_op("_contrib_quadratic", (3, 4), **attrs)


@pytest.mark.parametrize(("low", "high"), [(0, 6), (-1, 1), (-0.5, 0.25)])
def test_clip_agrees(low: float, high: float) -> None:
    """ReLU6 and others."""
    assert check_op("clip", (3, 4, 5), a_min=low, a_max=high).ops == ["Clip"]


def test_clip_with_crossed_bounds_is_refused() -> None:
    """MXNet and ONNX give different bounds the last word."""
    assert "above" in refusal("clip", (2,), a_min=1, a_max=0)


@pytest.mark.parametrize("op", ["_copy", "BlockGrad"])
def test_identities_agree(op: str) -> None:
    """An Identity, which runtimes remove."""
    assert check_op(op, (2, 3)).ops == ["Identity"]


@pytest.mark.parametrize("op", ["round", "gamma", "no_such_operator"])
def test_an_operator_without_converter_says_so(op: str) -> None:
    """MXNet's round, halves away from zero, has no exact form in ONNX."""
    assert refusal(op, (2,)) == f"no converter for operator {op}"


@pytest.mark.parametrize("shape", [(2, 0), (0,)])
def test_an_empty_tensor_is_refused(shape: tuple[int, ...]) -> None:
    """Engines do not take them."""
    attrs: dict[str, Any] = {}
    assert refusal("exp", shape, **attrs) == "a tensor of size zero"
