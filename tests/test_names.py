"""Whatever MXNet allows in a name reaches the engine, or leaves the graph to MXNet."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mxnet as mx
import numpy as np
import pytest
from mxnet.gluon import nn
from support.networks import assert_close

import mxtrt
from mxtrt.errors import GraphError
from mxtrt.graph.symbol import Entry, Graph, read_json, write_json

F = mx.sym

NAMES = [
    "卷积",
    "é",
    "\U0001f600",
    "a b",
    'quote"d',
    "it's",
    "back\\slash",
    "\\u0041\\",
    "a/b.c:d,e;f",
    "tab\tline\nreturn\rend",
    "control\x01\x08\x0c\x1b\x7f",
    "x" * 5000,
    "{}%s",
    "conv__1",
    "data__float32",
    "const_0123456789abcdef",
    "mxtrt1",
    "self",
    "partial",
]
READABLE = [ascii(name)[:24] for name in NAMES]


def network(place: str, name: str) -> mx.sym.Symbol:
    """Two segments around an operator of MXNet's; one thing in it is called by a name."""

    def called(here: str) -> str:
        return name if here == place else here

    data, weight = F.var(called("data")), F.var(called("weight"))
    first = F.Convolution(
        data, weight, num_filter=4, kernel=(3, 3), no_bias=True, name=called("inner")
    )
    edge = F.relu(first, name=called("edge"))
    left = F.round(edge, name=called("left"))
    return F.exp(F.tanh(left), name=called("head"))


def images(batch: int) -> mx.nd.NDArray:
    """Random pictures."""
    return mx.nd.array(np.random.RandomState(batch).uniform(-1, 1, (batch, 3, 6, 6)))


def answered(symbol: mx.sym.Symbol, names: dict[str, Any], batch: int) -> np.ndarray:
    """Plain MXNet's answer."""
    with mxtrt.options(enabled=False):
        executor = symbol.bind(mx.cpu(), names, grad_req="null")
    return executor.forward()[0].asnumpy()


@pytest.mark.parametrize("place", ["data", "weight", "inner", "edge", "left", "head"])
@pytest.mark.parametrize("name", NAMES, ids=READABLE)
def test_every_name_reaches_the_engine(place: str, name: str) -> None:
    """Of data, a weight, and operators inside, at the edge and outside of segments."""
    symbol = network(place, name)
    data, weight = symbol.list_arguments()
    arrays = {data: images(2), weight: mx.nd.ones((4, 3, 3, 3)) * 0.1}
    with mxtrt.options(allow_ops="*"):
        executor = symbol.bind(mx.cpu(), arrays, grad_req="null")
        report = mxtrt.last_report()
        assert not report.reason
        assert [len(segment.nodes) for segment in report.segments] == [2, 2]
        assert_close(executor.forward()[0], answered(symbol, arrays, 2))
        if data in ("self", "partial"):  # of which MXNet's own reshape wants to know otherwise
            return
        smaller = executor.reshape(**{data: (1, 3, 6, 6)})
    smaller.arg_dict[data][:] = images(1)
    before = mxtrt.stats().engine_runs
    assert_close(smaller.forward()[0], answered(symbol, {**arrays, data: images(1)}, 1))
    assert mxtrt.stats().engine_runs > before
    assert mxtrt.last_report().segments
    assert str(mxtrt.last_report())


@pytest.mark.parametrize("name", NAMES, ids=READABLE)
def test_a_layer_of_any_name_has_an_engine_at_every_batch_size(name: str) -> None:
    """Gluon's names are prefixes and parameters."""
    net = nn.HybridSequential(prefix="")
    with net.name_scope():
        net.add(nn.Conv2D(4, 3, in_channels=3, prefix=name), nn.Dense(3, in_units=64, prefix="d"))
    net.initialize()
    net.hybridize()
    for batch in (1, 2):
        with mxtrt.options():
            before = mxtrt.stats().engine_runs
            seen = net(images(batch)).asnumpy()
            assert mxtrt.stats().engine_runs > before
        net.hybridize(active=False)
        assert_close(seen, net(images(batch)))
        net.hybridize()


@pytest.mark.parametrize("name", NAMES, ids=READABLE)
@pytest.mark.parametrize("place", ["data", "weight", "left", "head"])
def test_a_partitioned_symbol_with_any_name_is_saved_and_loaded(
    place: str, name: str, tmp_path: Path
) -> None:
    """Its weights in the second file too, and for plain MXNet."""
    symbol = network(place, name)
    data, weight = symbol.list_arguments()
    arrays = {data: images(2), weight: mx.nd.ones((4, 3, 3, 3)) * 0.1}
    expected = answered(symbol, arrays, 2)
    given = dict(arrays)
    engines = symbol.optimize_for("TensorRT", given, {}, mx.cpu(), allow_ops="*", data_names=data)
    assert len(mxtrt.last_report().segments) == 2
    file = str(tmp_path / "net-symbol.json")
    engines.save(file)
    loaded = mx.sym.load(file)
    (again,) = loaded.list_arguments()
    assert again == data
    executor = loaded.bind(mx.cpu(), {data: arrays[data]}, grad_req="null")
    assert_close(executor.forward()[0], expected)
    text = Path(file).read_text(encoding="utf-8")
    assert read_json(text)["attrs"]


# -- names that meet -------------------------------------------------------------------------


def _op_output_and_variable() -> mx.sym.Symbol:
    """A variable called like the output of an operator that it meets."""
    return F.tanh(F.var("x"), name="t") - F.exp(F.var("t_output0"))


def _outside_output_and_variable() -> mx.sym.Symbol:
    """A variable called like what a segment reads of an operator in MXNet."""
    return F.tanh(F.round(F.var("x") * 4, name="r")) - F.exp(F.var("r_output0"))


def _two_outside() -> mx.sym.Symbol:
    """Two operators in MXNet of one name, read by one segment."""
    one = F.round(F.var("x") * 4, name="r")
    return F.tanh(one) - F.exp(F.round(F.var("y") * 2, name="r"))


def _two_inside() -> mx.sym.Symbol:
    """Two operators of one name in one segment, and one that is called like ours for them."""
    one = F.tanh(F.var("x"), name="n")
    return F.exp(F.tanh(F.var("y"), name="n") - one, name="n__1") * F.var("n__3")


def _variable_and_operator() -> mx.sym.Symbol:
    """A variable and an operator of one name."""
    return F.tanh(F.var("x"), name="y") - F.exp(F.var("y"))


def _variables_like_ours() -> mx.sym.Symbol:
    """Variables called like values that converters make."""
    scaled = F.tanh(F.var("x"), name="t") * 3 + F.var("_mulscalar0_mul__1")
    return F.clip(scaled - F.var("op_max__1"), -1, 1, name="op") + F.var("t_output0_")


def _heads_called_alike() -> mx.sym.Symbol:
    """Heads of one name, an input among them."""
    x, y = F.var("x"), F.var("h_output")
    return F.Group([F.tanh(x, name="h"), F.exp(y, name="h"), y * 2])


MEETINGS: dict[str, Callable[[], mx.sym.Symbol]] = {
    function.__doc__ or "": function
    for function in (
        _op_output_and_variable,
        _outside_output_and_variable,
        _two_outside,
        _two_inside,
        _variable_and_operator,
        _variables_like_ours,
        _heads_called_alike,
    )
}


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("meeting", MEETINGS)
def test_names_that_meet_are_told_apart(meeting: str, half: bool) -> None:
    """Each value is what it is in MXNet, whatever else is called like it."""
    symbol = MEETINGS[meeting]()
    random = np.random.RandomState(0)
    args = {n: mx.nd.array(random.uniform(-1, 1, (2, 3))) for n in symbol.list_arguments()}
    given = {name: array.astype("float16") for name, array in args.items()} if half else args
    with mxtrt.options(allow_ops="*"):
        executor = symbol.bind(mx.cpu(), given, grad_req="null")
    assert not mxtrt.last_report().reason
    assert mxtrt.last_report().segments
    with mxtrt.options(enabled=False):
        right = symbol.bind(mx.cpu(), args, grad_req="null").forward()
    for seen, expected in zip(executor.forward(), right, strict=True):
        assert_close(seen.astype("float32"), expected, 4e-3 if half else 1e-5)


def test_constants_and_casts_are_not_called_like_variables() -> None:
    """Their names are made of what they hold, and could be known."""
    from mxtrt.convert.onnx_builder import OnnxBuilder

    name = OnnxBuilder().constant(np.float32(2))
    symbol = F.tanh(F.var("x")) * 2 + F.var(name) - F.var("x__float32")
    half = {n: mx.nd.ones((2, 3), dtype="float16") for n in symbol.list_arguments()}
    half[name] *= 8
    with mxtrt.options(allow_ops="*"):
        executor = symbol.bind(mx.cpu(), half, grad_req="null")
    assert not mxtrt.last_report().left
    assert_close(executor.forward()[0].astype("float32"), np.full((2, 3), 8.523), 1e-3)


def test_an_engine_node_is_not_called_like_an_operator() -> None:
    """One with several outputs is called by its number, which is the user's name as well."""
    with mxtrt.options(allow_ops="*"):
        F.tanh(F.var("x")).bind(mx.cpu(), {"x": mx.nd.ones((2,))}, grad_req="null")
        number = int(mxtrt.last_report().segments[0].name.removeprefix("mxtrt"))
    x = F.var("x")
    others = [F.round(x, name=f"mxtrt{number + place}") for place in range(1, 4)]
    symbol = F.Group([F.tanh(x), F.exp(x), *others])
    engines = symbol.optimize_for(
        "TensorRT", {"x": mx.nd.ones((2,))}, {}, mx.cpu(), allow_ops="*", data_names="x"
    )
    assert len(set(engines.list_outputs())) == 5


# -- names that no engine takes ----------------------------------------------------------------


def test_a_variable_without_a_name_leaves_its_readers_to_mxnet() -> None:
    """ONNX takes it for an input that is left out."""
    symbol = F.exp(F.round(F.tanh(F.var("")) + 1))
    x = mx.nd.array([0.5, -2])
    with mxtrt.options(allow_ops="*"):
        executor = symbol.bind(mx.cpu(), {"": x}, grad_req="null")
    assert "it reads a variable without a name" in {n.reason for n in mxtrt.last_report().left}
    assert_close(executor.forward()[0], mx.nd.exp(mx.nd.round(mx.nd.tanh(x) + 1)))


def test_two_variables_of_one_name_are_mxnets() -> None:
    """They are bound in a row; nothing else tells them apart."""
    symbol = F.tanh(F.var("x")) - F.exp(F.var("x"))
    rows = [mx.nd.ones((2,)), mx.nd.zeros((2,))]
    with mxtrt.options(allow_ops="*"), pytest.warns(mxtrt.MxtrtWarning):
        executor = symbol.bind(mx.cpu(), rows, grad_req="null")
    assert_close(executor.forward()[0], np.tanh([1, 1]) - 1)


@pytest.fixture
def not_text(tmp_path: Path) -> mx.sym.Symbol:
    """A symbol with an operator whose name is not UTF-8, which MXNet reads and runs."""
    file = tmp_path / "latin-symbol.json"
    text = (F.tanh(F.var("x"), name="operator") * 2).tojson()
    file.write_bytes(text.replace("operator", "op\u00e9rateur").encode("latin-1"))
    return mx.sym.load(str(file))


def test_a_name_that_is_no_text_leaves_the_graph_to_mxnet(not_text: mx.sym.Symbol) -> None:
    """With a sentence, and nothing raises."""
    x = mx.nd.ones((2,))
    with mxtrt.options(allow_ops="*"):
        with pytest.warns(mxtrt.MxtrtWarning, match="not UTF-8"):
            executor = not_text.bind(mx.cpu(), {"x": x}, grad_req="null")
        assert_close(executor.forward()[0], np.tanh([1, 1]) * 2)
        simple = not_text.simple_bind(mx.cpu(), grad_req="null", x=(2,))
        assert_close(simple.forward(x=x)[0], np.tanh([1, 1]) * 2)
        block = mx.gluon.SymbolBlock(not_text, [F.var("x")])
        block.hybridize()
        assert_close(block(x), np.tanh([1, 1]) * 2)
    assert "not UTF-8" in mxtrt.last_report().reason


def test_a_name_that_is_no_text_is_saved_beside_engines(
    not_text: mx.sym.Symbol, tmp_path: Path
) -> None:
    """The symbol is looked through for engine nodes, of which it has none."""
    with mxtrt.options(allow_ops="*"):
        kept = F.tanh(F.var("x")).bind(mx.cpu(), {"x": mx.nd.ones((2,))}, grad_req="null")
    not_text.save(str(tmp_path / "again-symbol.json"))
    assert b"op\xe9rateur" in (tmp_path / "again-symbol.json").read_bytes()
    assert kept.forward()


# -- JSON ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*NAMES, "\\b\\f\\\\u0001", "\\\\\x01"], ids=ascii)
def test_json_is_read_and_written_as_mxnet_does(name: str) -> None:
    """Names and attributes come back as they were."""
    variable = F.var(name, attr={"note": name})
    text = Graph.of(F.tanh(variable, name=name)).to_json()
    assert mx.sym.load_json(text).tojson() == F.tanh(variable, name=name).tojson()
    assert read_json(write_json({name: [name]})) == {name: [name]}


def test_json_of_our_own_is_valid_json_but_for_control_characters() -> None:
    """Any reader takes it."""
    assert json.loads(write_json(["卷积", 'a\\b"c\n'])) == ["卷积", 'a\\b"c\n']


def test_values_have_names_of_their_own_and_are_found_by_them() -> None:
    """Those of variables are the user's, and of operators too, unless something has them."""
    graph = Graph.of(_two_inside())
    entries = [Entry(index) for index in range(len(graph.nodes))]
    names = [graph.value_name(entry) for entry in entries]
    assert len(set(names)) == len(names)
    for entry, name in zip(entries, names, strict=True):
        if graph.nodes[entry.node].is_variable:
            assert name == graph.nodes[entry.node].name
        else:
            assert graph.entry_called(name) == entry


def test_two_variables_of_one_name_are_an_error_of_a_part() -> None:
    """Which says so."""
    graph = Graph.of(F.tanh(F.var("x")) - F.exp(F.var("x")))
    operators = [i for i, node in enumerate(graph.nodes) if not node.is_variable]
    with pytest.raises(GraphError, match="two variables are called 'x'"):
        graph.subgraph(operators, graph.heads)


@pytest.fixture(autouse=True)
def quiet() -> None:
    """MXNet tells what it activates."""
    logging.getLogger("mxnet").setLevel(logging.ERROR)
