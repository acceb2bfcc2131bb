"""Engines are built in a process of their own, whose faults are not ours."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time

import onnx
import pytest
from support.process import run
from support.tensorrt import AMPERE, batches, request_for

from mxtrt.engines.tensorrt import process
from mxtrt.engines.tensorrt.builder import Blueprint, blueprint, build_plan
from mxtrt.engines.tensorrt.process import BuilderProcess
from mxtrt.errors import EngineError, RefusedNodesError


@pytest.fixture
def builder(stand_in_api):
    """Builds with the stand-in, which the other process finds too."""
    builder = BuilderProcess(stand_in_api)
    yield builder
    builder.stop()


def build(builder: BuilderProcess, name: str) -> int:
    """Build a graph of this name; returns the process that did it."""
    model = onnx.ModelProto(graph=onnx.GraphProto(name=name)).SerializeToString()
    plan, timings = builder.build(Blueprint(model, ("first", "second"), "fp32", 0), b"known", None)
    assert timings == b"known+"
    return int(plan)


def ended(number: int) -> bool:
    """Whether a process of that number ends, within ten seconds."""
    end = time.monotonic() + 10
    while time.monotonic() < end:
        try:
            os.kill(number, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.01)
    return False


def test_segments_of_a_graph_share_a_process_that_ends_when_idle(builder, monkeypatch):
    """And not before; what is built later starts another one."""
    monkeypatch.setattr(process, "_IDLE", 30.0)
    first = build(builder, "one")
    assert first != os.getpid()
    assert build(builder, "two") == first
    monkeypatch.setattr(process, "_IDLE", 0.05)
    assert build(builder, "three") == first
    assert ended(first)
    monkeypatch.setattr(process, "_IDLE", 30.0)
    assert build(builder, "four") != first


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("crash", "the process in which TensorRT builds ended with SIGSEGV"),
        ("failure", "TensorRT did not build the engine: no implementation"),
    ],
)
def test_a_build_that_fails_ends_its_process_only(builder, name, message):
    """With TensorRT's words where there are any; the next one is built."""
    first = build(builder, "one")
    with pytest.raises(EngineError, match=f"^{message}$"):
        build(builder, name)
    assert ended(first)
    assert build(builder, "two") not in (first, os.getpid())


def test_a_build_that_hangs_is_given_up(builder, monkeypatch):
    """When nothing was heard of it for long; one that only takes long is waited for."""
    monkeypatch.setattr(process, "_PATIENCE", 2.0)
    first = build(builder, "takes long")
    said = "the process in which TensorRT builds said nothing for 2 s and was killed"
    with pytest.raises(EngineError, match=said):
        build(builder, "hang")
    assert ended(first)
    assert build(builder, "two") not in (first, os.getpid())


def test_a_process_that_somebody_killed_is_replaced(builder):
    """The kernel may do so when memory is short."""
    first = build(builder, "one")
    os.kill(first, signal.SIGKILL)
    assert build(builder, "two") not in (first, os.getpid())


def test_refused_nodes_are_named_across_processes(builder):
    """By MXNet node, and the process goes on."""
    first = build(builder, "one")
    with pytest.raises(RefusedNodesError) as refusal:
        build(builder, "refused")
    assert refusal.value.reasons == {"second": "TensorRT's parser: no such operator"}
    assert build(builder, "two") == first


def test_what_tensorrt_logs_is_logged_here(builder, caplog):
    """At the levels that somebody listens to."""
    with caplog.at_level(logging.INFO, "mxtrt"):
        build(builder, "one")
    assert (logging.INFO, "this is one") in [(r.levelno, r.getMessage()) for r in caplog.records]
    caplog.clear()
    with caplog.at_level(logging.WARNING, "mxtrt"):
        build(builder, "two")
    assert caplog.records == []


def test_where_no_other_process_can_build_this_one_does(builder, monkeypatch, caplog):
    """TensorRT does not load there, or no process starts."""
    monkeypatch.setenv("STAND_IN", "missing")
    with caplog.at_level(logging.INFO, "mxtrt"):
        assert build(builder, "one") == os.getpid()
    assert "built in this process: TensorRT does not load: no TensorRT for this" in caplog.text
    monkeypatch.setattr("multiprocessing.spawn._python_exe", "/nowhere/python")
    assert build(builder, "two") == os.getpid()


def test_an_interrupted_build_is_not_waited_for(builder):
    """^C comes through at once, and the answer to the old question is nobody's."""
    first = build(builder, "one")
    # A job in a shell's background starts with the signal ignored.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT)).start()
    try:
        with pytest.raises(KeyboardInterrupt):
            build(builder, "hang")
    finally:
        signal.signal(signal.SIGINT, before)
    assert ended(first)
    assert build(builder, "two") not in (first, os.getpid())


def test_a_fork_has_a_builder_of_its_own(builder):
    """Two processes never speak through the same pipes."""
    first = build(builder, "one")
    reader, writer = os.pipe()
    if (forked := os.fork()) == 0:
        try:
            os.write(writer, b"%d" % build(builder, "two"))
            builder.stop()
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as answers:
        second = int(answers.read())
    os.waitpid(forked, 0)
    assert second not in (first, os.getpid(), forked)
    assert build(builder, "three") == first


def test_tensorrt_for_rtx_builds_there_what_it_builds_here(api):
    """A real network, its weights and its timings."""
    builder = BuilderProcess(api)
    wanted = blueprint(request_for(batches((1, 1, 2), (1, 8, 16))), AMPERE)
    plan, timings = builder.build(wanted, b"", None)
    assert builder._child is not None
    builder.stop()
    here, known = build_plan(api, wanted)
    assert len(plan) == len(here) > 1000
    assert len(timings) == len(known)


def test_an_exit_ends_the_builder(stand_in):
    """At once, and without a word."""
    script = """
        import onnx
        from mxtrt.engines.tensorrt.api import Api
        from mxtrt.engines.tensorrt.builder import Blueprint
        from mxtrt.engines.tensorrt.process import BuilderProcess
        model = onnx.ModelProto(graph=onnx.GraphProto(name="one")).SerializeToString()
        plan, _ = BuilderProcess(Api("tensorrt")).build(Blueprint(model, (), "fp32", 0), b"", None)
        print(plan.decode())
    """
    begin = time.monotonic()
    done = run(script, PYTHONPATH=os.pathsep.join([stand_in, *sys.path]))
    assert (done.returncode, done.stderr) == (0, "")
    assert ended(int(done.stdout))
    assert time.monotonic() - begin < process._IDLE
