"""Lists of detections: boxes, and which of them overlap."""

from __future__ import annotations

from math import prod

import numpy as np
from hypothesis import strategies as st

from mxtrt_fuzz.graphs import Shape
from mxtrt_fuzz.specs.base import Application, Attributes, Draw, OpSpec, maybe, register, sizes
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


def _overlaps(boxes: Array, others: Array, kind: str) -> Array:
    """Intersections over unions of boxes that are broadcast, with the roundings of their dtype."""
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
    return shared / (areas[0] + areas[1] - shared)


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
    overlapping = _overlaps(boxes[:, None], boxes[None], kind) > np.float32(
        attrs.get("overlap_thresh", 0.5)
    )
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
)
