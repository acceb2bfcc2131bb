"""Converters of operators that create values from attributes or from a shape alone.

What they give is known once shapes are.  Where the shape is that of an input, it is read from the
input in ONNX, which keeps the batch size out of the graph.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from mxtrt.convert.ops.registry import NUMBERS, Call, Converter, converter

_SHAPE_FILLS = {
    ("_zeros", "_npi_zeros", "_zeros_without_dtype"): 0,
    ("_ones", "_npi_ones"): 1,
}
_LIKE_FILLS = {"zeros_like": 0, "ones_like": 1}


def _dtype(call: Call) -> np.dtype[Any]:
    """Dtype of the output; the engines take it."""
    call.require_dtype(call.outputs[0], NUMBERS)
    dtype = call.outputs[0].dtype
    assert dtype is not None
    return dtype


def number(call: Call, key: str, dtype: np.dtype[Any], default: float | None = None) -> Any:
    """An attribute of type double, as C++ converts it to a dtype."""
    return _converted(call, np.float64(call.number(key, default)), dtype)[()]


def _converted(call: Call, values: Any, dtype: np.dtype[Any]) -> Any:
    """Numbers of type double as C++ converts them, which is undefined where they do not fit."""
    if dtype.kind != "f":
        limits = np.iinfo(dtype)
        values = np.trunc(values)
        fits = np.all((values >= limits.min) & (values <= limits.max))
        call.require(bool(fits), f"a value that does not fit into {dtype}")
    with np.errstate(over="ignore"):
        return values.astype(dtype)


def fill(call: Call, shape: str, value: Any, output: str | None = None) -> str:
    """``Expand`` of one value to a shape that is a tensor too.

    TensorRT 8.5 takes integers here, which it does not for ``ConstantOfShape``.
    """
    return call.emit("Expand", [call.constant(value, value.dtype), shape], output=output)


def _fill_shape(value: int) -> Converter:
    def convert(call: Call) -> None:
        """``Expand`` to the shape that MXNet inferred."""
        fill(call, call.indices(call.out_shape()), _dtype(call).type(value), call.output())

    return convert


def _fill_like(value: int) -> Converter:
    def convert(call: Call) -> None:
        """``Expand`` to the input's ``Shape``."""
        fill(call, call.emit("Shape", [call.input()]), _dtype(call).type(value), call.output())

    return convert


for _names, _value in _SHAPE_FILLS.items():
    converter(*_names, moves_data_only=True, outputs=1)(_fill_shape(_value))
for _name, _value in _LIKE_FILLS.items():
    converter(_name, moves_data_only=True, outputs=1, shape_only=(0,))(_fill_like(_value))


@converter("_full", "_npi_full", moves_data_only=True, outputs=1)
def full(call: Call) -> None:
    """``Expand`` of the attribute ``value``."""
    fill(call, call.indices(call.out_shape()), number(call, "value", _dtype(call)), call.output())


@converter("_npi_full_like", moves_data_only=True, outputs=1, shape_only=(0,))
def full_like(call: Call) -> None:
    """``Expand`` to the input's ``Shape``; the dtype may be another one."""
    shape = call.emit("Shape", [call.input()])
    fill(call, shape, number(call, "fill_value", _dtype(call)), call.output())


def _constant(call: Call, values: np.ndarray[Any, Any]) -> None:
    call.emit("Identity", [call.constant(values, values.dtype)], output=call.output())


@converter("_eye", "_npi_eye", moves_data_only=True, outputs=1)
def eye(call: Call) -> None:
    """A constant: ones on the diagonal ``k``."""
    rows, columns = call.out_shape()
    _constant(call, np.eye(rows, columns, k=call.integer("k", 0), dtype=_dtype(call)))


@converter("_linspace", "_npi_linspace", moves_data_only=True, outputs=1)
def linspace(call: Call) -> None:
    """A constant, computed in float64 and then converted."""
    dtype = _dtype(call)
    start, stop, count = call.number("start"), call.number("stop"), call.out_shape()[0]
    steps = count - 1 if call.flag("endpoint", True) else count
    values = start + (stop - start) / max(steps, 1) * np.arange(count, dtype=np.float64)
    _constant(call, _converted(call, values, dtype))


#: MXNet multiplies a place by a float16 as by an integer (mshadow/half.h).
COUNTS_WHOLE = "MXNet counts in whole numbers in float16"


@converter("_arange", "_npi_arange", moves_data_only=True, outputs=1, not_in_half=COUNTS_WHOLE)
def arange(call: Call) -> None:
    """A constant, computed in the output's dtype as MXNet does; with one number it is the end."""
    dtype = _dtype(call)
    given = call.given("stop") or call.flag("infer_range")
    start = number(call, "start", dtype) if given else dtype.type(0)
    (count,) = call.out_shape()
    places = np.arange(count) // call.integer("repeat", 1)
    _constant(call, start + places.astype(dtype) * number(call, "step", dtype, 1.0))


@converter("shape_array", "_npx_shape_array", moves_data_only=True, outputs=1, shape_only=(0,))
def shape_array(call: Call) -> None:
    """``Shape``, int64 in both."""
    call.emit("Shape", [call.input()], output=call.output())


@converter("size_array", moves_data_only=True, outputs=1, shape_only=(0,))
def size_array(call: Call) -> None:
    """``Size``, a tensor of one axis in MXNet."""
    size = call.emit("Size", [call.input()])
    call.emit("Reshape", [size, call.indices([1])], output=call.output())
