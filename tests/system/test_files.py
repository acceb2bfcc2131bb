"""Files are written whole or not at all."""

from __future__ import annotations

import fcntl
import os
import stat
import time
from pathlib import Path

import pytest

from mxtrt.system.files import TEMPORARY, new_file, write_text


def test_a_file_takes_the_place_of_an_older_one(tmp_path: Path) -> None:
    """With the permissions that any new file would have."""
    path = tmp_path / "a"
    path.write_text("older")
    path.chmod(0o600)
    write_text(path, "größer")
    assert path.read_bytes() == "größer".encode()
    (tmp_path / "b").touch()
    assert path.stat().st_mode == (tmp_path / "b").stat().st_mode


def test_a_private_file_is_its_owners(tmp_path: Path) -> None:
    """Whatever the umask says."""
    with new_file(tmp_path, private=True) as file:
        file.publish(tmp_path / "a")
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o600


@pytest.mark.parametrize(("umask", "mode"), [(0o077, 0o600), (0o022, 0o644), (0o002, 0o664)])
def test_the_umask_is_obeyed_and_never_touched(
    umask: int, mode: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is all threads': what another one creates meanwhile would be anybody's."""
    before = os.umask(umask)
    try:
        with monkeypatch.context() as patch:
            patch.setattr(os, "umask", lambda _: pytest.fail("the umask was changed"))
            write_text(tmp_path / "a", "text")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == mode


@pytest.mark.parametrize("call", ["os.fsync", "pathlib.Path.replace"])
def test_after_a_failure_the_older_file_is_there_and_nothing_else(
    call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk, for example."""
    path = tmp_path / "a"
    path.write_text("older")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(call, full)
    with pytest.raises(OSError, match="No space left"):
        write_text(path, "newer")
    assert path.read_text() == "older"
    assert list(tmp_path.iterdir()) == [path]


def test_what_is_not_published_is_removed(tmp_path: Path) -> None:
    """Also when the writer itself fails."""
    with pytest.raises(TypeError), new_file(tmp_path) as file:
        file.stream.write("text")  # type: ignore[arg-type]
    with new_file(tmp_path):
        pass
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("seconds", [-(10**8), 0, 10**8])
def test_what_a_writer_that_died_left_is_removed(tmp_path: Path, seconds: int) -> None:
    """By the next writer, whatever the clock says; what is being written stays, and other files."""
    left, folder, link = (tmp_path / f".{name}{TEMPORARY}" for name in "abc")
    folder.mkdir()
    (tmp_path / "target").write_text("")
    link.symlink_to(tmp_path / "target")
    with new_file(tmp_path) as file:
        left.write_text("half")
        then = time.time() + seconds
        for path in (left, file.path):
            os.utime(path, (then, then))
        write_text(tmp_path / "a", "text")
        assert not left.exists()
        file.publish(tmp_path / "b")
    assert sorted(tmp_path.iterdir()) == sorted(
        [folder, link, *(tmp_path / name for name in ("a", "b", "target"))]
    )


def test_a_file_taken_for_abandoned_before_it_was_locked_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another writer may see it in that moment."""
    flock, removed = fcntl.flock, []

    def late(handle: int, operation: int) -> None:
        if not removed:
            removed.extend(tmp_path.iterdir())
            removed[0].unlink()
        flock(handle, operation)

    monkeypatch.setattr(fcntl, "flock", late)
    write_text(tmp_path / "a", "text")
    assert len(removed) == 1
    assert (tmp_path / "a").read_text() == "text"
    assert list(tmp_path.iterdir()) == [tmp_path / "a"]


def test_a_file_system_without_locks_serves_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is taken for abandoned there."""

    def refuse(*_: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with new_file(tmp_path) as file:
        write_text(tmp_path / "a", "text")
        file.publish(tmp_path / "b")
    assert sorted(tmp_path.iterdir()) == [tmp_path / "a", tmp_path / "b"]


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    """What it points to is replaced."""
    (tmp_path / "there").mkdir()
    target, link = tmp_path / "there" / "a", tmp_path / "link"
    target.write_text("older")
    link.symlink_to(target)
    write_text(link, "newer")
    assert link.is_symlink()
    assert target.read_text() == "newer"


def test_a_pipe_gets_the_text_itself(tmp_path: Path) -> None:
    """Such as /dev/stdout."""
    reader, writer = os.pipe()
    try:
        write_text(Path(f"/dev/fd/{writer}"), "text")
        assert os.read(reader, 100) == b"text"
    finally:
        os.close(reader)
        os.close(writer)
