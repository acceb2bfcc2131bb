"""What a call costs from C and from Python, plain and with engines, as a table.

``python tests/bench/frontends.py`` on a CPU; ``--gpu`` adds resnet50_v1 in TensorRT, of which a
picture is copied in and the answer out.  Each row is a process of its own.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("MXNET_SUBGRAPH_BACKEND", "NONE")

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import mxtrt  # noqa: I001
import mxnet as mx
import numpy as np
from mxnet.gluon import nn
from mxnet.gluon.model_zoo import vision

from mxtrt.frontends.environment import environment_for
from mxtrt.node.library import PATH
from support.programs import MXNET, compiled

HERE = Path(__file__).resolve().parents[1] / "frontends"

#: The same calls as in ``predict.c``, of an executor.
PYTHON = """
import sys, time
import mxtrt, mxnet as mx, numpy as np
model, device, side, times = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
context = mx.gpu() if device == "2" else mx.cpu()
begin = time.perf_counter()
symbol, args, aux = mx.model.load_checkpoint(model, 0)
given = {name: array.as_in_context(context) for name, array in args.items()}
given["data"] = mx.nd.array(np.zeros((1, 3, side, side)), ctx=context)
states = {name: array.as_in_context(context) for name, array in aux.items()}
x = (np.arange(3 * side * side) % 37 / 37 - 0.5).reshape(1, 3, side, side).astype(np.float32)
executor = symbol.bind(context, given, grad_req="null", aux_states=states)
def ask():
    given["data"][:] = x
    return executor.forward()[0].asnumpy()
np.save(sys.argv[5], ask())
print(f"first {time.perf_counter() - begin:.2f} s", file=sys.stderr)
seen = []
for _ in range(times):
    begin = time.perf_counter()
    ask()
    seen.append(1e6 * (time.perf_counter() - begin))
seen.sort()
print(f"p10 {seen[times // 10]:.1f} us, median {seen[times // 2]:.1f} us", file=sys.stderr)
"""


def saved(folder: Path, network: str) -> tuple[Path, int]:
    """A network with random weights as a checkpoint, and the side of its pictures."""
    mx.random.seed(1)
    if network == "tiny":
        net, side = nn.HybridSequential(), 16
        net.add(nn.Conv2D(8, 3, padding=1), nn.BatchNorm(), nn.Activation("relu"), nn.Dense(10))
    else:
        net, side = vision.get_model(network), 224
    net.initialize(mx.init.Xavier())
    net.hybridize()
    with mxtrt.options(enabled=False):
        net(mx.nd.zeros((1, 3, side, side)))
    net.export(str(folder / network))
    return folder / network, side


def row(title: str, command: list[object], environment: dict[str, str]) -> None:
    """A process, and what it tells.

    Raises:
        SystemExit: It failed.
    """
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("MXTRT_", "USE_"))}
    begin = time.perf_counter()
    done = subprocess.run(
        [str(word) for word in command], env=kept | environment, capture_output=True, text=True
    )
    passed = time.perf_counter() - begin
    told = re.findall(r"(?:first|p10|runs|failed|.*plain MXNet).*", done.stderr)
    print(f"{title:44} {'; '.join(told)}; process {passed:.1f} s", flush=True)
    if done.returncode:
        raise SystemExit(done.stderr[-2000:])


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--gpu", action="store_true")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        for name in ("predict.c", "bind.cc"):
            compiled(HERE / name, folder)
        plain = {"LD_LIBRARY_PATH": f"{MXNET}:{os.environ.get('LD_LIBRARY_PATH', '')}"}
        on = environment_for() | {"MXTRT_CACHE_DIR": str(folder / "cache")}
        on |= {"MXTRT_PREFER": "engine", "NODE": str(PATH)}
        off = {**on, "USE_TENSORRT": "0"}
        python = {"USE_TENSORRT": "1", **{k: v for k, v in on.items() if k.startswith("MXTRT_")}}
        cases = [("tiny", 1, 3000)]
        if args.gpu:
            cases = [("resnet50_v1", 1, 600), ("resnet50_v1", 2, 600)]
        for network, device, times in cases:
            model, side = saved(folder, network)
            files = f"{model}-symbol.json", f"{model}-0000.params"
            place = "gpu" if device == 2 else "cpu"
            out = folder / "out"
            predict = [folder / "predict", *files, out, "plain", device, side, times, 1]
            sides = [("mxtrt's, engines, cold", on), ("mxtrt's, engines", on)]
            if not args.gpu:
                sides = [("MXNet's own", plain), ("mxtrt's, off", off), *sides]
            for title, environment in sides:
                row(f"{network} {place}, C predict, {title}", predict, environment)
            from_c = np.fromfile(out, np.float32)
            command = [sys.executable, "-c", PYTHON, model, device, side, times, folder / "o.npy"]
            row(f"{network} {place}, Python executor, engines", command, python)
            if not args.gpu:
                row(f"{network} {place}, Python executor, plain", command, {})
                for way in ("bind", "cached"):
                    for title, environment in sides:
                        bind = [folder / "bind", way, *files, out, 1, "time"]
                        row(f"{network} {place}, C {way}, {title}", bind, environment)
            from_python = np.load(folder / "o.npy").ravel()
            far = np.abs(from_c[-from_python.size :] - from_python).max()
            print(f"{network} {place}: answers of C and Python differ by {far:.1e}", flush=True)


if __name__ == "__main__":
    main()
