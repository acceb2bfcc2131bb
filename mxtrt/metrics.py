"""The counters for Prometheus (extra ``metrics``: ``pip install 'mxtrt[metrics]'``).

``mxtrt.metrics.register()`` once per process, and whatever exposes the process's metrics
exposes ``mxtrt_engine_runs_total`` and its siblings with them.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from mxtrt.errors import MxtrtError
from mxtrt.observe.counters import Stats, stats

if TYPE_CHECKING:
    from prometheus_client.core import Metric
    from prometheus_client.registry import CollectorRegistry

__all__ = ["register"]

# Numbers that grow and fall.
_GAUGES = ("building",)


def register(registry: CollectorRegistry | None = None) -> Any:
    """Register a collector of :func:`mxtrt.stats`.

    The numbers are read when they are collected; nothing is counted twice and a forward costs
    nothing more.

    Args:
        registry: Where to; ``prometheus_client``'s default registry by default.

    Returns:
        The collector, for ``registry.unregister``.

    Raises:
        MxtrtError: ``prometheus_client`` is not installed.
        ValueError: The registry has a collector of mxtrt already.
    """
    try:
        from prometheus_client import REGISTRY
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
    except ModuleNotFoundError as error:
        if error.name != "prometheus_client":
            raise
        raise MxtrtError(
            "prometheus_client is not installed; install it with: pip install 'mxtrt[metrics]'"
        ) from None

    meanings = _meanings()

    class StatsCollector:
        def collect(self) -> Iterator[Metric]:
            now = stats()
            for name, meaning in meanings.items():
                family = GaugeMetricFamily if name in _GAUGES else CounterMetricFamily
                yield family(f"mxtrt_{name}", meaning, value=getattr(now, name))

        describe = collect  # lets a registry see that it has one of these already

    collector = StatsCollector()
    (REGISTRY if registry is None else registry).register(collector)
    return collector


def _meanings() -> dict[str, str]:
    """What each counter counts, in the words of the docstring of :class:`Stats`."""
    lines = re.sub(r"\n {12,}", " ", Stats.__doc__ or "")
    told = dict(re.findall(r"^ +(\w+): (.+)$", lines, re.MULTILINE))
    return {field.name: told.get(field.name, field.name) for field in dataclasses.fields(Stats)}
