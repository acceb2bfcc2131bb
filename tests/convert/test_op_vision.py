"""Operators on pictures and boxes compute what MXNet computes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from support.converters import (
    assert_close,
    check,
    check_op,
    data,
    mx,
    refusal,
    run_mxnet,
    run_onnx,
    symbol,
    to_onnx,
)

RESIZE = "_contrib_BilinearResize2D"
ADAPTIVE = "_contrib_AdaptiveAvgPooling2D"


@pytest.mark.parametrize("scale", [1, 2, 3])
def test_up_sampling_repeats_elements(scale: int) -> None:
    """Nearest neighbour in height and width."""
    check_op("UpSampling", (2, 3, 4, 5), scale=scale, sample_type="nearest", num_args=1)


@pytest.mark.parametrize("mode", ["concat", "sum"])
def test_up_sampling_enlarges_every_input_to_the_first_output(mode: str) -> None:
    """The second input is larger, thus repeated less."""
    attrs = {"sample_type": "nearest", "num_args": 2, "multi_input_mode": mode}
    check_op("UpSampling", (2, 3, 2, 3), (2, 3, 4, 6), scale=4, **attrs)


@pytest.mark.parametrize("scale", [1, 2, 3, 4])
def test_bilinear_up_sampling_uses_the_weight_that_is_given(scale: int) -> None:
    """One kernel per channel, of even and odd scales."""
    kernel = 2 * scale - scale % 2
    attrs = {"scale": scale, "sample_type": "bilinear", "num_args": 2, "num_filter": 3}
    check_op("UpSampling", (2, 3, 4, 5), (3, 1, kernel, kernel), **attrs)


@pytest.mark.parametrize("aligned", [None, True, False])
@pytest.mark.parametrize("size", [(1, 1), (1, 7), (3, 10), (6, 6), (12, 4), (37, 53)])
def test_bilinear_resize_agrees(size: tuple[int, int], aligned: bool | None) -> None:
    """Smaller, larger, and the first pixel for an axis of one."""
    attrs = {} if aligned is None else {"align_corners": aligned}
    converted = check_op(RESIZE, (2, 3, 6, 5), height=size[0], width=size[1], **attrs)
    assert converted.ops == ["Resize"]


@pytest.mark.parametrize(
    "attrs",
    [
        {"scale_height": 1.5, "scale_width": 0.4},
        {"mode": "odd_scale", "scale_height": 2, "scale_width": 0.5},
        *({"mode": f"to_{kind}_{way}"} for kind in ("even", "odd") for way in ("up", "down")),
    ],
)
def test_bilinear_resize_finds_its_size_in_every_mode(attrs: dict[str, Any]) -> None:
    """From scales, and to even and odd sizes."""
    check_op(RESIZE, (1, 2, 6, 5), **attrs)


def test_bilinear_resize_to_the_size_of_another_tensor() -> None:
    """The values of the other do not matter."""
    x, like = data(0, 2, 3, 4, 5), data(1, 1, 1, 9, 7)
    sym = symbol(RESIZE, mx.sym.var("x"), mx.sym.var("like"), mode="like")
    assert list(check(sym, {"x": x, "like": like}, ("x", "like")).feeds) == ["x"]


def test_factors_give_every_size() -> None:
    """No float32 factor is a hair too small for the size that MXNet inferred."""
    from mxtrt.convert.recipes import scale

    for size in range(1, 130):
        for wanted in range(1, 300):
            factor = np.float32(scale(size, wanted))
            assert int(np.float32(size) * factor) == int(size * float(factor)) == wanted


@pytest.mark.parametrize(
    ("output", "op"),
    [
        ({}, "GlobalAveragePool"),
        ({"output_size": 1}, "GlobalAveragePool"),
        ({"output_size": (3, 4)}, "AveragePool"),
        ({"output_size": (4, 3)}, "MatMul"),  # windows of two lengths
        ({"output_size": (1, 5)}, "MatMul"),
        ({"output_size": (12, 20)}, "MatMul"),  # larger than the data
    ],
)
def test_adaptive_pooling_agrees(output: dict[str, Any], op: str) -> None:
    """One pooling where the windows are alike, else averages by matrices."""
    assert set(check_op(ADAPTIVE, (2, 3, 9, 8), **output).ops) == {op}


def test_overlapping_windows_of_one_length_are_one_pooling() -> None:
    """Seven elements in three windows of three."""
    assert check_op(ADAPTIVE, (2, 3, 7, 7), output_size=3).ops == ["AveragePool"]


@pytest.mark.parametrize("size", [(2, 2), (3, 5)])
def test_spatial_transformers_agree(size: tuple[int, int]) -> None:
    """Affine, by one operator and by two; corners are at -1 and 1, and outside is zero."""
    attrs = {"transform_type": "affine", "target_shape": size}
    arrays = {"x": data(0, 2, 3, 4, 6), "matrix": data(1, 2, 6)}
    x, matrix = map(mx.sym.var, arrays)
    whole = symbol("SpatialTransformer", x, matrix, sampler_type="bilinear", **attrs)
    grid = symbol("GridGenerator", matrix, name="grid", **attrs)
    both = mx.sym.Group([whole, symbol("BilinearSampler", x, grid, name="sampler")])
    check(both, arrays, ("x", "matrix"))


def test_a_flow_is_a_grid() -> None:
    """In pixels, x before y."""
    check_op("GridGenerator", (2, 2, 3, 5), transform_type="warp")


def _regions() -> np.ndarray[Any, Any]:
    """Inside, over the edge, outside, without a size, and the wrong way round."""
    corners = [[1, 2, 9, 7], [-6, -4, 30, 20], [40, 40, 50, 50], [3, 3, 3, 3], [8, 6, 2, 1]]
    return np.float32([[i % 2, *box] for i, box in enumerate(corners)])


@pytest.mark.parametrize("ratio", [-1, 0, 1, 2])
@pytest.mark.parametrize("scale", [0.25, 1.0])
def test_roi_align_agrees(ratio: int, scale: float) -> None:
    """A region has a size of one pixel at least."""
    attrs = {"pooled_size": (3, 2), "spatial_scale": scale, "sample_ratio": ratio}
    sym = symbol("_contrib_ROIAlign", mx.sym.var("x"), mx.sym.var("rois"), **attrs)
    check(sym, {"x": data(0, 2, 3, 8, 10), "rois": _regions()}, ("x", "rois"))


def test_roi_align_may_put_pixels_at_their_centres() -> None:
    """aligned=True; MXNet ends at regions without a size."""
    attrs = {"pooled_size": (2, 2), "spatial_scale": 0.5, "aligned": True}
    sym = symbol("_contrib_ROIAlign", mx.sym.var("x"), mx.sym.var("rois"), **attrs)
    check(sym, {"x": data(0, 2, 3, 8, 10), "rois": _regions()[:3]}, ("x", "rois"))


@pytest.mark.parametrize("aligned", [False, True])
def test_a_region_of_a_negative_index_is_padding(aligned: bool) -> None:
    """Zeros, as MXNet documents it, whose own CPU kernel leaves the row unwritten; -0.9 is 0."""
    attrs = {"pooled_size": (3, 2), "spatial_scale": 0.5, "aligned": aligned}
    sym = symbol("_contrib_ROIAlign", mx.sym.var("x"), mx.sym.var("rois"), **attrs)
    regions = _regions()[[0, 1, 0, 1]]
    regions[:, 0] = [-1, 1, -0.9, -3]
    x = data(0, 2, 3, 8, 10)
    x[0, 0] = np.inf  # not to be multiplied by zero
    (ours,) = run_onnx(to_onnx(sym, {"x": x, "rois": regions}, ("x", "rois")))
    assert not ours[[0, 3]].any()
    (theirs,) = run_mxnet(sym, {"x": x, "rois": regions})
    assert_close(ours[[1, 2]], theirs[[1, 2]])


@pytest.mark.parametrize("scale", [0.25, 0.3, 1.0])
@pytest.mark.parametrize("size", [(3, 2), (7, 7)])
def test_roi_pooling_agrees(size: tuple[int, int], scale: float) -> None:
    """To the bit: it picks elements, zero where a region is beside its picture, or of none."""
    attrs = {"pooled_size": size, "spatial_scale": scale}
    sym = symbol("ROIPooling", mx.sym.var("x"), mx.sym.var("rois"), **attrs)
    regions = np.concatenate([_regions()] * 2)
    regions[5:, 0] = [-1, 2, -0.9, 1.9, 1e9]
    arrays = {"x": data(0, 2, 3, 8, 10), "rois": regions}
    (theirs,) = run_mxnet(sym, arrays)
    (ours,) = run_onnx(to_onnx(sym, arrays, ("x", "rois")))
    np.testing.assert_array_equal(ours, theirs)
    assert not ours[[5, 6, 9]].any()
    assert ours[[0, 1, 8]].any(axis=(1, 2, 3)).all()


@pytest.mark.parametrize("kind", ["corner", "center"])
@pytest.mark.parametrize("clip", [-1, 0.5])
def test_box_decode_agrees(kind: str, clip: float) -> None:
    """As SSD and Faster R-CNN call it."""
    attrs = {"std0": 0.1, "std1": 0.1, "std2": 0.2, "std3": 0.2, "clip": clip, "format": kind}
    check_op("_contrib_box_decode", (2, 5, 4), (1, 5, 4), **attrs)


def test_box_decode_takes_the_bound_for_a_size_that_is_no_number() -> None:
    """A comparison with a NaN is false."""
    x = np.full((1, 1, 4), np.nan, np.float32)
    x[..., :2] = 0
    arrays = {"x": x, "y": np.float32([[[0, 0, 1, 1]]])}
    sym = symbol("_contrib_box_decode", mx.sym.var("x"), mx.sym.var("y"), clip=0.5)
    check(sym, arrays, ("x", "y"))


@pytest.mark.parametrize(
    ("reason", "op", "shapes", "attrs"),
    [
        (
            "num_filter=1 on 3 channels",
            "UpSampling",
            [(1, 3, 2, 2), (3, 1, 4, 4)],
            {"scale": 2, "sample_type": "bilinear", "num_filter": 1},
        ),
        ("MXNet gives NaN", "GridGenerator", [(1, 2, 1, 4)], {"transform_type": "warp"}),
        (
            "MXNet gives NaN",
            "SpatialTransformer",
            [(1, 2, 4, 4), (1, 6)],
            {"target_shape": (1, 4), "transform_type": "affine"},
        ),
        (
            "other coordinates",
            "SpatialTransformer",
            [(6, 2, 4, 4), (1, 6)],
            {"target_shape": (2, 2), "transform_type": "affine"},
        ),
        ("other coordinates", "BilinearSampler", [(6, 2, 4, 4), (1, 2, 4, 4)], {}),
        (
            "position_sensitive",
            "_contrib_ROIAlign",
            [(1, 4, 4, 4), (1, 5)],
            {"position_sensitive": True, "pooled_size": (2, 2), "spatial_scale": 1.0},
        ),
    ],
)
def test_what_would_differ_is_refused(
    reason: str, op: str, shapes: list[tuple[int, ...]], attrs: dict[str, Any]
) -> None:
    """The message says why."""
    assert reason in refusal(op, *shapes, **attrs)
