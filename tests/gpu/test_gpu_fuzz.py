"""Random graphs in TensorRT, with MXNet's arrays in host memory and on the GPU."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import mxnet as mx
import pytest

from mxtrt_fuzz import campaign
from mxtrt_fuzz.corpus import Reproducer, reproducers
from mxtrt_fuzz.execute import Setup
from mxtrt_fuzz.replay import replay

EXAMPLES = 40
CORPUS = Path(__file__).parents[2] / "fuzz" / "corpus"

# What TensorRT 8.5.3.1 makes of the bare ONNX model too; ``verify=True`` finds the wrong answers.
IN_TENSORRT = {
    "answer-value-mxtrt-SliceChannel-float32-9126e3ef": "a slice that is an output is zero "
    "where its sibling is an output, and a reduction of that too",
    "answer-value-mxtrt-broadcast_mul-float32-a89e16bf": "a softmax of what an embedding found is "
    "repeated along the axis that a product broadcasts",
}


@pytest.mark.parametrize("profile", ["gpu", "gpu-context"])
def test_random_graphs_have_no_unexplained_failure(
    profile: str, table: Callable[..., None], tmp_path: Path
) -> None:
    """``mxtrt fuzz --profile`` runs more of them."""
    if profile == "gpu-context" and not mx.context.num_gpus():
        pytest.skip("this MXNet has no GPU code; install mxnet-cu117 1.9.1 for mx.gpu()")
    report = campaign.run(campaign.Campaign(profile, EXAMPLES, engine="tensorrt"), jobs=1)
    campaign.explain(report, tmp_path)
    table(
        "random graphs in TensorRT",
        profile=profile,
        graphs=report.graphs,
        valid=f"{report.valid_rate:.0%}",
        per_second=f"{report.graphs_per_second:.1f}",
        failures=len(report.unexplained),
    )
    assert report.unexplained == {}, "\n".join(
        f"{name}: {found.failure.detail}" for name, found in report.unexplained.items()
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "reproducer",
    [
        pytest.param(
            found,
            id=found.path.name,
            marks=[pytest.mark.xfail(reason=IN_TENSORRT[found.path.name], strict=True)]
            if found.path.name in IN_TENSORRT
            else [],
        )
        for found in reproducers(CORPUS)
    ],
)
def test_reproducers_fail_no_more_in_tensorrt(reproducer: Reproducer) -> None:
    """Also those that another engine found."""
    for failure in replay(reproducer, Setup("tensorrt")):
        raise failure
