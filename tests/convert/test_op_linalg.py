"""Matrix products compute what MXNet computes."""

from __future__ import annotations

from typing import Any

import pytest
from support.converters import check_op, data, mx, refusal, run_mxnet, run_onnx, symbol, to_onnx


@pytest.mark.parametrize(
    ("shapes", "attrs", "ops"),
    [
        (((2, 3), (3, 4)), {}, ["Gemm"]),
        (((3, 2), (4, 3)), {"transpose_a": True, "transpose_b": True}, ["Gemm"]),
        (((5, 2, 3), (3, 4)), {}, ["MatMul"]),
        (((5, 2, 3), (4, 3)), {"transpose_b": True}, ["Transpose", "MatMul"]),
        (((3,), (3,)), {}, ["Reshape", "Reshape", "Gemm", "Reshape"]),
        (((3,), (3, 4)), {"transpose_a": True}, ["Reshape", "Gemm", "Reshape"]),
        (((2, 3), (3,)), {"transpose_b": True}, ["Reshape", "Gemm", "Reshape"]),
        (((3, 2, 4), (5, 2, 3)), {"transpose_a": True, "transpose_b": True}, None),
    ],
)
def test_dot_is_one_product(shapes: Any, attrs: dict[str, Any], ops: list[str] | None) -> None:
    """Of matrices, or of what is reshaped to matrices."""
    converted = check_op("dot", *shapes, **attrs)
    assert ops is None or converted.ops == ops


def test_gemm_does_not_read_what_beta_zero_multiplies() -> None:
    """A NaN in C stays out, as in BLAS."""
    names = "xyz"
    for rank in (2, 3):
        arrays = {name: data(i, *(2,) * rank) for i, name in enumerate(names)}
        arrays["z"][:] = float("nan")
        sym = symbol("_linalg_gemm", *map(mx.sym.var, names), beta=0)
        assert not any(x.any() for x in map(_nans, run_mxnet(sym, arrays)))
        assert not any(x.any() for x in map(_nans, run_onnx(to_onnx(sym, arrays, names))))


def _nans(array: Any) -> Any:
    return array != array


def test_gemm_of_matrices_is_one_gemm() -> None:
    """Factors and transpositions included."""
    attrs = {"alpha": 0.5, "beta": 2, "transpose_a": True}
    assert check_op("_linalg_gemm", (3, 2), (3, 4), (2, 4), **attrs).ops == ["Gemm"]


def test_products_of_nothing_are_refused() -> None:
    """BLAS reads no operand then, and a NaN gives zero."""
    assert refusal("_linalg_gemm2", (2, 3), (3, 4), out=(2, 4), alpha=0) == "alpha=0"
    assert "axis=2" in refusal("_linalg_gemm2", (2, 3, 4), (2, 4, 3), out=(2, 3, 3), axis=-1)
