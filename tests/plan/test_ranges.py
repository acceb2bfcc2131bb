"""Engines for ranges of shapes: learned from requests, or asked for."""

from __future__ import annotations

import random
from typing import Any

import mxnet as mx
import pytest
from support.networks import assert_close
from support.ranged import DATA, Net, pictures, texts

import mxtrt
from mxtrt.engines import BuildRequest
from mxtrt.engines.tensorrt.builder import canonical


def test_random_sizes_have_a_handful_of_engines(ranged, tmp_path):
    """One for the first picture, one for ranges, and one at most that widens them."""
    net = Net(pictures(), tmp_path)
    drawn = random.Random(1)
    sizes = [(drawn.randint(16, 64), drawn.randint(16, 64)) for _ in range(40)]
    before = mxtrt.stats().fallbacks
    for height, width in [*sizes, *sizes]:
        net.is_right((1, 3, height, width))
    assert 2 <= len(ranged.requests) <= 3
    assert ranged.ranges[0] is None
    ranges = ranged.ranges[-1]
    assert ranges is not None
    assert ranges.symbols == (((0, 2),), ((0, 3),))
    for height, width in sizes:
        assert ranges.contains(((1, 3, height, width),))
    assert mxtrt.stats().fallbacks == before
    (note,) = net.node.report.notes
    assert note.startswith("one engine for data 1x3x(")
    assert note.endswith(f", {len(ranges.profiles)} profiles")


def test_weights_are_held_once(ranged, tmp_path):
    """What serves ranges takes the place of all engines in them."""
    net = Net(pictures(), tmp_path)
    for size in (32, 40, 20, 32):
        net.is_right((1, 3, size, size))
    assert len(net.node.live_sessions()) == 1
    net.is_right((1, 3, 200, 200))
    assert len(ranged.requests) == 3
    assert len(net.node.live_sessions()) == 1
    net.is_right((1, 3, 32, 32))
    assert len(ranged.requests) == 3


def test_an_axis_that_did_not_move_is_fixed(ranged, tmp_path):
    """Until it does."""
    net = Net(pictures(), tmp_path)
    net.is_right((1, 3, 32, 32))
    net.is_right((4, 3, 32, 32))
    assert ranged.ranges[1].symbols == (((0, 0),),)
    assert ranged.ranges[1].largest == ((8, 3, 32, 32),)
    net.is_right((4, 3, 32, 40))
    assert ranged.ranges[2].symbols == (((0, 0),), ((0, 3),))
    assert ranged.ranges[2].smallest == ((1, 3, 32, 16),)
    assert len(net.node.live_sessions()) == 1


def test_wide_ranges_have_several_profiles(ranged, tmp_path):
    """Each contains those before; the tightest serves."""
    net = Net(pictures(), tmp_path)
    for size in (16, 256):
        net.is_right((1, 3, size, size))
    ranges = ranged.ranges[1]
    assert len(ranges.profiles) == 4
    sides = [profile.largest[0][2] for profile in ranges.profiles]
    assert sides == sorted(set(sides))
    assert sides[-1] == 512
    for place, side in enumerate(sides):
        assert ranges.place(((1, 3, side, side),)) == place
    for profile in ranges.profiles:
        assert profile.contains(profile.usual)
    assert ranges.place(((1, 3, 16, sides[1]),)) == 1
    assert ranges.place(((1, 3, 16, sides[-1] + 1),)) is None


def test_ranges_end_where_the_graph_does(ranged, tmp_path):
    """Sizes that MXNet does not take for this graph are not asked for."""
    net = Net(pictures(), tmp_path)
    for size in (8, 9):  # from 7 on there is something left of the picture
        net.is_right((1, 3, size, size))
    ranges = ranged.ranges[1]
    assert ranges.smallest[0][2] == 7 or ranges.smallest[0][2] == 8
    assert ranges.largest[0][2] == 18


def test_an_axis_that_ends_does_not_hold_another(ranged, tmp_path):
    """There are places for eleven words, and batches go further."""
    places = mx.sym.var("places", shape=(1, 11, 8))
    x = mx.sym.FullyConnected(DATA, num_hidden=8, flatten=False, name="dense")
    length = mx.sym.slice_like(places, x, axes=(1,))
    net = Net(mx.sym.broadcast_add(x, length), tmp_path)
    for batch, words in ((1, 3), (4, 6)):
        net.is_right((batch, words, 6))
    assert ranged.ranges[1].largest == ((8, 8, 6),)


def test_features_of_several_scales_are_widened_in_step(ranged, tmp_path):
    """Those that are added up inside a segment stay multiples of each other."""
    fine = mx.sym.Convolution(DATA, kernel=(1, 1), num_filter=4, name="fine")
    coarse = mx.sym.Convolution(mx.sym.var("coarse"), kernel=(1, 1), num_filter=4, name="coarse_")
    larger = mx.sym.UpSampling(coarse, scale=4, sample_type="nearest")
    net = Net(mx.sym.elemwise_add(fine, larger), tmp_path, "data", "coarse")
    for side in (5, 7, 3, 14):
        net.is_right((1, 3, 4 * side, 20), (1, 3, side, 5))
    assert len(ranged.requests) == 2
    assert ranged.ranges[1].largest == ((1, 3, 56, 20), (1, 3, 14, 5))


def test_one_model_is_found_where_the_size_is_written_into_it(ranged, tmp_path):
    """And it computes the size."""
    net = Net(texts(), tmp_path)
    for length in (5, 9, 7, 18, 5, 3):
        net.is_right((1, length, 6))
    assert len(ranged.requests) == 2
    assert ranged.ranges[1].smallest == ((1, 2, 6),)
    assert ranged.ranges[1].largest == ((1, 18, 6),)
    assert len(net.node.live_sessions()) == 1


def test_what_has_no_such_model_has_an_engine_per_shape(ranged, tmp_path):
    """As ever; the others of the segment's shapes too."""
    symbol = mx.sym.contrib.BilinearResize2D(pictures_features(), mode="to_even_down")
    net = Net(symbol, tmp_path)
    for size in (9, 13, 9, 13):
        net.is_right((1, 3, size, size))
    assert ranged.ranges == [None, None]


def pictures_features() -> Any:
    """Features of pictures."""
    return mx.sym.Convolution(DATA, kernel=(3, 3), num_filter=4, name="one")


def test_ranges_that_are_refused_are_tried_narrower(ranged, tmp_path):
    """For just what was seen; the reason is in the report."""
    ranged.refuses = lambda request: (
        "out of memory" if request.ranges and request.ranges.largest[0][2] > 50 else None
    )
    net = Net(pictures(), tmp_path)
    for size in (32, 40, 36):
        net.is_right((1, 3, size, size))
    assert len(ranged.requests) == 2
    assert ranged.ranges[1].smallest == ((1, 3, 32, 32),)
    assert ranged.ranges[1].largest == ((1, 3, 40, 40),)
    assert "the ranges of shapes are narrow: out of memory" in net.node.report.notes
    net.is_right((1, 3, 44, 44))
    assert ranged.ranges[2].largest == ((1, 3, 44, 44),)


def test_an_engine_for_ranges_stays_when_a_wider_one_is_refused(ranged, tmp_path):
    """Only what is outside of it has engines of its own."""
    ranged.refuses = lambda request: (
        "out of memory" if request.ranges and request.ranges.largest[0][2] > 100 else None
    )
    net = Net(pictures(), tmp_path)
    for size in (32, 40, 128):
        net.is_right((1, 3, size, size))
    assert [ranges is None for ranges in ranged.ranges] == [True, False, True]
    for size in (36, 64, 128):
        net.is_right((1, 3, size, size))
    assert len(ranged.requests) == 3
    assert len(net.node.live_sessions()) == 2
    assert net.node.report.notes[-1].startswith("every further input shape has an engine of its")


def test_an_engine_that_takes_no_ranges_is_built_for_each_shape(ranged, tmp_path):
    """With the reason in the report; tried once."""
    tried = []

    def refuses(request: Any) -> str | None:
        tried.append(request.ranges)
        return "the parser knows no such node" if request.ranges else None

    ranged.refuses = refuses
    net = Net(pictures(), tmp_path)
    for size in (32, 40, 36, 32):
        net.is_right((1, 3, size, size))
    assert ranged.ranges == [None] * 3
    assert sum(one is not None for one in tried) == 2
    (note,) = net.node.report.notes
    assert note == "every input shape has an engine of its own: the parser knows no such node"


def same_model(one: BuildRequest, other: BuildRequest) -> bool:
    """Whether TensorRT is given the same model, whatever Gluon calls its nodes."""
    return canonical(one).segment.model == canonical(other).segment.model


def test_the_next_process_builds_nothing_else(ranged, tmp_path):
    """Its first engine is the one for ranges; other names, weights and sizes make no difference."""
    first = Net(pictures(), tmp_path)
    for size in (32, 40):
        first.is_right((1, 3, size, size))
    del first
    second = Net(pictures(), tmp_path)
    for size in (50, 20, 64):
        second.is_right((1, 3, size, size))
    assert len(ranged.requests) == 3
    assert ranged.ranges[2] == ranged.ranges[1]
    assert same_model(*ranged.requests[1:])


def test_what_was_learned_of_a_model_that_computes_sizes_is_kept(ranged, tmp_path):
    """The next process finds the very model."""
    for lengths in ((5, 9), (7, 6)):
        net = Net(texts(), tmp_path)
        for length in lengths:
            net.is_right((1, length, 6))
        del net
    assert len(ranged.requests) == 3
    assert ranged.ranges[2] == ranged.ranges[1]
    assert same_model(*ranged.requests[1:])


@pytest.mark.parametrize("told", [b"", b"{", b"[]", b'{"format": 2}', b'{"format": 1}'])
def test_what_was_kept_and_is_damaged_is_not_used(ranged, tmp_path, monkeypatch, told):
    """The first engine is for the first shapes."""
    monkeypatch.setattr("mxtrt.plan.kept_ranges.KeptRanges.load", lambda self: told)
    Net(pictures(), tmp_path).is_right((1, 3, 32, 32))
    assert ranged.ranges == [None]


def test_new_weights_have_an_engine_for_the_same_ranges(ranged, tmp_path):
    """One."""
    net = Net(pictures(), tmp_path)
    for size in (32, 40):
        net.is_right((1, 3, size, size))
    for parameter in net.net.collect_params().values():
        parameter.set_data(parameter.data() * 2)
    for size in (32, 40, 32, 36):
        net.is_right((1, 3, size, size))
    assert len(ranged.requests) == 3
    assert ranged.ranges[2] == ranged.ranges[1]


def test_executors_follow(ranged, tmp_path):
    """Those that were bound to shapes before too."""
    symbol = pictures()
    arguments, _, _ = symbol.infer_shape(data=(1, 3, 40, 40))
    args = {
        name: mx.nd.random.uniform(shape=shape)
        for name, shape in zip(symbol.list_arguments(), arguments, strict=True)
    }
    with mxtrt.options(cache_dir=str(tmp_path)):
        one = symbol.bind(mx.cpu(), args, grad_req="null")
        other = one.reshape(data=(1, 3, 32, 32))
    for executor in (one, other, one, other):
        x = mx.nd.random.uniform(shape=executor.arg_dict["data"].shape)
        expected = symbol.bind(mx.cpu(), {**args, "data": x}, grad_req="null").forward()[0]
        assert_close(executor.forward(data=x)[0], expected)


def test_ranges_that_are_asked_for_are_built_first(ranged, tmp_path):
    """As one profile where the usual sizes are said."""
    net = Net(pictures(), tmp_path, shapes="data:1/2/4,3,16/32/64,16/32/64")
    for size in (20, 64, 16):
        net.is_right((2, 3, size, size))
    (ranges,) = ranged.ranges
    (profile,) = ranges.profiles
    assert profile.smallest == ((1, 3, 16, 16),)
    assert profile.usual == ((2, 3, 32, 32),)
    assert profile.largest == ((4, 3, 64, 64),)


def test_wide_ranges_that_are_asked_for_have_several_profiles(ranged, tmp_path):
    """Where nothing is said of usual sizes."""
    net = Net(pictures(), tmp_path, shapes="data:1,3,16-256,16-256")
    net.is_right((1, 3, 32, 32))
    (ranges,) = ranged.ranges
    assert len(ranges.profiles) == 3
    for one in ranges.profiles:
        assert one.smallest[0][2] < one.usual[0][2] < one.largest[0][2]


def test_the_engine_that_is_asked_for_does_not_depend_on_the_first_shape(ranged, tmp_path):
    """So that it can be built ahead."""
    for side in (16, 100, 256):
        Net(pictures(), tmp_path, shapes="data:1,3,16-256,16-256").is_right((1, 3, side, side))
    assert len(set(ranged.ranges)) == 1


def test_inputs_of_the_same_range_may_have_different_sizes(ranged, tmp_path):
    """Where the graph allows it; else they are one."""
    other = mx.sym.FullyConnected(mx.sym.var("other"), num_hidden=8, flatten=False, name="two")
    apart = mx.sym.batch_dot(texts(), other, transpose_b=True)
    net = Net(apart, tmp_path, "data", "other", shapes="data:1,4-16,6;other:1,4-16,6")
    for one, two in ((8, 8), (9, 5), (4, 16)):
        net.is_right((1, one, 6), (1, two, 6))
    (ranges,) = ranged.ranges
    assert sorted(ranges.symbols) == [((0, 1),), ((1, 1),)]
    together = mx.sym.elemwise_add(texts(), other)
    net = Net(together, tmp_path, "data", "other", shapes="data:1,4-16,6;other:1,4-16,6")
    for length in (8, 5, 16):
        net.is_right((1, length, 6), (1, length, 6))
    assert ranged.ranges[1:] != []
    assert ranged.ranges[1].symbols == (((0, 1), (1, 1)),)


def test_shapes_outside_of_the_option_run_in_mxnet(ranged, tmp_path, caplog):
    """With one sentence."""
    net = Net(pictures(), tmp_path, shapes="data:1,3,16-64,16-64")
    net.is_right((1, 3, 32, 32))
    runs = mxtrt.stats().engine_runs
    for _ in range(2):
        net.is_right((1, 3, 80, 32))
    assert mxtrt.stats().engine_runs == runs
    assert len(ranged.requests) == 1
    (told,) = {record.getMessage() for record in caplog.records if record.levelname == "WARNING"}
    assert "(1, 3, 80, 32) are outside of option shapes" in told
    assert told.endswith("widen the option to run them in the engine")


def test_a_first_shape_outside_of_the_option_is_left_to_mxnet(ranged, tmp_path):
    """With one sentence."""
    net = Net(pictures(), tmp_path, shapes="data:1,3,16-64,16-64")
    said = r"input 'data' has shape \(1, 3, 80, 32\), outside of option shapes"
    with pytest.warns(mxtrt.MxtrtWarning, match=said):
        net.is_right((1, 3, 80, 32))
    assert ranged.requests == []


@pytest.mark.parametrize(
    ("shapes", "said"),
    [
        ("data:1-2,3,16-64", "it gives 'data' 3 axes, expected 4, as its shape (1, 3, 32, 32) has"),
        ("data:1,3,16-64,16-64;mask:4", "it names 'mask', which is no input of the graph; its"),
        ("data:1,3,2-64,16-64", "kernel size exceed input"),
    ],
)
def test_an_option_that_does_not_fit_the_graph_has_no_effect(
    ranged, tmp_path, caplog, shapes, said
):
    """One sentence; the graph has engines as without it."""
    net = Net(pictures(), tmp_path, shapes=shapes)
    net.is_right((1, 3, 32, 32))
    (record,) = [record for record in caplog.records if record.levelname == "WARNING"]
    assert record.getMessage().startswith("option shapes has no effect here: ")
    assert said in record.getMessage()
    assert ranged.ranges == [None]


def test_an_option_for_another_graph_says_nothing(ranged, tmp_path, caplog):
    """It may be of the environment, for all models of a process."""
    Net(pictures(), tmp_path, shapes="tokens:1,1-64").is_right((1, 3, 32, 32))
    assert not [record for record in caplog.records if record.levelname == "WARNING"]
    assert ranged.ranges == [None]


def test_a_profile_that_is_refused_gives_way_to_an_engine_per_shape(ranged, tmp_path):
    """With the reason in the report."""
    ranged.refuses = lambda request: "out of memory" if request.ranges else None
    net = Net(pictures(), tmp_path, shapes="data:1,3,16-64,16-64")
    for size in (32, 80):
        net.is_right((1, 3, size, size))
    assert ranged.ranges == [None, None]
    assert "every input shape has an engine of its own: out of memory" in net.node.report.notes


def test_segments_inside_a_graph_have_the_ranges_that_follow(ranged, tmp_path):
    """What stays in MXNet between two segments changes the shapes."""
    x = mx.sym.Convolution(DATA, kernel=(3, 3), num_filter=4, stride=(2, 2), name="one")
    x = mx.sym.Pooling(x, kernel=(2, 2), stride=(2, 2), pool_type="max", name="pool")
    x = mx.sym.Convolution(x, kernel=(3, 3), num_filter=4, name="two")
    net = Net(x, tmp_path, shapes="data:1,3,31-63,31", deny_ops="Pooling", allow_ops="*")
    for size in (31, 63, 40):
        net.is_right((1, 3, size, 31))
    assert len(ranged.requests) == 2
    by_input = {ranges.largest[0][1]: ranges for ranges in ranged.ranges}
    assert by_input[4].smallest == ((1, 4, 7, 7),)
    assert by_input[4].largest == ((1, 4, 15, 7),)


def test_batch_profile_is_a_short_form(ranged, tmp_path):
    """One profile for the batch sizes."""
    net = Net(pictures(), tmp_path, batch_profile="1,2,32")
    for batch in (2, 32, 1):
        net.is_right((batch, 3, 16, 16))
    (ranges,) = ranged.ranges
    assert [p.usual for p in ranges.profiles] == [((2, 3, 16, 16),)]
    assert ranges.symbols == (((0, 0),),)


def test_engines_for_many_shapes_take_no_harm(monkeypatch, tmp_path):
    """ONNX Runtime serves all of them anyway; the model for them is found at the bind."""
    monkeypatch.setenv("MXTRT_ENGINE", "onnxruntime")
    net = Net(texts(), tmp_path, shapes="data:1,4-16,6")
    net.is_right((1, 5, 6))
    assert net.node._segment.general is not None
    builds = mxtrt.stats().builds
    for length in (9, 20):
        net.is_right((1, length, 6))
    assert mxtrt.stats().builds == builds + 1
