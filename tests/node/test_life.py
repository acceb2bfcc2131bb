"""The engine node through faults, threads, forks and the end of the interpreter."""

from __future__ import annotations

import ctypes.util
import gc
import importlib.util
import shutil
import subprocess
import threading
from pathlib import Path

import mxnet as mx
import numpy as np
import pytest
from support.networks import assert_close, classifier, images, parameters, plain
from support.process import run

import mxtrt
from mxtrt import engines, node
from mxtrt.engines import onnxruntime as engine_module
from mxtrt.engines.shared import shared_sessions
from mxtrt.errors import EngineError, NodeError
from mxtrt.node.library import Library, library
from mxtrt.node.library import _find as find
from mxtrt.system.threads import Living

SETUP = """
    import mxtrt, mxnet as mx, sys
    net = mx.gluon.nn.HybridSequential()
    net.add(mx.gluon.nn.Conv2D(8, 3), mx.gluon.nn.BatchNorm(), mx.gluon.nn.Dense(4))
    net.initialize()
    net.hybridize()
    x = mx.nd.random.uniform(shape=(2, 3, 32, 32))
    mxtrt.enable({options})
    expected = net(x).asnumpy()
"""


@pytest.mark.parametrize(
    "engine_type", ["ThreadedEnginePerDevice", "ThreadedEngine", "NaiveEngine"]
)
@pytest.mark.parametrize("options", ["", "inline_below=0"])
def test_the_interpreter_ends_cleanly_with_live_engines(engine_type, options):
    """Exit code 0 and nothing on stderr, with a forward still under way."""
    done = run(
        SETUP.format(options=options)
        + """
    executor = mx.sym.relu(mx.sym.var("d")).simple_bind(mx.cpu(), grad_req="null", d=(4,))
    executor.forward(d=mx.nd.ones((4,)))
    keep = [net(x) for _ in range(20)]
    print("done")
    """,
        MXNET_ENGINE_TYPE=engine_type,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "done"
    assert "Error" not in done.stderr


def test_a_forked_child_runs_as_plain_mxnet():
    """Engine threads do not survive a fork: the child answers with MXNet's own operators."""
    done = run(
        SETUP.format(options="")
        + """
    import os, numpy as np
    child = os.fork()
    if child == 0:
        ours = net(x).asnumpy()
        close = np.abs(ours - expected).max() <= 1e-5 * np.abs(expected).max()
        os._exit(0 if close else 1)
    print(os.waitpid(child, 0)[1], np.abs(net(x).asnumpy() - expected).max())
    """
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[0] == "0"


def test_forked_dataloader_workers_work_beside_an_engine():
    """Gluon's DataLoader forks its workers; the parent's engine keeps answering."""
    done = run(
        SETUP.format(options="")
        + """
    data = mx.gluon.data.ArrayDataset(mx.nd.random.uniform(shape=(8, 3, 32, 32)))
    loader = mx.gluon.data.DataLoader(data, batch_size=2, num_workers=2)
    batches = [batch.as_in_context(mx.cpu()) for batch in loader]
    print(sum(net(batch).shape[0] for batch in batches), mxtrt.last_report().nodes_in_engine)
    """
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "8 3"


@pytest.mark.parametrize("inline", [0, 10**6])
def test_threads_with_executors_of_their_own(inline):
    """Eight threads, each with its executor and input, all right, all at once."""
    symbol = classifier()
    args, aux = parameters(symbol, data=(2, 3, 16, 16))
    inputs = [images(seed=seed) for seed in range(8)]
    expected = [plain(symbol, args, aux, data=x)[0] for x in inputs]
    executors = []
    with mxtrt.options(inline_below=inline):
        for x in inputs:
            executors.append(symbol.simple_bind(mx.cpu(), grad_req="null", data=x.shape))
            executors[-1].copy_params_from(args, aux)
            executors[-1].forward(data=x)[0].wait_to_read()
    failures = []

    def work(place: int) -> None:
        for _ in range(50):
            out = executors[place].forward(data=inputs[place])[0].asnumpy()
            if np.abs(out - expected[place]).max() > 1e-5:
                failures.append(place)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def test_an_engine_that_does_not_build_leaves_the_graph_to_mxnet(monkeypatch):
    """A warning with the engine's own words, once; the answer is MXNet's."""
    symbol, x = classifier(), images()
    args, aux = parameters(symbol, data=x.shape)

    def refuse(self, *args):
        raise EngineError("ONNX Runtime: no kernel for this")

    monkeypatch.setattr(engine_module.OnnxRuntime, "build", refuse)
    with mxtrt.options():
        executor = symbol.simple_bind(mx.cpu(), grad_req="null", data=x.shape)
    executor.copy_params_from(args, aux)
    with pytest.warns(mxtrt.MxtrtWarning, match="plain MXNet: ONNX Runtime: no kernel for this"):
        ours = executor.forward(data=x)[0]
    assert_close(ours, plain(symbol, args, aux, data=x)[0])
    assert "no kernel" in mxtrt.last_report().reason
    assert_close(executor.forward(data=x)[0], ours)


def test_a_missing_onnxruntime_leaves_the_graph_to_mxnet(monkeypatch):
    """One sentence that says how to install it."""
    monkeypatch.setattr(engine_module.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(EngineError, match=r"not installed; install it with: pip install 'mxtrt"):
        engine_module.shared_library()


def test_a_file_that_is_not_onnxruntime_is_refused(tmp_path):
    """Dlopen's own words, in a sentence; nothing crashes."""
    fake = tmp_path / "libonnxruntime.so.1"
    fake.write_bytes(b"not a library")
    done = run(
        f"""
    import mxtrt, mxnet
    from pathlib import Path
    from mxtrt.node import library
    try:
        library().open_onnxruntime(Path({str(fake)!r}), 1, True)
    except Exception as error:
        print(type(error).__name__, error)
    """
    )
    assert "NodeError" in done.stdout
    assert "file too short" in done.stdout or "invalid ELF" in done.stdout


def test_a_failed_open_of_onnxruntime_is_not_taken_for_open(tmp_path):
    """It is tried again, and nothing of the first time is left."""
    compiler = shutil.which("c++") or shutil.which("g++")
    if compiler is None:
        pytest.skip("the stand-in for ONNX Runtime needs a C++ compiler")
    fake = tmp_path / "libonnxruntime.so.1"
    source = Path(__file__).with_name("fake_onnxruntime.cc")
    header = Path(__file__).parents[2] / "mxtrt" / "node" / "vendor" / "onnxruntime"
    flags = ["-std=c++17", "-fPIC", "-shared", f"-I{header}"]
    subprocess.run([compiler, *flags, "-o", fake, source], check=True)
    done = run(
        f"""
    import ctypes, mxtrt, mxnet
    from pathlib import Path
    from mxtrt.node import library
    for _ in range(3):
        try:
            print(library().open_onnxruntime(Path({str(fake)!r}), 1, True), end=" ")
        except Exception as error:
            print(error, end=" ")
        print(ctypes.CDLL({str(fake)!r}).held())
    """,
        FAILURES="1",
    )
    failed = "ONNX Runtime: no room for an arena 0"
    assert done.stdout.splitlines() == [failed, "1.99.0 11", "1.99.0 11"], done.stderr


def test_a_missing_node_library_says_what_to_install(tmp_path):
    """The compiled extension is part of the wheel."""
    with pytest.raises(NodeError, match=r"is missing; install mxtrt from a wheel, or .* C\+\+17"):
        Library(tmp_path / "libmxtrt_node.so")


def test_the_node_is_found_where_an_editable_install_compiles_it_to(tmp_path, monkeypatch):
    """Such an install has the sources in one folder of the package and this in another."""
    (tmp_path / "compiled.so").touch()
    monkeypatch.setattr(node, "__path__", [*node.__path__, str(tmp_path)])
    assert find("compiled.so") == tmp_path / "compiled.so"
    assert find("library.py") == Path(node.__path__[0]) / "library.py"
    assert find("nowhere.so").parent == Path(node.__path__[0])


def test_an_error_while_running_is_raised_and_the_next_forward_works(monkeypatch):
    """A session that cannot run (here: not built) is MXNet's error with our sentence."""
    symbol, x = classifier(), images()
    args, aux = parameters(symbol, data=x.shape)
    given = {"data": x, **args}
    partitioned = symbol.optimize_for("TensorRT", given, dict(aux), mx.cpu(), take_over=False)
    node = partitioned.plan.nodes[0]
    executor = partitioned.bind(mx.cpu(), {"data": x})
    for digest in list(node.sessions.by_digest):
        node.variants.withdraw(digest)
        node.sessions.drop(digest)
    with pytest.raises(mx.MXNetError, match="the engine is not built for the shapes"):
        executor.forward()[0].wait_to_read()
    partitioned.plan.build({**args, **aux})
    fresh = partitioned.bind(mx.cpu(), {"data": x})
    assert_close(fresh.forward()[0], plain(symbol, args, aux, data=x)[0])


def test_engines_are_chosen_by_name():
    """Asked for by name, an engine is used or refused with the reason, never replaced."""
    from mxtrt.config import Options

    assert engines.select(Options(engine="onnxruntime")).name == "onnxruntime"
    assert engines.select(Options(engine="onnxruntime")).version.startswith("1.")
    if importlib.util.find_spec("tensorrt") is None:
        with pytest.raises(EngineError, match=r"TensorRT is not installed|TensorRT has no GPU"):
            engines.select(Options(engine="tensorrt"))
        assert engines.select(Options()).name == "onnxruntime"


@pytest.mark.parametrize("content", [None, "", "__version__ = '7.0'\nclass ICudaEngine: pass\n"])
def test_a_tensorrt_that_is_none_leaves_the_cpu_to_onnx_runtime(content, tmp_path):
    """A folder of that name beside the script, an empty package, and one that is too old."""
    folder = tmp_path / "tensorrt"
    folder.mkdir()
    if content is not None:
        (folder / "__init__.py").write_text(content)
    script = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r})"
        + """
from mxtrt import config
from mxtrt.engines.select import select
print(select(config.current()).name)
"""
    )
    done = run(script, MXTRT_ENGINE="auto")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "onnxruntime"


def test_a_machine_without_an_nvidia_driver_says_so():
    """One sentence in place of a missing library."""
    if ctypes.util.find_library("cuda") is not None:
        pytest.skip("this machine has an NVIDIA driver")
    with pytest.raises(NodeError, match=r"no NVIDIA driver \(libcuda.so.1\) on this machine"):
        library().cuda.device()


@pytest.mark.parametrize("used", [True, False])
def test_live_executors_keep_their_engines_beyond_the_limit(used):
    """max_engines=1 and two executors whose shapes need an engine each: both go on answering."""
    symbol = mx.sym.Pooling(
        mx.sym.relu(mx.sym.var("data")),
        kernel=(3, 3),
        stride=(2, 2),
        pool_type="avg",
        pooling_convention="full",
    )
    small, large = images(size=8), images(size=9)
    with mxtrt.options(max_engines=1, inline_below=0):
        one = symbol.simple_bind(mx.cpu(), grad_req="null", data=small.shape)
        if used:
            one.forward(data=small)
        two = one.reshape(allow_up_sizing=True, data=large.shape)
    for _ in range(3):
        assert_close(two.forward(data=large)[0], plain(symbol, {}, {}, data=large)[0])
        assert_close(one.forward(data=small)[0], plain(symbol, {}, {}, data=small)[0])
    node = one._mxtrt.symbol.plan.nodes[0]
    assert len(node.sessions.by_digest) == 2
    del two
    for size in (10, 11):
        one.reshape(allow_up_sizing=True, data=(2, 3, size, size))
    assert len(node.sessions.by_digest) <= 2


def test_bounded_engines_per_segment_keep_answering():
    """max_engines=1: shapes that need an engine of their own push each other out, never fail."""
    data = mx.sym.var("data")
    # Average pooling with the 'full' convention has padding that depends on the picture's size.
    symbol = mx.sym.Pooling(
        mx.sym.relu(data), kernel=(3, 3), stride=(2, 2), pool_type="avg", pooling_convention="full"
    )
    net = mx.gluon.SymbolBlock(symbol, data)
    net.hybridize()
    with mxtrt.options(max_engines=1):
        for size in (8, 9, 10, 8, 9, 10, 8):
            x = images(size=size)
            assert_close(net(x), plain(symbol, {}, {}, data=x)[0])


def test_the_node_loads_while_another_context_is_in_force():
    """Gluon builds its graph with the context of its input as the current one."""
    done = run("""
    import mxtrt, mxnet as mx
    from mxtrt.node import library
    with mx.gpu():  # not there: whatever is allocated on it fails
        library()
    print("ok")
    """)
    assert done.stdout.strip() == "ok", done.stderr


def test_executors_in_garbage_cycles_are_collected(monkeypatch):
    """The collector takes an executor and its arrays in any order."""
    monkeypatch.setattr("mxtrt.plan.plan._plans", Living())  # of this test alone
    symbol = classifier()
    args, aux = parameters(symbol, data=images().shape)
    for _ in range(20):
        arrays = {**args, "data": images(), "softmax_label": mx.nd.zeros((2,))}
        arrays = {name: array.copy() for name, array in arrays.items()}
        with mxtrt.options():
            executor = symbol.bind(
                mx.cpu(),
                {name: arrays[name] for name in symbol.list_arguments()},
                aux_states={name: array.copy() for name, array in aux.items()},
            )
        executor.forward()[0].wait_to_read()
        cycle = [*arrays.values(), executor]
        cycle.append(cycle)
        del executor, arrays, cycle
    gc.collect()
    shared_sessions().forget()
    assert mxtrt.memory().holdings == ()
