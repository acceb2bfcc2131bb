"""The report of a run: one self-contained HTML page, and Markdown for a summary.

- ``content``: what both say.
- ``plots``: inline SVG.
- ``render``: the templates ``page.html.j2`` and ``page.md.j2``, filled in.
"""
