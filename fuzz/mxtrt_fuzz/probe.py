"""Which of MXNet's own operators work on this machine's GPU.

MXNet's last wheels hold no code for GPUs newer than Ada (sm_89).  There its own kernels fail, some
of them without an error: an operator works if it returns the values that it returns on the CPU.
What cuDNN, cuBLAS or NVRTC do for MXNet works anywhere.

Operators are tried in another process; the one that brings it down has failed, and the rest go on
in a new one.
"""

from __future__ import annotations

import functools
import json
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mxtrt.plain.forward import bound

__all__ = ["CASES", "operators", "working_operators"]

# Seconds for one process.
_TIMEOUT = 300
_TOLERANCE = 1e-3  # of the largest value: cuDNN may use TF32 or Winograd

_Case = Callable[[Any], Any]


def _image(function: Callable[[Any, Any], Any]) -> tuple[_Case, Mapping[str, Sequence[int]]]:
    return lambda sym: function(sym, sym.var("x")), {"x": (2, 8, 12, 12)}


#: For every operator a small graph and the shapes of its inputs.
CASES: Mapping[str, tuple[_Case, Mapping[str, Sequence[int]]]] = {
    "Convolution": _image(
        lambda sym, x: sym.Convolution(x, kernel=(3, 3), pad=(1, 1), num_filter=16)
    ),
    "Deconvolution": _image(
        lambda sym, x: sym.Deconvolution(x, kernel=(2, 2), stride=(2, 2), num_filter=4)
    ),
    "BatchNorm": _image(lambda sym, x: sym.BatchNorm(x, fix_gamma=False)),
    "Pooling": _image(lambda sym, x: sym.Pooling(x, kernel=(2, 2), stride=(2, 2), pool_type="max")),
    "Activation": _image(lambda sym, x: sym.Activation(x, act_type="tanh")),
    "LeakyReLU": _image(lambda sym, x: sym.LeakyReLU(x, act_type="leaky", slope=0.1)),
    "SoftmaxActivation": _image(lambda sym, x: sym.SoftmaxActivation(x, mode="channel")),
    "softmax": _image(lambda sym, x: sym.softmax(x, axis=1)),
    "LRN": _image(lambda sym, x: sym.LRN(x, nsize=3)),
    "FullyConnected": (
        lambda sym: sym.FullyConnected(sym.var("x"), num_hidden=5),
        {"x": (2, 4)},  # few products, so that a missing bias shows
    ),
    "Flatten": _image(lambda sym, x: sym.Flatten(x)),
    "Reshape": _image(lambda sym, x: sym.Reshape(x, shape=(2, 16, -1))),
    "transpose": _image(lambda sym, x: sym.transpose(x, axes=(0, 2, 3, 1))),
    "Concat": _image(lambda sym, x: sym.Concat(x, x, dim=1)),
    "SliceChannel": _image(lambda sym, x: sym.SliceChannel(x, num_outputs=2)[1]),
    "elemwise_add": _image(lambda sym, x: sym.elemwise_add(x, x)),
    "broadcast_mul": _image(lambda sym, x: sym.broadcast_mul(x, sym.mean(x, keepdims=True))),
    "_mul_scalar": _image(lambda sym, x: x * 3),
    "relu": _image(lambda sym, x: sym.relu(x)),
    "sigmoid": _image(lambda sym, x: sym.sigmoid(x)),
    "sum": _image(lambda sym, x: sym.sum(x, axis=1)),
    "mean": _image(lambda sym, x: sym.mean(x, axis=(2, 3))),
    "pointwise chain": _image(lambda sym, x: sym.relu(sym.elemwise_add(x, x)) * 3),
    "dot": (
        lambda sym: sym.dot(sym.var("x"), sym.var("y")),
        {"x": (6, 8), "y": (8, 5)},
    ),
    "batch_dot": (
        lambda sym: sym.batch_dot(sym.var("x"), sym.var("y")),
        {"x": (3, 6, 8), "y": (3, 8, 5)},
    ),
}


@functools.cache
def operators(gpu: int = 0) -> Mapping[str, str]:
    """Every operator of :data:`CASES`: why it does not work on a GPU, empty if it does."""
    found: dict[str, str] = {}
    while len(found) < len(CASES):
        left = [name for name in CASES if name not in found]
        command = [sys.executable, "-W", "ignore", "-m", "mxtrt_fuzz.probe", str(gpu), *left]
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=_TIMEOUT, check=False
            )
            output, end = done.stdout, f"the process ended with {done.returncode}"
        except subprocess.TimeoutExpired as error:
            output, end = _text(error.stdout), "it did not end"
        answers = [json.loads(line) for line in output.splitlines() if line.startswith("[")]
        found.update(answers)
        if len(answers) < len(left):
            found[left[len(answers)]] = end
    return found


def working_operators(gpu: int = 0) -> frozenset[str]:
    """Operators of :data:`CASES` that return the right values on a GPU."""
    return frozenset(name for name, reason in operators(gpu).items() if not reason)


def _text(output: str | bytes | None) -> str:
    return output.decode() if isinstance(output, bytes) else output or ""


def _why_not(name: str, gpu: int) -> str:
    import mxnet as mx
    import numpy as np

    random = np.random.RandomState(0)
    build, shapes = CASES[name]
    symbol = build(mx.sym)
    arguments, _, states = symbol.infer_shape(**{n: tuple(s) for n, s in shapes.items()})
    values = {
        n: random.uniform(0.5, 1.5, s).astype(np.float32)
        for n, s in zip(
            symbol.list_arguments() + symbol.list_auxiliary_states(),
            arguments + states,
            strict=True,
        )
    }

    def answer(context: Any) -> Any:
        arrays = {n: mx.nd.array(value, ctx=context) for n, value in values.items()}
        out = bound(symbol, arrays, context).forward(is_train=False)[0].asnumpy()
        mx.nd.waitall()
        return out

    expected = answer(mx.cpu())
    try:
        seen = answer(mx.gpu(gpu))
    except mx.MXNetError as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        return lines[-1] if lines else "MXNetError"
    worst = float(np.abs(seen - expected).max() / np.abs(expected).max())
    return "" if worst <= _TOLERANCE else f"its values are wrong by {worst:.1e} of the largest"


def _main(gpu: int, names: Sequence[str]) -> None:
    for name in names:
        print(json.dumps([name, _why_not(name, gpu)]), flush=True)


if __name__ == "__main__":
    _main(int(sys.argv[1]), sys.argv[2:])
