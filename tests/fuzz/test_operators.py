"""The per-operator lane: every operator alone, over its attribute space, against the oracle.

An operator is its converter and its specification: a converter without one fails here.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given, settings

import mxtrt.ops
from mxtrt.models import own_name
from mxtrt_fuzz.execute import Setup
from mxtrt_fuzz.generate import operator_cases
from mxtrt_fuzz.graphs import Case
from mxtrt_fuzz.oracle import Oracle
from mxtrt_fuzz.specs import specs
from mxtrt_fuzz.worker import Worker

#: Examples of an operator, and of another name for one: the attributes are the same.
_EXAMPLES, _ALIAS = 20, 4


@pytest.fixture(scope="module")
def worker() -> Iterator[Worker]:
    """A process that a crash of MXNet's does not take the tests with it."""
    with Worker(Setup(masks=("none",), exactness=False)) as process:
        yield process


def test_every_converter_has_a_specification() -> None:
    """From the registry of converters, not from a list."""
    missing = set(mxtrt.ops.registry()) - set(specs())
    assert not missing, f"add an OpSpec in fuzz/mxtrt_fuzz/specs for {sorted(missing)}"


@pytest.mark.parametrize("name", sorted(specs()))
def test_operator_agrees_with_mxnet_and_the_reference(name: str, worker: Worker) -> None:
    """MXNet accepts every application, infers the reference's shapes, and all three agree."""
    oracle = Oracle(worker)

    examples = _EXAMPLES if own_name(name) == name else _ALIAS

    @settings(derandomize=True, max_examples=examples, deadline=None, database=None)
    @given(operator_cases(name))
    def lane(case: Case) -> None:
        verdict = oracle.judge(case, worker(case))
        assert not verdict.invalid, verdict.invalid
        for failure in verdict.failures:
            raise failure

    lane()
