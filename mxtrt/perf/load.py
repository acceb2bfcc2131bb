"""Load: several threads that each send a request as soon as their last one is answered.

A burst is a fixed number of requests, however many threads share them.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from types import TracebackType
from typing import Any, Protocol

import numpy as np

__all__ = ["Burst", "ClosedLoop", "Figures", "Load", "Loop", "figures_of", "percentile"]


#: Seconds after which a burst is given up.
PATIENCE = 120.0


@dataclass(frozen=True, slots=True)
class Burst:
    """One burst of requests.

    Attributes:
        seconds: From the start of the first request until the end of the last one.
        latencies: Seconds of every request.
    """

    seconds: float
    latencies: Sequence[float]


class Loop(Protocol):
    """Threads that send bursts of requests.

    Attributes:
        requests: Requests of a burst.
        bursts: The bursts so far.
    """

    requests: int
    bursts: list[Burst]

    def __call__(self) -> object:
        """Send a burst, and come back when all of it is answered."""

    def close(self) -> None:
        """End the threads and give back what they used."""


class ClosedLoop:
    """A :class:`Loop` of Python threads, which last for all bursts.

    Args:
        calls: For each thread its request; it returns when its answer is there.
        requests: Requests of a burst; a thread that is ready takes the next one.
    """

    def __init__(self, calls: Sequence[Callable[[], object]], requests: int) -> None:
        self.requests = requests
        self.bursts: list[Burst] = []
        self._begin = threading.Barrier(len(calls) + 1)
        self._end = threading.Barrier(len(calls) + 1)
        self._tickets: Iterator[int] = iter(())
        self._seen: list[list[tuple[float, float]]] = [[] for _ in calls]
        self._errors: list[BaseException] = []
        self._closed = False
        self._threads = [
            threading.Thread(target=self._work, args=(call, seen), daemon=True)
            for call, seen in zip(calls, self._seen, strict=True)
        ]
        for thread in self._threads:
            thread.start()

    def __call__(self) -> None:
        """Send a burst.

        Raises:
            TimeoutError: Requests were not answered; the loop cannot be used again.
            BaseException: What a request raised; the burst does not count.
        """
        self._tickets = iter(range(self.requests))  # which threads may share
        self._errors.clear()
        for seen in self._seen:
            seen.clear()
        self._begin.wait()
        try:
            self._end.wait(PATIENCE)
        except threading.BrokenBarrierError:
            self._closed = True  # its threads cannot be ended
            answered = sum(len(seen) for seen in self._seen)
            raise TimeoutError(
                f"{answered} of {self.requests} requests were answered within {PATIENCE:g} s: "
                "a thread waits for ever, or a burst has too many requests for this machine"
            ) from None
        if self._errors:
            raise self._errors[0]
        spans = np.array([span for seen in self._seen for span in seen])
        self.bursts.append(
            Burst(
                float(spans[:, 1].max() - spans[:, 0].min()),
                [float(end - begin) for begin, end in spans],
            )
        )

    def _work(self, call: Callable[[], object], seen: list[tuple[float, float]]) -> None:
        while True:
            self._begin.wait()
            if self._closed:
                return
            try:
                while next(self._tickets, None) is not None:
                    begin = time.perf_counter()
                    call()
                    seen.append((begin, time.perf_counter()))
            except BaseException as error:  # it is the caller's
                self._tickets = iter(())
                self._errors.append(error)
            try:
                self._end.wait()
            except threading.BrokenBarrierError:
                return  # nobody waits for this burst any more

    def close(self) -> None:
        """End the threads."""
        if not self._closed:
            self._closed = True
            self._begin.wait()
            for thread in self._threads:
                thread.join()

    def __enter__(self) -> ClosedLoop:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


@dataclass(frozen=True, slots=True)
class Figures:
    """What bursts show of one side.

    Attributes:
        rate: Requests per second of the median burst.
        p50_ms: Median latency of all requests, milliseconds.
        p99_ms: The latency that 99 % of all requests do not exceed, milliseconds.
        requests: Requests of all bursts.
    """

    rate: float
    p50_ms: float
    p99_ms: float
    requests: int


def figures_of(bursts: Sequence[Burst]) -> Figures:
    """The figures of bursts.

    Args:
        bursts: At least one.
    """
    rates = [len(burst.latencies) / burst.seconds for burst in bursts]
    latencies = [latency for burst in bursts for latency in burst.latencies]
    return Figures(
        float(np.median(rates)),
        percentile(latencies, 50) * 1e3,
        percentile(latencies, 99) * 1e3,
        len(latencies),
    )


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest of the values that so many per cent of them do not exceed."""
    return float(np.percentile(values, percent, method="inverted_cdf"))


@dataclass(frozen=True, slots=True)
class Load:
    """What a load benchmark found at one number of threads; its benchmark keeps it as a fact.

    Attributes:
        threads: Threads.
        sides: Figures of ``"plain"``, ``"mxtrt"`` and ``"bare"``, those that there are.
        lacks: Why a side is missing, one sentence each.
    """

    threads: int
    sides: Mapping[str, Figures]
    lacks: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """What :meth:`of` reads."""
        return asdict(self)

    @classmethod
    def of(cls, data: Mapping[str, Any]) -> Load:
        """From what :meth:`to_dict` made of it."""
        sides = {name: Figures(**figures) for name, figures in data["sides"].items()}
        return cls(data["threads"], sides, tuple(data["lacks"]))
