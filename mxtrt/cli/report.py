"""``mxtrt report``: a run of the suites as a page and as Markdown."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mxtrt.cli.arguments import output_option
from mxtrt.cli.gate import BASELINES, Baselines, Runs
from mxtrt.cli.output import show, write_output

__all__ = ["write_report"]


def write_report(
    runs: Runs,
    baseline: Baselines = None,
    html: Annotated[
        Path | None,
        output_option("--html", "Write a page there."),
    ] = None,
    markdown: Annotated[
        Path | None,
        output_option("--markdown", "Write Markdown."),
    ] = None,
    fleet: Annotated[
        Path | None,
        typer.Option(
            "--fleet",
            metavar="PATH",
            help="Models whose operator coverage is shown, as mxtrt coverage takes them.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Write what a run measured, beside the baseline of its machine if there is one.

    Without --html and --markdown the Markdown goes to stdout.
    """
    from mxtrt.perf.baseline import read_baseline
    from mxtrt.perf.report.content import content
    from mxtrt.perf.report.render import to_html, to_markdown
    from mxtrt.perf.runs import read_run

    first, *later = [read_run(path) for path in runs]
    run = first.joined(later)
    folder = baseline or BASELINES / run.key
    stored = read_baseline(folder) if baseline is not None or folder.is_dir() else None
    found = content(run, stored, fleet)
    if html is not None:
        write_output(html, to_html(found))
    if markdown is not None:
        write_output(markdown, to_markdown(found))
    if html is None and markdown is None:
        show(to_markdown(found))
