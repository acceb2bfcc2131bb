"""What the threads of a process share: values that are made once, locks, and imports.

The caches of ``functools`` let two first callers make two of a value.  A lock that another thread
held when a process was forked is held for ever in the child, where that thread is not: the locks
made here are free again there.  A fork waits for what is being made or imported, of which the child
would have half.
"""

from __future__ import annotations

import functools
import itertools
import os
import threading
import weakref
from collections.abc import Callable, Hashable
from typing import Any, Generic, ParamSpec, TypeVar

__all__ = ["Living", "Once", "in_forked_process", "loading", "lock", "once", "rlock"]

_P = ParamSpec("_P")
_T = TypeVar("_T")

_locks: weakref.WeakSet[Any] = weakref.WeakSet()


def lock() -> threading.Lock:
    """A ``threading.Lock`` that is free in a forked child."""
    made = threading.Lock()
    _locks.add(made)
    return made


def rlock() -> threading.RLock:
    """A ``threading.RLock`` that is free in a forked child."""
    made = threading.RLock()
    _locks.add(made)
    return made


#: Held by who makes something once, and by who imports what imports ONNX: where two threads come
#: to a package from two sides, as itself and as one of its modules, Python sees a deadlock and has
#: one import fail.
loading = threading.RLock()


class _Process:
    forked = False


def in_forked_process() -> bool:
    """Whether this process was forked after this module was imported, as MXNet is with it."""
    return _Process.forked


def _in_child() -> None:
    _Process.forked = True
    loading.release()
    for held in list(_locks):  # nobody adds one: there is no other thread
        held._at_fork_reinit()


os.register_at_fork(
    before=loading.acquire, after_in_parent=loading.release, after_in_child=_in_child
)


class Once(Generic[_P, _T]):
    """A function that is called once for each set of arguments, whichever thread comes first.

    Others wait for it.  A call that raises is made again at the next one.

    Args:
        function: The function; its arguments are hashable.
    """

    def __init__(self, function: Callable[_P, _T]) -> None:
        self._function = function
        self._made: dict[Hashable, _T] = {}
        functools.update_wrapper(self, function)

    def __call__(self, *args: _P.args, **kwargs: _P.kwargs) -> _T:
        """What the function returned to these arguments."""
        key = args, tuple(kwargs.items())
        if key not in self._made:
            with loading:
                if key not in self._made:
                    self._made.setdefault(key, self._function(*args, **kwargs))
        return self._made[key]

    @property
    def made(self) -> bool:
        """Whether there is a value already."""
        return bool(self._made)

    def forget(self) -> None:
        """Have the next call make a new value."""
        self._made.clear()


class Living(Generic[_T]):
    """Objects that are alive, to be listed while other threads make and drop some.

    To go through a ``WeakSet`` meanwhile is an error.
    """

    def __init__(self) -> None:
        self._numbers = itertools.count()
        self._alive: weakref.WeakValueDictionary[int, _T] = weakref.WeakValueDictionary()

    def add(self, one: _T) -> None:
        """Note an object."""
        self._alive[next(self._numbers)] = one

    def all(self) -> list[_T]:
        """Those that are alive, in the order in which they were noted."""
        return [one for reference in self._alive.valuerefs() if (one := reference()) is not None]


def once(function: Callable[_P, _T]) -> Once[_P, _T]:
    """Have a function called once for each set of arguments; see :class:`Once`."""
    return Once(function)
