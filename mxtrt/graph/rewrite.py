"""A symbol with its segments replaced by engine nodes, and back.

Weights that only engines read are no variables of the rewritten symbol.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Protocol

from mxtrt.graph.partition import Segment
from mxtrt.graph.symbol import Entry, Graph, Node, untaken
from mxtrt.node.abi import OPERATOR

__all__ = ["Part", "node_attributes", "rewrite", "undo"]


class Part(Protocol):
    """A segment that an engine node stands for."""

    @property
    def graph(self) -> Graph:
        """The segment cut out as a graph of its own."""

    @property
    def inputs(self) -> Sequence[str]:
        """Names of its variables that the engine node reads, in order."""


def rewrite(
    graph: Graph,
    segments: Sequence[Segment],
    keys: Sequence[int],
    process: str = "",
    keep: Collection[str] = (),
) -> Graph:
    """Replace every segment by one engine node.

    Args:
        graph: The symbol.
        segments: Convex segments, acyclic after contraction.
        keys: For every segment the key of its engine node.
        process: What tells the keys of this process from those of others.
        keep: Variables that stay though nothing reads them.

    Ensures:
        Heads keep their number and order; every variable that is still read, or in ``keep``, keeps
        its name, the others are gone.  An engine node with one output is named after the node that
        produced it, so that the symbol's output keeps its name.
    """
    contracted = _Contracted(graph, segments)
    # How many outputs of each node are read.  Types do not tell: MXNet lists one where it could not
    # infer shapes.
    outputs: Counter[int] = Counter()
    for entry in (*graph.heads, *(entry for node in graph.nodes for entry in node.inputs)):
        outputs[entry.node] = max(outputs[entry.node], entry.output + 1)

    # Kept variables that nothing reads are extra inputs of the first engine node, which ignores
    # them.
    wanted = set(contracted.wanted)
    unread = [
        node
        for index, node in enumerate(graph.nodes)
        if node.is_variable and node.name in keep and index not in wanted
    ]
    nodes: list[Node] = [_with_shape(node) for node in unread if segments]
    extra = tuple(Entry(index) for index in range(len(nodes)))
    moved: dict[Entry, Entry] = {}  # where an entry of the graph is in the new one
    for unit in contracted.in_order():
        inputs = tuple(moved[entry] for entry in contracted.reads(unit))
        place = contracted.segment_of.get(unit)
        if place is not None:
            segment = segments[place]
            nodes.append(_engine_node(graph, segment, keys[place], process, inputs, extra))
            extra = ()
            moved.update((e, Entry(len(nodes) - 1, i)) for i, e in enumerate(segment.outputs))
        else:
            node = graph.nodes[unit]
            nodes.append(Node(node.op, node.name, node.attrs, inputs, node.types, node.raw))
            moved.update((Entry(unit, i), Entry(len(nodes) - 1, i)) for i in range(outputs[unit]))
    return Graph(nodes, [moved[head] for head in graph.heads], graph.attrs)


class _Contracted:
    """A graph in which every segment counts as one unit, and so does every other node.

    A unit is known by the index of its node, a segment by that of its first one.

    Args:
        graph: The symbol.
        segments: Convex segments, acyclic after contraction.

    Attributes:
        segment_of: For every node of a segment, which one it is.
        wanted: Units that some head depends on, ascending; weights of engines are not among them.
    """

    def __init__(self, graph: Graph, segments: Sequence[Segment]) -> None:
        self._graph = graph
        self._segments = segments
        self.segment_of = {node: place for place, s in enumerate(segments) for node in s.nodes}
        self.wanted = self._wanted()

    def reads(self, unit: int) -> Sequence[Entry]:
        """Entries that a unit reads from other units."""
        place = self.segment_of.get(unit)
        return self._graph.nodes[unit].inputs if place is None else self._segments[place].inputs

    def in_order(self) -> Iterator[int]:
        """The wanted units in topological order; of several that are ready, the first one."""
        producers = {unit: self._producers(unit) for unit in self.wanted}
        waiting = {unit: len(found) for unit, found in producers.items()}
        readers: dict[int, list[int]] = {unit: [] for unit in self.wanted}
        for unit, found in producers.items():
            for producer in found:
                readers[producer].append(unit)
        ready = [unit for unit in self.wanted if not waiting[unit]]
        heapq.heapify(ready)
        while ready:
            unit = heapq.heappop(ready)
            yield unit
            for reader in readers[unit]:
                waiting[reader] -= 1
                if not waiting[reader]:
                    heapq.heappush(ready, reader)

    def _unit(self, node: int) -> int:
        place = self.segment_of.get(node)
        return node if place is None else self._segments[place].nodes[0]

    def _producers(self, unit: int) -> set[int]:
        return {self._unit(entry.node) for entry in self.reads(unit)}

    def _wanted(self) -> list[int]:
        todo = [self._unit(head.node) for head in self._graph.heads]
        wanted = set(todo)
        while todo:
            fresh = self._producers(todo.pop()) - wanted
            wanted |= fresh
            todo += fresh
        return sorted(wanted)


def _with_shape(node: Node) -> Node:
    """A variable with its shape as an attribute: MXNet can infer it from no reader any more."""
    attrs = dict(node.attrs)
    if node.types and node.types[0].known:
        attrs.setdefault("__shape__", str(node.types[0].shape))
    return Node("null", node.name, attrs, (), node.types)


def node_attributes(key: int, process: str, inputs: int, outputs: int) -> dict[str, str]:
    """The attributes of an engine node: whose it is, and its numbers of inputs and outputs."""
    return {
        "engine": str(key),
        "process": process,
        "num_inputs": str(inputs),
        "num_outputs": str(outputs),
    }


def _engine_node(
    graph: Graph,
    segment: Segment,
    key: int,
    process: str,
    inputs: tuple[Entry, ...],
    unread: tuple[Entry, ...],
) -> Node:
    producers = {graph.nodes[entry.node].name for entry in segment.outputs}
    one = len(segment.outputs) == 1
    name = producers.pop() if one else untaken(f"mxtrt{key}", graph.labels)
    attrs = node_attributes(key, process, len(segment.inputs), len(segment.outputs))
    if unread:
        attrs["num_unread"] = str(len(unread))
    inputs = (*inputs, *unread)
    return Node(OPERATOR, name, attrs, inputs, tuple(graph.type_of(e) for e in segment.outputs))


def undo(graph: Graph, parts: Mapping[str, Part], origins: Mapping[str, Graph]) -> Graph:
    """Replace every engine node by the segment that it stands for.

    Args:
        graph: A symbol with engine nodes, whatever became of it since it was partitioned.
        parts: The segments by the ``engine`` attribute of their nodes.
        origins: Likewise, the graphs that they were cut out of.

    Ensures:
        The graph computes what it did, in MXNet's own operators.  A variable that several
        segments, or a segment and a node beside it, have by one name is one variable.
    """
    return _Undoing(parts, origins).graph(graph)


# What becomes of a node of a graph that is copied: one node, or an entry for each of its outputs.
_Copied = int | list[Entry]


def _output(node: _Copied, output: int) -> Entry:
    return Entry(node, output) if isinstance(node, int) else node[output]


class _Undoing:
    """MXNet's own nodes in the place of engine nodes, collected one by one.

    Args:
        parts: The segments by the ``engine`` attribute of their nodes.
        origins: Likewise, the graphs that they were cut out of.
    """

    def __init__(self, parts: Mapping[str, Part], origins: Mapping[str, Graph]) -> None:
        self._parts = parts
        self._origins = origins
        self._nodes: list[Node] = []
        self._variables: dict[str, Entry] = {}
        self._made: dict[str, int] = {}  # the last operator of each name
        self._known = _variables(*origins.values())

    def graph(self, graph: Graph) -> Graph:
        """A graph without engine nodes."""
        heads = self._copy(graph, graph.heads, {}, None)
        return Graph(self._nodes, heads, graph.attrs)

    def _copy(
        self,
        source: Graph,
        entries: Sequence[Entry],
        given: Mapping[str, Entry],
        origin: Graph | None,
    ) -> list[Entry]:
        """Add the nodes of a graph.

        Args:
            source: The graph.
            entries: Entries of it that the caller reads.
            given: What its variables are, by name, as far as that has been added.
            origin: The graph that it was cut out of, None for the whole symbol.

        Returns:
            Where these entries are now.
        """
        copied: list[_Copied] = []

        def moved(read: Sequence[Entry]) -> list[Entry]:
            return [_output(copied[entry.node], entry.output) for entry in read]

        for node in source.nodes:
            if not node.is_variable:
                copied.append(self._operator(node, tuple(moved(node.inputs))))
            elif node.name in given:
                copied.append([given[node.name]])
            else:
                copied.append([self._variable(node, origin)])
        return moved(entries)

    def _operator(self, node: Node, inputs: tuple[Entry, ...]) -> _Copied:
        """Add an operator, or for an engine node the segment that it stands for."""
        if node.op != OPERATOR:
            return self._add(
                Node(node.op, node.name, node.attrs, inputs, node.types, node.raw)
            ).node
        key = node.attrs["engine"]
        part = self._parts[key]
        given = dict(zip(part.inputs, inputs, strict=False))  # inputs behind these are unread
        return self._copy(part.graph, part.graph.heads, given, self._origins.get(key))

    def _variable(self, node: Node, origin: Graph | None) -> Entry:
        """What a variable is that no engine node is given: a weight, or what no engine reads."""
        if node.name in self._variables:
            return self._variables[node.name]
        named = self._known if origin is None else _variables(origin)
        if origin is not None and node.name not in named:
            return self._computed(node.name, origin)
        node = named.get(node.name, node)
        self._variables[node.name] = self._add(Node("null", node.name, node.attrs, (), node.types))
        return self._variables[node.name]

    def _computed(self, name: str, origin: Graph) -> Entry:
        """An operator's output that a segment has as a variable and its engine does not read.

        A label may be computed.  As the engine node does not read it, the operators that compute it
        may be gone: those that are not in the new graph are added again.
        """
        head = origin.entry_called(name)
        members: set[int] = set()
        todo = [head.node]
        while todo:
            index = todo.pop()
            node = origin.nodes[index]
            if index not in members and not node.is_variable and node.name not in self._made:
                members.add(index)
                todo += [entry.node for entry in node.inputs]
        if not members:
            return Entry(self._made[origin.nodes[head.node].name], head.output)
        part, _ = origin.subgraph(members, [head])
        (entry,) = self._copy(part, part.heads, {}, origin)
        return entry

    def _add(self, node: Node) -> Entry:
        self._nodes.append(node)
        if not node.is_variable:
            self._made[node.name] = len(self._nodes) - 1
        return Entry(len(self._nodes) - 1)


def _variables(*graphs: Graph) -> dict[str, Node]:
    return {node.name: node for graph in graphs for node in graph.nodes if node.is_variable}
