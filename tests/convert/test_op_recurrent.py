"""Recurrent layers compute what MXNet computes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from support.converters import Converted, check, data, mx, refusal, symbol

_GATES = {"lstm": 4, "gru": 3, "rnn_tanh": 1, "rnn_relu": 1}


def _rnn(mode: str, layers: int = 1, batch: int = 3, **attrs: Any) -> tuple[Any, dict[str, Any]]:
    """A symbol over seven steps of five features, and its arguments."""
    directions = 2 if attrs.get("bidirectional") else 1
    size, rows = 4, _GATES[mode] * 4
    inputs = [5] + [directions * size] * (layers - 1)
    count = sum(directions * rows * (features + size + 2) for features in inputs)
    arrays = {"x": data(0, 7, batch, 5), "p": data(1, count, low=-0.5, high=0.5)}
    arrays |= {name: data(2, layers * directions, batch, size) for name in "hc"[: 1 + (rows == 16)]}
    given = {"mode": mode, "state_size": size, "num_layers": layers} | attrs
    return symbol("RNN", *map(mx.sym.var, arrays), **given), arrays


def _check(mode: str, layers: int = 1, **attrs: Any) -> Converted:
    sym, arrays = _rnn(mode, layers, **attrs)
    return check(sym, arrays, [name for name in arrays if name != "p"])


@pytest.mark.parametrize("mode", sorted(_GATES))
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parametrize("state_outputs", [False, True])
def test_rnn_agrees(mode: str, bidirectional: bool, layers: int, state_outputs: bool) -> None:
    """Sequences, last states and last cells; nothing is dropped between layers."""
    attrs = {"bidirectional": bidirectional, "state_outputs": state_outputs, "p": 0.5}
    converted = _check(mode, layers, **attrs)
    assert sum(op in ("LSTM", "GRU", "RNN") for op in converted.ops) == layers


def test_gru_applies_the_reset_gate_after_the_product() -> None:
    """As cuDNN does; large biases of the state show the difference."""
    sym, arrays = _rnn("gru")
    arrays["p"][-12:] = 3
    check(sym, arrays, "xh")


@pytest.mark.parametrize("mode", sorted(_GATES))
def test_the_model_does_not_depend_on_length_or_batch(mode: str) -> None:
    """One engine serves all."""
    bodies = set()
    for batch in (1, 4):
        sym, arrays = _rnn(mode, 2, batch, bidirectional=True, state_outputs=True)
        arrays["x"] = arrays["x"][:batch]
        names = [name for name in arrays if name != "p"]
        bodies.add(check(sym, arrays, names).body)
    assert len(bodies) == 1


@pytest.mark.parametrize("given", [False, True])
def test_parameters_may_be_packed_in_the_symbol(given: bool) -> None:
    """As Gluon's layers do it, from weights or from data."""
    sizes = {"i": (16, 5), "j": (16, 4), "k": (16,), "l": (16,)}
    flat = [symbol("Reshape", mx.sym.var(n), name=f"{n}_flat", shape=-1) for n in sizes]
    packed = symbol("_rnn_param_concat", *flat, name="packed", num_args=4, dim=0)
    states = mx.sym.var("h"), mx.sym.var("c")
    attrs = {"mode": "lstm", "state_size": 4, "num_layers": 1}
    sym = symbol("RNN", mx.sym.var("x"), packed, *states, **attrs)
    arrays = {"x": data(0, 7, 2, 5), "h": data(1, 1, 2, 4), "c": data(2, 1, 2, 4)}
    arrays |= {name: data(3, *shape) for name, shape in sizes.items()}
    check(sym, arrays, list(arrays) if given else "xhc")


@pytest.mark.parametrize(
    ("reason", "attrs"),
    [
        (
            "use_sequence_length=True, which MXNet heeds on a GPU only",
            {"use_sequence_length": True},
        ),
        ("projection_size is set", {"projection_size": 2}),
        ("lstm_state_clip_min is set", {"lstm_state_clip_min": -1, "lstm_state_clip_max": 1}),
        ("mode=sru is not known", {"mode": "sru"}),
        ("parameters of shape (99,)", {}),
    ],
)
def test_layers_that_would_differ_are_refused(reason: str, attrs: dict[str, Any]) -> None:
    """The message says why."""
    given = {"mode": "lstm", "state_size": 4, "num_layers": 1} | attrs
    shapes = (7, 3, 5), (99,), (1, 3, 4), (1, 3, 4)
    assert refusal("RNN", *shapes, out=(7, 3, 4), **given) == reason


def test_infinite_inputs_saturate_the_gates() -> None:
    """Where nothing cancels, both are finite."""
    sym, arrays = _rnn("lstm")
    arrays["p"] = np.abs(arrays["p"])
    arrays["x"][2] = np.inf
    check(sym, arrays, "xhc")
