"""Files from elsewhere: one sentence each, in little memory and time."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import mxnet as mx
import numpy as np
import pytest

from mxtrt import params_file
from mxtrt.errors import GraphError
from mxtrt.graph import Graph
from mxtrt.models import load_params, load_symbol
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
    case = next(Path(__file__).parents[1].glob("fuzz/corpus/*/case.json"))
    (tmp_path / "case.json").write_text(case.read_text())
    np.savez(tmp_path / "inputs.npz", data=np.array([object()], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match=r"inputs\.npz"):
        read(tmp_path)
    (tmp_path / "inputs.npz").write_bytes(b"PK no zip")
    with pytest.raises(ValueError, match=r"inputs\.npz"):
        read(tmp_path)


@pytest.mark.parametrize("data", [b"", b"p", b"s{}", b"p\xff" * 9, b"s" + symbol_text().encode()])
def test_the_fuzz_target_accepts_or_refuses(data):
    """Without atheris: the target itself."""
    files.read(data)
