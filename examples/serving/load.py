"""The load on a service of app.py, with and without mxtrt in turns: ``python load.py``."""

from __future__ import annotations

import argparse
import io
import os
import re
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import numpy as np
from PIL import Image

APP = Path(__file__).with_name("app.py")
PATIENCE = 120.0  # seconds until a service is ready, or has stopped


@dataclass
class Service:
    """A service on the loopback.

    Attributes:
        url: Where it is.
        process: Its process.
    """

    url: str
    process: subprocess.Popen[str]

    def client(self) -> httpx.Client:
        """A client of it, for one thread."""
        return httpx.Client(base_url=self.url, timeout=PATIENCE, follow_redirects=True)

    def wait_until_ready(self) -> None:
        """Ask until it is.

        Raises:
            TimeoutError: It never is.
        """
        until = time.monotonic() + PATIENCE
        with self.client() as client:
            while client.get("/readyz").status_code != 200:
                client.get("/healthz").raise_for_status()
                if time.monotonic() > until:
                    raise TimeoutError(f"{self.url} is not ready after {PATIENCE:.0f} s")
                time.sleep(0.05)

    def stop(self) -> int:
        """Have it stop as a supervisor does, and tell the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(PATIENCE)


@contextmanager
def service(**variables: str) -> Iterator[Service]:
    """A service on a free port of the loopback, which stops when the block ends.

    Args:
        variables: Environment variables that it has besides those of this process.

    Raises:
        RuntimeError: It does not start.
    """
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", str(APP)],
        env={**os.environ, **variables, "SERVING_HOST": "127.0.0.1", "SERVING_PORT": "0"},
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            assert process.stderr is not None
            told = []
            for line in process.stderr:
                told.append(line)
                if found := re.search(r"running on (http://\S+)", line):
                    break
            else:
                raise RuntimeError(f"The service did not start; it said:\n{''.join(told)}")
            one = Service(found[1], process)
            yield one
            if process.poll() is None:
                one.stop()
        finally:
            process.kill()


def pictures(number: int = 8) -> list[bytes]:
    """Pictures as JPEG, of the size of a photograph on the web."""
    random = np.random.default_rng(0)
    files = []
    for _ in range(number):
        small = Image.fromarray(random.integers(0, 256, (8, 10, 3), np.uint8))
        file = io.BytesIO()
        small.resize((500, 400), Image.Resampling.BICUBIC).save(file, "JPEG")
        files.append(file.getvalue())
    return files


def load(one: Service, requests: int, clients: int) -> tuple[float, list[float]]:
    """Have clients ask at once, each the next picture when the answer to its last one is there.

    Returns:
        Seconds that all took together, and each of them.
    """
    files, kind = pictures(), {"content-type": "image/jpeg"}

    def ask(numbers: range) -> list[float]:
        seconds = []
        with one.client() as client:
            for number in numbers:
                body = files[number % len(files)]
                begin = time.perf_counter()
                answer = client.post("/predict", content=body, headers=kind)
                seconds.append(time.perf_counter() - begin)
                answer.raise_for_status()
        return seconds

    begin = time.perf_counter()
    with ThreadPoolExecutor(clients) as pool:
        parts = list(pool.map(ask, [range(first, requests, clients) for first in range(clients)]))
    return time.perf_counter() - begin, [second for part in parts for second in part]


def main() -> None:
    """Print requests per second and latencies of either service, and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="resnet18_v1", help="a network of the model zoo")
    parser.add_argument("--requests", type=int, default=200, help="in a round")
    parser.add_argument("--clients", type=int, default=4, help="threads that ask")
    parser.add_argument("--threads", type=int, default=4, help="threads that answer")
    parser.add_argument("--rounds", type=int, default=5, help="of each service, in turns")
    options = parser.parse_args()
    print(
        f"{options.model}, {options.clients} clients, {options.threads} threads, "
        f"{options.rounds} rounds of {options.requests} requests, {os.cpu_count()} cores\n"
    )
    print("service      requests/s    p50 ms    p99 ms")
    sides = {"plain MXNet": "0", "mxtrt": "1"}
    rates: dict[str, list[float]] = {name: [] for name in sides}
    seconds: dict[str, list[float]] = {name: [] for name in sides}

    def line(name: str, rate: float, each: list[float]) -> None:
        median, slow = np.percentile(each, [50, 99]) * 1000
        print(f"{name:<12}{rate:>11.1f}{median:>10.1f}{slow:>10.1f}", flush=True)

    with ExitStack() as stack:
        given = {"SERVING_MODEL": options.model, "SERVING_THREADS": str(options.threads)}
        services = {
            name: stack.enter_context(service(USE_TENSORRT=on, **given))
            for name, on in sides.items()
        }
        for one in services.values():
            one.wait_until_ready()
        for turn in range(options.rounds):
            for name in list(sides)[:: -1 if turn % 2 else 1]:
                all_seconds, each = load(services[name], options.requests, options.clients)
                rates[name].append(options.requests / all_seconds)
                seconds[name] += each
                line(name, rates[name][-1], each)
    print("\nall rounds (the median of requests per second)")
    for name in sides:
        line(name, statistics.median(rates[name]), seconds[name])
    ratios = [ours / plain for plain, ours in zip(*rates.values(), strict=True)]
    print(
        "requests per second, mxtrt to plain MXNet, round by round: "
        f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
    )


if __name__ == "__main__":
    main()
