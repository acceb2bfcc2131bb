"""A segment as an ONNX model, one converter per MXNet operator."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from mxtrt.convert.onnx_builder import OnnxBuilder, tensor_type
from mxtrt.convert.ops import Call, convert, registry
from mxtrt.convert.ops.slower import Rule, rule_for
from mxtrt.errors import Unsupported
from mxtrt.graph.symbol import Entry, Graph, Node, TensorType, untaken
from mxtrt.observe.report import SegmentReport

__all__ = ["OnnxSegment", "Support", "WeightType", "describe_segment", "support", "to_onnx"]

_HALF, _SINGLE = np.dtype(np.float16), np.dtype(np.float32)

# fmt: off
#: ONNX operators that compute little for each element.
_CHEAP = frozenset({
    "Abs", "Add", "And", "Cast", "Ceil", "Clip", "Div", "Equal", "Expand", "Flatten", "Floor",
    "Gather", "Greater", "GreaterOrEqual", "HardSigmoid", "Identity", "LeakyRelu", "Less",
    "LessOrEqual", "Max", "Min", "Mul", "Neg", "Not", "Or", "PRelu", "Reciprocal", "Relu",
    "Reshape", "Sigmoid", "Sign", "Slice", "Softsign", "Sqrt", "Squeeze", "Sub", "Tanh",
    "Transpose", "Unsqueeze", "Where", "Xor",
})
# fmt: on


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


@dataclass(frozen=True, slots=True)
class Support:
    """What can be converted.

    Attributes:
        reasons: Why operator nodes have to stay in MXNet, by index; the others can be converted.
        cheap: Convertible nodes that compute little for each element.
        known: Convertible nodes whose values depend on nothing but shapes.
        slower: Rules by which convertible nodes may stay in MXNet on a CPU, by index.
    """

    reasons: dict[int, str]
    cheap: frozenset[int]
    known: frozenset[int]
    slower: Mapping[int, Rule]


def support(
    graph: Graph, weights: Collection[str], deny_ops: Collection[str] = (), gpu: bool = False
) -> Support:
    """Find out which nodes can be converted.

    Args:
        graph: The symbol with shapes and dtypes.
        weights: Variables whose values are known when the engine is built.
        deny_ops: Operators that stay in MXNet whatever the converters say.
        gpu: Whether its arrays are on a GPU, where MXNet has kernels of its own.
    """
    reasons: dict[int, str] = {}
    cheap: set[int] = set()
    known: set[int] = set()
    slow: dict[int, Rule] = {}
    read = {entry for node in graph.nodes for entry in node.inputs} | set(graph.heads)
    highest: dict[int, int] = {}
    for entry in read:
        highest[entry.node] = max(highest.get(entry.node, 0), entry.output)
    for index, node in enumerate(graph.nodes):
        if node.is_variable:
            continue
        if node.op in deny_ops:
            reasons[index] = f"operator {node.op} is in deny_ops"
            continue
        known_op = registry().get(node.op)
        produced = known_op.outputs if known_op is not None else None
        if produced is not None and highest.get(index, 0) >= produced:
            reasons[index] = f"output {highest[index]} of {node.op} is read"
            continue
        try:
            call = _convert(graph, node, builder := OnnxBuilder(), gpu)
        except Unsupported as refusal:
            reasons[index] = str(refusal)
            continue
        if (rule := rule_for(call)) is not None:
            slow[index] = rule
        if _CHEAP.issuperset(made.op_type for made in builder.nodes):
            cheap.add(index)
        if all(i in _shape_only(node) or e.node in known for i, e in enumerate(node.inputs)):
            known.add(index)
    return Support(reasons, frozenset(cheap), frozenset(known), slow)


def _shape_only(node: Node) -> Collection[int]:
    """Indices of a convertible node's inputs of which only the shape matters."""
    return registry()[node.op].shape_only


def to_onnx(graph: Graph, weights: Collection[str]) -> OnnxSegment:
    """Convert a segment.

    The model computes in float32.  What is float16 in MXNet is cast where it comes in and where it
    goes out; :mod:`mxtrt.precision` retypes the inside.

    Args:
        graph: The segment cut out as a graph of its own, with shapes and dtypes.
        weights: Names of its variables that become initializers; the others are inputs.

    Raises:
        Unsupported: A node cannot be converted (at these shapes).
    """
    conversion = _Conversion(graph, weights)
    conversion.operators()
    inputs, owned = conversion.variables()
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

    def __init__(self, graph: Graph, weights: Collection[str]) -> None:
        self._names = [node.name for node in graph.nodes]
        self._graph = _unique_names(graph)
        self._weights = weights
        self._widened: list[tuple[str, str]] = []  # float16 variables, and their float32 values
        self.builder = OnnxBuilder(self._graph.variables)
        self.sources: list[str] = []

    def operators(self) -> None:
        """Convert every operator node."""
        nodes = self.builder.nodes
        for name, node in zip(self._names, self._graph.nodes, strict=True):
            if not node.is_variable:
                _convert(self._graph, node, self.builder)
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
            value = _value(self._graph, index, 0)
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
            _value(self._graph, *entry)
            for node in self._graph.nodes
            if not node.is_variable
            for place, entry in enumerate(node.inputs)
            if place in _shape_only(node)
        }
        read = {name for node in self.builder.nodes for name in node.input}
        return read | shaped.difference(self._weights)

    def heads(self) -> list[_Tensor]:
        """The outputs of the model; what is float16 in MXNet is cast."""
        outputs = []
        for head in self._graph.heads:
            name, tensor = _value(self._graph, *head), self._graph.type_of(head)
            if tensor.dtype == _HALF:
                name, wide = self.builder.free(f"{name}__float16"), name
                self.builder.node("Cast", [wide], [name], to=tensor_type(_HALF))
                self.sources.append(self._names[head.node])
            outputs.append(_Tensor.of(name, tensor))
        return outputs

    def cast_variables(self) -> None:
        """Put in front of all nodes a cast of every variable that is float16 in MXNet."""
        nodes = self.builder.nodes
        for name, wide in reversed(self._widened):
            self.builder.node("Cast", [name], [wide], to=tensor_type(_SINGLE))
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


def _convert(graph: Graph, node: Node, builder: OnnxBuilder, gpu: bool = False) -> Call:
    known = registry().get(node.op)
    if known and known.not_in_half and any(tensor.dtype == _HALF for tensor in node.types):
        raise Unsupported(known.not_in_half)
    producers = [graph.nodes[entry.node] for entry in node.inputs]
    if any(not producer.name for producer in producers if producer.is_variable):
        raise Unsupported("it reads a variable without a name")
    return convert(
        dataclasses.replace(node, types=tuple(map(_widened, node.types))),
        [_widened(graph.type_of(entry)) for entry in node.inputs],
        [_value(graph, entry.node, entry.output) for entry in node.inputs],
        builder,
        bool(node.inputs) and graph.type_of(node.inputs[0]).dtype == _HALF,
        gpu,
    )


def _value(graph: Graph, index: int, output: int) -> str:
    """ONNX name of an entry where converters read it, the one that ``Call.output`` gives it."""
    name = graph.value_name(Entry(index, output))
    node = graph.nodes[index]
    if not node.is_variable or node.types[0].dtype != _HALF:
        return name
    return untaken(f"{name}__float32", graph.variables)


def _widened(tensor: TensorType) -> TensorType:
    """The type of a value inside a model: what is float16 in MXNet is float32 there."""
    return dataclasses.replace(tensor, dtype=_SINGLE) if tensor.dtype == _HALF else tensor


def _unique_names(graph: Graph) -> Graph:
    """Operators called by their labels: MXNet lets them share a name, ONNX does not."""
    if all(node.name == label for node, label in zip(graph.nodes, graph.labels, strict=True)):
        return graph
    labelled = zip(graph.nodes, graph.labels, strict=True)
    nodes = [dataclasses.replace(node, name=label) for node, label in labelled]
    return Graph(nodes, graph.heads, graph.attrs)
