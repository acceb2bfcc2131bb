"""What the engine node and its callers agree on: names, structures, signatures, errors.

C++ has the same in ``callbacks.cc``, ``cuda_session.h``, ``arrays.h``, ``inline.cc`` and
``tally.h``.
"""

from __future__ import annotations

import ctypes
import functools
import math
from collections.abc import Callable, Mapping
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
    "NNGetOpHandle",
    "MXImperativeInvoke",
    "MXAutogradSetIsRecording",
    "MXEngineSetBulkSize",
    "MXRandomSeed",
    "MXRandomSeedContext",
    "MXNDArrayWaitToWrite",
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
#: Puts a run on a stream: token, addresses, how many, sizes and numbers of axes of the inputs and
#: how many these are (for an engine for many shapes, else null), scratch, stream.
ENQUEUE = ctypes.CFUNCTYPE(
    ctypes.c_int,
    ctypes.c_int64,
    ctypes.POINTER(ctypes.c_uint64),
    ctypes.c_int,
    ctypes.POINTER(ctypes.c_int64),
    ctypes.POINTER(ctypes.c_int),
    ctypes.c_int,
    ctypes.c_uint64,
    ctypes.c_uint64,
)
#: Nothing uses an engine any more: token.
RELEASE = ctypes.CFUNCTYPE(None, ctypes.c_int64)
#: Runs of a session overlap: token of its first engine.
MORE = ctypes.CFUNCTYPE(None, ctypes.c_int64)
#: A session lost a GPU: the same, and why.
LOST = ctypes.CFUNCTYPE(None, ctypes.c_int64, ctypes.c_char_p)


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


_INT, _INT64, _SIZE = ctypes.c_int, ctypes.c_int64, ctypes.c_size_t
_POINTER, _TEXT, _ADDRESS = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_uint64

#: What each function returns and takes, by name: those of ``MXTRT_EXPORT`` in C++.
_SIGNATURES: Mapping[str, tuple[Any, tuple[Any, ...]]] = {
    # callbacks.cc
    "set_callbacks": (None, (PASS, SHAPE, FAILURE)),
    "pass_result": (None, (_TEXT,)),
    # errors.cc
    "set_error": (None, (_TEXT,)),
    "take_error": (_TEXT, ()),
    # registry.cc
    "set_token": (None, (_TEXT,)),
    "node_create": (_INT64, (_INT, _POINTER, _INT, _POINTER, _INT)),
    "node_put": (_INT, (_INT64, _POINTER, _POINTER, _INT64)),
    "node_users": (_INT, (_INT64, _POINTER, _POINTER)),
    "node_last_use": (_INT64, (_INT64, _POINTER, _POINTER)),
    "node_last_run": (_INT64, (_INT64,)),
    "node_drop": (_INT, (_INT64, _POINTER, _POINTER)),
    "retire": (None, (_INT64,)),
    "any_retired": (_INT, (_POINTER, _INT)),
    "release": (None, (_INT64,)),
    "counts": (None, (_POINTER, _POINTER)),
    # spares.cc
    "spare_bytes": (_INT64, ()),
    # tally.cc
    "tally": (None, (_POINTER,)),
    # process.cc
    "forked": (_INT, ()),
    "shutdown": (None, ()),
    # inline.cc
    "run": (_INT, (ctypes.POINTER(Call), _POINTER, _POINTER)),
    "finish": (_INT, (_POINTER,)),
    # arrays.cc
    "arrays_init": (None, (_POINTER,)),
    "are_alike": (_INT, (_POINTER, _POINTER, _INT, _INT, _INT)),
    "is_same": (_INT, (_POINTER, _POINTER)),
    "is_readable": (_INT, (_POINTER,)),
    "memory_flags": (_INT, (_POINTER,)),
    "owners": (_INT, (_POINTER,)),
    "count_write": (None, (_POINTER, _INT)),
    "page_out": (_INT, (_POINTER, _POINTER, _SIZE, _INT, _INT64, _POINTER)),
    "is_evicted": (_INT, (_POINTER,)),
    "evict": (_INT64, (_POINTER, _INT, _POINTER)),
    "trim": (None, ()),
    "watch": (_POINTER, (_POINTER, _INT)),
    "watch_changed": (_INT, (_POINTER,)),
    "watch_written": (_INT, (_POINTER,)),
    "watch_remember": (_INT, (_POINTER,)),
    "watch_counts": (_INT, (_POINTER, _POINTER)),
    "watch_since": (None, (_POINTER, _POINTER)),
    "watch_free": (None, (_POINTER,)),
    # pushes.cc
    "order_pushes": (_INT, ()),
    # generators.cc
    "seed": (_INT, (_INT, _INT, _INT)),
    "block_begin": (_INT, (_INT,)),
    "block_end": (None, ()),
    "settle_generators_of": (_INT, (_INT, _INT)),
    "spoil_generators_of": (_INT, (_INT, _INT)),
    # onnxruntime.cc
    "ort_open": (_TEXT, (_TEXT, _INT, _INT)),
    "ort_shrink": (None, (_INT,)),
    "ort_arena": (_INT64, (_INT64,)),
    "ort_session": (
        _INT64,
        (
            _TEXT,
            _SIZE,
            _POINTER,
            _INT,
            _POINTER,
            _INT,
            _POINTER,
            _POINTER,
            _POINTER,
            _POINTER,
            _POINTER,
            _INT,
            _POINTER,
            _INT,
        ),
    ),
    # cuda_session.cc
    "cuda_callbacks": (None, (ENQUEUE, RELEASE, MORE, LOST)),
    # cuda_ranges.cc
    "cuda_range_session": (
        _INT64,
        (
            _INT,
            _INT64,
            _POINTER,
            _POINTER,
            _POINTER,
            _INT,
            _INT,
            _SIZE,
            _INT,
            _INT,
            _POINTER,
            _POINTER,
            _INT,
        ),
    ),
    # cuda_fixed.cc
    "cuda_session": (_INT64, (_INT, _INT64, _POINTER, _INT, _INT, _SIZE, _INT, _INT, _INT)),
    "cuda_open_lane": (_INT, (_INT64, _INT64, _INT, _INT)),
    "cuda_lane_answered": (None, (_INT64, _INT)),
    "cuda_lanes": (_INT, (_INT64, _INT)),
    # cuda.cc
    "cuda_device": (_INT, (_INT, _POINTER, _INT, _POINTER, _POINTER, _POINTER)),
    "cuda_count": (_INT, (_POINTER,)),
    "cuda_make_current": (_INT, (_INT,)),
    "cuda_current": (_ADDRESS, ()),
    "cuda_restore": (None, (_ADDRESS,)),
    "cuda_stream": (_ADDRESS, (_INT,)),
    "cuda_memory": (_INT, (_INT, _POINTER, _POINTER, _POINTER)),
    "cuda_allocate": (_ADDRESS, (_SIZE,)),
    "cuda_free": (None, (_ADDRESS,)),
    "cuda_copy_out": (_INT, (_INT, _POINTER, _ADDRESS, _SIZE, _POINTER)),
    "cuda_copy_in": (_INT, (_INT, _ADDRESS, _POINTER, _SIZE, _POINTER)),
    "cuda_unrecordable": (_TEXT, (_INT64,)),
    "cuda_usage": (_INT, (_INT64, _POINTER, _POINTER, _POINTER)),
    # nvtx.cc
    "range_push": (None, (_TEXT,)),
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
        for name, (result, arguments) in _SIGNATURES.items():
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
