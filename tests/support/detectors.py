"""Small detectors with the heads of GluonCV's, and of MXNet's own example."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import mxnet as mx
import numpy as np

__all__ = ["CLASSES", "HEADS", "detector", "parameters"]

F = mx.sym

#: Classes of objects, without the background.
CLASSES = 4
#: Boxes at every pixel of a feature map.
_ANCHORS = 3
#: Pixels of the picture for one of each feature map.
_STRIDES = (8, 16)


def detector(name: str, side: int, topk: int = 400, classes: int = CLASSES) -> Any:
    """A detector for square pictures called ``data``: ids, scores and boxes, or rows of them all.

    An inner output ``rows`` has all candidates.

    Args:
        name: One of :data:`HEADS`.
        side: Of the picture.
        topk: Candidates of the suppression.
        classes: Without the background.
    """
    body = F.var("data")
    features = []
    for place, width in enumerate((16, 32, 32, 32)):
        body = F.Convolution(
            body, kernel=(3, 3), stride=(2, 2), pad=(1, 1), num_filter=width, name=f"body{place}"
        )
        body = F.BatchNorm(body, fix_gamma=False, name=f"norm{place}")
        body = F.Activation(body, act_type="relu")
        features.append(body)
    return HEADS[name](features[2:], side, topk, classes)


def _each(features: Sequence[Any], name: str, filters: int) -> list[Any]:
    return [
        F.Convolution(one, kernel=(3, 3), pad=(1, 1), num_filter=filters, name=f"{name}{place}")
        for place, one in enumerate(features)
    ]


def _flat(maps: Sequence[Any], width: int) -> Any:
    """Rows of a number of channels, for all pixels of all maps."""
    parts = [F.flatten(F.transpose(one, axes=(0, 2, 3, 1))) for one in maps]
    return F.reshape(F.concat(*parts, dim=1), (0, -1, width))


def _split(rows: Any) -> Any:
    """The first hundred rows as ids, scores and boxes."""
    rows = F.slice_axis(rows, axis=1, begin=0, end=100)
    ends = (0, 1), (1, 2), (2, 6)
    return F.Group([F.slice_axis(rows, axis=2, begin=low, end=high) for low, high in ends])


def _ssd(features: Sequence[Any], side: int, topk: int, classes: int) -> Any:
    """``gluoncv.model_zoo.SSD``: anchors are constants, and every class has a list of its own."""
    scores = _flat(_each(features, "class", _ANCHORS * (classes + 1)), classes + 1)
    moves = _flat(_each(features, "box", _ANCHORS * 4), 4)
    anchors = []
    for place, (one, stride) in enumerate(zip(features, _STRIDES, strict=True)):
        known = F.var(f"anchors{place}", shape=(1, 1, side // stride, side // stride, _ANCHORS * 4))
        known = F.slice_like(known, one * 0, axes=(2, 3))
        anchors.append(F.reshape(F.reshape(known, (1, -1, 4)), (1, -1)))
    anchors = F.reshape(F.concat(*anchors, dim=1), (1, -1, 4))
    boxes = F.contrib.box_decode(
        moves, anchors, std0=0.1, std1=0.1, std2=0.2, std3=0.2, clip=-1, format="center"
    )
    scores = F.softmax(scores, axis=-1)
    found = F.slice_axis(scores, axis=-1, begin=1, end=None)
    ids = F.reshape(F.arange(classes), (1, 1, classes))
    ids = F.broadcast_add(F.zeros_like(F.slice_axis(scores, axis=-1, begin=0, end=1)), ids)
    mask = found > 0.01
    ids = F.where(mask, ids, F.ones_like(ids) * -1)
    found = F.where(mask, found, F.zeros_like(found))
    rows = []
    for one in range(classes):
        part = [F.slice_axis(values, axis=-1, begin=one, end=one + 1) for values in (ids, found)]
        rows.append(F.concat(*part, boxes, dim=-1))
    rows = F.contrib.box_nms(
        F.concat(*rows, dim=1, name="rows"),
        overlap_thresh=0.45,
        topk=topk,
        valid_thresh=0.01,
        id_index=0,
        score_index=1,
        coord_start=2,
        force_suppress=False,
    )
    return _split(rows)


def _yolo(features: Sequence[Any], side: int, topk: int, classes: int) -> Any:
    """``gluoncv.model_zoo.YOLOV3``: offsets and anchors are constants, boxes in pixels."""
    found = []
    width = classes + 5
    predicted = _each(features, "predict", _ANCHORS * width)
    for place, (one, stride) in enumerate(zip(predicted, _STRIDES, strict=True)):
        cells = F.transpose(F.reshape(one, (0, _ANCHORS * width, -1)), axes=(0, 2, 1))
        cells = F.reshape(cells, (0, -1, _ANCHORS, width))
        ends = (0, 2), (2, 4), (4, 5), (5, None)
        centre, size, object_, scores = (
            F.slice_axis(cells, axis=-1, begin=low, end=high) for low, high in ends
        )
        offsets = F.var(f"offsets{place}", shape=(1, 1, side // stride, side // stride, 2))
        offsets = F.slice_like(offsets, one * 0, axes=(2, 3))
        offsets = F.reshape(offsets, (1, -1, 1, 2))
        centre = F.broadcast_add(F.sigmoid(centre), offsets) * stride
        anchors = F.var(f"anchors{place}", shape=(1, 1, _ANCHORS, 2))
        half = F.broadcast_mul(F.exp(size), anchors) / 2
        boxes = F.concat(centre - half, centre + half, dim=-1)
        scores = F.broadcast_mul(F.sigmoid(scores), F.sigmoid(object_))
        scores = F.expand_dims(F.transpose(scores, axes=(3, 0, 1, 2)), axis=-1)
        ids = F.reshape(F.arange(classes), (0, 1, 1, 1, 1))
        ids = F.broadcast_add(scores * 0, ids)
        rows = F.concat(ids, scores, F.tile(boxes, (classes, 1, 1, 1, 1)), dim=-1)
        found.append(F.reshape(F.transpose(rows, axes=(1, 0, 2, 3, 4)), (0, -1, 6)))
    rows = F.contrib.box_nms(
        F.concat(*found, dim=1, name="rows"),
        overlap_thresh=0.45,
        valid_thresh=0.01,
        topk=topk,
        id_index=0,
        score_index=1,
        coord_start=2,
        force_suppress=False,
    )
    return _split(rows)


def _example(features: Sequence[Any], side: int, topk: int, classes: int) -> Any:
    """The SSD of MXNet's examples, whose operators make anchors and detections."""
    scores = _flat(_each(features, "class", _ANCHORS * (classes + 1)), classes + 1)
    scores = F.softmax(F.transpose(scores, axes=(0, 2, 1)), axis=1)
    moves = [F.transpose(one, axes=(0, 2, 3, 1)) for one in _each(features, "box", _ANCHORS * 4)]
    moves = F.concat(*map(F.flatten, moves), dim=1)
    sizes = (0.15, 0.2), (0.3, 0.4)
    anchors = [
        F.contrib.MultiBoxPrior(one, sizes=pair, ratios=(1, 2))
        for one, pair in zip(features, sizes, strict=True)
    ]
    return F.contrib.MultiBoxDetection(
        scores,
        moves,
        F.concat(*anchors, dim=1),
        nms_threshold=0.45,
        nms_topk=topk,
        name="rows",
    )


#: Detectors by name.
HEADS: dict[str, Callable[[Sequence[Any], int, int, int], Any]] = {
    "ssd": _ssd,
    "yolo3": _yolo,
    "example": _example,
}


def parameters(symbol: Any, seed: int, **shapes: tuple[int, ...]) -> tuple[Any, Any]:
    """Values with which boxes overlap, and few of them have high scores.

    Args:
        symbol: A detector.
        seed: Of random weights.
        shapes: That of the data.

    Returns:
        Arguments but the data, and auxiliary states.
    """
    random = np.random.default_rng(seed)
    found, _, states = symbol.infer_shape(**shapes)
    side = shapes["data"][-1]
    args = {}
    for name, shape in zip(symbol.list_arguments(), found, strict=True):
        if name not in shapes:
            args[name] = mx.nd.array(_values(random, name, shape, side), dtype="float32")
    names = zip(symbol.list_auxiliary_states(), states, strict=True)
    return args, {n: mx.nd.full(s, 2 if n.endswith("var") else 0.1) for n, s in names}


def _values(
    random: np.random.Generator, name: str, shape: tuple[int, ...], side: int
) -> np.ndarray[Any, Any]:
    if name.startswith(("anchors", "offsets")):
        return _places(name, shape, side)
    if name.endswith("gamma"):
        return random.uniform(0.8, 1.2, shape)
    if name.endswith("weight"):
        scale = 0.5 if name.startswith("box") else 2.0
        values = random.normal(0, scale / np.sqrt(np.prod(shape[1:])), shape)
        if name.startswith("predict"):  # boxes like the anchors
            values.reshape(_ANCHORS, -1, *shape[1:])[:, :4] /= 8
        return values
    values = random.normal(0, 0.2, shape)
    if name.startswith("class"):  # the background is the usual class
        values.reshape(_ANCHORS, -1)[:, 0] += 7
    elif name.startswith("predict"):  # and that there is no object
        values.reshape(_ANCHORS, -1)[:, 4] -= 7
    return values


def _places(name: str, shape: tuple[int, ...], side: int) -> np.ndarray[Any, Any]:
    """Anchors of three widths, and where pixels of feature maps are."""
    if len(shape) == 4:  # of YOLOv3: widths and heights
        return np.float32([[20, 25], [40, 30], [45, 60]]).reshape(shape) * side / 160
    height, width = shape[2:4]
    y, x = np.mgrid[:height, :width]
    if name.startswith("offsets"):
        return np.stack([x, y], -1).reshape(shape)
    sizes = np.float32([[0.15, 0.2], [0.25, 0.2], [0.3, 0.35]])
    centre = np.stack([(x + 0.5) / width, (y + 0.5) / height], -1)[:, :, None].repeat(_ANCHORS, 2)
    return np.concatenate([centre, np.broadcast_to(sizes, centre.shape)], -1).reshape(shape)
