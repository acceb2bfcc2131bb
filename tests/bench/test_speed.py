"""Speed against plain MXNet and bare ONNX Runtime: figures to read, no timing passes or fails."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mxnet as mx
import numpy as np
import onnx
import pytest
from mxnet.gluon.model_zoo import vision
from onnx import numpy_helper
from support.segments import segments_of

import mxtrt
from mxtrt.timing.measure import bootstrap_ratio, interleave

pytestmark = pytest.mark.slow

X = mx.nd.random.uniform(shape=(1, 16))


def mlp() -> mx.sym.Symbol:
    """Two dense layers, 16 -> 32 -> 10: next to no arithmetic."""
    hidden = mx.sym.FullyConnected(mx.sym.var("data"), num_hidden=32, name="one")
    return mx.sym.FullyConnected(mx.sym.relu(hidden), num_hidden=10, name="two")


def weights(symbol: mx.sym.Symbol) -> dict[str, mx.nd.NDArray]:
    """Random parameters of the MLP."""
    shapes = dict(zip(symbol.list_arguments(), symbol.infer_shape(data=X.shape)[0], strict=True))
    return {n: mx.nd.random.uniform(shape=s) for n, s in shapes.items() if n != "data"}


def bare() -> Callable[[], Any]:
    """The same segment in a plain ONNX Runtime session, called from Python."""
    import onnxruntime

    symbol = mlp()
    model = onnx.load_from_string(segments_of(symbol, {"data": X.shape})[0].model)
    values = weights(symbol)
    for tensor in model.graph.initializer:
        if tensor.name in values:
            array = numpy_helper.from_array(values[tensor.name].asnumpy(), tensor.name)
            tensor.CopyFrom(array)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    names, feed = [session.get_outputs()[0].name], {"data": X.asnumpy()}
    return lambda: session.run(names, feed)


def executor(**options: Any) -> Callable[[], Any]:
    """simple_bind, then forward and wait."""
    symbol = mlp()
    with mxtrt.options(**options):
        bound = symbol.simple_bind(mx.cpu(), grad_req="null", data=X.shape)
    bound.copy_params_from(weights(symbol))
    bound.forward(data=X)
    return lambda: bound.forward()[0].wait_to_read()


def gluon(**options: Any) -> Callable[[], Any]:
    """A hybridized block with static memory, called and waited for."""
    symbol = mlp()
    net = mx.gluon.SymbolBlock(symbol, mx.sym.var("data"))
    net.initialize()
    for name, value in weights(symbol).items():
        net.collect_params()[name].set_data(value)
    net.hybridize(static_alloc=True, static_shape=True)
    with mxtrt.options(**options):
        net(X)
    return lambda: net(X).wait_to_read()


CALLS = {
    "bare ONNX Runtime": bare,
    "mxtrt executor": executor,
    "mxtrt Gluon": gluon,
    "mxtrt executor, through MXNet's engine": lambda: executor(inline_below=0),
    "mxtrt Gluon, through MXNet's engine": lambda: gluon(inline_below=0),
    "plain executor": lambda: executor(enabled=False),
    "plain Gluon": lambda: gluon(enabled=False),
}


@pytest.mark.parametrize("name", CALLS)
def test_cost_of_a_forward_of_a_tiny_mlp(benchmark: Any, name: str) -> None:
    """Everything but arithmetic: compare the medians."""
    benchmark.group = "forward of a tiny MLP"
    benchmark(CALLS[name]())


@pytest.mark.parametrize("name", ["resnet18_v1", "resnet152_v1"])
def test_time_to_partition_and_convert(benchmark: Any, name: str) -> None:
    """From symbol to ONNX, nothing built."""
    symbol = vision.get_model(name)(mx.sym.var("data"))
    benchmark.group = "partition and convert"
    benchmark(lambda: mxtrt.inspect(symbol, {"data": (1, 3, 224, 224)}))


@pytest.mark.parametrize("batch", [1, 4])
@pytest.mark.parametrize("name", ["resnet18_v1", "mobilenet1.0", "squeezenet1.0", "resnet50_v1"])
def test_speed_up_over_plain_mxnet(name: str, batch: int, table: Callable[..., None]) -> None:
    """Both hybridized with static memory, in turn (ABBA), all cores."""
    x = mx.nd.random.uniform(shape=(batch, 3, 224, 224))

    def call(enabled: bool) -> Callable[[], None]:
        mx.random.seed(0)
        net = vision.get_model(name)
        net.collect_params().setattr("grad_req", "null")
        net.initialize(mx.init.MSRAPrelu(slope=0.0))
        net.hybridize(static_alloc=True, static_shape=True)
        with mxtrt.options(enabled=enabled):
            net(x).wait_to_read()
        return lambda: net(x).wait_to_read()

    pairs = interleave(call(False), call(True), seconds=8)
    ratio, low, high = bootstrap_ratio(pairs)
    plain, ours = np.median(pairs, axis=0) * 1e3
    table(
        "speed-up over plain MXNet",
        network=name,
        batch=batch,
        plain=f"{plain:.1f} ms",
        mxtrt=f"{ours:.1f} ms",
        ratio=f"{ratio:.2f}x",
        interval=f"{low:.2f} to {high:.2f}",
        pairs=len(pairs),
    )
