"""Casts among dtypes."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

from mxtrt_fuzz.graphs import Shape
from mxtrt_fuzz.specs.base import (
    FLOATS,
    INTEGERS,
    Application,
    Attributes,
    Draw,
    Operand,
    OpSpec,
    maybe,
    register,
)
from mxtrt_fuzz.values import Array


def _draw_cast(draw: Draw, shape: Shape) -> Application:
    return Application({"dtype": draw(st.sampled_from(["float32", *INTEGERS, "float64"]))})


def _cast(attrs: Attributes, x: Array) -> Array:
    """To the nearest float; towards zero, and what the dtype cannot hold is undefined in C++."""
    if attrs["dtype"] not in INTEGERS:
        return x.astype(attrs["dtype"])
    info = np.iinfo(attrs["dtype"])
    whole = np.trunc(x)
    return np.where((whole >= info.min) & (whole <= info.max), whole, np.nan)


def _draw_multicast(draw: Draw, shape: Shape) -> Application:
    others = draw(st.integers(0, 2))
    attrs = maybe(draw, cast_narrow=st.booleans())
    return Application({"num_outputs": others + 1, **attrs}, (Operand(shape),) * others)


register(
    *(
        OpSpec(
            name,
            _draw_cast,
            _cast,
            dtypes=FLOATS + INTEGERS,
            result=lambda attrs, _: str(attrs["dtype"]),
            roundings=0,
        )
        for name in ("Cast", "cast", "_npi_cast", "_npx_cast")
    ),
    OpSpec(
        "amp_cast",
        # Of a float32 to another dtype MXNet has kernels that round.  It has none for int64.
        lambda draw, shape: Application({"dtype": "float32"}),
        lambda attrs, x: x,
        dtypes=("float32", "int32", "uint8", "int8"),
        roundings=0,
    ),
    OpSpec(
        "amp_multicast",
        _draw_multicast,
        lambda attrs, *xs: xs,
        dtypes=("float32", "int32", "uint8", "int8"),
        roundings=0,
    ),
)
