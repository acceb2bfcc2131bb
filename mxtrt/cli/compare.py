"""One model as plain MXNet and with engines, side by side in this process."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from mxtrt import config
from mxtrt.config import Options
from mxtrt.errors import EngineError, MxtrtWarning
from mxtrt.observe.report import Report, last_report
from mxtrt.plan import graph_pass
from mxtrt.timing.measure import Pairs, bootstrap_ratio, interleave, parity_error, resident_bytes

__all__ = ["LEVEL", "Comparison", "Latency", "compare", "served", "symbol_block"]

#: Level of the speed-up's interval.
LEVEL = 0.99


@dataclass(frozen=True, slots=True)
class Latency:
    """Latency of one call in milliseconds."""

    median_ms: float
    p90_ms: float

    @classmethod
    def of(cls, seconds: Any) -> Latency:
        """Median and 90th percentile of some calls."""
        return cls(*(float(value) * 1e3 for value in np.quantile(seconds, (0.5, 0.9))))


@dataclass(frozen=True, slots=True)
class Comparison:
    """What comparing found.

    Attributes:
        plain: Latency of plain MXNet.
        mxtrt: Latency with engines.
        pairs: Number of paired calls.
        ratio: Speed-up, the median of the paired ratios.
        low: Low end of its interval.
        high: High end of its interval.
        parity_error: Largest difference over the largest output.
        plain_growth: Bytes by which the plain bind made the process larger; the first bind of
            a process includes what MXNet sets up once.
        mxtrt_growth: The same of the bind with engines.
        report: What the bind with engines did.
        outputs: First outputs of plain MXNet and with engines, as NumPy arrays.
    """

    plain: Latency
    mxtrt: Latency
    pairs: int
    ratio: float
    low: float
    high: float
    parity_error: float
    plain_growth: int
    mxtrt_growth: int
    report: Report
    outputs: tuple[list[Any], list[Any]]

    def to_dict(self) -> dict[str, Any]:
        """The comparison as JSON-ready data, without the outputs."""
        return {
            "engine": self.report.engine,
            "plain": asdict(self.plain),
            "mxtrt": asdict(self.mxtrt),
            "pairs": self.pairs,
            "speed_up": {
                "ratio": self.ratio,
                "low": self.low,
                "high": self.high,
                "level": LEVEL,
            },
            "parity_error": self.parity_error,
            "memory": {
                "weight_bytes": self.report.weight_bytes,
                "released_bytes": self.report.released_bytes,
                "plain_growth_bytes": self.plain_growth,
                "mxtrt_growth_bytes": self.mxtrt_growth,
            },
            "report": self.report.to_dict(),
        }


def served() -> Report:
    """The report of the last bind, if it was not left to MXNet.

    Raises:
        EngineError: It was.
    """
    report = last_report()
    if report is None or report.reason:
        reason = report.reason if report else "nothing was bound"
        raise EngineError(f"the model runs as plain MXNet only: {reason}")
    return report


def symbol_block(symbol: Any, params: Mapping[str, Any], data: Mapping[str, Any]) -> Any:
    """A hybridized Gluon block of a symbol, with copies of the weights.

    Args:
        symbol: An ``mxnet.symbol.Symbol``.
        params: NDArrays of its weights.
        data: NDArrays of its data, for their names and dtypes.
    """
    import mxnet as mx

    block = mx.gluon.SymbolBlock(symbol, [mx.sym.var(n, dtype=a.dtype) for n, a in data.items()])
    for name, parameter in block.collect_params().items():
        if parameter.dtype != params[name].dtype:
            parameter.cast(params[name].dtype)
        parameter.shape = params[name].shape
        parameter.initialize(mx.init.Zero())
        parameter.set_data(params[name])
    block.hybridize(static_alloc=True, static_shape=True)
    return block


def _caller(block: Any, inputs: list[Any]) -> Callable[[], list[Any]]:
    def call() -> list[Any]:
        outputs = block(*inputs)
        outputs = list(outputs) if isinstance(outputs, (list, tuple)) else [outputs]
        for output in outputs:
            output.wait_to_read()
        return outputs

    return call


def compare(
    symbol: Any,
    params: Mapping[str, Any],
    inputs: Mapping[str, Any],
    options: Options,
    seconds: float,
    progress: Callable[[float], object] | None = None,
) -> Comparison:
    """Bind a symbol twice, without and with engines, and measure both in turn.

    Args:
        symbol: An ``mxnet.symbol.Symbol``.
        params: NDArrays of its weights.
        inputs: NDArrays of its data.
        options: Options of the bind with engines.
        seconds: Time to measure.
        progress: Is told the part of the measuring that is done.

    Raises:
        EngineError: The engine is missing, or the symbol cannot run with it.
        NodeError: The compiled extension is missing or does not fit this MXNet.
    """
    graph_pass.prepare(options)
    arrays = list(inputs.values())

    def bind(enabled: bool) -> tuple[Callable[[], list[Any]], list[Any], int]:
        before = resident_bytes()
        with config.options(**{**asdict(options), "enabled": enabled, "build": "foreground"}):
            call = _caller(symbol_block(symbol, params, inputs), arrays)
            outputs = [output.asnumpy() for output in call()]
        return call, outputs, resident_bytes() - before

    plain, expected, plain_growth = bind(False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MxtrtWarning)  # the report says it
        engines, seen, mxtrt_growth = bind(True)
    report = served()
    pairs: Pairs = interleave(plain, engines, seconds, progress=progress)
    ratio, low, high = bootstrap_ratio(pairs, LEVEL)
    return Comparison(
        plain=Latency.of(pairs[:, 0]),
        mxtrt=Latency.of(pairs[:, 1]),
        pairs=len(pairs),
        ratio=ratio,
        low=low,
        high=high,
        parity_error=parity_error(expected, seen),
        plain_growth=plain_growth,
        mxtrt_growth=mxtrt_growth,
        report=report,
        outputs=(expected, seen),
    )
