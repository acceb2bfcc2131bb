"""MXNet's numbers of dtypes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

__all__ = ["DTYPES", "type_flag"]

#: MXNet's type flags (``mshadow/base.h``) and the NumPy dtypes they stand for.
DTYPES: Mapping[int, np.dtype[Any]] = {
    0: np.dtype(np.float32),
    1: np.dtype(np.float64),
    2: np.dtype(np.float16),
    3: np.dtype(np.uint8),
    4: np.dtype(np.int32),
    5: np.dtype(np.int8),
    6: np.dtype(np.int64),
    7: np.dtype(np.bool_),
}

_FLAGS = {dtype: flag for flag, dtype in DTYPES.items()}


def type_flag(dtype: np.dtype[Any]) -> int:
    """MXNet's type flag of a dtype."""
    return _FLAGS[np.dtype(dtype)]
