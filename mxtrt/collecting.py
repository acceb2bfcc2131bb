"""Pausing Python's garbage collector while a graph is taken apart.

A graph of thousands of nodes becomes hundreds of thousands of objects, none of them garbage.
The collector goes through all of them again and again, so that the time per node would grow with
the graph; reference counts free what the work leaves behind.
"""

from __future__ import annotations

import contextlib
import gc
import threading
from collections.abc import Iterator

__all__ = ["uncollected"]

_lock = threading.Lock()
_depth = 0
_was_on = False


@contextlib.contextmanager
def uncollected() -> Iterator[None]:
    """Run a block without the garbage collector, as it was after the last of nested blocks."""
    global _depth, _was_on
    with _lock:
        if _depth == 0:
            _was_on = gc.isenabled()
            gc.disable()
        _depth += 1
    try:
        yield
    finally:
        with _lock:
            _depth -= 1
            if _depth == 0 and _was_on:
                gc.enable()
