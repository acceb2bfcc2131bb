"""Where a bound thing stands: a plan, an executor, a block for inputs of one kind.

==========  =======================  ==================================================
from        to                       when
==========  =======================  ==================================================
``UNBUILT`` ``BUILDING``             engines are to be built from the weights
``BUILDING`` ``BUILT``               they are there, and passed their check
``BUILDING`` ``UNBUILT``             the build failed; what was bound says what follows
``BUILT``   ``BUILDING``             the weights have changed
any but     ``LEFT``                 no engine for it: MXNet answers, and goes on doing so
``RETIRED``
any         ``RETIRED``              an engine failed at run time: MXNet answers until the
                                     graph is partitioned without the nodes that failed
==========  =======================  ==================================================

``LEFT`` and ``RETIRED`` are final for this thing.  Another bind makes another one.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping

from mxtrt.system.threads import lock

__all__ = ["Stage", "State"]


class Stage(enum.Enum):
    """Where a bound thing stands."""

    UNBUILT = enum.auto()
    BUILDING = enum.auto()
    BUILT = enum.auto()
    LEFT = enum.auto()
    RETIRED = enum.auto()


_TO = {
    Stage.UNBUILT: {Stage.BUILDING, Stage.LEFT, Stage.RETIRED},
    Stage.BUILDING: {Stage.BUILDING, Stage.BUILT, Stage.UNBUILT, Stage.LEFT, Stage.RETIRED},
    Stage.BUILT: {Stage.BUILDING, Stage.LEFT, Stage.RETIRED},
    Stage.LEFT: {Stage.LEFT},
    Stage.RETIRED: {Stage.RETIRED},
}


class State:
    """The stage of a bound thing, and why it is the last one.

    Attributes:
        stage: Where it stands.
        built: Whether engines may answer; asked at every forward.
        reasons: Why MXNet's nodes are MXNet's, by name, where it is retired or left.
    """

    def __init__(self) -> None:
        self.stage = Stage.UNBUILT
        self.built = False
        self.reasons: dict[str, str] = {}
        self._lock = lock()

    def to(self, stage: Stage, reasons: Mapping[str, str] | None = None) -> bool:
        """Go to a stage, unless the present one is final.

        Threads of MXNet's retire what another thread builds: the build then ends in vain.

        Args:
            stage: Where to.
            reasons: Why, by node, for the final ones; added to those known.

        Returns:
            Whether it is there now.
        """
        with self._lock:
            if stage not in _TO[self.stage]:
                return False
            self.stage = stage
            self.built = stage is Stage.BUILT
            self.reasons.update(reasons or {})
            return True

    @property
    def retired(self) -> bool:
        """Whether an engine failed at run time."""
        return self.stage is Stage.RETIRED

    @property
    def left(self) -> bool:
        """Whether it is MXNet's for good."""
        return self.stage is Stage.LEFT
