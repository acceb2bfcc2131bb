"""Faults of a GPU: every request is answered, with the right numbers."""

from __future__ import annotations

import gc
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import mxnet as mx
import pytest
from support.networks import assert_close, classifier, images, parameters, plain
from support.process import run

import mxtrt
from mxtrt.engines.tensorrt import TensorRT, tensorrt
from mxtrt.engines.tensorrt.process import BuilderProcess
from mxtrt.errors import EngineError
from mxtrt.node import library
from mxtrt.system.child import Child

X = images()


@contextmanager
def exhausted() -> Iterator[None]:
    """All memory of the GPU is taken."""
    cuda = library().cuda
    cuda.make_current(0)
    held, size = [], 1 << 34
    while size >= 1 << 16:
        if address := cuda.allocate(size):
            held.append(address)
        else:
            size //= 2
    try:
        yield
    finally:
        cuda.make_current(0)
        for address in held:
            cuda.free(address)


@pytest.mark.alone
def test_without_memory_on_the_gpu_mxnet_answers_and_a_later_bind_has_its_engine():
    """No engine can be built; one warning says why."""
    symbol = classifier()
    args, aux = parameters(symbol, seed=31, data=X.shape)
    expected = plain(symbol, args, aux, data=X)[0]

    def bound() -> mx.executor.Executor:
        with mxtrt.options():
            executor = symbol.simple_bind(mx.cpu(), grad_req="null", data=X.shape)
        executor.copy_params_from(args, aux)
        return executor

    with exhausted(), pytest.warns(mxtrt.MxtrtWarning, match="the graph runs as plain MXNet"):
        assert_close(bound().forward(data=X)[0], expected)
    print(mxtrt.last_report().reason)
    before = mxtrt.stats().engine_runs
    assert_close(bound().forward(data=X)[0], expected)
    assert mxtrt.stats().engine_runs == before + 1


@pytest.mark.alone
def test_an_engine_that_is_built_needs_no_more_memory_to_run():
    """What a forward needs is there since the bind."""
    symbol = classifier()
    args, aux = parameters(symbol, seed=32, data=X.shape)
    expected = plain(symbol, args, aux, data=X)[0]
    with mxtrt.options():
        executor = symbol.simple_bind(mx.cpu(), grad_req="null", data=X.shape)
    executor.copy_params_from(args, aux)
    executor.forward(data=X)[0].wait_to_read()
    before = mxtrt.stats().engine_runs
    with exhausted():
        for _ in range(5):
            assert_close(executor.forward(data=X)[0], expected)
    assert mxtrt.stats().engine_runs == before + 5


def test_a_builder_that_crashes_costs_one_bind(monkeypatch):
    """MXNet answers and one warning says why; a later bind has its engine."""
    symbol = classifier()
    args, aux = parameters(symbol, seed=34, data=X.shape)
    expected = plain(symbol, args, aux, data=X)[0]
    started = BuilderProcess._started

    def crashing(self: BuilderProcess, gpu: int | None) -> Child:
        child = started(self, gpu)
        threading.Timer(0.2, child._process.send_signal, [signal.SIGSEGV]).start()
        return child

    def bound() -> mx.executor.Executor:
        with mxtrt.options(cache_size=0):
            executor = symbol.simple_bind(mx.cpu(), grad_req="null", data=X.shape)
        executor.copy_params_from(args, aux)
        return executor

    tensorrt().builder.stop()
    with monkeypatch.context() as patch:
        patch.setattr(BuilderProcess, "_started", crashing)
        with pytest.warns(mxtrt.MxtrtWarning, match="TensorRT builds ended with SIGSEGV"):
            assert_close(bound().forward(data=X)[0], expected)
    before = mxtrt.stats().engine_runs
    assert_close(bound().forward(data=X)[0], expected)
    assert mxtrt.stats().engine_runs == before + 1


def refuse(*_: object) -> None:
    """Build no engine."""
    raise EngineError("no engine at these shapes")


def test_a_symbol_on_the_gpu_is_answered_at_shapes_for_which_no_engine_builds(device, monkeypatch):
    """By MXNet on the CPU, from weights that were evicted or not; its engine serves the others."""
    symbol, data = classifier(), images(size=64)  # the dense weights are large enough to be evicted
    args, aux = parameters(symbol, seed=34, data=data.shape)
    given, states = (
        {name: mx.nd.array(array.asnumpy(), ctx=device) for name, array in arrays.items()}
        for arrays in ({"data": data, **args}, aux)
    )
    engines = symbol.optimize_for("TensorRT", given, states, device)
    assert mxtrt.last_report().released_bytes
    monkeypatch.setattr(TensorRT, "build", refuse)
    before = mxtrt.stats()
    for batch in (3, 2, 3):
        x = images(batch, seed=batch, size=64)
        there = mx.nd.array(x.asnumpy(), ctx=device)
        out = engines.bind(device, {"data": there}, grad_req="null").forward()[0]
        assert out.context == device
        assert_close(out, plain(symbol, args, aux, data=x)[0])
    now = mxtrt.stats()
    assert now.fallbacks == before.fallbacks + 2
    assert now.engine_runs == before.engine_runs + 1
    assert now.engine_failures == before.engine_failures


@pytest.mark.alone
@pytest.mark.slow
def test_two_hundred_binds_and_fifty_toggles_leave_the_gpu_as_it_was(table):
    """Executors on a cached engine, bound, run and dropped."""
    symbol = classifier()
    args, aux = parameters(symbol, seed=33, data=X.shape)
    expected = plain(symbol, args, aux, data=X)[0]

    def cycle(enabled: bool) -> int:
        with mxtrt.options(enabled=enabled):
            executor = symbol.simple_bind(mx.cpu(), grad_req="null", data=X.shape)
        executor.copy_params_from(args, aux)
        assert_close(executor.forward(data=X)[0], expected)
        del executor
        gc.collect()
        mx.nd.waitall()
        tensorrt().builder.stop()  # what it holds on the GPU is not ours
        return library().cuda.memory().free

    free = [cycle(True) for _ in range(200)]
    toggled = [cycle(bool(i % 2)) for i in range(50)]
    table(
        "GPU memory free after cycles, MiB",
        **{
            name: f"{value / 2**20:.1f}"
            for name, value in {
                "cycle 5": free[4],
                "cycle 200": free[-1],
                "50 toggles": toggled[-1],
            }.items()
        },
    )
    assert free[-1] >= free[4] - (4 << 20)
    assert toggled[-1] >= free[4] - (4 << 20)


SPOILED = """
    import os
    import mxtrt, mxnet as mx, numpy as np
    symbol = mx.sym.Activation(
        mx.sym.FullyConnected(mx.sym.var("data"), num_hidden=64, name="fc"), act_type="tanh"
    )
    x = mx.nd.array(np.linspace(-1, 1, 6).reshape(2, 3))
    values = {"fc_weight": mx.nd.ones((64, 3)), "fc_bias": mx.nd.zeros((64,)), "data": x}
    expected = symbol.bind(mx.cpu(), values, grad_req="null").forward()[0].asnumpy()
    with mxtrt.options(enabled=True, engine="tensorrt", inline_below=%r):
        executor = symbol.bind(mx.cpu(), values, grad_req="null")
    seen = executor.forward()[0].asnumpy()
    assert np.allclose(seen, expected, atol=1e-6), "before"
    source = 'extern "C" __global__ void spoil(float *p) { *(volatile float *)16 = 1; }'
    there = mx.nd.array(np.ones(4), ctx=mx.gpu())
    kernel = mx.rtc.CudaModule(source, exports=["spoil"]).get_kernel("spoil", "float *p")
    try:
        kernel.launch([there], mx.gpu(), (1, 1, 1), (1, 1, 1))
        there.wait_to_read()
    except mx.MXNetError:
        pass
    for _ in range(3):
        seen = executor.forward()[0].asnumpy()
        assert np.allclose(seen, expected, atol=1e-6), "after"
    assert mxtrt.stats().engine_runs == 1, mxtrt.stats()
    os._exit(0)  # MXNet aborts when it frees memory of a context that is in error
"""


@pytest.mark.parametrize("inline_below", [0, 10**6])
def test_a_context_in_error_is_left_for_mxnets_operators(inline_below):
    """A kernel of somebody else wrote where it must not: CUDA takes nothing from this process."""
    if not mx.context.num_gpus():
        pytest.skip("this MXNet has no GPU code; install mxnet-cu117 1.9.1 for mx.gpu()")
    done = run(SPOILED % inline_below)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "MXNet's operators take over: CUDA: an illegal memory access" in done.stderr


def test_a_bind_takes_no_failure_that_is_not_its_own(device):
    """Whoever reads the array is told, after engines were built on the GPU."""
    failing = mx.nd.random.exponential(-1.0, shape=(3,))
    symbol = classifier()
    args, aux = parameters(symbol, seed=35, data=X.shape)
    label = {"softmax_label": mx.nd.zeros(X.shape[:1])}
    given, states = (
        {name: mx.nd.array(array.asnumpy(), ctx=device) for name, array in arrays.items()}
        for arrays in ({"data": X, **label, **args}, aux)
    )
    with mxtrt.options():
        executor = symbol.bind(device, given, grad_req="null", aux_states=states)
    assert mxtrt.last_report().left == []
    assert_close(executor.forward()[0], plain(symbol, args, aux, data=X)[0])
    with pytest.raises(mx.MXNetError, match="has to be positive"):
        failing.asnumpy()
