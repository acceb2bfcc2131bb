"""Resident memory of a process that bound and ran a network, each in a fresh process."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from support.process import run

pytestmark = pytest.mark.slow

SCRIPT = """
import warnings
warnings.simplefilter("ignore")
import mxtrt, mxnet as mx
from mxnet.gluon.model_zoo import vision
from mxtrt.timing.measure import resident_bytes
shape = (1, 3, 224, 224)
x = mx.nd.random.uniform(shape=shape)
net = vision.get_model("{model}")
if "{path}" == "gluon":
    net.collect_params().setattr("grad_req", "null")
    net.initialize(mx.init.MSRAPrelu())
    net.hybridize(static_alloc=True, static_shape=True)
    forward = lambda: net(x)
else:
    symbol = net(mx.sym.var("data"))
    arguments, _, states = symbol.infer_shape(data=shape)
    arrays = lambda names, shapes: {{
        n: mx.nd.random.uniform(-0.01, 0.01, shape=s)
        for n, s in zip(names, shapes) if n != "data"
    }}
    if "{path}" == "module":
        module = mx.mod.Module(symbol, label_names=None)
        module.bind([("data", shape)], for_training=False)
        module.init_params(mx.init.MSRAPrelu())
        batch = mx.io.DataBatch([x])
        def forward():
            module.forward(batch, is_train=False)
            return module.get_outputs()[0]
    elif "{path}" == "bind":
        args = {{"data": x, **arrays(symbol.list_arguments(), arguments)}}
        aux = {{n: mx.nd.ones(s) for n, s in zip(symbol.list_auxiliary_states(), states)}}
        mx.nd.waitall()
        executor = symbol.bind(mx.cpu(), args, aux_states=aux)
        forward = lambda: executor.forward()[0]
    else:
        executor = symbol.simple_bind(mx.cpu(), grad_req="null", data=shape)
        executor.copy_params_from(arrays(symbol.list_arguments(), arguments))
        for state in executor.aux_arrays:
            state[:] = 1
        forward = lambda: executor.forward(data=x)[0]
for _ in range(3):
    forward().wait_to_read()
mx.nd.waitall()
print(resident_bytes())
"""


@pytest.mark.parametrize("model", ["resnet50_v1", "vgg16"])
@pytest.mark.parametrize("path", ["simple_bind", "bind", "module", "gluon"])
def test_resident_memory_is_at_most_a_tenth_above_plain_mxnet(
    model: str, path: str, table: Callable[..., None]
) -> None:
    """Weights are resident once, whoever bound them."""
    sizes = []
    for enabled in ("0", "1"):
        # MXNet's own oneDNN pass is on, as users have it.
        done = run(
            SCRIPT.format(model=model, path=path),
            USE_TENSORRT=enabled,
            MXNET_SUBGRAPH_BACKEND="MKLDNN",
        )
        assert done.returncode == 0, done.stderr
        sizes.append(int(done.stdout.split()[-1]))
    plain, ours = sizes
    table(
        "resident memory",
        network=model,
        bound_by=path,
        plain=f"{plain / 2**20:.0f} MiB",
        mxtrt=f"{ours / 2**20:.0f} MiB",
        ratio=f"{ours / plain:.2f}",
    )
    assert ours <= 1.1 * plain
