"""Converters of recurrent layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from mxtrt.convert.ops.registry import Call, converter
from mxtrt.convert.ops.shape import concat
from mxtrt.errors import Unsupported


class _Mode(NamedTuple):
    """A kind of cell in ONNX.

    Attributes:
        op_type: ONNX operator.
        order: MXNet's gates (LSTM: input, forget, cell, output; GRU: reset, update, new) in
            ONNX's order (input, output, forget, cell; update, reset, new).
        activations: Activations of one direction, where ONNX's defaults are others.
    """

    op_type: str
    order: Sequence[int]
    activations: Sequence[str] = ()


_MODES = {
    "lstm": _Mode("LSTM", (0, 3, 1, 2)),
    "gru": _Mode("GRU", (1, 0, 2)),
    "rnn_tanh": _Mode("RNN", (0,), ("Tanh",)),
    "rnn_relu": _Mode("RNN", (0,), ("Relu",)),
}

converter("_rnn_param_concat", "_npi_rnn_param_concat", moves_data_only=True, outputs=1)(concat)


@converter("RNN", "_npx_rnn")
def rnn(call: Call) -> None:
    """One ``LSTM``, ``GRU`` or ``RNN`` for every layer, of one or both directions.

    MXNet packs all parameters in one vector, in cuDNN's layout: the weights of all layers and
    directions, from the input before from the state, then their biases in the same order.
    What takes the vector apart reads weights alone, so that engines compute it when built.
    """
    call.require_floats()
    mode = _MODES.get(call.text("mode"))
    if mode is None:
        raise Unsupported(f"mode={call.text('mode')} is not known")
    for key in ("projection_size", "lstm_state_clip_min", "lstm_state_clip_max"):
        call.require(call.node.attrs.get(key, "None") == "None", f"{key} is set")
    call.require(
        not call.flag("use_sequence_length"),
        "use_sequence_length=True, which MXNet heeds on a GPU only",
    )
    layers = call.integer("num_layers")
    directions = 2 if call.flag("bidirectional") else 1
    states = [_parts(call, call.input(i), layers) for i in range(2, len(call.inputs))]
    attributes = {
        "hidden_size": call.integer("state_size"),
        "direction": "bidirectional" if directions == 2 else "forward",
        "activations": list(mode.activations) * directions or None,
        "linear_before_reset": 1 if mode.op_type == "GRU" else None,
    }
    data = call.input()
    finals: list[list[str]] = [[] for _ in states]
    for layer, operands in enumerate(_operands(call, mode, layers, directions)):
        names = [call.fresh("sequence"), *(call.fresh("state") for _ in states)]
        initial = [state[layer] for state in states]
        call.emit_many(mode.op_type, [data, *operands, "", *initial], names, **attributes)
        output = call.output() if layer == layers - 1 else None
        data = _joined(call, names[0], directions, output)
        for final, name in zip(finals, names[1:], strict=True):
            final.append(name)
    if call.flag("state_outputs"):
        for index, final in enumerate(finals):
            op_type, axis = ("Identity", None) if layers == 1 else ("Concat", 0)
            call.emit(op_type, final, output=call.output(index + 1), axis=axis)


def _parts(call: Call, name: str, count: int) -> list[str]:
    """A tensor in equal parts of its first axis."""
    if count == 1:
        return [name]
    parts = [call.fresh("part") for _ in range(count)]
    call.emit_many("Split", [name], parts, axis=0)
    return parts


def _joined(call: Call, sequence: str, directions: int, output: str | None) -> str:
    """ONNX's (length, directions, batch, size) as MXNet's (length, batch, directions * size)."""
    if directions == 1:
        return call.emit("Squeeze", [sequence, call.indices([1])], output=output)
    features = directions * call.integer("state_size")
    turned = call.emit("Transpose", [sequence], perm=[0, 2, 1, 3])
    return call.emit("Reshape", [turned, call.indices([0, 0, features])], output=output)


def _operands(call: Call, mode: _Mode, layers: int, directions: int) -> list[list[str]]:
    """ONNX's W, R and B of every layer."""
    size, gates = call.integer("state_size"), len(mode.order)
    inputs = [call.shape()[2]] + [directions * size] * (layers - 1)
    kinds = [features for before in inputs for features in (before, size) * directions]
    sizes = [gates * size * features for features in kinds]
    sizes += [directions * 2 * gates * size] * layers
    call.require(call.shape(1) == (sum(sizes),), f"parameters of shape {call.shape(1)}")
    names = [call.fresh("parameter") for _ in sizes]
    call.emit_many("Split", [call.input(1), call.indices(sizes)], names, axis=0)
    weights, biases = names[: len(kinds)], names[len(kinds) :]
    rows = gates * size
    found = []
    for layer, features in enumerate(inputs):
        own = weights[2 * directions * layer : 2 * directions * (layer + 1)]
        shapes = [directions, rows, features], [directions, rows, size], [directions, 2 * rows]
        pieces = own[0::2], own[1::2], [biases[layer]]
        found.append([_reordered(call, mode, *each) for each in zip(pieces, shapes, strict=True)])
    return found


def _reordered(call: Call, mode: _Mode, pieces: Sequence[str], shape: Sequence[int]) -> str:
    """Parameters of a layer, those of both directions joined, with the gates in ONNX's order."""
    whole = pieces[0] if len(pieces) == 1 else call.emit("Concat", pieces, axis=0)
    gates = len(mode.order)
    if gates > 1:
        blocks = shape[0] * shape[1] // (gates * call.integer("state_size"))
        split = call.emit("Reshape", [whole, call.indices([blocks, gates, -1])])
        whole = call.emit("Gather", [split, call.indices(mode.order)], axis=1)
    return call.emit("Reshape", [whole, call.indices(shape)])
