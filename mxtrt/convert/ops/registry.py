"""The converter registry: one entry per MXNet operator.

A converter is a function of one argument, a :class:`Call`: the node with the types of
its inputs and outputs, and the means to emit ONNX.  It either emits ONNX nodes that
compute the node's outputs, or raises :class:`~mxtrt.errors.Unsupported` with the reason
why the node has to stay in MXNet.  The partitioner runs every converter once on a scratch
model, so "accepts" and "converts" can never disagree.

Converters see shapes, never weight values: they run before weights are loaded.
"""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from mxtrt.convert.onnx_builder import OnnxBuilder
from mxtrt.convert.ops import left
from mxtrt.errors import Unsupported
from mxtrt.graph.symbol import Entry, Node, TensorType

__all__ = [
    "ARITHMETIC",
    "EDGES",
    "FLOATS",
    "NUMBERS",
    "Call",
    "Converter",
    "OpEntry",
    "convert",
    "converter",
    "registry",
]

_T = TypeVar("_T")

# Converters see float32 where MXNet has float16, see ``to_onnx``.
#: Dtypes that engines compute in.
FLOATS = frozenset({np.dtype(np.float32)})
#: Dtypes that engines add, multiply and compare in.
ARITHMETIC = FLOATS | {np.dtype(kind) for kind in (np.int32, np.int64)}
#: Dtypes of what engines move, index with, compare and cast.
NUMBERS = FLOATS | {np.dtype(kind) for kind in (np.int8, np.uint8, np.int32, np.int64)}
#: Dtypes of the tensors at the edges of engines.
EDGES = NUMBERS | {np.dtype(np.float16)}


class Call:
    """One MXNet node, seen by its converter.

    Attributes:
        node: The node; ``node.attrs`` holds its attributes as strings.
        inputs: Shape and dtype of every input, all known.
        outputs: Shape and dtype of every output that the converter produces, all known.
        half: Whether the first input is float16 in MXNet.
        gpu: Whether MXNet would run it on a GPU, where some kernels give other results.
    """

    def __init__(
        self,
        node: Node,
        inputs: Sequence[TensorType],
        outputs: Sequence[TensorType],
        names: Sequence[str],
        builder: OnnxBuilder,
        half: bool,
        gpu: bool,
    ) -> None:
        self.node = node
        self.half = half
        self.gpu = gpu
        self.inputs = tuple(inputs)
        self.outputs = tuple(outputs)
        self._names = tuple(names)
        self._builder = builder

    @property
    def varying(self) -> bool:
        """Whether a model for other sizes is to be made of the one at hand."""
        return self._builder.varying

    @property
    def opset(self) -> int:
        """The newest ONNX operator set whose operators the engine has."""
        return self._builder.opset

    # -- types -------------------------------------------------------------------------

    def shape(self, index: int = 0) -> tuple[int, ...]:
        """Shape of an input, every dimension known."""
        shape = self.inputs[index].shape
        assert shape is not None
        return shape

    def rank(self, index: int = 0) -> int:
        """Number of axes of an input."""
        return len(self.shape(index))

    def out_shape(self, index: int = 0) -> tuple[int, ...]:
        """Shape of an output, every dimension known."""
        shape = self.outputs[index].shape
        assert shape is not None
        return shape

    def dtype(self, index: int = 0) -> np.dtype[Any]:
        """Dtype of an input."""
        dtype = self.inputs[index].dtype
        assert dtype is not None
        return dtype

    # -- attributes --------------------------------------------------------------------

    def given(self, key: str) -> bool:
        """Whether an attribute has a value: it is there and is not ``None``."""
        return self._given(key) is not None

    def text(self, key: str, default: str | None = None) -> str:
        """A string or enum attribute; missing and ``None`` give the default."""
        value = self._given(key)
        return _default(key, default) if value is None else value

    def integer(self, key: str, default: int | None = None) -> int:
        """An integer attribute (``uint32_t``, ``int``, ``dmlc::optional<int>``)."""
        return _integer(key, self._literal(key, default))

    def axis(self, key: str, default: int | None = None, *, rank: int | None = None) -> int:
        """An axis attribute, counted from the front; ``rank`` is the first input's by default."""
        rank = self.rank() if rank is None else rank
        axis = self.integer(key, default)
        if not -rank <= axis < rank:
            raise Unsupported(f"attribute {key}={axis} is no axis of a tensor of rank {rank}")
        return axis % rank

    def number(self, key: str, default: float | None = None) -> float:
        """A float attribute, read as float32 or double exactly as MXNet prints it."""
        value = self._given(key)
        if value is None:
            return _default(key, default)
        try:
            return float(value)
        except ValueError:
            raise Unsupported(f"attribute {key}={value!r} is not a number") from None

    def flag(self, key: str, default: bool = False) -> bool:
        """A boolean attribute: True/False, true/false or 1/0; ``None`` gives the default."""
        value = self._given(key)
        if value is None:
            return default
        if value.lower() not in ("1", "true", "0", "false"):
            raise Unsupported(f"attribute {key}={value!r} is not a boolean")
        return value.lower() in ("1", "true")

    def integers(self, key: str, default: Sequence[int] | None = None) -> tuple[int, ...]:
        """A tuple attribute (``TShape``); a single integer gives a tuple of one."""
        return tuple(_integer(key, value) for value in self._items(key, default))

    def numbers(self, key: str, default: Sequence[float] | None = None) -> tuple[float, ...]:
        """A tuple of numbers; a single one gives a tuple of one."""
        values = self._items(key, default)
        if not all(isinstance(value, (int, float)) for value in values):
            raise Unsupported(f"attribute {key}={self._given(key)!r} is not understood")
        return tuple(float(value) for value in values)

    def optional_integers(
        self, key: str, default: Sequence[int | None] | None = None
    ) -> tuple[int | None, ...]:
        """A tuple attribute whose members may be ``None``."""
        items = self._items(key, default)
        return tuple(None if value is None else _integer(key, value) for value in items)

    def _given(self, key: str) -> str | None:
        """The attribute's text; MXNet writes an optional that is not set as ``None``."""
        value = self.node.attrs.get(key, "None")
        return None if value == "None" else value

    def _items(self, key: str, default: Any) -> Sequence[Any]:
        value = self._literal(key, default)
        return value if isinstance(value, (tuple, list)) else (value,)

    def _literal(self, key: str, default: Any) -> Any:
        value = self._given(key)
        if value is None:
            return _default(key, default)
        try:
            return _parsed(value)
        except (ValueError, SyntaxError):
            raise Unsupported(f"attribute {key}={value!r} is not understood") from None

    # -- requirements ------------------------------------------------------------------

    def require(self, condition: bool, reason: str) -> None:
        """Leave the node to MXNet with ``reason`` unless the condition holds."""
        if not condition:
            raise Unsupported(reason)

    def require_floats(self) -> None:
        """Leave the node to MXNet unless all inputs and outputs are of one dtype of ``FLOATS``."""
        self._require_one_of(FLOATS)

    def require_arithmetic(self) -> None:
        """Leave the node to MXNet unless all its tensors are of one dtype of ``ARITHMETIC``."""
        self._require_one_of(ARITHMETIC)

    def require_numbers(self) -> None:
        """Leave the node to MXNet unless all inputs and outputs are of one dtype of ``NUMBERS``."""
        self._require_one_of(NUMBERS)

    def require_dtype(self, tensor: TensorType, accepted: Collection[np.dtype[Any]]) -> None:
        """Leave the node to MXNet unless one of its tensors has one of these dtypes."""
        if tensor.dtype not in accepted:
            names = ", ".join(sorted(str(dtype) for dtype in accepted))
            raise Unsupported(f"dtype {tensor.dtype} is not {names}")

    def _require_one_of(self, accepted: Collection[np.dtype[Any]]) -> None:
        tensors = (*self.inputs, *self.outputs)
        for tensor in tensors:
            self.require_dtype(tensor, accepted)
        if len({tensor.dtype for tensor in tensors}) > 1:
            raise Unsupported("its inputs and outputs are of several dtypes")

    # -- emission ----------------------------------------------------------------------

    def input(self, index: int = 0) -> str:
        """ONNX name of an input."""
        return self._names[index]

    def output(self, index: int = 0) -> str:
        """ONNX name that the node's output must get; pass it as ``output`` of the last node."""
        return f"{self.node.name}_output{index}"

    def fresh(self, hint: str) -> str:
        """A name for an intermediate value of :meth:`emit_many`."""
        return self._builder.fresh(f"{self.node.name}_{hint}")

    def emit(
        self,
        op_type: str,
        inputs: Sequence[str],
        *,
        output: str | None = None,
        **attributes: Any,
    ) -> str:
        """Add an ONNX node with one output and return the output's name.

        Args:
            op_type: ONNX operator of the pinned opset, or of one up to :attr:`opset`.
            inputs: Names; ``""`` leaves an optional input out.
            output: Name of the output; a fresh one by default.
            attributes: ONNX attributes; ``None`` leaves one out.
        """
        output = output or self._builder.fresh(f"{self.node.name}_{op_type.lower()}")
        self._builder.node(op_type, inputs, [output], **attributes)
        return output

    def emit_many(
        self, op_type: str, inputs: Sequence[str], outputs: Sequence[str], **attributes: Any
    ) -> None:
        """Add an ONNX node with several outputs, all named by the caller."""
        self._builder.node(op_type, inputs, list(outputs), **attributes)

    def loop(
        self,
        hint: str,
        trips: str,
        state: Sequence[tuple[str, Any]],
        body: Callable[[str, Sequence[str]], Sequence[str]],
    ) -> list[str]:
        """Add a ``Loop``; see :meth:`mxtrt.convert.onnx_builder.OnnxBuilder.loop`."""
        typed = [(name, np.dtype(dtype)) for name, dtype in state]
        return self._builder.loop(f"{self.node.name}_{hint}", trips, typed, body)

    def nested(
        self,
        op: str,
        attrs: Mapping[str, str],
        inputs: Sequence[tuple[str, tuple[int, ...]]],
        shape: tuple[int, ...],
    ) -> str:
        """Convert an operator that this node stands for or holds, on float32 values.

        Args:
            op: MXNet's name of it.
            attrs: Its attributes.
            inputs: ONNX names and shapes of its inputs.
            shape: Shape of its output.

        Returns:
            ONNX name of its output.

        Raises:
            Unsupported: It cannot be converted.
        """
        types = [TensorType(size, np.dtype(np.float32)) for _, size in inputs]
        made = TensorType(shape, np.dtype(np.float32))
        entries = tuple(Entry(place) for place in range(len(inputs)))
        node = Node(op, self.fresh(op.lower()), attrs, entries, (made,))
        names = [name for name, _ in inputs]
        call = Call(node, types, [made], names, self._builder, False, self.gpu)
        _REGISTRY[op].convert(call)
        return call.output()

    def constant(self, value: Any, dtype: Any = np.float32) -> str:
        """Name of a small initializer with this value (equal ones are stored once)."""
        return self._builder.constant(np.asarray(value, dtype=dtype))

    def indices(self, values: Sequence[int]) -> str:
        """Name of a small int64 initializer: the shape or axes that an ONNX operator reads."""
        return self.constant(values, np.int64)


@functools.lru_cache(maxsize=1024)
def _parsed(text: str) -> Any:
    """A tuple or number; symbols saved under Python 2 hold long integers: (3L, 3L)."""
    return ast.literal_eval(re.sub(r"(?<=\d)L\b", "", text))


def _default(key: str, default: _T | None) -> _T:
    if default is None:
        raise Unsupported(f"attribute {key} is missing")
    return default


def _integer(key: str, value: Any) -> int:
    if not isinstance(value, int):
        raise Unsupported(f"attribute {key}={value!r} is not understood")
    return int(value)


Converter = Callable[[Call], None]


@dataclass(frozen=True, slots=True)
class OpEntry:
    """One operator of the registry.

    Attributes:
        name: MXNet operator name as symbol JSON has it.
        convert: The converter.
        moves_data_only: The operator computes nothing (reshape, identity): a segment made
            only of such operators costs more to enter than it saves.
        outputs: How many outputs the converter produces; a later output that something
            reads leaves the node to MXNet.
        shape_only: Indices of the inputs of which only the shape matters: the values of the
            others are all that the outputs depend on.
        not_in_half: Why float16 nodes stay in MXNet: its float16 result is not the float32 result
            rounded, for this reason.  None where it is.
        not_on_gpu: Why nodes stay in MXNet where the engine computes on a GPU.  None where they do
            not.
        quantized: It reads or makes tensors of int8 or uint8 with a range, which ``QuantizeLinear``
            makes and ``DequantizeLinear`` reads: engines take them inside of a segment.
    """

    name: str
    convert: Converter
    moves_data_only: bool = False
    outputs: int | None = None
    shape_only: tuple[int, ...] = ()
    not_in_half: str | None = None
    not_on_gpu: str | None = None
    quantized: bool = False


_REGISTRY: dict[str, OpEntry] = {}


def converter(
    *names: str,
    moves_data_only: bool = False,
    outputs: int | None = None,
    shape_only: tuple[int, ...] = (),
    not_in_half: str | None = None,
    not_on_gpu: str | None = None,
    quantized: bool = False,
) -> Callable[[Converter], Converter]:
    """Register a converter for one or more operator names (aliases included)."""

    def register(function: Converter) -> Converter:
        for name in names:
            if name in _REGISTRY:
                raise ValueError(f"operator {name} has two converters")
            _REGISTRY[name] = OpEntry(
                name,
                function,
                moves_data_only,
                outputs,
                shape_only,
                not_in_half,
                not_on_gpu,
                quantized,
            )
        return function

    return register


def registry() -> Mapping[str, OpEntry]:
    """Every operator that mxtrt converts, by MXNet name."""
    return _REGISTRY


def convert(
    node: Node,
    inputs: Sequence[TensorType],
    names: Sequence[str],
    builder: OnnxBuilder,
    half: bool = False,
    gpu: bool = False,
) -> Call:
    """Convert one node into ``builder``.

    Args:
        node: The node, its output types inferred.
        inputs: Types of its inputs.
        names: ONNX names of its inputs.
        builder: Receives the ONNX nodes; the node's outputs get the names of
            :meth:`Call.output`.
        half: Whether the first input is float16 in MXNet.
        gpu: Whether MXNet would run it on a GPU, where some kernels give other results.

    Returns:
        The node as its converter saw it.

    Raises:
        Unsupported: The node has to stay in MXNet; the message says why.
    """
    entry = _REGISTRY.get(node.op)
    if entry is None:
        raise Unsupported(left.reason(node.op))
    outputs = node.types[: entry.outputs]
    for tensor in (*inputs, *outputs):
        if not tensor.known:
            raise Unsupported("its shapes are not known at bind")
        assert tensor.shape is not None
        if not tensor.shape:
            raise Unsupported("a tensor without axes")
        if 0 in tensor.shape:
            raise Unsupported("a tensor of size zero")
    if not outputs:
        raise Unsupported("its shapes are not known at bind")
    call = Call(node, inputs, outputs, names, builder, half, gpu)
    entry.convert(call)
    return call
