"""Reductions compute what MXNet computes."""

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
    to_onnx,
)


@pytest.mark.parametrize("op", ["sum", "mean", "max", "min", "prod", "nansum", "nanprod"])
def test_reductions_agree_over_their_attributes(op: str) -> None:
    """Any axes from either end, none, or all but those given; kept or dropped."""

    @SWEEP
    @given(
        shape=st.lists(st.integers(1, 4), min_size=1, max_size=4),
        picked=st.one_of(st.none(), st.sets(st.integers(0, 3), max_size=4)),
        negative=st.booleans(),
        keepdims=st.booleans(),
        exclude=st.booleans(),
    )
    def sweep(
        shape: list[int], picked: set[int] | None, negative: bool, keepdims: bool, exclude: bool
    ) -> None:
        attrs: dict[str, Any] = {"keepdims": keepdims}
        if picked is not None:
            axes = sorted({axis % len(shape) for axis in picked})
            attrs["exclude"] = exclude
            attrs["axis"] = tuple(axis - len(shape) if negative else axis for axis in axes)
        check_op(op, shape, **attrs)

    sweep()


def test_a_single_axis_may_be_a_plain_number() -> None:
    """axis=1 as gluon writes it."""
    check_op("mean", (2, 3, 4), axis=1)
    check_op("sum", (2, 3, 4), axis=-1, keepdims=True)


@pytest.mark.parametrize("op", ["sum", "nanprod"])
def test_excluding_every_axis_reduces_none(op: str) -> None:
    """And excluding none, because none is given, reduces all."""
    check_op(op, (2, 3), axis=(0, 1), exclude=True)
    assert check_op(op, (2, 3), exclude=True).model.graph.output[0].name


def test_an_axis_beyond_the_rank_is_refused() -> None:
    """MXNet refuses it too."""
    assert "on rank 2" in refusal("sum", (2, 3), axis=2)


@pytest.mark.parametrize("op", ["sum", "max", "min", "cumsum"])
def test_reductions_of_integers_agree(op: str) -> None:
    """Where float32 would round them."""
    x = np.int32([[2**30 + 1, 2**24 + 1, 5], [2**28 + 1, 2**30 + 3, -7]])
    check(symbol(op, mx.sym.var("x"), axis=1), {"x": x}, tolerance=0)


@pytest.mark.parametrize("op", ["max", "min", "cumsum"])
def test_reductions_of_long_integers_agree(op: str) -> None:
    """Where float64 would round them."""
    x = np.int64([[2**60 + 1, 1, 2], [2**54 + 1, -1, 1]])
    (theirs,) = run_mxnet(sym := symbol(op, mx.sym.var("x"), axis=1), {"x": x})
    assert np.array_equal(run_onnx(to_onnx(sym, {"x": x}))[0], theirs)


def test_reductions_that_round_integers_stay() -> None:
    """MXNet cuts a mean; ONNX Runtime computes the others in float64."""
    assert "dtype int32" in refusal("mean", (2, 3), out=(1,), dtype=np.int32)
    assert "dtype int32" in refusal("prod", (2, 3), out=(1,), dtype=np.int32)
    assert "sums of int64" in refusal("sum", (2, 3), out=(1,), dtype=np.int64)


@pytest.mark.parametrize("op", ["nansum", "nanprod"])
def test_nan_is_left_out(op: str) -> None:
    """A row of nothing else gives zero or one."""
    x = np.float32([[1, np.nan, 3], [np.nan, np.nan, np.nan]])
    check(symbol(op, mx.sym.var("x"), axis=1), {"x": x})


@pytest.mark.parametrize("op", ["max", "min", "max_axis", "min_axis", "_np_max", "_np_amin"])
@pytest.mark.parametrize("axis", [None, 0, 1, (0, 1)])
def test_the_largest_and_the_smallest_are_nan_where_an_element_is(op: str, axis: Any) -> None:
    """Wherever it is, beside infinities too; rows without one are what they were."""
    for size in (1, 2, 9, 33):
        for place in {0, size // 2, size - 1}:
            x = data(size, 4, size, 2)
            x[0, place, 1] = np.nan
            x[1, 0] = -np.inf
            x[1, -1] = np.inf
            x[2] = -np.inf
            sym = symbol(
                op, mx.sym.var("x"), keepdims=True, **({} if axis is None else {"axis": axis})
            )
            check(sym, {"x": x}, tolerance=0)


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("axis", [None, 1, -1, (0, 2), ()])
def test_norms_agree(order: int, axis: Any) -> None:
    """Of all elements, of rows, and of matrices: always of their elements."""
    check_op("norm", (2, 3, 4), axis=axis, ord=order)
    check_op("norm", (2, 3, 4), axis=axis, ord=order, keepdims=True)


def test_a_norm_of_another_order_or_dtype_is_refused() -> None:
    """MXNet has no other order, and casts on the way."""
    assert refusal("norm", (2, 3), out=(1,), ord=3) == "ord=3 is neither 1 nor 2"


@pytest.mark.parametrize("keep", [False, True])
def test_moments_agree(keep: bool) -> None:
    """Mean and variance, far from zero too: the values are centred first."""
    sym = symbol("moments", mx.sym.var("x"), axes=(0, 2), keepdims=keep)
    check(sym, {"x": data(0, 2, 3, 4) + np.float32(1000)}, tolerance=1e-4)


def test_running_sums_agree() -> None:
    """Along an axis, and over all elements."""
    check_op("cumsum", (2, 3, 4), axis=1)
    assert check_op("cumsum", (2, 3, 4)).ops == ["Reshape", "CumSum"]


def test_running_sums_along_a_negative_axis_are_refused() -> None:
    """MXNet takes it as it is, and reads sizes from where no shape is."""
    assert refusal("cumsum", (2, 3), axis=-1) == "axis=-1 on rank 2"
