"""``mxtrt doctor``."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import mxtrt
from mxtrt.node.cuda import CudaDevice
from mxtrt.offline.doctor_machine import GpuCode
from mxtrt.plain.loading import import_mxnet

mx = import_mxnet()

HIDING = """
import importlib.util, sys
found = importlib.util.find_spec
importlib.util.find_spec = lambda name, *a: None if name in sys.argv[1] else found(name, *a)
if "mxnet" in sys.argv[1]:
    sys.modules["mxnet"] = None
from mxtrt.cli import main
main(["doctor", *sys.argv[2:]])
"""


@pytest.fixture
def on_the_cpu(monkeypatch: pytest.MonkeyPatch, mxtrt_cli: Any) -> Any:
    """The command, with ONNX Runtime whatever the machine has."""
    monkeypatch.setenv("MXTRT_ENGINE", "onnxruntime")
    return mxtrt_cli


@pytest.fixture
def one_gpu(monkeypatch: pytest.MonkeyPatch, mxtrt_cli: Any) -> Callable[..., str]:
    """The command's screen on a machine with a GPU, by its capability and MXNet's code."""

    def screen(capability: tuple[int, int], code: GpuCode) -> str:
        engine = SimpleNamespace(name="tensorrt", version="8.5.3")
        monkeypatch.setattr("mxtrt.plan.graph_pass.prepare", lambda *_: engine)
        monkeypatch.setattr(
            "mxtrt.offline.doctor.gpus", lambda _: [CudaDevice("Stand-in", capability, 80 << 30)]
        )
        monkeypatch.setattr("mxtrt.offline.doctor.gpu_code", lambda _: code)
        result = mxtrt_cli("doctor")
        assert result.code == 0
        return str(result.out)

    return screen


def line(screen: str, name: str) -> str:
    """What the screen says of something."""
    (found,) = (text for text in screen.splitlines() if text.startswith(f"{name}:"))
    return found.removeprefix(f"{name}:").strip()


def test_the_screen_has_the_machine_and_what_graphs_run_in(on_the_cpu: Any) -> None:
    """Versions, what is missing, and the engine; lines are whole, to be pasted elsewhere."""
    result = on_the_cpu("doctor")
    assert (result.code, result.err) == (0, "")
    assert line(result.out, "NumPy") == np.__version__
    assert line(result.out, "MXNet").startswith(mx.__version__)
    assert line(result.out, "Engine cache").endswith("writable")
    assert "MXTRT_ENGINE=onnxruntime" in result.out
    assert line(result.out, "mx.cpu()").startswith("ONNX Runtime 1.")


def test_json_is_the_diagnosis(on_the_cpu: Any) -> None:
    """Stdout is JSON and nothing else."""
    result = on_the_cpu("doctor", "--json")
    assert result.code == 0
    found = result.json
    assert found["healthy"] is True
    assert found["mxtrt"] == mxtrt.__version__
    assert found["parts"]["mxnet"]["version"] == mx.__version__
    assert len(found["libraries"]) == 11
    assert found["outcomes"][0]["context"] == "mx.cpu()"
    assert found["outcomes"][0]["engine"].startswith("ONNX Runtime 1.")


@pytest.mark.parametrize(
    ("hidden", "command"),
    [("onnxruntime", "pip install 'mxtrt[cpu]'"), ("mxnet", "pip install mxnet==1.9.1")],
)
def test_without_what_engines_need_the_screen_says_how_to_get_it(
    python: Callable[..., Any], hidden: str, command: str
) -> None:
    """Exit code 1, the whole screen, and no traceback."""
    result = python(["-c", HIDING, hidden], MXTRT_ENGINE="onnxruntime")
    assert result.code == 1
    assert "Traceback" not in result.err
    assert command in result.out
    assert line(result.out, "Python")
    assert line(result.out, "mx.cpu()").startswith(("plain MXNet", "nothing runs"))


def test_a_wrong_option_is_a_mistake(mxtrt_cli: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in every command."""
    monkeypatch.setenv("MXTRT_ENGINE", "foo")
    assert "MXTRT_ENGINE is 'foo'" in mxtrt_cli("doctor").sentence()


def test_a_check_that_fails_is_a_line(on_the_cpu: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever it raises, the others go on."""

    def fail(*_: object) -> None:
        raise RuntimeError("no\nluck")

    for name in ("gpus", "cuda_libraries", "look_at_cache", "driver_version", "gpu_code"):
        monkeypatch.setattr(f"mxtrt.offline.doctor.{name}", fail)
    monkeypatch.setattr("importlib.metadata.packages_distributions", fail)
    result = on_the_cpu("doctor")
    assert (result.code, result.err) == (0, "")
    for name in ("GPUs", "CUDA libraries", "Engine cache", "NVIDIA driver"):
        assert "RuntimeError: no" in line(result.out, name)


def test_a_gpu_that_mxnet_has_code_for_runs_engines_on_its_arrays(one_gpu: Any) -> None:
    """Both contexts run in TensorRT."""
    screen = one_gpu((8, 9), GpuCode((50, 80, 86)))
    assert line(screen, "GPU 0") == "Stand-in, sm_89, 80.0 GiB; MXNet has code for it"
    assert "code for sm_50, sm_80, sm_86" in screen
    assert "copies" in line(screen, "mx.cpu()")
    assert line(screen, "mx.gpu(0)") == "TensorRT 8.5.3, on MXNet's own arrays"


def test_a_gpu_that_mxnet_has_no_code_for_is_for_whole_graphs(one_gpu: Any) -> None:
    """Hopper, with MXNet's wheel for CUDA 11.7."""
    screen = one_gpu((9, 0), GpuCode((50, 80, 86)))
    assert line(screen, "GPU 0").endswith("MXNet has no code for it")
    assert "wholly in engines" in line(screen, "mx.gpu(0)")
    assert line(screen, "mx.gpu(0)").endswith("use mx.cpu()")


def test_a_gpu_beside_mxnet_for_the_cpu_is_used_from_the_cpu(one_gpu: Any) -> None:
    """There is no such context, and the engine needs none."""
    screen = one_gpu((9, 0), GpuCode())
    assert "code for the CPU only" in screen
    assert line(screen, "mx.cpu()").startswith("TensorRT 8.5.3, on GPU 0")
    assert line(screen, "mx.gpu(0)") == (
        "MXNet is installed for the CPU and has no such context: use mx.cpu()"
    )
