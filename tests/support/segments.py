"""Segments of a symbol without a bind, as models and to be retyped."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import mxnet as mx
import numpy as np
import onnx

from mxtrt import config
from mxtrt.convert.onnx_builder import OPSET
from mxtrt.convert.segment import OnnxSegment, to_onnx
from mxtrt.engines import Weight
from mxtrt.graph.symbol import TensorType
from mxtrt.offline.inspection import typed_graph
from mxtrt.plan.graph_pass import analyse
from mxtrt.precision import retyped


def segments_of(
    symbol: Any,
    shapes: Mapping[str, tuple[int, ...]],
    dtypes: Mapping[str, Any] | None = None,
    *,
    varying: bool = False,
    opset: int = OPSET,
    **options: Any,
) -> list[OnnxSegment]:
    """The ONNX models of a symbol's segments; whatever has no shape here is a weight."""
    graph = typed_graph(symbol, shapes, dtypes)
    names = {*symbol.list_arguments(), *symbol.list_auxiliary_states()}
    found = analyse(graph, names - shapes.keys(), config.current().replace(**options))
    models = []
    for segment in found.segments:
        part, _ = graph.subgraph(segment.members, segment.outputs)
        weights = {graph.nodes[index].name for index in segment.weights}
        models.append(to_onnx(part, weights, varying=varying, opset=opset))
    return models


class Segment:
    """A symbol that is one segment, with values of its weights."""

    def __init__(self, symbol: Any, arrays: dict[str, Any], **shapes: tuple[int, ...]) -> None:
        kinds = {name: array.dtype for name, array in arrays.items()}
        half = np.float16 in kinds.values()  # MXNet infers the types of states from all the others
        (self.segment,) = segments_of(symbol, shapes, kinds if half else None)
        self.arrays = arrays
        self.weights = [Weight.of(w, arrays[w.name]) for w in self.segment.weights]
        kind = np.dtype(np.float32)
        self.inputs = [TensorType(shapes[name], kind) for name in self.segment.inputs]

    def retyped(self, *, float16: bool = True, **options: Any) -> Any:
        """The model at a precision, for an engine with or without float16 arithmetic."""
        engine: Any = SimpleNamespace(name="an engine", computes_float16=float16)
        options = {"precision": "fp16", **options}
        made = retyped(
            self.segment, self.weights, self.inputs, engine, config.current().replace(**options)
        )
        model = onnx.load_model_from_string(made.segment.model)
        assert len(made.segment.sources) == len(model.graph.node)
        return SimpleNamespace(model=model, types=_types(model), **made._asdict())


def _types(model: onnx.ModelProto) -> dict[str, str]:
    """For every node, by its MXNet-like name or operator, the dtype of its first output."""
    inferred = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True).graph
    kinds = {v.name: v.type.tensor_type.elem_type for v in (*inferred.value_info, *inferred.output)}
    return {
        node.op_type: onnx.TensorProto.DataType.Name(kinds[node.output[0]])
        for node in inferred.node
    }


def arrays_of(symbol: Any, seed: int = 0, **shapes: tuple[int, ...]) -> dict[str, Any]:
    """Normal weights; variances are positive."""
    random = np.random.default_rng(seed)
    arguments, _, states = symbol.infer_shape(**shapes)
    names = [*symbol.list_arguments(), *symbol.list_auxiliary_states()]
    found = {}
    for name, shape in zip(names, [*arguments, *states], strict=True):
        if name not in shapes:
            values = random.standard_normal(shape) * 0.3
            found[name] = mx.nd.array(np.abs(values) + 0.5 if name.endswith("var") else values)
    return found
