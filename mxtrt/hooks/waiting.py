"""Waiting for an array that an engine on a GPU writes.

MXNet's own wait sleeps until one of its threads has noticed that the GPU is done, and waking two
sleeping threads takes longer than many a network runs.  The thread that waits looks at the GPU
itself instead, and tells MXNet.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from mxnet.ndarray import NDArray

from mxtrt.system.threads import once

__all__ = ["install"]


@once
def install() -> None:
    """Wrap the calls that wait for an array, once."""
    from mxtrt.node import library

    finish = library().finish
    for name in ("wait_to_read", "asnumpy"):
        setattr(NDArray, name, _wrap(getattr(NDArray, name), finish))


def _wrap(original: Callable[..., Any], finish: Callable[..., int]) -> Callable[..., Any]:
    @functools.wraps(original)
    def wait(self: Any) -> Any:
        finish(self.handle)
        return original(self)

    return wait
