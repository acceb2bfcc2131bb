"""Processes that are killed while they write, and two that want the same engine."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import mxnet as mx
import numpy as np
import onnx
import pytest
from support.cached import cached
from support.faults import Scene, caching, filled

import mxtrt
from mxtrt.engines.cache import EngineCache
from mxtrt.offline import export
from mxtrt.system.files import TEMPORARY

ROOT = Path(mxtrt.__file__).parents[1]

START = f"""
import json, os, sys, time
sys.path[:0] = [{str(ROOT)!r}]
given = json.loads(sys.argv[1])

def stop(*_):
    print("here", flush=True)
    time.sleep(600)
"""

WRITE = """
import pathlib
from mxtrt.engines import cache
from mxtrt.system import files
build = pathlib.Path(given["plan"]).read_bytes
{change}
cache.EngineCache(given["folder"], 1 << 30).get_or_build(given["key"], build)
"""

HALF = """
class Half(files.NewFile):
    def publish(self, *args, **kwargs):
        self.stream.flush()
        os.truncate(self.path, self.path.stat().st_size // 2)
        stop()
files.NewFile = Half
"""

#: Where a process that keeps an engine stops, and whether a file without a name is there then.
POINTS = {
    "it builds": ("build = stop", False),
    "half is written": (HALF, True),
    "it is not on disk": ("os.fsync = stop", True),
    "it has no name": ("files.Path.replace = stop", True),
    "it makes room": ("cache.EngineCache._make_room = stop", False),
}

EXPORT = """
fsync, times = os.fsync, iter(range(given["point"]))
os.fsync = lambda handle: fsync(handle) if next(times, None) is not None else stop()
from mxtrt.offline import export
from mxtrt.cli import main
export.LARGE = 1024
sys.argv = ["mxtrt", "export", *given["arguments"]]
main()
"""

BUILD = """
def build():
    print("here", flush=True)
    while not os.path.exists(given["go"]):
        time.sleep(0.01)
    time.sleep(0.3)  # the other one is at the lock
    return pathlib.Path(given["plan"]).read_bytes()
"""


def start(code: str, **given: object) -> subprocess.Popen[str]:
    """A process of its own."""
    return subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", START + code, json.dumps(given)],
        stdout=subprocess.PIPE,
        text=True,
    )


def kill(process: subprocess.Popen[str]) -> None:
    """Kill -9 where it stops."""
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == "here\n"
        process.send_signal(signal.SIGKILL)


class Shared(NamedTuple):
    """An engine that another process is to build."""

    scene: Scene
    entry: Path
    whole: bytes
    given: dict[str, str]


@pytest.fixture
def shared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shared:
    """A model whose engine is known and no longer in the cache."""
    scene = Scene(tmp_path, monkeypatch)
    with caching(filled)(scene):
        pass
    (entry,) = scene.entries()
    whole = entry.read_bytes()
    folder, plan = scene.cache.parent, tmp_path / "plan"
    plan.write_bytes(EngineCache(str(folder), 1 << 30).load(entry.stem) or b"")
    entry.unlink()
    given = {"folder": str(folder), "key": entry.stem, "plan": str(plan)}
    return Shared(scene, entry, whole, {**given, "go": str(tmp_path / "go")})


@pytest.mark.parametrize("point", POINTS)
def test_a_process_is_killed_while_it_keeps_an_engine(shared, caplog, point):
    """The entry is whole or absent; the next process answers, and sweeps up."""
    change, is_left = POINTS[point]
    scene, entry, whole, given = shared
    kill(start(WRITE.format(change=change), **given))
    left = [path for path in scene.cache.iterdir() if path.name.endswith(TEMPORARY)]
    assert len(left) == is_left
    assert not entry.exists() or entry.read_bytes() == whole
    scene.request("executor")
    assert entry.read_bytes() == whole
    assert caplog.records == []
    assert mxtrt.last_report().segments
    scene.check_nothing_is_lost()


def test_two_processes_want_one_engine(shared, caplog):
    """The second waits for the first, reads its engine and answers."""
    scene, entry, whole, given = shared
    with start(WRITE.format(change=BUILD), **given) as other:
        assert other.stdout.readline() == "here\n"
        scene.build(cached(lambda: pytest.fail("it was built twice")))
        Path(given["go"]).touch()
        scene.request("executor")
        assert other.wait(60) == 0
    assert entry.read_bytes() == whole
    assert caplog.records == []
    scene.check_nothing_is_lost()


def test_a_process_that_never_finishes_is_not_waited_for_for_ever(shared, monkeypatch):
    """The second builds the engine itself."""
    scene, entry, whole, given = shared
    monkeypatch.setattr("mxtrt.engines.cache._PATIENCE", 0.2)
    other = start(WRITE.format(change=POINTS["it builds"][0]), **given)
    try:
        assert other.stdout.readline() == "here\n"
        scene.request("executor")
        assert entry.read_bytes() == whole
        assert mxtrt.last_report().segments
    finally:
        other.kill()
        other.communicate()
    scene.check_nothing_is_lost()


@pytest.mark.parametrize(
    ("point", "left"),
    [
        pytest.param(0, [TEMPORARY], marks=pytest.mark.slow, id="weights"),
        pytest.param(1, [".data", TEMPORARY], id="model"),
    ],
)
def test_a_process_is_killed_while_it_exports(tmp_path, monkeypatch, point, left):
    """The older model is whole; the next export leaves nothing but its own files."""
    symbol = mx.sym.FullyConnected(mx.sym.var("data"), num_hidden=64, name="dense")
    older, newer = (
        {"dense_weight": mx.nd.random.uniform(shape=(64, 32)), "dense_bias": mx.nd.zeros((64,))}
        for _ in range(2)
    )
    model, params, folder = tmp_path / "net-symbol.json", tmp_path / "net.params", tmp_path / "out"
    folder.mkdir()
    symbol.save(str(model))
    mx.nd.save(str(params), {f"arg:{name}": array for name, array in newer.items()})
    monkeypatch.setattr(export, "LARGE", 1024)
    path = folder / "out.onnx"
    export.export_onnx(symbol, older, {"data": (1, 32)}, path)
    files = set(folder.iterdir())
    given = [model, "--params", params, "--shape", "data:1,32", "--onnx", path]
    kill(start(EXPORT, point=point, arguments=[str(one) for one in given]))
    assert sorted(file.suffix for file in set(folder.iterdir()) - files) == left
    check(path, older)
    export.export_onnx(symbol, newer, {"data": (1, 32)}, path)
    check(path, newer)
    assert sorted(file.suffix for file in folder.iterdir()) == [".data", ".onnx"]


def check(path: Path, args: dict[str, mx.nd.NDArray]) -> None:
    """The model in a file is a dense layer with these weights."""
    onnx.checker.check_model(str(path), full_check=True)
    values = {t.name: onnx.numpy_helper.to_array(t) for t in onnx.load(path).graph.initializer}
    assert values.keys() == args.keys()
    for name, value in values.items():
        np.testing.assert_array_equal(value, args[name].asnumpy())
