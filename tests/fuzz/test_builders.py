"""The builders of all processes of a campaign, with a stand-in for NVIDIA's package."""

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
    """Where builders serve."""
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


def test_a_builder_that_is_free_builds_next(address):
    """Warm as it is, over whatever connection."""
    assert len({build(address, name) for name in "abcd"}) == 1


def test_no_more_build_at_once_than_there_are_builders(address):
    """The others wait for their turn."""
    with ThreadPoolExecutor(3 * builders.BUILDERS) as pool:
        names = ["takes long"] * builders.BUILDERS + list("abcdefgh")
        processes = set(pool.map(lambda name: build(address, name), names))
    assert len(processes) == builders.BUILDERS


def test_what_crashes_a_builder_fails_alone(address):
    """The next graph has another one, and its errors are as those of an own one."""
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
