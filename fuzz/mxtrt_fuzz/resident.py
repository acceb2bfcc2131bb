"""The slow memory lane: what a bind does to the memory of its process.

The ledger believes mxtrt's own report; this lane believes the kernel.  A case with large weights
is bound and run in two fresh processes, as plain MXNet and with engines, and the growth of their
resident memory is compared.
"""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
from collections.abc import Callable

from hypothesis import strategies as st

import mxtrt
from mxtrt.graph.symbol import Entry
from mxtrt.plain.loading import import_mxnet
from mxtrt.timing.measure import resident_bytes
from mxtrt_fuzz.execute import Setup, bound
from mxtrt_fuzz.generate import Grower
from mxtrt_fuzz.graphs import BINDS, C_BINDS, Case, Operation, Tensor, Variable
from mxtrt_fuzz.specs import Application, specs

__all__ = ["SLACK", "growth", "heavy_cases"]

#: Bytes by which the growth of two processes may differ: allocators, and threads' stacks.
SLACK = 768 * 1024

_BETWEEN = ("relu", "tanh", "round", "softmax")
_TIMEOUT = 120


@st.composite
def heavy_cases(draw: st.DrawFn) -> Case:
    """Dense layers with weights of 4 to 16 MiB, other operators between them, some denied."""
    grower = Grower(draw, draw(st.integers(0, 2**16)))
    value = grower.variable(Tensor((1, draw(st.sampled_from([1024, 1536, 2048])))))
    for _ in range(draw(st.integers(1, 3))):
        inputs, hidden = value.tensor.shape[1], draw(st.sampled_from([1024, 1536, 2048]))
        weight = grower.variable(Tensor((hidden, inputs)), "weight", -0.01, 0.01)
        dense = Application({"num_hidden": hidden, "no_bias": True})
        (value,) = grower._node(specs()["FullyConnected"], dense, [value, weight])
        between = draw(st.sampled_from(_BETWEEN))
        attrs = {"axis": 1} if between == "softmax" else {}
        (value,) = grower._node(specs()[between], Application(attrs), [value])
    case = Case(tuple(grower.nodes), (value.entry,), seed=grower._seed)
    denied = draw(st.lists(st.sampled_from(_BETWEEN), max_size=2, unique=True))
    ways = [way for way in BINDS if way not in C_BINDS]  # those of this process
    return case.replace(bind=draw(st.sampled_from(ways)), denied=tuple(sorted(denied)))


def growth(case: Case, enabled: bool, engine: str = "auto", retain: int = 0) -> int:
    """Bytes by which binding and running a case makes a fresh process larger.

    Args:
        case: The case.
        enabled: With engines, or as plain MXNet.
        engine: An engine of ``mxtrt.config.ENGINES``.
        retain: Bytes that the process keeps besides, to see that they are noticed.

    Raises:
        RuntimeError: The process failed, or left the graph to MXNet.
    """
    task = json.dumps([case.to_json(), enabled, engine, retain])
    environment = {**os.environ, "MXNET_SUBGRAPH_BACKEND": "NONE", "PYTHONPATH": _path()}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", __name__],
        input=task,
        env=environment,
        capture_output=True,
        text=True,
        timeout=_TIMEOUT,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(done.stderr.strip().splitlines()[-1])
    return int(done.stdout.split()[-1])


def _path() -> str:
    return os.pathsep.join(filter(None, sys.path))


def _main() -> None:
    text, enabled, engine, retain = json.load(sys.stdin)
    case, setup = Case.from_json(text), Setup(engine)
    _run(_small(case.bind), setup, enabled)  # libraries and pools are there from here on
    before = _settled()
    kept = _run(case, setup, enabled)
    extra = bytearray(os.urandom(retain))
    print(_settled() - before)
    del kept, extra


def _small(bind: str) -> Case:
    """A case of the same way to bind whose weights are too small to count."""
    nodes = (
        Variable("data0", Tensor((1, 32))),
        Variable("weight0", Tensor((32, 32)), "weight"),
        Operation(
            "FullyConnected",
            "op0",
            (("no_bias", "True"), ("num_hidden", "32")),
            (Entry(0), Entry(1)),
            (Tensor((1, 32)),),
        ),
    )
    return Case(nodes, (Entry(2),), bind=bind)


def _run(case: Case, setup: Setup, enabled: bool) -> Callable[[], object]:
    """Bind and run; what is returned keeps it alive."""
    call = bound(case, setup, "drawn" if enabled else None)
    for _ in range(3):
        call()
    report = mxtrt.last_report()
    if enabled and report is not None and report.reason:
        raise RuntimeError(f"left to MXNet: {report.reason}")
    return call


def _settled() -> int:
    from mxtrt.node import library

    gc.collect()
    import_mxnet().nd.waitall()
    library().trim()
    return resident_bytes()


if __name__ == "__main__":
    _main()
