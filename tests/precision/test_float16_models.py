"""Networks whose weights and data are float16 in MXNet: ``net.cast("float16")``."""

from __future__ import annotations

from typing import Any

import mxnet as mx
import numpy as np
import pytest
from mxnet.gluon import nn

import mxtrt


def perceptron() -> Any:
    """Two dense layers with a softmax."""
    net = nn.HybridSequential()
    net.add(nn.Dense(32, activation="relu"), nn.LayerNorm(), nn.Dense(10))
    net.add(nn.HybridLambda(lambda F, x: F.softmax(x)))
    return net


def resnet() -> Any:
    """ResNet-18."""
    return mx.gluon.model_zoo.vision.resnet18_v1()


@pytest.mark.parametrize(
    ("make", "shape"),
    [
        (perceptron, (4, 16)),
        pytest.param(resnet, (1, 3, 64, 64), marks=pytest.mark.slow),
    ],
)
def test_a_network_cast_to_float16_runs(make, shape):
    """Where MXNet has no float16 on a CPU; float16 goes in and comes out."""
    mx.random.seed(0)
    net = make()
    net.initialize(mx.init.MSRAPrelu())
    x = mx.nd.random.normal(shape=shape)
    expected = net(x).asnumpy()
    net.cast("float16")
    with mxtrt.options(engine="onnxruntime"):
        net.hybridize()
        seen = net(x.astype("float16"))
    assert not mxtrt.last_report().left
    assert seen.dtype == np.float16
    assert np.abs(seen.asnumpy() - expected).max() <= 2e-3 * np.abs(expected).max()


@pytest.mark.parametrize(
    ("op", "scalar"), [("_greater_scalar", 0.3), ("_div_scalar", 1e5), ("_rmod_scalar", -1e-9)]
)
def test_scalars_are_rounded_to_float16(op, scalar):
    """As in MXNet: to 0.30005, infinity and zero."""
    symbol = getattr(mx.sym._internal, op)(mx.sym.var("x", dtype="float16"), scalar=scalar)
    x = mx.nd.array([0.3, 0.93, -1.5, 60000], dtype="float16")
    answers = []
    for enabled in (False, True):
        with mxtrt.options(enabled=enabled, engine="onnxruntime", allow_ops="*"):
            (answer,) = symbol.bind(mx.cpu(), {"x": x}, grad_req="null").forward()
        answers.append(answer.asnumpy())
    assert mxtrt.last_report().nodes_in_engine == 1
    np.testing.assert_array_equal(*answers)


def test_float16_between_segments():
    """What a segment hands to MXNet, and MXNet to the next one, is float16."""
    x = mx.sym.var("x", dtype="float16")
    symbol = mx.sym.sqrt(mx.sym.square(mx.sym.abs(mx.sym.tanh(mx.sym.square(x)))))
    value = mx.nd.random.normal(shape=(2, 8), dtype="float32").astype("float16")
    answers = []
    for enabled in (False, True):
        with mxtrt.options(enabled=enabled, engine="onnxruntime", deny_ops="abs"):
            executor = symbol.bind(mx.cpu(), {"x": value}, grad_req="null")
            (answer,) = executor.forward()
            answers.append(answer.asnumpy())
    assert len(mxtrt.last_report().segments) == 2
    assert answers[1].dtype == np.float16
    np.testing.assert_allclose(answers[1], answers[0], rtol=4e-3)


def test_float16_and_float32_side_by_side():
    """A cast in the graph, as automatic mixed precision writes it."""
    x, weight = mx.sym.var("x"), mx.sym.var("weight", dtype="float16", shape=(4, 6))
    dense = mx.sym.FullyConnected(
        mx.sym.Cast(x, dtype="float16"), weight, no_bias=True, num_hidden=4
    )
    symbol = mx.sym.tanh(mx.sym.amp_cast(dense, dtype="float32"))
    arrays = {"x": mx.nd.random.normal(shape=(2, 6)), "weight": mx.nd.random.normal(shape=(4, 6))}
    expected = np.tanh(arrays["x"].asnumpy() @ arrays["weight"].asnumpy().T)
    arrays["weight"] = arrays["weight"].astype("float16")
    with mxtrt.options(engine="onnxruntime"):
        (answer,) = symbol.bind(mx.cpu(), arrays, grad_req="null").forward()
    assert answer.dtype == np.float32
    np.testing.assert_allclose(answer.asnumpy(), expected, atol=2e-3)


@pytest.mark.parametrize("like", [False, True])
def test_mxnet_counts_in_whole_numbers_in_float16(like):
    """Its answer, not a better one: 0, 1, 2 from 0.5 in steps of 1.5."""
    x = mx.sym.var("x")
    line = (
        mx.sym.contrib.arange_like(x, axis=1, start=0.5, step=1.5)
        if like
        else mx.sym.arange(0.5, 5, 1.5, dtype="float16")
    )
    symbol = mx.sym.broadcast_add(mx.sym.exp(x), mx.sym.tanh(line))
    data = mx.nd.array(np.full((2, 3), 0.3), dtype="float16")
    expected = symbol.bind(mx.cpu(), {"x": data}, grad_req="null").forward()[0].asnumpy()
    with mxtrt.options(enabled=True, engine="onnxruntime"):
        seen = symbol.bind(mx.cpu(), {"x": data}, grad_req="null").forward()[0].asnumpy()
    assert np.abs(seen - expected).max() < 0.01
