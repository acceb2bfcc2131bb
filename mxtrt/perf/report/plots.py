"""Plots as inline SVG: text stays text, and a page needs no other file."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from typing import Any

from mxtrt.perf.report.content import Row

__all__ = ["growth_plot", "ratio_plot", "trend_plot"]

#: Ratios that differ by more than this are drawn on a logarithmic axis.
_WIDE = 8
_COLOURS = {"bad": "#c0392b", "unsure": "#b9770e", "good": "#1e8449", "plain": "#2c5f8a"}


def ratio_plot(rows: Sequence[Row]) -> str:
    """Speed-ups with their intervals, the stored ones behind them; empty for none."""
    measured = [row for row in rows if row.now is not None]
    if not measured:
        return ""
    from matplotlib import ticker

    figure, axes = _figure(0.34 * len(measured) + 0.9)
    for place, row in enumerate(reversed(measured)):
        now, before = row.now, row.before
        assert now is not None
        if before is not None:
            axes.plot([before.low, before.high], [place] * 2, color="#cccccc", linewidth=9)
        colour = _COLOURS[row.tone]
        axes.plot([now.low, now.high], [place] * 2, color=colour, linewidth=2.5)
        axes.plot([now.ratio], [place], "o", color=colour, markersize=5)
    ends = [end for row in measured if row.now for end in (row.now.low, row.now.high)]
    if max(ends) > _WIDE * min(ends):
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(ticker.LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.xaxis.set_major_formatter(ticker.FormatStrFormatter("%g"))
        axes.minorticks_off()
    axes.axvline(1, color="#888888", linewidth=0.8, linestyle="--")
    axes.set_yticks(range(len(measured)), [row.title for row in reversed(measured)])
    axes.set_ylim(-0.6, len(measured) - 0.4)
    axes.set_xlabel("plain MXNet / mxtrt; grey: the baseline; dashed: as fast as plain MXNet")
    return _svg(figure, "Speed-up of every benchmark with its interval")


def trend_plot(name: str, history: Sequence[Mapping[str, Any]]) -> str:
    """The speed-up of a benchmark over the recorded runs; empty for fewer than two."""
    entries = [entry["ratios"][name] for entry in history if name in entry["ratios"]]
    if len(entries) < 2:
        return ""
    figure, axes = _figure(1.7)
    places = range(1, len(entries) + 1)
    axes.fill_between(places, [e[1] for e in entries], [e[2] for e in entries], color="#d6e4f0")
    axes.plot(places, [e[0] for e in entries], "o-", color=_COLOURS["plain"], markersize=4)
    axes.set_title(name, fontsize=10, loc="left")
    axes.set_xlabel("recorded runs")
    axes.xaxis.get_major_locator().set_params(integer=True)
    return _svg(figure, f"Speed-up of {name} over the recorded runs")


def growth_plot(points: Mapping[int, float]) -> str:
    """Microseconds per node, from symbol to ONNX, over the size of the graph; empty for none."""
    if len(points) < 2:
        return ""
    figure, axes = _figure(2.2)
    sizes = sorted(points)
    axes.plot(sizes, [points[size] for size in sizes], "o-", color=_COLOURS["plain"])
    axes.set_xscale("log")
    axes.set_xticks(sizes, [f"{size:,}" for size in sizes])
    axes.minorticks_off()
    axes.set_ylim(0, 1.3 * max(points.values()))
    axes.set_xlabel("nodes of the graph")
    axes.set_ylabel("us per node")
    return _svg(figure, "Time per node from symbol to ONNX over the size of the graph")


def _figure(height: float) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, height), layout="constrained")
    axes = figure.subplots()
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.grid(axis="x", color="#eeeeee")
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=9)
    axes.xaxis.label.set_fontsize(9)
    return figure, axes


def _svg(figure: Any, title: str) -> str:
    import matplotlib

    file = io.StringIO()
    # Text stays text, and the same figures give the same SVG whenever they are drawn.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": title}):
        figure.savefig(file, format="svg", metadata={"Date": None})
    text = file.getvalue()
    text = re.sub(r' width="[\d.]+pt" height="[\d.]+pt"|height="[\d.]+pt"', "", text, count=2)
    return text[text.index("<svg") :].replace("<svg", f'<svg role="img" aria-label="{title}"', 1)
