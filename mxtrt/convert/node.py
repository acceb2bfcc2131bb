"""One node of a segment as ONNX nodes, and what its values are called there."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection

import numpy as np

from mxtrt.convert.onnx_builder import OnnxBuilder
from mxtrt.convert.ops import Call, convert, registry
from mxtrt.errors import Unsupported
from mxtrt.graph.symbol import Entry, Graph, Node, TensorType, untaken

__all__ = ["HALF", "SINGLE", "convert_node", "shape_only", "value_name", "widened"]

HALF, SINGLE = np.dtype(np.float16), np.dtype(np.float32)


def convert_node(graph: Graph, node: Node, builder: OnnxBuilder, gpu: bool = False) -> Call:
    """Emit the ONNX nodes of one node.

    Args:
        graph: The graph that it is of, with shapes and dtypes.
        node: The node.
        builder: Takes the ONNX nodes.
        gpu: Whether the graph's arrays are on a GPU, where MXNet has kernels of its own.

    Raises:
        Unsupported: It cannot be converted.
    """
    known = registry().get(node.op)
    if known and known.not_in_half and any(tensor.dtype == HALF for tensor in node.types):
        raise Unsupported(known.not_in_half)
    producers = [graph.nodes[entry.node] for entry in node.inputs]
    if any(not producer.name for producer in producers if producer.is_variable):
        raise Unsupported("it reads a variable without a name")
    return convert(
        dataclasses.replace(node, types=tuple(map(widened, node.types))),
        [widened(graph.type_of(entry)) for entry in node.inputs],
        [value_name(graph, entry.node, entry.output) for entry in node.inputs],
        builder,
        bool(node.inputs) and graph.type_of(node.inputs[0]).dtype == HALF,
        gpu,
    )


def value_name(graph: Graph, index: int, output: int) -> str:
    """ONNX name of an entry where converters read it, the one that ``Call.output`` gives it."""
    name = graph.value_name(Entry(index, output))
    node = graph.nodes[index]
    if not node.is_variable or node.types[0].dtype != HALF:
        return name
    return untaken(f"{name}__float32", graph.variables)


def widened(tensor: TensorType) -> TensorType:
    """The type of a value inside a model: what is float16 in MXNet is float32 there."""
    return dataclasses.replace(tensor, dtype=SINGLE) if tensor.dtype == HALF else tensor


def shape_only(node: Node) -> Collection[int]:
    """Indices of a convertible node's inputs of which only the shape matters."""
    return registry()[node.op].shape_only
