"""Every option once: name, type, default, environment variable, meaning.

An option's value is, in this order: what the innermost ``with mxtrt.options(...)`` says,
what :func:`enable` / :func:`disable` said, the environment variable, the default.  The
environment is read at every bind, so switching it 1/0/1 within one process works.
"""

from __future__ import annotations

import contextlib
import contextvars
import dataclasses
import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from mxtrt.errors import OptionError

__all__ = [
    "ENGINES",
    "OPTIONS",
    "PRECISIONS",
    "PREFERENCES",
    "Option",
    "Options",
    "current",
    "disable",
    "enable",
    "options",
]

#: Engines by name; ``auto`` takes the first that this machine can run.
ENGINES = ("auto", "onnxruntime", "tensorrt")

#: Precisions by name: ``tf32`` lets an NVIDIA GPU round the factors of products to 10 bits;
#: ``fp16`` computes in float16 what float16 can hold, ``int8`` in int8 what was calibrated.
PRECISIONS = ("fp32", "tf32", "fp16", "int8")

#: What decides between an engine and MXNet where both can run a segment.
PREFERENCES = ("auto", "engine", "fastest")

_TRUE, _FALSE = ("1", "true", "on", "yes"), ("0", "false", "off", "no", "")


def _flag(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    text = str(value).strip().lower()
    if text in _TRUE:
        return True
    if text in _FALSE:
        return False
    raise ValueError("0 or 1")


def _flag_or_auto(value: Any) -> bool | None:
    return None if value is None or value == "auto" else _flag(value)


def _count(value: Any) -> int:
    number = int(str(value).strip()) if not isinstance(value, bool) else -1
    if number < 0:
        raise ValueError
    return number


def _one_of(values: tuple[str, ...]) -> Callable[[Any], str]:
    def parse(value: Any) -> str:
        if value not in values:
            raise ValueError
        return str(value)

    return parse


def _size(value: Any) -> int:
    if isinstance(value, bool):
        raise ValueError
    match = re.fullmatch(r"\s*(\d+)\s*(?:([KMG])iB)?\s*", str(value))
    if match is None:
        raise ValueError
    return int(match[1]) << {None: 0, "K": 10, "M": 20, "G": 30}[match[2]]


def _names(value: Any) -> tuple[str, ...]:
    items = value.split(",") if isinstance(value, str) else list(value)
    if not all(isinstance(item, str) for item in items):
        raise ValueError
    return tuple(item.strip() for item in items if item.strip())


def _batches(value: Any) -> tuple[int, ...]:
    items = value.split(",") if isinstance(value, str) else list(value)
    sizes = tuple(_count(item) for item in items if str(item).strip())
    if sizes and (len(sizes) != 3 or not 1 <= sizes[0] <= sizes[1] <= sizes[2]):
        raise ValueError
    return sizes


def _path(value: Any) -> str:
    return str(os.fspath(value))


@dataclass(frozen=True, slots=True)
class Option:
    """One option.

    Attributes:
        name: Keyword of ``mxtrt.options`` and ``Symbol.optimize_for``.
        default: Value when nothing else is said.
        variables: Environment variables, the first that is set wins.
        expected: What a value looks like, for error messages.
        meaning: One sentence.
        parse: Checks and converts a value; raises ``ValueError`` or ``TypeError``.
    """

    name: str
    default: Any
    variables: tuple[str, ...]
    expected: str
    meaning: str
    parse: Callable[[Any], Any]

    def read(self, value: Any, source: str) -> Any:
        """Check and convert a value that came from ``source`` (named in the error)."""
        try:
            return self.parse(value)
        except (TypeError, ValueError):
            raise OptionError(f"{source} is {value!r}, expected {self.expected}") from None


#: Every option, in the order in which they are documented.
OPTIONS: Mapping[str, Option] = {
    option.name: option
    for option in (
        Option(
            "enabled",
            False,
            ("USE_TENSORRT", "MXNET_USE_TENSORRT"),
            "0 or 1",
            "Whether graphs bound for inference get engines.",
            _flag,
        ),
        Option(
            "engine",
            "auto",
            ("MXTRT_ENGINE",),
            "one of " + ", ".join(ENGINES),
            "Which engine runs the segments; auto takes TensorRT where it is installed and a GPU "
            "answers, else ONNX Runtime.",
            _one_of(ENGINES),
        ),
        Option(
            "precision",
            "fp32",
            ("MXTRT_PRECISION",),
            "one of " + ", ".join(PRECISIONS),
            "Arithmetic of the engines; tf32 matters on NVIDIA GPUs only. Inputs and outputs "
            "stay as MXNet has them.",
            _one_of(PRECISIONS),
        ),
        Option(
            "ranges",
            "",
            ("MXTRT_RANGES",),
            "a file that mxtrt calibrate wrote",
            "Ranges of the model's tensors, which precision int8 needs.",
            _path,
        ),
        Option(
            "workspace",
            0,
            ("MXTRT_WORKSPACE",),
            'bytes, or a size such as "512MiB"; 0 for no limit',
            "Most scratch memory that TensorRT may use for one engine; it reserves what it needs.",
            _size,
        ),
        Option(
            "batch_profile",
            (),
            ("MXTRT_BATCH_PROFILE",),
            "three batch sizes in ascending order, such as 1,8,32",
            "Smallest, usual and largest size of axis 0 of the data: TensorRT builds one engine "
            "for all of them, and other sizes run in MXNet; empty for an engine per shape.",
            _batches,
        ),
        Option(
            "cache_dir",
            "",
            ("MXTRT_CACHE_DIR",),
            "a directory",
            "Where built TensorRT engines are kept; by default the user's cache directory.",
            _path,
        ),
        Option(
            "cache_size",
            4 << 30,
            ("MXTRT_CACHE_SIZE",),
            'bytes, or a size such as "4GiB"; 0 for no cache',
            "Bytes of built engines that are kept; the least recently used go first.",
            _size,
        ),
        Option(
            "threads",
            0,
            ("MXTRT_THREADS",),
            "a number of threads, 0 for one per core",
            "Threads of the CPU engine; 0 for as many physical cores as the process may use, "
            "by its affinity, its control groups' quotas, OMP_NUM_THREADS, OMP_THREAD_LIMIT and "
            "MXNET_OMP_MAX_THREADS. Read once per process, when the first engine is built.",
            _count,
        ),
        Option(
            "spin",
            None,
            ("MXTRT_SPIN",),
            "0, 1 or auto",
            "Whether the CPU engine's threads spin for a moment before they sleep (lower latency, "
            "more CPU time); auto, where plain MXNet's threads would: it has several, neither "
            "OMP_WAIT_POLICY nor GOMP_SPINCOUNT stops them, and no quota. Read once per process.",
            _flag_or_auto,
        ),
        Option(
            "min_nodes",
            1,
            ("MXTRT_MIN_NODES",),
            "a number of nodes",
            "Segments with fewer nodes stay in MXNet.",
            _count,
        ),
        Option(
            "verify",
            False,
            ("MXTRT_VERIFY",),
            "0 or 1",
            "Whether every engine is compared with MXNet when it is first built; a node that makes "
            "a difference beyond rounding stays in MXNet.",
            _flag,
        ),
        Option(
            "prefer",
            "auto",
            ("MXTRT_PREFER",),
            "one of " + ", ".join(PREFERENCES),
            "Which segments keep their engine once it is built: engine keeps all, fastest leaves "
            "those to MXNet that MXNet's operators ran faster, in turns with the engine; auto does "
            "that on a CPU for segments that consist of large products, at which either may be "
            "faster, and keeps the others.",
            _one_of(PREFERENCES),
        ),
        Option(
            "take_over",
            True,
            ("MXTRT_TAKE_OVER",),
            "0 or 1",
            "Whether MXNet's operators answer the request in which an engine fails at run time; "
            "otherwise the request fails, so that a test sees it.",
            _flag,
        ),
        Option(
            "deny_ops",
            (),
            ("MXTRT_DENY_OPS",),
            "operator names, separated by commas",
            "Operators that stay in MXNet.",
            _names,
        ),
        Option(
            "allow_ops",
            (),
            ("MXTRT_ALLOW_OPS",),
            "operator names, separated by commas, or *",
            "Operators that are worth an engine even where a segment has few and cheap ones only, "
            "or where MXNet computes them faster on a CPU.",
            _names,
        ),
        Option(
            "data_names",
            (),
            ("MXTRT_DATA_NAMES",),
            "argument names, separated by commas",
            "Arguments that are data where mxtrt cannot know (Symbol.bind, Symbol.optimize_for); "
            "by default an argument is a weight where an operator calls it weight, bias, gamma, "
            "beta or a moving statistic.",
            _names,
        ),
        Option(
            "inline_below",
            200,
            ("MXTRT_INLINE_BELOW",),
            "a time in microseconds",
            "A graph in host memory that is one segment runs on the calling thread where its last "
            "run took less than this many microseconds, because handing it to MXNet's engine "
            "thread and back would cost more than it hides; 0 always hands it over, on GPUs too.",
            _count,
        ),
        Option(
            "max_engines",
            4,
            ("MXTRT_MAX_ENGINES",),
            "a number of engines",
            "Engines kept per segment for input shapes that need one of their own, beside those "
            "that live executors are bound to; the oldest goes first.",
            _count,
        ),
        Option(
            "release_weights",
            True,
            ("MXTRT_RELEASE_WEIGHTS",),
            "0 or 1",
            "Whether weights that an engine holds are paged out of MXNet's memory to a file.",
            _flag,
        ),
        Option(
            "spill_dir",
            "",
            ("MXTRT_SPILL_DIR",),
            "a directory",
            "Where released weights are paged out to; by default the user's cache directory.",
            _path,
        ),
    )
}


@dataclass(frozen=True, slots=True)
class Options:
    """The values of all options at one moment; see :data:`OPTIONS` for their meaning."""

    enabled: bool = False
    engine: str = "auto"
    precision: str = "fp32"
    ranges: str = ""
    workspace: int = 0
    batch_profile: tuple[int, ...] = ()
    cache_dir: str = ""
    cache_size: int = 4 << 30
    threads: int = 0
    spin: bool | None = None
    min_nodes: int = 1
    verify: bool = False
    prefer: str = "auto"
    take_over: bool = True
    deny_ops: tuple[str, ...] = ()
    allow_ops: tuple[str, ...] = ()
    data_names: tuple[str, ...] = ()
    inline_below: int = 200
    max_engines: int = 4
    release_weights: bool = True
    spill_dir: str = ""

    def replace(self, **values: Any) -> Options:
        """A copy with some options changed, names and values checked."""
        return dataclasses.replace(self, **_checked(values))


def _checked(values: Mapping[str, Any]) -> dict[str, Any]:
    checked = {}
    for name, value in values.items():
        if name not in OPTIONS:
            raise OptionError(f"unknown option {name!r}, expected one of {', '.join(OPTIONS)}")
        checked[name] = OPTIONS[name].read(value, f"option {name}")
    return checked


_process: dict[str, Any] = {}
_scoped: contextvars.ContextVar[dict[str, Any] | None] = contextvars.ContextVar(
    "mxtrt_options", default=None
)


def current() -> Options:
    """The options in force now.

    Raises:
        OptionError: An environment variable has a value that its option does not take.
    """
    values: dict[str, Any] = {}
    for option in OPTIONS.values():
        for variable in option.variables:
            if variable in os.environ:
                source = f"environment variable {variable}"
                values[option.name] = option.read(os.environ[variable], source)
                break
    return Options(**{**values, **_process, **(_scoped.get() or {})})


def enable(**values: Any) -> None:
    """Switch the integration on for every later bind in this process.

    Args:
        values: Options to set along with it, see :data:`OPTIONS`.

    Raises:
        OptionError: An option or value is unknown.
    """
    _process.update(_checked({**values, "enabled": True}))


def disable() -> None:
    """Switch the integration off for every later bind; what is bound stays as it is."""
    _process.clear()
    _process["enabled"] = False


@contextlib.contextmanager
def options(**values: Any) -> Iterator[Options]:
    """Set options for the binds of a ``with`` block.

    The integration is on inside the block unless ``enabled=False`` is given.

    Raises:
        OptionError: An option or value is unknown.
    """
    checked = _checked({"enabled": True, **values})
    token = _scoped.set({**(_scoped.get() or {}), **checked})
    try:
        yield current()
    finally:
        _scoped.reset(token)
