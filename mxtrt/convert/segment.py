"""A segment as an ONNX model, one converter per MXNet operator."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from mxtrt.convert.node import HALF, SINGLE, convert_node, shape_only, value_name
from mxtrt.convert.onnx_builder import OPSET, OnnxBuilder, tensor_type
from mxtrt.errors import Unsupported
from mxtrt.graph.symbol import Graph, TensorType
from mxtrt.observe.report import SegmentReport
from mxtrt.system.background import breathe

__all__ = ["OnnxSegment", "WeightType", "describe_segment", "to_onnx"]


@dataclass(frozen=True, slots=True)
class WeightType:
    """Name, shape and dtype of a weight."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @property
    def nbytes(self) -> int:
        """Size in bytes."""
        return TensorType(self.shape, self.dtype).nbytes


@dataclass(frozen=True, slots=True)
class OnnxSegment:
    """A segment as a serialized ONNX model.

    Attributes:
        model: The ``ModelProto``; its inputs have symbolic dimensions and its weights are
            external initializers, so the bytes do not depend on batch size or weight values
            unless a converter had to know them.
        inputs: Names of the inputs that the model reads, in the segment's order.
        outputs: Names of the outputs, in the segment's order.
        weights: The external initializers: the weights that the model reads.
        sources: For every ONNX node the name of the MXNet node that it comes from.
    """

    model: bytes
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    weights: tuple[WeightType, ...]
    sources: tuple[str, ...]

    @property
    def digest(self) -> str:
        """Content hash: two input shapes with the same digest can share one engine."""
        return hashlib.sha256(self.model).hexdigest()


def to_onnx(
    graph: Graph, weights: Collection[str], *, varying: bool = False, opset: int = OPSET
) -> OnnxSegment:
    """Convert a segment.

    The model computes in float32.  What is float16 in MXNet is cast where it comes in and where it
    goes out; :mod:`mxtrt.precision` retypes the inside.

    Args:
        graph: The segment cut out as a graph of its own, with shapes and dtypes.
        weights: Names of its variables that become initializers; the others are inputs.
        varying: Whether converters are to write what a model for other sizes can compute.
        opset: The newest ONNX operator set whose operators the engine has.

    Raises:
        Unsupported: A node cannot be converted (at these shapes).
    """
    conversion = _Conversion(graph, weights, varying, opset)
    conversion.operators()
    inputs, owned = conversion.variables()
    breathe()
    outputs = conversion.heads()
    conversion.cast_variables()
    return OnnxSegment(
        conversion.builder.model(inputs, outputs).SerializeToString(deterministic=True),
        tuple(value.name for value in inputs),
        tuple(value.name for value in outputs),
        tuple(owned),
        tuple(conversion.sources),
    )


class _Tensor(NamedTuple):
    """An input or output of a model; all its dimensions are symbols."""

    name: str
    dims: list[str]
    dtype: np.dtype[Any]

    @classmethod
    def of(cls, name: str, tensor: TensorType) -> _Tensor:
        """The input or output for a value of MXNet's."""
        if tensor.shape is None or tensor.dtype is None:
            raise Unsupported(f"the type of {name} is not known")
        return cls(name, [f"{name}_{axis}" for axis in range(len(tensor.shape))], tensor.dtype)


class _Conversion:
    """A model in the making: its methods are called one after the other, as they stand here.

    Attributes:
        builder: Has the ONNX nodes.
        sources: For every ONNX node the name of the MXNet node that it comes from.
    """

    def __init__(self, graph: Graph, weights: Collection[str], varying: bool, opset: int) -> None:
        self._names = [node.name for node in graph.nodes]
        self._graph = _unique_names(graph)
        self._weights = weights
        self._widened: list[tuple[str, str]] = []  # float16 variables, and their float32 values
        self.builder = OnnxBuilder(self._graph.variables, varying, opset)
        self.sources: list[str] = []

    def operators(self) -> None:
        """Convert every operator node."""
        nodes = self.builder.nodes
        for name, node in zip(self._names, self._graph.nodes, strict=True):
            breathe()
            if not node.is_variable:
                convert_node(self._graph, node, self.builder)
                self.sources += [name] * (len(nodes) - len(self.sources))

    def variables(self) -> tuple[list[_Tensor], list[WeightType]]:
        """Declare the variables that the model reads; returns its inputs and its weights."""
        read = self._read()
        inputs: list[_Tensor] = []
        owned: list[WeightType] = []
        for index, node in enumerate(self._graph.nodes):
            if not node.is_variable:
                continue
            tensor = _Tensor.of(node.name, node.types[0])
            value = value_name(self._graph, index, 0)
            if value not in read:  # a label at inference, the gamma of a fixed BatchNorm
                continue
            if value != node.name:
                self._widened.append((node.name, value))
            if node.name not in self._weights:
                inputs.append(tensor)
            else:
                weight = WeightType(node.name, node.types[0].shape or (), tensor.dtype)
                owned.append(weight)
                self.builder.weight(weight.name, weight.shape, weight.dtype)
        return inputs, owned

    def _read(self) -> set[str]:
        """ONNX names of what the model reads.

        Data that only give their shape are an input too: other shapes are inferred from it.
        """
        shaped = {
            value_name(self._graph, *entry)
            for node in self._graph.nodes
            if not node.is_variable
            for place, entry in enumerate(node.inputs)
            if place in shape_only(node)
        }
        read = {name for node in self.builder.nodes for name in node.input}
        return read | shaped.difference(self._weights)

    def heads(self) -> list[_Tensor]:
        """The outputs of the model; what is float16 in MXNet is cast."""
        outputs = []
        for head in self._graph.heads:
            name, tensor = value_name(self._graph, *head), self._graph.type_of(head)
            if tensor.dtype == HALF:
                name, wide = self.builder.free(f"{name}__float16"), name
                self.builder.node("Cast", [wide], [name], to=tensor_type(HALF))
                self.sources.append(self._names[head.node])
            outputs.append(_Tensor.of(name, tensor))
        return outputs

    def cast_variables(self) -> None:
        """Put in front of all nodes a cast of every variable that is float16 in MXNet."""
        nodes = self.builder.nodes
        for name, wide in reversed(self._widened):
            self.builder.node("Cast", [name], [wide], to=tensor_type(SINGLE))
            nodes.insert(0, nodes.pop())
            self.sources.insert(0, name)


def describe_segment(name: str, graph: Graph, model: OnnxSegment) -> SegmentReport:
    """What a person is told of a segment that is not built yet.

    Args:
        name: Name of the segment.
        graph: The segment cut out as a graph of its own.
        model: What :func:`to_onnx` made of it.
    """
    types = {node.name: node.types[0] for node in graph.nodes if node.is_variable}
    return SegmentReport(
        name=name,
        nodes=[node.name for node in graph.nodes if not node.is_variable],
        inputs=[f"{name} {types[name]}" for name in model.inputs],
        outputs=[f"{graph.nodes[head.node].name} {graph.type_of(head)}" for head in graph.heads],
        weight_bytes=sum(weight.nbytes for weight in model.weights),
    )


def _unique_names(graph: Graph) -> Graph:
    """Operators called by their labels: MXNet lets them share a name, ONNX does not."""
    if all(node.name == label for node, label in zip(graph.nodes, graph.labels, strict=True)):
        return graph
    labelled = zip(graph.nodes, graph.labels, strict=True)
    nodes = [dataclasses.replace(node, name=label) for node, label in labelled]
    return Graph(nodes, graph.heads, graph.attrs)
