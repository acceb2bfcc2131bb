"""Normalisation layers compute what MXNet computes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.converters import (
    SWEEP,
    assert_close,
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


def _batch_norm(shape: tuple[int, ...], axis: int, **attrs: Any) -> tuple[Any, dict[str, Any]]:
    channels = shape[axis]
    names = ("x", "gamma", "beta", "mean", "variance")
    sym = symbol("BatchNorm", *map(mx.sym.var, names), axis=axis, **attrs)
    arrays = {"x": data(0, *shape), "gamma": data(1, channels), "beta": data(2, channels)}
    arrays |= {"mean": data(3, channels), "variance": data(4, channels, low=0.1)}
    return sym, arrays


@SWEEP
@given(
    shape=st.lists(st.integers(1, 4), min_size=2, max_size=5),
    axis=st.integers(-5, 4),
    fix_gamma=st.sampled_from([None, True, False]),
    use_global_stats=st.booleans(),
    eps=st.sampled_from([1e-5, 1e-3, 0.1]),
)
def test_batch_norm_agrees_over_its_attributes(
    shape: list[int], axis: int, fix_gamma: bool | None, use_global_stats: bool, eps: float
) -> None:
    """Every rank and channel axis, from either end."""
    axis = axis % len(shape) - (len(shape) if axis < 0 else 0)
    attrs = {} if fix_gamma is None else {"fix_gamma": fix_gamma}
    sym, arrays = _batch_norm(
        tuple(shape), axis, use_global_stats=use_global_stats, eps=eps, **attrs
    )
    check(sym, arrays)


def test_batch_norm_fixes_gamma_by_default_and_ignores_its_values() -> None:
    """Gamma counts as one though the parameter file holds other numbers."""
    sym, arrays = _batch_norm((2, 3, 4), 1)
    x, beta, mean, variance = (
        arrays[name].astype(np.float64).reshape(-1, 1) if name != "x" else arrays["x"]
        for name in ("x", "beta", "mean", "variance")
    )
    expected = ((x - mean) / np.sqrt(variance + 1e-3) + beta).astype(np.float32)
    assert_close(run_mxnet(sym, dict(arrays))[0], expected)
    assert_close(run_onnx(to_onnx(sym, arrays))[0], expected)


def test_batch_norm_on_channels_is_one_operator() -> None:
    """Nothing between it and a convolution, so that runtimes fold it."""
    sym, arrays = _batch_norm((2, 3, 4, 4), 1, fix_gamma=False)
    assert check(sym, arrays).ops == ["BatchNormalization"]


def test_batch_norm_that_returns_its_statistics_is_refused() -> None:
    """output_mean_var=True has three outputs to compute."""
    shapes = (2, 3), (3,), (3,), (3,), (3,)
    assert "output_mean_var" in refusal("BatchNorm", *shapes, output_mean_var=True)
    assert "axis=2 is no axis" in refusal("BatchNorm", *shapes, axis=2)


@pytest.mark.parametrize("shape", [(2, 3, 4), (2, 3, 4, 5), (1, 2, 3, 4, 5)])
@pytest.mark.parametrize("attrs", [{}, {"eps": 0.1}])
def test_instance_norm_agrees(shape: tuple[int, ...], attrs: dict[str, Any]) -> None:
    """Over every axis after the channels."""
    check_op("InstanceNorm", shape, (shape[1],), (shape[1],), **attrs)


@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("shape", [(2, 4, 5), (2, 4, 3, 2), (1, 4, 2, 3, 2)])
def test_group_norm_agrees(shape: tuple[int, ...], groups: int) -> None:
    """Gamma and beta are per group, where others have them per channel."""
    check_op("GroupNorm", shape, (groups,), (groups,), num_groups=groups, eps=0.1)


def test_sync_batch_norm_is_batch_norm_at_inference() -> None:
    """Gamma counts as one by default, too."""
    names = ("x", "gamma", "beta", "mean", "variance")
    sym = symbol("_contrib_SyncBatchNorm", *map(mx.sym.var, names), key="norm")
    arrays = {name: data(i, 3, low=0.1) for i, name in enumerate(names)}
    arrays["x"] = data(5, 2, 3, 4, 4)
    converted = check(sym, arrays)
    assert converted.ops == ["BatchNormalization"]


@pytest.mark.parametrize("axis", [None, 0, 1, 2, -1, -2])
@pytest.mark.parametrize("eps", [1e-5, 0.1])
def test_layer_norm_agrees(axis: int | None, eps: float) -> None:
    """Over the last axis by default, or any other."""
    shape = (3, 4, 5)
    size = shape[-1 if axis is None else axis]
    attrs = {} if axis is None else {"axis": axis}
    check_op("LayerNorm", shape, (size,), (size,), eps=eps, **attrs)


@pytest.mark.parametrize("mode", ["instance", "channel", "spatial"])
@pytest.mark.parametrize("shape", [(2, 3, 4), (2, 3, 4, 5)])
def test_l2_normalization_agrees(mode: str, shape: tuple[int, ...]) -> None:
    """Over the instance, the channels or the positions, eps under the root."""
    check_op("L2Normalization", shape, mode=mode, eps=0.5)


def test_l2_normalization_defaults_to_the_instance() -> None:
    """A matrix, row by row."""
    check_op("L2Normalization", (3, 4))


@pytest.mark.parametrize("size", [1, 3, 5, 7])
@pytest.mark.parametrize("attrs", [{}, {"alpha": 0.5, "beta": 0.6, "knorm": 1.5}])
def test_lrn_agrees(size: int, attrs: dict[str, Any]) -> None:
    """Alpha is divided by the window, and knorm is 2 by default where ONNX has 1."""
    check_op("LRN", (2, 6, 3, 4), nsize=size, **attrs)


def test_lrn_defaults_are_those_of_the_formula() -> None:
    """The reference is x / (knorm + alpha / n * sum of squares) ** beta in float64."""
    x = data(0, 1, 5, 1, 1, low=-50, high=50)
    squares = np.pad(x.astype(np.float64).ravel() ** 2, 1)
    total = squares[:-2] + squares[1:-1] + squares[2:]
    expected = x / ((2 + 1e-4 / 3 * total) ** 0.75).reshape(x.shape)
    sym = symbol("LRN", mx.sym.var("x"), nsize=3)
    assert_close(run_mxnet(sym, {"x": x})[0], expected.astype(np.float32))
    check(sym, {"x": x})


@pytest.mark.parametrize(
    ("reason", "op", "shape", "attrs"),
    [
        ("an even nsize", "LRN", (1, 4, 2, 2), {"nsize": 4}),
        ("LRN on rank 3", "LRN", (1, 4, 2), {"nsize": 3}),
        ("nsize is missing", "LRN", (1, 4, 2, 2), {}),
        ("mode=row is not known", "L2Normalization", (2, 3), {"mode": "row"}),
        ("mode=channel on rank 2", "L2Normalization", (2, 3), {"mode": "channel"}),
        ("rank less than 3", "InstanceNorm", (2, 3), {}),
        ("output_mean_var", "LayerNorm", (2, 3), {"output_mean_var": "True"}),
    ],
)
def test_normalisation_that_would_differ_is_refused(
    reason: str, op: str, shape: tuple[int, ...], attrs: dict[str, Any]
) -> None:
    """The message says why."""
    assert reason in refusal(op, shape, (3,), (3,), out=shape, **attrs)
