"""Timing engines against MXNet when they are built (option ``prefer="fastest"``).

Every segment runs in turns in its engine and in MXNet's operators, both in an executor of
MXNet's, on the data of the bind where there are any and on random numbers otherwise.  A segment
whose engine is slower beyond doubt goes back to MXNet: by more than 3 %, and by more than MXNet is
from itself in the same measurement.  One that takes as long keeps its engine.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mxtrt.errors import RefusedNodesError
from mxtrt.indices import IndicesError
from mxtrt.models import mxnet_reason
from mxtrt.perf.paired import MOST_NOISE, Duet, Paired
from mxtrt.trial import bind, context_of, engine_graph, operators, run_engine, values_for

if TYPE_CHECKING:
    from mxtrt.engine_node import EngineNode

__all__ = ["compare"]

#: Time for one segment, unless the fewest rounds take longer.
_SECONDS = 0.25
#: Time that one way runs before it is the other's turn: the threads of either spin for a moment
#: after a forward, and would slow the first one of the other.
_TURN = 0.005


def compare(node: EngineNode, arrays: Mapping[str, Any], inline_below: int) -> None:
    """Time an engine against MXNet.

    MXNet's operators run on copies of the segment's weights, which are gone afterwards.

    Args:
        node: An engine node whose engine is built.
        arrays: NDArrays of the segment's weights, and of its data where these are known.
        inline_below: Microseconds below which the engine will run on the calling thread.

    Raises:
        RefusedNodesError: MXNet is faster; all nodes of the segment are named.
    """
    from mxnet.base import MXNetError

    try:
        values = values_for(node, arrays)
        run_engine(node, values)  # whether it does
        plain = _mxnet(node, values)
    except MXNetError as error:  # a GPU that MXNet has no kernels for
        node.report.notes.append(f"not timed: MXNet does not run it: {mxnet_reason(error)}")
        return
    except IndicesError as error:
        node.report.notes.append(f"not timed: {error}")
        return
    ours = _Engine(node, values, inline_below)
    found, forwards = _timed(lambda: _wait(ours()), plain)
    if node.failures:
        raise RefusedNodesError(node.failures)
    engine, mxnet = (f"{ms / forwards:.3g} ms" for ms in (found.mxtrt_ms, found.plain_ms))
    if found.high < math.exp(-max(MOST_NOISE, found.noise)):
        reason = f"prefer=fastest: its segment takes {engine} in the engine and {mxnet} in MXNet"
        raise RefusedNodesError(dict.fromkeys(node.report.nodes, reason))
    node.report.notes.append(f"timed: {engine} in the engine, {mxnet} in MXNet")


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


def _timed(ours: Callable[[], object], plain: Callable[[], object]) -> tuple[Paired, int]:
    """Figures of an engine and of MXNet in turns, and how many forwards a turn has."""
    seconds = []
    for call in (ours, plain) * 2:  # the first time is no measure
        begin = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - begin)
    forwards = max(1, round(_TURN / max(min(seconds[2:]), 1e-6)))

    def turn(call: Callable[[], object]) -> Callable[[], object]:
        def repeat() -> None:
            for _ in range(forwards):
                call()

        return repeat

    duet = Duet(turn(plain), turn(ours), _SECONDS, warmup=1)
    for _ in range(duet.rounds):
        duet.before()
        duet.call()
    return duet.result(), forwards


class _Engine:
    """An engine node as the hooks run it: on this thread where it is fast enough."""

    def __init__(self, node: EngineNode, values: Mapping[str, Any], inline_below: int) -> None:
        import mxnet as mx

        from mxtrt.hooks.inline import InlineRun

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
