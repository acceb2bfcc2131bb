"""What the library in C asks of Python, in a program that is none of Python's.

All of it runs on one thread, the interpreter's.  Each function answers 1 for done, 0 for "MXNet's
own", and -1 for an error, of which it gave the message.
"""

from __future__ import annotations

import atexit
import ctypes
import functools
import itertools
import logging
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from mxtrt.errors import OptionError

__all__ = ["install"]

_log = logging.getLogger("mxtrt")

_INT, _POINTER, _TEXT = ctypes.c_int, ctypes.c_void_p, ctypes.c_char_p
_POINTERS = ctypes.POINTER(ctypes.c_void_p)
_TEXTS = ctypes.POINTER(ctypes.c_char_p)
_SIZES = ctypes.POINTER(ctypes.c_uint32)
_INTS = ctypes.POINTER(ctypes.c_int)

#: ``Python`` in ``embedded.h``: what each function is given.
_QUESTIONS = {
    "bind": (_POINTER, _POINTER, _INT, _INT, _INT, _POINTERS, _INT, _POINTERS, _INT, _TEXTS, _INT),
    "share": (_POINTER, _POINTER, _INT, _POINTERS, _INT, _POINTERS),
    "forward": (_POINTER,),
    "drop": (_POINTER,),
    "create": (_POINTER, _POINTER, _INT, _TEXTS, _TEXTS, _INT, _POINTERS),
    "invoke": (_POINTER, _INT, _POINTERS),
    "predict": (
        *(_TEXT, _POINTER, _INT, _INT, _INT, _INT, _TEXTS, _SIZES, _SIZES),
        *(_INT, _TEXTS, _INTS, _INT, _TEXTS, ctypes.POINTER(ctypes.c_int64)),
    ),
    "write": (_POINTER, _TEXT, _POINTER, ctypes.c_uint32),
    "refuse": (_POINTER, _INT, _TEXTS, _SIZES, _SIZES),
    "optimize": (_POINTER, _INT, _TEXTS, _TEXTS, _POINTERS),
}
#: Those whose errors from MXNet are the caller's.
_MXNETS_ERRORS = ("forward", "invoke", "write", "refuse")
_TYPES = {name: ctypes.CFUNCTYPE(_INT, *given) for name, given in _QUESTIONS.items()}
_TYPES["drop"] = ctypes.CFUNCTYPE(None, _POINTER)
_TYPES["end"] = ctypes.CFUNCTYPE(None)


class _Python(ctypes.Structure):
    _fields_ = [*_TYPES.items()]


#: ``Node`` in ``embedded.h``, by the names of the engine node's functions.
_NODE = ("run", "watch_changed", "any_retired", "is_same", "count_write")


class _Node(ctypes.Structure):
    _fields_ = [(name, _POINTER) for name in _NODE]


class _Lock:
    """The lock of MXNet's binds, which the library in C takes for the caller's own."""

    def __init__(self, front: ctypes.CDLL) -> None:
        self._lock, self._unlock = front.mxtrt_front_lock, front.mxtrt_front_unlock

    def __enter__(self) -> None:
        self._lock()

    def __exit__(self, *_: object) -> None:
        self._unlock()


class _Embedded:
    """The executors, blocks and predictors of the program."""

    def __init__(self, front: ctypes.CDLL) -> None:
        self._front = front
        self._held: dict[int, Any] = {}  # executors and blocks by handle, models by token
        self._arms: dict[int, Any] = {}
        self._tokens = itertools.count(1)

    def bind(
        self,
        handle: int,
        symbol: int,
        device: int,
        number: int,
        num_arguments: int,
        arguments: Any,
        num_states: int,
        states: Any,
        num_data: int,
        data: Any,
        lazily: int,
    ) -> int:
        from mxtrt.frontends.executors import ClientExecutor

        executor = ClientExecutor(
            handle,
            _symbol(symbol),
            _context(device, number),
            _arrays(arguments[:num_arguments]),
            _arrays(states[:num_states]),
        )
        names = {data[i].decode() for i in range(num_data)} if lazily else None
        if not executor.bind(names):
            executor.close()
            return 0
        self._held[handle] = executor
        return 1

    def share(
        self,
        handle: int,
        source: int,
        num_arguments: int,
        arguments: Any,
        num_states: int,
        states: Any,
    ) -> int:
        from mxtrt.frontends.executors import ClientExecutor

        first = self._held[source]
        executor = ClientExecutor(
            handle,
            first.symbol,
            first.context,
            _arrays(arguments[:num_arguments]),
            _arrays(states[:num_states]),
        )
        if not first.share_with(executor):
            executor.close()
            return 0
        self._held[handle] = executor
        return 1

    def forward(self, handle: int) -> int:
        arms = self._held[handle].forward()
        if arms is not None:
            self._front.mxtrt_front_arm_executor(ctypes.c_void_p(handle), ctypes.byref(arms))
            self._arms[handle] = arms
        return 1

    def drop(self, handle: int) -> None:
        held = self._held.pop(handle, None)
        self._arms.pop(handle, None)
        if hasattr(held, "close"):
            held.close()

    def create(
        self,
        handle: int,
        symbol: int,
        num_flags: int,
        keys: Any,
        values: Any,
        num_inputs: int,
        inputs: Any,
    ) -> int:
        from mxtrt.frontends.blocks import ClientBlock

        flags = {keys[i].decode(): values[i].decode() for i in range(num_flags)}
        self._held[handle] = ClientBlock(_symbol(symbol), flags, _arrays(inputs[:num_inputs]))
        return 1

    def invoke(self, handle: int, num_inputs: int, inputs: Any) -> int:
        made = self._held[handle](_arrays(inputs[:num_inputs]))
        if made is None:
            return 0
        outputs, arms = made
        if arms is not None:
            self._front.mxtrt_front_arm_cached_op(ctypes.c_void_p(handle), ctypes.byref(arms))
            self._arms[handle] = arms
        given = (ctypes.c_void_p * max(len(outputs), 1))(*(o.handle.value for o in outputs))
        for output in outputs:
            output.handle = None  # the caller's from here on
        self._front.mxtrt_front_outputs(given, len(outputs))
        return 1

    def predict(
        self,
        json: bytes,
        parameters: int,
        size: int,
        device: int,
        number: int,
        num_inputs: int,
        keys: Any,
        begins: Any,
        sizes: Any,
        num_types: int,
        typed: Any,
        types: Any,
        num_outputs: int,
        outputs: Any,
        token: Any,
    ) -> int:
        import mxnet as mx

        from mxtrt.frontends.predictors import model_with_engines, outputs_of
        from mxtrt.plain.dtypes import DTYPES

        symbol = mx.sym.load_json(json.decode())
        if num_outputs:
            symbol = outputs_of(symbol, [outputs[i].decode() for i in range(num_outputs)])
        given = mx.nd.load_frombuffer(ctypes.string_at(parameters, size)) if size else {}
        shapes = _shapes(num_inputs, keys, begins, sizes)
        dtypes = {typed[i].decode(): DTYPES[types[i]] for i in range(num_types)}
        context = _context(device, number)
        model = model_with_engines(symbol, given, context, shapes, dtypes)
        if model is None:
            return 0
        token[0] = next(self._tokens)
        self._held[token[0]] = model
        blob = model.parameters
        self._front.mxtrt_front_model(model.json.encode(), blob, len(blob))
        return 1

    def write(self, token: int, name: bytes, values: int, size: int) -> int:
        return int(self._held[token].write(name.decode(), values, size))

    def refuse(self, token: int, num_inputs: int, keys: Any, begins: Any, sizes: Any) -> int:
        self._held[token].refuse(_shapes(num_inputs, keys, begins, sizes))
        return 0

    def optimize(self, symbol: int, num_options: int, keys: Any, values: Any, out: Any) -> int:
        from mxtrt.frontends.optimized import optimized

        options = {keys[i].decode(): values[i].decode() for i in range(num_options)}
        try:
            made = optimized(_symbol(symbol), options)
        except OptionError as error:  # as in Python, where it is raised
            self._front.mxtrt_front_message(str(error).encode())
            return -1
        out[0], made.handle = made.handle.value, None  # the caller's from here on
        return 1

    def end(self) -> None:
        # The program ends without Python, which would call them.
        atexit._run_exitfuncs()


def _guarded(front: ctypes.CDLL, name: str, function: Callable[..., int]) -> Callable[..., Any]:
    """A function that raises nothing; what it does not do is MXNet's."""

    @functools.wraps(function)
    def answer(*given: Any) -> int | None:
        from mxnet.base import MXNetError

        try:
            return function(*given)
        except MXNetError as error:
            front.mxtrt_front_message(str(error).encode())
            return -1 if name in _MXNETS_ERRORS else 0
        except BaseException as error:
            said = " ".join(str(error).split())
            print(
                f"mxtrt: {name} failed, plain MXNet answers: {type(error).__name__}: {said}",
                file=sys.stderr,
            )
            _log.debug("%s failed", name, exc_info=True)
            return 0

    return answer


def _symbol(handle: int) -> Any:
    import mxnet as mx
    from mxnet.base import _LIB, SymbolHandle, check_call

    out = SymbolHandle()
    check_call(_LIB.MXSymbolCopy(ctypes.c_void_p(handle), ctypes.byref(out)))
    return mx.sym.Symbol(out)


def _arrays(handles: Sequence[int]) -> list[Any]:
    """Arrays of the caller's, with handles of their own."""
    import mxnet as mx
    from mxnet.base import _LIB, NDArrayHandle, check_call

    made = []
    for handle in handles:
        out = NDArrayHandle()
        check_call(_LIB.MXShallowCopyNDArray(ctypes.c_void_p(handle), ctypes.byref(out)))
        made.append(mx.nd.NDArray(out))
    return made


def _shapes(number: int, keys: Any, begins: Any, sizes: Any) -> dict[str, tuple[int, ...]]:
    """Shapes by name, as the predict API has them."""
    return {keys[i].decode(): tuple(sizes[begins[i] : begins[i + 1]]) for i in range(number)}


def _context(device: int, number: int) -> Any:
    import mxnet as mx

    return mx.Context(mx.Context.devtype2str[device], number)


@contextmanager
def _library_of_mxnet(path: str) -> Iterator[None]:
    """Has ``import mxnet`` find MXNet's own library, which the program has loaded."""
    before = os.environ.get("MXNET_LIBRARY_PATH")
    os.environ["MXNET_LIBRARY_PATH"] = path
    try:
        yield
    finally:
        if before is None:
            del os.environ["MXNET_LIBRARY_PATH"]
        else:
            os.environ["MXNET_LIBRARY_PATH"] = before


@contextmanager
def _absent(*packages: str) -> Iterator[None]:
    """Has imports find no such packages; MXNet does without them."""
    sys.modules.update(dict.fromkeys(packages))  # type: ignore[arg-type]
    try:
        yield
    finally:
        for package in packages:
            del sys.modules[package]


@contextmanager
def _without_children() -> Iterator[None]:
    """Has imports start no processes, of whose end a program would get SIGCHLD.

    NumPy's tests ask ``lscpu`` for a feature of ARM processors, and do without.
    """
    original = subprocess.run

    def refuse(*_args: Any, **_kwargs: Any) -> Any:
        raise OSError("no processes here")

    subprocess.run = refuse
    try:
        yield
    finally:
        subprocess.run = original


_kept: list[Any] = []  # what the library in C has the addresses of


def install(own: str, real: str) -> None:
    """Answer the library in C from now on.

    Args:
        own: Path of the library that asks.
        real: Path of MXNet's own.

    Raises:
        MxtrtError: mxtrt cannot serve this MXNet.
    """
    # They take as long as MXNet itself, for FeedForward, sparse arrays and calibration in Python.
    with _library_of_mxnet(real), _absent("sklearn", "scipy"), _without_children():
        import mxnet as mx

    from mxtrt.errors import NodeError
    from mxtrt.hooks import partitioned
    from mxtrt.node import library

    if not mx.__version__.startswith("1.9."):
        raise NodeError(f"MXNet {mx.__version__} is installed; install mxnet 1.9.1")
    front = ctypes.CDLL(own)
    partitioned.lock_with(_Lock(front))
    embedded = _Embedded(front)
    functions = {
        name: made(_guarded(front, name, getattr(embedded, name))) for name, made in _TYPES.items()
    }
    table = _Python(**functions)
    node = library().lib
    addresses = (ctypes.cast(node[f"mxtrt_{name}"], ctypes.c_void_p) for name in _NODE)
    _kept.extend((embedded, table))
    front.mxtrt_front_install(ctypes.byref(table), ctypes.byref(_Node(*addresses)))
