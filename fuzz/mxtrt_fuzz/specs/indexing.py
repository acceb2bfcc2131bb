"""Operators that choose elements: by index, by condition, by order.

Where what is chosen is not defined (an index that is NaN or fits into no integer, the order of a
row with a NaN, that of equal elements beyond what MXNet's sort happens to keep, which no engine
may be asked for), the references say NaN.
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

import numpy as np
from hypothesis import strategies as st

from mxtrt_fuzz.graphs import Shape
from mxtrt_fuzz.specs.base import (
    INTEGERS,
    NUMBERS,
    WIDE_FLOATS,
    Application,
    Attributes,
    Draw,
    Operand,
    OpSpec,
    like,
    maybe,
    movers,
    one_axis,
    rank_at_least,
    ranks,
    register,
    sizes,
)
from mxtrt_fuzz.values import Array

_MODES = st.sampled_from(["clip", "wrap"])
_INDEX_DTYPES = ("float32", "float32", "int32", "int64", "uint8", "int8")
#: What MXNet writes places in, uint8 too where it holds them all.
_PLACE_DTYPES = st.sampled_from(["float32", "int32", "int64"])


def _places(attrs: Attributes, index: Array, size: int) -> tuple[Array, Array]:
    """Indices truncated and in range, and which of them are not defined.

    What becomes of a float beyond the integers, C++ leaves to the machine: x86 makes the least of
    them all, a GPU the nearest.
    """
    undefined = ~(np.abs(index) < 2.0**31)
    whole = np.trunc(np.where(undefined, 0, index)).astype(np.int64)
    if attrs.get("mode", "clip") == "wrap":
        return whole % size, undefined
    return np.clip(whole, 0, size - 1), undefined


def _index(draw: Draw, shape: Shape, size: int) -> Operand:
    """Indices of some dtype, some of them out of range, and fractions where it has them."""
    dtype = draw(st.sampled_from(_INDEX_DTYPES))
    return Operand(shape, low=-2.0 - size, high=2.0 * size + 1, dtype=dtype)


def _draw_take(draw: Draw, shape: Shape) -> Application:
    attrs = maybe(draw, axis=st.integers(-len(shape), len(shape) - 1), mode=_MODES)
    index = sizes(draw, draw(st.integers(1, 2)), 1, 3)
    return Application(attrs, (_index(draw, index, shape[attrs.get("axis", 0)]),))


def take(attrs: Attributes, x: Array, index: Array) -> Array:
    """Slices of an array by their indices, which are cut off and brought into range."""
    axis = attrs.get("axis", 0) % x.ndim
    places, undefined = _places(attrs, index, x.shape[axis])
    taken = np.take(x, places, axis)
    if not undefined.any():
        return taken
    return np.where(undefined.reshape(undefined.shape + (1,) * (x.ndim - axis - 1)), np.nan, taken)


def _draw_pick(draw: Draw, shape: Shape) -> Application:
    attrs = maybe(
        draw,
        axis=st.integers(-len(shape), len(shape) - 1),
        mode=_MODES,
        keepdims=st.booleans(),
    )
    axis = attrs.get("axis", -1) % len(shape)
    index = (*shape[:axis], 1, *shape[axis + 1 :])
    if len(shape) > 1 and draw(st.booleans()):
        index = (*shape[:axis], *shape[axis + 1 :])
    return Application(attrs, (_index(draw, index, shape[axis]),))


def _pick(attrs: Attributes, x: Array, index: Array) -> Array:
    axis = attrs.get("axis", -1) % x.ndim
    places, undefined = _places(attrs, index, x.shape[axis])
    if index.ndim < x.ndim:
        places, undefined = np.expand_dims(places, axis), np.expand_dims(undefined, axis)
    picked = np.take_along_axis(x, places, axis)
    if undefined.any():
        picked = np.where(undefined, np.nan, picked)
    return picked if attrs.get("keepdims", False) or x.ndim == 1 else picked.squeeze(axis)


def _draw_batch_take(draw: Draw, shape: Shape) -> Application:
    index = Operand(shape[:1], low=-2.0, high=shape[1] + 1.0, dtype="int32")
    return Application({}, (index,))


def _draw_gather_nd(draw: Draw, shape: Shape) -> Application:
    """Indices in range, which MXNet insists on: from the end too, and fractions."""
    count = draw(st.integers(1, len(shape)))
    rest = sizes(draw, draw(st.integers(1, 2)), 1, 3)
    least = min(shape[:count])
    dtype = draw(st.sampled_from(_INDEX_DTYPES))
    return Application({}, (_valid((count, *rest), -least, least - 1, dtype),))


def _valid(shape: Shape, low: int, high: int, dtype: str) -> Operand:
    """Indices that nothing else may stand in for."""
    role: Any = "weight" if dtype == "float32" else "data"
    return Operand(shape, role, low, high, fits=lambda shape: False, dtype=dtype)


def _gather_nd(attrs: Attributes, x: Array, index: Array) -> Array:
    count = index.shape[0]
    lengths = np.reshape(x.shape[:count], (count,) + (1,) * (index.ndim - 1))
    places = np.trunc(np.nan_to_num(index) + lengths).astype(np.int64) % lengths
    return x[tuple(places)]


def _draw_index_copy(draw: Draw, shape: Shape) -> Application:
    place = _valid((1,), 0, shape[0] - 1, draw(st.sampled_from(["int32", "int64"])))
    return Application({}, (place, Operand((1, *shape[1:]))))


def _index_copy(attrs: Attributes, x: Array, index: Array, new: Array) -> Array:
    result = x.copy()
    result[index.astype(np.int64)] = new
    return result


def _draw_one_hot(draw: Draw, shape: Shape) -> Application:
    more = maybe(
        draw,
        on_value=st.sampled_from([2, 0, 1.5]),
        off_value=st.sampled_from([1, 3.5]),
        dtype=st.sampled_from([dtype for dtype in NUMBERS if dtype != "float64"]),
    )
    return Application({"depth": draw(st.integers(1, 5)), **more})


def _one_hot(attrs: Attributes, x: Array) -> Array:
    undefined = ~(np.abs(x) < 2.0**31)
    whole = np.trunc(np.where(undefined, 0, x))
    on, off = attrs.get("on_value", 1), attrs.get("off_value", 0)
    if not attrs.get("dtype", "float32").startswith("float"):
        on, off = int(on), int(off)
    hot = np.where(whole[..., None] == np.arange(attrs["depth"]), float(on), float(off))
    return np.where(undefined[..., None], np.nan, hot)


# -- by condition ------------------------------------------------------------------------------


def _draw_where(draw: Draw, shape: Shape) -> Application:
    dtype = draw(st.sampled_from(["float32", "float32", "int32", "int64", "int8", "uint8"]))
    if len(shape) == 1 and draw(st.booleans()):
        shape = (*shape, *sizes(draw, draw(st.integers(1, 2)), 1, 3))
    return Application({}, (Operand(shape, dtype=dtype),) * 2)


def _where(attrs: Attributes, condition: Array, x: Array, y: Array) -> Array:
    rows = condition.shape + (1,) * (x.ndim - condition.ndim)
    return np.where(condition.reshape(rows) != 0, x, y)


def _draw_np_where(draw: Draw, shape: Shape) -> Application:
    """The three are broadcast."""
    dtype = draw(st.sampled_from(["float32", "int32"]))
    other = shape[draw(st.integers(0, len(shape) - 1)) :]
    return Application({}, (Operand(shape, dtype=dtype), Operand(other, dtype=dtype)))


# -- by order ----------------------------------------------------------------------------------


def _draw_search(draw: Draw, shape: Shape) -> Application:
    axis = st.one_of(st.none(), st.integers(-len(shape), len(shape) - 1))
    return Application(maybe(draw, axis=axis, keepdims=st.booleans()))


def _search(function: Callable[..., Array]) -> Callable[..., Array]:
    def reference(attrs: Attributes, x: Array) -> Array:
        axis = attrs.get("axis", None)
        keep = bool(attrs.get("keepdims", False))
        places = np.asarray(function(x, axis, keepdims=keep))
        return places.reshape(places.shape or (1,))

    return reference


def _channel(attrs: Attributes, x: Array) -> Array:
    return x.argmax(1)


def _rows(draw: Draw) -> Shape:
    """Rows of more and of less than the sixteen elements that MXNet sorts by insertion."""
    return (draw(st.integers(1, 3)), draw(st.integers(1, 20)))


def _draw_sort(draw: Draw, shape: Shape) -> Application:
    # Without the attribute, MXNet fails to build the gradient of a hybridized sort.
    return Application({"axis": one_axis(draw, len(shape)), **maybe(draw, is_ascend=st.booleans())})


def _sort(attrs: Attributes, x: Array) -> Array:
    axis = attrs["axis"]
    unordered = np.isnan(x).any(axis, keepdims=True)
    ordered = np.sort(x, axis)
    if not attrs.get("is_ascend", True):
        ordered = np.flip(ordered, axis)
    return np.where(unordered, np.nan, ordered)


def _order(x: Array, axis: int, ascending: bool, count: int) -> Array:
    """Places in order, NaN where MXNet does not define it.

    Its sort keeps the order of equal elements in rows of up to sixteen, and where it only looks
    for the first.
    """
    places = np.argsort(x if ascending else -x.astype(np.float64), axis, kind="stable")
    ordered = np.take_along_axis(x, places, axis)
    undefined = np.isnan(ordered).any(axis, keepdims=True)
    size = x.shape[axis]
    if (size > 16 and count > 1) or (8 * count <= size and count > 1):
        undefined = undefined | (np.diff(ordered, axis=axis) == 0).any(axis, keepdims=True)
    return np.where(undefined, np.nan, places)


def _draw_argsort(draw: Draw, shape: Shape) -> Application:
    axis = st.one_of(st.none(), st.integers(-len(shape), len(shape) - 1))
    return Application(maybe(draw, axis=axis, is_ascend=st.booleans(), dtype=_PLACE_DTYPES))


def _flat(attrs: Attributes, x: Array) -> tuple[Array, int]:
    if attrs.given("axis") == "None":
        return x.reshape(-1), 0
    return x, attrs.get("axis", -1) % x.ndim


def _argsort(attrs: Attributes, x: Array) -> Array:
    rows, axis = _flat(attrs, x)
    return _order(rows, axis, attrs.get("is_ascend", True), rows.shape[axis])


def _draw_topk(draw: Draw, shape: Shape) -> Application:
    axis = st.one_of(st.none(), st.integers(-len(shape), len(shape) - 1))
    attrs = maybe(
        draw,
        axis=axis,
        ret_typ=st.sampled_from(["value", "indices", "both", "mask"]),
        is_ascend=st.booleans(),
        dtype=_PLACE_DTYPES,
    )
    flat = attrs.get("axis", -1) is None
    size = prod(shape) if flat else shape[attrs.get("axis", -1)]
    return Application({**attrs, **maybe(draw, k=st.integers(0, min(size, 5)))})


def _topk(attrs: Attributes, x: Array) -> Array | tuple[Array, ...]:
    rows, axis = _flat(attrs, x)
    count = attrs.get("k", 1) or rows.shape[axis]
    order = _order(rows, axis, attrs.get("is_ascend", False), count)
    order = np.take(order, range(count), axis)
    places = np.nan_to_num(order).astype(np.int64)
    kind = attrs.get("ret_typ", "indices")
    if kind == "mask":
        mask = np.zeros(rows.shape)
        np.put_along_axis(mask, places, 1.0, axis)
        return np.where(np.isnan(order).any(axis, keepdims=True), np.nan, mask).reshape(x.shape)
    # Equal elements have one value, whatever their order.
    values = np.sort(rows if attrs.get("is_ascend", False) else -rows.astype(np.float64), axis)
    values = np.take(values, range(count), axis)
    values = values if attrs.get("is_ascend", False) else -values
    unordered = np.isnan(rows).any(axis, keepdims=True)
    values = np.where(unordered, np.nan, values)
    if kind == "both":
        return values, order
    return values if kind == "value" else order


def _topk_dtypes(attrs: Attributes, dtype: str) -> str | tuple[str, ...]:
    place = attrs.get("dtype", "float32")
    kinds = {"indices": place, "both": (dtype, place)}
    return kinds.get(attrs.get("ret_typ", "indices"), dtype)


# -- diagonals ---------------------------------------------------------------------------------


def _draw_diag(draw: Draw, shape: Shape) -> Application:
    if len(shape) == 1:
        return Application(maybe(draw, k=st.integers(-2, 2)))
    attrs: dict[str, Any] = {}
    if len(shape) > 2 or draw(st.booleans()):
        axes = draw(st.permutations(range(len(shape))))[:2]
        shift = len(shape) if draw(st.booleans()) else 0
        attrs = {"axis1": axes[0] - shift, "axis2": axes[1]}
    height, width = shape[attrs.get("axis1", 0)], shape[attrs.get("axis2", 1)]
    return Application({**attrs, **maybe(draw, k=st.integers(1 - height, width - 1))})


def _diag(attrs: Attributes, x: Array) -> Array:
    if x.ndim == 1:
        return np.diag(x, attrs.get("k", 0))
    return x.diagonal(attrs.get("k", 0), attrs.get("axis1", 0), attrs.get("axis2", 1))


# MXNet sorts no float16 on a CPU.
_SORTED = (*WIDE_FLOATS, *INTEGERS)


def _choosers(names: str, *given: Any, **more: Any) -> list[OpSpec]:
    """Operators whose choice jumps, and has none to make of a NaN."""
    return movers(names, *given, jumps=True, nan_blind=True, **more)


register(
    *_choosers("take _npi_take", _draw_take, take),
    *_choosers("batch_take", _draw_batch_take, _pick, ranks(2), hybrid=False),
    *_choosers("pick choose_element_0index _npx_pick", _draw_pick, _pick),
    *_choosers("gather_nd _npi_gather_nd _npx_gather_nd", _draw_gather_nd, _gather_nd),
    *movers("_contrib_index_copy", _draw_index_copy, _index_copy),
    *_choosers(
        "one_hot _npx_one_hot",
        _draw_one_hot,
        _one_hot,
        result=lambda attrs, _: attrs.get("dtype", "float32"),
    ),
    *_choosers("where", _draw_where, _where, follows=1),
    *_choosers("_npi_where", _draw_np_where, _where, follows=1),
    *movers("argmax", _draw_search, _search(np.argmax), jumps=True),
    *movers("argmin", _draw_search, _search(np.argmin), jumps=True),
    *movers("argmax_channel", like, _channel, rank_at_least(2), hybrid=False, jumps=True),
    *movers("sort _npi_sort", _draw_sort, _sort, first=_rows, nan_blind=True, dtypes=_SORTED),
    *_choosers(
        "argsort _npi_argsort",
        _draw_argsort,
        _argsort,
        first=_rows,
        dtypes=_SORTED,
        result=lambda attrs, _: attrs.get("dtype", "float32"),
    ),
    *_choosers("topk _npx_topk", _draw_topk, _topk, first=_rows, result=_topk_dtypes),
    *movers("diag", _draw_diag, _diag),
)
