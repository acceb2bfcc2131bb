"""Engine nodes that see many input shapes: what they keep does not follow the number of shapes."""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from typing import Any

import mxnet as mx
import numpy as np
import pytest
from support.networks import assert_close

import mxtrt
from mxtrt.node import library
from mxtrt.plan import engine_node, variants
from mxtrt.plan.engine_node import EngineNode
from mxtrt.plan.plan import live_plans

MOST = 8


@pytest.fixture(autouse=True)
def few_variants(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nodes keep eight variants."""
    monkeypatch.setattr(variants, "_MOST_VARIANTS", MOST)


class Convolutions:
    """A fully convolutional block with engines.

    Args:
        options: Of the bind.
    """

    def __init__(self, channels: int = 4, **options: Any) -> None:
        before = set(live_plans())
        self.net = mx.gluon.nn.HybridSequential()
        self.net.add(mx.gluon.nn.Conv2D(4, 3), mx.gluon.nn.Conv2D(channels, 1))
        self.net.initialize(mx.init.Xavier())
        with mxtrt.options(enabled=False):
            self.plain = mx.gluon.SymbolBlock(
                self.net(mx.sym.var("data")), mx.sym.var("data"), self.net.collect_params()
            )
        self.net.hybridize()
        with mxtrt.options(**options):
            self.net(picture(8)).wait_to_read()
        (plan,) = set(live_plans()) - before
        (self.node,) = plan.nodes

    def __call__(self, x: mx.nd.NDArray) -> mx.nd.NDArray:
        return self.net(x)

    def is_right(self, x: mx.nd.NDArray) -> None:
        assert_close(self(x), self.plain(x))


def picture(size: int) -> mx.nd.NDArray:
    """A picture of that height."""
    return mx.nd.array(np.random.RandomState(size).rand(1, 3, size, 9))


@pytest.mark.parametrize("inline", [0, 10**6])
def test_variants_do_not_follow_the_number_of_shapes(inline):
    """A block at fifty sizes, twice: all right, all in the engine, eight of them known."""
    block = Convolutions(inline_below=inline)
    before = mxtrt.stats()
    for size in [*range(8, 58), *range(8, 58)]:
        block.is_right(picture(size))
        assert len(block.node.variants) <= MOST
    after = mxtrt.stats()
    assert (after.fallbacks, after.builds) == (before.fallbacks, before.builds)
    assert after.engine_runs == before.engine_runs + 100


def test_a_node_knows_how_long_its_last_run_took():
    """Of the shapes that it ran last; a node that is gone knows nothing."""
    block = Convolutions(build="foreground")
    key = block.node.key
    assert library().last_run(-1) == 0
    small = library().last_run(key)
    large = mx.nd.ones((16, 3, 400, 400))
    block(large).wait_to_read()
    assert 0 < small < library().last_run(key) < 60


def test_shapes_of_live_executors_are_kept():
    """Whatever else is asked for."""
    weights = {"a_weight": mx.nd.random.uniform(shape=(4, 8))}
    symbol = mx.sym.FullyConnected(mx.sym.var("data"), num_hidden=4, no_bias=True, name="a")
    with mxtrt.options(inline_below=0):
        executor = symbol.bind(mx.cpu(), {"data": mx.nd.ones((2, 8)), **weights}, grad_req="null")
    (node,) = executor._mxtrt.symbol.plan.nodes
    for rows in range(3, 40):
        node.infer(((rows, 8),))
    assert ((2, 8),) in node.variants
    assert len(node.variants) <= MOST
    before = mxtrt.stats().engine_runs
    assert_close(executor.forward()[0], np.ones((2, 8)) @ weights["a_weight"].asnumpy().T)
    assert mxtrt.stats().engine_runs == before + 1


def forget(node: EngineNode, *shapes: tuple[int, ...]) -> None:
    """Have a node forget input shapes."""
    del node.variants._known[shapes]
    library().drop_variant(node.key, shapes)


def test_a_forward_at_shapes_that_were_forgotten_runs_in_the_engine():
    """MXNet does not ask for shapes that it has inferred before."""
    block, x = Convolutions(inline_below=0), picture(20)
    block.is_right(x)
    for _ in range(3):
        forget(block.node, x.shape)
        before = mxtrt.stats()
        block.is_right(x)
        after = mxtrt.stats()
        assert (after.engine_runs, after.fallbacks) == (before.engine_runs + 1, before.fallbacks)


@pytest.fixture
def building(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Takes a node's turn to build, as a thread does that builds an engine, until the test ends."""
    monkeypatch.setattr(engine_node, "_PATIENCE", 0.01)
    end, begun, threads = threading.Event(), threading.Event(), []

    def hold(node: EngineNode) -> None:
        def work() -> None:
            with node._building:
                begun.set()
                end.wait()

        threads.append(threading.Thread(target=work))
        threads[-1].start()
        begun.wait()

    yield hold
    end.set()
    for thread in threads:
        thread.join()


def test_a_forward_at_forgotten_shapes_does_not_wait_for_a_build(building):
    """The build may wait for the thread of MXNet's that runs the forward: MXNet answers."""
    block, x = Convolutions(inline_below=0), picture(20)
    block.is_right(x)
    forget(block.node, x.shape)
    building(block.node)
    before = mxtrt.stats().fallbacks
    block.is_right(x)
    assert mxtrt.stats().fallbacks == before + 1
    assert not block.node.state.retired


def test_models_go_with_the_sessions_that_were_built_of_them():
    """Where each length has a model of its own; what comes back is made anew."""
    data = mx.sym.var("data")
    places = mx.sym.contrib.arange_like(data, axis=1)
    symbol = mx.sym.broadcast_add(mx.sym.sqrt(data), mx.sym.cos(places))
    net = mx.gluon.SymbolBlock(symbol, data)
    net.hybridize()
    before = set(live_plans())
    for length in [*range(3, 20), *range(3, 20)]:
        x = mx.nd.ones((2, length))
        with mxtrt.options(max_engines=2):
            out = net(x)
        assert_close(out, 1 + np.cos(np.arange(length)) * np.ones((2, 1)))
    (plan,) = set(live_plans()) - before
    (node,) = plan.nodes
    assert node.report.built
    assert len(node.variants._models) <= len(node.live_sessions()) + 1 <= 3
    assert len(node.variants) <= MOST


def test_a_handful_of_shapes_in_turn_allocates_nothing():
    """The outputs of each are used again."""
    block = Convolutions(inline_below=10**6)
    pictures = [picture(size) for size in range(8, 14)]
    for _ in range(5):
        for x in pictures:
            block(x).wait_to_read()
    before = library().tally().allocations
    for _ in range(20):
        for x in pictures:
            block(x).wait_to_read()
    assert library().tally().allocations == before


def test_outputs_that_are_kept_do_not_follow_the_number_of_shapes(monkeypatch):
    """Sixty sizes of half a MiB to a MiB of outputs each: 16 MiB, and those of the last shape."""
    monkeypatch.setattr(variants, "_MOST_VARIANTS", 1000)
    gc.collect()
    mx.nd.waitall()
    before, largest = library().spare_bytes, 0
    block = Convolutions(channels=256, inline_below=10**6)
    for size in range(60, 120):
        out = [block(picture(size)) for _ in range(2)][1]  # MXNet asks for a new shape
        largest = max(largest, out.size * 4)
        assert library().spare_bytes - before <= (16 << 20) + 3 * largest
    assert library().spare_bytes - before > 8 << 20
    del block, out
    gc.collect()
    mx.nd.waitall()
    assert library().spare_bytes <= before
