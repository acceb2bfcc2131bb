"""A segment at the precision that the options ask for."""

from __future__ import annotations

import dataclasses
import logging
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from mxtrt.config import Options
from mxtrt.convert.segment import OnnxSegment
from mxtrt.engines.base import Engine, Weight
from mxtrt.errors import EngineError
from mxtrt.graph.symbol import TensorType
from mxtrt.precision import activations
from mxtrt.precision.folding import fold_batch_norms, fold_weight_casts
from mxtrt.precision.fp16 import retype
from mxtrt.precision.int8 import quantize, require_quantizer
from mxtrt.precision.prequantized import for_tensorrt, is_quantized
from mxtrt.precision.ranges import (
    KEPT,
    Layer,
    SegmentRanges,
    as_mapping,
    chosen,
    layers_of,
    read_ranges,
)
from mxtrt.precision.working import Array, WorkingModel

__all__ = ["Retyped", "folded", "retyped"]

_log = logging.getLogger("mxtrt")
_HALF = np.dtype(np.float16)


class Retyped(NamedTuple):
    """What an engine is built from.

    Attributes:
        segment: The model.
        weights: Weights that the model does not hold itself.
        notes: What a person should know of it.
        quantized: MXNet nodes of the layers in int8; None unless int8 was asked for and the
            segment has layers.
    """

    segment: OnnxSegment
    weights: Sequence[Weight]
    notes: tuple[str, ...] = ()
    quantized: frozenset[str] | None = None


@dataclass
class _Said:
    slow: bool = False


_said = _Said()


def retyped(
    segment: OnnxSegment,
    weights: Sequence[Weight],
    inputs: Sequence[TensorType],
    engine: Engine,
    options: Options,
    refused: Mapping[str, str] | None = None,
) -> Retyped:
    """A segment at the precision that the options ask for.

    Args:
        segment: The segment in float32.
        weights: Its weights.
        inputs: Types of its inputs.
        engine: What will run it.
        options: Options of the bind.
        refused: MXNet nodes that are not to be int8, and why.
    """
    if is_quantized(segment):  # ONNX Runtime computes what follows from weights itself
        return (
            _quantized(segment, weights) if engine.computes_float16 else Retyped(segment, weights)
        )
    if options.precision == "int8":
        return _in_int8(segment, weights, engine, options, refused or {})
    native = any(t.dtype == _HALF for t in inputs) or any(w.type.dtype == _HALF for w in weights)
    if options.precision == "fp16" or (native and engine.computes_float16):
        if not engine.computes_float16 and not _said.slow:
            _said.slow = True
            _log.info(
                "precision=fp16 with %s: it has few float16 kernels on a CPU and casts around the "
                "others; the answers are right, fp32 is faster",
                engine.name,
            )
        return _in_float16(segment, weights, inputs)
    return Retyped(segment, weights)


def _quantized(segment: OnnxSegment, weights: Sequence[Weight]) -> Retyped:
    model = WorkingModel(segment, weights)
    for_tensorrt(model)
    return Retyped(*model.finish())


def folded(segment: OnnxSegment, weights: Sequence[Weight]) -> WorkingModel:
    """A segment with its normalisation folded into the layers before it."""
    model = WorkingModel(segment, weights)
    fold_weight_casts(model)
    fold_batch_norms(model)
    model.drop_unread()
    return model


def _in_int8(
    segment: OnnxSegment,
    weights: Sequence[Weight],
    engine: Engine,
    options: Options,
    refused: Mapping[str, str],
) -> Retyped:
    model = folded(segment, weights)
    if not layers_of(model):
        return Retyped(segment, weights)
    if not options.ranges:
        raise EngineError(
            "precision=int8 needs the ranges of the model's tensors; collect them with mxtrt "
            "calibrate and name the file in option ranges (MXTRT_RANGES)"
        )
    require_quantizer()
    found = read_ranges(options.ranges).find(model)
    asked = {step.source for step, layer in chosen(found, model) if layer.precision == "int8"}
    found = _without(found, model, asked & refused.keys())
    kept = [step for step, layer in chosen(found, model) if layer.precision == "fp16"]
    halves = {name for step in kept for name in step.node.output}
    sizes = {
        name: max(abs(low), abs(high)) for name, (low, high) in as_mapping(found, model).items()
    }
    quantized = quantize(model, found, symmetric=engine.computes_float16)
    notes = [f"{quantized} of {len(found.layers)} layers in int8"]
    refusals = {name: reason for name, reason in refused.items() if name in asked}
    notes += [f"{names} not in int8: {reason}" for reason, names in _by_reason(refusals)]
    if engine.computes_float16 and halves:
        reasons = retype(model, sizes, halves)
        notes += [f"{names} in float32: {reason}" for reason, names in _by_reason(reasons)]
    return Retyped(*model.finish(), tuple(notes), frozenset(asked - refused.keys()))


def _without(found: SegmentRanges, model: WorkingModel, refused: Collection[str]) -> SegmentRanges:
    """Ranges that keep the layers of some MXNet nodes out of int8."""
    layers = [
        Layer(layer.name, KEPT) if step.source in refused else layer
        for step, layer in chosen(found, model)
    ]
    return dataclasses.replace(found, layers=layers)


def _in_float16(
    segment: OnnxSegment, weights: Sequence[Weight], inputs: Sequence[TensorType]
) -> Retyped:
    model = folded(segment, weights)
    ranges, why = _magnitudes(model, activations.random_feeds(segment.inputs, inputs))
    notes = [f"values that float16 cannot hold were not looked for: {why}"] if why else []
    reasons = retype(model, ranges)
    notes += [f"{names} in float32: {reason}" for reason, names in _by_reason(reasons)]
    return Retyped(*model.finish(), tuple(notes))


def _magnitudes(model: WorkingModel, feeds: Mapping[str, Array]) -> tuple[dict[str, float], str]:
    """How large values get with these inputs, or why that is not known."""
    if not activations.can_run():
        return {}, "install onnxruntime"
    # An input may hold indices as floating-point numbers, as ROIAlign's regions do: fractions all
    # mean index 0, which exists.
    fractions = {name: values % 1 for name, values in feeds.items()}
    reason = ""
    for tried in (feeds, fractions):
        try:
            return activations.largest_magnitudes(model, tried), ""
        except Exception as error:  # ONNX Runtime's have no base of their own
            reason = str(error)
    return {}, reason


def _by_reason(reasons: dict[str, str]) -> list[tuple[str, str]]:
    """Reasons with the nodes that they are for; the first and a count where there are many."""
    counts = Counter(reasons.values())
    first: dict[str, str] = {}
    for name, reason in reasons.items():
        first.setdefault(reason, name)
    return [
        (reason, name if counts[reason] == 1 else f"{name} and {counts[reason] - 1} more")
        for reason, name in first.items()
    ]
