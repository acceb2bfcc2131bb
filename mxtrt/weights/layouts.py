"""Layouts that MXNet's operators give to weights which an engine reads where they are.

At inference oneDNN's convolutions put their filters, and its largest dense layers their matrices,
into a layout of their own: in place, and some time after the call has returned
(``MKLDNNDataReorderAsync`` and ``ChooseBRGEMMImpl`` in ``src/operator/nn/mkldnn``).  ONNX Runtime
may read them there at every run, so that MXNet answers from copies while an engine is built.
"""

from __future__ import annotations

from collections.abc import Collection

from mxtrt.graph.symbol import Graph, Node

__all__ = ["moved_by_mxnet"]

_CONVOLUTIONS = frozenset({"Convolution", "Deconvolution"})

# Matrices are moved whose two sizes are at least, and multiples of.
_LEAST, _MULTIPLE = 1024, 64


def moved_by_mxnet(graph: Graph, weights: Collection[str] | None = None) -> bool:
    """Whether MXNet moves weights of a graph; of shapes that are not known, whether it may.

    Args:
        graph: The graph.
        weights: Names of the weights; None for all variables.
    """
    for node in graph.nodes:
        if node.op not in _CONVOLUTIONS and node.op != "FullyConnected":
            continue
        read = [graph.nodes[entry.node] for entry in node.inputs[1:2]]
        read = [one for one in read if one.is_variable and (weights is None or one.name in weights)]
        if read and (node.op in _CONVOLUTIONS or _is_large(node, read[0])):
            return True
    return False


def _is_large(dense: Node, matrix: Node) -> bool:
    shape = matrix.types[0].shape if matrix.types else None
    sizes = shape or (int(dense.attrs.get("num_hidden", _LEAST)),)
    return all(size >= _LEAST and size % _MULTIPLE == 0 for size in sizes)
