"""The slow memory lane: the kernel's word for what the ledger believes."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, given, seed, settings

from mxtrt_fuzz.graphs import Case
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


@seed(3)
@settings(max_examples=1, deadline=None, database=None, suppress_health_check=list(HealthCheck))
@given(heavy_cases())
def test_a_retained_mebibyte_is_noticed(case: Case) -> None:
    """The lane sees a copy of 1 MiB that somebody forgot."""
    assert growth(case, True, retain=1 << 20) > growth(case, True) + SLACK
