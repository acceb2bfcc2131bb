"""Programs in C, on a GPU."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import mxnet as mx
import numpy as np
import pytest
from mxnet.gluon import nn
from support.programs import agree, compiled, runs

from mxtrt.errors import NodeError
from mxtrt.frontends.environment import environment_for
from mxtrt.node.library import PATH

PROGRAM = Path(__file__).resolve().parents[1] / "frontends" / "predict.c"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A model of operators that MXNet has kernels for on every GPU."""
    net = nn.HybridSequential(prefix="")
    net.add(nn.Conv2D(8, 3, padding=1), nn.Activation("relu"), nn.MaxPool2D(), nn.Dense(10))
    net.initialize()
    net.hybridize()
    net(mx.nd.zeros((1, 3, 16, 16)))
    net.export(str(tmp_path / "model"))
    return tmp_path / "model"


@pytest.mark.parametrize("place", ["cpu", "gpu"])
def test_predictors_on_a_gpu_agree_with_plain_mxnet(model, request, engine_cache, tmp_path, place):
    """Two batch sizes, the second by MXPredReshape; the reference is plain MXNet on the CPU."""
    if place == "gpu":
        request.getfixturevalue("device")
    try:
        program, engines = compiled(PROGRAM, tmp_path), environment_for()
    except (FileNotFoundError, NodeError) as reason:
        pytest.skip(str(reason))
    own = {"MXTRT_ENGINE": "tensorrt", "MXTRT_CACHE_DIR": engine_cache, "MXTRT_PREFER": "engine"}
    sides = {"ours": (own, place), "plain": ({"USE_TENSORRT": "0"}, "cpu")}
    answers, said = {}, {}
    for side, (changes, where) in sides.items():
        out = tmp_path / side
        device = {"cpu": 1, "gpu": 2}[where]
        files = f"{model}-symbol.json", f"{model}-0000.params", out
        words = [program, *files, "plain", device, 16, 0, 2, 5]
        environment = {**os.environ, **engines, "NODE": str(PATH), **changes}
        done = subprocess.run(
            [*map(str, words)], env=environment, stderr=subprocess.PIPE, text=True, timeout=600
        )
        assert done.returncode == 0, done.stderr
        answers[side], said[side] = np.fromfile(out, np.float32), done.stderr
    agree(answers["ours"], answers["plain"])
    assert runs(said["ours"]) >= 2
