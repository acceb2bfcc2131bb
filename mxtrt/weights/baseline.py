"""Whether weights are still those that an engine was built from.

MXNet counts the writes to an array, and a :class:`~mxtrt.node.watch.Watch` reads the count.  But a
bind, a reshape and the end of an executor count as writes, too, to all that the executor uses.  So
where a count has moved, what the arrays hold decides.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from mxtrt.node.watch import Watch

__all__ = ["Baseline", "Held", "Together"]


class Held(Protocol):
    """What some arrays held at one moment."""

    def same(self) -> bool:
        """Whether they hold the same, at the same addresses, pending writes finished.

        Raises:
            OSError: That cannot be told.
        """


class Baseline:
    """A moment of some arrays, and whether they have held the same since.

    Args:
        watch: Of the arrays, since that moment; None where nobody watched: then they have not.
        held: What they held then; None where that is not known.
    """

    def __init__(self, watch: Watch | None = None, held: Held | None = None) -> None:
        self._watch = watch
        self._held = held

    def changed(self) -> bool:
        """Whether MXNet counted a write since; waits for pending writes.

        Raises:
            MXNetError: A pending write failed.
        """
        return self._watch is None or self._watch.changed()

    def written(self) -> bool:
        """Whether MXNet counted a write since; waits for nothing."""
        return self._watch is None or self._watch.written()

    def same(self) -> bool:
        """Whether the arrays hold what they held, whatever was written.

        If so, :meth:`changed` compares with this moment.
        """
        watch = self._watch
        if watch is None or self._held is None:
            return False
        counts = watch.counts()  # before reading: a write during it then shows as a change
        try:
            same = self._held.same()
        except OSError:
            return False
        if same:
            watch.since(counts)
        return same

    def still_holds(self) -> bool:
        """Whether the arrays hold what they held: read only if MXNet counted a write."""
        return not self.changed() or self.same()

    def remember(self) -> None:
        """Have :meth:`changed` compare with this moment, though what is held now is not known."""
        if self._watch is not None:
            self._watch.remember()

    @property
    def watches(self) -> list[Watch]:
        """What :meth:`changed` asks."""
        return [] if self._watch is None else [self._watch]


class _Based(Protocol):
    """What was built from some arrays."""

    @property
    def baseline(self) -> Baseline:
        """Of these arrays."""


class Together:
    """The weights of several engines, those that others own included.

    Args:
        own: Of the weights that are the caller's.
        borrowed: Sessions that read other arrays of the same contents; looked at anew each time.
    """

    def __init__(self, own: Baseline, borrowed: Sequence[_Based]) -> None:
        self._own = own
        self._borrowed = borrowed

    def changed(self) -> bool:
        """Whether MXNet counted a write to any; waits for pending writes.

        Raises:
            MXNetError: A pending write failed.
        """
        if self._own.changed():
            return True
        return bool(self._borrowed) and any(one.baseline.changed() for one in self._borrowed)

    def same(self) -> bool:
        """Whether all hold what they held, whatever was written; see :meth:`Baseline.same`."""
        return self._own.same() and all(one.baseline.still_holds() for one in self._borrowed)

    def still_holds(self) -> bool:
        """Whether all hold what they held: read only if MXNet counted a write."""
        return not self.changed() or self.same()

    def written(self) -> bool:
        """Whether MXNet counted a write to the caller's own; waits for nothing."""
        return self._own.written()

    @property
    def watches_of_others(self) -> list[Watch]:
        """What :meth:`changed` asks of arrays that are not the caller's own."""
        return [watch for one in self._borrowed for watch in one.baseline.watches]

    def remember(self) -> None:
        """Take the caller's own as they are now for what :meth:`changed` compares with."""
        self._own.remember()
