"""Arrays that MXNet has no code to fill, on a GPU that is not there."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import mxnet as mx
import numpy as np
import pytest
from support.process import run

from mxtrt.errors import MxtrtWarning
from mxtrt.hooks import filling
from mxtrt.hooks.filling import bind_filled
from mxtrt.node import library

GPU = SimpleNamespace(device_type="gpu", device_id=0)


def executor(*arrays: mx.nd.NDArray) -> Any:
    """What is looked at of an executor."""
    return SimpleNamespace(
        arg_dict={f"arg{i}": array for i, array in enumerate(arrays)}, aux_dict={}
    )


def failed() -> mx.nd.NDArray:
    """An array that an operator failed to write, which nobody was told yet."""
    return mx.nd.linalg.potrf(-mx.nd.ones((2, 2)))


@pytest.fixture
def _no_code(monkeypatch):
    """Take what ``failed`` fails with for a kernel that a GPU does not have."""
    monkeypatch.setattr(filling, "_NO_CODE", "potrf")


@pytest.mark.usefixtures("_no_code")
def test_what_has_no_code_is_filled_and_written_to_afterwards():
    """The bind's other arrays too: they are filled in the same operation."""
    array, other = bind_filled(lambda: executor(failed(), failed()), GPU).arg_dict.values()
    assert array.asnumpy().tolist() == other.asnumpy().tolist() == [[0, 0]] * 2
    mx.nd.ones((2, 2)).copyto(array)
    np.testing.assert_array_equal(array.asnumpy(), np.ones((2, 2)))
    mx.nd.waitall()


@pytest.mark.usefixtures("_no_code")
@pytest.mark.parametrize("kind", ["argument", "state"])
def test_arrays_of_another_executor_are_not_filled(kind):
    """MXNet does not fill them: their failure is of something else, and stays with them."""
    shared = failed()
    bound = executor(mx.nd.ones((2,)), *([shared] if kind == "argument" else []))
    bound.aux_dict["state"] = shared if kind == "state" else mx.nd.ones((2,))
    bind_filled(lambda: bound, GPU, ["arg1"], shares=True)
    with pytest.raises(mx.MXNetError, match="potrf"):
        shared.asnumpy()


@pytest.mark.usefixtures("_no_code")
def test_a_buffer_of_another_bind_keeps_its_values():
    """MXNet does not fill what fits into one, and anew what does not, or is a parameter."""
    buffers = {f"arg{i}": mx.nd.ones((4,)) for i in range(3)}
    bound = executor(buffers["arg0"].reshape((2, 2)), mx.nd.ones((2, 3)), mx.nd.ones(1), failed())
    bind_filled(lambda: bound, GPU, ["arg2"], buffers)
    assert [array.asnumpy().mean() for array in bound.arg_dict.values()] == [1, 0, 0, 0]


@pytest.mark.usefixtures("_no_code")
def test_the_arrays_of_a_bind_fail_as_one_operation():
    """Two operations that fail at once crash MXNet now and then: it lists failures unlocked."""
    done = run(
        """
import warnings
from types import SimpleNamespace
import mxtrt
import mxnet as mx
from mxtrt.hooks import filling
from mxtrt.node import library

library()  # a bind goes on without it, and without one operation
warnings.simplefilter("error", mxtrt.MxtrtWarning)
filling._NO_CODE = "potrf"
bad = [-mx.nd.ones((1, 1)) for _ in range(9)]
mx.nd.waitall()
gpu = SimpleNamespace(device_type="gpu", device_id=0)

def bind():
    made = {str(i): mx.nd.linalg.potrf(given) for i, given in enumerate(bad)}
    return SimpleNamespace(arg_dict=made, aux_dict={})

told = []
has_failed = filling._has_failed
filling._has_failed = lambda array: told.append(has_failed(array)) or told[-1]
for turn in range(300):
    told.clear()
    made = filling.bind_filled(bind, gpu).arg_dict.values()
    assert sum(told) == 1, (turn, told)
    assert all(array.asscalar() == 0 for array in made)
print("all done")
""",
        MXNET_CPU_WORKER_NTHREADS="4",
    )
    assert done.returncode == 0, done.stderr
    assert "all done" in done.stdout


def test_mxnet_fills_the_arrays_of_a_bind_in_one_operation(tmp_path):
    """Nothing that it pushes between them ends the operation."""
    done = run(
        f"""
import mxtrt
import mxnet as mx
from mxtrt.hooks import filling

file = {str(tmp_path / "profile.json")!r}
mx.profiler.set_config(profile_imperative=True, filename=file)
x = mx.sym.Convolution(mx.sym.var("data"), kernel=(3, 3), num_filter=8)
symbol = mx.sym.FullyConnected(mx.sym.BatchNorm(x), num_hidden=4)
mx.nd.waitall()
mx.profiler.set_state("run")
with filling._one_failure(0):
    made = symbol.simple_bind(mx.cpu(), grad_req="null", data=(2, 3, 8, 8))
    for array in made.arg_arrays + made.aux_arrays:
        array.wait_to_read()
mx.profiler.set_state("stop")
mx.profiler.dump()
"""
    )
    assert done.returncode == 0, done.stderr
    events = json.loads((tmp_path / "profile.json").read_text())["traceEvents"]
    begun = [event["name"] for event in events if event["ph"] == "B"]
    assert begun.count("ImperativeBulk") == 1
    assert "SetValueOp" not in begun


def test_another_failure_is_the_users():
    """It is raised as MXNet raises it."""
    with pytest.raises(mx.MXNetError, match="potrf"):
        bind_filled(lambda: executor(failed()), GPU)


def test_failures_of_before_are_told(monkeypatch):
    """MXNet tells them once, here to the node."""
    monkeypatch.setattr(library().lib, "mxtrt_block_begin", lambda _: 0)
    with pytest.warns(MxtrtWarning, match="MXNet had failed before this bind"):
        bind_filled(lambda: executor(mx.nd.ones(2)), GPU)


def test_arrays_in_host_memory_are_not_looked_at():
    """Their bind waits for nothing."""
    made = SimpleNamespace()
    assert bind_filled(lambda: made, mx.cpu()) is made
