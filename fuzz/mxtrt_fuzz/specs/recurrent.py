"""Recurrent layers."""

from __future__ import annotations

from collections.abc import Iterator
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
    maybe,
    ranks,
    register,
)
from mxtrt_fuzz.values import Array

_GATES = {"lstm": 4, "gru": 3, "rnn_tanh": 1, "rnn_relu": 1}


def _sigmoid(x: Array) -> Array:
    y: Array = 1 / (1 + np.exp(-x))
    return y


def _step(mode: str, x: Array, h: Array, c: Array) -> tuple[Array, Array]:
    """The next state and cell, from what the input and the state give for every gate."""
    gates = _GATES[mode]
    xs, hs = np.split(x, gates, -1), np.split(h, gates, -1)
    if mode == "lstm":
        i, f, g, o = (a + b for a, b in zip(xs, hs, strict=True))
        cell = _sigmoid(f) * c + _sigmoid(i) * np.tanh(g)
        return _sigmoid(o) * np.tanh(cell), cell
    if mode == "gru":  # here c is the state before
        r, z = (_sigmoid(a + b) for a, b in zip(xs[:2], hs[:2], strict=True))
        return (1 - z) * np.tanh(xs[2] + r * hs[2]) + z * c, c
    total = x + h
    return (np.tanh(total) if mode == "rnn_tanh" else np.maximum(total, 0)), c


def _layer(mode: str, x: Array, weights: list[Array], h: Array, c: Array) -> list[Array]:
    """One layer in one direction: the sequence, the last state and the last cell."""
    own, state, bias, state_bias = weights
    sequence = []
    for moment in x @ own.T + bias:
        h, c = _step(mode, moment, h @ state.T + state_bias, h if mode == "gru" else c)
        sequence.append(h)
    return [np.stack(sequence), h, c]


def _shapes(attrs: Attributes, features: int) -> Iterator[Shape]:
    """Shapes of the packed parameters: all weights, then all biases."""
    size, rows = attrs["state_size"], _GATES[attrs["mode"]] * attrs["state_size"]
    directions = 2 if attrs.get("bidirectional", False) else 1
    for layer in range(attrs["num_layers"]):
        yield from [
            (rows, features if layer == 0 else directions * size),
            (rows, size),
        ] * directions
    yield from [(rows,)] * (2 * directions * attrs["num_layers"])


def _unpacked(attrs: Attributes, features: int, parameters: Array) -> list[Array]:
    found, place = [], 0
    for shape in _shapes(attrs, features):
        size = int(np.prod(shape))
        found.append(parameters[place : place + size].reshape(shape))
        place += size
    return found


def _rnn(attrs: Attributes, x: Array, parameters: Array, *states: Array) -> tuple[Array, ...]:
    mode, directions = attrs["mode"], 2 if attrs.get("bidirectional", False) else 1
    pieces = _unpacked(attrs, x.shape[2], parameters)
    half = len(pieces) // 2
    h, c = states[0], states[-1]
    last = []
    for layer in range(attrs["num_layers"]):
        runs = []
        for direction in range(directions):
            k = layer * directions + direction
            own = [*pieces[2 * k : 2 * k + 2], *pieces[half + 2 * k : half + 2 * k + 2]]
            step = -1 if direction else 1
            run = _layer(mode, x[::step], own, h[k], c[k])
            runs.append([run[0][::step], *run[1:]])
        x = np.concatenate([run[0] for run in runs], -1)
        last += runs
    if not attrs.get("state_outputs", False):
        return (x,)
    return x, *(np.stack([run[1 + i] for run in last]) for i in range(len(states)))


def _draw_rnn(draw: Draw, shape: Shape) -> Application:
    size, layers = draw(st.integers(1, 4)), draw(st.integers(1, 2))
    attrs: dict[str, Any] = {"mode": draw(st.sampled_from(sorted(_GATES)))}
    attrs |= {"state_size": size, "num_layers": layers}
    attrs |= maybe(draw, bidirectional=st.booleans(), state_outputs=st.booleans(), p=st.just(0.5))
    read = Attributes([(key, str(value)) for key, value in attrs.items()])
    count = sum(int(np.prod(each)) for each in _shapes(read, shape[2]))
    state = Operand(
        (layers * (1 + attrs.get("bidirectional", False)), shape[1], size), low=-1, high=1
    )
    states = [state] * (2 if attrs["mode"] == "lstm" else 1)
    return Application(attrs, (Operand((count,), "weight", -0.5, 0.5), *states))


def _draw_param_concat(draw: Draw, shape: Shape) -> Application:
    others = draw(st.lists(st.integers(1, 4), max_size=2))
    operands = tuple(Operand((size,), "weight") for size in others)
    return Application({"num_args": len(others) + 1, "dim": 0}, operands)


register(
    *(
        OpSpec(
            name,
            _draw_rnn,
            _rnn,
            ranks(3),
            dtypes=("float32",),
            roundings=8,  # an error of one step is carried through all that follow
            absolute=8,
            coarse=28,
            gates=True,
            nan_blind=True,  # oneDNN's relu of a NaN is 0
        )
        for name in ("RNN", "_npx_rnn")
    ),
    *(
        OpSpec(
            name,
            _draw_param_concat,
            lambda attrs, *arrays: np.concatenate(arrays),
            ranks(1),
            roundings=0,
        )
        for name in ("_rnn_param_concat", "_npi_rnn_param_concat")
    ),
)
