"""Counting what mxtrt does in this process: ``mxtrt.stats``.

Runs of engines are counted by the engine node in C++; everything else happens once per bind,
build or fault and is counted here.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from dataclasses import dataclass

from mxtrt.system.background import waiting
from mxtrt.system.threads import lock

__all__ = ["Stats", "count", "stats"]


@dataclass(frozen=True, slots=True)
class Stats:
    """What mxtrt did since this process began; every number but `building` only ever grows.

    Attributes:
        binds: Graphs bound with engines (a graph that is partitioned again counts again).
        segments: Segments of these graphs.
        refusals: Graphs left to plain MXNet as a whole, for a reason that was warned of.
        builds: Engines built, those that came from the cache included.
        shared: Engines found in this process instead, with the same contents.
        rebuilds: Times that a graph's engines were built again because its weights changed.
        engine_runs: Runs of engines that succeeded (on a GPU: that were started).
        engine_failures: Engines retired because they failed at run time.
        fallbacks: Calls that plain MXNet answered because an engine could not.
        postponed: Calls that plain MXNet answered while an engine was being built for them.
        building: Builds under way or waiting for their turn now, in the background.
        lanes: Lanes that engines got on GPUs beyond their first, as runs overlapped.
        cache_hits: Engines found in the cache on disk.
        cache_misses: Engines looked for there and not found.
    """

    binds: int = 0
    segments: int = 0
    refusals: int = 0
    builds: int = 0
    shared: int = 0
    rebuilds: int = 0
    engine_runs: int = 0
    engine_failures: int = 0
    fallbacks: int = 0
    postponed: int = 0
    building: int = 0
    lanes: int = 0
    cache_hits: int = 0
    cache_misses: int = 0

    def __str__(self) -> str:
        return "\n".join(
            f"{field.name.replace('_', ' '):<16}{getattr(self, field.name):>12,}"
            for field in dataclasses.fields(self)
        )


_counts: Counter[str] = Counter()
_lock = lock()


def count(name: str, by: int = 1) -> None:
    """Add to a counter.

    Args:
        name: A field of :class:`Stats`.
        by: How much.
    """
    with _lock:
        _counts[name] += by


def stats() -> Stats:
    """The counters now.

    They are read one after another while other threads may be counting: each is right, sums
    over them need not be.  A child process that was forked begins with its parent's numbers.
    """
    with _lock:
        counted = dict(_counts)
    return Stats(**counted, building=waiting(), engine_runs=_engine_runs())


def _engine_runs() -> int:
    from mxtrt.node.library import library

    # Without it nothing ran, and asking for a number is no reason to load MXNet.
    return library().tally().runs if library.made else 0
