"""Activation functions compute what MXNet computes."""

from __future__ import annotations

from typing import Any

import pytest
from support.converters import check, check_op, data, mx, refusal, symbol

WIDE = {"low": -30.0, "high": 30.0}


@pytest.mark.parametrize("kind", ["relu", "sigmoid", "tanh", "softrelu", "softsign"])
@pytest.mark.parametrize("shape", [(7,), (2, 3, 4), (1, 2, 3, 2, 2, 2)])
def test_activation_agrees(kind: str, shape: tuple[int, ...]) -> None:
    """Every function, over the range where it saturates; oneDNN runs up to five axes."""
    sym = symbol("Activation", mx.sym.var("x"), act_type=kind)
    check(sym, {"x": data(0, *shape, **WIDE)})


@pytest.mark.parametrize(
    "attrs",
    [
        {},
        {"act_type": "leaky", "slope": 0.1},
        {"act_type": "elu"},
        {"act_type": "elu", "slope": 1.5},
        {"act_type": "selu"},
        {"act_type": "gelu"},
        {"act_type": "rrelu"},
        {"act_type": "rrelu", "lower_bound": 0.2, "upper_bound": 0.8},
    ],
)
@pytest.mark.parametrize("shape", [(2, 3, 4), (2, 3, 2, 2, 2, 2)])
def test_leaky_relu_agrees(attrs: dict[str, Any], shape: tuple[int, ...]) -> None:
    """Every function; rrelu takes the mean of its bounds."""
    check(symbol("LeakyReLU", mx.sym.var("x"), **attrs)[0], {"x": data(0, *shape)})


@pytest.mark.parametrize(
    ("shape", "gamma"),
    [
        ((2, 3, 4, 5), (3,)),
        ((2, 3, 4, 5), (1,)),
        ((2, 3), (3,)),
        ((5,), (5,)),
        ((5,), (1,)),
        ((3, 4, 2), (3,)),
        ((2, 3, 4), (2, 3)),
        ((2, 3, 4), (1, 3)),
        ((3, 3, 3), (3,)),
    ],
)
def test_prelu_broadcasts_gamma_over_channels_before_batch(
    shape: tuple[int, ...], gamma: tuple[int, ...]
) -> None:
    """MXNet aligns gamma with the second axis, and with the first where that does not fit."""
    check_op("LeakyReLU", shape, gamma, act_type="prelu")


@pytest.mark.parametrize(
    ("op", "attrs"),
    [
        ("relu", {}),
        ("sigmoid", {}),
        ("softsign", {}),
        ("hard_sigmoid", {}),
        ("hard_sigmoid", {"alpha": 0.5, "beta": 0.1}),
    ],
)
def test_functions_of_their_own_agree(op: str, attrs: dict[str, Any]) -> None:
    """The operators that gluon emits directly."""
    check_op(op, (3, 4, 5), **attrs)


def test_functions_that_are_not_known_are_refused() -> None:
    """The message names the attribute."""
    assert refusal("Activation", (2,), act_type="mish") == "act_type=mish is not known"
    assert refusal("Activation", (2,)) == "attribute act_type is missing"
    assert refusal("LeakyReLU", (2,), act_type="swish") == "act_type=swish is not known"
    assert "fits neither" in refusal("LeakyReLU", (2, 3), (4,), act_type="prelu")
