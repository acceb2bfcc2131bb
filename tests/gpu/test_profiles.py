"""TensorRT engines for ranges of shapes, on a GPU."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any

import mxnet as mx
import pytest
from support.any_size import DATA, Net, features, pictures, texts
from support.process import run

import mxtrt
from mxtrt.engines.tensorrt.runtime import LoadedEngine
from mxtrt.plan.plan import live_plans


@pytest.fixture(params=["cpu", "gpu"])
def place(request: pytest.FixtureRequest) -> Any:
    """The context of the arrays."""
    if request.param == "gpu":
        return request.getfixturevalue("device")
    return mx.cpu()


@pytest.mark.parametrize("symbol", [pictures(), features()], ids=["pictures", "features"])
def test_random_sizes_have_a_handful_of_engines(place, tmp_path, symbol, table):
    """All answers right, in engines."""
    net, drawn = Net(symbol, tmp_path, place), random.Random(2)
    before = mxtrt.stats()
    for _ in range(60):
        net(1, 3, drawn.randint(16, 64), drawn.randint(16, 64))
    after = mxtrt.stats()
    table("builds", network=str(symbol), builds=after.builds - before.builds)
    assert after.builds - before.builds <= 3
    assert after.fallbacks == before.fallbacks
    assert len(net.node.live_sessions()) == 1
    assert not any("goes through Python" in note for note in net.node.report.notes)


@pytest.mark.parametrize("precision", ["fp32", "tf32"])
def test_texts_of_any_length_are_right(tmp_path, precision, table):
    """In two engines, or in one for each length where TensorRT gets the one for all wrong."""
    net = Net(texts(), tmp_path, precision=precision)
    before = mxtrt.stats()
    for length in (12, 17, 9, 24, 12, 7, 30, 21, 6, 13):
        net(2, length, 8)
    after = mxtrt.stats()
    note = net.node.report.notes[-1]
    table("texts", precision=precision, builds=after.builds - before.builds, note=note)
    assert after.fallbacks == before.fallbacks
    if note.startswith("one engine for data 2x("):
        assert after.builds - before.builds == 2
    else:
        assert note.startswith("every input shape has an engine of its own: its answer at "), note


def test_graphs_of_one_shape_are_not_run_at_another(place, tmp_path):
    """What was recorded at a shape and what comes back to it gives the same bits."""
    net = Net(pictures(), tmp_path, place)
    shapes = [(1, 3, 32, 32), (1, 3, 40, 24), (2, 3, 33, 35)]
    for shape in shapes:
        net(*shape)
    first = {shape: net(*shape).asnumpy() for shape in shapes}
    drawn = random.Random(4)
    for _ in range(60):
        shape = drawn.choice(shapes)
        for _ in range(drawn.randint(1, 5)):
            assert net(*shape).asnumpy().tobytes() == first[shape].tobytes()


def test_profiles_that_overlap_run_in_turns(place, tmp_path):
    """Several contexts of one engine, each at shapes of its own."""
    net = Net(pictures(), tmp_path, place, shapes="data:1-8,3,16-256,16-256")
    sides = [17, 40, 90, 250]
    first: dict[int, bytes] = {}
    for _ in range(5):
        for side in sides:
            for _ in range(3):
                seen = net(1, 3, side, side).asnumpy().tobytes()
                assert first.setdefault(side, seen) == seen
    assert len({net.node.variants[((1, 3, side, side),)].ranges for side in sides}) == 1
    (ranges,) = {net.node.variants[((1, 3, side, side),)].ranges for side in sides}
    assert len({ranges.place(((1, 3, side, side),)) for side in sides}) > 1


def test_two_binds_share_one_engine_for_ranges(tmp_path):
    """Its weights are there once, and each finds the contexts at the other's shapes."""
    loaded: set[int] = set()
    nets = [Net(pictures(), tmp_path, shapes="data:1,3,16-64,16-64") for _ in range(2)]
    for size in (32, 48, 32, 20):
        for net in nets:
            for _ in range(3):
                net(1, 3, size, size)
    for plan in live_plans():
        if plan.options.cache_dir == str(tmp_path):
            loaded |= {id(session.gpu_memory) for session in plan.sessions()}
    assert len(loaded) == 1


def test_shapes_outside_of_the_option_run_in_mxnet(tmp_path, caplog):
    """With one sentence."""
    net = Net(pictures(), tmp_path, shapes="data:1-4,3,16/32/64,16/32/64")
    net(2, 3, 20, 20)
    runs = mxtrt.stats().engine_runs
    net(2, 3, 80, 20)
    assert mxtrt.stats().engine_runs == runs
    assert "outside of option shapes" in caplog.text


def test_a_profile_that_the_memory_refuses_leaves_an_engine_per_shape(tmp_path):
    """TensorRT has no tensors of more than two billion numbers."""
    net = Net(features(), tmp_path, shapes="data:1,3,16-30000,16-30000")
    net(1, 3, 32, 32)
    (note,) = [n for n in net.node.report.notes if n.startswith("every input shape has an engine")]
    assert len(note) > 60
    net(1, 3, 40, 40)


def test_ranges_that_memory_refuses_are_tried_narrower(tmp_path, monkeypatch):
    """The engine is then for what was seen."""
    load = LoadedEngine.contexts

    def contexts(loaded: LoadedEngine, request: Any) -> Any:
        if request.ranges.largest[0][2] > 50:
            raise mxtrt.errors.EngineError("out of memory")
        return load(loaded, request)

    monkeypatch.setattr(LoadedEngine, "contexts", contexts)
    net = Net(pictures(), tmp_path)
    for size in (32, 40, 36):
        net(1, 3, size, size)
    assert "the ranges of shapes are narrow: out of memory" in net.node.report.notes


def test_the_second_process_builds_nothing(tmp_path, table: Callable[..., None]):
    """Its first engine serves what the first process learned, whatever its first shape."""
    script = """
        import json, os, time
        import mxtrt, mxnet as mx, numpy as np
        from mxnet.gluon import nn

        mx.random.seed(5)
        net = nn.HybridSequential()
        net.add(nn.Conv2D(16, 3, strides=2, activation="relu"), nn.Conv2D(16, 3))
        net.add(nn.GlobalAvgPool2D(), nn.Dense(10))
        net.initialize(mx.init.Xavier())
        net(mx.nd.ones((1, 3, 32, 32)))
        net.hybridize()
        with mxtrt.options(engine="tensorrt", cache_dir=os.environ["FOLDER"]):
            begin = time.perf_counter()
            for size in map(int, os.environ["SIZES"].split()):
                out = net(mx.nd.ones((1, 3, size, size + 1)))
                out.wait_to_read()
            seconds = time.perf_counter() - begin
        now = mxtrt.stats()
        print(json.dumps([now.cache_misses, now.fallbacks, seconds]))
    """
    told = []
    for sizes in ((32, 48, 40), (50, 30, 64)):
        done = run(script, FOLDER=str(tmp_path), SIZES=" ".join(map(str, sizes)))
        assert done.returncode == 0, done.stderr
        told.append(json.loads(done.stdout))
    table("ranges kept", first=str(told[0]), second=str(told[1]))
    assert told[0][:2] == [2, 0]
    assert told[1][:2] == [0, 0]


def test_weights_are_in_the_memory_of_the_gpu_once(tmp_path, table: Callable[..., None]):
    """The ledger counts what all profiles of the engine hold."""
    x = mx.sym.Convolution(DATA, kernel=(3, 3), num_filter=512, name="one")
    x = mx.sym.Convolution(x, kernel=(3, 3), num_filter=512, name="two")
    net = Net(mx.sym.Pooling(x, global_pool=True, pool_type="avg"), tmp_path)

    def held() -> int:
        return sum(
            holding.bytes
            for holding in mxtrt.memory().holdings
            if holding.owner == net.node.report.name and holding.what == "engine"
        )

    net(1, 3, 32, 32)
    static = held()
    for size in (40, 200, 16):
        net(1, 3, size, size)
    table("memory of the engine", static=static, ranges=held())
    assert len(net.node.live_sessions()) == 1
    assert held() < 3 * static
