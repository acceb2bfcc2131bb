"""Mixed load, every reply compared with plain MXNet's: ``nox -s soak -- --seconds 600``.

Several threads send requests to eight networks: executors of each thread on shared weights, four
shared Gluon blocks, and of each thread's own a block, a symbol of ``optimize_for`` and an executor
around an operator that stays in MXNet.  Every thread binds for itself, all of them at once to begin
with.  Batch sizes change from request to request, the lengths of texts and the sizes of pictures,
which MXNet's operators write into the graph; and some requests are odd: sparse, of another type or
rank, or wrong.  Between requests weights are updated, the integration is switched off and on, and
what was bound is dropped and bound again, while the other threads go on; engines for what changed
are built in the background.  A reply is right if it is what plain MXNet answered, or raised, at the
start to the same data with the weights in force.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import dataclasses
import faulthandler
import gc
import json
import os
import random
import re
import sys
import tempfile
import threading
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

# oneDNN's subgraphs keep fused weights when parameters are set again.
os.environ.setdefault("MXNET_SUBGRAPH_BACKEND", "NONE")

import mxtrt  # isort: skip
import mxnet as mx
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))
from support.networks import classifier, images, mixed, parameters, plain

from mxtrt.engines.shared import shared_sessions
from mxtrt.node import library
from mxtrt.plan.plan import live_plans
from mxtrt.timing.measure import resident_bytes

SIZE = 48  # of the pictures: dense weights are large enough to be paged out
VERSIONS = 4  # of the weights
INPUTS = [images(batch, seed=10 + batch, size=SIZE) for batch in (1, 2, 3, 5)]
TABLES = [mx.nd.array(np.random.RandomState(b).uniform(-1, 1, (b, 40))) for b in (1, 2, 3, 5)]
TEXTS = [mx.nd.array(np.random.RandomState(n).uniform(-1, 1, (2, n, 8))) for n in range(3, 30, 2)]
PICTURES = [images(2, seed=size, size=size) for size in range(12, 40, 5)]
ODD = 0.05  # of the requests
#: What no engine takes; MXNet answers some of it and raises for the rest.
ODD_PICTURES = [
    INPUTS[1].astype("float64"),
    INPUTS[1].reshape((-1, SIZE, SIZE)),
    INPUTS[1][:, :2],
    INPUTS[1][:, :, : SIZE // 2],
]
ODD_TABLES = [
    TABLES[2].tostype("csr"),
    TABLES[2].tostype("row_sparse"),
    TABLES[1].astype("float64"),
    TABLES[1].astype("int32"),
    TABLES[2][:, :30],
    TABLES[2].reshape((3, 4, 10)),
    TABLES[0][0],
]
#: What a refusal says of an odd request, which a bind that it comes first to fails for.
EXPECTED = re.compile(r"Error in operator|sparse")
TOLERANCE = 1e-4  # of the largest number


Answer = list[Any]
Outcome = Answer | type[BaseException]
PLAIN = "--plain" in sys.argv
STALLED = 60.0  # seconds without a reply


class Gate:
    """Many requests, or one update."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._requests = 0
        self._waiting = 0

    @contextlib.contextmanager
    def request(self) -> Iterator[None]:
        """A block that runs beside others of its kind."""
        with self._changed:
            self._changed.wait_for(lambda: not self._waiting)
            self._requests += 1
        try:
            yield
        finally:
            with self._changed:
                self._requests -= 1
                self._changed.notify_all()

    @contextlib.contextmanager
    def update(self) -> Iterator[None]:
        """A block that runs alone."""
        with self._changed:
            self._waiting += 1
            try:
                self._changed.wait_for(lambda: not self._requests)
                yield
            finally:
                self._waiting -= 1
                self._changed.notify_all()


def outcome(call: Callable[[], Answer]) -> Outcome:
    """What a request returned, or the type of what it raised."""
    try:
        return [reply.asnumpy() for reply in call()]
    except Exception as error:
        return type(error)


class Service:
    """A network that answers, in several versions of its weights.

    Args:
        symbol: The network.
    """

    inputs = INPUTS
    odd: list[Any] = []

    def __init__(self, symbol: mx.sym.Symbol) -> None:
        self.symbol = symbol
        self.options: dict[str, Any] = {"enabled": not PLAIN}
        shape = self.inputs[0].shape
        self.versions = [parameters(symbol, seed=seed, data=shape) for seed in range(VERSIONS)]
        self.expected = []
        for args, aux in self.versions:
            with mxtrt.options(enabled=False):
                call = self.reference(args, aux)
                self.expected.append([outcome(lambda x=x: call(x)) for x in self.requests()])  # noqa: B023
        for a, b in zip(self.expected, self.expected[1:], strict=False):
            assert distance(a[0], b[0]) > 10 * TOLERANCE
        self.version = 0
        self.gate = Gate()
        self.local = threading.local()
        self.start()

    def requests(self) -> list[Any]:
        """Everything that is asked, by its place: what is odd comes last."""
        return [*self.inputs, *self.odd]

    def reference(self, args: Any, aux: Any) -> Callable[[Any], Answer]:
        """What plain MXNet is asked with these weights."""
        return lambda x: list(map(mx.nd.array, plain(self.symbol, args, aux, data=x)))

    def start(self) -> None:
        """Set up what the threads share; nothing is bound."""

    def prepare(self, place: int) -> None:
        """Get ready to answer, before the request."""

    def answer(self, place: int) -> Answer:
        """Answer to the request of this place."""
        raise NotImplementedError

    def update(self, version: int) -> None:
        """Put other weights in force; no request is under way."""

    def disturb(self, on: bool) -> None:
        """Drop what this thread bound; or bind again with the integration on or off."""
        self.local.__dict__.clear()

    def end(self) -> None:
        """Drop everything."""
        self.__dict__.clear()


class SharedWeights(Service):
    """Executors of every thread, on the same arrays; most runs on the calling thread."""

    odd = ODD_PICTURES

    def reference(self, args: Any, aux: Any) -> Callable[[Any], Answer]:
        def call(x: Any) -> Answer:
            fits = any(x is one for one in self.inputs)
            executor = self.symbol.simple_bind(
                mx.cpu(), grad_req="null", data=(x if fits else self.inputs[1]).shape
            )
            executor.copy_params_from(args, aux)
            return list(executor.forward(is_train=False, data=x))

        return call

    def start(self) -> None:
        args, aux = self.versions[0]
        self.args = {name: array.copy() for name, array in args.items()}
        self.aux = {name: array.copy() for name, array in aux.items()}

    def prepare(self, place: int) -> None:
        # Plain MXNet's engine comes to a stop when executors on arrays in use are made or freed.
        place = self._fitting(place)
        if place not in self._executors():
            x = INPUTS[place]
            given = {**self.args, "data": x.copy(), "softmax_label": mx.nd.zeros((len(x),))}
            with self.gate.update(), mxtrt.options(**self.options):
                self._executors()[place] = self.symbol.bind(
                    mx.cpu(), given, grad_req="null", aux_states=self.aux
                )
                mx.nd.waitall()

    @staticmethod
    def _fitting(place: int) -> int:
        return place if place < len(INPUTS) else 1

    def _executors(self) -> dict[int, mx.executor.Executor]:
        executors: dict[int, mx.executor.Executor] = self.local.__dict__.setdefault("executors", {})
        return executors

    def answer(self, place: int) -> Answer:
        executor = self._executors()[self._fitting(place)]
        return list(executor.forward(is_train=False, data=self.requests()[place]))

    def update(self, version: int) -> None:
        args, aux = self.versions[version]
        for name, array in (*self.args.items(), *self.aux.items()):
            array[:] = args[name] if name in args else aux[name]

    def disturb(self, on: bool) -> None:
        self.options = {"enabled": on and not PLAIN}
        with self.gate.update():
            super().disturb(on)
            mx.nd.waitall()


class OwnWeights(Service):
    """Executors of every thread, each with its weights and two segments, through MXNet's engine."""

    def answer(self, place: int) -> Answer:
        x = INPUTS[place]
        if "executor" not in self.local.__dict__:
            with mxtrt.options(inline_below=0, enabled=not PLAIN):
                self.local.executor = self.symbol.simple_bind(
                    mx.cpu(), grad_req="null", data=x.shape
                )
            self.local.version = None
        if self.local.version != self.version:
            self.local.version = self.version
            self.local.executor.copy_params_from(*self.versions[self.version])
        if self.local.executor.arg_dict["data"].shape != x.shape:
            self.local.executor = self.local.executor.reshape(allow_up_sizing=True, data=x.shape)
        return list(self.local.executor.forward(is_train=False, data=x))


class Optimized(Service):
    """Partitioned symbols, which have their weights for good; every thread makes its own."""

    def answer(self, place: int) -> Answer:
        if self.local.__dict__.get("version") != self.version:
            self.local.__dict__.clear()
            self._partition(self.version)
        x = INPUTS[place]
        if place not in self.local.executors:
            args, aux = self.local.given
            given = {**args, "data": x.copy(), "softmax_label": mx.nd.zeros((len(x),))}
            names = self.local.symbol.list_arguments()
            self.local.executors[place] = self.local.symbol.bind(
                mx.cpu(), {name: given[name] for name in names}, grad_req="null", aux_states=aux
            )
        return list(self.local.executors[place].forward(is_train=False, data=x))

    def _partition(self, version: int) -> None:
        args, aux = ({n: a.copy() for n, a in arrays.items()} for arrays in self.versions[version])
        args |= {"data": INPUTS[0], "softmax_label": mx.nd.zeros((1,))}
        if PLAIN:
            self.local.symbol = self.symbol.__copy__()
        else:
            self.local.symbol = self.symbol.optimize_for(
                "TensorRT", args, aux, mx.cpu(), data_names="data"
            )
        self.local.given, self.local.executors, self.local.version = (args, aux), {}, version


class Block(Service):
    """One hybridized block for all threads."""

    odd = ODD_PICTURES

    def _block(self, args: Any, aux: Any) -> mx.gluon.SymbolBlock:
        net = mx.gluon.SymbolBlock(self.symbol, mx.sym.var("data"))
        for name, parameter in net.collect_params().items():
            parameter.shape = (args[name] if name in args else aux[name]).shape
            parameter.initialize()
        self._set(net, args, aux)
        net.hybridize()
        return net

    def _set(self, net: Any, args: Any, aux: Any) -> None:
        for name, parameter in net.collect_params().items():
            parameter.set_data(args[name] if name in args else aux[name])

    def reference(self, args: Any, aux: Any) -> Callable[[Any], Answer]:
        net = self._block(args, aux)
        return lambda x: self._call(net, x)

    def _call(self, net: Any, x: Any) -> Answer:
        outputs = net(x)
        return outputs if isinstance(outputs, list) else [outputs]

    def start(self) -> None:
        self.net = self._block(*self.versions[0])
        if PLAIN:
            self.disturb(False)

    def answer(self, place: int) -> Answer:
        with mxtrt.options(**self.options):
            return self._call(self.net, self.requests()[place])

    def update(self, version: int) -> None:
        self._set(self.net, *self.versions[version])

    def disturb(self, on: bool) -> None:
        self.options = {"enabled": on and not PLAIN}
        with self.gate.update(), mxtrt.options(**self.options):
            self.net.hybridize()
            if not self.options["enabled"]:  # plain MXNet wants the first call from one thread
                self.net(self.inputs[0]).wait_to_read()


class Table(Block):
    """Another one, whose inputs may be sparse."""

    inputs = TABLES
    odd = ODD_TABLES


class Texts(Block):
    """Another one, for texts of many lengths."""

    inputs = TEXTS
    odd: list[Any] = []


class Pictures(Block):
    """Another one, for pictures of many sizes, with filters that oneDNN moves."""

    inputs = PICTURES
    odd: list[Any] = []


class OwnBlock(Table):
    """A block of every thread's own, bound in its first request."""

    def start(self) -> None:
        """Nothing is shared."""

    def answer(self, place: int) -> Answer:
        if self.local.__dict__.get("version") != self.version:
            self.local.net = self._block(*self.versions[self.version])
            self.local.version = self.version
        with mxtrt.options(enabled=not PLAIN):
            return self._call(self.local.net, self.requests()[place])

    def update(self, version: int) -> None:
        """Every thread makes another one at its next request."""

    def disturb(self, on: bool) -> None:
        self.local.__dict__.clear()


def table() -> mx.sym.Symbol:
    """Two dense layers."""
    hidden = mx.sym.FullyConnected(mx.sym.var("data"), num_hidden=64, name="hidden")
    return mx.sym.FullyConnected(mx.sym.relu(hidden), num_hidden=10, name="out")


def attention() -> mx.sym.Symbol:
    """Attention with the places of the words."""
    data = mx.sym.var("data")
    places = mx.sym.reshape(mx.sym.contrib.arange_like(data, axis=1), shape=(1, -1, 1))
    x = mx.sym.broadcast_add(data, places * 0.05)
    query, key, value = (
        mx.sym.FullyConnected(x, num_hidden=16, flatten=False, name=name) for name in "qkv"
    )
    weights = mx.sym.softmax(mx.sym.batch_dot(query, key, transpose_b=True) * 0.25)
    out = mx.sym.reshape(mx.sym.batch_dot(weights, value), shape=(0, -3))
    out = mx.sym.reshape(out, shape=(0, -4, -1, 16))
    return mx.sym.FullyConnected(mx.sym.tanh(out), num_hidden=4, flatten=False, name="out")


def pooled() -> mx.sym.Symbol:
    """Convolutions of pictures of any size, and dense layers after them."""
    x = mx.sym.Convolution(mx.sym.var("data"), num_filter=16, kernel=(3, 3), name="one")
    x = mx.sym.Convolution(mx.sym.relu(x), num_filter=16, kernel=(3, 3), name="two")
    x = mx.sym.contrib.AdaptiveAvgPooling2D(mx.sym.relu(x), output_size=3)
    return mx.sym.FullyConnected(x, num_hidden=10, name="out")


def convolutional() -> mx.sym.Symbol:
    """A network without a label, for a block."""
    conv = mx.sym.Convolution(mx.sym.var("data"), num_filter=6, kernel=(3, 3), name="c")
    dense = mx.sym.FullyConnected(mx.sym.relu(conv), num_hidden=10, name="d")
    return mx.sym.tanh(dense * 0.01)


def distance(seen: Outcome, expected: Outcome) -> float:
    """How far replies are apart, in parts of the largest number; infinite for other shapes."""
    if isinstance(seen, type) or isinstance(expected, type):
        return 0.0 if seen is expected else float("inf")
    worst = 0.0
    for ours, right in zip(seen, expected, strict=True):
        if ours.shape != right.shape:
            return float("inf")
        if right.size:
            off = np.abs(ours - right).max() / max(np.abs(right).max(), 1e-30)
            worst = max(worst, float(np.nan_to_num(off, nan=np.inf)))
    return worst


@dataclasses.dataclass
class Log:
    """What happened."""

    counts: Counter[str] = dataclasses.field(default_factory=Counter)
    failures: list[str] = dataclasses.field(default_factory=list)

    def fail(self, text: str) -> None:
        """Keep a wrong answer or an error; a hundred are enough to look at."""
        if len(self.failures) < 100:
            self.failures.append(text)


def work(
    services: list[Service], log: Log, seed: int, gate: threading.Barrier, until: float
) -> None:
    """Requests, updates and disturbances of one thread."""
    draw = random.Random(seed)
    first = draw.sample(services, len(services))  # each of them before anything else
    gate.wait()
    while time.monotonic() < until:
        service = first.pop() if first else draw.choice(services)
        name = type(service).__name__
        try:
            if draw.random() < 0.02:
                with service.gate.update():
                    service.version = draw.randrange(VERSIONS)
                    service.update(service.version)
                log.counts["updates"] += 1
            if draw.random() < 0.01:
                service.disturb(on=draw.random() < 0.7)
                log.counts["disturbances"] += 1
            odd = service.odd and draw.random() < ODD
            place = draw.randrange(len(service.odd if odd else service.inputs))
            place += len(service.inputs) if odd else 0
            service.prepare(place)
            with service.gate.request():
                version = service.version
                seen = outcome(lambda: service.answer(place))  # noqa: B023
            log.counts[f"{'odd ' if odd else ''}requests to {name}"] += 1
            expected = service.expected[version][place]
            off = distance(seen, expected)
            if off > TOLERANCE and isinstance(seen, type):
                log.counts["errors"] += 1
                log.fail(f"{name}, request {place}: {seen}")
            elif off > TOLERANCE:
                log.counts["wrong"] += 1
                stale = [
                    v for v in range(VERSIONS) if distance(seen, service.expected[v][place]) < off
                ]
                told = f"{off:.3g} off, weights {version}, closer to weights {stale}"
                log.fail(f"{name}, request {place}: {told}")
        except Exception:
            log.counts["errors"] += 1
            log.fail(f"{name}: {traceback.format_exc()}")


def slope(samples: list[tuple[float, int]]) -> tuple[float, float]:
    """Growth of the second half in bytes per second, and its standard error."""
    half = np.array(samples[len(samples) // 2 :], dtype=float)
    if len(half) < 4:
        return 0.0, 0.0
    (value, _), covariance = np.polyfit(half[:, 0], half[:, 1], 1, cov=True)
    return float(value), float(np.sqrt(covariance[0, 0]))


def course(samples: list[tuple[float, int]]) -> dict[str, Any]:
    """How an amount of memory went on, and how much it grew in the second half."""
    growth, error = slope(samples)
    return {
        "MiB": [round(amount / 2**20, 1) for _, amount in samples[:: max(len(samples) // 10, 1)]],
        "slope_KiB_per_minute": round(growth * 60 / 1024, 1),
        "slope_error": round(error * 60 / 1024, 1),
    }


class _Mallinfo2(ctypes.Structure):
    """``struct mallinfo2`` of glibc 2.33 and later."""

    # fmt: off
    _fields_ = tuple((name, ctypes.c_size_t) for name in (
        "arena", "ordblks", "smblks", "hblks", "hblkhd",
        "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost",
    ))
    # fmt: on


def allocated_bytes() -> int:
    """What the C library's heaps have given out; 0 where it does not tell.

    A leak makes it grow, while resident memory grows with what lies free between blocks, too.
    """
    try:
        tell = ctypes.CDLL(None).mallinfo2
    except AttributeError:
        return 0
    tell.restype = _Mallinfo2
    told = tell()
    return int(told.uordblks + told.hblkhd)


def state() -> dict[str, int]:
    """What the process holds, but for engines that are kept for the next bind."""
    shared_sessions().forget()
    nodes, sessions = library().counts()
    maps = Path("/proc/self/maps").read_text()
    return {
        "plans": len(live_plans()),
        "nodes": nodes,
        "sessions": sessions,
        "spill_mappings": maps.count("mxtrt-weights-"),
        "files": len(os.listdir("/proc/self/fd")),
        "threads": len(os.listdir("/proc/self/task")),
    }


def soak(seconds: float, threads: int, seed: int, only: str | None = None) -> dict[str, Any]:
    """Run the load; what happened, as JSON-ready data."""
    networks: dict[type[Service], Callable[[], mx.sym.Symbol]] = {
        SharedWeights: classifier,
        OwnWeights: mixed,
        Optimized: classifier,
        Block: convolutional,
        Table: table,
        Texts: attention,
        Pictures: pooled,
        OwnBlock: table,
    }
    services = [
        kind(symbol()) for kind, symbol in networks.items() if only in (None, kind.__name__)
    ]
    logs = [Log() for _ in range(threads)]
    begin, gate = time.monotonic(), threading.Barrier(threads)
    workers = [
        threading.Thread(target=work, args=(services, log, seed + i, gate, begin + seconds))
        for i, log in enumerate(logs)
    ]
    for worker in workers:
        worker.start()
    resident: list[tuple[float, int]] = []
    allocated: list[tuple[float, int]] = []
    first: dict[str, int] = {}
    replies, since = -1, begin
    while any(worker.is_alive() for worker in workers):
        time.sleep(min(1.0, seconds / 20))
        elapsed = time.monotonic() - begin
        resident.append((elapsed, resident_bytes()))
        allocated.append((elapsed, allocated_bytes()))
        if not first and elapsed > seconds / 2:
            first = state()
        if (now := sum(log.counts.total() for log in logs)) != replies:
            replies, since = now, time.monotonic()
        elif time.monotonic() - since > STALLED:
            print(f"stalled after {now} requests and updates, {since - begin:.0f} seconds")
            faulthandler.dump_traceback(sys.stdout)
            sys.stdout.flush()
            os._exit(2)
    for worker in workers:
        worker.join()
    took = time.monotonic() - begin
    mxtrt.ready()
    last = state()
    for service in services:
        service.end()
    services.clear()
    mx.nd.waitall()
    gc.collect()
    counts = sum((log.counts for log in logs), Counter())
    requests = {name: n for name, n in sorted(counts.items()) if "requests" in name}
    return {
        "seconds": round(took, 1),
        "threads": threads,
        "seed": seed,
        "engine": os.environ.get("MXNET_ENGINE_TYPE", "ThreadedEnginePerDevice"),
        "requests": sum(requests.values()),
        **requests,
        "wrong": counts["wrong"],
        "errors": counts["errors"],
        "updates": counts["updates"],
        "disturbances": counts["disturbances"],
        "stats": dataclasses.asdict(mxtrt.stats()),
        "resident": course(resident),
        "allocated": course(allocated),
        "half_way": first,
        "at_the_end": last,
        "after": state(),
        "failures": [failure for log in logs for failure in log.failures][:20],
    }


def main() -> int:
    """Run and print.

    Returns:
        0 if every reply was right, no bind was left to MXNet but for an odd request, and nothing is
        left over; 2 if replies stop.
    """
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--threads", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--plain", action="store_true", help="without engines, as a control")
    parser.add_argument("--only", metavar="SERVICE", help="one network, such as Block")
    parser.add_argument("--json", type=Path, help="a file for the same as JSON")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("ignore")
        warnings.simplefilter("always", mxtrt.MxtrtWarning)
        mxtrt.enable(spill_dir=folder)
        if PLAIN:
            mxtrt.disable()
        found = soak(arguments.seconds, arguments.threads, arguments.seed, arguments.only)
        left = os.listdir(folder)
    reasons = [str(one.message) for one in told]
    found["refusals"] = [reason for reason in reasons if not EXPECTED.search(reason)]
    text = json.dumps(found, indent=1)
    print(text)
    if arguments.json:
        arguments.json.write_text(text + "\n")
    held = {name: found["after"][name] for name in ("plans", "nodes", "sessions")}
    stats = found["stats"]
    faults = len(found["refusals"]) + stats["engine_failures"]
    failed = found["wrong"], found["errors"], faults, *held.values(), len(left)
    return 1 if any(failed) else 0


if __name__ == "__main__":
    sys.exit(main())
