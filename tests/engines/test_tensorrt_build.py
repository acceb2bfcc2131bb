"""What TensorRT's builder is given, with TensorRT for RTX, which builds without a GPU."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import mxnet as mx
import numpy as np
import onnx
import pytest
from support.networks import classifier, images
from support.segments import segments_of
from support.tensorrt import AMPERE, batches, request_for

from mxtrt.engines.tensorrt import builder
from mxtrt.engines.tensorrt.api import Api
from mxtrt.engines.tensorrt.builder import (
    Blueprint,
    blueprint,
    build_plan,
    content_hash,
)
from mxtrt.errors import EngineError, RefusedNodesError
from mxtrt.graph.symbol import TensorType

X = images()
F32 = np.dtype(np.float32)


def shapes_of(api: Api, plan: bytes) -> Sequence[int]:
    """Shape of the input of an engine, -1 where it may vary."""
    engine = api.trt.Runtime(api.logger).deserialize_cuda_engine(plan)
    return tuple(engine.get_tensor_shape("data"))


@pytest.mark.parametrize("ranges", [None, batches((1, 2, 16)), batches((1, 2, 4), (1, 8, 16))])
@pytest.mark.parametrize("options", [{}, {"precision": "tf32"}, {"workspace": "64MiB"}])
def test_engines_build(api, ranges, options):
    """For one set of shapes and for ranges of batch sizes; the timings are kept."""
    wanted = blueprint(request_for(ranges, **options), AMPERE)
    plan, timings = build_plan(api, wanted)
    assert len(plan) > 1000
    again, _ = build_plan(api, wanted, timings)
    assert len(again) > 1000


def test_damaged_timings_are_not_fatal(api):
    """A build starts with none."""
    plan, timings = build_plan(api, blueprint(request_for(), AMPERE), b"no timing cache" * 10)
    assert len(plan) > 1000
    assert b"no timing cache" not in timings


def test_a_refused_node_is_named(api):
    """With the name of the MXNet node and the parser's words."""
    request = request_for()
    model = onnx.load_model_from_string(request.segment.model)
    place = next(i for i, node in enumerate(model.graph.node) if node.op_type == "MaxPool")
    model.graph.node[place].op_type = "NoSuchOperator"
    segment = dataclasses.replace(request.segment, model=model.SerializeToString())
    with pytest.raises(RefusedNodesError, match=r"pool: TensorRT's parser: .+") as refusal:
        build_plan(api, blueprint(dataclasses.replace(request, segment=segment), AMPERE))
    assert list(refusal.value.reasons) == ["pool"]


@pytest.mark.parametrize(
    ("said", "refused"),
    [
        ("Could not find any implementation for node v1 + v2.", ["conv", "relu"]),
        ("Could not find any implementation for node PWN(v2).", ["relu"]),
        (
            "Assertion !n->candidateRequirements.empty() failed. No supported formats for v3",
            ["roi"],
        ),
        ("Could not find any implementation for node {ForeignNode[v1...v3]}.", []),
        ("Assertion engine != nullptr failed. ", []),
        ("Out of memory); 10: (Could not find any implementation for node v1.", []),
    ],
)
def test_layers_that_no_kernel_fits_are_refused(stand_in_api, said, refused):
    """Where TensorRT names them and they are at fault: the rest of the segment gets its engine."""
    graph = onnx.GraphProto(name=f"no kernel: 10: Error Code 10: Internal Error ({said})")
    for place, kind in enumerate(("Conv", "Relu", "RoiAlign"), start=1):
        graph.node.add(op_type=kind, name=f"v{place}", output=[f"v{place}"])
    model = onnx.ModelProto(graph=graph).SerializeToString()
    wanted = Blueprint(model, ("conv", "relu", "roi"), "fp32", 0)
    with pytest.raises(EngineError, match="TensorRT did not build the engine: 10: Err") as failure:
        build_plan(stand_in_api, wanted)
    assert list(getattr(failure.value, "reasons", ())) == refused


def test_engines_for_ranges_are_built_for_sizes_that_vary(stand_in_api):
    """By the feature of TensorRT's without which its softmax is wrong at some of them."""
    model = onnx.ModelProto(graph=onnx.GraphProto(name="features")).SerializeToString()
    ranges = [{"data": [(1, 3), (2, 3), (4, 3)]}]
    for profiles, features in (([], b"none"), (ranges, b"faster")):
        wanted = Blueprint(model, (), "fp32", 0, profiles)
        assert build_plan(stand_in_api, wanted)[0] == features


def test_a_library_that_does_not_start_is_left_out(monkeypatch):
    """Once cuBLAS found no memory it never starts in that process; TensorRT can do without."""
    said = "1: [wrapper.cpp::CublasWrapper::85] Error Code 1: Cublas (Could not initialize cublas.)"
    tried = []

    def build(api, wanted, timing_cache, missing):
        tried.append(missing)
        if not missing:
            raise EngineError(f"TensorRT did not build the engine: {said}")
        return b"plan", timing_cache

    monkeypatch.setattr(builder, "_build_plan", build)
    assert build_plan(None, blueprint(request_for()), b"timings") == (b"plan", b"timings")
    assert tried == [frozenset(), {"cublas"}]


def test_a_build_that_fails_without_a_library_too_is_given_up(monkeypatch):
    """With the last error, and not tried a third time."""
    tried = []

    def build(api, wanted, timing_cache, missing):
        tried.append(missing)
        raise EngineError("Error Code 1: Cublas (Could not initialize cublas.)")

    monkeypatch.setattr(builder, "_build_plan", build)
    with pytest.raises(EngineError, match="initialize cublas"):
        build_plan(None, blueprint(request_for()))
    assert len(tried) == 2


def test_every_onnx_node_knows_its_mxnet_node():
    """Also where one MXNet node becomes several."""
    (segment,) = segments_of(classifier(), {"data": X.shape, "softmax_label": X.shape[:1]})
    nodes = onnx.load_model_from_string(segment.model).graph.node
    assert len(segment.sources) == len(nodes)
    for node, source in zip(nodes, segment.sources, strict=True):
        assert node.name.startswith(source)


def test_the_model_holds_the_weights_and_fixed_shapes():
    """Nothing external is left."""
    request = request_for()
    model = onnx.load_model_from_string(blueprint(request).model)
    (value,) = model.graph.input
    assert [d.dim_value for d in value.type.tensor_type.shape.dim] == list(X.shape)
    held = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    for weight in request.weights:
        np.testing.assert_array_equal(held[weight.type.name], weight.array.asnumpy())


def test_axes_that_vary_have_names():
    """One for those of one size; the others are fixed."""
    request = request_for(batches((1, 2, 8)))
    (value,) = onnx.load_model_from_string(blueprint(request).model).graph.input
    dims = value.type.tensor_type.shape.dim
    assert [d.dim_param or d.dim_value for d in dims] == ["size0", *X.shape[1:]]
    (profile,) = blueprint(request).profiles
    assert [[*shape] for shape in profile["v1"]] == [[n, *X.shape[1:]] for n in (1, 2, 8)]


def test_a_profile_that_tensorrt_does_not_take_is_a_refusal(api):
    """In one sentence, with its words."""
    wanted = blueprint(request_for(batches((4, 2, 8))), AMPERE)
    with pytest.raises(EngineError, match="TensorRT"):
        build_plan(api, wanted)


def test_the_hash_depends_on_all_that_the_engine_depends_on():
    """Weights, shapes, options and what is given; the same content has the same hash."""

    def digest(facts: tuple[object, ...] = (), **kwargs: Any) -> str:
        return content_hash(request_for(**kwargs), facts)

    assert digest() == digest()
    different = [
        digest(),
        digest(seed=1),
        digest(("8.6",)),
        digest(precision="tf32"),
        digest(workspace=1 << 20),
        digest(ranges=batches((1, 2, 4))),
        digest(ranges=batches((1, 2, 8))),
        digest(ranges=batches((1, 2, 4), (1, 2, 8))),
    ]
    assert len(set(different)) == len(different)
    changed = request_for()
    mx.nd.waitall()
    wider = dataclasses.replace(changed, inputs=[TensorType((4, *X.shape[1:]), F32)])
    assert content_hash(wider, ()) != digest()
