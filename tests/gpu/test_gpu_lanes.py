"""Runs of several threads at once on a GPU, and on all GPUs."""

from __future__ import annotations

import threading
import time
from typing import Any

import mxnet as mx
import numpy as np
import pytest
from support.networks import assert_close
from support.zoo import network

import mxtrt
from mxtrt.node import library

THREADS, RUNS = 8, 60
X = mx.nd.random.uniform(-1, 1, shape=(1, 3, 224, 224))


def rounds(calls: list[Any]) -> float:
    """Calls a second of threads that each make one of these calls, one after another."""
    start = threading.Barrier(len(calls) + 1)
    failed: list[BaseException] = []

    def work(call: Any) -> None:
        try:
            start.wait()
            for _ in range(RUNS):
                call()
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=work, args=(call,)) for call in calls]
    for thread in threads:
        thread.start()
    start.wait()
    begin = time.perf_counter()
    for thread in threads:
        thread.join()
    assert not failed, failed
    return len(calls) * RUNS / (time.perf_counter() - begin)


def callers(net: Any, context: Any, expected: np.ndarray[Any, Any], number: int) -> list[Any]:
    """Calls of one block, each with an input of its own, that check the answers."""
    inputs = [mx.nd.array(X.asnumpy(), ctx=context) for _ in range(number)]

    def call(x: Any) -> None:
        assert_close(net(x), expected)

    return [lambda x=x: call(x) for x in inputs]


@pytest.mark.parametrize("place", ["cpu", "gpu"])
@pytest.mark.parametrize("name", ["resnet18_v1", "mobilenet1.0"])
def test_threads_that_share_a_block_run_at_once(place, name, table, request):
    """Every answer is right, and lanes are opened while they run."""
    context = mx.cpu() if place == "cpu" else request.getfixturevalue("device")
    net = network(name, X)
    expected = net(X).asnumpy()
    net.collect_params().setattr("grad_req", "null")
    net.collect_params().reset_ctx(context)
    net.hybridize(static_alloc=place == "gpu", static_shape=place == "gpu")
    with mxtrt.options(lanes=4):
        calls = callers(net, context, expected, THREADS)
        calls[0]()
        alone = rounds(calls[:1])
        before = mxtrt.stats().lanes
        for _ in range(5):
            together = rounds(calls)  # lanes are opened meanwhile
    assert mxtrt.stats().lanes > before
    assert library().cuda.memory().scratch > 0
    table("Threads", network=name, place=place, alone=round(alone), together=round(together))


def test_one_network_runs_on_all_gpus(table):
    """The engine is built once, and loaded on the others."""
    count = library().cuda.count()
    if count < 2:
        pytest.skip("one GPU only")
    net = network("resnet18_v1", X)
    expected = net(X).asnumpy()
    net.hybridize()
    with mxtrt.options(gpus="all"):
        calls = callers(net, mx.cpu(), expected, THREADS)
        calls[0]()
        builds = mxtrt.stats().cache_misses
        for _ in range(5):
            together = rounds(calls)  # the engine is loaded meanwhile
        places = mxtrt.memory().totals
    assert mxtrt.stats().cache_misses == builds
    assert {"gpu 0", "gpu 1"} <= set(places)
    table("All GPUs", gpus=count, together=round(together))
