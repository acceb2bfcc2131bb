"""Waiting for what is built in the background: ``mxtrt.ready``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from mxtrt.system import background

__all__ = ["ready"]


def ready(x: Any = None, timeout: float | None = None) -> bool:
    """Wait until nothing is being built in the background.

    What is built begins with the request that asks for it: before the first one for other input
    shapes or after a change of weights nothing is under way.

    Args:
        x: A block (with its children), an executor or a symbol: only what is built for it counts.
            Everything does without one.
        timeout: Most seconds to wait; 0 only looks.

    Returns:
        Whether nothing is being built.
    """
    wanted = list(_stand_ins(x))

    def counts(about: object) -> bool:
        symbol = getattr(about, "symbol", about)  # an executor was bound from
        return x is None or any(one is about or one is symbol for one in wanted)

    return background.ready(counts, timeout)


def _stand_ins(x: Any) -> Iterator[object]:
    """What stands for an object where something is built for it."""
    yield x
    bindings = getattr(x, "__dict__", {}).get("_mxtrt")  # of a block, or of an executor
    for bound in (bindings, getattr(x, "_awaited", None)):
        for name in ("about", "source"):
            if (stand_in := getattr(bound, name, None)) is not None:
                yield stand_in
    for child in getattr(x, "_children", {}).values():
        yield from _stand_ins(child)
