"""What commands print: results on stdout, progress and errors on stderr."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn
from rich.table import Table

__all__ = ["emit_json", "prints_to_stderr", "say_error", "show", "table", "task", "write_output"]


def show(*items: Any) -> None:
    """Print to stdout; strings are taken as they are, without markup."""
    console = Console(highlight=False)
    for item in items:
        console.print(item, markup=False, soft_wrap=isinstance(item, str))


def emit_json(data: Any) -> None:
    """Print data as JSON to stdout."""
    json.dump(data, sys.stdout, indent=2)
    sys.stdout.write("\n")


def write_output(path: Path, text: str) -> None:
    """Write a file that an option names.

    Raises:
        OptionError: It cannot be written; an older file of that name is as it was.
    """
    from mxtrt.errors import OptionError
    from mxtrt.system.files import write_text

    try:
        write_text(path, text)
    except OSError as error:
        raise OptionError(f"{path} cannot be written ({error.strerror})") from None


def say_error(error: object) -> None:
    """Print one sentence to stderr, on one line."""
    print("mxtrt:", " ".join(str(error).split()), file=sys.stderr)


def table(title: str, *columns: str, numbers: int = 0) -> Table:
    """A table; its last ``numbers`` columns are aligned to the right."""
    made = Table(title=title or None, title_justify="left", title_style="bold")
    for place, column in enumerate(columns):
        right = place >= len(columns) - numbers
        made.add_column(column, justify="right" if right else "left", no_wrap=right)
    return made


@contextlib.contextmanager
def prints_to_stderr() -> Iterator[None]:
    """A block in which whatever is printed, by libraries too, goes to stderr."""
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        sys.stdout.flush()
        os.dup2(kept, 1)
        os.close(kept)


@contextlib.contextmanager
def task(label: str) -> Iterator[Callable[[float], None]]:
    """Show on stderr that something is under way, for a person who watches.

    Args:
        label: What is under way.

    Yields:
        What to tell the part done, 0 to 1; until it is told, a spinner turns.
    """
    console = Console(stderr=True)
    columns = SpinnerColumn(), TextColumn("{task.description}"), BarColumn(bar_width=30)
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as progress:
        number = progress.add_task(label, total=None)
        yield lambda part: progress.update(number, total=1.0, completed=part)
