"""Every option, defined once: name, type, default, environment variables, meaning.

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
from dataclasses import dataclass, field, fields
from typing import Any, TypeVar, cast

from mxtrt.errors import OptionError

__all__ = [
    "BUILDS",
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

#: Which builds a bind or a forward waits for: all of them, the first one, or none.
BUILDS = ("foreground", "wait", "background")

_T = TypeVar("_T")

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


def _positive(value: Any) -> int:
    if (number := _count(value)) < 1:
        raise ValueError
    return number


def _gpus(value: Any) -> tuple[int, ...]:
    """Numbers of GPUs in their order, empty for all of them."""
    if isinstance(value, str):
        value = [] if value.strip() == "all" else value.split(",")
        if value == [""]:
            raise ValueError
    elif isinstance(value, int):
        value = [value]
    numbers = tuple(_count(item) for item in value)
    if len(set(numbers)) < len(numbers):
        raise ValueError
    return numbers


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


def _ranges(value: Any) -> tuple[tuple[str, tuple[tuple[int, int, int], ...]], ...]:
    """Sizes by input and axis: smallest, usual and largest; usual is 0 where it is not said."""
    if isinstance(value, str):
        items = [item.rpartition(":") for item in value.split(";") if item.strip()]
        named = [(name.strip(), map(_range, sizes.split(","))) for name, _, sizes in items]
    else:
        pairs = value.items() if isinstance(value, Mapping) else value
        named = [(name, map(_range, sizes)) for name, sizes in pairs]
    made = {}
    for name, sizes in named:
        if not isinstance(name, str) or not name or name in made:
            raise ValueError
        made[name] = tuple(sizes)
    return tuple(made.items())


def _range(value: Any) -> tuple[int, int, int]:
    """``8``, ``1-32``, ``1/8/32``, or the three numbers."""
    value = str(value) if isinstance(value, int) else value
    if isinstance(value, str) and "/" not in value:
        low, dash, high = value.partition("-")
        sizes = [_count(low), 0 if dash else _count(low), _count(high if dash else low)]
    else:
        sizes = [_count(size) for size in (value.split("/") if isinstance(value, str) else value)]
    smallest, usual, largest = sizes
    if not (1 <= smallest <= largest and (not usual or smallest <= usual <= largest)):
        raise ValueError
    return smallest, usual, largest


def _path(value: Any) -> str:
    return str(os.fspath(value))


@dataclass(frozen=True, slots=True)
class Option:
    """The definition of one option.

    Attributes:
        name: Keyword of ``mxtrt.options`` and ``Symbol.optimize_for``.
        default: Value when nothing else is said.
        variables: Environment variables that set it; of several that are set the first one counts.
        expected: What a value looks like, for error messages.
        meaning: What it does, in a sentence or two.
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


def _option(
    default: _T,
    *variables: str,
    expected: str,
    meaning: str,
    parse: Callable[[Any], _T],
) -> _T:
    """A field of :class:`Options`; its metadata are what :class:`Option` says of it besides.

    Type checkers are told that it is a value, as they are of :func:`dataclasses.field`.
    """
    metadata = {"variables": variables, "expected": expected, "meaning": meaning, "parse": parse}
    made: Any = field(default=default, metadata=metadata)
    return cast(_T, made)


@dataclass(frozen=True, slots=True)
class Options:
    """The values of all options at one moment.

    Each field defines one option, in the order in which they are documented.  :data:`OPTIONS` has
    the definitions by name.
    """

    enabled: bool = _option(
        False,
        "USE_TENSORRT",
        "MXNET_USE_TENSORRT",
        expected="0 or 1",
        meaning="Whether graphs bound for inference get engines.",
        parse=_flag,
    )
    engine: str = _option(
        "auto",
        "MXTRT_ENGINE",
        expected="one of " + ", ".join(ENGINES),
        meaning=(
            "Which engine runs the segments; auto takes TensorRT where it is installed and a GPU "
            "answers, else ONNX Runtime."
        ),
        parse=_one_of(ENGINES),
    )
    precision: str = _option(
        "fp32",
        "MXTRT_PRECISION",
        expected="one of " + ", ".join(PRECISIONS),
        meaning=(
            "Arithmetic of the engines; tf32 matters on NVIDIA GPUs only. Inputs and outputs "
            "stay as MXNet has them."
        ),
        parse=_one_of(PRECISIONS),
    )
    ranges: str = _option(
        "",
        "MXTRT_RANGES",
        expected="a file that mxtrt calibrate wrote",
        meaning="Ranges of the model's tensors, which precision int8 needs.",
        parse=_path,
    )
    workspace: int = _option(
        0,
        "MXTRT_WORKSPACE",
        expected='bytes, or a size such as "512MiB"; 0 for no limit',
        meaning=(
            "Most scratch memory that TensorRT may use for one engine; it reserves what it needs."
        ),
        parse=_size,
    )
    batch_profile: tuple[int, ...] = _option(
        (),
        "MXTRT_BATCH_PROFILE",
        expected="three batch sizes in ascending order, such as 1,8,32",
        meaning=(
            "Smallest, usual and largest size of axis 0 of the data, where the option shapes says "
            "nothing: TensorRT builds one engine for all of them, and other sizes run in MXNet."
        ),
        parse=_batches,
    )
    shapes: tuple[tuple[str, tuple[tuple[int, int, int], ...]], ...] = _option(
        (),
        "MXTRT_SHAPES",
        expected=(
            'a range for each axis of an input, such as "data:1-32,3,224-1024,224-1024", or its '
            'smallest, usual and largest size, such as "data:1/8/32,3,224,224"; several inputs '
            "separated by ;"
        ),
        meaning=(
            "Shapes of the data that the first TensorRT engine serves, others run in MXNet; empty "
            "for an engine for the first shapes, and ranges that are learned when others come."
        ),
        parse=_ranges,
    )
    cache_dir: str = _option(
        "",
        "MXTRT_CACHE_DIR",
        expected="a directory",
        meaning="Where built TensorRT engines are kept; by default the user's cache directory.",
        parse=_path,
    )
    cache_size: int = _option(
        4 << 30,
        "MXTRT_CACHE_SIZE",
        expected='bytes, or a size such as "4GiB"; 0 for no cache',
        meaning="Bytes of built engines that are kept; the least recently used go first.",
        parse=_size,
    )
    threads: int = _option(
        0,
        "MXTRT_THREADS",
        expected="a number of threads, 0 for one per core",
        meaning=(
            "Threads of the CPU engine; 0 for as many physical cores as the process may use, "
            "by its affinity, its control groups' quotas, OMP_NUM_THREADS, OMP_THREAD_LIMIT and "
            "MXNET_OMP_MAX_THREADS. Read once per process, when the first engine is built."
        ),
        parse=_count,
    )
    spin: bool | None = _option(
        None,
        "MXTRT_SPIN",
        expected="0, 1 or auto",
        meaning=(
            "Whether the CPU engine's threads spin for a moment before they sleep (lower latency, "
            "more CPU time); auto, where plain MXNet's threads would: it has several, neither "
            "OMP_WAIT_POLICY nor GOMP_SPINCOUNT stops them, and no quota. Read once per process."
        ),
        parse=_flag_or_auto,
    )
    lanes: int = _option(
        8,
        "MXTRT_LANES",
        expected="a number of lanes, at least 1",
        meaning=(
            "Runs of TensorRT engines that a GPU computes at once, at the most: another lane (a "
            "stream, scratch memory, and a context of each engine that runs on it) is opened in "
            "the background when runs overlap. A thread that is alone uses one. Engines for ranges "
            "of shapes share one lane."
        ),
        parse=_positive,
    )
    gpus: tuple[int, ...] = _option(
        (0,),
        "MXTRT_GPUS",
        expected='"all", or numbers of GPUs separated by commas, such as 0,1',
        meaning=(
            "GPUs on which TensorRT runs graphs of mx.cpu(), as CUDA_VISIBLE_DEVICES numbers them: "
            "the first one, and the others too when runs overlap. Graphs on mx.gpu() stay there."
        ),
        parse=_gpus,
    )
    min_nodes: int = _option(
        1,
        "MXTRT_MIN_NODES",
        expected="a number of nodes",
        meaning="Segments with fewer nodes stay in MXNet.",
        parse=_count,
    )
    verify: bool = _option(
        False,
        "MXTRT_VERIFY",
        expected="0 or 1",
        meaning=(
            "Whether every engine is compared with MXNet when it is first built; a node that makes "
            "a difference beyond rounding stays in MXNet."
        ),
        parse=_flag,
    )
    prefer: str = _option(
        "auto",
        "MXTRT_PREFER",
        expected="one of " + ", ".join(PREFERENCES),
        meaning=(
            "Which segments keep their engine once it is built: engine keeps all, fastest leaves "
            "those to MXNet that MXNet's operators ran faster, in turns with the engine; auto does "
            "that on a CPU for segments that consist of large products, at which either may be "
            "faster, and keeps the others."
        ),
        parse=_one_of(PREFERENCES),
    )
    take_over: bool = _option(
        True,
        "MXTRT_TAKE_OVER",
        expected="0 or 1",
        meaning=(
            "Whether MXNet's operators answer the request in which an engine fails at run time; "
            "otherwise the request fails, so that a test sees it."
        ),
        parse=_flag,
    )
    deny_ops: tuple[str, ...] = _option(
        (),
        "MXTRT_DENY_OPS",
        expected="operator names, separated by commas",
        meaning="Operators that stay in MXNet.",
        parse=_names,
    )
    allow_ops: tuple[str, ...] = _option(
        (),
        "MXTRT_ALLOW_OPS",
        expected="operator names, separated by commas, or *",
        meaning=(
            "Operators that are worth an engine even where a segment has few and cheap ones only, "
            "or where MXNet computes them faster on a CPU."
        ),
        parse=_names,
    )
    data_names: tuple[str, ...] = _option(
        (),
        "MXTRT_DATA_NAMES",
        expected="argument names, separated by commas",
        meaning=(
            "Arguments that are data where mxtrt cannot know (Symbol.bind, Symbol.optimize_for); "
            "by default an argument is a weight where an operator calls it weight, bias, gamma, "
            "beta or a moving statistic."
        ),
        parse=_names,
    )
    inline_below: int = _option(
        200,
        "MXTRT_INLINE_BELOW",
        expected="a time in microseconds",
        meaning=(
            "A graph in host memory that is one segment runs on the calling thread where its "
            "runs take less than this many microseconds, because handing it to MXNet's engine "
            "thread and back would cost more than it hides; 0 always hands it over, on GPUs too."
        ),
        parse=_count,
    )
    build: str = _option(
        "wait",
        "MXTRT_BUILD",
        expected="one of " + ", ".join(BUILDS),
        meaning=(
            "Which builds are waited for: with foreground all are, so that what runs where depends "
            "on no time; with wait those of the first bind, and what follows (other input shapes, "
            "changed weights) is built in the background while MXNet's operators answer; with "
            "background no build is.  On mx.gpu() all are waited for."
        ),
        parse=_one_of(BUILDS),
    )
    max_engines: int = _option(
        4,
        "MXTRT_MAX_ENGINES",
        expected="a number of engines",
        meaning=(
            "Engines kept per segment for input shapes that need one of their own, beside those "
            "that live executors are bound to and, where engines are built in the background, the "
            "one used last; the one used least lately goes first."
        ),
        parse=_count,
    )
    release_weights: bool = _option(
        True,
        "MXTRT_RELEASE_WEIGHTS",
        expected="0 or 1",
        meaning="Whether weights that an engine holds are paged out of MXNet's memory to a file.",
        parse=_flag,
    )
    spill_dir: str = _option(
        "",
        "MXTRT_SPILL_DIR",
        expected="a directory",
        meaning="Where released weights are paged out to; by default the user's cache directory.",
        parse=_path,
    )

    def gpu_for(self, gpu: int | None) -> int:
        """The GPU on which an engine is built.

        Args:
            gpu: The GPU that its arrays are on, None for host memory.
        """
        first = self.gpus[0] if self.gpus else 0
        return first if gpu is None else gpu

    def replace(self, **values: Any) -> Options:
        """A copy with some options changed, names and values checked."""
        return dataclasses.replace(self, **_checked(values))


#: Every option by name, in the order of the fields of :class:`Options`.
OPTIONS: Mapping[str, Option] = {
    item.name: Option(item.name, item.default, **item.metadata) for item in fields(Options)
}


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
