"""``mxtrt coverage``: how many models of a fleet run wholly in engines."""

from __future__ import annotations

from json import dumps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mxtrt.cli.arguments import output_option
from mxtrt.cli.output import show, table, task, write_output

if TYPE_CHECKING:
    from mxtrt.offline.coverage import Coverage

__all__ = ["show_coverage"]

_ROWS = 40


def show_coverage(
    path: Annotated[
        Path,
        typer.Argument(
            metavar="PATH",
            help="Folder of *-symbol.json files, or a .jsonl file of operator histograms.",
            show_default=False,
        ),
    ],
    json: Annotated[
        Path | None,
        output_option("--json", "Write all of it there."),
    ] = None,
) -> None:
    """Show how many models run wholly in engines, and which operators stop the others.

    A histogram is a line such as {"model": "net", "ops": {"Convolution": 3}}.
    """
    with task("counting"):
        from mxtrt.offline.coverage import coverage, read_models

        found = coverage(read_models(path))
    if json is not None:
        write_output(json, dumps(found.to_dict(), indent=2) + "\n")
    _show(found)


def _show(found: Coverage) -> None:
    show(
        f"{found.covered} of {found.models} models ({found.share:.1%}) have a converter for every "
        f"operator, {found.nodes_covered} of {found.nodes} nodes have one."
    )
    if found.blockers:
        rows = table("Left in MXNet", "operator", "reason", "models", "alone", "nodes", numbers=3)
        for blocker in found.blockers[:_ROWS]:
            numbers = (blocker.models, blocker.alone, blocker.nodes)
            rows.add_row(blocker.op, blocker.reason, *map(str, numbers))
        show(rows)
    if len(found.blockers) > _ROWS:
        show(f"{len(found.blockers) - _ROWS} more operators stop fewer models; --json has them.")
    show(
        "Attributes, dtypes and shapes are not seen, for which a node may stay in MXNet, too: "
        "mxtrt inspect tells of one model."
    )
