"""Random graphs in TensorRT, with MXNet's arrays in host memory and on the GPU."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import mxnet as mx
import pytest

import mxtrt
from mxtrt_fuzz import campaign, probe
from mxtrt_fuzz.corpus import Reproducer, read, reproducers
from mxtrt_fuzz.execute import Setup, observe
from mxtrt_fuzz.oracle import Oracle
from mxtrt_fuzz.replay import replay

EXAMPLES = 16
CORPUS = Path(__file__).parents[2] / "fuzz" / "corpus"

# Wrong answers of TensorRT 8.5.3.1, to the bare ONNX model too.
IN_TENSORRT = {
    "answer-value-mxtrt-SliceChannel-float32-9126e3ef": "a slice that is an output is zero "
    "where its sibling is an output, and a reduction of that too",
    "answer-value-mxtrt-broadcast_mul-float32-a89e16bf": "a softmax of what an embedding found is "
    "repeated along the axis that a product broadcasts",
}

# What failed with MXNet's arrays on the GPU.
ON_THE_GPU = ("forward-error-mxtrt-graph-float32-23610030",)


@pytest.mark.parametrize("profile", ["gpu", "gpu-context"])
def test_random_graphs_have_no_unexplained_failure(
    profile: str, table: Callable[..., None], tmp_path: Path
) -> None:
    """``mxtrt fuzz --profile`` runs more of them."""
    if profile == "gpu-context" and not mx.context.num_gpus():
        pytest.skip("this MXNet has no GPU code; install mxnet-cu117 1.9.1 for mx.gpu()")
    report = campaign.run(campaign.Campaign(profile, EXAMPLES, engine="tensorrt"), jobs=1)
    campaign.Findings(tmp_path).finish(report)
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


@pytest.mark.slow
@pytest.mark.parametrize("name", ON_THE_GPU)
def test_reproducers_fail_no_more_on_the_gpu(device: mx.context.Context, name: str) -> None:
    """In TensorRT, without copies."""
    setup = Setup("tensorrt", "gpu", probe.working_operators(), ("none", "drawn"), exactness=False)
    for failure in replay(read(CORPUS / name), setup):
        raise failure


@pytest.mark.slow
@pytest.mark.parametrize("name", IN_TENSORRT)
def test_verify_leaves_to_mxnet_what_tensorrt_gets_wrong(name: str) -> None:
    """One operator, and every answer is right."""
    found = read(CORPUS / name)
    with mxtrt.options(verify=True):
        seen = observe(found.case, Setup("tensorrt", masks=("none",)), found.arrays)
    (run,) = seen.runs
    report = mxtrt.last_report()
    assert report is not None
    assert [node.reason.partition(":")[0] for node in report.left] == ["verify"]
    limits = Oracle(lambda case: seen, found.arrays).limits(found.case, 64, coarse=True)
    for heads, outputs in zip(limits, run.outputs, strict=True):
        for limit, output in zip(heads, outputs, strict=True):
            assert limit.error(output) <= 1
