"""How many threads the CPU engine takes where the user does not say, and whether they spin.

As many as plain MXNet might have here: no more than the process may use, by its affinity, its
control groups and OpenMP's environment.  All of it is read once, when the engine is loaded.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping
from math import ceil
from pathlib import Path, PurePosixPath

from mxtrt.system.threads import in_forked_process

__all__ = ["spins", "threads"]

#: What bounds MXNet's OpenMP threads, as GNU OpenMP and ``src/engine/openmp.cc`` read it.
_BOUNDS = ("OMP_NUM_THREADS", "OMP_THREAD_LIMIT", "MXNET_OMP_MAX_THREADS")


def threads(environment: Mapping[str, str] = os.environ, root: Path = Path("/")) -> int:
    """How many threads the process may use, at least one.

    Physical cores of its affinity: two threads of one core compute no faster than one.

    Args:
        environment: The environment.
        root: Where ``proc`` and ``sys`` are.
    """
    bounds = [_cores(os.sched_getaffinity(0), root), *_quotas(root), *_given(environment)]
    return max(1, min(bounds))


def single(asked: int) -> bool:
    """Whether MXNet and the engine compute with one thread each.

    Args:
        asked: Option ``threads``.
    """
    return threads() == 1 and asked < 2


def spins(environment: Mapping[str, str] = os.environ, root: Path = Path("/")) -> bool:
    """Whether the threads of plain MXNet would spin before they sleep.

    GNU OpenMP's spin unless the environment says otherwise.  MXNet has threads beside the calling
    one where OMP_NUM_THREADS says so or half of its processors are two; under a quota spinning
    would use up what the next request needs.

    Args:
        environment: The environment.
        root: Where ``proc`` and ``sys`` are.
    """
    if environment.get("OMP_WAIT_POLICY", "").strip().lower() == "passive":
        return False
    if environment.get("GOMP_SPINCOUNT", "").strip() == "0" or any(_quotas(root)):
        return False
    bounds = list(_given(environment)) or [len(os.sched_getaffinity(0)) // 2]
    return min(bounds) > 1


def _given(environment: Mapping[str, str]) -> Iterator[int]:
    """The bounds that the environment has; OpenMP ignores what is no positive number.

    MXNet itself computes with one thread in a process that was forked after it was loaded.
    """
    if in_forked_process():
        yield 1
    for name in _BOUNDS:
        # A list has a number for every level of nested parallel regions.
        outermost = environment.get(name, "").split(",")[0].strip()
        if outermost.isascii() and outermost.isdigit() and int(outermost):
            yield int(outermost)


def _cores(processors: Collection[int], root: Path) -> int:
    """Of how many physical cores these processors are."""
    return len({_siblings(processor, root) for processor in processors})


def _siblings(processor: int, root: Path) -> str:
    """What the processors of one core have in common: the list of them."""
    topology = root / f"sys/devices/system/cpu/cpu{processor}/topology/thread_siblings_list"
    return _read(topology) or str(processor)


def _quotas(root: Path) -> Iterator[int]:
    """Processors' worth of time that every control group of the process has, rounded up."""
    for folder in _groups(root):
        quota, _, period = _read(folder / "cpu.max").partition(" ")
        if not quota:
            quota = _read(folder / "cpu.cfs_quota_us")
            period = _read(folder / "cpu.cfs_period_us")
        # "max" and -1 are no limit.
        if quota.isdigit() and period.isdigit() and int(period):
            yield max(1, ceil(int(quota) / int(period)))


def _groups(root: Path) -> Iterator[Path]:
    """Folders of the process's control groups for processor time, with those above them."""
    own: dict[bool, str] = {}
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if not controllers or "cpu" in controllers.split(","):
            own[not controllers] = path
    for line in _read(root / "proc/self/mountinfo").splitlines():
        mount, _, kind = line.partition(" - ")
        _, _, _, mounted, point, *_ = mount.split()
        system, _, options = kind.split(" ", 2)
        unified = system == "cgroup2"
        if unified not in own or not (
            unified or (system == "cgroup" and "cpu" in options.split(","))
        ):
            continue
        # In a container the path may be the host's, of which the mount shows the last part only.
        inside = PurePosixPath(own[unified])
        inside = inside.relative_to(mounted) if inside.is_relative_to(mounted) else PurePosixPath()
        top = root / point.lstrip("/")
        folder = top / str(inside).lstrip("/")
        yield from (one for one in (folder, *folder.parents) if one.is_relative_to(top))


def _read(path: Path) -> str:
    """Text of a file, stripped; nothing where there is none."""
    try:
        return path.read_text().strip()
    except (OSError, ValueError):
        return ""
