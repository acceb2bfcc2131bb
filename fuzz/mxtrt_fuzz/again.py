"""Calling a bound case again: at other sizes, and after writes to its weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from unittest import mock

import mxtrt
import mxtrt.config
import mxtrt.convert.general
from mxtrt.plain.loading import mxnet_reason
from mxtrt_fuzz import calls
from mxtrt_fuzz.binds import Bound, Parts, bind, copied, ready, runs
from mxtrt_fuzz.graphs import Case
from mxtrt_fuzz.reference import Reference
from mxtrt_fuzz.values import Array, Arrays

__all__ = ["PROOFS", "Answer", "Outputs", "again", "is_taken", "outcome"]

#: How often a case is called after a write: an engine may be built anew at the second time only.
_REPEATS = 3

#: How many sizes a model for all of them is proved at before it is trusted.
PROOFS = 4

#: Seconds in which what is built in the background has to be there.
_BUILT = 60.0

Outputs = tuple[Array, ...]


@dataclass(frozen=True, slots=True)
class Answer:
    """What a later call gave.

    Attributes:
        number: Which call.
        plain: Plain MXNet's heads, or the exception that it raised.
        ours: With engines, one after the other.
        runs: How many engines ran in the last one, and at least have to: as many as before all of
            them, at the sizes of the bind.  A segment is left to MXNet at others where an operator
            reads the shape only of an input that is no part of it.
    """

    number: int
    plain: Outputs | str
    ours: tuple[Outputs | str, ...]
    runs: tuple[int, int]


def again(case: Case, parts: Parts, ways: tuple[str, str], given: Arrays) -> list[Answer]:
    """The later calls of a case that MXNet takes, with the options in force.

    Args:
        case: The case.
        parts: What is bound; its arrays are left alone.
        ways: How it is bound with engines, and how in plain MXNet.
        given: Values instead of those of the case's seed.
    """
    stages = [calls.enlarged(case, call) for call in case.calls]
    taken = [
        None if stage is None or not _is_taken(parts.mx, stage, case, number, given) else stage
        for number, stage in enumerate(stages)
    ]
    larger = [stage for stage in taken if stage is not None and stage.nodes != case.nodes]
    # Bound at the larger size half of the time: the others are smaller then.
    start = larger[0] if larger and case.seed % 2 else case
    later = mxtrt.config.current().build != "foreground"  # the engine answers one call later
    first = _ndarrays(parts, calls.inputs_at(start, len(case.calls), {}))
    with mock.patch.object(mxtrt.convert.general, "PROOFS", PROOFS):
        with mxtrt.options(enabled=False):
            plain = _bound(ways[1], parts, first)
            outcome(plain, first)
        ours = _bound(ways[0], parts, first)
        outcome(ours, first)
        ready(ours, _BUILT)
        usual = _counted(ours, first)[1]
        found = []
        for number, stage in enumerate(taken):
            writes = calls.written_at(case, number, given)
            _write(plain, parts, writes)
            _write(ours, parts, writes)
            if stage is None:
                continue
            inputs = _ndarrays(parts, calls.inputs_at(stage, number, given))
            with mxtrt.options(enabled=False):
                expected = outcome(plain, inputs)
            seen = []
            for _ in range((_REPEATS if writes else 1) + later):
                told, ran = _counted(ours, inputs)
                seen.append(told)
                ready(ours, _BUILT)
            # A CachedOp that is called with other arrays of weights is left to MXNet.
            left = stage.nodes != start.nodes or getattr(ours, "moved", False)
            found.append(Answer(number, expected, tuple(seen), (ran, 0 if left else usual)))
    return found


def _bound(way: str, parts: Parts, inputs: Mapping[str, Any]) -> Bound:
    """The case bound with arrays of its own."""
    weights, aux = (
        {name: copied(parts.mx, parts.context, array.asnumpy()) for name, array in arrays.items()}
        for arrays in (parts.weights, parts.aux)
    )
    symbol = parts.mx.sym.load_json(parts.symbol.tojson(remove_amp_cast=False))
    return bind(way, Parts(parts.mx, parts.context, symbol, inputs, weights, aux))


def _write(bound: Bound, parts: Parts, writes: Mapping[tuple[str, str], Array]) -> None:
    for how in dict.fromkeys(how for _, how in writes):
        bound.write(
            _ndarrays(parts, {name: a for (name, kind), a in writes.items() if kind == how}), how
        )


def _ndarrays(parts: Parts, arrays: Arrays) -> dict[str, Any]:
    return {name: copied(parts.mx, parts.context, array) for name, array in arrays.items()}


def outcome(bound: Bound, inputs: Mapping[str, Any]) -> Outputs | str:
    """The heads of a call, or what it raises, in words."""
    try:
        return tuple(head.asnumpy() for head in bound(inputs))
    except Exception as error:
        return f"{type(error).__name__}: {mxnet_reason(error)}"


def _counted(bound: Bound, inputs: Mapping[str, Any]) -> tuple[Outputs | str, int]:
    """What a call gives, and how many engines it runs."""
    before = runs(bound)
    told = outcome(bound, inputs)
    return told, runs(bound) - before


def _is_taken(mx: Any, stage: Case, case: Case, number: int, given: Arrays) -> bool:
    """The same for a later call of a case."""
    values = {**calls.weights_at(case, number, given), **calls.inputs_at(stage, number, given)}
    return is_taken(mx, stage, values)


def is_taken(mx: Any, stage: Case, values: Arrays) -> bool:
    """Whether MXNet infers the shapes of the references, and no index is out of its range.

    Args:
        mx: MXNet.
        stage: A case at some sizes.
        values: Of all its variables.
    """
    if not calls.infers(mx, stage):
        return False
    try:
        Reference(stage, values).values()
    except (IndexError, ValueError):
        return False
    return True
