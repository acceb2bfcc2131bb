"""A campaign: hunts on all cores of a machine, or of many machines through Dask, as one report.

The examples are cut into shards, each a hunt of its own seed with its own worker process.  What
one shard's Hypothesis saved in its example database, later shards start from.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from hypothesis.database import ExampleDatabase, InMemoryExampleDatabase

from mxtrt.probe import working_operators
from mxtrt_fuzz import corpus
from mxtrt_fuzz.execute import Setup
from mxtrt_fuzz.hunt import Hunt
from mxtrt_fuzz.profiles import PROFILES
from mxtrt_fuzz.replay import reduced
from mxtrt_fuzz.report import FuzzReport
from mxtrt_fuzz.worker import Worker

__all__ = ["Campaign", "default_jobs", "explain", "run", "run_on_dask", "run_shard"]

Progress = Callable[[FuzzReport], None]
Saved = Mapping[bytes, tuple[bytes, ...]]


@dataclass(frozen=True, slots=True)
class Campaign:
    """What a campaign is to do.

    Attributes:
        profile: A name of :data:`mxtrt_fuzz.profiles.PROFILES`.
        examples: Cases, or None for the profile's number.
        seconds: Seconds at the most, or None.
        seed: Seed of the first shard.
        engine: An engine of ``mxtrt.config.ENGINES``.
        known: Open signatures with their reasons: counted, not reported as failures.
        reduce: Candidates that are tried to make one failure smaller.
    """

    profile: str = "ci"
    examples: int | None = None
    seconds: float | None = None
    seed: int = 0
    engine: str = "auto"
    known: tuple[tuple[str, str], ...] = ()
    reduce: int = 200

    @property
    def total(self) -> int:
        """Cases to run."""
        return PROFILES[self.profile].examples if self.examples is None else self.examples

    @property
    def setup(self) -> Setup:
        """What the cases run on."""
        profile = PROFILES[self.profile]
        working = working_operators() if profile.context == "gpu" else None
        return Setup(self.engine, profile.context, working, profile.masks, profile.exactness)

    def shards(self, count: int) -> Iterator[Campaign]:
        """The campaign cut into shards of their own seeds."""
        for place in range(count):
            examples = self.total // count + (place < self.total % count)
            if examples:
                yield dataclasses.replace(
                    self, examples=examples, seed=self.seed + 1_000_003 * place
                )


def default_jobs() -> int:
    """Hunts that keep this machine busy: each is one process that thinks and one that runs."""
    return max(1, len(os.sched_getaffinity(0)) // 2)


def run_shard(
    campaign: Campaign, saved: Saved | None = None, progress: Progress | None = None
) -> tuple[FuzzReport, Saved]:
    """One hunt, its failures reduced.

    Args:
        campaign: The shard.
        saved: Examples that earlier shards' Hypothesis saved.
        progress: Called after every case.

    Returns:
        The report, and the examples saved so far.
    """
    profile = PROFILES[campaign.profile]
    database: ExampleDatabase | None = None
    if not profile.repeatable:
        database = InMemoryExampleDatabase()
        for key, values in (saved or {}).items():
            for value in values:
                database.save(key, value)
    known = dict(campaign.known)
    with Worker(campaign.setup) as worker:
        hunt = Hunt(
            worker,
            examples=campaign.total,
            seconds=campaign.seconds,
            seed=campaign.seed,
            targeted=profile.targeted,
            database=database,
            progress=progress,
            explained=known,
        )
        report = hunt.run()
        for signature, found in report.found.items():
            found.open = known.get(signature, "")
            if not found.open:
                with contextlib.suppress(ValueError):  # it does not fail a second time
                    found.case, found.failure = reduced(
                        found.case, signature, worker, campaign.reduce
                    )
        report.restarts = worker.restarts
    data = database.data if isinstance(database, InMemoryExampleDatabase) else {}
    return report, {key: tuple(values) for key, values in data.items()}


def run(
    campaign: Campaign, jobs: int | None = None, progress: Progress | None = None
) -> FuzzReport:
    """Run a campaign on this machine.

    Args:
        campaign: What to do.
        jobs: Hunts at a time, by default as many as keep the cores busy.
        progress: Called with the report so far.
    """
    jobs = default_jobs() if jobs is None else jobs
    if jobs == 1:
        return run_shard(campaign, progress=progress)[0]
    whole = FuzzReport()
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        futures = [pool.submit(run_shard, shard) for shard in campaign.shards(jobs)]
        for future in as_completed(futures):
            _take(whole, future, progress)
    whole.wall /= max(len(futures), 1)
    return whole


def _take(
    whole: FuzzReport, future: Future[tuple[FuzzReport, Saved]], progress: Progress | None
) -> Saved:
    report, saved = future.result()
    whole.merge(report)
    if progress is not None:
        progress(whole)
    return saved


def run_on_dask(
    campaign: Campaign, scheduler: str, shard: int = 1000, progress: Progress | None = None
) -> FuzzReport:
    """Run a campaign on a Dask cluster whose machines have mxtrt installed.

    Args:
        campaign: What to do; its time limit counts for each shard.
        scheduler: Address of the scheduler, such as ``tcp://host:8786``.
        shard: Cases of one task.
        progress: Called with the report so far.

    Raises:
        OSError: No scheduler answers.
    """
    import distributed

    dask: Any = distributed
    whole = FuzzReport()
    saved: dict[bytes, tuple[bytes, ...]] = {}
    with dask.Client(scheduler) as client:
        threads = max(sum(client.nthreads().values()), 1)
        waiting = list(campaign.shards(-(-campaign.total // shard)))[::-1]
        first = [waiting.pop() for _ in range(min(threads, len(waiting)))]
        running = dask.as_completed([client.submit(run_shard, one, pure=False) for one in first])
        for future in running:
            for key, values in _take(whole, future, progress).items():
                saved[key] = tuple(dict.fromkeys((*saved.get(key, ()), *values)))
            if waiting:
                running.add(client.submit(run_shard, waiting.pop(), dict(saved), pure=False))
    whole.wall /= threads
    return whole


def explain(report: FuzzReport, folder: Path) -> None:
    """Write a reproducer of everything unexplained to a corpus."""
    for found in report.unexplained.values():
        found.where = str(corpus.write(folder, found.case, found.failure))
