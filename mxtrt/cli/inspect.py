"""``mxtrt inspect``: what a bind of a model would do."""

from __future__ import annotations

import dataclasses
from collections import Counter
from typing import TYPE_CHECKING

from mxtrt.cli.arguments import DenyOps, Engine, Json, Model, Params, Shapes, chosen_options
from mxtrt.cli.output import emit_json, show, table, task
from mxtrt.observe.text import bytes_text

if TYPE_CHECKING:
    from mxtrt.observe.report import Report

__all__ = ["inspect_model"]


def inspect_model(
    model: Model,
    params: Params = None,
    shape: Shapes = None,
    engine: Engine = None,
    deny_ops: DenyOps = None,
    json: Json = False,
) -> None:
    """Show which nodes of a model an engine would run, and why others stay in MXNet.

    Nothing is built.  The parameter file is not needed; if it is given, it is checked against
    the symbol.
    """
    options = chosen_options(engine, deny_ops)
    with task("partitioning"):
        from mxtrt.cli.model import load_model
        from mxtrt.offline.inspection import inspect

        loaded = load_model(model, params, shape or ())
        chosen = {f.name: getattr(options, f.name) for f in dataclasses.fields(options)}
        del chosen["shapes"]  # of engines, and none is built
        data_types = {name: loaded.dtypes[name] for name in loaded.data}
        report = inspect(loaded.symbol, loaded.data, data_types, **chosen)
    if json:
        emit_json({"model": str(model), "shapes": loaded.data, **report.to_dict()})
    else:
        _show(report)


def _show(report: Report) -> None:
    segments = table("Segments", "segment", "inputs", "outputs", "nodes", "weights", numbers=2)
    for segment in report.segments:
        segments.add_row(
            segment.name,
            "\n".join(segment.inputs),
            "\n".join(segment.outputs),
            str(len(segment.nodes)),
            bytes_text(segment.weight_bytes),
        )
    total = report.nodes_in_engine + len(report.left)
    if report.segments:
        show(segments)
    show(
        f"{report.nodes_in_engine} of {total} nodes in {len(report.segments)} segments, "
        f"{bytes_text(report.weight_bytes)} of weights move to the engine."
    )
    if report.left:
        left = table("Left in MXNet", "operator", "reason", "nodes", numbers=1)
        reasons = Counter((node.op, node.reason) for node in report.left)
        for (op, reason), count in sorted(reasons.items()):
            left.add_row(op, reason, str(count))
        show(left)
    for note in report.notes:
        show(f"Note: {note}")
