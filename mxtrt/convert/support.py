"""Which nodes of a symbol can be converted, and why the others cannot."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from mxtrt.convert.node import convert_node, shape_only
from mxtrt.convert.onnx_builder import OPSET, OnnxBuilder
from mxtrt.convert.ops import registry
from mxtrt.convert.ops.slower import Rule, rule_for
from mxtrt.errors import Unsupported
from mxtrt.graph.symbol import Graph

__all__ = ["Support", "support"]

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
    graph: Graph, deny_ops: Collection[str] = (), gpu: bool = False, opset: int = OPSET
) -> Support:
    """Find out which nodes can be converted.

    Args:
        graph: The symbol with shapes and dtypes.
        deny_ops: Operators that stay in MXNet whatever the converters say.
        gpu: Whether its arrays are on a GPU, where MXNet has kernels of its own.
        opset: The newest ONNX operator set whose operators the engine has.
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
            call = convert_node(graph, node, builder := OnnxBuilder(opset=opset), gpu)
        except Unsupported as refusal:
            reasons[index] = str(refusal)
            continue
        of_data = known.isdisjoint(entry.node for entry in node.inputs)
        if (rule := rule_for(call, of_data)) is not None:
            slow[index] = rule
        if _CHEAP.issuperset(made.op_type for made in builder.nodes):
            cheap.add(index)
        if all(i in shape_only(node) or e.node in known for i, e in enumerate(node.inputs)):
            known.add(index)
    return Support(reasons, frozenset(cheap), frozenset(known), slow)
