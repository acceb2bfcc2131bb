"""A segment's model together with its weights, open for changes."""

from __future__ import annotations

import dataclasses
import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import ModelProto, NodeProto, numpy_helper

from mxtrt.convert.segment import OnnxSegment
from mxtrt.engines.base import Weight
from mxtrt.graph.symbol import untaken

__all__ = ["Array", "Step", "WorkingModel"]

Array = npt.NDArray[Any]


@dataclass(slots=True)
class Step:
    """An ONNX node, and the name of the MXNet node that it comes from."""

    node: NodeProto
    source: str


class WorkingModel:
    """A segment's model whose nodes and weights can be replaced.

    Weights that stay as they are remain where they are; new ones are stored in the model, so that
    the engine owns them.

    Args:
        segment: The model.
        weights: Its weights.

    Attributes:
        steps: The nodes in topological order.
        inputs: ONNX element type of every input, by name.
        outputs: The same of every output.
    """

    def __init__(self, segment: OnnxSegment, weights: Sequence[Weight]) -> None:
        self._segment = segment
        self._proto = onnx.load_model_from_string(segment.model)
        graph = self._proto.graph
        self.steps = [
            Step(node, source) for node, source in zip(graph.node, segment.sources, strict=True)
        ]
        self.inputs = {v.name: v.type.tensor_type.elem_type for v in graph.input}
        self.outputs = {v.name: v.type.tensor_type.elem_type for v in graph.output}
        self._weights = {weight.type.name: weight for weight in weights}
        self._initializers = {tensor.name: tensor for tensor in graph.initializer}
        self._values: dict[str, Array] = {}
        self._fresh = 0

    # -- values ------------------------------------------------------------------------

    def value(self, name: str) -> Array | None:
        """A constant or weight, None for what is computed from inputs; do not write to it."""
        if name not in self._values:
            if name in self._weights:
                self._values[name] = self._weights[name].values
            elif name in self._initializers:
                self._values[name] = numpy_helper.to_array(self._initializers[name])
        return self._values.get(name)

    def is_initializer(self, name: str) -> bool:
        """Whether a name is a constant or weight."""
        return name in self._initializers

    def add(self, hint: str, array: Array) -> str:
        """Store an array in the model; returns its name."""
        name = self.fresh(hint)
        self._initializers[name] = numpy_helper.from_array(np.asarray(array, order="C"), name)
        return name

    def fresh(self, hint: str) -> str:
        """A value name that nothing else uses."""
        self._fresh += 1
        return untaken(f"{hint}__p{self._fresh}", self.inputs, self._initializers)

    def types(self) -> dict[str, int]:
        """ONNX element type of every value."""
        inferred = onnx.shape_inference.infer_shapes(self.to_proto()).graph
        found = {tensor.name: tensor.data_type for tensor in inferred.initializer}
        for value in (*inferred.input, *inferred.value_info, *inferred.output):
            found[value.name] = value.type.tensor_type.elem_type
        return found

    # -- nodes -------------------------------------------------------------------------

    def readers(self) -> dict[str, list[Step]]:
        """The nodes that read a value, by its name."""
        found: dict[str, list[Step]] = {}
        for step in self.steps:
            for name in step.node.input:
                found.setdefault(name, []).append(step)
        return found

    def drop_unread(self) -> None:
        """Remove nodes and initializers that no output depends on."""
        needed = set(self.outputs)
        kept = []
        for step in reversed(self.steps):
            if needed.intersection(step.node.output):
                needed.update(step.node.input)
                kept.append(step)
        self.steps = kept[::-1]
        self._initializers = {n: t for n, t in self._initializers.items() if n in needed}

    # -- results -----------------------------------------------------------------------

    def to_proto(self, *, whole: bool = False) -> ModelProto:
        """The model as it is now.

        Args:
            whole: Put the bytes of all weights inside.
        """
        proto = ModelProto()
        proto.CopyFrom(self._proto)
        graph = proto.graph
        del graph.node[:], graph.initializer[:]
        graph.node.extend(step.node for step in self.steps)
        for name, tensor in self._initializers.items():
            if whole and name in self._weights:
                array = self.value(name)
                assert array is not None
                tensor = numpy_helper.from_array(array, name)
            graph.initializer.append(tensor)
        return proto

    def replace_with(self, proto: ModelProto, sources: Iterable[str]) -> None:
        """Take nodes and initializers of another model of the same inputs and outputs."""
        self.steps = [Step(n, s) for n, s in zip(proto.graph.node, sources, strict=True)]
        self._initializers = {tensor.name: tensor for tensor in proto.graph.initializer}
        self._weights = {}
        self._values = {}  # of the weights as they were

    def weights_hash(self) -> str:
        """Hash of the bytes of the segment's weights."""
        digest = hashlib.sha256()
        for weight in self._weights.values():
            digest.update(np.ascontiguousarray(weight.values).data)
        return digest.hexdigest()

    def finish(self) -> tuple[OnnxSegment, list[Weight]]:
        """The changed segment, and those of its weights that are still MXNet's."""
        self.drop_unread()
        weights = [w for name, w in self._weights.items() if name in self._initializers]
        segment = dataclasses.replace(
            self._segment,
            model=self.to_proto().SerializeToString(deterministic=True),
            weights=tuple(weight.type for weight in weights),
            sources=tuple(step.source for step in self.steps),
        )
        return segment, weights

    def operators(self) -> Counter[str]:
        """How many nodes there are of every operator."""
        return Counter(step.node.op_type for step in self.steps)
