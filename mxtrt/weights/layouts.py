"""Layouts that MXNet's operators give to weights which an engine reads where they are.

At inference oneDNN's convolutions and dense layers put their weights into a layout of their own, in
place and some time after the call has returned (``MKLDNNDataReorderAsync`` in
``src/operator/nn/mkldnn``).  ONNX Runtime packs the matrices of dense layers when it is built and
reads these weights no more; filters of convolutions it may read at every run.  Such an engine must
not run while MXNet answers for it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection

from mxtrt.graph.symbol import Graph

__all__ = ["moved_by_mxnet"]

_CONVOLUTIONS = frozenset({"Convolution", "Deconvolution"})


def moved_by_mxnet(graph: Graph, weights: Collection[str] | None = None) -> bool:
    """Whether MXNet moves weights of a graph that an engine on the CPU may read where they are.

    Args:
        graph: The graph.
        weights: Names of the weights; None for all variables.
    """
    moved: set[int] = set()
    read: Counter[int] = Counter()
    for node in graph.nodes:
        places = {entry.node for entry in node.inputs if graph.nodes[entry.node].is_variable}
        places = {i for i in places if weights is None or graph.nodes[i].name in weights}
        if node.op in _CONVOLUTIONS and places:
            return True
        read.update(places)
        if node.op == "FullyConnected" and len(node.inputs) > 1:
            moved |= places & {node.inputs[1].node}
    return any(read[place] > 1 for place in moved)
