"""Converters of activation functions."""

from __future__ import annotations

from math import sqrt

from mxtrt.convert.ops.registry import Call, converter
from mxtrt.errors import Unsupported

# SELU_ALPHA and SELU_LAMBDA of src/operator/mshadow_op.h.
_SELU_ALPHA = 1.6732632423543772848170429916717
_SELU_LAMBDA = 1.0507009873554804934193349852946

_ACTIVATIONS = {
    "relu": "Relu",
    "sigmoid": "Sigmoid",
    "tanh": "Tanh",
    "softrelu": "Softplus",
    "softsign": "Softsign",
}


@converter("Activation", outputs=1)
def activation(call: Call) -> None:
    """``Relu``, ``Sigmoid``, ``Tanh``, ``Softplus`` or ``Softsign`` (``nn/activation-inl.h``)."""
    call.require_floats()
    kind = call.text("act_type")
    if kind not in _ACTIVATIONS:
        raise Unsupported(f"act_type={kind} is not known")
    call.emit(_ACTIVATIONS[kind], [call.input()], output=call.output())


@converter("LeakyReLU", outputs=1)
def leaky_relu(call: Call) -> None:
    """The six functions of ``leaky_relu-inl.h``.

    rrelu takes the mean of its bounds at inference; gelu is the exact one, with erf.
    """
    call.require_floats()
    kind = call.text("act_type", "leaky")
    data, output = call.input(), call.output()
    if kind == "leaky":
        call.emit("LeakyRelu", [data], output=output, alpha=call.number("slope", 0.25))
    elif kind == "rrelu":
        bounds = call.number("lower_bound", 0.125), call.number("upper_bound", 0.334)
        call.emit("LeakyRelu", [data], output=output, alpha=sum(bounds) / 2)
    elif kind == "elu":
        call.emit("Elu", [data], output=output, alpha=call.number("slope", 0.25))
    elif kind == "selu":
        # Said in full: TensorRT's parser has the shorter defaults of ONNX's first version.
        call.emit("Selu", [data], output=output, alpha=_SELU_ALPHA, gamma=_SELU_LAMBDA)
    elif kind == "gelu":
        _gelu(call)
    elif kind == "prelu":
        call.emit("PRelu", [data, _slope(call)], output=output)
    else:
        raise Unsupported(f"act_type={kind} is not known")


def _gelu(call: Call) -> None:
    """Half of x * (1 + erf(x / sqrt 2)), in the form that ONNX Runtime fuses."""
    scaled = call.emit("Div", [call.input(), call.constant(sqrt(2))])
    shifted = call.emit("Add", [call.emit("Erf", [scaled]), call.constant(1)])
    product = call.emit("Mul", [call.input(), shifted])
    call.emit("Mul", [product, call.constant(0.5)], output=call.output())


def _slope(call: Call) -> str:
    """Name of prelu's gamma, shaped to broadcast over the data.

    MXNet aligns gamma's axes, from the last, with the data's first two axes where the
    sizes match (``expand_shape``): with the channels before the batch.
    """
    data, gamma = call.shape(0), list(call.shape(1))
    target = [1] * len(data)
    for i in range(min(1, len(data) - 1), -1, -1):
        if gamma and gamma[-1] in (data[i], 1):
            target[i] = gamma.pop()
    call.require(not gamma, "a gamma that fits neither the channels nor the batch")
    if len(data) <= 1 or tuple(target) == call.shape(1):
        return call.input(1)
    return call.emit("Reshape", [call.input(1), call.indices(target)])


@converter("relu", outputs=1)
def relu(call: Call) -> None:
    """``Relu``."""
    call.require_floats()
    call.emit("Relu", [call.input()], output=call.output())


@converter("sigmoid", outputs=1)
def sigmoid(call: Call) -> None:
    """``Sigmoid``."""
    call.require_floats()
    call.emit("Sigmoid", [call.input()], output=call.output())


@converter("hard_sigmoid", outputs=1)
def hard_sigmoid(call: Call) -> None:
    """``HardSigmoid``: alpha 0.2 and beta 0.5 by default in both."""
    call.require_floats()
    call.emit(
        "HardSigmoid",
        [call.input()],
        output=call.output(),
        alpha=call.number("alpha", 0.2),
        beta=call.number("beta", 0.5),
    )
