"""Engines: what turns a segment's ONNX model into something that runs.

``base`` says what every engine offers, ``kinds`` which there are; ``onnxruntime`` runs on any CPU,
``tensorrt`` on NVIDIA GPUs; ``select`` chooses.
"""

from mxtrt.engines.base import BuildRequest, Engine, MemoryTally, Session, Weight
from mxtrt.engines.kinds import Kind
from mxtrt.engines.select import runs_on_cpu, select

__all__ = [
    "BuildRequest",
    "Engine",
    "Kind",
    "MemoryTally",
    "Session",
    "Weight",
    "runs_on_cpu",
    "select",
]
