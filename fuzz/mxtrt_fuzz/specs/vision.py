"""Resampling of pictures, and boxes in pictures."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil
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


def _repeat(x: Array, scale: int) -> Array:
    return x.repeat(scale, 2).repeat(scale, 3)


def _draw_up_sampling(draw: Draw, shape: Shape) -> Application:
    scale = draw(st.integers(1, 3))
    attrs: dict[str, Any] = {"scale": scale, "sample_type": draw(st.sampled_from(_SAMPLING))}
    if attrs["sample_type"] == "bilinear":
        kernel = 2 * scale - scale % 2
        attrs |= {"num_args": 2, "num_filter": shape[1]}
        return Application(attrs, (Operand((shape[1], 1, kernel, kernel), "weight", -1, 1),))
    others = []
    attrs |= maybe(draw, multi_input_mode=st.sampled_from(["concat", "sum"]))
    for _ in range(draw(st.integers(0, 2))):
        channels = shape[1]
        if attrs.get("multi_input_mode", "concat") == "concat":
            channels = draw(st.integers(1, 3))
        factor = draw(st.sampled_from([n for n in (1, scale) if scale % n == 0]))
        others.append((shape[0], channels, *(size * factor for size in shape[2:])))
    return Application(attrs | {"num_args": len(others) + 1}, tuple(map(Operand, others)))


_SAMPLING = ("nearest", "nearest", "bilinear")


def _up_sampling(attrs: Attributes, x: Array, *others: Array) -> Array:
    scale = attrs["scale"]
    if attrs["sample_type"] == "bilinear":
        return _transposed_convolution(x, others[0], scale)
    parts = [_repeat(part, x.shape[2] * scale // part.shape[2]) for part in (x, *others)]
    if attrs.get("multi_input_mode", "concat") == "sum":
        return np.add.reduce(parts)
    return np.concatenate(parts, 1)


def _transposed_convolution(x: Array, weight: Array, scale: int) -> Array:
    """Every element spreads the weight over the output; what hangs over the edges is cut."""
    kernel, pad = weight.shape[2], scale // 2
    height, width = x.shape[2:]
    out = np.zeros((*x.shape[:2], *((n - 1) * scale + kernel for n in (height, width))), x.dtype)
    for i in range(height):
        for j in range(width):
            rows, columns = (slice(k * scale, k * scale + kernel) for k in (i, j))
            out[:, :, rows, columns] += x[:, :, i, j, None, None] * weight[:, 0]
    return out[:, :, pad : pad + height * scale, pad : pad + width * scale]


def _draw_resize(draw: Draw, shape: Shape) -> Application:
    attrs: dict[str, Any] = maybe(draw, align_corners=st.booleans())
    mode = draw(st.sampled_from(_RESIZES))
    if mode != "size" or draw(st.booleans()):
        attrs["mode"] = mode
    if mode == "like":
        batch, channels = draw(st.integers(1, 2)), draw(st.integers(1, 2))
        return Application(attrs, (Operand((batch, channels, *sizes(draw, 2, 1, 8))),))
    if mode == "odd_scale" or (mode == "size" and draw(st.booleans())):
        # MXNet reads the scale of the width where that of the height is given.
        for key, size in zip(("scale_height", "scale_width"), shape[2:], strict=True):
            attrs[key] = draw(st.sampled_from([1.0, 2.0] if size == 1 else [0.5, 1.0, 1.5, 2.0]))
    elif mode == "size":
        attrs |= dict(zip(("height", "width"), sizes(draw, 2, 1, 9), strict=True))
    elif mode.endswith("even_down") and min(shape[2:]) == 1:
        attrs["mode"] = "to_even_up"  # nothing is left of one row
    return Application(attrs)


_RESIZES = (
    *("size", "size", "odd_scale", "like", "to_even_down"),
    *("to_even_up", "to_odd_down", "to_odd_up"),
)


def _resized(attrs: Attributes, axis: int, size: int) -> int:
    mode = attrs.get("mode", "size")
    scale = attrs.get(("scale_height", "scale_width")[axis], None)
    if mode == "size":
        return attrs.get(("height", "width")[axis], 1) if scale is None else int(size * scale)
    if mode == "odd_scale":
        return int(size * scale) if size % 2 == 0 else int((size - 1) * scale) + 1
    even = size % 2 == 0
    wanted = mode.startswith("to_even")
    return size if even == wanted else size + (1 if mode.endswith("up") else -1)


def _resize(attrs: Attributes, x: Array, *like: Array) -> Array:
    given = x.shape[2:]
    wanted = (
        like[0].shape[2:] if like else tuple(_resized(attrs, i, n) for i, n in enumerate(given))
    )
    if wanted == given:
        return x.copy()
    aligned = attrs.get("align_corners", True)
    for axis, (size, count) in enumerate(zip(given, wanted, strict=True), 2):
        if count == 1:
            places = np.zeros(1)
        elif aligned:
            places = np.arange(count) * ((size - 1) / (count - 1))
        else:
            places = np.maximum((np.arange(count) + 0.5) * (size / count) - 0.5, 0)
        low = places.astype(int)
        high = np.minimum(low + 1, size - 1)
        part = (places - low).astype(x.dtype).reshape(-1, *(1,) * (3 - axis))
        x = x.take(low, axis) * (1 - part) + x.take(high, axis) * part
    return x


def _draw_adaptive(draw: Draw, shape: Shape) -> Application:
    size = st.integers(1, 8)
    return Application(maybe(draw, output_size=st.one_of(size, st.tuples(size, size))))


def _adaptive(attrs: Attributes, x: Array) -> Array:
    """Products with rows of averages: a number that is not finite may spread along its axes."""
    output = attrs.integers("output_size", (1, 1))
    axes = zip(x.shape[2:], output * (3 - len(output)), strict=True)
    down, across = (_window_means(size, count).astype(x.dtype) for size, count in axes)
    return down @ (x @ across.T)


def _window_means(size: int, count: int) -> Array:
    """For every window on an axis the weights of the elements."""
    rows = np.zeros((count, size))
    for i, row in enumerate(rows):
        row[i * size // count : ceil((i + 1) * size / count)] = 1
    return rows / rows.sum(1, keepdims=True)


def _target(draw: Draw) -> dict[str, Any]:
    # One row or column divides by zero.
    return {"target_shape": sizes(draw, 2, 2, 5), "transform_type": "affine"}


def _affine(attrs: Attributes, matrices: Array) -> Array:
    height, width = attrs["target_shape"]
    y, x = np.meshgrid(np.linspace(-1, 1, height), np.linspace(-1, 1, width), indexing="ij")
    places = np.stack([x, y, np.ones_like(x)]).reshape(3, -1).astype(matrices.dtype)
    return (matrices.reshape(-1, 2, 3) @ places).reshape(-1, 2, height, width)


def _first_of_grid(draw: Draw) -> Shape:
    batch = draw(st.integers(1, 3))
    return draw(st.sampled_from([(batch, 6), (batch, 2, *sizes(draw, 2, 2, 5))]))


def _draw_grid(draw: Draw, shape: Shape) -> Application:
    return Application(_target(draw) if len(shape) == 2 else {"transform_type": "warp"})


def _grid(attrs: Attributes, x: Array) -> Array:
    if attrs["transform_type"] == "affine":
        return _affine(attrs, x)
    height, width = x.shape[2:]
    rows, columns = np.mgrid[:height, :width].astype(x.dtype)
    half = np.array([(width - 1) / 2, (height - 1) / 2], x.dtype).reshape(2, 1, 1)
    return (x + np.stack([columns, rows])) / half - 1


# MXNet casts every coordinate to an integer: it has to be one that an integer can hold.
def _coordinates(shape: Sequence[int], high: float) -> Operand:
    return Operand(tuple(shape), "weight", -high, high, own=True)


def _sampled(x: Array, grid: Array) -> Array:
    """Zeros around the data; the corners are at -1 and 1."""
    batch = np.arange(len(x))[:, None, None]
    total: Any = 0
    places = [(grid[:, i] + 1) * ((n - 1) / 2) for i, n in enumerate(x.shape[:1:-1])]
    low = [np.floor(place).astype(int) for place in places]
    for right in (0, 1):
        for below in (0, 1):
            column, row = low[0] + right, low[1] + below
            weights = [1 - np.abs(p - i) for p, i in zip(places, (column, row), strict=True)]
            inside = (column >= 0) & (column < x.shape[3]) & (row >= 0) & (row < x.shape[2])
            taken = x[batch, :, row * inside, column * inside]  # n, h, w, c
            value = np.where(inside[..., None], taken, 0)
            total = total + value * (weights[0] * weights[1])[..., None].astype(x.dtype)
    return np.moveaxis(total, 3, 1)


def _draw_sampler(draw: Draw, shape: Shape) -> Application:
    return Application({}, (_coordinates((shape[0], 2, *sizes(draw, 2, 1, 5)), 1.5),))


def _draw_transformer(draw: Draw, shape: Shape) -> Application:
    attrs = _target(draw) | {"sampler_type": "bilinear"}
    return Application(attrs, (_coordinates((shape[0], 6), 0.8),))


def _draw_roi_align(draw: Draw, shape: Shape) -> Application:
    attrs = {"pooled_size": sizes(draw, 2, 1, 3)}
    attrs |= {"spatial_scale": draw(st.sampled_from([0.25, 0.5, 1.0]))}
    attrs |= maybe(draw, sample_ratio=st.integers(-1, 3))
    # The index of a picture and four corners come from one range; regions without a size, which
    # end MXNet with aligned=True, are among them.
    rois = Operand((draw(st.integers(1, 4)), 5), "weight", 0, shape[0] - 0.01, own=True)
    return Application(attrs, (rois,))


def _roi_align(attrs: Attributes, x: Array, rois: Array) -> Array:
    pooled, ratio = attrs["pooled_size"], attrs.get("sample_ratio", -1)
    out = np.empty((len(rois), x.shape[1], *pooled), x.dtype)
    for roi, value in zip(rois, out, strict=True):
        corners = roi[1:] * attrs["spatial_scale"]
        rows = []
        for size, begin, end, bins in zip(
            x.shape[2:], corners[1::-1], corners[:1:-1], pooled, strict=True
        ):
            width = max(end - begin, 1) / bins
            count = ratio if ratio > 0 else ceil(width)
            places = begin + (np.arange(bins * count) + 0.5) * (width / count)
            rows.append(_mean_of_samples(size, places, bins))
        value[:] = rows[0].astype(x.dtype) @ x[int(roi[0])] @ rows[1].T.astype(x.dtype)
    return out


def _mean_of_samples(size: int, places: Array, bins: int) -> Array:
    """For every bin the weights of the elements on an axis; samples far outside count as 0."""
    held = np.clip(places, 0, size - 1)
    weights = np.maximum(1 - np.abs(held[:, None] - np.arange(size)), 0)
    weights[(places < -1) | (places > size)] = 0
    return weights.reshape(bins, -1, size).mean(1)


def _draw_roi_pooling(draw: Draw, shape: Shape) -> Application:
    attrs = {"pooled_size": sizes(draw, 2, 1, 3)}
    attrs |= {"spatial_scale": draw(st.sampled_from([0.25, 0.5, 1.0]))}
    # The index of a picture and four corners come from one range; no picture may have the index.
    rois = Operand((draw(st.integers(1, 4)), 5), "weight", -2, 8, own=True)
    return Application(attrs, (rois,))


def _roi_pooling(attrs: Attributes, x: Array, rois: Array) -> Array:
    pooled = attrs["pooled_size"]
    out = np.zeros((len(rois), x.shape[1], *pooled), x.dtype)
    for roi, value in zip(rois, out, strict=True):
        if not 0 <= int(roi[0]) < len(x):
            continue
        corners = roi[1:] * attrs["spatial_scale"]
        corners = np.copysign(np.floor(np.abs(corners) + 0.5), corners).astype(int)
        axes = zip(x.shape[2:], corners[1::-1], corners[:1:-1], pooled, strict=True)
        rows, columns = (_windows(*axis) for axis in axes)
        for i, row in enumerate(rows):
            for j, column in enumerate(columns):
                window = x[int(roi[0]), :, row, column].reshape(x.shape[1], -1)
                if window.size:
                    lowest = float(np.finfo(np.float32).min)
                    value[:, i, j] = np.fmax.reduce(window, 1, initial=lowest)
    return out


def _windows(size: int, begin: int, end: int, count: int) -> list[slice]:
    """What parts of a region cover on an axis; MXNet divides in float32."""
    step = np.float32(max(end - begin + 1, 1)) / np.float32(count)
    found = []
    for i in range(count):
        first, last = np.floor(np.float32(i) * step), np.ceil(np.float32(i + 1) * step)
        low, high = (min(max(int(place) + begin, 0), size) for place in (first, last))
        found.append(slice(low, high))
    return found


def _draw_box_decode(draw: Draw, shape: Shape) -> Application:
    attrs: dict[str, Any] = maybe(
        draw,
        format=st.sampled_from(["corner", "center"]),
        clip=st.sampled_from([-1.0, 0.5]),
        std0=st.just(0.1),
        std1=st.just(0.3),
        std2=st.just(0.2),
        std3=st.just(0.7),
    )
    return Application(attrs, (Operand((1, *shape[1:])),))


def _box_decode(attrs: Attributes, x: Array, anchors: Array) -> Array:
    # MXNet keeps attributes as float32 whatever the dtype.
    deviations = np.array([attrs.get(f"std{i}", 1.0) for i in range(4)], np.float32).astype(x.dtype)
    place, size = anchors[..., :2], anchors[..., 2:]
    if attrs.get("format", "center") == "corner":
        size = size - place
        place = place + size / 2
    centre = x[..., :2] * deviations[:2] * size + place
    growth = x[..., 2:] * deviations[2:]
    limit = attrs.get("clip", -1.0)
    if limit > 0:
        growth = np.where(growth < limit, growth, x.dtype.type(limit))
    half = np.exp(growth) * size / 2
    return np.concatenate([centre - half, centre + half], -1)


def _four_columns(shape: Shape) -> bool:
    return len(shape) == 3 and shape[2] == 4


def _grid_first(shape: Shape) -> bool:
    flow = len(shape) == 4 and shape[1] == 2 and min(shape[2:]) > 1
    return flow or (len(shape) == 2 and shape[1] == 6)


register(
    OpSpec(
        "UpSampling",
        _draw_up_sampling,
        _up_sampling,
        ranks(4),
        exact=lambda attrs: attrs["num_args"] == 1,
        dtypes=("float32",),
        roundings=2,
        multiplies=True,
    ),
    OpSpec(
        "_contrib_BilinearResize2D",
        _draw_resize,
        _resize,
        ranks(4),
        dtypes=("float32",),  # coordinates are float32 for float64 data, too
        roundings=4,
        absolute=16,  # ONNX Runtime's coordinates on axes of a dozen pixels
        nan_blind=True,
    ),
    OpSpec(
        "_contrib_AdaptiveAvgPooling2D",
        _draw_adaptive,
        _adaptive,
        ranks(4),
        roundings=3,
        nan_blind=True,
        multiplies=True,
    ),
    OpSpec(
        "GridGenerator",
        _draw_grid,
        _grid,
        _grid_first,
        first=_first_of_grid,
        dtypes=WIDE_FLOATS,
        roundings=3,
        absolute=2,
        multiplies=True,
    ),
    OpSpec(
        "BilinearSampler",
        _draw_sampler,
        lambda attrs, x, grid: _sampled(x, grid),
        ranks(4),
        roundings=4,
        absolute=8,
        nan_blind=True,
    ),
    OpSpec(
        "SpatialTransformer",
        _draw_transformer,
        lambda attrs, x, matrices: _sampled(x, _affine(attrs, matrices)),
        ranks(4),
        dtypes=WIDE_FLOATS,
        roundings=4,
        absolute=16,
        nan_blind=True,
        multiplies=True,
    ),
    OpSpec(
        "_contrib_ROIAlign",
        _draw_roi_align,
        _roi_align,
        ranks(4),
        roundings=4,
        absolute=8,
        nan_blind=True,
    ),
    OpSpec(
        "ROIPooling",
        _draw_roi_pooling,
        _roi_pooling,
        ranks(4),
        dtypes=("float32",),
        roundings=0,
        nan_blind=True,
    ),
    OpSpec(
        "_contrib_box_decode",
        _draw_box_decode,
        _box_decode,
        _four_columns,
        first=lambda draw: (*sizes(draw, 2, 1, 4), 4),
        roundings=3,
    ),
)
