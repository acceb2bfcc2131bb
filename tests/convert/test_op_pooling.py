"""Pooling computes what MXNet computes, in every convention that MXNet can run."""

from __future__ import annotations

from itertools import product
from math import ceil
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from support.converters import SWEEP, assert_close, check_op, data, mx, refusal, run_mxnet, symbol

import mxtrt.convert.ops
from mxtrt.convert.onnx_builder import OnnxBuilder
from mxtrt.graph.symbol import Entry, Node, TensorType


@st.composite
def _poolings(draw: Any, rank: int) -> tuple[tuple[int, ...], dict[str, Any]]:
    kind = draw(st.sampled_from(["max", "avg", "sum", "lp"]))
    convention = draw(st.sampled_from(["valid", "full"]))
    kernel = tuple(draw(st.integers(1, 4)) for _ in range(rank))
    stride = tuple(draw(st.integers(1, 3)) for _ in range(rank))
    pad = tuple(draw(st.integers(0, k - 1)) for k in kernel)
    size = tuple(draw(st.integers(max(1, k), 8)) for k in kernel)
    for n, k, s, p in zip(size, kernel, stride, pad, strict=True):
        steps = (n + 2 * p - k) / s
        last = (ceil(steps) if convention == "full" else int(steps)) * s - p
        assume(last < n)
    attrs = {"pool_type": kind, "pooling_convention": convention, "kernel": kernel}
    attrs |= {"stride": stride, "pad": pad, "count_include_pad": draw(st.booleans())}
    if kind == "lp":
        attrs["p_value"] = draw(st.sampled_from([1, 2]))
    return size, attrs


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_pooling_agrees_over_its_attributes(rank: int) -> None:
    """Type, convention, kernel, stride, padding and the divisor, in 1, 2 and 3 axes."""

    @SWEEP
    @given(_poolings(rank))
    def sweep(case: Any) -> None:
        size, attrs = case
        check_op("Pooling", (2, 3, *size), **attrs)

    sweep()


def _average(x: np.ndarray[Any, Any], k: int, s: int, p: int, include: bool) -> list[float]:
    """One-dimensional average pooling in float64 with the convention ``full``."""
    result = []
    for i in range(ceil((len(x) + 2 * p - k) / s) + 1):
        start = i * s - p
        window = x[max(start, 0) : start + k]
        length = min(start + k, len(x) + p) - start if include else len(window)
        result.append(window.sum() / length)
    return result


@pytest.mark.parametrize(("pad", "include"), list(product([0, 1], [True, False])))
def test_full_average_divides_by_the_window_cut_at_the_padding(pad: int, include: bool) -> None:
    """The part of a window that hangs over the declared padding never counts."""
    x = data(0, 1, 1, 6)
    attrs = {"kernel": (3,), "stride": (2,), "pad": (pad,), "pool_type": "avg"}
    attrs |= {"pooling_convention": "full", "count_include_pad": include}
    expected = np.float32(_average(x[0, 0].astype(np.float64), 3, 2, pad, include))
    assert_close(
        run_mxnet(symbol("Pooling", mx.sym.var("x"), **attrs), {"x": x})[0][0, 0], expected
    )
    check_op("Pooling", (1, 1, 6), **attrs)


def test_full_maximum_needs_no_ceil_mode() -> None:
    """SqueezeNet's pooling: explicit padding at the end, which blocked kernels accept."""
    converted = check_op(
        "Pooling", (1, 4, 8, 8), kernel=(3, 3), stride=(2, 2), pooling_convention="full"
    )
    (node,) = converted.model.graph.node
    assert {a.name: list(a.ints) for a in node.attribute} == {
        "kernel_shape": [3, 3],
        "pads": [0, 0, 1, 1],
        "strides": [2, 2],
    }


def test_full_average_without_padding_is_one_operator() -> None:
    """Leaving out the padding then cuts the window where MXNet does."""
    attrs = {"kernel": (3, 3), "stride": (2, 2), "pooling_convention": "full"}
    assert check_op("Pooling", (1, 2, 8, 8), pool_type="avg", **attrs).ops == ["AveragePool"]


@pytest.mark.parametrize("kind", ["max", "avg", "sum", "lp"])
@pytest.mark.parametrize("attrs", [{}, {"kernel": (2, 2), "stride": (2, 2), "pad": (1, 1)}])
def test_global_pooling_ignores_kernel_stride_and_pad(kind: str, attrs: dict[str, Any]) -> None:
    """One value per channel."""
    p_value = {"p_value": 2} if kind == "lp" else {}
    check_op("Pooling", (2, 3, 5, 4), pool_type=kind, global_pool=True, **attrs, **p_value)


@pytest.mark.parametrize("shape", [(2, 3, 5), (2, 3, 4, 3, 2)])
def test_global_pooling_of_other_ranks_agrees(shape: tuple[int, ...]) -> None:
    """One and three spatial axes."""
    check_op("Pooling", shape, pool_type="avg", global_pool=True)


@pytest.mark.parametrize("kind", ["max", "avg", "sum"])
@pytest.mark.parametrize(
    ("layout", "shape", "kernel"),
    [
        ("NWC", (2, 7, 3), (3,)),
        ("NHWC", (2, 7, 6, 3), (3, 2)),
        ("NDHWC", (1, 4, 5, 6, 2), (2,) * 3),
    ],
)
def test_channels_last_are_transposed_there_and_back(
    kind: str, layout: str, shape: tuple[int, ...], kernel: tuple[int, ...]
) -> None:
    """MXNet's own kernels run them on the CPU."""
    stride = tuple(2 for _ in kernel)
    check_op("Pooling", shape, pool_type=kind, layout=layout, kernel=kernel, stride=stride)
    check_op("Pooling", shape, pool_type=kind, layout=layout, global_pool=True)


def test_the_hidden_workspace_of_maximum_pooling_does_not_matter() -> None:
    """MXNet gives it a second, int32 output that nothing reads and graph passes list."""
    source = TensorType((1, 1, 4, 4), np.dtype(np.float32))
    pooled = TensorType((1, 1, 3, 3), np.dtype(np.float32))
    workspace = TensorType((1, 1, 3, 3), np.dtype(np.int32))
    node = Node("Pooling", "p", {"kernel": "(2, 2)"}, (Entry(0),), (pooled, workspace))
    builder = OnnxBuilder()
    mxtrt.convert.ops.convert(node, [source], ["x"], builder)
    assert [(n.op_type, list(n.output)) for n in builder.nodes] == [("MaxPool", ["p_output0"])]


@pytest.mark.parametrize(
    ("reason", "attrs"),
    [
        ("pooling_convention=same is neither", {"pooling_convention": "same"}),
        ("pooling_convention=new is neither", {"pooling_convention": "new"}),
        ("pool_type=min is not known", {"pool_type": "min"}),
        ("p_value is missing", {"pool_type": "lp"}),
        ("p_value=3 is neither", {"pool_type": "lp", "p_value": 3}),
        ("layout NWC on rank 4", {"layout": "NWC"}),
        ("holds only padding", {"pad": (2, 2)}),
        ("kernel of 1 axes", {"kernel": (2,)}),
        ("kernel of 1 axes", {"kernel": (2,), "global_pool": True}),
        ("kernel of 0 axes", {"kernel": ()}),
        (
            "count_include_pad='maybe'",
            {"pool_type": "avg", "pad": "(1, 1)"} | {"count_include_pad": "maybe"},
        ),
    ],
)
def test_pooling_that_would_differ_is_refused(reason: str, attrs: dict[str, Any]) -> None:
    """The message says which attribute it was."""
    attrs = {"kernel": (2, 2)} | attrs
    assert reason in refusal("Pooling", (1, 1, 4, 4), out=(1, 1, 3, 3), **attrs)


def test_a_window_beyond_the_data_is_refused() -> None:
    """Convention full with a stride longer than the kernel can step out of the data."""
    attrs = {"kernel": (1,), "stride": (3,), "pooling_convention": "full"}
    assert (
        refusal("Pooling", (1, 1, 3), out=(1, 1, 2), **attrs) == "a window that holds only padding"
    )
