"""Segments: exact cover, convex, acyclic, deterministic, nearly linear in work."""

from __future__ import annotations

import graphlib
import itertools
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mxtrt.graph.partition import Partition, Worth, partition
from mxtrt.graph.rewrite import rewrite, undo
from mxtrt.graph.symbol import Entry, Graph, Node, TensorType


@st.composite
def graphs(draw: st.DrawFn) -> tuple[Graph, dict[int, str]]:
    """A random graph, and the nodes that have to stay in MXNet."""
    nodes = [Node("null", f"data{i}", {}, ()) for i in range(draw(st.integers(1, 3)))]
    nodes += [Node("null", f"weight{i}", {}, ()) for i in range(draw(st.integers(0, 3)))]
    reasons = {}
    while draw(st.booleans()) or len(nodes) < 5:
        reads = draw(st.lists(st.integers(0, len(nodes) - 1), min_size=1, max_size=3))
        if draw(st.booleans()):
            reasons[len(nodes)] = "denied"
        nodes.append(Node("op", f"op{len(nodes)}", {}, tuple(Entry(i) for i in reads)))
    heads = draw(st.lists(st.integers(0, len(nodes) - 1), min_size=1, max_size=4))
    return Graph(nodes, [Entry(i) for i in heads]), reasons


class _Part(NamedTuple):
    graph: Graph
    inputs: Sequence[str]


WEIGHTS = frozenset(f"weight{i}" for i in range(3))


def cut(graph: Graph, reasons: dict[int, str]) -> Partition:
    """Partition with the tests' weights."""
    return partition(graph, reasons, WEIGHTS)


@given(graphs())
@settings(derandomize=True, max_examples=300, deadline=None)
def test_every_operator_is_in_one_segment_or_has_a_reason(case):
    """Exact cover: no node is lost, none is in two places."""
    graph, reasons = case
    found = cut(graph, reasons)
    placed = [index for segment in found.segments for index in segment.nodes]
    placed += list(found.reasons)
    operators = [i for i, node in enumerate(graph.nodes) if not node.is_variable]
    assert sorted(placed) == operators
    assert set(reasons) <= set(found.reasons)


@given(graphs())
@settings(derandomize=True, max_examples=300, deadline=None)
def test_segments_are_convex_and_acyclic_after_contraction(case):
    """Rewriting orders the contracted graph topologically, which a cycle would prevent."""
    graph, reasons = case
    found = cut(graph, reasons)
    rewritten = rewrite(graph, found.segments, range(len(found.segments)))
    # Graph() itself checks that every node reads only earlier ones.
    assert len(rewritten.heads) == len(graph.heads)
    engines = [node for node in rewritten.nodes if "engine" in node.attrs]
    needed = _reachable(graph)
    assert len(engines) == sum(bool(needed & set(s.nodes)) for s in found.segments)
    for segment in found.segments:
        below, inside = set(), set(segment.nodes)
        for index in range(segment.nodes[0], len(graph.nodes)):
            producers = {entry.node for entry in graph.nodes[index].inputs}
            if index in inside:
                assert not producers & below, "a path leaves the segment and comes back"
            elif producers & (inside | below):
                below.add(index)


def values(graph: Graph, given: dict[str, Any], segments: Sequence[tuple[Graph, Any]] = ()) -> Any:
    """What a graph of opaque operators computes: for every head what it depends on, and how."""
    seen: list[Any] = []
    for node in graph.nodes:
        inputs = tuple(seen[entry.node][entry.output] for entry in node.inputs)
        if node.is_variable:
            seen.append((given[node.name],))
        elif "engine" in node.attrs:
            part, names = segments[int(node.attrs["engine"])]
            seen.append(values(part, {**given, **dict(zip(names, inputs, strict=True))}))
        else:
            seen.append(((node.name, inputs),))
    return tuple(seen[head.node][head.output] for head in graph.heads)


@given(graphs())
@settings(derandomize=True, max_examples=500, deadline=None)
def test_no_segment_could_be_one_with_another_that_reads_it(case):
    """Joined they would have a cycle with what is between them."""
    graph, reasons = case
    found = cut(graph, reasons)
    segments = [frozenset(segment.nodes) for segment in found.segments]
    for one, two in itertools.permutations(segments, 2):
        reads = any(entry.node in one for index in two for entry in graph.nodes[index].inputs)
        if reads:
            rest = [segment for segment in segments if segment not in (one, two)]
            assert _has_cycle(graph, [*rest, one | two])


def _has_cycle(graph: Graph, segments: Sequence[frozenset[int]]) -> bool:
    unit = {index: min(segment) for segment in segments for index in segment}
    before: dict[int, set[int]] = {}
    for index, node in enumerate(graph.nodes):
        own = unit.get(index, index)
        reads = {unit.get(entry.node, entry.node) for entry in node.inputs} - {own}
        before.setdefault(own, set()).update(reads)
    try:
        graphlib.TopologicalSorter(before).prepare()
    except graphlib.CycleError:
        return True
    return False


@given(graphs(), st.data())
@settings(derandomize=True, max_examples=300, deadline=None)
def test_segments_compute_what_the_graph_did(case, data):
    """Whatever is computed in several of them, because its value is known at bind."""
    graph, reasons = case
    able = [i for i, n in enumerate(graph.nodes) if not n.is_variable and i not in reasons]
    known = frozenset(data.draw(st.sets(st.sampled_from(able)))) if able else frozenset()
    found = partition(graph, reasons, WEIGHTS, known=known)
    placed = {i for segment in found.segments for i in segment.members} | found.reasons.keys()
    assert placed >= _reachable(graph) - {i for i, n in enumerate(graph.nodes) if n.is_variable}
    assert not {i for segment in found.segments for i in segment.nodes} & known
    parts: list[tuple[Graph, list[str]]] = []
    for segment in found.segments:
        if not segment.outputs:  # nothing needs it
            parts.append((graph, []))
            continue
        part, outside = graph.subgraph(segment.members, segment.outputs)
        weights = {graph.nodes[index].name for index in segment.weights}
        variables = zip(outside, part.nodes, strict=False)
        names = {e: v.name for e, v in variables if v.name not in weights}
        assert set(segment.inputs) == set(names)
        parts.append((part, [names[entry] for entry in segment.inputs]))
    given_ = {node.name: node.name for node in graph.nodes if node.is_variable}
    rewritten = rewrite(graph, found.segments, range(len(found.segments)))
    assert values(rewritten, given_, parts) == values(graph, given_)
    again = undo(rewritten, {str(i): _Part(*part) for i, part in enumerate(parts)}, {})
    assert values(again, given_) == values(graph, given_)
    names = [node.name for node in again.nodes if node.is_variable]
    assert len(names) == len(set(names))


@given(graphs())
@settings(derandomize=True, max_examples=100, deadline=None)
def test_weights_move_only_when_no_mxnet_node_reads_them(case):
    """A variable that MXNet reads, or that is a head, stays a variable of the symbol."""
    graph, reasons = case
    found = cut(graph, reasons)
    inside = {index for segment in found.segments for index in segment.nodes}
    heads = {head.node for head in graph.heads}
    for segment in found.segments:
        for weight in segment.weights:
            assert graph.nodes[weight].name in WEIGHTS
            assert weight not in heads
            assert set(graph.consumers()[weight]) <= inside


@given(graphs())
@settings(derandomize=True, max_examples=50, deadline=None)
def test_the_same_graph_gives_the_same_segments(case):
    """Nothing depends on hashing or on time."""
    graph, reasons = case
    again = Graph.from_json(graph.to_json())
    assert cut(graph, reasons) == cut(again, reasons)


def test_a_branch_joins_the_segment_that_reads_it():
    """A node that could run early or late runs in its reader's segment, not in one of its own."""
    x = Node("null", "data", {}, ())
    early = Node("op", "early", {}, (Entry(0),))
    denied = Node("op", "denied", {}, (Entry(1),))
    side = Node("op", "side", {}, (Entry(0),))
    late = Node("op", "late", {}, (Entry(2), Entry(3)))
    found = cut(Graph([x, early, denied, side, late], [Entry(4)]), {2: "denied"})
    assert [segment.nodes for segment in found.segments] == [(1,), (3, 4)]


@pytest.mark.parametrize(("size", "owners"), [(64 * 1024, 0), (1024, 2)])
def test_a_weight_of_two_segments_stays_mxnets_unless_it_is_small(size, owners):
    """It is in memory once: as an input of both."""
    tensor = TensorType((size // 4,), np.dtype(np.float32))
    nodes = [
        Node("null", "data", {}, ()),
        Node("null", "weight0", {}, (), (tensor,)),
        Node("op", "early", {}, (Entry(0), Entry(1))),
        Node("op", "denied", {}, (Entry(2),)),
        Node("op", "late", {}, (Entry(3), Entry(1))),
    ]
    found = cut(Graph(nodes, [Entry(4)]), {3: "denied"})
    assert [segment.nodes for segment in found.segments] == [(2,), (4,)]
    assert sum(1 in segment.weights for segment in found.segments) == owners
    assert sum(Entry(1) in segment.inputs for segment in found.segments) == 2 - owners


def test_small_and_idle_segments_stay_in_mxnet_with_a_reason():
    """min_nodes and pure data movers are honoured, and said."""
    x = Node("null", "data", {}, ())
    graph = Graph([x, Node("op", "a", {}, (Entry(0),))], [Entry(1)])
    few = partition(graph, {}, WEIGHTS, worth=Worth(min_nodes=2))
    assert few.reasons == {1: "its segment has 1 nodes, fewer than min_nodes=2"}
    idle = partition(graph, {}, WEIGHTS, worth=Worth(movers=frozenset({1})))
    assert "only moves data" in idle.reasons[1]
    constant = Graph([Node("null", "weight0", {}, ()), graph.nodes[1]], [Entry(1)])
    assert partition(constant, {}, WEIGHTS).reasons == {1: "its segment has no input but weights"}


def test_work_grows_with_the_number_of_nodes():
    """Ten times the nodes take little more than ten times the calls of functions, no hundred."""

    def calls(count: int) -> int:
        nodes = [Node("null", "data", {}, ())]
        reasons = {}
        for index in range(1, count):
            if index % 7 == 0:
                reasons[index] = "denied"
            reads = {index - 1, index // 2}
            nodes.append(Node("op", f"n{index}", {}, tuple(Entry(i) for i in sorted(reads))))
        graph = Graph(nodes, [Entry(count - 1)])
        seen = itertools.count()
        sys.setprofile(lambda *_: next(seen))
        try:
            cut(graph, reasons)
        finally:
            sys.setprofile(None)
        return next(seen)

    assert calls(20_000) < 15 * calls(2_000)


def _reachable(graph: Graph) -> set[int]:
    todo = [head.node for head in graph.heads]
    seen = set(todo)
    while todo:
        for entry in graph.nodes[todo.pop()].inputs:
            if entry.node not in seen:
                seen.add(entry.node)
                todo.append(entry.node)
    return seen
