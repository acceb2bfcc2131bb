"""``mxtrt build``: engines ahead of time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support.ranged import Ranged


def test_an_engine_that_is_not_kept_cannot_be_built_ahead(mxtrt_cli: Any, gluon_model: Any) -> None:
    """ONNX Runtime builds at every bind: one sentence."""
    said = mxtrt_cli(
        "build",
        gluon_model.symbol,
        "--params",
        gluon_model.params,
        "--shape",
        "data:1,3,8,8",
        "--engine",
        "onnxruntime",
    )
    assert "engines of onnxruntime are built at every bind and not kept" in said.sentence()


def test_weights_are_needed(mxtrt_cli: Any, gluon_model: Any) -> None:
    """An engine holds its weights."""
    assert "give the params file with --params" in mxtrt_cli("build", gluon_model.symbol).sentence()


def test_a_cache_that_keeps_nothing_is_refused(
    mxtrt_cli: Any, gluon_model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Building for nothing is a mistake."""
    monkeypatch.setenv("MXTRT_CACHE_SIZE", "0")
    assert (
        "cache_size is 0"
        in mxtrt_cli("build", gluon_model.symbol, "--params", gluon_model.params).sentence()
    )


def test_an_engine_for_ranges_is_built_ahead(
    mxtrt_cli: Any, gluon_model: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The data has the usual sizes, where nothing else is said; the report has the ranges."""
    ranged = Ranged(monkeypatch)
    monkeypatch.setenv("MXTRT_CACHE_DIR", str(tmp_path))
    build = ("build", gluon_model.symbol, "--params", gluon_model.params, "--engine", "onnxruntime")
    told = mxtrt_cli(*build, "--shapes", "data:1/2/8,3,8,8", "--json")
    assert told.json["shapes"] == {"data": [2, 3, 8, 8]}
    (note,) = told.json["segments"][0]["notes"]
    assert note == "one engine for data (1-8)x3x8x8, one profile"
    assert mxtrt_cli(*build, "--shapes", "data:1/2/8,3,8,8", "--shape", "data:4,3,8,8").code == 0
    assert ranged.ranges[0] == ranged.ranges[1]


def test_ranges_that_are_none_are_one_sentence(mxtrt_cli: Any, gluon_model: Any) -> None:
    """With what is expected."""
    build = ("build", gluon_model.symbol, "--params", gluon_model.params)
    said = mxtrt_cli(*build, "--shapes", "data:8-2,3,8,8").sentence()
    assert said.startswith("option shapes is 'data:8-2,3,8,8', expected a range for each axis")
