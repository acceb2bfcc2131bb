"""Which nodes go into engines, in which segments, and why the others do not.

Segments are found by *levels*.  Walking the graph in topological order, the level of a node
is the greatest level among its producers, plus one whenever the edge crosses between what
an engine runs and what MXNet runs.  Levels never fall along an edge, and every edge between
the two sides raises them.  A segment is a connected set of engine nodes of one level.  Hence

- a path that leaves a segment and comes back would have to rise and fall again: segments are
  convex;
- a cycle among contracted segments would have to stay on one level, where different segments
  share no edge: the contracted graph is acyclic.

A second walk, from the heads backwards, raises MXNet's nodes as far as it goes, and whole segments
to the level of their readers where nothing forbids it, which joins segments and keeps both
properties.  Last, two segments of which one reads the other become one where no other path leads
from one to the other.  Every step is linear in the number of edges (up to the inverse Ackermann
function of the union-find).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from mxtrt.graph.symbol import Entry, Graph, Node

__all__ = ["FEWEST_CHEAP", "SMALL_WEIGHT", "Partition", "Segment", "Worth", "partition"]

#: Weights of fewer bytes are held by every engine that reads them, while larger ones that several
#: read are inputs.  The small ones are mostly vectors of normalisation layers: engines fold those
#: into other weights, and auxiliary states among them could not be inputs.
SMALL_WEIGHT = 64 * 1024
#: A segment of fewer operators that compute little costs more to enter than it saves.  Between two
#: operators of MXNet's on a CPU, one of them takes 1.0 to 1.8 times as long in ONNX Runtime as in
#: MXNet, and two 0.4 to 0.6 times (on 20,000 to 400,000 numbers; on 16 numbers 1.2 times each).
FEWEST_CHEAP = 2


# How many steps joining what levels keep apart may take, for each node of the graph.
_STEPS_PER_NODE = 16


@dataclass(frozen=True, slots=True)
class Segment:
    """A convex set of nodes that one engine runs.

    Attributes:
        nodes: Indices of the nodes that only this engine runs, ascending.
        known: Nodes whose values are known at bind and that the engine computes for itself,
            ascending; other engines and MXNet may compute them too.
        inputs: Entries read from outside that are not weights, in order of first use.
        weights: Variables that become initializers of the engine, in order of first use: those
            that nothing else reads.  One that MXNet or another engine reads too stays MXNet's and
            is an input, so that it is in memory once; a small one is every engine's own.
        outputs: Entries read outside, or heads of the symbol, in order of the nodes.
    """

    nodes: tuple[int, ...]
    known: tuple[int, ...]
    inputs: tuple[Entry, ...]
    weights: tuple[int, ...]
    outputs: tuple[Entry, ...]

    @property
    def members(self) -> tuple[int, ...]:
        """All nodes that the engine runs."""
        return tuple(sorted((*self.nodes, *self.known)))


@dataclass(frozen=True, slots=True)
class Partition:
    """The outcome.

    Attributes:
        segments: The segments in topological order.
        reasons: Why the other operator nodes stay in MXNet, by index.
        slower: Those of them that an engine could run, wherever they stand, and that stay because
            MXNet computes them faster.
    """

    segments: tuple[Segment, ...]
    reasons: Mapping[int, str]
    slower: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class Worth:
    """What makes a segment worth an engine.

    Attributes:
        min_nodes: Segments with fewer nodes stay in MXNet.
        movers: Nodes that only move data; a segment of nothing else stays in MXNet.
        cheap: Nodes that compute little for each element; a segment of fewer than
            :data:`FEWEST_CHEAP` of them and movers stays in MXNet, unless it is the whole graph.
        alone: By index, why a node stays in MXNet where its segment has only movers besides.
    """

    min_nodes: int = 1
    movers: frozenset[int] = frozenset()
    cheap: frozenset[int] = frozenset()
    alone: Mapping[int, str] = field(default_factory=dict)


class _Sets:
    """Union-find whose representative is the smallest member."""

    def __init__(self, size: int) -> None:
        self._parent = list(range(size))

    def find(self, item: int) -> int:
        while self._parent[item] != item:
            self._parent[item] = self._parent[self._parent[item]]
            item = self._parent[item]
        return item

    def join(self, one: int, two: int) -> None:
        one, two = self.find(one), self.find(two)
        self._parent[max(one, two)] = min(one, two)


def partition(
    graph: Graph,
    reasons: Mapping[int, str],
    weights: frozenset[str],
    *,
    worth: Worth = Worth(),
    known: frozenset[int] = frozenset(),
) -> Partition:
    """Group what engines can run into segments.

    Args:
        graph: The symbol.
        reasons: For every operator node that has to stay in MXNet, why.
        weights: Names of the variables whose values are known when engines are built.
        worth: What makes a segment worth an engine.
        known: Nodes that engines can run and whose values depend on nothing but shapes; they
            cut no segment.

    Requires:
        Every operator node is either in ``reasons`` or can be converted.

    Ensures:
        Every operator node that is needed is in exactly one segment or in
        ``Partition.reasons``, except those of ``known``: they are wherever they are read.
        Segments are convex, acyclic after contraction, and depend on the graph alone.
    """
    depends = _dependencies(graph, known)
    engine = [
        not n.is_variable and i not in reasons and i not in known for i, n in enumerate(graph.nodes)
    ]
    component = _components(depends, engine)
    members: dict[int, list[int]] = {}
    for index, runs in enumerate(engine):
        if runs:
            members.setdefault(component[index], []).append(index)

    left = dict(reasons)
    kept: list[list[int]] = []
    operators = sum(
        not node.is_variable and index not in known for index, node in enumerate(graph.nodes)
    )
    for nodes in members.values():
        reason = _refusal(graph, nodes, known, weights, worth, len(nodes) == operators)
        if reason is None:
            kept.append(nodes)
        else:
            left.update(dict.fromkeys(nodes, reason))
    return _Placement(graph, kept, left, weights, known).partition()


def _dependencies(graph: Graph, known: frozenset[int]) -> list[set[int]]:
    """For every node, the operator nodes that have to run before it.

    A node of ``known`` is none of them, because whatever reads it can compute it.  In its place
    stand the nodes that have to run before it: those that it takes its shape from.
    """
    depends: list[set[int]] = []
    for node in graph.nodes:
        waits: set[int] = set()
        for entry in node.inputs:
            if entry.node in known:
                waits |= depends[entry.node]
            elif not graph.nodes[entry.node].is_variable:
                waits.add(entry.node)
        depends.append(waits)
    return depends


def _components(depends: Sequence[Collection[int]], engine: Sequence[bool]) -> list[int]:
    """For every node the smallest node of its component (its segment, if an engine runs it)."""
    level = [0] * len(depends)
    sets = _Sets(len(depends))
    readers: list[list[int]] = [[] for _ in depends]
    for index, producers in enumerate(depends):
        level[index] = max((level[p] + (engine[p] != engine[index]) for p in producers), default=0)
        for producer in producers:
            readers[producer].append(index)
            if engine[index] and engine[producer] and level[producer] == level[index]:
                sets.join(producer, index)

    # Raise whole components to the level of the components that read them, and MXNet's nodes as far
    # as their readers let them, which then hold nothing back.  On one level only MXNet's nodes read
    # each other, the later the earlier.
    members: dict[int, list[int]] = {}
    for index, runs in enumerate(engine):
        members.setdefault(sets.find(index) if runs else index, []).append(index)
    last = len(depends) + max(level, default=0)
    for nodes in sorted(members.values(), key=lambda nodes: (-level[nodes[0]], -nodes[0])):
        own = sets.find(nodes[0])
        limit, joins = last, []
        for index in nodes:
            for reader in readers[index]:
                if engine[reader] and sets.find(reader) == own:
                    continue
                limit = min(limit, level[reader] - (engine[reader] != engine[index]))
                if engine[reader] and engine[index]:
                    joins.append(reader)
        if not engine[nodes[0]]:
            level[nodes[0]] = limit
            continue
        joins = [reader for reader in joins if level[reader] == limit]
        if limit <= level[nodes[0]] or not joins:
            continue
        for index in nodes:
            level[index] = limit
        for reader in joins:
            sets.join(nodes[0], reader)
    _join_more(depends, readers, engine, sets)
    return [sets.find(index) for index in range(len(depends))]


def _join_more(
    depends: Sequence[Collection[int]],
    readers: Sequence[Sequence[int]],
    engine: Sequence[bool],
    sets: _Sets,
) -> None:
    """Join components of which one reads the other, where nothing else leads from one to the other.

    Levels forbid that now and then, where two branches of MXNet's are of different lengths.
    """
    members: dict[int, list[int]] = {}
    for index in range(len(depends)):
        members.setdefault(sets.find(index), []).append(index)
    budget = _STEPS_PER_NODE * len(depends)
    for index, producers in enumerate(depends):
        for producer in producers:
            one, two = sets.find(producer), sets.find(index)
            if one == two or not (engine[index] and engine[producer]):
                continue
            waiting = [r for m in members[one] for r in readers[m]]
            seen = {one}
            budget -= len(waiting)
            found = False
            first = {sets.find(reader) for reader in waiting} - {one, two}
            stack = [*first]
            seen |= first
            while stack and not found and budget > 0:
                for member in members[stack.pop()]:
                    budget -= 1 + len(readers[member])
                    for reader in readers[member]:
                        unit = sets.find(reader)
                        found = found or unit == two
                        if unit not in seen:
                            seen.add(unit)
                            stack.append(unit)
            if budget <= 0:
                return
            if not found:
                sets.join(one, two)
                both = members.pop(one) + members.pop(two)
                members[sets.find(one)] = both


def _refusal(
    graph: Graph,
    nodes: Sequence[int],
    known: frozenset[int],
    weights: frozenset[str],
    worth: Worth,
    whole: bool,
) -> str | None:
    """Why a component is not worth an engine; None if it is.

    Args:
        graph: The symbol.
        nodes: The component.
        known: Nodes whose values are known at bind.
        weights: Names of the weights.
        worth: What makes a segment worth an engine.
        whole: Whether the graph has no other operators.
    """
    if len(nodes) < worth.min_nodes:
        return f"its segment has {len(nodes)} nodes, fewer than min_nodes={worth.min_nodes}"
    if worth.movers.issuperset(nodes):
        return "its segment only moves data, which costs more to enter than it saves"
    inside = set(nodes)
    computing = [index for index in nodes if index not in worth.movers]
    if not whole and len(computing) < FEWEST_CHEAP and worth.cheap.issuperset(computing):
        return "its segment is one cheap operator, which costs more to enter than it saves"
    if len(computing) == 1 and computing[0] in worth.alone:
        return worth.alone[computing[0]]
    for index in nodes:
        for entry in graph.nodes[index].inputs:
            producer = graph.nodes[entry.node]
            of_weights = producer.is_variable and producer.name in weights
            if entry.node not in inside and entry.node not in known and not of_weights:
                return None
    return "its segment has no input but weights"


_MXNET = -1


class _Placement:
    """Who computes what, and hence what goes in and out of every segment.

    Args:
        graph: The symbol.
        kept: The nodes of every segment, without known ones.
        left: Why the other nodes stay in MXNet.
        weights: Names of the weights.
        known: Nodes whose values are known at bind.
    """

    def __init__(
        self,
        graph: Graph,
        kept: Sequence[Sequence[int]],
        left: Mapping[int, str],
        weights: frozenset[str],
        known: frozenset[int],
    ) -> None:
        self._graph = graph
        self._kept = kept
        self._left = dict(left)
        self._weights = weights
        self._known = known
        self._readers = graph.consumers()
        #: For every node the segments that compute it, and _MXNET.
        self._homes: list[set[int]] = [set() for _ in graph.nodes]
        for place, nodes in enumerate(kept):
            for index in nodes:
                self._homes[index].add(place)
        for index in left:
            self._homes[index].add(_MXNET)
        self._spread([head.node for head in graph.heads], {_MXNET})
        for index in range(len(graph.nodes) - 1, -1, -1):
            producers = [entry.node for entry in graph.nodes[index].inputs]
            self._spread(producers, self._homes[index])
        self._known_in: dict[int, list[int]] = {}
        for index in sorted(known):
            for place in self._homes[index]:
                self._known_in.setdefault(place, []).append(index)

    def _spread(self, producers: Sequence[int], homes: set[int]) -> None:
        """Have known nodes computed where they are read."""
        for producer in producers:
            if producer in self._known:
                self._homes[producer] |= homes

    def partition(self) -> Partition:
        owned = {index for index in range(len(self._graph.nodes)) if self._is_owned(index)}
        segments = [self._segment(place, nodes, owned) for place, nodes in enumerate(self._kept)]
        for index in self._known_in.get(_MXNET, ()):
            self._left[index] = "its value is known at bind, and MXNet reads it"
        return Partition(tuple(segments), self._left)

    def _is_owned(self, index: int) -> bool:
        """Whether a variable is a weight that engines hold."""
        node = self._graph.nodes[index]
        if (
            not node.is_variable
            or node.name not in self._weights
            or Entry(index) in self._graph.heads
        ):
            return False
        homes = set().union(*(self._homes[reader] for reader in self._readers[index]))
        return _MXNET not in homes and (len(homes) == 1 or _is_small(node))

    def _segment(self, place: int, nodes: Sequence[int], owned: Collection[int]) -> Segment:
        known = self._known_in.get(place, [])
        inside = {*nodes, *known}
        inputs: dict[Entry, None] = {}
        used: dict[int, None] = {}
        outputs: dict[Entry, None] = {}
        for index in sorted(inside):
            for entry in self._graph.nodes[index].inputs:
                if entry.node in owned:
                    used[entry.node] = None
                elif entry.node not in inside:
                    inputs[entry] = None
        heads = set(self._graph.heads)
        for index in nodes:
            read = {head.output for head in heads if head.node == index}
            for reader in self._readers[index]:
                if self._homes[reader] - {place}:
                    inputs_of = self._graph.nodes[reader].inputs
                    read.update(e.output for e in inputs_of if e.node == index)
            outputs.update((Entry(index, output), None) for output in sorted(read))
        return Segment(tuple(nodes), tuple(known), tuple(inputs), tuple(used), tuple(outputs))


def _is_small(weight: Node) -> bool:
    return bool(weight.types) and 0 <= weight.types[0].nbytes < SMALL_WEIGHT
