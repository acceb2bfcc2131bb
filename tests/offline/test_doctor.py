"""What ``mxtrt doctor`` finds."""

from __future__ import annotations

import json
import shutil
import struct
import subprocess
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from support.conditions import read_only
from support.process import run

from mxtrt.config import Options
from mxtrt.errors import EngineError
from mxtrt.node.cuda import CudaDevice
from mxtrt.offline import doctor, doctor_machine
from mxtrt.offline.doctor import Outcome, examine
from mxtrt.offline.doctor_machine import GpuCode, cuda_libraries, driver_version, gpu_code
from mxtrt.offline.doctor_parts import look_at_cache

PTX, CUBIN = 1, 2
WHEEL = GpuCode((50, 60, 70, 80, 86))

EXAMINE = """
import json
from mxtrt.offline.doctor import examine
print(json.dumps(examine().to_dict()))
"""


def fatbin(*entries: tuple[int, int]) -> bytes:
    """Kernels for architectures, as nvcc puts them into a library."""
    body = b""
    for kind, architecture in entries:
        head = struct.pack("<HHIQ", kind, 0x101, 64, 24).ljust(28, b"\0")
        body += (head + struct.pack("<I", architecture)).ljust(64, b"\0") + b"x" * 24
    return struct.pack("<IHHQ", 0xBA55ED50, 1, 16, len(body)) + body


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"", GpuCode()),
        (fatbin((CUBIN, 50), (CUBIN, 86)), GpuCode((50, 86))),
        (
            fatbin((CUBIN, 80)) + b"\0" * 8 + fatbin((CUBIN, 70), (PTX, 80)),
            GpuCode((70, 80), (80,)),
        ),
        (fatbin((CUBIN, 80), (CUBIN, 86))[:-40], GpuCode((80, 86))),
        (fatbin((CUBIN, 80), (CUBIN, 86))[:100], GpuCode((80,))),
        (struct.pack("<IHHQ", 0xBA55ED50, 1, 16, 1 << 60), GpuCode()),
        (struct.pack("<IHHQ", 0xBA55ED50, 2, 16, 0), GpuCode()),
    ],
)
def test_code_is_read_from_a_library(tmp_path: Path, content: bytes, code: GpuCode) -> None:
    """Of all kernels; what is cut off or no fatbin is no error."""
    path = tmp_path / "libmxnet.so"
    path.write_bytes(b"code" * 1000 + content + b"\0")
    assert gpu_code(path) == code


@pytest.mark.parametrize(
    ("capability", "code", "serves"),
    [
        ((8, 6), WHEEL, True),
        ((8, 9), WHEEL, True),
        ((7, 5), WHEEL, True),
        ((9, 0), WHEEL, False),
        ((12, 0), WHEEL, False),
        ((8, 0), GpuCode((86,)), False),
        ((9, 0), GpuCode((80,), (80,)), True),
        ((7, 5), GpuCode((), (80,)), False),
        ((12, 0), GpuCode((120,)), True),
    ],
)
def test_machine_code_serves_its_generation_and_ptx_all_later_ones(
    capability: tuple[int, int], code: GpuCode, serves: bool
) -> None:
    """As CUDA has it."""
    assert code.serves(capability) is serves


@pytest.mark.parametrize(
    ("text", "version"),
    [
        (
            "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.104.05  Sat Aug 19 01:15:15 2023\n"
            "GCC version:  gcc version 11.4.0\n",
            "535.104.05",
        ),
        (
            "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  550.54.14  Release Build\n",
            "550.54.14",
        ),
    ],
)
def test_the_driver_says_its_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, version: str
) -> None:
    """NVIDIA's own and the open kernel module."""
    path = tmp_path / "version"
    path.write_text(text)
    monkeypatch.setattr(doctor_machine, "_KERNEL_MODULE", path)
    assert driver_version() == version


def test_where_the_kernel_does_not_say_the_driver_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It tells its CUDA; without one there is no driver."""

    class Driver:
        def cuDriverGetVersion(self, version: Any) -> None:  # noqa: N802
            version._obj.value = 12040

    monkeypatch.setattr(doctor_machine, "_KERNEL_MODULE", tmp_path / "none")
    monkeypatch.setattr(doctor_machine, "DRIVER", "libno-such-driver.so.1")
    assert driver_version() is None
    monkeypatch.setattr("ctypes.CDLL", lambda _: Driver())
    assert driver_version() == "of CUDA 12.4"


def test_a_library_that_is_loaded_is_found_behind_its_link(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine's own CUDA has links by the names that are linked."""
    path = Path("/cuda/lib64/libcublas.so.11.11.3.6")
    monkeypatch.setattr(doctor_machine, "loaded", lambda: {path.name: path})
    found = {library.name: library for library in cuda_libraries()}
    assert (found["libcublas.so.11"].path, found["libcublas.so.11"].loaded) == (str(path), True)
    assert not found["libcublasLt.so.11"].loaded


def test_a_library_in_a_package_is_found_and_others_say_how_to_get_them(tmp_path: Path) -> None:
    """In the place from which it would be loaded."""
    compiler = shutil.which("c++") or shutil.which("g++")
    if compiler is None:
        pytest.skip("a stand-in for a library of CUDA needs a compiler")
    folder = tmp_path / "nvidia" / "cufft" / "lib"
    folder.mkdir(parents=True)
    library = folder / "libcufft.so.10"
    source = ["-shared", "-fPIC", "-Wl,-soname,libcufft.so.10", "-x", "c++", "/dev/null"]
    subprocess.run([compiler, *source, "-o", library], check=True)
    done = run(f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n{EXAMINE}")
    found = {entry["name"]: entry for entry in json.loads(done.stdout)["libraries"]}
    assert found["libcufft.so.10"]["path"] == str(library)
    lacked = [entry for entry in found.values() if entry["path"] is None]
    assert all("pip install" in entry["remedy"] for entry in lacked)


def outcomes(monkeypatch: pytest.MonkeyPatch, code: GpuCode) -> tuple[Outcome, ...]:
    """What becomes of graphs on this machine if it had a GPU of compute capability 9.0."""
    gpu = CudaDevice("Stand-in", (9, 0), 1 << 30)
    monkeypatch.setattr(doctor, "gpus", lambda _: [gpu])
    monkeypatch.setattr(doctor, "gpu_code", lambda _: code)
    return examine().outcomes


def test_on_a_gpu_onnx_runtime_runs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The reason is that of a bind."""
    cpu, gpu = outcomes(monkeypatch, GpuCode((90,)))
    assert cpu.engine is not None
    assert gpu.engine is None
    assert gpu.remark.startswith("plain MXNet: its context is gpu(0)")


def test_on_a_gpu_without_tensorrt_the_way_to_get_it_is_said(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """And that MXNet fails there, if it does."""
    monkeypatch.delenv("MXTRT_ENGINE")
    monkeypatch.setattr("mxtrt.offline.doctor_parts.PACKAGES", ("no_tensorrt",))
    monkeypatch.setattr("mxtrt.offline.doctor_parts.installed", lambda: None)
    monkeypatch.setattr(import_module("mxtrt.engines.select"), "_tensorrt_answers", lambda: False)
    cpu, gpu = outcomes(monkeypatch, WHEEL)
    assert cpu.engine is not None
    assert cpu.engine.startswith("ONNX Runtime")
    assert gpu.engine is None
    assert "TensorRT is not installed; " in gpu.remark
    assert gpu.remark.endswith("no code for this GPU: use mx.cpu()")


def test_a_gpu_that_does_not_open_is_told_beside_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It may be full, or another process's alone."""
    gpu = CudaDevice("Stand-in", (8, 0), 1 << 30)
    monkeypatch.setattr(doctor, "gpus", lambda _: ["CUDA: out of memory", gpu])
    monkeypatch.setattr(doctor, "gpu_code", lambda _: WHEEL)
    found = examine()
    assert [one.reason for one in found.gpus] == ["CUDA: out of memory", None]
    assert found.outcomes[1] == Outcome("mx.gpu(0)", None, "CUDA: out of memory")
    assert found.outcomes[2].context == "mx.gpu(1)"


def test_an_engine_that_is_asked_for_and_does_not_load_is_the_reason(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """No other takes its place, as at a bind."""

    def fail() -> None:
        raise EngineError("no luck")

    monkeypatch.setenv("MXTRT_ENGINE", "tensorrt")
    monkeypatch.setattr("mxtrt.engines.tensorrt.tensorrt", fail)
    found = examine()
    assert found.outcomes[0] == Outcome("mx.cpu()", None, "plain MXNet: no luck")
    assert not found.healthy


@pytest.mark.parametrize("engine", ["auto", "onnxruntime"])
def test_a_tensorrt_that_ends_its_process_does_not_end_this_one(
    tmp_path: Path, engine: str
) -> None:
    """It is named, with what to do; who does not ask for it is served."""
    package = tmp_path / "tensorrt"
    package.mkdir()
    (package / "__init__.py").write_text("import os; os.kill(os.getpid(), 9)")
    done = run(f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n{EXAMINE}", MXTRT_ENGINE=engine)
    found = json.loads(done.stdout)
    assert "ended with SIGKILL; pip uninstall tensorrt" in found["parts"]["tensorrt"]["reason"]
    assert found["healthy"] is (engine == "onnxruntime")


def test_looking_at_the_cache_creates_nothing(tmp_path: Path) -> None:
    """What is there is counted."""
    options = Options(cache_dir=str(tmp_path / "cache"))
    found = look_at_cache(options)
    assert (found.size, found.reason) == (0, None)
    assert not (tmp_path / "cache").exists()
    folder = tmp_path / "cache" / "engines"
    folder.mkdir(parents=True, mode=0o700)
    (folder / "0.engine").write_bytes(b"12345")
    assert look_at_cache(options).size == 5


@pytest.mark.parametrize("there", [False, True])
def test_a_cache_that_cannot_be_written_to_says_so(tmp_path: Path, there: bool) -> None:
    """With the option that mends it."""
    folder = tmp_path / "engines" if there else tmp_path
    folder.mkdir(mode=0o700, exist_ok=True)
    with read_only(folder):
        reason = look_at_cache(Options(cache_dir=str(tmp_path))).reason
    assert reason is not None
    assert "MXTRT_CACHE_DIR" in reason


def test_a_file_is_no_cache(tmp_path: Path) -> None:
    """The next bind would keep nothing."""
    (tmp_path / "file").write_text("")
    found = look_at_cache(Options(cache_dir=str(tmp_path / "file")))
    assert found.reason is not None
    assert "is no directory" in found.reason


def test_variables_that_matter_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of the options, and MXNet's and CUDA's that change what happens."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    monkeypatch.setenv("USE_TENSORRT", "1")
    monkeypatch.setenv("MXTRT_DENY_OPS", "Pooling")
    monkeypatch.setenv("SECRET", "s")
    found = examine().variables
    assert {"CUDA_VISIBLE_DEVICES", "USE_TENSORRT", "MXTRT_DENY_OPS"} <= found.keys()
    assert "SECRET" not in found
