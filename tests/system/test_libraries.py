"""Libraries that NVIDIA's Python packages have, and the machine's own."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from pathlib import Path

import pytest
from support.process import run

from mxtrt.system import libraries


def compiled(path: Path, code: str, *needs: Path) -> Path:
    """A shared library that links others by their names alone."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("building libraries needs a C compiler")
    path.parent.mkdir(parents=True, exist_ok=True)
    source = path.with_suffix(".c")
    source.write_text(code)
    command = [compiler, "-shared", "-fPIC", f"-Wl,-soname,{path.name}", "-o", path, source]
    subprocess.run([*command, *needs], check=True)
    return path


@pytest.fixture
def chain(tmp_path: Path) -> tuple[Path, Path]:
    """A library that needs one of a package, which needs another; and where the packages are."""
    site = tmp_path / "site"
    last = compiled(site / "nvidia/last/lib/libmxtrtlast.so.3", "int last(void) { return 3; }")
    code = "int last(void); int middle(void) { return last() + 1; }"
    middle = compiled(site / "nvidia/middle/lib/libmxtrtmiddle.so.2", code, last)
    code = "int middle(void); int first(void) { return middle() + 1; }"
    return compiled(tmp_path / "libmxtrtfirst.so", code, middle, last), site


def test_packages_are_found_wherever_they_are(chain, tmp_path):
    """Some have an __init__.py, with which Python takes one folder for the whole package."""
    first, site = chain
    other = tmp_path / "other" / "nvidia"
    other.mkdir(parents=True)
    (other / "__init__.py").write_text("")
    before = f"import sys; sys.path[:0] = [{str(tmp_path / 'other')!r}, {str(site)!r}]\n"
    done = run(before + _code(first))
    assert done.returncode == 0, done.stderr


def test_messages_in_another_language_are_understood(monkeypatch):
    """Glibc has them in the language of a program that sets its locale."""

    def load() -> None:
        raise OSError("libcudnn.so.8: Kann die Shared-Object-Datei nicht öffnen")

    with pytest.raises(ImportError, match=r"MXNet needs the library libcudnn\.so\.8"):
        libraries.supplied(load, "MXNet")


LOAD = """
    import ctypes
    from mxtrt.system.libraries import loaded, supplied
    print(supplied(lambda: ctypes.CDLL({path!r}), "the test").first())
    print(loaded()["libmxtrtlast.so.3"])
"""


def test_what_packages_have_is_loaded_in_the_order_in_which_it_is_needed(chain):
    """No LD_LIBRARY_PATH."""
    first, site = chain
    done = run(f"import sys; sys.path.append({str(site)!r})\n" + _code(first))
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["5", str(site / "nvidia/last/lib/libmxtrtlast.so.3")]


def test_the_machines_own_library_comes_first(chain, tmp_path):
    """A package's is loaded only where the system's loader finds none."""
    first, site = chain
    own = compiled(tmp_path / "own/libmxtrtlast.so.3", "int last(void) { return 30; }")
    done = run(
        f"import sys; sys.path.append({str(site)!r})\n" + _code(first),
        LD_LIBRARY_PATH=str(own.parent),
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["32", str(own)]


def _code(path: Path) -> str:
    import textwrap

    return textwrap.dedent(LOAD.format(path=str(path)))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("libcudnn.so.8", r"pip install 'nvidia-cudnn-cu11==8\.6\.0\.163'"),
        ("libcuda.so.1", "NVIDIA's driver"),
        ("libgomp.so.1", "apt-get install libgomp1"),
        ("libofmine.so.4", "LD_LIBRARY_PATH"),
    ],
)
def test_what_nobody_has_is_one_sentence(name, words):
    """With what it comes with."""

    def load() -> None:
        raise OSError(f"{name}: cannot open shared object file: No such file or directory")

    with pytest.raises(ImportError, match=f"MXNet needs the library {name}.*{words}"):
        libraries.supplied(load, "MXNet")


@pytest.mark.parametrize("text", ["/a/libb.so: invalid ELF header", "no such thing", "a: b"])
def test_any_other_error_is_as_it_was(text):
    """Not about a library that is missing."""
    with pytest.raises(OSError, match=text):
        libraries.supplied(lambda: (_ for _ in ()).throw(OSError(text)), "MXNet")


def test_a_library_that_stays_missing_ends_the_tries(monkeypatch, tmp_path):
    """A package has it, and the loader does not take it for what it misses."""
    other = compiled(tmp_path / "libmxtrtother.so.9", "int other(void) { return 9; }")
    monkeypatch.setattr(libraries, "packaged", lambda name: other)
    with pytest.raises(OSError, match="No such file"):
        libraries.supplied(lambda: ctypes.CDLL("libmxtrtabsent.so.1"), "the test")
