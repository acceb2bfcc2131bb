"""Forked processes: the threads of engines do not survive a fork."""

from __future__ import annotations

import os

from mxtrt.node.library import library

__all__ = ["in_forked_child"]


class _Process:
    lost_threads = False


def _see_what_is_lost() -> None:
    _Process.lost_threads = library.made and library().lost_threads()


os.register_at_fork(after_in_child=_see_what_is_lost)


def in_forked_child() -> bool:
    """Whether this process was forked from one that had engines: none run here.

    A child of a process that had none yet is like any other.
    """
    return _Process.lost_threads
