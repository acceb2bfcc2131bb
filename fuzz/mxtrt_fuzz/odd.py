"""Odd arrays at a forward: whatever a graph was not bound for, plain MXNet's outcome is right.

An engine may answer some of them (a view); most are MXNet's, whose answer or
exception the caller has to get.  Nothing here needs limits: it is told whether the outcome is the
same kind of thing and holds mostly the same numbers, not how precise they are.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np

from mxtrt_fuzz.values import Array

__all__ = [
    "ODD",
    "Forward",
    "Outcome",
    "batches",
    "difference",
    "drawn",
    "hold_the_same",
    "outcome",
]

#: A bound case: the heads for inputs by name, as NDArrays.
Forward = Callable[[Mapping[str, Any]], list[Any]]

#: What a forward gives: context, dtype, storage type and values of every head, or the name of the
#: exception that it raises.
Outcome = str | list[tuple[Any, ...]]

#: Ways that one case is tried in.
_WAYS = 4

#: Batch sizes that one case is tried at.
_BATCHES = 6

#: What an answer may be off from another one, relative to its largest value: int8 is coarse.
_OFF = 0.1

#: Answers that are smaller everywhere are not compared: where oneDNN's softrelu ought to be near
#: zero it is off by 4e-6.
_VANISHED = 4e-5


def _at_an_offset(mx: Any, array: Any) -> Any:
    rows = mx.nd.zeros((3, *array.shape[1:]), dtype=array.dtype)
    return mx.nd.concat(rows, array, dim=0)[3:]


def _failing(mx: Any, array: Any) -> Any:
    return mx.nd.random.normal(0, -1, array.shape)


#: Odd versions of an array of one axis at least, by name.  Not among them: another shape, at which
#: MXNet's own operators may write beyond their outputs (Reshape by ``(0, 0)`` of three axes);
#: integers, by which they divide; float16, in which engines compute what MXNet's kernels refuse.
ODD: dict[str, Callable[[Any, Any], Any]] = {
    "csr": lambda mx, array: array.tostype("csr"),
    "row_sparse": lambda mx, array: array.tostype("row_sparse"),
    "float64": lambda mx, array: array.astype("float64"),
    "second_cpu": lambda mx, array: array.as_in_context(mx.cpu(1)),
    "shared_memory": lambda mx, array: array.as_in_context(mx.Context("cpu_shared", 0)),
    "offset": _at_an_offset,
    "reshaped": lambda mx, array: array.reshape((-1,)).reshape(array.shape),
    "failing_write": _failing,
}


def drawn(
    mx: Any, inputs: Mapping[str, Any], seed: int
) -> Iterator[tuple[str, Callable[[], dict[str, Any]]]]:
    """Ways in which an input is odd, each with what makes the inputs.

    Args:
        mx: MXNet.
        inputs: NDArrays by name.
        seed: Draws which, and the ways.
    """
    random = np.random.default_rng([seed, zlib.crc32(b"odd")])
    fits = [name for name, array in inputs.items() if array.ndim]
    for way in random.permutation(list(ODD))[: _WAYS if fits else 0]:
        name = fits[random.integers(len(fits))]
        array = inputs[name]
        if (way == "csr" and array.ndim != 2) or (
            way == "failing_write" and array.dtype != np.float32
        ):
            continue
        yield str(way), partial(_odd, mx, inputs, name, ODD[way])


def batches(seed: int) -> list[int]:
    """By what the batch size is multiplied, one time after the other.

    Args:
        seed: Draws them.
    """
    random = np.random.default_rng([seed, zlib.crc32(b"batches")])
    return [int(times) for times in 2 + random.permutation(12)[:_BATCHES]]


def _odd(
    mx: Any, inputs: Mapping[str, Any], name: str, make: Callable[[Any, Any], Any]
) -> dict[str, Any]:
    return {**inputs, name: make(mx, inputs[name])}


def outcome(forward: Forward, inputs: Callable[[], Mapping[str, Any]]) -> Outcome:
    """What a forward gives: its heads as a caller sees them, or the name of the exception."""
    try:
        heads = forward(inputs())
        return [(str(h.ctx), str(np.dtype(h.dtype)), h.stype, h.asnumpy()) for h in heads]
    except Exception as error:
        return type(error).__name__


def difference(ours: Outcome, plain: Outcome, *, values: bool = True) -> str:
    """In what an outcome is not the other one; empty if it is the same.

    Args:
        ours: One.
        plain: The other one.
        values: Whether to look at the numbers too.
    """
    if isinstance(ours, str) or isinstance(plain, str):
        told = [one if isinstance(one, str) else "an answer" for one in (ours, plain)]
        return "" if ours == plain else f"{told[0]} where plain MXNet has {told[1]}"
    for place, (one, other) in enumerate(zip(ours, plain, strict=True)):
        if one[:3] != other[:3] or one[3].shape != other[3].shape:
            seen = [(*head[:3], head[3].shape) for head in (one, other)]
            return f"head {place} is {seen[0]} where plain MXNet has {seen[1]}"
        if values and not _mostly_the_same(one[3], other[3]):
            return f"head {place} has other values than plain MXNet's"
    return ""


def hold_the_same(one: Outcome, other: Outcome) -> bool:
    """Whether two answers have about the same numbers, whatever kind of arrays they are."""
    if isinstance(one, str) or isinstance(other, str):
        return False
    heads = zip(one, other, strict=True)
    return all(a[3].shape == b[3].shape and _mostly_the_same(a[3], b[3]) for a, b in heads)


def _mostly_the_same(one: Array, other: Array) -> bool:
    """Whether half of the elements are about the same: some jump where inputs hardly differ."""
    one, other = one.astype(np.float64), other.astype(np.float64)
    finite = np.abs(other[np.isfinite(other)])
    if finite.size and finite.max() < _VANISHED:
        return True  # a product that vanished may be NaN in another order of its factors
    limit = _OFF * finite.max(initial=0.0)
    with np.errstate(invalid="ignore"):
        same = (one == other) | (np.abs(one - other) <= limit) | (np.isnan(one) & np.isnan(other))
    return not same.size or bool(same.mean() >= 0.5)
