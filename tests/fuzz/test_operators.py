"""The per-operator lane: every operator alone, over its attribute space, against the oracle.

An operator is its converter and its specification: a converter without one fails here.
"""

from __future__ import annotations

from collections.abc import Iterator

import mxnet as mx
import onnx
import pytest
from hypothesis import given, settings
from support.segments import segments_of

import mxtrt.convert.ops
from mxtrt.plain.loading import own_name
from mxtrt_fuzz.execute import Setup
from mxtrt_fuzz.generate import operator_cases
from mxtrt_fuzz.graphs import Case
from mxtrt_fuzz.oracle import Oracle
from mxtrt_fuzz.specs import specs
from mxtrt_fuzz.worker import Worker

#: Examples of an operator, and of another name for one: the attributes are the same.
_EXAMPLES, _ALIAS = 20, 4


@pytest.fixture(scope="module")
def worker() -> Iterator[Worker]:
    """A process that a crash of MXNet's does not take the tests with it."""
    with Worker(Setup(masks=("none",), exactness=False)) as process:
        yield process


def test_every_converter_has_a_specification() -> None:
    """From the registry of converters, not from a list."""
    missing = set(mxtrt.convert.ops.registry()) - set(specs())
    assert not missing, f"add an OpSpec in fuzz/mxtrt_fuzz/specs for {sorted(missing)}"


@pytest.mark.parametrize("name", sorted(specs()))
def test_operator_agrees_with_mxnet_and_the_reference(name: str, worker: Worker) -> None:
    """MXNet accepts every application, infers the reference's shapes, and all three agree."""
    oracle = Oracle(worker)

    examples = _EXAMPLES if own_name(name) == name else _ALIAS

    @settings(derandomize=True, max_examples=examples, deadline=None, database=None)
    @given(operator_cases(name))
    def lane(case: Case) -> None:
        verdict = oracle.judge(case, worker(case))
        assert not verdict.invalid, verdict.invalid
        for failure in verdict.failures:
            raise failure

    lane()


#: Inputs of ONNX operators that say what shape something has, by their places.
_SHAPES = {
    "ConstantOfShape": [0],
    "Expand": [1],
    "OneHot": [1],
    "Pad": [1],
    "Range": [0, 1, 2],
    "Reshape": [1],
    "Resize": [2, 3],
    "ReverseSequence": [1],
    "Slice": [1, 2, 3, 4],
    "Split": [1],
    "Tile": [1],
    "TopK": [1],
}


def _shapes_of_data(model: onnx.ModelProto) -> set[str]:
    """Operators of a model that make a shape of an input's values; TensorRT has none for them."""
    data = {value.name for value in model.graph.input}
    found = set()
    for node in model.graph.node:
        read = data.intersection(node.input)
        if read and node.op_type != "Shape":
            data.update(node.output)
        if any(
            node.input[place] in read
            for place in _SHAPES.get(node.op_type, [])
            if place < len(node.input)
        ):
            found.add(node.op_type)
    return found


@pytest.mark.parametrize(
    "name", [n for n in sorted(mxtrt.convert.ops.registry()) if own_name(n) == n]
)
def test_no_operator_makes_a_shape_of_its_data(name: str) -> None:
    """TensorRT's parser takes some of them, and then the builder wants a profile of the values."""

    @settings(derandomize=True, max_examples=_EXAMPLES, deadline=None, database=None)
    @given(operator_cases(name))
    def lane(case: Case) -> None:
        data = {v.name: v.tensor for v in case.variables if v.role == "data"}
        shapes = {name: tensor.shape for name, tensor in data.items()}
        types = {v.name: v.tensor.dtype for v in case.variables}
        symbol = mx.sym.load_json(case.symbol_json())
        for segment in segments_of(symbol, shapes, types, allow_ops="*"):
            assert not _shapes_of_data(onnx.load_model_from_string(segment.model))

    lane()
