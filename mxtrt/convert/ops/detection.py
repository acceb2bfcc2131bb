"""Converters of operators that make lists of detections: boxes, and which of them overlap."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from mxtrt.convert.onnx_builder import tensor_type
from mxtrt.convert.ops.registry import Call, converter

_ON_GPU = "non-maximum suppression was not compared with MXNet's"
_HALF = "areas of boxes are rounded to float16"
#: The rank of a box that is not in the list, and what is below the rank of every box that is.
_OUT, _LOWEST = -np.inf, -3e38
#: Most numbers that tell of boxes of which classes they are at a time.
_MOST_AT_A_TIME = 1 << 18
#: So few boxes may be of any number of classes.
_FEW = 128
#: Beyond the end of every axis.
_FAR = 2**31 - 1
#: So many ranks are different numbers in float32.
_MOST_RANKS = 1 << 24


@converter("_contrib_box_nms", outputs=1, not_in_half=_HALF, not_on_gpu=_ON_GPU)
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
    rows, ranks = _by_score(call, data, count)
    classes = None
    if (index := call.integer("id_index", -1)) >= 0 and not call.flag("force_suppress"):
        classes = _classes(call, rows, index)
    start = call.integer("coord_start", 2)
    kept = _survivors(call, rows, start, ranks, count, classes, min(threshold, 1.0))
    centred = call.text("out_format", "corner") == "center"
    cut, moved = count < size, call.rank() != 3
    target = None if centred or cut or moved else call.output()
    listed = _list(call, rows, kept, count, target)
    if centred:
        listed = _centred(call, listed, None if cut or moved else call.output())
    if cut:
        end = call.indices([0, 0, 0, 0, size - count, 0])
        target = None if moved else call.output()
        listed = call.emit("Pad", [listed, end, call.constant(-1)], output=target, mode="constant")
    if moved:
        shape = call.emit("Shape", [call.input()])
        call.emit("Reshape", [listed, shape], output=call.output())


def _by_score(call: Call, data: str, count: int) -> tuple[str, str]:
    """The first rows by score and their ranks: 0, -1, -2 and so on."""
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
    return _rows(call, data, places), _ranks(call, valid, count)


def _ranks(call: Call, valid: str, count: int) -> str:
    """0, -1, -2 and so on along the last axis, where it is valid."""
    call.require(count <= _MOST_RANKS, "more boxes than float32 counts")
    ends = [call.constant(number, np.int64) for number in (0, -count, -1)]
    ranks = call.emit("Cast", [call.emit("Range", ends)], to=tensor_type(np.dtype(np.float32)))
    return call.emit("Where", [valid, ranks, call.constant(_OUT)])


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


@dataclass(frozen=True)
class _Classes:
    """Classes of boxes.

    Attributes:
        of_boxes: Of every box, ``(batch, boxes)``.
        there: All that there may be, once each.
        count: How many these are, None where it depends on values.
    """

    of_boxes: str
    there: str
    count: int | None = None


def _survivors(
    call: Call,
    rows: str,
    start: int,
    ranks: str,
    size: int,
    classes: _Classes | None,
    threshold: float,
) -> str:
    """The ranks of the rows that none before them suppresses; the others are out.

    Args:
        call: The node.
        rows: The rows, whose corners begin at the number ``start``.
        start: The same.
        ranks: Their ranks.
        size: How many there are.
        classes: Their classes, where only boxes of one suppress each other.
        threshold: What overlaps by more is suppressed.
    """
    low, high = (_columns(call, rows, start + place, 2) for place in (0, 2))
    # A box the wrong way round has no area in MXNet; ONNX would turn it.
    boxes = call.emit("Concat", [low, call.emit("Max", [low, high])], axis=2)
    none = call.emit("Add", [ranks, call.constant(_OUT)])
    ranks = call.emit("Unsqueeze", [ranks, call.indices([1])])
    if classes is None:
        return _suppressed(call, boxes, ranks, none, threshold)
    of_boxes = call.emit("Unsqueeze", [classes.of_boxes, call.indices([1])])
    given = [(none, np.float32), (boxes, np.float32), (ranks, np.float32), (of_boxes, np.int64)]
    few = size <= _FEW if classes.count is None else size * classes.count <= _MOST_AT_A_TIME
    if few:
        return _of_classes(call, [name for name, _ in given], classes.there, threshold)
    return _by_turns(call, given, classes.there, size, threshold)


def _classes(call: Call, rows: str, index: int) -> _Classes:
    """What class every row is of: MXNet makes a 32-bit integer of a number."""
    classes = call.emit("Gather", [rows, call.constant(index, np.int64)], axis=2)
    for dtype in (np.int32, np.int64):  # ONNX Runtime looks for different ones of int64 only
        classes = call.emit("Cast", [classes], to=tensor_type(np.dtype(dtype)))
    return _Classes(classes, call.emit("Unique", [classes], sorted=1))


def _suppressed(call: Call, boxes: str, ranks: str, kept: str, threshold: float) -> str:
    """``kept`` with the ranks of the survivors among boxes with ranks, (batch, classes, boxes)."""
    limits = [call.indices([_FAR]), call.constant(threshold), call.constant(_LOWEST)]
    found = call.emit("NonMaxSuppression", [boxes, ranks, *limits])
    places = call.emit("Gather", [found, call.indices([0, 2])], axis=1)
    survivors = call.emit("Gather", [found, call.constant(2, np.int64)], axis=1)
    survivors = call.emit("Cast", [survivors], to=tensor_type(np.dtype(np.float32)))
    return call.emit("ScatterND", [kept, places, call.emit("Neg", [survivors])])


def _of_classes(call: Call, state: Sequence[str], wanted: str, threshold: float) -> str:
    """The same for the boxes of some classes, each of which suppresses its own only.

    Args:
        call: The node.
        state: Ranks that are kept, the boxes, their ranks, and their classes.
        wanted: Classes, all different.
        threshold: Boxes that overlap by more are suppressed.
    """
    kept, boxes, ranks, classes = state
    wanted = call.emit("Unsqueeze", [wanted, call.indices([0, 2])])
    ranks = call.emit("Where", [call.emit("Equal", [classes, wanted]), ranks, call.constant(_OUT)])
    return _suppressed(call, boxes, ranks, kept, threshold)


def _by_turns(
    call: Call, state: Sequence[tuple[str, Any]], there: str, count: int, threshold: float
) -> str:
    """The same for all classes, in turns of as many as a little memory is enough for."""
    one = call.indices([1])
    most = call.emit("Div", [call.indices([_MOST_AT_A_TIME]), call.indices([count])])
    most = call.emit("Max", [most, one])
    rounded = call.emit("Sub", [call.emit("Add", [call.emit("Shape", [there]), most]), one])
    turns = call.emit("Squeeze", [call.emit("Div", [rounded, most]), call.indices([0])])

    def body(turn: str, state: Sequence[str]) -> Sequence[str]:
        *known, there, most = state
        start = call.emit("Mul", [most, turn])
        wanted = call.emit("Slice", [there, start, call.emit("Add", [start, most])])
        return [_of_classes(call, known, wanted, threshold), *state[1:]]

    return call.loop("classes", turns, [*state, (there, np.int64), (most, np.int64)], body)[0]


def _list(call: Call, rows: str, kept: str, count: int, output: str | None) -> str:
    """The rows whose ranks are kept, in their order, and behind them rows of -1."""
    order, places = _topk(call, kept, count)
    there = call.emit("Greater", [order, call.constant(_LOWEST)])
    there = call.emit("Unsqueeze", [there, call.indices([2])])
    listed = _rows(call, rows, places)
    return call.emit("Where", [there, listed, call.constant(-1)], output=output)


def _centred(call: Call, rows: str, output: str | None) -> str:
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
    return call.emit("Where", [outside, rows, centred], output=output)


@converter("_contrib_box_iou", outputs=1, not_in_half=_HALF)
def box_iou(call: Call) -> None:
    """Arithmetic on every box of the first input with every box of the second.

    What is wider or higher than zero is shared; a box the wrong way round has no area
    (``contrib/bounding_box-inl.h``).
    """
    call.require_floats()
    kind = call.text("format", "corner")
    call.require(kind in ("corner", "center"), f"format={kind} is not known")
    ours, others = (_sides(call, place, kind) for place in (0, 1))
    shared = []
    for axis in (0, 1):
        low = call.emit("Max", [ours[axis], others[axis]])
        high = call.emit("Min", [ours[axis + 2], others[axis + 2]])
        shared.append(_where_positive(call, call.emit("Sub", [high, low])))
    both = call.emit("Mul", shared)
    whole = call.emit("Sub", [call.emit("Add", [ours[4], others[4]]), both])
    apart = call.emit("LessOrEqual", [both, call.constant(0)])
    overlap = call.emit("Div", [both, whole])
    call.emit("Where", [apart, call.constant(0), overlap], output=call.output())


def _where_positive(call: Call, value: str) -> str:
    """A value where it is above zero, and zero elsewhere, for a NaN too."""
    zero = call.constant(0)
    return call.emit("Where", [call.emit("Greater", [value, zero]), value, zero])


def _sides(call: Call, place: int, kind: str) -> list[str]:
    """Left, top, right and bottom of the boxes of an input, and their areas.

    Those of the first input get an axis for each of the second's in front of the last.
    """
    parts = [call.fresh("column") for _ in range(4)]
    call.emit_many("Split", [call.input(place), call.indices([1] * 4)], parts, axis=-1)
    if kind == "center":
        halves = [call.emit("Div", [size, call.constant(2)]) for size in parts[2:]]
        pairs = list(zip(parts[:2], halves, strict=True))
        ends = [call.emit(op_type, pair) for op_type in ("Sub", "Add") for pair in pairs]
        sizes = parts[2:]
    else:
        ends = parts
        sizes = [call.emit("Sub", [ends[axis + 2], ends[axis]]) for axis in (0, 1)]
    zero = call.constant(0)
    turned = call.emit("Or", [call.emit("Less", [size, zero]) for size in sizes])
    area = call.emit("Where", [turned, zero, call.emit("Mul", sizes)])
    # MXNet compares ends: a NaN loses in boxes of the first input, with centres of the second, and
    # nothing is shared with a NaN of the other.
    far = -np.inf if (place == 0) == (kind == "corner") else np.inf
    limits = [call.constant(limit) for limit in (far, far, -far, -far)]
    sides = [
        call.emit("Where", [call.emit("IsNaN", [end]), limit, end])
        for end, limit in zip(ends, limits, strict=True)
    ]
    sides.append(area)
    if place:
        return [call.emit("Squeeze", [side, call.indices([-1])]) for side in sides]
    axes = range(call.rank() - 1, call.rank() + call.rank(1) - 3)
    if not axes:
        return sides
    return [call.emit("Unsqueeze", [side, call.indices(axes)]) for side in sides]


# -- anchors and what is predicted for them ----------------------------------------------------


#: Most numbers of anchors that a model holds.
_MOST_ANCHORS = 1 << 20


@converter("_contrib_MultiBoxPrior", moves_data_only=True, outputs=1, shape_only=(0,))
def multi_box_prior(call: Call) -> None:
    """A constant: boxes of some sizes and ratios at every pixel (``contrib/multibox_prior.cc``).

    The first ratio is that of all sizes; the others are those of the first size.
    """
    call.require_floats()
    call.require(prod(call.out_shape()) <= _MOST_ANCHORS, "more than a million numbers of anchors")
    single = np.float32
    height, width = call.shape()[2:4]
    sizes, ratios = call.numbers("sizes", (1.0,)), call.numbers("ratios", (1.0,))
    steps = call.numbers("steps", (-1.0, -1.0))
    if min(steps) <= 0:
        steps = tuple(float(single(1) / single(size)) for size in (height, width))
    offsets = call.numbers("offsets", (0.5, 0.5))
    down, across = (
        (np.arange(size, dtype=single) + single(offset)) * single(step)
        for size, offset, step in zip((height, width), offsets, steps, strict=True)
    )
    centres = np.stack(np.broadcast_arrays(across, down[:, None]), -1)[:, :, None]
    shapes = [(size, ratios[0]) for size in sizes] + [(sizes[0], ratio) for ratio in ratios[1:]]
    reach = []
    for size, ratio in shapes:
        root = np.sqrt(single(ratio))
        wide = single(size) * single(height) / single(width) * root / single(2)
        reach.append([wide, single(size) / root / single(2)])
    half = np.array(reach, single)
    boxes = np.concatenate([centres - half, centres + half], -1)
    if call.flag("clip"):
        boxes = np.where(boxes < 0, single(0), np.where(boxes > 1, single(1), boxes))
    values = call.constant(boxes.reshape(1, -1, 4))
    call.emit("Identity", [values], output=call.output())


@converter("_contrib_MultiBoxDetection", outputs=1, not_in_half=_HALF, not_on_gpu=_ON_GPU)
def multi_box_detection(call: Call) -> None:
    """Boxes from anchors, the best class of each, and those that others suppress as class -1.

    Rows of what is no background come first, in order of their scores; with ``nms_topk`` the rest
    of them is not in order, and of class -1.  A box suppresses what overlaps it by
    ``nms_threshold`` or more (``contrib/multibox_detection.cc``).
    """
    call.require_floats()
    # MXNet infers the shapes without a look at it, and reads beyond the arrays.
    call.require(call.shape(1)[0] == call.shape()[0], "other boxes than for each picture")
    call.require(call.shape(2)[0] == 1, "anchors of several pictures")
    classes, size = call.shape()[1:]
    call.require(classes > 1, "no class but the background")
    anchors = _Anchors.of(call)
    threshold = np.float32(call.number("nms_threshold", 0.5))
    topk = call.integer("nms_topk", -1)
    parts, count = [], 0
    if 0 < threshold <= 1:
        count = min(topk, size) if topk > 0 else size
        parts.append(_suppressed_in_place(call, anchors, count, threshold))
    if count < size:
        parts.append(_in_given_order(call, anchors, count))
    call.emit("Concat", parts, output=call.output(), axis=1)


@dataclass(frozen=True)
class _Anchors:
    """What is predicted for the anchors of every picture, ``(batch, anchors)``.

    Attributes:
        ids: The best class, from 1 on.
        scores: Its score.
        valid: Whether it is no background, which has no class that is good enough.
        predicted: What is predicted for the box, ``(batch, anchors, 4)``.
        places: The anchors, ``(anchors, 4)``.
    """

    ids: str
    scores: str
    valid: str
    predicted: str
    places: str

    @classmethod
    def of(cls, call: Call) -> _Anchors:
        """The anchors of a node.

        As in MXNet a score of -1 comes before those of all classes, the first of the largest is the
        best, and a NaN is not larger than anything.
        """
        size = call.shape()[2]
        least = _filled(call, -1, (1, size))
        limits = [call.indices([number]) for number in (1, _FAR, 1)]
        scores = call.emit("Slice", [call.input(), *limits])
        scores = call.emit("Concat", [least, scores], axis=1)
        ids = call.emit("ArgMax", [scores], axis=1, keepdims=1)
        best = call.emit("GatherElements", [scores, ids], axis=1)
        ids, best = (call.emit("Squeeze", [value, call.indices([1])]) for value in (ids, best))
        good = call.constant(call.number("threshold", 0.01))
        good = call.emit("GreaterOrEqual", [best, good])
        found = call.emit("Greater", [ids, call.constant(0, np.int64)])
        return cls(
            ids,
            best,
            call.emit("And", [found, good]),
            call.emit("Reshape", [call.input(1), call.indices([0, size, 4])]),
            call.emit("Squeeze", [call.input(2), call.indices([0])]),
        )


def _filled(call: Call, value: float, sizes: Sequence[int]) -> str:
    """One number in an array of ``(batch, *sizes)``."""
    limits = [call.indices([number]) for number in (0, 1)]
    batch = call.emit("Slice", [call.emit("Shape", [call.input()]), *limits])
    shape = call.emit("Concat", [batch, call.indices(sizes)], axis=0)
    return call.emit("Expand", [call.constant(value), shape])


def _decoded(call: Call, predicted: str, anchors: str) -> str:
    """The boxes that are predicted for anchors, ``(batch, 4, boxes)``, as corners.

    Args:
        call: The node.
        predicted: Shifts and logarithms of growths, ``(batch, boxes, 4)``.
        anchors: Corners, ``(1 or batch, boxes, 4)``.
    """
    shift, growth, low, high = (call.fresh(h) for h in ("shift", "growth", "low", "high"))
    for values, parts in ((predicted, [shift, growth]), (anchors, [low, high])):
        across = call.emit("Transpose", [values], perm=[0, 2, 1])
        call.emit_many("Split", [across, call.indices([2, 2])], parts, axis=1)
    variances = np.reshape(call.numbers("variances", (0.1, 0.1, 0.2, 0.2)), (2, 2, 1))
    size, two = call.emit("Sub", [high, low]), call.constant(2)
    place = call.emit("Div", [call.emit("Add", [low, high]), two])
    shift = call.emit("Mul", [shift, call.constant(variances[0])])
    centre = call.emit("Add", [call.emit("Mul", [shift, size]), place])
    growth = call.emit("Exp", [call.emit("Mul", [growth, call.constant(variances[1])])])
    reach = call.emit("Div", [call.emit("Mul", [growth, size]), two])
    corners = [call.emit(op_type, [centre, reach]) for op_type in ("Sub", "Add")]
    boxes = call.emit("Concat", corners, axis=1)
    if call.flag("clip", True):  # not Clip: MXNet takes the bound for a NaN
        for op_type, bound in (("Less", call.constant(1)), ("Greater", call.constant(0))):
            boxes = call.emit("Where", [call.emit(op_type, [boxes, bound]), boxes, bound])
    return boxes


def _detections(call: Call, ids: str, scores: str, boxes: str) -> str:
    """Rows of a class, from 0 on, a score and a box, ``(batch, boxes, 6)``.

    Args:
        call: The node.
        ids: Classes, ``(batch, boxes)``.
        scores: Scores, the same.
        boxes: Corners, ``(batch, 4, boxes)``.
    """
    columns = [call.emit("Unsqueeze", [value, call.indices([1])]) for value in (ids, scores)]
    rows = call.emit("Concat", [*columns, boxes], axis=1)
    return call.emit("Transpose", [rows], perm=[0, 2, 1])


def _suppressed_in_place(call: Call, given: _Anchors, count: int, threshold: np.float32) -> str:
    """The first rows by score, with class -1 where others suppress them.

    Those of the background become rows of -1.
    """
    out, none = call.constant(_OUT), call.constant(-1)
    scores, places = _topk(call, call.emit("Where", [given.valid, given.scores, out]), count)
    there = call.emit("Greater", [scores, out])
    ranks = _ranks(call, there, count)
    ids = call.emit("GatherElements", [given.ids, places], axis=1)
    ids = call.emit("Sub", [ids, call.constant(1, np.int64)])
    anchors = call.emit("Gather", [given.places, places], axis=0)
    boxes = _decoded(call, _rows(call, given.predicted, places), anchors)
    classes = None
    if not call.flag("force_suppress"):
        known = call.shape()[1] - 1
        classes = _Classes(ids, call.indices(range(known)), known)
    corners = call.emit("Transpose", [boxes], perm=[0, 2, 1])
    # What is equal to the threshold suppresses here.
    below = float(np.nextafter(threshold, np.float32(-1)))
    kept = _survivors(call, corners, 0, ranks, count, classes, below)
    kept = call.emit("Greater", [kept, call.constant(_LOWEST)])
    ids = call.emit("Cast", [ids], to=tensor_type(np.dtype(np.float32)))
    rows = _detections(call, call.emit("Where", [kept, ids, none]), scores, boxes)
    there = call.emit("Unsqueeze", [there, call.indices([2])])
    return call.emit("Where", [there, rows, none])


def _in_given_order(call: Call, given: _Anchors, skip: int) -> str:
    """Rows of what is no background as they are given, and behind them rows of -1.

    Without the first few where others are in their place; then what is left has class -1.
    """
    size = call.shape()[2]
    counted = call.emit("Cast", [given.valid], to=tensor_type(np.dtype(np.int64)))
    counted = call.emit("CumSum", [counted, call.constant(1, np.int64)])
    taken = given.valid
    if skip:
        behind = call.emit("Greater", [counted, call.constant(skip, np.int64)])
        taken = call.emit("And", [taken, behind])
    at = call.emit("Transpose", [call.emit("NonZero", [taken])], perm=[1, 0])

    def found(values: str) -> str:
        """Values of what is taken, as of one picture."""
        values = call.emit("GatherND", [values, at])
        return call.emit("Unsqueeze", [values, call.indices([0])])

    picture, place = call.fresh("picture"), call.fresh("place")
    call.emit_many("Split", [at, call.indices([1, 1])], [picture, place], axis=1)
    anchors = call.emit("GatherND", [given.places, place])
    anchors = call.emit("Unsqueeze", [anchors, call.indices([0])])
    boxes = _decoded(call, found(given.predicted), anchors)
    ids = call.emit("Sub", [found(given.ids), call.constant(1, np.int64)])
    ids = call.emit("Cast", [ids], to=tensor_type(np.dtype(np.float32)))
    if skip:
        ids = call.emit("Min", [ids, call.constant(-1)])
    rows = _detections(call, ids, found(given.scores), boxes)
    rows = call.emit("Squeeze", [rows, call.indices([0])])
    target = call.emit("GatherND", [counted, at])
    target = call.emit("Sub", [target, call.constant(skip + 1, np.int64)])
    target = call.emit("Unsqueeze", [target, call.indices([1])])
    target = call.emit("Concat", [picture, target], axis=1)
    return call.emit("ScatterND", [_filled(call, -1, (size - skip, 6)), target, rows])
