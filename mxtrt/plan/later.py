"""Builds that no request waits for: MXNet's operators answer until the engine is there.

The option ``build`` says which: with ``foreground`` none, with ``wait`` all but those of the first
bind, with ``background`` all.  Two kinds are waited for all the same: those for arrays on a GPU, as
there may be nothing else to answer where MXNet's wheels have no code for it; and those in a process
whose MXNet has its ``NaiveEngine``, which keeps no two threads apart.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

from mxtrt.config import Options
from mxtrt.errors import EngineError, RefusedNodesError
from mxtrt.graph.symbol import Shapes, inferred
from mxtrt.observe.report import Report
from mxtrt.system import background
from mxtrt.system.background import Job

__all__ = [
    "MOST_OUTDATED",
    "MOST_TRIES",
    "OutdatedError",
    "Tried",
    "build_for",
    "postpone",
    "waits",
    "was_postponed",
]

_log = logging.getLogger("mxtrt")

#: A build that has failed so often is given up.
MOST_TRIES = 3

#: A request waits for the build after so many in a row whose weights were written to meanwhile.
MOST_OUTDATED = 3

_thread = threading.local()


class OutdatedError(EngineError):
    """Weights were written to, or moved, while an engine was built from them."""

    def __init__(self) -> None:
        super().__init__("the weights changed while an engine was being built")


def waits(options: Options, gpu: int | None, *, first: bool = False) -> bool:
    """Whether a build is to be done here and now.

    Args:
        options: The options of the bind.
        gpu: The GPU that the arrays are on, None for host memory.
        first: Whether it is the first one for what is bound.
    """
    return (
        options.build == "foreground"
        or (first and options.build == "wait")
        or background.in_job()
        or os.environ.get("MXNET_ENGINE_TYPE") == "NaiveEngine"
        or gpu is not None
    )


def postpone(reason: str, pause: int = 0) -> NoReturn:
    """Leave a request to MXNet from within MXNet's shape inference.

    Args:
        reason: Why.
        pause: So many more requests of the kind are MXNet's before the engine is built.

    Raises:
        EngineError: Always; as MXNet's error it reaches who has asked, for :func:`was_postponed`.
    """
    _thread.pause = pause
    raise EngineError(reason)


def was_postponed() -> int | None:
    """Whether the error that this thread got from MXNet means that an engine is yet to be built.

    Returns:
        None if not, otherwise the pause before it is to be.
    """
    pause: int | None = getattr(_thread, "pause", None)
    _thread.pause = None
    return pause


def submit(
    work: Callable[[], Any], about: object, report: Report | None = None, told: str = ""
) -> Job:
    """Have something built in the background.

    Args:
        work: Builds it.
        about: What stands for what it is built for, see :func:`mxtrt.ready`.
        report: Says meanwhile that it is being built.
        told: What that is.
    """
    from mxnet.util import is_np_array, is_np_shape, np_array, np_shape

    numpy_shape, numpy_array = is_np_shape(), is_np_array()
    building = [] if report is None else report.building
    begun: list[bool] = []

    def run() -> Any:
        begun.append(True)
        try:
            with np_shape(numpy_shape), np_array(numpy_array):  # of each thread
                return work()
        except Exception as error:
            _log.info("a build in the background failed: %s", error)
            raise
        finally:
            building.remove(told)

    building.append(told)
    job = background.submit(run, about)
    if job.done and not begun:
        building.remove(told)
    return job


def build_for(symbol: Any, shapes: Mapping[str, Any], data: Shapes, about: object) -> Job:
    """Have the engines of a partitioned symbol built for other input shapes, in the background.

    MXNet's shape inference asks all engine nodes of the symbol for theirs.

    Args:
        symbol: The partitioned symbol; its plan has been built.
        shapes: Shapes of its arguments by name, and possibly more.
        data: Those of what the caller calls inputs, for people.
        about: What stands for what it is bound as, see :func:`mxtrt.ready`.
    """
    names = ", ".join(node.report.name for node in symbol.plan.nodes)
    told = f"{names} for inputs {' and '.join(map(str, data))}"
    known = dict(shapes)
    return submit(lambda: inferred(symbol, known), about, symbol.plan.report, told)


class Tried:
    """Something that is built in the background, and tried again where that fails."""

    def __init__(self) -> None:
        self._job: Job | None = None
        self._failures = self._outdated = 0  # in a row

    def waits(self, options: Options, gpu: int | None, *, first: bool = False) -> bool:
        """Whether it is to be built here and now; see :func:`waits`."""
        return waits(options, gpu, first=first) or self._outdated >= MOST_OUTDATED

    @property
    def awaited(self) -> bool:
        """Whether it is being built."""
        job = self._job
        return job is not None and not job.done

    def begin(
        self, build: Callable[[], Any], about: object, report: Report | None = None, told: str = ""
    ) -> None:
        """Have it built; the arguments are those of :func:`submit`."""
        self._job = submit(build, about, report, told)

    def result(self) -> Any:
        """What has been built since this was asked last; None if nothing has, or it failed.

        Raises:
            Exception: Why it failed, once it is no use to try again.
        """
        job, self._job = self._job, None
        if job is None:
            return None
        if job.error is None:
            self._failures = self._outdated = 0
            return job.result
        if isinstance(job.error, OutdatedError):
            self._outdated += 1
            return None
        self._failures += 1
        if self._failures == MOST_TRIES or isinstance(job.error, RefusedNodesError):
            raise job.error
        return None
