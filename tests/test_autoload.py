"""Importing: an unchanged script, today's NumPy, a bare machine, another MXNet."""

from __future__ import annotations

import os
import textwrap

from support.process import ROOT, run

SCRIPT = """
    import mxnet as mx
    net = mx.gluon.nn.HybridSequential()
    net.add(mx.gluon.nn.Conv2D(4, 3), mx.gluon.nn.Dense(2))
    net.initialize()
    net.hybridize()
    net(mx.nd.ones((1, 3, 8, 8))).wait_to_read()
    import sys
    report = sys.modules.get("mxtrt.observe.report")
    print(report is not None and report.last_report())
"""


def test_an_unchanged_script_is_served_by_the_environment_variable():
    """Only `import mxtrt` at start-up, which mxtrt.pth does; the script names MXNet alone."""
    done = run("import mxtrt\n" + textwrap.dedent(SCRIPT), USE_TENSORRT="1")
    assert done.returncode == 0, done.stderr
    assert "1 segments, 2 nodes in engines, 0 left in MXNet" in done.stdout


def test_all_but_the_hooks_is_imported_without_mxnet():
    """Whoever imports it keeps those waiting who import MXNet, and must not wait for them."""
    done = run(
        """
        import importlib, pkgutil, sys, mxtrt
        names = [module.name for module in pkgutil.walk_packages(mxtrt.__path__, "mxtrt.")]
        for name in names:
            # frontends: MXNet is there before Python, in programs of other languages
            if not name.startswith(
                ("mxtrt.hooks.", "mxtrt.frontends.", "mxtrt.__main__", "mxtrt.node.libmxtrt")
            ):
                importlib.import_module(name)
                assert "mxnet" not in sys.modules, name
        print(len(names))
        """
    )
    assert int(done.stdout) > 100, done.stderr


def test_without_the_variable_nothing_heavy_is_imported():
    """MXNet runs as it is: no ONNX models, no engine, no report."""
    done = run(
        "import mxtrt\n"
        + textwrap.dedent(SCRIPT)
        + "\nwanted = {'mxtrt.plan.graph_pass', 'mxtrt.convert.ops'}"
        + "\nprint(sorted(wanted & sys.modules.keys()))",
        USE_TENSORRT="0",
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["None", "[]"]


def test_importing_mxtrt_costs_no_heavy_import():
    """mxtrt.pth runs at the start of every Python of the environment."""
    done = run(
        "import mxtrt, sys; print([m for m in ('numpy', 'typing', 'onnx') if m in sys.modules])"
    )
    assert done.stdout.strip() == "[]"


def test_the_start_up_file_imports_mxtrt_and_nothing_else():
    """One line, which Python's site module executes."""
    assert (ROOT / "mxtrt.pth").read_text() == "import mxtrt\n"


def test_mxnet_imports_on_a_numpy_without_its_aliases():
    """np.bool is gone from NumPy 1.24; plain `import mxnet` fails, after mxtrt it works."""
    done = run("import mxtrt, mxnet, numpy; print(mxnet.__version__, numpy.bool)")
    assert done.stdout.strip() == "1.9.1 <class 'bool'>"


def test_hooks_reach_an_mxnet_that_was_imported_before():
    """`import mxnet` first (with its aliases restored by hand), then mxtrt."""
    done = run(
        """
        import numpy
        for name, value in dict(bool=bool, int=int, float=float, object=object, str=str).items():
            if name not in numpy.__dict__:
                setattr(numpy, name, value)
        import sys
        sys.meta_path[:] = [f for f in sys.meta_path if type(f).__module__ != "mxtrt._autoload"]
        for name in [name for name in sys.modules if name.startswith("mxtrt")]:
            del sys.modules[name]
        import mxnet as mx
        import mxtrt
        with mxtrt.options():
            s = mx.sym.relu(mx.sym.var("data"))
            e = s.simple_bind(mx.cpu(), grad_req="null", data=(2,))
        print(type(e).__name__)
        """
    )
    assert done.stdout.strip() == "InferenceExecutor", done.stderr


def test_a_missing_system_library_is_named_with_its_package(tmp_path):
    """A bare machine lacks libquadmath.so.0: one sentence in place of ctypes' OSError."""
    package = tmp_path / "mxnet"
    package.mkdir()
    (package / "__init__.py").write_text(
        "raise OSError('libquadmath.so.0: cannot open shared object file: No such file')"
    )
    done = run("import mxtrt, mxnet", PYTHONPATH=os.pathsep.join([str(tmp_path), str(ROOT)]))
    last = done.stderr.strip().splitlines()[-1]
    assert "MXNet needs the library libquadmath.so.0, which this machine lacks" in last
    assert "apt-get install libquadmath0" in last


def test_another_mxnet_is_left_alone_with_a_warning(tmp_path):
    """The extension interface differs between versions: said once, and MXNet keeps working."""
    package = tmp_path / "mxnet"
    package.mkdir()
    (package / "__init__.py").write_text("__version__ = '1.6.0'\n")
    done = run(
        "import mxtrt, mxnet; print(mxnet.__version__)",
        PYTHONPATH=os.pathsep.join([str(tmp_path), str(ROOT)]),
    )
    assert done.stdout.strip() == "1.6.0"
    assert "MXNet 1.6.0 is installed and mxtrt serves MXNet 1.9 only" in done.stderr
