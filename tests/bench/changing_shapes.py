"""How long requests take while their shapes change.

``python tests/bench/changing_shapes.py texts 500``.  A block answers the requests twice in plain
MXNet and once with engines, on one thread of each, with builds as users have them.  A request is
late that takes more than 1.2 times what plain MXNet does, the quicker of its two, and 5 ms.  Prints
JSON.
"""

from __future__ import annotations

import json
import os
import sys
import time
import warnings
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"

import mxtrt  # isort: skip
import mxnet as mx
import numpy as np
from mxnet.gluon import nn
from mxnet.gluon.model_zoo import vision

from mxtrt.timing.measure import resident_bytes

UNITS, LAYERS, HEADS, WORDS, LONGEST = 128, 12, 4, 1000, 512


class Attention(nn.HybridBlock):
    """Attention of a sequence ``(length, batch, UNITS)`` to itself."""

    def __init__(self) -> None:
        super().__init__()
        with self.name_scope():
            self.into = nn.Dense(3 * UNITS, flatten=False)
            self.out = nn.Dense(UNITS, flatten=False)
            self.norm = nn.LayerNorm()

    def hybrid_forward(self, F: Any, x: Any) -> Any:
        qkv = self.into(x)
        weights = F.softmax(F.contrib.interleaved_matmul_selfatt_qk(qkv, heads=HEADS))
        mixed = F.contrib.interleaved_matmul_selfatt_valatt(qkv, weights, heads=HEADS)
        return self.norm(x + self.out(mixed))


class Encoder(nn.HybridBlock):
    """Texts ``(batch, length)`` of word numbers, and how much of each counts."""

    def __init__(self) -> None:
        super().__init__()
        with self.name_scope():
            self.embedding = nn.Embedding(WORDS, UNITS)
            self.places = self.params.get("places", shape=(LONGEST, UNITS))
            self.layers = nn.HybridSequential()
            for _ in range(LAYERS):
                wide = nn.Dense(4 * UNITS, flatten=False, activation="relu")
                self.layers.add(Attention(), wide, nn.Dense(UNITS, flatten=False))

    def hybrid_forward(self, F: Any, ids: Any, valid: Any, places: Any) -> Any:
        at = F.take(places, F.contrib.arange_like(ids, axis=1))
        x = F.transpose(self.embedding(ids) + F.expand_dims(at, 0), (1, 0, 2))
        x = F.SequenceMask(x, valid, use_sequence_length=True)
        return F.mean(self.layers(x), axis=0)


def texts(number: int, draw: np.random.RandomState) -> tuple[Any, list[tuple[Any, ...]]]:
    """An encoder of twelve layers, and texts of 4 to 384 words."""
    net = Encoder()
    net.initialize(mx.init.Xavier())
    lengths = draw.randint(4, 385, number)
    ask = [(mx.nd.array(draw.randint(0, WORDS, (1, n))), mx.nd.array([n - 1])) for n in lengths]
    return net, ask


def pictures(number: int, draw: np.random.RandomState) -> tuple[Any, list[tuple[Any, ...]]]:
    """resnet18_v1, and pictures of a hundred sizes of 160 to 400 pixels."""
    net = vision.resnet18_v1()
    net.initialize(mx.init.Xavier())
    sizes = draw.randint(160, 401, (100, 2))
    kinds = [mx.nd.array(draw.uniform(-1, 1, (1, 3, *size))) for size in sizes]
    return net, [(kinds[i],) for i in draw.randint(0, len(kinds), number)]


def answered(net: Any, ask: list[tuple[Any, ...]], **options: Any) -> tuple[Any, Any, Any]:
    """Seconds of each request, the answers, and resident bytes after each."""
    net.hybridize()
    seconds, answers, resident = [], [], []
    with mxtrt.options(threads=1, **options):
        for inputs in ask:
            begin = time.perf_counter()
            answers.append(net(*inputs).asnumpy())
            seconds.append(time.perf_counter() - begin)
            resident.append(resident_bytes())
    return np.array(seconds), answers, np.array(resident)


def main(kind: str, number: int) -> None:
    """Measure, and print what came out."""
    warnings.simplefilter("ignore")
    mx.random.seed(1)
    net, ask = {"texts": texts, "pictures": pictures}[kind](number, np.random.RandomState(1))
    net(*ask[0])
    (first, right, _), (second, _, _) = (answered(net, ask, enabled=False) for _ in range(2))
    plain, before = np.minimum(first, second), mxtrt.stats()
    seconds, answers, resident = answered(net, ask, enabled=True)
    after = mxtrt.stats()
    late = seconds[1:] - 1.2 * plain[1:] - 0.005
    control, _, _ = answered(net, ask, enabled=False)
    half = number // 2
    found = {
        "requests": number,
        "builds": after.builds - before.builds,
        "answered by MXNet meanwhile": after.postponed - before.postponed,
        "left to MXNet": after.fallbacks - before.fallbacks,
        "late": int((late > 0).sum()),
        "latest ms": round(float(late.max() * 1e3), 1),
        "late of plain MXNet": int((control[1:] > 1.2 * plain[1:] + 0.005).sum()),
        "first ms": round(float(seconds[0] * 1e3)),
        "median ms, last fifth": round(float(np.median(seconds[-number // 5 :]) * 1e3), 1),
        "plain": round(float(np.median(plain[-number // 5 :]) * 1e3), 1),
        "largest error": max(
            float(np.abs(a - b).max() / np.abs(b).max())
            for a, b in zip(answers, right, strict=True)
        ),
        "MiB, second half": round(float(resident[-1] - resident[half]) / 2**20, 1),
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
