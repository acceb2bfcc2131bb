"""``mxtrt fuzz``: random graphs, or a user's own, against plain MXNet and a reference."""

from __future__ import annotations

import importlib.util
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.live import Live

from mxtrt.cli.arguments import Engine, Params, Shapes, output_option
from mxtrt.cli.output import show, table, write_output
from mxtrt.errors import MxtrtError, OptionError

if TYPE_CHECKING:
    from mxtrt_fuzz.report import FuzzReport

__all__ = ["KEEP_EVERY", "fuzz"]

#: Seconds after which a hunt that goes on writes its report, lest it is lost with the machine.
KEEP_EVERY = 30.0

# The exit code that a shell gives a command that SIGINT ended.
_INTERRUPTED = 130
_PROFILES = ("ci", "gpu", "gpu-context", "nightly", "stories")


def fuzz(
    profile: Annotated[
        str,
        typer.Option("--profile", metavar="NAME", help="ci, stories, gpu, gpu-context or nightly."),
    ] = "ci",
    examples: Annotated[
        int | None, typer.Option("--examples", min=1, help="Graphs. Default: the profile's.")
    ] = None,
    seconds: Annotated[
        float | None, typer.Option("--seconds", min=0.0, help="Stop after so many seconds.")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="Another seed draws other graphs.")] = 0,
    engine: Engine = None,
    json: Annotated[
        Path | None,
        output_option("--json", "Write the report there, such as fuzz-report.json."),
    ] = None,
    corpus: Annotated[
        Path, typer.Option("--corpus", metavar="DIR", help="Where reproducers are kept.")
    ] = Path("fuzz/corpus"),
    database: Annotated[
        Path | None,
        typer.Option(
            "--database",
            metavar="DIR",
            help="Keep Hypothesis's examples there: the next hunt starts from them.",
        ),
    ] = None,
    jobs: Annotated[
        int | None, typer.Option("--jobs", min=1, help="Hunts at a time. Default: one per core.")
    ] = None,
    replay: Annotated[
        Path | None, typer.Option("--replay", metavar="DIR", help="Run one reproducer again.")
    ] = None,
    reduce: Annotated[
        Path | None, typer.Option("--reduce", metavar="FILE", help="Make a failing case smaller.")
    ] = None,
    model: Annotated[
        Path | None,
        typer.Option("--model", metavar="MODEL", help="Fuzz this symbol file instead."),
    ] = None,
    params: Params = None,
    shape: Shapes = None,
    scheduler: Annotated[
        str | None,
        typer.Option("--scheduler", metavar="TCP", help="Run on this Dask cluster."),
    ] = None,
) -> int:
    """Look for wrong answers and double allocation.

    Random graphs run as plain MXNet, as mxtrt under several support masks, and in float64.  With
    --profile stories they are bound several times over, called, written to, trained, saved, failed
    and dropped in a random order, each beside a twin in plain MXNet.

    The exit code is 0 if nothing was found, 1 if something was.  Ctrl-C ends it in good order, with
    what was found so far.
    """
    _require_packages()
    if profile not in _PROFILES:
        raise OptionError(
            f"option --profile is {profile!r}, expected one of {', '.join(_PROFILES)}"
        )
    if sum(given is not None for given in (replay, reduce, model)) > 1:
        raise OptionError("--replay, --reduce and --model exclude each other; give one")
    os.environ["MXNET_SUBGRAPH_BACKEND"] = "NONE"  # plain MXNet is the reference
    from mxtrt_fuzz.profiles import PROFILES

    chosen = engine or PROFILES[profile].engine
    if replay is not None:
        return _replay(replay, chosen)
    if reduce is not None:
        return _reduce(reduce, chosen, corpus)
    if model is not None:
        return _fuzz_model(model, params, shape or [], examples, seconds, seed, chosen, json)
    if database is not None and (PROFILES[profile].repeatable or scheduler is not None):
        raise OptionError(
            f"option --database does nothing for profile {profile}, which draws the same cases "
            "every time, nor with --scheduler, where the machines share examples; leave it out"
        )
    return _hunt(profile, examples, seconds, seed, chosen, json, corpus, database, jobs, scheduler)


def _require_packages() -> None:
    for package in ("hypothesis", "mxtrt_fuzz"):
        if importlib.util.find_spec(package) is None:
            raise OptionError(
                f"mxtrt fuzz needs the package {package}; install it with: "
                "pip install 'mxtrt[fuzz]'"
            )


def _hunt(
    profile: str,
    examples: int | None,
    seconds: float | None,
    seed: int,
    engine: str,
    json: Path | None,
    corpus: Path,
    database: Path | None,
    jobs: int | None,
    scheduler: str | None,
) -> int:
    from mxtrt_fuzz import campaign
    from mxtrt_fuzz.corpus import reproducers

    if engine == "tensorrt" and scheduler is None:
        from mxtrt.engines.tensorrt import tensorrt

        tensorrt()  # where it does not load every graph would be a failure
    known = tuple((r.signature, r.open) for r in reproducers(corpus) if r.open)
    plan = campaign.Campaign(
        profile,
        examples,
        seconds,
        seed,
        engine,
        known,
        database=None if database is None else str(database),
    )
    findings = campaign.Findings(corpus)
    with _Progress(json, findings.keep) as progress:
        if scheduler is None:
            report = campaign.run(plan, jobs, progress)
        else:
            try:
                report = campaign.run_on_dask(plan, scheduler, progress=progress)
            except ImportError:
                raise OptionError(
                    "--scheduler needs Dask; install it with: pip install 'mxtrt[cluster]'"
                ) from None
            except OSError as error:
                raise OptionError(f"no Dask scheduler answers at {scheduler}: {error}") from None
    findings.finish(report)
    return _finish(report, json)


def _fuzz_model(
    model: Path,
    params: Path | None,
    shapes: list[str],
    examples: int | None,
    seconds: float | None,
    seed: int,
    engine: str,
    json: Path | None,
) -> int:
    from mxtrt.cli.model import load_model, random_params
    from mxtrt_fuzz.models import fuzz_model

    loaded = load_model(model, params, shapes)
    weights = loaded.params if params is not None else random_params(loaded)
    with _Progress(json) as progress:
        report = fuzz_model(loaded, weights, examples or 20, seconds, seed, engine, progress)
    return _finish(report, json)


def _replay(folder: Path, engine: str) -> int:
    from mxtrt_fuzz.corpus import read
    from mxtrt_fuzz.execute import Setup
    from mxtrt_fuzz.replay import replay

    try:
        reproducer = read(folder)
    except ValueError as error:
        raise MxtrtError(str(error)) from None
    failures = replay(reproducer, Setup(engine))
    for failure in failures:
        show(str(failure))
    if not failures:
        show(
            f"{folder} does not fail"
            + (f" with {reproducer.signature}" * bool(reproducer.signature))
        )
    return int(bool(failures))


def _reduce(path: Path, engine: str, corpus: Path) -> int:
    from mxtrt_fuzz.corpus import read, write
    from mxtrt_fuzz.execute import Setup
    from mxtrt_fuzz.replay import failures_of, reduced
    from mxtrt_fuzz.worker import Worker

    try:
        case = read(path).case
    except ValueError as error:
        raise MxtrtError(str(error)) from None
    with Worker(Setup(engine)) as worker:
        failures = failures_of(case, worker)
        for failure in failures:
            smallest, last = reduced(case, str(failure.signature), worker)
            where = write(corpus, smallest, last)
            show(f"{len(case.operations)} operators became {len(smallest.operations)}: {where}")
    if not failures:
        show(f"{path} does not fail")
    return int(bool(failures))


def _finish(report: FuzzReport, json: Path | None) -> int:
    if json is not None:
        write_output(json, report.to_json())
    show(_table(report))
    for name, found in sorted(report.found.items()):
        show(f"{name}: {found.failure.detail}")
        if found.where:
            show(f"  mxtrt fuzz --replay {found.where}")
    for error in report.broken:
        show(f"a hunt ended early: {error}")
    if report.interrupted:
        show("interrupted; what was found is not reduced: mxtrt fuzz --reduce DIR does that")
        return 1 if report.unexplained else _INTERRUPTED
    return int(bool(report.unexplained or report.broken))


def _table(report: FuzzReport) -> object:
    """Rates, coverage and failures by signature."""
    told = report.to_dict()
    rows = table("", "what", "count", numbers=1)
    rows.add_row("graphs", str(report.graphs))
    rows.add_row("graphs per second", f"{report.graphs_per_second:.1f}")
    rows.add_row("valid", f"{report.valid_rate:.2%}")
    covered, total = told["coverage"]["operators"], told["coverage"]["of_operators"]
    rows.add_row("operators covered", f"{covered} of {total}")
    rows.add_row("boundary edges covered", str(told["coverage"]["boundary_edges"]))
    rows.add_row("undetermined elements", f"{report.undetermined_share:.2%}")
    for name, found in sorted(report.found.items()):
        rows.add_row(f"{name}{' (open)' * bool(found.open)}", str(found.count))
    return rows


class _Progress:
    """Follows the report: a table on stderr for a person, lines for a log, the file for later."""

    def __init__(
        self, json: Path | None, keep: Callable[[FuzzReport], None] = lambda report: None
    ) -> None:
        console = Console(stderr=True)
        self._live = Live(console=console, transient=True, refresh_per_second=2)
        self._shown = console.is_terminal
        self._json = json
        self._keep = keep
        self._kept = time.monotonic()

    def __enter__(self) -> _Progress:
        if self._shown:
            self._live.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if self._shown:
            self._live.stop()

    def __call__(self, report: FuzzReport) -> None:
        self._keep(report)
        if self._shown and report.graphs % 10 == 0:
            rows = _table(report)
            self._live.update(rows)  # type: ignore[arg-type]
        if time.monotonic() - self._kept >= KEEP_EVERY:
            self._kept = time.monotonic()
            if self._json is not None:
                write_output(self._json, report.to_json())
            if not self._shown:
                rate, found = report.graphs_per_second, len(report.unexplained)
                print(f"{report.graphs} graphs, {rate:.1f}/s, {found} failures", file=sys.stderr)
