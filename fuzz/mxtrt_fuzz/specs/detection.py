"""Lists of detections: boxes, and which of them overlap."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np
from hypothesis import strategies as st

from mxtrt_fuzz.graphs import Shape
from mxtrt_fuzz.specs.base import (
    WIDE_FLOATS,
    Application,
    Attributes,
    Draw,
    Operand,
    OpSpec,
    maybe,
    ranks,
    register,
    sizes,
)
from mxtrt_fuzz.values import Array

_FORMATS = st.sampled_from(["corner", "center"])


# -- non-maximum suppression -------------------------------------------------------------------


def _first_of_nms(draw: Draw) -> Shape:
    rows = (draw(st.integers(1, 12)), draw(st.integers(5, 8)))
    return (*sizes(draw, draw(st.sampled_from([1, 1, 0, 2])), 1, 3), *rows)


def _draw_nms(draw: Draw, shape: Shape) -> Application:
    count, width = shape[-2:]
    attrs = maybe(
        draw,
        topk=st.integers(-1, count + 1),
        # With a threshold below zero boxes overlap that are apart.
        overlap_thresh=st.sampled_from([-0.1, 0.0, 0.1, 0.25, 0.5, 0.7, 1.0, 1.5]),
        valid_thresh=st.sampled_from([-1.5, 0.0, 0.5]),
        force_suppress=st.booleans(),
        in_format=st.sampled_from(["corner", "corner", "center"]),
        out_format=_FORMATS,
    )
    if width > 5 and draw(st.booleans()):
        rest = [0, 1, *range(6, width)]  # coordinates are from the third number on
    else:
        start = draw(st.integers(0, width - 4))
        attrs["coord_start"] = start
        rest = [place for place in range(width) if not start <= place < start + 4]
    if attrs.get("coord_start", 2) != 2 or draw(st.booleans()):
        attrs["score_index"] = draw(st.sampled_from(rest))
    rest.remove(attrs.get("score_index", 1))
    if draw(st.booleans()) and rest:
        attrs["id_index"] = draw(st.sampled_from(rest))
    return Application({**attrs, **maybe(draw, background_id=st.integers(-2, 2))})


def _widths(corners: Array, others: Array) -> Array:
    """How far intervals overlap, along the last axis but one."""
    low = np.maximum(corners[..., :2], others[..., :2])
    high = np.minimum(corners[..., 2:], others[..., 2:])
    return np.where(high - low > 0, high - low, np.float32(0))


def _overlaps(boxes: Array, others: Array, kind: str) -> tuple[Array, Array]:
    """Intersections over unions of boxes that are broadcast, and intersections."""
    corners, areas = [], []
    for one in (boxes, others):
        if kind == "center":
            half = one[..., 2:] / 2
            corners.append(np.concatenate([one[..., :2] - half, one[..., :2] + half], -1))
            size = one[..., 2:]
        else:
            corners.append(one)
            size = one[..., 2:] - one[..., :2]
        areas.append(np.where((size < 0).any(-1), np.float32(0), size.prod(-1)))
    shared = _widths(*corners).prod(-1)
    return shared / (areas[0] + areas[1] - shared), shared


def _kept(attrs: Attributes, rows: Array) -> list[int]:
    """Which rows of one list are kept, in order."""
    scores = rows[:, attrs.get("score_index", 1)]
    valid = scores > np.float32(attrs.get("valid_thresh", 0.0))
    index = attrs.get("id_index", -1)
    classes = np.zeros(len(rows), np.int64)
    if index >= 0:
        valid &= rows[:, index] != attrs.get("background_id", -1)
        with np.errstate(invalid="ignore"):
            classes = rows[:, index].astype(np.int32).astype(np.int64)
    if attrs.get("force_suppress", False):
        classes[:] = 0
    topk = attrs.get("topk", -1)
    order = [i for i in np.argsort(-scores, kind="stable") if valid[i]]
    order = order[: topk if topk > 0 else None]
    start = attrs.get("coord_start", 2)
    # MXNet rounds overlaps to float32, and compares them with a float32 number.
    boxes = rows[:, start : start + 4].astype(np.float32)
    kind = attrs.get("in_format", "corner")
    overlaps, _ = _overlaps(boxes[:, None], boxes[None], kind)
    overlapping = overlaps > np.float32(attrs.get("overlap_thresh", 0.5))
    kept: list[int] = []
    for i in order:
        if not any(overlapping[k, i] and classes[k] == classes[i] for k in kept):
            kept.append(int(i))
    return kept


def _nms(attrs: Attributes, x: Array) -> Array:
    if attrs.get("topk", -1) == 0:
        return x.copy()
    out = np.full(x.shape, -1, x.dtype)
    for rows, listed in zip(_lists(x), _lists(out), strict=True):
        kept = _kept(attrs, rows)
        listed[: len(kept)] = rows[kept]
    given, wanted = (attrs.get(key, "corner") for key in ("in_format", "out_format"))
    start = attrs.get("coord_start", 2)
    boxes = out[..., start : start + 4]
    if given != wanted:
        first, last = boxes[..., :2], boxes[..., 2:]
        if wanted == "center":
            moved = np.concatenate([(first + last) / 2, last - first], -1)
        else:
            moved = np.concatenate([first - last / 2, first + last / 2], -1)
        boxes[...] = np.where(boxes[..., :1] < 0, boxes, moved)
    return out


def _lists(x: Array) -> Array:
    return x.reshape(prod(x.shape[:-2]), *x.shape[-2:])


def _nms_piece(attrs: Attributes, x: Array) -> Array:
    """Which row every row is, 0 for none, and whether its corners are a centre and a size."""
    if attrs.get("topk", -1) == 0:
        return np.zeros(x.shape)
    pieces = np.zeros(x.shape)
    first = attrs.get("coord_start", 2)
    for rows, piece in zip(_lists(x), _lists(pieces), strict=True):
        kept = _kept(attrs, rows)
        piece[: len(kept)] = (np.array(kept, np.float64)[:, None] + 1) * np.where(
            rows[kept, first, None] < 0, -1, 1
        )
    return pieces


def _moves_rows(attrs: Attributes) -> bool:
    given, wanted = (attrs.get(key, "corner") for key in ("in_format", "out_format"))
    return attrs.get("topk", -1) == 0 or bool(given == wanted)


# -- overlaps ----------------------------------------------------------------------------------


def _draw_iou(draw: Draw, shape: Shape) -> Application:
    others = (*sizes(draw, draw(st.integers(1, 2)), 1, 4), 4)
    return Application(maybe(draw, format=_FORMATS), (Operand(others),))


def _iou(attrs: Attributes, x: Array, others: Array) -> Array:
    kind = attrs.get("format", "corner")
    mine = x.reshape(*x.shape[:-1], *(1,) * (others.ndim - 1), 4)
    with np.errstate(all="ignore"):
        overlap, shared = _overlaps(mine, others, kind)
    return np.where(shared <= 0, x.dtype.type(0), overlap)


def _iou_piece(attrs: Attributes, x: Array, others: Array) -> Array:
    """Whether there is an overlap, and whether sizes have the same signs."""
    mine = x.reshape(*x.shape[:-1], *(1,) * (others.ndim - 1), 4)
    _, shared = _overlaps(mine, others, attrs.get("format", "corner"))
    return shared > 0


# -- anchors and what is predicted for them ----------------------------------------------------


def _draw_prior(draw: Draw, shape: Shape) -> Application:
    def numbers(low: float, high: float, least: int, most: int) -> st.SearchStrategy[Any]:
        number = st.floats(low, high).map(lambda value: round(value, 3))
        return st.lists(number, min_size=least, max_size=most).map(tuple)

    attrs = maybe(
        draw,
        sizes=numbers(0.05, 1.5, 1, 3),
        ratios=numbers(0.25, 4, 1, 3),
        clip=st.booleans(),
        steps=st.one_of(numbers(0.05, 0.5, 2, 2), st.just((-1.0, -1.0))),
        offsets=numbers(0, 1, 2, 2),
    )
    return Application(attrs)


def _prior(attrs: Attributes, x: Array) -> Array:
    """In float32, whatever the dtype, as MXNet computes them."""
    single = np.float32
    height, width = x.shape[2:4]
    ratios = attrs.get("ratios", (1.0,))
    given = attrs.get("sizes", (1.0,))
    steps = attrs.get("steps", (-1.0, -1.0))
    if min(steps) <= 0:
        steps = (1 / single(height), 1 / single(width))
    down, across = attrs.get("offsets", (0.5, 0.5))
    shapes = [(size, ratios[0]) for size in given] + [(given[0], ratio) for ratio in ratios[1:]]
    boxes = []
    for row in range(height):
        for column in range(width):
            centre_y = single(row + single(down)) * single(steps[0])
            centre_x = single(column + single(across)) * single(steps[1])
            for size, ratio in shapes:
                root = np.sqrt(single(ratio))
                half_width = single(size) * single(height) / single(width) * root / 2
                half_height = single(size) / root / 2
                boxes.append(
                    [
                        centre_x - half_width,
                        centre_y - half_height,
                        centre_x + half_width,
                        centre_y + half_height,
                    ]
                )
    out = np.array(boxes, single).astype(x.dtype)[None]
    return np.clip(out, 0, 1) if attrs.get("clip", False) else out


def _draw_detection(draw: Draw, shape: Shape) -> Application:
    batch, _, count = shape
    attrs = maybe(
        draw,
        clip=st.booleans(),
        threshold=st.sampled_from([-1.5, 0.0, 0.01, 0.5]),
        background_id=st.integers(0, 1),  # which MXNet does not read
        # Out of (0, 1] nothing is suppressed, nor sorted.
        nms_threshold=st.sampled_from([-1.0, 0.0, 0.1, 0.25, 0.5, 1.0, 1.5]),
        force_suppress=st.booleans(),
        nms_topk=st.integers(-1, count + 1),
        variances=st.just((0.1, 0.3, 0.2, 0.5)),
    )
    predicted = Operand((batch, 4 * count))
    return Application(attrs, (predicted, Operand((1, count, 4), low=0.0, high=1.0)))


def _predicted(attrs: Attributes, predicted: Array, anchors: Array) -> Array:
    """Corners of boxes, ``(batch, anchors, 4)``."""
    kind = predicted.dtype.type
    # MXNet takes anchors of one picture only.
    low, high = np.split(anchors.reshape(1, predicted.shape[1] // 4, 4), 2, -1)
    moves = predicted.reshape(len(predicted), -1, 4)
    variances = np.float32(attrs.get("variances", (0.1, 0.1, 0.2, 0.2))).astype(kind)
    centre = moves[..., :2] * variances[:2] * (high - low) + (low + high) / 2
    reach = np.exp(moves[..., 2:] * variances[2:]) * (high - low) / 2
    boxes = np.concatenate([centre - reach, centre + reach], -1)
    if attrs.get("clip", True):
        boxes = np.where(boxes < 1, boxes, kind(1))
        boxes = np.where(boxes > 0, boxes, kind(0))
    return boxes


def _listed(attrs: Attributes, scores: Array, boxes: Array) -> list[tuple[int, bool]]:
    """Which anchors are in a list, in order, and whether they keep their classes."""
    ids, best = _best(scores)
    threshold = np.float32(attrs.get("threshold", 0.01))
    valid = [i for i in range(len(best)) if ids[i] >= 0 and not best[i] < threshold]
    limit = np.float32(attrs.get("nms_threshold", 0.5))
    if limit <= 0 or limit > 1:
        return [(i, True) for i in valid]
    topk = attrs.get("nms_topk", -1)
    order = sorted(valid, key=lambda i: -best[i])
    count = topk if 0 < topk < len(valid) else len(valid)
    with np.errstate(all="ignore"):
        overlaps, _ = _overlaps(boxes[:, None], boxes[None], "corner")
        overlapping = overlaps >= limit
    kept: list[int] = []
    found = []
    for i in order[:count]:
        alone = attrs.get("force_suppress", False)
        stays = not any(overlapping[k, i] and (alone or ids[k] == ids[i]) for k in kept)
        kept += [i] * stays
        found.append((i, stays))
    return found + [(i, False) for i in valid[count:]]


def _best(scores: Array) -> tuple[Array, Array]:
    """The best class of every anchor, -1 for none, and its score."""
    known = np.where(scores[1:] > -1, scores[1:], -1)
    best = known.max(0, initial=-1)
    ids = known.argmax(0) if len(known) else np.zeros(best.shape, np.int64)
    return np.where(best > -1, ids, -1), best


def _detection(attrs: Attributes, scores: Array, predicted: Array, anchors: Array) -> Array:
    boxes = _predicted(attrs, predicted, anchors)
    out = np.full((len(scores), scores.shape[2], 6), -1, scores.dtype)
    for given, corners, rows in zip(scores, boxes, out, strict=True):
        ids, best = _best(given)
        for row, (i, stays) in zip(rows, _listed(attrs, given, corners), strict=False):
            row[:] = [ids[i] if stays else -1, best[i], *corners[i]]
    return out


def _detection_piece(attrs: Attributes, scores: Array, predicted: Array, anchors: Array) -> Array:
    """Which anchor every row is, and of which class."""
    boxes = _predicted(attrs, predicted, anchors)
    out = np.zeros((len(scores), scores.shape[2], 6))
    for given, corners, rows in zip(scores, boxes, out, strict=True):
        ids, _ = _best(given)
        for row, (i, stays) in zip(rows, _listed(attrs, given, corners), strict=False):
            row[:] = i + 1 + (ids[i] + 1 if stays else 0) / 1024
    return out


register(
    OpSpec(
        "_contrib_box_nms",
        _draw_nms,
        _nms,
        lambda shape: len(shape) > 1 and shape[-1] > 4,
        first=_first_of_nms,
        dtypes=("float32",),  # overlaps are of that dtype, whatever the references compute in
        on_inputs=False,
        exact=_moves_rows,
        jumps=True,
        piece=_nms_piece,
    ),
    OpSpec(
        "_contrib_box_iou",
        _draw_iou,
        _iou,
        lambda shape: len(shape) > 1 and shape[-1] == 4,
        first=lambda draw: (*sizes(draw, draw(st.integers(1, 2)), 1, 4), 4),
        dtypes=WIDE_FLOATS,
        roundings=3,
        absolute=4,
        nan_blind=True,
    ),
    OpSpec(
        "_contrib_MultiBoxPrior",
        _draw_prior,
        _prior,
        ranks(4),
        dtypes=WIDE_FLOATS,
        roundings=0,
    ),
    OpSpec(
        "_contrib_MultiBoxDetection",
        _draw_detection,
        _detection,
        lambda shape: len(shape) == 3 and shape[1] > 1,
        first=lambda draw: (*sizes(draw, 1, 1, 3), *sizes(draw, 1, 2, 4), *sizes(draw, 1, 1, 12)),
        dtypes=("float32",),
        roundings=3,
        absolute=4,
        jumps=True,
        piece=_detection_piece,
    ),
)
