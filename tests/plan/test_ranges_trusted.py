"""Requests at new sizes of ranges find the engine without a conversion, where that is safe."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import mxnet as mx
import numpy as np
import pytest
from support.ranged import DATA, Net, pictures, texts
from support.segments import segments_of

import mxtrt
from mxtrt.convert import segment as conversion
from mxtrt.engines import Weight
from mxtrt.engines.ranges import Profile, Ranges
from mxtrt.errors import EngineError
from mxtrt.graph.symbol import Graph, Inference
from mxtrt.plan import variants

PATIENCE = 60


@pytest.fixture
def conversions(monkeypatch) -> list[Graph]:
    """What is converted from now on."""
    seen: list[Graph] = []

    def record(graph: Graph, *args: Any, **options: Any) -> Any:
        seen.append(graph)
        return conversion.to_onnx(graph, *args, **options)

    monkeypatch.setattr(variants, "to_onnx", record)
    return seen


@pytest.mark.parametrize("build", ["wait", "foreground"])
@pytest.mark.parametrize("network", [pictures, texts])
def test_a_request_in_the_ranges_converts_nothing(ranged, tmp_path, conversions, build, network):
    """Neither does MXNet answer it."""
    net = Net(network(), tmp_path, build=build)

    def ask(size: int) -> None:
        net.is_right((1, 3, size, size + 3) if network is pictures else (1, size, 6))

    for size in (32, 120, 40):
        ask(size)
        assert mxtrt.ready(timeout=PATIENCE)
    mxtrt.system.background.submit(lambda: None, "the last job")
    assert mxtrt.ready(timeout=PATIENCE)
    before, builds = mxtrt.stats(), len(ranged.requests)
    conversions.clear()
    for size in (33, 57, 100, 86):
        ask(size)
    assert conversions == []
    assert (mxtrt.stats().postponed, mxtrt.stats().fallbacks) == (
        before.postponed,
        before.fallbacks,
    )
    assert len(ranged.requests) == builds


def test_sizes_at_which_the_model_differs_are_not_trusted(ranged, tmp_path):
    """A pooling that takes what is left at the end adds a border, at odd sizes."""
    x = mx.sym.Pooling(
        DATA, kernel=(2, 2), stride=(2, 2), pool_type="avg", pooling_convention="full", name="pool"
    )
    x = mx.sym.Convolution(x, kernel=(3, 3), num_filter=4, name="conv")
    net = Net(mx.sym.Activation(x, act_type="relu"), tmp_path, build="wait")
    before = mxtrt.stats().engine_failures
    for size in (32, 64, 48, 128, 33, 47, 64, 33, 97, 128):
        net.is_right((1, 3, size, size))
        assert mxtrt.ready(timeout=PATIENCE)
    assert mxtrt.stats().engine_failures == before


def test_sizes_of_one_are_not_trusted(ranged, tmp_path, conversions):
    """They are broadcast, and may be converted otherwise."""
    net = Net(pictures(), tmp_path, build="wait")
    for batch in (2, 4, 3):
        net.is_right((batch, 3, 32, 32))
        assert mxtrt.ready(timeout=PATIENCE)
    assert ranged.ranges[-1].smallest == ((1, 3, 32, 32),)
    conversions.clear()
    net.is_right((5, 3, 32, 32))
    assert conversions == []
    net.is_right((1, 3, 32, 32))
    assert conversions != []


def test_what_mxnet_does_not_accept_is_not_trusted(ranged, tmp_path):
    """Its own error is raised, and later requests are answered."""
    x = mx.sym.broadcast_add(DATA, mx.sym.var("other"))
    dense = mx.sym.FullyConnected(x, num_hidden=4, flatten=False, name="dense")
    net = Net(mx.sym.Activation(dense, act_type="relu"), tmp_path, "data", "other", build="wait")
    for rows in (4, 9, 6):
        net.is_right((rows, 8), (1, 8))
        assert mxtrt.ready(timeout=PATIENCE)
    with mxtrt.options(**net.options), pytest.raises(Exception, match=r"shape|broadcast"):
        net.net(mx.nd.ones((7, 8)), mx.nd.ones((1, 5))).wait_to_read()
    net.is_right((5, 8), (1, 8))


def test_sizes_follow_one_another_on_every_axis():
    """So that each remainder of a stride is there; short ranges are gone through again."""
    low, high = ((2, 3, 16, 20),), ((5, 3, 400, 600),)
    ranges = Ranges((Profile(low, low, high),), (((0, 0),), ((0, 2),), ((0, 3),)))
    shapes = [shape for (shape,) in ranges.spread(64)]
    assert {shape[0] for shape in shapes} == {2, 3, 4, 5}
    assert {shape[2] % 64 for shape in shapes} == set(range(64))
    assert {shape[3] % 64 for shape in shapes} == set(range(64))
    assert all(ranges.contains((shape,)) for shape in shapes)


def test_shapes_of_heads_are_inferred_as_mxnet_does():
    """Whatever the names of variables are, states included, and at any sizes."""

    def network(name: str) -> mx.sym.Symbol:
        x = mx.sym.Convolution(
            mx.sym.var(name), kernel=(3, 3), stride=(2, 2), num_filter=4, name="self"
        )
        return mx.sym.Group([mx.sym.BatchNorm(x, name="norm"), mx.sym.Flatten(x)])

    infer = Inference(Graph.of(network("partial")))  # a name of an argument of `infer_shape`
    for size in (8, 13):
        shape = (2, 3, size, 9)
        _, expected, _ = network("data").infer_shape(data=shape)
        assert list(infer({"partial": shape})) == expected
    with pytest.raises(EngineError, match="does not accept"):
        infer({"partial": (2, 3)})
    with pytest.raises(EngineError, match="needs to know more"):
        infer({})


def test_values_of_a_weight_stay_when_nothing_else_holds_it():
    """Those of an array on a GPU are a copy of their own."""

    class Array(np.ndarray):
        """One that can be watched."""

    (segment,) = segments_of(
        mx.sym.FullyConnected(DATA, num_hidden=2, name="dense"), {"data": (1, 2)}
    )
    kind = next(w for w in segment.weights if w.name == "dense_weight")
    array = np.arange(4, dtype=np.float32).reshape(2, 2).view(Array)
    gone = weakref.ref(array)
    values = Weight(kind, array.ctypes.data, array).values
    del array
    gc.collect()
    assert gone() is not None
    assert values.tolist() == [[0, 1], [2, 3]]
    del values
    gc.collect()
    assert gone() is None
