"""Convolution, Deconvolution, FullyConnected and Dropout compute what MXNet computes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.converters import SWEEP, check, check_op, data, mx, refusal, symbol


def _sizes(draw: Any, rank: int, low: int, high: int) -> tuple[int, ...]:
    return tuple(draw(st.integers(low, high)) for _ in range(rank))


@st.composite
def _convolutions(draw: Any) -> tuple[tuple[int, ...], tuple[int, ...], int, dict[str, Any]]:
    """Shapes of data and weight, number of filters and attributes of a convolution."""
    rank = draw(st.integers(1, 3))
    group = draw(st.sampled_from([1, 1, 2, 3]))
    channels, filters = group * draw(st.integers(1, 3)), group * draw(st.integers(1, 3))
    kernel, dilate = _sizes(draw, rank, 1, 3), _sizes(draw, rank, 1, 2)
    pad = _sizes(draw, rank, 0, 2)
    extra = _sizes(draw, rank, 0, 4)
    size = tuple((k - 1) * d + 1 + e for k, d, e in zip(kernel, dilate, extra, strict=True))
    attrs = {"kernel": kernel, "dilate": dilate, "pad": pad, "num_group": group}
    attrs |= {"stride": _sizes(draw, rank, 1, 3), "no_bias": draw(st.booleans())}
    batch = draw(st.integers(1, 2))
    return (batch, channels, *size), (filters, channels // group, *kernel), filters, attrs


@SWEEP
@given(_convolutions())
def test_convolution_agrees_over_its_attributes(case: Any) -> None:
    """Kernel, stride, dilation, padding, groups and bias in 1, 2 and 3 spatial axes."""
    shape, weight, filters, attrs = case
    bias = () if attrs["no_bias"] else ((filters,),)
    converted = check_op("Convolution", shape, weight, *bias, num_filter=filters, **attrs)
    assert converted.ops == ["Conv"]


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_convolution_defaults_are_stride_one_no_padding_and_a_bias(rank: int) -> None:
    """Only the required attributes; the bias is there by default."""
    shape, kernel = (2, 3, *(5,) * rank), (2,) * rank
    check_op("Convolution", shape, (4, 3, *kernel), (4,), kernel=kernel, num_filter=4)


def test_depthwise_convolution_agrees() -> None:
    """As many groups as channels, as MobileNet has them."""
    check_op(
        "Convolution",
        (2, 8, 7, 7),
        (8, 1, 3, 3),
        kernel=(3, 3),
        pad=(1, 1),
        stride=(2, 2),
        num_filter=8,
        num_group=8,
        no_bias=True,
    )


def test_attributes_saved_under_python_2_are_read() -> None:
    """Long integers as in ``(3L, 3L)``."""
    attrs = {"kernel": "(3L, 3L)", "pad": "[1L, 1L]", "num_filter": "4", "no_bias": "1"}
    check_op("Convolution", (1, 2, 5, 5), (4, 2, 3, 3), **attrs)


@pytest.mark.parametrize("layout", ["NHWC", "NDHWC", "NWC"])
def test_convolution_with_channels_last_is_refused(layout: str) -> None:
    """MXNet's CPU has no such convolution either."""
    reason = refusal("Convolution", (1, 5, 5, 4), (6, 3, 3, 4), kernel=(3, 3), layout=layout)
    assert reason == f"layout {layout} is not NCHW"


def test_convolution_of_four_axes_is_refused() -> None:
    """Neither runtime has one."""
    assert refusal("Convolution", (1, 2), (1, 2), kernel=(1, 1, 1, 1)) == "a kernel of 4 axes"
    assert "rank 4" in refusal("Convolution", (1, 2, 3, 3), (1, 2, 3), kernel=(3,))
    attrs = {"kernel": (3, 3), "stride": 1, "no_bias": True}
    assert "1 values" in refusal("Convolution", (1, 2, 3, 3), (1, 2, 3, 3), **attrs)
    assert "2 inputs" in refusal("Convolution", (1, 2, 3, 3), (1, 2, 3, 3), kernel=(3, 3))


@st.composite
def _deconvolutions(draw: Any) -> tuple[tuple[int, ...], tuple[int, ...], int, dict[str, Any]]:
    rank = draw(st.integers(1, 3))
    group = draw(st.sampled_from([1, 2]))
    channels, filters = group * draw(st.integers(1, 3)), group * draw(st.integers(1, 3))
    kernel, stride = _sizes(draw, rank, 1, 4), _sizes(draw, rank, 1, 3)
    dilate = _sizes(draw, rank, 1, 2 if rank < 3 else 1)
    pad = tuple(draw(st.integers(0, (k - 1) // 2)) for k in kernel)
    adj = tuple(draw(st.integers(0, s - 1)) for s in stride)
    size = _sizes(draw, rank, 2, 5)
    attrs = {"kernel": kernel, "stride": stride, "pad": pad, "adj": adj, "num_group": group}
    attrs |= {"no_bias": draw(st.booleans()), "dilate": dilate}
    return (2, channels, *size), (channels, filters // group, *kernel), filters, attrs


@SWEEP
@given(_deconvolutions())
def test_deconvolution_agrees_over_its_attributes(case: Any) -> None:
    """Kernel, stride, dilation (MXNet has none in 3-D), padding, adjustment, groups and bias."""
    shape, weight, filters, attrs = case
    bias = () if attrs["no_bias"] else ((filters,),)
    check_op("Deconvolution", shape, weight, *bias, num_filter=filters, **attrs)


_TARGET: dict[str, Any] = {"kernel": (3, 3), "stride": (2, 2), "num_filter": 3}


@pytest.mark.parametrize(
    ("target", "pad"), [((9, 9), (0, 0)), ((8, 9), (1, 0)), ((7, 8), (1, 1)), ((5, 6), (2, 2))]
)
def test_deconvolution_target_shape_overrides_adj(
    target: tuple[int, int], pad: tuple[int, int]
) -> None:
    """The adjustment is computed from the wanted output."""
    attrs = _TARGET | {"target_shape": target, "pad": pad, "adj": (1, 0)}
    assert check_op("Deconvolution", (1, 2, 4, 4), (2, 3, 3, 3), **attrs).ops == ["ConvTranspose"]


def test_deconvolution_target_shape_that_contradicts_pad_is_refused() -> None:
    """MXNet's shape inference ignores pad, its oneDNN kernel does not."""
    shapes = (1, 2, 4, 4), (2, 3, 3, 3)
    reason = refusal("Deconvolution", *shapes, out=(1, 3, 7, 7), target_shape=(7, 7), **_TARGET)
    assert reason == "pad=(0, 0) where target_shape needs (1, 1)"
    reason = refusal("Deconvolution", *shapes, out=(1, 3, 20, 7), target_shape=(20, 7), **_TARGET)
    assert reason == "target_shape is larger than the output can be"


@SWEEP
@given(
    shape=st.lists(st.integers(1, 4), min_size=1, max_size=4),
    hidden=st.integers(1, 5),
    no_bias=st.booleans(),
    flatten=st.booleans(),
)
def test_fully_connected_agrees(
    shape: list[int], hidden: int, no_bias: bool, flatten: bool
) -> None:
    """With and without bias, flattening the instance or keeping all axes but the last."""
    inputs = int(np.prod(shape[1:])) if flatten else shape[-1]
    bias = () if no_bias else ((hidden,),)
    check_op(
        "FullyConnected",
        shape,
        (hidden, inputs),
        *bias,
        num_hidden=hidden,
        no_bias=no_bias,
        flatten=flatten,
    )


def test_fully_connected_on_a_matrix_is_one_gemm() -> None:
    """The form that every runtime is fast at, whatever ``flatten`` says."""
    for flatten in (True, False):
        converted = check_op("FullyConnected", (2, 3), (4, 3), (4,), num_hidden=4, flatten=flatten)
        assert converted.ops == ["Gemm"]


def test_fully_connected_with_a_matrix_for_bias_is_refused() -> None:
    """MXNet accepts a bias of shape (n, 1)."""
    shapes = (2, 3), (4, 3), (4, 1)
    reason = refusal("FullyConnected", *shapes, out=(2, 4), num_hidden=4)
    assert reason == "a bias that is not a vector"


@pytest.mark.parametrize("attrs", [{}, {"p": 0.9}, {"p": 0.3, "axes": (1,)}])
def test_dropout_drops_nothing_at_inference(attrs: dict[str, Any]) -> None:
    """An Identity, which runtimes remove."""
    assert check_op("Dropout", (2, 3), **attrs).ops == ["Identity"]


def test_dropout_that_is_always_on_is_refused() -> None:
    """mode='always' drops at inference too."""
    assert "always" in refusal("Dropout", (2, 3), mode="always")


def test_a_double_stays_in_mxnet() -> None:
    """Only float32 is converted."""
    reason = refusal("Convolution", (1, 1, 3, 3), (1, 1, 3, 3), dtype="f8", kernel=(3, 3))
    assert reason == "dtype float64 is not float32"


@pytest.mark.parametrize(
    "pooling",
    [
        {"pool_type": "max"},
        {"pool_type": "max", "pooling_convention": "full"},
        {"pool_type": "avg", "pad": (1, 1)},
        {"pool_type": "avg", "pad": (1, 1), "count_include_pad": False},
        {"pool_type": "avg", "pooling_convention": "full"},
        {"pool_type": "avg", "pooling_convention": "full", "pad": (1, 1)},
        {"pool_type": "sum", "pooling_convention": "full", "pad": (1, 1)},
        {"pool_type": "avg", "global_pool": True},
    ],
)
@pytest.mark.parametrize("fix_gamma", [True, False])
def test_a_chain_of_layers_agrees_in_blocked_kernels(
    pooling: dict[str, Any], fix_gamma: bool
) -> None:
    """Sixteen channels, so that ONNX Runtime folds and blocks (NCHWc), and weights inside."""
    names = ("gamma", "beta", "mean", "variance")
    body = symbol("Convolution", *map(mx.sym.var, "xwb"), name="c", kernel=(3, 3), num_filter=16)
    body = symbol("BatchNorm", body, *map(mx.sym.var, names), name="n", fix_gamma=fix_gamma)
    body = symbol("Activation", body, name="a", act_type="relu")
    body = symbol("Pooling", body, name="p", kernel=(3, 3), stride=(2, 2), **pooling)
    wide = symbol(
        "Concat", body, symbol("clip", body, name="k", a_min=0, a_max=1), name="j", num_args=2
    )
    head = symbol("FullyConnected", wide, *map(mx.sym.var, "uv"), name="d", num_hidden=3)
    arrays = {"x": data(0, 2, 3, 10, 10), "w": data(1, 16, 3, 3, 3), "b": data(2, 16)}
    arrays |= {name: data(3 + i, 16, low=0.5) for i, name in enumerate(names)}
    size = int(np.prod(wide.infer_shape(x=(1, 3, 10, 10))[1][0]))
    arrays |= {"u": data(7, 3, size), "v": data(8, 3)}
    check(head, arrays)
