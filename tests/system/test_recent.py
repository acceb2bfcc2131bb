"""Results that are kept for a while."""

from __future__ import annotations

from mxtrt.system.recent import Recent


def test_what_was_used_longest_ago_goes_first():
    """By number, and by size; what is too large for all is not kept."""
    kept: Recent[str] = Recent(3, 10)
    for key in "abc":
        kept.put(key, key.upper(), 1)
    assert kept.get("a") == "A"
    kept.put("d", "D", 1)
    assert [kept.get(key) for key in "abcd"] == ["A", None, "C", "D"]
    kept.put("e", "E", 9)
    assert kept.values() == ["D", "E"]
    kept.put("f", "F", 11)
    assert kept.get("f") is None
    kept.discard("d")
    assert kept.values() == ["E"]
    kept.clear()
    assert kept.values() == []
