"""``mxtrt gate`` and ``mxtrt baseline``: a run against what is stored, and storing it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mxtrt.cli.arguments import Json, output_option
from mxtrt.cli.output import emit_json, show, table, write_output

__all__ = ["BASELINES", "Baselines", "Runs", "gate", "store_baseline"]

#: Where baselines are, from the root of a checkout.
BASELINES = Path("baselines")

Runs = Annotated[
    list[Path],
    typer.Argument(
        metavar="RUN.json...",
        help="What nox -s bench wrote; a later file takes the place of benchmarks of the first.",
        show_default=False,
    ),
]
Baselines = Annotated[
    Path | None,
    typer.Option(
        "--baseline",
        metavar="DIR",
        help="The baseline's folder. Default: that of the run's machine under baselines/.",
        show_default=False,
    ),
]


def gate(
    runs: Runs,
    baseline: Baselines = None,
    again: Annotated[
        Path | None,
        output_option(
            "--again",
            "Write the names of undecided benchmarks there, for nox -s bench -- --again FILE.",
        ),
    ] = None,
    json: Json = False,
) -> int:
    """Compare a run with the baseline of its machine.

    Exit code 0: as before or faster. 1: slower, a counter that is not as before, or a benchmark
    that the run or the baseline lacks. 3: too noisy to tell.
    """
    from mxtrt.perf.baseline import read_baseline
    from mxtrt.perf.runs import read_run
    from mxtrt.perf.verdicts import judge

    first, *later = [read_run(path) for path in runs]
    run = first.joined(later)
    outcome = judge(run, read_baseline(baseline or BASELINES / run.key))
    if again is not None:
        write_output(again, "\n".join(outcome.undecided) + "\n")
    if json:
        emit_json(outcome.to_dict())
        return outcome.exit_code
    rows = table("", "benchmark", "verdict", "why")
    for name, judgement in outcome.judgements.items():
        rows.add_row(name, judgement.verdict.value, judgement.why)
    show(rows)
    if outcome.failing:
        show(
            f"{len(outcome.failing)} of {len(outcome.judgements)} benchmarks are not as the "
            "baseline has them. If that is meant, record it: "
            'nox -s baseline_update -- --reason "..."'
        )
    elif outcome.undecided:
        show(f"{len(outcome.undecided)} benchmarks were too noisy to tell; measure them again.")
    else:
        show(f"{len(outcome.judgements)} benchmarks are as the baseline has them, or faster.")
    return outcome.exit_code


def store_baseline(
    runs: Runs,
    reason: Annotated[str, typer.Option("--reason", help="Why, for those who read the history.")],
    baseline: Baselines = None,
    forget: Annotated[
        bool,
        typer.Option("--forget", help="Delete what is stored of benchmarks that the run lacks."),
    ] = False,
) -> None:
    """Make a run the baseline of its machine.

    Benchmarks that the run was not asked for (--quick, --suite) stay as they are stored.
    """
    from mxtrt.perf.baseline import update_baseline
    from mxtrt.perf.runs import read_run

    first, *later = [read_run(path) for path in runs]
    run = first.joined(later)
    folder = baseline or BASELINES / run.key
    noisy = update_baseline(folder, run, reason, forget=forget)
    show(f"{folder}: {len(run.benchmarks)} benchmarks recorded.")
    if noisy:
        show(f"Counters only, because this run was too noisy, of: {', '.join(noisy)}.")
