"""Built engines on disk: whole or absent, verified, bounded.

Between processes, and with damage: ``tests/faults``.
"""

from __future__ import annotations

import os
import stat
import time
from pathlib import Path

import pytest
from filelock import FileLock

from mxtrt.engines.cache import EngineCache


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


@pytest.mark.parametrize("years", [-1, 1])
def test_clocks_that_were_wrong_cost_no_entry_that_is_used(tmp_path, years):
    """What is of the future goes first: it was not used since the clock was set back."""
    cache = EngineCache(str(tmp_path), 3000)
    for key in "abc":
        cache.get_or_build(key, lambda: bytes(900))
        then = time.time() + years * 365 * 86400
        os.utime(tmp_path / "engines" / f"{key}.engine", (then, then))
    cache.get_or_build("b", lambda: pytest.fail("b is there"))
    for key in "de":
        cache.get_or_build(key, lambda: bytes(900))
    assert [entry.stem for entry in entries(tmp_path)] == ["b", "d", "e"]


def test_an_entry_goes_with_its_lock(tmp_path):
    """Unless somebody holds it."""
    folder = tmp_path / "engines"
    cache = EngineCache(str(tmp_path), 1)
    cache.get_or_build("a", lambda: b"engine")
    with FileLock(folder / "b.lock"):
        for key in "bc":
            cache.store(key, b"engine")
    assert sorted(path.name for path in folder.iterdir()) == ["b.lock", "c.engine"]
