"""Comparisons and logic give MXNet's ones and zeros."""

from __future__ import annotations

import numpy as np
import pytest
from support.converters import check, mx, refusal, symbol

WORDS = ["equal", "not_equal", "greater", "greater_equal", "lesser", "lesser_equal"]
WORDS += ["logical_and", "logical_or", "logical_xor"]
NUMBERS = ["float32", "int32", "int64", "uint8", "int8"]


@pytest.mark.parametrize("dtype", NUMBERS)
@pytest.mark.parametrize("word", WORDS)
def test_results_have_the_dtype_of_what_is_compared(word: str, dtype: str) -> None:
    """Of two tensors, broadcast, and of a tensor and a scalar."""
    x = np.arange(6).reshape(2, 3).astype(dtype)
    y = np.array([[1], [4]]).astype(dtype)
    pair = symbol(f"broadcast_{word}", mx.sym.var("x"), mx.sym.var("y"))
    check(pair, {"x": x, "y": y}, ("x", "y"), tolerance=0)
    check(symbol(f"_{word}_scalar", mx.sym.var("x"), scalar=3), {"x": x}, tolerance=0)


@pytest.mark.parametrize("word", WORDS)
def test_nan_compares_as_in_c(word: str) -> None:
    """It equals nothing, is neither greater nor less, and is true."""
    x = np.float32([np.nan, np.nan, 0, 1, np.inf, -0.0])
    y = np.float32([np.nan, 0, np.nan, 1, np.inf, 0.0])
    pair = symbol(f"_{word}", mx.sym.var("x"), mx.sym.var("y"))
    check(pair, {"x": x, "y": y}, ("x", "y"), tolerance=0)
    for scalar in ("nan", "inf", 0.0):
        check(symbol(f"_{word}_scalar", mx.sym.var("x"), scalar=scalar), {"x": x}, tolerance=0)


def test_a_scalar_is_cut_to_an_integer() -> None:
    """2 > 2.5 is false, 3 > 2.5 is true, and 2 >= 2.5 too, for 2.5 becomes 2."""
    x = np.int32([1, 2, 3, -2, -3])
    for scalar in (2.5, -2.5):
        sym = symbol("_greater_equal_scalar", mx.sym.var("x"), scalar=scalar)
        check(sym, {"x": x}, tolerance=0)


def test_a_scalar_that_no_integer_holds_is_refused() -> None:
    """What C++ makes of it is undefined."""
    assert refusal("_equal_scalar", (2,), dtype=np.uint8, scalar=-1) == "scalar=-1.0 is no uint8"
    assert "no int32" in refusal("_equal_scalar", (2,), dtype=np.int32, scalar="inf")


@pytest.mark.parametrize("dtype", NUMBERS)
def test_logical_not_agrees(dtype: str) -> None:
    """One for zeros."""
    x = np.array([0, 1, 2, 0]).astype(dtype)
    check(symbol("logical_not", mx.sym.var("x")), {"x": x}, tolerance=0)
