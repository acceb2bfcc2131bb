"""Two GPUs in one process."""

from __future__ import annotations

import threading
from typing import Any

import mxnet as mx
import numpy as np
import pytest
from support.networks import assert_close, classifier, images, parameters, plain
from support.zoo import network

import mxtrt
from mxtrt.node import library

X = images(size=64)
GPUS = 0, 1


@pytest.fixture(autouse=True)
def two_gpus() -> None:
    """Skips where there is one."""
    if mx.context.num_gpus() < len(GPUS):
        pytest.skip("one GPU only")


def bound(symbol: Any, gpu: int, arrays: dict[str, Any], aux: dict[str, Any], x: Any = X) -> Any:
    """An executor with engines on a GPU, and its arrays there."""
    context = mx.gpu(gpu)
    given = {**arrays, "data": x, "softmax_label": mx.nd.zeros(x.shape[:1])}
    there = {
        name: mx.nd.array(array.asnumpy(), ctx=context)
        for name, array in given.items()
        if name in symbol.list_arguments()
    }
    states = {name: mx.nd.array(array.asnumpy(), ctx=context) for name, array in aux.items()}
    with mxtrt.options():
        executor = symbol.bind(context, there, grad_req="null", aux_states=states)
    assert mxtrt.last_report().left == []
    return executor, there


def at(gpu: int, seed: int) -> Any:
    """Pictures on a GPU."""
    return mx.nd.array(images(seed=seed, size=64).asnumpy(), ctx=mx.gpu(gpu))


def test_one_block_has_parameters_on_both():
    """One binding for every context that the parameters are on."""
    x = mx.nd.random.uniform(-1, 1, shape=(2, 3, 64, 64))
    net = network("resnet18_v1", x)
    expected = net(x).asnumpy()
    net.collect_params().setattr("grad_req", "null")
    net.collect_params().reset_ctx([mx.gpu(0), mx.gpu(1)])
    net.hybridize()
    with mxtrt.options():
        for _ in range(3):
            for gpu in GPUS:
                out = net(mx.nd.array(x.asnumpy(), ctx=mx.gpu(gpu)))
                assert out.context == mx.gpu(gpu)
                assert_close(out, expected)
        outs = [net(mx.nd.array(x.asnumpy(), ctx=mx.gpu(gpu))) for gpu in (0, 1) * 10]
    for out in outs:
        assert_close(out, expected)
    assert mxtrt.last_report().left == []


def test_networks_run_on_both_at_once():
    """From a thread for each GPU, and in turns from one."""
    symbol = classifier()
    args, aux = parameters(symbol, data=X.shape)
    expected = [plain(symbol, args, aux, data=images(seed=s, size=64))[0] for s in range(4)]
    executors = [bound(symbol, gpu, args, aux)[0] for gpu in GPUS]
    for seed in range(4):
        outs = [executors[gpu].forward(data=at(gpu, seed))[0] for gpu in GPUS]
        for out in outs:
            assert_close(out, expected[seed])
    failed: list[BaseException] = []

    def work(gpu: int) -> None:
        try:
            for turn in range(200):
                out = executors[gpu].forward(data=at(gpu, turn % 4))[0]
                assert_close(out, expected[turn % 4])
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=work, args=(gpu,)) for gpu in GPUS]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []


def test_an_executor_runs_on_another_thread_than_it_was_made_on():
    """Which has the other GPU for its current one, or none yet."""
    symbol = classifier()
    args, aux = parameters(symbol, seed=1, data=X.shape)
    expected = plain(symbol, args, aux, data=X)[0]
    executors: list[Any] = []
    for gpu in GPUS:
        thread = threading.Thread(
            target=lambda gpu=gpu: executors.append(bound(symbol, gpu, args, aux)[0])
        )
        thread.start()
        thread.join()
    for gpu in (1, 0, 1, 0):
        assert_close(executors[gpu].forward()[0], expected)
    seen: list[Any] = []
    for gpu in (0, 1):
        thread = threading.Thread(
            target=lambda gpu=gpu: seen.append(executors[gpu].forward()[0].asnumpy())
        )
        thread.start()
        thread.join()
    for out in seen:
        assert_close(out, expected)


def test_each_gpu_has_engines_in_host_memory_and_its_own():
    """One process runs engines for ``mx.cpu()`` and for both GPUs."""
    symbol = classifier()
    args, aux = parameters(symbol, seed=2, data=X.shape)
    expected = plain(symbol, args, aux, data=X)[0]
    with mxtrt.options():
        host = symbol.simple_bind(mx.cpu(), grad_req="null", data=X.shape)
    host.copy_params_from(args, aux)
    executors = [host, *(bound(symbol, gpu, args, aux)[0] for gpu in GPUS)]
    for _ in range(3):
        for executor in executors:
            assert_close(
                executor.forward()[0] if executor is not host else host.forward(data=X)[0], expected
            )


def test_weights_leave_both_gpus_and_come_back():
    """Each array to its own GPU; ``mxtrt.memory()`` tells the GPUs apart."""
    data = mx.sym.var("data")
    symbol = mx.sym.Convolution(data, kernel=(3, 3), num_filter=1024, no_bias=True, name="conv")
    x = mx.nd.array(np.random.RandomState(0).rand(1, 1024, 5, 5))
    weights = [np.random.RandomState(g).rand(1024, 1024, 3, 3).astype(np.float32) for g in GPUS]
    made = []
    for gpu in GPUS:
        made.append(bound(symbol, gpu, {"conv_weight": mx.nd.array(weights[gpu])}, {}, x))
        assert mxtrt.last_report().released_bytes == weights[gpu].nbytes
    expected = [plain(symbol, {"conv_weight": mx.nd.array(w)}, {}, data=x)[0] for w in weights]
    for gpu in GPUS:
        assert_close(made[gpu][0].forward()[0], expected[gpu])
    ledger = mxtrt.memory()
    assert set(ledger.gpus) == {"gpu 0", "gpu 1"}
    for gpu in GPUS:
        held = [h.bytes for h in ledger.holdings if h.place == f"gpu {gpu}" and h.what == "engine"]
        assert sum(held) >= weights[gpu].nbytes * 0.9
        assert library().is_evicted(made[gpu][1]["conv_weight"])
    for gpu in GPUS:
        np.testing.assert_array_equal(made[gpu][1]["conv_weight"].asnumpy(), weights[gpu])
        assert made[gpu][1]["conv_weight"].context == mx.gpu(gpu)
        made[gpu][1]["conv_weight"][:] = mx.nd.array(2 * weights[gpu], ctx=mx.gpu(gpu))
    for _ in range(3):
        for gpu in GPUS:
            assert_close(made[gpu][0].forward()[0], 2 * expected[gpu], 5e-3)  # MXNet's are in TF32
