"""Constants of a model as functions of the sizes of its inputs.

A recipe is found from the values of a constant at several sizes.  It gives the value at others, to
the bit, and writes down the nodes that compute it.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from onnx import numpy_helper

from mxtrt.convert.onnx_builder import tensor_type

__all__ = [
    "Array",
    "Emitter",
    "Polynomial",
    "Recipe",
    "Sizes",
    "equal",
    "polynomials",
    "recipe_of",
    "scale",
    "windows_of",
]

Array = np.ndarray[Any, Any]

#: A size for every symbol.
Sizes = tuple[int, ...]

_SINGLE, _DOUBLE, _INTEGER = np.dtype(np.float32), np.dtype(np.float64), np.dtype(np.int64)

# A float32 number times this is, rounded to float32, the next larger one.
_NEXT = 1 + 0.7 * 2.0**-23

# Integers up to here, divided by others, are told from their neighbours by float32.
_LARGEST = 2.0**22

# Numbers of one constant that are computed one by one.
_MOST_NUMBERS = 64


class Emitter(Protocol):
    """Writes nodes."""

    def node(self, op_type: str, inputs: Sequence[str], **attributes: Any) -> str:
        """Append a node; returns the name of its result."""

    def constant(self, array: Array) -> str:
        """A small array in the model."""

    def number(self, number: int) -> str:
        """An integer, as an array of one."""

    def vector(self, numbers: Sequence[Polynomial]) -> str:
        """Integers that follow from the sizes, as a vector."""

    def product(self, numbers: Sequence[Polynomial]) -> str:
        """The product of integers that follow from the sizes, as a scalar."""

    def cast(self, name: str, dtype: np.dtype[Any]) -> str:
        """Numbers as another dtype; integers of 64 bits stay as they are."""

    def reshaped(self, name: str, shape: Sequence[int]) -> str:
        """The same numbers in another shape."""


def scale(size: int, wanted: int) -> float:
    """The float32 factor with which ``floor(size * factor)`` is the wanted size."""
    factor = np.float32(wanted / size)
    if math.floor(size * float(factor)) < wanted or np.floor(np.float32(size) * factor) < wanted:
        factor = np.nextafter(factor, np.float32(np.inf))
    return float(factor)


def windows_of(size: int, outputs: int) -> list[tuple[int, int]]:
    """Begin and end of every window of an adaptive pooling; MXNet divides in float32."""
    count = np.float32(outputs)
    return [
        (int(np.float32(i * size) / count), int(np.ceil(np.float32((i + 1) * size) / count)))
        for i in range(outputs)
    ]


def averages(size: int, outputs: int) -> Array:
    """A row for every window, with which a column of the data gives its mean."""
    rows = np.zeros((outputs, size), np.float32)
    for row, (begin, end) in zip(rows, windows_of(size, outputs), strict=True):
        row[begin:end] = 1 / (end - begin)
    return rows


def equal(one: Array, other: Array) -> bool:
    """Whether two arrays are the same to the bit."""
    return (
        one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes()
    )


class Recipe(Protocol):
    """How a constant follows from sizes."""

    def value(self, sizes: Sizes) -> Array:
        """The constant."""

    def emit(self, emitter: Emitter) -> str:
        """Write it down as nodes; the name of their result."""


@dataclass(frozen=True)
class Polynomial:
    """A sum of products of sizes, the powers of every product by symbol, with factors."""

    terms: tuple[tuple[tuple[int, ...], int], ...]

    def __call__(self, sizes: Sizes) -> int:
        return sum(factor * _product(sizes, powers) for powers, factor in self.terms)


@dataclass(frozen=True)
class _Numbers:
    """Integers of a fixed shape."""

    numbers: tuple[Polynomial, ...]
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    def value(self, sizes: Sizes) -> Array:
        return np.array([number(sizes) for number in self.numbers], self.dtype).reshape(self.shape)

    def emit(self, emitter: Emitter) -> str:
        name = emitter.cast(emitter.vector(self.numbers), self.dtype)
        return name if len(self.shape) == 1 else emitter.reshaped(name, self.shape)


@dataclass(frozen=True)
class _Progression:
    """Evenly spaced numbers in the order in which they lie in memory."""

    start: int
    step: int
    sizes: tuple[Polynomial, ...]
    dtype: np.dtype[Any]

    def value(self, sizes: Sizes) -> Array:
        shape = tuple(size(sizes) for size in self.sizes)
        numbers = np.arange(int(np.prod(shape)), dtype=np.int64) * self.step + self.start
        return numbers.astype(self.dtype).reshape(shape)

    def emit(self, emitter: Emitter) -> str:
        count = emitter.product(self.sizes)
        zero, one = (emitter.constant(np.array(number, np.int64)) for number in (0, 1))
        numbers = emitter.node("Range", [zero, count, one])
        if self.step != 1:
            numbers = emitter.node("Mul", [numbers, emitter.number(self.step)])
        if self.start:
            numbers = emitter.node("Add", [numbers, emitter.number(self.start)])
        numbers = emitter.cast(numbers, self.dtype)
        if len(self.sizes) == 1:
            return numbers
        return emitter.node("Reshape", [numbers, emitter.vector(self.sizes)])


@dataclass(frozen=True)
class _Fill:
    """One number everywhere."""

    number: Array
    sizes: tuple[Polynomial, ...]

    def value(self, sizes: Sizes) -> Array:
        return np.full(tuple(size(sizes) for size in self.sizes), self.number)

    def emit(self, emitter: Emitter) -> str:
        value = numpy_helper.from_array(self.number.reshape(1))
        return emitter.node("ConstantOfShape", [emitter.vector(self.sizes)], value=value)


@dataclass(frozen=True)
class _Given:
    """A float32 number whatever the sizes are."""

    number: np.float32

    def value(self, sizes: Sizes) -> Any:
        return self.number

    def emit(self, emitter: Emitter) -> str:
        return emitter.constant(np.array([self.number]))


@dataclass(frozen=True)
class _Quotient:
    """A quotient of integers as float32."""

    over: Polynomial
    under: Polynomial

    def value(self, sizes: Sizes) -> Any:
        return np.float32(self.over(sizes) / self.under(sizes))

    def emit(self, emitter: Emitter) -> str:
        parts = [_double(emitter, part) for part in (self.over, self.under)]
        return emitter.cast(emitter.node("Div", parts), _SINGLE)


@dataclass(frozen=True)
class _Root:
    """The square root of an integer as float32, or one over it."""

    square: Polynomial
    inverse: bool

    def value(self, sizes: Sizes) -> Any:
        root = math.sqrt(self.square(sizes))
        return np.float32(1 / root if self.inverse else root)

    def emit(self, emitter: Emitter) -> str:
        root = emitter.node("Sqrt", [_double(emitter, self.square)])
        if self.inverse:
            root = emitter.node("Div", [emitter.constant(np.ones(1)), root])
        return emitter.cast(root, _SINGLE)


@dataclass(frozen=True)
class _Scale:
    """The factor that makes one size another one, see :func:`scale`."""

    size: Polynomial
    wanted: Polynomial

    def value(self, sizes: Sizes) -> Any:
        return np.float32(scale(self.size(sizes), self.wanted(sizes)))

    def emit(self, emitter: Emitter) -> str:
        size, wanted = (emitter.vector((number,)) for number in (self.size, self.wanted))
        single, double = (emitter.cast(size, kind) for kind in (_SINGLE, _DOUBLE))
        quotient = emitter.node("Div", [emitter.cast(wanted, _DOUBLE), double])
        factor = emitter.cast(quotient, _SINGLE)
        wide = emitter.cast(factor, _DOUBLE)
        reached = [emitter.node("Mul", pair) for pair in ([double, wide], [single, factor])]
        whole = [emitter.node("Cast", [one], to=tensor_type(_INTEGER)) for one in reached]
        short = emitter.node("Or", [emitter.node("Less", [one, wanted]) for one in whole])
        larger = emitter.node("Mul", [wide, emitter.constant(np.array([_NEXT]))])
        return emitter.node("Where", [short, emitter.cast(larger, _SINGLE), factor])


@dataclass(frozen=True)
class _Averages:
    """The matrix of an adaptive pooling over one axis, or its transpose."""

    size: Polynomial
    outputs: int
    turned: bool

    def value(self, sizes: Sizes) -> Array:
        rows = averages(self.size(sizes), self.outputs)
        return np.ascontiguousarray(rows.T) if self.turned else rows

    def emit(self, emitter: Emitter) -> str:
        size = emitter.vector((self.size,))
        count = emitter.constant(np.array([self.outputs], np.float32))
        ends = []
        for first, rounded in ((0, "Floor"), (1, "Ceil")):
            window = emitter.constant(np.arange(first, self.outputs + first)[:, None])
            share = emitter.node(
                "Div", [_single(emitter.node("Mul", [window, size]), emitter), count]
            )
            ends.append(emitter.node(rounded, [share]))
        begin, end = ends
        whole = emitter.product((self.size,))
        zero, one = (emitter.constant(np.array(number, np.int64)) for number in (0, 1))
        places = _single(emitter.node("Range", [zero, whole, one]), emitter)
        before = emitter.node("Less", [places, begin])
        inside = emitter.node(
            "And", [emitter.node("Not", [before]), emitter.node("Less", [places, end])]
        )
        rows = emitter.node("Div", [_single(inside, emitter), emitter.node("Sub", [end, begin])])
        return emitter.node("Transpose", [rows], perm=[1, 0]) if self.turned else rows


def _single(name: str, emitter: Emitter) -> str:
    return emitter.cast(name, _SINGLE)


def _double(emitter: Emitter, number: Polynomial) -> str:
    return emitter.cast(emitter.vector((number,)), _DOUBLE)


@dataclass(frozen=True)
class _Floats:
    """float32 numbers of a fixed shape."""

    numbers: tuple[_Given | _Quotient | _Root | _Scale, ...]
    shape: tuple[int, ...]

    def value(self, sizes: Sizes) -> Array:
        numbers = [number.value(sizes) for number in self.numbers]
        return np.array(numbers, np.float32).reshape(self.shape)

    def emit(self, emitter: Emitter) -> str:
        parts = [number.emit(emitter) for number in self.numbers]
        name = parts[0] if len(parts) == 1 else emitter.node("Concat", parts, axis=0)
        return name if len(self.shape) == 1 else emitter.reshaped(name, self.shape)


def recipe_of(sizes: Sequence[Sizes], values: Sequence[Array], operator: str) -> Recipe | None:
    """How constants follow from sizes, None where nothing is found.

    Args:
        sizes: The sizes.
        values: The constant at each of them.
        operator: The ONNX operator that reads it.
    """
    first = values[0]
    if any(value.dtype != first.dtype or value.ndim != first.ndim for value in values):
        return None
    found: Recipe | None = None
    shapes = [value.shape for value in values]
    if len(set(shapes)) == 1:
        if first.size > _MOST_NUMBERS:
            return None
        flat = [value.reshape(-1) for value in values]
        if first.dtype.kind == "i":
            numbers = polynomials(sizes, flat)
            found = None if numbers is None else _Numbers(numbers, first.shape, first.dtype)
        elif first.dtype == _SINGLE:
            floats = [_float(sizes, one, operator) for one in zip(*flat, strict=True)]
            known = tuple(one for one in floats if one is not None)
            found = _Floats(known, first.shape) if len(known) == len(floats) else None
    else:
        axes = polynomials(sizes, shapes)
        if axes is not None:
            found = _filled(axes, values) or _spaced(axes, values) or _averaged(axes, values)
    if found is None or not all(
        equal(found.value(at), value) for at, value in zip(sizes, values, strict=True)
    ):
        return None
    return found


def _float(
    sizes: Sequence[Sizes], values: Sequence[np.float32], operator: str
) -> _Given | _Quotient | _Root | _Scale | None:
    """How a float32 number follows from sizes, None where nothing is found."""
    candidates: Iterator[_Given | _Quotient | _Root | _Scale] = iter(())
    if len(set(values)) == 1:
        return _Given(values[0])
    wide = [float(value) for value in values]
    if not all(math.isfinite(value) and value for value in wide):
        return None
    if operator == "Resize":
        candidates = (_Scale(under, over) for over, under in _quotients(sizes, wide))
    else:
        quotients = (_Quotient(over, under) for over, under in _quotients(sizes, wide))
        candidates = itertools.chain(quotients, _roots(sizes, wide))
    for found in candidates:
        if all(found.value(at) == value for at, value in zip(sizes, values, strict=True)):
            return found
    return None


def _quotients(
    sizes: Sequence[Sizes], values: Sequence[float]
) -> Iterator[tuple[Polynomial, Polynomial]]:
    """What the numbers may be quotients of: of a polynomial and of one or two, or of sizes."""
    count = len(sizes[0])
    for degree in range(3):
        for powers in itertools.product(range(degree + 1), repeat=count):
            if sum(powers) != degree:
                continue
            for factor in (1, 2) if not degree else (1,):
                under = Polynomial(((powers, factor),))
                over = _rounded(sizes, [v * under(at) for v, at in zip(values, sizes, strict=True)])
                if over is not None:
                    yield over, under


def _roots(sizes: Sequence[Sizes], values: Sequence[float]) -> Iterator[_Root]:
    """Of what the numbers may be roots, or one over roots."""
    for inverse, squares in (
        (False, [value**2 for value in values]),
        (True, [value**-2 for value in values]),
    ):
        square = _rounded(sizes, squares)
        if square is not None:
            yield _Root(square, inverse)


def _rounded(sizes: Sequence[Sizes], values: Sequence[float]) -> Polynomial | None:
    """A polynomial through the integers next to some numbers, None where they are too large."""
    if max(map(abs, values)) > _LARGEST:
        return None
    return _polynomial(sizes, [round(value) for value in values])


def _filled(axes: tuple[Polynomial, ...], values: Sequence[Array]) -> _Fill | None:
    some = next((value for value in values if value.size), None)
    if some is None or any((value != some.flat[0]).any() for value in values):
        return None
    return _Fill(np.array(some.flat[0], some.dtype), axes)


def _spaced(axes: tuple[Polynomial, ...], values: Sequence[Array]) -> _Progression | None:
    longest = max(values, key=lambda value: value.size).reshape(-1)
    if longest.size < 2 or longest.dtype.kind not in "if":
        return None
    start, step = float(longest[0]), float(longest[1]) - float(longest[0])
    if not (start.is_integer() and step.is_integer()):
        return None
    return _Progression(int(start), int(step), axes, longest.dtype)


def _averaged(axes: tuple[Polynomial, ...], values: Sequence[Array]) -> _Averages | None:
    if len(axes) != 2 or values[0].dtype != _SINGLE:
        return None
    outputs = [{value.shape[axis] for value in values} for axis in (0, 1)]
    if len(outputs[0]) == 1:
        return _Averages(axes[1], outputs[0].pop(), turned=False)
    return _Averages(axes[0], outputs[1].pop(), turned=True) if len(outputs[1]) == 1 else None


def polynomials(
    sizes: Sequence[Sizes], values: Sequence[Sequence[int] | Array]
) -> tuple[Polynomial, ...] | None:
    """Polynomials through lists of as many numbers, None where there is none through some."""
    found = [
        _polynomial(sizes, [int(number) for number in one]) for one in zip(*values, strict=True)
    ]
    known = tuple(one for one in found if one is not None)
    return known if len(known) == len(found) else None


def _polynomial(sizes: Sequence[Sizes], values: Sequence[int]) -> Polynomial | None:
    """The simplest polynomial with integer factors through all values, None where there is none."""
    count = len(sizes[0])
    for degree in range(3):
        powers = [p for p in itertools.product(range(degree + 1), repeat=count) if sum(p) <= degree]
        if len(powers) > len(values):
            return None
        table = np.array([[_product(at, p) for p in powers] for at in sizes], np.float64)
        solved = np.linalg.lstsq(table, np.array(values, np.float64), rcond=None)[0]
        if not np.isfinite(solved).all() or np.abs(solved).max(initial=0) > 2**52:
            continue
        factors = [round(float(factor)) for factor in solved]
        terms = tuple((p, f) for p, f in zip(powers, factors, strict=True) if f)
        found = Polynomial(terms)
        if all(found(at) == value for at, value in zip(sizes, values, strict=True)):
            return found
    return None


def _product(sizes: Sizes, powers: Sequence[int]) -> int:
    return math.prod(size**power for size, power in zip(sizes, powers, strict=True))
