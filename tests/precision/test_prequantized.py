"""Networks that MXNet quantized for oneDNN, as TensorRT takes them."""

from __future__ import annotations

from typing import Any

import mxnet as mx
import numpy as np
import pytest
from onnx import numpy_helper
from support.converters import data
from support.quantized import answer, network, quantized
from support.segments import Segment, arrays_of

import mxtrt
from mxtrt import config
from mxtrt.engines import BuildRequest
from mxtrt.engines.kinds import ONNXRUNTIME, TENSORRT, TENSORRT_BEFORE_10, Kind
from mxtrt.graph.symbol import TensorType
from mxtrt.offline.inspection import typed_graph
from mxtrt.plan.analysis import analyse

SHAPE = (16, 3, 12, 12)


@pytest.fixture(scope="module")
def made() -> tuple[mx.sym.Symbol, dict[str, Any], dict[str, Any]]:
    """A quantized network with its arguments and states."""
    net = network()
    return quantized(net, arrays_of(net, data=SHAPE), data(3, *SHAPE))


def retyped(made: Any, **options: Any) -> Any:
    """Its segment, for an engine with float16 arithmetic."""
    symbol, arguments, aux = made
    return Segment(symbol, {**arguments, **aux}, data=SHAPE).retyped(precision="fp32", **options)


def test_steps_are_constants_and_everything_is_signed(made: Any) -> None:
    """Without zero points; weights and biases are float32 until the builder quantizes them."""
    graph = retyped(made).model.graph
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    assert {array.dtype for array in constants.values()} <= {
        np.dtype(kind) for kind in (np.float32, np.int8, np.int64)
    }
    kinds = {node.op_type for node in graph.node}
    assert kinds.isdisjoint({"Abs", "Cast", "Clip", "Div", "ReduceMax", "Round", "Sqrt"})
    for node in graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            assert (constants[node.input[1]] > 0).all()
            assert not constants[node.input[2]].any()
    makers = {name: node for node in graph.node for name in node.output}
    for node in graph.node:
        if node.op_type in ("Conv", "Gemm"):
            read, weight = (makers[name] for name in node.input[:2])
            assert read.op_type == weight.op_type == "DequantizeLinear"
            assert makers[weight.input[0]].op_type == "QuantizeLinear"
            assert all(name in constants for name in node.input[2:])


def test_its_answers_are_near_those_of_mxnet(made: Any) -> None:
    """Of what was uint8 half of the numbers are left."""
    ort = pytest.importorskip("onnxruntime")
    x = data(3, *SHAPE)
    with mxtrt.options(enabled=False):
        expected = answer(*made, x)
    model = retyped(made).model.SerializeToString()
    session = ort.InferenceSession(model, providers=["CPUExecutionProvider"])
    (seen,) = session.run(None, {"data": x})
    assert np.abs(seen - expected).max() <= 0.05 * np.abs(expected).max()


def test_onnx_runtime_takes_the_model_as_it_is(made: Any) -> None:
    """Whatever the precision, which is that of the graph."""
    found = retyped(made, float16=False)
    assert any(node.op_type == "ReduceMax" for node in found.model.graph.node)
    assert found.weights


@pytest.mark.parametrize("kind", [ONNXRUNTIME, TENSORRT, TENSORRT_BEFORE_10])
def test_quantized_tensors_lie_inside_of_a_segment(made: Any, kind: Kind) -> None:
    """Which is the whole network, also for engines that take no int8."""
    symbol, arguments, aux = made
    graph = typed_graph(symbol, {"data": SHAPE})
    found = analyse(graph, {*arguments, *aux}, mxtrt.Options(), engine=kind)
    assert not found.reasons
    assert len(found.segments) == 1


@pytest.mark.parametrize("kind", [TENSORRT, TENSORRT_BEFORE_10])
def test_what_would_be_an_edge_is_not_quantized_in_an_engine(kind: Kind) -> None:
    """Neither an output of the symbol nor what an operator of MXNet's reads."""
    whole = mx.sym.contrib.quantize_v2(
        mx.sym.var("data"), min_calib_range=-1.0, max_calib_range=1.0, name="whole"
    )
    back = mx.sym.contrib.dequantize(*whole, name="back")
    half = mx.sym.Activation(back, act_type="tanh")
    for symbol, left in ((half, set()), (mx.sym.Group([half, whole[0]]), {"whole", "back"})):
        graph = typed_graph(symbol, {"data": (2, 3)})
        found = analyse(graph, set(), mxtrt.Options(allow_ops="*"), engine=kind)
        refused = {graph.nodes[i].name: reason for i, reason in found.reasons.items()}
        assert refused.keys() == left
        assert all("takes no int8 tensors" in reason for reason in refused.values())


def test_tensorrt_builds_the_model(made: Any) -> None:
    """For a GPU that need not be there."""
    pytest.importorskip("tensorrt_rtx")
    from mxtrt.engines.tensorrt.api import load_api
    from mxtrt.engines.tensorrt.builder import blueprint, build_plan, canonical

    found = retyped(made)
    single = np.dtype(np.float32)
    inputs, outputs = [TensorType(SHAPE, single)], [TensorType((SHAPE[0], 5), single)]
    request = BuildRequest(found.segment, found.weights, inputs, outputs, config.current())
    plan, _ = build_plan(load_api("tensorrt_rtx"), blueprint(canonical(request), (8, 6)))
    assert len(plan) > 1000


def test_a_segment_says_that_it_is_int8(made: Any) -> None:
    """So that nobody compares it at another precision's tolerance."""
    with mxtrt.options(engine="onnxruntime", allow_ops="*", verify=True):
        answer(*made, data(3, *SHAPE))
        report = mxtrt.last_report()
    assert report is not None
    (segment,) = report.segments
    assert "not verified: precision int8 rounds as calibrated" in segment.notes
