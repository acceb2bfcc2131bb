"""What the suites share: a run's settings, and what counts and measures a benchmark."""

from __future__ import annotations

import functools
import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mxnet as mx
import numpy as np
import pytest
from mxnet.gluon.model_zoo import vision

import mxtrt
from mxtrt.errors import MxtrtWarning
from mxtrt.perf.counters import count
from mxtrt.perf.runs import EXTRA, Benchmark
from mxtrt.plan.plan import Plan, live_plans
from mxtrt.timing.paired import Duet

SUITES = ("zoo", "micro", "mixed", "bert", "load")
#: Suites that are run when they are asked for, and have no baseline.
MORE_SUITES = ("operators", "networks")


@dataclass(frozen=True)
class Settings:
    """What the command line asks for."""

    suites: frozenset[str]
    quick: bool
    counters_only: bool
    seconds: float
    names: frozenset[str] | None
    gpu: bool
    threads: int
    prefer: str
    lanes: int | None

    @classmethod
    def of(cls, pytest_config: pytest.Config) -> Settings:
        """The settings of a run."""
        option = pytest_config.getoption
        suites = frozenset(option("--suite") or SUITES)
        known = SUITES + MORE_SUITES
        if unknown := suites - set(known):
            raise pytest.UsageError(f"--suite {min(unknown)} is none of {', '.join(known)}")
        again = option("--again")
        measures = not option("--counters-only") and not option("--gpu")
        threads = int(option("--bench-threads"))
        if measures and os.environ.get("OMP_NUM_THREADS") != str(threads):
            raise pytest.UsageError(
                f"the suites measure with OMP_NUM_THREADS={threads}, it is "
                f"{os.environ.get('OMP_NUM_THREADS')}; run them with: nox -s bench"
            )
        names = frozenset(Path(again).read_text().splitlines()) if again else None
        return cls(
            suites,
            bool(option("--quick")),
            bool(option("--counters-only")),
            float(option("--bench-seconds")),
            names,
            bool(option("--gpu")),
            threads,
            option("--bench-prefer"),
            option("--bench-lanes"),
        )

    @property
    def options(self) -> dict[str, Any]:
        """Options of every bind with engines."""
        if self.gpu:
            lanes = {} if self.lanes is None else {"lanes": self.lanes}
            return {"engine": "tensorrt", "prefer": self.prefer, "build": "foreground", **lanes}
        # As many on either side; with one a ratio does not tell how busy the other cores were.
        return {
            "engine": "onnxruntime",
            "threads": self.threads,
            "prefer": self.prefer,
            "build": "foreground",
        }

    @property
    def context(self) -> mx.Context:
        """Where the arrays are: on a GPU that plain MXNet can use too."""
        return mx.gpu() if self.gpu and mxnet_has_kernels() else mx.cpu()


@functools.cache
def mxnet_has_kernels() -> bool:
    """Whether MXNet has code for this machine's GPU; its last wheels have none for Hopper."""
    if not mx.context.num_gpus():
        return False
    ones = mx.nd.array(np.ones(8), ctx=mx.gpu())
    try:
        return bool((mx.nd.concat(ones, ones, dim=0).asnumpy() == 1).all())
    except mx.MXNetError:
        return False


@dataclass
class Bound:
    """A bind: what to call, its plans and the arrays of its parameters."""

    call: Callable[[], object]
    plans: list[Plan]
    arrays: list[mx.nd.NDArray]


#: Benchmarks of this run that were not asked for.
passed_over: set[str] = set()


class Bench:
    """Counts and measures; what it finds goes into the run's file."""

    def __init__(self, benchmark: Any, settings: Settings, table: Callable[..., None]) -> None:
        self._benchmark = benchmark
        self.settings = settings
        self._table = table

    @contextmanager
    def binding(self) -> Iterator[list[Plan]]:
        """A block that binds with engines; yields a list that its plans are put into."""
        before = {id(plan) for plan in live_plans()}
        plans: list[Plan] = []
        with warnings.catch_warnings(), mxtrt.options(enabled=True, **self.settings.options):
            warnings.simplefilter("ignore", MxtrtWarning)  # the counters tell
            yield plans
        plans += [plan for plan in live_plans() if id(plan) not in before]

    def __call__(
        self,
        name: str,
        plain: Callable[[], object],
        ours: Bound | Callable[[], object],
        **facts: Any,
    ) -> Benchmark:
        """Run a benchmark.

        Args:
            name: Suite, subject and size, such as ``"zoo/resnet18_v1/1"``.
            plain: What plain MXNet takes for it.
            ours: What mxtrt takes for it; counted if it is a bind.
            facts: What else a person may read.
        """
        bound = ours if isinstance(ours, Bound) else Bound(ours, [], [])
        counters: Mapping[str, float] = {}
        if bound.plans:
            counters = count(bound.call, bound.plans, bound.arrays).to_dict()
        paired = None
        if self.settings.counters_only:
            self.drive(name, bound.call)
        else:
            duet = Duet(plain, bound.call, self.settings.seconds)
            self.drive(name, duet.call, duet.before, duet.rounds)
            paired = duet.result()
        return self.found(name, Benchmark(counters, paired, facts))

    def drive(
        self,
        name: str,
        call: Callable[[], object],
        before: Callable[[], None] | None = None,
        rounds: int = 1,
    ) -> None:
        """Have pytest-benchmark call what is measured, each time after ``before``."""
        self._benchmark.name = self._benchmark.fullname = name
        self._benchmark.group = name.split("/")[0]
        self._benchmark.pedantic(call, setup=before, rounds=rounds, iterations=1)

    def found(self, name: str, found: Benchmark) -> Benchmark:
        """Put what a benchmark found into the run's file."""
        self._benchmark.extra_info[EXTRA] = found.to_dict()
        paired = found.paired
        if paired is not None:
            self._table(
                "plain MXNet over mxtrt",
                benchmark=name,
                plain=f"{paired.plain_ms:.3f} ms",
                mxtrt=f"{paired.mxtrt_ms:.3f} ms",
                ratio=f"{paired.ratio:.3f}",
                interval=f"{paired.low:.3f} to {paired.high:.3f}",
                control=f"{paired.control_low:.3f} to {paired.control_high:.3f}",
                pairs=paired.pairs,
            )
        return found

    def wanted(self, name: str, quick: bool = True) -> None:
        """Skip a benchmark that is not asked for; the run's file says so.

        Args:
            name: The benchmark.
            quick: Whether it is among those of ``--quick``.
        """
        if self.settings.names is not None and name not in self.settings.names:
            self._pass_over(name, "not among --again")
        if self.settings.quick and not quick:
            self._pass_over(name, "not in --quick")

    def _pass_over(self, name: str, reason: str) -> None:
        passed_over.add(name)
        pytest.skip(reason)


def network_call(net: Any, *inputs: mx.nd.NDArray) -> Callable[[], None]:
    """A call of a block that returns when its result is there."""

    def call() -> None:
        outputs = net(*inputs)
        for output in outputs if isinstance(outputs, (list, tuple)) else [outputs]:
            output.wait_to_read()

    return call


def executor_of(net: Any, x: Any) -> Any:
    """An executor of a network's graph, with its parameters and a copy of its auxiliary states.

    The inference of BatchNorm counts as a write to these: executors of several threads that share
    them bring plain MXNet's engine to a stop.
    """
    symbol = net(mx.sym.var("data"))
    values = {name: p.data() for name, p in net.collect_params().items()}
    states = {n: values[n].asnumpy() for n in symbol.list_auxiliary_states()}
    return symbol.bind(
        x.context,
        {**{n: values[n] for n in symbol.list_arguments() if n in values}, "data": x},
        grad_req="null",
        aux_states={n: mx.nd.array(state, ctx=x.context) for n, state in states.items()},
    )


def both(
    bench: Bench, make: Callable[[], Any], *inputs: mx.nd.NDArray, **options: Any
) -> tuple[Callable[[], None], Bound]:
    """A block hybridized with static memory, as plain MXNet and with engines.

    Args:
        bench: The fixture.
        make: Makes the block, the same one at every call.
        inputs: Its inputs.
        options: Options of the bind.
    """
    plain = make()
    plain.hybridize(static_alloc=True, static_shape=True)
    with mxtrt.options(enabled=False):
        plain_call = network_call(plain, *inputs)
        plain_call()
    ours = make()
    ours.hybridize(static_alloc=True, static_shape=True)
    call = network_call(ours, *inputs)
    with bench.binding() as plans, mxtrt.options(**options):
        call()
    arrays = [parameter.data() for parameter in ours.collect_params().values()]
    return plain_call, Bound(call, plans, arrays)


def zoo_network(bench: Bench, name: str, batch: int) -> tuple[Callable[[], None], Bound]:
    """A network of the model zoo, of random weights, as :func:`both` gives it.

    Args:
        bench: The fixture.
        name: As ``mxnet.gluon.model_zoo.vision.get_model`` takes it.
        batch: Pictures of a call.
    """
    size = 299 if name == "inceptionv3" else 224
    context = bench.settings.context
    x = mx.nd.random.uniform(-1, 1, shape=(batch, 3, size, size), ctx=context)

    def make() -> mx.gluon.HybridBlock:
        mx.random.seed(1)
        net = vision.get_model(name)
        net.collect_params().setattr("grad_req", "null")
        net.initialize(mx.init.MSRAPrelu(slope=0.0), ctx=context)
        return net

    return both(bench, make, x)
