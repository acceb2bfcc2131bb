"""Deformable convolutions compute what MXNet computes, in both of their forms."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from support.converters import Arrays, check, data, mx, refusal, symbol, to_onnx
from support.segments import segments_of

import mxtrt
from mxtrt.convert.general import generalize
from mxtrt.convert.onnx_builder import OPSET
from mxtrt.convert.segment import OnnxSegment
from mxtrt.engines import onnxruntime
from mxtrt.engines.kinds import ONNXRUNTIME
from mxtrt.offline.inspection import typed_graph
from mxtrt.plan.analysis import analyse

PLAIN, MODULATED = "_contrib_DeformableConvolution", "_contrib_ModulatedDeformableConvolution"
BOTH = pytest.mark.parametrize("op", [PLAIN, MODULATED])
FORMS = pytest.mark.parametrize("opset", [OPSET, 19])

Shapes = tuple[tuple[int, ...], ...]


def layer(
    op: str, shape: tuple[int, ...], **attrs: Any
) -> tuple[mx.sym.Symbol, dict[str, np.ndarray[Any, Any]]]:
    """A layer of four filters, and arrays for it."""
    attrs = {"kernel": (3, 3), "num_filter": 4, **attrs}
    names = ["x", "offset", *(["mask"] if op == MODULATED else []), "weight"]
    names += [] if attrs.get("no_bias") else ["bias"]
    sym = symbol(op, *map(mx.sym.var, names), **attrs)
    kernel, fields = attrs["kernel"], attrs.get("num_deformable_group", 1)
    points = kernel[0] * kernel[1] * fields
    sides = [
        (size + 2 * pad - (k - 1) * dilate - 1) // stride + 1
        for size, k, pad, dilate, stride in zip(
            shape[2:],
            kernel,
            *(attrs.get(key, (d, d)) for key, d in (("pad", 0), ("dilate", 1), ("stride", 1))),
            strict=True,
        )
    ]
    shapes = {
        "x": shape,
        "offset": (shape[0], 2 * points, *sides),
        "mask": (shape[0], points, *sides),
        "weight": (4, shape[1] // attrs.get("num_group", 1), *kernel),
        "bias": (4,),
    }
    return sym, {name: data(place, *shapes[name]) for place, name in enumerate(names)}


def inputs(arrays: Arrays) -> list[str]:
    """What is no weight."""
    return [name for name in arrays if name not in ("weight", "bias")]


@BOTH
@FORMS
@pytest.mark.parametrize(
    "attrs",
    [
        {},
        {"no_bias": True},
        {"pad": (1, 1)},
        {"pad": (2, 0), "dilate": (2, 1), "stride": (1, 2)},
        {"kernel": (1, 2), "layout": "NCHW"},
        {"num_group": 2},
        {"num_deformable_group": 2, "pad": (1, 1)},
        {"num_group": 4, "num_deformable_group": 2},
    ],
)
def test_all_attributes_count(op: str, opset: int, attrs: dict[str, Any]) -> None:
    """Strides, padding, holes, and groups of both kinds."""
    sym, arrays = layer(op, (2, 4, 6, 7), **attrs)
    converted = check(sym, arrays, inputs(arrays), opset=opset)
    assert ("DeformConv" in converted.ops) == (opset == 19)


@BOTH
@FORMS
@pytest.mark.parametrize("size", [(1, 1), (1, 4), (3, 1)])
def test_pictures_of_one_row_or_column(op: str, opset: int, size: tuple[int, int]) -> None:
    """The first row is also the last one."""
    sym, arrays = layer(op, (1, 2, *size), pad=(1, 1))
    check(sym, arrays, inputs(arrays), opset=opset)


@BOTH
@FORMS
@pytest.mark.parametrize(
    "place", [-1, -0.75, -1e-7, 0, 0.25, 3, 3.25, 3.9999998, 4, 4.25, 1000, -1e6]
)
@pytest.mark.parametrize("axis", [0, 1])
def test_places_around_the_edges(op: str, opset: int, place: float, axis: int) -> None:
    """Without a mask the last row and column go on for a pixel, with nothing before the first."""
    sym, arrays = layer(op, (1, 1, 4, 4), kernel=(1, 1), no_bias=True)
    offset = np.zeros((2, 4, 4), np.float32)
    offset[axis, 1, 1] = place - 1
    check(sym, arrays | {"offset": offset[None]}, inputs(arrays), opset=opset)


@BOTH
@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf, 1e30])
def test_places_that_are_nowhere(op: str, number: float) -> None:
    """There is nothing to read."""
    sym, arrays = layer(op, (1, 2, 5, 5))
    arrays["offset"][:, ::3] = number
    check(sym, arrays, inputs(arrays), opset=19)


def test_what_is_next_to_a_place_outside_does_not_count() -> None:
    """Zero is not a NaN times zero, as it may be in ONNX Runtime's kernel for the operator."""
    sym, arrays = layer(PLAIN, (1, 1, 4, 4), kernel=(1, 1), no_bias=True)
    arrays["x"][0, 0, 0] = np.nan
    offset = np.full((1, 2, 4, 4), -0.5, np.float32)
    converted = check(sym, arrays | {"offset": offset}, inputs(arrays))
    assert "Mul" not in converted.ops


@BOTH
@FORMS
def test_the_graph_is_the_same_for_batch_1_and_4(op: str, opset: int) -> None:
    """Byte for byte, nodes and constants."""
    bodies = []
    for batch in (1, 4):
        sym, arrays = layer(op, (batch, 4, 5, 5), num_deformable_group=2)
        bodies.append(to_onnx(sym, arrays, inputs(arrays), opset=opset).body)
    assert bodies[0] == bodies[1]


@BOTH
@FORMS
def test_one_model_serves_other_sizes(op: str, opset: int) -> None:
    """What depends on height and width follows from them."""
    sym, arrays = layer(op, (1, 4, 5, 5), pad=(1, 1))
    names = inputs(arrays)

    def convert(shapes: Shapes) -> tuple[Shapes, OnnxSegment]:
        given = dict(zip(names, shapes, strict=True))
        (segment,) = segments_of(sym, given, opset=opset, allow_ops="*")
        return tuple(sym.infer_shape(**given)[1]), segment

    def at(height: int, width: int) -> Shapes:
        return tuple((*arrays[name].shape[:2], height, width) for name in names)

    made = generalize(convert, [at(5, 6), at(8, 6), at(8, 9)])
    if op == MODULATED and opset == 19:  # it does not depend on them
        assert convert(at(5, 6))[1].digest == convert(at(8, 9))[1].digest
    else:
        assert made is not None
        outputs, direct = convert(at(13, 11))
        assert made.covers(at(13, 11), outputs, direct)


@BOTH
def test_what_is_around_it_is_written_as_its_operator_set_has_it(op: str) -> None:
    """Axes of reductions and the parts of a split are said in another way there."""
    sym, arrays = layer(op, (2, 4, 6, 6))
    parts = mx.sym.SliceChannel(sym, num_outputs=2, axis=1)
    some = [mx.sym.mean(parts[0], axis=(2, 3)), mx.sym.norm(parts[1], axis=1, ord=2)]
    more = [mx.sym.max(sym, axis=1), mx.sym.min(sym), mx.sym.prod(sym, axis=3), mx.sym.sum(sym)]
    ends = mx.sym.Group([*some, *more])
    converted = check(ends, arrays, inputs(arrays), tolerance=1e-4, opset=19)
    (version,) = converted.model.opset_import
    assert version.version == 19
    assert {"ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd", "Split"} <= {*converted.ops}


def test_models_without_it_are_of_the_older_set() -> None:
    """Whatever the engine has."""
    sym = symbol("Flatten", mx.sym.var("x"))
    (version,) = to_onnx(sym, {"x": data(0, 2, 3)}, opset=19).model.opset_import
    assert version.version == OPSET


@BOTH
def test_an_engine_without_the_operator_leaves_it_to_mxnet_on_a_cpu(op: str) -> None:
    """ONNX Runtime before 1.25: sampling takes longer there than MXNet."""
    sym, arrays = layer(op, (1, 4, 8, 8))
    graph = typed_graph(mx.sym.tanh(sym), {name: arrays[name].shape for name in inputs(arrays)})
    old = dataclasses.replace(ONNXRUNTIME, opset=OPSET)
    for engine, kept in ((ONNXRUNTIME, False), (old, True)):
        found = analyse(graph, {"weight", "bias"}, mxtrt.Options(), engine=engine, on_cpu=True)
        reasons = {graph.nodes[i].op: reason for i, reason in found.reasons.items()}
        assert (op in reasons) == kept


@pytest.mark.parametrize(
    ("version", "opset"), [("1.20.1", OPSET), ("1.24.4", OPSET), ("1.25.0", 19), ("2.0.0", 19)]
)
def test_onnx_runtime_has_the_operator_since_1_25(
    monkeypatch: pytest.MonkeyPatch, version: str, opset: int
) -> None:
    """By the version of its library."""
    library = SimpleNamespace(open_onnxruntime=lambda path, threads, spin: version)
    monkeypatch.setattr(onnxruntime, "library", lambda: library)
    assert onnxruntime.OnnxRuntime(1, spin=False).opset == opset


@pytest.mark.parametrize(
    ("part", "shapes", "attrs"),
    [
        ("a kernel of 1 axes", [], {"kernel": (3,)}),
        ("layout NHWC", [], {"layout": "NHWC"}),
        ("for each picture", [(1, 18, 4, 4)], {}),
        ("27 offsets, not 18", [(2, 27, 4, 4)], {}),
    ],
)
def test_what_stays_in_mxnet(part: str, shapes: list[tuple[int, ...]], attrs: Any) -> None:
    """With its reason."""
    offset = shapes[0] if shapes else (2, 18, 4, 4)
    attrs = {"kernel": (3, 3), "num_filter": 4, "no_bias": True, **attrs}
    said = refusal(PLAIN, (2, 3, 6, 6), offset, (4, 3, 3, 3), out=(2, 4, 4, 4), **attrs)
    assert part in said


def test_half_stays_in_mxnet() -> None:
    """Which adds places up in float16."""
    x = mx.sym.var("x", dtype="float16")
    sym = mx.sym.contrib.DeformableConvolution(
        x, mx.sym.var("offset"), kernel=(3, 3), num_filter=4, name="op"
    )
    types = dict.fromkeys(sym.list_arguments(), np.float16)
    report = mxtrt.inspect(sym, {"x": (1, 2, 6, 6), "offset": (1, 18, 4, 4)}, types)
    (left,) = report.left
    assert left.reason == "MXNet adds up the places in float16"


def test_a_network_runs_in_one_engine() -> None:
    """Offsets and masks from a convolution, as in practice; MXNet's numbers."""
    x = mx.sym.var("data")
    learned = mx.sym.Convolution(x, kernel=(3, 3), pad=(1, 1), num_filter=27, name="learned")
    offset = mx.sym.slice_axis(learned, axis=1, begin=0, end=18)
    mask = mx.sym.sigmoid(mx.sym.slice_axis(learned, axis=1, begin=18, end=27))
    attrs = {"kernel": (3, 3), "pad": (1, 1), "num_filter": 8}
    first = mx.sym.contrib.ModulatedDeformableConvolution(x, offset, mask, name="a", **attrs)
    second = mx.sym.contrib.DeformableConvolution(mx.sym.relu(first), offset, name="b", **attrs)
    sym = mx.sym.mean(second, axis=(2, 3))
    shapes, _, _ = sym.infer_shape(data=(2, 4, 9, 9))
    arrays = {
        name: mx.nd.array(data(place, *shape))
        for place, (name, shape) in enumerate(zip(sym.list_arguments(), shapes, strict=True))
    }
    answers = []
    for take in (lambda: mxtrt.options(engine="onnxruntime"), lambda: mxtrt.options(deny_ops="*")):
        with take():
            executor = sym.bind(mx.cpu(), arrays, grad_req="null")
            answers.append(executor.forward(is_train=False)[0].asnumpy())
            report = mxtrt.last_report()
    assert report is not None
    np.testing.assert_allclose(answers[0], answers[1], rtol=1e-4, atol=1e-4)
