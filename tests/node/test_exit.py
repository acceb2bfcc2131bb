"""The end of a process with live executors, and processes that it starts."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time

import pytest
from support.process import ROOT, run

PATH = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])

SETUP = """
    import os, signal, sys, threading, time

    def interrupt(number, frame):
        # Python drops what is raised in a __del__, such as that of MXNet's arrays: once more.
        while frame is not None:
            if frame.f_code.co_name == "__del__":
                threading.Timer(0.01, os.kill, (os.getpid(), number)).start()
                return
            frame = frame.f_back
        raise KeyboardInterrupt

    signal.signal(signal.SIGINT, interrupt)  # a job in the background ignores it
    import mxtrt, mxnet as mx, numpy as np

    def network():
        net = mx.gluon.nn.HybridSequential()
        net.add(mx.gluon.nn.Conv2D(8, 3), mx.gluon.nn.BatchNorm(), mx.gluon.nn.Dense(40))
        net.initialize()
        net.hybridize()
        return net

    net, x = network(), mx.nd.random.uniform(shape=(2, 3, 64, 64))
    expected = net(x).asnumpy()
    net.hybridize()
    mxtrt.enable(inline_below={inline})

    def right():
        return np.abs(net(x).asnumpy() - expected).max() <= 1e-5 * np.abs(expected).max()

    symbol = mx.sym.FullyConnected(mx.sym.var("data"), num_hidden=300, name="d")
    executor = symbol.simple_bind(mx.cpu(), grad_req="null", data=(2, 400))
    executor.forward()
    assert right() and mxtrt.last_report().nodes_in_engine
"""


def lines_of(text: str) -> list[str]:
    """What a process said, without MXNet's own lines on its engine and subgraph backend."""
    return [line for line in text.splitlines() if "../src/e" not in line]


def assert_clean(done: subprocess.CompletedProcess[str], said: str) -> None:
    """Exit code 0, the expected output, nothing on stderr."""
    assert (done.returncode, lines_of(done.stderr)) == (0, []), done.stderr
    assert done.stdout.split() == said.split()


@pytest.mark.parametrize(
    ("inline", "end"), [(10**6, "sys.exit(0)"), (0, "pass"), (0, "os._exit(0)")]
)
def test_a_forked_child_and_its_parent_end_cleanly(inline, end):
    """The child inherits live executors, binds more, and ends by itself, in any way."""
    done = run(
        textwrap.dedent(SETUP.format(inline=inline))
        + textwrap.dedent(
            f"""
            child = os.fork()
            if child == 0:
                other = network()
                ok = right() and np.isfinite(other(x).asnumpy()).all()
                print("child", ok, flush=True)
                {end}
            else:
                print(os.waitpid(child, 0)[1], right(), flush=True)
            """
        ),
    )
    assert (done.returncode, done.stdout.split()) == (0, ["child", "True", "0", "True"]), (
        done.stderr
    )
    warnings = [line for line in lines_of(done.stderr) if "Warning" in line]
    assert len(warnings) <= 1, done.stderr  # that engines do not run in a forked process
    assert all("was forked" in line for line in warnings)
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("inline", [0, 10**6])
def test_an_interrupted_script_ends_as_python_does(inline):
    """Ctrl-C in the middle of forwards: KeyboardInterrupt, no abort, no second message."""
    done = run(
        textwrap.dedent(SETUP.format(inline=inline))
        + textwrap.dedent(
            """
            def interrupt():  # again, because Python drops what is raised in a __del__
                while running:
                    time.sleep(0.3)
                    os.kill(os.getpid(), signal.SIGINT)

            running = True
            threading.Thread(target=interrupt, daemon=True).start()
            try:
                while True:
                    net(x), executor.forward()[0].asnumpy()
            except KeyboardInterrupt:
                running = False
                signal.signal(signal.SIGINT, signal.SIG_IGN)
                raise
            """
        ),
    )
    said = lines_of(done.stderr)
    assert said[-1] == "KeyboardInterrupt", done.stderr
    assert not any(word in done.stderr for word in ("Fatal", "terminate", "Aborted", "Error"))
    assert done.returncode in (-signal.SIGINT, 130)


def test_an_interrupted_cell_leaves_a_kernel_that_answers_and_restarts():
    """What a Jupyter kernel does: cells on the main thread, an interrupt, then a shutdown."""
    done = run(
        textwrap.dedent(SETUP.format(inline=200))
        + textwrap.dedent(
            """
            heart = threading.Thread(target=lambda: [time.sleep(0.01) for _ in iter(int, 1)])
            heart.daemon = True
            heart.start()
            cells = [
                "threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()",
                "while True: net(x), executor.forward()",
                "print(right())",
                "out = [net(x) for _ in range(20)]",
                "raise SystemExit",  # shutdown_request, with work under way
            ]
            names = dict(globals())
            for cell in cells:
                try:
                    exec(cell, names)
                except KeyboardInterrupt:
                    print("interrupted")
            """
        ),
    )
    assert_clean(done, "interrupted True")


def test_a_jupyter_kernel_restarts_cleanly(tmp_path):
    """The real kernel, where ipykernel is installed: interrupted, restarted, shut down."""
    pytest.importorskip("ipykernel")
    from jupyter_client.manager import start_new_kernel

    said = tmp_path / "stderr"
    with said.open("w") as log:
        manager, client = start_new_kernel(
            kernel_name="python3",
            env={**os.environ, "PYTHONPATH": PATH},
            cwd=str(tmp_path),  # not a checkout, whose mxtrt/ would shadow the installed one
            stderr=log,
        )
        for _ in range(2):
            client.execute_interactive(textwrap.dedent(SETUP.format(inline=200)), timeout=60)
            message = client.execute(
                "signal.signal(signal.SIGINT, interrupt)\nwhile True: net(x), executor.forward()",
                stop_on_error=False,  # what comes next is not to be dropped
            )
            time.sleep(0.5)
            manager.interrupt_kernel()
            reply = client.get_shell_msg(timeout=30)
            assert reply["parent_header"]["msg_id"] == message
            assert reply["content"]["ename"] == "KeyboardInterrupt"
            reply = client.execute_interactive("assert right()", timeout=60)
            assert reply["content"]["status"] == "ok"
            manager.restart_kernel()
            client.wait_for_ready(timeout=60)
        client.stop_channels()
        manager.shutdown_kernel()
    text = said.read_text()
    assert "Traceback" not in text
    assert "Fatal" not in text
    assert "Segmentation" not in text


@pytest.mark.slow
def test_workers_of_pytest_xdist_end_cleanly(tmp_path):
    """Executors that live to the end of each worker."""
    pytest.importorskip("xdist")
    code = textwrap.dedent(SETUP.format(inline=200)) + textwrap.dedent(
        """
        import pytest
        @pytest.mark.parametrize("place", range(4))
        def test_it(place):
            globals()[f"keep{place}"] = network()(x), executor.forward()
            assert right()
        """
    )
    (tmp_path / "test_it.py").write_text(code)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-n", "2", "-p", "no:cacheprovider", "test_it.py"],
        cwd=tmp_path,
        env={
            **os.environ,
            "PYTHONPATH": PATH,
        },
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, lines_of(done.stderr)) == (0, []), done.stderr + done.stdout
    assert "4 passed" in done.stdout


@pytest.mark.parametrize("method", ["fork", "spawn", "thread_pool"])
def test_workers_of_a_dataloader_run_networks_beside_it(tmp_path, method):
    """A transform that runs a hybridized block: plain MXNet after a fork, engines elsewhere."""
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent(
            f"""
            import multiprocessing, sys, warnings
            import mxtrt, mxnet as mx, numpy as np

            class Halve:
                net = None
                def __call__(self, picture):
                    picture = mx.nd.array(picture)
                    if self.net is None:
                        data = mx.sym.var("data")
                        half = mx.sym.tanh(mx.sym.exp(data)) * 0.5
                        net = mx.gluon.SymbolBlock(half, data)
                        net.hybridize()
                        net(picture)
                        self.net = net
                    return self.net(picture)

            if __name__ == "__main__":
                method = {method!r}
                pool = method == "thread_pool"
                if not pool:
                    multiprocessing.set_start_method(method)
                pictures = mx.nd.array(np.random.RandomState(0).rand(8, 3, 8, 8))
                data = mx.gluon.data.SimpleDataset(list(pictures.asnumpy())).transform(Halve())
                Halve()(pictures.asnumpy())  # the parent has engines too
                assert mxtrt.last_report().nodes_in_engine
                loader = mx.gluon.data.DataLoader(
                    data, batch_size=2, num_workers=2, thread_pool=pool
                )
                for _ in range(2):
                    seen = np.concatenate([batch.asnumpy() for batch in loader])
                    right = np.tanh(np.exp(pictures.asnumpy())) * 0.5
                    assert np.abs(seen - right).max() < 1e-5
                print("ok")
            """
        )
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", str(script)],
        cwd=tmp_path,
        env={
            **os.environ,
            "USE_TENSORRT": "1",
            "MXTRT_ALLOW_OPS": "*",
            "PYTHONPATH": PATH,
        },
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert_clean(done, "ok")
