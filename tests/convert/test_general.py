"""General models: constants that follow from the sizes of inputs, against conversions at them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mxnet as mx
import numpy as np
import onnx
import pytest
from support.segments import segments_of

from mxtrt.convert import general
from mxtrt.convert.general import General, generalize
from mxtrt.convert.segment import OnnxSegment
from mxtrt.errors import EngineError

Shapes = tuple[tuple[int, ...], ...]


def convert(symbol: mx.sym.Symbol, *names: str, varying: bool = False) -> general.Convert:
    """Converts a symbol that is one segment, its inputs of these names."""

    def at(shapes: Shapes) -> tuple[Shapes, OnnxSegment]:
        given = dict(zip(names, shapes, strict=True))
        (segment,) = segments_of(symbol, given, varying=varying)
        _, outputs, _ = symbol.infer_shape(**given)
        return tuple(outputs), segment

    return at


def found(symbol: mx.sym.Symbol, *seen: Shapes, names: tuple[str, ...] = ("data",)) -> General:
    """The general model of a symbol, which there is."""
    made = generalize(convert(symbol, *names), seen)
    assert made is not None
    return made


def dense(x: mx.sym.Symbol) -> mx.sym.Symbol:
    """A layer, so that there is an engine for it."""
    return mx.sym.FullyConnected(x, num_hidden=8, flatten=False, name="dense")


def lengths(x: mx.sym.Symbol) -> mx.sym.Symbol:
    """Adds every place on axis 1."""
    places = mx.sym.reshape(mx.sym.contrib.arange_like(x, axis=1), shape=(1, -1, 1))
    return mx.sym.broadcast_add(dense(x), places)


DATA = mx.sym.var("data")


def run(segment: OnnxSegment, symbol: mx.sym.Symbol, shape: tuple[int, ...]) -> Any:
    """What ONNX Runtime makes of a model, and MXNet of the symbol."""
    onnxruntime = pytest.importorskip("onnxruntime")
    random = np.random.RandomState(0)
    arguments, _, _ = symbol.infer_shape(data=shape)
    values = {
        name: random.uniform(-1, 1, size).astype(np.float32)
        for name, size in zip(symbol.list_arguments(), arguments, strict=True)
    }
    model = onnx.load_model_from_string(segment.model)
    for tensor in model.graph.initializer:
        if tensor.name in values:
            tensor.CopyFrom(onnx.numpy_helper.from_array(values[tensor.name], tensor.name))
    onnx.checker.check_model(model)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    seen = session.run(None, {"data": values["data"]})[0]
    arrays = {name: mx.nd.array(value) for name, value in values.items()}
    expected = symbol.bind(mx.cpu(), arrays, grad_req="null").forward()[0].asnumpy()
    return seen, expected


@pytest.mark.parametrize(
    "grow",
    [
        lambda x: mx.sym.reshape(dense(x), shape=(0, 0, -4, 2, -1)),
        lambda x: mx.sym.repeat(dense(x), repeats=3, axis=1),
        lambda x: mx.sym.slice_like(dense(x), mx.sym.slice_axis(x, axis=1, begin=2, end=None)),
        lengths,
    ],
    ids=["reshape", "repeat", "slice_like", "arange_like"],
)
def test_one_model_computes_what_conversions_write_down(
    grow: Callable[[mx.sym.Symbol], mx.sym.Symbol],
) -> None:
    """At sizes that were seen, between them, and beyond; with MXNet's answers."""
    symbol = grow(DATA)
    made = found(symbol, ((2, 6, 8),), ((2, 9, 8),))
    assert made.varying == "data axis 1"
    for size in (3, 6, 7, 9, 30):
        outputs, direct = convert(symbol, "data")(((2, size, 8),))
        assert made.covers(((2, size, 8),), outputs, direct)
        seen, expected = run(made.model, symbol, (2, size, 8))
        np.testing.assert_allclose(seen, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("attrs", [{"id_index": 0}, {"topk": 150, "id_index": 0}, {}])
def test_one_model_suppresses_boxes_of_any_number(attrs: dict[str, int]) -> None:
    """Also where it goes over classes in a loop."""
    symbol = mx.sym.contrib.box_nms(mx.sym.abs(DATA), overlap_thresh=0.3, **attrs)
    made = found(symbol, ((2, 200, 6),), ((2, 230, 6),))
    for size in (200, 411):
        assert made.covers(((2, size, 6),), *convert(symbol, "data")(((2, size, 6),)))
        seen, expected = run(made.model, symbol, (2, size, 6))
        np.testing.assert_array_equal(seen, expected)
        assert 0 < np.count_nonzero(expected[..., 1] >= 0) < 2 * size


def test_sizes_that_change_alike_are_one() -> None:
    """Until they change apart: then another model is for all of them."""
    both = mx.sym.broadcast_add(lengths(DATA), mx.sym.mean(mx.sym.var("other")))
    names = ("data", "other")
    first, second = ((2, 6, 8), (6, 3)), ((2, 9, 8), (9, 3))
    apart = ((2, 7, 8), (5, 3))
    made = found(both, first, second, names=names)
    assert made.varying == "data axis 1, other axis 0"
    assert not made.covers(apart, *convert(both, *names)(apart))
    again = found(both, first, second, apart, names=names)
    for shapes in (first, second, apart, ((2, 20, 8), (4, 3))):
        assert again.covers(shapes, *convert(both, *names)(shapes))


def test_another_rank_or_another_axis_is_not_covered() -> None:
    """The general model is for the axes that moved."""
    made = found(lengths(DATA), ((2, 6, 8),), ((2, 9, 8),))
    for shape in ((3, 6, 8), (2, 6, 1, 8)):
        symbol = DATA if len(shape) == 4 else lengths(DATA)
        outputs, direct = convert(dense(symbol) if len(shape) == 4 else symbol, "data")((shape,))
        assert not made.covers((shape,), outputs, direct)


def test_what_differs_in_a_constant_is_not_covered() -> None:
    """The proof is of every constant, whatever it is for."""
    made = found(lengths(DATA), ((2, 6, 8),), ((2, 9, 8),))
    outputs, direct = convert(lengths(DATA) * 2, "data")(((2, 7, 8),))
    assert not made.covers(((2, 7, 8),), outputs, direct)
    shifted = mx.sym.broadcast_add(
        dense(DATA),
        mx.sym.reshape(mx.sym.contrib.arange_like(DATA, axis=1, start=1), shape=(1, -1, 1)),
    )
    outputs, direct = convert(shifted, "data")(((2, 7, 8),))
    assert not made.covers(((2, 7, 8),), outputs, direct)


def test_nothing_is_trusted_before_it_was_proved_often(monkeypatch: pytest.MonkeyPatch) -> None:
    """And then only between the sizes of the proofs."""
    monkeypatch.setattr(general, "PROOFS", 6)
    symbol = lengths(DATA)
    made = found(symbol, ((2, 6, 8),), ((2, 9, 8),))
    assert made.trusted(((2, 7, 8),)) is None
    assert made.trusted(((2, 9, 8),)) == ((2, 9, 8),)
    for size in (5, 20):
        assert made.covers(((2, size, 8),), *convert(symbol, "data")(((2, size, 8),)))
    assert made.trusted(((2, 17, 8),)) == ((2, 17, 8),)
    for shape in ((2, 4, 8), (2, 21, 8), (3, 17, 8), (2, 17)):
        assert made.trusted((shape,)) is None


def resized(height: int, width: int) -> Callable[[mx.sym.Symbol], mx.sym.Symbol]:
    """Pictures of any size made one of a fixed size."""
    return lambda x: mx.sym.contrib.BilinearResize2D(x * 2, height=height, width=width)


@pytest.mark.parametrize(
    ("grow", "at"),
    [
        (resized(9, 7), lambda size: (1, 2, size, 8)),
        (resized(41, 47), lambda size: (1, 2, size, size + 1)),  # factors that are rounded up
        (
            lambda x: mx.sym.contrib.div_sqrt_dim(mx.sym.transpose(dense(x), axes=(0, 2, 1))),
            lambda size: (2, size, 8),
        ),
        (
            lambda x: mx.sym.contrib.div_sqrt_dim(mx.sym.reshape(x * 2, shape=(0, -1))),
            lambda size: (2, size, size - 1),
        ),
    ],
    ids=["resize", "resize of two axes", "root", "root of a product"],
)
def test_quotients_and_roots_are_those_of_conversions(
    grow: Callable[[mx.sym.Symbol], mx.sym.Symbol], at: Callable[[int], tuple[int, ...]]
) -> None:
    """To the bit: what is computed inside the model gives what a constant gives."""
    symbol = grow(DATA)
    made = found(symbol, (at(6),), (at(9),))
    for size in (*range(2, 70), 224, 640):
        outputs, direct = convert(symbol, "data")((at(size),))
        assert made.covers((at(size),), outputs, direct), size
        if size % 9 == 5:
            seen, _ = run(made.model, symbol, at(size))
            assert np.array_equal(seen, run(direct, symbol, at(size))[0]), size


@pytest.mark.parametrize("outputs", [2, (3, 7), (7, 1)])
def test_windows_of_adaptive_pooling_follow_from_the_sizes(outputs: Any) -> None:
    """Where windows are alike too, which a conversion for one size makes a pooling of."""
    symbol = mx.sym.contrib.AdaptiveAvgPooling2D(DATA * 2, output_size=outputs)
    many, one = convert(symbol, "data", varying=True), convert(symbol, "data")

    def at(size: int) -> Shapes:
        return ((1, 2, size, size + 1),)

    made = generalize(many, [at(7), at(14)])
    assert made is not None
    for size in (*range(2, 60), 224):
        assert made.covers(at(size), *many(at(size)))
        if size in (2, 6, 7, 13, 21, 50):
            seen, expected = run(made.model, symbol, at(size)[0])
            assert np.array_equal(seen, run(many(at(size))[1], symbol, at(size)[0])[0])
            np.testing.assert_allclose(seen, expected, rtol=1e-5, atol=1e-5)
    assert generalize(one, [at(7), at(14)]) is None


def test_what_is_no_function_of_sizes_has_no_general_model() -> None:
    """A size that goes up and down."""
    odd = mx.sym.contrib.BilinearResize2D(DATA * 2, scale_height=1, scale_width=1, mode="to_odd_up")
    assert generalize(convert(odd, "data"), [((1, 4, 6, 8),), ((1, 4, 9, 8),)]) is None


def test_sizes_that_do_not_go_together_have_no_general_model() -> None:
    """A probe changes each alone, which the segment does not take."""

    def at(shapes: Shapes) -> tuple[Shapes, OnnxSegment]:
        if shapes[0][1] != 2 * shapes[1][0]:
            raise EngineError("the sizes do not go together")
        return convert(lengths(DATA) + 0 * mx.sym.mean(mx.sym.var("other")), "data", "other")(
            shapes
        )

    assert generalize(at, [((2, 6, 8), (3,)), ((2, 8, 8), (4,))]) is None


def test_names_of_the_model_are_left_alone() -> None:
    """A variable may be called like what is added."""
    data = mx.sym.var("general__0")
    made = found(lengths(data), ((2, 6, 8),), ((2, 9, 8),), names=("general__0",))
    model = onnx.load_model_from_string(made.model.model)
    names = [name for node in model.graph.node for name in node.output]
    assert len(names) == len(set(names))
    assert "general__0" not in names
    assert len(made.model.sources) == len(model.graph.node)
