"""The report: complete, self-contained, and safe against what names and reasons say."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from support.simulation import run

from mxtrt.perf.baseline import Baseline, read_baseline, update_baseline
from mxtrt.perf.report.content import content
from mxtrt.perf.report.render import to_html, to_markdown

pytest.importorskip("matplotlib")
pytest.importorskip("ruptures")


@pytest.fixture
def baseline(tmp_path: Path) -> Baseline:
    """A baseline with a history of three runs."""
    for seed in range(3):
        update_baseline(tmp_path / "machine", run(seed=seed), f"reason <script>{seed}")
    return read_baseline(tmp_path / "machine")


def test_a_page_needs_nothing_else(baseline: Baseline) -> None:
    """No script, no style sheet, no picture from elsewhere; what people wrote is escaped."""
    page = to_html(content(run(), baseline))
    assert "<script" not in page
    assert "reason &lt;script&gt;2" in page
    assert not re.search(r"<(link|img|iframe|object)\b|@import|url\(\s*['\"]?http", page)
    assert page.count("<svg") == 2  # the ratios, and one trend


def test_both_tell_of_a_changed_counter(baseline: Baseline) -> None:
    """The headline, the verdict, and before and after."""
    found = content(run({"copies": 1.0}), baseline)
    for text in (to_html(found), to_markdown(found)):
        assert "1 of 1 benchmarks are not as before: zoo/net/1" in text
        assert "MORE" in text
    assert "| zoo/net/1 | copies | 0 | 1 |" in to_markdown(found)


def test_a_report_without_a_baseline_has_figures_only() -> None:
    """No verdicts."""
    found = content(run(), None)
    assert found.headline == "1 benchmarks, held against nothing"
    assert "zoo/net/1 | - |" in to_markdown(found)
    assert to_html(found)
