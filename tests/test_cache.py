"""Built engines on disk: whole or absent, verified, shared between processes, bounded."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

import mxtrt
from mxtrt.cache import EngineCache

ROOT = Path(mxtrt.__file__).parents[1]


def entries(path: Path) -> list[Path]:
    """Finished entries of a cache."""
    return sorted((path / "engines").glob("*.engine"))


def test_an_entry_is_built_once(tmp_path):
    """The second process start reads what the first one built."""
    calls = []

    def build() -> bytes:
        calls.append(1)
        return b"engine" * 1000

    for _ in range(3):
        assert EngineCache(str(tmp_path), 1 << 20).get_or_build("k", build) == b"engine" * 1000
    assert len(calls) == 1
    assert EngineCache(str(tmp_path), 1 << 20).get_or_build("other", lambda: b"x") == b"x"


@pytest.mark.parametrize("place", [*range(0, 60, 7), -1, -500])
def test_a_damaged_entry_is_built_again(tmp_path, place):
    """Any changed byte, header or engine, is noticed; the entry is replaced."""
    cache = EngineCache(str(tmp_path), 1 << 20)
    cache.get_or_build("k", lambda: b"engine" * 1000)
    (entry,) = entries(tmp_path)
    content = bytearray(entry.read_bytes())
    content[place] ^= 0xFF
    entry.write_bytes(content)
    assert cache.get_or_build("k", lambda: b"new") == b"new"
    assert cache.get_or_build("k", lambda: b"unused") == b"new"


@pytest.mark.parametrize("content", [b"", b"mxtrt engine 1\n", b"something else" * 100])
def test_a_truncated_or_foreign_file_is_built_again(tmp_path, content):
    """What is not an entry is never used and never fatal."""
    cache = EngineCache(str(tmp_path), 1 << 20)
    cache.get_or_build("k", lambda: b"engine")
    (entry,) = entries(tmp_path)
    entry.write_bytes(content)
    assert cache.get_or_build("k", lambda: b"new") == b"new"


def test_the_least_recently_used_entries_go_first(tmp_path):
    """The limit holds, and the entry just written always stays."""
    cache = EngineCache(str(tmp_path), 3000)
    for age, key in enumerate(["a", "b", "c"]):
        cache.get_or_build(key, lambda: bytes(900))
        os.utime(tmp_path / "engines" / f"{key}.engine", (age, age))
    cache.get_or_build("a", lambda: pytest.fail("a is there"))
    cache.get_or_build("d", lambda: bytes(900))
    assert [entry.stem for entry in entries(tmp_path)] == ["a", "c", "d"]


def test_a_failed_build_keeps_nothing(tmp_path):
    """The error is the builder's; the next call builds."""

    def fail() -> bytes:
        raise RuntimeError("no engine")

    cache = EngineCache(str(tmp_path), 1 << 20)
    with pytest.raises(RuntimeError, match="no engine"):
        cache.get_or_build("k", fail)
    assert entries(tmp_path) == []
    assert cache.get_or_build("k", lambda: b"x") == b"x"


def test_no_cache_is_a_cache_too(tmp_path):
    """A limit of 0, a directory that cannot be made, and one that others may write to."""
    assert EngineCache(str(tmp_path), 0).get_or_build("k", lambda: b"x") == b"x"
    assert not (tmp_path / "engines").exists()
    (tmp_path / "file").write_text("")
    assert EngineCache(str(tmp_path / "file"), 9999).get_or_build("k", lambda: b"x") == b"x"
    shared = tmp_path / "shared" / "engines"
    shared.mkdir(parents=True)
    shared.chmod(0o777)
    assert EngineCache(str(tmp_path / "shared"), 9999).get_or_build("k", lambda: b"x") == b"x"
    assert list(shared.iterdir()) == []


def test_the_directory_is_the_users_alone(tmp_path):
    """Engines are executable code."""
    EngineCache(str(tmp_path), 9999).get_or_build("k", lambda: b"x")
    assert stat.S_IMODE((tmp_path / "engines").stat().st_mode) == 0o700


BUILDER = """
import sys, time
sys.path.insert(0, {root!r})
from mxtrt.cache import EngineCache
def build():
    print("building", flush=True)
    time.sleep({seconds})
    return b"engine" * 1000
print(len(EngineCache({path!r}, 1 << 20).get_or_build("k", build)), flush=True)
"""


def start(path: Path, seconds: float) -> subprocess.Popen[str]:
    """A process that builds an entry slowly."""
    code = BUILDER.format(root=str(ROOT), path=str(path), seconds=seconds)
    return subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        text=True,
        cwd=tempfile.gettempdir(),
    )


def test_two_processes_build_an_entry_once(tmp_path):
    """The second waits for the first and reads its engine."""
    both = [start(tmp_path, 1.0) for _ in range(2)]
    said = [process.communicate(timeout=60)[0].split() for process in both]
    assert sorted(said, key=len) == [["6000"], ["building", "6000"]]


def test_a_builder_that_is_killed_leaves_nothing_behind(tmp_path):
    """The lock goes with its process, and the next one builds."""
    with start(tmp_path, 60) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "building\n"
        process.send_signal(signal.SIGKILL)
    assert entries(tmp_path) == []
    begin = time.monotonic()
    cache = EngineCache(str(tmp_path), 1 << 20)
    assert cache.get_or_build("k", lambda: b"again") == b"again"
    assert time.monotonic() - begin < 30
