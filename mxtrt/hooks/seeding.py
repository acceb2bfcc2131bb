"""Seeding MXNet's random numbers, after which engines on a GPU go on.

MXNet seeds the generators that it hands to operators anew, engines included, with a kernel that its
wheels do not have for every GPU; see ``mxtrt/node/generators.cc``.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from mxnet.base import _LIB

from mxtrt.system.threads import once

__all__ = ["install"]


@once
def install() -> None:
    """Wrap what seeds, once: the functions of the C API that all of MXNet's Python calls."""
    from mxtrt.node import library

    settle = library().lib.mxtrt_settle_generators
    for name in ("MXRandomSeed", "MXRandomSeedContext"):
        setattr(_LIB, name, _wrap(getattr(_LIB, name), settle))


def _wrap(original: Callable[..., int], settle: Callable[[], int]) -> Callable[..., int]:
    @functools.wraps(original)
    def seed(*args: Any) -> int:
        status = original(*args)
        settle()  # what it cannot mend the next forward tells
        return status

    return seed
