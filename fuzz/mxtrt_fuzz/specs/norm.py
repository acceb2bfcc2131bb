"""Normalisation layers, at inference."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import strategies as st

from mxtrt_fuzz.graphs import Shape
from mxtrt_fuzz.specs.base import (
    WIDE_FLOATS,
    Application,
    Attributes,
    Draw,
    Operand,
    OpSpec,
    maybe,
    rank_at_least,
    ranks,
    register,
)
from mxtrt_fuzz.values import Array

_EPSILONS = st.sampled_from([1e-5, 1e-3, 0.1])


def _axis(draw: Draw, rank: int) -> int:
    return draw(st.integers(-rank, rank - 1))


def _along(values: Array, axis: int, rank: int) -> Array:
    """A vector shaped to lie along one axis."""
    return values.reshape([-1 if i == axis % rank else 1 for i in range(rank)])


def _draw_batch_norm(draw: Draw, shape: Shape) -> Application:
    attrs: dict[str, Any] = maybe(
        draw, fix_gamma=st.booleans(), eps=_EPSILONS, use_global_stats=st.booleans()
    )
    axis = 1
    if draw(st.integers(0, 3)) == 0:
        axis = attrs["axis"] = _axis(draw, len(shape))
    return Application(attrs, _batch_norm_operands(shape[axis]))


def _batch_norm_operands(channels: int) -> tuple[Operand, ...]:
    size = (channels,)
    return (
        # With fix_gamma, MXNet overwrites gamma with ones: no other operator's weight.
        Operand(size, "weight", own=True),
        Operand(size, "weight"),
        Operand(size, "aux"),
        Operand(size, "aux", 0.1, 2.0),
    )


def _batch_norm(
    attrs: Attributes, x: Array, gamma: Array, beta: Array, mean: Array, variance: Array
) -> Array:
    axis = attrs.get("axis", 1)
    if attrs.get("fix_gamma", True):
        gamma = np.ones_like(gamma)
    gamma, beta, mean, variance = (_along(v, axis, x.ndim) for v in (gamma, beta, mean, variance))
    return (x - mean) / np.sqrt(variance + attrs.get("eps", 1e-3)) * gamma + beta


def _draw_sync_batch_norm(draw: Draw, shape: Shape) -> Application:
    attrs = maybe(draw, fix_gamma=st.booleans(), eps=_EPSILONS, use_global_stats=st.booleans())
    return Application({**attrs, "key": "norm"}, _batch_norm_operands(shape[1]))


def _draw_instance_norm(draw: Draw, shape: Shape) -> Application:
    size = (shape[1],)
    return Application(maybe(draw, eps=_EPSILONS), (Operand(size, "weight"),) * 2)


def _standardised(x: Array, statistics: Array | None, axes: tuple[int, ...], eps: float) -> Array:
    centred = x - (x if statistics is None else statistics).mean(axes, keepdims=True)
    # MXNet keeps eps as a float32 whatever the dtype.
    shifted = (centred**2).mean(axes, keepdims=True) + x.dtype.type(np.float32(eps))
    return centred / np.sqrt(shifted)


def _instance_norm(
    attrs: Attributes, x: Array, gamma: Array, beta: Array, statistics: Array | None = None
) -> Array:
    normed = _standardised(x, statistics, tuple(range(2, x.ndim)), attrs.get("eps", 1e-3))
    return normed * _along(gamma, 1, x.ndim) + _along(beta, 1, x.ndim)


def _draw_group_norm(draw: Draw, shape: Shape) -> Application:
    attrs = maybe(draw, eps=_EPSILONS, num_groups=st.sampled_from(_divisors(shape[1])))
    size = (attrs.get("num_groups", 1),)
    return Application(attrs, (Operand(size, "weight"),) * 2)


def _divisors(count: int) -> list[int]:
    return [n for n in range(1, count + 1) if count % n == 0]


def _group_norm(
    attrs: Attributes, x: Array, gamma: Array, beta: Array, statistics: Array | None = None
) -> Array:
    shape = (len(x), len(gamma), -1)
    rows = x if statistics is None else statistics
    normed = _standardised(x.reshape(shape), rows.reshape(shape), (2,), attrs.get("eps", 1e-5))
    return (normed * gamma[:, None] + beta[:, None]).reshape(x.shape)


def _draw_layer_norm(draw: Draw, shape: Shape) -> Application:
    attrs = maybe(draw, eps=_EPSILONS, axis=st.integers(-len(shape), len(shape) - 1))
    size = (shape[attrs.get("axis", -1)],)
    return Application(attrs, (Operand(size, "weight"),) * 2)


def _layer_norm(
    attrs: Attributes, x: Array, gamma: Array, beta: Array, statistics: Array | None = None
) -> Array:
    axis = attrs.get("axis", -1)
    normed = _standardised(x, statistics, (axis,), attrs.get("eps", 1e-5))
    return normed * _along(gamma, axis, x.ndim) + _along(beta, axis, x.ndim)


def _draw_l2(draw: Draw, shape: Shape) -> Application:
    modes = ["instance", "channel", "spatial"] if len(shape) > 2 else ["instance"]
    return Application(maybe(draw, mode=st.sampled_from(modes), eps=st.sampled_from([1e-10, 0.5])))


def _l2(attrs: Attributes, x: Array) -> Array:
    mode = attrs.get("mode", "instance")
    axes = {"instance": range(1, x.ndim), "channel": (1,), "spatial": range(2, x.ndim)}[mode]
    total = (x**2).sum(tuple(axes), keepdims=True)
    # MXNet keeps eps as a float32 whatever the dtype.
    return x / np.sqrt(total + x.dtype.type(np.float32(attrs.get("eps", 1e-10))))


def _draw_lrn(draw: Draw, shape: Shape) -> Application:
    attrs: dict[str, Any] = {"nsize": draw(st.sampled_from([1, 3, 5]))}
    attrs |= maybe(
        draw,
        alpha=st.sampled_from([1e-4, 0.5]),
        beta=st.sampled_from([0.75, 0.6]),
        knorm=st.sampled_from([1.0, 1.5]),
    )
    return Application(attrs)


def _lrn(attrs: Attributes, x: Array) -> Array:
    size = attrs["nsize"]
    padded = np.pad(x**2, [(0, 0), (size // 2, size // 2), (0, 0), (0, 0)])
    total = np.stack([padded[:, i : i + x.shape[1]] for i in range(size)]).sum(0)
    # Implementations take powers of the sum apart, and keep a running sum over the channels: where
    # one overflows on the way, others go with it.
    total = total + 0 * np.square((x**2).sum(1, keepdims=True))
    base = attrs.get("knorm", 2.0) + attrs.get("alpha", 1e-4) / size * total
    return x * base ** -attrs.get("beta", 0.75)


register(
    OpSpec(
        "BatchNorm",
        _draw_batch_norm,
        _batch_norm,
        rank_at_least(2),
        dtypes=("float32",),
        folds=True,
    ),
    OpSpec(
        "_contrib_SyncBatchNorm",
        _draw_sync_batch_norm,
        _batch_norm,
        rank_at_least(2),
        dtypes=("float32",),
        folds=True,
    ),
    OpSpec(
        "InstanceNorm",
        _draw_instance_norm,
        _instance_norm,
        rank_at_least(3),
        dtypes=WIDE_FLOATS,
        roundings=4,
        statistics=True,
    ),
    OpSpec(
        "GroupNorm",
        _draw_group_norm,
        _group_norm,
        rank_at_least(3),
        roundings=4,
        statistics=True,
    ),
    OpSpec("LayerNorm", _draw_layer_norm, _layer_norm, roundings=4, statistics=True),
    OpSpec("L2Normalization", _draw_l2, _l2, rank_at_least(2), roundings=2, squares=True),
    OpSpec(
        "LRN",
        _draw_lrn,
        _lrn,
        ranks(4),
        roundings=4,
        dtypes=("float32",),
        squares=True,
        nan_blind=True,
    ),
)
