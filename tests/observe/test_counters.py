"""What can be seen of mxtrt in a service: counters, Prometheus, MXNet's profiler."""

from __future__ import annotations

import builtins
import dataclasses
import sys
import warnings

import mxnet as mx
import pytest
from support.networks import classifier, images, mixed, parameters
from support.process import run

import mxtrt
from mxtrt.engines.cache import EngineCache
from mxtrt.errors import MxtrtError
from mxtrt.observe.counters import Stats

X = images()


def executor_of(symbol: mx.sym.Symbol, **options: object) -> mx.executor.Executor:
    """An executor with engines and weights."""
    args, aux = parameters(symbol, data=X.shape)
    with mxtrt.options(**options):
        executor = symbol.simple_bind(mx.cpu(), grad_req="null", data=X.shape)
    executor.copy_params_from(args, aux)
    return executor


def since(before: Stats) -> dict[str, int]:
    """The counters that moved, and by how much."""
    now, then = dataclasses.asdict(mxtrt.stats()), dataclasses.asdict(before)
    return {name: now[name] - then[name] for name in now if now[name] != then[name]}


@pytest.mark.parametrize("inline_below", [0, 10**6])
def test_a_bind_and_its_runs_are_counted(inline_below):
    """Runs by MXNet's engine and on the calling thread both count, one per segment."""
    before = mxtrt.stats()
    executor = executor_of(mixed(), inline_below=inline_below)
    for _ in range(3):
        executor.forward(data=X)
    mx.nd.waitall()
    assert since(before) == {"binds": 1, "segments": 2, "builds": 2, "engine_runs": 6}
    before = mxtrt.stats()
    executor = executor_of(classifier(), inline_below=inline_below)
    executor.forward(data=X)[0].wait_to_read()
    assert since(before) == {"binds": 1, "segments": 1, "builds": 1, "engine_runs": 1}


def test_new_weights_count_as_a_rebuild():
    """Engines built again are both builds and a rebuild."""
    executor = executor_of(classifier())
    executor.forward(data=X)
    before = mxtrt.stats()
    executor.arg_dict["dense_bias"][:] = 1
    executor.forward(data=X)[0].wait_to_read()
    assert since(before) == {"rebuilds": 1, "builds": 1, "engine_runs": 1}


def test_a_refusal_is_counted_and_training_is_none():
    """A graph left alone counts each time, though it is warned of once."""
    before = mxtrt.stats()
    with mxtrt.options(engine="onnxruntime"):
        symbol = mx.sym.relu(mx.sym.var("data"))
        symbol.simple_bind(mx.cpu(), data=(2, 3))  # for training
        assert since(before) == {}
        data = mx.nd.zeros((2, 3)).tostype("csr")
        for _ in range(2):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", mxtrt.MxtrtWarning)
                symbol.bind(mx.cpu(), {"data": data}, grad_req="null")
    assert since(before) == {"refusals": 2}


def test_the_cache_counts_hits_and_misses(tmp_path):
    """The first look-up builds, the second finds."""
    cache, before = EngineCache(str(tmp_path), 1 << 20), mxtrt.stats()
    for _ in range(3):
        assert cache.get_or_build("ab", lambda: b"engine") == b"engine"
    assert since(before) == {"cache_misses": 1, "cache_hits": 2}


def test_stats_read_well_and_load_nothing():
    """A table of words and numbers; asking does not import MXNet."""
    done = run("import mxtrt, sys; print(mxtrt.stats()); assert 'mxnet' not in sys.modules")
    assert done.returncode == 0, done.stderr
    assert "engine runs                0\n" in done.stdout
    assert str(Stats(engine_runs=1234567)).splitlines()[6].split() == [
        "engine",
        "runs",
        "1,234,567",
    ]


def test_prometheus_exposes_every_counter():
    """One counter per field with its meaning, read at the scrape; a gauge for what falls too."""
    client = pytest.importorskip("prometheus_client")
    from mxtrt import metrics

    registry = client.CollectorRegistry()
    metrics.register(registry)
    executor_of(classifier()).forward(data=X)[0].wait_to_read()
    text = client.generate_latest(registry).decode()
    for field in dataclasses.fields(Stats):
        value = getattr(mxtrt.stats(), field.name)
        name = field.name if field.name == "building" else f"{field.name}_total"
        assert f"\nmxtrt_{name} {float(value)}\n" in text
    assert "# HELP mxtrt_fallbacks_total Calls that plain MXNet answered because an engine" in text
    assert "engine could not.\n# TYPE" in text
    assert "# HELP mxtrt_binds_total Graphs bound with engines" in text
    with pytest.raises(ValueError, match="mxtrt"):
        metrics.register(registry)


def test_without_prometheus_client_it_is_one_sentence(monkeypatch):
    """The package is an extra."""
    from mxtrt import metrics

    def refuse(name, *args, **kwargs):
        if name.split(".")[0] == "prometheus_client":
            raise ModuleNotFoundError("No module", name="prometheus_client")
        return original(name, *args, **kwargs)

    original = builtins.__import__
    for name in [name for name in sys.modules if name.split(".")[0] == "prometheus_client"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(MxtrtError, match=r"pip install 'mxtrt\[metrics\]'"):
        metrics.register()
