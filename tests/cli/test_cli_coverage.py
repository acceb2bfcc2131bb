"""``mxtrt coverage``."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from mxtrt.offline.coverage import ModelOps, coverage, read_models

#: Sets of operators of 1253 models of MXNet's, GluonCV's, GluonNLP's, GluonTS', Sockeye's and
#: osmr's zoos, by how many models share one.
FLEET = Path(__file__).parents[1] / "convert" / "model_ops.jsonl.gz"


def histogram(path: Path, *models: dict[str, Any]) -> Path:
    """A file of operator histograms."""
    path.write_text("".join(json.dumps(model) + "\n" for model in models))
    return path


def test_most_known_models_are_fully_covered(tmp_path: Path) -> None:
    """By the names of their operators."""
    unpacked = tmp_path / "fleet.jsonl"
    unpacked.write_bytes(gzip.decompress(FLEET.read_bytes()))
    found = coverage(read_models(unpacked))
    assert found.models == 1253
    assert found.share >= 0.97, [(b.op, b.models, b.alone) for b in found.blockers[:20]]


def test_blockers_are_counted_alone_and_with_others() -> None:
    """A line may stand for several models; Dropout and loss heads are covered."""
    found = coverage(
        [
            ModelOps("whole", {"Convolution": 5, "Dropout": 1, "SoftmaxOutput": 1}, 2),
            ModelOps("fft", {"Convolution": 2, "_contrib_fft": 1}),
            ModelOps("both", {"_contrib_fft": 3, "_foreach": 1}),
        ]
    )
    assert (found.models, found.covered, found.share) == (4, 2, 0.5)
    assert (found.nodes, found.nodes_covered) == (21, 16)
    counts = [(b.op, b.models, b.alone, b.nodes) for b in found.blockers]
    assert counts == [("_contrib_fft", 2, 1, 4), ("_foreach", 1, 0, 1)]
    assert "Fourier" in found.blockers[0].reason


def test_histograms_are_shown_and_written(mxtrt_cli: Any, tmp_path: Path) -> None:
    """A table for people, all of it as JSON, and what was not looked at."""
    path = histogram(
        tmp_path / "fleet.jsonl",
        {"model": "a", "ops": {"Convolution": 2}},
        {"model": "b", "ops": {"Convolution": 2, "_foreach": 1}, "source": "somewhere"},
    )
    result = mxtrt_cli("coverage", path, "--json", tmp_path / "out.json")
    assert result.code == 0
    assert "1 of 2 models (50.0%)" in result.out
    assert "_foreach" in result.out
    assert "Attributes, dtypes and shapes are not seen" in result.out
    written = json.loads((tmp_path / "out.json").read_text())
    assert (written["models"], written["share"]) == (2, 0.5)
    assert written["blockers"][0]["op"] == "_foreach"


def test_symbols_in_a_folder_are_models(
    mxtrt_cli: Any, gluon_model: Any, legacy_symbol: Path
) -> None:
    """In its folders, too, and as MXNet 0.8 wrote them."""
    for folder in (gluon_model.symbol.parent, legacy_symbol.parent):
        assert "1 of 1 models (100.0%)" in mxtrt_cli("coverage", folder).out
        (model,) = read_models(folder)
        assert "null" not in model.ops
    assert len(read_models(gluon_model.symbol.parents[1])) >= 1


@pytest.mark.parametrize(
    ("name", "content", "part"),
    [
        ("none.jsonl", None, "No such file"),
        ("none", None, "is not there; give a folder of *-symbol.json files or a .jsonl file"),
        ("model.onnx", "", "is neither a folder nor a .jsonl file"),
        ("empty.jsonl", "\n", "empty.jsonl has no line"),
        ("odd.jsonl", '{"model": "a", "ops": {}}\n{"model": 1}\n', "line 2 of"),
        ("odd.jsonl", "[]\n", "line 1 of"),
        ("odd.jsonl", "not JSON\n", "line 1 of"),
        ("folder/net-symbol.json", "{}", "net-symbol.json cannot be used: not an MXNet symbol"),
        ("folder/net.json", "{}", "folder has no *-symbol.json file"),
    ],
)
def test_what_is_no_fleet_is_named(
    mxtrt_cli: Any, tmp_path: Path, name: str, content: str | None, part: str
) -> None:
    """One sentence."""
    path = tmp_path / name
    if content is not None:
        path.parent.mkdir(exist_ok=True)
        path.write_text(content)
    given = path.parent if "/" in name else path
    assert part in mxtrt_cli("coverage", given).sentence()
