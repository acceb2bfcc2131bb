"""What threads share: values made once, locks, lists of what is alive."""

from __future__ import annotations

import gc
import sys
import threading
import time
from collections.abc import Callable, Iterator

import pytest
from support.process import run

from mxtrt.system.threads import Living, once


def at_once(body: Callable[[int], None], threads: int = 8) -> None:
    """Run a body in several threads that begin together."""
    gate = threading.Barrier(threads)

    def work(place: int) -> None:
        gate.wait()
        body(place)

    workers = [threading.Thread(target=work, args=(place,)) for place in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()


@pytest.fixture
def switching() -> Iterator[None]:
    """Threads take turns as often as they can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


def test_threads_that_ask_at_once_get_one_value():
    """Who comes while it is made waits for it."""
    made: list[object] = []

    @once
    def value() -> object:
        time.sleep(0.05)
        made.append(object())
        return made[-1]

    seen: list[object] = []
    assert not value.made
    at_once(lambda _: seen.append(value()))
    assert value.made
    assert len(made) == 1
    assert seen == made * 8
    value.forget()
    assert value() is made[1]


def test_each_set_of_arguments_has_a_value_and_no_error_is_kept():
    """What failed is tried again."""
    calls: list[str] = []

    @once
    def value(name: str) -> str:
        calls.append(name)
        if len(calls) == 1:
            raise KeyError(name)
        return name * 2

    with pytest.raises(KeyError):
        value("a")
    assert not value.made
    assert [value("a"), value("b"), value("a")] == ["aa", "bb", "aa"]
    assert calls == ["a", "a", "b"]


def test_what_asks_for_itself_while_it_is_made_is_one_value():
    """A finalizer may run meanwhile, on the same thread."""
    depth: list[int] = []

    @once
    def value() -> object:
        depth.append(1)
        return value() if len(depth) < 3 else object()

    assert value() is value()


def test_what_is_alive_is_listed_while_threads_make_and_drop(switching):
    """No error, nothing that is alive is missed, nothing that is dead is kept."""

    class Thing:
        pass

    living: Living[Thing] = Living()
    kept = [Thing() for _ in range(50)]
    for thing in kept:
        living.add(thing)
    ours = set(map(id, kept))
    missed: list[int] = []

    def body(place: int) -> None:
        for _ in range(300):
            if place:
                living.add(Thing())
            else:
                missed.append(len(ours - {id(thing) for thing in living.all()}))

    at_once(body, 4)
    assert set(missed) == {0}
    gc.collect()
    assert living.all() == kept


@pytest.mark.parametrize("make", ["lock", "rlock"])
def test_a_lock_that_another_thread_holds_at_a_fork_is_free_in_the_child(make):
    """That thread is not there to release it."""
    done = run(
        f"""
        import os, threading
        from mxtrt.system.threads import {make}
        held, stop, ours = threading.Event(), threading.Event(), {make}()

        def hold():
            with ours:
                held.set()
                stop.wait()

        thread = threading.Thread(target=hold)
        thread.start()
        held.wait()
        child = os.fork()
        if child == 0:
            os._exit(0 if ours.acquire(timeout=10) else 1)
        stop.set()
        print(os.waitpid(child, 0)[1])
        """
    )
    assert done.stdout.strip() == "0", done.stderr


def test_a_fork_waits_for_what_another_thread_makes_or_imports(tmp_path):
    """The child has the whole of it, and no module that is imported by a thread that is gone."""
    (tmp_path / "slow_module.py").write_text("import time\ntime.sleep(0.3)\nready = True\n")
    done = run(
        f"""
        import os, sys, threading, time
        sys.path.insert(0, {str(tmp_path)!r})
        from mxtrt.system.threads import loading, once
        begun = threading.Event()

        @once
        def value():
            begun.set()
            import slow_module
            return slow_module.ready

        thread = threading.Thread(target=value)
        thread.start()
        begun.wait()
        child = os.fork()
        if child == 0:
            os._exit(0 if value.made and value() else 1)
        print(os.waitpid(child, 0)[1])
        """
    )
    assert done.stdout.strip() == "0", done.stderr
