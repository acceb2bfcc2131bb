"""The input shapes at which one segment is run, and its ONNX model at each."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Mapping
from functools import cached_property, partial
from typing import NamedTuple, TypeVar

from mxtrt.convert.general import General
from mxtrt.convert.onnx_builder import OPSET
from mxtrt.convert.segment import OnnxSegment, to_onnx
from mxtrt.engines.ranges import Ranges, Symbol
from mxtrt.errors import EngineError
from mxtrt.graph.symbol import Graph, Inference, Shapes, TensorType, with_shapes
from mxtrt.node import library
from mxtrt.plan.family import Family

__all__ = ["Reshaped", "Variant", "Variants", "head_shapes"]

_T = TypeVar("_T")

# Operators that are converted in another way where a model for other sizes is to be made of it.
_OF_TWO_FORMS = frozenset({"_contrib_AdaptiveAvgPooling2D"})

# A model that is the same at so many sizes in a row is that of all: what a converter makes of one
# depends on what a stride leaves of it, or a few strides.
_SIZES_IN_A_ROW = 64

#: Of more input shapes than this the half that was used least lately is forgotten.
_MOST_VARIANTS = 2048


class Reshaped:
    """A segment at any input shapes.

    Args:
        graph: The segment cut out as a graph, with shapes and dtypes.
        owned: Names of its variables that become initializers.
        model: Its ONNX model at these shapes.
        seconds: What the conversion took.
        family: The segments that it shares models for other shapes with.
        opset: The newest ONNX operator set whose operators the engine has.

    Attributes:
        shapes: The input shapes of ``graph``.
        model: The model at these; others of its family may share it.
        seconds: What the last conversion took.
    """

    def __init__(
        self,
        graph: Graph,
        owned: frozenset[str],
        model: OnnxSegment,
        seconds: float,
        family: Family,
        opset: int = OPSET,
    ) -> None:
        types = {node.name: node.types[0] for node in graph.nodes if node.is_variable}
        self._graph = graph
        self._owned = owned
        self._opset = opset
        self._inputs = model.inputs
        read = {*model.inputs, *(weight.name for weight in model.weights)}
        self._known = {name: _shape(types[name]) for name in types.keys() & read}
        # No model reads them: for some operators their shapes tell, and others, such as a label,
        # follow the sizes of the data.
        self._unread = {name: _shape(types[name]) for name in types.keys() & owned - read}
        self.shapes: Shapes = tuple(self._known[name] for name in model.inputs)
        self.seconds = seconds
        self._two_forms = any(node.op in _OF_TWO_FORMS for node in graph.nodes)
        self._family = family
        self._everywhere: tuple[Ranges, OnnxSegment] | None = None
        self.model = self._shared(self.shapes, head_shapes(graph), model)
        if self.model is model:
            self._family.take(self.shapes, model)

    @property
    def general(self) -> General | None:
        """The model for other shapes that was found last, None while there is none."""
        return self._family.general

    def trusted(self, shapes: Shapes) -> tuple[Shapes, OnnxSegment] | None:
        """Output shapes and model at input shapes for which nothing has to be converted, if so."""
        general = self.general
        if general is not None and (outputs := general.trusted(shapes)) is not None:
            return outputs, general.model
        if self._everywhere is None:
            return None
        ranges, model = self._everywhere
        # What is of size 1 is broadcast, and may be converted otherwise.
        if not ranges.contains(shapes) or 1 in ranges.varying(shapes):
            return None
        try:
            return self._inferred(self._inference, shapes), model
        except EngineError:
            return None

    def trust(self, ranges: Ranges, model: OnnxSegment) -> None:
        """Have a model be trusted with all input shapes in ranges, where that can be shown.

        It converts the segment at many of them.

        Args:
            ranges: The ranges.
            model: The model at some of them.
        """
        sizes = ranges.spread(_SIZES_IN_A_ROW)
        if all(self.digest_at(shapes) == model.digest for shapes in sizes):
            self._everywhere = ranges, model

    def at(self, shapes: Shapes) -> tuple[Shapes, OnnxSegment]:
        """Output shapes and model at some input shapes: a model that others share if it can be.

        Raises:
            EngineError: The segment does not accept them.
            Unsupported: A node cannot be converted at them.
        """
        if (trusted := self.trusted(shapes)) is not None:
            return trusted
        outputs, direct = self._converted(shapes)
        return outputs, self._shared(shapes, outputs, direct)

    def known(self, shapes: Shapes) -> tuple[Shapes, OnnxSegment] | None:
        """The same where a model that is there serves them; otherwise None, and looks for none.

        Raises:
            EngineError: The segment does not accept them.
            Unsupported: A node cannot be converted at them.
        """
        if (trusted := self.trusted(shapes)) is not None:
            return trusted
        outputs, direct = self._converted(shapes)
        form = self._form(shapes, direct)
        model = self._family.model_at(shapes, outputs, direct, form)
        return None if model is None else (outputs, model)

    def _shared(self, shapes: Shapes, outputs: Shapes, direct: OnnxSegment) -> OnnxSegment:
        """A model at input shapes, converted directly at them, that others share if it can be."""
        form = self._form(shapes, direct)
        known = self._family.model_at(shapes, outputs, direct, form)
        found = known or self._family.find(shapes, outputs, form, self._general_form)
        return found or direct

    def _form(self, shapes: Shapes, direct: OnnxSegment) -> Callable[[], OnnxSegment]:
        """Gives what a general model is proved against at input shapes."""
        return lambda: self._general_form(shapes)[1] if self._two_forms else direct

    def outputs(self, shapes: Shapes) -> Shapes:
        """Output shapes at some input shapes, which a model need not serve.

        Raises:
            EngineError: The segment does not accept them.
        """
        return self._inferred(self._inference, shapes)

    def graph_at(self, shapes: Shapes) -> Graph:
        """The segment with its shapes and dtypes at some input shapes.

        Raises:
            EngineError: The segment does not accept them.
        """
        return self._with(shapes)

    def digest_at(self, shapes: Shapes) -> str | None:
        """Digest of the model that :meth:`known` gives; None where it raises, too."""
        try:
            known = self.known(shapes)
        except Exception:  # MXNet does not accept them, or a converter does not take them
            return None
        return None if known is None else known[1].digest

    def is_shared(self, model: OnnxSegment) -> bool:
        """Whether a model may be that of other input shapes too."""
        return self._family.has(model)

    @property
    def tied(self) -> tuple[Symbol, ...]:
        """The axes that the model for other shapes takes to be alike."""
        return () if self.general is None else self.general.symbols

    def _converted(self, shapes: Shapes) -> tuple[Shapes, OnnxSegment]:
        begin = time.thread_time()  # it pauses in the background
        graph = self._with(shapes)
        converted = head_shapes(graph), to_onnx(graph, self._owned, opset=self._opset)
        self.seconds = time.thread_time() - begin
        return converted

    def _general_form(self, shapes: Shapes) -> tuple[Shapes, OnnxSegment]:
        """What a model for other sizes is made of, and proved against."""
        graph = self._with(shapes)
        return head_shapes(graph), to_onnx(graph, self._owned, varying=True, opset=self._opset)

    @cached_property
    def _inference(self) -> Inference:
        return Inference(self._graph)

    def _with(self, shapes: Shapes) -> Graph:
        return self._inferred(partial(with_shapes, self._graph), shapes)

    def _inferred(self, infer: Callable[[Mapping[str, tuple[int, ...]]], _T], shapes: Shapes) -> _T:
        """What is inferred from input shapes and those of the weights."""
        given = dict(zip(self._inputs, shapes, strict=True))
        known = {**self._known, **given}
        try:
            return infer(known)
        except EngineError:
            if not self._unread:
                raise
            return infer({**self._unread, **known})


class Variant(NamedTuple):
    """One set of input shapes.

    Attributes:
        outputs: The output shapes.
        digest: What names the session that serves it; empty where MXNet's operators do.
        model: Digest of its model.
        ranges: The input shapes that the session serves, where it is built for ranges.
    """

    outputs: Shapes
    digest: str
    model: str
    ranges: Ranges | None


class Variants:
    """What an engine node knows of its input shapes, and has told the library.

    Args:
        key: Key of the node.
        segment: Its segment.
        static: Whether a session serves one set of input shapes only; otherwise it serves all
            that have the same model.
    """

    def __init__(self, key: int, segment: Reshaped, static: bool) -> None:
        self._key = key
        self._segment = segment
        self._static = static
        self._known: dict[Shapes, Variant] = {}
        self._models: dict[str, OnnxSegment] = {}  # by digest, of present and future sessions
        self._digests: set[str] = set()
        self._most = _MOST_VARIANTS

    def __len__(self) -> int:
        return len(self._known)

    def __contains__(self, shapes: object) -> bool:
        return shapes in self._known

    def __iter__(self) -> Iterator[tuple[Shapes, Variant]]:
        return iter(list(self._known.items()))

    def __getitem__(self, shapes: Shapes) -> Variant:
        return self._known[shapes]

    def get(self, shapes: Shapes) -> Variant | None:
        """What is known of input shapes, if anything is."""
        return self._known.get(shapes)

    @property
    def models(self) -> int:
        """How many models there have been."""
        return len(self._digests)

    def add(
        self,
        shapes: Shapes,
        sessions: Collection[str],
        made: tuple[Shapes, OnnxSegment],
        ranges: Ranges | None = None,
    ) -> None:
        """Describe input shapes to the library, without a session.

        Args:
            shapes: The input shapes.
            sessions: Digests of the sessions that there are.
            made: Its output shapes and its model at these.
            ranges: The input shapes that its session is to serve; None for what the engine does.
        """
        self._drop_idle(sessions)
        self._put(shapes, made, ranges)
        self.serve(shapes, 0)

    def move(self, shapes: Shapes, made: tuple[Shapes, OnnxSegment], ranges: Ranges | None) -> None:
        """Have another session serve known input shapes from the next :meth:`serve` on."""
        self._put(shapes, made, ranges)

    def _put(self, shapes: Shapes, made: tuple[Shapes, OnnxSegment], ranges: Ranges | None) -> None:
        outputs, model = made
        digest = model.digest
        if ranges is not None:
            digest = f"{digest}{ranges.profiles}"
        elif self._static:
            digest = f"{digest}{shapes}"
        self._models[digest] = model
        self._digests.add(digest)
        self._known[shapes] = Variant(outputs, digest, model.digest, ranges)

    def leave(self, shapes: Shapes, outputs: Shapes) -> None:
        """Describe input shapes that MXNet's operators serve."""
        self._known[shapes] = Variant(outputs, "", "", None)
        self.serve(shapes, 0)

    def serve(self, shapes: Shapes, session: int) -> None:
        """Have a session serve input shapes, or none for 0."""
        library().put_variant(self._key, [*shapes, *self._known[shapes].outputs], session)

    def withdraw(self, digest: str) -> None:
        """Have no session serve the shapes of a digest; its model is made anew when needed."""
        for shapes, variant in self._known.items():
            if variant.digest == digest:
                self.serve(shapes, 0)
        self._models.pop(digest, None)

    def model_at(self, shapes: Shapes) -> OnnxSegment:
        """The model of known input shapes; converts where it was dropped with its session."""
        model = self._models.get(self._known[shapes].digest)
        return model or self._segment.at(shapes)[1]

    def used(self) -> set[str]:
        """Digests of the sessions that serve known input shapes, or are to."""
        return {variant.digest for variant in self._known.values()}

    def is_bound(self, shapes: Shapes) -> bool:
        """Whether an executor of MXNet's is bound to the node at input shapes."""
        return library().users(self._key, shapes) > 0

    def idle(self) -> list[str]:
        """Digests of the shapes that no executor is bound to, those used least lately first."""
        lib = library()
        uses: dict[str, int] = {}
        bound = set()
        for shapes, variant in self:
            use = lib.last_use(self._key, shapes)
            uses[variant.digest] = max(uses.get(variant.digest, use), use)
            if use < 0:
                bound.add(variant.digest)
        return sorted(uses.keys() - bound, key=uses.__getitem__)

    def _drop_idle(self, sessions: Collection[str]) -> None:
        """Forget input shapes that were not used for long and that no executor is bound to."""
        if len(self._known) < self._most:
            return
        lib = library()
        uses = {shapes: lib.last_use(self._key, shapes) for shapes in self._known}
        idle = sorted((shapes for shapes in uses if uses[shapes] >= 0), key=uses.__getitem__)
        for shapes in idle[: self._most // 2]:
            lib.drop_variant(self._key, shapes)
            del self._known[shapes]
        needed = {variant.digest for variant in self._known.values()}.union(sessions)
        self._models = {name: model for name, model in self._models.items() if name in needed}
        self._most = max(_MOST_VARIANTS, 2 * len(self._known))


def head_shapes(graph: Graph) -> Shapes:
    """The shapes of a segment's outputs."""
    return tuple(_shape(graph.type_of(head)) for head in graph.heads)


def _shape(tensor: TensorType) -> tuple[int, ...]:
    assert tensor.shape is not None
    return tensor.shape
