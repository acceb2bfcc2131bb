"""``mxtrt run``: an unchanged script, or program in another language, with the integration on."""

from __future__ import annotations

import importlib.util
import os
import runpy
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from mxtrt import config
from mxtrt.errors import OptionError
from mxtrt.frontends.environment import environment_for

__all__ = ["CONTEXT", "Program", "run_script"]

#: Whatever follows the script on the command line is for the script, options included.
CONTEXT: dict[str, Any] = {
    "allow_interspersed_args": False,
    "ignore_unknown_options": True,
    "help_option_names": [],
}


@dataclass(frozen=True, slots=True)
class Program:
    """A script or module to run as ``__main__``.

    Attributes:
        name: Path of the script, or name of the module.
        arguments: What it finds in ``sys.argv[1:]``.
        is_module: Whether it is a module.
        is_program: Whether it is a program in another language than Python.
    """

    name: str
    arguments: list[str]
    is_module: bool
    is_program: bool = False

    def run(self) -> None:
        """Run it; what it raises is not touched.

        A program takes the place of this process.
        """
        if self.is_program:
            os.execve(self.name, [self.name, *self.arguments], os.environ)
        sys.argv = [self.name, *self.arguments]
        if self.is_module:
            runpy.run_module(self.name, run_name="__main__", alter_sys=True)
        else:
            runpy.run_path(self.name, run_name="__main__")


def run_script(
    context: typer.Context,
    command: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="SCRIPT",
            help="Script, -m and a module, or program in another language; and what it takes.",
            show_default=False,
        ),
    ] = None,
) -> Program | None:
    """Run an unchanged script, or a program in another language, with the integration on.

    All arguments after the script are the script's.  Programs that it starts get
    USE_TENSORRT=1 too.  Options come from the environment, such as MXTRT_DENY_OPS.
    """
    words = list(command or ())
    if words[:1] in (["--help"], ["-h"]):
        typer.echo(context.get_help())
        return None
    config.current()  # a mistake in the environment is an error here
    if not words:
        raise OptionError("mxtrt run needs a script or a program, such as: mxtrt run script.py")
    program = _module(words) if words[0].startswith("-m") else _script(words)
    os.environ["USE_TENSORRT"] = "1"
    if program.is_program:
        os.environ.update(environment_for(preload=True))
    return program


def _script(words: list[str]) -> Program:
    name, *arguments = words
    path = Path(name)
    if not path.exists() and (found := shutil.which(name)):
        path = Path(found)
    if name.startswith("-") and not path.exists():
        raise OptionError(
            f"mxtrt run has no option {name}; give the script first and its options after it"
        )
    if not path.exists():
        raise OptionError(
            f"{name} does not exist; give the path of a Python script or of a program"
        )
    if path.is_dir() and not (path / "__main__.py").exists():
        raise OptionError(f"the script {name} is a directory without __main__.py; give a script")
    if not os.access(path, os.R_OK):
        raise OptionError(f"the script {name} cannot be read; change its permissions")
    if _is_compiled(path):
        if not os.access(path, os.X_OK):
            raise OptionError(f"the program {name} cannot be run; change its permissions")
        return Program(str(path.absolute()), arguments, is_module=False, is_program=True)
    _put_first(str(path.resolve().parent))
    return Program(name, arguments, is_module=False)


def _is_compiled(path: Path) -> bool:
    """Whether a file is a program of this machine."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(4) == b"\x7fELF"


def _module(words: list[str]) -> Program:
    name = words[0].removeprefix("-m")
    rest = words[1:]
    if not name:
        if not rest:
            raise OptionError("option -m needs a module, such as: mxtrt run -m package.module")
        name, *rest = rest
    _put_first(os.getcwd())
    if not _runnable(name):
        raise OptionError(
            f"there is no module {name!r} to run; install it, or start in the folder that has it"
        )
    return Program(name, rest, is_module=True)


def _runnable(name: str) -> bool:
    if name.startswith("."):
        return False
    try:
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.submodule_search_locations is not None:
            spec = importlib.util.find_spec(f"{name}.__main__")
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise  # a package's own code failed
        return False
    except ValueError:
        return False
    return spec is not None


def _put_first(folder: str) -> None:
    """Put a folder where Python would, in place of the one that it put there for mxtrt."""
    own = os.path.dirname(os.path.abspath(sys.argv[0]))
    if (
        sys.path
        and sys.path[0] in ("", own, os.getcwd())
        and not getattr(sys.flags, "safe_path", False)
    ):
        sys.path[0] = folder
    else:
        sys.path.insert(0, folder)
