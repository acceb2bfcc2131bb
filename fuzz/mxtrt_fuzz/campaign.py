"""A campaign: hunts on all cores of a machine, or of many machines through Dask, as one report.

The examples are cut into shards, each a hunt of its own seed with its own worker process.  What
one shard's Hypothesis saved in its example database, later shards start from; a folder keeps it
for the next campaign.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from hypothesis.database import (
    DirectoryBasedExampleDatabase,
    ExampleDatabase,
    InMemoryExampleDatabase,
)

from mxtrt_fuzz import builders, corpus
from mxtrt_fuzz.execute import Setup
from mxtrt_fuzz.hunt import Hunt, Stop, never
from mxtrt_fuzz.probe import working_operators
from mxtrt_fuzz.profiles import PROFILES
from mxtrt_fuzz.replay import reduced
from mxtrt_fuzz.report import FuzzReport
from mxtrt_fuzz.stories import stories
from mxtrt_fuzz.worker import Worker

__all__ = ["Campaign", "Findings", "default_jobs", "run", "run_on_dask", "run_shard"]

Progress = Callable[[FuzzReport], None]
#: Number of shards of a repeatable campaign, and seconds between two reports of a shard.
_SHARDS, _TELL_EVERY = 2, 1.0

Saved = Mapping[bytes, tuple[bytes, ...]]


@dataclass(frozen=True, slots=True)
class Campaign:
    """What a campaign is to do.

    Attributes:
        profile: A name of :data:`mxtrt_fuzz.profiles.PROFILES`.
        examples: Cases, or None for the profile's number.
        seconds: Seconds at the most, or None; as many again to reduce the failures.
        seed: Seed of the first shard.
        engine: An engine of ``mxtrt.config.ENGINES``.
        known: Open signatures with their reasons: counted, not reported as failures.
        reduce: Candidates that are tried to make one failure smaller.
        database: Folder of Hypothesis's example database, which the shards share, or None to
            forget it with the campaign.
        working: MXNet's operators that work where the profile runs them, None for all;
            :meth:`probed` sets it.
        builder: Where TensorRT builds for all shards; :func:`run` sets it.
    """

    profile: str = "ci"
    examples: int | None = None
    seconds: float | None = None
    seed: int = 0
    engine: str = "auto"
    known: tuple[tuple[str, str], ...] = ()
    reduce: int = 200
    database: str | None = None
    working: frozenset[str] | None = None
    builder: builders.Address | None = None

    @property
    def total(self) -> int:
        """Cases to run."""
        return PROFILES[self.profile].examples if self.examples is None else self.examples

    @property
    def setup(self) -> Setup:
        """What the cases run on."""
        profile = PROFILES[self.profile]
        return Setup(
            self.engine,
            profile.context,
            self.working,
            profile.masks,
            profile.exactness,
            self.builder,
        )

    def probed(self) -> Campaign:
        """The campaign with what works on this machine, asked once for all shards."""
        if PROFILES[self.profile].context != "gpu" or self.working is not None:
            return self
        return dataclasses.replace(self, working=working_operators())

    def shards(self, count: int) -> Iterator[Campaign]:
        """The campaign cut into shards of their own seeds."""
        for place in range(count):
            examples = self.total // count + (place < self.total % count)
            if examples:
                yield dataclasses.replace(
                    self, examples=examples, seed=self.seed + 1_000_003 * place
                )


def default_jobs(engine: str = "auto") -> int:
    """Hunts that keep this machine busy: one per core, or what keeps TensorRT's builders busy.

    Each is a process that draws and judges, and one that runs; they wait for each other.
    """
    cores = len(os.sched_getaffinity(0))
    return min(cores, builders.HUNTS) if engine == "tensorrt" else cores


def run_shard(
    campaign: Campaign,
    saved: Saved | None = None,
    progress: Progress | None = None,
    stop: Stop = never,
) -> tuple[FuzzReport, Saved]:
    """One hunt, its failures reduced.

    Args:
        campaign: The shard.
        saved: Examples that earlier shards' Hypothesis saved.
        progress: Called after every case.
        stop: Asked before every case whether to end now; failures are not reduced then.

    Returns:
        The report, and the examples saved so far.
    """
    campaign = campaign.probed()
    profile = PROFILES[campaign.profile]
    database: ExampleDatabase | None = None
    if campaign.database is not None:
        # Hypothesis deletes what a hunt passes over, which fails no more to it.
        apart = f"least-{profile.least}" if profile.least > 1 else ""
        database = DirectoryBasedExampleDatabase(Path(campaign.database) / apart)
    elif not profile.repeatable:
        database = InMemoryExampleDatabase()
        for key, values in (saved or {}).items():
            for value in values:
                database.save(key, value)
    known = dict(campaign.known)
    with Worker(campaign.setup, profile.timeout) as worker:
        hunt = Hunt(
            worker,
            examples=campaign.total,
            seconds=campaign.seconds,
            seed=campaign.seed,
            strategy=stories() if profile.stories else None,
            targeted=profile.targeted,
            database=database,
            progress=progress,
            explained=known,
            stop=stop,
            least=profile.least,
            shrink=profile.shrink,
        )
        report = hunt.run()
        end = time.monotonic() + (math.inf if campaign.seconds is None else campaign.seconds)
        for signature, found in report.found.items():
            found.open = known.get(signature, "")
            if not found.open and not stop():
                with contextlib.suppress(ValueError):  # it does not fail a second time
                    found.case, found.failure = reduced(
                        found.case, signature, worker, campaign.reduce, end
                    )
        report.restarts = worker.restarts
    data = database.data if isinstance(database, InMemoryExampleDatabase) else {}
    return report, {key: tuple(values) for key, values in data.items()}


def run(
    campaign: Campaign, jobs: int | None = None, progress: Progress | None = None
) -> FuzzReport:
    """Run a campaign on this machine.

    The first SIGINT ends it in good order: what was found so far is in the report, not reduced.

    Args:
        campaign: What to do.
        jobs: Hunts at a time, by default as many as keep the cores busy.
        progress: Called with the report so far, about once a second.
    """
    jobs = default_jobs(campaign.engine) if jobs is None else jobs
    with builders.serving(campaign.engine) as address:
        campaign = dataclasses.replace(campaign.probed(), builder=address)
        return _run(campaign, jobs, progress)


def _run(campaign: Campaign, jobs: int, progress: Progress | None) -> FuzzReport:
    # A repeatable campaign has the same shards on every machine, whatever its number of jobs.
    shards = list(campaign.shards(_SHARDS if PROFILES[campaign.profile].repeatable else jobs))
    latest: dict[int, FuzzReport] = {}
    begin = time.perf_counter()

    broken: list[str] = []

    def tell(place: int, report: FuzzReport) -> None:
        latest[place] = report
        if progress is not None:
            progress(_together(latest.values(), begin))

    with _interrupted() as asked:
        if len(shards) == 1:
            tell(0, run_shard(shards[0], progress=partial(tell, 0), stop=asked.is_set)[0])
        else:
            broken = _run_in_processes(shards, jobs, tell, asked)
    report = _together(latest.values(), begin)
    report.interrupted, report.broken = asked.is_set(), broken
    return report


def _run_in_processes(
    shards: Iterable[Campaign],
    jobs: int,
    tell: Callable[[int, FuzzReport], None],
    asked: threading.Event,
) -> list[str]:
    """Run shards, and return the errors of those that ended with one."""
    broken = []
    # Processes of their own also for one job: Hypothesis draws constants of the modules that a
    # process has loaded, so that cases would depend on who asks for them.
    spawn = get_context("spawn")
    with (
        spawn.Manager() as manager,
        ProcessPoolExecutor(jobs, mp_context=spawn, initializer=_leave_interrupts_alone) as pool,
    ):
        news: Any = manager.Queue()
        stop: Any = manager.Event()
        futures = {
            pool.submit(_run_and_tell, shard, news, stop, place): place
            for place, shard in enumerate(shards)
        }
        waiting = set(futures)
        while waiting:
            done, waiting = wait(waiting, timeout=_TELL_EVERY, return_when=FIRST_COMPLETED)
            if asked.is_set():
                stop.set()
            while not news.empty():
                tell(*news.get())
            for future in done:
                try:
                    report = future.result()
                except Exception as error:  # the other hunts go on, and what this one told is kept
                    broken.append(f"{type(error).__name__}: {error}")
                else:
                    tell(futures[future], report)
    return broken


@contextlib.contextmanager
def _interrupted() -> Iterator[threading.Event]:
    """An event that SIGINT sets; after another second SIGINT is what it was."""
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return
    since = 0.0

    def ask(number: int, frame: Any) -> None:
        nonlocal since
        if not asked.is_set():
            since = time.monotonic()
            asked.set()
        elif time.monotonic() - since > 1 and callable(before):
            before(number, frame)

    before = signal.signal(signal.SIGINT, ask)
    try:
        yield asked
    finally:
        signal.signal(signal.SIGINT, before)


def _leave_interrupts_alone() -> None:
    """A terminal interrupts the processes of a campaign too; its first process tells them."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _run_and_tell(shard: Campaign, news: Any, stop: Any, place: int) -> FuzzReport:
    """Run a shard in a process of its own, and send its report now and then."""
    told = time.monotonic()

    def tell(report: FuzzReport) -> None:
        nonlocal told
        if time.monotonic() - told >= _TELL_EVERY:
            told = time.monotonic()
            news.put((place, report))

    return run_shard(shard, progress=tell, stop=stop.is_set)[0]


def _together(reports: Iterable[FuzzReport], begin: float) -> FuzzReport:
    whole = FuzzReport()
    for report in reports:
        whole.merge(report)
    whole.wall = time.perf_counter() - begin
    return whole


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
    reports: list[FuzzReport] = []
    saved: dict[bytes, tuple[bytes, ...]] = {}
    begin = time.perf_counter()
    with dask.Client(scheduler) as client:
        threads = max(sum(client.nthreads().values()), 1)
        waiting = list(campaign.shards(-(-campaign.total // shard)))[::-1]
        first = [waiting.pop() for _ in range(min(threads, len(waiting)))]
        running = dask.as_completed([client.submit(run_shard, one, pure=False) for one in first])
        for future in running:
            try:
                report, examples = future.result()
            except Exception as error:
                report, examples = FuzzReport(broken=[f"{type(error).__name__}: {error}"]), {}
            reports.append(report)
            if progress is not None:
                progress(_together(reports, begin))
            for key, values in examples.items():
                saved[key] = tuple(dict.fromkeys((*saved.get(key, ()), *values)))
            if waiting:
                running.add(client.submit(run_shard, waiting.pop(), dict(saved), pure=False))
    return _together(reports, begin)


class Findings:
    """Reproducers of what a campaign finds, in a corpus from the moment that it is found.

    Args:
        folder: The corpus.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._drawn: dict[str, Path] = {}  # written by this campaign as they were drawn
        self._old = {path.name for path in folder.glob("*-*")}

    def keep(self, report: FuzzReport) -> None:
        """Write what was found since the last call, as it was drawn."""
        for signature, found in report.unexplained.items():
            if signature not in self._drawn:
                path = corpus.write(self._folder, found.case, found.failure)
                self._drawn[signature] = path
            found.where = str(self._drawn[signature])

    def finish(self, report: FuzzReport) -> None:
        """Write what was found as it is now, in place of what was kept meanwhile."""
        for signature, found in report.unexplained.items():
            path = corpus.write(self._folder, found.case, found.failure)
            found.where = str(path)
            drawn = self._drawn.get(signature, path)
            if drawn != path and drawn.name not in self._old:
                shutil.rmtree(drawn)
