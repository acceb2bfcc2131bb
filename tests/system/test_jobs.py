"""Work in the background: in turn, apart from what forks and exits."""

from __future__ import annotations

import contextvars
import os
import threading

import pytest
from support.process import run

from mxtrt.system import background

PATIENCE = 60

_value: contextvars.ContextVar[str] = contextvars.ContextVar("value", default="none")


def ready(timeout: float | None = PATIENCE) -> bool:
    """Wait for all jobs."""
    return background.ready(lambda about: True, timeout)


def test_jobs_are_done_one_after_the_other():
    """In the order in which they came, on one thread, also those that come later."""
    seen, free = [], threading.Event()

    def work(name: str) -> str:
        free.wait(PATIENCE)
        seen.append((name, threading.current_thread()))
        return name

    jobs = [background.submit(lambda name=name: work(name), about=name) for name in "abc"]
    assert background.waiting() == 3
    assert not ready(timeout=0)
    assert background.ready(lambda about: about == "d", timeout=0)
    assert not background.ready(lambda about: about == "c", timeout=0)
    free.set()
    assert ready()
    assert [job.result for job in jobs] == [name for name, _ in seen] == ["a", "b", "c"]
    assert background.waiting() == 0
    background.submit(lambda: work("d"))
    assert ready()
    assert len({thread for _, thread in seen}) == 1


def test_what_a_job_raises_is_kept_and_the_next_one_is_done():
    """Nothing is printed, and nobody else sees it."""

    def fail() -> None:
        raise SystemExit(3)

    failing, other = background.submit(fail), background.submit(lambda: 2)
    wrong = background.submit(lambda: 1 / 0)
    assert ready()
    assert str(failing.error) == "SystemExit: 3"
    assert isinstance(wrong.error, ZeroDivisionError)
    assert wrong.error.__traceback__ is None
    assert (other.result, other.error) == (2, None)


def test_a_job_sees_the_context_of_who_asked_for_it():
    """Options in a ``with`` block are in it."""
    token = _value.set("mine")
    job = background.submit(_value.get)
    _value.reset(token)
    assert ready()
    assert job.result == "mine"


def test_a_thread_of_low_priority_does_what_may_take_long():
    """In jobs only, and nobody else's priority changes; what it raises is raised."""
    mine = os.getpriority(os.PRIO_PROCESS, 0)

    def priority() -> int:
        return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())

    def work() -> tuple[int, int]:
        return background.at_low_priority(priority), priority()

    def fail() -> None:
        background.at_low_priority(lambda: 1 / 0)

    job, failing = background.submit(work), background.submit(fail)
    threads = [
        background.submit(lambda: background.at_low_priority(threading.get_native_id))
        for _ in range(2)
    ]
    assert ready()
    assert threads[0].result == threads[1].result
    low, usual = job.result
    assert low == min(usual + 10, 19)
    assert usual == mine == background.at_low_priority(priority)
    assert isinstance(failing.error, ZeroDivisionError)


def test_without_a_thread_nothing_is_done_and_nothing_is_raised(monkeypatch):
    """The next job is tried again."""

    def refuse(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(background, "_jobs", background._Jobs())  # as in a process without jobs
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        job = background.submit(lambda: 1)
    assert job.done
    assert str(job.error) == "can't start new thread"
    assert ready()
    other = background.submit(lambda: 2)
    assert ready()
    assert other.result == 2


@pytest.mark.parametrize("where", ["here", "elsewhere"])
def test_a_fork_waits_for_a_job_unless_it_waits_for_another_process(where):
    """The child has no jobs, and does its own."""
    begun, free, order = threading.Event(), threading.Event(), []

    def work() -> None:
        if where == "here":
            begun.set()
            threading.Timer(0.2, free.set).start()
            free.wait(PATIENCE)
        else:
            with background.elsewhere(lambda: None):
                begun.set()
                free.wait(PATIENCE)
        order.append("job")

    background.submit(work)
    later = background.submit(lambda: order.append("later"))
    begun.wait(PATIENCE)
    child = os.fork()
    if not child:
        done = later.done and ready(timeout=0)
        job = background.submit(lambda: 5)
        os._exit(0 if done and ready() and job.result == 5 else 1)
    order.append("fork")
    free.set()
    _, status = os.waitpid(child, 0)
    assert ready()
    assert status == 0
    assert order.index("fork") == (where == "here")
    assert later.done
    assert later.error is None


def test_an_exit_ends_what_a_job_waits_for_and_drops_the_others():
    """At once, though the other process would go on for minutes."""
    done = run(
        """
        import subprocess, sys, threading
        from mxtrt.system import background

        begun = threading.Event()
        sleeper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])

        def work():
            with background.elsewhere(sleeper.kill):
                begun.set()
                sleeper.wait()
            print("ended", sleeper.returncode)

        background.submit(work)
        background.submit(lambda: print("never"))
        begun.wait()
        """
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "ended -9\n", "")
