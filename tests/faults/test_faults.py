"""Each fault while a request is served: what was asked for is answered, nothing is lost."""

from __future__ import annotations

import logging
import re
import warnings
from typing import Any

import numpy as np
import pytest
from support.faults import FAULTS, WAYS, Scene, X, caching, damage, filled
from support.networks import assert_close

import mxtrt
from mxtrt.engines.cache import EngineCache
from mxtrt.engines.onnxruntime import OnnxRuntime
from mxtrt.errors import EngineError

ROWS = [(name, way) for name, fault in FAULTS.items() for way in fault.ways]


@pytest.mark.parametrize(("name", "way"), ROWS, ids=[f"{name}-{way}" for name, way in ROWS])
def test_the_request_is_answered(tmp_path, caplog, name, way):
    """With MXNet's numbers and at most one sentence; then, without the fault, by an engine."""
    fault = FAULTS[name]
    with (
        pytest.MonkeyPatch.context() as patch,
        caplog.at_level(logging.WARNING, "mxtrt"),
        warnings.catch_warnings(record=True) as warned,
    ):
        warnings.simplefilter("always", mxtrt.MxtrtWarning)
        scene = Scene(tmp_path, patch, fault.width)
        with fault.happens(scene):
            refused = mxtrt.stats()
            scene.request(way, **fault.options)
            report = mxtrt.last_report()
    told = [str(one.message) for one in warned]
    told += [record.getMessage() for record in caplog.records]
    assert len(told) == (fault.tells is not None), told
    assert fault.tells is None or re.search(fault.tells, told[0], re.DOTALL), told
    assert bool(report.segments) != fault.is_engine_lost
    now = mxtrt.stats()
    lost = now.refusals - refused.refusals + now.engine_failures - refused.engine_failures
    assert bool(lost) == fault.is_engine_lost
    scene.check_nothing_is_lost()
    scene.request(way)
    assert mxtrt.last_report().segments
    assert mxtrt.last_report().left == []
    scene.check_nothing_is_lost()


@pytest.mark.parametrize("way", WAYS)
def test_other_input_shapes_for_which_no_engine_builds(tmp_path, caplog, way):
    """They run in MXNet, said once and tried once; the engine for the others stays in use."""
    with pytest.MonkeyPatch.context() as patch:
        scene = Scene(tmp_path, patch)
        patch.setattr(OnnxRuntime, "static_shapes", True)
        original, tried = OnnxRuntime.build, []

        def build(self: Any, request: Any) -> Any:
            tried.append(request.inputs[0].shape)
            if request.inputs[0].shape != X.shape:
                raise EngineError("there is no room")
            return original(self, request)

        scene.build(build)
        smaller = X[:1].copy()
        with (
            mxtrt.options(spill_dir=str(scene.spill)),
            warnings.catch_warnings(record=True) as warned,
        ):
            warnings.simplefilter("always", mxtrt.MxtrtWarning)
            serve = scene.server(way)
            for _ in range(3):
                assert_close(serve(X), scene.expected)
                runs = mxtrt.stats().engine_runs
                assert_close(serve(smaller), scene.expected[:1])
                assert mxtrt.stats().engine_runs == runs
            assert_close(serve(X), scene.expected)
            assert mxtrt.stats().engine_runs == runs + 1
    assert tried == [X.shape, smaller.shape]
    told = [str(one.message) for one in warned]
    told += [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(told) == 1
    assert told[0].endswith("there is no room")
    scene.check_nothing_is_lost()


def test_a_cached_engine_with_any_byte_changed_is_built_again(tmp_path, caplog):
    """64 bytes: the whole header, and places all over the engine, its last byte included."""
    with pytest.MonkeyPatch.context() as patch:
        scene = Scene(tmp_path, patch)
        with caching(filled)(scene):
            pass
        (entry,) = scene.entries()
        whole = entry.read_bytes()
        header = len(whole) - len(EngineCache(str(scene.cache.parent), 1).load(entry.stem))
        places = [*range(header), *np.linspace(header, len(whole) - 1, 64 - header, dtype=int)]
        assert len(set(places)) == 64
        for place in places:
            damage(entry, place)
            caplog.clear()
            scene.request("executor")
            (record,) = caplog.records
            assert record.getMessage().endswith("is damaged and is built again")
            assert entry.read_bytes() == whole
    scene.check_nothing_is_lost()
