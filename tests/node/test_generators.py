"""The random generators that MXNet hands to operators of extensions, here the CPU's."""

from __future__ import annotations

import mxnet as mx
import pytest
from support.process import run

from mxtrt.errors import NodeError
from mxtrt.node import library

CPU = (mx.cpu().device_typeid, 0)


def settle() -> None:
    """What a bind on a GPU does, with the CPU's generators."""
    lib = library()
    lib.checked(lib.lib.mxtrt_settle_generators_of(*CPU))


def spoil() -> None:
    """What a seed does first where seeding is known to fail."""
    lib = library()
    lib.checked(lib.lib.mxtrt_spoil_generators_of(*CPU))


def numbers() -> list[float]:
    """The next random numbers."""
    drawn: list[float] = mx.nd.random.uniform(shape=(4,)).asnumpy().tolist()
    return drawn


def test_generators_in_order_are_left_as_they_are():
    """The numbers that follow a seed are the same; nothing is recorded for autograd."""
    mx.random.seed(3)
    expected = numbers()
    mx.random.seed(3)
    with mx.autograd.record():
        settle()
        assert mx.autograd.is_recording()
    assert numbers() == expected


def test_a_failure_of_somebody_elses_is_told():
    """MXNet tells a failure once: it is not lost here."""
    failing = mx.nd.random.exponential(-1.0, shape=(3,))
    with pytest.raises(NodeError, match="has to be positive"):
        settle()
    settle()
    del failing


def test_spoiled_generators_are_not_seeded_and_fail_nobody():
    """The numbers go on as if there had been no seed."""
    mx.random.seed(3)
    expected = numbers() + numbers()
    mx.random.seed(3)
    seen = numbers()
    spoil()
    mx.random.seed(3)
    settle()
    mx.nd.waitall()
    assert seen + numbers() == expected


def test_what_was_collected_for_one_operation_is_left_alone():
    """A failure of the generators is none of what the caller had MXNet do in one go."""
    with mx.engine.bulk(100):
        mine = mx.nd.ones(3) + 1
        spoil()
        settle()
        assert mx.engine.set_bulk_size(100) == 100
        other = mine * 2
    assert other.asnumpy().tolist() == [4, 4, 4]


def test_several_generators_are_seeded_in_one_operation(tmp_path):
    """Two operations that fail at once crash MXNet now and then: it lists failures unlocked."""
    done = run(
        f"""
import threading
import mxnet as mx
from mxtrt.node import library

mx.profiler.set_config(profile_imperative=True, filename={str(tmp_path / "profile.json")!r})
lib = library()
mx.profiler.set_state("run")

def settle():
    lib.checked(lib.lib.mxtrt_settle_generators_of(1, 0))

thread = threading.Thread(target=settle)  # MXNet has generators for every thread
thread.start()
thread.join()
mx.nd.waitall()
mx.profiler.set_state("stop")
mx.profiler.dump()
""",
        MXNET_CPU_PARALLEL_RAND_COPY="4",
    )
    assert done.returncode == 0, done.stderr
    seen = (tmp_path / "profile.json").read_text()
    assert "ImperativeBulk" in seen
    assert "ResourceParallelRandomSetSeed" not in seen


def test_two_threads_seed_spoiled_generators_at_once():
    """Nothing is left of the failures, and no thread waits for ever."""
    done = run(
        """
import threading
import mxnet as mx
from mxtrt.node import library

lib = library()

def work():
    for _ in range(50):
        lib.checked(lib.lib.mxtrt_spoil_generators_of(1, 0))
        lib.checked(lib.lib.mxtrt_settle_generators_of(1, 0))
        mx.nd.random.uniform(shape=(2,)).wait_to_read()

threads = [threading.Thread(target=work) for _ in range(2)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
mx.nd.waitall()
print("all done")
""",
        MXNET_CPU_PARALLEL_RAND_COPY="4",
        MXNET_CPU_WORKER_NTHREADS="1",
    )
    assert done.returncode == 0, done.stderr
    assert "all done" in done.stdout
