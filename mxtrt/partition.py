"""Which nodes go into engines, in which segments, and why the others do not.

Segments are found by *levels*.  Walking the graph in topological order, the level of a node
is the greatest level among its producers, plus one whenever the edge crosses between what
an engine runs and what MXNet runs.  Levels never fall along an edge, and every edge between
the two sides raises them.  A segment is a connected set of engine nodes of one level.  Hence

- a path that leaves a segment and comes back would have to rise and fall again: segments are
  convex;
- a cycle among contracted segments would have to stay on one level, where different segments
  share no edge: the contracted graph is acyclic.

A second walk, from the heads backwards, raises whole segments to the level of their readers
where nothing forbids it, which joins segments and keeps both properties.  Every step is linear
in the number of edges (up to the inverse Ackermann function of the union-find).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mxtrt.graph import Entry, Graph, Node

__all__ = ["SMALL_WEIGHT", "Partition", "Segment", "partition"]

#: Weights of fewer bytes are held by every engine that reads them: engines fold the vectors of
#: normalisation layers into others, and the states among them could be no inputs.
SMALL_WEIGHT = 64 * 1024


@dataclass(frozen=True, slots=True)
class Segment:
    """A convex set of nodes that one engine runs.

    Attributes:
        nodes: Indices, ascending.
        inputs: Entries read from outside that are not weights, in order of first use.
        weights: Variables that become initializers of the engine, in order of first use: those
            that nothing else reads.  One that MXNet or another engine reads too stays MXNet's and
            is an input, so that it is in memory once; a small one is every engine's own.
        outputs: Entries read outside, or heads of the symbol, in order of the nodes.
    """

    nodes: tuple[int, ...]
    inputs: tuple[Entry, ...]
    weights: tuple[int, ...]
    outputs: tuple[Entry, ...]


@dataclass(frozen=True, slots=True)
class Partition:
    """The outcome: segments in topological order, and a reason for every other node."""

    segments: tuple[Segment, ...]
    reasons: Mapping[int, str]


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
    min_nodes: int = 1,
    movers: frozenset[int] = frozenset(),
) -> Partition:
    """Group what engines can run into segments.

    Args:
        graph: The symbol.
        reasons: For every operator node that has to stay in MXNet, why.
        weights: Names of the variables whose values are known when engines are built.
        min_nodes: Segments with fewer nodes stay in MXNet.
        movers: Nodes that only move data; a segment of nothing else stays in MXNet.

    Requires:
        Every operator node is either in ``reasons`` or can be converted.

    Ensures:
        Every operator node is in exactly one segment or in ``Partition.reasons``; segments
        are convex, acyclic after contraction, and depend on the graph alone.
    """
    engine = [not n.is_variable and i not in reasons for i, n in enumerate(graph.nodes)]
    component = _components(graph, engine)
    members: dict[int, list[int]] = {}
    for index, runs in enumerate(engine):
        if runs:
            members.setdefault(component[index], []).append(index)

    left = dict(reasons)
    kept: list[list[int]] = []
    readers = graph.consumers()
    for nodes in members.values():
        reason = _refusal(graph, nodes, weights, min_nodes, movers)
        if reason is None:
            kept.append(nodes)
        else:
            left.update(dict.fromkeys(nodes, reason))
    place = {index: nodes[0] for nodes in kept for index in nodes}
    owned = frozenset(
        index
        for index, node in enumerate(graph.nodes)
        if node.is_variable
        and node.name in weights
        and Entry(index) not in graph.heads
        and place.keys() >= set(readers[index])
        and (len({place[reader] for reader in readers[index]}) == 1 or _is_small(node))
    )
    segments = [_segment(graph, nodes, readers, owned) for nodes in kept]
    return Partition(tuple(segments), left)


def _is_small(weight: Node) -> bool:
    return bool(weight.types) and 0 <= weight.types[0].nbytes < SMALL_WEIGHT


def _components(graph: Graph, engine: Sequence[bool]) -> list[int]:
    """For every node the smallest node of its component (its segment, if an engine runs it)."""
    level = [0] * len(graph.nodes)
    sets = _Sets(len(graph.nodes))
    for index, node in enumerate(graph.nodes):
        producers = [e.node for e in node.inputs if not graph.nodes[e.node].is_variable]
        level[index] = max((level[p] + (engine[p] != engine[index]) for p in producers), default=0)
        for producer in producers:
            if engine[index] and engine[producer] and level[producer] == level[index]:
                sets.join(producer, index)

    # Raise whole components to the level of the components that read them.
    members: dict[int, list[int]] = {}
    for index, runs in enumerate(engine):
        if runs:
            members.setdefault(sets.find(index), []).append(index)
    readers = graph.consumers()
    for nodes in sorted(members.values(), key=lambda nodes: (-level[nodes[0]], nodes[0])):
        own = sets.find(nodes[0])
        limit, joins = None, []
        for index in nodes:
            for reader in readers[index]:
                if engine[reader] and sets.find(reader) == own:
                    continue
                bound = level[reader] - (not engine[reader])
                limit = bound if limit is None else min(limit, bound)
                if engine[reader]:
                    joins.append(reader)
        joins = [reader for reader in joins if level[reader] == limit]
        if limit is None or limit <= level[nodes[0]] or not joins:
            continue
        for index in nodes:
            level[index] = limit
        for reader in joins:
            sets.join(nodes[0], reader)
    return [sets.find(index) for index in range(len(graph.nodes))]


def _refusal(
    graph: Graph,
    nodes: Sequence[int],
    weights: frozenset[str],
    min_nodes: int,
    movers: frozenset[int],
) -> str | None:
    if len(nodes) < min_nodes:
        return f"its segment has {len(nodes)} nodes, fewer than min_nodes={min_nodes}"
    if movers.issuperset(nodes):
        return "its segment only moves data, which costs more to enter than it saves"
    inside = set(nodes)
    for index in nodes:
        for entry in graph.nodes[index].inputs:
            producer = graph.nodes[entry.node]
            if entry.node not in inside and not (producer.is_variable and producer.name in weights):
                return None
    return "its segment has no input but weights"


def _segment(
    graph: Graph,
    nodes: Sequence[int],
    readers: Sequence[Sequence[int]],
    owned: frozenset[int],
) -> Segment:
    inside = set(nodes)
    inputs: dict[Entry, None] = {}
    used: dict[int, None] = {}
    outputs: dict[Entry, None] = {}
    for index in nodes:
        for entry in graph.nodes[index].inputs:
            if entry.node in owned:
                used[entry.node] = None
            elif entry.node not in inside:
                inputs[entry] = None
    heads = set(graph.heads)
    for index in nodes:
        read = {head.output for head in heads if head.node == index}
        for reader in readers[index]:
            if reader not in inside:
                read.update(e.output for e in graph.nodes[reader].inputs if e.node == index)
        outputs.update((Entry(index, output), None) for output in sorted(read))
    return Segment(tuple(nodes), tuple(inputs), tuple(used), tuple(outputs))
