"""Loads the compiled engine node into MXNet and types its functions.

The library is loaded once per process, at the first bind that wants an engine.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import functools
import math
import os
import secrets
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mxtrt.errors import NodeError
from mxtrt.graph.symbol import DTYPES, decoding
from mxtrt.node.cuda import Cuda
from mxtrt.node.watch import Watch
from mxtrt.system.threads import once

__all__ = [
    "MXNET_FUNCTIONS",
    "OPERATOR",
    "PATH",
    "Call",
    "Library",
    "Tally",
    "Tensor",
    "library",
    "type_flag",
]


def _find(name: str) -> Path:
    """A file of this package: beside the sources, or where an editable install compiles to."""
    folders = [Path(folder) for folder in sys.modules[__package__].__path__]
    found = (path for folder in folders if (path := folder / name).exists())
    return next(found, Path(__file__).with_name(name))


#: The compiled engine node.
PATH = _find("libmxtrt_node.so")

#: Name of the engine node's operator in a symbol.
OPERATOR = "_mxtrt_engine"

#: What the engine node calls of MXNet's C API, in the order of ``struct MXNet`` in ``arrays.h``.
MXNET_FUNCTIONS = (
    "MXNDArrayWaitToRead",
    "MXEnginePushSyncND",
    "MXNDArrayGetShapeEx64",
    "MXNDArrayGetDType",
    "MXNDArrayGetData",
    "MXNDArrayCreateEx64",
    "MXNDArrayFree",
    "MXShallowCopyNDArray",
    "MXEnginePushAsync",
    "MXNDArrayGetStorageType",
    "MXGetLastError",
)

_FLAGS = {dtype: flag for flag, dtype in DTYPES.items()}

_PASS = ctypes.CFUNCTYPE(
    ctypes.c_int,
    ctypes.c_char_p,
    ctypes.POINTER(ctypes.c_char_p),
    ctypes.POINTER(ctypes.c_char_p),
    ctypes.c_int,
)
_SHAPE = ctypes.CFUNCTYPE(
    ctypes.c_int,
    ctypes.c_int64,
    ctypes.POINTER(ctypes.c_int64),
    ctypes.POINTER(ctypes.c_int),
    ctypes.c_int,
    ctypes.c_int,
)

_FAILURE = ctypes.CFUNCTYPE(
    ctypes.c_int,
    ctypes.c_int64,
    ctypes.c_char_p,
    ctypes.POINTER(ctypes.c_int64),
    ctypes.POINTER(ctypes.c_int),
    ctypes.POINTER(ctypes.c_void_p),
    ctypes.c_void_p,
)


class Call(ctypes.Structure):
    """What stays the same from run to run of a node on the calling thread: ``Call`` in C++.

    Attributes:
        key: The node.
        limit: Nanoseconds; where its last run in host memory took longer, it goes through MXNet.
        device_type: MXNet's number of the device type of its inputs and outputs.
        device_id: Which of these devices.
        num_inputs: How many inputs it has.
        num_outputs: How many outputs it has.
    """

    _fields_ = (
        ("key", ctypes.c_int64),
        ("limit", ctypes.c_int64),
        ("device_type", ctypes.c_int),
        ("device_id", ctypes.c_int),
        ("num_inputs", ctypes.c_int),
        ("num_outputs", ctypes.c_int),
    )


class Tensor(NamedTuple):
    """An input or output of a forward, in memory that MXNet owns.

    Attributes:
        address: Address of its first byte, in host memory or on a GPU.
        shape: Its shape.
        dtype: Its dtype.
    """

    address: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @property
    def values(self) -> np.ndarray[Any, Any]:
        """The bytes where they are, as an array: of a tensor in host memory."""
        size = math.prod(self.shape) * self.dtype.itemsize
        memory: Any = (ctypes.c_char * size).from_address(self.address) if size else bytearray()
        return np.frombuffer(memory, self.dtype).reshape(self.shape)


PassFunction = Callable[[str, dict[str, str]], str]
#: Key of a node, its input shapes, and whether a forward that is under way asks for them.
ShapeFunction = Callable[[int, tuple[tuple[int, ...], ...], bool], None]
#: Key of a node, the engine's message, its tensors, inputs then outputs, and the ``CUstream`` on
#: which MXNet runs a node on a GPU; None for the tensors when they are out of reach.
FailureFunction = Callable[[int, str, list[Tensor] | None, int], None]


class Tally(NamedTuple):
    """What forwards did, as the engine node counts it.

    Attributes:
        runs: Runs of sessions.
        copies: Tensors copied on their way in or out of an engine; a tensor that goes through
            pinned memory is copied twice.
        copied: Bytes of these.
        waits: Waits for a CUDA stream, an event or an array.
        allocations: Allocations of memory for tensors.
    """

    runs: int
    copies: int
    copied: int
    waits: int
    allocations: int

    def __sub__(self, earlier: Tally) -> Tally:
        return Tally(*(now - then for now, then in zip(self, earlier, strict=True)))


def type_flag(dtype: np.dtype[Any]) -> int:
    """MXNet's type flag of a dtype."""
    return _FLAGS[np.dtype(dtype)]


def _array(kind: Any, values: Sequence[Any]) -> Any:
    return (kind * max(len(values), 1))(*values)


class Library:
    """The engine node's functions.

    Raises:
        NodeError: The library is missing, or does not fit this MXNet.
    """

    def __init__(self, path: Path) -> None:
        from mxnet.base import _LIB, MXNetError

        if not path.exists():
            raise NodeError(
                f"the compiled engine node {path} is missing; install mxtrt from a wheel, "
                "or from source with a C++17 compiler"
            )
        try:
            _load(path)
        except MXNetError as error:
            raise NodeError(f"MXNet did not load {path}: {_first_line(error)}") from error
        except AttributeError as error:
            raise NodeError("this MXNet has no extension interface; install mxnet 1.9.1") from error
        self._lib = ctypes.CDLL(str(path))
        self._lib.mxtrt_take_error.restype = ctypes.c_char_p
        self._lib.mxtrt_node_create.restype = ctypes.c_int64
        self._lib.mxtrt_ort_open.restype = ctypes.c_char_p
        self._lib.mxtrt_ort_session.restype = ctypes.c_int64
        self._lib.mxtrt_ort_shrink.restype = None
        self._lib.mxtrt_ort_arena.restype = ctypes.c_int64
        self._lib.mxtrt_set_error.argtypes = [ctypes.c_char_p]
        self._lib.mxtrt_pass_result.argtypes = [ctypes.c_char_p]
        self._lib.mxtrt_set_token.argtypes = [ctypes.c_char_p]
        self._lib.mxtrt_set_token.restype = None
        self._name_process()
        self._lib.mxtrt_release.argtypes = [ctypes.c_int64]
        self._lib.mxtrt_release.restype = None
        self._lib.mxtrt_range_push.argtypes = [ctypes.c_char_p]
        self._lib.mxtrt_range_push.restype = None
        self._lib.mxtrt_range_pop.restype = None
        self._lib.mxtrt_retire.argtypes = [ctypes.c_int64]
        self._lib.mxtrt_retire.restype = None
        self._lib.mxtrt_page_out.argtypes = [
            ctypes.c_void_p,
            ctypes.c_void_p,
            ctypes.c_size_t,
            ctypes.c_int,
            ctypes.c_int64,
            ctypes.c_void_p,
        ]
        self._lib.mxtrt_node_put.argtypes = [
            ctypes.c_int64,
            ctypes.c_void_p,
            ctypes.c_void_p,
            ctypes.c_int64,
        ]
        for name in ("users", "last_use", "drop"):
            function = getattr(self._lib, f"mxtrt_node_{name}")
            function.argtypes = [ctypes.c_int64, ctypes.c_void_p, ctypes.c_void_p]
        self._lib.mxtrt_node_last_use.restype = ctypes.c_int64
        self._lib.mxtrt_spare_bytes.restype = ctypes.c_int64
        self._lib.mxtrt_arrays_init(
            (ctypes.c_void_p * len(MXNET_FUNCTIONS))(
                *(ctypes.cast(getattr(_LIB, n), ctypes.c_void_p).value for n in MXNET_FUNCTIONS)
            )
        )
        self._lib.mxtrt_run.argtypes = [
            ctypes.POINTER(Call),
            ctypes.c_void_p,
            ctypes.c_void_p,
        ]
        self._lib.mxtrt_are_alike.argtypes = [
            ctypes.c_void_p,
            ctypes.c_void_p,
            ctypes.c_int,
            ctypes.c_int,
            ctypes.c_int,
        ]
        self._lib.mxtrt_is_readable.argtypes = [ctypes.c_void_p]
        self._lib.mxtrt_evict.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p]
        self._lib.mxtrt_evict.restype = ctypes.c_int64
        self._lib.mxtrt_finish.argtypes = [ctypes.c_void_p]
        self._lib.mxtrt_owners.argtypes = [ctypes.c_void_p]
        Watch.declare(self._lib)
        self._lib.mxtrt_is_evicted.argtypes = [ctypes.c_void_p]
        self._lib.mxtrt_memory_flags.argtypes = [ctypes.c_void_p]
        #: Whether arrays are what a graph was bound for, see ``mxtrt_are_alike`` in ``arrays.cc``.
        self.are_alike = self._lib.mxtrt_are_alike
        self._check_layout()
        self._callbacks: tuple[Any, ...] = ()
        self._types: dict[int, list[np.dtype[Any]]] = {}  # of the nodes
        #: What works on NVIDIA GPUs.
        self.cuda = Cuda(self, self._lib)
        #: Runs a node from the calling thread, see ``mxtrt_run`` in ``inline.cc``.
        self.run_call = self._lib.mxtrt_run
        #: Returns when the run that writes an array is done, see ``mxtrt_finish`` there.
        self.finish = self._lib.mxtrt_finish
        atexit.register(self._shutdown)

    def run(
        self,
        key: int,
        inputs: Any,
        num_inputs: int,
        outputs: Any,
        num_outputs: int,
        limit: int,
        context: tuple[int, int] = (1, 0),
    ) -> int:
        """Run a node once from the calling thread.

        Args:
            key: The node.
            inputs: A C array of the handles of its inputs.
            num_inputs: How many they are.
            outputs: A C array for the handles of its outputs.
            num_outputs: How many they are.
            limit: Nanoseconds; where its last run in host memory took longer, it does not run.
            context: MXNet's number of the device type of the arrays, and which of these devices.

        Returns:
            1 when the outputs are there or on their way, 0 after setting the error, -1 where the
            node takes no such inputs.
        """
        call = Call(key, limit, *context, num_inputs, num_outputs)
        done: int = self.run_call(ctypes.byref(call), inputs, outputs)
        return done

    def lost_threads(self) -> bool:
        """Whether this process was forked from one whose engines had threads.

        If not, its own engines are from now on of this process only.
        """
        lost = bool(self._lib.mxtrt_forked())
        if not lost:
            self._name_process()
        return lost

    def _name_process(self) -> None:
        #: What the ``process`` attribute of an engine node says: keys are this process's own.
        self.token = secrets.token_hex(8)
        self._lib.mxtrt_set_token(self.token.encode())

    def take_error(self) -> str:
        """The last error of this thread, then forgotten."""
        message: bytes = self._lib.mxtrt_take_error()
        return message.decode(errors="replace")

    # -- callbacks -----------------------------------------------------------------------

    def guarded(self, function: Callable[..., None]) -> Callable[..., int]:
        """The function as C calls it: 1, or 0 after keeping the message of what it raised."""

        @functools.wraps(function)
        def run(*args: Any) -> int:
            try:
                function(*args)
            except BaseException as error:  # an exception must not cross the C boundary
                self._lib.mxtrt_set_error(
                    f"{type(error).__name__}: {error}".encode(errors="replace")
                )
                return 0
            return 1

        return run

    def set_callbacks(
        self, graph_pass: PassFunction, infer_shape: ShapeFunction, failure: FailureFunction
    ) -> None:
        """Install what is called back.

        Args:
            graph_pass: For a graph pass.
            infer_shape: For input shapes that a node has not seen.
            failure: When an engine failed; writes the outputs itself, or raises.
        """

        @self.guarded
        def on_pass(graph: bytes, keys: Any, values: Any, count: int) -> None:
            given = {keys[i].decode(): values[i].decode() for i in range(count)}
            with decoding():
                text = graph.decode()
            self._lib.mxtrt_pass_result(graph_pass(text, given).encode())

        @self.guarded
        def on_shape(key: int, dims: Any, ndims: Any, count: int, in_forward: int) -> None:
            shapes, start = [], 0
            for i in range(count):
                shapes.append(tuple(dims[start : start + ndims[i]]))
                start += ndims[i]
            infer_shape(key, tuple(shapes), bool(in_forward))

        @self.guarded
        def on_failure(
            key: int, message: bytes, dims: Any, ndims: Any, data: Any, stream: int | None
        ) -> None:
            types = self._types.get(key)  # none when the node was released while it ran
            tensors = _tensors(types, dims, ndims, data) if data and types else None
            failure(key, message.decode(errors="replace"), tensors, stream or 0)

        self._callbacks = (_PASS(on_pass), _SHAPE(on_shape), _FAILURE(on_failure))
        self._lib.mxtrt_set_callbacks(*self._callbacks)

    # -- nodes and sessions --------------------------------------------------------------

    def create_node(
        self,
        inputs: Sequence[np.dtype[Any]],
        outputs: Sequence[np.dtype[Any]],
        gpu: int | None = None,
    ) -> int:
        """A new engine node; returns its key.

        Args:
            inputs: Dtypes of its inputs.
            outputs: Dtypes of its outputs.
            gpu: The GPU that these are on, None for host memory.
        """
        ins, outs = [type_flag(d) for d in inputs], [type_flag(d) for d in outputs]
        key: int = self._lib.mxtrt_node_create(
            len(ins),
            _array(ctypes.c_int, ins),
            len(outs),
            _array(ctypes.c_int, outs),
            -1 if gpu is None else gpu,
        )
        self.checked(key)
        self._types[key] = [np.dtype(dtype) for dtype in (*inputs, *outputs)]
        return key

    @contextlib.contextmanager
    def range(self, name: str) -> Iterator[None]:
        """A block that NVIDIA's profilers show by a name, where ``libnvToolsExt.so.1`` is."""
        self._lib.mxtrt_range_push(name.encode())
        try:
            yield
        finally:
            self._lib.mxtrt_range_pop()

    def retire(self, key: int) -> None:
        """Have a node run its engines no more; what runs it asks for its outputs elsewhere."""
        self._lib.mxtrt_retire(key)

    def put_variant(self, key: int, shapes: Sequence[Sequence[int]], session: int = 0) -> None:
        """Describe a node at some input shapes: the output shapes and who computes them.

        Args:
            key: The node.
            shapes: Input shapes, then output shapes.
            session: Handle of a session, 0 while there is none.
        """
        self.checked(self._lib.mxtrt_node_put(key, *_shapes(shapes), session))

    def users(self, key: int, inputs: Sequence[Sequence[int]]) -> int:
        """How many operators are bound to a node at these input shapes."""
        count: int = self._lib.mxtrt_node_users(key, *_shapes(inputs))
        return count

    def last_use(self, key: int, inputs: Sequence[Sequence[int]]) -> int:
        """When a node was used last at these input shapes, by a count of uses.

        -1 where operators are bound to it at these shapes, or it does not know them.
        """
        last: int = self._lib.mxtrt_node_last_use(key, *_shapes(inputs))
        return last

    def drop_variant(self, key: int, inputs: Sequence[Sequence[int]]) -> None:
        """Forget what :meth:`put_variant` said of these input shapes."""
        self.checked(self._lib.mxtrt_node_drop(key, *_shapes(inputs)))

    @property
    def spare_bytes(self) -> int:
        """Bytes of output arrays that are kept for later runs, in use or not."""
        held: int = self._lib.mxtrt_spare_bytes()
        return held

    def release(self, key: int) -> None:
        """Forget a node or a session; what is running finishes."""
        self._types.pop(key, None)
        self._lib.mxtrt_release(key)

    def counts(self) -> tuple[int, int]:
        """How many nodes and sessions exist."""
        nodes, sessions = ctypes.c_int64(), ctypes.c_int64()
        self._lib.mxtrt_counts(ctypes.byref(nodes), ctypes.byref(sessions))
        return nodes.value, sessions.value

    def tally(self) -> Tally:
        """What forwards did since the process began."""
        values = (ctypes.c_int64 * len(Tally._fields))()
        self._lib.mxtrt_tally(values)
        return Tally(*values)

    # -- ONNX Runtime --------------------------------------------------------------------

    def open_onnxruntime(self, path: Path, threads: int, spin: bool) -> str:
        """Load ONNX Runtime's shared library (once per process); returns its version."""
        version = self._lib.mxtrt_ort_open(os.fsencode(path), threads, int(spin))
        if version is None:
            raise NodeError(self.take_error())
        text: str = version.decode()
        return text

    @contextlib.contextmanager
    def shrinking(self) -> Iterator[None]:
        """A block after whose runs ONNX Runtime's arena gives back what nobody uses."""
        self._lib.mxtrt_ort_shrink(1)
        try:
            yield
        finally:
            self._lib.mxtrt_ort_shrink(0)

    def arena_bytes(self, handle: int) -> int:
        """Bytes that ONNX Runtime holds for the activations of all sessions, of this one on.

        0 for another engine's session, or ONNX Runtime before 1.23, which does not tell.
        """
        held: int = self._lib.mxtrt_ort_arena(ctypes.c_int64(handle))
        return held

    def create_session(
        self,
        model: bytes,
        inputs: Sequence[str],
        outputs: Sequence[str],
        weights: Sequence[tuple[str, int, Sequence[int], np.dtype[Any]]],
        config: Sequence[tuple[str, str]],
    ) -> int:
        """Build an ONNX Runtime session; returns its handle.

        Args:
            model: Serialized ONNX model whose weights are external.
            inputs: Names of its inputs in the node's order.
            outputs: Names of its outputs in the node's order.
            weights: Name, address, shape and dtype; the memory must outlive the session.
            config: ONNX Runtime's session configuration entries.
        """

        def strings(values: Sequence[str]) -> Any:
            return _array(ctypes.c_char_p, [value.encode() for value in values])

        handle: int = self._lib.mxtrt_ort_session(
            model,
            ctypes.c_size_t(len(model)),
            strings(inputs),
            len(inputs),
            strings(outputs),
            len(outputs),
            strings([w[0] for w in weights]),
            _array(ctypes.c_void_p, [w[1] for w in weights]),
            _array(ctypes.c_int64, [d for w in weights for d in w[2]]),
            _array(ctypes.c_int, [len(w[2]) for w in weights]),
            _array(ctypes.c_int, [type_flag(w[3]) for w in weights]),
            len(weights),
            strings([text for entry in config for text in entry]),
            len(config),
        )
        if not handle:
            raise NodeError(self.take_error())
        return handle

    def checked(self, status: int) -> None:
        """Raise the node's error unless a call succeeded.

        Raises:
            NodeError: The status is 0.
        """
        if not status:
            raise NodeError(self.take_error())

    # -- arrays --------------------------------------------------------------------------

    def is_readable(self, array: Any) -> bool:
        """Wait until an array can be read; False when a pending write to it failed.

        MXNet tells of a failure once: after this, whoever reads the array next is told.
        """
        return bool(self._lib.mxtrt_is_readable(array.handle))

    def watch(self, arrays: Sequence[Any]) -> Watch:
        """Watch arrays for writes, from now on."""
        return Watch(self._lib, arrays)

    def page_out(
        self,
        array: Any,
        address: int,
        size: int,
        file: int,
        offset: int,
        watch: Watch | None = None,
    ) -> None:
        """Back a page-aligned part of an array by a file; its contents stay.

        To MXNet it is a write, but not to the watch.

        Raises:
            OSError: The file could not be written or mapped; the array is as it was.
        """
        code: int = self._lib.mxtrt_page_out(
            array.handle, address, size, file, offset, watch and watch.handle
        )
        if code < 0:
            raise OSError("MXNet's engine refused to page out an array")
        if code:
            raise OSError(code, os.strerror(code))

    def evict(self, array: Any, ordinal: int, watch: Watch | None = None) -> int:
        """Move an array on a GPU to host memory, whence it comes back when it is used there.

        To MXNet it is a write, but not to the watch.

        Returns:
            The bytes that left the GPU; 0 for an array whose memory is not MXNet's.

        Raises:
            OSError: The array could not be moved; it is as it was.
        """
        moved: int = self._lib.mxtrt_evict(array.handle, ordinal, watch and watch.handle)
        if moved < 0:
            raise OSError(self.take_error())
        return moved

    def is_evicted(self, array: Any) -> bool:
        """Whether :meth:`evict` has moved an array on a GPU.

        Raises:
            NodeError: The GPU does not answer.
        """
        evicted: int = self._lib.mxtrt_is_evicted(array.handle)
        if evicted < 0:
            raise NodeError(self.take_error())
        return bool(evicted)

    def trim(self) -> None:
        """Give memory that builds freed back to the system."""
        self._lib.mxtrt_trim()

    def _check_layout(self) -> None:
        """See that what is read from MXNet's own structures is there.

        The count of writes follows writes, the flags follow the allocation, the owners of an
        array's memory are its views (and the watch), and its context is the one that it was
        made in.
        """
        import mxnet as mx
        from mxnet.ndarray.ndarray import _new_alloc_handle

        array = mx.nd.zeros((2,), ctx=mx.cpu())  # Gluon calls with its own context in force
        watch = self.watch([array])
        seen = [watch.changed()]
        for write in (slice(None), slice(0, 1)):
            array[write] = 1
            seen.append(watch.changed())
            watch.remember()
        array.asnumpy()
        seen.append(watch.changed())
        late = mx.nd.NDArray(_new_alloc_handle((2,), mx.cpu(), True))
        flags = [self._lib.mxtrt_memory_flags(late.handle)]
        late[:] = 1
        late.wait_to_read()
        flags.append(self._lib.mxtrt_memory_flags(late.handle))
        shared = array.reshape((1, 2))
        owners = [self._lib.mxtrt_owners(a.handle) for a in (array, shared, late)]
        second = mx.nd.zeros((2,), ctx=mx.cpu(1))
        types, handle = (ctypes.c_int * 1)(type_flag(np.dtype(np.float32))), (ctypes.c_void_p * 1)
        places = [
            bool(self.are_alike(handle(a.handle), types, 1, mx.cpu().device_typeid, ordinal))
            for a in (array, second)
            for ordinal in (0, 1)
        ]
        facts = seen, flags, owners, places
        if facts != (
            [False, True, True, False],
            [2, 0],
            [3, 3, 1],
            [True, False, False, True],
        ):
            raise NodeError(
                f"MXNet {mx.__version__} keeps its arrays otherwise than the 1.9.1 wheels, "
                "so mxtrt cannot see when weights change; install a wheel of mxnet 1.9.1"
            )

    def _shutdown(self) -> None:
        import mxnet as mx

        try:
            mx.nd.waitall()
        except mx.MXNetError:
            pass  # an error that the program did not ask for is not asked for at exit either
        finally:
            self._lib.mxtrt_shutdown()


def _tensors(dtypes: Sequence[np.dtype[Any]], dims: Any, ndims: Any, data: Any) -> list[Tensor]:
    """The tensors of a forward as C describes them."""
    tensors, start = [], 0
    for place, dtype in enumerate(dtypes):
        shape = tuple(dims[start : start + ndims[place]])
        start += ndims[place]
        tensors.append(Tensor(data[place] or 0, shape, dtype))
    return tensors


@once
def _load(path: Path) -> None:
    """Have MXNet load the library.

    It changes tables of MXNet's that other threads read, and nothing may be forked half-way: so
    the interpreter's lock is kept.
    """
    from mxnet.base import _LIB, check_call

    mxnet = ctypes.PyDLL(None, handle=_LIB._handle)
    check_call(mxnet.MXLoadLib(os.fsencode(path), ctypes.c_uint(0)))


def _shapes(shapes: Sequence[Sequence[int]]) -> tuple[Any, Any]:
    """Shapes as C reads them: all sizes, and how many each shape has."""
    dims = _array(ctypes.c_int64, [d for shape in shapes for d in shape])
    return dims, _array(ctypes.c_int, [len(shape) for shape in shapes])


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


@once
def library() -> Library:
    """The engine node, loaded at the first call.

    Raises:
        NodeError: It is missing, or does not fit this MXNet.
    """
    return Library(PATH)
