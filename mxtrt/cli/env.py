"""``mxtrt env``: what a program in another language is started with."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from mxtrt.frontends.environment import environment_for

__all__ = ["show_environment"]


def show_environment(
    mxnet: Annotated[
        Path | None,
        typer.Option(help="The program's libmxnet.so; by default this environment's MXNet."),
    ] = None,
    preload: Annotated[
        bool, typer.Option("--preload", help="For a program that has an RPATH to its MXNet.")
    ] = False,
) -> None:
    """Print what gives engines to programs in C, C++, Java and others.

    For a shell: eval "$(mxtrt env)", and then the program.
    """
    for name, value in environment_for(mxnet, preload=preload).items():
        typer.echo(f"export {name}={shlex.quote(value)}")
