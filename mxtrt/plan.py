"""A partitioned symbol at work: its engine nodes, the weights they own, and their lifetime."""

from __future__ import annotations

import ctypes
import dataclasses
import logging
import threading
import time
import weakref
from collections.abc import Mapping, Sequence
from typing import Any

from mxtrt import memory
from mxtrt.config import Options
from mxtrt.convert import OnnxSegment, describe_segment, to_onnx
from mxtrt.engines import Engine, Weight
from mxtrt.errors import EngineError
from mxtrt.graph import Entry, Graph, TensorType
from mxtrt.node import library
from mxtrt.node.library import OPERATOR
from mxtrt.report import Report

__all__ = ["EngineNode", "Plan", "infer_shapes"]

_log = logging.getLogger("mxtrt")

Shapes = tuple[tuple[int, ...], ...]

#: A segment whose model differs at more input shapes than this runs the others in MXNet.
_MOST_MODELS = 64


class EngineNode:
    """One segment: its key in the engine node's library, its models and its sessions.

    Input shapes that give the same ONNX model share a session if the engine can do that;
    others get one of their own: at most ``options.max_engines`` of them, or as many as live
    executors are bound to.

    Args:
        graph: The segment cut out as a graph, with shapes and dtypes.
        weights: Names of its variables that become initializers.
        engine: What builds sessions.
        options: The options of the bind.

    Attributes:
        key: What the ``engine`` attribute of its node says.
        inputs: Names of the variables that the engine reads at every forward.
        weights: Names of the weights that the engine holds.
        report: What a person is told of it.
    """

    def __init__(
        self, graph: Graph, weights: frozenset[str], engine: Engine, options: Options
    ) -> None:
        self._graph = graph
        self._owned = weights
        self._engine = engine
        self._options = options
        self._limit = max(options.max_engines, 1)
        self._arrays: Mapping[str, Any] | None = None
        self._lock = threading.RLock()
        self._models: dict[str, OnnxSegment] = {}
        self._sessions: dict[str, int] = {}
        self._variants: dict[Shapes, tuple[Shapes, str]] = {}

        model = to_onnx(graph, weights)
        types = {node.name: node.types[0] for node in graph.nodes if node.is_variable}
        self.inputs = model.inputs
        self.weights = tuple(weight.name for weight in model.weights)
        self._known = {name: _shape(types[name]) for name in (*self.inputs, *self.weights)}
        heads = [graph.type_of(head) for head in graph.heads]
        lib = library()
        self.key = lib.create_node(
            [_dtype(types[name]) for name in self.inputs], [_dtype(head) for head in heads]
        )
        self._finalizer = weakref.finalize(self, _release, lib, self.key, self._sessions)
        self._finalizer.atexit = False
        _nodes[self.key] = self
        self._add(tuple(self._known[name] for name in self.inputs), graph, model)
        self.report = describe_segment(f"mxtrt{self.key}", graph, model)

    def build(self, arrays: Mapping[str, Any]) -> None:
        """Build the engines for the input shapes known so far.

        Args:
            arrays: At least this segment's weights, by name; kept for later shapes.

        Raises:
            EngineError: The engine refused the segment.
        """
        with self._lock:
            self._arrays = {name: arrays[name] for name in self.weights}
            # The old sessions go when the new ones have taken their place: other threads run.
            old = dict(self._sessions)
            self._sessions.clear()
            try:
                for shapes, (_, digest) in list(self._variants.items()):
                    if digest in old or not old or library().users(self.key, shapes):
                        self._build(shapes)
            finally:
                for session in old.values():
                    library().release(session)

    def infer(self, shapes: Shapes) -> None:
        """Serve input shapes that have no engine: new ones, or pushed out by ``max_engines``.

        Raises:
            EngineError: The segment does not accept the shapes, or the engine refused it.
        """
        with self._lock:
            if shapes not in self._variants:
                if len(self._models) >= _MOST_MODELS:
                    raise EngineError(
                        f"more than {_MOST_MODELS} input shapes need an engine of their own"
                    )
                given = dict(zip(self.inputs, shapes, strict=True))
                graph = _with_shapes(self._graph, {**self._known, **given})
                self._add(shapes, graph, to_onnx(graph, self._owned))
            if self._arrays is not None:
                self._build(shapes)

    def _add(self, shapes: Shapes, graph: Graph, model: OnnxSegment) -> None:
        # What a session can serve: all shapes of one model, or one set of shapes.
        digest = f"{model.digest}{shapes}" if self._engine.static_shapes else model.digest
        self._models[digest] = model
        outputs = tuple(_shape(graph.type_of(head)) for head in graph.heads)
        self._variants[shapes] = (outputs, digest)
        library().put_variant(self.key, [*shapes, *outputs])

    def _build(self, shapes: Shapes) -> None:
        outputs, digest = self._variants[shapes]
        if digest not in self._sessions:
            assert self._arrays is not None
            model, begin = self._models[digest], time.perf_counter()
            weights = [
                Weight(w, memory.address_of(self._arrays[w.name]), self._arrays[w.name])
                for w in model.weights
            ]
            self._make_room()
            self._sessions[digest] = self._engine.build(
                model, weights, shapes, outputs, self._options
            )
            self.report.build_seconds += time.perf_counter() - begin
            self.report.built = True
            _log.info("built %s in %.2f s", self.report.name, self.report.build_seconds)
        library().put_variant(self.key, [*shapes, *outputs], self._sessions[digest])

    def _make_room(self) -> None:
        """Give up the oldest sessions beyond the limit that no executor is bound to."""
        used = {
            digest
            for shapes, (_, digest) in self._variants.items()
            if library().users(self.key, shapes)
        }
        for digest in list(self._sessions):
            if len(self._sessions) < self._limit:
                break
            if digest not in used:
                self._forget(digest)

    def _forget(self, digest: str) -> None:
        for shapes, (outputs, other) in list(self._variants.items()):
            if other == digest:
                library().put_variant(self.key, [*shapes, *outputs])
        library().release(self._sessions.pop(digest))


def _release(lib: Any, key: int, sessions: dict[str, int]) -> None:
    lib.release(key)
    for session in sessions.values():
        lib.release(session)
    sessions.clear()


_nodes: weakref.WeakValueDictionary[int, EngineNode] = weakref.WeakValueDictionary()


def infer_shapes(key: int, shapes: Shapes) -> None:
    """Serve a request of MXNet's shape inference for an engine node.

    Raises:
        EngineError: The node is gone, or does not accept the shapes.
    """
    node = _nodes.get(key)
    if node is None:
        raise EngineError(f"engine {key} was released; partition the symbol again")
    node.infer(shapes)


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
    """

    def __init__(
        self, nodes: Sequence[EngineNode], graph: Graph, report: Report, options: Options
    ) -> None:
        self.nodes = tuple(nodes)
        self.is_one_node = _is_one_node(graph)
        self.weights = frozenset(name for node in nodes for name in node.weights)
        self.report = report
        self.options = options
        self._lib = library()
        # The weights' handles, their number, and the writes counted when engines were built.
        self._built: tuple[Any, int, Any] | None = None

    @property
    def built(self) -> bool:
        """Whether the engines exist."""
        return self._built is not None

    def build(self, arrays: Mapping[str, Any]) -> None:
        """Build every engine from the weights' present values, then release the weights.

        Args:
            arrays: Weight NDArrays by name; more than :attr:`weights` may be given.

        Raises:
            EngineError: An engine refused its segment; nothing is released then.
        """
        self._built = None
        owned = [arrays[name] for name in sorted(self.weights)]
        for node in self.nodes:
            node.build(arrays)
        if self.options.release_weights:
            self._release(owned)
        self._lib.trim()
        count = len(owned)
        handles = (ctypes.c_void_p * max(count, 1))(*(array.handle for array in owned))
        self._built = handles, count, self._lib.versions(handles, count)

    def _release(self, arrays: Sequence[Any]) -> None:
        try:
            directory = memory.spill_directory(self.options.spill_dir)
            self.report.released_bytes += memory.page_out(arrays, directory)
        except OSError as error:
            self.report.notes.append(
                f"weights stay in MXNet's memory too: no spill file could be written ({error}); "
                "set spill_dir to a directory with room"
            )
            _log.warning(self.report.notes[-1])

    def changed(self) -> bool:
        """Whether a weight was written to since the engines were built (or they are not)."""
        built = self._built
        if built is None:
            return True
        state: int = self._lib.changed(*built)
        if state < 0:
            from mxnet.base import check_call

            check_call(state)
        return state != 0

    def remember(self) -> None:
        """Take the weights as they are now for those that :meth:`changed` compares with."""
        if self._built is not None:
            handles, count, _ = self._built
            self._built = handles, count, self._lib.versions(handles, count)


def _is_one_node(graph: Graph) -> bool:
    """Whether a partitioned graph is one engine node whose outputs are the heads in order."""
    nodes = [index for index, node in enumerate(graph.nodes) if not node.is_variable]
    return (
        len(nodes) == 1
        and graph.nodes[nodes[0]].op == OPERATOR
        and list(graph.heads) == [Entry(nodes[0], k) for k in range(len(graph.heads))]
        and graph.nodes[nodes[0]].attrs["num_outputs"] == str(len(graph.heads))
    )


def _shape(tensor: TensorType) -> tuple[int, ...]:
    assert tensor.shape is not None
    return tensor.shape


def _dtype(tensor: TensorType) -> Any:
    assert tensor.dtype is not None
    return tensor.dtype


def _with_shapes(graph: Graph, known: Mapping[str, tuple[int, ...]]) -> Graph:
    """The segment with shapes inferred anew from the shapes of its variables.

    Raises:
        EngineError: MXNet does not accept the shapes.
    """
    import mxnet as mx

    # Every output of every node as a head, so that one inference answers for all.
    entries = [Entry(i, k) for i, node in enumerate(graph.nodes) for k in range(len(node.types))]
    symbol = mx.sym.load_json(Graph(graph.nodes, entries, graph.attrs).to_json())
    _, inferred, _ = symbol.infer_shape(**known)
    if inferred is None:
        raise EngineError(f"MXNet does not accept the shapes {known}")
    shape_of = dict(zip(entries, inferred, strict=True))
    nodes = [
        dataclasses.replace(
            node,
            types=tuple(
                TensorType(tuple(shape_of[Entry(i, k)]), old.dtype)
                for k, old in enumerate(node.types)
            ),
        )
        for i, node in enumerate(graph.nodes)
    ]
    return Graph(nodes, graph.heads, graph.attrs)
