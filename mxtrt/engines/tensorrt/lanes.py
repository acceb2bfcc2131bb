"""Other lanes for sessions whose runs overlap: more streams of their GPU, and other GPUs."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence

from mxtrt.engines.tensorrt.runtime import Context, Runtime
from mxtrt.errors import EngineError, NodeError
from mxtrt.node import library
from mxtrt.observe.counters import count
from mxtrt.system.background import submit

__all__ = ["Lanes"]

_log = logging.getLogger("mxtrt")


class Lanes:
    """The lanes that a session may run on.

    Args:
        context: The context on the first of them.
        gpus: Their GPUs, that of the context first.
        each: Lanes that each GPU has at the most.
        runtime: TensorRT's runtime on a GPU; raises EngineError where the engine does not run.
    """

    def __init__(
        self,
        context: Context,
        gpus: Sequence[int],
        each: int,
        runtime: Callable[[int], Runtime],
    ) -> None:
        self._context = context
        self._runtime = runtime
        self._gpus = gpus
        self._each = each
        #: Lanes of all GPUs.
        self.most = each * len(gpus)

    def want(self, session: int) -> None:
        """Have another one opened in the background, for a session."""
        submit(lambda: self._open(session))

    def _open(self, session: int) -> None:
        opened = False
        try:
            opened = any(self._opened_on(gpu, session) for gpu in self._by_use(session))
        except NodeError as error:
            _log.debug("a session that wanted another lane is gone: %s", error)
        finally:
            library().cuda.lane_answered(session, opened)

    def _by_use(self, session: int) -> Iterator[int]:
        """The GPUs, those first on which the session has the fewest lanes.

        Raises:
            NodeError: The session is gone.
        """
        lanes = {gpu: library().cuda.lanes(session, gpu) for gpu in self._gpus}
        yield from sorted((gpu for gpu in lanes if lanes[gpu] < self._each), key=lanes.__getitem__)

    def _opened_on(self, gpu: int, session: int) -> bool:
        cuda = library().cuda
        try:
            with cuda.current(gpu):
                context = self._context.another(self._runtime(gpu))
                cuda.open_lane(session, context, gpu, self._each)
        except (EngineError, NodeError) as error:
            _log.info("runs that overlap have no other lane on GPU %d: %s", gpu, error)
            return False
        count("lanes")
        return True
