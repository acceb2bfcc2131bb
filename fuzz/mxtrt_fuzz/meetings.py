"""A bound case meets inputs that it was not bound for.

They are arrays of an odd kind, and more batch sizes than a block keeps engines for.  What plain
MXNet makes of them is right: its answer, or its exception.  The next ordinary forward has to give
what it gave before, and run as many engines.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any
from unittest import mock

import mxtrt
import mxtrt.plan.variants
from mxtrt_fuzz import odd
from mxtrt_fuzz.calls import enlarged, infers
from mxtrt_fuzz.complaints import Complaints
from mxtrt_fuzz.graphs import Call, Case
from mxtrt_fuzz.odd import Forward, Outcome

__all__ = ["Meetings"]

#: How many input shapes a block keeps while it meets more of them.
_MOST_SIZES = 4

_Inputs = Callable[[], Mapping[str, Any]]


class Meetings:
    """What one case is to meet.

    Args:
        mx: MXNet.
        inputs: NDArrays of ordinary inputs by name.
        seed: Draws the kinds and the batch sizes.
        plainly: Binds the case in plain MXNet.
        options: Options of its bind with engines.
    """

    def __init__(
        self,
        mx: Any,
        inputs: Mapping[str, Any],
        seed: int,
        plainly: Callable[[], Forward],
        options: Mapping[str, Any],
    ) -> None:
        self._mx = mx
        self._inputs = inputs
        self._seed = seed
        self._plainly = plainly
        self._options = options

    def odd(self, forward: Forward) -> dict[str, str]:
        """Odd kinds of arrays: the first one that is answered otherwise, and how.

        Args:
            forward: The case with engines.
        """
        kinds = odd.drawn(self._mx, self._inputs, self._seed)
        found = self._first_difference(lambda: forward, kinds, same_numbers=True)
        return {} if found is None else dict([found])

    def sizes(self, bind: Callable[[], Forward], case: Case) -> dict[str, str]:
        """More batch sizes than a block keeps, and each again: the first difference.

        Args:
            bind: Binds the case with engines.
            case: The case.
        """
        drawn = [times for times in odd.batches(self._seed) if self._takes(case, times)]
        trials = [
            (f"{times} times the batch size", partial(self._tiled, times))
            for times in (*drawn, *drawn)
        ]
        with mock.patch.object(mxtrt.plan.variants, "_MOST_VARIANTS", _MOST_SIZES):
            found = self._first_difference(bind, trials)
        return {} if found is None else {"size": ": ".join(found)}

    def _first_difference(
        self,
        bind: Callable[[], Forward],
        trials: Iterable[tuple[str, _Inputs]],
        *,
        same_numbers: bool = False,
    ) -> tuple[str, str] | None:
        """Go through some inputs until one is answered otherwise than by plain MXNet.

        Args:
            bind: Gives the forward with engines.
            trials: What makes the inputs, each with a name.
            same_numbers: Whether they hold the numbers of the ordinary inputs.

        Returns:
            The name of that one and what is different; None where nothing is.
        """
        with mxtrt.options(enabled=False):
            plain = self._plainly()
            ordinary, _ = self._counted(plain)
        with Complaints(), mxtrt.options(**self._options):
            forward = bind()
            usual = self._counted(forward)
            # Where they are not the same here, rounding decides them.
            comparable = not odd.difference(usual[0], ordinary)
            for name, inputs in trials:
                with mxtrt.options(enabled=False):
                    expected = odd.outcome(plain, inputs)
                # Some of MXNet's operators misread sparse arrays: other numbers prove nothing.
                misread = same_numbers and not odd.hold_the_same(expected, ordinary)
                values = comparable and not misread
                told = odd.difference(odd.outcome(forward, inputs), expected, values=values)
                told = told or _unlike(usual, self._counted(forward))
                if told:
                    return name, told
        return None

    def _counted(self, forward: Forward) -> tuple[Outcome, int]:
        """The outcome of an ordinary forward, and how many engines it ran."""
        before = mxtrt.stats().engine_runs
        told = odd.outcome(forward, lambda: self._inputs)
        return told, mxtrt.stats().engine_runs - before

    def _tiled(self, times: int) -> dict[str, Any]:
        """The ordinary inputs with every row so many times."""
        return {name: self._mx.nd.repeat(a, times, axis=0) for name, a in self._inputs.items()}

    def _takes(self, case: Case, times: int) -> bool:
        """Whether MXNet takes so many times the rows."""
        if not all(array.ndim for array in self._inputs.values()):
            return False
        rows = ((name, a.shape[0]) for name, a in self._inputs.items())
        made = enlarged(case, Call(tuple((name, 0, (times - 1) * n) for name, n in rows)))
        return made is not None and infers(self._mx, made)


def _unlike(usual: tuple[Outcome, int], later: tuple[Outcome, int]) -> str:
    """What is different in a later ordinary forward; empty where nothing is."""
    told = odd.difference(later[0], usual[0])
    if not told and later[1] < usual[1]:
        told = f"{later[1]} runs of engines where there were {usual[1]}"
    return told and f"the next ordinary forward: {told}"
