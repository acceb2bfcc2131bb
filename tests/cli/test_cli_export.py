"""``mxtrt export``: ONNX models that answer as MXNet does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from mxtrt.errors import GraphError
from mxtrt.offline import export
from mxtrt.plain.loading import import_mxnet
from mxtrt.saved.models import load_params, load_symbol

mx = import_mxnet()
onnxruntime = pytest.importorskip("onnxruntime")
SHAPE = ("--shape", "data:1,3,8,8")


def compare(path: Path, model: Any, data: np.ndarray[Any, Any]) -> Any:
    """Run the file in ONNX Runtime and the model in MXNet; returns the session."""
    onnx.checker.check_model(str(path), full_check=True)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    symbol, arrays = load_symbol(model.symbol), load_params(model.params)
    executor = symbol.simple_bind(mx.cpu(), grad_req="null", data=data.shape)
    executor.copy_params_from(arrays, arrays, allow_extra_params=True)
    expected = executor.forward(data=mx.nd.array(data))
    assert [output.name for output in session.get_outputs()] == symbol.list_outputs()
    for seen, right in zip(session.run(None, {"data": data}), expected, strict=True):
        np.testing.assert_allclose(seen, right.asnumpy(), rtol=1e-4, atol=1e-5)
    return session


def test_a_covered_model_is_exported(mxtrt_cli: Any, gluon_model: Any, tmp_path: Path) -> None:
    """Names are the symbol's, the batch size stays open, and the numbers are MXNet's."""
    path = tmp_path / "out.onnx"
    given = (gluon_model.symbol, "--params", gluon_model.params, *SHAPE, "--onnx", path)
    result = mxtrt_cli("export", *given)
    assert result.code == 0, result
    assert [file.name for file in tmp_path.iterdir()] == ["out.onnx"]
    data = np.random.default_rng(0).standard_normal((1, 3, 8, 8)).astype(np.float32)
    session = compare(path, gluon_model, data)
    (put,) = session.get_inputs()
    assert (put.name, put.shape) == ("data", ["batch", 3, 8, 8])
    compare(path, gluon_model, np.concatenate([data, data + 1]))
    assert mxtrt_cli("export", *given, "--json").json["files"] == {str(path): path.stat().st_size}


def test_a_label_is_no_input(mxtrt_cli: Any, module_model: Any, tmp_path: Path) -> None:
    """What inference does not read is not there."""
    path = tmp_path / "out.onnx"
    given = ("--params", module_model.params, "--shape", "data:2,6", "--onnx", path)
    assert mxtrt_cli("export", module_model.symbol, *given).code == 0
    data = np.ones((2, 6), np.float32)
    session = compare(path, module_model, data)
    assert [put.name for put in session.get_inputs()] == ["data"]


def test_large_weights_are_external_data(
    mxtrt_cli: Any, gluon_model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Next to the model, mappable; a second export leaves no files of the first."""
    path = tmp_path / "out.onnx"
    given = (gluon_model.symbol, "--params", gluon_model.params, *SHAPE, "--onnx", path)
    data = np.random.default_rng(0).standard_normal((1, 3, 8, 8)).astype(np.float32)
    for large in (64, 400):
        monkeypatch.setattr(export, "LARGE", large)
        assert mxtrt_cli("export", *given).code == 0
        names = sorted(file.name for file in tmp_path.iterdir())
        assert len(names) == 2
        compare(path, gluon_model, data)
        model = onnx.load(str(path), load_external_data=False)
        places = [
            {entry.key: entry.value for entry in tensor.external_data}
            for tensor in model.graph.initializer
            if tensor.data_location == onnx.TensorProto.EXTERNAL
        ]
        assert places
        assert {place["location"] for place in places} == set(names) - {"out.onnx"}
        assert all(int(place["offset"]) % 4096 == 0 for place in places)


def test_an_operator_that_blocks_is_named(mxtrt_cli: Any, tmp_path: Path) -> None:
    """One sentence with every such operator, how often, and why; nothing is written."""
    symbol = mx.sym.round(mx.sym.round(mx.sym.exp(mx.sym.var("data"))))
    symbol.save(str(tmp_path / "m-symbol.json"))
    mx.nd.save(str(tmp_path / "m.params"), {"arg:unused": mx.nd.ones((1,))})
    path = tmp_path / "o.onnx"
    given = ("--params", tmp_path / "m.params", "--shape", "data:2,3", "--onnx", path)
    sentence = mxtrt_cli("export", tmp_path / "m-symbol.json", *given).sentence()
    assert "because of its operators 2 x round (" in sentence
    assert not path.exists()


def test_a_failing_write_leaves_the_older_model(
    mxtrt_cli: Any, gluon_model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The name is the old model's until the new one is whole; no temporary files stay."""
    path = tmp_path / "out.onnx"
    path.write_bytes(b"older")
    given = (gluon_model.symbol, "--params", gluon_model.params, *SHAPE, "--onnx", path)

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    assert "cannot be written (No space left on device)" in mxtrt_cli("export", *given).sentence()
    assert path.read_bytes() == b"older"
    assert [file.name for file in tmp_path.iterdir()] == ["out.onnx"]


def test_missing_params_are_one_sentence(mxtrt_cli: Any, gluon_model: Any, tmp_path: Path) -> None:
    """A model without weights is none."""
    given = (gluon_model.symbol, *SHAPE, "--onnx", tmp_path / "out.onnx")
    assert "--params" in mxtrt_cli("export", *given).sentence()


def test_heads_that_are_inputs_weights_or_twice_there(tmp_path: Path) -> None:
    """ONNX wants every output under a name of its own."""
    data, weight = mx.sym.var("data"), mx.sym.var("weight")
    two = mx.sym.exp(data, name="two") * weight
    split = mx.sym.split(data, num_outputs=3, axis=1, name="split")
    symbol = mx.sym.Group([two, data, two, split[2], weight, split[0]])
    values = {"weight": mx.nd.array([[1, 2, 3], [4, 5, 6]])}
    wrong = {"weight": mx.nd.ones((1, 3))}
    with pytest.raises(GraphError, match=r"weight 'weight' is float32\[1, 3\], expected"):
        export.export_onnx(symbol, wrong, {"data": (2, 3)}, tmp_path / "out.onnx")
    with pytest.raises(GraphError, match="neither a shape nor a weight"):
        export.export_onnx(symbol, {}, {"data": (2, 3)}, tmp_path / "out.onnx")
    export.export_onnx(symbol, values, {"data": (2, 3)}, tmp_path / "out.onnx")
    onnx.checker.check_model(str(tmp_path / "out.onnx"), full_check=True)
    session = onnxruntime.InferenceSession(str(tmp_path / "out.onnx"))
    given = np.arange(6, dtype=np.float32).reshape(2, 3)
    seen = session.run(None, {"data": given})
    names = [output.name for output in session.get_outputs()]
    assert len(set(names)) == 6
    assert [names[3], names[5]] == ["split_output2", "split_output0"]
    executor = symbol.bind(mx.cpu(), {"data": mx.nd.array(given), **values}, grad_req="null")
    for one, other in zip(seen, executor.forward(), strict=True):
        np.testing.assert_allclose(one, other.asnumpy(), rtol=1e-6)
