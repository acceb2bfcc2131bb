"""How large the values inside a model get, found out by running it."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from mxtrt.engines.onnxruntime import session_config
from mxtrt.graph.symbol import TensorType
from mxtrt.precision.working import Array, WorkingModel

__all__ = ["can_run", "largest_magnitudes", "random_feeds", "session"]


def can_run() -> bool:
    """Whether ONNX Runtime's Python package is there."""
    return importlib.util.find_spec("onnxruntime") is not None


def session(model: onnx.ModelProto, model_of: WorkingModel | None = None) -> Any:
    """A session of ONNX Runtime on the CPU.

    Args:
        model: The model.
        model_of: Has the values of the model's external initializers, which are not copied.
    """
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 3
    for key, value in session_config(model):
        options.add_session_config_entry(key, value)
    outside = {
        tensor.name: ort.OrtValue.ortvalue_from_numpy(model_of.value(tensor.name))
        for tensor in model.graph.initializer
        if model_of is not None and tensor.data_location == TensorProto.EXTERNAL
    }
    if outside:
        options.add_external_initializers(list(outside), list(outside.values()))
    return ort.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def random_feeds(names: Sequence[str], types: Sequence[TensorType]) -> dict[str, Array]:
    """Normally distributed floating-point numbers, and zeros for integers.

    An integer input may hold indices; index 0 always exists.
    """
    random = np.random.default_rng(0)
    feeds = {}
    for name, tensor in zip(names, types, strict=True):
        assert tensor.shape is not None
        assert tensor.dtype is not None
        floating = np.issubdtype(tensor.dtype, np.floating)
        values = random.standard_normal(tensor.shape) if floating else np.zeros(tensor.shape)
        feeds[name] = values.astype(tensor.dtype)
    return feeds


def largest_magnitudes(model: WorkingModel, feeds: Mapping[str, Array]) -> dict[str, float]:
    """Largest magnitude of every float32 value that nodes of the model produce.

    Args:
        model: The model.
        feeds: Its inputs.
    """
    proto = model.to_proto()
    types = model.types()
    produced = [name for step in model.steps for name in step.node.output]
    names = [name for name in produced if types.get(name) == TensorProto.FLOAT]
    del proto.graph.output[:]
    for place, name in enumerate(names):
        size, top = f"__size{place}", f"__top{place}"
        proto.graph.node.append(helper.make_node("Abs", [name], [size]))
        proto.graph.node.append(helper.make_node("ReduceMax", [size], [top], keepdims=0))
        proto.graph.output.append(helper.make_tensor_value_info(top, TensorProto.FLOAT, []))
    if not names:
        return {}
    tops = session(proto, model).run(None, dict(feeds))
    return {name: float(top) for name, top in zip(names, tops, strict=True)}
