"""Processes that exit, or fork, while an engine is being built in the background."""

from __future__ import annotations

import pytest
from support.process import run

SETUP = """
import os, sys, threading, time, warnings
warnings.simplefilter("ignore", UserWarning)  # of MXNet's
sys.path.insert(0, {tests!r})
import mxtrt, mxnet as mx, numpy as np
from mxtrt.engines.onnxruntime import OnnxRuntime
from mxtrt.system import background
from support.encoder import encoder, inputs

net = mx.gluon.SymbolBlock(encoder(), [mx.sym.var("data"), mx.sym.var("valid")])
net.initialize(mx.init.Uniform(0.3))
net(*inputs(5))
net.hybridize()
expected = {{length: net(*inputs(length)).asnumpy() for length in (8, 12, 13)}}
net.hybridize()
mxtrt.enable(prefer="engine")
begun, original = threading.Event(), OnnxRuntime.build

def build(self, request):
    if background.in_job():
        begun.set()
        time.sleep({seconds})
    return original(self, request)

OnnxRuntime.build = build

def right(length):
    answer = net(*inputs(length)).asnumpy()
    return np.abs(answer - expected[length]).max() < 1e-5 * np.abs(expected[length]).max()

assert right(8) and right(12) and begun.wait(60) and mxtrt.stats().building
"""


def lines_of(text: str) -> list[str]:
    """What a process said, without MXNet's own lines on its engine and subgraph backend."""
    return [line for line in text.splitlines() if "../src/e" not in line]


def said(code: str, seconds: float) -> tuple[int, str, list[str]]:
    """Exit status and output of a process that runs code while an engine is being built."""
    from pathlib import Path

    setup = SETUP.format(tests=str(Path(__file__).parents[1]), seconds=seconds)
    done = run(setup + code, MXTRT_BUILD="wait", MXNET_SUBGRAPH_BACKEND="NONE")
    return done.returncode, done.stdout, lines_of(done.stderr)


@pytest.mark.parametrize(
    "end",
    ["", "sys.exit(0)\n", "right(13)\n", "threading.Thread(target=right, args=(13,)).start()\n"],
)
def test_a_process_ends_while_an_engine_is_being_built(end):
    """It waits for the build, and drops those that were to come."""
    assert said(end, 0.3) == (0, "", [])


def test_a_build_that_hangs_does_not_keep_a_process_from_its_end():
    """It is waited for, but not for ever."""
    code = "background._EXIT_PATIENCE = 0.2\n"
    assert said(code, 600) == (0, "", [])


def test_a_process_forks_while_an_engine_is_being_built():
    """The child is plain MXNet's, as any child of a process that has engines."""
    code = """
child = os.fork()
if not child:

    warnings.simplefilter("ignore")
    good = right(8) and right(12) and right(13) and mxtrt.ready(timeout=0)
    os._exit(0 if good and not mxtrt.stats().building else 1)
_, status = os.waitpid(child, 0)
print(status, mxtrt.ready(timeout=60))
before = mxtrt.stats().engine_runs
print(right(12), mxtrt.stats().engine_runs - before)
"""
    assert said(code, 0.3) == (0, "0 True\nTrue 1\n", [])
