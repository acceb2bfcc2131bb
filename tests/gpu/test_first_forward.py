"""The first forward of a process on ``mx.gpu()``, through every way to bind.

MXNet's wheels have no code for Hopper and newer GPUs; on the others these tests are easy.
"""

from __future__ import annotations

import pytest
from support.process import run

SCRIPT = """
    import mxnet as mx
    import numpy as np

    gpu, shape = mx.gpu(), (2, 3, 8, 8)
    x = mx.sym.Convolution(mx.sym.var("data"), kernel=(3, 3), num_filter=8, name="conv")
    x = mx.sym.Activation(mx.sym.BatchNorm(x, fix_gamma=False, name="norm"), act_type="relu")
    symbol = mx.sym.softmax(mx.sym.FullyConnected(mx.sym.Flatten(x), num_hidden=4, name="dense"))
    random = np.random.RandomState(0)
    arguments, _, states = symbol.infer_shape(data=shape)
    args = {n: random.rand(*s) for n, s in zip(symbol.list_arguments(), arguments)}
    aux = {n: random.rand(*s) + 0.5 for n, s in zip(symbol.list_auxiliary_states(), states)}
    data = args.pop("data")

    def on(context, arrays):
        return {name: mx.nd.array(array, ctx=context) for name, array in arrays.items()}

    host = {**on(mx.cpu(), args), "data": mx.nd.array(data)}
    plain = symbol.bind(mx.cpu(), host, grad_req="null", aux_states=on(mx.cpu(), aux))
    expected = plain.forward()[0].asnumpy()
    there = mx.nd.array(data, ctx=gpu)

    def executor():
        given = {**on(gpu, args), "data": there}
        return symbol.bind(gpu, given, grad_req="null", aux_states=on(gpu, aux)).forward()[0]

    def simple_bind():
        made = symbol.simple_bind(gpu, grad_req="null", data=shape)
        made.copy_params_from(on(gpu, args), on(gpu, aux))
        return made.forward(data=there)[0]

    def gluon(static=False):
        net = mx.gluon.SymbolBlock(symbol, [mx.sym.var("data")])
        net.collect_params().setattr("grad_req", "null")
        for name, parameter in net.collect_params().items():
            parameter._load_init(mx.nd.array({**args, **aux}[name]), gpu)
        net.hybridize(static_alloc=static, static_shape=static)
        return net(there)

    def gluon_static():
        return gluon(True)

    def optimize_for():
        given, states = {**on(gpu, args), "data": there}, on(gpu, aux)
        made = symbol.optimize_for("TensorRT", given, states, gpu)
        return made.bind(gpu, {"data": there}, grad_req="null").forward()[0]

    def module():
        made = mx.mod.Module(symbol, context=gpu, label_names=[])
        made.bind([("data", shape)], for_training=False)
        made.set_params(on(mx.cpu(), args), on(mx.cpu(), aux))
        made.forward(mx.io.DataBatch([mx.nd.array(data)]), is_train=False)
        return made.get_outputs()[0]

    def right(out):
        return float(abs(out.asnumpy() - expected).max()) < 1e-5
"""

ON = {"USE_TENSORRT": "1", "MXTRT_ENGINE": "tensorrt"}


def answers(code: str, cache: str) -> None:
    """A process in which a script ends without a warning of mxtrt's."""
    done = run(
        "import mxtrt\n" + SCRIPT.replace("\n    ", "\n") + code, **ON, MXTRT_CACHE_DIR=cache
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "mxtrt" not in done.stderr, done.stderr


@pytest.mark.parametrize(
    "bind", ["executor", "simple_bind", "gluon", "gluon_static", "optimize_for", "module"]
)
def test_the_first_forward_of_a_process_is_right(device, engine_cache, bind):
    """Nothing is loaded for it, and nothing was run before; the second one is right too."""
    answers(f"assert right({bind}())\nassert right({bind}())\n", engine_cache)


def test_every_thread_has_a_first_forward(device, engine_cache):
    """MXNet seeds random generators for each."""
    answers(
        """
import threading
seen = []
for turn in range(40):
    way = (executor, gluon)[turn % 2]
    thread = threading.Thread(target=lambda way=way: seen.append(right(way())))
    thread.start()
    thread.join()
assert seen == [True] * 40, seen
""",
        engine_cache,
    )


def test_seeding_random_numbers_stops_no_engine(device, engine_cache):
    """MXNet seeds the generators of engines too, which fails on GPUs that it has no code for.

    Failures at the same time, on two of its threads, crashed the process now and then.
    """
    answers(
        """
mx.random.seed(1)
given = {**on(gpu, args), "data": there}
made = symbol.bind(gpu, given, grad_req="null", aux_states=on(gpu, aux))
for seed in range(3):
    assert right(made.forward()[0])
    mx.random.seed(seed)
    assert right(made.forward()[0])
mx.random.seed(2, ctx=gpu)
assert right(made.forward()[0])
for seed in range(500):
    mx.random.seed(seed)
assert right(made.forward()[0])
assert right(gluon())
""",
        engine_cache,
    )
