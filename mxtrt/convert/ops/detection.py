"""Converters of operators that make lists of detections: boxes, and which of them overlap."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mxtrt.convert.onnx_builder import tensor_type
from mxtrt.convert.ops.registry import Call, converter

#: The rank of a box that is not in the list, and what is below the rank of every box that is.
_OUT, _LOWEST = -np.inf, -3e38
#: Most numbers that tell of boxes of which classes they are at a time.
_MOST_AT_A_TIME = 1 << 18
_FAR = 2**31 - 1


@converter("_contrib_box_nms", outputs=1, not_in_half="its overlaps are rounded to float16")
def box_nms(call: Call) -> None:
    """``TopK`` by score, ``NonMaxSuppression`` by rank, and the survivors in front of rows of -1.

    Rows whose score is not above ``valid_thresh``, or that are of the background, are no
    candidates.  The others are in order of their scores, equal ones as they were given; the first
    ``topk`` of them stay, and each suppresses those of its class behind it that overlap it by more
    than ``overlap_thresh`` (``contrib/bounding_box-inl.h``).  ``NonMaxSuppression`` computes the
    overlap of two boxes with the same roundings.  Its order of equal scores is its own, so it gets
    ranks for scores.
    """
    call.require_floats()
    call.require(not call.gpu, "non-maximum suppression on a GPU, where MXNet's kernel is another")
    kind = call.text("in_format", "corner")
    call.require(kind == "corner", f"in_format={kind}: ONNX computes areas of such boxes otherwise")
    threshold = call.number("overlap_thresh", 0.5)
    call.require(threshold >= 0, f"overlap_thresh={threshold}, with which boxes apart overlap")
    size, width = call.shape()[-2:]
    topk = call.integer("topk", -1)
    if topk == 0:
        call.emit("Identity", [call.input()], output=call.output())
        return
    count = size if topk < 0 else min(topk, size)
    data = call.input()
    if call.rank() != 3:
        data = call.emit("Reshape", [data, call.indices([-1, size, width])])
    rows, ranks, none = _by_score(call, data, count)
    kept = _survivors(call, rows, ranks, none, min(threshold, 1.0))
    listed = _list(call, rows, kept, count)
    if call.text("out_format", "corner") == "center":
        listed = _centred(call, listed)
    if count < size:
        end = call.indices([0, 0, 0, 0, size - count, 0])
        listed = call.emit("Pad", [listed, end, call.constant(-1)])
    shape = call.emit("Shape", [call.input()])
    call.emit("Reshape", [listed, shape], output=call.output())


def _by_score(call: Call, data: str, count: int) -> tuple[str, str, str]:
    """The first rows by score, their ranks, of which no two are equal, and as many zeros."""
    size, width = call.shape()[-2:]
    flat = call.emit("Reshape", [data, call.indices([0, size * width])])

    def column(place: int) -> str:
        # ONNX Runtime is faster at every so many elements of a row than at a column.
        limits = [call.indices([number]) for number in (place, _FAR, 1, width)]
        return call.emit("Slice", [flat, *limits])

    scores = column(call.integer("score_index", 1))
    lowest = call.constant(call.number("valid_thresh", 0.0))
    valid = call.emit("Greater", [scores, lowest])
    if (index := call.integer("id_index", -1)) >= 0:
        background = call.constant(call.integer("background_id", -1))
        background = call.emit("Equal", [column(index), background])
        valid = call.emit("And", [valid, call.emit("Not", [background])])
    scores, places = _topk(call, call.emit("Where", [valid, scores, call.constant(_OUT)]), count)
    valid = call.emit("Greater", [scores, lowest])
    ranks = call.emit("Where", [valid, _ranks(call, count), call.constant(_OUT)])
    none = call.emit("Mul", [places, call.constant(0, np.int64)])
    return _rows(call, data, places), ranks, none


def _ranks(call: Call, count: int) -> str:
    return call.constant(-np.arange(count))


def _topk(call: Call, values: str, count: int) -> tuple[str, str]:
    """Largest values and their places; of equal ones the first is first."""
    best, places = call.fresh("best"), call.fresh("places")
    call.emit_many("TopK", [values, call.indices([count])], [best, places], axis=1, largest=1)
    return best, places


def _rows(call: Call, data: str, places: str) -> str:
    """Rows of every element of the batch, by their places."""
    places = call.emit("Unsqueeze", [places, call.indices([2])])
    return call.emit("GatherND", [data, places], batch_dims=1)


def _columns(call: Call, rows: str, start: int, count: int) -> str:
    limits = [call.indices([number]) for number in (start, start + count, 2)]
    return call.emit("Slice", [rows, *limits])


def _survivors(call: Call, rows: str, ranks: str, none: str, threshold: float) -> str:
    """One for every row that none before it suppresses, and zero for the others."""
    start = call.integer("coord_start", 2)
    low, high = (_columns(call, rows, start + place, 2) for place in (0, 2))
    # A box the wrong way round has no area in MXNet; ONNX would turn it.
    high = call.emit("Where", [call.emit("Greater", [high, low]), high, low])
    boxes = call.emit("Concat", [low, high], axis=2)
    ranks = call.emit("Unsqueeze", [ranks, call.indices([1])])
    index = call.integer("id_index", -1)
    if index < 0 or call.flag("force_suppress"):
        return _suppressed(call, boxes, ranks, none, threshold)
    return _suppressed_by_class(call, boxes, ranks, none, _classes(call, rows, index), threshold)


def _classes(call: Call, rows: str, index: int) -> str:
    """What class every row is of: MXNet makes a 32-bit integer of a number."""
    classes = call.emit("Gather", [rows, call.constant(index, np.int64)], axis=2)
    for dtype in (np.int32, np.int64):  # ONNX Runtime looks for different ones of int64 only
        classes = call.emit("Cast", [classes], to=tensor_type(np.dtype(dtype)))
    return classes


def _suppressed(call: Call, boxes: str, ranks: str, kept: str, threshold: float) -> str:
    """Ones in ``kept`` for the survivors among boxes with ranks, ``(batch, classes, boxes)``."""
    limits = [call.indices([_FAR]), call.constant(threshold), call.constant(_LOWEST)]
    found = call.emit("NonMaxSuppression", [boxes, ranks, *limits])
    places = call.emit("Gather", [found, call.indices([0, 2])], axis=1)
    ones = call.emit("Gather", [found, call.constant(0, np.int64)], axis=1)
    ones = call.emit("Mul", [ones, call.constant(0, np.int64)])
    ones = call.emit("Add", [ones, call.constant(1, np.int64)])
    return call.emit("ScatterND", [kept, places, ones])


def _suppressed_by_class(
    call: Call, boxes: str, ranks: str, none: str, classes: str, threshold: float
) -> str:
    """The same for boxes of several classes: a loop over the classes that there are.

    It takes as many of them at a time as a little memory is enough for.
    """
    there = call.emit("Unique", [classes], sorted=1)
    classes = call.emit("Unsqueeze", [classes, call.indices([1])])
    most = call.indices([_MOST_AT_A_TIME])
    count = call.indices([call.shape()[-2]])
    one = call.indices([1])
    step = call.emit("Max", [call.emit("Div", [most, count]), one])
    rounded = call.emit("Sub", [call.emit("Add", [call.emit("Shape", [there]), step]), one])
    trips = call.emit("Squeeze", [call.emit("Div", [rounded, step]), call.indices([0])])

    def body(run: str, state: Sequence[str]) -> Sequence[str]:
        kept, boxes, ranks, classes, there, step = state
        start = call.emit("Mul", [step, run])
        some = call.emit("Slice", [there, start, call.emit("Add", [start, step])])
        some = call.emit("Unsqueeze", [some, call.indices([0, 2])])
        of_class = call.emit("Equal", [classes, some])
        ranks_ = call.emit("Where", [of_class, ranks, call.constant(_OUT)])
        return [_suppressed(call, boxes, ranks_, kept, threshold), *state[1:]]

    given = [(none, np.int64), (boxes, np.float32), (ranks, np.float32)]
    given += [(name, np.int64) for name in (classes, there, step)]
    return call.loop("classes", trips, given, body)[0]


def _list(call: Call, rows: str, kept: str, count: int) -> str:
    """The rows that are kept, in their order, and behind them rows of -1."""
    kept = call.emit("Cast", [kept], to=tensor_type(np.dtype(np.bool_)))
    order = call.emit("Where", [kept, _ranks(call, count), call.constant(_OUT)])
    order, places = _topk(call, order, count)
    there = call.emit("Greater", [order, call.constant(_LOWEST)])
    there = call.emit("Unsqueeze", [there, call.indices([2])])
    return call.emit("Where", [there, _rows(call, rows, places), call.constant(-1)])


def _centred(call: Call, rows: str) -> str:
    """Corners as a centre and a size, but where the first of them is negative."""
    start, width = call.integer("coord_start", 2), call.shape()[-1]
    low, high = (_columns(call, rows, start + place, 2) for place in (0, 2))
    total = call.emit("Add", [low, high])
    centre = call.emit("Div", [total, call.constant(2)])
    parts = [centre, call.emit("Sub", [high, low])]
    if start:
        parts.insert(0, _columns(call, rows, 0, start))
    if start + 4 < width:
        parts.append(_columns(call, rows, start + 4, width - start - 4))
    centred = call.emit("Concat", parts, axis=2)
    outside = call.emit("Less", [_columns(call, rows, start, 1), call.constant(0)])
    return call.emit("Where", [outside, rows, centred])
