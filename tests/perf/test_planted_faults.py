"""Faults put into the engine node are caught by a real run: what is built with them differs.

The node is compiled from sources with one line changed, and a copy of the package runs with it.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import mxtrt
from mxtrt.perf.baseline import Baseline
from mxtrt.perf.counters import Counters
from mxtrt.perf.runs import Benchmark, Run
from mxtrt.perf.verdicts import Verdict, judge

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("g++") is None, reason="there is no g++"),
]

PACKAGE = Path(mxtrt.__file__).parent
RUN = "  if (session->run(bindings, in, out, place)) note_time_since(begin);"

#: What is put before a run of the engine.
FAULTS = {
    "none": "",
    # As long as the test asks for.  (A sleep shorter than the scheduler's slack would be longer.)
    "sleep": (
        '  const auto until = begin + std::chrono::nanoseconds(std::atol(std::getenv("NAP")));\n'
        "  while (std::chrono::steady_clock::now() < until) {}\n"
    ),
    "copy": (
        "  {\n"
        "    std::vector<char> copy(bytes(in[0]));\n"
        "    g_tally.copy(copy.size());\n"
        "    std::memcpy(copy.data(), in[0].data, copy.size());\n"
        "  }\n"
    ),
}

SCRIPT = """
import json, sys, warnings
warnings.simplefilter("ignore")
import mxtrt, mxnet as mx
from mxtrt.perf.counters import count
from mxtrt.timing.paired import Duet
from mxtrt.plan.plan import live_plans

options = json.loads(sys.argv[1])
seconds = float(sys.argv[2])
x = mx.nd.random.uniform(shape=(64, 512))

def network(enabled):
    mx.random.seed(1)
    net = mx.gluon.nn.HybridSequential()
    for _ in range(4):
        net.add(mx.gluon.nn.Dense(512, activation="tanh", in_units=512))
    net.collect_params().setattr("grad_req", "null")
    net.initialize(mx.init.Uniform(0.1))
    net.hybridize(static_alloc=True, static_shape=True)
    with mxtrt.options(enabled=enabled, engine="onnxruntime", threads=1, **options):
        net(x).wait_to_read()
    return net

plain, ours = network(False), network(True)
call = lambda net: lambda: net(x).wait_to_read()
arrays = [p.data() for p in ours.collect_params().values()]
counters = count(call(ours), live_plans(), arrays).to_dict()
paired = None
if seconds:
    duet = Duet(call(plain), call(ours), seconds, warmup=20)
    for _ in range(duet.rounds):
        duet.before()
        duet.call()
    paired = duet.result().to_dict()
print(json.dumps({"counters": counters, "paired": paired}))
"""


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Copies of the package, by fault."""
    made: dict[str, Path] = {}

    def make(fault: str) -> Path:
        if fault in made:
            return made[fault]
        folder = tmp_path_factory.mktemp(fault)
        shutil.copytree(PACKAGE, folder / "mxtrt", ignore=shutil.ignore_patterns("__pycache__"))
        node = folder / "mxtrt" / "node"
        sources = sorted(node.glob("*.cc"))
        if not sources:
            pytest.skip("the package was installed without the node's sources")
        if FAULTS[fault]:
            file = node / "node.cc"
            text = file.read_text()
            assert text.count(RUN) == 1
            text = text.replace(RUN, FAULTS[fault] + RUN)
            file.write_text("#include <cstdlib>\n#include <cstring>\n" + text)
            library = str(node / "libmxtrt_node.so")
            flags = ["-std=c++17", "-O2", "-fPIC", "-shared", "-fvisibility=hidden"]
            command = ["g++", *flags, "-o", library, *map(str, sources), "-ldl", "-pthread"]
            subprocess.run(command, check=True)
        made[fault] = folder
        return folder

    return make


def measured(package: Path, seconds: float = 0, nap: int = 0, **options: Any) -> Run:
    """A run of one benchmark in a process of its own; ``nap`` is in nanoseconds."""
    variables = {**os.environ, "PYTHONPATH": str(package), "OMP_NUM_THREADS": "1", "NAP": str(nap)}
    command = [sys.executable, "-c", SCRIPT, json.dumps(options), str(seconds)]
    done = subprocess.run(
        command, cwd=package, capture_output=True, text=True, env=variables, check=False
    )
    assert done.returncode == 0, done.stderr
    found = Benchmark.of(json.loads(done.stdout.splitlines()[-1]))
    return Run("", "", {"key": "here"}, {"net": found})


def stored(run: Run) -> Baseline:
    """A run as a baseline."""
    found = run.benchmarks["net"]
    latency = {"net": found.paired} if found.paired else {}
    return Baseline(run.environment, {"net": found.counters}, latency)


def test_counters_of_two_runs_are_the_same(package: Any) -> None:
    """To the byte, in two processes."""
    first, second = measured(package("none")), measured(package("none"))
    assert judge(second, stored(first)).named(Verdict.OK) == ["net"]
    assert first.benchmarks["net"].counters == {
        **Counters().to_dict(),
        "segments": 1,
        "engine_nodes": 1,
        "engine_bytes": 4 * 4 * (512 * 512 + 512),
        "activation_bytes": 2 * 64 * 512 * 4,  # what a layer reads, and what it writes
        "mxnet_bytes": first.benchmarks["net"].counters["mxnet_bytes"],
    }


def test_an_extra_copy_is_caught(package: Any) -> None:
    """One tensor of 128 KiB in every forward."""
    baseline = stored(measured(package("none")))
    outcome = judge(measured(package("copy")), baseline)
    (judgement,) = outcome.judgements.values()
    assert judgement.verdict is Verdict.MORE
    changes = {change.name: change.now - change.before for change in judgement.changes}
    assert changes == {"copies": 1, "copied_bytes": 64 * 512 * 4}


def test_a_lost_segment_is_caught(package: Any) -> None:
    """Nothing runs in an engine any more."""
    baseline = stored(measured(package("none")))
    outcome = judge(measured(package("none"), deny_ops="FullyConnected"), baseline)
    (judgement,) = outcome.judgements.values()
    assert outcome.exit_code == 1
    changes = {change.name: change.now - change.before for change in judgement.changes}
    assert changes["segments"] == -1


def test_retained_weights_are_caught(package: Any) -> None:
    """4 MiB that an engine holds stay in MXNet's memory too."""
    baseline = stored(measured(package("none")))
    outcome = judge(measured(package("none"), release_weights=False), baseline)
    (judgement,) = outcome.judgements.values()
    assert judgement.verdict is Verdict.MORE
    assert [change.name for change in judgement.changes] == ["mxnet_bytes"]


def test_a_sleep_of_ten_per_cent_never_passes(package: Any) -> None:
    """It is slower; on a machine too busy to tell it is undecided, and run again."""
    seen = []
    for _ in range(4):
        baseline = stored(measured(package("none"), 24))
        tenth = int(baseline.latency["net"].mxtrt_ms * 1e6 / 10)
        (judgement,) = judge(measured(package("sleep"), 6, tenth), baseline).judgements.values()
        seen.append(judgement.verdict)
        if not judgement.verdict.undecided:
            break
    if all(verdict.undecided for verdict in seen):
        pytest.skip("this machine is too busy to tell")
    assert seen[-1] is Verdict.SLOWER


def test_twenty_clean_runs_give_no_false_alarm(package: Any) -> None:
    """The same code, three minutes long."""
    baseline = stored(measured(package("none"), 24))
    for _ in range(20):
        assert judge(measured(package("none"), 6), baseline).named(Verdict.SLOWER) == []
