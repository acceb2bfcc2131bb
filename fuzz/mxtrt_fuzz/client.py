"""A program in C that binds and runs cases on MXNet's C API, with engines (``mxtrt env``).

Starting a Python takes the program seconds, so that one serves all cases of a process, over a pipe.
"""

from __future__ import annotations

import atexit
import contextlib
import dataclasses
import hashlib
import importlib.util
import itertools
import json
import os
import pickle
import select
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
import platformdirs

import mxtrt.config
import mxtrt_fuzz
from mxtrt.errors import NodeError, OptionError
from mxtrt.frontends.environment import environment_for
from mxtrt.node.library import PATH
from mxtrt.plain.dtypes import DTYPES, type_flag
from mxtrt.system.threads import once
from mxtrt_fuzz.graphs import C_BINDS, WRITES
from mxtrt_fuzz.words import last_words

__all__ = ["Client", "Gone", "available", "forget", "planted"]

_SOURCE = Path(__file__).with_name("client.cc")

#: Seconds that the program may take for one request: less than a worker has for a case.
_TIMEOUT = 40.0

_ROLES = ("data", "weight", "aux")
_BEGIN, _PYTHON, _SWITCH, _BIND, _RUN, _WRITE, _DROP, _TALLY = range(8)

#: What the library in C prints where Python fails, and MXNet answers.
_FAILED = "plain MXNet answers"


class Gone(BaseException):
    """The program died, or took too long; no case may take it for an error of MXNet's.

    Attributes:
        symptom: ``crash`` or ``timeout``.
        detail: Its last words.
    """

    def __init__(self, symptom: str, detail: str) -> None:
        super().__init__(f"{symptom}: {detail}")
        self.symptom, self.detail = symptom, detail


@once
def available() -> bool:
    """Whether this machine has a compiler, and Python a shared library."""
    if _compiler() is None:
        return False
    try:
        environment_for()
    except (NodeError, OptionError):
        return False
    return True


def _compiler() -> str | None:
    return shutil.which("g++") or shutil.which("c++")


@once
def _compiled() -> Path:
    """The program, compiled where no process has done it before."""
    spec = importlib.util.find_spec("mxnet")
    assert spec is not None
    assert spec.submodule_search_locations
    compiler, mxnet = _compiler(), Path(spec.submodule_search_locations[0])
    assert compiler is not None
    command = [compiler, "-std=c++17", "-O1", "-g", f"-I{mxnet / 'include'}", str(_SOURCE)]
    command += [f"-L{mxnet}", "-lmxnet", "-ldl", "-Wl,--unresolved-symbols=ignore-in-shared-libs"]
    content = hashlib.sha256(_SOURCE.read_bytes() + "\0".join(command).encode()).hexdigest()[:16]
    folder = Path(platformdirs.user_cache_dir("mxtrt"), "fuzz")
    program = folder / f"client-{content}"
    if not program.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as made:
            path = Path(made, "client")
            done = subprocess.run(
                [*command, "-o", str(path)], capture_output=True, text=True, check=False
            )
            if done.returncode:
                raise RuntimeError(f"{compiler} does not compile {_SOURCE}: {done.stderr}")
            path.replace(program)
    return program


# -- requests --------------------------------------------------------------------------------


def _numbers(*values: int) -> bytes:
    return struct.pack(f"={len(values)}I", *values)


def _text(text: str | bytes) -> bytes:
    data = text.encode() if isinstance(text, str) else text
    return _numbers(len(data)) + data


def _packed(arrays: Mapping[str, Any], role: str = "data") -> bytes:
    made = b""
    for name, given in arrays.items():
        array = np.ascontiguousarray(given if isinstance(given, np.ndarray) else given.asnumpy())
        made += _text(name)
        made += _numbers(_ROLES.index(role), type_flag(array.dtype), array.ndim, *array.shape)
        made += array.tobytes()
    return made


class _Head:
    """A head that the program computed."""

    def __init__(self, array: np.ndarray[Any, Any]) -> None:
        self._array = array

    def asnumpy(self) -> np.ndarray[Any, Any]:
        return self._array


def _heads(answer: bytes) -> list[_Head]:
    (number,), place, heads = struct.unpack_from("=I", answer), 4, []
    for _ in range(number):
        flag, ndim = struct.unpack_from("=2I", answer, place)
        shape = struct.unpack_from(f"={ndim}I", answer, place + 8)
        place += 8 + 4 * ndim
        dtype, count = DTYPES[flag], int(np.prod(shape))
        heads.append(_Head(np.frombuffer(answer, dtype, count, place).reshape(shape)))
        place += count * dtype.itemsize
    return heads


def _content(file: IO[bytes], begin: int = 0) -> bytes:
    """What a file holds, which another process writes."""
    return os.pread(file.fileno(), os.fstat(file.fileno()).st_size - begin, begin)


class _Program:
    """The program at work.

    Args:
        planted: The name of a mutant of its Python, empty for none.

    Attributes:
        process: The process.
        forgets: Whether the next bind is to find nothing of earlier ones.
    """

    def __init__(self, planted: str) -> None:
        # Without names: this process may be killed.
        self._log, self._report = (tempfile.TemporaryFile() for _ in range(2))  # noqa: SIM115
        kept = {n: v for n, v in os.environ.items() if not n.startswith("MXTRT_")}
        # Its Python is to import what this one has imported.
        packages = [str(Path(one.__file__ or "").parents[1]) for one in (mxtrt_fuzz, mxtrt)]
        paths = [*packages, *filter(None, sys.path)]
        more = {"PYTHONPATH": os.pathsep.join(paths), "NODE": str(PATH)}
        self.process = subprocess.Popen(
            [_compiled()],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            pass_fds=[self._report.fileno()],
            env={"OMP_NUM_THREADS": "1", **kept, **environment_for(), **more},
            start_new_session=True,  # a terminal's interrupts are not for it
        )
        self.forgets = False
        self._ids = itertools.count()
        self._dropped: list[int] = []
        self._options: dict[str, Any] = {}
        self._heard = 0
        try:
            self._ask(_BEGIN, b"")
            self._python(f"begin({planted!r})")
        except RuntimeError as error:
            self.close()
            raise Gone("crash", f"it did not begin: {error}") from None
        except BaseException:
            self.close()
            raise

    def bind(self, way: int, flags: int, heads: int, rest: bytes) -> int:
        """Bind a symbol; what it is known by."""
        self._set_options()
        self._heard = os.fstat(self._log.fileno()).st_size
        self._python(f"fresh({self.forgets})")
        self.forgets = False
        number = next(self._ids)
        self._ask(_BIND, _numbers(number, way, flags, heads) + rest)
        return number

    def run(self, number: int, inputs: Mapping[str, Any]) -> list[_Head]:
        """The heads for some inputs."""
        self._set_options()
        given = _numbers(number, len(inputs)) + _packed(inputs)
        return _heads(self._ask(_RUN, given))

    def write(self, number: int, values: Mapping[str, Any], how: str) -> None:
        """Write to weights."""
        head = _numbers(number, WRITES.index(how), len(values))
        self._ask(_WRITE, head + _packed(values))

    def drop(self, number: int) -> None:
        """Let go of what is bound before the next request; in a finalizer too."""
        self._dropped.append(number)

    def wait(self, seconds: float) -> None:
        """Wait until nothing is being built in the background."""
        self._python(f"wait({seconds})")

    def runs(self) -> int:
        """How often engines ran so far."""
        return int(struct.unpack("=I", self._ask(_TALLY, b""))[0])

    def report(self) -> tuple[Any, str]:
        """The report of the last bind, and the first complaint since."""
        self._python(f"tell({self._report.fileno()})")
        report, complaint = pickle.loads(_content(self._report))
        told = self._told().splitlines()
        failed = [line for line in told if _FAILED in line]
        return report, complaint or (failed[0] if failed else "")

    def close(self) -> None:
        """End it."""
        self.process.kill()
        self.process.wait()
        for file in (self.process.stdin, self.process.stdout, self._log, self._report):
            assert file is not None
            with contextlib.suppress(OSError):  # what was not sent
                file.close()

    def _told(self) -> str:
        """What it wrote on standard error since the last bind."""
        return _content(self._log, self._heard).decode(errors="replace")

    def _set_options(self) -> None:
        """Give it the options in force here."""
        wanted = dataclasses.asdict(mxtrt.config.current())
        if wanted == self._options:
            return
        if wanted["enabled"]:
            self._python(f"set_options({json.dumps(wanted)!r})")
        self._ask(_SWITCH, _numbers(wanted["enabled"]))
        self._options = wanted

    def _python(self, call: str) -> None:
        code = f"import mxtrt_fuzz.inside\nmxtrt_fuzz.inside.{call}\n"
        try:
            self._ask(_PYTHON, _text(code))
        except _Told as error:
            raise RuntimeError(f"{error}: {last_words(self._told())}") from None

    def _ask(self, kind: int, rest: bytes) -> bytes:
        while self._dropped and kind != _DROP:
            self._ask(_DROP, _numbers(self._dropped.pop()))
        request = _numbers(kind) + rest
        end = time.monotonic() + _TIMEOUT
        try:
            assert self.process.stdin is not None
            self.process.stdin.write(_numbers(len(request)) + request)
            self.process.stdin.flush()
        except OSError:
            raise self._gone() from None
        (size,) = struct.unpack("=I", self._read(4, end))
        answer = self._read(size, end)
        if answer[:4] != _numbers(0):
            raise _Told(answer[4:].decode(errors="replace"))
        return answer[4:]

    def _read(self, size: int, end: float) -> bytes:
        assert self.process.stdout is not None
        pipe, made = self.process.stdout.fileno(), b""
        while len(made) < size:
            left = max(end - time.monotonic(), 0.0)
            if not select.select([pipe], [], [], left)[0]:
                raise Gone("timeout", f"no answer within {_TIMEOUT:.0f} s; {self._last_calls()}")
            some = os.read(pipe, size - len(made))
            if not some:
                raise self._gone()
            made += some
        return made

    def _last_calls(self) -> str:
        """What it is at, as far as its Python can tell."""
        for number in (signal.SIGABRT, signal.SIGCONT):
            self.process.send_signal(number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(5)
        return last_words(self._told())

    def _gone(self) -> Gone:
        code = self.process.wait()
        name = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        return Gone("crash", f"{name}; {last_words(self._told())}")


class _Told(Exception):  # noqa: N818 - MXNet's message
    """What MXNet said."""


# -- the program of this process ----------------------------------------------------------------

_at_work: list[_Program] = []
_planted: list[str] = [""]


def _program() -> _Program:
    """The program of this process, started where there is none."""
    if not _at_work:
        _at_work.append(_Program(_planted[-1]))
    return _at_work[0]


def forget() -> None:
    """Have the program's next bind find nothing of earlier ones."""
    for program in _at_work:
        program.forgets = True


def _end() -> None:
    while _at_work:
        _at_work.pop().close()


atexit.register(_end)


@contextlib.contextmanager
def planted(mutant: str) -> Iterator[None]:
    """Have programs that start inside the ``with`` block make a mistake.

    Args:
        mutant: A name of :data:`mxtrt_fuzz.mutants.IN_PROGRAMS`.
    """
    _end()
    _planted.append(mutant)
    try:
        yield
    finally:
        _planted.pop()
        _end()


class Client:
    """A case that the program bound.

    Args:
        way: One of :data:`mxtrt_fuzz.graphs.C_BINDS`.
        parts: What is bound, see :class:`mxtrt_fuzz.binds.Parts`.

    Attributes:
        moved: Whether it is called with other arrays of weights than at first.
    """

    def __init__(self, way: str, parts: Any) -> None:
        self._mx, self._way = parts.mx, way
        text = parts.symbol.tojson(remove_amp_cast=False)
        blob = self._saved({**parts.weights}, {**parts.aux}) if way == "c_predict" else b""
        given = _numbers(len(parts.inputs) + len(parts.weights) + len(parts.aux))
        for role, arrays in zip(_ROLES, (parts.inputs, parts.weights, parts.aux), strict=True):
            given += _packed(arrays, role)
        flags = zlib.crc32(text.encode()) & 3  # the small things that programs do differently
        heads = len(parts.symbol.list_outputs())
        self.moved = False
        with self._asked() as program:
            rest = _text(text) + _text(blob) + given
            self._number = program.bind(C_BINDS.index(way), flags, heads, rest)
        self._program = program

    def __call__(self, inputs: Mapping[str, Any]) -> list[Any]:
        with self._asked(self._program) as program:
            return program.run(self._number, inputs)

    def write(self, values: Mapping[str, Any], how: str) -> None:
        if how == "row":
            values = {name: value[0:1] for name, value in values.items()}
        with self._asked(self._program) as program:
            program.write(self._number, values, how)
        self.moved |= (self._way, how) == ("c_cached_op", "load")

    def runs(self) -> int:
        """How often engines ran in the program so far."""
        with self._asked(self._program) as program:
            return program.runs()

    def report(self) -> tuple[Any, str]:
        """The report of the program's last bind, and its first complaint."""
        with self._asked(self._program) as program:
            return program.report()

    def ready(self, timeout: float) -> None:
        """Wait until nothing is being built in the background."""
        with self._asked(self._program) as program:
            program.wait(timeout)

    def __del__(self) -> None:
        if "_program" in self.__dict__:
            self._program.drop(self._number)

    @contextlib.contextmanager
    def _asked(self, known: _Program | None = None) -> Iterator[_Program]:
        """The program; what MXNet says there is raised as in Python."""
        if known is not None and known not in _at_work:
            raise Gone("crash", "it ended before")
        try:
            yield known or _program()
        except _Told as error:
            raise self._mx.MXNetError(str(error)) from None
        except Gone:
            _end()  # the next case starts another
            raise

    def _saved(self, weights: dict[str, Any], aux: dict[str, Any]) -> bytes:
        """A file of parameters, which may not be empty."""
        named = {f"arg:{name}": array for name, array in weights.items()}
        named |= {f"aux:{name}": array for name, array in aux.items()}
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "case.params")
            self._mx.nd.save(str(path), named or {"arg:none": self._mx.nd.zeros((1,))})
            return path.read_bytes()
