"""``mxtrt demo``: a picture and a data set, as plain MXNet and with engines."""

from __future__ import annotations

import importlib.util
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import typer

from mxtrt import config
from mxtrt.cli.arguments import Json, Seconds
from mxtrt.cli.output import emit_json, show, task
from mxtrt.config import Options
from mxtrt.errors import OptionError

__all__ = ["PARITY", "run_demo"]

#: The largest parity error that passes.
PARITY = 1e-4

_EPOCHS = 15


@dataclass(frozen=True, slots=True)
class _Accuracy:
    """Accuracy on the digits that were held out, and how often both ways agree."""

    engine: str
    nodes_in_engine: int
    plain: float
    mxtrt: float
    agreement: float
    parity_error: float


def run_demo(seconds: Seconds = 8.0, json: Json = False) -> None:
    """Show parity, accuracy and speed on bundled pictures; nothing is downloaded.

    A small network is trained on scikit-learn's digits with the integration on, and tested
    both ways.  Then ResNet-18 with random weights sees a picture of scikit-image both ways.
    The exit code is 1 if the results differ.
    """
    options = config.current().replace(enabled=True)
    for package in ("skimage", "sklearn"):
        if importlib.util.find_spec(package) is None:
            raise OptionError(
                f"the demo needs the package {package}; install it with: pip install 'mxtrt[demo]'"
            )
    from mxtrt.cli.bench import show_comparison
    from mxtrt.cli.compare import compare
    from mxtrt.plain.loading import import_mxnet
    from mxtrt.plan import graph_pass

    with task("loading MXNet"):
        import_mxnet()
        graph_pass.prepare(options)
    with task("training a small network on scikit-learn's digits") as progress:
        accuracy = _digits(options, progress)
    if not json:
        show(
            "Digits (scikit-learn), LeNet trained with the integration on:",
            f"  accuracy {accuracy.plain:.2%} plain, {accuracy.mxtrt:.2%} mxtrt; "
            f"top-1 agreement {accuracy.agreement:.2%}; parity error {accuracy.parity_error:.1e}; "
            f"{accuracy.nodes_in_engine} nodes in {accuracy.engine}",
            "",
        )
    with task("ResNet-18 on a picture") as progress:
        symbol, params, picture = _resnet()
        found = compare(symbol, params, {"data": picture}, options, seconds, progress)
    plain, seen = (int(np.argmax(outputs[0])) for outputs in found.outputs)
    same = accuracy.plain == accuracy.mxtrt and plain == seen
    passed = same and max(accuracy.parity_error, found.parity_error) <= PARITY
    if json:
        picture_results = {"top1_plain": plain, "top1_mxtrt": seen, **found.to_dict()}
        emit_json({"passed": passed, "digits": asdict(accuracy), "picture": picture_results})
    else:
        show_comparison("ResNet-18 (random weights) on skimage.data.astronaut()", found)
        show(
            f"Top-1 index:  {plain} plain, {seen} mxtrt",
            "",
            str(found.report),
            "",
            "The results are the same." if passed else "The results differ.",
        )
    if not passed:
        raise typer.Exit(1)


def _digits(options: Options, progress: Any) -> _Accuracy:
    import mxnet as mx
    from mxnet import autograd, gluon
    from sklearn.datasets import load_digits

    from mxtrt.cli.compare import served
    from mxtrt.timing.measure import parity_error

    mx.random.seed(7)
    pictures, labels = load_digits(return_X_y=True)
    data = mx.nd.array(pictures.reshape(-1, 1, 8, 8) / 16, dtype="float32")
    order = np.random.default_rng(7).permutation(len(labels))
    train, test = order[: len(order) * 3 // 4], order[len(order) * 3 // 4 :]
    net = gluon.nn.HybridSequential()
    net.add(
        gluon.nn.Conv2D(16, 3, padding=1, activation="relu"),
        gluon.nn.MaxPool2D(),
        gluon.nn.Conv2D(32, 3, padding=1, activation="relu"),
        gluon.nn.MaxPool2D(),
        gluon.nn.Dense(64, activation="relu"),
        gluon.nn.Dense(10),
    )
    net.initialize(mx.init.Xavier())
    loss_of = gluon.loss.SoftmaxCrossEntropyLoss()
    truth = mx.nd.array(labels)
    with config.options(**asdict(options)):
        net.hybridize()
        trainer = gluon.Trainer(net.collect_params(), "adam", {"learning_rate": 3e-3})
        rng = np.random.default_rng(7)
        for epoch in range(_EPOCHS):
            for batch in np.array_split(rng.permutation(train), len(train) // 64):
                with autograd.record():
                    loss = loss_of(net(data[batch]), truth[batch])
                loss.backward()
                trainer.step(len(batch))
            mx.nd.waitall()
            progress((epoch + 1) / _EPOCHS)
        net.hybridize(static_alloc=True, static_shape=True)
        seen = net(data[test]).asnumpy()
    report = served()
    with config.options(enabled=False):
        net.hybridize(static_alloc=True, static_shape=True)
        expected = net(data[test]).asnumpy()
    right, guess = labels[test], (expected.argmax(1), seen.argmax(1))
    return _Accuracy(
        engine=report.engine,
        nodes_in_engine=report.nodes_in_engine,
        plain=float(np.mean(guess[0] == right)),
        mxtrt=float(np.mean(guess[1] == right)),
        agreement=float(np.mean(guess[0] == guess[1])),
        parity_error=parity_error([expected], [seen]),
    )


def _resnet() -> tuple[Any, dict[str, Any], Any]:
    """ResNet-18 with random weights as symbol and parameters, and a picture for it."""
    import mxnet as mx

    photo = importlib.import_module("skimage.data").astronaut()
    resize = importlib.import_module("skimage.transform").resize
    picture = resize(photo, (224, 224), anti_aliasing=True)
    picture = (picture - (0.485, 0.456, 0.406)) / (0.229, 0.224, 0.225)
    array = mx.nd.array(picture.transpose(2, 0, 1)[None], dtype="float32")
    mx.random.seed(7)
    net = mx.gluon.model_zoo.vision.resnet18_v1()
    net.initialize(mx.init.MSRAPrelu())
    with config.options(enabled=False):
        net(array).wait_to_read()  # the weights get their shapes
    params = {name: parameter.data() for name, parameter in net.collect_params().items()}
    return net(mx.sym.var("data")), params, array
