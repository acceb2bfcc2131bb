"""``mxtrt bench --precision``: what it reports; never how fast anything is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

QUICK = ("--shape", "data:4,3,8,8", "--seconds", "0.05")


@pytest.fixture
def arguments(mxtrt_cli: Any, gluon_model: Any, tmp_path: Path) -> list[Any]:
    """The Gluon model with ranges, and labelled data."""
    random = np.random.default_rng(0)
    data, out = tmp_path / "data.npz", tmp_path / "ranges.json"
    pictures = random.standard_normal((12, 3, 8, 8)).astype(np.float32)
    np.savez(data, data=pictures, label=random.integers(0, 5, 12))
    files = [gluon_model.symbol, "--params", gluon_model.params, "--data", data]
    assert mxtrt_cli("calibrate", *files, "--out", out).code == 0
    return [*files, "--ranges", out]


def test_precisions_stand_side_by_side(mxtrt_cli: Any, arguments: list[Any]):
    """Speed, memory, parity, accuracy, and the layers with the largest error first."""
    result = mxtrt_cli(
        "bench", *arguments, *QUICK, "--precision", "fp32,fp16,int8", "--layers", "--json"
    )
    assert result.code == 0, result.err
    rows = result.json["precisions"]
    assert [row["precision"] for row in rows] == ["fp32", "fp16", "int8"]
    errors = [row["parity_error"] for row in rows]
    assert 0 <= errors[0] < 1e-5 < errors[1] < errors[2] < 0.2
    for row in rows:
        assert row["mxtrt"]["median_ms"] > 0
        assert 0.5 <= row["agreement"] <= 1
        assert 0 <= row["accuracy"] <= 1
    assert rows[0]["accuracy"] == result.json["plain_accuracy"]
    assert rows[0]["layers"] == []
    for row in rows[1:]:
        worst = [layer["error"] for layer in row["layers"]]
        assert len(worst) == 2
        assert worst == sorted(worst, reverse=True)


def test_a_person_reads_a_table(mxtrt_cli: Any, arguments: list[Any]):
    """One line per precision."""
    result = mxtrt_cli("bench", *arguments, *QUICK, "--precision", "fp32,int8")
    assert result.code == 0, result.err
    for word in ("fp32", "int8", "agreement", "2 of 2 layers in int8"):
        assert word in result.out


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--precision", "fp8"], "option --precision names 'fp8', expected some of fp32"),
        (["--layers"], "option --layers needs --precision and --data"),
        (["--precision", "int8"], "precision=int8 needs the ranges"),
    ],
)
def test_mistakes_are_one_sentence(
    options: list[str], sentence: str, mxtrt_cli: Any, gluon_model: Any
):
    """That says what is missing."""
    files = (gluon_model.symbol, "--params", gluon_model.params)
    assert sentence in mxtrt_cli("bench", *files, *QUICK, *options).sentence()
