"""The faults that a user can meet, and a model that is served while they happen.

``docs/faults.md`` is this table for users.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mxnet as mx
import numpy as np
import pytest

import mxtrt
from mxtrt.engines.cache import EngineCache
from mxtrt.engines.onnxruntime import OnnxRuntime
from mxtrt.system.files import TEMPORARY
from mxtrt.trial.check import forget
from support import planted
from support.cached import cached
from support.conditions import full_disk, little_memory, read_only
from support.networks import assert_close, parameters, plain

X = mx.nd.array(np.random.RandomState(1).uniform(-1, 1, (2, 768)))

WAYS = ("executor", "block", "symbol")


def network(width: int) -> mx.sym.Symbol:
    """Two dense layers, and a BatchNorm: to MXNet its inference is a write to its statistics."""
    hidden = mx.sym.FullyConnected(mx.sym.var("data"), num_hidden=width, name="hidden")
    norm = mx.sym.BatchNorm(hidden, fix_gamma=False, name="norm")
    relu = mx.sym.Activation(norm, act_type="relu", name="relu")
    return mx.sym.FullyConnected(relu, num_hidden=10, name="dense")


class Scene:
    """A model, and the folders that mxtrt writes to while it serves it."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch, width: int = 64) -> None:
        self.patch = patch
        self.cache, self.spill = folder / "cache" / "engines", folder / "spill"
        self.symbol = network(width)
        self.args, self.aux = parameters(self.symbol, data=X.shape)
        self.expected = plain(self.symbol, self.args, self.aux, data=X)[0]
        self.arrays = {**self.args, **self.aux}
        self._before = {name: array.asnumpy() for name, array in self.arrays.items()}

    def plant(self, change: planted.Change) -> None:
        """Have the engine compute the relu otherwise."""
        planted.plant(self.patch, "Relu", change)

    def build(self, build: Any) -> None:
        """Have engines built this way."""
        self.patch.setattr(OnnxRuntime, "build", build)

    def request(self, way: str, **options: Any) -> None:
        """Serve the model, with the right answers, as if it were the first bind of a process."""
        forget()
        given = {
            "inline_below": 10**6,
            "cache_dir": str(self.cache.parent),
            "spill_dir": str(self.spill),
            **options,
        }
        with mxtrt.options(**given):
            serve = self.server(way)
            for _ in range(3):
                assert_close(serve(X), self.expected)

    def server(self, way: str) -> Callable[[mx.nd.NDArray], mx.nd.NDArray]:
        """The model, bound for data of the shape of ``X``; serves smaller batches too."""
        if way == "block":
            block = mx.gluon.SymbolBlock(self.symbol, [mx.sym.var("data")])
            for name, parameter in block.collect_params().items():
                parameter._load_init(self.arrays[name], mx.cpu())
            block.hybridize()
            return block
        symbol, args = self.symbol, {**self.args, "data": X}
        if way == "symbol":
            aux = dict(self.aux)
            symbol = symbol.optimize_for("TensorRT", args, aux, mx.cpu(), data_names="data")
            given = {name: args[name] for name in symbol.list_arguments()}
            states = {name: aux[name] for name in symbol.list_auxiliary_states()}
            first = symbol.bind(mx.cpu(), given, grad_req="null", aux_states=states)
        else:
            first = symbol.simple_bind(mx.cpu(), grad_req="null", data=X.shape)
            first.copy_params_from(self.args, self.aux)

        def serve(data: mx.nd.NDArray) -> mx.nd.NDArray:
            executor = first if data.shape == X.shape else first.reshape(data=data.shape)
            return executor.forward(data=data)[0].copy()

        return serve

    def entries(self) -> list[Path]:
        """Engines in the cache."""
        return sorted(self.cache.glob("*.engine"))

    def check_nothing_is_lost(self) -> None:
        """The user's arrays are as they were, and every file is whole."""
        for name, array in self.arrays.items():
            assert np.array_equal(array.asnumpy(), self._before[name])
        files = [path for folder in (self.cache, self.spill) for path in folder.glob("*")]
        assert [path for path in files if path.name.endswith(TEMPORARY)] == []
        assert all(path.suffix in (".engine", ".lock") for path in files)
        cache = EngineCache(str(self.cache.parent), 1 << 30)
        assert all(cache.load(entry.stem) is not None for entry in self.entries())


Happens = Callable[[Scene], contextlib.AbstractContextManager[Any]]


@dataclass(frozen=True)
class Fault:
    """One row.

    Attributes:
        happens: Makes it happen while the block runs.
        tells: What the user is told, once; None for nothing.
        options: Of the bind.
        ways: In which the model is served.
        width: Of the network.
        is_engine_lost: Whether MXNet answers in the engine's place.
    """

    happens: Happens
    tells: str | None
    options: dict[str, Any] = field(default_factory=dict)
    ways: tuple[str, ...] = WAYS
    width: int = 64
    is_engine_lost: bool = False


def planting(change: planted.Change) -> Happens:
    """The engine computes something else, or nothing."""

    def happens(scene: Scene) -> contextlib.AbstractContextManager[Any]:
        scene.plant(change)
        return contextlib.nullcontext()

    return happens


def building(build: Callable[[Any], Any]) -> Happens:
    """Engines are built another way."""

    def happens(scene: Scene) -> contextlib.AbstractContextManager[Any]:
        scene.build(build(OnnxRuntime.build))
        return contextlib.nullcontext()

    return happens


def out_of_memory(original: Any) -> Any:
    """A build for which there is no memory."""

    def build(self: Any, request: Any) -> Any:
        with little_memory(1 << 20):
            return original(self, request)

    return build


def raising(error: Exception) -> Callable[[Any], Any]:
    """A build that raises."""

    def build(self: Any, request: Any) -> Any:
        raise type(error)(*error.args)  # a new one: it keeps what it went through

    return lambda _: build


def caching(body: Callable[[Scene], contextlib.AbstractContextManager[Any]]) -> Happens:
    """The engine is kept in the cache, and then this happens."""

    def happens(scene: Scene) -> contextlib.AbstractContextManager[Any]:
        scene.cache.mkdir(parents=True, mode=0o700)
        scene.build(cached())
        return body(scene)

    return happens


@contextlib.contextmanager
def filled(scene: Scene) -> Iterator[None]:
    """The cache has the engine; it is not built again."""
    scene.request("executor")
    (entry,) = scene.entries()
    before = entry.stat().st_ino
    yield
    assert [path.stat().st_ino for path in scene.entries()] == [before]


@contextlib.contextmanager
def damaged(scene: Scene) -> Iterator[None]:
    """The last byte of the engine in the cache is another one."""
    scene.request("executor")
    (entry,) = scene.entries()
    damage(entry, -1)
    yield


def damage(entry: Path, place: int) -> None:
    """Turn the bits of one byte over."""
    content = bytearray(entry.read_bytes())
    content[place] ^= 0xFF
    entry.write_bytes(content)


@contextlib.contextmanager
def read_only_and_filled(scene: Scene) -> Iterator[None]:
    """The cache came with an image, for example."""
    with filled(scene), read_only(scene.cache):
        yield


@contextlib.contextmanager
def of_another_time(scene: Scene, seconds: float) -> Iterator[None]:
    """Every file in the cache is of another time, half-written ones too."""
    scene.request("executor")
    (scene.cache / f".left{TEMPORARY}").write_bytes(b"half")
    (scene.cache / "other.engine").write_bytes(scene.entries()[0].read_bytes())
    (entry,) = [path for path in scene.entries() if path.stem != "other"]
    entry.unlink()
    then = time.time() + seconds
    for path in scene.cache.iterdir():
        os.utime(path, (then, then))
    yield
    assert entry.exists()


YEAR = 365 * 86400.0

FAULTS = {
    "engine build error": Fault(
        planting(planted.unbuildable),
        "the graph runs as plain MXNet: ONNX Runtime: This is an invalid model.*NoSuchOperator",
        is_engine_lost=True,
    ),
    "engine build raises anything": Fault(
        building(raising(ZeroDivisionError("division by zero"))),
        "the graph runs as plain MXNet: ZeroDivisionError: division by zero$",
        is_engine_lost=True,
    ),
    "wrong result": Fault(
        planting(lambda emit, _, inputs, outputs: emit("Identity", inputs, outputs)),
        "relu stays in MXNet: verify: with it the engine is .* tolerances from MXNet's answer",
        {"verify": True},
    ),
    "run-time error": Fault(
        planting(planted.failing),
        "failed at run time, MXNet's operators take over: ONNX Runtime: .*out of data bounds",
        ways=("executor", "block"),
        is_engine_lost=True,
    ),
    "out of memory at build": Fault(
        building(out_of_memory),
        "the graph runs as plain MXNet: ONNX Runtime: .*(bad_alloc|allocate)",
        width=12288,  # more than the C library keeps
        is_engine_lost=True,
    ),
    "out of memory at run": Fault(
        planting(planted.unfillable),
        "MXNet's operators take over: ONNX Runtime: .*Failed to allocate memory.* 70368744177664$",
        ways=("executor", "block"),
        is_engine_lost=True,
    ),
    "corrupted cache": Fault(
        caching(damaged),
        r"the cached engine .*\.engine is damaged and is built again",
    ),
    "read-only cache directory": Fault(
        caching(lambda scene: read_only(scene.cache)),
        "the engine is not kept: .*Permission denied",
    ),
    "read-only cache directory with the engine": Fault(caching(read_only_and_filled), None),
    "disk full: cache": Fault(
        caching(lambda _: full_disk(100)),
        "the engine is not kept: .*File too large",
        {"release_weights": False},
    ),
    "disk full: weights": Fault(
        lambda _: full_disk(100),
        r"weights stay in MXNet's memory too: no spill file could be written \(.*File too large\); "
        "set spill_dir",
    ),
    "clock skew: files from the future": Fault(
        caching(lambda scene: of_another_time(scene, YEAR)), None, {"cache_size": "1"}
    ),
    "clock skew: files from the past": Fault(
        caching(lambda scene: of_another_time(scene, -YEAR)), None, {"cache_size": "1"}
    ),
}
