"""The way of a symbol through mxtrt: graph, partition, convert, rewrite.

This is the body of the graph pass ``TensorRT`` that MXNet calls from ``Symbol.optimize_for``.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import re
import threading
import time
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from mxtrt.config import Options
from mxtrt.convert.ops import registry
from mxtrt.convert.ops.slower import Rule
from mxtrt.convert.segment import OnnxSegment, support, to_onnx
from mxtrt.engines import Engine, cores, select
from mxtrt.engines.shared import shared_sessions
from mxtrt.errors import EngineError
from mxtrt.graph.partition import Partition, Segment, Worth, partition
from mxtrt.graph.rewrite import rewrite
from mxtrt.graph.symbol import Graph, decoding
from mxtrt.node import library
from mxtrt.observe.report import LeftNode, Report
from mxtrt.plain.loading import own_name
from mxtrt.plan.engine_node import EngineNode, engine_failed, infer_shapes
from mxtrt.plan.plan import Check, Plan, Timed
from mxtrt.system.recent import Recent
from mxtrt.system.threads import once

__all__ = ["PassRequest", "analyse", "forget", "prepare", "request_pass"]


@dataclass(slots=True)
class PassRequest:
    """One call of ``Symbol.optimize_for``: what the pass is to do, and what it did.

    Attributes:
        options: The options of the bind.
        weights: Names of the weights.
        gpu: The GPU that the graph's arrays are on, None for host memory.
        refused: Nodes that the engine refused before, with its words.
        keep: Variables that stay arguments though nothing reads them any more.
        slower_stays: Whether what an engine on the CPU computes slower than MXNet stays there.
        check: What engines have to pass when they are built first.
        plan: Set by the pass: the engines of the partitioned symbol.
    """

    options: Options
    weights: frozenset[str]
    gpu: int | None = None
    refused: Mapping[str, str] = field(default_factory=dict)
    keep: Collection[str] = ()
    slower_stays: bool = True
    check: Check | None = None
    plan: Plan | None = field(default=None, init=False)


_requests = threading.local()

# Operators whose inputs and outputs have one shape, which any of them tells.
_ONE_SHAPE = frozenset({"elemwise_add", "elemwise_div", "elemwise_mul", "elemwise_sub", "add_n"})

# A size of 0, or under NumPy's semantics -1, in a shape as MXNet writes it.
_OPEN = re.compile(r"(?<![\d])(0|-1)L?(?!\d)")


@contextlib.contextmanager
def request_pass(request: PassRequest) -> Iterator[None]:
    """Run the ``optimize_for`` of this block's thread with this request."""
    _requests.current = request
    try:
        yield
    finally:
        _requests.current = None


def prepare(options: Options, context: Any = None) -> Engine:
    """Load the engine node and the engine.

    Args:
        options: The options of the bind.
        context: The MXNet context of the bind, if it is known.

    Raises:
        EngineError: The engine is missing, does not load, or runs no graphs of this context.
        NodeError: The engine node is missing or does not fit this MXNet.
    """
    _connect()
    engine = select(options)
    if context is not None and context.device_type not in engine.contexts:
        raise EngineError(
            f"its context is {context} and {engine.name} runs graphs on "
            f"{' and '.join(engine.contexts)} only"
            + ("; TensorRT runs graphs on gpu" if "gpu" not in engine.contexts else "")
        )
    return engine


@once
def _connect() -> None:
    library().set_callbacks(_graph_pass, infer_shapes, engine_failed)


def _kept(
    graph: Graph, rules: Mapping[int, Rule], options: Options
) -> tuple[dict[int, str], dict[int, str]]:
    """What MXNet keeps on a CPU as it is faster there, and what it keeps if nothing is around it.

    Args:
        graph: The symbol.
        rules: Rules that hold for its nodes, by index.
        options: The options of the bind.
    """
    allowed = {own_name(name) for name in options.allow_ops}
    always: dict[int, str] = {}
    alone: dict[int, str] = {}
    if not rules or "*" in allowed:
        return always, alone
    guesses = options.prefer != "engine" and options.precision == "fp32"
    one_thread = guesses and cores.single(options.threads)
    for index, rule in rules.items():
        if graph.nodes[index].op in allowed:
            continue
        if rule.alone:
            if guesses:
                alone[index] = rule.reason
        elif one_thread or not rule.one_thread:
            always[index] = rule.reason
    return always, alone


def analyse(
    graph: Graph,
    weights: Collection[str],
    options: Options,
    refused: Mapping[str, str] | None = None,
    engine: Engine | None = None,
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
    can = support(graph, weights, denied, gpu)
    reasons = can.reasons
    for index, node in enumerate(graph.nodes):
        if refused and node.name in refused and not node.is_variable:
            reasons.setdefault(index, refused[node.name])
        if engine is not None and not node.is_variable:
            for dtype in graph.dtypes_of(node):
                if dtype not in engine.dtypes:
                    reasons.setdefault(index, f"{engine.name} takes no {dtype} tensors")
    allowed = {own_name(name) for name in options.allow_ops}
    kept, alone = _kept(graph, can.slower if on_cpu else {}, options)
    for index, reason in kept.items():
        reasons.setdefault(index, reason)
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
            return found
        reasons |= inferring


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


def _graph_pass(given: bytes, _options: dict[str, str]) -> str:
    """MXNet's graph pass: symbol JSON in, partitioned symbol JSON out."""
    request: PassRequest | None = getattr(_requests, "current", None)
    if request is None:
        raise EngineError("the TensorRT pass was run otherwise than by Symbol.optimize_for")
    begin = time.perf_counter()
    with decoding():
        text = given.decode()
    engine = select(request.options)
    made = _made(text, request, engine)
    report = describe(made.graph, made.found, f"{engine.name} {engine.version}")
    reason = "its segment has no input but weights"
    left = (made.graph.nodes[index] for index in made.without_inputs)
    report.left += [LeftNode(node.name, node.op, reason) for node in left]
    nodes = [
        EngineNode(part.graph, part.owned, engine, request.options, request.gpu, part.model)
        for part in made.parts
    ]
    report.segments = [node.report for node in nodes]
    segments, keys = [part.segment for part in made.parts], [node.key for node in nodes]
    rewritten = rewrite(made.graph, segments, keys, library().token, request.keep)
    report.partition_seconds = time.perf_counter() - begin
    request.plan = Plan(
        nodes, rewritten, report, request.options, made.graph, made.timed, request.check
    )
    return rewritten.to_json()


class _Part(NamedTuple):
    """A segment, cut out and converted."""

    segment: Segment
    graph: Graph
    owned: frozenset[str]
    model: OnnxSegment


class _Made(NamedTuple):
    """What becomes of a symbol with shapes, but for engines."""

    graph: Graph
    found: Partition
    parts: tuple[_Part, ...]
    without_inputs: tuple[int, ...]
    timed: Timed


#: Of the symbols and shapes bound last, by which a bind of one of them costs little.
recent: Recent[_Made] = Recent(16, 4 << 20)


def forget() -> None:
    """Forget the symbols bound last, and the engines that nobody uses now."""
    recent.clear()
    shared_sessions().forget()


def _made(text: str, request: PassRequest, engine: Engine) -> _Made:
    """Partition a symbol as MXNet wrote it, or remember what became of it before."""
    key = (
        hashlib.sha256(text.encode()).digest(),
        frozenset(request.weights),
        frozenset(request.refused.items()),
        request.options,
        request.gpu,
        request.slower_stays,
        (engine.name, engine.version),
    )
    made = recent.get(key)
    if made is None:
        made = _make(Graph.from_mxnet(text), request, engine)
        recent.put(key, made, len(text))
    return made


def _make(graph: Graph, request: PassRequest, engine: Engine) -> _Made:
    found = analyse(
        graph,
        request.weights,
        request.options,
        request.refused,
        engine,
        gpu=request.gpu is not None,
        on_cpu=engine.on_cpu and request.slower_stays,
    )
    parts: list[_Part] = []
    without_inputs: list[int] = []
    for segment in found.segments:
        part, outside = graph.subgraph(segment.members, segment.outputs)
        owned = frozenset(graph.nodes[index].name for index in segment.weights)
        model = to_onnx(part, owned)
        # What no ONNX node reads (a label at inference) is no input of the engine node.
        variables = part.nodes[: len(outside)]
        read = [e for e, v in zip(outside, variables, strict=True) if v.name in model.inputs]
        if read:
            segment = dataclasses.replace(segment, inputs=tuple(read))
            parts.append(_Part(segment, part, owned, model))
        else:  # its only data was such a label; MXNet runs no operator without inputs
            without_inputs += segment.nodes
    return _Made(graph, found, tuple(parts), tuple(without_inputs), Timed())


def describe(graph: Graph, found: Partition, engine: str) -> Report:
    """A report of a partition, its segments still to be filled in."""
    left = [
        LeftNode(graph.nodes[index].name, graph.nodes[index].op, reason)
        for index, reason in sorted(found.reasons.items())
    ]
    return Report(engine=engine, left=left)
