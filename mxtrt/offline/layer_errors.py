"""How much every layer of a model loses by lower precision, on its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from mxtrt.precision.activations import session
from mxtrt.precision.ranges import SegmentRanges, as_mapping, layers_of
from mxtrt.precision.working import Array, WorkingModel

__all__ = ["LayerErrors"]

_HALF, _SINGLE = int(TensorProto.FLOAT16), int(TensorProto.FLOAT)


@dataclass(slots=True)
class _Energy:
    noise: float = 0.0
    signal: float = 0.0


class LayerErrors:
    """How far off the output of each layer is when only this layer is of a lower precision.

    The model runs in float32.  Each layer has a twin that reads the same data and weights, rounded.
    With both outputs' difference as noise and the layer's output as signal, the error is the root
    of the noise's energy (its sum of squares) over the signal's.

    Args:
        model: The model in float32.
        precision: ``"fp16"`` or ``"int8"``.
        ranges: Its ranges, for int8.
    """

    def __init__(
        self, model: WorkingModel, precision: str, ranges: SegmentRanges | None = None
    ) -> None:
        self._model = model
        self._known = {} if ranges is None else as_mapping(ranges, model)
        self._proto: ModelProto = model.to_proto()
        del self._proto.graph.output[:]
        self._layers = layers_of(model)
        self._energies = [_Energy() for _ in self._layers]
        for place, step in enumerate(self._layers):
            self._beside(place, step.node, precision)
        self._session: Any = None

    def collect(self, feeds: Mapping[str, Array]) -> None:
        """Run one batch."""
        if not self._layers:
            return
        if self._session is None:
            self._session = session(self._proto, self._model)
        values = self._session.run(None, dict(feeds))
        for place, energy in enumerate(self._energies):
            energy.noise += float(values[2 * place])
            energy.signal += float(values[2 * place + 1])

    def result(self) -> list[tuple[str, float]]:
        """The layers in order, by name of the MXNet node, with their errors."""
        return [
            (step.source, float(np.sqrt(energy.noise / energy.signal)) if energy.signal else 0.0)
            for step, energy in zip(self._layers, self._energies, strict=True)
        ]

    def _beside(self, place: int, node: NodeProto, precision: str) -> None:
        """Add a layer's twin, and the energies of noise and signal as outputs of the model."""
        graph = self._proto.graph
        twin = NodeProto()
        twin.CopyFrom(node)
        twin.name, twin.output[0] = f"__twin{place}", f"__twin{place}"
        for index, name in enumerate(node.input[:2]):
            value = self._model.value(name)
            twin.input[index] = f"__twin{place}_{index}"
            if value is not None:
                rounded = _rounded_weight(value, node, precision)
                graph.initializer.append(numpy_helper.from_array(rounded, twin.input[index]))
            else:
                self._round(name, twin.input[index], precision)
        graph.node.append(twin)
        total = {}
        graph.node.append(helper.make_node("Sub", [node.output[0], twin.name], [f"{twin.name}_d"]))
        for what, name in (("noise", f"{twin.name}_d"), ("signal", node.output[0])):
            total[what] = f"{twin.name}_{what}"
            graph.node.append(
                helper.make_node("ReduceSumSquare", [name], [total[what]], keepdims=0)
            )
            graph.output.append(helper.make_tensor_value_info(total[what], _SINGLE, []))

    def _round(self, name: str, new: str, precision: str) -> None:
        """Add nodes that round a tensor to a precision and back to float32."""
        graph = self._proto.graph
        between = f"{new}_low"
        if precision == "fp16":
            graph.node.append(helper.make_node("Cast", [name], [between], to=_HALF))
            graph.node.append(helper.make_node("Cast", [between], [new], to=_SINGLE))
            return
        low, high = self._known.get(name, (0.0, 0.0))
        low, high = min(low, 0.0), max(high, 0.0)
        scale = (high - low) / 255 or 1.0
        zero = int(np.clip(round(-low / scale), 0, 255))
        for what, value in (("scale", np.float32(scale)), ("zero", np.uint8(zero))):
            graph.initializer.append(numpy_helper.from_array(np.asarray(value), f"{new}_{what}"))
        parameters = [f"{new}_scale", f"{new}_zero"]
        graph.node.append(helper.make_node("QuantizeLinear", [name, *parameters], [between]))
        graph.node.append(helper.make_node("DequantizeLinear", [between, *parameters], [new]))


def _rounded_weight(value: Array, node: NodeProto, precision: str) -> Array:
    if precision == "fp16":
        with np.errstate(over="ignore"):
            return value.astype(np.float16).astype(np.float32)
    transposed = any(a.name == "transB" and a.i for a in node.attribute)
    channel = 0 if node.op_type == "Conv" or transposed else value.ndim - 1
    if node.op_type == "ConvTranspose":
        channel = 1
    axes = tuple(axis for axis in range(value.ndim) if axis != channel)
    scale = np.abs(value).max(axes, keepdims=True) / 127
    scale[scale == 0] = 1
    rounded: Array = np.round(value / scale) * scale
    return rounded.astype(np.float32)
