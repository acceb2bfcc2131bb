"""Pictures as Gluon's transforms make them."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import strategies as st

from mxtrt_fuzz.graphs import Shape
from mxtrt_fuzz.specs.base import (
    Application,
    Attributes,
    Draw,
    OpSpec,
    like,
    maybe,
    ranks,
    register,
    sizes,
)
from mxtrt_fuzz.values import Array


def _to_tensor(attrs: Attributes, x: Array) -> Array:
    # Integers that float32 does not hold are rounded before.
    return np.moveaxis(x.astype(np.float32).astype(np.float64), -1, -3) / 255


def _colours(shape: Shape) -> bool:
    return len(shape) in (3, 4) and shape[-3] in (1, 3)


def _first_of_colours(draw: Draw) -> Shape:
    channels = draw(st.sampled_from([1, 3]))
    batch = sizes(draw, draw(st.integers(0, 1)), 1, 3)
    return (*batch, channels, *sizes(draw, 2, 1, 6))


def _draw_normalize(draw: Draw, shape: Shape) -> Application:
    count = st.sampled_from([1, shape[-3]])
    means = count.flatmap(lambda n: st.tuples(*[st.sampled_from([0.0, 0.485, -1.5])] * n))
    deviations = count.flatmap(lambda n: st.tuples(*[st.sampled_from([1.0, 0.229, 2.0])] * n))
    # MXNet's own defaults are for four channels, which it does not take, unless one is given.
    drawn: dict[str, Any] = {"mean": draw(means), "std": draw(deviations)}
    return Application(drawn | maybe(draw, mean=st.just(0.25), std=st.just(0.5)))


def _normalize(attrs: Attributes, x: Array) -> Array:
    mean, std = (
        np.array(attrs[key], np.float32).reshape(-1, 1, 1).astype(x.dtype)
        for key in ("mean", "std")
    )
    return np.asarray((x - mean) / std)


register(
    OpSpec(
        "_image_to_tensor",
        like,
        _to_tensor,
        ranks(3, 4),
        dtypes=("float32", "uint8", "int32", "int64", "int8"),
        result=lambda attrs, _: "float32",
        roundings=2,
        hybrid=False,
    ),
    OpSpec(
        "_image_normalize",
        _draw_normalize,
        _normalize,
        _colours,
        first=_first_of_colours,
        dtypes=("float32",),
        roundings=2,
        absolute=4,
        hybrid=False,
    ),
)
