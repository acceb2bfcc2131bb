"""Segments that differ in their sizes only, such as the buckets of a ``BucketingModule``.

What was found out about one of them holds for all: the model that serves their sizes.  So the
binds of a graph at many shapes have the same two models, and sessions that they can share.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection

from mxtrt.convert.general import Convert, General, generalize
from mxtrt.convert.segment import OnnxSegment
from mxtrt.graph.symbol import Graph, Shapes
from mxtrt.system.recent import Recent
from mxtrt.system.threads import lock, rlock

__all__ = ["Family", "family_of"]

# How often a model is looked for that covers input shapes which those before do not.
_MOST_TRIES = 4

# So many families are remembered.
_MOST_FAMILIES = 64


class Family:
    """Segments of one structure.

    Args:
        generalizes: Whether to look for one model for many shapes.

    Attributes:
        general: The model for many shapes that was found last, None while there is none.
    """

    def __init__(self, generalizes: bool = False) -> None:
        self.general: General | None = None
        self._lock = rlock()
        self._own: set[str] = set()  # digests of the models that were made for one shape
        self._seen: list[Shapes] = []  # what no model found so far covers
        self._tries = _MOST_TRIES if generalizes else 0

    def take(self, shapes: Shapes, model: OnnxSegment) -> None:
        """Have a model for some input shapes, and all that it serves, be one of the family's."""
        with self._lock:
            self._own.add(model.digest)
            if shapes not in self._seen:
                self._seen.append(shapes)

    def has(self, model: OnnxSegment) -> bool:
        """Whether a model is one of the family's, which may serve many input shapes."""
        general = self.general
        return model.digest in self._own or (general is not None and model is general.model)

    def model_at(
        self,
        shapes: Shapes,
        outputs: Shapes,
        direct: OnnxSegment,
        form: Callable[[], OnnxSegment],
    ) -> OnnxSegment | None:
        """The model that serves input shapes; None if it is yet to be found.

        Args:
            shapes: The input shapes.
            outputs: The output shapes.
            direct: The segment converted at them.
            form: Gives what a model for many shapes is proved against at them.
        """
        if direct.digest in self._own:
            return direct
        general = self.general
        if general is not None and general.covers(shapes, outputs, form()):
            return general.model
        return None

    def find(
        self,
        shapes: Shapes,
        outputs: Shapes,
        form: Callable[[], OnnxSegment],
        convert: Convert,
    ) -> OnnxSegment | None:
        """Look for a model that serves input shapes too; None where none is found.

        Args:
            shapes: The input shapes.
            outputs: The output shapes.
            form: As above.
            convert: Converts the segment at input shapes to what models for many are made of.
        """
        with self._lock:
            if not self._tries or not self._seen or shapes in self._seen:
                return None
            self._tries -= 1
            self._seen.append(shapes)
            found = generalize(convert, self._seen)
            if found is None or not found.covers(shapes, outputs, form()):
                return None
            self.general = found
            return found.model


_lock = lock()
_families: Recent[Family] = Recent(_MOST_FAMILIES, _MOST_FAMILIES)


def family_of(graph: Graph, weights: Collection[str]) -> Family:
    """The family of a segment.

    Args:
        graph: The segment, with shapes and dtypes.
        weights: Names of its variables that become initializers: their shapes tell families apart.
    """
    told = hashlib.sha256(graph.to_json().encode())
    for node in graph.nodes:
        if node.is_variable:
            kind = node.types[0]
            sizes = kind.shape if node.name in weights else len(kind.shape or ())
            told.update(repr((node.name, str(kind.dtype), sizes)).encode())
    with _lock:
        family = _families.get(told.digest()) or Family(generalizes=True)
        _families.put(told.digest(), family, 1)
    return family
