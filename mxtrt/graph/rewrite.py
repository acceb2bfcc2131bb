"""Segments become engine nodes; weights that only engines read leave the graph.  And back."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
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
    segment_of = {node: place for place, s in enumerate(segments) for node in s.nodes}
    # A unit is a node that stays or a whole segment, known by its smallest node.
    first = [segment.nodes[0] for segment in segments]
    unit = {i: first[segment_of[i]] if i in segment_of else i for i in range(len(graph.nodes))}

    def reads(place: int) -> Sequence[Entry]:
        if place in segment_of:
            return segments[segment_of[place]].inputs
        return graph.nodes[place].inputs

    units = _wanted(graph, unit, reads)
    waiting = {place: len({unit[e.node] for e in reads(place)}) for place in units}
    readers: dict[int, list[int]] = {place: [] for place in units}
    for place in units:
        for producer in {unit[e.node] for e in reads(place)}:
            readers[producer].append(place)

    # As many as are read: of a node whose shapes nobody knew MXNet tells one.
    outputs: Counter[int] = Counter()
    for entry in (*graph.heads, *(entry for node in graph.nodes for entry in node.inputs)):
        outputs[entry.node] = max(outputs[entry.node], entry.output + 1)

    # Kept variables that nothing reads are inputs of the first engine node, which reads them not.
    wanted = set(units)
    unread = [
        node
        for index, node in enumerate(graph.nodes)
        if node.is_variable and node.name in keep and index not in wanted
    ]
    nodes: list[Node] = [_with_shape(node) for node in unread if segments]
    extra = tuple(Entry(index) for index in range(len(nodes)))
    moved: dict[Entry, Entry] = {}
    ready = [place for place in units if not waiting[place]]
    heapq.heapify(ready)
    while ready:
        place = heapq.heappop(ready)
        inputs = tuple(moved[entry] for entry in reads(place))
        if place in segment_of:
            segment = segments[segment_of[place]]
            key = keys[segment_of[place]]
            nodes.append(_engine_node(graph, segment, key, process, inputs, extra))
            extra = ()
            moved.update((e, Entry(len(nodes) - 1, i)) for i, e in enumerate(segment.outputs))
        else:
            node = graph.nodes[place]
            nodes.append(Node(node.op, node.name, node.attrs, inputs, node.types, node.raw))
            moved.update((Entry(place, i), Entry(len(nodes) - 1, i)) for i in range(outputs[place]))
        for reader in readers[place]:
            waiting[reader] -= 1
            if not waiting[reader]:
                heapq.heappush(ready, reader)
    return Graph(nodes, [moved[head] for head in graph.heads], graph.attrs)


def _with_shape(node: Node) -> Node:
    """A variable that tells its shape where a bind does not: no reader does any more."""
    attrs = dict(node.attrs)
    if node.types and node.types[0].known:
        attrs.setdefault("__shape__", str(node.types[0].shape))
    return Node("null", node.name, attrs, (), node.types)


def _wanted(
    graph: Graph, unit: Mapping[int, int], reads: Callable[[int], Sequence[Entry]]
) -> list[int]:
    """Units that some head needs, ascending: weights of engines are not among them."""
    todo = [unit[head.node] for head in graph.heads]
    wanted = set(todo)
    while todo:
        for entry in reads(todo.pop()):
            producer = unit[entry.node]
            if producer not in wanted:
                wanted.add(producer)
                todo.append(producer)
    return sorted(wanted)


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
    nodes: list[Node] = []
    variables: dict[str, Entry] = {}
    made: dict[str, int] = {}  # the last node of each name
    known = {n.name: n for origin in origins.values() for n in origin.nodes if n.is_variable}

    def add(node: Node) -> Entry:
        nodes.append(node)
        if not node.is_variable:
            made[node.name] = len(nodes) - 1
        return Entry(len(nodes) - 1)

    def variable(node: Node, origin: Graph | None) -> Entry:
        """A variable of a segment that its engine node does not read."""
        if node.name in variables:
            return variables[node.name]
        named = {n.name: n for n in origin.nodes if n.is_variable} if origin else known
        if origin is not None and node.name not in named:
            return computed(node.name, origin)
        node = named.get(node.name, node)
        variables[node.name] = add(Node("null", node.name, node.attrs, (), node.types))
        return variables[node.name]

    def computed(name: str, origin: Graph) -> Entry:
        """What no engine reads, such as a label, may be computed: by nodes that may be gone."""
        head = origin.entry_called(name)
        members: set[int] = set()
        todo = [head.node]
        while todo:
            index = todo.pop()
            node = origin.nodes[index]
            if index not in members and not node.is_variable and node.name not in made:
                members.add(index)
                todo += [entry.node for entry in node.inputs]
        if not members:
            return Entry(made[origin.nodes[head.node].name], head.output)
        part, _ = origin.subgraph(members, [head])
        return copy(part, {}, origin)(part.heads[0])

    def copy(
        source: Graph, given: Mapping[str, Entry], origin: Graph | None
    ) -> Callable[[Entry], Entry]:
        """Add a graph; returns where its entries are now."""
        places: dict[int, int | list[Entry]] = {}  # of a node, or of each output

        def moved(entry: Entry) -> Entry:
            place = places[entry.node]
            return Entry(place, entry.output) if isinstance(place, int) else place[entry.output]

        for index, node in enumerate(source.nodes):
            if node.is_variable:
                known = given.get(node.name)
                places[index] = [variable(node, origin) if known is None else known]
                continue
            inputs = tuple(moved(entry) for entry in node.inputs)
            if node.op == OPERATOR:
                key = node.attrs["engine"]
                part = parts[key]
                read = dict(zip(part.inputs, inputs, strict=False))  # the others are unread
                inner = copy(part.graph, read, origins.get(key))
                places[index] = [inner(head) for head in part.graph.heads]
            else:
                new = Node(node.op, node.name, node.attrs, inputs, node.types, node.raw)
                places[index] = add(new).node
        return moved

    moved = copy(graph, {}, None)
    return Graph(nodes, [moved(head) for head in graph.heads], graph.attrs)
