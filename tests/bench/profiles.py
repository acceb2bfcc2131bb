"""What a service gets that is asked for pictures of random sizes, as tables.

``python tests/bench/profiles.py`` on a machine with a GPU: resnet18_v1 on ``mx.cpu()``, TensorRT,
builds in the background.  Requests come one after the other, the last hundred of them once nothing
is being built.  One is late that takes more than 1.2 times what plain MXNet does, the quicker of
two, and 5 ms.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from typing import Any

os.environ.setdefault("MXNET_SUBGRAPH_BACKEND", "NONE")

import mxtrt  # noqa: I001
import mxnet as mx
import numpy as np
from mxnet.gluon.model_zoo import vision


def network(name: str) -> Any:
    """The network with weights of a fixed seed."""
    mx.random.seed(0)
    np.random.seed(0)
    net = vision.get_model(name)
    net.initialize(mx.init.Xavier())
    with mxtrt.options(enabled=False):
        net(mx.nd.ones((1, 3, 224, 224))).wait_to_read()
    net.hybridize()
    return net


def copy(net: Any, name: str) -> Any:
    """A network of the same weights that was never called."""
    other = vision.get_model(name)
    pairs = zip(net.collect_params().values(), other.collect_params().values(), strict=True)
    for parameter, own in pairs:
        own._load_init(parameter.data(), mx.cpu())
    other.hybridize()
    return other


def ask(net: Any, x: mx.nd.NDArray) -> tuple[float, np.ndarray[Any, Any]]:
    """Milliseconds until the answer is there, and the answer."""
    begin = time.perf_counter()
    out = net(x).asnumpy()
    return (time.perf_counter() - begin) * 1e3, out


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--network", default="resnet18_v1")
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--square", action="store_true", help="height and width are the same")
    parser.add_argument("--static", type=int, default=20, help="sizes with engines of their own")
    parser.add_argument("--requests", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--first", help="only the first requests, with the engines kept there")
    args = parser.parse_args()
    drawn = random.Random(7)
    sizes = []
    for _ in range(100):
        height = drawn.randint(160, 640)
        sizes.append((height, height if args.square else drawn.randint(160, 640)))
    pictures = {s: mx.nd.array(np.random.RandomState(sum(s)).rand(1, 3, *s)) for s in sizes}
    mx.nd.waitall()
    folder = args.first or tempfile.mkdtemp()
    options = {"engine": "tensorrt", "precision": args.precision, "cache_dir": folder}
    net = network(args.network)
    if args.first:
        with mxtrt.options(**options):
            times = [ask(net, pictures[size])[0] for size in reversed(sizes[-5:])]
        now = mxtrt.stats()
        print(json.dumps([now.cache_misses, now.fallbacks, *times]))
        return
    requests = [*sizes, *(drawn.choice(sizes) for _ in range(args.requests - 100))]
    with mxtrt.options(enabled=False):
        plain = {s: min(ask(net, pictures[s])[0] for _ in range(2)) for s in sizes}
    net.hybridize()
    times = []
    before = mxtrt.stats()
    with mxtrt.options(**options):
        for number, size in enumerate(requests):
            if number == len(requests) - 100:
                begin = time.perf_counter()
                mxtrt.ready()
                print(f"waited {time.perf_counter() - begin:.1f} s until nothing was being built")
            times.append(ask(net, pictures[size])[0])
    now = mxtrt.stats()
    late = [t - 1.2 * plain[s] - 5 for t, s in zip(times[1:], requests[1:], strict=True)]
    print(f"{args.network} {args.precision}, {len(requests)} requests, first {times[0]:.0f} ms")
    print(f"builds: {now.builds - before.builds}; answered by MXNet meanwhile: ", end="")
    print(f"{now.postponed - before.postponed}, left to it: {now.fallbacks - before.fallbacks}")
    print(f"late: {sum(t > 0 for t in late)}, the latest by {max(late):.1f} ms")
    print(
        f"median of the last 100: {statistics.median(times[-100:]):.2f} ms, plain MXNet: ", end=""
    )
    print(f"{statistics.median(plain[s] for s in requests[-100:]):.2f} ms")
    print(mxtrt.last_report())
    print("\n".join(note for s in mxtrt.last_report().segments for note in s.notes))
    print(mxtrt.memory())

    chosen = drawn.sample(sizes, args.static)
    print("\nsize        static   changing    same  changing/static  same/static  error")
    ratios: list[tuple[float, float]] = []
    changing: dict[Any, list[float]] = {size: [] for size in chosen}
    with mxtrt.options(**options):
        for _ in range(args.rounds):
            for size in chosen:
                changing[size].append(ask(net, pictures[size])[0])
    for size in chosen:
        static = copy(net, args.network)
        with mxtrt.options(**{**options, "cache_dir": tempfile.mkdtemp(), "build": "foreground"}):
            own = [ask(static, pictures[size]) for _ in range(3 + args.rounds)]
        with mxtrt.options(**options):
            again = [ask(net, pictures[size]) for _ in range(5 + args.rounds)]
        one = statistics.median(t for t, _ in own[3:])
        two = statistics.median(changing[size])
        three = statistics.median(t for t, _ in again[5:])
        error = np.abs(own[-1][1] - again[-1][1]).max() / np.abs(own[-1][1]).max()
        ratios.append((two / one, three / one))
        print(
            f"{size[0]:4d}x{size[1]:<4d} {one:8.2f} {two:10.2f} {three:7.2f} "
            f"{two / one:16.3f} {three / one:12.3f} {error:8.1e}"
        )
        del static
    for which, name in enumerate(("changing", "same")):
        column = [ratio[which] for ratio in ratios]
        print(f"{name}/static: median {statistics.median(column):.3f}, largest {max(column):.3f}")
    done = subprocess.run(
        [sys.executable, __file__, "--first", folder, "--network", args.network]
        + ["--precision", args.precision]
        + ["--square"] * args.square,
        stdout=subprocess.PIPE,
        check=True,
        text=True,
    )
    misses, fallbacks, first, *others = json.loads(done.stdout.splitlines()[-1])
    print(f"\nsecond process: {misses} builds, {fallbacks} requests left to MXNet, first answer ")
    print(f"{first:.0f} ms, then {', '.join(f'{t:.1f}' for t in others)} ms")


if __name__ == "__main__":
    main()
