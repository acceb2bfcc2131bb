"""Lists of detections are MXNet's to the bit: which boxes, in which order."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from support.converters import (
    Converted,
    assert_close,
    check,
    check_op,
    mx,
    refusal,
    run_mxnet,
    run_onnx,
    symbol,
    to_onnx,
)

import mxtrt

NMS = "_contrib_box_nms"
DETECTION = "_contrib_MultiBoxDetection"
Array = np.ndarray[Any, Any]


def detections(seed: int, *shape: int, classes: int = 3, spots: int = 4) -> Array:
    """Rows of a class, a score and a box; boxes lie on a few spots, and some scores are equal."""
    random = np.random.default_rng(seed)
    centre = random.uniform(0, 100, (spots, 2))[random.integers(0, spots, shape)]
    centre += random.normal(0, 6, (*shape, 2))
    size = 20 * np.exp(random.normal(0, 0.4, (*shape, 2)))
    ids = random.integers(-1, classes, (*shape, 1))
    scores = np.round(random.uniform(0, 1, (*shape, 1)), 2)
    rows = np.concatenate([ids, scores, centre - size / 2, centre + size / 2], -1)
    return rows.astype(np.float32)


def assert_same_list(op: str, *arrays: Array, **attrs: Any) -> Array:
    """Plain MXNet's answer, which ONNX Runtime's has to be to the bit."""
    names = [f"x{i}" for i in range(len(arrays))]
    sym = symbol(op, *map(mx.sym.var, names), **attrs)
    values = dict(zip(names, arrays, strict=True))
    (theirs,) = run_mxnet(sym, values)
    (ours,) = run_onnx(to_onnx(sym, values, names))
    np.testing.assert_array_equal(ours, theirs)
    return theirs


def survivors(rows: Array) -> int:
    """How many rows of lists hold a box."""
    return int((rows[..., 1] >= 0).sum())


@pytest.mark.parametrize("topk", [-1, 1, 7, 40, 100])
@pytest.mark.parametrize("threshold", [0, 0.3, 0.5, 1, 2])
def test_boxes_are_suppressed_as_in_mxnet(threshold: float, topk: int) -> None:
    """Of one class, and classes that do not suppress each other."""
    x = detections(0, 2, 40)
    attrs = {"overlap_thresh": threshold, "topk": topk, "valid_thresh": 0.1}
    apart = assert_same_list(NMS, x, id_index=0, **attrs)
    alike = assert_same_list(NMS, x, id_index=0, force_suppress=True, **attrs)
    nameless = assert_same_list(NMS, x, **attrs)
    assert survivors(alike) <= survivors(apart)
    assert 0 < survivors(nameless) <= 80


def test_no_boxes_at_all_are_suppressed_with_topk_0() -> None:
    """Nor sorted, or converted."""
    x = detections(0, 2, 9)
    assert np.array_equal(assert_same_list(NMS, x, topk=0, out_format="center"), x)


def test_equal_scores_stay_in_order() -> None:
    """Of equal boxes with equal scores the first remains, and apart they keep their order."""
    x = detections(1, 40, classes=1)
    x[:, 1] = np.float32([0.5, 0.25])[np.arange(40) % 2]
    x[20:] = x[:20]
    x[5:15, 2:] += 1000 * np.arange(1, 11)[:, None]
    kept = assert_same_list(NMS, x, overlap_thresh=0.1, topk=30)
    assert survivors(kept) > 10


@pytest.mark.parametrize("attrs", [{"valid_thresh": 2}, {"id_index": 0, "background_id": 1}])
def test_a_list_may_be_empty(attrs: dict[str, Any]) -> None:
    """No score is high enough, and all are of the background."""
    x = detections(0, 2, 9)
    x[..., 0] = 1
    assert (assert_same_list(NMS, x, **attrs) == -1).all()


@pytest.mark.parametrize("background", [-1, 0, 2])
def test_the_background_is_no_candidate(background: int) -> None:
    """Without the attribute, class -1 is the background; also where classes do not matter."""
    x = detections(0, 3, 30)
    for force in (False, True):
        attrs = {"id_index": 0, "background_id": background, "force_suppress": force}
        kept = assert_same_list(NMS, x, **attrs)
        assert background not in kept[kept[..., 1] >= 0, 0]


def test_classes_are_whole_numbers() -> None:
    """0.9 and -0.9 are class 0; numbers beyond the integers, and a NaN, are one class."""
    x = detections(2, 40, spots=2)
    x[:, 0] = np.float32([0.9, -0.9, 0, 1, 3e9, 4e9, np.nan, -np.inf])[np.arange(40) % 8]
    assert survivors(assert_same_list(NMS, x, id_index=0, overlap_thresh=0.2)) < 20


def test_more_classes_than_fit_into_a_turn_suppress_within_each() -> None:
    """Every row may be of a class of its own, or every second."""
    x = detections(3, 2, 700)
    x[..., 0] = np.arange(700)
    assert survivors(assert_same_list(NMS, x, id_index=0)) == np.count_nonzero(x[..., 1] > 0)
    x[..., 0] //= 2
    assert survivors(assert_same_list(NMS, x, id_index=0)) > 700


def test_an_overlap_at_the_threshold_does_not_suppress() -> None:
    """Both compare the same rounded number: its neighbour below does suppress."""
    random = np.random.default_rng(0)
    for _ in range(20):
        x = np.float32([[0, 0.9, 0, 0, 1, 1], [0, 0.8, 0, 0, 1, 1]])
        x[:, 2:] += random.uniform(-0.2, 0.2, (2, 4)).astype(np.float32)
        low, high = np.maximum(*x[:, 2:4]), np.minimum(*x[:, 4:])
        shared = np.float32(np.prod(high - low))
        areas = [np.float32(np.prod(box[2:] - box[:2])) for box in x[:, 2:]]
        overlap = shared / (areas[0] + areas[1] - shared)
        assert survivors(assert_same_list(NMS, x, overlap_thresh=overlap)) == 2
        below = np.nextafter(overlap, np.float32(0))
        assert survivors(assert_same_list(NMS, x, overlap_thresh=below)) == 1


def test_odd_boxes_suppress_nothing() -> None:
    """The wrong way round, without an area, infinite, and not a number; odd scores too."""
    x = detections(4, 60, classes=1)
    x[::6, 2:4], x[::6, 4:] = x[::6, 4:].copy(), x[::6, 2:4].copy()
    x[1::6, 4] = x[1::6, 2]
    for column in range(2, 6):
        x[column::12, column] = [np.nan, np.inf, -np.inf, np.nan, 1e38][: len(x[column::12])]
    x[3::12, 1] = [np.nan, np.inf, -np.inf, -0.0, 0.5]
    assert_same_list(NMS, x, overlap_thresh=0)
    assert_same_list(NMS, x, overlap_thresh=0.4, id_index=0)


@pytest.mark.parametrize("shape", [(30,), (2, 30), (2, 1, 30), (2, 3, 2, 30)])
def test_lists_have_any_number_of_axes_in_front(shape: tuple[int, ...]) -> None:
    """Every list is one of its own."""
    assert_same_list(NMS, detections(5, *shape), id_index=0, topk=20)


@pytest.mark.parametrize("order", [[0, 1, 2, 3, 4, 5], [2, 3, 4, 5, 0, 1], [1, 2, 3, 4, 5, 0]])
@pytest.mark.parametrize("more", [0, 2])
def test_columns_may_be_anywhere(order: list[int], more: int) -> None:
    """What else is in a row goes along; corners can become a centre and a size."""
    x = detections(6, 2, 30)[..., order]
    x = np.concatenate([x, np.random.default_rng(0).random((2, 30, more), np.float32)], -1)
    where = {"id_index": order.index(0), "score_index": order.index(1)}
    where["coord_start"] = order.index(2)
    for wanted in ("corner", "center"):
        assert_same_list(NMS, x, out_format=wanted, topk=25, **where)


def test_a_box_with_a_negative_corner_keeps_its_corners() -> None:
    """So MXNet leaves the rows of -1 as they are."""
    x = detections(7, 40)
    x[:, 2:] -= 60
    kept = assert_same_list(NMS, x, out_format="center")
    assert 0 < np.count_nonzero(kept[kept[:, 1] >= 0, 2] < 0) < survivors(kept)


@pytest.mark.parametrize("attrs", [{}, {"id_index": 0}, {"topk": 3, "out_format": "center"}])
def test_lists_are_the_same_graph_for_every_batch(attrs: dict[str, Any]) -> None:
    """One engine serves them."""
    sym = symbol(NMS, mx.sym.var("x"), **attrs)
    made: list[Converted] = [to_onnx(sym, {"x": detections(0, n, 9)}) for n in (1, 4)]
    assert made[0].body == made[1].body


@pytest.mark.parametrize(
    ("attrs", "reason"),
    [
        ({"in_format": "center"}, "in_format=center"),
        ({"overlap_thresh": -0.1}, "boxes apart"),
        ({"overlap_thresh": "nan"}, "boxes apart"),
    ],
)
def test_lists_that_would_differ_are_refused(attrs: dict[str, Any], reason: str) -> None:
    """The message says why."""
    assert reason in refusal(NMS, (2, 9, 6), **attrs)


def test_tensorrt_leaves_suppression_to_mxnet() -> None:
    """And takes what is before it."""
    rows = mx.sym.contrib.box_nms(mx.sym.tanh(mx.sym.sigmoid(mx.sym.var("x"))), name="nms")
    report = mxtrt.inspect(rows, {"x": (1, 300, 6)}, engine="tensorrt")
    assert [(n.name, n.reason.partition(" was")[0]) for n in report.left] == [
        ("nms", "in tensorrt non-maximum suppression")
    ]
    assert mxtrt.inspect(rows, {"x": (1, 300, 6)}, engine="onnxruntime").left == []


@pytest.mark.parametrize("kind", ["corner", "center"])
@pytest.mark.parametrize("shapes", [[(5, 4), (3, 4)], [(2, 3, 4), (5, 4)], [(2, 4), (2, 1, 3, 4)]])
def test_overlaps_of_all_boxes_agree(shapes: list[tuple[int, ...]], kind: str) -> None:
    """To the bit, and for boxes the wrong way round."""
    random = np.random.default_rng(0)
    low = [random.uniform(0, 9, (*shape[:-1], 2)) for shape in shapes]
    boxes = [np.concatenate([ends, ends + 5], -1).astype(np.float32) for ends in low]
    assert (assert_same_list("_contrib_box_iou", *boxes, format=kind) > 0).any()
    turned = [box[..., [2, 1, 0, 3]] for box in boxes]
    assert not assert_same_list("_contrib_box_iou", *turned, format="corner").any()
    check_op("_contrib_box_iou", *shapes, format=kind)


@pytest.mark.parametrize("kind", ["corner", "center"])
def test_overlaps_of_odd_boxes_agree(kind: str) -> None:
    """MXNet compares the ends of boxes, and a comparison with a NaN is false."""
    random = np.random.default_rng(0)
    boxes = [random.uniform(-2, 2, (n, 4)).astype(np.float32) for n in (40, 30)]
    for box in boxes:
        places = random.random(box.shape) < 0.2
        box[places] = random.choice([np.nan, np.inf, -np.inf, 0], places.sum())
    assert_same_list("_contrib_box_iou", *boxes, format=kind)


@pytest.mark.parametrize(
    "attrs",
    [
        {},
        {"sizes": (0.2, 0.272), "ratios": (1, 2, 0.5)},
        {"sizes": 0.9, "ratios": (3, 0.3), "clip": True},
        {"sizes": (0.4, 0.1), "steps": (0.25, 0.2), "offsets": (0, 1)},
    ],
)
def test_anchors_are_a_constant(attrs: dict[str, Any]) -> None:
    """To the bit; neither the data nor their batch size tell."""
    sym = symbol("_contrib_MultiBoxPrior", mx.sym.var("x"), **attrs)
    made = []
    for batch in (1, 3):
        x = {"x": np.zeros((batch, 2, 5, 7), np.float32)}
        made.append(to_onnx(sym, x))
        (theirs,) = run_mxnet(sym, x)
        np.testing.assert_array_equal(run_onnx(made[-1])[0], theirs)
    assert made[0].ops == ["Identity"]
    assert made[0].body == made[1].body


def predictions(seed: int, batch: int, classes: int, count: int) -> tuple[Array, Array, Array]:
    """Probabilities of classes, shifts and growths of anchors, and the anchors."""
    random = np.random.default_rng(seed)
    scores = np.round(random.uniform(0, 1, (batch, classes, count)), 1)
    anchors = detections(seed, 1, count)[..., 2:] / 100
    moves = random.normal(0, 1, (batch, 4 * count))
    return tuple(array.astype(np.float32) for array in (scores, moves, anchors))


def assert_detections_agree(*arrays: Array, **attrs: Any) -> Array:
    """Plain MXNet's rows: classes and scores to the bit, boxes up to an exponential's rounding."""
    names = ["x", "y", "z"]
    values = dict(zip(names, arrays, strict=True))
    sym = symbol(DETECTION, *map(mx.sym.var, names), **attrs)
    (theirs,) = run_mxnet(sym, values)
    (ours,) = run_onnx(to_onnx(sym, values, names))
    np.testing.assert_array_equal(ours[..., :2], theirs[..., :2])
    assert_close(ours, theirs, 1e-6)
    return theirs


@pytest.mark.parametrize("topk", [-1, 5, 100])
@pytest.mark.parametrize("threshold", [0.05, 0.5, 1])
@pytest.mark.parametrize("force", [False, True])
def test_detections_agree(force: bool, threshold: float, topk: int) -> None:
    """What is suppressed keeps its row and loses its class; what is behind topk has no order."""
    attrs = {"nms_threshold": threshold, "force_suppress": force, "nms_topk": topk}
    rows = assert_detections_agree(*predictions(0, 2, 4, 30), threshold=0.75, **attrs)
    lost = (rows[..., 0] < 0) & (rows[..., 1] >= 0)
    assert lost.any() == (threshold < 1 or topk == 5)
    assert (rows[..., 1] < 0).any()


@pytest.mark.parametrize("threshold", [0, -1, 1.5])
def test_detections_without_suppression_keep_their_order(threshold: float) -> None:
    """The background is left out all the same."""
    arrays = predictions(1, 2, 3, 20)
    rows = assert_detections_agree(*arrays, nms_threshold=threshold, threshold=0.6)
    best = arrays[0][0, 1:].max(0)
    kept = best[best >= np.float32(0.6)]
    assert 0 < len(kept) < 20
    np.testing.assert_array_equal(rows[0, : len(kept), 1], kept)


def test_detections_of_odd_scores_agree() -> None:
    """A NaN is no best score, and -1 or less is none at all; boxes may be none, or anywhere."""
    scores, moves, anchors = predictions(2, 2, 3, 40)
    random = np.random.default_rng(0)
    for array in (scores, moves):
        places = random.random(array.shape) < 0.3
        array[places] = random.choice([np.nan, -1, -2, np.inf, -np.inf], places.sum())
    for clip in (False, True):
        assert_detections_agree(scores, moves, anchors, threshold=-3, clip=clip)


def test_variances_scale_what_is_predicted() -> None:
    """Those of the centre and those of the size."""
    arrays = predictions(3, 1, 3, 20)
    assert_detections_agree(*arrays, variances=(0.1, 0.3, 0.2, 0.5), clip=False)


@pytest.mark.parametrize("attrs", [{}, {"nms_topk": 4}, {"nms_threshold": 0}])
def test_detections_are_the_same_graph_for_every_batch(attrs: dict[str, Any]) -> None:
    """One engine serves them; the scores may come from before."""
    names = ["x", "y", "z"]
    x, y, z = map(mx.sym.var, names)
    sym = symbol(DETECTION, x, y, z, **attrs)
    made = []
    for batch in (1, 3):
        arrays = dict(zip(names, predictions(0, batch, 3, 9), strict=True))
        made.append(check(sym, arrays, names))
    assert made[0].body == made[1].body


@pytest.mark.parametrize(
    ("shapes", "reason"),
    [
        ([(2, 3, 5), (1, 20), (1, 5, 4)], "other boxes"),
        ([(2, 3, 5), (2, 20), (2, 5, 4)], "anchors of several pictures"),
        ([(2, 1, 5), (2, 20), (1, 5, 4)], "no class but the background"),
    ],
)
def test_detections_that_would_differ_are_refused(
    shapes: list[tuple[int, ...]], reason: str
) -> None:
    """The message says why."""
    assert reason in refusal(DETECTION, *shapes, out=(2, 5, 6))
