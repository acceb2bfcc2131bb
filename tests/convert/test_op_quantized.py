"""Models that MXNet quantized for oneDNN give what MXNet gives."""

from __future__ import annotations

import json
from typing import Any

import mxnet as mx
import numpy as np
import onnx
import pytest
from support.converters import check, data, refusal, symbol
from support.quantized import answer, conv, network, quantized, relu
from support.segments import arrays_of, segments_of

import mxtrt

SHAPE = (16, 3, 12, 12)
ENGINE = {"engine": "onnxruntime", "allow_ops": "*"}


@pytest.mark.parametrize("granularity", ["tensor-wise", "channel-wise"])
def test_a_quantized_network_is_one_segment(granularity: str) -> None:
    """Its answers are MXNet's to two steps of the last layer."""
    net, x = network(), data(3, *SHAPE)
    made = quantized(net, arrays_of(net, data=SHAPE), x, quantize_granularity=granularity)
    with mxtrt.options(enabled=False):
        expected = answer(*made, x)
    with mxtrt.options(**ENGINE):
        seen = answer(*made, x)
        report = mxtrt.last_report()
    assert report is not None
    assert not report.left
    assert len(report.segments) == 1
    assert np.abs(seen - expected).max() <= 2 * np.abs(expected).max() / 127
    assert (seen.argmax(1) == expected.argmax(1)).mean() > 0.9


def test_layers_become_those_of_int8_in_the_engine() -> None:
    """Every one has quantized data, weight and bias, and its output is quantized."""
    net = relu(conv(relu(conv(mx.sym.var("data"), "a")), "b"))
    made, _, _ = quantized(net, arrays_of(net, data=SHAPE), data(3, *SHAPE))
    (segment,) = segments_of(made, {"data": SHAPE})
    graph = onnx.load_model_from_string(segment.model).graph
    makers = {name: node for node in graph.node for name in node.output}
    layers = [node for node in graph.node if node.op_type == "Conv"]
    assert len(layers) == 2
    for node in layers:
        assert {makers[name].op_type for name in node.input} == {"DequantizeLinear"}
    assert [node.op_type for node in graph.node].count("QuantizeLinear") == 3


def test_on_a_cpu_it_stays_in_mxnet() -> None:
    """Whose int8 is oneDNN's, and faster than ONNX Runtime's."""
    net = network()
    made, _, _ = quantized(net, arrays_of(net, data=SHAPE), data(3, *SHAPE))
    report = mxtrt.inspect(made, {"data": SHAPE}, engine="onnxruntime")
    assert not report.segments
    assert all(left.slower for left in report.left)


def test_what_is_not_calibrated_stays_in_mxnet() -> None:
    """The ranges of its tensors are those of the data of each call."""
    net = relu(conv(mx.sym.var("data"), "a"))
    made, _, _ = quantized(net, arrays_of(net, data=SHAPE), data(3, *SHAPE), calib_mode="none")
    report = mxtrt.inspect(made, {"data": SHAPE}, **ENGINE)
    reasons = {left.op: left.reason for left in report.left}
    assert reasons["_contrib_quantize_v2"] == "its range is computed at run time"


def test_a_sum_that_mxnet_gets_wrong_stays_there() -> None:
    """What is added is int8, and MXNet reads it as the uint8 that the output is."""
    x = relu(conv(mx.sym.var("data"), "first"))
    net = relu(conv(x, "second") + conv(x, "third", kernel=1))
    made, _, _ = quantized(net, arrays_of(net, data=SHAPE), data(3, *SHAPE))
    report = mxtrt.inspect(made, {"data": SHAPE}, **ENGINE)
    assert [left.reason for left in report.left] == ["MXNet takes the int8 that it adds for uint8"]


def test_ranges_of_both_dtypes_are_joined() -> None:
    """The output is int8 if an input is."""
    names = ["x", "y", "x_low", "x_high", "y_low", "y_high"]
    sym = symbol("_contrib_quantized_concat", *map(mx.sym.var, names), num_args=2, dim=1)
    whole = np.arange(-12, 12).reshape(2, 3, 4)
    arrays: dict[str, Any] = {"x": whole.astype(np.int8), "y": (whole + 100).astype(np.uint8)}
    ends = zip(names[2:], (-1.5, 1.0, 0.0, 2.5), strict=True)
    arrays |= {name: np.array([end], np.float32) for name, end in ends}
    check(sym, arrays, ("x", "y"))


@pytest.mark.parametrize(
    ("part", "op", "attrs"),
    [
        ("its range is computed at run time", "_sg_mkldnn_conv", {"quantized": "true"}),
        ("it is not quantized", "_sg_mkldnn_conv", {}),
        ("it is not quantized", "_sg_mkldnn_fully_connected", {}),
        (
            "the graph that it holds is not understood",
            "_sg_mkldnn_fully_connected",
            {"quantized": "True", "enable_float_output": "True"},
        ),
    ],
)
def test_what_stays_in_mxnet(part: str, op: str, attrs: dict[str, str]) -> None:
    """With its reason."""
    assert part in refusal(op, (2, 3, 4, 4), (2, 3, 1, 1), dtype=np.int8, **attrs)


def test_groups_of_several_channels_stay_in_mxnet() -> None:
    """Which takes the step of another channel for some."""
    net = conv(relu(conv(mx.sym.var("data"), "a")), "b", num_group=2)
    made, _, _ = quantized(net, arrays_of(net, data=SHAPE), data(3, *SHAPE))
    held = [node for node in json.loads(made.tojson())["nodes"] if node.get("subgraphs")]
    assert len(held) == 2
    report = mxtrt.inspect(made, {"data": SHAPE}, **ENGINE)
    assert "2 groups of several channels" in [left.reason for left in report.left]
