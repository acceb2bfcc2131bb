"""The first binds of a process, made by several threads at once, and by forked children."""

from __future__ import annotations

import json

import pytest
from support.process import run

SERVE = """
    import json, os, signal, sys, threading, warnings
    import mxtrt

    def model(mx, place):
        names = [f"{kind}{place}" for kind in ("conv", "dense")]
        data = mx.sym.Convolution(
            mx.sym.var("data"), kernel=(3, 3), num_filter=4, name=names[0]
        )
        symbol = mx.sym.FullyConnected(mx.sym.relu(data), num_hidden=3, name=names[1])
        shapes = dict(zip(symbol.list_arguments(), symbol.infer_shape(data=(1, 3, 8, 8))[0]))
        arrays = {name: mx.nd.ones(shape) * 0.1 for name, shape in shapes.items()}
        arrays["data"][:] = 1 + place
        return symbol, arrays

    def answers(mx, place, way):
        # Three answers of a model of one's own.
        symbol, arrays = model(mx, place)
        data, weights = arrays["data"], {n: a for n, a in arrays.items() if n != "data"}
        if way == "gluon":
            net = mx.gluon.SymbolBlock(symbol, mx.sym.var("data"))
            for name, parameter in net.collect_params().items():
                parameter.shape = weights[name].shape
                parameter.initialize()
                parameter.set_data(weights[name])
            net.hybridize()
            call = lambda: net(data)
        elif way == "simple_bind":
            executor = symbol.simple_bind(mx.cpu(), grad_req="null", data=data.shape)
            executor.copy_params_from(weights)
            call = lambda: executor.forward(data=data)[0]
        elif way == "optimize_for":
            part = symbol.optimize_for("TensorRT", arrays, {}, mx.cpu())
            given = {name: arrays[name] for name in part.list_arguments()}
            executor = part.bind(mx.cpu(), given, grad_req="null")
            call = lambda: executor.forward()[0]
        else:
            executor = symbol.bind(mx.cpu(), arrays, grad_req="null")
            call = lambda: executor.forward()[0]
        return [float(call().asnumpy().sum()) for _ in range(3)]

    def right(place, seen):
        conv = 27 * 0.1 * (1 + place) + 0.1
        expected = 3 * (4 * 36 * conv * 0.1 + 0.1)
        return len(seen) == 3 and all(abs(x - expected) < 1e-3 * expected for x in seen)
"""

THREADS = """
    WAYS = ["bind", "simple_bind", "gluon", "optimize_for", "bind"]
    gate, results, told = threading.Barrier(len(WAYS) + 1), {{}}, []
    {before}

    def serve(place, way):
        gate.wait()
        try:
            import mxnet as mx
            results[place] = right(place, answers(mx, place, way))
        except BaseException as error:
            results[place] = repr(error)

    def watch():
        gate.wait()
        try:
            while len(results) < len(WAYS):
                mxtrt.memory(), mxtrt.stats(), mxtrt.last_report()
        except BaseException as error:
            told.append(repr(error))

    threads = [threading.Thread(target=serve, args=one) for one in enumerate(WAYS)]
    threads.append(threading.Thread(target=watch))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    import mxnet as mx
    runs = mxtrt.stats().engine_runs
    later = right(9, answers(mx, 9, "bind"))
    print(json.dumps({{
        "threads": [results[place] for place in range(len(WAYS))],
        "told": told,
        "runs": runs,
        "later": [later, mxtrt.stats().engine_runs - runs],
        "refusals": mxtrt.stats().refusals,
    }}))
"""


@pytest.mark.parametrize("before", ["import mxnet", "pass"])
def test_threads_that_bind_first_at_once_all_get_engines(before):
    """In every way to bind, beside a thread that watches; later binds get engines too.

    Nothing is loaded before; where even MXNet is not, all of them import it.
    """
    done = run(SERVE + THREADS.format(before=before), USE_TENSORRT="1")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == {
        "threads": [True] * 5,
        "told": [],
        "runs": 15,
        "later": [True, 3],
        "refusals": 0,
    }


FORK = """
    {before}

    def child(way):
        signal.alarm(60)
        import mxnet as mx
        before = mxtrt.stats().engine_runs
        ok = right(1, answers(mx, 1, way))
        print(ok, mxtrt.stats().engine_runs - before, flush=True)
        return 0 if ok else 1

    for way in ("bind", "gluon"):
        pid = os.fork()
        if pid == 0:
            code = 9
            try:
                code = child(way)
            finally:
                os._exit(code)
        assert os.waitpid(pid, 0)[1] == 0
    if {also}:
        child("bind")
"""


LOADED = """import mxnet
    from mxtrt.node import library
    mxtrt.disable()
    assert right(0, answers(mxnet, 0, "bind"))
    mxtrt.enable()
    library()
    mxtrt.memory(), mxtrt.stats()
"""


@pytest.mark.parametrize("before", ["import mxnet", LOADED], ids=["imported", "loaded"])
def test_children_of_a_process_that_has_no_engine_get_engines(before):
    """A master imports MXNet and forks workers, which load their models; it may bind later."""
    done = run(SERVE + FORK.format(before=before, also=True), USE_TENSORRT="1")
    assert done.stdout.split() == ["True", "3"] * 3, done.stderr


def test_children_of_a_process_that_has_engines_answer_by_mxnet():
    """They answer, say why, and end, whoever held a lock when they were forked."""
    before = """
    import mxnet as mx
    from mxtrt.system import threads
    net = mx.gluon.nn.Dense(3, in_units=4)
    net.initialize(mx.init.One())
    net.hybridize()
    x = mx.nd.ones((1, 4))
    assert net(x).asnumpy().tolist() == [[4, 4, 4]]
    symbol, arrays = model(mx, 1)
    executor = symbol.bind(mx.cpu(), arrays, grad_req="null")
    executor.forward()[0].wait_to_read()
    assert mxtrt.stats().engine_runs == 2
    held, stop = threading.Event(), threading.Event()

    def hold():
        for one in list(threads._locks):
            one.acquire()
        held.set()
        stop.wait()

    holder = threading.Thread(target=hold, daemon=True)
    holder.start()
    held.wait()

    def inherited():
        for _ in range(2):
            assert net(x).asnumpy().tolist() == [[4, 4, 4]]
            assert right(1, [float(executor.forward()[0].asnumpy().sum())] * 3)
        mxtrt.memory()
    """
    code = SERVE + FORK.format(before=before, also=False).replace(
        "before = mxtrt", "inherited(); before = mxtrt"
    )
    done = run(code, USE_TENSORRT="1")
    assert done.stdout.split() == ["True", "0"] * 2, done.stderr
    assert "forked from one that had engines" in done.stderr
