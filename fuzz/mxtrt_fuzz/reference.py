"""The reference: a case's graph on NumPy arrays in float64, exactly or with rounding noise.

Integers are int64, wrapped to what their dtype holds.

The noise stands for everything that an implementation may do between exact inputs and rounded
outputs.  A backward stable operator computes the exact result of slightly different inputs
(Higham, Accuracy and Stability of Numerical Algorithms, chapter 1), so every operator's inputs
and outputs are perturbed by some roundings of their dtype.

In int8 what a product reads, and what lies between products, is quantized besides: rounded to a
grid over the range of the tensor.  The noise moves that grid by a part of its step, by as much for
all elements of a tensor: equal values have equal errors, which add up in a sum.  It is finer, too,
where an engine's range has ends of its own on both sides of zero.  Values that an
earlier error took out of the range are clipped to it, which brings them nearer to the exact ones.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from mxtrt.graph.symbol import Entry
from mxtrt_fuzz.graphs import Case, Operation, Variable
from mxtrt_fuzz.specs import INTEGERS, Attributes, OpSpec, specs
from mxtrt_fuzz.values import Array, Arrays, wide

__all__ = ["DEVIATIONS", "Noise", "Reach", "Reference", "Values", "quantization_steps"]

Values = dict[Entry, Array]

#: Standard deviations of the noise within which any value may be.
DEVIATIONS = 8.0

# Roundings of a cast, as a standard deviation.
_CAST = 0.5

# States beyond this may show what a shut gate lets through.
_SHUT = 64.0

# Values beyond this may overflow in float16; mxtrt looks for overflow on random data, not on these.
_LARGE = 4096.0

# Steps from one end of a symmetric int8 range to the other.
_LEVELS = 254

# Dtypes of what an engine computes in float32, or less.
_HALVES = ("float16", "float32")

_POOL = np.random.default_rng(0).standard_normal(1 << 16)


class Noise:
    """A stream of normal numbers: slices of one fixed table, at places that a seed chooses."""

    def __init__(self, seed: int) -> None:
        self._random = np.random.default_rng(seed)
        self._places: Any = iter(())

    def _place(self) -> int:
        for place in self._places:
            return int(place)
        self._places = iter(self._random.integers(0, _POOL.size, 256))
        return int(next(self._places))

    def perturb(self, values: Array, info: Any, roundings: float, absolute: float = 0.0) -> Array:
        """Values with relative errors of so many roundings; what is as small may vanish.

        Args:
            values: float64 values; zeros stay zeros.
            info: ``numpy.finfo`` of the dtype that an implementation computes in.
            roundings: Standard deviation, in units of the dtype's roundoff.
            absolute: Standard deviation of an absolute error, in roundoffs of one.
        """
        deviate = np.take(_POOL, np.arange(values.size) + self._place(), mode="wrap")
        deviate = deviate.reshape(values.shape)
        unit = float(info.eps) / 2
        noisy: Array = values * (1 + deviate * (roundings * unit))
        if absolute:
            vanishes = (deviate < -1) & (np.abs(values) < 2 * absolute * unit)
            return np.where(vanishes, 0.0, noisy + deviate * (absolute * unit))
        # An implementation may flush subnormal numbers to zero.  A number that is not much larger
        # may be computed from one.
        small = np.abs(values) < float(info.tiny) * (1 if info.bits == 16 else 4)
        if small.any():
            noisy = np.where(small, values * (1 + np.clip(deviate, -1, 1)), noisy)
        return noisy

    def quantize(self, values: Array, step: float) -> Array:
        """Values on a grid that lies anywhere; zero is always on it, for some of what is nearest.

        Args:
            values: float64 values.
            step: Largest distance of two points of the grid; 0 for none.
        """
        if not step:
            return values
        step *= self._random.uniform(0.5, 1)
        place, reach = self._random.random(2)
        rounded: Array = (np.round(values / step + place) - place) * step
        return np.where(np.abs(values) <= reach * step / 2, 0.0, rounded)

    def anything(self, shape: tuple[int, ...]) -> Array:
        """Integers other than zero, for what is not defined."""
        deviate = np.take(_POOL, np.arange(math.prod(shape)) + self._place(), mode="wrap")
        return 1 + np.floor(np.abs(deviate.reshape(shape)) * 16)


class Reach(Noise):
    """Errors of approximations only, each as large as it gets, with a sign for every value.

    An approximation's error is a function of its argument.  Equal values have equal errors and
    near ones may, and any number of values may have an error of nearly the largest size at once:
    in a sum they reach further than normal numbers of which that size is a rare one.
    """

    def perturb(self, values: Array, info: Any, roundings: float, absolute: float = 0.0) -> Array:
        if not absolute:
            return values
        wave, phase = 10 ** self._random.uniform(0, 4), self._random.uniform(0, 2 * math.pi)
        largest = DEVIATIONS * absolute * float(info.eps) / 2
        return values + np.where(np.sin(wave * values + phase) < 0, -largest, largest)

    def quantize(self, values: Array, step: float) -> Array:
        return values


class _Step(NamedTuple):
    spec: OpSpec
    attrs: Attributes
    node: Operation
    place: int


class Reference:
    """A case, ready to be evaluated many times.

    Args:
        case: The case.
        arrays: Values of all its variables.
        coarse: Errors are those of TensorRT's approximations.

    Attributes:
        coarse: The same.
        steps: The distance of two numbers of a quantized entry; see :func:`quantization_steps`.
    """

    def __init__(self, case: Case, arrays: Arrays, coarse: bool = False) -> None:
        self.coarse = coarse
        self.steps: Mapping[Entry, float] = {}
        self.case = case
        self._arrays = {
            Entry(i): np.asarray(arrays[node.name], wide(node.tensor.dtype))
            for i, node in enumerate(case.nodes)
            if isinstance(node, Variable)
        }
        self._steps = [
            _Step(specs()[node.op], Attributes(node.attrs, _first_dtype(case, node)), node, i)
            for i, node in enumerate(case.nodes)
            if isinstance(node, Operation)
        ]
        self._info = {dtype: np.finfo(dtype) for dtype in ("float16", "float32", "float64")}
        # Roundings of float32 values: an engine may compute them in a smaller type.
        self._half = case.precision == "fp16"
        self._rounding = dict(self._info)
        if self._half:
            self._rounding["float32"] = np.finfo("float16")

    @property
    def jumps(self) -> bool:
        """Whether some operator's function jumps."""
        return any(_jumps(step) for step in self._steps)

    def values(
        self,
        noise: Noise | None = None,
        poison: Mapping[Entry, Array] | None = None,
        mark: float = np.nan,
    ) -> Values:
        """Every entry's value in float64 or int64, within the range of its dtype.

        Args:
            noise: Source of rounding errors; none for the exact values.
            poison: Elements that become NaN, which marks all that depends on them.
            mark: What they become instead.
        """
        values: Values = dict(self._arrays)
        with np.errstate(all="ignore"):
            if noise is not None:
                for entry in [entry for entry in values if entry in self.steps]:
                    values[entry] = noise.quantize(values[entry], self.steps[entry])
            for step in self._steps:
                operands = [values[entry] for entry in step.node.inputs]
                # One after the other: the noise of an output is drawn behind that of the last one.
                for output, value in enumerate(self._outputs(step, operands, noise)):
                    entry = Entry(step.place, output)
                    if poison is not None:
                        value = _poisoned(step, operands, value, poison.get(entry), mark)
                    dtype = step.node.outputs[output].dtype
                    if dtype in self._info:
                        value = _in_range(value.astype(np.float64, copy=False), self._info[dtype])
                    elif poison is None:
                        value = _integers(value, dtype, noise)
                    values[entry] = value
                    if noise is not None and entry in self.steps:
                        values[entry] = noise.quantize(value, self.steps[entry])
        return values

    def _outputs(self, step: _Step, operands: list[Array], noise: Noise | None) -> Iterator[Array]:
        """An operator's outputs, one by one, with an implementation's errors if there is noise."""
        spec, attrs, node, _ = step
        info = self._rounding.get(node.outputs[0].dtype)
        own = spec.roundings > 0 and not spec.exact(attrs)
        # What is exact in float32 rounds in float16: its inputs, and its bounds.
        half = self._half or node.outputs[0].dtype == "float16"
        if noise is None or info is None or not (own or half):
            for value in spec.outputs(attrs, operands):
                if noise is not None and self.coarse and info is not None:
                    value = noise.perturb(value, info, 0.0)  # TensorRT flushes what it copies
                yield value
            return
        more = {}
        if spec.statistics:
            more["statistics"] = noise.perturb(operands[0], info, spec.roundings)
        inward = spec.roundings if own else _CAST
        operands = [
            noise.perturb(x, info, inward)
            if (spec.on_inputs or half) and self._rounded(entry)
            else x
            for x, entry in zip(operands, node.inputs, strict=True)
        ]
        for output, value in enumerate(spec.outputs(attrs, operands, **more)):
            roundings = _roundings(step, inward, operands, value)
            if spec.running:
                errors = np.where(np.isfinite(value), value, 0.0)
                errors = noise.perturb(errors, info, roundings) - errors
                value = value + spec.outputs(attrs, [errors])[output]
            absolute = spec.absolute_error(attrs, self.coarse)
            yield noise.perturb(value, info, roundings, absolute)

    def _rounded(self, entry: Entry) -> bool:
        """Whether an entry holds numbers that may be off: integers are exact."""
        return self.case.tensor(entry).dtype in self._info

    def single(self) -> Values:
        """Every entry's value computed in its own dtype: shows where float32 overflows inside."""
        values: Values = {
            entry: array.astype(self.case.tensor(entry).dtype)
            for entry, array in self._arrays.items()
        }
        with np.errstate(all="ignore"):
            for spec, attrs, node, index in self._steps:
                operands = [values[entry] for entry in node.inputs]
                outputs = spec.outputs(attrs, operands)
                for output, value in enumerate(outputs):
                    values[Entry(index, output)] = value.astype(node.outputs[output].dtype)
        return values

    def beyond_half(self, exact: Values) -> bool:
        """Whether a value may overflow in float16, or be a step of a sum that does."""
        with np.errstate(invalid="ignore"):
            return any(
                bool((np.abs(value) > _LARGE).any())
                for entry, value in exact.items()
                if self._half or self.case.tensor(entry).dtype == "float16"
            )

    def jumped(self, exact: Values, samples: list[Values]) -> dict[Entry, Array]:
        """Elements of operators that jump, at values within the reach of the noise."""
        found = {}
        for step in filter(_jumps, self._steps):
            spec, attrs, node, place = step
            with np.errstate(all="ignore"):
                moved = list(self._moved(step, exact, samples))
                met = list(self._coincidences(step, exact, samples))
                jumped = [spec.outputs(attrs, operands) for operands in moved]
                pieces: list[Array] = []
                if spec.piece is not None:
                    noisy = [[values[entry] for entry in node.inputs] for values in samples]
                    own = [exact[entry] for entry in node.inputs]
                    pieces = [spec.piece(attrs, *operands) for operands in (own, *noisy, *moved)]
            for output in range(len(node.outputs)):
                entry = Entry(place, output)
                pairs = [(outputs[output], exact[entry]) for outputs in met]
                if (exact[entry] == np.round(exact[entry])).all():
                    pairs += [(s[entry], exact[entry]) for s in samples]
                    pairs += [(outputs[output], exact[entry]) for outputs in jumped]
                pairs += [(piece, pieces[0]) for piece in pieces[1:]]
                differs = np.zeros(exact[entry].shape, np.bool_)
                for other, known in pairs:
                    differs |= other != known
                differs &= ~np.isnan(exact[entry])
                if differs.any():
                    found[entry] = differs
        return found

    def _moved(self, step: _Step, exact: Values, samples: list[Values]) -> Iterator[list[Array]]:
        """An operator's inputs, one of them as far from where it is as the noise may take it."""
        for place, entry in enumerate(step.node.inputs):
            if not self._rounded(entry):
                continue
            errors = np.square(np.stack([values[entry] for values in samples]) - exact[entry])
            reach = DEVIATIONS * np.sqrt(np.where(np.isfinite(errors), errors, 0.0).mean(0))
            for direction in (-reach, reach) if reach.any() else ():
                operands = [exact[read] for read in step.node.inputs]
                operands[place] = operands[place] + direction
                yield operands

    def _coincidences(
        self, step: _Step, exact: Values, samples: list[Values]
    ) -> Iterator[tuple[Array, ...]]:
        """Outputs of an operator where inputs that may be equal to something are.

        A float32 number of which the noise cannot tell whether it is above or below another one
        often meets it; with noise it never does.
        """
        spec, attrs, node, _ = step
        every = [exact, *samples]
        scalar = attrs.scalar() if spec.compares and attrs.given("scalar") else None
        for place, entry in enumerate(node.inputs):
            if not self._rounded(entry):
                continue
            partners: list[list[Any]] = [[0.0] * len(every)]
            if scalar is not None:
                partners.append([scalar] * len(every))
            if spec.compares and place:
                partners.append([values[node.inputs[0]] for values in every])
            for partner in partners:
                pairs = zip(every, partner, strict=True)
                signs = [np.sign(values[entry] - other) for values, other in pairs]
                close = np.any([sign != signs[0] for sign in signs], axis=0)
                if close.any():
                    operands = [exact[read] for read in node.inputs]
                    operands[place] = np.where(close, partner[0], operands[place])
                    yield spec.outputs(attrs, operands)

    def undefined(self, exact: Values) -> dict[Entry, Array]:
        """Elements that huge numbers leave to an implementation.

        A sum of products, or of the squares of a variance, may overflow on the way; a compensated
        sum loses its infinity; a gate that is shut lets something of a large state through.
        """
        found: dict[Entry, Array] = {}
        with np.errstate(all="ignore"):
            for spec, attrs, node, index in self._steps:
                if spec.products:
                    # An infinite term decides the sum whatever the order.
                    sizes = [np.abs(exact[entry]) for entry in node.inputs]
                    operands = [np.where(np.isfinite(size), size, 0.0) for size in sizes]
                    (total,) = spec.outputs(attrs, operands)
                    found[Entry(index)] = total > float(self._info[node.outputs[0].dtype].max)
                if spec.compensated:
                    found[Entry(index)] = np.isinf(exact[Entry(index)])
                if spec.squares or spec.statistics:
                    squares = np.nansum(np.square(exact[node.inputs[0]]))
                    for place, output in enumerate(node.outputs):  # the variance may be the second
                        beyond = squares > float(self._info[output.dtype].max)
                        found[Entry(index, place)] = np.full(output.shape, beyond)
                if spec.gates:
                    large = any((np.abs(exact[entry]) > _SHUT).any() for entry in node.inputs[2:])
                    for place, output in enumerate(node.outputs):
                        found[Entry(index, place)] = np.full(output.shape, large)
        return {entry: mask for entry, mask in found.items() if mask.any()}

    def nan_blind(self, exact: Values) -> tuple[set[Entry], set[Entry]]:
        """Entries that depend on an answer to a NaN or infinity for which MXNet defines none.

        The second set has those of them that depend on it through a comparison, whose results are
        ordinary numbers.
        """
        tainted: set[Entry] = set()
        compared: set[Entry] = set()
        for spec, _, node, index in self._steps:
            outputs = [Entry(index, output) for output in range(len(node.outputs))]
            touched = (*node.inputs, *outputs)
            blind = spec.nan_blind and any(
                (np.isnan(exact[e]) | np.isneginf(exact[e])).any() for e in touched
            )
            if spec.compares and not tainted.isdisjoint(node.inputs):
                compared.update(outputs)
            if blind or not tainted.isdisjoint(node.inputs):
                tainted.update(outputs)
            if not compared.isdisjoint(node.inputs):
                compared.update(outputs)
        return tainted, compared


def quantization_steps(case: Case, turns: Sequence[Values]) -> dict[Entry, float]:
    """The distance of two numbers of every entry that int8 may quantize.

    Those are what products read, what is computed into that, and the products themselves, with
    what is folded into them.  The range is symmetric, as TensorRT has it; ONNX Runtime's is no
    larger.

    Args:
        case: The case.
        turns: The exact values for each set of inputs that the ranges are collected from.
    """
    found: set[Entry] = set()
    for index, node in reversed(list(enumerate(case.nodes))):
        if isinstance(node, Operation):
            outputs = {Entry(index, output) for output in range(len(node.outputs))}
            spec = specs()[node.op]
            if _is_product(case, Entry(index)) or (
                spec.folds and _is_product(case, node.inputs[0])
            ):
                found |= outputs
            if outputs & found:
                found.update(node.inputs)
    floats = [entry for entry in found if case.tensor(entry).dtype in _HALVES]
    return {
        entry: max(2 * float(np.abs(values[entry]).max()) / _LEVELS for values in turns)
        for entry in sorted(floats)
    }


def _roundings(step: _Step, inward: float, operands: Sequence[Array], value: Array) -> float:
    """By how many roundings an output may be off, as a standard deviation.

    Args:
        step: The operator.
        inward: The same of what it reads.
        operands: What it reads.
        value: The output.
    """
    spec = step.spec
    if spec.sums:
        terms = operands[0].size / max(value.size, 1)
        return float(max(inward, np.sqrt(terms) / 2))
    if spec.terms is not None:
        terms = spec.terms(step.attrs, operands[0].shape)
        # MXNet adds term after term, and equal terms make errors of the same sign.
        return float(max(inward, np.sqrt(terms) / 2, terms / (2 * DEVIATIONS)))
    return inward


def _poisoned(
    step: _Step, operands: list[Array], value: Array, poison: Array | None, mark: float
) -> Array:
    """An output with its poisoned elements, and with NaN wherever it depends on one.

    Args:
        step: The operator.
        operands: What it reads.
        value: The output.
        poison: Elements of the output that become ``mark``, None for no element.
        mark: What they become.
    """
    if step.spec.spread is not None:
        marks = [np.where(np.isnan(x), np.nan, 0.0) for x in operands]
        value = value + 0 * step.spec.spread(step.attrs, *marks)
    return value if poison is None else np.where(poison, mark, value)


def _first_dtype(case: Case, node: Operation) -> str:
    return case.tensor(node.inputs[0]).dtype if node.inputs else "float32"


def _is_product(case: Case, entry: Entry) -> bool:
    node = case.nodes[entry.node]
    if not isinstance(node, Operation):
        return False
    spec = specs()[node.op]
    return spec.multiplies or spec.products


def _jumps(step: _Step) -> bool:
    """Whether a rounding error before it may change its value by a lot."""
    spec = step.spec
    integers = any(tensor.dtype in INTEGERS for tensor in step.node.outputs)
    return spec.jumps or spec.piece is not None or integers


def _integers(value: Array, dtype: str, noise: Noise | None) -> Array:
    """Values as integers of a dtype, wrapped; zero, or under noise anything, for a NaN."""
    if (undefined := ~np.isfinite(value)).any():
        other = 0.0 if noise is None else noise.anything(value.shape)
        value = np.where(undefined, other, value)
    return value.astype(np.int64).astype(dtype).astype(np.int64)


def _in_range(value: Array, info: Any) -> Array:
    """Values that a dtype can hold: others become infinite or vanish."""
    size = np.abs(value)
    if (beyond := size > float(info.max)).any():
        value = np.where(beyond, np.copysign(np.inf, value), value)
    if (below := size < float(info.smallest_subnormal) / 2).any():
        value = np.where(below, np.copysign(0.0, value), value)
    return value
