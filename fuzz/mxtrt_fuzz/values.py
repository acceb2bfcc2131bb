"""Values of a case's variables, from its seed.

Every variable has a stream of its own, named after it, so that removing one variable leaves
the values of the others as they were.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from mxtrt_fuzz.graphs import Case, Variable

__all__ = [
    "INPUT_SETS",
    "Array",
    "Arrays",
    "about_equal",
    "fill",
    "input_arrays",
    "weight_arrays",
    "wide",
]

Array = np.ndarray[Any, Any]
Arrays = Mapping[str, Array]

#: Sets of inputs that every case is run with, one after the other.
INPUT_SETS = 2

# What two answers are off, relative to the largest number of one, that are taken to be equal.
_ROUNDINGS = 1e-6

_TINY = float(np.finfo(np.float32).tiny)
_NONFINITE = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0])


def fill(variable: Variable, seed: int, turn: int = 0, lane: str = "uniform") -> Array:
    """Values of one variable.

    Args:
        variable: The variable; its range bounds the values.
        seed: The case's seed.
        turn: Which set of inputs.
        lane: What the data hold, one of :data:`mxtrt_fuzz.graphs.LANES`.
    """
    random = np.random.default_rng([seed, zlib.crc32(variable.name.encode()), turn])
    shape, dtype = variable.tensor
    if np.issubdtype(dtype, np.integer):
        low, high = math.ceil(variable.low), math.floor(variable.high)
        smallest = int(np.iinfo(dtype).min)
        return random.integers(max(low, smallest), max(high, smallest) + 1, shape).astype(dtype)
    values = random.uniform(variable.low, variable.high, shape)
    if lane == "grid":
        halves = np.round(values * 2) / 2
        values = np.where((halves >= variable.low) & (halves <= variable.high), halves, values)
    elif lane != "uniform":
        special: Array
        if lane == "subnormal":
            special = random.uniform(-1.5, 1.5, shape) * _TINY
        elif lane == "huge":
            special = np.copysign(10.0 ** random.uniform(15, 38, shape), values)
        else:
            special = random.choice(_NONFINITE, shape)
        rare = 0.1 if lane == "nonfinite" else 0.4
        values = np.where(random.random(shape) < rare, special, values)
    return values.astype(dtype)


def wide(dtype: str) -> str:
    """The dtype in which references compute what is stored in a dtype."""
    return "int64" if np.issubdtype(dtype, np.integer) else "float64"


def weight_arrays(case: Case) -> dict[str, Array]:
    """Values of weights and auxiliary states by name."""
    return {v.name: fill(v, case.seed) for v in case.variables if v.role != "data"}


def input_arrays(case: Case, turn: int) -> dict[str, Array]:
    """Values of the data by name, in one of the :data:`INPUT_SETS` sets."""
    data = (v for v in case.variables if v.role == "data")
    return {v.name: fill(v, case.seed, turn, case.lane) for v in data}


def about_equal(one: Array, other: Array) -> bool:
    """Whether two heads differ by roundings at the most: then no limits are asked for."""
    if (one.shape, one.dtype) != (other.shape, other.dtype):
        return False
    if np.array_equal(one, other, equal_nan=True):
        return True
    if not (np.isfinite(one).all() and np.isfinite(other).all()):
        return False
    largest = float(np.abs(other).max(initial=0.0))
    return bool(np.abs(one - other).max(initial=0.0) <= _ROUNDINGS * largest)
