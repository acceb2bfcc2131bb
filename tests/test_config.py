"""Options: where they come from, and what a mistake says."""

from __future__ import annotations

import json
import warnings

import mxnet as mx
import pytest
from mxnet.executor import Executor
from support.networks import classifier

import mxtrt
from mxtrt import config


@pytest.fixture
def _unscoped():
    token = config._scoped.set(None)
    yield
    config._scoped.reset(token)


@pytest.mark.usefixtures("_unscoped")
def test_scope_beats_process_beats_environment(monkeypatch):
    """With options(...) first, then enable(), then the environment, then the default."""
    assert config.current().min_nodes == 1
    assert not config.current().enabled
    monkeypatch.setenv("MXTRT_MIN_NODES", "2")
    monkeypatch.setenv("USE_TENSORRT", "1")
    assert config.current().min_nodes == 2
    mxtrt.enable(min_nodes=3)
    assert config.current().min_nodes == 3
    with mxtrt.options(min_nodes=4) as inner:
        assert inner.min_nodes == 4
        with mxtrt.options(enabled=False):
            assert not config.current().enabled
            assert config.current().min_nodes == 4
    assert config.current().min_nodes == 3
    mxtrt.disable()
    assert not config.current().enabled


@pytest.mark.usefixtures("_unscoped")
def test_both_names_of_the_switch_are_read(monkeypatch):
    """USE_TENSORRT of the proposal wins over MXNet's later MXNET_USE_TENSORRT."""
    monkeypatch.setenv("MXNET_USE_TENSORRT", "1")
    assert config.current().enabled
    monkeypatch.setenv("USE_TENSORRT", "0")
    assert not config.current().enabled


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("engine", "tensorflow", "option engine is 'tensorflow', expected one of auto, onnxrunt"),
        ("threads", -1, "option threads is -1, expected a number of threads"),
        ("threads", "two", "option threads is 'two', expected a number of threads"),
        ("enabled", "maybe", "option enabled is 'maybe', expected 0 or 1"),
        ("deny_ops", 3, "option deny_ops is 3, expected operator names"),
        *(
            ("shapes", value, f"option shapes is {value!r}, expected a range for each axis of an")
            for value in (
                "data",
                "data:",
                ":1,2",
                "data:8-1,3",
                "data:0-4",
                "data:1/9/4",
                "data:1/4",
                "data:1-2-3",
                "data:-1",
                "data:a",
                "data:1;data:2",
                3,
            )
        ),
        *(
            ("gpus", value, f'option gpus is {value!r}, expected "all", or numbers of GPUs')
            for value in ("", "every", "0,", "0,0", "-1", -1, 1.5)
        ),
        ("lanes", 0, "option lanes is 0, expected a number of lanes, at least 1"),
        ("presicion", "fp16", "unknown option 'presicion', expected one of enabled, engine"),
    ],
)
def test_a_mistake_names_the_option_the_value_and_the_choice(name, value, message):
    """One sentence: seen, expected."""
    with pytest.raises(mxtrt.OptionError, match=message), mxtrt.options(**{name: value}):
        pass


@pytest.mark.usefixtures("_unscoped")
@pytest.mark.parametrize(
    ("variable", "value"),
    [("USE_TENSORRT", "perhaps"), ("MXTRT_ENGINE", "cudnn"), ("MXTRT_SHAPES", "data:8-1")],
)
def test_a_mistake_in_the_environment_leaves_mxnet_working(monkeypatch, variable, value):
    """A warning that names the variable, once; the bind is plain MXNet's."""
    monkeypatch.setenv("USE_TENSORRT", "1")
    monkeypatch.setenv(variable, value)
    with pytest.warns(mxtrt.MxtrtWarning, match=f"{variable} is '{value}', expected"):
        executor = classifier().simple_bind(mx.cpu(), grad_req="null", data=(1, 3, 8, 8))
    assert type(executor) is Executor
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        classifier().simple_bind(mx.cpu(), grad_req="null", data=(1, 3, 8, 8))


def test_ranges_of_shapes():
    """As text, as the option keeps them, and as a symbol file does."""
    wanted = (("data", ((1, 0, 32), (3, 3, 3), (1, 8, 32))), ("a:b", ((4, 4, 4),)))
    for value in (" data:1-32, 3,1/8/32; a:b:4", wanted, json.loads(json.dumps(wanted))):
        assert config.current().replace(shapes=value).shapes == wanted
    assert config.current().replace(shapes={"data": [1, "2-4"]}).shapes == (
        ("data", ((1, 1, 1), (2, 0, 4))),
    )
    assert config.current().replace(shapes="").shapes == ()
