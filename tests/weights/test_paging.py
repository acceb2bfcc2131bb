"""Released weights: resident once, still the user's."""

from __future__ import annotations

import mxnet as mx
import mxnet.base
import numpy as np
import pytest
from support.networks import assert_close

import mxtrt
from mxtrt.plan import plan
from mxtrt.system.threads import once
from mxtrt.weights import paging


def resident(array: mx.nd.NDArray) -> float:
    """Share of an array's pages that are in this process's memory now."""
    page = 4096
    begin = paging.in_host_memory(array)[0]
    end = begin + array.size * 4
    first, last = -(-begin // page), end // page
    with open("/proc/self/pagemap", "rb") as pagemap:
        pagemap.seek(first * 8)
        entries = np.frombuffer(pagemap.read((last - first) * 8), dtype=np.uint64)
    return float((entries >> np.uint64(63)).mean())


def test_paged_out_arrays_keep_address_and_values(tmp_path):
    """Reading brings pages back, writing is private, small arrays stay."""
    big = mx.nd.random.uniform(shape=(300, 1000))
    small = mx.nd.ones((10,))
    values, address = big.asnumpy(), paging.in_host_memory(big)[0]
    released = paging.page_out([big, small], tmp_path).released
    assert released % 4096 == 0
    assert 0 < released <= big.size * 4
    assert resident(big) == 0.0
    assert paging.in_host_memory(big)[0] == address
    assert np.array_equal(big.asnumpy(), values)
    big[:] = big * 2
    assert np.array_equal(big.asnumpy(), values * 2)
    assert list(tmp_path.iterdir()) == [], "the file has no name"


def test_it_does_not_matter_where_in_a_page_an_array_begins(tmp_path):
    """Of the smallest arrays that are paged out, all are: counters are the same everywhere."""
    arrays = [mx.nd.ones((paging.SMALLEST // 4,)) for _ in range(64)]
    smaller = [mx.nd.ones((paging.SMALLEST // 4 - 1,)) for _ in range(64)]
    begins = {paging.in_host_memory(array)[0] % 4096 for array in arrays}
    assert begins != {0}
    assert paging.page_out([*arrays, *smaller], tmp_path).released > 0
    assert {resident(array) for array in arrays} == {0.0}
    assert {resident(array) for array in smaller} == {1.0}


def mappings() -> int:
    """How many memory mappings this process has."""
    with open("/proc/self/maps") as maps:
        return sum(1 for _ in maps)


def test_neighbours_in_memory_are_one_mapping(tmp_path):
    """Whatever order they come in."""
    size, whole = 256 * 1024, mx.nd.random.uniform(shape=(3 * 256 * 1024 // 4 + 1024,))
    first = -paging.in_host_memory(whole)[0] % 4096 // 4
    parts = [whole[first + k * size // 4 : first + (k + 1) * size // 4] for k in (1, 0, 2)]
    values, before = whole.asnumpy(), mappings()
    done = paging.page_out(parts, tmp_path)
    assert (done.released, done.left) == (3 * size, 0)
    assert mappings() <= before + 2
    assert np.array_equal(whole.asnumpy(), values)


def test_an_array_costs_a_mapping_for_each_64_kib_at_most(tmp_path):
    """As the kernel allows a process 65,530 of them, however many there are."""
    arrays = [mx.nd.ones((128, size)) for size in (64, 128, 256, 300) for _ in range(20)]
    mx.nd.waitall()
    before = mappings()
    done = paging.page_out(arrays, tmp_path)
    assert mappings() - before <= done.released / (64 * 1024 - 4096)


def test_the_largest_arrays_are_paged_out_where_there_are_few_mappings(tmp_path, monkeypatch):
    """Half of what the kernel allows is left to others; what is left says so."""
    arrays = [mx.nd.ones((64 + place, 1024)) for place in range(10)]
    of_process = paging._mappings
    monkeypatch.setattr(paging, "_mappings", lambda: (1000, of_process()[1]))
    monkeypatch.setattr(paging, "_mappings_allowed", lambda: 2064)
    done = paging.page_out(arrays, tmp_path)
    assert [resident(array) for array in arrays] == [1.0] * 6 + [0.0] * 4
    assert done.left > done.released > 0
    assert (done.mappings, done.limit) == (1000, 2064)
    monkeypatch.setattr(paging, "_mappings_allowed", lambda: 2000)
    done = paging.page_out(arrays, tmp_path)
    assert done.released == 0 < done.left


@pytest.fixture
def no_mappings(monkeypatch: pytest.MonkeyPatch) -> None:
    """The process has as many mappings as are for weights, and nobody was told."""
    monkeypatch.setattr(paging, "_mappings_allowed", lambda: 100)
    monkeypatch.setattr(plan, "_warn_of_mappings", once(plan._warn_of_mappings.__wrapped__))


def test_many_models_are_warned_of_once(no_mappings, caplog):
    """Not of the spill directory; each report has a note, and the answers are right."""
    for _ in range(3):
        net = mx.gluon.nn.Dense(512, in_units=1024)
        net.initialize(mx.init.Xavier())
        net.hybridize()
        x = mx.nd.random.uniform(shape=(2, 1024))
        with mxtrt.options():
            assert_close(net(x), x.asnumpy() @ net.weight.data().asnumpy().T)
        report = mxtrt.last_report()
        assert report.released_bytes == 0
        assert "memory mappings that the kernel allows" in report.notes[0]
    (warning,) = (record for record in caplog.records if "memory too" in record.message)
    assert "of the 100 memory mappings" in warning.message
    assert "vm.max_map_count" in warning.message
    assert "spill" not in warning.message


def test_an_array_is_not_paged_out_twice(tmp_path):
    """What a file backs already stays as it is."""
    array = mx.nd.zeros((300, 1000))
    assert paging.page_out([array], tmp_path).released > 0
    assert paging.page_out([array], tmp_path).released == 0


def test_arrays_in_shared_memory_stay_shared(tmp_path):
    """cpu_shared arrays belong to other processes as well."""
    array = mx.nd.zeros((300, 1000), ctx=mx.Context("cpu_shared", 0))
    assert paging.page_out([array], tmp_path).released == 0


def test_weights_leave_resident_memory_after_a_bind_and_come_back_when_trained():
    """The engine owns the bytes; the Parameter stays usable."""
    net = mx.gluon.nn.Dense(512, in_units=1024, prefix="d_")
    net.initialize(mx.init.Xavier())
    weight = net.weight.data()
    values = weight.asnumpy()
    net.hybridize()
    x = mx.nd.random.uniform(shape=(2, 1024))
    with mxtrt.options():
        ours = net(x)
        ours.wait_to_read()
    assert mxtrt.last_report().released_bytes > 0.95 * weight.size * 4
    assert_close(ours, x.asnumpy() @ values.T)
    assert np.array_equal(weight.asnumpy(), values)


def test_a_retained_copy_is_caught(tmp_path):
    """The measure that the other tests rely on sees a megabyte that stayed."""
    array = mx.nd.ones((512, 512))
    paging.page_out([array], tmp_path)
    assert resident(array) == 0.0
    array.asnumpy()
    assert resident(array) == 1.0


def test_without_room_for_the_file_weights_stay_and_the_report_says_so(tmp_path):
    """A spill directory that cannot be written costs memory, not the answer."""
    blocked = tmp_path / "file"
    blocked.write_text("")
    net = mx.gluon.nn.Dense(512, in_units=1024)
    net.initialize()
    net.hybridize()
    x = mx.nd.ones((1, 1024))
    with mxtrt.options(spill_dir=str(blocked / "sub")):
        net(x).wait_to_read()
    report = mxtrt.last_report()
    assert report.released_bytes == 0
    assert "no spill file could be written" in report.notes[0]
    assert "set spill_dir" in report.notes[0]


@pytest.mark.parametrize("release", [True, False])
def test_release_can_be_switched_off(release):
    """release_weights=False keeps MXNet's arrays resident."""
    net = mx.gluon.nn.Dense(256, in_units=1024)
    net.initialize()
    net.hybridize()
    with mxtrt.options(release_weights=release):
        net(mx.nd.ones((1, 1024))).wait_to_read()
    assert (mxtrt.last_report().released_bytes > 0) == release


@pytest.mark.parametrize("times", [3, 10**6])
def test_an_array_whose_layout_another_thread_changes_is_read_all_the_same(times, monkeypatch):
    """MXNet's operators may put oneDNN's layout back before the rows are read; not for ever."""
    array, check_call, seen = mx.nd.arange(8), mxnet.base.check_call, []

    def changed(code: int) -> None:
        check_call(code)
        seen.append(code)
        if len(seen) <= times:
            raise mx.MXNetError("!IsMKLDNNData(): We can't generate TBlob for MKLDNN data.")

    expected = paging.address_of(array)
    monkeypatch.setattr(mxnet.base, "check_call", changed)
    if times > 3:
        with pytest.raises(mx.MXNetError, match="MKLDNN"):
            paging.address_of(array)
    else:
        assert paging.address_of(array) == expected
