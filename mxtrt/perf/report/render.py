"""A report as text: HTML or Markdown."""

from __future__ import annotations

from typing import Any

from mxtrt.errors import OptionError
from mxtrt.perf.report.content import Content

__all__ = ["to_html", "to_markdown"]


def to_html(content: Content) -> str:
    """One page that needs no other file and no JavaScript."""
    from markupsafe import Markup

    from mxtrt.perf.report.plots import growth_plot, load_plot, ratio_plot, trend_plot

    history = content.baseline.history if content.baseline else ()
    per_node = {
        int(benchmark.facts["nodes"]): benchmark.paired.mxtrt_ms / benchmark.facts["nodes"] * 1e3
        for name, benchmark in content.run.benchmarks.items()
        if name.startswith("micro/convert/") and benchmark.paired is not None
    }
    trends = [trend_plot(row.name, history) for row in content.rows]
    return _render(
        "page.html.j2",
        content,
        # Our own drawing, not escaped again.
        ratios={suite: Markup(ratio_plot(rows)) for suite, rows in content.suites.items()},
        trends=[Markup(plot) for plot in trends if plot],
        loads={name: Markup(load_plot(name, points)) for name, points in content.loads.items()},
        growth=Markup(growth_plot(per_node)),
    )


def to_markdown(content: Content) -> str:
    """The same for a CI summary, without plots."""
    return _render("page.md.j2", content)


def _render(template: str, content: Content, **more: Any) -> str:
    try:
        import jinja2
    except ImportError:
        raise OptionError(
            "a report needs Jinja2 and matplotlib; install them with: pip install 'mxtrt[bench]'"
        ) from None
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("mxtrt.perf.report", "."),
        autoescape=template.endswith(".html.j2"),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(content=content, **more)
