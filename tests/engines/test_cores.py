"""How many threads the CPU engine takes, and whether they spin."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mxtrt.engines import cores

V2 = "31 23 0:28 / /sys/fs/cgroup rw,relatime - cgroup2 cgroup rw,nsdelegate\n"
V1 = "32 31 0:29 {root} /sys/fs/cgroup/cpu,cpuacct rw shared:9 - cgroup cgroup rw,cpu,cpuacct\n"


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """A machine of eight processors, of which the process may use all, without control groups."""
    may_use(monkeypatch, range(8))
    return tmp_path


def may_use(monkeypatch: pytest.MonkeyPatch, processors: range | set[int]) -> None:
    """Have the process's affinity be these processors."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(processors))


def write(root: Path, files: dict[str, str]) -> None:
    """Files below a folder."""
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def test_one_thread_for_each_processor_of_the_affinity(monkeypatch, machine):
    """Those of the process and not the machine's: taskset, docker --cpuset-cpus."""
    assert cores.threads({}, machine) == 8
    may_use(monkeypatch, {3, 5})
    assert cores.threads({}, machine) == 2


def test_a_forked_process_has_one_thread_as_mxnet_has(monkeypatch, machine):
    """A master forks a worker for every core; one that was not forked has them all."""
    assert (cores.threads({}, machine), cores.spins({}, machine)) == (8, True)
    monkeypatch.setattr(cores, "in_forked_process", lambda: True)
    assert (cores.threads({}, machine), cores.spins({}, machine)) == (1, False)


def test_two_threads_of_a_core_count_as_one(monkeypatch, machine):
    """Processors n and n + 4 are a core."""
    for one in range(8):
        siblings = f"{one % 4},{one % 4 + 4}\n"
        topology = f"sys/devices/system/cpu/cpu{one}/topology/thread_siblings_list"
        write(machine, {topology: siblings})
    assert cores.threads({}, machine) == 4
    may_use(monkeypatch, {1, 5})
    assert cores.threads({}, machine) == 1


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"OMP_NUM_THREADS": "1"}, 1),
        ({"OMP_NUM_THREADS": "3"}, 3),
        ({"OMP_NUM_THREADS": " 4,2 "}, 4),
        ({"OMP_NUM_THREADS": "64"}, 8),
        ({"OMP_NUM_THREADS": "6", "OMP_THREAD_LIMIT": "5"}, 5),
        ({"OMP_NUM_THREADS": "6", "MXNET_OMP_MAX_THREADS": "2"}, 2),
        ({"OMP_NUM_THREADS": "0"}, 8),
        ({"OMP_NUM_THREADS": "-3"}, 8),
        ({"OMP_NUM_THREADS": ""}, 8),
        ({"OMP_NUM_THREADS": "many"}, 8),
        ({"OMP_NUM_THREADS": "²"}, 8),
        ({"OMP_NUM_THREADS": ",4"}, 8),
    ],
)
def test_the_environment_of_openmp_is_heeded(machine, environment, expected):
    """Never more than there are; what OpenMP ignores counts for nothing."""
    assert cores.threads(environment, machine) == expected


@pytest.mark.parametrize(
    ("limit", "expected"),
    [
        ("200000 100000", 2),
        ("250000 100000", 3),
        ("10000 100000", 1),
        ("max 100000", 8),
        ("9900000 100000", 8),
        ("", 8),
        ("nonsense", 8),
        ("100 0", 8),
    ],
)
@pytest.mark.parametrize("group", ["/", "/kubepods/pod7/box", "/kubepods"])
def test_a_quota_of_cgroup_v2_is_heeded(machine, group, limit, expected):
    """The process's group or any above it, rounded up."""
    write(
        machine,
        {
            "proc/self/cgroup": f"0::{group}\n",
            "proc/self/mountinfo": V2,
            "sys/fs/cgroup/cpu.max": "max 100000\n",
            "sys/fs/cgroup/kubepods/pod7/box/cpu.max": "max 100000\n",
            f"sys/fs/cgroup{'/kubepods' if group != '/' else ''}/cpu.max": f"{limit}\n",
        },
    )
    assert cores.threads({}, machine) == expected


@pytest.mark.parametrize(
    ("quota", "period", "expected"),
    [("150000", "100000", 2), ("-1", "100000", 8), ("50000", "100000", 1), ("400000", "", 8)],
)
@pytest.mark.parametrize(("root", "folder"), [("/", "/docker/7f"), ("/docker/7f", ""), ("/x", "")])
def test_a_quota_of_cgroup_v1_is_heeded(machine, root, folder, quota, period, expected):
    """On a host, and in a container, whose path is the host's and whose files are at the top."""
    path = f"sys/fs/cgroup/cpu,cpuacct{folder}"
    write(
        machine,
        {
            "proc/self/cgroup": "9:memory:/docker/7f\n4:cpu,cpuacct:/docker/7f\n0::/docker/7f\n",
            "proc/self/mountinfo": V1.format(root=root),
            f"{path}/cpu.cfs_quota_us": f"{quota}\n",
            f"{path}/cpu.cfs_period_us": f"{period}\n",
        },
    )
    assert cores.threads({}, machine) == expected


@pytest.mark.parametrize(
    ("processors", "environment", "expected"),
    [
        (8, {}, True),
        (3, {}, False),
        (2, {}, False),
        (2, {"OMP_NUM_THREADS": "2"}, True),
        (8, {"OMP_NUM_THREADS": "1"}, False),
        (8, {"MXNET_OMP_MAX_THREADS": "1"}, False),
        (8, {"OMP_WAIT_POLICY": "PASSIVE"}, False),
        (8, {"OMP_WAIT_POLICY": "active"}, True),
        (8, {"GOMP_SPINCOUNT": "0"}, False),
    ],
)
def test_threads_spin_where_plain_mxnet_s_would(
    monkeypatch, machine, processors, environment, expected
):
    """MXNet takes half of the processors, and spins where there are threads beside the caller's."""
    may_use(monkeypatch, range(processors))
    assert cores.spins(environment, machine) == expected


def test_nothing_spins_under_a_quota(machine):
    """It would use up what the next request needs."""
    files = {"proc/self/cgroup": "0::/\n", "proc/self/mountinfo": V2}
    write(machine, {**files, "sys/fs/cgroup/cpu.max": "350000 100000\n"})
    assert not cores.spins({}, machine)


COUNT = """
import os, mxnet as mx
from mxtrt.config import current
from mxtrt.engines.onnxruntime import onnxruntime
from mxtrt.node import library
library()
mx.nd.ones(4).wait_to_read()
before = len(os.listdir("/proc/self/task"))
onnxruntime(current())
print(len(os.listdir("/proc/self/task")) - before)
"""


def new_threads(**environment: str) -> int:
    """How many threads a process has more when the engine is loaded."""
    done = subprocess.run(
        [sys.executable, "-c", COUNT],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    return int(done.stdout)


def test_the_engine_has_that_many_threads():
    """The calling one is among them; the option comes before the environment."""
    alone = new_threads(OMP_NUM_THREADS="1")
    assert new_threads(OMP_NUM_THREADS="1", MXTRT_THREADS="3") == alone + 2
    assert new_threads(OMP_NUM_THREADS="64") == alone + cores.threads({}) - 1
