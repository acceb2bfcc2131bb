"""What an operator's specification says, and the registry of all of them."""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from hypothesis import strategies as st

from mxtrt.graph.symbol import Entry
from mxtrt_fuzz.graphs import Case, Operation, Role, Shape, Tensor
from mxtrt_fuzz.values import Array

__all__ = [
    "ARITHMETIC",
    "FLOATS",
    "INTEGERS",
    "NUMBERS",
    "WIDE_FLOATS",
    "Application",
    "Attributes",
    "Draw",
    "OpSpec",
    "Operand",
    "any_rank",
    "like",
    "maybe",
    "movers",
    "one_axis",
    "rank_at_least",
    "ranks",
    "register",
    "sizes",
    "specs",
    "whole",
]

Draw = st.DrawFn

#: Dtypes of operators that MXNet has no float16 of on a CPU.
WIDE_FLOATS = ("float32", "float64")
#: Dtypes that MXNet computes in on a CPU and that the references model.
FLOATS = (*WIDE_FLOATS, "float16")
#: Dtypes that engines add and multiply in, and float64, in which MXNet does.
ARITHMETIC = (*FLOATS, "int32", "int64")
#: Dtypes of indices, of images, and of what is compared and cast.
INTEGERS = ("int32", "int64", "uint8", "int8")
#: Dtypes that MXNet moves, indexes with and compares.
NUMBERS = (*FLOATS, *INTEGERS)


class Attributes:
    """An operator's attributes, read from the strings that MXNet stores.

    Args:
        items: Names and texts.
        dtype: That of the first input, as MXNet has it.
    """

    def __init__(self, items: Sequence[tuple[str, str]], dtype: str = "float32") -> None:
        self._items = dict(items)
        self._dtype = dtype
        self._read: dict[str, Any] = {}

    @property
    def dtype(self) -> str:
        """That of the first input, as MXNet has it."""
        return self._dtype

    def __getitem__(self, key: str) -> Any:
        """A value that must be there."""
        return self.get(key, None)

    def get(self, key: str, default: Any) -> Any:
        """A value as Python data: numbers, tuples, booleans; other text stays text."""
        if key not in self._read:
            text = self._items.get(key, "None")
            try:
                self._read[key] = ast.literal_eval(text)
            except (ValueError, SyntaxError):
                self._read[key] = text
        value = self._read[key]
        return default if value is None else value

    def given(self, key: str) -> str | None:
        """The text, None where there is none."""
        return self._items.get(key)

    def scalar(self) -> float:
        """The operand ``scalar`` as MXNet rounds it: to float16 where the tensor is float16."""
        value = float(self["scalar"])  # text where it is infinite or NaN
        return float(np.float16(value)) if self._dtype == "float16" else value

    def integers(self, key: str, default: Sequence[int] = ()) -> tuple[int, ...]:
        """A tuple; a single integer gives a tuple of one."""
        value = self.get(key, default)
        return (value,) if isinstance(value, int) else tuple(value)


@dataclass(frozen=True, slots=True)
class Operand:
    """An input of an operator beyond its first.

    Attributes:
        shape: Shape of the variable that is made for it.
        role: Weights and auxiliary states are always variables; data may be any value that fits.
        low: Range of the new variable.
        high: Range of the new variable.
        fits: Which shapes fit, where it is not only ``shape``.
        own: No other operator may read the variable: MXNet writes to it.
        dtype: Its dtype, that of the first input by default.
    """

    shape: Shape
    role: Role = "data"
    low: float = -2.0
    high: float = 2.0
    fits: Callable[[Shape], bool] | None = None
    own: bool = False
    dtype: str | None = None


@dataclass(frozen=True, slots=True)
class Application:
    """An operator applied to a first input: its attributes and its other inputs."""

    attrs: Mapping[str, Any] = field(default_factory=dict)
    operands: tuple[Operand, ...] = ()


def any_rank(shape: Shape) -> bool:
    """Every shape."""
    return True


def rank_at_least(lowest: int) -> Callable[[Shape], bool]:
    """Shapes of so many axes or more."""
    return lambda shape: len(shape) >= lowest


def ranks(*accepted: int) -> Callable[[Shape], bool]:
    """Shapes of one of these numbers of axes."""
    return lambda shape: len(shape) in accepted


@dataclass(frozen=True)
class OpSpec:
    """One operator of MXNet: how to apply it, and what it computes.

    Attributes:
        name: MXNet's name.
        apply: The attribute strategy: draws an application to a first input of a shape.
        reference: The operator on NumPy arrays, in the dtype that they have; a tuple where
            there are several visible outputs.  It is the shape rule too.
        accepts: Whether a first input of this shape is valid.
        first: Draws the shape of a new first input, where ``accepts`` takes few of any rank.
        domain: Range in which the operator's value on its first input is a tame number.
        dtypes: Dtypes of the first input.  Arithmetic of integers wraps; where MXNet leaves an
            integer undefined the reference gives NaN.
        result: Dtype of the outputs, or one for each, given the attributes and that of the
            input that they follow.
        follows: Index of that input.
        creates: It takes no input at all, and is applied to the shape ``()``.
        roundings: Rounding errors, in units of the dtype's roundoff, that an implementation
            may make on each input and on the output.
        on_inputs: Whether these errors count on the inputs too: not where the function jumps and
            only its value is rounded.
        absolute: The same of an absolute error of the output, in roundoffs of one; or a function
            of the attributes.
        coarse: The same of TensorRT's approximation, where that is the larger one.
        sums: Every output is a sum over inputs: an implementation rounds the partial sums, each
            as large as the terms before it, and on terms of one sign these errors do not cancel.
        terms: Where an output is divided by a sum: how many terms the sum has, given the attributes
            and the shape of the first input.
        running: Every output is a sum of those before it and one more term: their errors add up.
        compensated: MXNet sums with Kahan's compensation, which makes NaN of an infinity unless it
            is the last term (``mshadow_op::sum``).
        gates: It multiplies its states, the inputs from the third on, by gates.  An engine computes
            a gate to a roundoff of one only: where the gate should be 0, something of a large state
            gets through.
        products: Every output is a sum of products: where the sum of their sizes overflows, so may
            a partial sum, and the answer depends on the order of the terms.
        multiplies: An engine computes it as a product with a matrix or as a convolution, which are
            what int8 is for.  Operators with ``products`` need not say so.
        folds: An engine makes it part of the product before it, and quantizes the output of both
            only.
        squares: The squares of the first input are summed up on the way, and may overflow.
        exact: Whether an application with these attributes rounds nothing after all.
        statistics: The reference takes ``statistics``, the first input as its mean sees it: an
            implementation rounds that mean and the centred values on their own.
        whole: All outputs have to be read: MXNet computes one from another that it may leave out.
        hybrid: Gluon can hybridize it, which takes a gradient.
        jumps: The function jumps: a rounding error before it may change its value by a lot.
            An operator whose output is an integer need not say so.
            Jumps are looked for where values are whole numbers, and where an input may be zero or
            equal to another one; elsewhere the noisy samples show them.
        piece: Of a function that jumps between several pieces: the number of the piece that each
            element is on, given attributes and inputs as for the reference.
        compares: The function compares its inputs with each other and with its scalar.
        spread: Which outputs depend on an input that is NaN, where the reference does not tell
            because its value on a NaN is a number (a comparison): a function like the reference
            that passes NaN on.  Its other inputs are zeros.
        nan_blind: What it gives on a NaN, or where the largest of its inputs is minus infinity,
            differs among MXNet's own kernels.
    """

    name: str
    apply: Callable[[Draw, Shape], Application]
    reference: Callable[..., Array | tuple[Array, ...]]
    accepts: Callable[[Shape], bool] = any_rank
    first: Callable[[Draw], Shape] | None = None
    domain: tuple[float, float] | None = None
    dtypes: tuple[str, ...] = FLOATS
    result: Callable[[Attributes, str], str | tuple[str, ...]] = lambda _, dtype: dtype
    follows: int = 0
    creates: bool = False
    roundings: float = 1.0
    on_inputs: bool = True
    absolute: float | Callable[[Attributes], float] = 0.0
    coarse: float | Callable[[Attributes], float] = 0.0
    sums: bool = False
    terms: Callable[[Attributes, Shape], int] | None = None
    running: bool = False
    compensated: bool = False
    gates: bool = False
    products: bool = False
    multiplies: bool = False
    folds: bool = False
    squares: bool = False
    exact: Callable[[Attributes], bool] = lambda _: False
    statistics: bool = False
    whole: bool = False
    hybrid: bool = True
    jumps: bool = False
    piece: Callable[..., Array] | None = None
    compares: bool = False
    spread: Callable[..., Array] | None = None
    nan_blind: bool = False

    def outputs(
        self, attrs: Attributes, inputs: Sequence[Array], **more: Array
    ) -> tuple[Array, ...]:
        """The operator's value on arrays; ``more`` is ``statistics`` where it is taken."""
        values = self.reference(attrs, *inputs, **more)
        return values if isinstance(values, tuple) else (values,)

    def absolute_error(self, attrs: Attributes, coarse: bool) -> float:
        """``absolute`` of an application, or ``coarse`` where that is asked for and larger."""
        given = (self.absolute, self.coarse) if coarse else (self.absolute,)
        return max(error(attrs) if callable(error) else error for error in given)

    def tensors(self, attrs: Attributes, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Shapes and dtypes of the outputs: those of the reference on zeros."""
        zeros = [np.zeros(shape, np.float32) for shape, _ in inputs]
        with np.errstate(all="ignore"):
            return self.typed(attrs, [t.dtype for t in inputs], self.outputs(attrs, zeros))

    def typed(
        self, attrs: Attributes, inputs: Sequence[str], outputs: Sequence[Array]
    ) -> tuple[Tensor, ...]:
        """Shapes and dtypes of outputs, given the dtypes of the inputs."""
        dtypes = self.result(attrs, inputs[self.follows] if inputs else "float32")
        if isinstance(dtypes, str):
            dtypes = (dtypes,) * len(outputs)
        return tuple(Tensor(v.shape, kind) for v, kind in zip(outputs, dtypes, strict=True))


_SPECS: dict[str, OpSpec] = {}


def register(*new: OpSpec) -> None:
    """Add specifications to the registry.

    Raises:
        ValueError: An operator has one already.
    """
    for spec in new:
        if spec.name in _SPECS:
            raise ValueError(f"operator {spec.name} has two specifications")
        _SPECS[spec.name] = spec


def specs() -> Mapping[str, OpSpec]:
    """Every specification by the operator's name."""
    return _SPECS


# -- small strategies that several families share ------------------------------------------


def like(draw: Draw, shape: Shape) -> Application:
    """No attributes and no other inputs."""
    return Application()


def sizes(draw: Draw, rank: int, low: int, high: int) -> tuple[int, ...]:
    """One size per axis."""
    return tuple(draw(st.lists(st.integers(low, high), min_size=rank, max_size=rank)))


def one_axis(draw: Draw, rank: int) -> int:
    """An axis, counted from either end."""
    return draw(st.integers(-rank, rank - 1))


def movers(
    names: str,
    apply: Callable[[Draw, Shape], Application],
    reference: Callable[..., Array | tuple[Array, ...]],
    accepts: Callable[[Shape], bool] = any_rank,
    **more: Any,
) -> list[OpSpec]:
    """Specifications of the names of an operator that rounds nothing, of any dtype."""
    given = {"roundings": 0, "dtypes": NUMBERS, **more}
    return [OpSpec(name, apply, reference, accepts, **given) for name in names.split()]


def maybe(draw: Draw, **attrs: st.SearchStrategy[Any]) -> dict[str, Any]:
    """Each attribute drawn, or left out so that MXNet's default counts."""
    return {key: draw(values) for key, values in attrs.items() if draw(st.booleans())}


def whole(case: Case) -> Case:
    """The case without what no head needs, and with heads for what MXNet must not leave out.

    See :attr:`OpSpec.whole`.
    """
    case = case.keeping()
    read = {entry for node in case.operations for entry in node.inputs}.union(case.heads)
    left_out = (
        Entry(index, output)
        for index, node in enumerate(case.nodes)
        if isinstance(node, Operation) and specs()[node.op].whole
        for output in range(len(node.outputs))
    )
    return case.replace(heads=(*case.heads, *(entry for entry in left_out if entry not in read)))
