"""Tests of both C++ libraries under a sanitizer: ``python run.py thread``, see ``nox -s sanitize``.

They have to be built with it (``-C cmake.define.MXTRT_SANITIZE=thread``).  Python, MXNet and
ONNX Runtime are not, so the sanitizer's runtime is loaded before them, and only what it tells of
our libraries counts.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

TESTS = [Path(__file__).parents[1], Path(__file__).parents[2] / "frontends"]

#: What is loaded first, and the options of the runtimes, by sanitizer.
RUNTIMES = {
    # The C++ library has to be there before the runtime looks for its __cxa_throw.
    "address,undefined": ("libasan.so", "libubsan.so", "libstdc++.so"),
    "thread": ("libtsan.so",),
}
#: Python and MXNet leak at exit on purpose.
ASAN = "detect_leaks=0"
UBSAN = "print_stacktrace=1"
#: Forked children start threads, which the runtime takes for an error unless it is told.
TSAN = "ignore_noninstrumented_modules=1:die_after_fork=0:exitcode=0"

#: Tests that show what a sanitizer looks for, as pytest's ``-k``: all of them take too long.
CHOSEN = {
    "address,undefined": "test_cuda and not answered or grew_runs_right or forked_child_and"
    " or failed_open or thousands_of_calls or mixed-threads or forked_child_has",
    "thread": "share_one_scratch or whoever_waits or used_again or first_at_once"
    " or threads_with_executors or forked_child_and or interrupted_script"
    " or threads_that_share_an_engine or leaves_its_requests"
    " or thousands_of_calls or mixed-threads",
}


# The last but for the path to MXNet's own library from there.
_OURS = re.compile(r"libmxtrt_node|mxtrt/node/|mxtrt/frontends/(?!\.\.)")


def ours(report: str) -> bool:
    """Whether a report is of one of our libraries."""
    return _OURS.search(report) is not None


def environment(sanitizer: str, reports: Path) -> dict[str, str]:
    """Variables of a process under a sanitizer, which writes its reports to a folder."""
    found = [
        subprocess.run(
            ["g++", f"-print-file-name={name}"], check=True, capture_output=True, text=True
        ).stdout.strip()
        for name in RUNTIMES[sanitizer]
    ]
    to = f"log_path={reports}/report"
    return {
        **os.environ,
        "LD_PRELOAD": " ".join(found),
        "ASAN_OPTIONS": f"{ASAN}:{to}",
        "UBSAN_OPTIONS": f"{UBSAN}:{to}",
        "TSAN_OPTIONS": f"{TSAN}:{to}",
        "OMP_NUM_THREADS": "1",
    }


def main(sanitizer: str, *arguments: str) -> int:
    """Run the tests; returns the exit code."""
    command = [
        str(Path(sys.executable).with_name("pytest")),
        "-q",
        "-m",
        "not slow",
        "-k",
        CHOSEN[sanitizer],
    ]
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [*command, *arguments, *map(str, TESTS)],
            env=environment(sanitizer, Path(folder)),
            check=False,
        )
        reports = [path.read_text(errors="replace") for path in sorted(Path(folder).iterdir())]
    bad = [report for report in reports if ours(report)]
    print(*bad, sep="\n")
    print(f"{sanitizer}: {len(bad)} reports of our libraries, {len(reports)} in all")
    return done.returncode or bool(bad)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
