"""Threads that bind, build or drop engines, or write to weights, while others do."""

from __future__ import annotations

import sys
import threading
import time
from typing import Any

import mxnet as mx
import numpy as np
import pytest
from support.networks import assert_close

import mxtrt
from mxtrt.engines.onnxruntime import OnnxRuntime

SIZE = 160  # weights of 100 KiB: they are paged out


def dense() -> mx.sym.Symbol:
    """One layer; with weights of c and data of ones every output is c * SIZE."""
    return mx.sym.FullyConnected(mx.sym.var("data"), num_hidden=SIZE, no_bias=True, name="fc")


def arrays(weights: mx.nd.NDArray) -> dict[str, mx.nd.NDArray]:
    """Arguments of a bind."""
    return {"data": mx.nd.ones((1, SIZE)), "fc_weight": weights}


def bound(weights: mx.nd.NDArray, **options: Any) -> mx.executor.Executor:
    """An executor with engines."""
    with mxtrt.options(**options):
        return dense().bind(mx.cpu(), arrays(weights), grad_req="null")


class Meanwhile(dict):  # type: ignore[type-arg]
    """Arguments at whose reading something else happens."""

    event: Any = None

    def __getitem__(self, name: str) -> Any:
        self.event()
        return super().__getitem__(name)


@pytest.mark.parametrize("shared", [False, True])
def test_a_write_during_a_bind_is_seen_by_every_executor(shared):
    """Another bind, of the same arrays or of others, must not be taken for the cause of it."""
    weights = mx.nd.ones((SIZE, SIZE))
    executor = bound(weights)
    assert_close(executor.forward()[0], np.full((1, SIZE), SIZE))
    given = Meanwhile(arrays(weights if shared else mx.nd.zeros((SIZE, SIZE))))
    given.event = lambda: weights.__setitem__(slice(None), 2)
    with mxtrt.options():
        other = dense().bind(mx.cpu(), given, grad_req="null")
    assert_close(executor.forward()[0], np.full((1, SIZE), 2 * SIZE))
    assert_close(other.forward()[0], np.full((1, SIZE), 2 * SIZE * shared))


@pytest.mark.parametrize("release", [False, True])
def test_a_write_while_the_engine_is_built_is_seen(monkeypatch, release):
    """The engine has the old weights: MXNet answers, and the engine is built again."""
    weights, build = mx.nd.ones((SIZE, SIZE)), OnnxRuntime.build

    def slow(self, request):
        session = build(self, request)
        weights[:] = 2
        return session

    with monkeypatch.context() as patch:
        patch.setattr(OnnxRuntime, "build", slow)
        executor = bound(weights, release_weights=release)
    for _ in range(3):
        assert_close(executor.forward()[0], np.full((1, SIZE), 2 * SIZE))
    before = mxtrt.stats()
    executor.forward()[0].wait_to_read()
    assert mxtrt.stats().engine_runs == before.engine_runs + 1
    assert mxtrt.stats().builds == before.builds


@pytest.mark.parametrize("shared", [False, True])
def test_weights_that_were_others_while_an_engine_was_built_are_seen(monkeypatch, shared):
    """They are as before when it is done, as after an operator with a layout of its own."""
    weights, build = mx.nd.ones((SIZE, SIZE)), OnnxRuntime.build

    def meanwhile(self, request):
        weights[:] = 2
        weights.wait_to_read()
        session = build(self, request)
        weights[:] = 1
        return session

    with monkeypatch.context() as patch:
        patch.setattr(OnnxRuntime, "build", meanwhile)
        executor = bound(weights)
    other = bound(weights if shared else mx.nd.ones((SIZE, SIZE)))
    for _ in range(3):
        assert_close(other.forward()[0], np.full((1, SIZE), SIZE))
        assert_close(executor.forward()[0], np.full((1, SIZE), SIZE))


@pytest.mark.parametrize("release", [False, True])
def test_executors_that_share_weights_build_nothing_when_others_come_and_go(release):
    """Binds, reshapes and dropped executors count as writes; the contents say otherwise."""
    weights = mx.nd.random.uniform(shape=(SIZE, SIZE))
    executor = bound(weights, release_weights=release)
    expected = executor.forward()[0].asnumpy()
    before = mxtrt.stats()
    for _ in range(3):
        other = dense().bind(mx.cpu(), arrays(weights), grad_req="null")
        other.forward()[0].wait_to_read()
        executor.reshape(allow_up_sizing=True, data=(3, SIZE)).forward()[0].wait_to_read()
        del other
        assert_close(executor.forward()[0], expected)
    now = mxtrt.stats()
    assert (now.builds, now.rebuilds) == (before.builds, before.rebuilds)
    assert now.engine_runs == before.engine_runs + 6


def test_a_parameter_that_gets_new_arrays_during_a_call_is_seen_after_it():
    """The call may answer with either; no later one with the old."""
    net = mx.gluon.nn.Dense(SIZE, in_units=SIZE, use_bias=False)
    net.initialize(mx.init.One())
    net.hybridize()
    x = mx.nd.ones((1, SIZE))

    class Values:
        def copyto(self, ctx):
            net(x).wait_to_read()
            return mx.nd.full((SIZE, SIZE), 2, ctx=ctx)

    with mxtrt.options():
        assert_close(net(x), np.full((1, SIZE), SIZE))
        net.weight._init_impl(Values(), [mx.cpu()])
        assert_close(net(x), np.full((1, SIZE), 2 * SIZE))


def test_a_change_that_another_thread_notices_first_is_a_change_for_all(monkeypatch):
    """While it waits for the weights to hold still nobody asks engines that have the old."""
    weights = mx.nd.ones((SIZE, SIZE))
    executor = bound(weights)
    for value in (2, 3):  # after the second change a few forwards are MXNet's
        executor.forward()[0].wait_to_read()
        weights[:] = value
    executor.forward()[0].wait_to_read()
    executor.forward()[0].wait_to_read()
    weights[:] = 4
    freshness = executor._mxtrt.freshness
    baseline, noticed = freshness._plan.baseline, []
    changed = baseline.changed

    def other_thread_first() -> bool:
        if not noticed:
            noticed.append(True)
            assert not freshness.settle()
        return changed()

    monkeypatch.setattr(baseline, "changed", other_thread_first)
    assert_close(executor.forward()[0], np.full((1, SIZE), 4 * SIZE))


@pytest.mark.parametrize("shared", [False, True])
def test_weights_are_right_at_every_forward_while_others_bind_and_drop(shared):
    """Two threads bind and drop, on these weights or on others; every answer is the latest."""
    weights = mx.nd.ones((SIZE, SIZE))
    executor = bound(weights)
    stop, binds = threading.Event(), []

    def bind() -> None:
        given = weights if shared else mx.nd.ones((SIZE, SIZE))
        while not stop.is_set():
            bound(given).forward()[0].wait_to_read()
            binds.append(1)

    threads = [threading.Thread(target=bind) for _ in range(2)]
    for thread in threads:
        thread.start()
    end, wrong, value = time.monotonic() + 1, [], 1
    while time.monotonic() < end or len(binds) < 3:
        value = value % 50 + 1
        weights[:] = value
        for _ in range(3):
            answer = executor.forward()[0].asnumpy()
            if not np.all(answer == value * SIZE):
                wrong.append((value, answer))
    stop.set()
    for thread in threads:
        thread.join()
    assert wrong == []


class Entered:
    """MXNet's library, of which some functions note how many threads are in them."""

    def __init__(self, library: Any, *names: str) -> None:
        self._library, self._names = library, names
        self.now = self.most = self.calls = 0

    def __getattr__(self, name: str) -> Any:
        function = getattr(self._library, name)
        return self._counted(function) if name in self._names else function

    def _counted(self, function: Any) -> Any:
        def entered(*args: Any) -> Any:
            self.now += 1
            self.calls += 1
            self.most = max(self.most, self.now)
            time.sleep(0.01)  # the others come meanwhile
            try:
                return function(*args)
            finally:
                self.now -= 1

        return entered


def test_mxnet_looks_for_subgraphs_for_one_thread_at_a_time(monkeypatch):
    """Two binds at once write to what MXNet has once for all, and now and then the process dies."""
    monkeypatch.delenv("MXNET_SUBGRAPH_BACKEND")
    module = sys.modules["mxnet.symbol.symbol"]
    names = ("MXExecutorBindEX", "MXExecutorSimpleBindEx", "MXExecutorSimpleBindEx64")
    seen = Entered(module._LIB, *names, "MXGenBackendSubgraph")
    monkeypatch.setattr(module, "_LIB", seen)
    ways = [
        lambda symbol: symbol.bind(mx.cpu(), arrays(mx.nd.ones((SIZE, SIZE))), grad_req="null"),
        lambda symbol: symbol.simple_bind(mx.cpu(), grad_req="null", data=(1, SIZE)),
        lambda symbol: symbol.simple_bind(mx.cpu(), data=(1, SIZE)),
        lambda symbol: symbol.get_backend_symbol("MKLDNN"),
    ]
    gate, made = threading.Barrier(len(ways)), []

    def work(way: Any) -> None:
        gate.wait()
        with mxtrt.options():
            made.append(way(dense()))

    threads = [threading.Thread(target=work, args=(way,)) for way in ways]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == len(ways)
    assert seen.calls > len(ways)  # an executor with engines is bound twice
    assert seen.most == 1
