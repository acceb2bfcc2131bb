"""Saving and loading of partitioned symbols, and of networks that have engines."""

from __future__ import annotations

import copy
import gc
import json
import os
import pickle
import pickletools
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mxnet as mx
import numpy as np
import pytest
from mxnet import gluon
from mxnet.symbol.numpy import _symbol as numpy_symbols
from support.networks import assert_close, classifier, images, mixed, parameters, plain

import mxtrt
from mxtrt.engines.onnxruntime import OnnxRuntime
from mxtrt.errors import EngineError, GraphError, RefusedNodesError
from mxtrt.hooks.partitioned import EngineSymbol
from mxtrt.saved.symbol_file import sidecar_of

X = images()
OPERATOR = "_mxtrt_engine"


def partitioned(symbol: mx.sym.Symbol | None = None, seed: int = 0, **options: Any) -> Any:
    """A partitioned symbol, what it computes for X, and the dictionaries as MXNet left them."""
    symbol = classifier() if symbol is None else symbol
    args, aux = parameters(symbol, seed, data=X.shape)
    expected = plain(symbol, args, aux, data=X)
    given, states = {"data": X, **args}, dict(aux)
    made = symbol.optimize_for("TensorRT", given, states, mx.cpu(), **options)
    return made, expected, given, states


def run(symbol: mx.sym.Symbol, **arrays: mx.nd.NDArray) -> np.ndarray:
    """The first head for X."""
    return symbol.bind(mx.cpu(), {"data": X, **arrays}).forward()[0].asnumpy()


def has_engines(symbol: mx.sym.Symbol) -> bool:
    """Whether a symbol has engine nodes."""
    return OPERATOR in symbol.tojson()


def refuse(monkeypatch: pytest.MonkeyPatch, reason: str) -> None:
    """Have the engine refuse every model."""

    def build(*_: Any) -> None:
        raise EngineError(reason)

    monkeypatch.setattr(OnnxRuntime, "build", build)


# -- Symbol.save and mx.sym.load -----------------------------------------------------------------


def test_a_saved_symbol_is_loaded_with_engines_and_the_same_arguments(tmp_path):
    """Weights are in a file next to it, and no engine node is written anywhere."""
    symbol, expected, given, _ = partitioned()
    path = tmp_path / "net-symbol.json"
    symbol.save(str(path))
    assert OPERATOR not in path.read_text()
    assert len(list(tmp_path.iterdir())) == 2
    loaded = mx.sym.load(str(path))
    assert has_engines(loaded)
    assert loaded.list_inputs() == symbol.list_inputs() == list(given) == ["data"]
    assert loaded.list_outputs() == symbol.list_outputs()
    assert_close(run(loaded), expected[0])
    assert mxtrt.last_report().nodes_in_engine


def test_another_process_loads_it_beside_its_own_engines(tmp_path):
    """Engine 1 is every process's first: the other network there does not answer."""
    symbol, expected, _, _ = partitioned()
    symbol.save(str(tmp_path / "net-symbol.json"))
    (tmp_path / "net.pickle").write_bytes(pickle.dumps(symbol))
    (tmp_path / "text.json").write_text(symbol.tojson())
    np.savez(tmp_path / "arrays.npz", x=X.asnumpy(), expected=expected[0])
    script = f"""
import pickle, sys
import mxtrt, mxnet as mx, numpy as np
sys.path.insert(0, {str(Path(__file__).parents[1])!r})
from support.networks import *
arrays = np.load("arrays.npz")
x = mx.nd.array(arrays["x"])
try:
    mx.sym.load("text.json")
except mx.MXNetError as error:
    assert "whose engines were in another process" in str(error), error
else:
    raise AssertionError("loaded")
args, aux = parameters(classifier(), seed=5, data=x.shape)
other = classifier().optimize_for("TensorRT", {{"data": x, **args}}, aux, mx.cpu())
try:
    mx.sym.load("text.json").bind(mx.cpu(), {{"data": x}})
except mx.MXNetError as error:
    assert "does not exist in this process" in str(error), error
else:
    raise AssertionError("bound")
for symbol in mx.sym.load("net-symbol.json"), pickle.load(open("net.pickle", "rb")):
    assert "_mxtrt_engine" in symbol.tojson()
    assert_close(symbol.bind(mx.cpu(), {{"data": x}}).forward()[0], arrays["expected"])
print("done")
"""
    environment = {**os.environ, "USE_TENSORRT": "0"}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.stdout == "done\n", done.stderr


def test_plain_mxnet_loads_what_was_saved(tmp_path):
    """Without mxtrt: checkpoints and exports as they are, a symbol with its sidecar."""
    symbol, expected, given, states = partitioned()
    given.pop("data")
    symbol.save(str(tmp_path / "alone-symbol.json"))
    mx.model.save_checkpoint(str(tmp_path / "checkpoint"), 0, symbol, given, states)
    block = gluon.SymbolBlock(symbol, mx.sym.var("data"))
    block.hybridize()
    block(X)
    block.export(str(tmp_path / "export"))
    sidecar = next(tmp_path.glob("alone-symbol.json.*.params"))
    shutil.copy(sidecar, tmp_path / "alone-0000.params")
    np.savez(tmp_path / "arrays.npz", x=X.asnumpy(), expected=expected[0])
    script = """
import sys
sys.modules["mxtrt"] = None
import numpy as np
for name in ("bool", "int", "float", "object", "str"):
    setattr(np, name, __builtins__.__dict__[name])
import mxnet as mx
arrays = np.load("arrays.npz")
x = mx.nd.array(arrays["x"])
for prefix in "alone", "checkpoint", "export":
    symbol, args, aux = mx.model.load_checkpoint(prefix, 0)
    args = {"data": x, "softmax_label": mx.nd.zeros((2,)), **args}
    executor = symbol.bind(mx.cpu(), args, aux_states=aux)
    assert type(executor) is mx.executor.Executor
    seen = executor.forward()[0].asnumpy()
    assert np.abs(seen - arrays["expected"]).max() < 1e-5, prefix
print("done")
"""
    done = subprocess.run(
        [sys.executable, "-S", "-W", "ignore", "-c", script],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
        capture_output=True,
        text=True,
    )
    assert done.stdout == "done\n", done.stderr


def test_parts_and_compositions_are_saved_too(tmp_path):
    """Internals, one of several heads, groups, and symbols built on a partitioned one."""
    symbol, expected, given, _ = partitioned(mixed())
    for made, place in (
        (symbol[1], 1),
        (symbol.get_internals()["middle_output"], 1),
        (mx.sym.Group([symbol[0], symbol[1]]), 0),
        (mx.sym.identity(symbol[0]), 0),
        (copy.deepcopy(symbol), 0),
    ):
        made.save(str(tmp_path / "part.json"))
        for loaded in mx.sym.load(str(tmp_path / "part.json")), pickle.loads(pickle.dumps(made)):
            arrays = {name: given[name] for name in loaded.list_arguments() if name != "data"}
            assert_close(run(loaded, **arrays), expected[place])
    assert len(list(tmp_path.iterdir())) == 2, "sidecars of symbols that the file had before"


def test_what_mxnet_ran_it_runs_where_the_symbol_is_loaded():
    """Otherwise the auxiliary states of a BatchNorm became arguments: they are no weights there."""
    batch_norm = mx.sym.BatchNorm(mx.sym.eye(N=5), name="norm")
    convolution = mx.sym.Convolution(mx.sym.var("data"), num_filter=2, kernel=(3, 3), name="c")
    symbol = mx.sym.Group([convolution, batch_norm])
    made, expected, given, states = partitioned(symbol, allow_ops="*")
    assert "norm_moving_mean" in made.list_auxiliary_states()
    loaded = pickle.loads(pickle.dumps(made))
    assert loaded.list_arguments() == made.list_arguments()
    assert loaded.list_auxiliary_states() == made.list_auxiliary_states()
    for head, out in enumerate(loaded.bind(mx.cpu(), given, aux_states=states).forward()):
        assert_close(out, expected[head])


def test_a_label_that_is_computed_comes_back(tmp_path):
    """As language models reshape theirs; nothing reads it, so its nodes had left the graph."""
    label = mx.sym.reshape(mx.sym.var("softmax_label", lr_mult=2.0), shape=(-1,), name="flat")
    dense = mx.sym.FullyConnected(mx.sym.var("data"), num_hidden=3, name="d")
    symbol = mx.sym.SoftmaxOutput(dense, label, name="softmax")
    weights = {"d_weight": mx.nd.ones((3, 768)), "d_bias": mx.nd.ones((3,))}
    given = {"data": X, "softmax_label": mx.nd.zeros((2, 1)), **weights}
    made = symbol.optimize_for("TensorRT", given, {}, mx.cpu(), deny_ops="Reshape")
    assert made.list_arguments() == ["data", "softmax_label"]
    mx.model.save_checkpoint(str(tmp_path / "net"), 0, made, {}, {})
    whole, args, _ = mx.model.load_checkpoint(str(tmp_path / "net"), 0)
    assert whole.list_arguments() == symbol.list_arguments()
    assert whole.get_internals().list_outputs() == symbol.get_internals().list_outputs()
    assert whole.attr_dict() == symbol.attr_dict()
    assert args.keys() == weights.keys()
    loaded = pickle.loads(pickle.dumps(made))
    assert loaded.list_arguments() == made.list_arguments()
    label = {"softmax_label": mx.nd.zeros((2, 1))}
    answers = [
        s.bind(mx.cpu(), {"data": X, **label}).forward()[0].asnumpy() for s in (loaded, made)
    ]
    assert (answers[0] == answers[1]).all()


def test_a_symbol_that_gave_up_states_only_is_loaded(tmp_path):
    """Without an argument among the weights."""
    symbol = mx.sym.mean(mx.sym.IdentityAttachKLSparseReg(mx.sym.var("data"), name="i"), name="m")
    made, expected, *_ = partitioned(symbol, allow_ops="*")
    assert made.list_inputs() == ["data"]
    loaded = pickle.loads(pickle.dumps(made))
    assert loaded.list_inputs() == ["data"]
    assert_close(run(loaded), expected[0])


def test_casts_of_mixed_precision_are_kept(tmp_path):
    """By pickle, whether or not there is a weight; by save, unless it is told to remove them."""
    data = mx.sym.amp_cast(mx.sym.var("data"), dtype="float32", name="cast")
    dense = mx.sym.FullyConnected(data, num_hidden=3, name="d")
    made, expected, *_ = partitioned(dense)
    for symbol in (
        made,
        mx.sym.exp(data).optimize_for("TensorRT", {"data": X}, ctx=mx.cpu(), allow_ops="*"),
    ):
        for kept in True, False:
            symbol.save(str(tmp_path / "a.json"), remove_amp_cast=not kept)
            assert ("amp_cast" in (tmp_path / "a.json").read_text()) == kept
        whole = pickle.loads(pickle.dumps(symbol))
        whole.save(str(tmp_path / "a.json"), remove_amp_cast=False)
        assert "amp_cast" in (tmp_path / "a.json").read_text()
    assert_close(run(pickle.loads(pickle.dumps(made))), expected[0])


def test_a_symbol_that_gave_up_nothing_is_saved_as_it_was(tmp_path):
    """Nothing was partitioned, or what was has no weights."""
    nothing = partitioned(deny_ops="*," + ",".join(["Convolution", "FullyConnected"]))[0]
    data = mx.sym.var("data")
    weightless = mx.sym.exp(mx.sym.tanh(data), name="e")
    made = weightless.optimize_for("TensorRT", {"data": X}, ctx=mx.cpu(), allow_ops="*")
    assert has_engines(made)
    made.save(str(tmp_path / "a.json"))
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]
    assert type(mx.sym.load(str(tmp_path / "a.json"))) is mx.sym.Symbol
    assert type(pickle.loads(pickle.dumps(made))) is mx.sym.Symbol
    assert pickle.loads(pickle.dumps(nothing)).list_outputs() == nothing.list_outputs()


def test_attributes_and_precision_are_kept(tmp_path):
    """Of weights, which had left the graph; and of the bind."""
    data, weight = mx.sym.var("data"), mx.sym.var("d_weight", lr_mult=0.5)
    symbol = mx.sym.FullyConnected(data, weight, num_hidden=3, no_bias=True, name="d")
    given = {"data": X, "d_weight": mx.nd.ones((3, 768))}
    made = symbol.optimize_for("TensorRT", given, ctx=mx.cpu(), precision="fp16", min_nodes=1)
    made.save(str(tmp_path / "a.json"))
    loaded = mx.sym.load(str(tmp_path / "a.json"))
    assert loaded.plan.options.precision == "fp16"
    whole = mx.sym.load_json((tmp_path / "a.json").read_text())
    assert whole.attr_dict()["d_weight"]["__lr_mult__"] == "0.5"
    assert whole.list_inputs() == symbol.list_inputs()


def test_a_symbol_with_dead_engines_cannot_be_saved(tmp_path):
    """One sentence, and no file."""
    symbol, *_ = partitioned()
    above = mx.sym.load_json(symbol.tojson())
    other, *_ = partitioned()
    del symbol
    gc.collect()
    with pytest.raises(GraphError, match="which does not exist in this process"):
        above.save(str(tmp_path / "a.json"))
    assert not list(tmp_path.iterdir())
    with pytest.raises(GraphError, match="is an address"):
        other.save("s3://bucket/net-symbol.json")


def test_engines_of_a_symbol_that_was_partitioned_twice_live_on():
    """The second symbol still has the first one's engine nodes."""
    once, expected, given, _ = partitioned(mixed())
    twice = once.optimize_for("TensorRT", given, {}, mx.cpu())
    numpy = twice.as_np_ndarray()
    del once, twice
    gc.collect()
    assert_close(run(numpy), expected[0])
    assert_close(run(pickle.loads(pickle.dumps(numpy))), expected[0])


def test_a_numpy_symbol_is_loaded_as_one(tmp_path):
    """MXNet has it, and does not export it."""
    symbol, expected, _, _ = partitioned()
    symbol.as_np_ndarray().save(str(tmp_path / "a.json"))
    loaded = numpy_symbols.load(str(tmp_path / "a.json"))
    assert type(loaded) is numpy_symbols._Symbol
    gc.collect()
    assert_close(run(loaded), expected[0])


# -- where the engine cannot be built ------------------------------------------------------------


@pytest.mark.parametrize("part", [False, True])
def test_what_an_engine_does_not_take_is_mxnets(tmp_path, monkeypatch, part):
    """All of it or a node: the arguments are those that were saved, however it is bound."""
    symbol, expected, *_ = partitioned()
    path, prefix = tmp_path / "net-symbol.json", str(tmp_path / "net")
    symbol.save(str(path))
    mx.nd.save(f"{prefix}-0000.params", {"arg:unused": mx.nd.ones((1,))})
    build = OnnxRuntime.build

    def refusing(self: Any, request: Any) -> Any:
        if not part:
            raise EngineError("no engine here")
        if any(weight.type.name == "dense_weight" for weight in request.weights):
            raise RefusedNodesError({"dense": "not this one"})
        return build(self, request)

    monkeypatch.setattr(OnnxRuntime, "build", refusing)
    if part:
        loaded = mx.sym.load(str(path))
    else:
        with pytest.warns(mxtrt.MxtrtWarning, match="no engine here"):
            loaded = mx.sym.load(str(path))
    assert has_engines(loaded) == part
    assert_close(run(loaded), expected[0])
    assert_close(loaded.bind(mx.cpu(), [X]).forward()[0], expected[0])
    executor = loaded.simple_bind(mx.cpu(), grad_req="null", data=X.shape)
    assert_close(executor.forward(data=X)[0], expected[0])
    executor = loaded.simple_bind(mx.cpu(), grad_req="null", data=(1, *X.shape[1:]))
    assert_close(executor.forward(data=X[1:])[0], expected[0][1:])
    assert_close(loaded.bind(mx.cpu(), {"data": X[1:]}).forward()[0], expected[0][1:])
    again = copy.deepcopy(loaded)[0]
    assert_close(run(again), expected[0])
    again.save(str(tmp_path / "again.json"))
    assert_close(run(pickle.loads(pickle.dumps(again))), expected[0])
    whole, args, aux = mx.model.load_checkpoint(prefix, 0)
    module = mx.mod.Module(whole, label_names=None)
    module.bind([("data", X.shape)], for_training=False)
    module.set_params(args, aux, allow_extra=True)
    module.forward(mx.io.DataBatch([X]))
    assert_close(module.get_outputs()[0], expected[0])
    monkeypatch.undo()
    last = mx.sym.load(str(tmp_path / "again.json"))
    assert last.list_inputs() == ["data"]
    assert_close(run(last), expected[0])


@pytest.mark.parametrize("change", [{"gpu": 900}, {}])
def test_another_kind_of_machine_takes_what_it_has(tmp_path, monkeypatch, change):
    """Saved on a GPU and loaded without one; loaded where no engine is."""
    symbol, expected, *_ = partitioned()
    path = tmp_path / "net-symbol.json"
    symbol.save(str(path))
    data = json.loads(path.read_text())
    mark = {**json.loads(data["attrs"]["mxtrt_saved"][1]), **change}
    data["attrs"]["mxtrt_saved"][1] = json.dumps(mark)
    path.write_text(json.dumps(data))
    if change:
        loaded = mx.sym.load(str(path))
    else:

        def select(_: Any) -> Any:
            raise EngineError("ONNX Runtime is not installed here")

        monkeypatch.setattr("mxtrt.plan.graph_pass.select", select)
        with pytest.warns(mxtrt.MxtrtWarning, match="not installed here"):
            loaded = mx.sym.load(str(path))
    assert has_engines(loaded) == bool(change)
    assert_close(run(loaded), expected[0])


def test_int8_is_loaded_with_its_ranges(tmp_path):
    """The file of ranges need not be there any more."""
    pytest.importorskip("onnxruntime.quantization")
    symbol, ranges = classifier(), tmp_path / "ranges.json"
    args, aux = parameters(symbol, data=X.shape)
    mxtrt.calibrate(symbol, [{"data": X}], params={**args, **aux}, out=ranges)
    options = {"precision": "int8", "ranges": str(ranges), "cache_dir": str(tmp_path / "cache")}
    made, *_ = partitioned(**options)
    made.save(str(tmp_path / "net-symbol.json"))
    seen = run(made)
    ranges.unlink()
    with pytest.raises(GraphError, match=r"ranges\.json.* cannot be read"):
        pickle.dumps(made)
    with mxtrt.options(cache_dir=tmp_path / "elsewhere"):
        loaded = mx.sym.load(str(tmp_path / "net-symbol.json"))
    assert loaded.plan.options.precision == "int8"
    assert (run(loaded) == seen).all()
    assert list((tmp_path / "elsewhere" / "ranges").glob("*.json"))


def test_gluon_imports_what_an_engine_does_not_take(tmp_path, monkeypatch):
    """SymbolBlock.imports, with and without a file of what was left."""
    symbol = mixed()
    data = mx.sym.FullyConnected(symbol[0], num_hidden=3, name="out")
    made, expected, given, _ = partitioned(data, deny_ops="FullyConnected")
    made.save(str(tmp_path / "net-symbol.json"))
    given.pop("data")
    assert sorted(given) == ["out_bias", "out_weight"]
    mx.nd.save(str(tmp_path / "net.params"), {f"arg:{n}": a for n, a in given.items()})
    arguments = (str(tmp_path / "net-symbol.json"), ["data"], str(tmp_path / "net.params"))
    assert_close(gluon.SymbolBlock.imports(*arguments)(X), expected[0])
    refuse(monkeypatch, "no engine now")
    with pytest.warns(mxtrt.MxtrtWarning, match="no engine now"):
        block = gluon.SymbolBlock.imports(*arguments)
    block.hybridize()
    assert_close(block(X), expected[0])


# -- together with weights -----------------------------------------------------------------------


def test_a_checkpoint_is_whole(tmp_path):
    """The symbol as it was and every weight: nothing of mxtrt is in the files."""
    symbol, expected, given, states = partitioned()
    given.pop("data")
    prefix = str(tmp_path / "net")
    mx.model.save_checkpoint(prefix, 3, symbol, given, states)
    assert not given, "the caller's dictionary is the caller's"
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "net-0003.params",
        "net-symbol.json",
    ]
    loaded, args, aux = mx.model.load_checkpoint(prefix, 3)
    kept, states = parameters(classifier(), data=X.shape)
    assert args.keys() == kept.keys()
    assert aux.keys() == states.keys()
    for name, array in {**args, **aux}.items():
        assert (array.asnumpy() == {**kept, **states}[name].asnumpy()).all()
    assert_close(plain(loaded, args, aux, data=X)[0], expected[0])


def test_a_module_of_a_partitioned_symbol_is_saved_whole(tmp_path):
    """Module.save_checkpoint and Module.load."""
    symbol, expected, _, _ = partitioned()
    module = mx.mod.Module(symbol, label_names=None)
    module.bind([("data", X.shape)], for_training=False)
    module.init_params()
    module.save_checkpoint(str(tmp_path / "net"), 1)
    loaded, args, aux = mx.model.load_checkpoint(str(tmp_path / "net"), 1)
    assert_close(plain(loaded, args, aux, data=X)[0], expected[0])


@pytest.fixture
def network() -> Callable[[], gluon.HybridBlock]:
    """Makes a small network whose weights are large enough to be paged out."""

    def make() -> gluon.HybridBlock:
        net = gluon.nn.HybridSequential()
        net.add(gluon.nn.Conv2D(8, 3, in_channels=3), gluon.nn.BatchNorm(), gluon.nn.Dense(100))
        net.initialize(mx.init.Xavier())
        return net

    return make


@pytest.mark.parametrize("how", ["environment", "optimize_for", "hybridize"])
def test_a_network_with_engines_is_saved_as_it_was(tmp_path, network, how):
    """After its weights were paged out: export, parameters, the block, its copies and pickles."""
    net, twin = network(), network()
    if how == "optimize_for":
        net(X)
        net.optimize_for(X, backend="TensorRT")
    else:
        net.hybridize(**({"backend": "TensorRT"} if how == "hybridize" else {}))
    with mxtrt.options(enabled=how == "environment"):
        seen = net(X)
    assert mxtrt.last_report().released_bytes
    assert mxtrt.last_report().nodes_in_engine == 3
    path = str(tmp_path / "net")
    net.export(path)
    net.save_parameters(path + ".params")
    net.save(path)
    mx.nd.save(path + ".nd", list(net.collect_params().values())[-2].data())
    assert OPERATOR not in "".join(p.read_text() for p in tmp_path.glob("*.json"))
    assert_close(
        gluon.SymbolBlock.imports(path + "-symbol.json", "data", path + "-0000.params")(X), seen
    )
    twin.load_parameters(path + ".params")
    assert_close(twin(X), seen)
    third = network()
    third(X)
    third.load(path)
    assert_close(third(X), seen)
    for other in copy.deepcopy(net), pickle.loads(pickle.dumps(net)):
        assert_close(other(X), seen)
        with mxtrt.options():
            assert_close(other(X), seen)
        other.export(path)
    array = list(net.collect_params().values())[-2].data()
    assert (mx.nd.load(path + ".nd")[0].asnumpy() == array.asnumpy()).all()


def test_a_block_of_a_partitioned_symbol_is_exported_whole(tmp_path):
    """And pickled with its engines."""
    symbol, expected, _, _ = partitioned()
    block = gluon.SymbolBlock(symbol, mx.sym.var("data"))
    assert_close(block(X), expected[0])
    block.export(str(tmp_path / "net"))
    whole, args, aux = mx.model.load_checkpoint(str(tmp_path / "net"), 0)
    assert_close(plain(whole, args, aux, data=X)[0], expected[0])
    again = pickle.loads(pickle.dumps(block))
    assert isinstance(again._cached_graph[1], EngineSymbol)
    assert_close(again(X), expected[0])


def test_executors_show_their_own_symbol():
    """What a user can reach of an executor has no engine node."""
    symbol = classifier()
    args, aux = parameters(symbol, data=X.shape)
    given = {"data": X, "softmax_label": mx.nd.zeros((2,)), **args}
    with mxtrt.options():
        executor = symbol.bind(mx.cpu(), given, aux_states=aux)
    executor.forward()
    assert not has_engines(executor._symbol)
    assert not has_engines(pickle.loads(pickle.dumps(executor._symbol)))


# -- what is wrong with the files ----------------------------------------------------------------


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    """A saved symbol and its sidecar."""
    path = tmp_path / "net-symbol.json"
    partitioned()[0].save(str(path))
    return path, next(tmp_path.glob("*.params"))


def test_a_missing_sidecar_is_named(files):
    """As is the symbol, and what to do."""
    path, sidecar = files
    sidecar.unlink()
    with pytest.raises(GraphError) as caught:
        mx.sym.load(str(path))
    assert str(path) in str(caught.value)
    assert str(sidecar) in str(caught.value)
    assert "copy it there" in str(caught.value)
    assert mx.sym.load_json(path.read_text()).list_arguments()[1:], "the symbol itself is whole"


def test_a_damaged_sidecar_is_refused(files):
    """At a byte of each of its parts, cut off, or that of another symbol."""
    path, sidecar = files
    data = sidecar.read_bytes()
    damaged = [data[:-1], b"", data + b"\0"]
    for place in range(0, len(data), len(data) // 8):
        damaged.append(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
    for wrong in damaged:
        sidecar.write_bytes(wrong)
        with pytest.raises(GraphError, match=f"{sidecar.name}.* SHA-256"):
            mx.sym.load(str(path))
    sidecar.unlink()
    partitioned(seed=1)[0].save(str(path.with_name("other.json")))
    other = next(path.parent.glob("other.json.*.params"))
    other.rename(sidecar)
    with pytest.raises(GraphError, match="belong to another symbol"):
        mx.sym.load(str(path))


def test_an_interrupted_save_leaves_the_older_symbol(files, monkeypatch):
    """The sidecar comes first and has a name of its own."""
    path, sidecar = files
    before = path.read_text()
    symbol = partitioned(seed=1)[0]
    monkeypatch.setattr(
        "mxtrt.saved.symbol_file.write_text", lambda *_: (_ for _ in ()).throw(OSError("full"))
    )
    with pytest.raises(OSError, match="full"):
        symbol.save(str(path))
    assert path.read_text() == before
    assert sidecar.exists()
    mx.sym.load(str(path))
    monkeypatch.undo()
    symbol.save(str(path))
    assert not sidecar.exists()
    assert len(list(path.parent.iterdir())) == 2


def test_a_sidecar_is_looked_for_next_to_its_symbol_only(files):
    """By a name made from the symbol's own and hexadecimal digits."""
    path, sidecar = files
    data = json.loads(path.read_text())
    mark = json.loads(data["attrs"]["mxtrt_saved"][1])
    assert sidecar_of(path, mark["weights"]) == sidecar
    for wrong in "../../etc/passwd", "/etc/passwd", mark["weights"].upper(), "", None, 3:
        data["attrs"]["mxtrt_saved"][1] = json.dumps({**mark, "weights": wrong})
        path.write_text(json.dumps(data))
        with pytest.raises(GraphError, match="mxtrt_saved is damaged"):
            mx.sym.load(str(path))


def test_a_pickle_names_a_function_that_has_not_moved():
    """Pickles that exist name it, so it stays where it is."""
    made = partitioned(seed=1)[0]
    assert {"mxtrt.hooks.saving", "restored"} <= {
        argument for _, argument, _ in pickletools.genops(pickle.dumps(made))
    }
