"""TensorRT on an NVIDIA GPU, for graphs whose arrays are in host memory.

Written to the API that names tensors (TensorRT 8.5 and later).  Engines are built and set up
here; a forward runs in C, see ``node/cuda.cc``.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import importlib
import importlib.util
import logging
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx

from mxtrt.cache import EngineCache
from mxtrt.config import Options
from mxtrt.convert import OnnxSegment
from mxtrt.engines.base import Weight
from mxtrt.errors import EngineError, NodeError
from mxtrt.node import library

__all__ = ["TensorRT", "tensorrt"]

_log = logging.getLogger("mxtrt")


class TensorRT:
    """TensorRT through its Python package.

    Raises:
        EngineError: TensorRT is not installed or too old, or no GPU answers.
    """

    name = "tensorrt"
    static_shapes = True

    def __init__(self) -> None:
        if importlib.util.find_spec("tensorrt") is None:
            raise EngineError(
                "TensorRT is not installed; install NVIDIA's Python package tensorrt (8.5 or later)"
            )
        try:
            self._trt: Any = importlib.import_module("tensorrt")
        except Exception as error:  # a missing CUDA library shows as any of several
            raise EngineError(f"TensorRT does not load: {error}") from error
        if not hasattr(self._trt.ICudaEngine, "get_tensor_name"):
            raise EngineError(f"TensorRT {self._trt.__version__} is older than 8.5")
        try:
            self.device = library().cuda_device()
        except NodeError as error:
            raise EngineError(f"TensorRT has no GPU: {error}") from error
        self.version = str(self._trt.__version__)
        self._messages: list[str] = []
        self._logger = self._make_logger()
        self._runtime = self._trt.Runtime(self._logger)

    def build(
        self,
        segment: OnnxSegment,
        weights: Sequence[Weight],
        inputs: Sequence[Sequence[int]],
        outputs: Sequence[Sequence[int]],
        options: Options,
    ) -> int:
        """Build a session; see :class:`mxtrt.engines.base.Engine`."""
        model = _whole_model(segment, weights, inputs)
        cache = EngineCache(options.cache_dir, options.cache_size)
        plan = cache.get_or_build(
            self._key(model, options), lambda: self._build_plan(model, options)
        )
        engine = self._runtime.deserialize_cuda_engine(plan)
        if engine is None:
            raise EngineError(f"TensorRT did not load its own engine: {self._last_message()}")
        try:
            context = engine.create_execution_context()
            if context is None:
                raise EngineError(f"TensorRT made no context: {self._last_message()}")
            return self._session(segment, inputs, outputs, engine, context)
        except NodeError as error:
            raise EngineError(str(error)) from error

    def _session(
        self,
        segment: OnnxSegment,
        inputs: Sequence[Sequence[int]],
        outputs: Sequence[Sequence[int]],
        engine: Any,
        context: Any,
    ) -> int:
        names = [*segment.inputs, *segment.outputs]
        sizes = [
            int(np.prod(shape, dtype=np.int64))
            * np.dtype(self._trt.nptype(engine.get_tensor_dtype(name))).itemsize
            for name, shape in zip(names, [*inputs, *outputs], strict=True)
        ]

        def enqueue(addresses: Sequence[int], stream: int) -> None:
            for name, address in zip(names, addresses, strict=True):
                context.set_tensor_address(name, address)
            if not context.execute_async_v3(stream):
                raise EngineError(f"TensorRT did not run the engine: {self._last_message()}")

        return library().create_cuda_session(
            sizes[: len(inputs)], sizes[len(inputs) :], enqueue, (engine, context)
        )

    def _build_plan(self, model: bytes, options: Options) -> bytes:
        trt = self._trt
        self._messages.clear()
        begin = time.perf_counter()
        builder = trt.Builder(self._logger)
        explicit = getattr(trt.NetworkDefinitionCreationFlag, "EXPLICIT_BATCH", None)
        network = builder.create_network(0 if explicit is None else 1 << int(explicit))
        parser = trt.OnnxParser(network, self._logger)
        if not parser.parse(model):
            errors = [parser.get_error(i).desc() for i in range(parser.num_errors)]
            raise EngineError(f"TensorRT's parser: {'; '.join(errors) or self._last_message()}")
        config = builder.create_builder_config()
        if options.workspace:
            config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace)
        if options.precision == "tf32":
            config.set_flag(trt.BuilderFlag.TF32)
        else:
            config.clear_flag(trt.BuilderFlag.TF32)
        plan = builder.build_serialized_network(network, config)
        if plan is None:
            raise EngineError(f"TensorRT did not build the engine: {self._last_message()}")
        _log.info("TensorRT built an engine in %.1f s", time.perf_counter() - begin)
        return bytes(plan)

    def _key(self, model: bytes, options: Options) -> str:
        facts = (
            self.version,
            self.device.name,
            self.device.capability,
            options.precision,
            options.workspace,
        )
        return hashlib.sha256(repr(facts).encode() + model).hexdigest()

    def _last_message(self) -> str:
        return self._messages[-1] if self._messages else "no reason was given"

    def _make_logger(self) -> Any:
        trt, messages = self._trt, self._messages
        levels = {
            trt.ILogger.Severity.INTERNAL_ERROR: logging.ERROR,
            trt.ILogger.Severity.ERROR: logging.ERROR,
            trt.ILogger.Severity.WARNING: logging.INFO,
        }

        class Logger(trt.ILogger):  # type: ignore[misc, name-defined]
            def __init__(self) -> None:
                trt.ILogger.__init__(self)

            def log(self, severity: Any, message: str) -> None:
                level = levels.get(severity, logging.DEBUG)
                if level == logging.ERROR:
                    messages.append(message)
                _log.log(logging.DEBUG if level == logging.ERROR else level, "%s", message)

        return Logger()


def _whole_model(
    segment: OnnxSegment, weights: Sequence[Weight], inputs: Sequence[Sequence[int]]
) -> bytes:
    """The model with its weights inside and fixed input shapes, as TensorRT's parser takes it."""
    model = onnx.load_model_from_string(segment.model)
    values = {weight.type.name: weight for weight in weights}
    for tensor in model.graph.initializer:
        if tensor.name in values:
            weight = values[tensor.name]
            tensor.ClearField("external_data")
            tensor.data_location = onnx.TensorProto.DEFAULT
            tensor.raw_data = ctypes.string_at(weight.address, weight.type.nbytes)
    for value, shape in zip(model.graph.input, inputs, strict=True):
        for dimension, size in zip(value.type.tensor_type.shape.dim, shape, strict=True):
            dimension.dim_value = size
    for value in model.graph.output:
        value.type.tensor_type.ClearField("shape")
    data: bytes = model.SerializeToString(deterministic=True)
    return data


@functools.lru_cache(maxsize=1)
def tensorrt() -> TensorRT:
    """The engine, loaded at the first call.

    Raises:
        EngineError: TensorRT is not installed or too old, or no GPU answers.
    """
    return TensorRT()
