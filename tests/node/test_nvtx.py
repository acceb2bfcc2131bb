"""Ranges for NVIDIA's profilers, with a stand-in for its library that writes them down."""

from __future__ import annotations

import shutil
import subprocess

import pytest
from support.process import run

RECORDER = r"""
#include <stdio.h>
#include <stdlib.h>
static __thread int depth;
static void tell(const char* text) {
  FILE* file = fopen(getenv("RANGES"), "a");
  fprintf(file, "%d %s\n", depth, text);
  fclose(file);
}
int nvtxRangePushA(const char* name) { tell(name); return depth++; }
int nvtxRangePop(void) { return --depth; }
"""

SCRIPT = """
    import mxtrt, mxnet as mx
    symbol = mx.sym.FullyConnected(mx.sym.var("data"), num_hidden=4, name="fc")
    with mxtrt.options(enabled=True, engine="onnxruntime", inline_below=%d):
        executor = symbol.simple_bind(mx.cpu(), grad_req="null", data=(2, 3))
    for _ in range(2):
        executor.forward()[0].wait_to_read()
    mx.nd.waitall()
    print(mxtrt.last_report().segments[0].name)
"""


@pytest.mark.parametrize("inline_below", [0, 10**6])
def test_binds_builds_and_runs_are_ranges(tmp_path, inline_below):
    """By the name that the report has, on MXNet's thread and on the calling one."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("the stand-in for NVIDIA's library needs a C compiler")
    source, ranges = tmp_path / "nvtx.c", tmp_path / "ranges"
    source.write_text(RECORDER)
    library = tmp_path / "libnvToolsExt.so.1"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, source], check=True)
    done = run(SCRIPT % inline_below, LD_LIBRARY_PATH=str(tmp_path), RANGES=str(ranges))
    assert done.returncode == 0, done.stderr
    name = done.stdout.strip()
    assert ranges.read_text().splitlines() == [
        "0 mxtrt partition",
        f"0 build {name}",
        f"0 {name}",
        f"0 {name}",
    ]
