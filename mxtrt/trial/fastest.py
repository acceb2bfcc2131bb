"""Timing engines against MXNet when they are built (option ``prefer``).

A segment runs in turns in its engine and in MXNet's operators, both in an executor of
MXNet's, on the data of the bind where there are any and on random numbers otherwise.  A segment
whose engine is slower beyond doubt goes back to MXNet: by more than 3 %, and by more than MXNet is
from itself in the same measurement.  One that takes as long keeps its engine.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from mxtrt.engines import cores
from mxtrt.errors import RefusedNodesError
from mxtrt.graph.symbol import Entry, Graph, Node
from mxtrt.plain.forward import context_of
from mxtrt.plain.loading import mxnet_reason
from mxtrt.plan.inline import InlineRun
from mxtrt.system.recent import Recent
from mxtrt.timing.paired import MOST_NOISE, Duet, Paired, paired
from mxtrt.trial.indices import IndicesError
from mxtrt.trial.segment import bind, engine_graph, operators, run_engine, values_for

if TYPE_CHECKING:
    from mxtrt.plan.engine_node import EngineNode

__all__ = ["compare", "is_open", "is_timed", "outcomes", "recalled"]

#: Input shapes at which a model is timed.
_MOST_TIMED = 3
#: Time for one segment, unless the fewest rounds take longer.
_SECONDS = 0.25
_FEWEST_ROUNDS = 4
#: What ``prefer="auto"`` does not time: forwards that take more seconds, since a bind would take
#: ten times that, and weights of more bytes, of which MXNet needs a copy meanwhile.
_LONGEST_FORWARD = 0.5
_MOST_WEIGHTS = 512 << 20
#: Multiplications of fewer numbers take less time than MXNet takes to call its operators.
_LEAST_WORK = 5e6
#: Time that one way runs before it is the other's turn: the threads of either spin for a moment
#: after a forward, and would slow the first one of the other.
_TURN = 0.005


def is_timed(node: EngineNode) -> bool:
    """Whether the option ``prefer`` has an engine compared with MXNet."""
    if node.options.prefer != "auto":
        return node.options.prefer == "fastest"
    # Whoever asks for another precision wants its engine.
    return node.engine.on_cpu and node.precision == "fp32" and is_open(node.graph)


def is_open(graph: Graph) -> bool:
    """Whether it depends on sizes and machine if MXNet or ONNX Runtime computes a segment faster.

    MXNet's products of matrices and convolutions are up to a seventh faster on a CPU, or as much
    slower.  Around them ONNX Runtime saves more than that: normalisations become part of the
    convolutions before them, activations and sums too.  (On a
    Zen 4 every network of the zoo with as many normalisations as convolutions is faster.)

    Args:
        graph: The segment, with shapes.
    """
    work = {index: _work(graph, node) for index, node in enumerate(graph.nodes)}
    products = {index: size for index, size in work.items() if size}
    if sum(products.values()) < _LEAST_WORK:
        return False
    norms = sum(node.op == "BatchNorm" for node in graph.nodes)
    grouped = sum(size for i, size in products.items() if _is_grouped(graph, graph.nodes[i]))
    return 2 * norms < len(products) or 10 * grouped > sum(products.values())


def _work(graph: Graph, node: Node) -> int:
    """Multiplications of a layer: every weight at every place of the output."""
    if node.op not in ("Convolution", "FullyConnected", "RNN", "_npx_rnn"):
        return 0
    weight, output = graph.type_of(node.inputs[1]).shape, node.types[0].shape
    assert weight is not None
    assert output is not None
    places = prod(output[:2]) if len(weight) == 1 else prod(output) // weight[0]
    return prod(weight) * places


def _is_grouped(graph: Graph, node: Node) -> bool:
    """Whether a convolution has groups of several channels."""
    shape = graph.type_of(node.inputs[1]).shape
    return node.attrs.get("num_group", "1") != "1" and shape is not None and shape[1] > 1


@dataclass(frozen=True, slots=True)
class _Outcome:
    """What came of timing a model: the size of its inputs, and why MXNet is faster, if it is."""

    size: int
    slower: str


#: By model, of those timed last.
outcomes: Recent[tuple[_Outcome, ...]] = Recent(256, 1024)


def _model_of(node: EngineNode, alone: bool) -> tuple[object, ...]:
    """What tells a model whatever its input shapes are, which its ONNX model may depend on."""
    graph = hashlib.sha256(node.graph.to_json().encode()).digest()
    return graph, node.report.weight_bytes, node.gpu, node.options.prefer, alone


def _size_of(node: EngineNode) -> int:
    types = [node.graph.type_of(Entry(i)) for i, n in enumerate(node.graph.nodes) if n.is_variable]
    return sum(tensor.nbytes for tensor in types)


def recalled(node: EngineNode, alone: bool) -> str | None:
    """Why MXNet is faster than an engine by what is known of other input shapes.

    Detectors see images of ever new sizes.  Once its model was timed at a few, the nearest decides.

    Args:
        node: An engine node; its engine need not be built.
        alone: Whether its graph has no other operator.

    Returns:
        The reason; empty where the engine is not slower, None where it is to be timed.
    """
    known = outcomes.get(_model_of(node, alone)) or ()
    if len(known) < _MOST_TIMED:
        return None
    size = max(_size_of(node), 1)
    return min(known, key=lambda outcome: abs(math.log(max(outcome.size, 1) / size))).slower


def compare(node: EngineNode, arrays: Mapping[str, Any], alone: bool) -> None:
    """Time an engine against MXNet, unless its model was timed at enough other input shapes.

    MXNet's operators run on copies of the segment's weights, which are gone afterwards.

    Args:
        node: An engine node whose engine is built; ``prefer="auto"`` does not time what would take
            long or much memory.
        arrays: NDArrays of the segment's weights, and of its data where these are known.
        alone: Whether its graph has no other operator: it may run on the calling thread.

    Raises:
        RefusedNodesError: MXNet is faster; all nodes of the segment are named.
    """
    reason = recalled(node, alone)
    if reason is None:
        reason = _compare(node, arrays, alone)
        key = _model_of(node, alone)
        known = (*(outcomes.get(key) or ()), _Outcome(_size_of(node), reason))
        outcomes.put(key, known, len(known))
    elif not reason:
        node.report.notes.append("timed at other input shapes, where the engine is not slower")
    if reason:
        raise RefusedNodesError(dict.fromkeys(node.report.nodes, reason))


def _compare(node: EngineNode, arrays: Mapping[str, Any], alone: bool) -> str:
    """Why MXNet is faster, empty where it is not, or where that is not known."""
    from mxnet.base import MXNetError

    options, notes = node.options, node.report.notes
    hurried = options.prefer == "auto"
    if hurried and node.report.weight_bytes > _MOST_WEIGHTS:
        notes.append("not timed: MXNet would need a copy of the weights")
        return ""
    try:
        values = values_for(node.graph, node.inputs, arrays)
        begin = time.perf_counter()
        run_engine(node, values)  # raises if it does not run
        if hurried and (seconds := time.perf_counter() - begin) > _LONGEST_FORWARD:
            notes.append(f"not timed: a forward takes {seconds:.2g} s")
            return ""
        plain = _mxnet(node, values)
    except MXNetError as error:  # a GPU that MXNet has no kernels for
        notes.append(f"not timed: MXNet does not run it: {mxnet_reason(error)}")
        return ""
    except IndicesError as error:
        notes.append(f"not timed: {error}")
        return ""
    values = {
        name: values[name] for name in node.inputs
    }  # the weights are not needed again: MXNet's executor has a copy
    ours = _Engine(node, values, options.inline_below if alone else 0)
    # The CPU time of one thread does not depend on how busy the machine is.
    clock = time.process_time if cores.single(options.threads) else time.perf_counter
    found, forwards = _timed(lambda: _wait(ours()), plain, clock)
    if node.state.retired:
        raise RefusedNodesError(node.state.reasons)
    engine, mxnet = (f"{ms / forwards:.3g} ms" for ms in (found.mxtrt_ms, found.plain_ms))
    if found.high < math.exp(-max(MOST_NOISE, found.noise)):
        told = f"its segment takes {engine} in the engine and {mxnet} in MXNet"
        return f"prefer={options.prefer}: {told}"
    notes.append(f"timed: {engine} in the engine, {mxnet} in MXNet")
    return ""


def _mxnet(node: EngineNode, values: Mapping[str, Any]) -> Callable[[], None]:
    """A forward in MXNet: an executor's, or of one operator after the other where that fails.

    Raises:
        MXNetError: It does not run either way.
    """
    from mxnet.base import MXNetError

    try:
        executor, _ = bind(node.graph, node.graph.heads, values, node.gpu)
        _wait(executor.forward(is_train=False))
    except MXNetError:  # oneDNN's subgraphs do not fit every graph
        compute, _ = operators(node.graph, node.graph.heads, values, node.gpu)
        _wait(compute())
        return lambda: _wait(compute())
    return lambda: _wait(executor.forward(is_train=False))


def _timed(
    ours: Callable[[], object], plain: Callable[[], object], clock: Callable[[], float]
) -> tuple[Paired, int]:
    """Figures of an engine and of MXNet in turns, and how many forwards a turn has.

    Two pairs are enough where the engine is the faster one.
    """
    ours()  # the first run allocates memory
    plain()
    shortest = min(_seconds(ours, clock), _seconds(plain, clock))
    forwards = max(1, round(_TURN / max(shortest, 1e-6)))

    def turn(call: Callable[[], object]) -> Callable[[], object]:
        def repeat() -> None:
            for _ in range(forwards):
                call()

        return repeat

    seconds = [_seconds(turn(call), clock) for call in (plain, ours, ours, plain)]
    pairs = np.array([seconds[:2], seconds[:1:-1]])
    plainly, in_engine = pairs.sum(axis=0)
    if in_engine <= plainly:
        return paired(pairs, pairs[:, :1].repeat(2, axis=1)), forwards
    duet = Duet(turn(plain), turn(ours), _SECONDS, 0, _FEWEST_ROUNDS, clock)
    for _ in range(duet.rounds):
        duet.before()
        duet.call()
    return duet.result(), forwards


def _seconds(call: Callable[[], object], clock: Callable[[], float]) -> float:
    begin = clock()
    call()
    return clock() - begin


class _Engine:
    """An engine node as the hooks run it: on this thread where it is fast enough."""

    def __init__(self, node: EngineNode, values: Mapping[str, Any], inline_below: int) -> None:
        import mxnet as mx

        context = context_of(node.gpu)
        given = [(name, values[name]) for name in node.inputs]
        self._inputs = [mx.nd.array(a, dtype=a.dtype, ctx=context) for _, a in given]
        graph = engine_graph(node)
        self._executor, _ = bind(graph, graph.heads, dict(given), node.gpu)
        self._inline = InlineRun(node, inline_below, context) if inline_below else None

    def __call__(self) -> Sequence[Any]:
        outputs = self._inline(self._inputs) if self._inline is not None else None
        if outputs is not None:
            return outputs
        made: Sequence[Any] = self._executor.forward(is_train=False)
        return made


def _wait(outputs: Sequence[Any]) -> None:
    for output in outputs:
        output.wait_to_read()
