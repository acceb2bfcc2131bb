"""The pause of the garbage collector."""

from __future__ import annotations

import gc

import pytest

from mxtrt.collecting import uncollected


def test_the_collector_is_off_inside_and_as_before_after_the_outermost_block():
    """Nested blocks, and one that raises."""
    assert gc.isenabled()
    with uncollected():
        with uncollected():
            assert not gc.isenabled()
        assert not gc.isenabled()
    assert gc.isenabled()
    with pytest.raises(KeyError), uncollected():
        raise KeyError
    assert gc.isenabled()


def test_a_collector_that_was_off_stays_off():
    """Who switched it off switches it on."""
    gc.disable()
    try:
        with uncollected():
            assert not gc.isenabled()
        assert not gc.isenabled()
    finally:
        gc.enable()
