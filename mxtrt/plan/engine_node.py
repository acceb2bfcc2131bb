"""One engine node at work: its input shapes, its sessions, and what answers in their place."""

from __future__ import annotations

import contextlib
import functools
import logging
import math
import time
import weakref
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from mxtrt.config import Options
from mxtrt.convert.ops import registry
from mxtrt.convert.segment import OnnxSegment, describe_segment, to_onnx
from mxtrt.engines import Engine, Session, Weight
from mxtrt.engines.ranges import Ranges
from mxtrt.engines.shared import shared_sessions
from mxtrt.errors import EngineError, Unsupported
from mxtrt.graph.symbol import Graph, Shapes, TensorType
from mxtrt.node import library
from mxtrt.node.abi import Tensor
from mxtrt.observe.counters import count
from mxtrt.plan import later
from mxtrt.plan.asked import nodes
from mxtrt.plan.fallback import Fallback
from mxtrt.plan.family import Family, family_of
from mxtrt.plan.kept_ranges import KeptRanges
from mxtrt.plan.proofs import Proofs
from mxtrt.plan.served import Served
from mxtrt.plan.sessions import Sessions
from mxtrt.plan.state import Stage, State
from mxtrt.plan.variants import Reshaped, Variants, head_shapes
from mxtrt.plan.wanted import Wanted, wanted_batches
from mxtrt.system import background
from mxtrt.system.background import in_job
from mxtrt.system.threads import rlock
from mxtrt.weights.paging import copy_from_gpu

__all__ = ["EngineNode"]

_log = logging.getLogger("mxtrt")

#: A segment whose model differs at more input shapes than this runs the others in MXNet.
_MOST_MODELS = 64

# What a note of the report begins with that says what the engine for ranges serves.
_RANGES = "one engine for "

# An engine that was given up for others is built again, in the background, after 1, 3, 7, ...
# further requests, so that more shapes in turn than engines are kept do not cost a build each.
_LONGEST_PAUSE = 255

# Precisions at which a model for many shapes is looked for.  What float16 holds depends on the
# sizes, and ranges for int8 are of one structure (tests/precision/test_general_models.py).
_WIDE = ("fp32", "tf32")

# Seconds that a request waits for a conversion that may show that an engine serves its shapes, and
# what part of the time of a run more.
_BRIEF, _BRIEFLY = 0.008, 0.25

# Seconds that a thread of MXNet's waits for another thread's build, which may itself wait for it.
_PATIENCE = 1.0


class EngineNode:
    """One segment: its key in the engine node's library, its input shapes and its sessions.

    Input shapes that give the same ONNX model share a session if the engine can do that, or one
    is built for ranges that contain them; others get one of their own: at most
    ``options.max_engines`` of them, or as many as live executors are bound to.

    Args:
        graph: The segment cut out as a graph, with shapes and dtypes.
        weights: Names of its variables that become initializers.
        engine: What builds sessions.
        options: The options of the bind.
        gpu: The GPU that its arrays are on, None for host memory.
        converted: What :func:`mxtrt.convert.segment.to_onnx` makes of it, and how many seconds that
            took, if it was called before.
        wanted: The input shapes that the option ``shapes`` asks for, if it does.

    Attributes:
        graph: The segment cut out as a graph.
        engine: What builds its sessions.
        options: The options of the bind.
        precision: Arithmetic that the engine was asked for, by the options or by the graph.
        key: What the ``engine`` attribute of its node says.
        inputs: Names of the variables that the engine reads at every forward.
        weights: Names of the weights that the engine holds.
        weight_types: Their names, shapes and dtypes.
        gpu: The GPU that its arrays are on, None for host memory.
        report: What a person is told of it.
        state: Where it stands; its plan's.
        written: Reference to its plan's answer whether weights were written since the build.
        holds: Its plan's answer whether weights hold what they held at the build.
        proofs: Which engines for ranges of shapes were compared with MXNet.
        variants: Its input shapes.
        sessions: Its sessions.
        fallback: What answers where a session cannot.
        postponements: How often it had MXNet answer, until an engine is built.
        stands_alone: Whether nobody but itself can have MXNet answer in its place.
    """

    def __init__(
        self,
        graph: Graph,
        weights: frozenset[str],
        engine: Engine,
        options: Options,
        gpu: int | None = None,
        converted: tuple[OnnxSegment, float] | None = None,
        wanted: Wanted | None = None,
    ) -> None:
        model, seconds = converted or (to_onnx(graph, weights, opset=engine.opset), math.inf)
        self.graph = graph
        self.engine = engine
        self.options = options
        calibrated = any(
            node.op in registry() and registry()[node.op].quantized for node in graph.nodes
        )
        self.precision = "int8" if calibrated else options.precision
        self.gpu = gpu
        self.inputs = model.inputs
        self.weight_types = model.weights
        self.weights = tuple(weight.name for weight in model.weights)
        self.state = State()
        self.written: Callable[[], Callable[[], bool] | None] = lambda: None
        self.holds: Callable[[], bool] = lambda: True
        self.proofs = Proofs(options)
        self.stands_alone = False
        self.postponements = 0
        self._owned = weights
        self._building = rlock()  # held while something is converted or built, and taken first
        self._lock = rlock()  # held for moments
        self._unbuilt: dict[Shapes, _Failure] = {}
        self._given_up: Counter[str] = Counter()  # how often for others, by digest
        self._outdated = 0  # builds in a row whose weights were written to meanwhile
        # Sessions to build again, by digest: those of before serve until then, also where a build
        # was broken off.
        self._due: set[str] = set()
        static, ranged = engine.static_shapes, engine.takes_ranges
        wide = options.precision in _WIDE
        # An engine of static shapes is for one node, and the first is for its own shapes.
        family = Family(wide and ranged) if static or not wide else family_of(graph, weights)
        self._segment = Reshaped(graph, weights, model, seconds, family, engine.opset)
        self._served: Served | None = None
        if ranged:
            wanted = wanted or wanted_batches(options.batch_profile, self._segment.shapes)
            memory = KeptRanges(graph, weights, engine, options, gpu)
            self._served = Served(self._segment, model, wanted, memory)
        elif wanted is not None:  # one session serves what has the same model
            with contextlib.suppress(Exception):
                wanted.show(self._segment.at)
        types = {node.name: node.types[0] for node in graph.nodes if node.is_variable}
        self._input_types = [_dtype(types[name]) for name in self.inputs]
        self._output_types = [_dtype(graph.type_of(head)) for head in graph.heads]
        self.sessions = Sessions(engine, options, gpu)
        self.fallback = Fallback(graph, self.inputs, gpu)
        lib = library()
        self.key = lib.create_node(self._input_types, self._output_types, gpu)
        self._finalizer = weakref.finalize(self, _release, lib, self.key, self.sessions.by_digest)
        self._finalizer.atexit = False
        nodes[self.key] = self
        self.variants = Variants(self.key, self._segment, static)
        self.report = describe_segment(f"mxtrt{self.key}", graph, model)
        first = self._served.first if self._served is not None else None
        made = head_shapes(graph), self._segment.model
        if first is not None:
            made = self._segment.at(self._segment.shapes)
        self._add(self._segment.shapes, made, first)

    def build(self, arrays: Mapping[str, Any], *, shares: bool = False) -> None:
        """Build the engines for the input shapes known so far.

        Args:
            arrays: At least this segment's weights, by name; kept for later shapes.
            shares: Whether to share sessions of the same contents with others, see
                :attr:`Sessions.borrowed`.

        Raises:
            EngineError: The engine refused the segment.
        """
        with self._building:
            own = {name: arrays[name] for name in self.weights}
            with self._lock:
                old = self.sessions.renew(own, shares)  # kept alive until the new ones serve
                self._due |= old.keys()
                self._unbuilt.clear()
            for shapes, variant in self.variants:
                due = variant.digest in self._due or not self._due
                if due or self.variants.is_bound(shapes):
                    self._build(shapes)
            self._due.clear()

    def calibrated(self, arrays: Mapping[str, Any]) -> tuple[OnnxSegment, list[Weight]]:
        """Its model at the first input shapes, with its weights, for a calibrator to run.

        Args:
            arrays: At least this segment's weights, by name.
        """
        model = to_onnx(self.graph, self._owned, opset=self.engine.opset)
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

        A build that failed is not tried again before the weights change, in the background after
        :data:`mxtrt.plan.later.MOST_TRIES` of them.  MXNet answers in place of a node that stands
        alone, also at shapes for which there is no model.

        Raises:
            EngineError: The segment does not accept the shapes, or the engine refused it, or is yet
                to be built in the background.
        """
        if self._serves(shapes):
            return
        background = not (
            self.stands_alone
            or self._outdated >= later.MOST_OUTDATED
            or later.waits(self.options, self.gpu)
        )
        if background and self.sessions.arrays is not None:
            if (failure := self._unbuilt.get(shapes)) and failure.final:
                raise EngineError(failure.reason)
            if self._finds(shapes):
                return
            self.postponements += 1  # first: the error leaves a CachedOp in need of being renewed
            variant = self.variants.get(shapes)
            returns = self._given_up.get(variant.digest, 0) if variant else 0
            later.postpone(
                "an engine for these input shapes is yet to be built",
                min((1 << returns) - 1, _LONGEST_PAUSE),
            )
        with self._building:
            if not self._serves(shapes):
                self._serve(shapes)

    def _finds(self, shapes: Shapes) -> bool:
        """Whether an engine serves new input shapes, if a request can wait for finding that out."""
        patience = _BRIEF + _BRIEFLY * library().last_run(self.key)
        if self._segment.seconds > patience:
            return False
        try:
            made = self._segment.known(shapes)
            ranges = None
            if made is not None and self._served is not None:
                ranges = self._served.containing(shapes, made[1])
        except (EngineError, Unsupported):  # the build says it
            return False
        if made is None or (self._served is not None and ranges is None):
            return False
        with self._lock:
            if shapes not in self.variants:
                self._add(shapes, made, ranges)
        return self._serves(shapes)

    def _serves(self, shapes: Shapes) -> bool:
        """Whether input shapes have an engine, which serves them from now on; builds nothing."""
        with self._lock:
            if shapes not in self.variants:
                if self._served is not None:
                    self._served.check(shapes)
                made = self._segment.trusted(shapes)
                if made is None:
                    return False
                ranges = None
                if self._served is not None:
                    ranges = self._served.containing(shapes, made[1])
                    if ranges is None:
                        return False
                self._add(shapes, made, ranges)
            if not self.is_built(shapes):
                return False
            digest = self.variants[shapes].digest
            self.variants.serve(shapes, self.sessions.by_digest[digest].handle)
            return True

    def _serve(self, shapes: Shapes) -> None:
        """Convert the segment at input shapes, and build its engine, if it is time for that."""
        answers = self.stands_alone and self.options.take_over
        failure = self._unbuilt.get(shapes)
        if failure is None or not failure.final:
            try:
                if in_job() and not self.holds():
                    raise later.OutdatedError
                self._convert(shapes)
                if self.sessions.arrays is not None:
                    self._build(shapes, checked=in_job())
                self._outdated = 0
                return
            except later.OutdatedError:
                self._outdated += 1
                raise
            except Exception as error:
                known = shapes in self.variants
                if answers and not known:
                    with self._lock:
                        self.variants.leave(shapes, self._segment.outputs(shapes))
                    known = True
                tries = (failure.tries if failure else 0) + 1
                final = tries == later.MOST_TRIES or not known or not in_job()
                failure = _Failure(str(error), tries, final)
                if not known and not in_job():
                    raise
                self._unbuilt[shapes] = failure
                if answers:
                    told = " and ".join(map(str, shapes))
                    name = self.report.name
                    _log.warning("MXNet runs %s at input shapes %s: %s", name, told, error)
        if not answers:
            raise EngineError(failure.reason)

    def _convert(self, shapes: Shapes) -> None:
        """Describe input shapes, if they are new."""
        if shapes in self.variants:
            return
        if self.variants.models >= _MOST_MODELS:
            raise EngineError(f"more than {_MOST_MODELS} input shapes need an engine of their own")
        made = self._segment.at(shapes)
        ranges = None if self._served is None else self._served.ranges_for(shapes, made[1])
        with self._lock:
            self._add(shapes, made, ranges)

    def bring_back(self, shapes: Shapes) -> None:
        """Describe input shapes that were forgotten, for a forward that is under way.

        MXNet's own threads call this, so it builds nothing.

        Raises:
            EngineError: The segment does not accept the shapes, or an engine is being built.
        """
        if self._serves(shapes):
            return
        if not self._building.acquire(timeout=_PATIENCE):
            raise EngineError("an engine is being built")
        try:
            self._convert(shapes)
            self._serves(shapes)
        finally:
            self._building.release()

    def _add(
        self, shapes: Shapes, made: tuple[Shapes, OnnxSegment], ranges: Ranges | None = None
    ) -> None:
        self.variants.add(shapes, self.sessions.by_digest.keys(), made, ranges)
        if self._segment.general is not None and self._served is None:
            self._note(f"one engine for all sizes of {self._segment.general.varying}")
        for forgotten in [known for known in self._unbuilt if known not in self.variants]:
            del self._unbuilt[forgotten]

    def _note(self, note: str) -> None:
        self.report.notes += [note] * (note not in self.report.notes)

    def _build(self, shapes: Shapes, *, checked: bool = False) -> None:
        """Have a session serve known input shapes: for ranges if that can be, or for these alone.

        Args:
            shapes: The input shapes.
            checked: Whether to keep it only if the weights are those of the other sessions.
        """
        refusal = ""
        while True:
            variant = self.variants[shapes]
            if not variant.digest:
                return  # MXNet's operators answer
            try:
                self._build_one(shapes, checked)
                break
            except EngineError as error:
                outdated = isinstance(error, later.OutdatedError)
                if variant.ranges is None or self._served is None or outdated:
                    raise
                self._replace(variant.ranges, self._served.refused(variant.ranges, error))
                refusal = self._served.reason or f"the ranges of shapes are narrow: {error}"
        if refusal:
            self._note(refusal)
        if variant.ranges is not None:
            self._take_over(shapes, variant.ranges)

    def _build_one(self, shapes: Shapes, checked: bool) -> None:
        """Have the session serve known input shapes that is to be for them."""
        if not self.is_built(shapes):
            self._build_session(shapes, checked)
        with self._lock:
            variant = self.variants.get(shapes)
            if variant is not None:  # it has not been forgotten meanwhile
                self.variants.serve(shapes, self.sessions.by_digest[variant.digest].handle)

    def _build_session(self, shapes: Shapes, checked: bool) -> None:
        """Build a session for known input shapes, without keeping others from serving theirs."""
        variant = self.variants.get(shapes)
        if variant is None:
            return
        begin = time.perf_counter()
        watch = library().watch(self.weight_arrays()) if in_job() else None
        model = self.variants.model_at(shapes)
        with self._lock:
            self._make_room()
        with library().range(f"build {self.report.name}"):
            made = self.sessions.made(
                model,
                _tensors(shapes, self._input_types),
                _tensors(variant.outputs, self._output_types),
                variant.ranges,
            )
        try:
            if variant.ranges is not None:
                places = variant.ranges, shapes, model.digest
                self.proofs.prove(self, made.session, self._segment, *places)
        finally:  # or it was compared with other weights
            if watch is not None and (watch.changed() or (checked and not self.holds())):
                raise later.OutdatedError
        with self._lock:
            self.sessions.put(variant.digest, made)
        for note in made.notes:
            self._note(note)
        self.report.build_seconds += time.perf_counter() - begin
        self.report.built = True
        _log.info("built %s in %.2f s", self.report.name, self.report.build_seconds)

    def _replace(self, ranges: Ranges, other: Ranges | None) -> None:
        """Plan for other ranges, or for shapes of their own, in place of what was not built."""
        for known, variant in self.variants:
            if variant.ranges == ranges:
                made = self._segment.at(known)
                with self._lock:
                    self.variants.move(known, made, other)

    def _take_over(self, shapes: Shapes, ranges: Ranges) -> None:
        """Have a new session for ranges serve all known shapes in them, in place of older ones."""
        assert self._served is not None
        _, digest, model, _ = self.variants[shapes]
        if not self._served.built(ranges, digest):
            return
        segment = self.variants.model_at(shapes)
        inside = [
            (known, variant.outputs)
            for known, variant in self.variants
            if variant.digest != digest
            and ranges.contains(known)
            and (variant.model == model or self._segment.digest_at(known) == model)
        ]
        with self._lock:
            handle = self.sessions.by_digest[digest].handle
            for known, outputs in inside:
                self.variants.move(known, (outputs, segment), ranges)
                self.variants.serve(known, handle)
                self._unbuilt.pop(known, None)
            for other in self.sessions.by_digest.keys() - self.variants.used():
                self.sessions.drop(other)
        count = len(ranges.profiles)
        told = f"{count} profiles" if count > 1 else "one profile"
        served = [note for note in self.report.notes if not note.startswith(_RANGES)]
        self.report.notes[:] = [*served, f"{_RANGES}{ranges.describe(self.inputs)}, {told}"]
        trust = functools.partial(self._segment.trust, ranges, segment)
        if in_job():
            trust()
        else:
            background.submit(trust)

    def _make_room(self) -> None:
        """Give up the sessions beyond ``max_engines`` that were used least lately.

        No executor is bound to them.  While others answer the one in use stays: Gluon does not ask
        for shapes again that were those of its last call.  So does the one for ranges.
        """
        excess = self.sessions.excess()
        if not excess:
            return
        kept = None if self._served is None else self._served.digest
        idle = [
            one for one in self.variants.idle() if one in self.sessions.by_digest and one != kept
        ]
        for digest in idle[: min(excess, len(idle) - in_job())]:
            self._given_up[digest] += 1
            self.variants.withdraw(digest)
            self.sessions.drop(digest)


class _Failure(NamedTuple):
    """Why no engine could be built for some input shapes."""

    reason: str
    tries: int
    final: bool


def _release(lib: Any, key: int, sessions: dict[str, Session]) -> None:
    lib.release(key)
    sessions.clear()


def _dtype(tensor: TensorType) -> Any:
    assert tensor.dtype is not None
    return tensor.dtype


def _tensors(shapes: Shapes, dtypes: Sequence[Any]) -> list[TensorType]:
    return [TensorType(shape, dtype) for shape, dtype in zip(shapes, dtypes, strict=True)]
