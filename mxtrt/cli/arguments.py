"""Arguments and options that several commands take."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from mxtrt import config
from mxtrt.config import Options

__all__ = [
    "DenyOps",
    "Engine",
    "Json",
    "Model",
    "Params",
    "Ranges",
    "Seconds",
    "Shapes",
    "chosen_options",
    "output_option",
]


def output_option(name: str, help: str) -> Any:
    """An option that names a file to write; one that cannot be is refused before any work."""
    return typer.Option(
        name, metavar="FILE", help=help, show_default=False, callback=_that_can_be_written
    )


def _that_can_be_written(path: Path | None) -> Path | None:
    if path is not None:
        if path.is_dir():
            raise typer.BadParameter(f"{path} is a folder; name a file")
        replaced = path.is_file() or not path.exists()  # not a pipe or a terminal
        if not os.access(path.resolve().parent if replaced else path, os.W_OK):
            raise typer.BadParameter(f"{path} cannot be written; name a file in a folder of yours")
    return path


Model = Annotated[
    Path,
    typer.Argument(
        metavar="MODEL",
        help="Symbol file, such as net-symbol.json, as MXNet exports or saves it.",
        show_default=False,
    ),
]
Params = Annotated[
    Path | None,
    typer.Option(
        "--params", metavar="FILE", help="Parameter file of the model.", show_default=False
    ),
]
Shapes = Annotated[
    list[str] | None,
    typer.Option(
        "--shape",
        metavar="NAME:DIMS",
        help="Shape of a data argument, such as data:1,3,224,224; once per data argument.",
        show_default=False,
    ),
]
Ranges = Annotated[
    str | None,
    typer.Option(
        "--shapes",
        metavar="NAME:RANGES",
        help="Ranges that one engine is to serve, such as data:1-32,3,224,224, or 1/8/32 for the "
        "smallest, usual and largest size; several inputs separated by ;. Default: MXTRT_SHAPES.",
        show_default=False,
    ),
]
Engine = Annotated[
    str | None,
    typer.Option(
        "--engine",
        metavar="NAME",
        help=f"Engine: {', '.join(config.ENGINES)}. Default: MXTRT_ENGINE, else auto.",
        show_default=False,
    ),
]
DenyOps = Annotated[
    str | None,
    typer.Option(
        "--deny-ops",
        metavar="A,B",
        help="Operators that stay in MXNet. Default: MXTRT_DENY_OPS, else none.",
        show_default=False,
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else on stdout.")]
Seconds = Annotated[
    float, typer.Option("--seconds", min=0.0, help="Seconds to measure, both ways together.")
]


def chosen_options(engine: str | None, deny_ops: str | None, shapes: str | None = None) -> Options:
    """The options in force, with what the command line says.

    Raises:
        OptionError: An option or environment variable has a wrong value.
    """
    given: dict[str, Any] = {"engine": engine, "deny_ops": deny_ops, "shapes": shapes}
    said = {name: value for name, value in given.items() if value is not None}
    return config.current().replace(**said)
