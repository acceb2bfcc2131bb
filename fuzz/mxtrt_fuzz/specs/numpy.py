"""Operators of MXNet's NumPy interface."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
from hypothesis import strategies as st

from mxtrt_fuzz.graphs import Shape

# These fill the registry with what is named again here.
from mxtrt_fuzz.specs import activation as activation
from mxtrt_fuzz.specs import elementwise as elementwise
from mxtrt_fuzz.specs import nn as nn
from mxtrt_fuzz.specs import norm as norm
from mxtrt_fuzz.specs import pooling as pooling
from mxtrt_fuzz.specs import shape as shape
from mxtrt_fuzz.specs import softmax as softmax
from mxtrt_fuzz.specs.base import (
    WIDE_FLOATS,
    Application,
    Attributes,
    Draw,
    Operand,
    OpSpec,
    rank_at_least,
    ranks,
    register,
    specs,
)
from mxtrt_fuzz.values import Array

#: Operators by the other whose specification holds for them.
_SAME = {
    "Activation": "_npx_activation",
    "BatchNorm": "_npx_batch_norm",
    "Convolution": "_npx_convolution",
    "Deconvolution": "_npx_deconvolution",
    "Dropout": "_npx_dropout",
    "FullyConnected": "_npx_fully_connected",
    "LayerNorm": "_npx_layer_norm",
    "LeakyReLU": "_npx_leaky_relu",
    "Pooling": "_npx_pooling",
    "_div_scalar": "_npi_true_divide_scalar",
    "_minus_scalar": "_npi_subtract_scalar",
    "_mod_scalar": "_npi_mod_scalar",
    "_mul_scalar": "_npi_multiply_scalar",
    "_plus_scalar": "_npi_add_scalar",
    "_power_scalar": "_npi_power_scalar",
    "_rdiv_scalar": "_npi_rtrue_divide_scalar",
    "_rminus_scalar": "_npi_rsubtract_scalar",
    "_rmod_scalar": "_npi_rmod_scalar",
    "_rpower_scalar": "_npi_rpower_scalar",
    "abs": "_npi_absolute _npi_abs",
    "broadcast_add": "_npi_add",
    "broadcast_div": "_npi_true_divide",
    "broadcast_hypot": "_npi_hypot",
    "broadcast_mod": "_npi_mod",
    "broadcast_mul": "_npi_multiply",
    "broadcast_power": "_npi_power",
    "broadcast_sub": "_npi_subtract",
    "clip": "_npi_clip",
    "erf": "_npx_erf",
    "relu": "_npx_relu",
    "sigmoid": "_npx_sigmoid",
} | {
    name: f"_npi_{name}"
    for name in [
        "arccos",
        "arccosh",
        "arcsin",
        "arcsinh",
        "arctan",
        "arctanh",
        "cbrt",
        "ceil",
        "cos",
        "cosh",
        "degrees",
        "exp",
        "expm1",
        "fix",
        "floor",
        "log",
        "log10",
        "log1p",
        "log2",
        "negative",
        "radians",
        "reciprocal",
        "rint",
        "sign",
        "sin",
        "sinh",
        "sqrt",
        "square",
        "tan",
        "tanh",
        "trunc",
    ]
}

for _name, _others in _SAME.items():
    register(*(dataclasses.replace(specs()[_name], name=other) for other in _others.split()))


_REDUCTIONS: dict[str, Callable[..., Array]] = {
    "_npi_mean": np.mean,
    "_np_sum": np.sum,
    "_np_max": np.max,
    "_np_amax": np.max,
    "_np_min": np.min,
    "_np_amin": np.min,
    "_np_prod": np.prod,
    "_np_product": np.prod,
}


def _draw_axes(draw: Draw, shape: Shape) -> Application:
    """Some axes: without any left, the result would have none."""
    rank = len(shape)
    attrs: dict[str, Any] = {"keepdims": draw(st.booleans())}
    most = rank if attrs["keepdims"] else rank - 1
    picked = sorted(draw(st.sets(st.integers(0, rank - 1), min_size=1, max_size=most)))
    axes = tuple(axis - rank if draw(st.booleans()) else axis for axis in picked)
    attrs["axis"] = axes[0] if len(axes) == 1 and draw(st.booleans()) else axes
    return Application(attrs)


def _reduction(function: Callable[..., Array]) -> Callable[..., Array]:
    return lambda attrs, x: function(x, attrs.integers("axis"), keepdims=attrs["keepdims"])


register(
    *(
        OpSpec(
            name,
            _draw_axes,
            _reduction(function),
            rank_at_least(2),
            dtypes=("float32",),
            roundings=2,
            sums=function in (np.sum, np.mean),
            compensated=function in (np.sum, np.mean),
        )
        for name, function in _REDUCTIONS.items()
    )
)


def _draw_matmul(draw: Draw, shape: Shape) -> Application:
    columns = draw(st.integers(1, 4))
    other: Shape = (shape[-1], columns)
    if draw(st.booleans()):
        batch = tuple(1 if draw(st.booleans()) else size for size in shape[:-2])
        other = (*batch[draw(st.integers(0, len(batch))) :], *other)
    return Application({}, (Operand(other),))


def _draw_dot(draw: Draw, shape: Shape) -> Application:
    return Application({}, (Operand((shape[-1], draw(st.integers(1, 4)))),))


def _product(attrs: Attributes, x: Array, y: Array) -> Array:
    product: Array = x @ y
    return product


register(
    OpSpec(
        "_npi_matmul",
        _draw_matmul,
        _product,
        ranks(2, 3, 4, 5),  # with six axes MXNet reads beyond its shapes
        roundings=2,
        sums=True,
        products=True,
        dtypes=WIDE_FLOATS,
    ),
    OpSpec(
        "_np_dot",
        _draw_dot,
        _product,
        rank_at_least(2),
        roundings=2,
        sums=True,
        products=True,
        dtypes=WIDE_FLOATS,
    ),
)
