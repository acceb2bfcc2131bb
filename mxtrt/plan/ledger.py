"""Who owns what: the memory of MXNet's weights and of the engines that took their place."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mxtrt.system.threads import loading
from mxtrt.timing.measure import resident_bytes

if TYPE_CHECKING:
    from mxtrt.plan.plan import Plan

__all__ = ["Holding", "Ledger", "holdings_of", "memory"]


@dataclass(frozen=True, slots=True)
class Holding:
    """Bytes that somebody holds.

    Attributes:
        owner: Name of a segment, ``"all engines"``, or ``"idle engines"`` for what is kept for the
            next bind of the same contents.
        what: What the bytes are.
        place: ``"host"``, ``"gpu 0"``, ``"gpu 1"``, ..., or ``"file"`` for weights that were
            paged out.
        bytes: How many.
    """

    owner: str
    what: str
    place: str
    bytes: int


@dataclass(frozen=True, slots=True)
class Ledger:
    """Who owns what at one moment.

    Attributes:
        holdings: Everything that belongs to a live bind with engines.
        resident: Resident bytes of this process.
        gpus: For every GPU that engines run on: bytes in use by everybody, and all of them.
    """

    holdings: tuple[Holding, ...]
    resident: int
    gpus: Mapping[str, tuple[int, int]]

    @property
    def totals(self) -> dict[str, int]:
        """Bytes by place."""
        totals: Counter[str] = Counter()
        for holding in self.holdings:
            totals[holding.place] += holding.bytes
        return dict(totals)

    def to_dict(self) -> dict[str, Any]:
        """The ledger as JSON-ready data."""
        return {**dataclasses.asdict(self), "totals": self.totals}

    def __str__(self) -> str:
        heads = ("owner", "what", "place", "MiB")
        rows = [heads] + [
            (h.owner, h.what, h.place, f"{h.bytes / 2**20:.1f}") for h in self.holdings
        ]
        widths = [max(len(row[i]) for row in rows) for i in range(len(heads))]
        lines = []
        for row in rows:
            cells = [cell.ljust(width) for cell, width in zip(row[:-1], widths, strict=False)]
            lines.append("  ".join([*cells, row[-1].rjust(widths[-1])]))
        totals = ", ".join(f"{place} {size / 2**20:.1f} MiB" for place, size in self.totals.items())
        lines.append(f"in all: {totals or 'nothing'}; process {self.resident / 2**20:.1f} MiB")
        for place, (used, size) in self.gpus.items():
            lines.append(f"{place}: {used / 2**20:.1f} of {size / 2**20:.1f} MiB in use")
        return "\n".join(lines)


def memory() -> Ledger:
    """Who owns what now: ``print(mxtrt.memory())``.

    Weights are looked up where they are, page by page; what an engine holds on a GPU is counted
    by its allocator.  ONNX Runtime reads the weights of MXNet or packs a copy of its own, and
    does not say which: they are counted once, as the engine's.
    """
    with loading:
        from mxtrt.plan.plan import live_plans

    plans = live_plans()
    used = {}
    for gpu in _gpus(plans):
        from mxtrt.node import library

        now = library().cuda.memory(gpu)
        used[f"gpu {gpu}"] = now.total - now.free, now.total
    return Ledger((*holdings_of(plans), *_idle(plans)), resident_bytes(), used)


def holdings_of(plans: Iterable[Plan]) -> list[Holding]:
    """Who owns what of some plans; the scratch memory that all engines share included.

    An engine that several binds share is the first one's.
    """
    plans = list(plans)
    holdings: list[Holding] = []
    tallies: dict[int, tuple[str, str, int]] = {}
    seen: set[int] = set()
    for plan in plans:
        for node in plan.nodes:
            name = node.report.name
            holdings += _weights(name, node.weight_arrays())
            for session in node.live_sessions():
                if id(session) in seen:
                    continue
                seen.add(id(session))
                holdings += _buffers(name, session)
                if session.gpu_memory is None:
                    holdings.append(Holding(name, "engine", "host", session.weight_bytes))
                else:
                    held = {session.gpu: session.gpu_memory, **session.gpu_memory.elsewhere}
                    for gpu, tally in held.items():
                        tallies[id(tally)] = name, f"gpu {gpu}", tally.bytes
    holdings += [Holding(name, "engine", place, size) for name, place, size in tallies.values()]
    for gpu in _gpus(plans):
        from mxtrt.node import library

        scratch = library().cuda.memory(gpu).scratch
        holdings.append(Holding("all engines", "scratch", f"gpu {gpu}", scratch))
    return holdings


def _idle(plans: Iterable[Plan]) -> list[Holding]:
    """What is kept of engines that none of all plans uses."""
    from mxtrt.engines.shared import shared_sessions

    used = {id(session) for plan in plans for session in plan.sessions()}
    idle = [session for session in shared_sessions().kept() if id(session) not in used]
    holdings = [h for session in idle for h in _weights("idle engines", session.arrays())]
    size = sum(session.weight_bytes for session in idle)
    return [*holdings, Holding("idle engines", "engine", "host", size)] if idle else holdings


def _gpus(plans: Iterable[Plan]) -> list[int]:
    """The GPUs that engines run on."""
    sessions = [session for plan in plans for session in plan.sessions()]
    gpus: set[int] = set()
    for session in sessions:
        if session.gpu_memory is not None:
            gpus.update((session.gpu, *session.gpu_memory.elsewhere))
    return sorted(gpus)


def _weights(owner: str, arrays: Iterable[Any]) -> list[Holding]:
    """Where the weights of a segment are that MXNet's arrays hold."""
    from mxtrt.weights.paging import places_of

    places: Counter[str] = Counter()
    for array in arrays:
        places.update(places_of(array))
    return [
        Holding(owner, "weights in MXNet's arrays", place, size)
        for place, size in places.items()
        if size
    ]


def _buffers(owner: str, session: Any) -> list[Holding]:
    if session.gpu_memory is None:
        return []
    from mxtrt.node import library

    usage = library().cuda.usage(session.handle)
    what = f"buffers, {usage.graphs} CUDA graphs"
    return [
        Holding(owner, what, place, size)
        for place, size in (("host", usage.host), (f"gpu {session.gpu}", usage.device))
        if size
    ]
