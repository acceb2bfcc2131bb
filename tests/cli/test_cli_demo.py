"""``mxtrt demo``."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest

from mxtrt.cli import demo

pytest.importorskip("skimage")
pytest.importorskip("sklearn")


@pytest.mark.slow
def test_demo_shows_the_same_results_both_ways(python: Callable[..., Any]) -> None:
    """Parity on the picture, accuracy and agreement on the digits."""
    result = python(["-m", "mxtrt", "demo", "--seconds", "0.2", "--json"])
    assert result.code == 0, result.err
    found = result.json
    assert found["passed"] is True
    digits, picture = found["digits"], found["picture"]
    assert digits["plain"] == digits["mxtrt"] > 0.95
    assert digits["agreement"] == 1.0
    assert digits["nodes_in_engine"] > 0
    assert digits["engine"] == picture["engine"] == picture["report"]["engine"]
    assert picture["top1_plain"] == picture["top1_mxtrt"]
    assert max(digits["parity_error"], picture["parity_error"]) <= demo.PARITY
    assert picture["report"]["released_bytes"] > 2**25


@pytest.mark.slow
def test_demo_fails_where_results_differ(mxtrt_cli: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The exit code is 1 then, and the last line says so; both parts name the engine."""
    monkeypatch.setattr(demo, "PARITY", -1.0)
    monkeypatch.setattr(demo, "_EPOCHS", 1)
    result = mxtrt_cli("demo", "--seconds", "0")
    assert result.code == 1, result.err
    assert result.out.splitlines()[-1] == "The results differ."
    assert "accuracy" in result.out
    assert "Top-1 index:" in result.out
    engine = re.findall(r"nodes in (\w+ [\d.]+)$", result.out, re.MULTILINE)
    assert engine == re.findall(r"^engine (\w+ [\d.]+):", result.out, re.MULTILINE)
    assert len(engine) == 1
