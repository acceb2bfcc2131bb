"""Seeding MXNet's random numbers, after which engines on a GPU go on.

MXNet seeds the generators that it hands to operators anew, engines included, with a kernel that its
wheels do not have for every GPU; see ``mxtrt/node/generators.cc``.
"""

from __future__ import annotations

from typing import Any

from mxnet.base import _LIB

from mxtrt.system.threads import once

__all__ = ["install"]


@once
def install() -> None:
    """Replace what seeds, once: the functions of the C API that all of MXNet's Python calls."""
    from mxtrt.node import library

    seed = library().lib.mxtrt_seed

    def everywhere(number: Any) -> Any:
        return seed(number, 0, 0)

    _LIB.MXRandomSeed = everywhere
    _LIB.MXRandomSeedContext = seed
