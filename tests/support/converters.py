"""Runs a small symbol in plain MXNet and, converted to ONNX, in ONNX Runtime."""

from __future__ import annotations

import ctypes
import functools
import warnings
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from hypothesis import settings
from onnx import numpy_helper

import mxtrt.convert.ops
from mxtrt.convert.onnx_builder import OPSET, OnnxBuilder
from mxtrt.errors import Unsupported
from mxtrt.graph.symbol import Entry, Graph, Node, TensorType
from mxtrt.plain.forward import bound

with warnings.catch_warnings():  # MXNet 1.9.1 reads names that NumPy 1.20 and newer deprecate
    warnings.simplefilter("ignore")
    import mxnet as mx
    from mxnet.base import _LIB, check_call

Arrays = Mapping[str, np.ndarray[Any, Any]]

#: Settings of the sweeps over an operator's attributes.
SWEEP = settings(derandomize=True, max_examples=50, deadline=None, database=None)


def operator(op: str) -> ctypes.c_void_p:
    """MXNet's handle of an operator."""
    handle = ctypes.c_void_p()
    check_call(_LIB.NNGetOpHandle(op.encode(), ctypes.byref(handle)))
    return handle


def symbol(op: str, *inputs: Any, name: str = "op", **attrs: Any) -> Any:
    """A symbol of one operator; attributes are given as MXNet stores them or as Python values."""
    keys = [str(k).encode() for k in attrs]
    values = [str(v).encode() for v in attrs.values()]
    handle = ctypes.c_void_p()
    strings = ctypes.c_char_p * len(attrs)
    check_call(
        _LIB.MXSymbolCreateAtomicSymbol(
            operator(op), len(attrs), strings(*keys), strings(*values), ctypes.byref(handle)
        )
    )
    result = mx.symbol.Symbol(handle)
    result._compose(*inputs, name=name)
    return result


def data(seed: int, *shape: int, low: float = -2.0, high: float = 2.0) -> np.ndarray[Any, Any]:
    """Uniform float32 numbers."""
    return np.random.default_rng(seed).uniform(low, high, shape).astype(np.float32)


def run_mxnet(sym: Any, arrays: Arrays) -> list[np.ndarray[Any, Any]]:
    """The outputs that plain MXNet computes on the CPU at inference."""
    executor = bound(sym, {name: _ndarray(array) for name, array in arrays.items()}, mx.cpu())
    return [output.asnumpy() for output in executor.forward(is_train=False)]


def _ndarray(array: np.ndarray[Any, Any]) -> Any:
    """A copy in MXNet; ``mx.nd.array`` looks SciPy up under a name that warns."""
    result = mx.nd.empty(array.shape, dtype=array.dtype)
    result._sync_copyfrom(array)
    return result


def typed_graph(sym: Any, arrays: Arrays) -> Graph:
    """The symbol's graph with the types that MXNet infers from those of the arrays."""
    internals = sym.get_internals()
    listed = internals.list_outputs()
    _, shapes, _ = internals.infer_shape(**{n: a.shape for n, a in arrays.items()})
    _, dtypes, _ = internals.infer_type(**{n: a.dtype for n, a in arrays.items()})
    graph = Graph.of(sym)
    nodes, place = [], 0
    for index, node in enumerate(graph.nodes):
        following = graph.nodes[index + 1].name if index + 1 < len(graph.nodes) else None
        first = place
        while place < len(listed) and (place == first or not _starts(listed[place], following)):
            place += 1
        types = tuple(
            TensorType(tuple(shapes[i]), np.dtype(dtypes[i])) for i in range(first, place)
        )
        nodes.append(replace(node, types=types))
    return Graph(nodes, graph.heads, graph.attrs)


def _starts(listed: str, name: str | None) -> bool:
    return name is not None and (listed == name or listed.startswith(f"{name}_"))


@dataclass(frozen=True)
class Converted:
    """A converted symbol: the model, and what to feed it."""

    model: onnx.ModelProto
    feeds: dict[str, np.ndarray[Any, Any]]

    @property
    def body(self) -> bytes:
        """The nodes and inline constants: what must not depend on the batch size."""
        graph = self.model.graph
        parts = [n.SerializeToString() for n in graph.node]
        parts += [t.SerializeToString() for t in graph.initializer if t.name.startswith("const_")]
        return b"".join(parts)

    @property
    def ops(self) -> list[str]:
        """The ONNX operators, in order."""
        return [node.op_type for node in self.model.graph.node]


def convert_nodes(graph: Graph, builder: OnnxBuilder) -> dict[tuple[int, int], str]:
    """Convert every node and return the ONNX names of the entries."""
    names: dict[tuple[int, int], str] = {}
    for index, node in enumerate(graph.nodes):
        if node.is_variable:
            names[index, 0] = node.name
            continue
        for output in range(len(node.types)):
            names[index, output] = f"{node.name}_output{output}"
        mxtrt.convert.ops.convert(
            node,
            [graph.type_of(e) for e in node.inputs],
            [names[e.node, e.output] for e in node.inputs],
            builder,
        )
    return names


def to_onnx(
    sym: Any, arrays: Arrays, inputs: Sequence[str] = ("x",), opset: int = OPSET
) -> Converted:
    """Convert a symbol: ``inputs`` become graph inputs, every other variable an initializer."""
    graph = typed_graph(sym, arrays)
    builder = OnnxBuilder(opset=opset)
    names = convert_nodes(graph, builder)
    used = {name for node in builder.nodes for name in node.input}
    outputs = [
        (names[h.node, h.output], graph.type_of(h).shape, graph.type_of(h).dtype)
        for h in graph.heads
    ]
    feeds = {n: arrays[n] for n in inputs if n in used}
    model = builder.model([(n, a.shape, a.dtype) for n, a in feeds.items()], outputs)
    for name, array in arrays.items():
        if name in used and name not in inputs:
            model.graph.initializer.append(numpy_helper.from_array(array, name))
    onnx.checker.check_model(model, full_check=True)
    for node in model.graph.node:
        missing = _changed_defaults()[node.op_type] - {a.name for a in node.attribute}
        assert not missing, f"{node.op_type} has to say {missing}: parsers have the older defaults"
    return Converted(model, feeds)


@functools.cache
def _changed_defaults() -> Mapping[str, set[str]]:
    """Attributes whose default number is not the same in all versions of ONNX, by operator."""
    defaults: dict[tuple[str, str], set[Any]] = defaultdict(set)
    for schema in onnx.defs.get_all_schemas_with_history():
        for name, attribute in schema.attributes.items():
            given = attribute.default_value
            if not schema.domain and given.type in (given.FLOAT, given.INT):
                defaults[schema.name, name].add(onnx.helper.get_attribute_value(given))
    changed: dict[str, set[str]] = defaultdict(set)
    for (operator, name), values in defaults.items():
        if len(values) > 1:
            changed[operator].add(name)
    return changed


def run_onnx(converted: Converted) -> list[np.ndarray[Any, Any]]:
    """The outputs that ONNX Runtime computes on the CPU with all its optimizations."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = ort.InferenceSession(
        converted.model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return list(session.run(None, converted.feeds))


def assert_close(
    actual: np.ndarray[Any, Any], expected: np.ndarray[Any, Any], tolerance: float = 1e-5
) -> None:
    """Same shape, and no element farther off than ``tolerance`` times the largest."""
    assert actual.shape == expected.shape
    assert np.array_equal(np.isnan(actual), np.isnan(expected))
    finite = np.isfinite(expected)
    assert np.array_equal(actual[~finite], expected[~finite], equal_nan=True)
    if finite.any():
        wide = expected[finite].astype(np.float64)
        difference = np.abs(actual[finite].astype(np.float64) - wide).max()
        assert difference <= tolerance * max(np.abs(wide).max(), 1e-30)


def check(
    sym: Any,
    arrays: Arrays,
    inputs: Sequence[str] = ("x",),
    tolerance: float = 1e-5,
    opset: int = OPSET,
) -> Converted:
    """Assert that MXNet and ONNX Runtime compute the same, and return the converted symbol."""
    expected = run_mxnet(sym, arrays)
    converted = to_onnx(sym, arrays, inputs, opset)
    actual = run_onnx(converted)
    assert len(actual) == len(expected)
    for ours, theirs in zip(actual, expected, strict=True):
        assert_close(ours, theirs, tolerance)
    return converted


def check_op(op: str, *shapes: Sequence[int], seed: int = 0, **attrs: Any) -> Converted:
    """:func:`check` of one operator on uniform inputs that are all fed: x, y, z, x3 and so on."""
    names = [chr(ord("x") + i) if i < 3 else f"x{i}" for i in range(len(shapes))]
    arrays = {name: data(seed + i, *shapes[i]) for i, name in enumerate(names)}
    return check(symbol(op, *map(mx.sym.var, names), **attrs), arrays, names)


def refusal(
    op: str,
    *shapes: Sequence[int],
    out: Sequence[int] | None = None,
    dtype: Any = np.float32,
    **attrs: Any,
) -> str:
    """The reason why an operator on inputs of these shapes stays in MXNet."""
    count = len(shapes)
    types = [TensorType(tuple(shape), np.dtype(dtype)) for shape in shapes]
    result = TensorType(tuple(shapes[0] if out is None else out), np.dtype(dtype))
    strings = {key: str(value) for key, value in attrs.items()}
    node = Node(op, "op", strings, tuple(map(Entry, range(count))), (result,))
    names = [f"x{i}" for i in range(count)]
    with pytest.raises(Unsupported) as caught:
        mxtrt.convert.ops.convert(node, types, names, OnnxBuilder())
    return str(caught.value)
