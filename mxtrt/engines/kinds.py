"""The engines that there are, as far as a graph's segments depend on them."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import numpy as np

from mxtrt.convert.onnx_builder import OPSET
from mxtrt.convert.ops import EDGES, FLOATS

__all__ = ["KINDS", "ONNXRUNTIME", "TENSORRT", "TENSORRT_BEFORE_10", "Kind"]


@dataclass(frozen=True, slots=True)
class Kind:
    """An engine of a machine that need not be this one.

    Attributes:
        name: A name of the option ``engine``.
        dtypes: Dtypes of the tensors that it takes; a node with another one stays in MXNet.
        on_cpu: Whether it computes on the CPU, as MXNet's operators for host memory do.
        opset: The newest ONNX operator set whose operators it has.
    """

    name: str
    dtypes: Collection[np.dtype[Any]]
    on_cpu: bool
    opset: int = OPSET


#: As it is from 1.25 on.
ONNXRUNTIME = Kind("onnxruntime", EDGES, on_cpu=True, opset=19)

_BEFORE_10: frozenset[np.dtype[Any]] = FLOATS | {np.dtype(np.float16), np.dtype(np.int32)}

#: TensorRT takes int8 as quantized tensors only, and uint8 in casts only.
TENSORRT = Kind("tensorrt", _BEFORE_10 | {np.dtype(np.int64)}, on_cpu=False)

#: It took int64 in shapes only.
TENSORRT_BEFORE_10 = dataclasses.replace(TENSORRT, dtypes=_BEFORE_10)

KINDS = (ONNXRUNTIME, TENSORRT, TENSORRT_BEFORE_10)
