"""Converters of softmax and of the output layers, whose label is ignored at inference."""

from __future__ import annotations

from mxtrt.convert.ops.registry import FLOATS, NUMBERS, Call, converter
from mxtrt.convert.ops.sequence import valid


def _finish(call: Call, op_type: str, data: str, axis: int) -> None:
    """Softmax into the node's output.

    Of an axis of size one it is one, and NaN of what is not finite; ONNX Runtime's int8 kernel
    (``QLinearSoftmax``) says zero.  Several axes behind it become one: ONNX Runtime moves it to the
    end, which takes a sixth of the time with one axis to go round.
    """
    if op_type == "Softmax" and call.shape()[axis] == 1:
        zeros = call.emit("Sub", [data, data])
        call.emit("Exp", [zeros], output=call.output())
    elif axis < call.rank() - 2:
        flat = call.emit("Reshape", [data, call.indices([0] * (axis + 1) + [-1])])
        shares = call.emit(op_type, [flat], axis=axis)
        call.emit("Reshape", [shares, call.emit("Shape", [data])], output=call.output())
    else:
        call.emit(op_type, [data], output=call.output(), axis=axis)


def _softmax(call: Call, op_type: str, data: str) -> None:
    """Softmax of ``data / temperature`` along ``axis`` (``nn/softmax-inl.h``).

    With ``use_length`` it is over the elements before each length, and the others are zero.
    """
    for tensor in (call.inputs[0], *call.outputs):
        call.require_dtype(tensor, FLOATS)
    temperature, axis = call.number("temperature", 1.0), call.axis("axis", -1)
    call.require(temperature != 0, "temperature=0")
    if temperature != 1:
        data = call.emit("Div", [data, call.constant(temperature)])
    if not call.flag("use_length"):
        _finish(call, op_type, data, axis)
        return
    call.require(len(call.inputs) == 2, f"{len(call.inputs)} inputs, not 2")
    call.require(call.dtype(1) not in FLOATS, f"lengths of dtype {call.dtype(1)}")
    mask = valid(call, 1, axis, [axis] if call.rank() > 1 else [])
    masked = call.emit("Where", [mask, data, call.constant(float("-inf"))])
    shares = call.emit(op_type, [masked], axis=axis)
    # Where a length is zero the softmax is not a number.
    call.emit("Where", [mask, shares, call.constant(0)], output=call.output())


@converter("softmax", "_npx_softmax", outputs=1)
def softmax(call: Call) -> None:
    """``Softmax`` along one axis, the last by default."""
    _softmax(call, "Softmax", call.input())


@converter("log_softmax", "_npx_log_softmax", outputs=1)
def log_softmax(call: Call) -> None:
    """``LogSoftmax`` along one axis, the last by default."""
    _softmax(call, "LogSoftmax", call.input())


@converter("softmin", outputs=1)
def softmin(call: Call) -> None:
    """``Softmax`` of the negated input."""
    _softmax(call, "Softmax", call.emit("Neg", [call.input()]))


@converter("SoftmaxActivation", outputs=1)
def softmax_activation(call: Call) -> None:
    """``Softmax`` over the channels, or with mode=instance over the last axis.

    MXNet's documentation says that the latter takes the whole instance; its code flattens
    every axis but the last (``softmax_activation-inl.h``).
    """
    call.require_floats()
    mode, rank = call.text("mode", "instance"), call.rank()
    call.require(mode in ("instance", "channel"), f"mode={mode} is not known")
    call.require(mode == "instance" or rank >= 3, f"mode=channel on rank {rank}")
    axis = 1 if mode == "channel" else rank - 1
    _finish(call, "Softmax", call.input(), axis)


@converter("SoftmaxOutput", "Softmax", outputs=1)
def softmax_output(call: Call) -> None:
    """``Softmax`` of the data; the label matters in training only.

    Without multi_output and preserve_shape, MXNet's own kernel works on the flattened
    instance but oneDNN on the last axis (``mkldnn_softmax_output.cc``), depending on the
    rank: such tensors stay in MXNet.
    """
    call.require_floats()
    rank = call.rank()
    call.require(rank >= 2, "a tensor of rank 1")
    if call.flag("multi_output"):
        axis = 1
    else:
        call.require(
            rank == 2 or call.flag("preserve_shape"),
            "neither multi_output nor preserve_shape on more than two axes",
        )
        axis = rank - 1
    _finish(call, "Softmax", call.input(), axis)


@converter("LogisticRegressionOutput", outputs=1)
def logistic_regression_output(call: Call) -> None:
    """``Sigmoid`` of the data; the label matters in training only."""
    call.require_floats()
    call.emit("Sigmoid", [call.input()], output=call.output())


@converter(
    "LinearRegressionOutput",
    "MAERegressionOutput",
    "SVMOutput",
    "IdentityAttachKLSparseReg",
    "MakeLoss",
    "make_loss",
    moves_data_only=True,
    outputs=1,
)
def regression_output(call: Call) -> None:
    """``Identity`` of the data; the label and the loss matter in training only."""
    for tensor in (call.inputs[0], *call.outputs):
        call.require_dtype(tensor, NUMBERS)
    call.emit("Identity", [call.input()], output=call.output())
