"""TensorRT behind graphs whose arrays are in host memory (mx.cpu())."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable

import mxnet as mx
import numpy as np
import pytest
from support.networks import assert_close, classifier, images, mixed, parameters, plain
from support.zoo import network

import mxtrt
from mxtrt.engines.tensorrt import tensorrt
from mxtrt.errors import EngineError
from mxtrt.node import library

X = images()


def test_auto_takes_tensorrt_where_a_gpu_answers():
    """The report names the engine in use."""
    with mxtrt.options(engine="auto"):
        classifier().simple_bind(mx.cpu(), grad_req="null", data=X.shape)
    assert mxtrt.last_report().engine.startswith("tensorrt ")


@pytest.mark.parametrize("symbol", [classifier(), mixed()])
def test_executors_agree_with_plain_mxnet(symbol):
    """Also with what stays in MXNet between two engines, and with weights set again."""
    with mxtrt.options():
        executor = symbol.simple_bind(mx.cpu(), grad_req="null", data=X.shape)
    for seed in range(2):
        args, aux = parameters(symbol, seed=seed, data=X.shape)
        executor.copy_params_from(args, aux)
        for x in (X, images(seed=seed + 5)):
            expected = plain(symbol, args, aux, data=x)
            for one, two in zip(executor.forward(data=x), expected, strict=True):
                assert_close(one, two)


def test_a_second_batch_size_gets_an_engine_of_its_own():
    """Shapes that were seen before do not build again."""
    symbol = classifier()
    args, aux = parameters(symbol, data=X.shape)
    net = mx.gluon.SymbolBlock(symbol, [mx.sym.var("data"), mx.sym.var("softmax_label")])
    for name, value in {**args, **aux}.items():
        net.collect_params()[name]._load_init(value, mx.cpu())
    net.hybridize()
    with mxtrt.options():
        for batch in (2, 5, 2, 5):
            x = images(batch)
            expected = plain(symbol, args, aux, data=x)[0]
            assert_close(net(x, mx.nd.zeros((batch,))), expected)
            built = mxtrt.last_report().build_seconds
        net(X, mx.nd.zeros((2,)))
        assert mxtrt.last_report().build_seconds == built


def test_a_warm_cache_makes_the_second_bind_quick(table: Callable[..., None]):
    """The engine is read, not built."""
    symbol = classifier()
    args, aux = parameters(symbol, seed=11, data=X.shape)
    seconds = []
    for _ in range(2):
        with mxtrt.options():
            executor = symbol.simple_bind(mx.cpu(), grad_req="null", data=X.shape)
        executor.copy_params_from(args, aux)
        begin = time.perf_counter()
        executor.forward(data=X)[0].wait_to_read()
        seconds.append(time.perf_counter() - begin)
    table("engine cache", cold=f"{seconds[0]:.2f} s", warm=f"{seconds[1]:.2f} s")
    assert seconds[1] < seconds[0]


def test_an_engine_that_does_not_build_leaves_the_graph_to_mxnet(monkeypatch):
    """A warning with TensorRT's own words; the answer is MXNet's."""
    symbol = classifier()
    args, aux = parameters(symbol, seed=99, data=X.shape)

    def refuse(*_: object) -> None:
        raise EngineError("TensorRT's parser: no such operator")

    monkeypatch.setattr("mxtrt.engines.tensorrt.process.BuilderProcess.build", refuse)
    with mxtrt.options(cache_size=0):
        executor = symbol.simple_bind(mx.cpu(), grad_req="null", data=X.shape)
    executor.copy_params_from(args, aux)
    with pytest.warns(mxtrt.MxtrtWarning, match="TensorRT's parser: no such operator"):
        assert_close(executor.forward(data=X)[0], plain(symbol, args, aux, data=X)[0])


def test_an_engine_with_a_plugin_is_loaded_from_the_cache(caplog):
    """ROIAlign is one: a process that never had a parser knows it too."""
    symbol = mx.sym.contrib.ROIAlign(
        mx.sym.var("data"), mx.sym.var("rois"), pooled_size=(3, 3), spatial_scale=1.0
    )
    values = {
        "data": mx.nd.random.uniform(shape=(1, 2, 8, 8)),
        "rois": mx.nd.array([[0, 1, 1, 6, 5]]),
    }
    expected = symbol.bind(mx.cpu(), values, grad_req="null").forward()[0].asnumpy()
    for _ in range(2):
        with mxtrt.options():
            executor = symbol.bind(mx.cpu(), values, grad_req="null")
        assert_close(executor.forward()[0], expected)
        assert mxtrt.last_report().left == []
    assert "does not load" not in caplog.text


@pytest.mark.alone
def test_engines_give_their_memory_back():
    """Binding and dropping leaves the GPU's memory as it was."""

    def free() -> int:
        gc.collect()
        mx.nd.waitall()
        tensorrt().builder.stop()  # what it holds on the GPU is not ours
        return library().cuda.memory().free

    symbol = classifier()
    args, aux = parameters(symbol, data=(16, 3, 64, 64))
    x = images(16, size=64)
    seen = []
    for _ in range(6):
        with mxtrt.options():
            executor = symbol.simple_bind(mx.cpu(), grad_req="null", data=x.shape)
        executor.copy_params_from(args, aux)
        executor.forward(data=x)[0].wait_to_read()
        del executor
        seen.append(free())
    assert seen[-1] >= seen[1] - (4 << 20)
    assert library().cuda._engines == {}
    assert library().cuda.memory().scratch == 0


@pytest.mark.parametrize(
    "name",
    [
        "resnet18_v1",
        "mobilenetv2_0.25",
        "squeezenet1.1",
        *[
            pytest.param(name, marks=pytest.mark.slow)
            for name in ("resnet50_v1", "densenet121", "inceptionv3", "mobilenet1.0", "vgg16")
        ],
    ],
)
@pytest.mark.parametrize("precision", ["fp32", "tf32"])
def test_zoo_networks_agree_with_plain_mxnet(
    name: str, precision: str, table: Callable[..., None]
) -> None:
    """fp32 to rounding; TF32 within what ten bits of the factors allow."""
    size = 299 if name == "inceptionv3" else 224
    four = mx.nd.random.uniform(-1, 1, shape=(4, 3, size, size))
    net, x = network(name, four), four[:1].copy()
    net.hybridize(static_alloc=True, static_shape=True)
    expected = net(x).asnumpy()
    net.hybridize(static_alloc=True, static_shape=True)
    with mxtrt.options(precision=precision):
        ours = net(x).asnumpy()
    times = []
    for _ in range(200):
        begin = time.perf_counter()
        net(x).wait_to_read()
        times.append(time.perf_counter() - begin)
    error = float(np.abs(ours - expected).max() / np.abs(expected).max())
    report = mxtrt.last_report()
    table(
        "TensorRT, host to host, batch 1",
        network=name,
        precision=precision,
        build=f"{report.build_seconds:.1f} s",
        median=f"{np.median(times) * 1e6:.0f} us",
        error=f"{error:.1e}",
    )
    assert report.engine.startswith("tensorrt ")
    assert report.left == []
    assert error <= (1e-5 if precision == "fp32" else 5e-3)
