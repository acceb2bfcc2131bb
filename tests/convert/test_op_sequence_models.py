"""Networks on sequences, layer by layer as their libraries make them, in plain MXNet and mxtrt."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import mxnet as mx
import numpy as np
import pytest
from mxnet import gluon
from mxnet.gluon import nn
from support.networks import assert_close, parameters, plain

import mxtrt
from mxtrt.convert.ops import registry
from mxtrt.hooks import gluon as hook

#: What a bind of these networks may leave in MXNet.
LEFT = {"CTCLoss", "MakeLoss"}


def initialized(block: Any, seed: int = 0) -> Any:
    """The block with fixed random parameters of a tame size."""
    random = np.random.RandomState(seed)
    block.initialize()
    for name, parameter in block.collect_params().items():
        low = 0.5 if name.endswith(("gamma", "var")) else -0.3
        high = 1.5 if name.endswith(("gamma", "var")) else 0.3
        parameter.set_data(mx.nd.array(random.uniform(low, high, parameter.shape)))
    return block


@pytest.fixture(autouse=True)
def no_fallback(monkeypatch: pytest.MonkeyPatch) -> None:
    """A call that runs as plain MXNet after all is an error."""
    monkeypatch.setattr(hook._log, "warning", pytest.fail)


def check(block: Any, *inputs: np.ndarray[Any, Any], **options: Any) -> Any:
    """Compare the block in mxtrt with itself in plain MXNet and return the report."""
    arrays = [mx.nd.array(x, dtype=x.dtype) for x in inputs]
    block.hybridize()
    with mxtrt.options(enabled=False):
        expected = _outputs(block(*arrays))
    block.hybridize()
    with mxtrt.options(allow_ops="*", **options):  # what MXNet is faster at too
        actual = _outputs(block(*arrays))
    assert len(actual) == len(expected)
    for ours, theirs in zip(actual, expected, strict=True):
        assert np.abs(ours - theirs).max() <= 1e-5 * np.abs(theirs).max()
    report = mxtrt.last_report()
    assert report is not None
    assert report.nodes_in_engine > 0
    left = LEFT | {"RNN", "Reshape", "_rnn_param_concat", "_zeros"} if options else LEFT
    assert {node.op for node in report.left} <= left, report
    return report


def _outputs(value: Any) -> Sequence[np.ndarray[Any, Any]]:
    values = value if isinstance(value, (list, tuple)) else [value]
    return [
        array.asnumpy() for part in values for array in (part if isinstance(part, list) else [part])
    ]


class SelfAttention(gluon.HybridBlock):
    """Multi-head self-attention with interleaved projections (GluonNLP 0.10's BERT)."""

    def __init__(self, units: int, heads: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._units, self._heads = units, heads
        with self.name_scope():
            for part in ("query", "key", "value"):
                weight = self.params.get(f"{part}_weight", shape=(units, units))
                bias = self.params.get(f"{part}_bias", shape=(units,))
                setattr(self, f"{part}_weight", weight)
                setattr(self, f"{part}_bias", bias)

    def hybrid_forward(self, F: Any, x: Any, length: Any, **parameters: Any) -> Any:
        """Attention of (length, batch, units) to itself, up to a length for every row."""
        weights, biases = [], []
        for part in ("query", "key", "value"):
            weight, bias = parameters[f"{part}_weight"], parameters[f"{part}_bias"]
            weights.append(F.reshape(weight, shape=(self._heads, -1, 0), reverse=True))
            biases.append(F.reshape(bias, shape=(self._heads, -1)))
        weight = F.reshape(F.concat(*weights, dim=-2), shape=(-1, 0), reverse=True)
        bias = F.reshape(F.concat(*biases, dim=-1), shape=(-1,))
        both = F.FullyConnected(x, weight, bias, num_hidden=3 * self._units, flatten=False)
        scores = F.contrib.interleaved_matmul_selfatt_qk(both, heads=self._heads)
        length = F.broadcast_axis(F.expand_dims(length, axis=1), axis=1, size=self._heads)
        length = F.reshape(length, shape=(-1, 0), reverse=True)
        weights = F.Dropout(F.softmax(scores, length, use_length=True, axis=-1), p=0.1)
        return F.contrib.interleaved_matmul_selfatt_valatt(both, weights, heads=self._heads)


class EncoderLayer(gluon.HybridBlock):
    """Self-attention and two dense layers, each with a residual and a LayerNorm after it."""

    def __init__(self, units: int, hidden: int, heads: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        with self.name_scope():
            self.attention = SelfAttention(units, heads)
            self.projection = nn.Dense(units, flatten=False, in_units=units)
            self.first_norm = nn.LayerNorm(epsilon=1e-12, in_channels=units)
            self.inner = nn.Dense(hidden, flatten=False, in_units=units)
            self.activation = nn.GELU()
            self.outer = nn.Dense(units, flatten=False, in_units=hidden)
            self.second_norm = nn.LayerNorm(epsilon=1e-12, in_channels=units)

    def hybrid_forward(self, F: Any, x: Any, length: Any) -> Any:
        """From (length, batch, units) to the same."""
        x = self.first_norm(self.projection(self.attention(x, length)) + x)
        return self.second_norm(self.outer(self.activation(self.inner(x))) + x)


class Encoder(gluon.HybridBlock):
    """Words, positions and layers, with a valid length for every sequence of the batch."""

    def __init__(self, layers: int, units: int, hidden: int, heads: int, longest: int) -> None:
        super().__init__(prefix="encoder_")
        self._longest, self._units = longest, units
        with self.name_scope():
            self.words = nn.Embedding(50, units)
            self.position_weight = self.params.get("position_weight", shape=(longest, units))
            self.norm = nn.LayerNorm(epsilon=1e-12, in_channels=units)
            self.layers = nn.HybridSequential()
            for i in range(layers):
                self.layers.add(EncoderLayer(units, hidden, heads, prefix=f"layer{i}_"))

    def hybrid_forward(self, F: Any, words: Any, valid_length: Any, position_weight: Any) -> Any:
        """From words (batch, length) to (length, batch, units)."""
        x = F.transpose(self.words(words), axes=(1, 0, 2))
        steps = F.contrib.arange_like(x, axis=0)
        columns = F.reshape(F.zeros_like(steps), shape=(1, -1))
        lengths = F.broadcast_add(F.reshape(valid_length, shape=(-1, 1)), columns)
        lengths = F.cast(lengths, dtype="int32")
        positions = F.Embedding(steps, position_weight, self._longest, self._units)
        x = self.norm(F.broadcast_add(x, F.expand_dims(positions, axis=1)))
        for layer in self.layers:
            x = layer(x, lengths)
        return F.SequenceMask(x, valid_length, use_sequence_length=True, axis=0)


@pytest.mark.parametrize(("batch", "length"), [(1, 7), (3, 5)])
def test_a_bert_encoder_agrees(batch: int, length: int) -> None:
    """Also on what is behind a sequence's end: zeros."""
    net = initialized(Encoder(layers=2, units=32, hidden=64, heads=4, longest=16))
    random = np.random.RandomState(1)
    words = random.randint(0, 50, (batch, length)).astype(np.float32)
    check(net, words, random.randint(1, length + 1, batch).astype(np.float32))


class Recognizer(gluon.HybridBlock):
    """A text recognizer: convolutions, recurrent layers over the columns, a dense layer."""

    def __init__(self, cell: str) -> None:
        super().__init__(prefix="recognizer_")
        layers = {"lstm": gluon.rnn.LSTM, "gru": gluon.rnn.GRU, "rnn": gluon.rnn.RNN}
        with self.name_scope():
            self.features = nn.HybridSequential()
            for before, channels, pool in ((1, 8, (2, 2)), (8, 16, (2, 2)), (16, 16, (2, 1))):
                self.features.add(
                    nn.Conv2D(channels, 3, padding=1, use_bias=False, in_channels=before),
                    nn.BatchNorm(in_channels=channels),
                    nn.Activation("relu"),
                    nn.MaxPool2D(pool),
                )
            self.recurrent = layers[cell](
                12, num_layers=2, bidirectional=True, layout="TNC", dropout=0.3, input_size=32
            )
            self.classes = nn.Dense(11, flatten=False, in_units=24)

    def hybrid_forward(self, F: Any, images: Any, *states: Any) -> Any:
        """From images (batch, 1, height, width) to (columns, batch, classes)."""
        columns = F.transpose(self.features(images), axes=(3, 0, 1, 2))
        x = F.reshape(columns, shape=(0, 0, -3))
        if not states:
            return self.classes(self.recurrent(x))
        x, states = self.recurrent(x, list(states))
        return [self.classes(x), *states]


@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn"])
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("given", [False, True])
def test_a_crnn_text_recognizer_agrees(cell: str, batch: int, given: bool) -> None:
    """With begin states that Gluon makes or that are given, in which case it returns the last."""
    if not given and "_zeros" not in registry():
        pytest.skip("no converter for the begin states")
    net = initialized(Recognizer(cell))
    random = np.random.RandomState(2)
    image = random.uniform(0, 1, (batch, 1, 16, 40)).astype(np.float32)
    count = 0 if not given else 2 if cell == "lstm" else 1
    states = [random.uniform(-1, 1, (4, batch, 12)).astype(np.float32) for _ in range(count)]
    report = check(net, image, *states)
    inside = {name for segment in report.segments for name in segment.nodes}
    assert any("rnn" in name for name in inside), report


def test_begin_states_in_mxnet_keep_their_layer_there() -> None:
    """Their batch size is open: MXNet infers it from the layer."""
    net = initialized(Recognizer("lstm"))
    image = np.random.RandomState(2).uniform(0, 1, (2, 1, 16, 40)).astype(np.float32)
    report = check(net, image, deny_ops=("_zeros",))
    reasons = {node.op: node.reason for node in report.left}
    assert reasons["RNN"].startswith("MXNet infers the shape of recognizer_")


@pytest.mark.parametrize("cell", [mx.rnn.LSTMCell, mx.rnn.GRUCell, mx.rnn.RNNCell])
@pytest.mark.parametrize("deny", ["FullyConnected", "FullyConnected,Activation", "SliceChannel"])
def test_sizes_stay_open_behind_operators_that_stay_in_mxnet(cell, deny) -> None:
    """A dense layer of a begin state has its batch size open too, until it is added to another."""
    unrolled, _ = cell(4, prefix="cell_").unroll(
        3, inputs=mx.sym.var("data"), layout="NTC", merge_outputs=True
    )
    symbol = mx.sym.FullyConnected(unrolled, num_hidden=3, name="out")
    x = mx.nd.random.uniform(-1, 1, (2, 3, 5))
    args, aux = parameters(symbol, data=x.shape)
    with mxtrt.options(allow_ops="*", deny_ops=deny):
        executor = symbol.simple_bind(mx.cpu(), grad_req="null", data=x.shape)
    executor.copy_params_from(args, aux)
    assert_close(executor.forward(data=x)[0], plain(symbol, args, aux, data=x)[0])
    report = mxtrt.last_report()
    assert not report.reason
    assert report.segments
    five = mx.nd.random.uniform(-1, 1, (5, 3, 5))
    other = executor.reshape(allow_up_sizing=True, data=five.shape)
    assert_close(other.forward(data=five)[0], plain(symbol, args, aux, data=five)[0])


class Trained(gluon.HybridBlock):
    """A recognizer as it is saved after training: with its loss (cnocr, MXNet's OCR example)."""

    def __init__(self) -> None:
        super().__init__(prefix="trained_")
        with self.name_scope():
            self.recognizer = Recognizer("lstm")

    def hybrid_forward(self, F: Any, images: Any, labels: Any) -> Any:
        """Probabilities and losses."""
        scores = self.recognizer(images)
        loss = F.MakeLoss(F.CTCLoss(scores, labels))
        return [F.softmax(F.BlockGrad(scores)), loss]


@pytest.mark.skipif("_zeros" not in registry(), reason="no converter for the begin states")
def test_only_the_loss_of_a_trained_recognizer_stays_in_mxnet() -> None:
    """The engine gives its input."""
    random = np.random.RandomState(2)
    image = random.uniform(0, 1, (2, 1, 16, 40)).astype(np.float32)
    labels = random.randint(1, 10, (2, 4)).astype(np.float32)
    report = check(initialized(Trained()), image, labels)
    assert len(report.segments) == 1
    reasons = {node.op: node.reason for node in report.left}
    assert reasons["CTCLoss"] == "it is the loss of a training; the engine gives what it reads"
