"""One model for many input shapes.

A converter writes down what depends on the sizes of its inputs: a range, the target of a reshape,
the end of a slice.  Converted at several sizes, a segment gives models that differ in such
constants only; a *general* model computes them from the sizes instead.  It is proved before it is
used: the segment is converted at the very input shapes too, and each constant compared.  Where it
was right at many sizes it is trusted with those between them: converters may write a size that lies
there in another form, which means the same.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper
from onnx import load_model_from_string as load

from mxtrt.convert.onnx_builder import tensor_type
from mxtrt.convert.recipes import (
    Array,
    Polynomial,
    Recipe,
    Sizes,
    equal,
    polynomials,
    recipe_of,
)
from mxtrt.convert.segment import OnnxSegment
from mxtrt.graph.symbol import Shapes
from mxtrt.system.background import breathe

__all__ = ["PROOFS", "General", "generalize"]

#: Converts the segment at input shapes: the shapes of its outputs, and the model; raises where it
#: cannot be converted.
Convert = Callable[[Shapes], tuple[Shapes, OnnxSegment]]

#: At so many sizes a general model has to be right before it is trusted with those between them.
PROOFS = 32

# An input of a node that is a constant: the places of node and input.
_Place = tuple[int, int]

# More sizes that change independently are not looked into: their conversions take too long.
_MOST_SYMBOLS = 3

# Where the sizes of probes lie above the largest that was seen.
_STEPS = (1, 4, 2, 7)


class General:
    """A model that computes from the sizes of its inputs what a conversion at them writes down.

    Attributes:
        model: The model.
        varying: What changes, in words: ``data axis 1``.
        symbols: What changes, each an input and an axis of it; together those that are of one size.
    """

    def __init__(
        self,
        symbols: _Symbols,
        samples: Sequence[_Sample],
        recipes: Mapping[_Place, Recipe],
        outputs: Sequence[Sequence[Polynomial]],
    ) -> None:
        self._symbols = symbols
        self._form = samples[0].form
        self._recipes = recipes
        self._outputs = outputs
        # Replaced and never changed: requests read it while a background job proves.
        self._proved = frozenset(sample.sizes for sample in samples)
        self.model = _Emitter(self._form, symbols).model(recipes)
        self.varying = symbols.described(self.model.inputs)
        self.symbols = symbols.places

    def trusted(self, shapes: Shapes) -> Shapes | None:
        """The output shapes at input shapes for which the model needs no proof; None for others."""
        sizes = self._symbols.sizes(shapes)
        if sizes is None:
            return None
        if sizes not in self._proved:
            proved = self._proved
            if len(proved) < PROOFS:
                return None
            for size, known in zip(sizes, zip(*proved, strict=True), strict=True):
                # What is of size 1 is broadcast, and may be converted otherwise.
                if size == 1 or not min(known) <= size <= max(known):
                    return None
        return self._output_shapes(sizes)

    def covers(self, shapes: Shapes, outputs: Shapes, direct: OnnxSegment) -> bool:
        """Whether it computes at some input shapes what a conversion at them has written down.

        Args:
            shapes: The input shapes.
            outputs: The output shapes.
            direct: The segment converted at them.
        """
        sizes = self._symbols.sizes(shapes)
        if sizes is None or self._output_shapes(sizes) != outputs:
            return False
        form = _Form(direct)
        proved = form.skeleton == self._form.skeleton and all(
            equal(
                value,
                self._recipes[place].value(sizes)
                if place in self._recipes
                else self._form.constants[place],
            )
            for place, value in form.constants.items()
        )
        if proved and len(self._proved) < 2 * PROOFS:
            self._proved |= {sizes}
        return proved

    def _output_shapes(self, sizes: Sizes) -> Shapes:
        return tuple(tuple(axis(sizes) for axis in shape) for shape in self._outputs)


def generalize(convert: Convert, seen: Sequence[Shapes]) -> General | None:
    """A model for input shapes like those seen, None where none is found.

    Args:
        convert: Converts the segment at input shapes.
        seen: Input shapes at which it was converted, different ones.
    """
    symbols = _Symbols(seen)
    if not 0 < len(symbols) <= _MOST_SYMBOLS:
        return None
    samples: list[_Sample] = []
    for shapes in itertools.chain(seen, symbols.probes()):
        sizes = symbols.sizes(shapes)
        try:
            made, direct = convert(shapes)
        except Exception:  # sizes that do not go together, or that a converter does not take
            return None
        form = _Form(direct)
        if sizes is None or (samples and form.skeleton != samples[0].form.skeleton):
            return None
        samples.append(_Sample(sizes, made, form))
    at = [sample.sizes for sample in samples]
    recipes: dict[_Place, Recipe] = {}
    for place, value in samples[0].form.constants.items():
        values = [sample.form.constants[place] for sample in samples]
        if all(equal(value, other) for other in values):
            continue
        recipe = recipe_of(at, values, samples[0].form.operator(place))
        if recipe is None:
            return None
        recipes[place] = recipe
    outputs: list[tuple[Polynomial, ...]] = []
    for output in zip(*(sample.outputs for sample in samples), strict=True):
        if len({len(shape) for shape in output}) > 1:
            return None
        axes = polynomials(at, output)
        if axes is None:
            return None
        outputs.append(axes)
    return General(symbols, samples, recipes, outputs)


# -- sizes that change -----------------------------------------------------------------------


class _Symbols:
    """The sizes that change between input shapes: one symbol for all that change alike.

    Args:
        seen: Input shapes.
    """

    def __init__(self, seen: Sequence[Shapes]) -> None:
        self._first = seen[0]
        alike: dict[tuple[int, ...], list[tuple[int, int]]] = {}
        same_rank = all([*map(len, shapes)] == [*map(len, seen[0])] for shapes in seen)
        for place, shape in enumerate(seen[0]) if same_rank else ():
            for axis in range(len(shape)):
                sizes = tuple(shapes[place][axis] for shapes in seen)
                if len(set(sizes)) > 1:
                    alike.setdefault(sizes, []).append((place, axis))
        self._places = list(alike.values())
        self._largest = [max(sizes) for sizes in alike]

    def __len__(self) -> int:
        return len(self._places)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        """For every symbol an input and the axis of it."""
        return (places[0] for places in self._places)

    @property
    def places(self) -> tuple[tuple[tuple[int, int], ...], ...]:
        """For every symbol all inputs and axes."""
        return tuple(map(tuple, self._places))

    def described(self, names: Sequence[str]) -> str:
        """What changes, in words."""
        places = sorted(itertools.chain.from_iterable(self._places))
        return ", ".join(f"{names[place]} axis {axis}" for place, axis in places)

    def sizes(self, shapes: Shapes) -> Sizes | None:
        """The sizes at some input shapes; None where something else changes."""
        if [*map(len, shapes)] != [*map(len, self._first)]:
            return None
        found = tuple(shapes[place][axis] for place, axis in self)
        return found if shapes == self.shapes(found) else None

    def shapes(self, sizes: Sizes) -> Shapes:
        """The input shapes for some sizes."""
        changed = [list(shape) for shape in self._first]
        for places, size in zip(self._places, sizes, strict=True):
            for place, axis in places:
                changed[place][axis] = size
        return tuple(tuple(shape) for shape in changed)

    def probes(self) -> Iterator[Shapes]:
        """Further input shapes: each size changed alone, and pairs of them together."""
        for turn, step in enumerate(_STEPS[: 2 if len(self) == 1 else 3]):
            for which in range(len(self)):
                sizes = list(self._largest)
                sizes[which] += step
                if len(self) > 1 and turn:
                    sizes[(which + 1) % len(self)] += _STEPS[turn - 1]
                yield self.shapes(tuple(sizes))


# -- models as data --------------------------------------------------------------------------


@dataclass(frozen=True)
class _Sample:
    """The segment converted at some sizes."""

    sizes: Sizes
    outputs: Shapes
    form: _Form


class _Form:
    """A model taken apart: its constants by place, and all the rest of it.

    Attributes:
        segment: The model.
        proto: The same, parsed.
        constants: The constants that nodes read.
        skeleton: What else there is to compare.
    """

    def __init__(self, segment: OnnxSegment) -> None:
        breathe()
        self.segment = segment
        self.proto: ModelProto = load(segment.model)
        graph = self.proto.graph
        inline = {
            tensor.name: tensor
            for tensor in graph.initializer
            if tensor.data_location != TensorProto.EXTERNAL
        }
        self.constants: dict[_Place, Array] = {
            (place, i): numpy_helper.to_array(inline[name])
            for place, node in enumerate(graph.node)
            for i, name in enumerate(node.input)
            if name in inline
        }
        nodes = tuple(
            (
                node.op_type,
                tuple(attribute.SerializeToString() for attribute in node.attribute),
                tuple(None if name in inline else name for name in node.input),
                tuple(node.output),
            )
            for node in graph.node
        )
        breathe()
        self.skeleton = nodes, segment.inputs, segment.outputs, segment.weights, segment.sources

    def operator(self, place: _Place) -> str:
        """The ONNX operator that reads a constant."""
        operator: str = self.proto.graph.node[place[0]].op_type
        return operator


# -- the general model -----------------------------------------------------------------------


class _Emitter:
    """Writes nodes in front of a model.

    Args:
        form: The model.
        symbols: The sizes that change.
    """

    def __init__(self, form: _Form, symbols: _Symbols) -> None:
        self._form = form
        graph = form.proto.graph
        self._taken = {name for node in graph.node for name in (*node.input, *node.output)}
        self._taken |= {value.name for value in graph.input}
        self._inputs = [form.segment.inputs[place] for place, _ in symbols]
        self._axes = [axis for _, axis in symbols]
        self._nodes: list[NodeProto] = []
        self._constants: dict[str, TensorProto] = {}
        self._known: dict[Any, str] = {}

    def model(self, recipes: Mapping[_Place, Recipe]) -> OnnxSegment:
        """The model with the constants of some places computed."""
        made = ModelProto()
        made.CopyFrom(self._form.proto)
        graph: GraphProto = made.graph
        for (place, i), recipe in recipes.items():
            graph.node[place].input[i] = self._once(recipe, partial(recipe.emit, self))
        nodes = [*self._nodes, *graph.node]
        read = {name for node in nodes for name in node.input}
        kept = [
            tensor
            for tensor in (*graph.initializer, *self._constants.values())
            if tensor.name in read or tensor.data_location == TensorProto.EXTERNAL
        ]
        del graph.node[:], graph.initializer[:]
        graph.node.extend(nodes)
        graph.initializer.extend(kept)
        segment = self._form.segment
        sources = segment.sources[:1] * len(self._nodes) + segment.sources
        return OnnxSegment(
            made.SerializeToString(deterministic=True),
            segment.inputs,
            segment.outputs,
            segment.weights,
            sources,
        )

    def node(self, op_type: str, inputs: Sequence[str], **attributes: Any) -> str:
        """Append a node; returns the name of its result."""
        name = self._fresh()
        self._nodes.append(helper.make_node(op_type, inputs, [name], name, **attributes))
        return name

    def constant(self, array: Array) -> str:
        """A small array in the model."""

        def make() -> str:
            name = self._fresh()
            self._constants[name] = numpy_helper.from_array(array, name)
            return name

        return self._once((str(array.dtype), array.shape, array.tobytes()), make)

    def number(self, number: int) -> str:
        """An integer, as an array of one."""
        return self.constant(np.array([number], np.int64))

    def vector(self, numbers: Sequence[Polynomial]) -> str:
        """Integers that follow from the sizes, as a vector."""

        def make() -> str:
            parts = [self._polynomial(number) for number in numbers]
            if not parts:
                return self.constant(np.zeros(0, np.int64))
            return parts[0] if len(parts) == 1 else self.node("Concat", parts, axis=0)

        return self._once(("vector", tuple(numbers)), make)

    def product(self, numbers: Sequence[Polynomial]) -> str:
        """The product of integers that follow from the sizes, as a scalar."""
        found = self._folded("Mul", [self._polynomial(number) for number in numbers])
        return self.node("Squeeze", [found, self.number(0)])

    def cast(self, name: str, dtype: np.dtype[Any]) -> str:
        """Integers of 64 bits as another dtype."""
        if dtype == np.int64:
            return name
        return self.node("Cast", [name], to=tensor_type(dtype))

    def reshaped(self, name: str, shape: Sequence[int]) -> str:
        """The same numbers in another shape."""
        return self.node("Reshape", [name, self.constant(np.array(shape, np.int64))])

    def _polynomial(self, number: Polynomial) -> str:
        return self._once(number, lambda: self._sum(number))

    def _sum(self, number: Polynomial) -> str:
        parts = []
        for powers, factor in number.terms:
            factors = [self._size(j) for j, power in enumerate(powers) for _ in range(power)]
            if factor != 1 or not factors:
                factors.append(self.number(factor))
            parts.append(self._folded("Mul", factors))
        return self._folded("Add", parts) if parts else self.number(0)

    def _folded(self, op_type: str, names: Sequence[str]) -> str:
        total, *others = names
        for other in others:
            total = self.node(op_type, [total, other])
        return total

    def _size(self, symbol: int) -> str:
        name = self._inputs[symbol]
        # Not a part of Shape: not every parser knows its attributes.
        sizes = self._once(("shape", name), lambda: self.node("Shape", [name]))
        axis = self.number(self._axes[symbol])
        return self._once(("size", symbol), lambda: self.node("Gather", [sizes, axis]))

    def _once(self, key: Any, make: Callable[[], str]) -> str:
        if key not in self._known:
            self._known[key] = make()
        return self._known[key]

    @cached_property
    def _names(self) -> Iterator[str]:
        return (n for n in (f"general__{i}" for i in itertools.count()) if n not in self._taken)

    def _fresh(self) -> str:
        return next(self._names)
