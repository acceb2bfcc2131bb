"""Files that are written whole or not at all.

A file is written under a temporary name and renamed.  Meanwhile its writer holds a lock on it,
which ends with the writer however that ends: a temporary file that nobody locks was left by a
process that died, and the next writer in that folder removes it.  No clock is asked.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import secrets
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

__all__ = [
    "TEMPORARY",
    "NewFile",
    "companion",
    "new_file",
    "remove_companions",
    "write_text",
]

#: Suffix of files that are being written, or that were when their writer died.
TEMPORARY = ".mxtrt-tmp"
_PREFIX = "."


@dataclass(frozen=True, slots=True)
class NewFile:
    """A file that has no name of its own yet.

    Attributes:
        stream: For writing.
        path: Where it is meanwhile.
    """

    stream: IO[bytes]
    path: Path

    def publish(self, path: Path) -> None:
        """Give the file its name, in place of an older one of that name.

        Args:
            path: The name, in the folder that the file was made in.
        """
        self.stream.flush()
        os.fsync(self.stream.fileno())
        self.path.replace(path)


@contextlib.contextmanager
def new_file(folder: Path, *, private: bool = False) -> Iterator[NewFile]:
    """Open a new file in a folder; it is removed again unless it is published.

    Args:
        folder: The folder.
        private: Whether only the user may read it, whatever the umask says.

    Raises:
        OSError: It cannot be created.
    """
    _remove_abandoned(folder)
    handle, name = _create(folder, 0o600 if private else 0o666)
    try:
        with os.fdopen(handle, "wb") as stream:
            yield NewFile(stream, Path(name))
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)


def _create(folder: Path, mode: int) -> tuple[int, str]:
    """A new file, locked, with these permissions less the umask, which is all threads'."""
    while True:
        name = os.fspath(folder / f"{_PREFIX}{secrets.token_hex(8)}{TEMPORARY}")
        handle = os.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode)
        with contextlib.suppress(OSError):  # a file system without locks: nobody removes it
            fcntl.flock(handle, fcntl.LOCK_EX)
        if os.fstat(handle).st_nlink:
            return handle, name
        os.close(handle)  # another process took it for abandoned before it was locked


def _remove_abandoned(folder: Path) -> None:
    """Remove the temporary files of writers that died."""
    with contextlib.suppress(OSError):
        for name in os.listdir(folder):
            if name.startswith(_PREFIX) and name.endswith(TEMPORARY):
                with contextlib.suppress(OSError):  # locked, gone, or of another user
                    _remove_unlocked(folder / name)


def _remove_unlocked(path: Path) -> None:
    handle = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        path.unlink()
    finally:
        os.close(handle)


def write_text(path: Path, text: str) -> None:
    """Write a text as UTF-8; what is no regular file, such as a pipe, gets it directly.

    Raises:
        OSError: It cannot be written; an older file of that name is as it was.
    """
    if path.exists() and not path.is_file():
        path.write_text(text, encoding="utf-8")
        return
    path = path.resolve()  # a link stays one
    with new_file(path.parent) as file:
        file.stream.write(text.encode())
        file.publish(path)


def companion(path: Path, digest: str, suffix: str) -> Path:
    """A file that belongs to another one, named by its content: an older one keeps its own.

    Args:
        path: The file that it belongs to.
        digest: SHA-256 of its content, hexadecimal.
        suffix: Suffix of its name.
    """
    return path.with_name(f"{path.name}.{digest[:16]}{suffix}")


def remove_companions(path: Path, suffix: str, kept: Collection[Path]) -> None:
    """Remove companions of what a file held before, all but some."""
    pattern = re.compile(re.escape(path.name) + r"\.[0-9a-f]{16}" + re.escape(suffix))
    for other in path.parent.iterdir():
        if pattern.fullmatch(other.name) and other not in kept:
            other.unlink(missing_ok=True)
