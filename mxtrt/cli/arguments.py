"""Arguments and options that several commands take."""

from __future__ import annotations

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
    "Seconds",
    "Shapes",
    "chosen_options",
]

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


def chosen_options(engine: str | None, deny_ops: str | None) -> Options:
    """The options in force, with what the command line says.

    Raises:
        OptionError: An option or environment variable has a wrong value.
    """
    given: dict[str, Any] = {"engine": engine, "deny_ops": deny_ops}
    said = {name: value for name, value in given.items() if value is not None}
    return config.current().replace(**said)
