"""Which arguments of a symbol are weights, where nobody says so.

Symbol JSON does not tell data from weights.  Gluon and Module know; for the rest, an argument
is a weight where every operator that reads it does so through an input that MXNet documents as
a parameter.  Anything else is taken for data, which is always right: it stays an input of the
engine, handed over by pointer at every forward.
"""

from __future__ import annotations

from collections.abc import Collection

from mxtrt.graph import Graph

__all__ = ["guess_weights"]

# First parameter input of each operator; MXNet lists data inputs before parameters
# (FListInputNames in src/operator).
_FIRST_PARAMETER = {
    "BatchNorm": 1,
    "Convolution": 1,
    "Deconvolution": 1,
    "Embedding": 1,
    "FullyConnected": 1,
    "InstanceNorm": 1,
    "LayerNorm": 1,
    "LeakyReLU": 1,
    "_contrib_SyncBatchNorm": 1,
}


def guess_weights(graph: Graph, data_names: Collection[str] = ()) -> frozenset[str]:
    """Names of the arguments and auxiliary states that are weights.

    Args:
        graph: The symbol.
        data_names: Arguments known to be data.
    """
    weights: set[str] = set()
    data = set(data_names)
    for node in graph.nodes:
        first = _FIRST_PARAMETER.get(node.op, len(node.inputs))
        for place, entry in enumerate(node.inputs):
            producer = graph.nodes[entry.node]
            if producer.is_variable:
                (weights if place >= first else data).add(producer.name)
    return frozenset(weights - data)
