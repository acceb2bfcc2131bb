"""Isolation: cases run in a spawned process that may crash, hang and be replaced."""

from __future__ import annotations

import contextlib
import faulthandler
import os
import signal
import subprocess
import sys
import tempfile
from multiprocessing.connection import Connection, Pipe
from pathlib import Path
from types import TracebackType
from typing import Protocol

from mxtrt_fuzz import builders
from mxtrt_fuzz.execute import Observation, Setup, observe
from mxtrt_fuzz.graphs import Case
from mxtrt_fuzz.signatures import Failure, Signature
from mxtrt_fuzz.values import Arrays
from mxtrt_fuzz.words import last_words

__all__ = ["Executor", "Worker"]


class Executor(Protocol):
    """Runs cases, one at a time."""

    def submit(self, case: Case, arrays: Arrays | None = None) -> None:
        """Start a case."""

    def result(self) -> Observation:
        """What the case did.

        Raises:
            Failure: The process died, or took too long.
        """

    def __call__(self, case: Case) -> Observation:
        """Both."""


class Worker:
    """A process that runs cases, started anew after a crash or a timeout.

    Args:
        setup: Engine, context and masks.
        timeout: Seconds that a case may take; the first one may take as long again, to start.
        recycle: Cases after which the process is replaced, so that no leak of MXNet's adds up.

    Attributes:
        restarts: How often a process died or was killed.
    """

    def __init__(self, setup: Setup, timeout: float = 60.0, recycle: int = 1000) -> None:
        self.setup, self.timeout, self.recycle = setup, timeout, recycle
        self.restarts = 0
        self._folder = tempfile.TemporaryDirectory(prefix="mxtrt-fuzz-")
        self._log = Path(self._folder.name, "worker.log")
        self._process: subprocess.Popen[bytes] | None = None
        self._pipe: Connection | None = None
        self._pending: Case | None = None
        self._served = 0

    def submit(self, case: Case, arrays: Arrays | None = None) -> None:
        """Send a case; the process works while the caller does."""
        alive = self._process is not None and self._process.poll() is None
        if not alive or self._served >= self.recycle:
            self._start()
        assert self._pipe is not None
        self._pending = case
        with contextlib.suppress(OSError):  # it died between two cases; result() tells
            self._pipe.send((case, arrays))

    def result(self) -> Observation:
        """Wait for the case's answer.

        Raises:
            Failure: The process died, or took too long.
        """
        assert self._pipe is not None
        assert self._pending is not None
        first = self._served == 0
        try:
            if not self._pipe.poll(self.timeout * (2 if first else 1)):
                raise self._gone("timeout", f"no answer within {self.timeout:.0f} s")
            seen = self._pipe.recv()
        except (EOFError, OSError):
            raise self._gone("crash", self._last_words()) from None
        self._served += 1
        if isinstance(seen, Exception):
            raise seen
        assert isinstance(seen, Observation)
        return seen

    def __call__(self, case: Case) -> Observation:
        """Run a case and wait for it."""
        self.submit(case)
        return self.result()

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
        if self._pipe is not None:
            self._pipe.close()
            self._pipe = None

    def __enter__(self) -> Worker:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
        self._folder.cleanup()

    def _start(self) -> None:
        self.close()
        # Not multiprocessing: Dask's workers are daemons, which may have no such children.
        self._pipe, theirs = Pipe()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", __name__, str(theirs.fileno()), str(self._log)],
                pass_fds=[theirs.fileno()],
                env={**_environment(), "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
                stdin=subprocess.DEVNULL,
            )
        self._pipe.send(self.setup)
        self._served = 0

    def _gone(self, symptom: str, detail: str) -> Failure:
        case = self._pending
        assert case is not None
        self.close()
        self.restarts += 1
        operators = {node.op for node in case.operations}
        operator = operators.pop() if len(operators) == 1 else "graph"
        return Failure(Signature("worker", symptom, "mxtrt", operator), detail, float("inf"))

    def _last_words(self) -> str:
        code = None
        if self._process is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                code = self._process.wait(5)
        name = signal.Signals(-code).name if code is not None and code < 0 else f"exit code {code}"
        log = self._log.read_text(errors="replace") if self._log.exists() else ""
        return f"{name}; {last_words(log)}"


def _environment() -> dict[str, str]:
    """The process's environment: plain MXNet, and no options of mxtrt's but the campaign's.

    One thread: there is a process for every core, and threads that wait for work spin.
    """
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("MXTRT_") and not name.endswith("USE_TENSORRT")
    }
    # MXNet's subgraph pass keeps stale fused weights.
    return {"OMP_NUM_THREADS": "1", **kept, "MXNET_SUBGRAPH_BACKEND": "NONE"}


def _serve(pipe: Connection, log: str) -> None:
    """The process: answer cases until the pipe closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's, which is not for this process
    os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), 2)  # a line at every bind
    faulthandler.enable()
    with contextlib.suppress(EOFError, OSError):
        setup = pipe.recv()
        if setup.builder is not None:
            builders.use(setup.builder)
        while True:
            case, arrays = pipe.recv()
            os.ftruncate(2, 0)
            os.lseek(2, 0, os.SEEK_SET)
            try:
                seen: Observation | Exception = observe(case, setup, arrays)
            except Failure as failure:  # a program in C died
                seen = failure
            except Exception as error:  # an error of the fuzzer's own: the caller's to raise
                seen = RuntimeError(f"{type(error).__name__}: {error}")
            pipe.send(seen)


if __name__ == "__main__":
    _serve(Connection(int(sys.argv[1])), sys.argv[2])
