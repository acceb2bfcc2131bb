"""Which engine runs the segments of a bind."""

from __future__ import annotations

from mxtrt.config import Options
from mxtrt.engines.base import Engine

__all__ = ["select"]


def select(options: Options) -> Engine:
    """The engine that the options ask for; ``auto`` takes the best that this machine runs.

    Raises:
        EngineError: The engine is missing or does not load; the message says how to get it.
        NodeError: The engine node is missing or does not fit this MXNet.
    """
    from mxtrt.engines.onnxruntime import onnxruntime

    return onnxruntime(options)
