"""Small models on disk, and the command line in this process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import mxtrt
from mxtrt.cli import main
from mxtrt.plain.loading import import_mxnet

mx = import_mxnet()


@dataclass(frozen=True)
class Result:
    """What a command did."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Stdout as JSON."""
        return json.loads(self.out)

    def sentence(self) -> str:
        """The one sentence of an error."""
        assert self.code == 2, self
        assert self.out == "", self
        assert self.err.count("\n") == 1, self.err
        assert self.err.startswith("mxtrt: "), self.err
        return self.err.removeprefix("mxtrt: ").strip()


@pytest.fixture
def mxtrt_cli(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Any:
    """Run a command in this process."""
    for name in [name for name in os.environ if name.startswith("MXTRT_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("MXTRT_PREFER", "engine")  # whatever this machine is faster at
    monkeypatch.delenv("USE_TENSORRT", raising=False)
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setattr(sys, "path", list(sys.path))  # to which some commands add

    def run(*arguments: object) -> Result:
        capfd.readouterr()
        with pytest.raises(SystemExit) as stopped:
            main([str(argument) for argument in arguments])
        code = stopped.value.code
        captured = capfd.readouterr()
        return Result(code if isinstance(code, int) else 1, captured.out, captured.err)

    return run


@pytest.fixture
def python() -> Callable[..., Result]:
    """Run Python in a process of its own; the current folder is not on its path."""

    def run(arguments: Sequence[object], cwd: Path | None = None, **variables: str) -> Result:
        inherited = {n: v for n, v in os.environ.items() if not n.startswith(("MXTRT_", "USE_"))}
        root = str(Path(mxtrt.__file__).parents[1])  # the installed one, not a checkout's
        path = os.pathsep.join(filter(None, [root, inherited.get("PYTHONPATH")]))
        done = subprocess.run(
            [sys.executable, *map(str, arguments)],
            env={**inherited, "PYTHONPATH": path, "MXTRT_PREFER": "engine", **variables},
            cwd=cwd or tempfile.gettempdir(),
            capture_output=True,
            text=True,
            timeout=120,
        )
        return Result(done.returncode, done.stdout, done.stderr)

    return run


@dataclass(frozen=True)
class Files:
    """A model on disk."""

    symbol: Path
    params: Path


@pytest.fixture(scope="session")
def gluon_model(tmp_path_factory: pytest.TempPathFactory) -> Files:
    """A small convolutional network as Gluon exports it; its data is 1x3x8x8."""
    folder = tmp_path_factory.mktemp("gluon")
    nn = mx.gluon.nn
    net = nn.HybridSequential(prefix="net_")
    with net.name_scope():
        net.add(nn.Conv2D(4, 3), nn.BatchNorm(), nn.Activation("relu"), nn.Dense(5))
    net.initialize(mx.init.Xavier())
    net.hybridize()
    net(mx.nd.zeros((1, 3, 8, 8)))
    net.export(str(folder / "net"))
    return Files(folder / "net-symbol.json", folder / "net-0000.params")


@pytest.fixture(scope="session")
def module_model(tmp_path_factory: pytest.TempPathFactory) -> Files:
    """A Module checkpoint with a SoftmaxOutput, thus a label; its data is 2x6."""
    folder = tmp_path_factory.mktemp("module")
    data = mx.sym.FullyConnected(mx.sym.var("data"), num_hidden=4, name="fc")
    symbol = mx.sym.SoftmaxOutput(data, name="softmax")
    module = mx.mod.Module(symbol, context=mx.cpu())
    module.bind([("data", (2, 6))], [("softmax_label", (2,))], for_training=False)
    module.init_params(mx.init.Xavier())
    module.save_checkpoint(str(folder / "module"), 3)
    return Files(folder / "module-symbol.json", folder / "module-0003.params")


#: A symbol as MXNet 0.8 wrote it: "param" and "attr", inputs of two numbers, and a BatchNorm
#: without its auxiliary states.
LEGACY = {
    "nodes": [
        {"op": "null", "param": {}, "name": "data", "inputs": [], "backward_source_id": -1},
        {
            "op": "null",
            "param": {},
            "name": "fc_weight",
            "inputs": [],
            "backward_source_id": -1,
            "attr": {"lr_mult": "0.2"},
        },
        {"op": "null", "param": {}, "name": "fc_bias", "inputs": [], "backward_source_id": -1},
        {
            "op": "FullyConnected",
            "param": {"no_bias": "False", "num_hidden": "4"},
            "name": "fc",
            "inputs": [[0, 0], [1, 0], [2, 0]],
            "backward_source_id": -1,
        },
        {"op": "null", "param": {}, "name": "bn_gamma", "inputs": [], "backward_source_id": -1},
        {"op": "null", "param": {}, "name": "bn_beta", "inputs": [], "backward_source_id": -1},
        {
            "op": "BatchNorm",
            "param": {"eps": "0.001", "fix_gamma": "True", "momentum": "0.9"},
            "name": "bn",
            "inputs": [[3, 0], [4, 0], [5, 0]],
            "backward_source_id": -1,
        },
    ],
    "arg_nodes": [0, 1, 2, 4, 5],
    "heads": [[6, 0]],
}


@pytest.fixture
def legacy_symbol(tmp_path: Path) -> Path:
    """A symbol in the format of MXNet 0.8; its data is 2x6."""
    path = tmp_path / "legacy-symbol.json"
    path.write_text(json.dumps(LEGACY))
    return path
