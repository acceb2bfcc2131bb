"""``mxtrt.calibrate`` and ``precision="int8"``."""

from __future__ import annotations

import json
from typing import Any

import mxnet as mx
import numpy as np
import onnx
import pytest
from support.networks import classifier
from support.segments import Segment, arrays_of

import mxtrt
from mxtrt import config
from mxtrt.engines import BuildRequest
from mxtrt.engines.kinds import KINDS, ONNXRUNTIME
from mxtrt.engines.onnxruntime import OnnxRuntime
from mxtrt.errors import RefusedNodesError
from mxtrt.graph.symbol import TensorType
from mxtrt.offline.calibration import Chain
from mxtrt.precision.ranges import read_ranges
from mxtrt.trial.check import forget

SHAPES = {"data": (4, 3, 16, 16), "softmax_label": (4,)}


def pictures(seed: int = 0) -> Any:
    """A batch of pictures."""
    return mx.nd.array(np.random.default_rng(seed).uniform(-1, 1, SHAPES["data"]))


def forward(symbol: Any, arrays: dict[str, Any], x: Any, **options: Any) -> Any:
    """The first output of a bind."""
    every = {**arrays, "data": x, "softmax_label": mx.nd.zeros(4)}
    with mxtrt.options(engine="onnxruntime", **options):
        executor = symbol.bind(
            mx.cpu(),
            {name: every[name] for name in symbol.list_arguments()},
            aux_states={name: every[name] for name in symbol.list_auxiliary_states()},
            grad_req="null",
        )
        return executor.forward()[0].asnumpy()


def calibrated(symbol: Any, arrays: dict[str, Any], path: Any, **options: Any) -> Any:
    """Ranges from two batches."""
    data = [pictures(1), pictures(2)]
    return mxtrt.calibrate(symbol, data, params=arrays, out=path, model="a model", **options)


@pytest.mark.parametrize("method", ["minmax", "percentile", "entropy"])
def test_a_calibrated_symbol_runs_in_int8(method, tmp_path):
    """Close to float32, but not the same."""
    symbol, path = classifier(), tmp_path / "ranges.json"
    arrays = arrays_of(symbol, **SHAPES)
    calibrated(symbol, arrays, path, method=method)
    expected = forward(symbol, arrays, pictures(), enabled=False)
    seen = forward(symbol, arrays, pictures(), precision="int8", ranges=path)
    (segment,) = mxtrt.last_report().segments
    assert "2 of 2 layers in int8" in segment.notes
    assert 0 < np.abs(seen - expected).max() < 0.1


@pytest.mark.parametrize("way", ["bind", "block"])
@pytest.mark.parametrize("kept", [[], ["dense"]])
def test_ranges_serve_every_bind_whatever_it_takes_for_weights(way, kept, tmp_path):
    """A factor of ``dot`` could be data: a bind of a symbol has to be told, a block knows."""
    dense = mx.sym.FullyConnected(mx.sym.var("data"), num_hidden=12, name="dense")
    symbol = mx.sym.dot(mx.sym.relu(dense), mx.sym.var("factor"), name="product")
    x = mx.nd.array(np.random.default_rng(0).uniform(-1, 1, (5, 7)))
    shapes = {"dense_weight": (12, 7), "dense_bias": (12,), "factor": (12, 3)}
    arrays = {n: mx.nd.random.uniform(-1, 1, shape=shape) for n, shape in shapes.items()}
    path = tmp_path / "ranges.json"
    mxtrt.calibrate(symbol, [x], params={**arrays, "unused": x}, out=path, keep=kept)
    expected = symbol.bind(mx.cpu(), {**arrays, "data": x}, grad_req="null").forward()[0]
    with mxtrt.options(engine="onnxruntime", precision="int8", ranges=path):
        if way == "block":
            block = mx.gluon.SymbolBlock(symbol, [mx.sym.var("data")])
            for name, parameter in block.collect_params().items():
                parameter._load_init(arrays[name], mx.cpu())
            block.hybridize()
            seen = block(x).asnumpy()
        else:
            executor = symbol.bind(mx.cpu(), {**arrays, "data": x}, grad_req="null")
            seen = executor.forward()[0].asnumpy()
    (segment,) = mxtrt.last_report().segments
    quantized = (2 if way == "block" else 1) - len(kept)  # a product of data is none of them
    assert f"{quantized} of 2 layers in int8" in segment.notes
    assert 0 <= np.abs(seen - expected.asnumpy()).max() < 0.2


def layers_for(kind, symbol, arrays, path, x):
    """How many layers an engine of a kind finds ranges for, and the nodes that it leaves."""
    mxtrt.calibrate(symbol, [x], params=arrays, out=path)
    chain, found = Chain(symbol, arrays, {"data": x}, kind=kind), read_ranges(path)
    return sum(len(found.find(model).layers) for model in chain.models), chain.left


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("alone", [False, True])
def test_ranges_serve_the_engines_of_a_gpu_too(alone, kind, tmp_path):
    """TensorRT gets what stays in MXNet on a CPU: its segments are others."""
    volume = mx.sym.reshape(mx.sym.var("data"), (2, 2, 3, 16, 16))
    symbol = mx.sym.Convolution(volume, kernel=(3, 3, 3), num_filter=4, name="volume")
    if not alone:
        symbol = mx.sym.FullyConnected(mx.sym.relu(symbol), num_hidden=3, name="dense")
    elif kind is ONNXRUNTIME:
        pytest.skip("nothing is left for it")
    arrays = arrays_of(symbol, data=SHAPES["data"])
    layers, left = layers_for(kind, symbol, arrays, tmp_path / "ranges.json", pictures())
    assert layers == (1 if alone or kind is ONNXRUNTIME else 2)
    assert ("volume" in left) == (kind is ONNXRUNTIME)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", ["uint8", "int32"])
def test_ranges_serve_engines_that_take_fewer_dtypes(dtype, kind, tmp_path):
    """TensorRT leaves the cast of a picture's bytes to MXNet, and before 10 int64 too."""
    picture = mx.sym.cast(mx.sym.var("data", dtype=dtype), "float32") / 255
    symbol = mx.sym.Convolution(picture, kernel=(3, 3), num_filter=4, name="conv")
    place = mx.sym.cast(mx.sym.cast(mx.sym.argmax(symbol, axis=1), "int64"), "float32", name="max")
    symbol = mx.sym.FullyConnected(mx.sym.broadcast_add(symbol, place), num_hidden=3, name="dense")
    arrays = arrays_of(symbol, data=SHAPES["data"])
    x = (pictures() * 100).astype(dtype)
    layers, left = layers_for(kind, symbol, arrays, tmp_path / "ranges.json", x)
    assert layers == 2
    assert bool(left) == (not {np.dtype(dtype), np.dtype(np.int64)} <= set(kind.dtypes))


@pytest.mark.parametrize("options", [{}, {"prefer": "auto"}])
def test_what_is_guessed_of_float32_does_not_choose_the_layers(options, tmp_path, monkeypatch):
    """One thread computes dense layers of many rows faster in MXNet, but not in int8."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    symbol = mx.sym.FullyConnected(mx.sym.var("data"), num_hidden=256, flatten=False, name="dense")
    symbol = mx.sym.relu(symbol)
    arrays = arrays_of(symbol, data=(2048, 768))
    data = mx.nd.random.uniform(-1, 1, (2048, 768))
    path = tmp_path / "ranges.json"
    with mxtrt.options(**options):
        mxtrt.calibrate(symbol, [data], params=arrays, out=path)
    forward(symbol, arrays, data, precision="int8", ranges=path, **options)
    (segment,) = mxtrt.last_report().segments
    assert "1 of 1 layers in int8" in segment.notes


def test_the_file_says_where_it_comes_from(tmp_path):
    """And is readable: one line per tensor."""
    symbol, path = classifier(), tmp_path / "ranges.json"
    calibrated(symbol, arrays_of(symbol, **SHAPES), path)
    data = json.loads(path.read_text())
    assert (data["model"], data["method"], data["samples"]) == ("a model", "minmax", 8)
    assert len(data["model_hash"]) == 64
    (segment,) = data["segments"]
    assert segment["layers"] == {"conv": "int8", "dense": "int8"}
    name, low, high = segment["tensors"][0]
    assert name == "data"
    assert -1 <= low < -0.9 < 0.9 < high <= 1
    assert any(line.strip().startswith('["data", ') for line in path.read_text().splitlines())


def test_what_mxnet_computes_between_segments_is_computed(tmp_path, monkeypatch):
    """The second segment sees the values that it will see."""
    monkeypatch.setenv("MXTRT_DENY_OPS", "Pooling")
    symbol, path = classifier(), tmp_path / "ranges.json"
    arrays = arrays_of(symbol, **SHAPES)
    found = calibrated(symbol, arrays, path)
    assert len(found.segments) == 2
    assert found.segments[1].tensors[0].low == 0  # behind a relu
    expected = forward(symbol, arrays, pictures(), enabled=False)
    seen = forward(symbol, arrays, pictures(), precision="int8", ranges=path)
    assert len(mxtrt.last_report().segments) == 2
    assert 0 < np.abs(seen - expected).max() < 0.1


@pytest.mark.parametrize("way", ["symbol", "block"])
def test_weights_and_data_may_be_elsewhere(way, tmp_path):
    """As on a GPU: they are brought to the CPU, where MXNet computes what segments are fed."""
    there, others = mx.cpu(1), [mx.cpu(1), mx.cpu(2)]
    data = [pictures(1), pictures(2)]
    symbol = classifier().get_internals()["dense_output"]
    arrays = arrays_of(symbol, data=SHAPES["data"])
    with mxtrt.options(deny_ops="Pooling"):
        expected = calibrated(symbol, arrays, tmp_path / "ranges.json")
        if way == "symbol":
            moved = {name: array.as_in_context(there) for name, array in arrays.items()}
            pair = [data[0].as_in_context(there), {"data": data[1].asnumpy()}]
            with there:  # where numbers of NumPy would become arrays
                found = mxtrt.calibrate(symbol, pair, params=moved)
        else:
            block = mx.gluon.SymbolBlock(symbol, mx.sym.var("data"))
            for name, parameter in block.collect_params().items():
                parameter._load_init(arrays[name], others)
            found = mxtrt.calibrate(block, [batch.as_in_context(there) for batch in data])
    assert [s.tensors for s in found.segments] == [s.tensors for s in expected.segments]


def test_every_data_pipeline_is_taken():
    """A DataIter, a DataLoader with labels, arrays by name."""
    net = mx.gluon.nn.HybridSequential()
    net.add(mx.gluon.nn.Dense(4, activation="relu"), mx.gluon.nn.Dense(3))
    net.initialize()
    values = np.random.default_rng(0).standard_normal((12, 5)).astype(np.float32)
    net(mx.nd.array(values))
    labels = np.zeros(12, np.float32)
    pipelines = [
        mx.io.NDArrayIter(values, labels, 4),
        mx.gluon.data.DataLoader(mx.gluon.data.ArrayDataset(values, labels), 4),
        [{"data": values[:4]}, {"data": values[4:]}],
        [values],
    ]
    tables = [mxtrt.calibrate(net, data).segments[0].tensors for data in pipelines]
    assert tables[0] == tables[1] == tables[2] == tables[3]


def test_a_network_made_again_is_recognised(tmp_path):
    """Gluon gives its blocks new names."""
    values = mx.nd.array(np.random.default_rng(0).standard_normal((12, 5)))

    def network() -> Any:
        net = mx.gluon.nn.HybridSequential()
        net.add(mx.gluon.nn.Dense(4, in_units=5), mx.gluon.nn.Dense(3, in_units=4))
        net.initialize(mx.init.One())
        return net

    mxtrt.calibrate(network(), [values], out=tmp_path / "ranges.json")
    other = network()
    with mxtrt.options(precision="int8", ranges=tmp_path / "ranges.json"):
        other.hybridize()
        other(values)
    assert not mxtrt.last_report().reason


@pytest.mark.parametrize("names", ["ab", "cd"])
def test_segments_that_only_their_names_tell_apart_have_ranges_of_their_own(names, tmp_path):
    """Products without weights, as in attention; under other names ranges that hold for both."""
    x = mx.nd.array(np.random.default_rng(0).uniform(-1, 1, (2, 4, 4)))

    def network(first: str, second: str) -> Any:
        data = mx.sym.var("data")
        larger = mx.sym.batch_dot(data, data, name=first) * 5
        return mx.sym.batch_dot(larger, larger, name=second)

    path, options = tmp_path / "ranges.json", {"deny_ops": "_mul_scalar", "allow_ops": "*"}
    with mxtrt.options(engine="onnxruntime", **options):
        mxtrt.calibrate(network("a", "b"), [x], params={}, out=path)
    with mxtrt.options(engine="onnxruntime", precision="int8", ranges=path, **options):
        executor = network(*names).bind(mx.cpu(), {"data": x}, grad_req="null")
    seen, expected = executor.forward()[0].asnumpy(), x.asnumpy() @ x.asnumpy() * 5
    assert len(mxtrt.last_report().segments) == 2
    error = np.abs(seen - expected @ expected).max() / np.abs(expected @ expected).max()
    assert error < (0.03 if names == "ab" else 0.3)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("none", "precision=int8 needs the ranges"),
        ("weights", "the ranges are of a model with other weights"),
        ("model", r"the ranges are of another model \(a model\)"),
        ("missing", "the ranges cannot be read"),
        ("text", "holds no ranges"),
    ],
)
def test_ranges_that_are_not_the_models_are_refused(change, reason, tmp_path):
    """With one sentence; the graph runs as plain MXNet."""
    symbol, path = classifier(), tmp_path / "ranges.json"
    arrays = arrays_of(symbol, **SHAPES)
    calibrated(symbol, arrays, path)
    if change == "weights":
        arrays["conv_weight"] = arrays["conv_weight"] + 1
    elif change == "model":
        symbol = mx.sym.relu(symbol)
    elif change == "missing":
        path.unlink()
    elif change == "text":
        path.write_text("{}")
    given = {} if change == "none" else {"ranges": path}
    with pytest.warns(mxtrt.MxtrtWarning, match=reason):
        forward(symbol, arrays, pictures(3), precision="int8", **given)


def test_layers_can_be_kept_in_float32(tmp_path):
    """By name or place; an unknown name is an error that lists the layers."""
    symbol, path = classifier(), tmp_path / "ranges.json"
    arrays = arrays_of(symbol, **SHAPES)
    found = calibrated(symbol, arrays, path, keep=["first"])
    assert [layer.precision for layer in found.segments[0].layers] == ["fp16", "int8"]
    forward(symbol, arrays, pictures(), precision="int8", ranges=path)
    (segment,) = mxtrt.last_report().segments
    assert "1 of 2 layers in int8" in segment.notes
    with pytest.raises(mxtrt.OptionError, match="no layer 'cnv' to keep; the layers are: conv, de"):
        calibrated(symbol, arrays, path, keep=["cnv"])


@pytest.mark.parametrize("vnni", [True, False])
def test_layers_that_share_a_weight_run_in_int8(vnni, tmp_path, monkeypatch):
    """On a CPU without VNNI too, where ONNX Runtime multiplies uint8 by uint8."""
    monkeypatch.setattr("mxtrt.engines.onnxruntime._has_vnni", lambda: vnni)
    x, weight = mx.sym.var("data"), mx.sym.var("weight")
    for _ in range(2):
        x = mx.sym.FullyConnected(x, weight, num_hidden=8, no_bias=True)
    random, path = np.random.default_rng(0), tmp_path / "ranges.json"
    data, arrays = mx.nd.array(random.uniform(-1, 1, (4, 8))), {}
    arrays["weight"] = mx.nd.array(random.uniform(-0.5, 0.5, (8, 8)))
    mxtrt.calibrate(x, [data], params=arrays, out=path)
    expected = forward(x, arrays, data, enabled=False)
    seen = forward(x, arrays, data, precision="int8", ranges=path)
    assert "2 of 2 layers in int8" in mxtrt.last_report().segments[0].notes
    assert 0 < np.abs(seen - expected).max() < 0.05


def test_two_layers_of_one_node_have_names_of_their_own(tmp_path):
    """An adaptive pooling is two products; either is kept, or both by the node's name."""
    symbol = mx.sym.contrib.AdaptiveAvgPooling2D(mx.sym.var("data"), output_size=(2, 3), name="p")
    data, path = mx.nd.random.uniform(shape=(1, 1, 3, 5)), tmp_path / "ranges.json"
    for keep, kept in ((["p:1"], [False, True]), (["p"], [True, True]), ([], [False, False])):
        mxtrt.calibrate(symbol, [data], params={}, out=path, keep=keep)
        (segment,) = read_ranges(path).segments
        assert [layer.name for layer in segment.layers] == ["p", "p:1"]
        assert [layer.precision == "fp16" for layer in segment.layers] == kept


def test_a_segment_without_layers_needs_no_ranges(monkeypatch):
    """int8 has nothing to do there, and what the engine refuses cuts it as in float32."""
    symbol = mx.sym.tanh(mx.sym.exp(mx.sym.var("data"), name="exp"))
    forward(symbol, {}, pictures(), precision="int8", allow_ops="*")
    assert mxtrt.last_report().nodes_in_engine == 2
    build = OnnxRuntime.build

    def refuse(self: OnnxRuntime, request: BuildRequest) -> Any:
        if "exp" in request.segment.sources:
            raise RefusedNodesError({"exp": "no kernel"})
        return build(self, request)

    monkeypatch.setattr(OnnxRuntime, "build", refuse)
    forget()
    forward(symbol, {}, pictures(), precision="int8", allow_ops="*")
    assert mxtrt.last_report().nodes_in_engine == 1


@pytest.mark.parametrize("precision", ["fp16", "fp32"])
def test_kept_layers_are_float16_where_the_engine_computes_it(precision, tmp_path):
    """Unless the file says float32; the others stay next to their DequantizeLinear."""
    symbol, path = classifier(), tmp_path / "ranges.json"
    arrays = arrays_of(symbol, **SHAPES)
    calibrated(symbol, arrays, path, keep=["last"])
    path.write_text(path.read_text().replace('"dense": "fp16"', f'"dense": "{precision}"'))
    segment = Segment(symbol, arrays, **SHAPES)
    found = segment.retyped(precision="int8", ranges=path)
    assert found.types["Conv"] == "FLOAT"
    assert found.types["Gemm"] == ("FLOAT16" if precision == "fp16" else "FLOAT")
    assert ("Cast" in found.types) == (precision == "fp16")
    plain = segment.retyped(precision="int8", ranges=path, float16=False)
    assert plain.types["Gemm"] == "FLOAT"
    path.write_text(path.read_text().replace(f'"dense": "{precision}"', '"dense": "fp8"'))
    with pytest.raises(mxtrt.EngineError, match="is 'fp8', expected int8, fp16 or fp32"):
        segment.retyped(precision="int8", ranges=path)


@pytest.mark.parametrize("float16", [True, False])
@pytest.mark.parametrize("added", [(4, 5), (5,)])
def test_a_product_with_a_matrix_added_stays_float32(added, float16, tmp_path):
    """The quantizer takes a bias for a number a channel."""
    random, path = np.random.default_rng(0), tmp_path / "ranges.json"
    shapes = {"weight": (5, 6), "added": added}
    data, weight, bias = (
        mx.sym.var(name, shape=shape) for name, shape in {"data": (4, 6), **shapes}.items()
    )
    symbol = mx.sym.FullyConnected(data, weight, bias, num_hidden=5)
    if len(added) == 2:
        symbol = mx.sym.linalg_gemm(data, weight, bias, transpose_b=True)
    arrays = {n: mx.nd.array(random.normal(size=shape)) for n, shape in shapes.items()}
    mxtrt.calibrate(symbol, [mx.nd.array(random.normal(size=(4, 6)))], params=arrays, out=path)
    segment = Segment(symbol, arrays, data=(4, 6))
    found = segment.retyped(precision="int8", ranges=path, float16=float16)
    assert found.notes[0] == f"{int(len(added) == 1)} of 1 layers in int8"


@pytest.mark.parametrize("stubborn", [False, True])
@pytest.mark.parametrize("named", [True, False])
def test_a_layer_that_the_engine_refuses_leaves_int8(named, stubborn, tmp_path, monkeypatch):
    """The others stay, where it is named; one refused in float32 too leaves the graph to MXNet."""
    symbol, path = classifier(), tmp_path / "ranges.json"
    arrays = arrays_of(symbol, **SHAPES)
    calibrated(symbol, arrays, path, keep=[])
    build, counts = OnnxRuntime.build, []

    def refuse(self: OnnxRuntime, request: BuildRequest) -> Any:
        nodes = onnx.load_model_from_string(request.segment.model).graph.node
        counts.append(sum(node.op_type == "DequantizeLinear" for node in nodes))
        (conv,) = (node for node in nodes if node.op_type == "Conv")
        if stubborn or conv.input[1].endswith("_DequantizeLinear_Output"):
            if not named:
                raise mxtrt.EngineError("no kernel")
            raise RefusedNodesError({"conv": "no kernel", "relu": "no kernel"})
        return build(self, request)

    monkeypatch.setattr(OnnxRuntime, "build", refuse)
    expected = forward(symbol, arrays, pictures(), enabled=False)
    if stubborn:
        with pytest.warns(mxtrt.MxtrtWarning, match="conv: no kernel" if named else "no kernel"):
            seen = forward(symbol, arrays, pictures(), precision="int8", ranges=path)
    else:
        seen = forward(symbol, arrays, pictures(), precision="int8", ranges=path)
        (segment,) = mxtrt.last_report().segments
        which = "conv" if named else "conv and 1 more"
        assert segment.notes[0] == f"{int(named)} of 2 layers in int8"
        assert segment.notes[1] == f"{which} not in int8: no kernel"
    assert len(counts) == (3 if named and stubborn else 2)
    assert counts == sorted(set(counts), reverse=True)
    assert (counts[-1] == 0) == (stubborn or not named)
    assert 0 <= np.abs(seen - expected).max() < 0.1 * np.abs(expected).max()


def test_what_is_not_int8_reads_no_quantized_tensor_in_tensorrt(tmp_path):
    """And a Clip before a quantization is Max and Min: TensorRT 8.5 reads it in the wrong scale."""
    bounded = mx.sym.clip(mx.sym.var("data"), a_min=-0.5, a_max=0.75)
    size = {"num_hidden": SHAPES["data"][-1], "flatten": False, "no_bias": True}
    first = mx.sym.FullyConnected(bounded, name="first", **size)
    residual = first + bounded
    second = mx.sym.FullyConnected(residual, name="second", **size)
    symbol = mx.sym.Group([mx.sym.broadcast_minimum(residual, second), mx.sym.abs(bounded)])
    path, shapes = tmp_path / "ranges.json", {"data": SHAPES["data"]}
    arrays = arrays_of(symbol, **shapes)
    calibrated(symbol, arrays, path)
    model = Segment(symbol, arrays, **shapes).retyped(precision="int8", ranges=path).model
    made = {name: node.op_type for node in model.graph.node for name in node.output}
    read = [(n.op_type, *(made.get(name, "") for name in n.input)) for n in model.graph.node]
    assert ("Max", "", "") in read
    assert ("Min", "Max", "") in read
    assert ("Abs", "Min") in read
    assert read.count(("QuantizeLinear", "Min", "", "")) == 1
    assert read.count(("MatMul", "DequantizeLinear", "DequantizeLinear")) == 2
    assert ("Add", "MatMul", "DequantizeLinear") in read
    assert ("Min", "Add", "MatMul") in read
    assert "Clip" not in made.values()


@pytest.mark.parametrize(("low", "kinds"), [(0, {"Relu"}), (-0.5, {"Max", "Min"})])
def test_the_range_of_a_relu6_is_its_bound_in_tensorrt(low, kinds, tmp_path):
    """So it is a Relu, which runs with the layer before it."""
    size = {"num_hidden": SHAPES["data"][-1], "flatten": False, "no_bias": True}
    first = mx.sym.FullyConnected(mx.sym.var("data"), name="first", **size)
    bounded = mx.sym.clip(first, a_min=low, a_max=0.75)
    symbol = mx.sym.FullyConnected(bounded, name="second", **size)
    path, shapes = tmp_path / "ranges.json", {"data": SHAPES["data"]}
    arrays = arrays_of(symbol, **shapes)
    calibrated(symbol, arrays, path)
    model = Segment(symbol, arrays, **shapes).retyped(precision="int8", ranges=path).model
    others = {"DequantizeLinear", "MatMul", "QuantizeLinear", "Transpose"}
    assert {node.op_type for node in model.graph.node} - others == kinds


def test_no_clip_leads_to_a_quantization_in_tensorrt_without_a_layer_between(tmp_path):
    """TensorRT 8.5 moves one through what is between too; behind the last layer it stays."""
    size = {"num_hidden": SHAPES["data"][-1], "flatten": False, "no_bias": True}
    bounded = mx.sym.clip(mx.sym.var("data"), a_min=-0.5, a_max=0.75) * 1.5
    again = mx.sym.clip(bounded, a_min=0.25, a_max=1)
    layer = mx.sym.FullyConnected(again, name="layer", **size)
    symbol = mx.sym.clip(layer, a_min=-2, a_max=2)
    path, shapes = tmp_path / "ranges.json", {"data": SHAPES["data"]}
    arrays = arrays_of(symbol, **shapes)
    calibrated(symbol, arrays, path)
    model = Segment(symbol, arrays, **shapes).retyped(precision="int8", ranges=path).model
    kinds = [node.op_type for node in model.graph.node]
    place = kinds.index("MatMul")
    assert "Clip" not in kinds[:place]
    assert (kinds.count("Max"), kinds.count("Min"), kinds.count("Clip")) == (2, 2, 1)


@pytest.mark.parametrize(
    ("before", "quantized"),
    [
        (lambda x: x * 2, 1),
        (lambda x: x / 255, 1),
        (lambda x: mx.sym.broadcast_mul(x, mx.sym.var("factor", shape=(1, 3, 1, 1))), 1),
        (lambda x: mx.sym.transpose(mx.sym.Pooling(x, pool_type="sum", kernel=(2, 1))), 1),
        (lambda x: mx.sym.relu(mx.sym.reshape(x * 2, (4, 3, 256))), 1),
        (lambda x: mx.sym.tanh(x * 2), 2),
        (lambda x: x * x, 2),
        (lambda x: mx.sym.Pooling(x, pool_type="avg", kernel=(2, 1)), 2),
    ],
)
def test_no_layer_in_int8_reads_a_multiple_in_tensorrt(before, quantized, tmp_path):
    """TensorRT 8.5 quantizes a constant factor's inverse with it; ONNX Runtime takes either."""
    symbol = mx.sym.FullyConnected(before(mx.sym.var("data")), num_hidden=8, name="first")
    symbol = mx.sym.FullyConnected(mx.sym.relu(symbol), num_hidden=3, name="second")
    path, shapes = tmp_path / "ranges.json", {"data": SHAPES["data"]}
    arrays = arrays_of(symbol, **shapes)
    with mxtrt.options(allow_ops="*"):
        calibrated(symbol, arrays, path)
        made = Segment(symbol, arrays, **shapes).retyped(precision="int8", ranges=path)
        assert f"{quantized} of 2 layers in int8" in made.notes
        forward(symbol, arrays, pictures(), precision="int8", ranges=path)
    assert "2 of 2 layers in int8" in mxtrt.last_report().segments[0].notes


@pytest.mark.parametrize("keep", [[], ["first"]])
def test_tensorrt_builds_the_model(keep, tmp_path):
    """Symmetric, strongly typed, for a GPU that need not be there."""
    pytest.importorskip("tensorrt_rtx")
    from mxtrt.engines.tensorrt.api import load_api
    from mxtrt.engines.tensorrt.builder import blueprint, build_plan, canonical

    symbol, path = classifier(), tmp_path / "ranges.json"
    arrays = arrays_of(symbol, **SHAPES)
    calibrated(symbol, arrays, path, keep=keep)
    segment = Segment(symbol, arrays, **SHAPES)
    found = segment.retyped(precision="int8", ranges=path)
    assert found.types["QuantizeLinear"] == "INT8"
    zeros = [t for t in found.model.graph.initializer if "zero_point" in t.name]
    assert zeros
    assert not any(onnx.numpy_helper.to_array(tensor).any() for tensor in zeros)
    api = load_api("tensorrt_rtx")
    options = config.current().replace(precision="int8", ranges=path)
    outputs = [TensorType((4, 10), np.dtype(np.float32))]
    request = BuildRequest(found.segment, found.weights, segment.inputs, outputs, options)

    plan, _ = build_plan(api, blueprint(canonical(request), (8, 6)))
    assert len(plan) > 1000
