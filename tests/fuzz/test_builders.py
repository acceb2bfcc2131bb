"""One builder for the processes of a campaign, with a stand-in for NVIDIA's package."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import onnx
import pytest

from mxtrt.engines.tensorrt.builder import Blueprint
from mxtrt.errors import EngineError, RefusedNodesError
from mxtrt_fuzz import builders


@pytest.fixture
def address(monkeypatch: pytest.MonkeyPatch, stand_in: str) -> Any:
    """Where a builder serves."""
    monkeypatch.syspath_prepend(stand_in)
    with builders.serving("tensorrt") as address:
        assert address is not None
        yield address


def build(address: builders.Address, name: str) -> int:
    """Build a graph of this name over a new connection; returns the process that did it."""
    model = onnx.ModelProto(graph=onnx.GraphProto(name=name)).SerializeToString()
    blueprint = Blueprint(model, ("first", "second"), "fp32", 0)
    plan, timings = builders.connected(address).build(blueprint, b"known", None)
    assert timings == b"known+"
    return int(plan)


def test_all_connections_build_in_one_process(address):
    """At once, too."""
    with ThreadPoolExecutor(4) as pool:
        processes = set(pool.map(lambda name: build(address, name), "abcd"))
    assert len(processes) == 1


def test_what_crashes_the_builder_fails_alone(address):
    """The next graph has another builder, and its errors are as those of an own one."""
    first = build(address, "one")
    with pytest.raises(EngineError, match="ended with SIGSEGV"):
        build(address, "crash")
    assert build(address, "two") != first
    with pytest.raises(RefusedNodesError) as refusal:
        build(address, "refused")
    assert refusal.value.reasons == {"second": "TensorRT's parser: no such operator"}


@pytest.mark.parametrize("engine", ["onnxruntime", "auto"])
def test_other_engines_need_no_builder(engine):
    """Nothing is started for them."""
    with builders.serving(engine) as address:
        assert address is None
