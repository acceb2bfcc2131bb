"""Which arguments of a symbol are weights, where nobody says so.

Symbol JSON does not tell data from weights.  Gluon and Module know; for the rest, an argument
is a weight where every operator that reads it does so through an input that MXNet documents as
a parameter.  Anything else is taken for data, which is always right: it stays an input of the
engine, handed over by pointer at every forward.
"""

from __future__ import annotations

from collections.abc import Collection

from mxtrt.graph.symbol import Entry, Graph, Node

__all__ = ["guess_weights"]

# Places of the parameters among each operator's inputs (FListInputNames in src/operator): all
# after the data, but for RNN, whose last inputs are states; deformable convolutions read learned
# offsets, and a mask, beside the data.
_PARAMETERS = {
    "BatchNorm": slice(1, None),
    "Convolution": slice(1, None),
    "Deconvolution": slice(1, None),
    "Embedding": slice(1, None),
    "FullyConnected": slice(1, None),
    "InstanceNorm": slice(1, None),
    "LayerNorm": slice(1, None),
    "LeakyReLU": slice(1, None),
    "RNN": slice(1, 2),
    "_contrib_DeformableConvolution": slice(2, None),
    "_contrib_ModulatedDeformableConvolution": slice(3, None),
    "_contrib_SyncBatchNorm": slice(1, None),
    "_sg_mkldnn_conv": slice(1, None),
    "_sg_mkldnn_fully_connected": slice(1, None),
}


def guess_weights(graph: Graph, data_names: Collection[str] = ()) -> frozenset[str]:
    """Names of the arguments and auxiliary states that are weights.

    Args:
        graph: The symbol.
        data_names: Arguments known to be data.
    """
    weights: set[str] = set()
    data = set(data_names)
    packing = _packing(graph)
    for index, node in enumerate(graph.nodes):
        parameters = node.inputs if index in packing else _parameters(node)
        for entry in node.inputs:
            producer = graph.nodes[entry.node]
            if producer.is_variable:
                (weights if entry in parameters else data).add(producer.name)
    return frozenset(weights - data)


def _parameters(node: Node) -> tuple[Entry, ...]:
    """The inputs of an operator that MXNet documents as parameters."""
    if node.attrs.get("with_sum", "").lower() in ("1", "true"):  # oneDNN's: before four ranges
        return node.inputs[1:-5]
    return node.inputs[_PARAMETERS.get(node.op, slice(0))]


def _packing(graph: Graph) -> set[int]:
    """Nodes in which Gluon's recurrent layers flatten their parameters and join them."""
    layers = [node for node in graph.nodes if node.op == "RNN"]
    found = {node.inputs[1].node for node in layers}
    found = {index for index in found if graph.nodes[index].op == "_rnn_param_concat"}
    flat = {entry.node for index in found for entry in graph.nodes[index].inputs}
    return found | {index for index in flat if graph.nodes[index].op == "Reshape"}
