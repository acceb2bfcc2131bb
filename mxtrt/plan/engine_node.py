"""One engine node at work: its models, sessions and input shapes, and what answers in its place."""

from __future__ import annotations

import contextlib
import logging
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from mxtrt.config import Options
from mxtrt.convert.segment import OnnxSegment, describe_segment, to_onnx
from mxtrt.engines import BuildRequest, Engine, Session, Weight
from mxtrt.engines.shared import shared_sessions
from mxtrt.errors import EngineError, NodeError, RefusedNodesError, Unsupported
from mxtrt.graph.symbol import Graph, TensorType, with_shapes
from mxtrt.node import library
from mxtrt.node.abi import Tensor
from mxtrt.observe.counters import count
from mxtrt.plan.takeover import TakeOver
from mxtrt.precision import retyped
from mxtrt.system.threads import lock, rlock
from mxtrt.weights.paging import copy_from_gpu

__all__ = ["EngineNode", "engine_failed", "infer_shapes"]

_log = logging.getLogger("mxtrt")

Shapes = tuple[tuple[int, ...], ...]

#: A segment whose model differs at more input shapes than this runs the others in MXNet.
_MOST_MODELS = 64

#: Of more input shapes than this the half that was used least lately is forgotten.
_MOST_VARIANTS = 2048

# Seconds that a thread of MXNet's waits for a build, which may be waiting for that thread.
_PATIENCE = 1.0


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
        gpu: The GPU that its arrays are on, None for host memory.
        model: What :func:`mxtrt.convert.segment.to_onnx` makes of it, if it was called before.

    Attributes:
        graph: The segment cut out as a graph.
        engine: What builds its sessions.
        options: The options of the bind.
        precision: Arithmetic that the engine was asked for.
        key: What the ``engine`` attribute of its node says.
        inputs: Names of the variables that the engine reads at every forward.
        weights: Names of the weights that the engine holds.
        gpu: The GPU that its arrays are on, None for host memory.
        report: What a person is told of it.
        failures: Why its MXNet nodes go back to MXNet, by name; shared with its plan.
        written: Reference to its plan's answer whether weights were written since the build.
        borrowed: Sessions that read other arrays than its weights, of the same contents; shared
            with its plan, which follows writes to them.
        builds: How many engines were built for it, and not found.
        stands_alone: Whether nobody but itself can have MXNet answer in its place.
    """

    def __init__(
        self,
        graph: Graph,
        weights: frozenset[str],
        engine: Engine,
        options: Options,
        gpu: int | None = None,
        model: OnnxSegment | None = None,
    ) -> None:
        self.graph = graph
        self.precision = options.precision
        self.gpu = gpu
        self._owned = weights
        self.engine = engine
        self.options = options
        self._limit = max(options.max_engines, 1)
        self._arrays: Mapping[str, Any] | None = None
        self._lock = rlock()
        self._models: dict[str, OnnxSegment] = {}  # of the sessions, and of those to be built
        self._digests: set[str] = set()  # of all models so far
        self._sessions: dict[str, Session] = {}
        self._variants: dict[Shapes, tuple[Shapes, str]] = {}
        self._most_variants = _MOST_VARIANTS
        self._unbuilt: dict[Shapes, str] = {}  # not tried again: the reasons
        self._in_place: dict[str, Weight] = {}
        self._take_over: TakeOver | None = None
        self._taking_over = lock()
        self._retired = False
        self.failures: dict[str, str] = {}
        self.written: Callable[[], Callable[[], bool] | None] = lambda: None
        self.borrowed: list[Session] = []
        self.builds = 0
        self._shares = False
        self.stands_alone = False

        model = model or to_onnx(graph, weights)
        types = {node.name: node.types[0] for node in graph.nodes if node.is_variable}
        self.inputs = model.inputs
        self.weights = tuple(weight.name for weight in model.weights)
        self._known = {name: _shape(types[name]) for name in (*self.inputs, *self.weights)}
        self._input_types = [_dtype(types[name]) for name in self.inputs]
        self._output_types = [_dtype(graph.type_of(head)) for head in graph.heads]
        self._batches = self._profile(model)
        lib = library()
        self.key = lib.create_node(self._input_types, self._output_types, gpu)
        self._finalizer = weakref.finalize(self, _release, lib, self.key, self._sessions)
        self._finalizer.atexit = False
        _nodes[self.key] = self
        self._add(tuple(self._known[name] for name in self.inputs), graph, model)
        self.report = describe_segment(f"mxtrt{self.key}", graph, model)

    def build(self, arrays: Mapping[str, Any], *, shares: bool = False) -> None:
        """Build the engines for the input shapes known so far.

        Args:
            arrays: At least this segment's weights, by name; kept for later shapes.
            shares: Whether to share sessions of the same contents with others, see
                :attr:`borrowed`.

        Raises:
            EngineError: The engine refused the segment.
        """
        with self._lock:
            self._arrays = {name: arrays[name] for name in self.weights}
            self._shares = shares and self.engine.shares_sessions and not self.engine.static_shapes
            # The old sessions go when the new ones have taken their place: other threads run.
            old = dict(self._sessions)
            self._sessions.clear()
            self._unbuilt.clear()
            for session in old.values():
                if session in self.borrowed:
                    self.borrowed.remove(session)
                else:  # its weights were written to
                    shared_sessions().forget(session)
            for shapes, (_, digest) in list(self._variants.items()):
                if digest in old or not old or library().users(self.key, shapes):
                    self._build(shapes)

    def calibrated(self, arrays: Mapping[str, Any]) -> tuple[OnnxSegment, list[Weight]]:
        """Its model at the first input shapes, with its weights, for a calibrator to run.

        Args:
            arrays: At least this segment's weights, by name.
        """
        model = to_onnx(self.graph, self._owned)
        return model, [Weight.of(w, arrays[w.name]) for w in model.weights]

    def part(self, graph: Graph) -> EngineNode:
        """A node like this one for a part of its graph."""
        return EngineNode(graph, self._owned, self.engine, self.options, self.gpu)

    def retire(self, message: str) -> None:
        """Run the engines no more: one of them failed at run time.

        MXNet's own threads call this, so it waits for nothing.

        Args:
            message: The engine's own words.
        """
        if self._retired:
            return
        self._retired = True
        library().retire(self.key)
        for session in list(self._sessions.values()):
            session.failed = True
        reason = f"its engine failed at run time: {message}"
        self.failures.update(dict.fromkeys(self.report.nodes, reason))
        self.report.notes.append(f"the engine failed at run time and was retired: {message}")
        count("engine_failures")
        _log.warning(
            "the engine of %s failed at run time, MXNet's operators take over: %s",
            self.report.name,
            message,
        )

    def compute(self, tensors: Sequence[Tensor], stream: int = 0) -> None:
        """Compute the outputs of the segment in plain MXNet, on the CPU.

        MXNet's own threads call this, so it waits for nothing of this process's MXNet.

        Args:
            tensors: Inputs, then outputs, which are written.
            stream: The ``CUstream`` on which MXNet runs the node, for tensors on a GPU.

        Raises:
            EngineError: That did not work either.
            NodeError: The GPU of the tensors does not answer.
        """
        if not self.options.take_over:
            raise EngineError("the option take_over is off")
        with self._on_host(tensors, stream) as arrays:
            with self._taking_over:
                if self._take_over is None or not self._take_over.is_ours:
                    self._take_over = TakeOver(self.graph.to_json(), *self._constants())
            inputs = dict(zip(self.inputs, arrays, strict=False))
            outputs = self._take_over(inputs)
            for seen, made in zip(arrays[len(inputs) :], outputs, strict=True):
                seen[...] = made

    def _on_host(
        self, tensors: Sequence[Tensor], stream: int
    ) -> contextlib.AbstractContextManager[list[np.ndarray[Any, Any]]]:
        """A block with the tensors of a forward in host memory."""
        if self.gpu is None:
            return contextlib.nullcontext([tensor.values for tensor in tensors])
        end = len(self.inputs)
        return library().cuda.on_host(self.gpu, tensors[:end], tensors[end:], stream)

    def _constants(self) -> tuple[dict[str, np.ndarray[Any, Any]], dict[str, str]]:
        """Values of the weights, and dtypes of what nothing depends on: a label at inference."""
        if self.gpu is None:
            values = {name: weight.values for name, weight in self._in_place.items()}
        else:  # nobody keeps a copy of those on a GPU
            arrays = self._arrays or {}
            values = {name: copy_from_gpu(array, self.gpu) for name, array in arrays.items()}
        written = self.written()  # asked when they are read, as others may write
        if values and (written is None or written()):
            # To other values, or by oneDNN to another layout, which could be told apart by waiting.
            raise EngineError("its weights were written to since the engine was built")
        unread = {
            node.name: _dtype(node.types[0]).str
            for node in self.graph.nodes
            if node.is_variable and node.name not in {*self.inputs, *values}
        }
        return values, unread

    def is_built(self, shapes: Sequence[tuple[int, ...]]) -> bool:
        """Whether there is an engine for these input shapes; waits for nothing."""
        _, digest = self._variants.get(tuple(shapes), ((), ""))
        return digest in self._sessions

    def sessions(self) -> list[Session]:
        """Its sessions."""
        with self._lock:
            return list(self._sessions.values())

    def weight_arrays(self) -> list[Any]:
        """The NDArrays of its weights; empty before the first build."""
        with self._lock:
            return list((self._arrays or {}).values())

    def infer(self, shapes: Shapes) -> None:
        """Serve input shapes that have no engine: new ones, or pushed out by ``max_engines``.

        A build that fails is not tried again before the weights change; MXNet answers in place
        of a node that stands alone.

        Raises:
            EngineError: The segment does not accept the shapes, or the engine refused it.
        """
        with self._lock:
            if shapes not in self._variants:
                self._check_profile(shapes)
                if len(self._digests) >= _MOST_MODELS:
                    raise EngineError(
                        f"more than {_MOST_MODELS} input shapes need an engine of their own"
                    )
                graph, model = self._at(shapes)
                self._add(shapes, graph, model)
            if self._arrays is None:
                return
            answers = self.stands_alone and self.options.take_over
            if shapes not in self._unbuilt:
                try:
                    self._build(shapes)
                    return
                except Exception as error:
                    self._unbuilt[shapes] = str(error)
                    if answers:
                        told = " and ".join(map(str, shapes))
                        name = self.report.name
                        _log.warning("MXNet runs %s at input shapes %s: %s", name, told, error)
            if not answers:
                raise EngineError(self._unbuilt[shapes])

    def bring_back(self, shapes: Shapes) -> None:
        """Describe input shapes that were forgotten, for a forward that is under way.

        MXNet's own threads call this, so it builds nothing.

        Raises:
            EngineError: The segment does not accept the shapes, or an engine is being built.
        """
        if not self._lock.acquire(timeout=_PATIENCE):
            raise EngineError("an engine is being built")
        try:
            if shapes not in self._variants:
                self._check_profile(shapes)
                self._add(shapes, *self._at(shapes))
            if self._variants[shapes][1] in self._sessions:
                self._build(shapes)
        finally:
            self._lock.release()

    def _at(self, shapes: Shapes) -> tuple[Graph, OnnxSegment]:
        """The segment at other input shapes."""
        given = dict(zip(self.inputs, shapes, strict=True))
        graph = with_shapes(self.graph, {**self._known, **given})
        return graph, to_onnx(graph, self._owned)

    def _profile(self, model: OnnxSegment) -> tuple[int, int, int] | None:
        """The batch sizes of ``batch_profile``, if one model serves all of them.

        Raises:
            EngineError: The segment's own batch size is outside the profile.
        """
        wanted = self.options.batch_profile
        shapes = tuple(self._known[name] for name in self.inputs)
        if not wanted or not self.engine.static_shapes or not shapes:
            return None
        smallest, usual, largest = wanted
        if not all(shape and shape[0] == shapes[0][0] for shape in shapes):
            return None
        for batch in {smallest, largest} - {shapes[0][0]}:
            try:
                _, other = self._at(tuple((batch, *shape[1:]) for shape in shapes))
            except (EngineError, Unsupported):
                return None
            if other.digest != model.digest:
                return None
        self._batches = smallest, usual, largest
        self._check_profile(shapes)
        return self._batches

    def _check_profile(self, shapes: Shapes) -> None:
        if self._batches is None:
            return
        smallest, _, largest = self._batches
        batch = shapes[0][0] if shapes[0] else 0
        if not smallest <= batch <= largest:
            raise EngineError(
                f"batch size {batch} is outside batch_profile {smallest} to {largest}; "
                "widen the option to run it in the engine"
            )

    def _add(self, shapes: Shapes, graph: Graph, model: OnnxSegment) -> None:
        # What a session can serve: all shapes of one model, or one set of shapes.
        digest = f"{model.digest}{shapes}" if self.engine.static_shapes else model.digest
        self._drop_variants()
        self._models[digest] = model
        self._digests.add(digest)
        outputs = tuple(_shape(graph.type_of(head)) for head in graph.heads)
        self._variants[shapes] = (outputs, digest)
        library().put_variant(self.key, [*shapes, *outputs])

    def _drop_variants(self) -> None:
        """Forget input shapes that were not used for long and that no executor is bound to."""
        if len(self._variants) < self._most_variants:
            return
        lib = library()
        uses = {shapes: lib.last_use(self.key, shapes) for shapes in self._variants}
        idle = sorted((shapes for shapes in uses if uses[shapes] >= 0), key=uses.__getitem__)
        for shapes in idle[: self._most_variants // 2]:
            lib.drop_variant(self.key, shapes)
            del self._variants[shapes]
            self._unbuilt.pop(shapes, None)
        needed = {digest for _, digest in self._variants.values()} | self._sessions.keys()
        self._models = {name: model for name, model in self._models.items() if name in needed}
        self._most_variants = max(_MOST_VARIANTS, 2 * len(self._variants))

    def _build(self, shapes: Shapes) -> None:
        outputs, digest = self._variants[shapes]
        if digest not in self._sessions:
            assert self._arrays is not None
            begin = time.perf_counter()
            if digest not in self._models:  # its session was given up
                _, self._models[digest] = self._at(shapes)
            model = self._models[digest]
            weights = [Weight.of(w, self._arrays[w.name]) for w in model.weights]
            if self.gpu is None:  # of those on a GPU they are copies
                self._in_place = {weight.type.name: weight for weight in weights}
            self._make_room()
            inputs = _tensors(shapes, self._input_types)
            with library().range(f"build {self.report.name}"):
                session, notes = self._session(
                    model, weights, inputs, _tensors(outputs, self._output_types)
                )
            self._sessions[digest] = session
            self.report.notes += [note for note in notes if note not in self.report.notes]
            self.report.build_seconds += time.perf_counter() - begin
            self.report.built = True
            _log.info("built %s in %.2f s", self.report.name, self.report.build_seconds)
        library().put_variant(self.key, [*shapes, *outputs], self._sessions[digest].handle)

    def _session(
        self,
        model: OnnxSegment,
        weights: Sequence[Weight],
        inputs: Sequence[TensorType],
        outputs: Sequence[TensorType],
    ) -> tuple[Session, list[str]]:
        """A session for these types, and notes on it.

        Ranges for int8 are of whole segments, which the nodes that the engine refuses must not
        leave: their layers leave int8, or all where none of them is named.
        """
        refused: dict[str, str] = {}
        while True:
            made = retyped(model, weights, inputs, self.engine, self.options, refused)
            request = BuildRequest(
                made.segment,
                made.weights,
                inputs,
                outputs,
                self.options,
                self.gpu,
                self._batches,
            )
            try:
                session = self._found_or_built(request)
            except EngineError as error:
                if made.quantized is None:
                    raise
                if not made.quantized:
                    raise EngineError(str(error)) from error
                _log.info("the engine refused layers in int8: %s", error)
                named = error.reasons if isinstance(error, RefusedNodesError) else {}
                if not made.quantized & named.keys():
                    named = dict.fromkeys(sorted(made.quantized), str(error))
                refused |= named
            else:
                return session, [*made.notes, *session.notes]

    def _found_or_built(self, request: BuildRequest) -> Session:
        def build() -> Session:
            session = self.engine.build(request)
            count("builds")
            self.builds += 1
            return session

        if not self._shares:
            return build()
        session, found = shared_sessions().find_or_build(request, build)
        if found:
            count("shared")
            own = {weight.address for weight in request.weights}
            if any(weight.address not in own for weight in session.weights):
                self.borrowed.append(session)
        return session

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
        session = self._sessions.pop(digest)
        if session in self.borrowed:
            self.borrowed.remove(session)
        self._models.pop(digest, None)


def _release(lib: Any, key: int, sessions: dict[str, Session]) -> None:
    lib.release(key)
    sessions.clear()


_nodes: weakref.WeakValueDictionary[int, EngineNode] = weakref.WeakValueDictionary()


def infer_shapes(key: int, shapes: Shapes, in_forward: bool) -> None:
    """Serve a request of MXNet's shape inference for an engine node, or of one of its forwards.

    Raises:
        EngineError: The node is gone, or does not accept the shapes.
    """
    node = _nodes.get(key)
    if node is None:
        raise EngineError(f"engine {key} was released; partition the symbol again")
    if in_forward:
        node.bring_back(shapes)
    else:
        node.infer(shapes)


def engine_failed(
    key: int, message: str, tensors: Sequence[Tensor] | None, stream: int = 0
) -> None:
    """Serve an engine node whose engine failed.

    Args:
        key: The node.
        message: The engine's own words.
        tensors: Its inputs and outputs if MXNet's operators can take over at once.
        stream: The ``CUstream`` on which MXNet runs the node, for tensors on a GPU.

    Raises:
        EngineError: They could not.
    """
    node = _nodes.get(key)
    if node is None:
        raise EngineError(message)
    if tensors is None:
        node.retire(message)
        raise EngineError(message)
    if node.is_built([tensor.shape for tensor in tensors[: len(node.inputs)]]):
        node.retire(message)
    count("fallbacks")
    try:
        node.compute(tensors, stream)
    except (EngineError, NodeError, OSError) as error:
        raise EngineError(f"{message}; and MXNet's operators did not take over: {error}") from error


def _shape(tensor: TensorType) -> tuple[int, ...]:
    assert tensor.shape is not None
    return tensor.shape


def _dtype(tensor: TensorType) -> Any:
    assert tensor.dtype is not None
    return tensor.dtype


def _tensors(shapes: Shapes, dtypes: Sequence[Any]) -> list[TensorType]:
    return [TensorType(shape, dtype) for shape, dtype in zip(shapes, dtypes, strict=True)]
