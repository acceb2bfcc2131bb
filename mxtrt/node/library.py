"""Loads the compiled engine node into MXNet and types its functions.

The library is loaded once per process, at the first bind that wants an engine.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import logging
import os
import secrets
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mxtrt.errors import NodeError
from mxtrt.node.abi import FAILURE, MXNET_FUNCTIONS, PASS, SHAPE, Call, Functions, Tally, Tensor
from mxtrt.node.cuda import Cuda
from mxtrt.node.watch import Watch
from mxtrt.plain.dtypes import type_flag
from mxtrt.system.threads import once

__all__ = [
    "PATH",
    "Library",
    "library",
]

_log = logging.getLogger("mxtrt")

# How often the owners of arrays are looked at until they are as expected, and seconds in between.
_LOOKS, _BETWEEN = 100, 0.01


def _find(name: str) -> Path:
    """A file of this package: beside the sources, or where an editable install compiles to."""
    folders = [Path(folder) for folder in sys.modules[__package__].__path__]
    found = (path for folder in folders if (path := folder / name).exists())
    return next(found, Path(__file__).with_name(name))


#: The compiled engine node.
PATH = _find("libmxtrt_node.so")

#: Symbol JSON in UTF-8, and the options by name; returns the partitioned symbol's JSON.
PassFunction = Callable[[bytes, dict[str, str]], str]
#: Key of a node, its input shapes, and whether a forward that is under way asks for them.
ShapeFunction = Callable[[int, tuple[tuple[int, ...], ...], bool], None]
#: Key of a node, the engine's message, its tensors, inputs then outputs, and the ``CUstream`` on
#: which MXNet runs a node on a GPU; None for the tensors when they are out of reach.
FailureFunction = Callable[[int, str, list[Tensor] | None, int], None]


def _array(kind: Any, values: Sequence[Any]) -> Any:
    return (kind * max(len(values), 1))(*values)


class Library(Functions):
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
        super().__init__(ctypes.CDLL(str(path)))
        self._name_process()
        self.lib.mxtrt_arrays_init(
            (ctypes.c_void_p * len(MXNET_FUNCTIONS))(
                *(ctypes.cast(getattr(_LIB, n), ctypes.c_void_p).value for n in MXNET_FUNCTIONS)
            )
        )
        #: Whether MXNet's engine takes operations of several threads, see ``pushes.cc``.
        self.orders_pushes = bool(self.lib.mxtrt_order_pushes())
        #: Whether arrays are what a graph was bound for, see ``mxtrt_are_alike`` in ``arrays.cc``.
        self.are_alike = self.lib.mxtrt_are_alike
        self._check_layout()
        self._callbacks: tuple[Any, ...] = ()
        self._types: dict[int, list[np.dtype[Any]]] = {}  # of the nodes
        #: What works on NVIDIA GPUs.
        self.cuda = Cuda(self)
        #: Runs a node from the calling thread, see ``mxtrt_run`` in ``inline.cc``.
        self.run_call = self.lib.mxtrt_run
        #: Returns when the run that writes an array is done, see ``mxtrt_finish`` there.
        self.finish = self.lib.mxtrt_finish
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
            limit: Nanoseconds; where its runs in host memory take longer, it does not run.
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
        lost = bool(self.lib.mxtrt_forked())
        if not lost:
            self._name_process()
        return lost

    def _name_process(self) -> None:
        #: What the ``process`` attribute of an engine node says: keys are this process's own.
        self.token = secrets.token_hex(8)
        self.lib.mxtrt_set_token(self.token.encode())

    # -- callbacks -----------------------------------------------------------------------

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
            self.lib.mxtrt_pass_result(graph_pass(graph, given).encode())

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

        self._callbacks = (PASS(on_pass), SHAPE(on_shape), FAILURE(on_failure))
        self.lib.mxtrt_set_callbacks(*self._callbacks)

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
        key: int = self.lib.mxtrt_node_create(
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
        self.lib.mxtrt_range_push(name.encode())
        try:
            yield
        finally:
            self.lib.mxtrt_range_pop()

    def retire(self, key: int) -> None:
        """Have a node run its engines no more; what runs it asks for its outputs elsewhere."""
        self.lib.mxtrt_retire(key)

    def put_variant(self, key: int, shapes: Sequence[Sequence[int]], session: int = 0) -> None:
        """Describe a node at some input shapes: the output shapes and who computes them.

        Args:
            key: The node.
            shapes: Input shapes, then output shapes.
            session: Handle of a session, 0 while there is none.
        """
        self.checked(self.lib.mxtrt_node_put(key, *_shapes(shapes), session))

    def users(self, key: int, inputs: Sequence[Sequence[int]]) -> int:
        """How many operators are bound to a node at these input shapes."""
        count: int = self.lib.mxtrt_node_users(key, *_shapes(inputs))
        return count

    def last_use(self, key: int, inputs: Sequence[Sequence[int]]) -> int:
        """When a node was used last at these input shapes, by a count of uses.

        -1 where operators are bound to it at these shapes, or it does not know them.
        """
        last: int = self.lib.mxtrt_node_last_use(key, *_shapes(inputs))
        return last

    def last_run(self, key: int) -> float:
        """Seconds that runs of a node take, at its last shapes; 0 where it has not run."""
        nanoseconds: int = self.lib.mxtrt_node_last_run(key)
        return max(nanoseconds, 0) * 1e-9

    def drop_variant(self, key: int, inputs: Sequence[Sequence[int]]) -> None:
        """Forget what :meth:`put_variant` said of these input shapes."""
        self.checked(self.lib.mxtrt_node_drop(key, *_shapes(inputs)))

    @property
    def spare_bytes(self) -> int:
        """Bytes of output arrays that are kept for later runs, in use or not."""
        held: int = self.lib.mxtrt_spare_bytes()
        return held

    def release(self, key: int) -> None:
        """Forget a node or a session; what is running finishes."""
        self._types.pop(key, None)
        self.lib.mxtrt_release(key)

    def counts(self) -> tuple[int, int]:
        """How many nodes and sessions exist."""
        nodes, sessions = ctypes.c_int64(), ctypes.c_int64()
        self.lib.mxtrt_counts(ctypes.byref(nodes), ctypes.byref(sessions))
        return nodes.value, sessions.value

    def tally(self) -> Tally:
        """What forwards did since the process began."""
        values = (ctypes.c_int64 * len(Tally._fields))()
        self.lib.mxtrt_tally(values)
        return Tally(*values)

    # -- ONNX Runtime --------------------------------------------------------------------

    def open_onnxruntime(self, path: Path, threads: int, spin: bool) -> str:
        """Load ONNX Runtime's shared library (once per process); returns its version."""
        version = self.lib.mxtrt_ort_open(os.fsencode(path), threads, int(spin))
        if version is None:
            raise NodeError(self.take_error())
        text: str = version.decode()
        return text

    @contextlib.contextmanager
    def shrinking(self) -> Iterator[None]:
        """A block after whose runs ONNX Runtime's arena gives back what nobody uses."""
        self.lib.mxtrt_ort_shrink(1)
        try:
            yield
        finally:
            self.lib.mxtrt_ort_shrink(0)

    def arena_bytes(self, handle: int) -> int:
        """Bytes that ONNX Runtime holds for the activations of all sessions, of this one on.

        0 for another engine's session, or ONNX Runtime before 1.23, which does not tell.
        """
        held: int = self.lib.mxtrt_ort_arena(handle)
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

        handle: int = self.lib.mxtrt_ort_session(
            model,
            len(model),
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

    # -- arrays --------------------------------------------------------------------------

    def is_readable(self, array: Any) -> bool:
        """Wait until an array can be read; False when a pending write to it failed.

        MXNet tells of a failure once: after this, whoever reads the array next is told.
        """
        return bool(self.lib.mxtrt_is_readable(array.handle))

    def watch(self, arrays: Sequence[Any]) -> Watch:
        """Watch arrays for writes, from now on."""
        return Watch(self.lib, arrays)

    def count_write(self, arrays: Sequence[Any]) -> None:
        """Have MXNet count a write to arrays behind all that was pushed before; nothing changes."""
        handles = (ctypes.c_void_p * len(arrays))(*(array.handle.value for array in arrays))
        self.lib.mxtrt_count_write(handles, len(arrays))

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
        code: int = self.lib.mxtrt_page_out(
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
        moved: int = self.lib.mxtrt_evict(array.handle, ordinal, watch and watch.handle)
        if moved < 0:
            raise OSError(self.take_error())
        return moved

    def is_evicted(self, array: Any) -> bool:
        """Whether :meth:`evict` has moved an array on a GPU.

        Raises:
            NodeError: The GPU does not answer.
        """
        evicted: int = self.lib.mxtrt_is_evicted(array.handle)
        if evicted < 0:
            raise NodeError(self.take_error())
        return bool(evicted)

    def trim(self) -> None:
        """Give memory that builds freed back to the system."""
        self.lib.mxtrt_trim()

    def _check_layout(self) -> None:
        """See that what is read from MXNet's own structures is there.

        The count of writes follows writes, the flags follow the allocation, the owners of an
        array's memory are its views (and the watch), its context is the one that it was made in,
        and views are told apart.
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
        flags = [self.lib.mxtrt_memory_flags(late.handle)]
        late[:] = 1
        late.wait_to_read()
        flags.append(self.lib.mxtrt_memory_flags(late.handle))
        shared = array.reshape((1, 2))
        for _ in range(_LOOKS):  # the engine lets go of arrays a moment after it is done
            owners = [self.lib.mxtrt_owners(a.handle) for a in (array, shared, late)]
            if owners == [3, 3, 1]:
                break
            time.sleep(_BETWEEN)
        second = mx.nd.zeros((2,), ctx=mx.cpu(1))
        types, handle = (ctypes.c_int * 1)(type_flag(np.dtype(np.float32))), (ctypes.c_void_p * 1)
        places = [
            bool(self.are_alike(handle(a.handle), types, 1, mx.cpu().device_typeid, ordinal))
            for a in (array, second)
            for ordinal in (0, 1)
        ]
        views = [
            bool(self.lib.mxtrt_is_same(array.handle, other.handle))
            for other in (array, array.reshape((2,)), shared, array[:1], second)
        ]
        facts = seen, flags, owners, places, views
        if facts != (
            [False, True, True, False],
            [2, 0],
            [3, 3, 1],
            [True, False, False, True],
            [True, True, False, False, False],
        ):
            _log.debug("MXNet's arrays: %s", facts)
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
            self.lib.mxtrt_shutdown()


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
