"""TensorRT on NVIDIA GPUs.

``api`` loads NVIDIA's Python package and evens out its versions; ``builder`` turns a model into
a serialized engine; ``runtime`` loads and runs that; ``engine`` joins them with the cache.
Everything is written to the API that names tensors (TensorRT 8.5 and later, TensorRT for RTX).
"""

from mxtrt.engines.tensorrt.engine import TensorRT, tensorrt

__all__ = ["TensorRT", "tensorrt"]
