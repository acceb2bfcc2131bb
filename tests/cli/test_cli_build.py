"""``mxtrt build``: engines ahead of time."""

from __future__ import annotations

from typing import Any

import pytest


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
