"""Converters of the attention operators of GluonNLP and Sockeye.

Their projections have the shape (length, batch, features) with the features of every head
together: query, key and value of the first head, then those of the second, and so on.  The
scores have the shape (batch * heads, query length, key length).
"""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt

import numpy as np

from mxtrt.convert.ops.registry import Call, converter


def _head_size(call: Call, parts: int) -> int:
    """Features of one head in the first input, which holds so many parts for every head."""
    heads, features = call.integer("heads"), call.shape()[2]
    fits = heads > 0 and features % (parts * heads) == 0
    call.require(fits, f"{features} features for {heads} heads of {parts} parts")
    return features // (parts * heads)


def _part(call: Call, index: int, parts: int, part: int, size: int, perm: Sequence[int]) -> str:
    """One of the parts of an input, from (length, batch * heads, head size) to another order."""
    sizes = [size] if parts == 1 else [parts, size]
    split = call.emit("Reshape", [call.input(index), call.indices([0, -1, *sizes])])
    if parts > 1:
        split = call.emit("Gather", [split, call.constant(part, np.int64)], axis=2)
    return call.emit("Transpose", [split], perm=perm)


def _scores(call: Call, query: str, key: str, size: int) -> None:
    scaled = call.emit("Mul", [query, call.constant(1 / sqrt(size))])
    call.emit("MatMul", [scaled, key], output=call.output())


def _context(call: Call, value: str, features: int) -> None:
    weighted = call.emit("MatMul", [call.input(1), value])
    turned = call.emit("Transpose", [weighted], perm=[1, 0, 2])
    call.emit("Reshape", [turned, call.indices([0, -1, features])], output=call.output())


@converter("_contrib_interleaved_matmul_selfatt_qk", outputs=1)
def selfatt_qk(call: Call) -> None:
    """Scaled ``MatMul`` of the queries and the keys in one projection."""
    call.require_floats()
    size = _head_size(call, 3)
    query = _part(call, 0, 3, 0, size, [1, 0, 2])
    _scores(call, query, _part(call, 0, 3, 1, size, [1, 2, 0]), size)


@converter("_contrib_interleaved_matmul_selfatt_valatt", outputs=1)
def selfatt_valatt(call: Call) -> None:
    """``MatMul`` of the attention weights and the values in the projection."""
    call.require_floats()
    size = _head_size(call, 3)
    _context(call, _part(call, 0, 3, 2, size, [1, 0, 2]), call.shape()[2] // 3)


@converter("_contrib_interleaved_matmul_encdec_qk", outputs=1)
def encdec_qk(call: Call) -> None:
    """Scaled ``MatMul`` of the queries and the keys in two projections."""
    call.require_floats()
    size = _head_size(call, 1)
    query = _part(call, 0, 1, 0, size, [1, 0, 2])
    _scores(call, query, _part(call, 1, 2, 0, size, [1, 2, 0]), size)


@converter("_contrib_interleaved_matmul_encdec_valatt", outputs=1)
def encdec_valatt(call: Call) -> None:
    """``MatMul`` of the attention weights and the values in the keys' projection."""
    call.require_floats()
    size = _head_size(call, 2)
    _context(call, _part(call, 0, 2, 1, size, [1, 0, 2]), call.shape()[2] // 2)


@converter("_contrib_div_sqrt_dim", outputs=1)
def div_sqrt_dim(call: Call) -> None:
    """``Div`` by the root of the last axis's size."""
    call.require_floats()
    divisor = call.constant(sqrt(call.shape()[-1]))
    call.emit("Div", [call.input(), divisor], output=call.output())
