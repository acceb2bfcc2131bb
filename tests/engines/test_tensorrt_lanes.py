"""Other lanes and GPUs for a TensorRT engine whose runs overlap, with stand-ins for both."""

from __future__ import annotations

from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
from support.tensorrt import request_for

from mxtrt.engines.base import MemoryTally
from mxtrt.engines.tensorrt import engine, lanes, runtime
from mxtrt.engines.tensorrt.lanes import Lanes
from mxtrt.engines.tensorrt.runtime import Context, LoadedEngine
from mxtrt.errors import EngineError, NodeError
from mxtrt.observe.counters import stats


class Cuda:
    """What a session's lanes are asked of; it refuses some GPUs."""

    def __init__(self) -> None:
        self.opened: list[tuple[int, Any]] = []
        self.answers: list[bool] = []
        self.refused: set[int] = set()
        self.gone = False

    def current(self, ordinal: int) -> Any:
        return nullcontext()

    def make_current(self, ordinal: int) -> None:
        pass

    def count(self) -> int:
        return 3

    def lanes(self, session: int, ordinal: int) -> int:
        if self.gone:
            raise NodeError("no such session")
        return (ordinal == 0) + sum(gpu == ordinal for gpu, _ in self.opened)

    def open_lane(self, session: int, context: Any, ordinal: int, most: int) -> None:
        if ordinal in self.refused:
            raise NodeError("CUDA: out of memory")
        assert self.lanes(session, ordinal) < most
        self.opened.append((ordinal, context))

    def lane_answered(self, session: int, more: bool) -> None:
        self.answers.append(more)


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> Cuda:
    """The node, and jobs that are done at once."""
    made = Cuda()
    for module in lanes, runtime, engine:
        monkeypatch.setattr(module, "library", lambda: SimpleNamespace(cuda=made))
    monkeypatch.setattr(lanes, "submit", lambda work: work())
    return made


class Theirs:
    """A context of TensorRT's."""

    def __init__(self, gpu: int) -> None:
        self.gpu = gpu
        self.shapes: dict[str, tuple[int, ...]] = {}

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self.shapes[name] = shape
        return True


class Runtime:
    """TensorRT's runtime on a GPU."""

    def __init__(self, ordinal: int) -> None:
        self.ordinal = ordinal
        self.loads = 0
        self.api = SimpleNamespace(
            trt=None, forget_errors=lambda: None, errors=lambda: "no more contexts"
        )

    def load(self, plan: memoryview) -> LoadedEngine:
        assert bytes(plan) == b"the plan"
        self.loads += 1
        return loaded_on(self)

    def counting(self, tally: MemoryTally) -> Any:
        tally.bytes += 100
        return nullcontext()


def loaded_on(where: Runtime) -> LoadedEngine:
    """An engine on a GPU."""
    theirs = SimpleNamespace(
        device_memory_size=0,
        create_execution_context_without_device_memory=lambda: Theirs(where.ordinal),
        serialize=lambda: b"the plan",
    )
    return LoadedEngine(where, theirs, MemoryTally())  # type: ignore[arg-type]


@pytest.fixture
def runtimes() -> list[Runtime]:
    """Those of three GPUs."""
    return [Runtime(ordinal) for ordinal in range(3)]


@pytest.fixture
def home(cuda: Cuda, runtimes: list[Runtime]) -> Context:
    """A context on the first GPU."""
    loaded = loaded_on(runtimes[0])
    made = Context(loaded, loaded.make_context(), ["data", "out"])
    made.set_shapes([(2, 3)])
    return made


def test_lanes_are_spread_over_the_gpus(cuda, home, runtimes):
    """Each with a context of one engine for each GPU, at the shapes of the first one."""
    before = stats().lanes
    wanted = Lanes(home, (0, 1, 2), 2, runtimes.__getitem__)
    assert wanted.most == 6
    for _ in range(5):
        wanted.want(7)
    assert sorted(gpu for gpu, _ in cuda.opened) == [0, 1, 1, 2, 2]
    assert {gpu for gpu, _ in cuda.opened[:2]} == {1, 2}
    assert [one.loads for one in runtimes] == [0, 1, 1]
    assert all(context._context.gpu == gpu for gpu, context in cuda.opened)
    assert all(context._context.shapes == {"data": (2, 3)} for _, context in cuda.opened)
    assert cuda.answers == [True] * 5
    assert stats().lanes == before + 5
    held = home._loaded.tally
    assert {
        0: held.bytes,
        **{gpu: one.bytes for gpu, one in held.elsewhere.items()},
    } == dict.fromkeys(range(3), 200)


def test_a_gpu_that_refuses_leaves_the_lane_to_another(cuda, home, runtimes):
    """And where all do the session is told that there is no more."""
    wanted = Lanes(home, (0, 1), 2, runtimes.__getitem__)
    cuda.refused = {1}
    wanted.want(7)
    wanted.want(7)
    assert [gpu for gpu, _ in cuda.opened] == [0]
    assert cuda.answers == [True, False]


def test_an_engine_that_does_not_load_elsewhere_stays_where_it_is(cuda, home, runtimes):
    """With TensorRT's words in the log only."""

    def runtime_of(gpu: int) -> Any:
        if gpu:
            raise EngineError("GPU 1 is of another kind than GPU 0")
        return runtimes[gpu]

    wanted = Lanes(home, (0, 1), 2, runtime_of)
    wanted.want(7)
    assert [gpu for gpu, _ in cuda.opened] == [0]
    assert cuda.answers == [True]


def test_a_session_that_is_gone_gets_nothing(cuda, home, runtimes):
    """It was dropped before its lane was opened."""
    cuda.gone = True
    Lanes(home, (0, 1), 2, runtimes.__getitem__).want(7)
    assert cuda.opened == []
    assert cuda.answers == [False]


@pytest.mark.parametrize(
    ("gpu", "option", "expected"),
    [(None, "all", (0, 1, 2)), (None, "1,0", (1, 0)), (None, "0", (0,)), (2, "all", (2,))],
)
def test_graphs_on_the_cpu_run_on_the_gpus_of_the_option(cuda, gpu, option, expected):
    """One on a GPU runs there."""
    request = request_for(gpus=option)
    assert engine._gpus(SimpleNamespace(gpu=gpu, options=request.options)) == expected
