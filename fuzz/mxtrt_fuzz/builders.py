"""One TensorRT builder for all hunts of a machine.

A builder that has just started takes seconds to load its libraries, and seconds again at the first
kernel of every kind; each tactic is timed on the GPU, which several builders share in turns.  So
the hunts' processes ask one that stays warm.  What it crashes on fails in the hunt that asked; the
others wait for the next one.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
from collections.abc import Iterator
from multiprocessing import get_context
from multiprocessing.managers import BaseManager
from typing import Any, NamedTuple

from mxtrt.engines.tensorrt import tensorrt
from mxtrt.engines.tensorrt.api import PACKAGES, load_api
from mxtrt.engines.tensorrt.process import BuilderProcess
from mxtrt.errors import EngineError

__all__ = ["Address", "connected", "serving", "use"]

# Seconds without a build after which the builder ends: hunts draw and judge in between.
_IDLE = 600.0


class Address(NamedTuple):
    """Where builds are served: a socket, and what opens it."""

    socket: str
    key: bytes


@functools.cache
def _builder(package: str) -> BuilderProcess:
    """The builder of the process that serves."""
    return BuilderProcess(load_api(package), _IDLE)


class _Builders(BaseManager):
    """Serves builds, one at a time, to processes that know its address."""


_Builders.register("builder", callable=_builder, exposed=("build",))


@contextlib.contextmanager
def serving(engine: str) -> Iterator[Address | None]:
    """A block with a builder for the processes of a campaign; None where the engine needs none.

    Args:
        engine: An engine of ``mxtrt.config.ENGINES``.
    """
    if engine != "tensorrt" or _package() is None:
        yield None
        return
    with _Builders(ctx=get_context("spawn")) as builders:
        assert isinstance(builders.address, str)
        yield Address(builders.address, bytes(builders._authkey))  # type: ignore[attr-defined]


def connected(address: Address) -> Any:
    """The builder that serves at an address.

    Raises:
        OSError: Nobody serves there.
        EngineError: TensorRT does not load there.
    """
    builders = _Builders(address.socket, address.key)
    builders.connect()
    return builders.builder(_package())  # type: ignore[attr-defined]


def use(address: Address) -> None:
    """Have this process build its engines there; not where TensorRT does not work."""
    with contextlib.suppress(EngineError):
        tensorrt().builder = connected(address)


def _package() -> str | None:
    """NVIDIA's Python package that is installed."""
    return next((name for name in PACKAGES if importlib.util.find_spec(name) is not None), None)
