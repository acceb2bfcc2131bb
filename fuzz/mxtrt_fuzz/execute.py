"""Running a case: plain MXNet once, and mxtrt under three support masks.

What was seen becomes an :class:`Observation`; :mod:`mxtrt_fuzz.oracle` says whether it is right.
"""

from __future__ import annotations

import contextlib
import copy
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import mxtrt
from mxtrt.engines.select import runs_on_cpu
from mxtrt.errors import EngineError
from mxtrt.node.library import library
from mxtrt.plain.loading import import_mxnet, mxnet_reason
from mxtrt.trial.check import forget
from mxtrt.weights.paging import SMALLEST
from mxtrt_fuzz import client
from mxtrt_fuzz.again import Answer, Outputs, again
from mxtrt_fuzz.binds import Bound, Executors, Parts, bind, copied, runs
from mxtrt_fuzz.builders import Address
from mxtrt_fuzz.calls import kept_at_first
from mxtrt_fuzz.complaints import Complaints
from mxtrt_fuzz.graphs import C_BINDS, Case
from mxtrt_fuzz.meetings import Meetings
from mxtrt_fuzz.odd import Forward
from mxtrt_fuzz.scenes import Played, play
from mxtrt_fuzz.signatures import Failure, Signature
from mxtrt_fuzz.values import INPUT_SETS, Array, Arrays, input_arrays, weight_arrays

__all__ = ["MASKS", "Observation", "Run", "Setup", "bound", "observe"]

#: What is denied to the engine: nothing, the case's own choice, everything.
MASKS = ("none", "drawn", "all")

#: Ways to bind a symbol with engines in it, which plain MXNet has not.
_PARTITIONED = ("optimize_for", "pickled")

#: What MXNet says on a GPU of operators that it runs on a CPU: it was built for older GPUs only
#: (what works with some attributes may not with others), or leaves it to cuDNN, which takes less.
#: Its fusion of pointwise operators asks a LeakyReLU for an ``act_type`` that need not be given
#: (src/executor/pointwise_fusion_pass.cc).
_NOT_ON_THIS_GPU = (
    "no kernel image is available",
    "need to have 2 dimensions when mode=instance",
    "_Map_base",
)

#: What calibration says where nothing runs in an engine, whichever arguments a bind takes for
#: weights.
_NO_NODE = "no node of the model runs in an engine"

#: More samples than a case has.
_EVERY = 10**6

#: How many answers of plain MXNet have to be equal before it is taken to repeat itself: one in ten
#: may be other than the rest.
_REPEATS = 100

#: Of so many cases in TensorRT one is called again.
_COARSE = 3

#: How many threads bind a case at once.
_THREADS = 3

#: Numbers of an array that is allocated after the first repetition; after the second one it has
#: twice as many, and so on, so that the next repetition's arrays lie elsewhere.
_BETWEEN = 24


@dataclass(frozen=True, slots=True)
class Setup:
    """What the cases of a campaign run on.

    Attributes:
        engine: An engine of ``mxtrt.config.ENGINES``.
        context: ``cpu`` or ``gpu``: where mxtrt's arrays are; plain MXNet, the reference, is on
            the CPU.
        working: Operators that MXNet can be left with in that context, None for all of them.
        masks: Which of :data:`MASKS` every case runs under.
        exactness: Whether to check what has to be equal to the bit: the toggle, a rebuild, a
            graph saved and loaded, or bound twice.
        builder: Where TensorRT builds for all of the campaign's processes, None for each its own.
    """

    engine: str = "auto"
    context: str = "cpu"
    working: frozenset[str] | None = None
    masks: tuple[str, ...] = MASKS
    exactness: bool = True
    builder: Address | None = None


@dataclass(slots=True)
class Run:
    """mxtrt under one support mask.

    Attributes:
        mask: One of :data:`MASKS`.
        denied: Operators that it denies to the engine.
        outputs: The heads, for each set of inputs.
        segments: Names of the nodes of every segment.
        left: Names of the nodes that stayed in MXNet, and why.
        weight_bytes: Bytes of weights in engines, by mxtrt's own report.
        released_bytes: Bytes that left MXNet's memory, likewise.
        build_seconds: Seconds of its engines' builds, likewise.
        reason: Why the graph was left alone, or an error's message; empty if all went well.
        raised: The error reached the caller.
    """

    mask: str
    denied: tuple[str, ...] = ()
    outputs: tuple[Outputs, ...] = ()
    segments: list[list[str]] = field(default_factory=list)
    left: dict[str, str] = field(default_factory=dict)
    weight_bytes: int = 0
    released_bytes: int = 0
    build_seconds: float = 0.0
    reason: str = ""
    raised: bool = False


@dataclass(slots=True)
class Observation:
    """What a case did.

    Attributes:
        invalid: Why plain MXNet refused the case; empty if it did not.
        plain: Plain MXNet's heads for each set of inputs.
        runs: mxtrt, one run per support mask.
        unequal: What had to be equal to the bit and was not.
        odd: What odd arrays at a forward did otherwise than in plain MXNet, by their kind.
        again: Later calls of the case, those that MXNet takes.
        played: What came of its story.
        coarse: The engine was TensorRT, whose approximations are coarser than others'.
        seconds: Time by what it went into.
    """

    invalid: str = ""
    plain: tuple[Outputs, ...] = ()
    runs: list[Run] = field(default_factory=list)
    unequal: list[str] = field(default_factory=list)
    odd: dict[str, str] = field(default_factory=dict)
    again: list[Answer] = field(default_factory=list)
    played: Played = field(default_factory=Played)
    coarse: bool = False
    seconds: dict[str, float] = field(default_factory=partial(defaultdict, float))


def observe(case: Case, setup: Setup | None = None, arrays: Arrays | None = None) -> Observation:
    """Run a case.

    Args:
        case: The case.
        setup: Engine, context and masks.
        arrays: Values of variables instead of those of the case's seed; data of set ``i`` are
            named ``NAME@i``.

    Raises:
        Failure: The program in C that was to run it died, or took too long.
    """
    try:
        return _Execution(case, setup or Setup(), arrays or {}).observe()
    except client.Gone as gone:
        operators = {node.op for node in case.operations}
        operator = operators.pop() if len(operators) == 1 else "graph"
        signature = Signature("client", gone.symptom, "mxtrt", operator)
        raise Failure(signature, gone.detail, float("inf")) from None


def bound(case: Case, setup: Setup, mask: str | None) -> Callable[[], object]:
    """Bind a case; every call of what is returned runs it once.

    Args:
        case: The case.
        setup: Engine and context.
        mask: One of :data:`MASKS`, or None for plain MXNet.
    """
    return _Execution(case, setup, {}).bound(mask)


class _Execution:
    """A case in MXNet: its symbol and arrays, made once for all runs."""

    def __init__(self, case: Case, setup: Setup, arrays: Arrays) -> None:
        self._mx = import_mxnet()
        self.case, self.setup = case, setup
        self.context = self._mx.cpu()
        self.seen = Observation()
        with self._timed("arrays"):
            weights = {n: arrays.get(n, a) for n, a in weight_arrays(case).items()}
            self.aux = {
                v.name: self._ndarray(weights[v.name]) for v in case.variables if v.role == "aux"
            }
            self.weights = {
                v.name: self._ndarray(weights[v.name]) for v in case.variables if v.role == "weight"
            }
            self.inputs = [
                {
                    n: self._ndarray(arrays.get(f"{n}@{turn}", a))
                    for n, a in input_arrays(case, turn).items()
                }
                for turn in range(INPUT_SETS)
            ]
        self._given = arrays
        self.symbol: Any = None
        self._unmasked: tuple[Forward, dict[str, Any]] | None = None

    def observe(self) -> Observation:
        _forget()  # as if every case were the first one of its process
        try:
            with self._timed("plain"), mxtrt.options(enabled=False):
                self.symbol = self._mx.sym.load_json(self.case.symbol_json())
                self.seen.plain = self._forwards(self._plainly())
        except (self._mx.MXNetError, AssertionError, IndexError, RuntimeError, ValueError) as error:
            self.seen.invalid = mxnet_reason(error)
            return self.seen
        if self.setup.working is not None and (missing := self._missing()):
            self.seen.invalid = f"MXNet has no {', '.join(missing)} in context {self.setup.context}"
            return self.seen
        if self.setup.context == "gpu":
            self._move(self._mx.gpu())
        if self.case.story:
            with self._timed("story"):
                self._play()
            return self.seen
        first_binds = []
        if self.setup.exactness and not library.made:
            with self._timed("exactness"):
                first_binds = self._together()
        for mask in self.setup.masks:
            with self._timed(f"mask {mask}"):
                run = self._run(mask)
            builds = min(run.build_seconds, self.seen.seconds[f"mask {mask}"])
            self.seen.seconds[f"mask {mask}"] -= builds
            self.seen.seconds["builds"] += builds
            if any(text in run.reason for text in _NOT_ON_THIS_GPU):
                self.seen.invalid = f"MXNet in context {self.setup.context}: {run.reason}"
                return self.seen
            self.seen.runs.append(run)
        if self.setup.exactness:
            with self._timed("exactness"):
                self._check_exactness(first_binds)
        # MXNet's executor copies its inputs, and a program in C takes numbers.
        copies = self._way in (*_PARTITIONED, *C_BINDS)
        if self._unmasked is not None and self.setup.context == "cpu" and not copies:
            self._meet(*self._unmasked)
        rare = self.seen.coarse and self.case.seed % _COARSE  # TensorRT builds for every size
        if self._unmasked is not None and self.setup.context == "cpu" and not rare:
            with self._timed("again"):
                self.seen.again = self._again()
        return self.seen

    def _play(self) -> None:
        """Play the case's story."""
        options = {**self._options("none"), "take_over": True}
        if self.case.seed // 3 % 2:
            options["build"] = "wait"
        with contextlib.ExitStack() as stack:
            stack.enter_context(Complaints())
            stack.enter_context(mxtrt.options(**options))
            self._calibrate(stack, options)
            self.seen.played = play(self.case, self._parts(), options)
        report = mxtrt.last_report()
        self.seen.coarse = report is not None and report.engine.startswith("tensorrt")

    def _again(self) -> list[Answer]:
        """Call the case again, at other sizes and with other weights."""
        if not self.case.calls:
            return []
        masks = [mask for mask in self.setup.masks if mask != "all"]
        options = self._options(masks[self.case.seed // 2 % len(masks)])
        options["take_over"] = True  # an engine may not take all sizes
        if self.case.seed // 3 % 2:
            options["build"] = "wait"
        with contextlib.ExitStack() as stack:
            stack.enter_context(Complaints())
            stack.enter_context(mxtrt.options(**options))
            self._calibrate(stack, options)
            return again(self.case, self._parts(), (self._way, self._plain_way), self._given)

    def _meet(self, forward: Forward, options: Mapping[str, Any]) -> None:
        """Give the case inputs that it was not bound for."""
        meetings = Meetings(self._mx, self.inputs[0], self.case.seed, self._plainly, options)
        with self._timed("odd"):  # last: MXNet may change the layout of weights in it
            self.seen.odd |= meetings.odd(forward)
        if self._way.startswith("gluon") and not self.seen.coarse:  # TensorRT's builds are slow
            with self._timed("sizes"):
                self.seen.odd |= meetings.sizes(partial(self._bound, self._way), self.case)

    def bound(self, mask: str | None) -> Callable[[], object]:
        self.symbol = self._mx.sym.load_json(self.case.symbol_json())
        options = {"enabled": False} if mask is None else self._options(mask)
        with mxtrt.options(**options):
            forward = self._plainly() if mask is None else self._bound(self._way)

        def call() -> object:
            with mxtrt.options(**options):  # Gluon binds at its first call
                return self._forwards(forward)

        return call

    def _missing(self) -> list[str]:
        """Operators that no engine takes and that MXNet cannot be left with."""
        assert self.setup.working is not None
        allowed = self._options("none")["allow_ops"]
        left = {node.op for node in self._inspected(allow_ops=allowed).left}
        return sorted(left - self.setup.working)

    def _inspected(self, **options: Any) -> Any:
        """What mxtrt would do with the symbol."""
        data = [v for v in self.case.variables if v.role == "data"]
        shapes = {v.name: v.tensor.shape for v in data}
        dtypes = {v.name: v.tensor.dtype for v in data}
        return mxtrt.inspect(self.symbol, shapes, dtypes, **options)

    def _move(self, context: Any) -> None:
        """Go on with copies of the arrays elsewhere."""
        self.context = context
        self.weights = {n: self._ndarray(a.asnumpy()) for n, a in self.weights.items()}
        self.aux = {n: self._ndarray(a.asnumpy()) for n, a in self.aux.items()}
        self.inputs = [{n: self._ndarray(a.asnumpy()) for n, a in i.items()} for i in self.inputs]

    # -- the ways to bind ------------------------------------------------------------------

    def _bound(self, way: str, weights: Mapping[str, Any] | None = None) -> Bound:
        """The case bound in a way.

        Args:
            way: One of :data:`mxtrt_fuzz.graphs.BINDS`.
            weights: Its weights instead of those of the case.
        """
        return bind(way, self._parts(weights))

    def _parts(self, weights: Mapping[str, Any] | None = None) -> Parts:
        weights = self.weights if weights is None else weights
        return Parts(self._mx, self.context, self.symbol, self.inputs[0], weights, self.aux)

    def _plainly(self) -> Forward:
        """Plain MXNet, bound as the case says: MXNet's kernels differ among its ways to bind."""
        return self._bound(self._plain_way)

    @property
    def _plain_way(self) -> str:
        return "bind" if self._way in _PARTITIONED else self._way

    @property
    def _way(self) -> str:
        """How the case is bound: without data Gluon has nothing to call.

        ``simple_bind`` fills its arrays with zeros, for which MXNet may have no code on a GPU.
        """
        if not self.inputs[0] or (self.case.bind == "simple_bind" and self.setup.working):
            return "bind"
        if self.case.bind in C_BINDS and not self._has_a_program():
            return "bind"
        if self.case.bind == "c_predict" and not self._is_for_predictors():
            return "c_bind"
        return self.case.bind

    def _has_a_program(self) -> bool:
        """Whether a program in C may bind: where TensorRT builds it would take too long."""
        with mxtrt.options(engine=self.setup.engine) as options:
            on_cpu = self.setup.context == "cpu" and runs_on_cpu(options)
        return on_cpu and client.available()

    def _is_for_predictors(self) -> bool:
        """Whether all that goes in and comes out is float32."""
        ends = [v.tensor for v in self.case.variables if v.role == "data"]
        ends += [self.case.tensor(head) for head in self.case.heads]
        return all(tensor.dtype == "float32" for tensor in ends)

    # -- runs ------------------------------------------------------------------------------

    def _forwards(self, forward: Forward) -> tuple[Outputs, ...]:
        """The heads for the first inputs, after other inputs went through: nothing is stale."""
        turns = [
            tuple(head.asnumpy() for head in forward(self.inputs[turn]))
            for turn in reversed(range(len(self.inputs)))
        ]
        return tuple(reversed(turns))

    def _options(self, mask: str) -> dict[str, Any]:
        denied = {
            "none": (),
            "drawn": self.case.denied,
            "all": tuple({node.op for node in self.case.operations}),
        }[mask]
        if self.setup.working is not None:
            denied = tuple(name for name in denied if name in self.setup.working)
        # Without data there is nothing to calibrate with.
        precision = "fp32" if not self.inputs[0] else self.case.precision
        return {
            "deny_ops": denied,
            "take_over": False,
            "allow_ops": () if self.case.seed % 3 == 2 else ("*",),
            "engine": self.setup.engine,
            "precision": precision,
            "threads": 1,
            "prefer": "engine",
            "build": "foreground",
            "inline_below": 10**6 if self.case.inline else 0,
        }

    def _run(self, mask: str) -> Run:
        options = self._options(mask)
        run = Run(mask, options["deny_ops"])
        for name, array in self.weights.items():
            if array.size * 4 >= SMALLEST:  # in memory again, whatever an earlier run released
                self.weights[name] = array.copy()
        with contextlib.ExitStack() as stack:
            complaints = stack.enter_context(Complaints())
            stack.enter_context(mxtrt.options(**options))
            try:
                self._calibrate(stack, options)
                forward = self._bound(self._way)
                before = runs(forward)
                run.outputs = self._forwards(forward)
                ran = runs(forward) - before
            except Exception as error:
                run.raised = True
                run.reason = f"{type(error).__name__}: {mxnet_reason(error)}"
                return run
        report, complaint = mxtrt.last_report(), complaints.first
        if isinstance(forward, client.Client):
            report, complaint = forward.report()
        assert report is not None
        self.seen.coarse |= report.engine.startswith("tensorrt")
        run.reason = report.reason or complaint
        if isinstance(forward, client.Client) and not run.reason:
            least = len(self.inputs) * len(report.segments)
            if ran < least:  # the report is Python's, and a forward takes none
                run.reason = f"{ran} runs of engines in a program in C, {least} were expected"
        run.segments = [list(segment.nodes) for segment in report.segments]
        run.left = {node.name: node.reason for node in report.left}
        run.weight_bytes, run.released_bytes = report.weight_bytes, report.released_bytes
        run.build_seconds = report.build_seconds
        if mask == "none" and not run.reason:
            self._unmasked = forward, options
        return run

    def _calibrate(self, stack: contextlib.ExitStack, options: Mapping[str, Any]) -> None:
        """Have int8 use the ranges of all that the options in force leave to engines.

        They are those of the case's own inputs, so that no value lies outside.
        """
        if options["precision"] != "int8":
            return
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        path = Path(folder, "ranges.json")
        params = {**self.weights, **self.aux}
        try:
            mxtrt.calibrate(self.symbol, self.inputs, params=params, out=path, samples=_EVERY)
        except EngineError as error:
            if _NO_NODE not in str(error):
                raise
            return
        stack.enter_context(mxtrt.options(ranges=str(path)))

    def _check_exactness(self, first_binds: Sequence[Any]) -> None:
        """What has to be equal to the bit, where MXNet itself answers the same every time.

        Args:
            first_binds: What threads got that made the first binds of the process.
        """
        unequal = self._unequal(first_binds)
        if unequal and self._repeats_itself():
            self.seen.unequal = unequal

    def _unequal(self, together: Sequence[Any]) -> list[str]:
        """Names of what is not equal to the bit; the seed chooses which of the slow checks run."""
        found = []
        with mxtrt.options(enabled=False):
            if not _equal(self._forwards(self._plainly()), self.seen.plain):
                found.append("toggle")
        for run in self.seen.runs:
            if run.mask == "all" and not run.reason and not _equal(run.outputs, self.seen.plain):
                found.append("denied")
        first = next((run for run in self.seen.runs if run.mask == "none"), None)
        if first is None or first.reason:
            return found
        if self.case.seed % 4 == 3:
            together = [*together, *self._together()]
        if any(isinstance(one, str) or not _equal(one, first.outputs) for one in together):
            found.append("together")
        if self.case.seed % 4 == 3:
            return found
        if self.case.seed % 4 == 1:
            _forget()
            if not _equal(self._run("none").outputs, first.outputs):
                found.append("rebuild")
            return found
        if self.case.seed % 4 == 2:
            return found + self._rebound()
        with tempfile.TemporaryDirectory() as folder:
            self._save_and_load(Path(folder))
        if not _equal(self._run("none").outputs, first.outputs):
            found.append("saved")
        return found

    def _rebound(self) -> list[str]:
        """Names of what does not hold where binds of the same symbol follow weights of their own.

        There are two with equal weights and one with others; then the first one's are written to.
        """
        options = self._options("none")
        if options["precision"] != "fp32" or not self.weights or self._way in C_BINDS:
            return []
        values = {name: array.asnumpy() for name, array in self.weights.items()}
        others = {name: np.flip(array).copy() for name, array in values.items()}
        found = []
        with Complaints(), mxtrt.options(**options):
            mine = {name: self._ndarray(array) for name, array in values.items()}
            one = self._bound("bind", mine)
            assert isinstance(one, Executors)
            before = self._forwards(one)
            shapes = {name: array.shape for name, array in self.inputs[0].items()}
            other = one.executor.reshape(**shapes)
            if not _equal(self._forwards(lambda inputs: list(other.forward(**inputs))), before):
                found.append("reshaped")
            if not _equal(self._forwards(one), before):
                found.append("reshaped")
            two = self._bound(
                "bind", {name: self._ndarray(array) for name, array in values.items()}
            )
            if not _equal(self._forwards(two), before):
                found.append("rebound")
            third = self._bound(
                "bind", {name: self._ndarray(array) for name, array in others.items()}
            )
            unlike = self._forwards(third)
            for name, array in mine.items():
                array._sync_copyfrom(others[name])
            if not _equal(self._forwards(two), before):
                found.append("shared")
            after = self._forwards(one)
            forget()
            fresh = self._bound(
                "bind", {name: self._ndarray(array) for name, array in others.items()}
            )
            expected = self._forwards(fresh)
            found += ["mixed"] if not _equal(unlike, expected) else []
            followed = _equal(after, expected) or kept_at_first(self.case)
            found += ["followed"] if not followed else []
        return found

    def _together(self) -> list[tuple[Outputs, ...] | str]:
        """What threads get that bind the case at once, each with arrays of its own.

        An error, or what they are told where one got no engine, as text.
        """
        options = self._options("none")
        if options["precision"] == "int8" or self._way in C_BINDS:
            return []
        gate = threading.Barrier(_THREADS)
        seen: list[tuple[Outputs, ...] | str] = []

        def work(own: _Execution) -> None:
            gate.wait()
            try:
                with mxtrt.options(**options):
                    seen.append(own._forwards(own._bound(own._way)))
            except Exception as error:
                seen.append(f"{type(error).__name__}: {mxnet_reason(error)}")

        threads = [threading.Thread(target=work, args=(self._twin(),)) for _ in range(_THREADS)]
        before = mxtrt.stats().refusals
        with Complaints() as complaints:
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        if mxtrt.stats().refusals > before:
            seen.append(complaints.first or "a thread got no engine")
        return seen

    def _twin(self) -> _Execution:
        """The same with a symbol and arrays of its own."""
        twin = copy.copy(self)
        twin.symbol = self._mx.sym.load_json(self.case.symbol_json())
        twin.weights, twin.aux, *twin.inputs = (
            {name: self._ndarray(array.asnumpy()) for name, array in arrays.items()}
            for arrays in (self.weights, self.aux, *self.inputs)
        )
        return twin

    def _repeats_itself(self) -> bool:
        """Whether plain MXNet's answers are the same to the bit, wherever its arrays lie."""
        kept: list[Any] = []
        first: tuple[Outputs, ...] | None = None
        with mxtrt.options(enabled=False):
            for time in range(1, _REPEATS + 1):
                twin = self._twin()  # weights and inputs lie elsewhere too
                forward = twin._plainly()
                kept += [twin, forward, self._ndarray(np.zeros(_BETWEEN * time, np.float32))]
                answer = twin._forwards(forward)
                if not _equal(first := first or answer, answer):
                    return False
        return True

    def _save_and_load(self, folder: Path) -> None:
        """Write symbol and parameters as MXNet does, and go on with what is read back.

        By itself MXNet leaves the casts of amp out: another graph.
        """
        nd, sym = self._mx.nd, self._mx.sym
        self.symbol.save(str(folder / "case-symbol.json"), remove_amp_cast=False)
        self.symbol = sym.load(str(folder / "case-symbol.json"))
        if self.weights or self.aux:
            nd.save(str(folder / "case.params"), {**self.weights, **self.aux})
            arrays = nd.load(str(folder / "case.params"))
            self.weights = {n: arrays[n].as_in_context(self.context) for n in self.weights}
            self.aux = {n: arrays[n].as_in_context(self.context) for n in self.aux}

    # -- helpers ---------------------------------------------------------------------------

    def _ndarray(self, array: Array) -> Any:
        return copied(self._mx, self.context, array)

    @contextlib.contextmanager
    def _timed(self, what: str) -> Iterator[None]:
        begin = time.perf_counter()
        try:
            yield
        finally:
            self.seen.seconds[what] += time.perf_counter() - begin


def _forget() -> None:
    """Have the next binds find nothing of earlier ones, here and in the program in C."""
    forget()
    client.forget()


def _equal(one: tuple[Outputs, ...], two: tuple[Outputs, ...]) -> bool:
    """Whether two sets of heads are the same numbers, NaN included."""
    return len(one) == len(two) and all(
        len(a) == len(b)
        and all(
            x.dtype == y.dtype and np.array_equal(x, y, equal_nan=True)
            for x, y in zip(a, b, strict=True)
        )
        for a, b in zip(one, two, strict=True)
    )
