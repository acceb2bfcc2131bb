"""Plots as inline SVG: text stays text, and a page needs no other file."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from mxtrt.perf.load import Load
from mxtrt.perf.report.content import Row

__all__ = ["growth_plot", "load_plot", "ratio_plot", "trend_plot"]

#: Ratios that differ by more than this are drawn on a logarithmic axis.
_WIDE = 8
_COLOURS = {"bad": "#c0392b", "unsure": "#b9770e", "good": "#1e8449", "plain": "#2c5f8a"}

#: Of the sides of a load: name, colour, marker and style of the line.
_SIDES = {
    "plain": ("plain MXNet", "#7f8c8d", "s", "-"),
    "mxtrt": ("mxtrt", "#2c5f8a", "o", "-"),
    "bare": ("bare engine", "#b9770e", "^", "--"),
}


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


def load_plot(name: str, points: Sequence[Load]) -> str:
    """Requests per second and the 99th percentile of latencies over threads; empty for none."""
    if not points:
        return ""
    from matplotlib import ticker

    figure, (rates, latencies) = _figure(2.7, columns=2)
    threads = [point.threads for point in points]
    for side, (title, colour, marker, line) in _SIDES.items():
        seen = [point for point in points if side in point.sides]
        places = [point.threads for point in seen]
        look = {"color": colour, "marker": marker, "linestyle": line, "markersize": 4}
        if seen:
            rates.plot(places, [point.sides[side].rate for point in seen], label=title, **look)
            latencies.plot(places, [point.sides[side].p99_ms for point in seen], **look)
    for axes in (rates, latencies):
        axes.set_xscale("log", base=2)
        axes.set_xticks(threads, [str(number) for number in threads])
        axes.grid(axis="y", color="#eeeeee")
        axes.set_xlabel("threads")
    rates.set_ylim(bottom=0)
    rates.set_title("requests per second", fontsize=9, loc="left")
    rates.yaxis.set_major_formatter(ticker.StrMethodFormatter("{x:,g}"))
    latencies.set_yscale("log")
    latencies.set_title("p99, ms", fontsize=9, loc="left")
    latencies.yaxis.set_major_locator(ticker.LogLocator(subs=(1.0, 2.0, 5.0)))
    latencies.yaxis.set_major_formatter(ticker.FormatStrFormatter("%g"))
    for axes in (rates, latencies):
        axes.minorticks_off()
    figure.legend(loc="outside upper center", ncols=len(_SIDES), frameon=False, fontsize=9)
    return _svg(figure, f"Requests per second and p99 of {name} over threads")


def _figure(height: float, columns: int = 1) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, height), layout="constrained")
    axes = figure.subplots(ncols=columns)
    for one in [axes] if columns == 1 else axes:
        for side in ("top", "right"):
            one.spines[side].set_visible(False)
        one.grid(axis="x", color="#eeeeee")
        one.set_axisbelow(True)
        one.tick_params(labelsize=9)
        one.xaxis.label.set_fontsize(9)
    return figure, axes


def _svg(figure: Any, title: str) -> str:
    import matplotlib

    file = io.StringIO()
    # Text stays text, and the same figures give the same SVG whenever they are drawn.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": title}):
        figure.savefig(file, format="svg", metadata={"Date": None})
    text = file.getvalue()
    text = re.sub(r' width="[\d.]+pt" height="[\d.]+pt"|height="[\d.]+pt"', "", text, count=2)
    opening = f'<svg role="img" aria-label="{escape(title)}"'
    return text[text.index("<svg") :].replace("<svg", opening, 1)
