"""Which nodes of a symbol go into engines, and why the others stay in MXNet; nothing is built."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Collection, Mapping

import numpy as np

from mxtrt.config import Options
from mxtrt.convert.onnx_builder import OPSET
from mxtrt.convert.ops import registry
from mxtrt.convert.ops.slower import Rule
from mxtrt.convert.support import support
from mxtrt.engines import Engine, Kind, cores
from mxtrt.engines.kinds import ONNXRUNTIME
from mxtrt.graph.partition import Partition, Worth, partition
from mxtrt.graph.symbol import Graph
from mxtrt.observe.report import LeftNode, Report
from mxtrt.plain.loading import own_name

__all__ = ["analyse", "describe"]

# Operators whose inputs and outputs all have the same shape: one known shape gives the others.
_ONE_SHAPE = frozenset({"elemwise_add", "elemwise_div", "elemwise_mul", "elemwise_sub", "add_n"})

# Dtypes of quantized tensors.
_WHOLE = frozenset({np.dtype(np.int8), np.dtype(np.uint8)})

# A size of 0, or under NumPy's semantics -1, in a shape as MXNet writes it.
_OPEN = re.compile(r"(?<![\d])(0|-1)L?(?!\d)")


def analyse(
    graph: Graph,
    weights: Collection[str],
    options: Options,
    refused: Mapping[str, str] | None = None,
    engine: Engine | Kind | None = None,
    gpu: bool = False,
    on_cpu: bool = False,
) -> Partition:
    """Partition a symbol with shapes and dtypes; nothing is built.

    Args:
        graph: The symbol as MXNet hands it to a graph pass.
        weights: Names of the variables whose values are known when engines are built.
        options: The options of the bind.
        refused: Reasons why further nodes stay in MXNet, by name.
        engine: The engine that is to run the segments; None for no one in particular.
        gpu: Whether the graph's arrays are on a GPU.
        on_cpu: Whether the engine computes on the CPU, where MXNet keeps what it does faster.
    """
    denied = {own_name(name) for name in options.deny_ops}
    likely = ONNXRUNTIME.opset if on_cpu else OPSET
    opset = likely if engine is None else engine.opset
    can = support(graph, denied, gpu, opset)
    reasons = can.reasons
    for index, node in enumerate(graph.nodes):
        if refused and node.name in refused and not node.is_variable:
            reasons.setdefault(index, refused[node.name])
    if engine is not None:
        if not engine.on_cpu:
            for index, node in enumerate(graph.nodes):
                known_op = registry().get(node.op)
                if known_op is not None and known_op.not_on_gpu:
                    reasons.setdefault(index, f"in {engine.name} {known_op.not_on_gpu}")
        reasons |= _of_other_dtypes(graph, weights, reasons, engine)
    allowed = {own_name(name) for name in options.allow_ops}
    judged = {
        index: rule
        for index, rule in can.slower.items()
        if on_cpu and allowed.isdisjoint(("*", graph.nodes[index].op))
    }
    kept, alone = _kept(judged, options)
    kept = {index: reason for index, reason in kept.items() if index not in reasons}
    reasons |= kept
    movers = frozenset(
        index
        for index, node in enumerate(graph.nodes)
        if node.op in registry() and registry()[node.op].moves_data_only
    )
    cheap = frozenset(index for index in can.cheap if graph.nodes[index].op not in allowed)
    worth = Worth(options.min_nodes, movers, cheap if "*" not in allowed else frozenset(), alone)
    while True:
        known = can.known - reasons.keys()
        found = partition(graph, reasons, frozenset(weights), worth=worth, known=known)
        inferring = _readers_of_open_sizes(graph, found.reasons.keys(), known)
        if not inferring:
            lone = {i for i, reason in alone.items() if found.reasons.get(i) == reason}
            return dataclasses.replace(found, slower=frozenset(kept) | lone)
        reasons |= inferring


def _of_other_dtypes(
    graph: Graph, weights: Collection[str], left: Collection[int], engine: Engine | Kind
) -> dict[int, str]:
    """Nodes with tensors that the engine does not take, and why.

    A quantized tensor is none of them where all who make and read it are operators on such, in
    the engine: then it is no input or output of a segment.

    Args:
        graph: The symbol.
        weights: Names of the variables whose values are known when engines are built.
        left: Nodes that stay in MXNet for other reasons.
        engine: The engine.
    """
    refused: dict[int, str] = {}
    inner: dict[int, str] = {}
    for index, node in enumerate(graph.nodes):
        others = [dtype for dtype in graph.dtypes_of(node) if dtype not in engine.dtypes]
        if not others or node.is_variable or index in left:
            continue
        known = registry().get(node.op)
        quantized = known is not None and known.quantized and _WHOLE.issuperset(others)
        chosen = inner if quantized else refused
        chosen[index] = f"{engine.name} takes no {others[0]} tensors"
    edges = [
        (entry.node, index)
        for index, node in enumerate(graph.nodes)
        for entry in node.inputs
        if graph.type_of(entry).dtype in _WHOLE and graph.nodes[entry.node].name not in weights
    ]
    edges += [(head.node, -1) for head in graph.heads if graph.type_of(head).dtype in _WHOLE]
    while True:
        ends = {end for edge in edges for end in edge if not inner.keys() >= {*edge}}
        cut = ends & inner.keys()
        if not cut:
            return refused
        refused |= {index: inner.pop(index) for index in cut}


def _kept(rules: Mapping[int, Rule], options: Options) -> tuple[dict[int, str], dict[int, str]]:
    """What MXNet keeps on a CPU as it is faster there, and what it keeps if nothing is around it.

    Args:
        rules: Rules that hold for nodes, by index.
        options: The options of the bind.
    """
    always: dict[int, str] = {}
    alone: dict[int, str] = {}
    if not rules:
        return always, alone
    guesses = options.prefer != "engine" and options.precision == "fp32"
    one_thread = guesses and cores.single(options.threads)
    for index, rule in rules.items():
        if rule.alone:
            if guesses:
                alone[index] = rule.reason
        elif one_thread or not rule.one_thread:
            always[index] = rule.reason
    return always, alone


def _readers_of_open_sizes(
    graph: Graph, left: Collection[int], known: Collection[int]
) -> dict[int, str]:
    """Nodes in engines from which MXNet has to infer the shape of a node that stays there, and why.

    A node without inputs may leave sizes open, as begin states do: shape=(2, 0, 128).  MXNet infers
    them from the nodes that read it, and of what they compute, until one has the sizes from another
    input.  An engine node tells nothing of its inputs.

    Args:
        graph: The symbol.
        left: Nodes that MXNet runs.
        known: Nodes that an engine computes for itself where it reads them.
    """
    readers: dict[int, str] = {}
    sizes_open: set[int] = set()
    for index, node in enumerate(graph.nodes):
        inputs = [entry.node for entry in node.inputs]
        unknown = sizes_open.intersection(inputs)
        if not inputs:
            if index in left and _OPEN.search(node.attrs.get("shape", "")):
                sizes_open.add(index)
            continue
        if index not in left:
            unknown.difference_update(known)
            if index in known or not unknown:
                continue
            source = graph.nodes[min(unknown)].name
            readers[index] = f"MXNet infers the shape of {source} from it"
        if node.op in _ONE_SHAPE:
            told = len(unknown) < len(set(inputs))
        else:
            told = node.op == "RNN" and inputs[0] not in unknown
        if unknown and not told:
            sizes_open.add(index)
    return readers


def describe(graph: Graph, found: Partition, engine: str) -> Report:
    """A report of a partition, its segments still to be filled in."""
    left = [
        LeftNode(graph.nodes[index].name, graph.nodes[index].op, reason, index in found.slower)
        for index, reason in sorted(found.reasons.items())
    ]
    return Report(engine=engine, left=left)
