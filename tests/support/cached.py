"""ONNX Runtime behind the cache of built engines, in TensorRT's place on machines without one.

What the cache keeps is the model that runs: a wrong byte of it would be a wrong engine.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from mxtrt.engines.base import BuildRequest, Session
from mxtrt.engines.cache import EngineCache
from mxtrt.engines.onnxruntime import OnnxRuntime
from mxtrt.engines.tensorrt.builder import canonical, content_hash

__all__ = ["cached"]

Build = Callable[[OnnxRuntime, BuildRequest], Session]


def cached(building: Callable[[], object] = lambda: None) -> Build:
    """``OnnxRuntime.build`` with the cache.

    Args:
        building: Is called when the cache does not have the engine.
    """
    original = OnnxRuntime.build

    def build(self: OnnxRuntime, request: BuildRequest) -> Session:
        def model() -> bytes:
            building()
            return request.segment.model

        cache = EngineCache(request.options.cache_dir, request.options.cache_size)
        plan = cache.get_or_build(content_hash(canonical(request), ("stand-in",)), model)
        segment = dataclasses.replace(request.segment, model=bytes(plan))
        return original(self, dataclasses.replace(request, segment=segment))

    return build
