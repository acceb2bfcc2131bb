"""Files from elsewhere: one sentence each, in little memory and time."""

from __future__ import annotations

import hashlib
import io
import json
import struct
from pathlib import Path

import mxnet as mx
import numpy as np
import pytest

from mxtrt.convert.segment import WeightType
from mxtrt.engines import Weight
from mxtrt.errors import EngineError, GraphError
from mxtrt.graph.symbol import Graph, TensorType
from mxtrt.precision.ranges import read_ranges
from mxtrt.saved import params_file
from mxtrt.saved.models import load_params, load_symbol
from mxtrt.saved.symbol_file import Saved
from mxtrt_fuzz import files
from mxtrt_fuzz.corpus import read

NODE = {"op": "null", "name": "data", "inputs": []}


def symbol_text(**changes: object) -> str:
    """A symbol of one variable, with changes."""
    return json.dumps({"nodes": [NODE], "arg_nodes": [0], "heads": [[0, 0, 0]], **changes})


@pytest.mark.parametrize(
    "text",
    [
        "[" * 100_000,
        '{"nodes":' * 5_000,
        symbol_text(attrs={"a": json.loads("[" * 80 + "]" * 80)}),
        symbol_text(heads=[[0, 0, 0]] * 100_001),
        symbol_text(heads=[["0", 0, 0]]),
        symbol_text(heads=[[0, 1 << 40, 0]]),
        symbol_text(heads=[[0.5, 0, 0]]),
        symbol_text(heads=[[True, 0, 0]]),
        symbol_text(heads=["00"]),
        symbol_text(heads=[[]]),
        symbol_text(nodes=[{**NODE, "attrs": {"__shape__": 3}}]),
        symbol_text(nodes=[{**NODE, "attrs": {"__ext_shape__": "[" * 10_000}}]),
        symbol_text(nodes=[{**NODE, "attrs": ["a"]}]),
        symbol_text(nodes=[{**NODE, "inputs": [[0, 0, 0]]}]),
        symbol_text(nodes=[{**NODE, "inputs": [[0, 0, 0]] * 100_001}]),
        symbol_text(nodes={"0": NODE}),
        "3",
        '"nodes"',
        "null",
        "",
    ],
    ids=lambda text: text[:40],
)
def test_a_symbol_that_is_none_is_refused(tmp_path, text):
    """By the graph's reader and by the file's, before MXNet sees it."""
    with pytest.raises(GraphError):
        Graph.from_json(text)
    (tmp_path / "s.json").write_text(text)
    with pytest.raises(GraphError, match=r"symbol file .*s\.json"):
        load_symbol(tmp_path / "s.json")


def test_brackets_inside_of_names_are_no_depth():
    """Also behind escaped quotes."""
    name = '"[{\\' * 100
    graph = Graph.from_json(symbol_text(nodes=[{**NODE, "name": name}]))
    assert graph.nodes[0].name == name


def saved(tmp_path, **arrays: mx.nd.NDArray) -> bytes:
    """A params file."""
    mx.nd.save(str(tmp_path / "p"), arrays)
    return (tmp_path / "p").read_bytes()


@pytest.mark.parametrize(
    "dtype", ["float32", "float64", "float16", "uint8", "int8", "int32", "int64"]
)
def test_params_of_every_dtype_are_read(tmp_path, dtype):
    """Whatever MXNet writes passes."""
    saved(tmp_path, **{"arg:a": mx.nd.ones((2, 3), dtype=dtype), "aux:b": mx.nd.zeros((1,))})
    arrays = load_params(tmp_path / "p")
    assert arrays["a"].asnumpy().dtype == np.dtype(dtype)
    assert sorted(arrays) == ["a", "b"]


def test_params_cut_off_anywhere_are_refused(tmp_path):
    """At each byte."""
    data = saved(tmp_path, a=mx.nd.ones((2, 3)), b=mx.nd.ones((1,)))
    params_file.check_params(data)
    for end in range(len(data)):
        with pytest.raises(GraphError):
            params_file.check_params(data[:end])


def test_claims_that_exceed_the_file_are_refused(tmp_path):
    """Counts, axes, sizes and lengths are believed by nobody."""
    header, huge = struct.pack("<QQ", params_file.MAGIC, 0), 1 << 62
    array = struct.pack("<Ii", 0xF993FAC9, 0)
    cases = {
        r"claims 4611686018427387904 arrays": header + struct.pack("<Q", huge),
        r"array of 1073741824 axes": header
        + struct.pack("<Q", 1)
        + array
        + struct.pack("<i", 1 << 30),
        r"shape \(-4,\)": header
        + struct.pack("<Q", 1)
        + array
        + struct.pack("<iqiii", 1, -4, 1, 0, 0),
        r"cut off or damaged": header
        + struct.pack("<Q", 1)
        + array
        + struct.pack("<iqiii", 1, huge, 1, 0, 0),
        r"array of 2147483648 axes": header + struct.pack("<QI", 1, 1 << 31),
        r"device 77:0": header
        + struct.pack("<Q", 1)
        + array
        + struct.pack("<iqiii", 1, 0, 77, 0, 0),
        r"array of type 99": header
        + struct.pack("<Q", 1)
        + array
        + struct.pack("<iqiii", 1, 0, 1, 0, 99),
        r"storage type 2": header + struct.pack("<QIi", 1, 0xF993FAC9, 2),
        r"0 arrays and": header + struct.pack("<QQ", 0, huge),
        r"name of 4611686018427387904 bytes": header
        + struct.pack("<Q", 1)
        + array
        + struct.pack("<iQQ", 0, 1, huge),
    }
    for told, data in cases.items():
        (tmp_path / "p").write_bytes(data)
        with pytest.raises(GraphError, match=told):
            load_params(tmp_path / "p")


def test_a_corpus_case_from_elsewhere_is_data_only(tmp_path):
    """No pickle, no depth; what is wrong is one sentence that names the file."""
    (tmp_path / "case.json").write_text("[" * 100_000)
    with pytest.raises(ValueError, match=r"case\.json is not a case"):
        read(tmp_path)
    case = next(Path(__file__).parents[2].glob("fuzz/corpus/*/case.json"))
    (tmp_path / "case.json").write_text(case.read_text())
    np.savez(tmp_path / "inputs.npz", data=np.array([object()], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match=r"inputs\.npz"):
        read(tmp_path)
    (tmp_path / "inputs.npz").write_bytes(b"PK no zip")
    with pytest.raises(ValueError, match=r"inputs\.npz"):
        read(tmp_path)


MARK = {
    "format": 1,
    "weights": "0" * 64,
    "inputs": {"data": ["float32", [1, 3]], "label": ["int32", []]},
    "unread": ["label"],
    "left": ["round0"],
    "options": {
        "precision": "fp16",
        "deny_ops": ["Pooling"],
        "batch_profile": [1, 2, 3],
        "shapes": [["data", [[1, 2, 3], [4, 4, 4]]]],
    },
    "ranges": "",
    "gpu": None,
    "made_by": "mxtrt",
}


def marked_text(**changes: object) -> str:
    """A saved partitioned symbol, its mark with changes."""
    return symbol_text(attrs={"mxtrt_saved": ["str", json.dumps({**MARK, **changes})]})


def test_a_mark_is_read():
    """And written again."""
    saved = Saved.from_json(marked_text())
    assert saved is not None
    assert saved.inputs["data"] == TensorType((1, 3), np.dtype(np.float32))
    assert Saved.from_json(saved.to_json()) == saved
    assert "mxtrt_saved" not in saved.symbol
    assert Saved.from_json(symbol_text()) is None
    assert Saved.from_json(symbol_text(nodes=[{**NODE, "name": "mxtrt_saved"}])) is None


@pytest.mark.parametrize(
    "text",
    [
        symbol_text(attrs={"mxtrt_saved": 3}),
        symbol_text(attrs={"mxtrt_saved": ["str", "[" * 100_000]}),
        symbol_text(attrs={"mxtrt_saved": ["str", "[" * 64 + "]" * 64]}),
        symbol_text(attrs={"mxtrt_saved": ["str", "3"]}),
        symbol_text(attrs={"mxtrt_saved": ["int", 3]}),
        symbol_text(attrs={"mxtrt_saved": []}),
        '"mxtrt_saved"',
        '"mxtrt_saved" ' + "[" * 100_000,
        marked_text(format=2),
        marked_text(weights="../../../etc/passwd"),
        marked_text(weights="0" * 63 + "\n"),
        marked_text(weights=None),
        marked_text(inputs={"data": ["float32", [1 << 40]]}),
        marked_text(inputs={"data": ["float32", [-1]]}),
        marked_text(inputs={"data": ["float32", [True]]}),
        marked_text(inputs={"data": ["float32", [1] * 33]}),
        marked_text(inputs={"data": ["object", [1]]}),
        marked_text(inputs={"data": "float32"}),
        marked_text(inputs={"d" * 5000: ["float32", [1]]}),
        marked_text(inputs=[["data", 3]]),
        marked_text(unread=["data2"]),
        marked_text(unread=[3]),
        marked_text(unread="label"),
        marked_text(left=[None]),
        marked_text(left=3),
        marked_text(unread=["data"], inputs={"data": ["int8", [1 << 30, 2]]}),
        marked_text(options={"spill_dir": "/etc"}),
        marked_text(options={"cache_dir": "/tmp", "ranges": "/etc/passwd"}),
        marked_text(options={"precision": "fp8"}),
        marked_text(options={"deny_ops": 3}),
        marked_text(options=["precision"]),
        marked_text(ranges=["/etc/passwd"]),
        marked_text(gpu=-1),
        marked_text(gpu="0"),
        marked_text(gpu=True),
        marked_text(made_by=None),
    ],
    ids=lambda text: text[-60:],
)
def test_a_mark_that_is_none_is_refused(tmp_path, text):
    """By its reader, and by mx.sym.load, which names the file and allocates nothing for it."""
    with pytest.raises(GraphError, match="mxtrt_saved is damaged"):
        Saved.from_json(text)
    (tmp_path / "s.json").write_text(text)
    with pytest.raises(GraphError, match=r"symbol file .*s\.json"):
        mx.sym.load(str(tmp_path / "s.json"))


def test_weights_of_a_saved_symbol_are_those_it_names(tmp_path):
    """What its hash covers is read with the limits of parameters, and has to fit the symbol."""
    for data, told in (
        (b"no parameters", "cut off or damaged"),
        (saved(tmp_path, **{"arg:a": mx.nd.ones((1,)), "aux:a": mx.nd.ones((1,))}), "one name"),
        (saved(tmp_path, **{"arg:elsewhere": mx.nd.ones((1,))}), "does not have"),
    ):
        digest = hashlib.sha256(data).hexdigest()
        (tmp_path / "s.json").write_text(marked_text(weights=digest, unread=[]))
        (tmp_path / f"s.json.{digest[:16]}.params").write_bytes(data)
        with pytest.raises(GraphError, match=told):
            mx.sym.load(str(tmp_path / "s.json"))


def test_params_are_written_as_mxnet_does(tmp_path):
    """Byte for byte, and read back."""
    arrays = {
        f"arg:{dtype}": mx.nd.array(np.arange(6).reshape(2, 3), dtype=dtype)
        for dtype in ("float32", "float64", "float16", "uint8", "int8", "int32", "int64")
    }
    data = saved(tmp_path, **arrays)
    written = io.BytesIO()
    params_file.write_params(
        written.write,
        {
            name: lambda array=array: Weight.of(
                WeightType("a", array.shape, np.dtype(array.dtype)), array
            )
            for name, array in arrays.items()
        },
    )
    assert written.getvalue() == data
    for name, values in params_file.read_params(data).items():
        assert values.dtype == arrays[name].dtype
        assert (values == arrays[name].asnumpy()).all()


@pytest.mark.parametrize("text", ["[" * 100_000, "3", "{}", '{"format": 1, "segments": {}}', ""])
def test_ranges_that_are_none_are_refused(tmp_path, text):
    """One sentence that names the file."""
    (tmp_path / "ranges.json").write_text(text)
    with pytest.raises(EngineError, match=r"ranges\.json"):
        read_ranges(tmp_path / "ranges.json")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"p",
        b"s{}",
        b"p\xff" * 9,
        b"s" + symbol_text().encode(),
        b"m",
        b"m" + json.dumps(MARK).encode(),
    ],
)
def test_the_fuzz_target_accepts_or_refuses(data):
    """Without atheris: the target itself."""
    files.read(data)
