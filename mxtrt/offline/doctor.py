"""What a machine has, and what the integration does on it: ``mxtrt doctor``.

Every check is on its own: where one fails, the sentence of what it raised is the answer.
"""

from __future__ import annotations

import dataclasses
import os
import platform
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

from mxtrt import config
from mxtrt.config import OPTIONS, Options
from mxtrt.node.cuda import CudaDevice
from mxtrt.offline.doctor_machine import (
    CudaLibrary,
    GpuCode,
    cuda_libraries,
    driver_version,
    gpu_code,
    gpus,
    mxnet_library,
)
from mxtrt.offline.doctor_parts import (
    Cache,
    Parts,
    attempt,
    is_hooked,
    look_at_cache,
    look_at_parts,
)
from mxtrt.version import __version__

__all__ = ["Diagnosis", "Gpu", "Outcome", "examine"]

_T = TypeVar("_T")

# Environment variables that matter, beside MXTRT_* and those of the options.
_VARIABLES = (
    "CUDA_VISIBLE_DEVICES",
    "LD_LIBRARY_PATH",
    "MXNET_ENGINE_TYPE",
    "MXNET_SUBGRAPH_BACKEND",
)

_TITLES = {"tensorrt": "TensorRT", "onnxruntime": "ONNX Runtime"}


@dataclass(frozen=True, slots=True)
class Gpu:
    """A GPU.

    Attributes:
        name: Its name; empty where it does not open.
        capability: Its compute capability.
        memory: Its memory in bytes.
        mxnet_has_code: Whether MXNet's wheel has code for it.
        reason: Why it does not open, None where it does.
    """

    name: str
    capability: tuple[int, int]
    memory: int
    mxnet_has_code: bool
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """What becomes of a graph that is bound for inference in a context.

    Attributes:
        context: The context, such as ``mx.cpu()``.
        engine: The engine and its version, None where it runs in none.
        remark: How it runs in the engine, or what else becomes of it and why; may be empty.
    """

    context: str
    engine: str | None
    remark: str


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """What a machine has, and what the integration does on it.

    Attributes:
        mxtrt: Version of this package.
        python: Version of Python.
        executable: Path of Python.
        system: The operating system.
        parts: NumPy, MXNet and the engines.
        code: The GPUs that MXNet's wheel has code for; None without MXNet.
        driver: Version of NVIDIA's driver, None without one.
        gpus: The GPUs.
        libraries: CUDA's libraries.
        cache: The cache of engines.
        variables: Environment variables that matter.
        hooked: Whether a script that imports MXNet alone has the integration.
        outcomes: What becomes of graphs, for every context.
        failures: Why a field of these is None or empty, by its name.
    """

    mxtrt: str
    python: str
    executable: str
    system: str
    parts: Parts
    code: GpuCode | None
    driver: str | None
    gpus: tuple[Gpu, ...]
    libraries: tuple[CudaLibrary, ...]
    cache: Cache | None
    variables: dict[str, str]
    hooked: bool | None
    outcomes: tuple[Outcome, ...]
    failures: dict[str, str]

    @property
    def healthy(self) -> bool:
        """Whether graphs run in engines in some context."""
        return any(outcome.engine for outcome in self.outcomes)

    @property
    def lacks_libraries(self) -> bool:
        """Whether something that links CUDA's libraries is installed and does not load."""
        mxnet, tensorrt = self.parts.mxnet, self.parts.tensorrt
        return bool(
            (self.code and mxnet.version is None)
            or (tensorrt.installed and tensorrt.version is None)
        )

    def to_dict(self) -> dict[str, Any]:
        """The same as JSON-ready data."""
        return {"healthy": self.healthy, **dataclasses.asdict(self)}


def examine() -> Diagnosis:
    """Look at this machine; MXNet and the engines are loaded.

    Raises:
        OptionError: An environment variable has a value that its option does not take.
    """
    options = config.current().replace(enabled=True)
    failures: dict[str, str] = {}

    def checked(name: str, check: Callable[[], _T]) -> _T | None:
        found, reason = attempt(check)
        if reason is not None:
            failures[name] = reason
        return found

    parts = look_at_parts(options)
    loads = parts.mxnet.version is not None
    code = checked("code", lambda: gpu_code(path) if (path := mxnet_library()) else None)
    devices = checked("gpus", lambda: gpus(loads)) or ()
    found = tuple(_gpu(device, code) for device in devices)
    outcomes = tuple(_outcomes(options, parts, code, found))
    return Diagnosis(
        __version__,
        platform.python_version(),
        sys.executable,
        platform.platform(),
        parts,
        code,
        checked("driver", driver_version),
        found,
        tuple(checked("libraries", cuda_libraries) or ()),  # last: it loads some
        checked("cache", lambda: look_at_cache(options)),
        _variables(),
        checked("hooked", is_hooked),
        outcomes,
        failures,
    )


def _gpu(device: CudaDevice | str, code: GpuCode | None) -> Gpu:
    if isinstance(device, str):
        return Gpu("", (0, 0), 0, False, device)
    return Gpu(*device, bool(code and code.serves(device.capability)))


def _variables() -> dict[str, str]:
    known = {*_VARIABLES, *(name for option in OPTIONS.values() for name in option.variables)}
    names = (name for name in sorted(os.environ) if name in known or name.startswith("MXTRT_"))
    return {name: os.environ[name] for name in names}


def _outcomes(
    options: Options, parts: Parts, code: GpuCode | None, gpus: tuple[Gpu, ...]
) -> Iterator[Outcome]:
    yield _outcome(options, parts, "mx.cpu()", None)
    for ordinal, gpu in enumerate(gpus):
        if gpu.reason is not None:
            yield Outcome(f"mx.gpu({ordinal})", None, gpu.reason)
            continue
        outcome = _outcome(options, parts, f"mx.gpu({ordinal})", ordinal)
        if parts.mxnet.version is None or gpu.mxnet_has_code:
            yield outcome
        elif not code:
            remark = "MXNet is installed for the CPU and has no such context: use mx.cpu()"
            yield Outcome(outcome.context, None, remark)
        elif outcome.engine is None:
            remark = f"{outcome.remark}, and it has no code for this GPU: use mx.cpu()"
            yield Outcome(outcome.context, None, remark)
        else:
            remark = "graphs that are wholly in engines; what stays in MXNet fails there: "
            yield Outcome(outcome.context, outcome.engine, remark + "use mx.cpu()")


def _outcome(options: Options, parts: Parts, context: str, gpu: int | None) -> Outcome:
    """What a bind comes to, by what it does itself first."""
    if parts.mxnet.version is None:
        return Outcome(context, None, "nothing runs, because MXNet does not load")
    wants_tensorrt = options.engine != "onnxruntime"
    if wants_tensorrt and parts.tensorrt.crashes:
        return Outcome(context, None, f"a bind would not come back, as {parts.tensorrt.reason}")

    def engine() -> tuple[str, str]:
        import mxnet as mx

        from mxtrt.plan.graph_pass import prepare

        found = prepare(options, mx.cpu() if gpu is None else mx.gpu(gpu))
        return found.name, found.version

    found, reason = attempt(engine)
    if found is None:
        if gpu is not None and wants_tensorrt and parts.tensorrt.reason is not None:
            reason = parts.tensorrt.reason  # says more than that the other engine is the CPU's
        return Outcome(context, None, f"plain MXNet: {reason}")
    name, version = found
    remark = ""
    if name == "tensorrt":
        remark = "on GPU 0; the copies in and out are part of the run"
        remark = remark if gpu is None else "on MXNet's own arrays"
    return Outcome(context, f"{_TITLES[name]} {version}", remark)
