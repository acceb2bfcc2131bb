"""Models that came quantized: MXNet's for oneDNN, in the form that TensorRT takes.

It wants the steps of quantized tensors as constants, weights and biases in float32, and nothing in
uint8.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx
from onnx import NodeProto, helper

from mxtrt.convert.segment import OnnxSegment
from mxtrt.precision.int8 import replace_clips
from mxtrt.precision.working import Array, Step, WorkingModel

__all__ = ["for_tensorrt", "is_quantized"]

# How much larger a step of int8 is than one of uint8 for the same range, as MXNet counts them.
_COARSER = np.float32(255.5 / 127.5)


def is_quantized(segment: OnnxSegment) -> bool:
    """Whether a segment has tensors of int8 or uint8 with steps of their own."""
    if b"QuantizeLinear" not in segment.model:
        return False
    graph = onnx.load_model_from_string(segment.model).graph
    return any(node.op_type in ("QuantizeLinear", "DequantizeLinear") for node in graph.node)


def for_tensorrt(model: WorkingModel) -> None:
    """Write a quantized model as TensorRT takes it, in place.

    What was uint8 becomes int8 of the same range: half of its numbers are left.
    """
    _compute_constants(model)
    for step in model.steps:
        _make_signed(model, step.node)
    replace_clips(model)
    model.drop_unread()


def _compute_constants(model: WorkingModel) -> None:
    """Replace what follows from weights and constants by its value."""
    known: dict[str, str] = {}
    kept: list[Step] = []
    for step in model.steps:
        node = step.node
        node.input[:] = [known.get(name, name) for name in node.input]
        found = [model.value(name) for name in node.input]
        values = [value for value in found if value is not None]
        function = _FUNCTIONS.get(node.op_type)
        if function is None or len(values) < len(found) or node.output[0] in model.outputs:
            kept.append(step)
            continue
        attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        with np.errstate(all="ignore"):
            result = np.asarray(function(attributes, *values))
        name = model.add(node.output[0], result)
        if node.op_type == "DequantizeLinear" and values[0].ndim > 1:  # a weight, not a bias
            kept += _requantized(step, model.fresh(name), name, per_axis=values[1].ndim > 0)
        else:
            known[node.output[0]] = name
    model.steps = kept


def _requantized(step: Step, whole: str, weight: str, per_axis: bool) -> list[Step]:
    """Nodes that quantize a weight, and dequantize it as a node did."""
    node = step.node
    scale, zero = node.input[1:]
    axis = {a.name: a.i for a in node.attribute if per_axis}
    made = (
        helper.make_node("QuantizeLinear", [weight, scale, zero], [whole], whole, **axis),
        helper.make_node("DequantizeLinear", [whole, scale, zero], node.output, node.name, **axis),
    )
    return [Step(one, step.source) for one in made]


def _make_signed(model: WorkingModel, node: NodeProto) -> None:
    """Have a node quantize or dequantize int8 where it did uint8."""
    if node.op_type not in ("QuantizeLinear", "DequantizeLinear"):
        return
    scale, zero = (model.value(name) for name in node.input[1:])
    if scale is not None and zero is not None and zero.dtype == np.uint8:
        node.input[1] = model.add(node.input[1], scale * _COARSER)
        node.input[2] = model.add(node.input[2], np.zeros(zero.shape, np.int8))


def _cast(attributes: Mapping[str, Any], value: Array) -> Array:
    return value.astype(helper.tensor_dtype_to_np_dtype(attributes["to"]))


def _dequantized(attributes: Mapping[str, Any], value: Array, scale: Array, *zero: Array) -> Array:
    if scale.ndim:
        shape = [1] * value.ndim
        shape[attributes.get("axis", 1)] = -1
        scale = scale.reshape(shape)
    return value.astype(np.float32) * scale


def _unsqueezed(attributes: Mapping[str, Any], value: Array, axes: Array) -> Array:
    return np.expand_dims(value, tuple(map(int, axes)))


def _largest(attributes: Mapping[str, Any], value: Array) -> Array:
    keep = bool(attributes.get("keepdims", 1))
    return np.asarray(value.max(tuple(attributes["axes"]), keepdims=keep))


def _of_values(function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda attributes, *values: function(*values)


# What converters of quantized operators make of weights and constants.
_FUNCTIONS: Mapping[str, Callable[..., Any]] = {
    "Abs": _of_values(np.abs),
    "Add": _of_values(np.add),
    "Cast": _cast,
    "Clip": _of_values(np.clip),
    "DequantizeLinear": _dequantized,
    "Div": _of_values(np.divide),
    "Identity": _of_values(np.copy),
    "Max": lambda attributes, *values: functools.reduce(np.maximum, values),
    "Min": lambda attributes, *values: functools.reduce(np.minimum, values),
    "Mul": _of_values(np.multiply),
    "Neg": _of_values(np.negative),
    "Reciprocal": _of_values(np.reciprocal),
    "ReduceMax": _largest,
    "Round": _of_values(np.rint),
    "Sqrt": _of_values(np.sqrt),
    "Squeeze": lambda attributes, value, axes: np.squeeze(value, tuple(map(int, axes))),
    "Sub": _of_values(np.subtract),
    "Unsqueeze": _unsqueezed,
}
