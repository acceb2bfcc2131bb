"""Softmax and the output layers, whose label is ignored at inference."""

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
    register,
)
from mxtrt_fuzz.specs.sequence import lengths
from mxtrt_fuzz.values import Array


def _log_softmax(x: Array, axis: int) -> Array:
    shifted = x - x.max(axis, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis, keepdims=True))


def _softmax(x: Array, axis: int) -> Array:
    exponentials = np.exp(x - x.max(axis, keepdims=True))
    return exponentials / exponentials.sum(axis, keepdims=True)


def _draw_softmax(draw: Draw, shape: Shape) -> Application:
    rank = len(shape)
    attrs = maybe(
        draw, axis=st.integers(-rank, rank - 1), temperature=st.sampled_from([0.5, 1.0, 3.0])
    )
    return Application(attrs)


def _draw_masked_softmax(draw: Draw, shape: Shape) -> Application:
    plain = _draw_softmax(draw, shape)
    if draw(st.booleans()):
        return plain
    attrs = {**plain.attrs, "use_length": True}
    axis = attrs.get("axis", -1)
    if axis < -1:  # MXNet counts no other axis from the end here
        axis = attrs["axis"] = axis % len(shape)
    axis %= len(shape)
    # A length for every row, of a dtype that MXNet takes.
    rows = (*shape[:axis], *shape[axis + 1 :]) or (1,)
    operand = lengths(draw, rows, 0, shape[axis], ("int32", "int64"))
    return Application(attrs, (operand,))


def _masked_softmax(attrs: Attributes, x: Array, *length: Array) -> Array:
    x, axis = _of_axis(attrs, x)
    if not length:
        return _softmax(x, axis)
    x = np.moveaxis(x, axis, -1)
    inside = np.arange(x.shape[-1]) < length[0].reshape(*x.shape[:-1], 1)
    shares = _softmax(np.where(inside, x, x.dtype.type(-np.inf)), -1)
    return np.moveaxis(np.where(inside, shares, x.dtype.type(0)), -1, axis)


def _of_axis(attrs: Attributes, x: Array) -> tuple[Array, int]:
    return x / x.dtype.type(attrs.get("temperature", 1.0)), attrs.get("axis", -1)


def _terms(attrs: Attributes, shape: Shape) -> int:
    return shape[attrs.get("axis", -1)]


def _draw_activation(draw: Draw, shape: Shape) -> Application:
    modes = ["instance", "channel"] if len(shape) >= 3 else ["instance"]
    return Application(maybe(draw, mode=st.sampled_from(modes)))


def _softmax_activation(attrs: Attributes, x: Array) -> Array:
    return _softmax(x, _activation_axis(attrs))


def _activation_axis(attrs: Attributes) -> int:
    return 1 if attrs.get("mode", "instance") == "channel" else -1


def _draw_output(draw: Draw, shape: Shape) -> Application:
    choices: list[dict[str, Any]] = [{"multi_output": True}, {"preserve_shape": True}]
    if len(shape) == 2:
        choices += [{}, {"grad_scale": 2.0}]
    attrs = draw(st.sampled_from(choices))
    label = (shape[0], *shape[2:]) if "multi_output" in attrs else shape[:-1]
    return Application(attrs, (Operand(label, low=0, high=1),))


def _softmax_output(attrs: Attributes, x: Array, label: Array) -> Array:
    return _softmax(x, _output_axis(attrs))


def _output_axis(attrs: Attributes) -> int:
    return 1 if attrs.get("multi_output", False) else -1


def _draw_regression(draw: Draw, shape: Shape) -> Application:
    return Application(maybe(draw, grad_scale=st.just(0.5)), (Operand(shape),))


def _draw_svm(draw: Draw, shape: Shape) -> Application:
    attrs = maybe(draw, margin=st.just(0.5), use_linear=st.booleans())
    return Application(attrs, (Operand(shape[:-1], low=0, high=1),))


def _draw_sparse(draw: Draw, shape: Shape) -> Application:
    attrs = maybe(draw, sparseness_target=st.just(0.2))
    return Application(attrs, (Operand((shape[1],), "aux", 0, 1, own=True),))


register(
    *(
        OpSpec(
            name, _draw_masked_softmax, _masked_softmax, roundings=4, terms=_terms, nan_blind=True
        )
        for name in ("softmax", "_npx_softmax")
    ),
    *(
        OpSpec(
            name,
            _draw_softmax,
            lambda a, x: _log_softmax(*_of_axis(a, x)),
            roundings=4,
            nan_blind=True,
            absolute=16,  # oneDNN's logarithm: 1.4e-6 where the answer is 0
        )
        for name in ("log_softmax", "_npx_log_softmax")
    ),
    OpSpec(
        "softmin",
        _draw_softmax,
        lambda a, x: _softmax(*_of_axis(a, -x)),
        roundings=4,
        terms=_terms,
        nan_blind=True,
    ),
    OpSpec(
        "SoftmaxActivation",
        _draw_activation,
        _softmax_activation,
        roundings=4,
        terms=lambda attrs, shape: shape[_activation_axis(attrs)],
        nan_blind=True,
        dtypes=WIDE_FLOATS,
    ),
    *(
        OpSpec(
            name,
            _draw_output,
            _softmax_output,
            rank_at_least(2),
            roundings=4,
            terms=lambda attrs, shape: shape[_output_axis(attrs)],
            nan_blind=True,
        )
        for name in ("SoftmaxOutput", "Softmax")
    ),
    OpSpec(
        "LogisticRegressionOutput",
        _draw_regression,
        lambda attrs, x, label: 1 / (1 + np.exp(-x)),
        roundings=4,
        absolute=1,
        coarse=11,
    ),
    *(
        OpSpec(name, _draw_regression, lambda attrs, x, label: x, roundings=0)
        for name in ("LinearRegressionOutput", "MAERegressionOutput")
    ),
    OpSpec("SVMOutput", _draw_svm, lambda attrs, x, label: x, rank_at_least(2), roundings=0),
    OpSpec(
        "IdentityAttachKLSparseReg",
        _draw_sparse,
        lambda attrs, x, average: x,
        rank_at_least(2),
        dtypes=("float32",),
        roundings=0,
    ),
)
