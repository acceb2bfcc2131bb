"""TensorRT behind graphs whose arrays are on the GPU (mx.gpu()), against MXNet on the CPU.

MXNet's own kernels may not exist on this GPU, so what stays in MXNet is chosen among the
operators that :mod:`mxtrt_fuzz.probe` finds working, and arrays reach the GPU as copies.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

import mxnet as mx
import numpy as np
import pytest
from mxnet.gluon.model_zoo import vision
from support.networks import assert_close, classifier, images, parameters, plain
from support.zoo import network

import mxtrt
from mxtrt.engines.tensorrt import tensorrt
from mxtrt.node import library
from mxtrt.node.cuda import Cuda
from mxtrt_fuzz import probe

X = images()


def on(device: mx.context.Context, arrays: dict[str, Any]) -> dict[str, Any]:
    """Copies on a device."""
    return {name: mx.nd.array(array.asnumpy(), ctx=device) for name, array in arrays.items()}


def bound(symbol: Any, args: dict, aux: dict, device: Any, x: Any = X, **options: Any) -> Any:
    """An executor with engines on a device."""
    given = on(device, {**args, "data": x, "softmax_label": mx.nd.zeros(x.shape[:1])})
    with mxtrt.options(**options):
        return symbol.bind(
            device,
            {name: given[name] for name in symbol.list_arguments()},
            grad_req="null",
            aux_states=on(device, aux),
        )


@pytest.mark.parametrize("inline_below", [0, 10**6])
def test_executors_agree_with_mxnet_on_the_cpu(device, inline_below):
    """By way of MXNet's stream and on the calling thread; with every new input; twice bound."""
    symbol = classifier()
    args, aux = parameters(symbol, data=X.shape)
    for _ in range(2):
        executor = bound(symbol, args, aux, device, inline_below=inline_below)
        report = mxtrt.last_report()
        assert report.engine.startswith("tensorrt ")
        assert report.left == []
        assert report.notes == []
        assert report.segments[0].notes == []
        for seed in range(5):
            x = images(seed=seed)
            out = executor.forward(data=mx.nd.array(x.asnumpy(), ctx=device))[0]
            assert out.context == device
            assert_close(out, plain(symbol, args, aux, data=x)[0])


def features() -> mx.sym.Symbol:
    """A network of operators that cuDNN does for MXNet: it works on any GPU."""
    conv = mx.sym.Convolution(
        mx.sym.var("data"), kernel=(3, 3), num_filter=8, no_bias=True, name="conv"
    )
    norm = mx.sym.BatchNorm(conv, fix_gamma=False, name="norm")
    return mx.sym.Pooling(norm, kernel=(2, 2), stride=(2, 2), pool_type="max", name="pool")


def test_weights_that_change_are_followed(device):
    """Written to in place: by MXNet's operators at first, then by engines built again."""
    symbol = features()
    args, aux = parameters(symbol, data=X.shape)
    there = on(device, {**args, "data": X})
    with mxtrt.options():
        executor = symbol.bind(device, there, grad_req="null", aux_states=on(device, aux))
    for seed in range(1, 5):
        args, aux = parameters(symbol, seed=seed, data=X.shape)
        for name, value in {**args, **aux}.items():
            {**executor.arg_dict, **executor.aux_dict}[name][:] = mx.nd.array(
                value.asnumpy(), ctx=device
            )
        for _ in range(4):
            assert_close(executor.forward()[0], plain(symbol, args, aux, data=X)[0], 1e-4)
    assert mxtrt.last_report().reason == ""


@pytest.mark.parametrize("static", [False, True])
def test_hybridized_blocks_agree_with_mxnet_on_the_cpu(device, static):
    """Also while earlier outputs are kept, so that addresses change."""
    x = mx.nd.random.uniform(-1, 1, shape=(2, 3, 64, 64))
    net = network("resnet18_v1", x)
    expected = net(x).asnumpy()
    net.collect_params().setattr("grad_req", "null")
    net.collect_params().reset_ctx(device)
    net.hybridize(static_alloc=static, static_shape=static)
    there, kept = mx.nd.array(x.asnumpy(), ctx=device), []
    with mxtrt.options():
        for _ in range(50):
            kept.append(net(there))
    assert mxtrt.last_report().left == []
    for out in kept[:: 50 if static else 1]:
        assert_close(out, expected)
    assert_close(kept[-1], expected)


def test_a_second_batch_size_in_the_profile_does_not_build(device, monkeypatch):
    """One engine for a range of batch sizes; what is outside runs in MXNet, with a warning."""
    symbol = classifier()
    args, aux = parameters(symbol, data=X.shape)
    executor = bound(symbol, args, aux, device, batch_profile=(1, 2, 8))
    monkeypatch.setattr("mxtrt.engines.tensorrt.process.BuilderProcess.build", None)
    for batch in (1, 8, 3, 8, 1):
        x = images(batch)
        again = executor.reshape(allow_up_sizing=True, data=x.shape, softmax_label=(batch,))
        out = again.forward(data=mx.nd.array(x.asnumpy(), ctx=device))[0]
        assert_close(out, plain(symbol, args, aux, data=x)[0])
        assert type(again).__name__ == "InferenceExecutor"
    with pytest.warns(mxtrt.MxtrtWarning, match="batch size 9 is outside batch_profile 1 to 8"):
        executor.reshape(allow_up_sizing=True, data=(9, *X.shape[1:]), softmax_label=(9,))


@pytest.mark.alone
def test_released_weights_leave_the_gpu_and_come_back(device):
    """Their memory is free, their values are there, and MXNet's own operators use them again."""
    symbol = mx.sym.Convolution(
        mx.sym.var("data"), kernel=(3, 3), num_filter=2048, no_bias=True, name="conv"
    )
    x = mx.nd.array(np.random.RandomState(0).rand(1, 2048, 5, 5))
    weight = np.random.RandomState(1).rand(2048, 2048, 3, 3).astype(np.float32)
    there = {"data": x.as_in_context(device), "conv_weight": mx.nd.array(weight, ctx=device)}
    plain_executor = symbol.bind(device, there, grad_req="null")
    expected = plain_executor.forward()[0].asnumpy()
    with mxtrt.options(release_weights=False):
        symbol.bind(device, there, grad_req="null").forward()[0].asnumpy()  # loads libraries
    device.empty_cache()
    tensorrt().builder.stop()  # what it holds on the GPU is not ours
    before = library().cuda.memory()
    with mxtrt.options():
        executor = symbol.bind(device, there, grad_req="null")
    report = mxtrt.last_report()
    assert report.released_bytes == weight.nbytes
    tensorrt().builder.stop()
    tf32 = 5e-3  # in MXNet's cuDNN convolutions
    assert_close(executor.forward()[0], expected, tf32)
    after = library().cuda.memory()
    # The engine's copy, in a form of TensorRT's choice, takes the place of MXNet's.
    ledger = mxtrt.memory()
    print(ledger)
    held = sum(h.bytes for h in ledger.holdings if h.place == "gpu 0" and h.what == "engine")
    assert before.free - after.free - (after.scratch - before.scratch) < held - weight.nbytes * 0.7
    np.testing.assert_array_equal(there["conv_weight"].asnumpy(), weight)
    assert_close(plain_executor.forward()[0], expected, 1e-6)
    there["conv_weight"][:] = mx.nd.array(2 * weight, ctx=device)
    for _ in range(3):
        assert_close(executor.forward()[0], 2 * expected, tf32)


def test_mxnets_operators_are_probed(device, table: Callable[..., None]):
    """By their values, not only by their errors."""
    found = probe.operators()
    assert set(found) == set(probe.CASES)
    for name, reason in found.items():
        table("MXNet's own operators on this GPU", operator=name, works=reason[:100] or "yes")


@pytest.mark.parametrize(
    "denied", ["Convolution", "Pooling", "Activation", "Convolution,Pooling", "Activation,Flatten"]
)
def test_mixed_graphs_agree(device, denied, table: Callable[..., None]):
    """What is denied runs in MXNet, between engines, on the same arrays."""
    if not probe.working_operators().issuperset(denied.split(",")):
        pytest.skip(f"not all of {denied} work in MXNet on this GPU")
    data = mx.sym.var("data")
    block = data
    for place in range(3):
        block = mx.sym.Convolution(
            block, kernel=(3, 3), pad=(1, 1), num_filter=8, no_bias=True, name=f"conv{place}"
        )
        block = mx.sym.BatchNorm(block, fix_gamma=False, name=f"norm{place}")
        block = mx.sym.Activation(block, act_type="relu", name=f"act{place}")
    pool = mx.sym.Pooling(block, kernel=(2, 2), stride=(2, 2), pool_type="max", name="pool")
    dense = mx.sym.FullyConnected(mx.sym.Flatten(pool), num_hidden=4, name="dense")
    symbol = mx.sym.Group([mx.sym.softmax(dense), pool])
    args, aux = parameters(symbol, data=X.shape)
    there = on(device, {**args, "data": X})
    with mxtrt.options(deny_ops=denied):
        executor = symbol.bind(device, there, grad_req="null", aux_states=on(device, aux))
    report = mxtrt.last_report()
    assert {node.op for node in report.left} == set(denied.split(","))
    worst = 0.0
    for seed in range(10):
        x = images(seed=seed)
        outs = executor.forward(data=mx.nd.array(x.asnumpy(), ctx=device))
        for out, expected in zip(outs, plain(symbol, args, aux, data=x), strict=True):
            worst = max(worst, float(np.abs(out.asnumpy() - expected).max() / expected.max()))
    table(
        "mixed graphs on mx.gpu()",
        denied=denied,
        segments=len(report.segments),
        left=len(report.left),
        error=f"{worst:.1e}",
    )
    assert worst <= 1e-4  # MXNet's cuDNN convolutions may use TF32 or Winograd


def test_what_cannot_be_recorded_runs_through_python(device, monkeypatch):
    """TensorRT's own call at every forward: the same answers, and a note in the report."""
    create = Cuda.create_session

    def without_graphs(self: Any, *args: Any, **kwargs: Any) -> int:
        return create(self, *args, **{**kwargs, "record": False})

    monkeypatch.setattr(Cuda, "create_session", without_graphs)
    symbol = classifier()
    args, aux = parameters(symbol, data=X.shape)
    executor = bound(symbol, args, aux, device)
    assert "goes through Python" in mxtrt.last_report().segments[0].notes[0]
    for seed in range(5):
        x = images(seed=seed)
        out = executor.forward(data=mx.nd.array(x.asnumpy(), ctx=device))[0]
        assert_close(out, plain(symbol, args, aux, data=x)[0])


@pytest.mark.alone
def test_executors_share_an_engine_and_its_scratch(device):
    """The same network bound twice holds its weights once."""
    net = vision.resnet18_v1()
    symbol = net(mx.sym.var("data"))
    x = mx.nd.random.uniform(shape=(1, 3, 224, 224))
    args, aux = parameters(symbol, data=x.shape)
    first = bound(symbol, args, aux, device, x)
    tensorrt().builder.stop()  # what it holds on the GPU is not ours
    between, first_ledger = library().cuda.memory(), mxtrt.memory()
    second = bound(symbol, args, aux, device, x)
    after = library().cuda.memory()
    print(first_ledger, mxtrt.memory(), sep="\n")
    assert after.scratch == between.scratch > 0
    assert between.free - after.free < 30 << 20  # of weights, 45 MiB; inputs and graphs are new
    there = mx.nd.array(x.asnumpy(), ctx=device)
    assert_close(first.forward(data=there)[0], second.forward(data=there)[0].asnumpy(), 1e-6)


def test_binds_on_the_same_arrays_leave_each_other_alone(device):
    """Releasing weights that are released already is no write to them."""
    symbol = mx.sym.Convolution(
        mx.sym.var("data"), kernel=(3, 3), num_filter=2048, no_bias=True, name="conv"
    )
    args, _ = parameters(symbol, data=X.shape)
    there = on(device, {**args, "data": X})
    executors = []
    for _ in range(3):
        with mxtrt.options():
            executors.append(symbol.bind(device, there, grad_req="null"))
    for executor in executors:
        plan = executor._mxtrt.symbol.plan
        assert plan.baseline.still_holds()


@pytest.mark.parametrize("pickled", [False, True])
def test_a_saved_symbol_comes_back_to_its_gpu(device, tmp_path, pickled):
    """Its weights were evicted from there, and are again."""
    symbol = classifier()
    args, aux = parameters(symbol, data=X.shape)
    given, states = on(device, {"data": X, **args}), on(device, aux)
    made = symbol.optimize_for("TensorRT", given, states, device)
    if pickled:
        loaded = pickle.loads(pickle.dumps(made))
    else:
        made.save(str(tmp_path / "net-symbol.json"))
        loaded = mx.sym.load(str(tmp_path / "net-symbol.json"))
    assert loaded.list_arguments() == ["data"]
    assert loaded.plan.nodes[0].gpu == device.device_id
    executor = loaded.bind(device, {"data": given["data"]})
    assert_close(executor.forward()[0], plain(symbol, args, aux, data=X)[0])
