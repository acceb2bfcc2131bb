"""``mxtrt inspect``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mxtrt.plain.loading import import_mxnet

mx = import_mxnet()
SHAPE = ("--shape", "data:1,3,8,8")


def test_segments_are_shown(mxtrt_cli: Any, gluon_model: Any) -> None:
    """A table for people."""
    result = mxtrt_cli("inspect", gluon_model.symbol, *SHAPE)
    assert result.code == 0
    assert result.err == ""
    assert "data float32[1x3x8x8]" in result.out
    assert "4 of 4 nodes in 1 segments" in result.out


def test_json_is_the_report(mxtrt_cli: Any, gluon_model: Any) -> None:
    """Stdout is JSON and nothing else; parameters may be given."""
    result = mxtrt_cli(
        "inspect", gluon_model.symbol, "--params", gluon_model.params, *SHAPE, "--json"
    )
    assert result.json["nodes_in_engine"] == 4
    assert result.json["shapes"] == {"data": [1, 3, 8, 8]}
    assert result.json["weight_bytes"] > 0
    assert result.json["left"] == []


def test_denied_operators_are_left_with_the_reason(mxtrt_cli: Any, gluon_model: Any) -> None:
    """Reasons are grouped by operator; what is left between them is not worth an engine."""
    deny = ("--deny-ops", "FullyConnected,BatchNorm")
    result = mxtrt_cli("inspect", gluon_model.symbol, *SHAPE, *deny, "--engine", "onnxruntime")
    assert "Left in MXNet" in result.out
    assert "1 of 4 nodes in 1 segments" in result.out
    left = mxtrt_cli("inspect", gluon_model.symbol, *SHAPE, *deny, "--json").json["left"]
    assert [node["op"] for node in left] == ["BatchNorm", "Activation", "FullyConnected"]
    batch_norm, relu, dense = (node["reason"] for node in left)
    assert "deny_ops" in batch_norm
    assert "deny_ops" in dense
    assert "cheap operator" in relu


def test_operators_are_denied_by_the_environment(
    mxtrt_cli: Any, gluon_model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Options are those of a bind."""
    monkeypatch.setenv("MXTRT_DENY_OPS", "FullyConnected")
    result = mxtrt_cli("inspect", gluon_model.symbol, *SHAPE, "--json")
    assert result.json["nodes_in_engine"] == 3


def test_module_checkpoint_needs_no_shape_of_its_label(mxtrt_cli: Any, module_model: Any) -> None:
    """MXNet infers the shape of the label."""
    arguments = ("--params", module_model.params, "--shape", "data:2,6", "--json")
    result = mxtrt_cli("inspect", module_model.symbol, *arguments)
    assert result.json["shapes"] == {"data": [2, 6], "softmax_label": [2]}
    assert result.json["nodes_in_engine"] == 2


def test_legacy_symbol_is_inspected(mxtrt_cli: Any, legacy_symbol: Path) -> None:
    """A symbol of MXNet 0.8 has engines, too."""
    result = mxtrt_cli("inspect", legacy_symbol, "--shape", "data:2,6", "--json")
    assert result.json["nodes_in_engine"] == 2


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_weights_say_what_the_symbol_does_not(mxtrt_cli: Any, tmp_path: Path, dtype: str) -> None:
    """The dtype of the data and the shape of a weight, where MXNet cannot infer them."""
    symbol = mx.sym.relu(mx.sym.broadcast_add(mx.sym.var("data"), mx.sym.var("shift")))
    symbol.save(str(tmp_path / "add-symbol.json"))
    mx.nd.save(str(tmp_path / "add.params"), {"arg:shift": mx.nd.ones((1, 3), dtype=dtype)})
    files = (tmp_path / "add-symbol.json", "--params", tmp_path / "add.params")
    result = mxtrt_cli("inspect", *files, "--shape", "data:2,3", "--json")
    assert result.code == 0, result.err
    assert dtype in result.out
    assert "not known" not in result.out
    if dtype == "float32":
        assert [s["inputs"] for s in result.json["segments"]] == [["data float32[2x3]"]]


@pytest.mark.parametrize(
    ("shapes", "part"),
    [
        ((), "the shape of data argument 'data' is not known; give it, such as --shape data:1,3"),
        (("data:1,3",), "the symbol does not accept --shape data:1,3: Error in operator net_conv0"),
        (
            ("dat:1,3,8,8",),
            "'dat', which is no argument of the symbol; its data arguments are: data",
        ),
        (("data",), "option --shape is 'data'"),
        (("data:1,3,8,8", "data:2,3,8,8"), "--shape is given twice for 'data'"),
    ],
)
def test_wrong_shapes_are_named(
    mxtrt_cli: Any, gluon_model: Any, shapes: tuple[str, ...], part: str
) -> None:
    """The message says which argument needs what."""
    options = [word for shape in shapes for word in ("--shape", shape)]
    assert part in mxtrt_cli("inspect", gluon_model.symbol, *options).sentence()


def test_missing_weight_is_named(mxtrt_cli: Any, gluon_model: Any, tmp_path: Path) -> None:
    """The first missing weight, and how many more."""
    arrays = mx.nd.load(str(gluon_model.params))
    kept = {name: a for name, a in arrays.items() if "dense" not in name}
    mx.nd.save(str(tmp_path / "few.params"), kept)
    result = mxtrt_cli("inspect", gluon_model.symbol, *SHAPE, "--params", tmp_path / "few.params")
    assert "few.params lacks the weight 'net_dense0_weight' and 1 more" in result.sentence()


def test_weight_of_a_wrong_shape_is_named(mxtrt_cli: Any, gluon_model: Any, tmp_path: Path) -> None:
    """Name, seen, expected."""
    arrays = mx.nd.load(str(gluon_model.params))
    arrays["arg:net_dense0_bias"] = mx.nd.zeros((7,))
    mx.nd.save(str(tmp_path / "odd.params"), arrays)
    result = mxtrt_cli("inspect", gluon_model.symbol, *SHAPE, "--params", tmp_path / "odd.params")
    part = "weight 'net_dense0_bias' in the params file"
    assert part in result.sentence()
    assert "has shape (7,), expected (5,)" in result.sentence()


def test_params_of_another_input_size_are_named(mxtrt_cli: Any, gluon_model: Any) -> None:
    """A wrong --shape shows in the first weight that does not fit."""
    arguments = ("--shape", "data:1,3,9,9", "--params", gluon_model.params)
    sentence = mxtrt_cli("inspect", gluon_model.symbol, *arguments).sentence()
    assert "'net_dense0_weight'" in sentence
    assert "has shape (5, 144), expected (5, 196)" in sentence


def test_unknown_operator_is_named(mxtrt_cli: Any, gluon_model: Any, tmp_path: Path) -> None:
    """C++ stack traces do not reach the user."""
    data = json.loads(gluon_model.symbol.read_text())
    data["nodes"][-1]["op"] = "NoSuchOp"
    path = tmp_path / "new-symbol.json"
    path.write_text(json.dumps(data))
    sentence = mxtrt_cli("inspect", path, *SHAPE).sentence()
    assert "has the operator 'NoSuchOp' (node 'net_dense0_fwd')" in sentence
