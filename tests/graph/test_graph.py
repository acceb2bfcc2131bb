"""Symbol JSON in and out."""

from __future__ import annotations

import json

import mxnet as mx
import numpy as np
import pytest
from support.networks import assert_close, classifier, images, mixed, parameters, plain

from mxtrt.errors import GraphError
from mxtrt.graph.symbol import Entry, Graph, Node


@pytest.mark.parametrize("symbol", [classifier(), mixed()])
def test_json_survives_the_way_through_a_graph(symbol):
    """What MXNet loads from our JSON computes what the original computes."""
    again = mx.sym.load_json(Graph.from_json(symbol.tojson()).to_json())
    assert again.list_arguments() == symbol.list_arguments()
    assert again.list_outputs() == symbol.list_outputs()
    x = images()
    args, aux = parameters(symbol, data=x.shape)
    for one, two in zip(
        plain(again, args, aux, data=x), plain(symbol, args, aux, data=x), strict=True
    ):
        assert np.array_equal(one, two)


def test_duplicate_heads_are_kept():
    """A head that is listed twice is returned twice, in order."""
    relu = mx.sym.relu(mx.sym.var("data"), name="r")
    graph = Graph.from_json(mx.sym.Group([relu, relu * 2, relu]).tojson())
    assert [graph.nodes[head.node].op for head in graph.heads] == ["relu", "_mul_scalar", "relu"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not an MXNet symbol"),
        ("[]", "not an MXNet symbol"),
        ('{"nodes": []}', "not an MXNet symbol"),
        ('{"nodes": [{"op": "null"}], "heads": [[0, 0]]}', "not an MXNet symbol"),
        ('{"nodes": [], "heads": []}', "heads name no node"),
        ('{"nodes": [], "heads": [[3, 0, 0]]}', "heads name no node"),
        (
            json.dumps(
                {
                    "nodes": [{"op": "relu", "name": "a", "inputs": [[0, 0, 0]]}],
                    "heads": [[0, 0, 0]],
                }
            ),
            "topological order",
        ),
    ],
)
def test_what_is_not_a_symbol_is_refused_in_one_sentence(text, message):
    """No KeyError or IndexError reaches the user."""
    with pytest.raises(GraphError, match=message):
        Graph.from_json(text)


def test_a_subgraph_keeps_names_and_the_order_of_its_inputs():
    """Variables keep their names, other outside entries are named after their producer."""
    graph = Graph(
        [
            Node("null", "data", {}, ()),
            Node("null", "w", {}, ()),
            Node("split", "s", {}, (Entry(0),)),
            Node("add", "a", {}, (Entry(2, 1), Entry(1))),
            Node("mul", "m", {}, (Entry(3), Entry(2, 0))),
        ],
        [Entry(4)],
    )
    part, outside = graph.subgraph([3, 4], [Entry(4), Entry(3)])
    assert [node.name for node in part.nodes] == ["s_output1", "w", "s_output0", "a", "m"]
    assert outside == [Entry(2, 1), Entry(1), Entry(2, 0)]
    assert part.heads == (Entry(4), Entry(3))
    assert part.nodes[4].inputs == (Entry(3), Entry(2))


def test_comparison_notices_a_difference():
    """The helper that the other tests trust does fail."""
    with pytest.raises(AssertionError):
        assert_close(np.array([1.0, 2.0]), np.array([1.0, 2.001]))
