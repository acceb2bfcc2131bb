"""Converters that go wrong on purpose: what their engines do is real, only the model is not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from mxtrt.convert.onnx_builder import OnnxBuilder

__all__ = ["failing", "plant", "unbuildable", "unfillable"]

Change = Callable[[Callable[..., None], OnnxBuilder, list[str], list[str]], None]


def plant(monkeypatch: pytest.MonkeyPatch, op_type: str, change: Change) -> None:
    """Have every converter that emits this ONNX operator emit something else."""
    original = OnnxBuilder.node

    def node(
        self: OnnxBuilder, kind: str, inputs: list[str], outputs: list[str], **attributes: Any
    ) -> None:
        if kind == op_type:
            change(lambda *args, **kw: original(self, *args, **kw), self, inputs, outputs)
        else:
            original(self, kind, inputs, outputs, **attributes)

    monkeypatch.setattr(OnnxBuilder, "node", node)


def failing(emit, builder, inputs, outputs):
    """A relu that looks beyond the end of its input, which shows at run time."""
    place = _known_at_run(2**40, emit, builder, inputs)
    emit("Reshape", [inputs[0], builder.constant(np.array([-1]))], [flat := builder.fresh("flat")])
    emit("Gather", [flat, place], [seen := builder.fresh("seen")])
    _relu_and(seen, emit, builder, inputs, outputs)


def unfillable(emit, builder, inputs, outputs):
    """A relu that asks for 64 TiB, at run time."""
    size = _known_at_run(2**44, emit, builder, inputs)
    emit("ConstantOfShape", [size], [huge := builder.fresh("huge")])
    _relu_and(huge, emit, builder, inputs, outputs)


def unbuildable(emit, builder, inputs, outputs):
    """A relu that the engine does not know."""
    emit("NoSuchOperator", inputs, outputs)


def _known_at_run(number, emit, builder, inputs):
    """An integer that depends on the input for all that the engine knows."""
    names = [builder.fresh(name) for name in ("any", "none", "number", "whole", "row")]
    emit("ReduceMax", [inputs[0]], names[:1], keepdims=0)
    emit("Mul", [names[0], builder.constant(np.float32(0))], [names[1]])
    emit("Add", [names[1], builder.constant(np.float32(number))], [names[2]])
    emit("Cast", [names[2]], [names[3]], to=7)
    emit("Reshape", [names[3], builder.constant(np.array([1]))], [names[4]])
    return names[4]


def _relu_and(name, emit, builder, inputs, outputs):
    """The relu, for which something else has to be computed first."""
    emit("ReduceMax", [name], [largest := builder.fresh("largest")], keepdims=0)
    emit("Mul", [largest, builder.constant(np.float32(0))], [nothing := builder.fresh("nothing")])
    emit("Relu", inputs, [right := builder.fresh("right")])
    emit("Add", [right, nothing], outputs)
