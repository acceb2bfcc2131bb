"""Operators on sequences, Embedding and attention compute what MXNet computes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from support.converters import check, check_op, data, mx, refusal, run_onnx, symbol, to_onnx


def _with_lengths(op: str, x: Any, lengths: Any, **attrs: Any) -> Any:
    sym = symbol(op, mx.sym.var("x"), mx.sym.var("lengths"), **attrs)
    return check(sym, {"x": x, "lengths": lengths}, ("x", "lengths"))


@pytest.mark.parametrize("dtype", ["float32", "int8", "uint8", "int32", "int64"])
@pytest.mark.parametrize("lengths", ["float32", "int32", "int64", "uint8", "int8"])
def test_sequences_of_any_dtype_have_lengths_of_any_dtype(dtype: str, lengths: str) -> None:
    """Data are moved only; of a length MXNet takes the integer part."""
    x = np.arange(24).reshape(4, 3, 2).astype(dtype)
    numbers = np.array([1.9, 4, 2.5]).astype(lengths)
    for op in ("SequenceMask", "SequenceLast", "SequenceReverse"):
        attrs = {"value": 7} if op == "SequenceMask" else {}
        _with_lengths(op, x, numbers, use_sequence_length=True, **attrs)


def test_lengths_outside_the_sequences_raise_nothing() -> None:
    """MXNet reads outside its arrays; an engine must still answer."""
    x, lengths = data(0, 4, 2, 3), np.array([-1, 9], np.int32)
    for op in ("SequenceMask", "SequenceLast", "SequenceReverse"):
        names = ("x", "lengths")
        sym = symbol(op, *map(mx.sym.var, names), use_sequence_length=True)
        (answer,) = run_onnx(to_onnx(sym, dict(zip(names, (x, lengths), strict=True)), names))
        assert np.isfinite(answer).all()


def test_a_mask_value_that_the_dtype_cannot_hold_is_refused() -> None:
    """MXNet's conversion of it is not defined."""
    attrs = {"use_sequence_length": True, "value": -1}
    reason = refusal("SequenceMask", (3, 2), (2,), dtype=np.uint8, **attrs)
    assert reason == "value=-1.0 is not of dtype uint8"


def test_softmax_of_no_elements_is_zero() -> None:
    """A length of 0, also beside minus infinity."""
    x = data(0, 3, 4)
    x[1, 2] = -np.inf
    lengths = np.array([0, 4, 1], np.int32)
    for temperature in (1, 2):
        _with_lengths("softmax", x, lengths, use_length=True, temperature=temperature)


@pytest.mark.parametrize("dtype", ["float32", "int8", "uint8", "int32", "int64"])
@pytest.mark.parametrize("axis", [None, 0, 1])
def test_arange_like_has_the_dtype_of_its_input(dtype: str, axis: int | None) -> None:
    """Start and step lose what is behind the point before anything is computed."""
    sym = symbol("_contrib_arange_like", mx.sym.var("x"), axis=axis, start=2.5, step=1.5, repeat=2)
    check(sym, {"x": np.zeros((3, 4), dtype)})


def test_arange_like_that_would_differ_is_refused() -> None:
    """MXNet divides by zero, and the process ends."""
    assert refusal("_contrib_arange_like", (3,), repeat=0) == "repeat=0"
    assert "start=-1" in refusal("_contrib_arange_like", (3,), dtype=np.uint8, start=-1)


@pytest.mark.parametrize("dtype", ["float32", "uint8", "int8", "int32", "int64"])
def test_embedding_brings_every_index_into_range(dtype: str) -> None:
    """Cut off, then the first or the last row; what is no integer at all takes the first."""
    index = np.array([[-5, 0, 2], [3, 99, 1]], np.float64)
    if dtype == "float32":
        index = np.append(index, [[0.9, 1.5, -0.5], [np.nan, 2e9, -1e30]], 0)
    if dtype == "uint8":
        index = np.abs(index)
    sym = symbol("Embedding", mx.sym.var("x"), mx.sym.var("w"), input_dim=4, output_dim=3)
    converted = check(sym, {"x": index.astype(dtype), "w": data(0, 4, 3)})
    assert converted.ops[-1] == "Gather"


def test_embeddings_of_integers_stay_integers() -> None:
    """Rows are moved only."""
    sym = symbol("Embedding", mx.sym.var("x"), mx.sym.var("w"), input_dim=2, output_dim=2)
    check(sym, {"x": np.ones(3, np.int32), "w": np.arange(4, dtype=np.int32).reshape(2, 2)})


@pytest.mark.parametrize("batch", [1, 3])
def test_attention_agrees(batch: int) -> None:
    """Scores and contexts of four heads, from one projection and from two."""
    kind, attrs = "_contrib_interleaved_matmul_{}", {"heads": 4}
    check_op(kind.format("selfatt_qk"), (5, batch, 96), **attrs)
    check_op(kind.format("selfatt_valatt"), (5, batch, 96), (4 * batch, 5, 5), **attrs)
    check_op(kind.format("encdec_qk"), (3, batch, 32), (5, batch, 64), **attrs)
    check_op(kind.format("encdec_valatt"), (5, batch, 64), (4 * batch, 3, 5), **attrs)


def test_attention_that_splits_a_feature_is_refused() -> None:
    """MXNet reads the rest of the features as another head."""
    reason = refusal("_contrib_interleaved_matmul_selfatt_qk", (2, 1, 12), heads=3)
    assert reason == "12 features for 3 heads of 3 parts"
