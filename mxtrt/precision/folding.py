"""Normalisation with known statistics, folded into the layer before it.

Engines fold too, but in the precision of the weights: here the products are float64 and rounded
once.
"""

from __future__ import annotations

import numpy as np
from onnx import helper

from mxtrt.precision.working import Array, Step, WorkingModel

__all__ = ["fold_batch_norms", "fold_weight_casts"]


def fold_weight_casts(model: WorkingModel) -> None:
    """Replace each cast of a float16 weight by a float32 weight."""
    kept = []
    for step in model.steps:
        node = step.node
        value = model.value(node.input[0]) if node.op_type == "Cast" else None
        if value is None or value.dtype != np.float16:
            kept.append(step)
            continue
        wide = model.add(node.input[0], value.astype(np.float32))
        for reader in model.readers().get(node.output[0], ()):
            reader.node.input[:] = [wide if n == node.output[0] else n for n in reader.node.input]
    model.steps = kept


def fold_batch_norms(model: WorkingModel) -> None:
    """Fold every ``BatchNormalization`` into the ``Conv`` or ``Gemm`` that only it reads."""
    readers = model.readers()
    makers = {name: step for step in model.steps for name in step.node.output}
    gone: set[int] = set()
    for step in model.steps:
        if step.node.op_type != "BatchNormalization":
            continue
        data = step.node.input[0]
        layer = makers.get(data)
        if layer is None or data in model.outputs or len(readers[data]) != 1:
            continue
        if _fold(model, layer, step):
            gone.add(id(step))
    model.steps = [step for step in model.steps if id(step) not in gone]


def _fold(model: WorkingModel, layer: Step, norm: Step) -> bool:
    """Fold a normalisation into a layer if their values allow it; returns whether they do."""
    node = layer.node
    attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    known = node.op_type == "Conv" or (
        node.op_type == "Gemm"
        and attributes.get("transB")
        and attributes.get("alpha", 1.0) == attributes.get("beta", 1.0) == 1.0
    )
    statistics = [model.value(name) for name in norm.node.input[1:5]]
    weight = model.value(node.input[1]) if known else None
    bias = model.value(node.input[2]) if len(node.input) > 2 else np.zeros(1)
    if weight is None or bias is None or any(value is None for value in statistics):
        return False
    gamma, beta, mean, variance = (_wide(value) for value in statistics)
    (epsilon,) = [a.f for a in norm.node.attribute if a.name == "epsilon"] or [1e-5]
    with np.errstate(all="ignore"):
        factor = gamma / np.sqrt(variance + epsilon)
        scaled = _wide(weight) * factor.reshape(-1, *(1,) * (weight.ndim - 1))
        shifted = beta + (_wide(bias) - mean) * factor
    if not (np.isfinite(scaled).all() and np.isfinite(shifted).all()):
        return False
    node.input[1] = model.add(node.input[1], scaled.astype(np.float32))
    if len(node.input) < 3:
        node.input.append("")
    node.input[2] = model.add(norm.node.input[2], shifted.astype(np.float32))
    node.output[0] = norm.node.output[0]
    return True


def _wide(value: Array | None) -> Array:
    assert value is not None
    return value.astype(np.float64)
