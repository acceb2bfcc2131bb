"""Engine nodes in JSON that somebody changed: an error, and nothing is read beyond an array."""

from __future__ import annotations

import json
from typing import Any

import mxnet as mx
import numpy as np
import pytest

import mxtrt


@pytest.fixture
def partitioned() -> mx.sym.Symbol:
    """Two dense layers in one engine node, which has one input and one output."""
    symbol = mx.sym.FullyConnected(mx.sym.var("data"), num_hidden=4, no_bias=True, name="a")
    symbol = mx.sym.FullyConnected(symbol, num_hidden=4, no_bias=True, name="b")
    args = {
        "data": mx.nd.ones((2, 8)),
        "a_weight": mx.nd.ones((4, 8)),
        "b_weight": mx.nd.ones((4, 4)),
    }
    return symbol.optimize_for("TensorRT", args, {}, mx.cpu(), data_names="data")


def changed(symbol: mx.sym.Symbol, inputs: int, **attrs: Any) -> str:
    """JSON of the symbol with other attributes and number of inputs of its engine node."""
    graph = json.loads(symbol.tojson())
    (engine,) = (node for node in graph["nodes"] if node["op"] == "_mxtrt_engine")
    engine["attrs"].update({name: str(value) for name, value in attrs.items()})
    engine["inputs"] = [[place, 0, 0] for place in range(inputs)]
    data = [{"op": "null", "name": f"d{place}", "inputs": []} for place in range(inputs)]
    graph.update(
        nodes=[*data, engine],
        arg_nodes=list(range(inputs)),
        heads=[[inputs, 0, 0]],
        node_row_ptr=list(range(inputs + 2)),
    )
    return json.dumps(graph)


@pytest.mark.parametrize(
    "attrs",
    [
        {"num_inputs": -1},
        {"num_inputs": 2**32 + 1},
        {"num_outputs": "one"},
        {"num_outputs": "1 "},
        {"process": "another", "num_outputs": 2**31 - 1},
        {"__ext_extra_inputs__": -1},
    ],
)
def test_attributes_that_no_engine_node_has_are_refused_at_the_load(partitioned, attrs):
    """With a sentence that says what is wrong."""
    with pytest.raises(mx.MXNetError, match=r"an engine node"):
        mx.sym.load_json(changed(partitioned, 1, **attrs))


@pytest.mark.parametrize(
    "attrs",
    [
        {"num_inputs": 4096},
        {"num_inputs": 0},
        {"num_outputs": 4096},
        {"engine": "1e3"},
        {"engine": 2**64},
    ],
)
def test_attributes_that_are_not_those_of_the_engine_are_refused_at_the_bind(partitioned, attrs):
    """Before anything is read or written that is not there."""
    symbol = mx.sym.load_json(changed(partitioned, 1, **attrs))
    with pytest.raises(mx.MXNetError, match=r"an engine node"):
        symbol.infer_type(d0=np.float32)
    with pytest.raises(RuntimeError, match=r"an engine node"):
        symbol.simple_bind(mx.cpu(), grad_req="null", d0=(2, 8))


@pytest.mark.parametrize("inputs", [0, 2, 4096])
def test_an_engine_node_with_more_or_fewer_inputs_than_its_engine_is_refused(partitioned, inputs):
    """MXNet counts the inputs in the graph, whatever the attribute says."""
    symbol = mx.sym.load_json(changed(partitioned, inputs))
    shapes = {f"d{place}": (2, 8) for place in range(inputs)}
    for infer in (symbol.infer_type, lambda: symbol.infer_shape(**shapes)):
        with pytest.raises(mx.MXNetError, match=rf"{inputs} inputs and 1 outputs in the symbol"):
            infer()
    with pytest.raises(RuntimeError, match="partition the original symbol again"):
        symbol.simple_bind(mx.cpu(), grad_req="null", **shapes)


def test_a_size_that_nobody_knows_is_none_of_the_engine(partitioned):
    """MXNet's -1 is no size of four billion."""
    with pytest.raises(mx.MXNetError, match="an input shape of the engine is unknown"):
        partitioned.infer_shape(data=(0, 8))
    assert partitioned.infer_shape(data=(3, 8))[1] == [(3, 4)]


def test_the_engine_answers_after_all_this(partitioned):
    """Only what was changed is refused."""
    symbol = mx.sym.load_json(changed(partitioned, 1))
    executor = symbol.bind(mx.cpu(), {"d0": mx.nd.ones((2, 8))}, grad_req="null")
    assert executor.forward()[0].asnumpy().tolist() == [[32] * 4] * 2
    assert mxtrt.stats().engine_runs > 0
