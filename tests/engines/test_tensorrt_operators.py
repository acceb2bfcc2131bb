"""TensorRT's parser takes the ONNX of every converter, over the operators' attribute spaces."""

from __future__ import annotations

import mxnet as mx
import numpy as np
import pytest
from hypothesis import given, settings
from support.networks import ZOO
from support.segments import segments_of
from support.tensorrt import AMPERE
from support.zoo import network

from mxtrt import config
from mxtrt.convert.ops import registry
from mxtrt.engines import BuildRequest, Weight
from mxtrt.engines.tensorrt.api import Api
from mxtrt.engines.tensorrt.builder import blueprint, build_plan, canonical
from mxtrt.errors import EngineError
from mxtrt.graph.symbol import Entry, TensorType
from mxtrt.plain.loading import own_name
from mxtrt_fuzz.generate import operator_cases
from mxtrt_fuzz.graphs import Case
from mxtrt_fuzz.values import weight_arrays

#: Dtypes that it has inside; int8 is for quantized floats, and it computes nothing in uint8.
DTYPES = {"float32", "int32", "int64"}

#: What TensorRT for RTX 1.7 refuses, in words of its own; such a node stays in MXNet.
KNOWN = (
    "ROIAlign plugin was not found",  # it is there, and needs a GPU
    "at least 2 dimensions are required for input",  # the softmax of a vector
    "does not support UINT8 types for intermediate tensors",
)
#: What its builder does; such a graph stays in MXNet.
UNBUILT = (
    "Strided & Dilated Deconv are currently not supported",
    "Error during shape inference",  # an instance normalisation over one element
)


def requests(case: Case) -> list[BuildRequest]:
    """What a bind of a case asks TensorRT for; nothing where the operator stays in MXNet."""
    symbol = mx.sym.load_json(case.symbol_json())
    data = {v.name: v.tensor for v in case.variables if v.role == "data"}
    tensors = [case.tensor(Entry(i)) for i in range(len(case.nodes))]
    if not {tensor.dtype for tensor in tensors} <= DTYPES:
        return []
    dtypes = {variable.name: variable.tensor.dtype for variable in case.variables}
    shapes = {name: tensor.shape for name, tensor in data.items()}
    segments = segments_of(symbol, shapes, dtypes)
    arrays = {name: mx.nd.array(a, dtype=a.dtype) for name, a in weight_arrays(case).items()}
    found = []
    for segment in segments:
        if not data.keys() >= set(segment.inputs):
            continue  # the rest of a case of which a part stays in MXNet
        request = BuildRequest(
            segment,
            [Weight.of(w, arrays[w.name]) for w in segment.weights],
            [TensorType(data[n].shape, np.dtype(data[n].dtype)) for n in segment.inputs],
            [],
            config.current(),
        )
        found.append(canonical(request))
    return found


def refusal(api: Api, model: bytes) -> str:
    """What the parser says; nothing if it takes the model."""
    trt = api.trt
    builder = trt.Builder(api.logger)
    network = builder.create_network(0)  # the parser does not keep it
    parser = trt.OnnxParser(network, api.logger)
    if parser.parse(model):
        return ""
    return "; ".join(parser.get_error(place).desc() for place in range(parser.num_errors))


#: What is quantized for oneDNN has int8 at its edges, one operator alone.
QUANTIZED = ("_contrib_quantize", "_contrib_dequantize", "_sg_mkldnn_")
OPERATORS = [
    name
    for name, entry in sorted(registry().items())
    if own_name(name) == name and not entry.not_on_gpu and not name.startswith(QUANTIZED)
]


@pytest.mark.parametrize("name", OPERATORS)
def test_the_parser_takes_every_operator(api: Api, name: str) -> None:
    """Over its attributes; what it refuses is known."""
    parsed: list[bytes] = []

    @settings(derandomize=True, max_examples=8, deadline=None, database=None)
    @given(operator_cases(name))
    def lane(case: Case) -> None:
        for request in requests(case):
            model = blueprint(request).model
            said = refusal(api, model)
            assert not said or any(part in said for part in KNOWN), said
            parsed.append(model)

    lane()
    assert parsed, "no case was converted"


@pytest.mark.slow
@pytest.mark.parametrize("name", OPERATORS)
def test_the_builder_builds_every_operator(api: Api, name: str) -> None:
    """What the parser takes becomes an engine."""
    built = 0

    @settings(derandomize=True, max_examples=4, deadline=None, database=None)
    @given(operator_cases(name))
    def lane(case: Case) -> None:
        nonlocal built
        for request in requests(case):
            wanted = blueprint(request, AMPERE)
            if not refusal(api, wanted.model):
                try:
                    plan, _ = build_plan(api, wanted)
                    built += len(plan) > 0
                except EngineError as error:
                    if not any(part in str(error) for part in UNBUILT):
                        raise

    lane()
    assert built or name == "_contrib_ROIAlign"  # TensorRT's plugin needs a GPU


@pytest.mark.slow
@pytest.mark.parametrize("name", ZOO)
def test_the_builder_builds_every_network_of_the_zoo(api: Api, name: str) -> None:
    """All 34, as one engine each."""
    size = 299 if name == "inceptionv3" else 224
    x = mx.nd.random.uniform(-1, 1, shape=(1, 3, size, size))
    net = network(name, x)
    symbol = net(mx.sym.var("data"))
    (segment,) = segments_of(symbol, {"data": x.shape})
    arrays = {name: p.data() for name, p in net.collect_params().items()}
    request = BuildRequest(
        segment,
        [Weight.of(w, arrays[w.name]) for w in segment.weights],
        [TensorType(x.shape, np.dtype(np.float32))],
        [],
        config.current(),
    )
    plan, _ = build_plan(api, blueprint(canonical(request), AMPERE))
    assert len(plan) > 10_000
