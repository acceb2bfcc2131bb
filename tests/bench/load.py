"""The sides of the suite ``load``: plain MXNet, mxtrt, and the engine alone, under many threads.

The engine alone is ONNX Runtime or TensorRT with the weights that mxtrt has.  ONNX Runtime is
called from Python's threads: its ``run`` lets go of the interpreter's lock.  Runs of TensorRT are
so short that the lock would be what is measured: they are recorded, and launched from C.
"""

from __future__ import annotations

import ctypes
import functools
import itertools
import tempfile
import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mxnet as mx
import numpy as np
from bench.driven import DrivenLoop, Recorded
from bench.harness import Bench, executor_of
from support.zoo import network

import mxtrt
from mxtrt.engines import BuildRequest
from mxtrt.engines.tensorrt.runtime import LoadedEngine
from mxtrt.offline.export import export_onnx
from mxtrt.perf.counters import count_load
from mxtrt.perf.load import Burst, ClosedLoop, Load, Loop, figures_of
from mxtrt.perf.runs import Benchmark
from mxtrt.timing.paired import Duet

THREADS = (1, 2, 4, 8, 16)
#: How threads share a network: an executor each, or one hybridized block.
WAYS = ("executors", "block")

_FEWEST_ROUNDS = 8
_BURSTS_FOR_LANES, _STILL_BURSTS = 40, 3

Calls = list[Callable[[], object]]


@dataclass(frozen=True)
class Subject:
    """What is asked for.

    Attributes:
        title: Its name in the report.
        network: Its name in the model zoo, or ``"mlp"``.
        shape: The shape of its input.
        requests: Requests of a burst.
        plain_requests: The same for plain MXNet, where that is much slower.
        precision: Option of mxtrt's side.
        on_gpu: Whether the arrays are on a GPU.
    """

    title: str
    network: str
    shape: tuple[int, ...]
    requests: int
    plain_requests: int
    precision: str = "fp32"
    on_gpu: bool = False

    @property
    def context(self) -> mx.Context:
        """Where the arrays are."""
        return mx.gpu() if self.on_gpu else mx.cpu()

    def inputs(self, count: int) -> list[mx.nd.NDArray]:
        """So many different ones."""
        random = np.random.default_rng(1)
        values = [random.uniform(-1, 1, self.shape).astype(np.float32) for _ in range(count)]
        return [mx.nd.array(value, ctx=self.context) for value in values]

    def make(self) -> mx.gluon.HybridBlock:
        """The network, with the same weights every time."""
        if self.network == "mlp":
            mx.random.seed(1)
            net = mx.gluon.nn.HybridSequential()
            for _ in range(3):
                net.add(mx.gluon.nn.Dense(256, activation="relu", in_units=256))
            net.collect_params().setattr("grad_req", "null")
            net.initialize(mx.init.Uniform(0.1))
        else:
            net = network(self.network, mx.nd.random.uniform(-1, 1, shape=self.shape))
        net.collect_params().reset_ctx(self.context)
        return net


#: Bursts are a tenth of a second or so on two cores.
ON_CPU = (
    Subject("mlp", "mlp", (1, 256), 500, 500),
    Subject("mobilenet0.25", "mobilenet0.25", (1, 3, 64, 64), 250, 20),
    Subject("resnet18_v1", "resnet18_v1", (1, 3, 64, 64), 16, 16),
)
ON_GPU = tuple(
    Subject(
        f"{name}-{precision}-{place}",
        name,
        (1, 3, 224, 224),
        requests,
        32,
        precision,
        place == "gpu",
    )
    for name, requests in (("resnet50_v1", 256), ("mobilenet1.0", 512))
    for precision in ("fp32", "fp16")
    for place in ("cpu", "gpu")
)


class Served:
    """A network bound for threads, as plain MXNet, mxtrt and an engine alone have it.

    Args:
        subject: The network.
        way: How the threads share it.
        bench: The fixture of the first benchmark that it is for.
    """

    def __init__(self, subject: Subject, way: str, bench: Bench) -> None:
        self._subject, self._way, self._bench = subject, way, bench
        self._nets: dict[bool, mx.gluon.HybridBlock] = {}
        self._calls: dict[bool, Calls] = {False: [], True: []}
        self._inputs = subject.inputs(max(THREADS))
        self._session: Any = None
        self._engine: tuple[LoadedEngine, BuildRequest] | None = None
        # Threads of plain MXNet that push operators which write to the same arrays, as BatchNorm
        # does, bring its engine to a stop: a service has a lock there.
        self._pushing = threading.Lock()

    def plain(self, threads: int) -> ClosedLoop:
        """The loop of plain MXNet."""
        with mxtrt.options(enabled=False):
            return ClosedLoop(self._grown(False, threads), self._subject.plain_requests)

    def ours(self, threads: int, built: Sequence[Any]) -> ClosedLoop:
        """The loop of mxtrt.

        Args:
            threads: Threads of it.
            built: The fixture that knows TensorRT's engines of this test.
        """
        with self._bench.binding(), mxtrt.options(precision=self._subject.precision):
            calls = self._grown(True, threads)
        self._engine = built[-1] if built else self._engine
        return ClosedLoop(calls, self._subject.requests)

    def _grown(self, ours: bool, threads: int) -> Calls:
        """Binds what is not bound yet, while no request is under way."""
        calls = self._calls[ours]
        if ours not in self._nets:
            self._nets[ours] = self._subject.make()
            self._nets[ours].hybridize()
        for x in self._inputs[len(calls) : threads]:
            calls.append(self._call(self._nets[ours], x, nullcontext() if ours else self._pushing))
            calls[-1]()
        return calls[:threads]

    def _call(
        self, net: mx.gluon.HybridBlock, x: mx.nd.NDArray, pushing: AbstractContextManager[Any]
    ) -> Callable[[], object]:
        if self._way == "executors":
            executor = executor_of(net, x)
            return lambda: executor.forward()[0].wait_to_read()

        def call() -> None:
            with pushing:
                output = net(x)
            output.wait_to_read()

        return call

    def bare_onnxruntime(self, threads: int) -> ClosedLoop:
        """The loop of one session of ONNX Runtime, which all threads share."""
        if self._session is None:
            import onnxruntime

            net = self._subject.make()
            values = {name: p.data() for name, p in net.collect_params().items()}
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = self._bench.settings.threads
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "model.onnx"
                shapes = {"data": self._subject.shape}
                export_onnx(net(mx.sym.var("data")), values, shapes, path)
                self._session = onnxruntime.InferenceSession(path, options)
        feeds = [{"data": x.asnumpy()} for x in self._inputs[:threads]]
        calls = [functools.partial(self._session.run, None, feed) for feed in feeds]
        return ClosedLoop(calls, self._subject.requests)

    def bare_tensorrt(self, threads: int, driver: ctypes.CDLL) -> DrivenLoop:
        """The loop of TensorRT's engine, with a context, a stream and memory for each thread.

        Args:
            threads: Threads of C that launch it.
            driver: The loop in C.
        """
        assert self._engine is not None
        on_host = not self._subject.on_gpu
        with ExitStack() as stack:  # in case that there is memory for some only
            runs = []
            for _ in range(threads):
                runs.append(recorded(*self._engine, on_host=on_host))
                stack.callback(runs[-1].close)
            stack.pop_all()
        return DrivenLoop(driver, runs, self._subject.requests)


def recorded(loaded: LoadedEngine, request: BuildRequest, *, on_host: bool) -> Recorded:
    """A run of an engine in a context of its own.

    Args:
        loaded: The engine.
        request: What a bind asked for.
        on_host: Whether the data is in host memory.
    """
    sizes = ([t.nbytes for t in tensors] for tensors in (request.inputs, request.outputs))
    return Recorded(loaded.context(request), *sizes, loaded.scratch, on_host=on_host)


class PerRequest:
    """A clock of the time that bursts take, divided by their requests."""

    def __init__(self) -> None:
        self._now = 0.0

    def __call__(self) -> float:
        """Seconds."""
        return self._now

    def timed(self, loop: Loop) -> Callable[[], None]:
        """A call of a loop that this clock sees."""

        def call() -> None:
            loop()
            burst: Burst = loop.bursts[-1]
            self._now += burst.seconds / len(burst.latencies)

        return call


def _until_no_lane_is_opened(loop: Loop) -> None:
    """Send bursts: what overlaps opens lanes, in the background."""
    still = 0
    for _ in range(_BURSTS_FOR_LANES):
        before = mxtrt.stats().lanes
        loop()
        still = still + 1 if mxtrt.stats().lanes == before else 0
        if still == _STILL_BURSTS:
            return


def measure(
    bench: Bench,
    name: str,
    threads: int,
    loops: dict[str, Loop],
    lacks: list[str],
) -> Benchmark:
    """Count what mxtrt's loop does, and measure all loops in turns.

    The paired figures are times per request: their ratio is that of the requests per second.

    Args:
        bench: The fixture.
        name: Name of the benchmark.
        threads: Threads of each loop.
        loops: ``"mxtrt"``, and ``"plain"`` and ``"bare"`` if there are such.
        lacks: Why one is missing.
    """
    ours, plain, bare = loops["mxtrt"], loops.get("plain"), loops.get("bare")
    counters = count_load(ours, on_gpu=bench.settings.gpu)
    if bench.settings.counters_only:
        bench.drive(name, ours)
        return bench.found(name, Benchmark(counters))
    rounds = max(_FEWEST_ROUNDS, round(bench.settings.seconds))
    duet = None
    if plain is not None:
        clock = PerRequest()
        sides = clock.timed(plain), clock.timed(ours)
        duet = Duet(*sides, seconds=0, warmup=1, fewest=rounds, clock=clock)
    if bare is not None:
        bare()
    _until_no_lane_is_opened(ours)
    for loop in loops.values():
        loop.bursts.clear()  # the first ones were to warm up

    places = itertools.count()

    def before() -> None:
        if duet is not None:
            duet.before()
        # Where it comes between no two bursts that are compared: A B, here, B A, A A.
        if bare is not None and next(places) % 2:
            bare()
            bare()

    if duet is None:
        bench.drive(name, ours, before, rounds)
    else:
        bench.drive(name, duet.call, before, duet.rounds)
    paired = None if duet is None else duet.result()
    sides_seen = {side: figures_of(loop.bursts) for side, loop in loops.items()}
    found = Load(threads, sides_seen, tuple(lacks))
    return bench.found(name, Benchmark(counters, paired, {"load": found.to_dict()}))
