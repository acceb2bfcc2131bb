"""Operators that move data: shapes, axes, joins and padding."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np
from hypothesis import strategies as st

from mxtrt_fuzz.graphs import Shape
from mxtrt_fuzz.specs.base import (
    FLOATS,
    Application,
    Attributes,
    Draw,
    Operand,
    like,
    maybe,
    movers,
    one_axis,
    ranks,
    register,
)
from mxtrt_fuzz.values import Array

# -- joins -----------------------------------------------------------------------------------


def _draw_concat(draw: Draw, shape: Shape) -> Application:
    rank = len(shape)
    attrs: dict[str, Any] = {}
    if rank < 2 or draw(st.booleans()):
        attrs["dim"] = one_axis(draw, rank)
    axis = attrs.get("dim", 1) % rank

    def fits(other: Shape) -> bool:
        return len(other) == rank and all(
            i == axis or n == m for i, (n, m) in enumerate(zip(shape, other, strict=True))
        )

    operands = []
    for _ in range(draw(st.integers(0, 2))):
        size = draw(st.integers(1, 4))
        other = tuple(size if i == axis else n for i, n in enumerate(shape))
        operands.append(Operand(other, fits=fits))
    return Application({"num_args": len(operands) + 1, **attrs}, tuple(operands))


def _draw_stack(draw: Draw, shape: Shape) -> Application:
    others = draw(st.integers(0, 2))
    attrs = maybe(draw, axis=st.integers(-len(shape) - 1, len(shape)))
    return Application({"num_args": others + 1, **attrs}, (Operand(shape),) * others)


def _draw_concatenate(draw: Draw, shape: Shape) -> Application:
    application = _draw_concat(draw, shape)
    attrs = dict(application.attrs)
    axis = attrs.pop("dim", 1)
    return Application(attrs if axis == 0 else {**attrs, "axis": axis}, application.operands)


# -- shapes and axes -------------------------------------------------------------------------


def _draw_reshape(draw: Draw, shape: Shape) -> Application:
    """A target in numbers, or axis by axis in MXNet's codes."""
    if draw(st.booleans()):
        return Application({"shape": _numbers(draw, shape)})
    reverse = draw(st.integers(0, 3)) == 3
    codes = _codes(draw, shape[::-1] if reverse else shape, splits=not reverse)
    return Application(
        {"shape": tuple(codes[::-1]), "reverse": True} if reverse else {"shape": tuple(codes)}
    )


def _numbers(draw: Draw, shape: Shape) -> tuple[int, ...]:
    """Sizes of as many elements, one of them perhaps -1."""
    target: list[int] = []
    left = prod(shape)
    while left > 1 and len(target) < 4:
        size = draw(st.sampled_from([n for n in range(1, left + 1) if left % n == 0][-6:]))
        target.append(size)
        left //= size
    target.append(left)
    if draw(st.booleans()):
        target[draw(st.integers(0, len(target) - 1))] = -1
    return tuple(target)


def _codes(draw: Draw, shape: Shape, splits: bool) -> list[int]:
    """One code for every axis, or pair of axes (-3), or for all that are left (-2)."""
    codes: list[int] = []
    axis, kinds = 0, ["copy", "number", "merge", "rest", "infer"] + ["split"] * splits
    while axis < len(shape):
        kind, size = draw(st.sampled_from(kinds)), shape[axis]
        axis += 1
        if kind == "rest":
            codes.append(-2)
            break
        if kind == "merge" and axis < len(shape):
            codes.append(-3)
            axis += 1
        elif kind == "split":
            factor = draw(st.sampled_from([n for n in range(1, size + 1) if size % n == 0]))
            codes += [-4, factor, size // factor]
            if "infer" in kinds and draw(st.booleans()):  # MXNet wants one -1 at the most
                codes[-1] = -1
            # MXNet looks for -1 at its place among the codes, of which -4 is three for two axes:
            # after one it writes beside the shape, now and then beyond its memory.
            kinds = [other for other in kinds if other != "infer"]
        elif kind == "infer":
            codes.append(-1)
            kinds.remove("infer")
        else:
            codes.append(size if kind == "number" else 0)
    return codes


def _reshape(attrs: Attributes, x: Array) -> Array:
    codes = attrs.integers("shape")
    if attrs.get("reverse", False):
        return x.reshape(_target(codes[::-1], x.shape[::-1])[::-1])
    return x.reshape(_target(codes, x.shape))


def _target(codes: Sequence[int], shape: Shape) -> list[int]:
    """The shape that codes stand for; every code reads an axis (``InferReshapeShape``)."""
    target: list[int] = []
    axis, rest = 0, iter(codes)
    for code in rest:
        if code == -2:
            target += shape[axis:]
            axis = len(shape)
            continue
        if code == -4:
            first, second = next(rest), next(rest)
            target += [first, shape[axis] // first if second == -1 else second]
        elif code == -3:
            target.append(shape[axis] * shape[axis + 1])
            axis += 1
        else:
            target.append(shape[axis] if code == 0 else code)
        axis += 1
    return target


def _draw_new_shape(draw: Draw, shape: Shape) -> Application:
    return Application({"newshape": _numbers(draw, shape)})


#: Codes of the NumPy interface and those of ``Reshape`` that mean the same.
_CODES = {-2: 0, -4: -2, -5: -3, -6: -4}


def _draw_new_codes(draw: Draw, shape: Shape) -> Application:
    """As ``Reshape``, in other codes, of which -3 drops an axis of size one."""
    back = {old: new for new, old in _CODES.items()}
    codes: list[int] = []
    for code in _codes(draw, shape, splits=True):
        codes.append(back.get(code, code))
    if len(codes) > 1 and shape[-1] == 1 and codes[-1] == 1 and -6 not in codes[-3:]:
        codes[-1] = -3
    return Application({"newshape": tuple(codes)})


def _reshape_by_codes(attrs: Attributes, x: Array) -> Array:
    codes = attrs.integers("newshape")
    kept = x.shape
    if codes[-1] == -3:
        codes, kept = codes[:-1], x.shape[:-1]
    return x.reshape(_target([_CODES.get(code, code) for code in codes], kept))


def _draw_reshape_like(draw: Draw, shape: Shape) -> Application:
    """All of the axes, or those of a range replaced by a range of the other input's."""
    if draw(st.booleans()):
        numbers = [n for n in _numbers(draw, shape) if n != -1]
        left = prod(shape) // prod(numbers)
        return Application({}, (Operand((*numbers, left)),))
    rank = len(shape)
    begin = draw(st.integers(0, rank - 1))
    end = draw(st.integers(begin + 1, rank))
    size = prod(shape[begin:end])
    factor = draw(st.sampled_from([n for n in range(1, size + 1) if size % n == 0]))
    before = draw(st.integers(0, 1))
    other = (3,) * before + (factor, size // factor, 2)
    attrs: dict[str, Any] = {"lhs_begin": begin, "lhs_end": end, "rhs_begin": before, "rhs_end": -1}
    if end == rank and draw(st.booleans()):
        attrs["lhs_begin"], attrs["lhs_end"] = begin - rank, None
    return Application(attrs, (Operand(other),))


def _reshape_like(attrs: Attributes, x: Array, like: Array) -> Array:
    ours = range(x.ndim)[attrs.get("lhs_begin", None) : attrs.get("lhs_end", None)]
    theirs = like.shape[attrs.get("rhs_begin", None) : attrs.get("rhs_end", None)]
    return x.reshape(x.shape[: ours.start] + theirs + x.shape[ours.stop :])


def _draw_np_transpose(draw: Draw, shape: Shape) -> Application:
    attrs = dict(_draw_transpose(draw, shape).attrs)
    if "axes" in attrs and draw(st.booleans()):
        attrs["axes"] = tuple(axis - len(shape) for axis in attrs["axes"])
    return Application(attrs)


def _transpose(attrs: Attributes, x: Array) -> Array:
    return x.transpose(attrs.integers("axes") or None)


def _draw_move(draw: Draw, shape: Shape) -> Application:
    rank = len(shape)
    count = draw(st.integers(1, rank))
    places = st.permutations(range(rank)).map(lambda axes: tuple(axes[:count]))
    source, destination = draw(places), draw(places)
    if draw(st.booleans()):
        source = tuple(axis - rank for axis in source)
    return Application({"source": source, "destination": destination})


def _move(attrs: Attributes, x: Array) -> Array:
    return np.moveaxis(x, attrs.integers("source"), attrs.integers("destination"))


def _draw_transpose(draw: Draw, shape: Shape) -> Application:
    return Application(maybe(draw, axes=st.permutations(range(len(shape))).map(tuple)))


def _draw_swap(draw: Draw, shape: Shape) -> Application:
    axes = st.integers(-len(shape), len(shape) - 1)
    return Application({"dim1": draw(axes), "dim2": draw(axes)})


def _draw_expand(draw: Draw, shape: Shape) -> Application:
    return Application({"axis": draw(st.integers(-len(shape) - 1, len(shape)))})


def _draw_squeeze(draw: Draw, shape: Shape) -> Application:
    single = [i for i, n in enumerate(shape) if n == 1]
    if not single or draw(st.booleans()):
        return Application()
    axes = draw(st.lists(st.sampled_from(single), min_size=1, unique=True))
    shift = len(shape) if draw(st.booleans()) else 0
    return Application({"axis": tuple(axis - shift for axis in axes)})


def _draw_np_squeeze(draw: Draw, shape: Shape) -> Application:
    """One axis is left: without NumPy's shapes MXNet takes none for an unknown shape."""
    if prod(shape) == 1:
        return Application({"axis": tuple(range(1, len(shape)))})
    return _draw_squeeze(draw, shape)


def _squeeze(attrs: Attributes, x: Array) -> Array:
    squeezed = x.squeeze(attrs.integers("axis") or None)
    return squeezed if squeezed.ndim else squeezed.reshape(1)


# -- padding, up-sampling ---------------------------------------------------------------------


def _draw_pad(draw: Draw, shape: Shape) -> Application:
    mode = draw(st.sampled_from(["constant", "edge", "reflect"]))
    widths = [0, 0, 0, 0]
    for size in shape[2:]:
        most = size - 1 if mode == "reflect" else 3
        # The engine's rule is one for all axes: no reflection wider than the smallest.
        if mode == "reflect":
            most = min(most, min(shape[2:]) - 1)
        widths += draw(st.lists(st.integers(0, most), min_size=2, max_size=2))
    attrs: dict[str, Any] = {"mode": mode, "pad_width": tuple(widths)}
    if mode == "constant":
        attrs |= maybe(draw, constant_value=st.sampled_from([1.5, -0.5, 0.0]))
    return Application(attrs)


def _pad(attrs: Attributes, x: Array) -> Array:
    widths = np.reshape(attrs["pad_width"], (-1, 2)).tolist()
    if attrs["mode"] == "constant":
        return np.pad(x, widths, constant_values=attrs.get("constant_value", 0.0))
    return np.pad(x, widths, attrs["mode"])


def _draw_depth_to_space(draw: Draw, shape: Shape) -> Application:
    sizes = [n for n in (1, 2, 3) if shape[1] % n**2 == 0]
    return Application({"block_size": draw(st.sampled_from(sizes))})


def _depth_to_space(attrs: Attributes, x: Array) -> Array:
    block = attrs["block_size"]
    batch, depth, height, width = x.shape
    blocks = x.reshape(batch, block, block, depth // block**2, height, width)
    blocks = blocks.transpose(0, 3, 4, 1, 5, 2)
    return blocks.reshape(batch, depth // block**2, height * block, width * block)


def _draw_space_to_depth(draw: Draw, shape: Shape) -> Application:
    sizes = [n for n in (1, 2, 3) if shape[2] % n == shape[3] % n == 0]
    return Application({"block_size": draw(st.sampled_from(sizes))})


def _space_to_depth(attrs: Attributes, x: Array) -> Array:
    block = attrs["block_size"]
    batch, depth, height, width = x.shape
    blocks = x.reshape(batch, depth, height // block, block, width // block, block)
    blocks = blocks.transpose(0, 3, 5, 1, 2, 4)
    return blocks.reshape(batch, depth * block**2, height // block, width // block)


def _flatten(attrs: Attributes, x: Array) -> Array:
    return x.reshape(x.shape[0], prod(x.shape[1:]))


register(
    *movers("Concat concat", _draw_concat, lambda a, *xs: np.concatenate(xs, a.get("dim", 1))),
    *movers(
        "_npi_concatenate", _draw_concatenate, lambda a, *xs: np.concatenate(xs, a.get("axis", 0))
    ),
    *movers("stack _npi_stack", _draw_stack, lambda a, *xs: np.stack(xs, a.get("axis", 0))),
    *movers("Flatten flatten _npx_batch_flatten", like, _flatten),
    *movers("Reshape reshape", _draw_reshape, _reshape),
    *movers("_np_reshape", _draw_new_shape, lambda a, x: x.reshape(a.integers("newshape"))),
    *movers("_npx_reshape _npi_reshape", _draw_new_codes, _reshape_by_codes),
    *movers("reshape_like _npx_reshape_like", _draw_reshape_like, _reshape_like),
    *movers("_np_transpose", _draw_np_transpose, _transpose),
    *movers("_np_moveaxis", _draw_move, _move),
    *movers("transpose", _draw_transpose, _transpose),
    *movers(
        "SwapAxis swapaxes _npi_swapaxes", _draw_swap, lambda a, x: x.swapaxes(a["dim1"], a["dim2"])
    ),
    *movers(
        "expand_dims _npi_expand_dims", _draw_expand, lambda a, x: np.expand_dims(x, a["axis"])
    ),
    *movers("squeeze", _draw_squeeze, _squeeze),
    *movers("_np_squeeze", _draw_np_squeeze, _squeeze),
    *movers("Pad pad", _draw_pad, _pad, ranks(4, 5), dtypes=FLOATS),
    *movers("depth_to_space", _draw_depth_to_space, _depth_to_space, ranks(4)),
    *movers("space_to_depth", _draw_space_to_depth, _space_to_depth, ranks(4)),
)
