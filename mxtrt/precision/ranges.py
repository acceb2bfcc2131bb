"""What calibration found: the ranges of a model's tensors, and which layers may be int8.

They are kept as JSON for people to read and edit.  A segment is recognised by its structure and
the bytes of its weights, and its tensors and layers by their place: names do not serve, because
Gluon numbers its blocks anew in every process.  Names are those of the calibrated model.  They are
compared only where several segments have one structure and the same weights or none, such as the
products of attention in every layer of a network.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from onnx import TensorProto

from mxtrt.errors import EngineError
from mxtrt.graph.symbol import check_json
from mxtrt.precision.working import Step, WorkingModel
from mxtrt.system.files import write_text

__all__ = ["KEPT", "Layer", "Ranges", "SegmentRanges", "TensorRange", "layers_of", "read_ranges"]

_FORMAT = 1

#: ONNX operators that int8 is for.
LAYERS = ("Conv", "ConvTranspose", "Gemm", "MatMul")

# What a layer may be, the most precise last.
_PRECISIONS = ("int8", "fp16", "fp32")

#: Precision of the layers that are kept out of int8: its error is a small part of theirs.
KEPT = "fp16"


@dataclass(slots=True)
class TensorRange:
    """Smallest and largest value of a tensor, as far as they count."""

    name: str
    low: float
    high: float


@dataclass(slots=True)
class Layer:
    """A layer with a product, and ``"int8"``, ``"fp16"`` or ``"fp32"``.

    ``"fp16"`` is float32 where the engine has no float16 arithmetic.  The name is that of the
    MXNet node; of several layers in one node the second is ``NODE:1``.
    """

    name: str
    precision: str = "int8"

    @property
    def source(self) -> str:
        """Its MXNet node."""
        return self.name.partition(":")[0]


@dataclass(slots=True)
class SegmentRanges:
    """One segment.

    Attributes:
        structure: Hash of its operators, attributes and shapes of weights.
        weights: Hash of the bytes of its weights.
        layers: Its layers, in order.
        tensors: Its inputs and what its nodes compute, in order; NaN where nothing was seen.
    """

    structure: str
    weights: str
    layers: list[Layer] = field(default_factory=list)
    tensors: list[TensorRange] = field(default_factory=list)


@dataclass(slots=True)
class Ranges:
    """Ranges of a model with their provenance.

    Attributes:
        model: Where the model came from: a file, or the class of a block.
        method: How ranges were chosen: ``entropy``, ``percentile`` or ``minmax``.
        samples: How many samples were seen.
        segments: The segments, in the order in which they run.
        guessed: Other segments that a bind may have: where it has to guess which arguments are
            weights, or where its engine takes other nodes than ONNX Runtime.  A layer has the
            precision of the layer of the same name in ``segments``.
    """

    model: str
    method: str
    samples: int
    segments: list[SegmentRanges] = field(default_factory=list)
    guessed: list[SegmentRanges] = field(default_factory=list)

    @property
    def hash(self) -> str:
        """Hash of the model: structure and weights of all its segments."""
        parts = "".join(segment.structure + segment.weights for segment in self.segments)
        return hashlib.sha256(parts.encode()).hexdigest()

    def to_json(self) -> str:
        """The ranges as JSON text."""
        data = {"format": _FORMAT, "model_hash": self.hash, **dataclasses.asdict(self)}
        for segment in data["segments"] + data["guessed"]:
            segment["tensors"] = [list(tensor.values()) for tensor in segment["tensors"]]
        for segment in data["segments"]:
            segment["layers"] = {layer["name"]: layer["precision"] for layer in segment["layers"]}
        for segment in data["guessed"]:
            segment["layers"] = [layer["name"] for layer in segment["layers"]]
        text = json.dumps(data, indent=1)
        return _one_line_each(text)

    def save(self, path: str | Path) -> None:
        """Write the ranges to a file."""
        write_text(Path(path), self.to_json())

    def find(self, model: WorkingModel) -> SegmentRanges:
        """The ranges of a segment.

        Where several may be meant, they are wide enough for each of these.

        Raises:
            EngineError: They are of another model, or of other weights.
        """
        structure, weights = structure_of(model), model.weights_hash()
        chosen = {x.name: x.precision for segment in self.segments for x in segment.layers}
        guessed = [
            dataclasses.replace(
                segment,
                layers=[Layer(x.name, chosen.get(x.name, x.precision)) for x in segment.layers],
            )
            for segment in self.guessed
        ]
        same = [s for s in (*self.segments, *guessed) if s.structure == structure]
        if not same:
            raise EngineError(
                f"the ranges are of another model ({self.model}); calibrate this one with: "
                "mxtrt calibrate"
            )
        same = [segment for segment in same if segment.weights == weights]
        if not same:
            raise EngineError(
                f"the ranges are of {self.model} with other weights; calibrate these with: "
                "mxtrt calibrate"
            )
        names = tensors_of(model)
        named = [s for s in same if [tensor.name for tensor in s.tensors] == names]
        return named[0] if named else _of_each(same)


def read_ranges(path: str | Path) -> Ranges:
    """Read what :meth:`Ranges.save` wrote.

    Raises:
        EngineError: The file is missing or holds no ranges.
    """
    try:
        text = Path(path).read_text()
        check_json(text)
        data = json.loads(text)
        if data["format"] != _FORMAT:
            raise EngineError(f"the ranges in {path} have format {data['format']}, not {_FORMAT}")
        known = [_segment(item, dict(item["layers"])) for item in data["segments"]]
        guessed = [
            _segment(item, dict.fromkeys(item["layers"], "int8"))
            for item in data.get("guessed", ())
        ]
        return Ranges(data["model"], data["method"], int(data["samples"]), known, guessed)
    except OSError as error:
        raise EngineError(f"the ranges cannot be read: {error}") from error
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise EngineError(
            f"{path} holds no ranges ({type(error).__name__}: {error}); write it with: "
            "mxtrt calibrate"
        ) from error


def _of_each(segments: Sequence[SegmentRanges]) -> SegmentRanges:
    """The widest ranges of segments of one structure, and the most precise of their layers."""
    return dataclasses.replace(
        segments[0],
        layers=[
            Layer(alike[0].name, max((x.precision for x in alike), key=_PRECISIONS.index))
            for alike in zip(*(segment.layers for segment in segments), strict=True)
        ],
        tensors=[
            TensorRange(alike[0].name, min(x.low for x in alike), max(x.high for x in alike))
            for alike in zip(*(segment.tensors for segment in segments), strict=True)
        ],
    )


def _segment(item: Mapping[str, Any], layers: Mapping[str, str]) -> SegmentRanges:
    return SegmentRanges(
        item["structure"],
        item["weights"],
        [Layer(name, _precision(text)) for name, text in layers.items()],
        [TensorRange(n, float(low), float(high)) for n, low, high in item["tensors"]],
    )


def _precision(text: str) -> str:
    if text not in _PRECISIONS:
        raise ValueError(f"the precision of a layer is {text!r}, expected int8, fp16 or fp32")
    return text


def layers_of(model: WorkingModel) -> list[Step]:
    """The nodes that int8 is for, in order."""
    return [step for step in model.steps if step.node.op_type in LAYERS]


def tensors_of(model: WorkingModel) -> list[str]:
    """The float32 tensors of a model that depend on its inputs, in order."""
    types = model.types()
    names = [*model.inputs, *(name for step in model.steps for name in step.node.output)]
    return [name for name in names if types.get(name) == TensorProto.FLOAT]


def structure_of(model: WorkingModel) -> str:
    """Hash of the operators, their attributes, and how they hang together."""
    places: dict[str, int] = {"": 0}
    digest = hashlib.sha256()
    for name in model.inputs:
        places[name] = len(places)
    for step in model.steps:
        node = step.node
        for name in node.input:
            if name not in places:
                value = model.value(name)
                places[name] = len(places)
                digest.update(repr(None if value is None else (value.shape, value.dtype)).encode())
        reads = [places[name] for name in node.input]
        for name in node.output:
            places[name] = len(places)
        digest.update(repr((node.op_type, reads, len(node.output))).encode())
        for attribute in sorted(node.attribute, key=lambda a: a.name):
            digest.update(attribute.SerializeToString(deterministic=True))
    digest.update(repr([places[name] for name in model.outputs]).encode())
    return digest.hexdigest()


def _one_line_each(text: str) -> str:
    """JSON with the innermost lists on one line each."""
    return re.sub(
        r"\[\n\s+(\"(?:[^\"\\]|\\.)*\"),\n\s+(\S+),\n\s+(\S+)\n\s+\]", r"[\1, \2, \3]", text
    )


def chosen(segment: SegmentRanges, model: WorkingModel) -> Sequence[tuple[Step, Layer]]:
    """The layers of a model with what the ranges say of them."""
    return list(zip(layers_of(model), segment.layers, strict=True))


def as_mapping(segment: SegmentRanges, model: WorkingModel) -> dict[str, Any]:
    """Smallest and largest value by the model's own tensor names."""
    return {
        name: (tensor.low, tensor.high)
        for name, tensor in zip(tensors_of(model), segment.tensors, strict=True)
    }
