"""Telling by their contents whether arrays were changed."""

from __future__ import annotations

import mxnet as mx
import numpy as np
import pytest

from mxtrt.plan.ledger import memory
from mxtrt.weights import paging
from mxtrt.weights.contents import Contents


def large(value: float = 1.0) -> mx.nd.NDArray:
    """An array of whole pages and more."""
    return mx.nd.full((65, 999), value)


@pytest.mark.parametrize("paged", [False, True])
@pytest.mark.parametrize("shape", [(3,), (65, 999)])
def test_any_element_counts_and_the_same_value_does_not(tmp_path, paged, shape):
    """The first and the last one lie outside of whole pages."""
    array = mx.nd.array(np.arange(np.prod(shape)).reshape(shape))
    values = array.asnumpy()
    if paged:
        paging.page_out([array], tmp_path)
    for place in (0, array.size // 2, array.size - 1):
        contents = Contents([array])
        assert contents.same()
        flat = array.reshape((-1,))
        flat[place] += 1
        assert not contents.same()
        array[:] = values  # pages that were written to are not compared with the file
        assert contents.same() or (paged and array.size > 3)
        assert Contents([array]).same()


def test_pages_in_a_file_are_not_read(tmp_path):
    """Comparing must not bring back what was released."""
    array = mx.nd.full((1024, 1024), 2)
    paging.page_out([array], tmp_path)
    before = memory().resident
    contents = Contents([array])
    assert contents.same()
    assert memory().resident - before < 2**20


def test_other_contents_in_another_file_are_told_apart(tmp_path):
    """Written to and paged out again, for another plan: no page is private, all are new."""
    array = large()
    paging.page_out([array], tmp_path)
    contents = Contents([array])
    array[:] = 2
    paging.page_out([array], tmp_path)
    assert not contents.same()
    again = Contents([array])
    assert again.same()
    del contents
    assert again.same()
