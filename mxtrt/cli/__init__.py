"""The command line ``mxtrt``.

Results go to stdout, progress and errors to stderr.  An error is one sentence, and the exit
code is 2 then.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from mxtrt.cli import (
    bench,
    build,
    calibrate,
    coverage,
    demo,
    doctor,
    env,
    export,
    fuzz,
    gate,
    inspect,
    report,
    run,
)
from mxtrt.cli.output import say_error
from mxtrt.errors import MxtrtError
from mxtrt.version import __version__

__all__ = ["app", "main"]

app = typer.Typer(
    name="mxtrt",
    help="TensorRT inside Apache MXNet, at bind time.",
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command("run", context_settings=run.CONTEXT)(run.run_script)
app.command("inspect")(inspect.inspect_model)
app.command("coverage")(coverage.show_coverage)
app.command("bench")(bench.bench_model)
app.command("calibrate")(calibrate.calibrate_model)
app.command("build")(build.build_model)
app.command("export")(export.export_model)
app.command("fuzz")(fuzz.fuzz)
app.command("gate")(gate.gate)
app.command("baseline")(gate.store_baseline)
app.command("report")(report.write_report)
app.command("demo")(demo.run_demo)
app.command("doctor")(doctor.diagnose)
app.command("env")(env.show_environment)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"mxtrt {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option("--version", help="Print the version.", callback=_show_version, is_eager=True),
    ] = False,
) -> None:
    """TensorRT inside Apache MXNet, at bind time.

    MXNet graphs that are bound for inference run their supported parts in an engine; scripts
    stay as they are.
    """


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command and exit with its code.

    Args:
        arguments: The command line without the program's name, ``sys.argv[1:]`` by default.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        outcome = typer.main.get_command(app).main(
            given or ["--help"], prog_name="mxtrt", standalone_mode=False
        )
    except MxtrtError as error:
        say_error(error)
        sys.exit(2)
    except typer.Abort:
        sys.exit(130)
    except BrokenPipeError:  # the reader of stdout, such as head, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except Exception as error:
        # Usage errors of typer, whose class is not the same in all its versions.
        if not hasattr(error, "format_message"):
            raise
        context = getattr(error, "ctx", None)
        path = context.command_path if context else "mxtrt"
        say_error(f"{error.format_message().rstrip('.')}; see: {path} --help")
        sys.exit(2)
    if isinstance(outcome, run.Program):  # outside of typer, which handles some exceptions
        outcome.run()
        sys.exit(0)
    sys.exit(outcome if isinstance(outcome, int) else 0)
