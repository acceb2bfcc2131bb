"""MXNet's own unit tests, plain and with the integration on: ``nox -s mxnet_suite``.

    python tests/mxnet_suite/suite.py --mxnet-source DIR [FILE ...]

``DIR`` is a checkout of Apache MXNet 1.9.1.  Every file of its tests runs in a process of its own,
once in plain MXNet and once with ``USE_TENSORRT=1``, with the same seeds; the options of mxtrt are
those of the environment.  A test that kills its process or hangs is recorded, and the rest of the
file goes on in another.  What passes plain only is run again both ways, without the tests that
agree and in the end after them: what plain MXNet passes every time, and the integration does not,
is a difference.  A difference fails unless ``known.json`` has it with its reason, and so does an
entry that has become untrue.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).resolve().parent
KNOWN = HERE / "known.json"
TESTS = "tests/python"
UNDONE = "crashed", "hung"
END = "::(end)"  # what counts as a file's last test: that its process ends well
FINISHED = pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED, pytest.ExitCode.NO_TESTS_COLLECTED
STARTING = 300.0  # seconds that a process may take until it has collected its tests


@dataclass(frozen=True)
class Result:
    """How one test went.

    Attributes:
        outcome: ``passed``, ``failed``, ``skipped``, ``crashed``, ``hung`` or ``missing``.
        text: What it said, where it did not pass.
        seconds: How long it took.
        did: What the integration did meanwhile, in the names of :class:`mxtrt.Stats`.
        warned: What it warned of, each sentence once in a process.
    """

    outcome: str
    text: str = ""
    seconds: float = 0.0
    did: Mapping[str, int] = field(default_factory=dict)
    warned: Sequence[str] = ()

    @property
    def line(self) -> str:
        """The outcome and the first line of what it said."""
        first = next((line for line in self.text.splitlines() if line.strip()), "")
        return f"{self.outcome}: {first[:200]}" if first else self.outcome


@dataclass(frozen=True)
class Mode:
    """Plain MXNet, or the integration."""

    name: str
    variables: Mapping[str, str]


PLAIN = Mode("plain", {"SUITE_PLAIN": "1"})
ON = Mode("on", {"USE_TENSORRT": "1"})


class Runner:
    """Runs files of a checkout.

    Args:
        source: The checkout.
        work: A folder for logs and for what the tests write.
        seed: The seed of every test.
        timeout: Seconds after which one test is taken for hung.
        inference: Whether to bind for inference what tests bind for gradients or do not hybridize.
    """

    def __init__(
        self, source: Path, work: Path, seed: int, timeout: float, inference: bool
    ) -> None:
        self._source = source.resolve()
        self._work = work.resolve()
        self._seed = seed
        self._timeout = timeout
        self._inference = {"SUITE_INFERENCE": "1"} if inference else {}

    def __call__(
        self, file: str, mode: Mode, only: Sequence[str] = (), repetition: int = 0
    ) -> dict[str, Result]:
        """Results of the tests of a file (relative to the checkout) by their ids.

        Args:
            file: The file.
            mode: Plain or on.
            only: Ids of the tests to run, in this order; all of them if empty.
            repetition: Gives other seeds.
        """
        found: dict[str, Result] = {}
        end = Result("passed")
        with tempfile.TemporaryDirectory(dir=self._work) as folder:
            log = Path(folder) / "log.jsonl"
            left = True
            while left:
                known = len(found)
                ended = self._process(log, file, mode, only, repetition)
                begun, left = _read(log, found)
                if begun is not None:
                    found[begun] = ended
                    with log.open("a") as more:
                        print(json.dumps({"test": begun}), file=more)
                elif ended.outcome != "passed":
                    end = ended
                left = left and len(found) > known
        return {**found, file + END: end}

    def _process(
        self, log: Path, file: str, mode: Mode, only: Sequence[str], repetition: int
    ) -> Result:
        """Run what the log lacks; how the process ended, should a test have been under way."""
        ours = {"USE_TENSORRT", "MXNET_USE_TENSORRT", "SUITE_PLAIN", "SUITE_INFERENCE"}
        seed = str(self._seed + repetition)
        environment = {
            **{name: value for name, value in os.environ.items() if name not in ours},
            **mode.variables,
            **self._inference,
            "PYTHONPATH": os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")]),
            "SUITE_LOG": str(log),
            "SUITE_SEED": seed,
            "MXNET_MODULE_SEED": seed,
            "MXNET_TEST_SEED": seed,
        }
        command = [sys.executable, "-m", "pytest", "-p", "recording", "-p", "no:cacheprovider"]
        command += [
            "-c",
            os.devnull,
            "--rootdir",
            str(self._source),
            "--continue-on-collection-errors",
        ]
        tests = [test for test in only if not test.endswith(END)]
        command += [str(self._source / test) for test in tests or [file]]
        kept = self._work / f"{Path(file).stem}.{mode.name}.txt"
        with kept.open("a") as output:
            process = subprocess.Popen(
                command,
                cwd=log.parent,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            hung = self._wait(process, log)
        # Whatever a test left behind goes with it.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        if hung:
            return Result("hung", f"longer than {self._timeout:g} s")
        code = process.returncode
        return Result("passed") if code in FINISHED else Result("crashed", _cause(code))

    def _wait(self, process: subprocess.Popen[bytes], log: Path) -> bool:
        """Wait until the process ends or its log stands still for too long; whether it did."""
        quiet_since, size = time.monotonic(), _size(log)
        begun = False
        while True:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(0.5)
                return False
            if _size(log) != size:
                quiet_since, size, begun = time.monotonic(), _size(log), True
            elif time.monotonic() - quiet_since > (self._timeout if begun else STARTING):
                # Has Python tell where its threads are.
                process.send_signal(signal.SIGABRT)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(10)
                    return True
                process.kill()
                process.wait()
                return True


def _size(file: Path) -> int:
    return file.stat().st_size if file.exists() else 0


def _cause(code: int) -> str:
    return f"{signal.Signals(-code).name}" if code < 0 else f"exit status {code}"


def _read(log: Path, found: dict[str, Result]) -> tuple[str | None, bool]:
    """Fill in the results of a log.

    Returns:
        The test that was under way at the end, and whether any are left.
    """
    begun, collected = None, set[str]()
    for line in log.read_text().splitlines() if log.exists() else []:
        event = json.loads(line)
        begun, test = event.get("begun"), event.pop("test", None)
        collected |= {*event.get("collected", ())}
        if "outcome" in event:
            found[test] = Result(**event)
        elif "warned" in event and test in found:
            warned = [*found[test].warned, event["warned"]]
            found[test] = dataclasses.replace(found[test], warned=warned)
    return begun, bool(collected - found.keys() - {begun})


Results = dict[str, dict[str, Result]]  # of files, of their tests
Run = Callable[[str, Mode, Sequence[str], int], Mapping[str, Result]]  # see Runner.__call__


@dataclass(frozen=True)
class Repeats:
    """How often a test that passed plain only went well again, and of how many times."""

    plain: int
    on: int
    of: int
    in_place: bool  # failed again after the tests before it

    @property
    def is_difference(self) -> bool:
        """Whether plain MXNet passes it, and the integration does not or not always."""
        return self.plain == self.of and (self.on < self.of or self.in_place)


def is_worse(plain: Result, on: Result) -> bool:
    """Whether a test passes plain only, or leaves no process only with the integration."""
    if plain.outcome == "passed":
        return on.outcome != "passed"
    return on.outcome in UNDONE and plain.outcome not in UNDONE


def worse(plain: Mapping[str, Result], on: Mapping[str, Result]) -> Iterator[str]:
    """Ids of the tests of a file that are worse with the integration on."""
    for test, result in plain.items():
        if is_worse(result, on.get(test, Result("missing"))):
            yield test


def again(
    run: Run, file: str, tests: Sequence[str], plain: Mapping[str, Result], repeats: int
) -> dict[str, Repeats]:
    """Run tests of a file again without the others, both ways, and at last where they stand.

    Args:
        run: Runs files.
        file: The file.
        tests: Ids of the tests.
        plain: What all tests of the file came to in plain MXNet, in order.
        repeats: How many times, each with seeds of its own.
    """

    def well(results: Mapping[str, Result]) -> list[str]:
        return [t for t in tests if not is_worse(plain[t], results.get(t, Result("missing")))]

    passes = {mode: Counter[str]() for mode in (PLAIN.name, ON.name)}
    for repetition in range(repeats if tests else 0):
        for mode in PLAIN, ON:
            passes[mode.name].update(well(run(file, mode, tests, repetition)))
    plain_passes, on_passes = passes.values()
    unseen = [test for test in tests if plain_passes[test] == on_passes[test] == repeats]
    in_place: list[str] = []
    if unseen:
        order = list(plain)
        in_place = well(run(file, ON, order[: max(map(order.index, unseen)) + 1], 0))
    return {
        test: Repeats(
            plain_passes[test], on_passes[test], repeats, test in unseen and test not in in_place
        )
        for test in tests
    }


def _passes(results: Mapping[str, Result], test: str) -> bool:
    return results.get(test, Result("missing")).outcome == "passed"


@dataclass(frozen=True)
class Verdict:
    """What the comparison came to.

    Attributes:
        differences: What a test that passes plain only said, by its id.
        known: Reasons of the differences that are known, by their ids.
        flaky: How often the tests passed that are no difference, by their ids.
        untrue: Known entries whose tests ran and are no difference.
    """

    differences: Mapping[str, str]
    known: Mapping[str, str]
    flaky: Mapping[str, Repeats]
    untrue: Sequence[str]

    @property
    def passed(self) -> bool:
        """Whether there is nothing that is not known."""
        return not self.differences and not self.untrue


def judge(
    plain: Results, on: Results, repeats: Mapping[str, Repeats], known: Mapping[str, str]
) -> Verdict:
    """Tell differences from what is flaky and what is known."""
    found, flaky, ran = {}, {}, set[str]()
    for file, results in plain.items():
        if file not in on:
            continue
        ran |= results.keys()
        for test in worse(results, on[file]):
            if repeats[test].is_difference:
                found[test] = on[file].get(test, Result("missing")).line
            else:
                flaky[test] = repeats[test]
    return Verdict(
        differences={test: line for test, line in found.items() if test not in known},
        known={test: reason for test, reason in known.items() if test in found},
        flaky=flaky,
        untrue=[test for test in known if test in ran and test not in found],
    )


HEADS = (
    *("file", "tests", "plain", "on", "plain only", "known", "flaky", "on only", "plain crashes"),
    *("on crashes", "with engines", "runs", "binds", "refusals", "s plain", "s on"),
)


def row(
    file: str, plain: Mapping[str, Result], on: Mapping[str, Result], verdict: Verdict
) -> list[Any]:
    """The row of a file in the table."""
    differences = verdict.differences, verdict.known, verdict.flaky
    counted = "engine_runs", "binds", "refusals"
    return [
        Path(file).stem,
        sum(not test.endswith(END) for test in plain),
        _count(plain, "passed"),
        _count(on, "passed"),
        *(sum(test in kind for test in plain) for kind in differences),
        sum(r.outcome == "passed" and not _passes(plain, test) for test, r in on.items()),
        _count(plain, *UNDONE),
        _count(on, *UNDONE),
        sum(bool(result.did.get("engine_runs")) for result in on.values()),
        *(sum(result.did.get(name, 0) for result in on.values()) for name in counted),
        *(round(sum(r.seconds for r in results.values())) for results in (plain, on)),
    ]


def _count(results: Mapping[str, Result], *outcomes: str) -> int:
    """How many tests ended so; that the process ended well is no test that passed."""
    return sum(
        result.outcome in outcomes and not (result.outcome == "passed" and test.endswith(END))
        for test, result in results.items()
    )


def table(plain: Results, on: Results, verdict: Verdict) -> str:
    """All files, and what is to be said of single tests."""
    rows = [row(file, plain[file], on[file], verdict) for file in plain if file in on]
    rows.append(["all", *(sum(column) for column in list(zip(*rows, strict=True))[1:])])
    lines = [f"| {' | '.join(map(str, cells))} |" for cells in (HEADS, *rows)]
    warnings = Counter(
        re.sub(r"\d+", "N", line) for r in on.values() for x in r.values() for line in x.warned
    )
    lines.insert(1, "|---" + "|---:" * (len(HEADS) - 1) + "|")
    for heading, entries in (
        ("passes in plain MXNet only", [f"{t}\n    {x}" for t, x in verdict.differences.items()]),
        ("known", [f"{test}\n    {reason}" for test, reason in verdict.known.items()]),
        (
            "flaky, no difference",
            [
                f"{t}: passed {r.plain} plain, {r.on} on, of {r.of}"
                for t, r in verdict.flaky.items()
            ],
        ),
        (
            "warnings of the integration",
            [f"{line} (x{n})" for line, n in warnings.most_common()],
        ),
        ("known.json has it, and it is not so any more", verdict.untrue),
    ):
        if entries:
            lines += ["", f"{heading}:", *(f"  {entry}" for entry in entries)]
    return "\n".join(lines)


def files_of(source: Path, names: Sequence[str]) -> list[str]:
    """The files to run, relative to the checkout, in the order of the names.

    A name is ``test_operator`` or a path below ``tests/python``; without any it is all of
    ``unittest``.
    """
    folder = source / TESTS
    if not (folder / "unittest").is_dir():
        raise SystemExit(
            f"{source} has no {TESTS}/unittest; give a checkout of Apache MXNet 1.9.1 "
            "(git clone --branch 1.9.1 https://github.com/apache/mxnet)"
        )
    if not names:
        found = sorted((folder / "unittest").glob("test_*.py"))
        return [str(path.relative_to(source)) for path in found]
    paths = []
    for name in names:
        place = name.removesuffix(".py")
        path = folder / f"{place if '/' in place else f'unittest/{place}'}.py"
        if not path.is_file():
            raise SystemExit(
                f"{path} does not exist; name files as test_operator or mkl/test_subgraph"
            )
        paths.append(str(path.relative_to(source)))
    return paths


def _load(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text())
    return content


def _results(saved: Mapping[str, Any]) -> Results:
    return {
        file: {test: Result(**result) for test, result in results.items()}
        for file, results in saved.items()
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, compare, print the table; 1 for a difference."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "files", nargs="*", help="test_operator, mkl/test_subgraph; default: unittest"
    )
    parser.add_argument("--mxnet-source", type=Path, required=True, metavar="DIR")
    parser.add_argument(
        "--inference",
        action="store_true",
        help="bind for inference what the tests bind for gradients, and hybridize all blocks",
    )
    parser.add_argument(
        "--plain", type=Path, metavar="JSON", help="take plain results from a run's"
    )
    parser.add_argument("--plain-only", action="store_true", help="only what --plain takes later")
    parser.add_argument("--json", type=Path, metavar="JSON", help="write all results there")
    parser.add_argument("--known", type=Path, default=KNOWN, metavar="JSON")
    parser.add_argument("--repeats", type=int, default=3, help="of a test that passes plain only")
    parser.add_argument("--jobs", type=int, default=1, help="files that run at the same time")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--timeout", type=float, default=900, help="seconds for one test")
    parser.add_argument("--work", type=Path, help="keep what the tests print in this folder")
    given = parser.parse_args(arguments)

    files = files_of(given.mxnet_source, given.files)
    saved: Results = {}
    if given.plain:
        earlier = _load(given.plain)
        if earlier["inference"] != given.inference:
            raise SystemExit(
                f"{given.plain} is of a run {'without' if given.inference else 'with'} "
                "--inference; give one of the same kind"
            )
        saved = _results(earlier["plain"])
    plain: Results = {}
    on: Results = {}
    repeats: dict[str, Repeats] = {}

    def run_file(file: str) -> None:
        plain_results = saved.get(file) or run(file, PLAIN)
        if not given.plain_only:
            on_results = run(file, ON)
            tests = list(worse(plain_results, on_results))
            repeats.update(again(run, file, tests, plain_results, given.repeats))
            on[file] = on_results
        plain[file] = plain_results
        passed, more = _count(plain_results, "passed"), sum(t in repeats for t in plain_results)
        of = len(plain_results) - 1
        print(f"{file}: {passed} of {of} pass in plain MXNet, {more} there only", flush=True)

    def write() -> None:
        if given.json:
            content = {
                "inference": given.inference,
                "plain": plain,
                "on": on,
                "repeats": repeats,
            }
            given.json.write_text(json.dumps(content, default=dataclasses.asdict, indent=1))

    with contextlib.ExitStack() as stack:
        if given.work:
            given.work.mkdir(parents=True, exist_ok=True)
        work = given.work or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        run = Runner(given.mxnet_source, work, given.seed, given.timeout, given.inference)
        with ThreadPoolExecutor(given.jobs) as pool:
            for _ in pool.map(run_file, files):
                write()
    if given.plain_only:
        return 0
    verdict = judge(plain, on, repeats, _load(given.known))
    print(table({file: plain[file] for file in files}, on, verdict))
    return 0 if verdict.passed else 1


if __name__ == "__main__":
    sys.exit(main())
