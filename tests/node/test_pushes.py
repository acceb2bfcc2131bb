"""Several threads that push operations to MXNet's engine at once."""

from __future__ import annotations

import shutil
import subprocess
import textwrap
from pathlib import Path

import pytest
from support.process import run

THREADS, TIMES = 4, 50_000

BEGIN = """
import ctypes, faulthandler, os, threading
faulthandler.dump_traceback_later(90, exit=True)
import mxtrt, mxnet as mx
from mxnet.base import _LIB
from mxtrt.node import library
"""


def said(script: str, **variables: str) -> str:
    """What a script prints."""
    done = run(BEGIN + textwrap.dedent(script), **variables)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture(scope="module")
def pushing(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What pushes from threads of its own, without the interpreter."""
    compiler = shutil.which("c++") or shutil.which("g++")
    if compiler is None:
        pytest.skip("pushing from threads without the interpreter needs a C++ compiler")
    made = tmp_path_factory.mktemp("pushing") / "libpushing.so"
    source = Path(__file__).with_name("pushing.cc")
    command = [compiler, "-std=c++17", "-O1", "-fPIC", "-shared", "-pthread", "-o", made, source]
    subprocess.run(command, check=True)
    return made


def test_operations_that_share_two_arrays_all_run(pushing):
    """Plain MXNet comes to a stop: each of two operations is first at one of the arrays."""
    script = f"""
        assert library().orders_pushes
        pushing = ctypes.CDLL({str(pushing)!r}).push_at_once
        arrays = [mx.nd.zeros(1), mx.nd.zeros(1)]
        handles = (ctypes.c_void_p * 2)(*[array.handle for array in arrays])
        print(pushing(_LIB.MXEnginePushSyncND, _LIB.MXNDArrayWaitAll, handles, {THREADS}, {TIMES}))
    """
    assert said(script) == str(THREADS * TIMES)


def test_what_a_thread_collected_goes_first():
    """MXNet pushes its bulk where it pushes the next operation."""
    script = f"""
        assert library().orders_pushes
        executor = (mx.sym.var("data") + 1).simple_bind(mx.cpu(), grad_req="null", data=(1,))
        executor.forward()
        with mx.engine.bulk(20):
            for _ in range({TIMES // 100}):
                more = executor.outputs[0] + 1  # collected
                executor.forward()
        print(more.asscalar())
    """
    assert said(script) == "2.0"


@pytest.mark.parametrize("engine", ["NaiveEngine", "ThreadedEngine"])
def test_another_engine_than_the_usual_one_is_left_as_it_is(engine):
    """Few have one; the naive one runs an operation where it is pushed."""
    script = """
        assert not library().orders_pushes
        print((mx.nd.ones(1) + 1).asscalar())
    """
    assert said(script, MXNET_ENGINE_TYPE=engine) == "2.0"


def test_engines_of_models_of_their_own_run_in_many_threads():
    """What every two engine nodes share: MXNet's scratch space and its generator."""
    script = """
        def bound(units):
            symbol = mx.sym.FullyConnected(mx.sym.var("data"), num_hidden=units)
            executor = symbol.simple_bind(mx.cpu(), grad_req="null", data=(1, 8))
            for array in executor.arg_dict.values():
                array[:] = 1
            executor.forward()[0].wait_to_read()
            return executor

        with mxtrt.options(enabled=True, engine="onnxruntime", allow_ops="*", inline_below=0):
            executors = [bound(units) for units in range(1, 9)]
        before = mxtrt.stats().engine_runs

        def serve(executor):
            for _ in range(500):
                assert executor.forward()[0].asnumpy()[0, 0] == 9

        threads = [threading.Thread(target=serve, args=(one,)) for one in executors]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        print(mxtrt.stats().engine_runs - before)
    """
    assert said(script) == str(8 * 500)


def test_a_child_of_a_process_whose_threads_push_pushes_too():
    """Whichever thread had the lock at the fork."""
    script = """
        library()
        ends = threading.Event()

        def push():
            array = mx.nd.zeros(1)
            while not ends.is_set():
                array += 1
            array.wait_to_read()

        threads = [threading.Thread(target=push) for _ in range(2)]
        for thread in threads:
            thread.start()
        child = os.fork()
        if not child:
            os._exit(7)
        ends.set()
        for thread in threads:
            thread.join()
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
        child = os.fork()
        if not child:
            os._exit(int((mx.nd.ones(1) + 1).asscalar()))
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    """
    assert said(script) == "2"
