"""A partitioned symbol at work: its engine nodes, the weights they own, and their lifetime."""

from __future__ import annotations

import functools
import logging
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from mxtrt.config import Options
from mxtrt.engines import Session
from mxtrt.graph.symbol import Entry, Graph
from mxtrt.node import library
from mxtrt.node.abi import OPERATOR
from mxtrt.node.watch import Watch
from mxtrt.observe.report import Report
from mxtrt.plan.engine_node import EngineNode
from mxtrt.plan.later import OutdatedError
from mxtrt.plan.state import Stage, State
from mxtrt.system.background import in_job
from mxtrt.system.threads import Living, once
from mxtrt.weights import paging
from mxtrt.weights.baseline import Baseline, Together
from mxtrt.weights.contents import Contents

__all__ = ["Check", "Plan", "Timed", "live_plans"]

_log = logging.getLogger("mxtrt")

_plans: Living[Plan] = Living()


def live_plans() -> list[Plan]:
    """The plans of all that is bound with engines now."""
    return _plans.all()


@dataclass
class Timed:
    """What came of timing the segments of a graph against MXNet, for its later binds too.

    Attributes:
        slower: Why nodes stay in MXNet, by name; None while that is not known.
        notes: What a person is told of each segment.
    """

    slower: dict[str, str] | None = None
    notes: list[list[str]] = field(default_factory=list)


class Check(Protocol):
    """What engines have to pass when they are built first; :mod:`mxtrt.trial.check` is one.

    Each raises RefusedNodesError for nodes that MXNet is to keep.
    """

    def before(self, plan: Plan) -> None:
        """Called before the engines are built."""

    def built(self, node: EngineNode, arrays: Mapping[str, Any]) -> None:
        """Called when one is built."""

    def all_built(self, plan: Plan, arrays: Mapping[str, Any]) -> None:
        """Called when all are."""

    def ranges(self, node: EngineNode, session: Session, graphs: Sequence[Graph]) -> None:
        """Called with an engine for ranges of shapes before it serves, at any time.

        It raises EngineError where the engine is not right at the shapes of the graphs.
        """


class Plan:
    """All engines of one partitioned symbol.

    The plan lives as long as what was bound with it; its engines go with it.

    Attributes:
        nodes: The engine nodes in the order in which they run.
        weights: Names of the weights that the engines hold.
        is_one_node: The partitioned graph is one engine node, its heads are that node's
            outputs in order.
        report: What the bind did.
        options: The options of the bind.
        origin: The graph that was partitioned.
        unread: NDArrays of weights that left the graph because nothing reads their values.
        before: The plan of the symbol that was partitioned, if it had engines already.
        state: Where it stands, its nodes with it.
        baseline: Of its weights, as the engines were built.
        timed: What timing the engines told, shared with the plans of other binds of the graph.
    """

    def __init__(
        self,
        nodes: Sequence[EngineNode],
        graph: Graph,
        report: Report,
        options: Options,
        origin: Graph,
        timed: Timed | None = None,
        check: Check | None = None,
    ) -> None:
        self.nodes = tuple(nodes)
        self.is_one_node = _is_one_node(graph)
        self.weights = frozenset(name for node in nodes for name in node.weights)
        self.report = report
        self.options = options
        self.origin = origin
        self.unread: dict[str, Any] = {}
        self.before: Plan | None = None
        self.timed = timed or Timed()
        self._check = check  # None once the engines have passed
        self.state = State()
        self._borrowed: list[Session] = []  # sessions of other plans that read these plans' arrays
        for node in self.nodes:
            node.state = self.state
            node.written = weakref.WeakMethod(self._written)
            node.holds = functools.partial(_holds, weakref.ref(self))
            node.proofs.compare = None if check is None else check.ranges
            node.sessions.borrowed = self._borrowed
        self._lib = library()
        _plans.add(self)
        self.baseline = Together(Baseline(), self._borrowed)

    def sessions(self) -> list[Session]:
        """The sessions of all engines."""
        return [session for node in self.nodes for session in node.live_sessions()]

    def arrays(self) -> dict[str, Any]:
        """The NDArrays of all weights that left the graph, by name; none before the build."""
        arrays = dict(self.unread)
        for node in self.nodes:
            arrays.update(zip(node.weights, node.weight_arrays(), strict=False))
        return arrays

    def build(self, arrays: Mapping[str, Any], *, shares: bool = False) -> None:
        """Build every engine from the weights' present values, then release the weights.

        Args:
            arrays: Weight NDArrays by name; more than :attr:`weights` may be given.
            shares: Whether engines of the same contents may be shared with others, because
                whoever runs them asks :attr:`baseline` first.

        Raises:
            RefusedNodesError: The engines did not pass the check; the nodes are named.
            EngineError: An engine refused its segment; nothing is released then.
        """
        self.state.to(Stage.BUILDING)
        self.baseline = Together(Baseline(), self._borrowed)
        try:
            self.baseline = self._built(arrays, shares)
        except BaseException:
            self.state.to(Stage.UNBUILT)
            raise
        self.state.to(Stage.BUILT)

    def _built(self, arrays: Mapping[str, Any], shares: bool) -> Together:
        """Build every engine; what the weights were."""
        check = self._check
        if check is not None:
            check.before(self)
        owned = [arrays[name] for name in sorted(self.weights)]
        paging.in_rows(owned)  # or MXNet would count that as writes
        watch = self._lib.watch(owned)  # before they are read: another thread may write
        builds = sum(node.sessions.built for node in self.nodes)
        for node in self.nodes:
            node.build(arrays, shares=shares)
            if check is not None:
                check.built(node, arrays)
        if check is not None:
            check.all_built(self, arrays)
            self._check = None
        if in_job() and watch.changed():  # which values the engines have is not known
            raise OutdatedError
        if self.options.release_weights:
            self._release(owned, watch)
        if sum(node.sessions.built for node in self.nodes) > builds:
            self._lib.trim()
        again = self._lib.watch(owned)  # for other plans that share these sessions
        contents = self._contents(owned)
        if watch.changed():
            contents = None
        if contents is not None:
            for session in self.sessions():
                if session not in self._borrowed:
                    session.baseline = Baseline(again, contents)
        return Together(Baseline(watch, contents), self._borrowed)

    def _contents(self, arrays: Sequence[Any]) -> Contents | None:
        """What arrays hold now; None where that cannot be told."""
        try:
            return Contents(arrays)
        except OSError as error:
            _log.debug("the weights cannot be compared: %s", error)
            return None

    def _release(self, arrays: Sequence[Any], watch: Watch) -> None:
        on_host, on_gpu = paging.by_place(arrays)
        try:
            directory = paging.spill_directory(self.options.spill_dir)
            done = paging.page_out(on_host, directory, watch)
            self.report.released_bytes += done.released
            if done.left:
                self._note_mappings(done)
        except OSError as error:
            self._note(
                f"weights stay in MXNet's memory too: no spill file could be written ({error}); "
                "set spill_dir to a directory with room"
            )
        try:
            self.report.released_bytes += paging.evict(on_gpu, watch)
        except OSError as error:
            self._note(f"weights stay in GPU memory twice: they could not be moved ({error})")

    def _note_mappings(self, done: paging.PagedOut) -> None:
        self.report.notes.append(
            f"{done.left} bytes of weights stay in MXNet's memory too: the process has "
            f"{done.mappings} of the {done.limit} memory mappings that the kernel allows"
        )
        _warn_of_mappings(done.limit)

    def _note(self, text: str) -> None:
        self.report.notes.append(text)
        _log.warning(text)

    def _written(self) -> bool:
        return self.baseline.written()


def _holds(reference: weakref.ref[Plan]) -> bool:
    """Whether the weights of a plan hold what they held when it was built."""
    plan = reference()
    return plan is not None and plan.baseline.still_holds()


@once
def _warn_of_mappings(limit: int) -> None:
    _log.warning(
        "weights stay in MXNet's memory too from now on, where releasing them took more than half "
        "of the %d memory mappings that the kernel allows a process; raise it (sysctl -w "
        "vm.max_map_count=...), or serve fewer models in one process",
        limit,
    )


def _is_one_node(graph: Graph) -> bool:
    """Whether a partitioned graph is one engine node whose outputs are the heads in order."""
    nodes = [index for index, node in enumerate(graph.nodes) if not node.is_variable]
    return (
        len(nodes) == 1
        and graph.nodes[nodes[0]].op == OPERATOR
        and list(graph.heads) == [Entry(nodes[0], k) for k in range(len(graph.heads))]
        and graph.nodes[nodes[0]].attrs["num_outputs"] == str(len(graph.heads))
    )
