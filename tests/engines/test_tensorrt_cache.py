"""TensorRT and the cache of its engines, with stand-ins for its builder and its runtime."""

from __future__ import annotations

import logging
import threading
import weakref
from types import SimpleNamespace

import pytest
from support.tensorrt import batches, request_for

from mxtrt.engines.cache import EngineCache
from mxtrt.engines.tensorrt import engine, runtime
from mxtrt.engines.tensorrt.engine import TensorRT
from mxtrt.errors import EngineError


class Loaded:
    """A loaded engine."""


class Machine(TensorRT):
    """TensorRT where no GPU is: builds a serial number and loads what it does not refuse."""

    reason = "of another version"

    def __init__(self, *refused: bytes) -> None:
        self.built, self.refused = 0, refused
        self._runtimes = {0: SimpleNamespace(load=self._load_plan)}
        self._loaded = weakref.WeakValueDictionary()
        self._lock = threading.Lock()
        self._api = SimpleNamespace(profile_copies=1, range_features={})

    def _facts(self, ordinal):
        return ("stand-in", ordinal)

    def _build_plan(self, *_):
        self.built += 1
        return b"engine %d" % self.built

    def _load_plan(self, plan):
        if bytes(plan) in self.refused:
            raise EngineError(f"TensorRT did not load its engine: {self.reason}")
        return Loaded()


def test_a_cached_engine_that_tensorrt_refuses_is_built_again(tmp_path, caplog):
    """Once, with a warning; from then on the new one is found."""
    request = request_for(cache_dir=str(tmp_path))
    Machine()._load(request)
    (entry,) = (tmp_path / "engines").glob("*.engine")
    machine = Machine(b"engine 1")
    machine.built = 1
    machine._load(request)
    assert machine.built == 2
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "a cached engine does not load and is built again: TensorRT did" in record.getMessage()
    assert bytes(EngineCache(str(tmp_path), 1 << 20).load(entry.stem)) == b"engine 2"
    machine = Machine(b"engine 1")
    machine._load(request)
    assert machine.built == 0


def test_an_engine_for_ranges_is_told_by_its_bytes(tmp_path):
    """Another build of the same request may have other kernels."""
    request = request_for(batches((1, 2, 8)), cache_dir=str(tmp_path))
    loaded = Machine()._load(request)
    assert Machine()._load(request).content == loaded.content
    machine = Machine(b"engine 1")
    machine.built = 1
    assert machine._load(request).content not in ("", loaded.content)


def test_a_gpu_without_room_is_no_reason_to_build_again(tmp_path):
    """The engine is right, and stays in the cache."""
    request = request_for(cache_dir=str(tmp_path))
    Machine()._load(request)
    machine = Machine(b"engine 1")
    machine.reason = "Requested amount of GPU memory could not be allocated"
    with pytest.raises(EngineError, match="GPU memory"):
        machine._load(request)
    assert machine.built == 0
    machine = Machine()
    machine._load(request)
    assert machine.built == 0


def test_an_engine_that_was_just_built_is_not_built_twice(tmp_path):
    """What TensorRT says is the reason why the graph stays in MXNet."""
    machine = Machine(b"engine 1")
    with pytest.raises(EngineError, match="of another version"):
        machine._load(request_for(cache_dir=str(tmp_path)))
    assert machine.built == 1


@pytest.mark.parametrize("has_plugins", [True, False])
def test_plugins_are_registered_before_an_engine_is_loaded(monkeypatch, has_plugins):
    """The parser does it in the process that builds; TensorRT for RTX has none."""
    told = []
    trt = SimpleNamespace(Runtime=lambda logger: told.append("runtime") or SimpleNamespace())
    if has_plugins:
        trt.init_libnvinfer_plugins = lambda logger, namespace: told.append(f"plugins{namespace}")
    cuda = SimpleNamespace(make_current=lambda ordinal: None)
    monkeypatch.setattr(runtime, "library", lambda: SimpleNamespace(cuda=cuda))
    monkeypatch.setattr(runtime, "_make_allocator", lambda trt: None)
    runtime.Runtime(SimpleNamespace(trt=trt, logger=None), 0)
    assert told == ["plugins"] * has_plugins + ["runtime"]


@pytest.mark.parametrize(("needs_libraries", "starts"), [(True, False), (False, True)])
def test_a_full_gpu_is_not_started_on(monkeypatch, tmp_path, needs_libraries, starts):
    """Libraries that find no memory at their first start would fail for good; a later bind asks."""
    free = [100 << 20, 40 << 30]
    memory = SimpleNamespace(memory=lambda ordinal: SimpleNamespace(free=free[0]))
    monkeypatch.setattr(engine, "library", lambda: SimpleNamespace(cuda=memory))
    machine = Machine()
    machine.version, machine._api.needs_libraries = "8.5.3.1", needs_libraries
    runtime = machine._runtimes.pop(0)
    monkeypatch.setattr(engine, "Runtime", lambda api, ordinal: runtime)
    request = request_for(cache_dir=str(tmp_path))
    if not starts:
        said = "GPU 0 has 100 MiB of memory free and TensorRT 8.5.3.1 needs 1024 MiB to start"
        with pytest.raises(EngineError, match=said):
            machine._load(request)
        assert machine.built == 0
        del free[0]
    machine._load(request)
    assert machine.built == 1
