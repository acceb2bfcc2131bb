"""What the engine node and its callers agree on: names, structures, signatures, errors.

C++ has the same in ``callbacks.cc``, ``cuda.cc``, ``arrays.h``, ``inline.cc`` and ``tally.h``.
"""

from __future__ import annotations

import ctypes
import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from mxtrt.errors import NodeError

__all__ = [
    "MXNET_FUNCTIONS",
    "OPERATOR",
    "PASS_NAME",
    "Call",
    "Functions",
    "Tally",
    "Tensor",
]

#: Name of the engine node's operator in a symbol.
OPERATOR = "_mxtrt_engine"

#: Name of the graph pass, and so of the backend in ``optimize_for`` and ``hybridize``.
PASS_NAME = "TensorRT"

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

#: The graph pass: symbol JSON, names and values of options, and how many these are.
PASS = ctypes.CFUNCTYPE(
    ctypes.c_int,
    ctypes.c_char_p,
    ctypes.POINTER(ctypes.c_char_p),
    ctypes.POINTER(ctypes.c_char_p),
    ctypes.c_int,
)
#: Shape inference: key, sizes, numbers of axes, number of inputs, whether a forward asks.
SHAPE = ctypes.CFUNCTYPE(
    ctypes.c_int,
    ctypes.c_int64,
    ctypes.POINTER(ctypes.c_int64),
    ctypes.POINTER(ctypes.c_int),
    ctypes.c_int,
    ctypes.c_int,
)

#: A failure: key, message, sizes, numbers of axes, addresses of the tensors, stream.
FAILURE = ctypes.CFUNCTYPE(
    ctypes.c_int,
    ctypes.c_int64,
    ctypes.c_char_p,
    ctypes.POINTER(ctypes.c_int64),
    ctypes.POINTER(ctypes.c_int),
    ctypes.POINTER(ctypes.c_void_p),
    ctypes.c_void_p,
)
#: Puts a run on a stream: token, addresses, how many, scratch, stream.
ENQUEUE = ctypes.CFUNCTYPE(
    ctypes.c_int,
    ctypes.c_int64,
    ctypes.POINTER(ctypes.c_uint64),
    ctypes.c_int,
    ctypes.c_uint64,
    ctypes.c_uint64,
)
#: A session has ended: token.
RELEASE = ctypes.CFUNCTYPE(None, ctypes.c_int64)


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


def _signatures() -> dict[str, tuple[Any, tuple[Any, ...]]]:
    """What each function returns and takes, by name: ``MXTRT_EXPORT`` in C++."""
    i, n, size, p, text = (
        ctypes.c_int,
        ctypes.c_int64,
        ctypes.c_size_t,
        ctypes.c_void_p,
        ctypes.c_char_p,
    )
    address = ctypes.c_uint64
    return {
        # callbacks.cc
        "set_callbacks": (None, (PASS, SHAPE, FAILURE)),
        "pass_result": (None, (text,)),
        # errors.cc
        "set_error": (None, (text,)),
        "take_error": (text, ()),
        # registry.cc
        "set_token": (None, (text,)),
        "node_create": (n, (i, p, i, p, i)),
        "node_put": (i, (n, p, p, n)),
        "node_users": (i, (n, p, p)),
        "node_last_use": (n, (n, p, p)),
        "node_drop": (i, (n, p, p)),
        "retire": (None, (n,)),
        "release": (None, (n,)),
        "counts": (None, (p, p)),
        # spares.cc
        "spare_bytes": (n, ()),
        # tally.cc
        "tally": (None, (p,)),
        # process.cc
        "forked": (i, ()),
        "shutdown": (None, ()),
        # inline.cc
        "run": (i, (ctypes.POINTER(Call), p, p)),
        "finish": (i, (p,)),
        # arrays.cc
        "arrays_init": (None, (p,)),
        "are_alike": (i, (p, p, i, i, i)),
        "is_readable": (i, (p,)),
        "memory_flags": (i, (p,)),
        "owners": (i, (p,)),
        "page_out": (i, (p, p, size, i, n, p)),
        "is_evicted": (i, (p,)),
        "evict": (n, (p, i, p)),
        "trim": (None, ()),
        "watch": (p, (p, i)),
        "watch_changed": (i, (p,)),
        "watch_written": (i, (p,)),
        "watch_remember": (i, (p,)),
        "watch_counts": (i, (p, p)),
        "watch_since": (None, (p, p)),
        "watch_free": (None, (p,)),
        # onnxruntime.cc
        "ort_open": (text, (text, i, i)),
        "ort_shrink": (None, (i,)),
        "ort_arena": (n, (n,)),
        "ort_session": (n, (text, size, p, i, p, i, p, p, p, p, p, i, p, i)),
        # cuda.cc
        "cuda_callbacks": (None, (ENQUEUE, RELEASE)),
        "cuda_device": (i, (i, p, i, p, p, p)),
        "cuda_make_current": (i, (i,)),
        "cuda_stream": (address, (i,)),
        "cuda_memory": (i, (i, p, p, p)),
        "cuda_allocate": (address, (size,)),
        "cuda_free": (None, (address,)),
        "cuda_copy_out": (i, (i, p, address, size, p)),
        "cuda_copy_in": (i, (i, address, p, size, p)),
        "cuda_session": (n, (i, n, p, i, i, size, i, i)),
        "cuda_unrecordable": (text, (n,)),
        "cuda_usage": (i, (n, p, p, p)),
        # nvtx.cc
        "range_push": (None, (text,)),
        "range_pop": (None, ()),
    }


class Functions:
    """The functions of the compiled engine node, typed.

    Args:
        lib: The loaded library.

    Attributes:
        lib: The same, its functions typed.
    """

    def __init__(self, lib: ctypes.CDLL) -> None:
        for name, (result, arguments) in _signatures().items():
            function = getattr(lib, f"mxtrt_{name}")
            function.restype, function.argtypes = result, arguments
        self.lib = lib

    def take_error(self) -> str:
        """The last error of this thread, then forgotten."""
        message: bytes = self.lib.mxtrt_take_error()
        return message.decode(errors="replace")

    def guarded(self, function: Callable[..., None]) -> Callable[..., int]:
        """The function as C calls it: 1, or 0 after keeping the message of what it raised."""

        @functools.wraps(function)
        def run(*args: Any) -> int:
            try:
                function(*args)
            except BaseException as error:  # an exception must not cross the C boundary
                self.lib.mxtrt_set_error(
                    f"{type(error).__name__}: {error}".encode(errors="replace")
                )
                return 0
            return 1

        return run

    def checked(self, status: int) -> None:
        """Raise the node's error unless a call succeeded.

        Raises:
            NodeError: The status is 0.
        """
        if not status:
            raise NodeError(self.take_error())
