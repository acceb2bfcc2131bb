"""Activation functions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from hypothesis import strategies as st

from mxtrt_fuzz.graphs import Shape
from mxtrt_fuzz.specs.base import (
    Application,
    Attributes,
    Draw,
    Operand,
    OpSpec,
    like,
    maybe,
    register,
)
from mxtrt_fuzz.specs.elementwise import erf
from mxtrt_fuzz.values import Array


def _sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def _softsign(x: Array) -> Array:
    return x / (1 + np.abs(x))


_FUNCTIONS: dict[str, Callable[[Array], Array]] = {
    "relu": lambda x: np.maximum(x, 0),
    "sigmoid": _sigmoid,
    "tanh": np.tanh,
    "softrelu": lambda x: np.logaddexp(x, x.dtype.type(0)),
    "softsign": _softsign,
}


#: Absolute errors in roundoffs of one, as a standard deviation: an eighth of the largest seen, and
#: a little more, for the limits are made of samples.
#: oneDNN's softrelu: 180.  ONNX Runtime's logistic function ends at -18.
_ABSOLUTE = {"sigmoid": 1.0, "tanh": 1.0, "softrelu": 24.0, "selu": 1.0, "elu": 1.0, "gelu": 1.0}
#: TensorRT 8.5 on an H100, inputs to 20: tanh 129, sigmoid 65, selu 653 and, fused, 1300.
_COARSE = {"sigmoid": 11.0, "tanh": 22.0, "selu": 170.0}


def _of_type(errors: Mapping[str, float]) -> Callable[[Attributes], float]:
    return lambda attrs: errors.get(attrs.get("act_type", ""), 0.0)


def _alone(function: Callable[[Array], Array]) -> Callable[..., Array]:
    return lambda attrs, x: function(x)


def _always(attrs: Attributes) -> bool:
    return True


def _never(attrs: Attributes) -> bool:
    return False


def _activation(draw: Draw, shape: Shape) -> Application:
    return Application({"act_type": draw(st.sampled_from(list(_FUNCTIONS)))})


def _leaky_relu(draw: Draw, shape: Shape) -> Application:
    kind = draw(st.sampled_from(["leaky", "elu", "selu", "gelu", "prelu", "rrelu"]))
    attrs: dict[str, Any] = {"act_type": kind}
    if kind == "leaky" and draw(st.booleans()):
        del attrs["act_type"]
    if kind in ("leaky", "elu"):
        attrs |= maybe(draw, slope=st.sampled_from([0.1, 0.01, 1.0, 1.5]))
    if kind == "rrelu":
        attrs |= maybe(draw, lower_bound=st.just(0.2), upper_bound=st.just(0.8))
    if kind != "prelu":
        return Application(attrs)
    gammas = [(1,), shape[:1]] if len(shape) == 1 else [(shape[1],), (1,), shape[:2], (1, shape[1])]
    return Application(attrs, (Operand(draw(st.sampled_from(gammas)), "weight", -0.5, 0.5),))


def _slope(gamma: Array, rank: int) -> Array:
    """Gamma aligned with the first two axes, from the second (``expand_shape``)."""
    if rank == 1:
        return gamma
    lead = gamma.shape if gamma.ndim == 2 else (1, *gamma.shape)
    return gamma.reshape(*lead, *(1,) * (rank - 2))


def _leaky(attrs: Attributes, x: Array, *gamma: Array) -> Array:
    kind = attrs.get("act_type", "leaky")
    slope = attrs.get("slope", 0.25)
    if kind == "leaky":
        return np.where(x > 0, x, x * slope)
    if kind == "rrelu":
        mean = (attrs.get("lower_bound", 0.125) + attrs.get("upper_bound", 0.334)) / 2
        return np.where(x > 0, x, x * mean)
    if kind == "elu":
        return np.where(x > 0, x, slope * np.expm1(np.minimum(x, 0)))
    if kind == "selu":  # constants of Klambauer et al., Self-Normalizing Neural Networks
        alpha, scale = 1.6732632423543772848170429916717, 1.0507009873554804934193349852946
        return scale * np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0)))
    if kind == "gelu":
        return 0.5 * x * (1 + erf(x / x.dtype.type(np.sqrt(2))))
    return np.where(x > 0, x, x * _slope(gamma[0], x.ndim))


def _hard_sigmoid(attrs: Attributes, x: Array) -> Array:
    # MXNet keeps both as float32 whatever the dtype.
    alpha, beta = (np.float32(attrs.get(*given)) for given in (("alpha", 0.2), ("beta", 0.5)))
    return np.clip(x.dtype.type(alpha) * x + x.dtype.type(beta), 0, 1)


register(
    OpSpec(
        "Activation",
        _activation,
        lambda attrs, x: _FUNCTIONS[attrs["act_type"]](x),
        roundings=4,
        absolute=_of_type(_ABSOLUTE),
        coarse=_of_type(_COARSE),
        exact=lambda attrs: bool(attrs["act_type"] == "relu"),
        nan_blind=True,
    ),
    OpSpec(
        "LeakyReLU",
        _leaky_relu,
        _leaky,
        dtypes=("float32",),  # MXNet's float64 kernels round parts of it to float32
        roundings=4,
        absolute=_of_type(_ABSOLUTE),
        coarse=_of_type(_COARSE),
        nan_blind=True,
    ),
    *(
        OpSpec(
            name,
            like,
            _alone(function),
            roundings=4,
            absolute=_ABSOLUTE.get(name, 0.0),
            coarse=_COARSE.get(name, 0.0),
            exact=_always if name == "relu" else _never,
            nan_blind=name == "relu",
        )
        for name, function in _FUNCTIONS.items()
        if name != "softrelu"
    ),
    OpSpec(
        "hard_sigmoid",
        lambda draw, shape: Application(
            maybe(draw, alpha=st.sampled_from([0.5, 0.1]), beta=st.sampled_from([0.1, 0.0]))
        ),
        _hard_sigmoid,
        nan_blind=True,
    ),
)
