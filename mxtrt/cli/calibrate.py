"""``mxtrt calibrate``: the ranges that int8 needs, from the user's own data."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mxtrt.cli import data as data_of
from mxtrt.cli.arguments import Json, Model, Params, Shapes, output_option
from mxtrt.cli.output import emit_json, show, task, write_output
from mxtrt.errors import GraphError, OptionError

if TYPE_CHECKING:
    from mxtrt.offline.search import Kept
    from mxtrt.precision.ranges import Ranges

__all__ = ["calibrate_model"]


def calibrate_model(
    model: Model,
    data: Annotated[str, typer.Option("--data", metavar="DATA", help=data_of.HELP)],
    out: Annotated[Path, output_option("--out", "Where to write the ranges.")],
    params: Params = None,
    shape: Shapes = None,
    method: Annotated[
        str,
        typer.Option(
            "--method",
            metavar="NAME",
            help="minmax: all that was seen; percentile: all but outliers; entropy: what changes "
            "the distribution least.",
        ),
    ] = "minmax",
    samples: Annotated[int, typer.Option("--samples", min=1, help="Samples to use.")] = 512,
    batch: Annotated[int, typer.Option("--batch", min=1, help="Samples per batch.")] = 32,
    keep: Annotated[
        str | None,
        typer.Option("--keep", metavar="A,B", help="Layers kept out of int8, such as first,last."),
    ] = None,
    keep_accuracy: Annotated[
        str | None,
        typer.Option(
            "--keep-accuracy",
            metavar="PERCENT",
            help="Find the fewest layers to keep out of int8 so that accuracy falls by no more "
            "than this, such as 0.5%.",
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Run data through a model in float32 and keep the ranges of its tensors.

    The file goes into option ranges (MXTRT_RANGES) of binds with precision int8.
    """
    allowed = None if keep_accuracy is None else _percent(keep_accuracy)
    if params is None:
        raise OptionError("option --params is missing; ranges depend on the weights")
    with task("loading"):
        from mxtrt.cli.model import load_model
        from mxtrt.offline.calibration import calibrate
        from mxtrt.offline.search import keep_accuracy as search

        def batches() -> Iterator[dict[str, Any]]:
            return data_of.batches(data, batch, list(shape or ()))

        first = next(batches(), None)
        if first is None:
            raise GraphError(f"the data {data} hold nothing; give at least one sample")
        loaded = load_model(model, params, shape or data_of.shapes_of(first))
    with task("calibrating"):
        found = calibrate(
            loaded.symbol,
            batches(),
            params=loaded.params,
            method=method,
            samples=samples,
            model=model.name,
            keep=[name.strip() for name in (keep or "").split(",") if name.strip()],
        )
    kept = None
    if allowed is not None:
        with task("looking for layers to keep out of int8"):
            most = -(-samples // batch)
            kept = search(
                loaded.symbol,
                loaded.params,
                lambda: itertools.islice(batches(), most),
                found,
                allowed,
            )
    write_output(out, found.to_json())
    if json:
        emit_json({"out": str(out), **_to_dict(found, kept)})
    else:
        _show(out, found, kept)


def _layers(found: Ranges) -> tuple[int, int]:
    """How many layers there are, and how many of them are int8."""
    layers = [layer for segment in found.segments for layer in segment.layers]
    return len(layers), sum(layer.precision == "int8" for layer in layers)


def _to_dict(found: Ranges, kept: Kept | None) -> dict[str, Any]:
    """What was found, as JSON-ready data."""
    layers, int8 = _layers(found)
    return {
        "model_hash": found.hash,
        "method": found.method,
        "samples": found.samples,
        "segments": len(found.segments),
        "layers": layers,
        "int8_layers": int8,
        "kept": None
        if kept is None
        else {
            "layers": kept.layers,
            "accuracy_float32": kept.float32,
            "accuracy_all_int8": kept.before,
            "accuracy": kept.after,
        },
    }


def _show(out: Path, found: Ranges, kept: Kept | None) -> None:
    """Print what was found for people."""
    layers, int8 = _layers(found)
    show(
        f"{out}: ranges of {len(found.segments)} segments from {found.samples} samples "
        f"({found.method}); {int8} of {layers} layers in int8"
    )
    if kept is not None:
        show(
            f"Accuracy: {kept.float32:.2%} float32, {kept.before:.2%} with every layer in int8, "
            f"{kept.after:.2%} as written"
        )
        show(*(f"  not in int8: {name}" for name in kept.layers))


def _percent(text: str) -> float:
    try:
        value = float(text.removesuffix("%"))
    except ValueError:
        value = -1.0
    if not 0 <= value <= 100:
        raise OptionError(f"option --keep-accuracy is {text!r}, expected a part such as 0.5%")
    return value / 100
