"""Paging out where the kernel, or MXNet, refuses a step of it."""

from __future__ import annotations

import importlib
import shutil
import subprocess
from pathlib import Path

import pytest
from support.process import run

from mxtrt.errors import NodeError
from mxtrt.node import library

# mmap and mremap as in a kernel that fails after it has removed what was at the place, which both
# may (vm_enough_memory of a private mapping, a vm_area_struct that is not to be had).
SHIM = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdarg.h>
#include <stdlib.h>
#include <sys/mman.h>

static int fails(const char* call) {
  const char* name = getenv("FAILING");
  return name && name[1] == call[1];
}

void* mmap(void* at, size_t size, int access, int flags, int file, off_t offset) {
  static void* (*real)(void*, size_t, int, int, int, off_t);
  if (!real) real = dlsym(RTLD_NEXT, "mmap");
  if (fails("mmap") && file >= 0 && access & PROT_WRITE && flags & MAP_PRIVATE) {
    if (flags & MAP_FIXED) munmap(at, size);
    errno = ENOMEM;
    return MAP_FAILED;
  }
  return real(at, size, access, flags, file, offset);
}

void* mremap(void* old, size_t before, size_t after, int flags, ...) {
  static void* (*real)(void*, size_t, size_t, int, ...);
  if (!real) real = dlsym(RTLD_NEXT, "mremap");
  va_list more;
  va_start(more, flags);
  void* to = flags & MREMAP_FIXED ? va_arg(more, void*) : 0;
  va_end(more);
  if (fails("mremap") && flags & MREMAP_FIXED) {
    munmap(to, after);
    errno = ENOMEM;
    return MAP_FAILED;
  }
  return real(old, before, after, flags, to);
}

ssize_t pread(int file, void* data, size_t size, off_t offset) {
  static ssize_t (*real)(int, void*, size_t, off_t);
  if (!real) real = dlsym(RTLD_NEXT, "pread");
  if (getenv("UNREADABLE")) return errno = EIO, -1;
  return real(file, data, size, offset);
}
"""


@pytest.fixture(scope="module")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A library that makes mmap or mremap fail half-way."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("g++")
    if compiler is None:
        pytest.skip("the failing mmap needs a C compiler")
    folder = tmp_path_factory.mktemp("shim")
    (folder / "shim.c").write_text(SHIM)
    library = folder / "shim.so"
    command = [compiler, "-x", "c", "-fPIC", "-shared", "-o", library, folder / "shim.c"]
    subprocess.run([*command, "-ldl"], check=True)
    return library


@pytest.mark.parametrize("call", ["mmap", "mremap"])
def test_an_array_is_whole_when_the_kernel_gives_no_mapping(shim, call, tmp_path):
    """Whichever step fails: same address, same values, and it can be written to."""
    done = run(
        f"""
        import mxtrt, mxnet as mx, numpy as np
        from pathlib import Path
        from mxtrt.weights import paging
        array = mx.nd.random.uniform(shape=(300, 1000))
        values, address = array.asnumpy(), paging.address_of(array)
        paging.page_out([mx.nd.ones((300, 1000))], Path({str(tmp_path)!r}))
        libc = __import__("ctypes").CDLL(None)
        libc.setenv(b"FAILING", {call.encode()!r}, 1)
        done = paging.page_out([array], Path({str(tmp_path)!r}))
        print(done.released == 0 < done.left)
        libc.unsetenv(b"FAILING")
        print(paging.address_of(array) == address, (array.asnumpy() == values).all())
        array[:] = 2 * array
        print((array.asnumpy() == 2 * values).all())
        del array
        mx.nd.waitall()
        print(paging.page_out([mx.nd.ones((300, 1000))], Path({str(tmp_path)!r})).released > 0)
        """,
        LD_PRELOAD=str(shim),
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["True"] * 5, done.stdout


def test_who_reads_an_array_whose_contents_were_lost_is_told(shim, tmp_path):
    """The kernel takes the pages, gives nothing in their place, and the file is not to be read."""
    done = run(
        f"""
        import mxtrt, mxnet as mx
        from pathlib import Path
        from mxtrt.weights import paging
        array = mx.nd.random.uniform(shape=(300, 1000))
        array.wait_to_read()
        libc = __import__("ctypes").CDLL(None)
        libc.setenv(b"FAILING", b"mremap", 1)
        libc.setenv(b"UNREADABLE", b"yes", 1)
        for call in (lambda: paging.page_out([array], Path({str(tmp_path)!r})), array.asnumpy):
            try:
                call()
            except (OSError, mx.MXNetError) as error:
                print(type(error).__name__, "were lost" in str(error))
        """,
        LD_PRELOAD=str(shim),
    )
    assert done.stdout.split() == ["OSError", "False", "MXNetError", "True"], done.stderr


def test_paging_out_leaves_the_failure_of_a_write_to_whoever_reads_next(tmp_path):
    """MXNet tells of it once; a page-out that asks first must not keep it."""
    done = run(
        f"""
        import os, mxtrt, mxnet as mx
        from mxtrt.node import library
        from mxtrt.weights import paging
        array = mx.nd.ones((300, 1000))
        begin = paging.address_of(array)
        begin, end = paging.whole_pages(begin, begin + paging.size_of(array))
        file = os.open({str(tmp_path / "pages")!r}, os.O_RDWR | os.O_CREAT)
        mx.nd.random.normal(0, -1, array.shape, out=array)  # fails in MXNet's engine
        for call in (
            lambda: library().page_out(array, begin, end - begin, file, 0), array.asnumpy
        ):
            try:
                call()
            except (OSError, mx.MXNetError) as error:
                print(type(error).__name__)
        """
    )
    assert done.stdout.split() == ["OSError", "MXNetError"], done.stderr


def test_arrays_that_mxnets_engine_still_holds_are_looked_at_again(monkeypatch):
    """An operation's arrays go a moment after it is done; another MXNet's stay as they are."""
    node = library()
    owners, late = node.lib.mxtrt_owners, [3]

    def count(handle):
        late[0] -= 1
        return owners(handle) + (late[0] > 0)

    monkeypatch.setattr(node.lib, "mxtrt_owners", count)
    node._check_layout()
    monkeypatch.setattr(importlib.import_module("mxtrt.node.library"), "_LOOKS", 2)
    monkeypatch.setattr(node.lib, "mxtrt_owners", lambda handle: 7)
    with pytest.raises(NodeError, match="otherwise"):
        node._check_layout()
