"""The performance gate: what a change costs, against a stored baseline.

One run of the suites in ``tests/bench`` is a file ``RUN.json``, which is pytest-benchmark's own
with what is measured here beside its figures.

- ``counters``: what is counted exactly, free of noise.
- ``paired``: plain MXNet and mxtrt in turns, with a control of the measurement itself.
- ``load``: requests of many threads, each its next one when the last is answered.
- ``machine``: which baseline a machine is held to, and what else to know of it.
- ``runs``: a run, read from its file and joined with the repetition of a part of it.
- ``baseline``: what is stored, read and written.
- ``verdicts``: a run against a baseline.
- ``drift``: slow changes over the history of a baseline.
- ``report``: all of it as a page and as Markdown.
"""
