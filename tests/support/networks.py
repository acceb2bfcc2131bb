"""Small networks and the comparison that most tests use."""

from __future__ import annotations

from typing import Any

import mxnet as mx
import numpy as np

import mxtrt

#: The networks of ``mxnet.gluon.model_zoo.vision``.
ZOO = (
    ["alexnet", "inceptionv3", "squeezenet1.0", "squeezenet1.1"]
    + [f"densenet{depth}" for depth in (121, 161, 169, 201)]
    + [f"mobilenet{width}" for width in ("0.25", "0.5", "0.75", "1.0")]
    + [f"mobilenetv2_{width}" for width in ("0.25", "0.5", "0.75", "1.0")]
    + [f"resnet{depth}_v{version}" for depth in (18, 34, 50, 101, 152) for version in (1, 2)]
    + [f"vgg{depth}{norm}" for depth in (11, 13, 16, 19) for norm in ("", "_bn")]
)


def classifier() -> mx.sym.Symbol:
    """Convolution, BatchNorm, relu, pooling, dense and SoftmaxOutput: a Module-style network."""
    data = mx.sym.var("data")
    conv = mx.sym.Convolution(data, num_filter=8, kernel=(3, 3), pad=(1, 1), name="conv")
    norm = mx.sym.BatchNorm(conv, fix_gamma=False, name="norm")
    relu = mx.sym.Activation(norm, act_type="relu", name="relu")
    pool = mx.sym.Pooling(relu, kernel=(2, 2), stride=(2, 2), pool_type="max", name="pool")
    dense = mx.sym.FullyConnected(mx.sym.Flatten(pool), num_hidden=10, name="dense")
    return mx.sym.SoftmaxOutput(dense, name="softmax")


def mixed() -> mx.sym.Symbol:
    """Two convolutions around an operator that no engine takes."""
    data = mx.sym.var("data")
    first = mx.sym.Convolution(data, num_filter=4, kernel=(3, 3), pad=(1, 1), name="first")
    middle = mx.sym.round(mx.sym.relu(first), name="middle")
    second = mx.sym.Convolution(middle, num_filter=4, kernel=(3, 3), pad=(1, 1), name="second")
    return mx.sym.Group([mx.sym.relu(second), middle])


def parameters(symbol: mx.sym.Symbol, seed: int = 0, **shapes: Any) -> tuple[dict, dict]:
    """Random arguments (data left out) and auxiliary states of a symbol."""
    random = np.random.RandomState(seed)
    arg_shapes, _, aux_shapes = symbol.infer_shape(**shapes)
    args = {
        name: mx.nd.array(random.uniform(-0.5, 0.5, shape))
        for name, shape in zip(symbol.list_arguments(), arg_shapes, strict=True)
        if name not in shapes and not name.endswith("label")
    }
    aux = {
        name: mx.nd.array(random.uniform(0.5, 1.5, shape))
        for name, shape in zip(symbol.list_auxiliary_states(), aux_shapes, strict=True)
    }
    return args, aux


def images(batch: int = 2, seed: int = 1, size: int = 16) -> mx.nd.NDArray:
    """A batch of random pictures, ``(batch, 3, size, size)`` float32."""
    return mx.nd.array(np.random.RandomState(seed).uniform(-1, 1, (batch, 3, size, size)))


def plain(symbol: mx.sym.Symbol, args: dict, aux: dict, **data: mx.nd.NDArray) -> list[np.ndarray]:
    """Outputs of a symbol in plain MXNet, from a fresh executor."""
    shapes = {name: array.shape for name, array in data.items()}
    with mxtrt.options(enabled=False):  # whatever the caller has switched on
        executor = symbol.simple_bind(mx.cpu(), grad_req="null", **shapes)
    assert type(executor) is mx.executor.Executor
    executor.copy_params_from(args, aux, allow_extra_params=True)
    return [out.asnumpy() for out in executor.forward(is_train=False, **data)]


def assert_close(seen: Any, expected: Any, tolerance: float = 1e-5) -> None:
    """Largest difference at most ``tolerance`` of the largest expected value."""
    seen = seen.asnumpy() if hasattr(seen, "asnumpy") else np.asarray(seen)
    expected = expected.asnumpy() if hasattr(expected, "asnumpy") else np.asarray(expected)
    assert seen.shape == expected.shape
    scale = max(float(np.abs(expected).max()), 1e-30)
    assert float(np.abs(seen - expected).max()) / scale <= tolerance
