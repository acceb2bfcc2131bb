"""``mxtrt build``: build a model's engines ahead of time."""

from __future__ import annotations

import time
from collections.abc import Collection
from dataclasses import asdict

from mxtrt import config
from mxtrt.cli.arguments import DenyOps, Engine, Json, Model, Params, Ranges, Shapes, chosen_options
from mxtrt.cli.output import emit_json, show, table, task
from mxtrt.config import Options
from mxtrt.errors import GraphError, OptionError
from mxtrt.observe.text import bytes_text

__all__ = ["build_model"]


def build_model(
    model: Model,
    params: Params = None,
    shape: Shapes = None,
    shapes: Ranges = None,
    engine: Engine = None,
    deny_ops: DenyOps = None,
    json: Json = False,
) -> None:
    """Build a model's TensorRT engines into the cache, so that its first bind is quick.

    A bind finds them there if its shapes, weights and options are the same: with ranges of shapes
    (--shapes) these, and not the shapes of the bind.
    """
    options = chosen_options(engine, deny_ops, shapes)
    if params is None:
        raise GraphError("engines hold the weights: give the params file with --params")
    if not options.cache_size:
        raise OptionError("option cache_size is 0, so nothing is kept; give it a size")
    with task("building"):
        from mxtrt.cli.compare import served, symbol_block
        from mxtrt.cli.model import load_model, random_inputs
        from mxtrt.plan.graph_pass import prepare

        chosen = prepare(options)
        if not chosen.static_shapes:
            raise OptionError(
                f"engines of {chosen.name} are built at every bind and not kept; "
                "mxtrt build is for TensorRT"
            )
        given = [*(shape or ()), *_middles(options, shape or ())]
        loaded = load_model(model, params, given)
        inputs = random_inputs(loaded)
        begin = time.perf_counter()
        with config.options(**{**asdict(options), "enabled": True, "build": "foreground"}):
            symbol_block(loaded.symbol, loaded.params, inputs)(*inputs.values())
        report = served()
        seconds = time.perf_counter() - begin
    if json:
        emit_json({"model": str(model), "shapes": loaded.data, **report.to_dict()})
        return
    segments = table("Engines", "segment", "inputs", "nodes", "weights", "seconds", numbers=3)
    for segment in report.segments:
        segments.add_row(
            segment.name,
            "\n".join(segment.inputs),
            str(len(segment.nodes)),
            bytes_text(segment.weight_bytes),
            f"{segment.build_seconds:.1f}",
        )
    show(segments, f"{report.engine}: {len(report.segments)} engines in {seconds:.1f} s.")


def _middles(options: Options, given: Collection[str]) -> list[str]:
    """Shapes in the middle of ranges, of the inputs for which no other is given."""
    from mxtrt.plan.wanted import middle

    named = {text.rpartition(":")[0] for text in given}
    return [
        f"{name}:{','.join(str(middle(*size)) for size in sizes)}"
        for name, sizes in options.shapes
        if name not in named
    ]
