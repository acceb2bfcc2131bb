"""When a bind is tried for inputs that no engine serves.

A try takes time, for which a request waits.  One that failed is not repeated for inputs of the same
shapes, dtypes, storage types and contexts.  For others the next one takes place after 0, 1, 2, 4,
... more calls, so that what comes first and is wrong costs no later call its engine, and what never
gets one waits for some log2(n) tries in n calls.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

__all__ = ["Signature", "Tries", "signature_of"]

#: Shape, dtype, storage type and context of every input.
Signature = tuple[tuple[Any, ...], ...]

# So many signatures are remembered for which a bind failed.
_MOST_KNOWN = 1000

# Longest run of calls that go to MXNet without a look at their inputs.
_LONGEST_SLEEP = 64


def signature_of(arrays: Sequence[Any]) -> Signature:
    """What a bind to these NDArrays depends on."""
    return tuple((array.shape, array.dtype, array.stype, array.ctx) for array in arrays)


class Tries:
    """What is known of the tries of one block."""

    def __init__(self) -> None:
        self._known: set[Signature] = set()
        self._failures = 0  # in a row
        self._looks = 0  # that found what is known, in a row
        self._waiting = 0

    def due(self) -> bool:
        """Whether inputs may be looked at in this call."""
        if self._waiting <= 0:
            return True
        self._waiting -= 1
        return False

    def are_known(self, signature: Signature) -> bool:
        """Whether inputs like these are MXNet's."""
        if signature not in self._known:
            return False
        self._waiting = max(self._waiting, (1 << self._looks) >> 1)
        self._looks += (1 << self._looks) <= _LONGEST_SLEEP
        return True

    def leave(self, signature: Signature) -> None:
        """Inputs like these are MXNet's."""
        if len(self._known) == _MOST_KNOWN:
            self._known.clear()
        self._known.add(signature)
        self._looks = 0

    def failed(self, signature: Signature) -> None:
        """A try for these inputs failed."""
        self.leave(signature)
        self._failures += 1
        self._waiting = (1 << self._failures) >> 2

    def succeeded(self) -> None:
        """A try succeeded."""
        self._failures = self._looks = self._waiting = 0
