"""Which engine runs the segments of a bind."""

from __future__ import annotations

import logging

from mxtrt.config import Options
from mxtrt.engines.base import Engine
from mxtrt.errors import EngineError
from mxtrt.system.threads import once

__all__ = ["runs_on_cpu", "select"]

_log = logging.getLogger("mxtrt")


def select(options: Options) -> Engine:
    """The engine that the options ask for.

    ``auto`` takes TensorRT where it is installed and a GPU answers, else ONNX Runtime.

    Raises:
        EngineError: The engine is missing or does not load; the message says how to get it.
        NodeError: The engine node is missing or does not fit this MXNet.
    """
    from mxtrt.engines.onnxruntime import onnxruntime

    if not runs_on_cpu(options):
        from mxtrt.engines.tensorrt import tensorrt

        return tensorrt()
    return onnxruntime(options)


def runs_on_cpu(options: Options) -> bool:
    """Whether the engine that the options ask for is the CPU's."""
    return options.engine == "onnxruntime" or (options.engine == "auto" and not _tensorrt_answers())


@once
def _tensorrt_answers() -> bool:
    """Whether TensorRT is installed and has a GPU; said once in the log if it is not usable."""
    from mxtrt.engines.tensorrt import tensorrt
    from mxtrt.engines.tensorrt.api import installed

    if installed() is None:
        return False

    try:
        tensorrt()
    except EngineError as error:
        _log.info("ONNX Runtime takes the place of TensorRT: %s", error)
        return False
    return True
