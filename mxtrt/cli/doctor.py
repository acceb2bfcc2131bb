"""``mxtrt doctor``: what this machine has, and what the integration does on it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from mxtrt.cli.arguments import Json
from mxtrt.cli.output import emit_json, prints_to_stderr, show, task
from mxtrt.observe.text import bytes_text

if TYPE_CHECKING:
    from mxtrt.offline.doctor import Diagnosis, Gpu
    from mxtrt.offline.doctor_machine import CudaLibrary
    from mxtrt.offline.doctor_parts import Cache, Part

__all__ = ["diagnose"]

#: What a line is about, and the rest of it.
_Line = tuple[str, str]


def diagnose(json: Json = False) -> int:
    """Show what this machine has, and what USE_TENSORRT=1 does on it.

    Exit code 0: graphs run in engines, on mx.cpu() at least or on a GPU. 1: they do not.
    """
    with task("looking"), prints_to_stderr():  # packages that say something at their import
        from mxtrt.offline.doctor import examine

        found = examine()
    if json:
        emit_json(found.to_dict())
        return 0 if found.healthy else 1
    show(f"mxtrt {found.mxtrt}, {found.system}", "")
    _show(_facts(found))
    show("", "What USE_TENSORRT=1 does with graphs that are bound for inference:", "")
    _show(
        (outcome.context, ", ".join(filter(None, (outcome.engine, outcome.remark))))
        for outcome in found.outcomes
    )
    return 0 if found.healthy else 1


def _show(lines: Iterator[_Line]) -> None:
    """Print lines that can be pasted elsewhere: they are not wrapped."""
    for name, text in lines:
        show(f"{name + ':' if name else '':<16}{' '.join(text.split())}")


def _facts(found: Diagnosis) -> Iterator[_Line]:
    parts, failures = found.parts, found.failures
    yield "Python", f"{found.python}, {found.executable}"
    yield "NumPy", _part(parts.numpy)
    yield "MXNet", _part(parts.mxnet)
    if found.code is not None or "code" in failures:
        yield "", failures.get("code") or f"code for {found.code or 'the CPU only'}"
    if len(parts.mxnet.installed) > 1:
        names = " ".join(name.split()[0] for name in parts.mxnet.installed)
        yield "", f"one overwrites the other: pip uninstall {names}, then install one of them"
    if found.hooked is False:
        yield (
            "",
            "import mxnet alone does not bring mxtrt in this Python: start scripts with mxtrt run, "
            "or import mxtrt before MXNet",
        )
    yield "TensorRT", _part(parts.tensorrt)
    yield "ONNX Runtime", _part(parts.onnxruntime)
    yield "NVIDIA driver", failures.get("driver") or found.driver or "none"
    if "gpus" in failures:
        yield "GPUs", f"none: {failures['gpus']}"
    for ordinal, gpu in enumerate(found.gpus):
        yield f"GPU {ordinal}", _gpu(gpu)
    yield from _libraries(found)
    yield "Engine cache", failures["cache"] if found.cache is None else _cache(found.cache)
    if not found.variables:
        yield "Variables", "none that matters is set"
    for place, (name, value) in enumerate(found.variables.items()):
        yield "" if place else "Variables", f"{name}={value}"


def _part(part: Part) -> str:
    text = part.version or "none"
    if part.installed:
        names = (name.removesuffix(f" {part.version}") for name in part.installed)
        text += f" ({', '.join(names)})"
    return f"{text}; {part.reason}" if part.reason else text


def _gpu(gpu: Gpu) -> str:
    if gpu.reason is not None:
        return f"does not open: {gpu.reason}"
    major, minor = gpu.capability
    code = "MXNet has code for it" if gpu.mxnet_has_code else "MXNet has no code for it"
    return f"{gpu.name}, sm_{major}{minor}, {bytes_text(gpu.memory)}; {code}"


def _libraries(found: Diagnosis) -> Iterator[_Line]:
    title = "CUDA libraries"
    if "libraries" in found.failures:
        yield title, found.failures["libraries"]
    elif found.lacks_libraries or any(library.path for library in found.libraries):
        for place, library in enumerate(found.libraries):
            yield "" if place else title, _library(library, found.lacks_libraries)
    else:
        yield title, "none, and nothing that is installed asks for them"


def _library(library: CudaLibrary, needed: bool) -> str:
    if library.path is None:
        return f"{library.name} does not load" + (f"; {library.remedy}" if needed else "")
    return f"{library.name} {'is loaded' if library.loaded else 'is found'}: {library.path}"


def _cache(cache: Cache) -> str:
    if not cache.limit:
        return "nothing is kept, because cache_size is 0"
    usable = "writable" if cache.reason is None else f"not used; {cache.reason}"
    return f"{cache.path}, {bytes_text(cache.size)} of {bytes_text(cache.limit)}, {usable}"
