"""The contexts of a TensorRT engine for ranges of shapes, with stand-ins for engine and GPU."""

from __future__ import annotations

import gc
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from support.tensorrt import X, batches, request_for

from mxtrt.engines.base import MemoryTally
from mxtrt.engines.tensorrt import runtime
from mxtrt.engines.tensorrt.runtime import LoadedEngine
from mxtrt.errors import EngineError


class Context:
    """A context that notes what it is told, and takes no batch of 13."""

    active_optimization_profile = -1

    def __init__(self, log: list[Any]) -> None:
        self.log = log

    def set_optimization_profile_async(self, place: int, stream: int) -> bool:
        self.active_optimization_profile = place
        return True

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self.log.append((self.active_optimization_profile, shape[0]))
        return shape[0] != 13

    def set_tensor_address(self, name: str, address: int) -> bool:
        return True

    def execute_async_v3(self, stream: int) -> bool:
        self.log.append("run")
        return True


@pytest.fixture
def log() -> list[Any]:
    """What contexts were told."""
    return []


@pytest.fixture(params=[False, True], ids=["as before 8.6", "as from 8.6 on"])
def loaded(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, log: list[Any]
) -> LoadedEngine:
    """An engine."""
    cuda = SimpleNamespace(make_current=lambda ordinal: None, stream=lambda ordinal: 1)
    monkeypatch.setattr(runtime, "library", lambda: SimpleNamespace(cuda=cuda))
    made: list[Context] = []

    def context() -> Context:
        made.append(Context(log))
        if len(made) == 1:
            made[0].active_optimization_profile = 0  # as TensorRT does
        return made[-1]

    engine = SimpleNamespace(
        device_memory_size=0,
        create_execution_context_without_device_memory=context,
        get_tensor_dtype=lambda name: np.float32,
    )
    trt = SimpleNamespace(nptype=lambda kind: kind)
    api = SimpleNamespace(
        trt=trt,
        forget_errors=lambda: None,
        errors=lambda: "no such shape",
        shares_profiles=request.param,
        profile_contexts=2,
    )
    tally = MemoryTally()
    where = SimpleNamespace(api=api, ordinal=0, counting=lambda tally: nullcontext())
    made_engine = LoadedEngine(where, engine, tally)  # type: ignore[arg-type]
    made_engine.made = made  # type: ignore[attr-defined]
    return made_engine


def run(contexts: Any, batch: int) -> int:
    """A run at a batch size."""
    place: int = contexts.enqueue_at([1, 2], [(batch, *X.shape[1:])], 0, 1)
    return place


def test_the_tightest_profile_runs_and_keeps_its_shapes(loaded, log):
    """Shapes are set where they change, and each context counts that."""
    contexts = loaded.contexts(request_for(batches((1, 2, 4), (1, 8, 16))))
    assert [run(contexts, batch) for batch in (2, 2, 9, 2, 4, 9)] == [0, 0, 1, 0, 2, 1]
    first, second, copy = 0, 1, loaded.made[2].active_optimization_profile
    assert log == [(first, 2), "run", "run", (second, 9), "run", "run", (copy, 4), "run", "run"]
    assert copy == (0 if loaded.runtime.api.shares_profiles else 2)
    assert list(contexts.changes) == [1, 1, 1, 0]


def test_the_shapes_used_least_lately_give_way(loaded, log):
    """Where there are more of them than contexts."""
    contexts = loaded.contexts(request_for(batches((1, 2, 16))))
    assert [run(contexts, batch) for batch in (2, 3, 2, 5, 2, 3)] == [0, 1, 0, 1, 0, 1]
    assert list(contexts.changes) == [1, 3]


def test_contexts_that_cannot_be_made_are_done_without(loaded, log):
    """The first ones serve."""
    contexts = loaded.contexts(request_for(batches((1, 2, 16))))
    loaded.engine.create_execution_context_without_device_memory = lambda: None
    assert [run(contexts, batch) for batch in (2, 3, 2)] == [0, 0, 0]


def test_sessions_of_an_engine_share_its_contexts(loaded):
    """As long as one of them lives."""
    request = request_for(batches((1, 2, 4)))
    contexts = loaded.contexts(request)
    assert loaded.contexts(request) is contexts
    assert len(loaded.made) == 1
    del contexts
    gc.collect()
    loaded.contexts(request)
    assert len(loaded.made) == 2


def test_shapes_that_no_profile_is_for_are_an_error(loaded):
    """So are those that TensorRT does not take; the next run sets its shapes."""
    contexts = loaded.contexts(request_for(batches((1, 2, 16))))
    with pytest.raises(EngineError, match="no profile of the engine is for input shapes"):
        run(contexts, 17)
    for batch in (4, 5):
        run(contexts, batch)
    with pytest.raises(EngineError, match=r"does not take the shape .* of v1: no such shape"):
        run(contexts, 13)
    assert list(contexts.changes) == [2, 1]
    assert [run(contexts, batch) for batch in (5, 4)] == [1, 0]
    assert list(contexts.changes) == [3, 1]
