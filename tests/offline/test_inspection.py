"""mxtrt.inspect and the report."""

from __future__ import annotations

import json

import mxnet as mx
import pytest
from support.networks import classifier, mixed

import mxtrt


def test_inspect_names_segments_and_reasons_without_binding():
    """Shapes of data suffice; nothing is built."""
    report = mxtrt.inspect(mixed(), {"data": (2, 3, 16, 16)})
    assert len(report.segments) == 2
    assert report.segments[0].nodes[0] == "first"
    assert report.segments[1].nodes[0] == "second"
    assert report.segments[0].inputs == ["data float32[2x3x16x16]"]
    assert [(node.name, node.reason) for node in report.left] == [
        ("middle", "no converter for operator round")
    ]
    assert report.weight_bytes == 4 * ((3 + 4) * 9 * 4 + 4 + 4)
    assert not any(segment.built for segment in report.segments)


def test_inspect_agrees_with_the_bind():
    """What is announced is what happens."""
    symbol = classifier()
    announced = mxtrt.inspect(symbol, {"data": (2, 3, 16, 16)})
    with mxtrt.options():
        symbol.simple_bind(mx.cpu(), grad_req="null", data=(2, 3, 16, 16))
    done = mxtrt.last_report()
    assert [s.nodes for s in announced.segments] == [s.nodes for s in done.segments]
    assert announced.weight_bytes == done.weight_bytes
    assert announced.left == done.left == []


def test_an_amp_cast_is_seen():
    """Symbol.tojson leaves it out, so that heads and nodes would not fit together."""
    data = mx.sym.Variable("data")
    symbol = mx.sym.amp_cast(mx.sym.round(data, name="round"), dtype="float16", name="cast")
    report = mxtrt.inspect(symbol, {"data": (2, 3)})
    assert [node.name for node in report.left] == ["round", "cast"]


def test_the_report_is_readable_and_json_ready():
    """str() for a person, to_dict() for a program."""
    report = mxtrt.inspect(mixed(), {"data": (1, 3, 8, 8)})
    assert "2 segments" in str(report)
    assert "1 x round: no converter for operator round" in str(report)
    data = json.loads(json.dumps(report.to_dict()))
    assert data["nodes_in_engine"] == report.nodes_in_engine
    assert data["left"][0]["op"] == "round"


def test_unknown_shapes_leave_nodes_with_that_reason():
    """Without the data's shape nothing is known at bind."""
    report = mxtrt.inspect(classifier(), {})
    assert report.segments == []
    assert {node.reason for node in report.left} == {"its shapes are not known at bind"}


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ({"dta": (1, 3, 8, 8)}, "no argument of the symbol; its data arguments are: data"),
        ({"data": (1, 3)}, "do not fit the symbol"),
    ],
)
def test_shapes_that_do_not_fit_are_named(shapes, message):
    """One sentence with the name, or with MXNet's own reason."""
    with pytest.raises(mxtrt.GraphError, match=message):
        mxtrt.inspect(classifier(), shapes)


def test_other_dtypes_stay_in_mxnet_with_the_reason():
    """Nobody wants float64 networks in an engine, and the report says why."""
    report = mxtrt.inspect(mixed(), {"data": (1, 3, 8, 8)}, dtypes={"data": "float64"})
    assert report.segments == []
    assert "dtype float64 is not float32" in {node.reason for node in report.left}
