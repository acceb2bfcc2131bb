"""Casts give what MXNet's casts give."""

from __future__ import annotations

import numpy as np
import pytest
from support.converters import check, mx, refusal, symbol

NUMBERS = ["float32", "int32", "int64", "uint8", "int8"]


@pytest.mark.parametrize("target", NUMBERS)
@pytest.mark.parametrize("source", NUMBERS)
def test_casts_agree_on_what_both_dtypes_hold(source: str, target: str) -> None:
    """Towards zero."""
    x = np.array([0.0, 0.5, 1.9, 2.5, 100.99]).astype(source)
    (node,) = check(symbol("Cast", mx.sym.var("x"), dtype=target), {"x": x}, tolerance=0).ops
    assert node == "Cast"


def test_negative_numbers_are_cut_towards_zero() -> None:
    """-1.9 becomes -1."""
    x = np.float32([-0.5, -1.9, -2.5, -100.99])
    for dtype in ("int8", "int32", "int64"):
        check(symbol("cast", mx.sym.var("x"), dtype=dtype), {"x": x}, tolerance=0)


@pytest.mark.parametrize("dtype", ["float16", "float64", "bool"])
def test_other_dtypes_stay(dtype: str) -> None:
    """On either side."""
    assert f"dtype {dtype} is not" in refusal("Cast", (2,), dtype=dtype, **{"to": "float32"})


@pytest.mark.parametrize("dtype", ["float32", "int32", "uint8", "int8"])
def test_amp_casts_that_cast_nothing_agree(dtype: str) -> None:
    """Only float32 is ever cast."""
    x = np.array([[0, 1, 2]]).astype(dtype)
    check(symbol("amp_cast", mx.sym.var("x"), dtype="float32"), {"x": x}, tolerance=0)
    pair = symbol("amp_multicast", mx.sym.var("x"), mx.sym.var("y"), num_outputs=2)
    check(pair, {"x": x, "y": np.float32([1.5])}, ("x", "y"), tolerance=0)
