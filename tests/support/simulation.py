"""Simulated latencies of a machine that drifts, hiccups and has a neighbour."""

from __future__ import annotations

import numpy as np

from mxtrt.perf.runs import Benchmark, Run
from mxtrt.timing.paired import Paired, paired

ENVIRONMENT = {"key": "simulated_engine_mxnet-1.9.1", "cpu": "simulated"}


def latencies(
    seed: int,
    *,
    slowdown: float = 1.0,
    speed_up: float = 2.0,
    rounds: int = 60,
    noise: float = 0.01,
    drift: float = 0.06,
) -> Paired:
    """Figures of simulated calls in the order of :class:`mxtrt.timing.paired.Duet`.

    Args:
        seed: Seed of the noise.
        slowdown: Factor on mxtrt's times.
        speed_up: How many times as long plain MXNet takes.
        rounds: Pairs of calls.
        noise: Standard deviation of a call, as a share of it.
        drift: How much slower the machine gets and back, as a share, over the run.
    """
    random = np.random.default_rng(seed)
    phase = random.uniform(0, 2 * np.pi)
    calls = 3 * rounds

    def seconds(call: int, true: float) -> float:
        machine = 1 + drift * np.sin(2 * np.pi * call / calls + phase)
        hiccup = random.uniform(1.1, 2) if random.random() < 0.03 else 1.0
        return float(true * machine * hiccup * np.exp(random.normal(0, noise)))

    plain, ours = 1e-3, 1e-3 / speed_up * slowdown
    pairs, controls, call = [], [], 0
    for number in range(rounds):
        first, second = (plain, ours) if number % 2 == 0 else (ours, plain)
        times = seconds(call, first), seconds(call + 1, second)
        pairs.append(times if number % 2 == 0 else times[::-1])
        call += 2
        if number % 2:
            times = seconds(call, plain), seconds(call + 1, plain)
            controls.append(times if len(controls) % 2 == 0 else times[::-1])
            call += 2
    return paired(np.array(pairs), np.array(controls))


def run(counters: dict[str, float] | None = None, seed: int = 0, **figures: float) -> Run:
    """A run of one simulated benchmark."""
    benchmark = Benchmark(
        counters={"segments": 2.0, "copies": 0.0, "mxnet_bytes": 4096.0, **(counters or {})},
        paired=latencies(seed, **figures),
    )
    return Run("2026-01-01T00:00:00", "c0ffee", ENVIRONMENT, {"zoo/net/1": benchmark})
