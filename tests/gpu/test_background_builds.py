"""Requests do not wait for TensorRT where MXNet can answer."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import mxnet as mx
import numpy as np
import pytest
from support.any_size import Net, features, pictures, texts

import mxtrt

PATIENCE = 300

SIZES = (40, 52, 36, 64)


def seconds(ask: Callable[[], Any]) -> float:
    """What it takes."""
    begin = time.perf_counter()
    ask()
    return time.perf_counter() - begin


@pytest.mark.parametrize("symbol", [pictures(), features()], ids=["pictures", "features"])
def test_mxnet_answers_at_other_sizes_until_their_engine_is_there(tmp_path, symbol, table):
    """Every answer is right; then the engine for ranges gives all of them."""
    net = Net(symbol, tmp_path, build="wait")
    first = seconds(lambda: net(1, 3, 32, 32))
    before = mxtrt.stats()
    slowest = max(seconds(lambda s=size: net(1, 3, s, s + 1)) for size in SIZES)
    assert mxtrt.stats().postponed > before.postponed
    for _ in range(3):  # what was asked for meanwhile is seen at the next request
        assert mxtrt.ready(timeout=PATIENCE)
        for size in SIZES:
            net(1, 3, size, size + 1)
    runs, builds = mxtrt.stats().engine_runs, mxtrt.stats().builds - before.builds
    table("other sizes", first=first, slowest=slowest, builds=builds)
    for size in SIZES:
        net(1, 3, size, size + 1)
    assert mxtrt.stats().engine_runs == runs + len(SIZES)
    assert builds <= 2
    assert mxtrt.stats().fallbacks == before.fallbacks


def test_no_bind_is_waited_for_with_background(tmp_path):
    """The first answer is MXNet's."""
    net = Net(texts(), tmp_path, build="background")
    before = mxtrt.stats()
    net(2, 12, 8)
    assert (mxtrt.stats().postponed, mxtrt.stats().engine_runs) == (
        before.postponed + 1,
        before.engine_runs,
    )
    assert mxtrt.ready(timeout=PATIENCE)
    net(2, 12, 8)
    assert mxtrt.stats().engine_runs == before.engine_runs + 1


def test_graphs_on_the_gpu_wait_for_their_engine(device, tmp_path):
    """MXNet may have no code for it."""
    net = Net(pictures(), tmp_path, device, build="background")
    before = mxtrt.stats()
    for size in (32, 40):
        net(1, 3, size, size)
    assert mxtrt.stats().postponed == before.postponed
    assert mxtrt.stats().fallbacks == before.fallbacks
    # More than two: the engine for ranges is compared with the first one at several sizes.
    assert mxtrt.stats().engine_runs >= before.engine_runs + 2


def test_weights_that_change_under_load_are_in_the_answers(tmp_path, table):
    """Those of threads that ask meanwhile are of the old weights or of the new."""
    net, shape = Net(pictures(), tmp_path, build="wait"), (1, 3, 48, 48)
    net(*shape)
    x = mx.nd.array(np.random.RandomState(0).rand(*shape))
    expected: list[np.ndarray[Any, Any]] = []
    answers: list[tuple[int, int, np.ndarray[Any, Any]]] = []
    times: list[float] = []
    ended = threading.Event()

    def right() -> np.ndarray[Any, Any]:
        with mxtrt.options(enabled=False):
            out: np.ndarray[Any, Any] = net.plain(x).asnumpy()
        return out

    def ask() -> None:
        with mxtrt.options(**net.options):
            while not ended.is_set():
                begin, seen = time.perf_counter(), len(expected)
                out = net.net(x).asnumpy()
                times.append(time.perf_counter() - begin)
                answers.append((seen, len(expected) + 1, out))

    expected.append(right())
    before = mxtrt.stats()
    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for seed in range(1, 4):
        time.sleep(0.2)
        net.change("dense_weight", seed)  # one write: no request sees a half of it
        expected.append(right())
        assert mxtrt.ready(timeout=PATIENCE)
    time.sleep(0.2)
    ended.set()
    for thread in threads:
        thread.join(PATIENCE)
    now = mxtrt.stats()
    table(
        "weights under load",
        requests=len(answers),
        slowest=max(times),
        postponed=now.postponed - before.postponed,
        rebuilds=now.rebuilds - before.rebuilds,
    )
    limit = 1e-4 * float(np.abs(expected).max())
    for begun, over, out in answers:
        near = [np.abs(out - one).max() <= limit for one in expected[max(begun - 1, 0) : over]]
        assert any(near), (begun, over, out)
    assert now.rebuilds > before.rebuilds
    runs = mxtrt.stats().engine_runs
    net(*shape)
    assert mxtrt.stats().engine_runs == runs + 1
