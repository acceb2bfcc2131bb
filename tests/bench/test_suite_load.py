"""Suite ``load``: many threads, each of which sends a request once its last one is answered.

Networks with one picture a request, an executor for each thread or one hybridized block for all.
"""

from __future__ import annotations

import ctypes
import functools
import itertools
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import mxnet as mx
import pytest
from bench.driven import MissingError, compiled
from bench.harness import Bench, mxnet_has_kernels
from bench.load import ON_CPU, ON_GPU, THREADS, WAYS, Served, Subject, measure

from mxtrt.perf.load import Load, Loop

#: For --quick.
QUICK = (ON_CPU[0], ON_GPU[0])
QUICK_THREADS = (1, 8)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """The threads outermost, so that what is bound for some serves with more; fewest first.

    Lanes only become more in a process.
    """
    subjects = ON_GPU if metafunc.config.getoption("--gpu") else ON_CPU
    metafunc.parametrize(
        ("threads", "subject", "way"),
        [
            pytest.param(threads, subject, way, id=f"{subject.title}-{way}-{threads}")
            for threads, subject, way in itertools.product(THREADS, subjects, WAYS)
        ],
    )


@pytest.fixture(scope="module")
def served() -> Iterator[dict[tuple[Subject, str], Served]]:
    """What is bound already."""
    found: dict[tuple[Subject, str], Served] = {}
    yield found
    found.clear()


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], ctypes.CDLL]:
    """Compiles the loop in C, once."""
    return functools.cache(lambda: compiled(tmp_path_factory.mktemp("driver")))


def test_a_closed_loop(
    threads: int,
    subject: Subject,
    way: str,
    bench: Bench,
    served: dict[tuple[Subject, str], Served],
    built: list[Any],
    driver: Callable[[], ctypes.CDLL],
    table: Callable[..., None],
) -> None:
    """Requests per second, and how long a request takes."""
    title = f"load/{subject.title}/{way}/{threads}"
    bench.wanted(title, subject in QUICK and threads in QUICK_THREADS)
    if subject.on_gpu and not mx.context.num_gpus():
        pytest.skip("this MXNet has no GPU code")
    if (subject, way) not in served:
        served[subject, way] = Served(subject, way, bench)
    network = served[subject, way]
    loops: dict[str, Loop] = {}
    lacks: list[str] = []
    with ExitStack() as stack:

        def add(side: str, loop: Loop) -> None:
            stack.callback(loop.close)
            loops[side] = loop

        add("mxtrt", network.ours(threads, built))
        if not bench.settings.counters_only:
            try:
                if bench.settings.gpu:
                    add("bare", network.bare_tensorrt(threads, driver()))
                else:
                    add("bare", network.bare_onnxruntime(threads))
            except MissingError as reason:
                lacks.append(str(reason))
            if subject.on_gpu and not mxnet_has_kernels():
                lacks.append("plain MXNet has no code for this GPU")
            else:
                add("plain", network.plain(threads))
        found = measure(bench, title, threads, loops, lacks)
    if "load" in found.facts:
        for side, figures in Load.of(found.facts["load"]).sides.items():
            table(
                "closed loops",
                benchmark=title,
                side=side,
                rate=f"{figures.rate:.0f} a second",
                p50=f"{figures.p50_ms:.3f} ms",
                p99=f"{figures.p99_ms:.3f} ms",
                requests=figures.requests,
            )
