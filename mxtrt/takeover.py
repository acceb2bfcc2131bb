"""MXNet's operators in place of an engine that failed at run time, within the same request.

The failure is noticed by the thread of MXNet's engine that runs the engine node, and that thread
can not wait for MXNet: what it would wait for may be queued behind it.  So a second process,
with plain MXNet and without engines, runs the segment on the CPU.  It is started at the first
failure, and serves until the graph is partitioned without the segment, which the hooks see to at
the next forward; a symbol of ``optimize_for`` has no hook and keeps it.

``python -m mxtrt.takeover`` is that process.  Messages both ways are eight bytes of length, a
JSON header of that length, and the bytes of the arrays that the header names.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
import weakref
from collections.abc import Iterator, Mapping
from typing import IO, Any

import numpy as np

from mxtrt.errors import EngineError

__all__ = ["TakeOver"]

# Seconds after which the process is taken for stuck.
_PATIENCE = 120.0

Arrays = Mapping[str, "np.ndarray[Any, Any]"]


class TakeOver:
    """A process that runs one segment in plain MXNet.

    Args:
        symbol: The segment as symbol JSON.
        constants: Values of its weights by name; the process gets a copy.
        unread: Dtypes of further variables, whose values nothing depends on, by name.
    """

    def __init__(self, symbol: str, constants: Arrays, unread: Mapping[str, str]) -> None:
        self._lock = threading.Lock()
        environment = {
            **os.environ,
            "USE_TENSORRT": "0",
            "CUDA_VISIBLE_DEVICES": "",
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        }
        self._process = subprocess.Popen(
            [sys.executable, "-m", "mxtrt.takeover"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
        )
        weakref.finalize(self, _end, self._process)
        self._ask({"symbol": symbol, "unread": dict(unread)}, constants)

    def __call__(self, inputs: Arrays) -> list[np.ndarray[Any, Any]]:
        """The segment's outputs in order.

        Raises:
            EngineError: The process could not answer; the message is MXNet's.
        """
        with self._lock:
            return list(self._ask({}, inputs).values())

    def _ask(self, header: dict[str, Any], arrays: Arrays) -> dict[str, np.ndarray[Any, Any]]:
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        watchdog = threading.Timer(_PATIENCE, process.kill)
        watchdog.daemon = True
        watchdog.start()
        try:
            _send(process.stdin, header, arrays)
            told, outputs = _receive(process.stdout)
        except (OSError, EOFError) as error:
            raise EngineError(f"the process that was to take over ended ({error})") from error
        finally:
            watchdog.cancel()
        if "error" in told:
            raise EngineError(told["error"])
        return outputs


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()  # it has nothing to lose
    process.communicate()


def _send(pipe: IO[bytes], header: Mapping[str, Any], arrays: Arrays) -> None:
    kinds = [(name, array.dtype.str, array.shape) for name, array in arrays.items()]
    text = json.dumps({**header, "arrays": kinds}).encode()
    pipe.write(len(text).to_bytes(8, "little") + text)
    for array in arrays.values():
        pipe.write(array.tobytes())
    pipe.flush()


def _receive(pipe: IO[bytes]) -> tuple[dict[str, Any], dict[str, np.ndarray[Any, Any]]]:
    header = json.loads(_read(pipe, int.from_bytes(_read(pipe, 8), "little")))
    arrays = {}
    for name, kind, shape in header["arrays"]:
        dtype = np.dtype(kind)
        size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        arrays[name] = np.frombuffer(_read(pipe, size), dtype).reshape(shape)
    return header, arrays


def _read(pipe: IO[bytes], size: int) -> bytes:
    data = pipe.read(size)
    if len(data) < size:
        raise EOFError("end of the pipe")
    return data


def _serve(requests: IO[bytes], replies: IO[bytes]) -> None:
    """Answer until the other side closes the pipe."""
    header, constants = _receive(requests)
    from mxtrt.models import import_mxnet

    mx = import_mxnet()
    symbol = mx.sym.load_json(header["symbol"])
    states = set(symbol.list_auxiliary_states())
    constants = {name: mx.nd.array(a, dtype=a.dtype) for name, a in constants.items()}
    answer: dict[str, Any] = {}
    while True:
        _send(replies, {}, answer)
        _, inputs = _receive(requests)
        try:
            given = {name: mx.nd.array(a, dtype=a.dtype) for name, a in inputs.items()}
            values = {**constants, **given}
            if header["unread"]:
                shapes = dict(_shapes(symbol, values))
                for name, dtype in header["unread"].items():
                    values[name] = mx.nd.ones(shapes[name], dtype=np.dtype(dtype))
            executor = symbol.bind(
                mx.cpu(),
                {name: a for name, a in values.items() if name not in states},
                grad_req="null",
                aux_states={name: a for name, a in values.items() if name in states},
            )
            outputs = [output.asnumpy() for output in executor.forward(is_train=False)]
            answer = {str(place): output for place, output in enumerate(outputs)}
        except mx.MXNetError as error:
            _send(replies, {"error": str(error)}, {})
            return


def _shapes(symbol: Any, values: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Shapes of all variables of a symbol by name."""
    known = {name: array.shape for name, array in values.items()}
    arguments, _, states = symbol.infer_shape(**known)
    yield from zip(symbol.list_arguments(), arguments, strict=True)
    yield from zip(symbol.list_auxiliary_states(), states, strict=True)


def _main() -> None:
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever a library prints is no reply
    with contextlib.suppress(EOFError, BrokenPipeError):
        _serve(sys.stdin.buffer, replies)


if __name__ == "__main__":
    _main()
