"""One model in several precisions, side by side: speed, memory, accuracy, error by layer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mxtrt.cli.compare import Comparison, compare
from mxtrt.cli.output import show, table
from mxtrt.config import PRECISIONS, Options
from mxtrt.errors import EngineError, OptionError
from mxtrt.observe.text import bytes_text

__all__ = ["Batches", "Row", "compare_precisions", "parse_precisions", "rows_to_dict", "show_rows"]

#: Gives the data, as often as it is called.
Batches = Callable[[], Iterable[dict[str, Any]]]


@dataclass(frozen=True, slots=True)
class Row:
    """What was measured of one precision.

    Attributes:
        precision: Its name.
        found: Speed, memory and parity against plain MXNet.
        accuracy: Part of the classes that are right, None without labels.
        agreement: Part of the classes that plain MXNet gives too, None without data.
        layers: Layers and their own errors, worst first; empty if nobody asked.
    """

    precision: str
    found: Comparison
    accuracy: float | None = None
    agreement: float | None = None
    layers: Sequence[tuple[str, float]] = ()


def parse_precisions(text: str) -> list[str]:
    """Names separated by commas.

    Raises:
        OptionError: One is not known.
    """
    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names:
        if name not in PRECISIONS:
            raise OptionError(
                f"option --precision names {name!r}, expected some of {', '.join(PRECISIONS)}"
            )
    return list(dict.fromkeys(names))


def compare_precisions(
    symbol: Any,
    params: Mapping[str, Any],
    inputs: Mapping[str, Any],
    options: Options,
    precisions: Sequence[str],
    seconds: float,
    batches: Batches | None = None,
    *,
    layers: bool = False,
    progress: Callable[[float], object] | None = None,
) -> tuple[list[Row], float | None]:
    """Measure a symbol in several precisions, each against plain MXNet.

    Args:
        symbol: An ``mxnet.symbol.Symbol``.
        params: NDArrays of its weights.
        inputs: NDArrays of its data.
        options: Options of the binds.
        precisions: The precisions.
        seconds: Time to measure, all together.
        batches: Gives the data to compare answers on, and for errors by layer.
        layers: Whether to find the error of every layer.
        progress: Is told the part of the measuring that is done.

    Returns:
        A row for every precision, and the accuracy of plain MXNet (None without labels).

    Raises:
        EngineError: An engine is missing, or the symbol cannot run with it.
    """
    from mxtrt.offline.search import answers

    plain = None if batches is None else answers(symbol, params, batches(), enabled=False)
    rows = []
    for place, precision in enumerate(precisions):
        chosen = options.replace(precision=precision)

        def told(part: float, done: int = place) -> None:
            if progress is not None:
                progress((done + part) / len(precisions))

        found = compare(symbol, params, inputs, chosen, seconds / len(precisions), told)
        if batches is None or plain is None:
            rows.append(Row(precision, found))
            continue
        seen = answers(
            symbol,
            params,
            batches(),
            precision=precision,
            ranges=options.ranges,
            engine=options.engine,
            deny_ops=options.deny_ops,
        )
        errors = _worst_layers(symbol, params, batches(), chosen) if layers else []
        rows.append(Row(precision, found, seen.accuracy, seen.agreement(plain), errors))
    return rows, None if plain is None else plain.accuracy


def _worst_layers(
    symbol: Any, params: Mapping[str, Any], batches: Iterable[dict[str, Any]], options: Options
) -> list[tuple[str, float]]:
    """The error of every layer, worst first; none for a precision that rounds no layer."""
    from mxtrt.offline.search import layer_errors
    from mxtrt.precision.ranges import read_ranges

    if options.precision not in ("fp16", "int8"):
        return []
    ranges = read_ranges(options.ranges) if options.precision == "int8" else None
    errors = layer_errors(symbol, params, batches, options.precision, ranges)
    return sorted(errors, key=lambda item: -item[1])


def rows_to_dict(rows: Sequence[Row], plain_accuracy: float | None) -> dict[str, Any]:
    """The rows as JSON-ready data."""
    return {
        "plain_accuracy": plain_accuracy,
        "precisions": [
            {
                "precision": row.precision,
                **row.found.to_dict(),
                "accuracy": row.accuracy,
                "agreement": row.agreement,
                "layers": [{"name": name, "error": error} for name, error in row.layers],
            }
            for row in rows
        ],
    }


def show_rows(title: str, rows: Sequence[Row], plain_accuracy: float | None) -> None:
    """Print the rows for people."""
    if not rows:
        raise EngineError("no precision was measured")
    with_data = any(row.agreement is not None for row in rows)
    columns = ["median ms", "p90 ms", "speed-up", "parity error", "weights", "grew by"]
    if with_data:
        columns += ["accuracy", "agreement"]
    shown = table("", "", *columns, numbers=len(columns))
    for row in rows:
        found = row.found
        cells = [
            f"{found.mxtrt.median_ms:.3f}",
            f"{found.mxtrt.p90_ms:.3f}",
            f"{found.ratio:.2f}x",
            f"{found.parity_error:.1e}",
            bytes_text(found.report.weight_bytes),
            bytes_text(found.mxtrt_growth),
        ]
        if with_data:
            cells += [_part(row.accuracy), _part(row.agreement)]
        shown.add_row(row.precision, *cells)
    plain = rows[0].found.plain
    accuracy = "" if plain_accuracy is None else f", accuracy {plain_accuracy:.2%}"
    show(
        f"{title} in {rows[0].found.report.engine}, against plain MXNet "
        f"({plain.median_ms:.3f} ms{accuracy}):",
        shown,
    )
    for row in rows:
        notes = [n for segment in row.found.report.segments for n in segment.notes]
        show(*(f"Note: {row.precision}: {note}" for note in [*notes, *row.found.report.notes]))
        if row.layers:
            errors = table(
                "", f"error of each layer in {row.precision}, worst first", "", numbers=1
            )
            for name, error in row.layers:
                errors.add_row(name, f"{error:.1e}")
            show(errors)


def _part(value: float | None) -> str:
    return "" if value is None else f"{value:.2%}"
