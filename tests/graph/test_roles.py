"""Which arguments are taken for weights where nobody says so."""

from __future__ import annotations

import dataclasses

import mxnet as mx
import pytest

from mxtrt.graph.roles import guess_weights
from mxtrt.graph.symbol import Entry, Graph, Node


def guessed(symbol, *data):
    """The weights of a symbol."""
    return guess_weights(Graph.from_json(symbol.tojson()), data)


def test_parameters_of_layers_are_weights():
    """But not what some operator reads as data too, or what is named as data."""
    x, w, b = map(mx.sym.var, "xwb")
    layer = mx.sym.FullyConnected(x, w, b, num_hidden=3)
    assert guessed(layer) == {"w", "b"}
    assert guessed(layer, "b") == {"w"}
    assert guessed(mx.sym.Group([layer, mx.sym.exp(w)])) == {"b"}


def test_offsets_and_masks_of_deformable_convolutions_are_data():
    """A network learns them for each picture."""
    attrs = {"kernel": (3, 3), "num_filter": 4}
    inputs = list(map(mx.sym.var, "xowb"))
    assert guessed(mx.sym.contrib.DeformableConvolution(*inputs, **attrs)) == {"w", "b"}
    inputs.insert(2, mx.sym.var("m"))
    assert guessed(mx.sym.contrib.ModulatedDeformableConvolution(*inputs, **attrs)) == {"w", "b"}


def test_of_what_is_quantized_for_onednn_all_but_data_and_sums_are_weights():
    """States of a BatchNorm that a layer holds, too."""
    data = mx.sym.var("data")
    norm = mx.sym.BatchNorm(
        mx.sym.Convolution(data, kernel=(1, 1), num_filter=2, name="c"), name="n"
    )
    other = mx.sym.var("other")
    layer = (norm + other).get_backend_symbol("MKLDNN_QUANTIZE")
    names = {*layer.list_arguments(), *layer.list_auxiliary_states()}
    graph = Graph.from_json(layer.tojson())
    (node,) = (node for node in graph.nodes if not node.is_variable)
    ranges = [Node("null", name, {}, ()) for name in ("low", "high", "sum_low", "sum_high")]
    first = len(graph.nodes) - 1
    inputs = (*node.inputs, *(Entry(first + place) for place in range(4)))
    ranged = dataclasses.replace(node, inputs=inputs)
    whole = Graph([*graph.nodes[:-1], *ranges, ranged], [Entry(first + 4)])
    assert guess_weights(whole) == names - {"data", "other"}


@pytest.mark.parametrize("mode", ["lstm", "gru"])
def test_of_a_packed_recurrent_layer_the_parameters_are_weights(mode):
    """The states after them are data."""
    inputs = map(mx.sym.var, "xphc" if mode == "lstm" else "xph")
    assert guessed(mx.sym.RNN(*inputs, mode=mode, state_size=3, num_layers=1)) == {"p"}


def test_of_gluons_recurrent_layers_all_parameters_are_weights():
    """Through the operators that flatten and pack them."""
    layer = mx.gluon.rnn.LSTM(4, num_layers=2, bidirectional=True, prefix="lstm_")
    symbol = layer(mx.sym.var("x"))
    assert guessed(symbol) == set(layer.collect_params())
    packed = symbol.get_internals()["lstm__rnn_param_concat0_output"]
    assert not guessed(packed)
