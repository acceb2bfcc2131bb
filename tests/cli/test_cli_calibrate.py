"""``mxtrt calibrate``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mxtrt


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Labelled data for the Gluon model."""
    path = tmp_path / "pictures.npz"
    random = np.random.default_rng(0)
    np.savez(
        path,
        data=random.standard_normal((20, 3, 8, 8)).astype(np.float32),
        label=random.integers(0, 5, 20),
    )
    return path


def test_ranges_are_written(mxtrt_cli: Any, gluon_model: Any, pictures: Path, tmp_path: Path):
    """From as many samples as there are, with the model's name."""
    out = tmp_path / "ranges.json"
    files = (gluon_model.symbol, "--params", gluon_model.params, "--data", pictures, "--out", out)
    result = mxtrt_cli("calibrate", *files, "--batch", "8", "--json")
    assert result.code == 0, result.err
    assert (result.json["samples"], result.json["layers"]) == (20, 2)
    data = json.loads(out.read_text())
    assert data["model"] == "net-symbol.json"
    assert data["model_hash"] == result.json["model_hash"]
    result = mxtrt_cli("calibrate", *files, "--method", "percentile", "--keep", "first")
    assert "1 of 2 layers in int8" in result.out


def test_layers_that_accuracy_needs_are_kept(
    mxtrt_cli: Any, gluon_model: Any, pictures: Path, tmp_path: Path
):
    """Nothing has to be where anything goes."""
    out = tmp_path / "ranges.json"
    files = (gluon_model.symbol, "--params", gluon_model.params, "--data", pictures, "--out", out)
    result = mxtrt_cli("calibrate", *files, "--keep-accuracy", "100%", "--json")
    assert result.code == 0, result.err
    assert result.json["kept"]["layers"] == []
    result = mxtrt_cli("calibrate", *files, "--keep-accuracy", "50%")
    assert "with every layer in int8" in result.out


def test_data_come_from_a_function(
    mxtrt_cli: Any, gluon_model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Of a module on the path; batches may have labels."""
    text = "import numpy as np\ndef f():\n    yield np.ones((2, 3, 8, 8), 'f4'), np.zeros(2)\n"
    (tmp_path / "my_calibration_data.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    files = (gluon_model.symbol, "--params", gluon_model.params, "--out", tmp_path / "out.json")
    result = mxtrt_cli("calibrate", *files, "--data", "python:my_calibration_data:f", "--json")
    assert result.code == 0, result.err
    assert result.json["samples"] == 2


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--data", "x.txt"], "option --data is 'x.txt', expected NAME.npz"),
        (["--data", "missing.npz"], "missing.npz cannot be read"),
        (["--data", "python:nowhere:f"], "cannot be imported"),
        (["--method", "best"], "method is 'best', expected one of entropy, percentile, minmax"),
        (["--keep-accuracy", "lots"], "option --keep-accuracy is 'lots'"),
        (["--keep", "conv9"], "there is no layer 'conv9' to keep"),
    ],
)
def test_mistakes_are_one_sentence(
    options: list[str],
    sentence: str,
    mxtrt_cli: Any,
    gluon_model: Any,
    pictures: Path,
    tmp_path: Path,
):
    """That names what was seen."""
    files = (gluon_model.symbol, "--params", gluon_model.params, "--out", tmp_path / "out.json")
    given = options if "--data" in options else [*options, "--data", pictures]
    assert sentence in mxtrt_cli("calibrate", *files, *given).sentence()


def test_calibrate_is_public():
    """In the package itself."""
    assert "calibrate" in mxtrt.__all__
    assert callable(mxtrt.calibrate)
