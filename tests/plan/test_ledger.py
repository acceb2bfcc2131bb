"""The ledger: who owns what, checked against the process."""

from __future__ import annotations

import gc

import mxnet as mx
import numpy as np
import pytest
from support.networks import classifier, images, parameters

import mxtrt
from mxtrt.engines.shared import shared_sessions
from mxtrt.system.threads import Living

X = images()


@pytest.fixture(autouse=True)
def of_this_test_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """What other tests in this process keep alive is not counted."""
    monkeypatch.setattr("mxtrt.plan.plan._plans", Living())


def bind(symbol: mx.sym.Symbol, **options: object) -> mx.executor.Executor:
    """An executor whose engines are built."""
    args, aux = parameters(symbol, data=X.shape)
    given = {**args, "data": X, "softmax_label": mx.nd.zeros((2,))}
    with mxtrt.options(**options):
        return symbol.bind(
            mx.cpu(), {name: given[name] for name in symbol.list_arguments()}, aux_states=aux
        )


def dense(hidden: int = 2000) -> mx.sym.Symbol:
    """A network that is one large weight."""
    return mx.sym.FullyConnected(
        mx.sym.Flatten(mx.sym.var("data")), num_hidden=hidden, no_bias=True, name="dense"
    )


def test_nothing_is_bound_nothing_is_owned():
    """And the ledger says so."""
    gc.collect()
    ledger = mxtrt.memory()
    assert ledger.holdings == ()
    assert "in all: nothing" in str(ledger)


def test_released_weights_are_the_engines():
    """MXNet's array is in a file, the engine's copy in memory."""
    executor = bind(dense())
    size = 2000 * X[0].size * 4
    ledger = mxtrt.memory()
    assert ledger.totals["file"] > 0.99 * size
    assert ledger.totals["host"] < 1.01 * size
    owners = {(h.what, h.place) for h in ledger.holdings}
    assert ("engine", "host") in owners
    assert executor is not None


def test_a_weight_that_is_read_is_there_twice_and_the_ledger_sees_it():
    """Pages come back when somebody writes to them."""
    executor = bind(dense())
    before = mxtrt.memory().totals
    executor.arg_dict["dense_weight"][:] = 1
    executor.arg_dict["dense_weight"].wait_to_read()
    after = mxtrt.memory().totals
    size = 2000 * X[0].size * 4
    assert after["host"] - before["host"] > 0.99 * size
    assert after.get("file", 0) < 0.01 * size


def test_weights_that_stay_are_counted_in_both():
    """With release_weights off."""
    executor = bind(dense(), release_weights=False)
    size = 2000 * X[0].size * 4
    assert mxtrt.memory().totals == {"host": 2 * size}
    assert executor is not None


def test_what_is_dropped_leaves_the_ledger():
    """A bind's holdings go with it, but for the engines that are kept for the next bind."""
    executor = bind(classifier())
    assert {h.owner for h in mxtrt.memory().holdings} == {mxtrt.last_report().segments[0].name}
    del executor
    gc.collect()
    assert {h.owner for h in mxtrt.memory().holdings} == {"idle engines"}
    shared_sessions().forget()
    assert mxtrt.memory().holdings == ()


def test_the_ledger_as_data():
    """JSON-ready, totals included."""
    import json

    executor = bind(classifier())
    data = json.loads(json.dumps(mxtrt.memory().to_dict()))
    assert sum(h["bytes"] for h in data["holdings"]) == sum(data["totals"].values())
    assert data["resident"] > 0
    assert executor is not None
    assert np.isfinite(data["resident"])
