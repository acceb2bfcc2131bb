"""MXNet's profiler beside engines."""

from __future__ import annotations

import json

import mxnet as mx
from support.networks import classifier, images, parameters

import mxtrt


def test_the_profiler_shows_the_engine_node_by_name(tmp_path):
    """One event of the operator for every run that goes through MXNet's engine."""
    symbol, x = classifier(), images()
    with mxtrt.options(inline_below=0):
        executor = symbol.simple_bind(mx.cpu(), grad_req="null", data=x.shape)
    executor.copy_params_from(*parameters(symbol, data=x.shape))
    executor.forward(data=x)[0].wait_to_read()
    file = tmp_path / "profile.json"
    mx.profiler.set_config(profile_symbolic=True, profile_imperative=False, filename=str(file))
    mx.profiler.set_state("run")
    try:
        for _ in range(3):
            executor.forward(data=x)[0].wait_to_read()
        mx.nd.waitall()
    finally:
        mx.profiler.set_state("stop")
    mx.profiler.dump()
    events = json.loads(file.read_text())["traceEvents"]
    names = [event["name"] for event in events if event["ph"] in "BX"]
    assert sum("_mxtrt_engine" in name for name in names) == 3
