"""Segments become engine nodes; weights that only engines read leave the graph."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Mapping, Sequence

from mxtrt.graph import Entry, Graph, Node
from mxtrt.node.library import OPERATOR
from mxtrt.partition import Segment

__all__ = ["rewrite"]


def rewrite(
    graph: Graph, segments: Sequence[Segment], keys: Sequence[int], process: str = ""
) -> Graph:
    """Replace every segment by one engine node.

    Args:
        graph: The symbol.
        segments: Convex segments, acyclic after contraction.
        keys: For every segment the key of its engine node.
        process: What tells the keys of this process from those of others.

    Ensures:
        Heads keep their number and order; every variable that is still read keeps its name, the
        others are gone.  An engine node with one output is named after the node that produced
        it, so that the symbol's output keeps its name.
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

    nodes: list[Node] = []
    moved: dict[Entry, Entry] = {}
    ready = [place for place in units if not waiting[place]]
    heapq.heapify(ready)
    while ready:
        place = heapq.heappop(ready)
        inputs = tuple(moved[entry] for entry in reads(place))
        if place in segment_of:
            segment = segments[segment_of[place]]
            key = keys[segment_of[place]]
            nodes.append(_engine_node(graph, segment, key, process, inputs))
            moved.update((e, Entry(len(nodes) - 1, i)) for i, e in enumerate(segment.outputs))
        else:
            node = graph.nodes[place]
            outputs = max(len(node.types), 1)
            nodes.append(Node(node.op, node.name, node.attrs, inputs, node.types, node.raw))
            moved.update((Entry(place, i), Entry(len(nodes) - 1, i)) for i in range(outputs))
        for reader in readers[place]:
            waiting[reader] -= 1
            if not waiting[reader]:
                heapq.heappush(ready, reader)
    return Graph(nodes, [moved[head] for head in graph.heads], graph.attrs)


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


def _engine_node(
    graph: Graph, segment: Segment, key: int, process: str, inputs: tuple[Entry, ...]
) -> Node:
    producers = {graph.nodes[entry.node].name for entry in segment.outputs}
    name = producers.pop() if len(segment.outputs) == 1 else f"mxtrt{key}"
    attrs = {
        "engine": str(key),
        "process": process,
        "num_inputs": str(len(segment.inputs)),
        "num_outputs": str(len(segment.outputs)),
    }
    return Node(OPERATOR, name, attrs, inputs, tuple(graph.type_of(e) for e in segment.outputs))
