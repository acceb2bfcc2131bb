"""What belongs to the whole process is as it was before a bind, and all through it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.process import run

BINDS = """
import gc, json, locale, logging, os, random, re, resource, signal, sys, threading, warnings
sys.path[:0] = [{tests!r}]
import mxtrt
import mxnet as mx
import numpy as np
from support.networks import classifier, images, parameters

os.chdir({folder!r})
logging.getLogger("mxtrt").addHandler(logging.NullHandler())
X = images()
LABEL = mx.nd.zeros((2,))


def answer(way):
    # A bind of one way, and two answers.
    symbol = classifier()
    args, aux = parameters(symbol, data=X.shape)
    given = {{**args, "data": X, "softmax_label": LABEL}}
    ordered = {{name: given[name] for name in symbol.list_arguments()}}
    if way == "simple_bind":
        executor = symbol.simple_bind(mx.cpu(), grad_req="null", data=X.shape)
        executor.copy_params_from(args, aux)
        return [executor.forward(data=X)[0].asnumpy() for _ in range(2)]
    if way == "module":
        module = mx.mod.Module(symbol, label_names=["softmax_label"])
        module.bind([("data", X.shape)], for_training=False)
        module.set_params(args, aux)
        return [module.predict(mx.io.NDArrayIter(X, batch_size=2)).asnumpy() for _ in range(2)]
    if way == "optimize_for" and mxtrt.config.current().enabled:
        symbol = symbol.optimize_for("TensorRT", ordered, aux, mx.cpu())
        executor = symbol.bind(mx.cpu(), ordered, grad_req="null", aux_states=aux)
        return [executor.forward()[0].asnumpy() for _ in range(2)]
    if way == "gluon":
        data = mx.sym.var("data")
        net = mx.gluon.SymbolBlock(classifier().get_internals()["dense_output"], data)
        for name, parameter in net.collect_params().items():
            parameter.shape = {{**args, **aux}}[name].shape
            parameter.initialize()
            parameter.set_data({{**args, **aux}}[name])
        net.hybridize()
        return [net(X).asnumpy() for _ in range(2)]
    if way == "calibrate":
        weights = {{**args, **aux}}
        mxtrt.calibrate(symbol, [X, X], params=weights, out="ranges.json", method="entropy")
        return []
    executor = symbol.bind(mx.cpu(), ordered, grad_req="null", aux_states=aux)
    return [executor.forward()[0].asnumpy() for _ in range(2)]


WAYS = {{
    "bind": dict(),
    "simple_bind": dict(),
    "module": dict(),
    "gluon": dict(),
    "optimize_for": dict(),
    "verified": dict(verify=True),
    "fastest": dict(prefer="fastest"),
    "calibrate": dict(),
    "fp16": dict(precision="fp16"),
    "int8": dict(precision="int8", ranges="ranges.json"),
}}


def of_the_kernel(*wanted):
    text = open("/proc/self/status").read()
    return [re.search(name + r":\\s*(.*)", text).group(1) for name in wanted]


def shared():
    # What every thread of the process sees.
    return {{
        "collector": [gc.isenabled(), gc.get_threshold(), len(gc.callbacks), gc.get_freeze_count()],
        "root logger": [logging.root.level, list(logging.root.handlers), logging.root.filters[:]],
        "logging": [logging.root.manager.disable, logging.getLoggerClass()],
        "streams": [sys.stdin, sys.stdout, sys.stderr],
        "hooks": [sys.excepthook, sys.displayhook, threading.excepthook, sys.unraisablehook],
        "import": [sys.path[:], sys.meta_path[:], sys.path_hooks[:]],
        "interpreter": [sys.getrecursionlimit(), sys.getswitchinterval(), sys.getprofile()],
        "threads": [threading.stack_size()],
        "warnings": [warnings.filters[:], warnings.showwarning, warnings.formatwarning],
        "environment": dict(os.environ),
        "folder": os.getcwd(),
        "kernel": of_the_kernel("Umask", "SigIgn", "SigCgt", "NoNewPrivs"),
        "limits": [resource.getrlimit(kind) for kind in range(10)],
        "signals": [signal.getsignal(number) for number in signal.valid_signals()],
        "locale": locale.setlocale(locale.LC_ALL),
        "random": random.getstate(),
        "numpy": [np.random.get_state()[1].tolist(), np.random.get_state()[2]],
        "printing": np.get_printoptions(),
    }}


def own():
    # What is this thread's.
    return {{
        "thread": of_the_kernel("SigBlk", "Cpus_allowed"),
        "numpy errors": np.geterr(),
        "small numbers": float(np.float32(1e-38) * np.float32(0.01)) > 0,
        "context": str(mx.context.current_context()),
        "modes": [mx.util.is_np_shape(), mx.util.is_np_array()],
        "training": [mx.autograd.is_training(), mx.autograd.is_recording()],
        "bulk": mx.engine.set_bulk_size(mx.engine.set_bulk_size(15)),
        "attributes": mx.AttrScope._current.value.get(None),
    }}
"""

COMPARE = """
def drawn(enabled):
    # Numbers and names that a program draws around binds.
    for generator in (mx.random, np.random, random):
        generator.seed(3)
    drawn = []
    for way, options in WAYS.items():
        if way != "calibrate":
            with mx.name.NameManager() as names, mxtrt.options(**{**options, "enabled": enabled}):
                answer(way)
            drawn.append([way, names._counter])
            drawn.append(mx.nd.random.uniform(shape=(3,)).asnumpy().tolist())
            drawn.append([np.random.random(), random.random()])
    return drawn


changed = {}
for way, options in WAYS.items():
    before = {**shared(), **own()}
    with mxtrt.options(**options):
        answer(way)
        assert way == "calibrate" or mxtrt.last_report().nodes_in_engine, mxtrt.last_report()
    now = {**shared(), **own()}
    changed[way] = [name for name in before if repr(before[name]) != repr(now[name])]
changed["draws"] = [one for one, other in zip(drawn(True), drawn(False)) if one != other]
print(json.dumps(changed))
"""

SAMPLE = """
import time
sys.setswitchinterval(1e-4)
before, seen, done = {k: repr(v) for k, v in shared().items()}, set(), threading.Event()
del before["import"]  # ONNX Runtime's, for as long as its quantizer is imported


def watch():
    while not done.is_set():
        now = shared()
        seen.update(name for name in before if repr(now[name]) != before[name])
        time.sleep(0)


watcher = threading.Thread(target=watch)
watcher.start()
for way, options in WAYS.items():
    with mxtrt.options(**options):
        answer(way)
done.set()
watcher.join()
print(json.dumps(sorted(seen)))
"""


def output_of(code: str, folder: Path) -> object:
    """What a process said last, as JSON."""
    tests = str(Path(__file__).parent)
    script = BINDS.format(tests=tests, folder=str(folder)) + code
    done = run(script, MXTRT_CACHE_DIR=str(folder / "cache"))
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_a_bind_changes_nothing_of_the_process(tmp_path):
    """Of its streams, loggers, random numbers, limits, names and modes, whichever way binds."""
    pytest.importorskip("onnxruntime.quantization")
    changed = output_of(COMPARE, tmp_path)
    assert isinstance(changed, dict)
    assert {way: names for way, names in changed.items() if names} == {}


def test_other_threads_see_no_change_while_a_bind_is_under_way(tmp_path):
    """Not even for a moment."""
    pytest.importorskip("onnxruntime.quantization")
    assert output_of(SAMPLE, tmp_path) == []
