"""Files that are written whole or not at all."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

__all__ = ["TEMPORARY", "NewFile", "new_file", "write_text"]

#: Suffix of files that are being written; one that is old was left by a process that died.
TEMPORARY = ".mxtrt-tmp"


@dataclass(frozen=True, slots=True)
class NewFile:
    """A file that has no name of its own yet.

    Attributes:
        stream: For writing.
        path: Where it is meanwhile.
    """

    stream: IO[bytes]
    path: Path

    def publish(self, path: Path, *, private: bool = False) -> None:
        """Give the file its name, in place of an older one of that name.

        Args:
            path: The name, in the folder that the file was made in.
            private: Whether only the user may read it, whatever the umask says.
        """
        self.stream.flush()
        os.fsync(self.stream.fileno())
        if not private:
            umask = os.umask(0)
            os.umask(umask)
            self.path.chmod(0o666 & ~umask)
        self.path.replace(path)


@contextlib.contextmanager
def new_file(folder: Path) -> Iterator[NewFile]:
    """Open a new file in a folder; it is removed again unless it is published.

    Raises:
        OSError: It cannot be created.
    """
    handle, name = tempfile.mkstemp(dir=folder, prefix=".", suffix=TEMPORARY)
    try:
        with os.fdopen(handle, "wb") as stream:
            yield NewFile(stream, Path(name))
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)


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
