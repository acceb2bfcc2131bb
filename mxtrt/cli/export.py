"""``mxtrt export``: a model as ONNX."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from mxtrt.cli.arguments import Json, Model, Params, Shapes, output_option
from mxtrt.cli.output import emit_json, show, task
from mxtrt.errors import GraphError
from mxtrt.observe.text import bytes_text

__all__ = ["export_model"]

Onnx = Annotated[
    Path,
    output_option("--onnx", "ONNX file to write."),
]


def export_model(
    model: Model,
    onnx: Onnx,
    params: Params = None,
    shape: Shapes = None,
    json: Json = False,
) -> None:
    """Write a model as one ONNX file with its weights, if every operator can be converted.

    Large weights go to a file next to it.  The size of axis 0 stays open where it can.
    """
    if params is None:
        raise GraphError("the model holds the weights: give the params file with --params")
    with task("exporting"):
        from mxtrt.cli.model import load_model
        from mxtrt.offline.export import export_onnx

        loaded = load_model(model, params, shape or ())
        arguments = loaded.symbol.list_arguments()
        dtypes = {name: kind for name, kind in loaded.dtypes.items() if name in arguments}
        try:
            files = export_onnx(loaded.symbol, loaded.params, loaded.data, onnx, dtypes)
        except OSError as error:
            raise GraphError(f"{onnx} cannot be written ({error.strerror})") from error
    sizes = {str(file): file.stat().st_size for file in files}
    if json:
        emit_json({"model": str(model), "shapes": loaded.data, "files": sizes})
    else:
        show(*(f"{name}: {bytes_text(size)}" for name, size in sizes.items()))
