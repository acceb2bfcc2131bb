"""Models, and programs in other languages that are run on them."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import mxnet as mx
import numpy as np
import pytest
from mxnet.gluon import nn

import mxtrt
from mxtrt.errors import NodeError
from mxtrt.frontends.environment import environment_for
from mxtrt.node.library import PATH


def _saved(folder: Path, net: nn.HybridBlock) -> Path:
    """A model of pictures of 16 x 16, as files; the path without their endings."""
    net.initialize(mx.init.Xavier())
    with mxtrt.options(enabled=False):
        net(mx.nd.zeros((1, 3, 16, 16)))
    outputs = net(mx.sym.var("data"))
    symbol = mx.sym.Group(outputs) if isinstance(outputs, tuple) else outputs
    symbol.save(str(folder / "model.json"))
    arguments = set(symbol.list_arguments())
    values = {
        ("arg:" if name in arguments else "aux:") + name: parameter.data()
        for name, parameter in net.collect_params().items()
    }
    mx.nd.save(str(folder / "model.params"), values)
    return folder / "model"


class _Mixed(nn.HybridBlock):
    """One whose second part is left to MXNet (``deny_ops``) and followed by a third."""

    def __init__(self) -> None:
        super().__init__()
        with self.name_scope():
            self.first = nn.Conv2D(8, 3, padding=1)
            self.second = nn.Dense(10)

    def hybrid_forward(self, F, x):
        return self.second(F.sin(F.relu(self.first(x)))), F.mean(x, axis=1)


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of several engines with MXNet's operators between."""
    mx.random.seed(5)
    return _saved(tmp_path_factory.mktemp("mixed"), _Mixed())


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that is one engine."""
    mx.random.seed(5)
    net = nn.HybridSequential(prefix="")
    net.add(nn.Conv2D(8, 3, padding=1), nn.BatchNorm(), nn.Activation("relu"), nn.MaxPool2D())
    net.add(nn.Flatten(), nn.Dense(10, prefix="top_"))
    return _saved(tmp_path_factory.mktemp("one"), net)


Launch = Callable[..., tuple["np.ndarray[tuple[int], np.dtype[np.float32]]", str]]


@pytest.fixture
def launch(tmp_path: Path) -> Launch:
    """Runs a command, where OUT stands for its file; the numbers in it, and its standard error."""
    try:
        engines = environment_for()
    except NodeError as reason:
        pytest.skip(str(reason))
    mxnet = Path(mx.__file__).parent
    own = {
        "MXTRT_DENY_OPS": "sin",
        "MXTRT_PREFER": "engine",
        "MXTRT_CACHE_DIR": str(tmp_path / "cache"),
        "NODE": str(PATH),
    }

    def launched(
        *command: object, on: bool = True, **changes: str | None
    ) -> tuple[np.ndarray[tuple[int], np.dtype[np.float32]], str]:
        environment = {k: v for k, v in os.environ.items() if not k.startswith("MXTRT_")}
        environment.pop("USE_TENSORRT", None)
        environment |= own
        if on:
            environment |= engines
        else:
            environment |= {"LD_LIBRARY_PATH": str(mxnet), "MXNET_LIBRARY_PATH": str(mxnet)}
        for key, value in changes.items():
            environment.pop(key, None)
            if value is not None:
                environment[key] = value
        path = tmp_path / "out"
        words = [str(path) if word == "OUT" else str(word) for word in command]
        done = subprocess.run(
            words, env=environment, stderr=subprocess.PIPE, text=True, timeout=900
        )
        assert done.returncode == 0, f"on: {on}, status {done.returncode}\n{done.stderr}"
        numbers = np.fromfile(path, np.float32) if path.exists() else np.zeros(0, np.float32)
        return numbers, done.stderr

    return launched
