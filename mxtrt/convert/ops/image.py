"""Converters of what Gluon's transforms make of pictures (``image/image_random-inl.h``)."""

from __future__ import annotations

import numpy as np

from mxtrt.convert.onnx_builder import tensor_type
from mxtrt.convert.ops.registry import NUMBERS, Call, converter


@converter("_image_to_tensor", outputs=1)
def to_tensor(call: Call) -> None:
    """``Cast``, ``Transpose`` and ``Div``: channels come first, and 255 becomes 1."""
    call.require_dtype(call.inputs[0], NUMBERS)
    data = call.input()
    if call.dtype() != np.float32:
        data = call.emit("Cast", [data], to=tensor_type(np.dtype(np.float32)))
    axes = [2, 0, 1] if call.rank() == 3 else [0, 3, 1, 2]
    turned = call.emit("Transpose", [data], perm=axes)
    call.emit("Div", [turned, call.constant([255])], output=call.output())


@converter("_image_normalize", outputs=1, not_in_half="MXNet rounds between its two steps")
def normalize(call: Call) -> None:
    """``Sub`` and ``Div`` of a mean and a deviation, of each channel or of all."""
    call.require_floats()
    means, deviations = (_by_channel(call, key, value) for key, value in (("mean", 0), ("std", 1)))
    centred = call.emit("Sub", [call.input(), means])
    call.emit("Div", [centred, deviations], output=call.output())


def _by_channel(call: Call, key: str, default: float) -> str:
    """Numbers that broadcast to pictures whose channels come first."""
    values = np.array(call.numbers(key, (default,)), np.float32)
    return call.constant(values.reshape(-1, 1, 1))
