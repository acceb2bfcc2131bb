"""What is counted exactly: the same code on the same graph gives the same numbers anywhere."""

from __future__ import annotations

import dataclasses
import math
import mmap
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from mxtrt.node import library
from mxtrt.observe.counters import stats
from mxtrt.perf.load import Loop
from mxtrt.plan.ledger import holdings_of
from mxtrt.plan.plan import Plan
from mxtrt.weights.paging import places_of, size_of

__all__ = ["FORWARDS", "MEANINGS", "Counters", "count", "count_load"]

#: Forwards in a steady state whose copies, waits and allocations are counted.
FORWARDS = 8
_WARM = 2
_RARELY = 0.05


def _counter(meaning: str) -> Any:
    return dataclasses.field(default=0.0, metadata={"meaning": meaning})


@dataclass(frozen=True, slots=True)
class Counters:
    """What one bind costs, exactly; less is better in every one of them.

    What a forward does is a mean over :data:`FORWARDS` of them.
    """

    segments: float = _counter("segments of the graph")
    engine_nodes: float = _counter("runs of an engine in a forward")
    mxnet_nodes: float = _counter("nodes left in MXNet")
    copies: float = _counter("tensors copied at boundaries in a forward")
    copied_bytes: float = _counter("bytes copied at boundaries in a forward")
    waits: float = _counter("synchronisations in a forward")
    allocations: float = _counter("allocations of tensor memory in a forward")
    engine_bytes: float = _counter("bytes of the engines, weights included")
    activation_bytes: float = _counter("bytes of the engines' scratch memory and buffers")
    mxnet_bytes: float = _counter("bytes of weights resident in MXNet's arrays")

    def to_dict(self) -> dict[str, float]:
        """The counters as JSON-ready data."""
        return dataclasses.asdict(self)


#: What every counter means.
MEANINGS: Mapping[str, str] = {
    **{field.name: field.metadata["meaning"] for field in dataclasses.fields(Counters)},
    "lanes": "lanes of GPUs that were opened beyond the first, as runs overlapped",
}


def count(
    forward: Callable[[], object], plans: Collection[Plan], arrays: Iterable[Any] = ()
) -> Counters:
    """Count what a bind with engines costs.

    Args:
        forward: One forward of it; it returns when its result is there.
        plans: Its plans.
        arrays: NDArrays of its parameters, wherever they are used.
    """
    for _ in range(_WARM):
        forward()
    before = library().tally()
    for _ in range(FORWARDS):
        forward()
    seen = library().tally() - before
    holdings = holdings_of(plans)
    return Counters(
        segments=float(sum(len(plan.report.segments) for plan in plans)),
        engine_nodes=seen.runs / FORWARDS,
        mxnet_nodes=float(sum(len(plan.report.left) for plan in plans)),
        copies=seen.copies / FORWARDS,
        copied_bytes=seen.copied / FORWARDS,
        waits=seen.waits / FORWARDS,
        allocations=seen.allocations / FORWARDS,
        engine_bytes=float(sum(h.bytes for h in holdings if h.what == "engine")),
        activation_bytes=float(
            sum(h.bytes for h in holdings if h.what == "scratch" or h.what.startswith("buffers"))
            + _arena_bytes(forward, plans)
        ),
        mxnet_bytes=float(sum(_resident(array) for array in arrays)),
    )


def count_load(loop: Loop, *, on_gpu: bool) -> dict[str, float]:
    """Count what a request costs while other threads send theirs.

    Only what hardly depends on which of them happen to overlap.  On a CPU that excludes waits: an
    engine that ran for long is run by MXNet's thread the next time.

    Args:
        loop: The threads.
        on_gpu: Whether engines run on a GPU.
    """
    for _ in range(_WARM):
        loop()
    before = library().tally()
    loop()
    seen = library().tally() - before
    found = {
        "engine_nodes": seen.runs / loop.requests,
        "copies": seen.copies / loop.requests,
    }
    if on_gpu:
        # A thread that sees a run of another's done spares it the wait, and once in a while there
        # is one more, for a CUDA graph that has to make room.
        found["waits"] = float(math.ceil(seen.waits / loop.requests - _RARELY))
        found["lanes"] = float(stats().lanes)  # as many as runs overlapped since the process began
    return found


def _arena_bytes(forward: Callable[[], object], plans: Collection[Plan]) -> int:
    """What a forward takes from ONNX Runtime's arena, which all sessions share."""
    sessions = [session for plan in plans for session in plan.sessions()]
    if not sessions:
        return 0
    with library().shrinking():
        forward()
    before = library().arena_bytes(sessions[0].handle)
    forward()
    return library().arena_bytes(sessions[0].handle) - before


def _resident(array: Any) -> int:
    """Bytes of an array in memory: all of them, or 0 once it is paged out.

    The parts of pages at its ends stay in memory.  They do not count, so that the number does not
    depend on where in a page the array begins.
    """
    size = size_of(array)
    kept = sum(part for place, part in places_of(array).items() if place != "file")
    ends = 2 * mmap.PAGESIZE  # of these, others use a part
    return kept if size < ends or kept > ends else 0
