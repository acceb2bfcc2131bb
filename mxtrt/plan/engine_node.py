"""One engine node at work: its input shapes, its sessions, and what answers in their place."""

from __future__ import annotations

import logging
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from mxtrt.config import Options
from mxtrt.convert.segment import OnnxSegment, describe_segment, to_onnx
from mxtrt.engines import Engine, Session, Weight
from mxtrt.engines.shared import shared_sessions
from mxtrt.errors import EngineError, NodeError, Unsupported
from mxtrt.graph.symbol import Graph, TensorType
from mxtrt.node import library
from mxtrt.node.abi import Tensor
from mxtrt.observe.counters import count
from mxtrt.plan.fallback import Fallback
from mxtrt.plan.sessions import Sessions
from mxtrt.plan.state import Stage, State
from mxtrt.plan.variants import Reshaped, Shapes, Variants, head_shapes, profile_of
from mxtrt.system.threads import rlock
from mxtrt.weights.paging import copy_from_gpu

__all__ = ["EngineNode", "engine_failed", "infer_shapes"]

_log = logging.getLogger("mxtrt")

#: A segment whose model differs at more input shapes than this runs the others in MXNet.
_MOST_MODELS = 64

# Precisions at which a model for many shapes is looked for.  What float16 holds depends on the
# sizes, and ranges for int8 are of one structure (tests/precision/test_general_models.py).
_WIDE = ("fp32", "tf32")

# Seconds that a thread of MXNet's waits for another thread's build, which may itself wait for it.
_PATIENCE = 1.0


class EngineNode:
    """One segment: its key in the engine node's library, its input shapes and its sessions.

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
        state: Where it stands; its plan's.
        written: Reference to its plan's answer whether weights were written since the build.
        variants: Its input shapes.
        sessions: Its sessions.
        fallback: What answers where a session cannot.
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
        model = model or to_onnx(graph, weights)
        self.graph = graph
        self.engine = engine
        self.options = options
        self.precision = options.precision
        self.gpu = gpu
        self.inputs = model.inputs
        self.weights = tuple(weight.name for weight in model.weights)
        self.state = State()
        self.written: Callable[[], Callable[[], bool] | None] = lambda: None
        self.stands_alone = False
        self._owned = weights
        self._lock = rlock()
        self._unbuilt: dict[
            Shapes, str
        ] = {}  # why no engine could be built, by input shapes; not tried again
        static = engine.static_shapes
        self._segment = Reshaped(graph, weights, model, not static and options.precision in _WIDE)
        self._profile = profile_of(options.batch_profile if static else (), self._segment, model)
        types = {node.name: node.types[0] for node in graph.nodes if node.is_variable}
        self._input_types = [_dtype(types[name]) for name in self.inputs]
        self._output_types = [_dtype(graph.type_of(head)) for head in graph.heads]
        batches = self._profile.sizes if self._profile is not None else None
        self.sessions = Sessions(engine, options, gpu, batches)
        self.fallback = Fallback(graph, self.inputs, gpu)
        lib = library()
        self.key = lib.create_node(self._input_types, self._output_types, gpu)
        self._finalizer = weakref.finalize(self, _release, lib, self.key, self.sessions.by_digest)
        self._finalizer.atexit = False
        _nodes[self.key] = self
        self.variants = Variants(self.key, self._segment, static)
        self.variants.add(self._segment.shapes, (), (head_shapes(graph), model))
        self.report = describe_segment(f"mxtrt{self.key}", graph, model)

    def build(self, arrays: Mapping[str, Any], *, shares: bool = False) -> None:
        """Build the engines for the input shapes known so far.

        Args:
            arrays: At least this segment's weights, by name; kept for later shapes.
            shares: Whether to share sessions of the same contents with others, see
                :attr:`Sessions.borrowed`.

        Raises:
            EngineError: The engine refused the segment.
        """
        with self._lock:
            own = {name: arrays[name] for name in self.weights}
            old = self.sessions.renew(own, shares)  # kept alive until the new ones serve
            self._unbuilt.clear()
            for shapes, variant in self.variants:
                if variant.digest in old or not old or self.variants.is_bound(shapes):
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
        if self.report.nodes[0] in self.state.reasons:
            return
        library().retire(self.key)
        for session in list(self.sessions.by_digest.values()):
            shared_sessions().forget(session)
        reason = f"its engine failed at run time: {message}"
        self.state.to(Stage.RETIRED, dict.fromkeys(self.report.nodes, reason))
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
        self.fallback.compute(tensors, stream, self._values)

    def _values(self) -> dict[str, np.ndarray[Any, Any]]:
        """Values of the weights, as its sessions have them.

        Raises:
            EngineError: They were written to since.
        """
        if self.gpu is None:
            values = {name: weight.values for name, weight in self.sessions.in_place.items()}
        else:  # there is no copy of weights on a GPU
            arrays = self.sessions.arrays or {}
            values = {name: copy_from_gpu(array, self.gpu) for name, array in arrays.items()}
        written = self.written()  # after they are read, as other threads may write meanwhile
        if values and (written is None or written()):
            # Or oneDNN changed the layout only; telling that needs a wait.
            raise EngineError("its weights were written to since the engine was built")
        return values

    def is_built(self, shapes: Shapes) -> bool:
        """Whether there is an engine for these input shapes; waits for nothing."""
        variant = self.variants.get(shapes)
        return variant is not None and variant.digest in self.sessions.by_digest

    def live_sessions(self) -> list[Session]:
        """Its sessions now."""
        with self._lock:
            return list(self.sessions.by_digest.values())

    def weight_arrays(self) -> list[Any]:
        """The NDArrays of its weights; empty before the first build."""
        with self._lock:
            return list((self.sessions.arrays or {}).values())

    def infer(self, shapes: Shapes) -> None:
        """Serve input shapes that have no engine: new ones, or pushed out by ``max_engines``.

        A build that fails is not tried again before the weights change; MXNet answers in place
        of a node that stands alone, also at shapes for which there is no model.

        Raises:
            EngineError: The segment does not accept the shapes, or the engine refused it.
        """
        with self._lock:
            answers = self.stands_alone and self.options.take_over
            if shapes not in self.variants:
                if self._profile is not None:
                    self._profile.check(shapes)
                try:
                    if self.variants.models >= _MOST_MODELS:
                        raise EngineError(
                            f"more than {_MOST_MODELS} input shapes need an engine of their own"
                        )
                    self._add(shapes)
                except (EngineError, Unsupported) as error:
                    if not answers:
                        raise
                    self.variants.leave(shapes, self._segment.outputs(shapes))
                    self._leave(shapes, error)
            if self.sessions.arrays is None:
                return
            if shapes not in self._unbuilt:
                try:
                    self._build(shapes)
                    return
                except Exception as error:
                    self._leave(shapes, error)
            if not answers:
                raise EngineError(self._unbuilt[shapes])

    def _leave(self, shapes: Shapes, error: Exception) -> None:
        """Note that there is no engine for input shapes before the weights change."""
        self._unbuilt[shapes] = str(error)
        if self.stands_alone and self.options.take_over:
            told = " and ".join(map(str, shapes))
            name = self.report.name
            _log.warning("MXNet runs %s at input shapes %s: %s", name, told, error)

    def bring_back(self, shapes: Shapes) -> None:
        """Describe input shapes that were forgotten, for a forward that is under way.

        MXNet's own threads call this, so it builds nothing.

        Raises:
            EngineError: The segment does not accept the shapes, or an engine is being built.
        """
        if not self._lock.acquire(timeout=_PATIENCE):
            raise EngineError("an engine is being built")
        try:
            if shapes not in self.variants:
                if self._profile is not None:
                    self._profile.check(shapes)
                self._add(shapes)
            if self.is_built(shapes):
                self._build(shapes)
        finally:
            self._lock.release()

    def _add(self, shapes: Shapes) -> None:
        self.variants.add(shapes, self.sessions.by_digest.keys(), self._segment.at(shapes))
        if self._segment.general is not None:
            note = f"one engine for all sizes of {self._segment.general.varying}"
            self.report.notes += [note] * (note not in self.report.notes)
        for forgotten in [known for known in self._unbuilt if known not in self.variants]:
            del self._unbuilt[forgotten]

    def _build(self, shapes: Shapes) -> None:
        """Have a session serve input shapes."""
        outputs, digest = self.variants[shapes]
        if not digest:
            return  # MXNet's operators answer
        if not self.is_built(shapes):
            begin = time.perf_counter()
            model = self.variants.model_at(shapes)
            self._make_room()
            with library().range(f"build {self.report.name}"):
                notes = self.sessions.build(
                    digest,
                    model,
                    _tensors(shapes, self._input_types),
                    _tensors(outputs, self._output_types),
                )
            self.report.notes += [note for note in notes if note not in self.report.notes]
            self.report.build_seconds += time.perf_counter() - begin
            self.report.built = True
            _log.info("built %s in %.2f s", self.report.name, self.report.build_seconds)
        self.variants.serve(shapes, self.sessions.by_digest[digest].handle)

    def _make_room(self) -> None:
        """Give up the oldest sessions beyond ``max_engines`` that no executor is bound to."""
        for digest in self.sessions.beyond_limit(self.variants.bound()):
            self.variants.withdraw(digest)
            self.sessions.drop(digest)


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
    if node.is_built(tuple(tensor.shape for tensor in tensors[: len(node.inputs)])):
        node.retire(message)
    count("fallbacks")
    try:
        node.compute(tensors, stream)
    except (EngineError, NodeError, OSError) as error:
        raise EngineError(f"{message}; and MXNet's operators did not take over: {error}") from error


def _dtype(tensor: TensorType) -> Any:
    assert tensor.dtype is not None
    return tensor.dtype


def _tensors(shapes: Shapes, dtypes: Sequence[Any]) -> list[TensorType]:
    return [TensorType(shape, dtype) for shape, dtype in zip(shapes, dtypes, strict=True)]
