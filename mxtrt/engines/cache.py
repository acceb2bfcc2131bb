"""Built engines on disk.

An entry is one file, named after the content it was built from: a header with a checksum,
then the engine.  It is written under a temporary name and renamed, so that a reader sees a
whole entry or none; a damaged or foreign entry is removed and built again.  Two processes
that want the same entry wait for each other.  What cannot be locked, read or written costs the
cache and never the engine: it is built, and used once.  TensorRT engines are executable code: the
directory belongs to the user and nobody else may write to it.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import platformdirs
from filelock import FileLock

from mxtrt.observe.counters import count
from mxtrt.system.files import new_file

__all__ = ["EngineCache"]

_log = logging.getLogger("mxtrt")

_MAGIC = b"mxtrt engine 1\n"
_SUFFIX, _LOCK = ".engine", ".lock"
# Seconds to wait for another process that builds the same entry.
_PATIENCE = 600.0
# Seconds by which the clocks of machines that share the directory may differ.
_SKEW = 3600.0


class EngineCache:
    """A directory of built engines.

    Args:
        directory: The option ``cache_dir``; empty for the user's cache directory.
        limit: Bytes that are kept, 0 to keep nothing; the least recently used entries go first.
    """

    def __init__(self, directory: str, limit: int) -> None:
        self._path = Path(directory or platformdirs.user_cache_dir("mxtrt")) / "engines"
        self._limit = limit

    @property
    def path(self) -> Path:
        """Where the entries are."""
        return self._path

    def get_or_build(self, key: str, build: Callable[[], bytes]) -> bytes | memoryview:
        """The entry of a key, built and kept if it is not there.

        Args:
            key: Content hash of everything that the engine depends on, hexadecimal.
            build: Builds the engine; what it raises is passed on and nothing is kept.
        """
        if not self._usable():
            return build()
        with self._alone(key):
            data = self._read(key)
            count("cache_misses" if data is None else "cache_hits")
            if data is None:
                built = build()
                self._write(key, built)
                return built
        return data

    def load(self, key: str) -> bytes | memoryview | None:
        """The entry of a key, or None."""
        return self._read(key) if self._usable() else None

    def store(self, key: str, data: bytes) -> None:
        """Keep an entry in place of an older one."""
        if self._usable():
            self._write(key, data)

    @contextlib.contextmanager
    def _alone(self, key: str) -> Iterator[None]:
        """Keep other processes from the entry; a directory that takes no lock has none to keep."""
        with contextlib.ExitStack() as held:
            try:
                lock = FileLock(self._path / (key + _LOCK), timeout=_PATIENCE)
                held.enter_context(lock)
            except (OSError, NotImplementedError) as error:
                _log.debug("the engine cache is not locked: %s", error)
            yield

    def _usable(self) -> bool:
        if not self._limit:
            return False
        try:
            self.prepare()
        except OSError as error:
            _log.warning("no engine cache: %s", error)
            return False
        return True

    def prepare(self) -> None:
        """Make the directory if it is not there, and see that nobody else writes to it.

        Raises:
            OSError: It cannot be made, or somebody else may write to it.
        """
        self._path.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = self._path.stat()
        if status.st_uid != os.getuid() or status.st_mode & 0o022:
            raise PermissionError(
                f"{self._path} belongs to another user or others may write to it; "
                "engines are code, so give a cache_dir that only you can write to"
            )

    def _read(self, key: str) -> memoryview | None:
        entry = self._path / (key + _SUFFIX)
        try:
            content = memoryview(entry.read_bytes())  # slices without copies
        except OSError:
            return None
        head, data = content[: len(_MAGIC) + 32], content[len(_MAGIC) + 32 :]
        if bytes(head) != _MAGIC + hashlib.sha256(data).digest():
            _log.warning("the cached engine %s is damaged and is built again", entry)
            with contextlib.suppress(OSError):
                entry.unlink()
            return None
        with contextlib.suppress(OSError):
            os.utime(entry)  # used just now
        return data

    def _write(self, key: str, data: bytes) -> None:
        try:
            with new_file(self._path, private=True) as file:
                file.stream.write(_MAGIC + hashlib.sha256(data).digest())
                file.stream.write(data)
                file.publish(self._path / (key + _SUFFIX))
            self._make_room(self._path / (key + _SUFFIX))
        except OSError as error:
            _log.warning("the engine is not kept: %s", error)

    def _make_room(self, written: Path) -> None:
        """Remove the least recently used entries, but for the one that was just written."""
        entries, total = [], 0
        latest = time.time() + _SKEW
        for path in self._path.glob("*" + _SUFFIX):
            with contextlib.suppress(OSError):
                status = path.stat()
                total += status.st_size
                # A time in the future: not used since the clock was set back.
                used = status.st_mtime if status.st_mtime <= latest else 0.0
                if path != written:
                    entries.append((used, status.st_size, path))
        for _, size, path in sorted(entries):
            if total <= self._limit:
                break
            with contextlib.suppress(OSError, NotImplementedError):
                path.unlink()
                total -= size
                lock = path.with_suffix(_LOCK)
                with FileLock(lock, timeout=0):
                    lock.unlink()
