"""Bare engines that C drives, for the suite ``load``, with a stand-in for NVIDIA's driver."""

from __future__ import annotations

from pathlib import Path

import pytest
from bench import driven
from support.cuda import SETUP
from support.process import run

TESTS = Path(__file__).parents[1]

LOOP = f"""
    import pathlib, sys, tempfile
    sys.path.insert(0, {str(TESTS)!r})
    from bench.driven import DrivenLoop, Recorded, compiled

    LOOP = compiled(pathlib.Path(tempfile.mkdtemp()))

    def recorded(threads, on_host=True):
        sizes = [4 * 8]
        return [Recorded(Doubler(8), sizes, sizes, 64, on_host=on_host) for _ in range(threads)]
"""


@pytest.fixture
def check_loop(driver):
    """Runs a script in a process with the stand-in driver and the loop in C."""

    def check(script: str) -> None:
        done = run(SETUP + LOOP + script, LD_LIBRARY_PATH=str(driver))
        assert done.returncode == 0, done.stderr
        assert done.stdout.strip() == "ok"

    return check


@pytest.mark.parametrize("threads", [1, 2, 16])
def test_a_burst_has_its_number_of_requests_whatever_the_threads(check_loop, threads):
    """Each is one launch, whose time is told; the engine itself ran when it was recorded."""
    check_loop(f"""
    loop = DrivenLoop(LOOP, recorded({threads}), 100)
    calls, launches = Doubler.calls, count(LAUNCHES)
    loop()
    loop()
    assert count(LAUNCHES) - launches == 200
    assert Doubler.calls == calls == 2 * {threads}
    assert [len(burst.latencies) for burst in loop.bursts] == [100, 100]
    for burst in loop.bursts:
        assert all(seconds > 0 for seconds in burst.latencies)
        assert max(burst.latencies) <= burst.seconds
    print("ok")
    """)


@pytest.mark.parametrize("late", [0, 1])
def test_a_recorded_run_copies_from_host_memory_and_back(check_loop, late):
    """Every thread has inputs of its own; what the stream does is waited for."""
    check_loop(f"""
    runs = recorded(3)
    loop = DrivenLoop(LOOP, runs, 300)
    for k, one in enumerate(runs):
        one.host[0].view(np.float32)[:] = np.arange(8) + k
        one.host[1][:] = 0
    fake.fake_set(LATE, {late})
    loop()
    seen = [one.host[1].view(np.float32).tolist() for one in runs]
    for k, values in enumerate(seen):
        # On a busy machine a thread may come to no request.
        assert values in ([2 * (i + k) for i in range(8)], [0] * 8)
    assert sum(any(values) for values in seen) >= 1
    print("ok")
    """)


def test_a_recorded_run_may_leave_its_data_on_the_gpu(check_loop):
    """Nothing is copied."""
    check_loop("""
    one = recorded(1, on_host=False)
    loop = DrivenLoop(LOOP, one, 10)
    loop()
    assert one[0].host == [] and fake.fake_copies(one[0].lane.stream) == 0
    print("ok")
    """)


def test_a_loaded_engine_has_a_context_and_memory_for_each_run(check_loop):
    """As the suite records TensorRT's engines."""
    check_loop("""
    from types import SimpleNamespace
    from bench.load import recorded as of_engine

    made = []

    def context(request):
        made.append(Doubler(8))
        return made[-1]

    tensors = [SimpleNamespace(nbytes=32)]
    loaded = SimpleNamespace(scratch=64, context=context)
    request = SimpleNamespace(inputs=tensors, outputs=tensors)
    before = count(BYTES)
    runs = [of_engine(loaded, request, on_host=True) for _ in range(3)]
    assert len({id(one) for one in made}) == 3
    assert count(BYTES) == before + 3 * (32 + 32 + 64)
    runs[1].host[0].view(np.float32)[:] = 3
    DrivenLoop(LOOP, [runs[1]], 1)()
    assert runs[1].host[1].view(np.float32).tolist() == [6] * 8
    assert runs[2].host[1].view(np.float32).tolist() != [6] * 8
    print("ok")
    """)


def test_a_failure_of_the_driver_ends_the_burst(check_loop):
    """It is told, and the burst does not count; a later one does."""
    check_loop("""
    loop = DrivenLoop(LOOP, recorded(4), 100)
    launches = count(LAUNCHES)
    fake.fake_set(IN_ERROR, 1)
    try:
        loop()
        raise AssertionError
    except RuntimeError as error:
        assert str(error) == "the loop of bare TensorRT broke off: the driver failed with 700"
    assert loop.bursts == [] and count(LAUNCHES) == launches
    fake.fake_set(IN_ERROR, 0)
    loop()
    assert count(LAUNCHES) == launches + 100
    print("ok")
    """)


def test_a_closed_loop_gives_back_what_it_had(check_loop):
    """Graphs and device memory."""
    check_loop("""
    before = count(GRAPHS), count(BYTES)
    loop = DrivenLoop(LOOP, recorded(4), 10)
    loop()
    assert (count(GRAPHS), count(BYTES)) == (before[0] + 4, before[1] + 4 * (32 + 32 + 64))
    loop.close()
    assert (count(GRAPHS), count(BYTES)) == before
    print("ok")
    """)


def test_a_machine_without_a_compiler_is_told_what_to_install(monkeypatch, tmp_path):
    """In one sentence, which the report shows."""
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(driven.MissingError, match=r"no C compiler \(cc\); install gcc$"):
        driven.compiled(tmp_path)
