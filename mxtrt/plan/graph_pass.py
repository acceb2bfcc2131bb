"""The way of a symbol through mxtrt: MXNet's graph pass, from the symbol to its plan.

:func:`run_pass` hides that MXNet calls back, in the middle of ``Symbol.optimize_for``, with the
symbol's JSON and wants the partitioned one.
"""

from __future__ import annotations

import dataclasses
import hashlib
import logging
import threading
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from mxtrt.config import Options
from mxtrt.convert.segment import OnnxSegment, to_onnx
from mxtrt.engines import Engine, Kind, select
from mxtrt.engines.shared import shared_sessions
from mxtrt.errors import EngineError
from mxtrt.graph.partition import Partition, Segment
from mxtrt.graph.rewrite import rewrite
from mxtrt.graph.symbol import Graph, decoding
from mxtrt.node import library
from mxtrt.node.abi import PASS_NAME
from mxtrt.observe.report import LeftNode
from mxtrt.plain.forward import originals
from mxtrt.plan.analysis import analyse, describe
from mxtrt.plan.asked import engine_failed, infer_shapes
from mxtrt.plan.engine_node import EngineNode
from mxtrt.plan.plan import Check, Plan, Timed
from mxtrt.plan.wanted import Wanted, wanted_shapes
from mxtrt.system.recent import Recent
from mxtrt.system.threads import once

__all__ = ["Request", "forget", "prepare", "run_pass"]


_log = logging.getLogger("mxtrt")


@dataclass(frozen=True, slots=True)
class Request:
    """What a graph pass is to do.

    Attributes:
        options: The options of the bind.
        weights: Names of the weights.
        gpu: The GPU that the graph's arrays are on, None for host memory.
        refused: Nodes that the engine refused before, with its words.
        keep: Variables that stay arguments though nothing reads them any more.
        kind: What engines the segments are for; None for the one of the options.
        check: What engines have to pass when they are built first.
    """

    options: Options
    weights: frozenset[str]
    gpu: int | None = None
    refused: Mapping[str, str] = field(default_factory=dict)
    keep: Collection[str] = ()
    kind: Kind | None = None
    check: Check | None = None


@dataclass(slots=True)
class _Call:
    """A pass under way on a thread, and the plan that it made."""

    request: Request
    plan: Plan | None = None


_calls = threading.local()


def run_pass(
    symbol: Any,
    request: Request,
    args: dict[str, Any] | None,
    aux: dict[str, Any] | None,
    context: Any,
    inference: Mapping[str, Any],
) -> tuple[Any, Plan]:
    """Have MXNet infer a symbol's shapes, and partition it; engines are described but not built.

    MXNet calls the graph pass back from ``Symbol.optimize_for``, on this thread.

    Args:
        symbol: The symbol.
        request: What the pass is to do.
        args: Arguments by name; MXNet removes the weights that left the symbol.
        aux: Auxiliary states by name, likewise.
        context: Context of the bind, None where it is not known.
        inference: ``shape_dict``, ``type_dict``, ... as ``optimize_for`` takes them.

    Returns:
        MXNet's partitioned symbol, and the plan of its engines.

    Raises:
        MXNetError: MXNet, or the pass inside it, refused the symbol.
    """
    call = _Call(request)
    _calls.current = call
    try:
        with library().range("mxtrt partition"):
            rewritten = originals.optimize_for(symbol, PASS_NAME, args, aux, context, **inference)
    finally:
        _calls.current = None
    assert call.plan is not None
    return rewritten, call.plan


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


def _graph_pass(given: bytes, _options: dict[str, str]) -> str:
    """MXNet's graph pass: symbol JSON in, partitioned symbol JSON out."""
    call: _Call | None = getattr(_calls, "current", None)
    if call is None:
        raise EngineError("the TensorRT pass was run otherwise than by Symbol.optimize_for")
    request = call.request
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
        EngineNode(
            part.graph,
            part.owned,
            engine,
            request.options,
            request.gpu,
            (part.model, part.seconds),
            wanted,
        )
        for part, wanted in zip(made.parts, made.wanted, strict=True)
    ]
    report.segments = [node.report for node in nodes]
    if made.unwanted:
        _log.warning(made.unwanted)
        report.notes.append(made.unwanted)
    segments, keys = [part.segment for part in made.parts], [node.key for node in nodes]
    rewritten = rewrite(made.graph, segments, keys, library().token, request.keep)
    report.partition_seconds = time.perf_counter() - begin
    call.plan = Plan(
        nodes, rewritten, report, request.options, made.graph, made.timed, request.check
    )
    return rewritten.to_json()


class _Part(NamedTuple):
    """A segment, cut out and converted."""

    segment: Segment
    graph: Graph
    owned: frozenset[str]
    model: OnnxSegment
    seconds: float  # that the conversion took


class _Made(NamedTuple):
    """What becomes of a symbol with shapes, but for engines."""

    graph: Graph
    found: Partition
    parts: tuple[_Part, ...]
    without_inputs: tuple[int, ...]
    timed: Timed
    wanted: list[Wanted | None]  # for every part what the option shapes asks for
    unwanted: str  # why the option has no effect


#: Of the symbols and shapes bound last, by which a bind of one of them costs little.
recent: Recent[_Made] = Recent(16, 4 << 20)


def forget() -> None:
    """Forget the symbols bound last, and the engines that nobody uses now."""
    recent.clear()
    shared_sessions().forget()


def _made(text: str, request: Request, engine: Engine) -> _Made:
    """Partition a symbol as MXNet wrote it, or remember what became of it before."""
    key = (
        hashlib.sha256(text.encode()).digest(),
        frozenset(request.weights),
        frozenset(request.refused.items()),
        request.options,
        request.gpu,
        request.kind,
        (engine.name, engine.version),
    )
    made = recent.get(key)
    if made is None:
        made = _make(Graph.from_mxnet(text), request, engine)
        recent.put(key, made, len(text))
    return made


def _make(graph: Graph, request: Request, engine: Engine) -> _Made:
    kind = request.kind or engine
    found = analyse(
        graph,
        request.weights,
        request.options,
        request.refused,
        kind,
        gpu=request.gpu is not None,
        on_cpu=kind.on_cpu,
    )
    parts: list[_Part] = []
    without_inputs: list[int] = []
    for segment in found.segments:
        part, outside = graph.subgraph(segment.members, segment.outputs)
        owned = frozenset(graph.nodes[index].name for index in segment.weights)
        begin = time.thread_time()  # it pauses in the background
        model = to_onnx(part, owned, opset=kind.opset)
        seconds = time.thread_time() - begin
        # A variable that no ONNX node reads, such as a label at inference, is no input of the node.
        variables = part.nodes[: len(outside)]
        read = [e for e, v in zip(outside, variables, strict=True) if v.name in model.inputs]
        if read:
            segment = dataclasses.replace(segment, inputs=tuple(read))
            parts.append(_Part(segment, part, owned, model, seconds))
        else:  # nothing is left to read, and MXNet runs no operator without inputs
            without_inputs += segment.nodes
    inputs = [(part.segment.inputs, part.model) for part in parts]
    wanted, unwanted = wanted_shapes(request.options, graph, request.weights, inputs)
    return _Made(graph, found, tuple(parts), tuple(without_inputs), Timed(), wanted, unwanted)
