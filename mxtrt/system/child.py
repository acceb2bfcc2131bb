"""A Python process of our own that answers questions: what fails in it does not fail here.

A message is eight bytes of length, a JSON header of that length, and the bytes of the arrays that
the header names.  Errors cross as errors, and records of the logger ``mxtrt`` as records.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Mapping
from multiprocessing import spawn
from typing import IO, Any

import numpy as np

from mxtrt.errors import EngineError, RefusedNodesError
from mxtrt.system.background import elsewhere
from mxtrt.system.threads import lock

__all__ = ["Arrays", "Child", "Header", "serve"]

_log = logging.getLogger("mxtrt")

Arrays = Mapping[str, "np.ndarray[Any, Any]"]
Header = dict[str, Any]

# Seconds between two signs of life of a process whose records nobody wants to see.
_BEAT = 1.0

# Imports come from where they come from here; nothing is imported before that is so.
_MAIN = """
import sys
module, sys.path[:] = sys.argv[1], sys.argv[2:]
import importlib
importlib.import_module(module).main()
"""


class Child:
    """A process whose module calls :func:`serve` in its ``main``.

    It ends with this object, with this process, or by a call of ``close``.

    Args:
        module: The module.
        name: What messages call the process.
        environment: What its environment has besides that of this process.

    Raises:
        EngineError: It does not start.
    """

    def __init__(self, module: str, name: str, **environment: str) -> None:
        self._name = name
        self._owner = os.getpid()
        self._lock = lock()
        executable = spawn.get_executable()  # where Python is embedded, somebody set it
        path = [entry for entry in sys.path if isinstance(entry, str)]
        try:
            self._process = subprocess.Popen(
                [executable or "", "-c", _MAIN, module, *path],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env={**os.environ, "USE_TENSORRT": "0", **environment},
            )
        except OSError as error:
            raise EngineError(f"{name} does not start: {error}") from error
        self.close = weakref.finalize(self, _end, self._process, self._owner)

    @property
    def is_ours(self) -> bool:
        """Whether it is of this process, and not of one that this one is a fork of."""
        return os.getpid() == self._owner

    def ask(
        self, header: Header, arrays: Arrays, patience: float
    ) -> tuple[Header, dict[str, np.ndarray[Any, Any]]]:
        """Its answer.

        Args:
            header: What can be said in JSON.
            arrays: Arrays by name.
            patience: Seconds without a word of it, records that nobody wants to see included, after
                which it is taken for stuck and killed.

        Raises:
            EngineError: Its own error, or it ended.
            RefusedNodesError: Its own, too.
        """
        question = {**header, "level": _log.getEffectiveLevel()}
        kill = self._process.kill
        with self._lock, _Watchdog(patience, kill) as watchdog:
            try:
                with elsewhere(kill):
                    told, answers = self._exchange(question, arrays, watchdog)
            except (OSError, EOFError, ValueError) as error:
                ending = f"ended with {self._ending()}"
                if watchdog.bit:
                    ending = f"said nothing for {patience:g} s and was killed"
                raise EngineError(f"{self._name} {ending}") from error
            except BaseException:  # its answer is to a question that nobody asks any more
                self.close()
                raise
        if "refused" in told:
            raise RefusedNodesError(told["refused"])
        if "error" in told:
            raise EngineError(told["error"])
        return told, answers

    def _exchange(self, header: Header, arrays: Arrays, watchdog: _Watchdog) -> tuple[Header, Any]:
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        _send(process.stdin, header, arrays)
        while True:
            told, answers = _receive(process.stdout)
            if "record" not in told:
                return told, answers
            watchdog.restart()
            if told["record"]:
                _log.log(told["record"], "%s", told["message"])

    def _ending(self) -> str:
        self.close()  # if it has not ended it says nothing that can be understood
        code = self._process.returncode
        return f"exit status {code}" if code >= 0 else signal.Signals(-code).name


class _Watchdog:
    """Calls a function when it was not restarted for some seconds.

    Attributes:
        bit: Whether it has.
    """

    def __init__(self, seconds: float, function: Callable[[], None]) -> None:
        self.bit = False
        self._seconds = seconds
        self._function = function

    def __enter__(self) -> _Watchdog:
        self._start()
        return self

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()

    def restart(self) -> None:
        """Wait anew."""
        self._timer.cancel()
        self._start()

    def _start(self) -> None:
        self._timer = threading.Timer(self._seconds, self._bite)
        self._timer.daemon = True
        self._timer.start()

    def _bite(self) -> None:
        self.bit = True
        self._function()


def _end(process: subprocess.Popen[bytes], owner: int) -> None:
    if os.getpid() != owner:
        return
    for pipe in (process.stdin, process.stdout):
        with contextlib.suppress(OSError):
            if pipe is not None:
                pipe.close()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(0.1)  # how it ended by itself is worth to know
        return
    process.kill()  # it has nothing to lose
    process.wait()


def serve(answer: Callable[[Header, Arrays], tuple[Header, Arrays]]) -> None:
    """Answer until the other side closes the pipe.

    Args:
        answer: Is given header and arrays of every question, and returns those of its answer; what
            it raises is the answer too.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's ^C is for who asks
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever a library prints is no reply
    lock = threading.Lock()

    def reply(header: Header, arrays: Arrays) -> None:
        with lock:
            _send(replies, header, arrays)

    class Records(logging.Handler):
        """Sends them to who asks; of those that nobody wants to see, that there are some."""

        wanted = 0
        sent = 0.0

        def emit(self, record: logging.LogRecord) -> None:
            if record.levelno >= self.wanted:
                reply({"record": record.levelno, "message": record.getMessage()}, {})
            elif time.monotonic() > self.sent + _BEAT:
                self.sent = time.monotonic()
                reply({"record": 0}, {})

    records = Records()
    _log.addHandler(records)
    _log.setLevel(logging.DEBUG)
    _log.propagate = False
    with contextlib.suppress(EOFError, BrokenPipeError):
        while True:
            header, arrays = _receive(sys.stdin.buffer)
            records.wanted = header.pop("level")
            try:
                told = answer(header, arrays)
            except RefusedNodesError as error:
                told = {"refused": error.reasons}, {}
            except Exception as error:
                told = {"error": str(error) or type(error).__name__}, {}
            reply(*told)


def _send(pipe: IO[bytes], header: Header, arrays: Arrays) -> None:
    kinds = [(name, array.dtype.str, array.shape) for name, array in arrays.items()]
    text = json.dumps({**header, "arrays": kinds}).encode()
    pipe.write(len(text).to_bytes(8, "little") + text)
    for array in arrays.values():
        pipe.write(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    pipe.flush()


def _receive(pipe: IO[bytes]) -> tuple[Header, dict[str, np.ndarray[Any, Any]]]:
    header = json.loads(_read(pipe, int.from_bytes(_read(pipe, 8), "little")))
    arrays = {}
    for name, kind, shape in header.pop("arrays"):
        dtype = np.dtype(kind)
        size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        arrays[name] = np.frombuffer(_read(pipe, size), dtype).reshape(shape)
    return header, arrays


def _read(pipe: IO[bytes], size: int) -> bytes:
    data = pipe.read(size)
    if len(data) < size:
        raise EOFError("end of the pipe")
    return data
