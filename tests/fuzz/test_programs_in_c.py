"""A program in C is one more way to bind: engines run in it, and its death is a finding."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Callable
from functools import partial

import mxnet as mx
import numpy as np
import psutil
import pytest
from hypothesis import given, settings

import mxtrt
from mxtrt.errors import NodeError
from mxtrt_fuzz import client
from mxtrt_fuzz.binds import Bound, Parts, bind, copied, runs
from mxtrt_fuzz.execute import Observation, Setup, observe
from mxtrt_fuzz.generate import cases
from mxtrt_fuzz.graphs import C_BINDS, Case
from mxtrt_fuzz.oracle import Oracle
from mxtrt_fuzz.signatures import Failure
from mxtrt_fuzz.values import input_arrays
from mxtrt_fuzz.worker import Worker

SETUP = Setup(masks=("none",), exactness=False)

needs_a_program = pytest.mark.skipif(
    not client.available(), reason="no compiler, or no shared library of Python"
)


def bound(way: str, case: Case, enabled: bool) -> Bound:
    """A case without weights, bound in a program in C."""
    inputs = {n: copied(mx, mx.cpu(), a) for n, a in input_arrays(case, 0).items()}
    symbol = mx.sym.load_json(case.symbol_json())
    with mxtrt.options(enabled=enabled, allow_ops="*", threads=1):
        return bind(way, Parts(mx, mx.cpu(), symbol, inputs, {}, {}))


@needs_a_program
@pytest.mark.parametrize("way", C_BINDS)
def test_engines_run_in_the_program(way: str, make_chain: Callable[..., Case]) -> None:
    """As its engine node counts; none does where they are switched off."""
    case = make_chain("tanh", "exp")
    inputs = input_arrays(case, 1)
    answers = []
    for enabled in (True, False):
        one = bound(way, case, enabled)
        before = runs(one)
        with mxtrt.options(enabled=enabled, allow_ops="*", threads=1):
            answers += [one(inputs)[0].asnumpy() for _ in range(3)]
        assert runs(one) - before == 3 * enabled
    expected = np.exp(np.tanh(inputs["data0"]))
    for answer in answers:
        np.testing.assert_allclose(answer, expected, rtol=1e-5)


@needs_a_program
def test_mxnets_exceptions_come_back(make_chain: Callable[..., Case]) -> None:
    """The program goes on."""
    refused = make_chain(("clip", {"a_min": "0"})).replace(bind="c_bind")
    assert "a_max" in observe(refused, SETUP).invalid
    assert not observe(make_chain("tanh").replace(bind="c_bind"), SETUP).invalid


@needs_a_program
def test_an_exception_of_pythons_is_an_error_of_mxnets() -> None:
    """A call that MXNet refuses after engines were bound; the next one is answered."""
    row, weight = np.ones((2, 3), "f"), np.ones((4, 3), "f")
    symbol = mx.sym.FullyConnected(
        mx.sym.var("data"), mx.sym.var("weight"), no_bias=True, num_hidden=4
    )
    arrays = {name: copied(mx, mx.cpu(), a) for name, a in (("data", row), ("weight", weight))}
    with mxtrt.options(allow_ops="*", threads=1):
        parts = Parts(
            mx, mx.cpu(), symbol, {"data": arrays["data"]}, {"weight": arrays["weight"]}, {}
        )
        one = bind("c_cached_op", parts)
        for _ in range(2):
            assert np.array_equal(one({"data": row})[0].asnumpy(), np.full((2, 4), 3, "f"))
            with pytest.raises(mx.MXNetError, match=r"FullyConnected|shape"):
                one({"data": np.ones((2, 5), "f")})


def _drawn() -> list[Case]:
    found: list[Case] = []

    @settings(derandomize=True, max_examples=100, deadline=None, database=None)
    @given(cases())
    def collect(case: Case) -> None:
        found.append(case)

    collect()
    return found


def test_it_is_drawn_where_it_can_be_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """A few times; a machine that cannot draws the same graphs, all bound in Python."""
    monkeypatch.setattr(client, "available", lambda: True)
    with_programs = _drawn()
    monkeypatch.setattr(client, "available", lambda: False)
    without = _drawn()
    assert 1 <= sum(case.bind in C_BINDS for case in with_programs) <= 20
    assert not any(case.bind in C_BINDS for case in without)
    for one, other in zip(with_programs, without, strict=True):
        assert (one.nodes, one.heads) == (other.nodes, other.heads)


def test_without_a_compiler_or_a_library_of_python_there_is_none(
    monkeypatch: pytest.MonkeyPatch, make_chain: Callable[..., Case]
) -> None:
    """A case of the corpus is bound in Python then."""

    def refused() -> dict[str, str]:
        raise NodeError("no shared library")

    works = client.available.__wrapped__
    with monkeypatch.context() as patched:
        patched.setattr(shutil, "which", lambda name: None)
        assert not works()
    monkeypatch.setattr(client, "environment_for", refused)
    assert not works()
    monkeypatch.setattr(client, "available", lambda: False)
    monkeypatch.setattr(client, "_program", refused)
    assert observe(make_chain("tanh").replace(bind="c_cached_op"), SETUP).runs[0].segments


@needs_a_program
def test_a_crash_of_the_program_is_a_failure_and_the_next_case_runs(
    make_chain: Callable[..., Case],
) -> None:
    """The process that runs cases lives on."""
    case = make_chain("tanh").replace(bind="c_bind")
    with Worker(Setup(masks=())) as worker:
        worker(case)
        assert worker._process is not None
        (program,) = psutil.Process(worker._process.pid).children()
        program.kill()
        with pytest.raises(Failure, match=r"client-crash-mxtrt-tanh.*SIGKILL"):
            worker(case)
        assert worker.restarts == 0
        assert worker(case).plain


@needs_a_program
def test_a_program_that_does_not_begin_is_a_failure_and_is_ended(
    make_chain: Callable[..., Case],
) -> None:
    """Or each case would leave one more."""
    before = set(psutil.Process().children())
    with client.planted("no such mistake"):
        for _ in range(2):
            with pytest.raises(Failure, match=r"client-crash-mxtrt-tanh.*did not begin"):
                observe(make_chain("tanh").replace(bind="c_bind"), Setup(masks=()))
    assert set(psutil.Process().children()) <= before


@needs_a_program
def test_a_hang_of_the_program_is_a_failure_and_the_next_case_runs(
    make_chain: Callable[..., Case], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It says what the program was at."""
    case = make_chain("tanh").replace(bind="c_cached_op")
    setup = Setup(masks=())
    observe(case, setup)
    (program,) = client._at_work
    with monkeypatch.context() as patched:
        patched.setattr(client, "_TIMEOUT", 1.0)
        program.process.send_signal(signal.SIGSTOP)
        with pytest.raises(Failure, match=r"client-timeout-mxtrt-tanh.*Aborted"):
            observe(case, setup)
    assert observe(case, setup).plain


@needs_a_program
def test_a_signature_names_the_program_where_it_is_to_blame(
    make_chain: Callable[..., Case],
) -> None:
    """What is wrong in Python too keeps its signature."""
    case = make_chain("tanh").replace(bind="c_simple_bind")

    def spoilt(wrong: tuple[str, ...], one: Case) -> Observation:
        seen = observe(one, SETUP)
        if one.bind in wrong:
            seen.runs[0].outputs = tuple((head + 1,) for (head,) in seen.runs[0].outputs)
        return seen

    def signature(*wrong: str) -> str:
        observing = partial(spoilt, wrong)
        (failure,) = Oracle(observing).judge(case, observing(case)).failures
        return str(failure.signature)

    assert signature(*C_BINDS) == "client_answer-value-mxtrt-tanh-float32"
    assert signature(*C_BINDS, "bind") == "answer-value-mxtrt-tanh-float32"
