"""``mxtrt bench``: plain MXNet and mxtrt in turn, in one process."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mxtrt.cli import data as data_of
from mxtrt.cli.arguments import (
    DenyOps,
    Engine,
    Json,
    Model,
    Params,
    Seconds,
    Shapes,
    chosen_options,
)
from mxtrt.cli.output import emit_json, show, table, task
from mxtrt.errors import OptionError
from mxtrt.observe.text import bytes_text

if TYPE_CHECKING:
    from mxtrt.cli.compare import Comparison
    from mxtrt.cli.model import Model as LoadedModel
    from mxtrt.cli.precisions import Batches
    from mxtrt.config import Options

__all__ = ["bench_model", "show_comparison"]


def bench_model(
    model: Model,
    params: Params = None,
    shape: Shapes = None,
    seconds: Seconds = 10.0,
    engine: Engine = None,
    deny_ops: DenyOps = None,
    precision: Annotated[
        str | None,
        typer.Option(
            "--precision",
            metavar="A,B",
            help="Precisions to put side by side, such as fp32,fp16,int8.",
        ),
    ] = None,
    ranges: Annotated[
        Path | None,
        typer.Option("--ranges", metavar="FILE", help="Ranges of the model, from mxtrt calibrate."),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            "--data",
            metavar="DATA",
            help=f"Compare answers on data too, with --precision. {data_of.HELP}",
        ),
    ] = None,
    layers: Annotated[
        bool,
        typer.Option("--layers", help="Error of every layer on its own, worst first."),
    ] = False,
    json: Json = False,
) -> None:
    """Measure a model as plain MXNet and with engines, in turn, in one process.

    Inputs are random; without --params the weights are random too (MSRA).
    """
    options = chosen_options(engine, deny_ops)
    if ranges is not None:
        options = options.replace(ranges=ranges)
    if layers and (data is None or precision is None):
        raise OptionError("option --layers needs --precision and --data")
    if data is not None and precision is None:
        raise OptionError("option --data needs --precision")
    with task("loading"):
        # MXNet, and what needs it, is loaded here.
        from mxtrt.cli.model import load_model, random_inputs, random_params

        loaded = load_model(model, params, shape or ())
        weights = loaded.params if params is not None else random_params(loaded)
        bench = _Bench(loaded, weights, random_inputs(loaded), options, seconds)
    if precision is None:
        found, shown = bench.engine(str(model))
    else:
        batches = None
        if data is not None:
            count = next(iter(loaded.data.values()))[0]
            batches = partial(data_of.batches, data, count, list(shape or ()))
        found, shown = bench.precisions(str(model), precision, batches, layers)
    if json:
        head = {"model": str(model), "shapes": loaded.data, "random_weights": params is None}
        emit_json({**head, **found})
        return
    if params is None:
        show("No --params: the weights are random (MSRA).")
    shown()


@dataclass(frozen=True, slots=True)
class _Bench:
    """A model to be measured.

    Both ways to measure it give the figures as JSON-ready data, and what prints them for people.
    """

    model: LoadedModel
    weights: dict[str, Any]
    inputs: dict[str, Any]
    options: Options
    seconds: float

    def engine(self, title: str) -> tuple[dict[str, Any], Callable[[], None]]:
        """Plain MXNet and the engine that the options choose."""
        from mxtrt.cli.compare import compare

        symbol = self.model.symbol
        with task("measuring") as progress:
            found = compare(symbol, self.weights, self.inputs, self.options, self.seconds, progress)
        return found.to_dict(), lambda: show_comparison(title, found)

    def precisions(
        self, title: str, names: str, batches: Batches | None, layers: bool
    ) -> tuple[dict[str, Any], Callable[[], None]]:
        """Plain MXNet and engines of several precisions."""
        from mxtrt.cli.precisions import (
            compare_precisions,
            parse_precisions,
            rows_to_dict,
            show_rows,
        )

        with task("measuring") as progress:
            rows, accuracy = compare_precisions(
                self.model.symbol,
                self.weights,
                self.inputs,
                self.options,
                parse_precisions(names),
                self.seconds,
                batches,
                layers=layers,
                progress=progress,
            )
        return rows_to_dict(rows, accuracy), lambda: show_rows(title, rows, accuracy)


def show_comparison(title: str, found: Comparison) -> None:
    """Print a comparison for people."""
    latencies = table("", "", "median ms", "p90 ms", numbers=2)
    for name, latency in (("plain MXNet", found.plain), (found.report.engine, found.mxtrt)):
        latencies.add_row(name, f"{latency.median_ms:.3f}", f"{latency.p90_ms:.3f}")
    report = found.report
    show(
        f"{title}:",
        latencies,
        f"Speed-up:     {found.ratio:.2f}x (99 % interval {found.low:.2f} to {found.high:.2f}, "
        f"{found.pairs} pairs)",
        f"Parity error: {found.parity_error:.1e} (largest difference / largest output)",
        f"Nodes:        {report.nodes_in_engine} in {len(report.segments)} segments, "
        f"{len(report.left)} left in MXNet",
        f"Weights:      {bytes_text(report.weight_bytes)} moved to the engine, "
        f"{bytes_text(report.released_bytes)} released from MXNet's memory",
        f"Memory:       the process grew by {bytes_text(found.plain_growth)} for plain MXNet, "
        f"then by {bytes_text(found.mxtrt_growth)} for mxtrt",
    )
    if not report.segments:
        show("No node runs in an engine; mxtrt inspect says why.")
    for note in report.notes:
        show(f"Note: {note}")
