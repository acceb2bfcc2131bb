"""The slow memory lane: the kernel's word for what the ledger believes."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, given, seed, settings

from mxtrt.graph.symbol import Entry
from mxtrt_fuzz.graphs import Case, Operation, Tensor, Variable
from mxtrt_fuzz.resident import SLACK, growth, heavy_cases

pytestmark = pytest.mark.slow


def test_a_process_with_engines_grows_no_more_than_plain_mxnet(table: Callable[..., None]) -> None:
    """Large weights are resident once, under drawn masks and every way to bind."""
    excess = []

    @seed(3)
    @settings(
        max_examples=12, deadline=None, database=None, suppress_health_check=list(HealthCheck)
    )
    @given(heavy_cases())
    def check(case: Case) -> None:
        plain, ours = growth(case, False), growth(case, True)
        excess.append(ours - plain)
        table(
            "growth of the process",
            bind=case.bind,
            layers=len([n for n in case.operations if n.op == "FullyConnected"]),
            denied=",".join(case.denied) or "-",
            plain=f"{plain / 2**20:.1f} MiB",
            mxtrt=f"{ours / 2**20:.1f} MiB",
        )
        assert ours <= plain + SLACK

    check()
    assert len(excess) >= 10


def test_a_weight_of_two_segments_is_resident_once() -> None:
    """It stays MXNet's, and both engines read it."""
    row, attrs = Tensor((1, 1536)), (("no_bias", "True"), ("num_hidden", "1536"))
    case = Case(
        (
            Variable("data0", row),
            Variable("weight0", Tensor((1536, 1536)), "weight", -0.01, 0.01),
            Operation("FullyConnected", "op0", attrs, (Entry(0), Entry(1)), (row,)),
            Operation("round", "op1", (), (Entry(2),), (row,)),
            Operation("FullyConnected", "op2", attrs, (Entry(3), Entry(1)), (row,)),
        ),
        (Entry(4),),
    )
    assert growth(case, True) <= growth(case, False) + SLACK


@seed(3)
@settings(max_examples=1, deadline=None, database=None, suppress_health_check=list(HealthCheck))
@given(heavy_cases())
def test_a_retained_mebibyte_is_noticed(case: Case) -> None:
    """The lane sees a copy of 1 MiB that somebody forgot."""
    assert growth(case, True, retain=1 << 20) > growth(case, True) + SLACK
