"""``mxtrt bench``: what it reports; never how fast anything is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mxtrt.cli.model import load_model, random_params

QUICK = ("--seconds", "0.05")


def test_json_has_everything(mxtrt_cli: Any, gluon_model: Any) -> None:
    """Latencies, ratio with interval, parity, memory, and the report."""
    files = (gluon_model.symbol, "--params", gluon_model.params)
    result = mxtrt_cli("bench", *files, "--shape", "data:1,3,8,8", *QUICK, "--json")
    assert result.code == 0, result.err
    found = result.json
    assert found["engine"].startswith("onnxruntime ")
    assert found["random_weights"] is False
    for way in ("plain", "mxtrt"):
        assert 0 < found[way]["median_ms"] <= found[way]["p90_ms"]
    speed_up = found["speed_up"]
    assert speed_up["low"] <= speed_up["ratio"] <= speed_up["high"]
    assert speed_up["level"] == 0.99
    assert found["pairs"] >= 10
    assert found["parity_error"] < 1e-5
    assert found["memory"]["weight_bytes"] == found["report"]["weight_bytes"] > 0
    assert found["report"]["nodes_in_engine"] == 4


def test_table_says_that_weights_are_random(mxtrt_cli: Any, gluon_model: Any) -> None:
    """Without --params the model is initialised, and the user is told."""
    result = mxtrt_cli("bench", gluon_model.symbol, "--shape", "data:1,3,8,8", *QUICK)
    assert result.code == 0, result.err
    assert "the weights are random (MSRA)" in result.out
    assert "Speed-up:" in result.out
    assert "99 % interval" in result.out
    assert result.err == ""


def test_module_checkpoint_is_measured(mxtrt_cli: Any, module_model: Any) -> None:
    """Its label is an input that nobody has to give."""
    files = (module_model.symbol, "--params", module_model.params)
    result = mxtrt_cli("bench", *files, "--shape", "data:2,6", *QUICK, "--json")
    assert result.code == 0, result.err
    assert result.json["parity_error"] < 1e-5


def test_legacy_symbol_is_measured(mxtrt_cli: Any, legacy_symbol: Path) -> None:
    """A symbol of MXNet 0.8 binds like any other."""
    result = mxtrt_cli("bench", legacy_symbol, "--shape", "data:2,6", *QUICK, "--json")
    assert result.code == 0, result.err
    assert result.json["random_weights"] is True
    assert result.json["parity_error"] < 1e-5


def test_nothing_in_the_engine_is_said(mxtrt_cli: Any, gluon_model: Any) -> None:
    """Plain MXNet against plain MXNet is no speed-up to report unasked."""
    deny = ("--deny-ops", "Convolution,BatchNorm,Activation,FullyConnected")
    result = mxtrt_cli("bench", gluon_model.symbol, "--shape", "data:1,3,8,8", *deny, *QUICK)
    assert result.code == 0, result.err
    assert "No node runs in an engine" in result.out


def test_missing_shape_is_named(mxtrt_cli: Any, gluon_model: Any) -> None:
    """The sentence shows how to give one."""
    result = mxtrt_cli("bench", gluon_model.symbol, "--params", gluon_model.params, "--json")
    assert "give it, such as --shape data:1,3,224,224" in result.sentence()


@pytest.mark.parametrize("name", ["weight", "gamma", "bias", "running_var", "running_mean"])
def test_random_weights_keep_the_scale(gluon_model: Any, name: str) -> None:
    """He initialisation: variance 2 / inputs; normalisation starts as the identity."""
    model = load_model(gluon_model.symbol, None, ["data:1,3,8,8"])
    params = random_params(model)
    assert params.keys() == model.weights.keys()
    for full, array in params.items():
        values = array.asnumpy()
        if not full.endswith(name):
            continue
        if name == "weight":
            expected = np.sqrt(2 / np.prod(values.shape[1:]))
            assert values.std() == pytest.approx(expected, rel=0.3)
        else:
            assert (values == (1.0 if name in ("gamma", "running_var") else 0.0)).all()
