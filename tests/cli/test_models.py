"""Model files: what is read, and the sentence for what cannot be."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mxtrt.errors import GraphError, NodeError, OptionError
from mxtrt.plain.loading import import_mxnet, mxnet_reason
from mxtrt.saved.models import load_params, load_symbol, parse_shape


def test_gluon_export_is_read(gluon_model: Any) -> None:
    """Names lose their arg: and aux: prefixes and fit the symbol."""
    symbol, params = load_symbol(gluon_model.symbol), load_params(gluon_model.params)
    names = {*symbol.list_arguments(), *symbol.list_auxiliary_states()}
    assert names - params.keys() == {"data"}


def test_module_checkpoint_is_read(module_model: Any) -> None:
    """A Module checkpoint is read as Gluon's export."""
    symbol, params = load_symbol(module_model.symbol), load_params(module_model.params)
    assert set(symbol.list_arguments()) - params.keys() == {"data", "softmax_label"}


def test_legacy_symbol_is_upgraded(legacy_symbol: Path) -> None:
    """MXNet 0.8 did not write auxiliary states; they appear."""
    symbol = load_symbol(legacy_symbol)
    assert symbol.list_auxiliary_states() == ["bn_moving_mean", "bn_moving_var"]
    assert symbol.attr_dict()["fc_weight"]["__lr_mult__"] == "0.2"


@pytest.mark.parametrize("key", ["attr", "param"])
def test_symbols_of_other_versions_are_read(gluon_model: Any, tmp_path: Path, key: str) -> None:
    """Attributes were under "param", then "attr", and are under "attrs" now."""
    data = json.loads(gluon_model.symbol.read_text())
    for node in data["nodes"]:
        if node["op"] != "null" and "attrs" in node:
            node[key] = node.pop("attrs")
    path = tmp_path / "old-symbol.json"
    path.write_text(json.dumps(data))
    seen, expected = load_symbol(path), load_symbol(gluon_model.symbol)
    assert seen.list_arguments() == expected.list_arguments()
    assert seen.infer_shape_partial(data=(1, 3, 8, 8))[1] == [(1, 5)]


def _changed(change: Callable[[dict[str, Any]], None]) -> Callable[[str], str]:
    def apply(text: str) -> str:
        data = json.loads(text)
        change(data)
        return json.dumps(data)

    return apply


@pytest.mark.parametrize(
    ("change", "part"),
    [
        (lambda text: "", "is empty"),
        (lambda text: text[: len(text) // 2], "is cut off"),
        (lambda text: "nodes: []", "is not JSON"),
        (lambda text: "[" * 100_000, "is not JSON"),
        (lambda text: "[]", "not an MXNet symbol"),
        (lambda text: '{"model": "resnet"}', "not an MXNet symbol"),
        (lambda text: '{"nodes": [], "heads": []}', "heads name no node"),
        (_changed(lambda d: d.pop("arg_nodes")), 'Missing field "arg_nodes"'),
        (
            _changed(lambda d: d["nodes"][-1].update(op="NoSuchOp")),
            "operator 'NoSuchOp' (node 'net",
        ),
        (_changed(lambda d: d["nodes"][-1].update(op="_mxtrt_engine")), "mxtrt partitioned it"),
        (
            _changed(lambda d: d["nodes"][-1]["attrs"].update(num_hidden="many")),
            "Invalid Parameter format for num_hidden",
        ),
        (_changed(lambda d: d["heads"][0].__setitem__(1, 7)), "reads output 7 of node 'net_dense0"),
        (_changed(lambda d: d["heads"][0].__setitem__(1, -1)), "output -1"),
        (_changed(lambda d: d["nodes"][-1]["inputs"][0].__setitem__(1, 9)), "reads output 9 of"),
        (_changed(lambda d: d["nodes"][3]["inputs"][0].__setitem__(0, 99)), "topological order"),
    ],
)
def test_wrong_symbol_is_named_in_a_sentence(
    gluon_model: Any, tmp_path: Path, change: Callable[[str], str], part: str
) -> None:
    """Every message names the file and what is wrong with it, on one line."""
    path = tmp_path / "wrong-symbol.json"
    path.write_text(change(gluon_model.symbol.read_text()))
    with pytest.raises(GraphError) as caught:
        load_symbol(path)
    message = str(caught.value)
    assert str(path) in message
    assert part in message
    assert "Traceback" not in message
    assert ".cc" not in message
    assert ".h" not in message.replace(str(path), "")


def test_symbol_that_is_no_text_is_named(gluon_model: Any) -> None:
    """Giving the params file for the symbol is a likely slip."""
    with pytest.raises(GraphError, match=r"0000\.params is not text; give the -symbol\.json"):
        load_symbol(gluon_model.params)


@pytest.mark.parametrize("load", [load_symbol, load_params])
def test_missing_files_and_directories_are_named(load: Any, tmp_path: Path) -> None:
    """No traceback for a path that is no file."""
    with pytest.raises(GraphError, match=r"none\.x does not exist; give the"):
        load(tmp_path / "none.x")
    with pytest.raises(GraphError, match=r"is a directory; give the"):
        load(tmp_path)


@pytest.mark.parametrize("keep", [9, 40, 0.5, 0.99])
def test_truncated_params_are_named(gluon_model: Any, tmp_path: Path, keep: float) -> None:
    """A download that stopped is the usual reason."""
    data = gluon_model.params.read_bytes()
    path = tmp_path / "cut.params"
    path.write_bytes(data[: keep if isinstance(keep, int) else int(len(data) * keep)])
    with pytest.raises(GraphError, match=r"cut\.params cannot be read: it is cut off or damaged"):
        load_params(path)


@pytest.mark.parametrize("data", [b"", b"short", b"PK\x03\x04 some other kind of file"])
def test_what_is_no_params_file_is_named(tmp_path: Path, data: bytes) -> None:
    """MXNet never sees such a file."""
    path = tmp_path / "other.params"
    path.write_bytes(data)
    with pytest.raises(
        GraphError, match=r"other\.params is (empty|not a file of MXNet's NDArrays)"
    ):
        load_params(path)


def test_params_without_names_are_named(tmp_path: Path) -> None:
    """A list of arrays fits no symbol."""
    mx = import_mxnet()
    mx.nd.save(str(tmp_path / "list.params"), [mx.nd.ones((2,))])
    with pytest.raises(GraphError, match=r"list\.params has arrays without names"):
        load_params(tmp_path / "list.params")


@pytest.mark.parametrize(
    ("text", "shape"),
    [
        ("data:1,3,224,224", ("data", (1, 3, 224, 224))),
        ("data:1x3", ("data", (1, 3))),
        ("net:data:7", ("net:data", (7,))),
        ("x: 1, 2", ("x", (1, 2))),
    ],
)
def test_shape_is_parsed(text: str, shape: object) -> None:
    """The last colon ends the name."""
    assert parse_shape(text) == shape


@pytest.mark.parametrize(
    "text",
    ["", "data", "1,3", "data:", ":1,3", "data:1,,3", "data:0,3", "data:-1", "data:a", "d:1.5"],
)
def test_malformed_shape_is_named(text: str) -> None:
    """The message shows the form."""
    with pytest.raises(OptionError, match=r"option --shape is .* such as data:1,3,224,224"):
        parse_shape(text)


def test_missing_mxnet_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """The message says what to install."""
    monkeypatch.setitem(sys.modules, "mxnet", None)
    with pytest.raises(
        NodeError, match=r"not installed; install it with: pip install mxnet==1\.9\.1"
    ):
        import_mxnet()


def test_other_mxnet_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another version is an error for a command, where a script gets a warning."""
    monkeypatch.setattr(import_mxnet(), "__version__", "1.7.0")
    with pytest.raises(NodeError, match=r"MXNet 1\.7\.0 is installed, and mxtrt serves MXNet 1\.9"):
        import_mxnet()


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (
            'Traceback (most recent call last):\n  File "../src/a.cc", line 1\n'
            "MXNetError: Check failed: ok: Invalid NDArray file format",
            "Invalid NDArray file format",
        ),
        (
            "MXNetError: Error in operator conv0: [10:46:31] ../src/c.cc:151: "
            "Check failed: a.ndim() == 4U (2 vs. 4) : Input data should be 4D",
            "Error in operator conv0: Input data should be 4D",
        ),
        ("MXNetError: Check failed: a::b == c: ", "Check failed: a::b == c"),
        ("", "ValueError"),
    ],
)
def test_only_the_meaningful_line_of_mxnet_is_kept(message: str, reason: str) -> None:
    """C++ sources, times and failed conditions go."""
    assert mxnet_reason(ValueError(message)) == reason


def test_the_reason_of_an_extension_error_is_the_extensions():
    """Not the line in which MXNet says that an extension failed."""
    error = RuntimeError(
        "Traceback (most recent call last):\n"
        '  File "c_api.cc", line 791\n'
        "MXNetError: Error in operator softmax: [13:57:10] c_api.cc:791: Check failed: retval: "
        "Error calling InferShape for custom operator '_mxtrt_engine'\n"
        "Extension Traceback:\n"
        "\t[0] EngineError: batch size 9 is outside batch_profile 1 to 8\n"
    )
    assert mxnet_reason(error) == "batch size 9 is outside batch_profile 1 to 8"
    nested = RuntimeError(
        "MXNetError: Check failed: retval: Error calling graph pass for 'TensorRT'\n"
        "Extension Traceback:\n"
        "\t[0] MXNetError: Traceback (most recent call last):\n"
        '  File "random_generator.cu", line 57\n'
        "Name: Check failed: err == cudaSuccess (209 vs. 0) : no kernel image is available\n"
    )
    assert "no kernel image is available" in mxnet_reason(nested)
