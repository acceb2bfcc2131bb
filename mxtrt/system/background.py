"""Work that no request waits for: one job after another, on a thread of its own.

One at a time: what builds takes a core, or a GPU, from the requests that are being answered.  The
thread stays where it has nothing to do: MXNet keeps memory for every thread that ever called it.  A
fork waits for the job under way, for a moment; the child has no jobs.  The exit of Python drops the
jobs that wait, ends the processes that the one under way waits for, and then waits for it, so that
no thread is cut off in the middle of another library.
"""

from __future__ import annotations

import atexit
import contextlib
import contextvars
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Any, TypeVar

from mxtrt.system.threads import lock, once

__all__ = ["Job", "at_low_priority", "breathe", "elsewhere", "in_job", "ready", "submit", "waiting"]

_T = TypeVar("_T")

# Seconds that an exit and a fork wait for the job under way.
_EXIT_PATIENCE, _FORK_PATIENCE = 20.0, 5.0

# How much less of a busy core a build gets than a request: nice(2).
_NICENESS = 10

# After so many seconds of work a job lets other threads have the interpreter, which would keep them
# waiting for 5 ms at each of their calls.  Where all cores are busy it also takes time from those
# who compute: it pauses so many times as long as it worked, less where somebody waits for it.
_BREATH, _PAUSE, _SHORT_PAUSE = 0.0005, 3.0, 0.2


class Job:
    """Something that is done in the background.

    Args:
        work: What is done.
        about: What it is done for; who waits for this waits for the job.

    Attributes:
        about: What it is done for.
        done: Whether it has ended.
        result: What the work returned.
        error: What it raised, None if it did not.
    """

    def __init__(self, work: Callable[[], Any], about: object) -> None:
        self.about = about
        self.done = False
        self.result: Any = None
        self.error: Exception | None = None
        self._work: Callable[[], Any] | None = work
        self._context = contextvars.copy_context()

    def run(self) -> None:
        """Do it."""
        assert self._work is not None
        try:
            self.result = self._context.run(self._work)
        except Exception as error:
            self.error = error.with_traceback(None)  # which would keep alive all that it saw
        except BaseException as error:
            self.error = RuntimeError(f"{type(error).__name__}: {error}")
        self.end()

    def end(self, error: Exception | None = None) -> None:
        """Take note that it has ended, or was not begun."""
        self.error = self.error or error
        self._work = None
        self.about = None
        self.done = True


class _Jobs:
    """The jobs of this process."""

    def __init__(self) -> None:
        self.changed = threading.Condition(lock())
        self.waiting: deque[Job] = deque()
        self.running: Job | None = None
        self.thread: threading.Thread | None = None
        self.stopping = False
        self.waiters = 0  # threads that wait for jobs
        self._low_priority: SimpleQueue[tuple[Callable[[], Any], Future[Any]]] | None = None
        #: Held while a job is at work in this process; who waits for it holds the other one, so
        #: that a fork comes before the next job.
        self.here, self.next = threading.Lock(), threading.Lock()
        #: End what the job under way waits for.
        self.ends: list[Callable[[], None]] = []

    def submit(self, job: Job) -> None:
        """Have a job done when those before it are."""
        with self.changed:
            if self.stopping:
                job.end(RuntimeError("the process is about to exit"))
                return
            self.waiting.append(job)
            self.changed.notify_all()
            if self.thread is None:
                self.thread = threading.Thread(target=self._work, name="mxtrt", daemon=True)
                try:
                    self.thread.start()
                except RuntimeError as error:  # the system gives no thread
                    self.thread = None
                    self.waiting.pop()
                    job.end(error)

    def _work(self) -> None:
        while (job := self._next()) is not None:
            _here.job, _here.worked = job, time.thread_time()
            with self.next:
                self.here.acquire()
            try:
                job.run()
            finally:
                self.here.release()
            del _here.job, job

    def _next(self) -> Job | None:
        with self.changed:
            self.running = None
            self.changed.notify_all()
            self.changed.wait_for(lambda: self.waiting or self.stopping)
            self.running = self.waiting.popleft() if self.waiting else None
            return self.running

    def at_low_priority(self, work: Callable[[], _T]) -> _T:
        """Do something on a thread of low priority, and wait for it."""
        if (queue := self._low_priority) is None:
            queue = SimpleQueue()
            threading.Thread(
                target=_work_at_low_priority, args=(queue,), name="mxtrt build", daemon=True
            ).start()
            self._low_priority = queue
        outcome: Future[_T] = Future()
        queue.put((work, outcome))
        return outcome.result()

    def all(self) -> list[Job]:
        """Those that wait, and the one under way."""
        running = self.running  # read once: others ask without the lock
        return [*self.waiting, *([] if running is None else [running])]

    def under_way(self, counts: Callable[[object], bool]) -> bool:
        """Whether a job that counts is under way or waiting."""
        return any(counts(job.about) for job in self.all())

    def stop(self) -> None:
        """Do nothing more."""
        with self.changed:
            self.stopping = True
            self.waiters += 1
            while self.waiting:
                self.waiting.pop().end(RuntimeError("the process is about to exit"))
            self.changed.notify_all()
            thread = self.thread
            for end in self.ends:
                end()
        if thread is not None:
            thread.join(_EXIT_PATIENCE)


_here = threading.local()
_jobs = _Jobs()


@once
def _stop_at_exit() -> None:
    # Registered at the first job: what is registered later is called earlier.
    atexit.register(lambda: _jobs.stop())


def _work_at_low_priority(queue: SimpleQueue[tuple[Callable[[], Any], Future[Any]]]) -> None:
    with contextlib.suppress(OSError, AttributeError):
        thread = threading.get_native_id()
        nice = os.getpriority(os.PRIO_PROCESS, thread) + _NICENESS
        os.setpriority(os.PRIO_PROCESS, thread, nice)
    while True:
        work, outcome = queue.get()
        try:
            outcome.set_result(work())
        except BaseException as error:
            outcome.set_exception(error)
        del work, outcome


def submit(work: Callable[[], Any], about: object = None) -> Job:
    """Have something done in the background.

    Args:
        work: What is done.
        about: What it is done for.
    """
    _stop_at_exit()
    job = Job(work, about)
    _jobs.submit(job)
    return job


def waiting() -> int:
    """How many jobs that are done for something are under way or wait for their turn."""
    return sum(job.about is not None for job in _jobs.all())


def ready(counts: Callable[[object], bool], timeout: float | None = None) -> bool:
    """Wait until no job is under way or waiting.

    Args:
        counts: Whether a job counts, by what it is done for.
        timeout: Most seconds to wait.

    Returns:
        Whether that is so.
    """
    with _jobs.changed:
        _jobs.waiters += 1
        try:
            return _jobs.changed.wait_for(lambda: not _jobs.under_way(counts), timeout)
        finally:
            _jobs.waiters -= 1


def in_job() -> bool:
    """Whether this thread is doing a job."""
    return getattr(_here, "job", None) is not None


def breathe() -> None:
    """In a job, let other threads have the interpreter; called every now and then."""
    if in_job() and (worked := time.thread_time() - _here.worked) > _BREATH:
        time.sleep(worked * (_SHORT_PAUSE if _jobs.waiters else _PAUSE))
        _here.worked = time.thread_time()


def at_low_priority(work: Callable[[], _T]) -> _T:
    """Do a part of a job that leaves the interpreter to others on a thread of low priority.

    A thread that has given its priority up does not get it back, nor do those that it starts.
    Outside of jobs it is done here.

    Args:
        work: The part.
    """
    return _jobs.at_low_priority(work) if in_job() else work()


@contextlib.contextmanager
def elsewhere(end: Callable[[], None]) -> Iterator[None]:
    """A block in which a job waits for another process: a fork need not wait, and an exit ends it.

    Args:
        end: Ends the other process; other threads call it.
    """
    if not in_job():
        yield
        return
    with _jobs.changed:
        if _jobs.stopping:
            end()
        _jobs.ends.append(end)
    _jobs.here.release()
    try:
        yield
    finally:
        _jobs.here.acquire()
        with _jobs.changed:
            _jobs.ends.remove(end)


class _Fork:
    waited = False


def _before_fork() -> None:
    if not in_job():
        _jobs.next.acquire()
        _Fork.waited = _jobs.here.acquire(timeout=_FORK_PATIENCE)


def _after_in_parent() -> None:
    if not in_job():
        if _Fork.waited:
            _jobs.here.release()
        _jobs.next.release()


def _after_in_child() -> None:
    global _jobs
    for job in _jobs.all():
        job.end(RuntimeError("the process was forked"))
    _jobs = _Jobs()


os.register_at_fork(
    before=_before_fork, after_in_parent=_after_in_parent, after_in_child=_after_in_child
)
