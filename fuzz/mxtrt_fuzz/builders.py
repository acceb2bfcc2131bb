"""TensorRT builders that all hunts of a machine share.

A builder that has just started takes seconds to load its libraries, and seconds again at the first
kernel of every kind.  So the hunts' processes ask a few that stay warm.  More of them hardly build
more: each tactic is timed on the GPU, which they share in turns (TensorRT 8.5.3, H200, segments of
these graphs: 0.49 builds a second with one builder, 0.75 with eight).  What a builder crashes on
fails in the hunt that asked; the others go on.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from multiprocessing import get_context
from multiprocessing.managers import BaseManager
from queue import LifoQueue
from typing import Any, NamedTuple

from mxtrt.engines.tensorrt import tensorrt
from mxtrt.engines.tensorrt.api import installed, load_api
from mxtrt.engines.tensorrt.builder import Blueprint
from mxtrt.engines.tensorrt.process import BuilderProcess
from mxtrt.errors import EngineError

__all__ = ["BUILDERS", "HUNTS", "Address", "connected", "serving", "use"]

#: How many there are, and how many hunts keep them busy.
BUILDERS, HUNTS = 4, 8

# Seconds without a build after which the builder ends: hunts draw and judge in between.
_IDLE = 600.0


class Address(NamedTuple):
    """Where builds are served: a socket, and what opens it."""

    socket: str
    key: bytes


class _Pool:
    """The builders of the process that serves; a build takes one that is free."""

    def __init__(self, package: str) -> None:
        api = load_api(package)
        self._free: LifoQueue[BuilderProcess] = LifoQueue()  # the warmest first
        for _ in range(BUILDERS):
            self._free.put(BuilderProcess(api, _IDLE))

    def build(
        self, blueprint: Blueprint, timing_cache: bytes, gpu: int | None
    ) -> tuple[bytes, bytes]:
        """See :meth:`mxtrt.engines.tensorrt.process.BuilderProcess.build`."""
        builder = self._free.get()
        try:
            return builder.build(blueprint, timing_cache, gpu)
        finally:
            self._free.put(builder)


@functools.cache
def _pool(package: str) -> _Pool:
    return _Pool(package)


class _Builders(BaseManager):
    """Serves builds to processes that know its address."""


_Builders.register("pool", callable=_pool, exposed=("build",))


@contextlib.contextmanager
def serving(engine: str) -> Iterator[Address | None]:
    """A block with builders for the processes of a campaign; None where the engine needs none.

    Args:
        engine: An engine of ``mxtrt.config.ENGINES``.
    """
    if engine != "tensorrt" or installed() is None:
        yield None
        return
    with _Builders(ctx=get_context("spawn")) as builders:
        assert isinstance(builders.address, str)
        yield Address(builders.address, bytes(builders._authkey))  # type: ignore[attr-defined]


def connected(address: Address) -> Any:
    """The builders that serve at an address.

    Raises:
        OSError: Nobody serves there.
        EngineError: TensorRT does not load there.
    """
    builders = _Builders(address.socket, address.key)
    builders.connect()
    return builders.pool(installed())  # type: ignore[attr-defined]


def use(address: Address) -> None:
    """Have this process build its engines there; not where TensorRT does not work."""
    with contextlib.suppress(EngineError):
        tensorrt().builder = connected(address)
