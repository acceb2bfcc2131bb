r"""Writes the symbols of networks of packages into this folder; weights are not needed.

pip install --target SITE --no-deps gluoncv==0.10.5.post0 gluoncv2==0.0.64 gluonnlp==0.10.0 \
    gluonts==0.14.4 pydantic==1.10.13 toolz
PYTHONPATH=SITE python tests/models/export.py
"""

from __future__ import annotations

import gzip
import re
import sys
import warnings
from collections.abc import Iterator
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

from mxtrt.plain.loading import import_mxnet

#: What the packages import for data sets and drawing, none of which a network needs.
_UNUSED = {"autocfg", "cv2", "matplotlib", "numba", "pandas", "portalocker", "tqdm", "yacs"}

#: Time steps that GluonTS's networks look back, and forward.
PAST, FUTURE = 48, 24

GLUONCV = {
    "mobilenetv3_large": {},
    "resnest14": {},
    "ssd_300_vgg16_atrous_voc": {"pretrained_base": False},
    "yolo3_darknet53_coco": {"pretrained_base": False},
    "fcn_resnet50_ade": {"pretrained_base": False},
    "psp_resnet50_ade": {"pretrained_base": False, "crop_size": 104},
    "simple_pose_resnet18_v1b": {"pretrained_base": False},
    "center_net_resnet18_v1b_voc": {"pretrained_base": False},
}
GLUONCV2 = ("efficientnet_b0",)
GLUONNLP = ("bert_12_768_12",)
WORDS = 1000


class _Anything:
    """A base class, or a decorator with arguments."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def __call__(self, function: Any) -> Any:
        return function


class _Stub(ModuleType):
    __path__: list[str] = []

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Anything


class _Stubs(MetaPathFinder, Loader):
    """Empty modules in place of packages that are not installed."""

    def find_spec(self, name: str, path: Any, target: Any = None) -> ModuleSpec | None:
        known = name.partition(".")[0] in _UNUSED
        return ModuleSpec(name, self, is_package=True) if known else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _Stub(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        pass


def write(name: str, net: Any, *inputs: str) -> None:
    """A network's symbol; the same file whenever it is written."""
    mx = import_mxnet()
    net.initialize()
    net.hybridize()
    symbol = mx.sym.Group(list(_flat(net(*map(mx.sym.var, inputs)))))
    path = Path(__file__).parent / f"{name}-symbol.json.gz"
    text = re.sub(r'("Constant_\w+)_\d+"', r'\1"', symbol.tojson())  # without an address
    path.write_bytes(gzip.compress(text.encode(), 9, mtime=0))
    print(path.name, path.stat().st_size)


def _flat(heads: Any) -> Iterator[Any]:
    if isinstance(heads, (tuple, list)):
        for head in heads:
            yield from _flat(head)
    else:
        yield heads


def main() -> None:
    """Write all of them."""
    warnings.simplefilter("ignore")
    import_mxnet()
    sys.meta_path.append(_Stubs())
    import gluonnlp
    from gluoncv import model_zoo
    from gluoncv2 import model_provider

    for name, options in GLUONCV.items():
        write(name, model_zoo.get_model(name, pretrained=False, **options), "data")
    for name in GLUONCV2:
        write(name, model_provider.get_model(name, pretrained=False), "data")
    words = gluonnlp.Vocab(gluonnlp.data.count_tokens(map(str, range(WORDS))))
    heads = {"pretrained": False, "use_decoder": False, "use_classifier": False}
    for name in GLUONNLP:
        net, _ = gluonnlp.model.get_model(name, dataset_name=None, vocab=words, **heads)
        write(name, net, "words", "types", "lengths")
    write("gluonts_feedforward", feedforward(), "past_target")
    inputs = "past_target", "past_features", "future_features", "category", "observed"
    write("gluonts_mqcnn", mqcnn(), *inputs)


def feedforward() -> Any:
    """GluonTS's SimpleFeedForwardEstimator: what it predicts a distribution with."""
    from gluonts.mx.distribution import StudentTOutput
    from gluonts.mx.model.simple_feedforward._network import SimpleFeedForwardDistributionNetwork

    return SimpleFeedForwardDistributionNetwork(
        num_hidden_dimensions=[40, 40],
        prediction_length=FUTURE,
        context_length=PAST,
        batch_normalization=True,
        mean_scaling=True,
        distr_output=StudentTOutput(),
        prefix="feedforward_",
    )


def mqcnn() -> Any:
    """GluonTS's MQCNNEstimator with its defaults: what it predicts quantiles with."""
    from gluonts.mx.model.seq2seq import MQCNNEstimator
    from gluonts.mx.model.seq2seq._forking_network import ForkingSeq2SeqPredictionNetwork

    estimator = MQCNNEstimator(freq="H", context_length=PAST, prediction_length=FUTURE)
    trained = estimator.create_training_network()
    return ForkingSeq2SeqPredictionNetwork(
        encoder=trained.encoder,
        enc2dec=trained.enc2dec,
        decoder=trained.decoder,
        quantile_output=trained.quantile_output,
        distr_output=None,
        context_length=estimator.context_length,
        num_forking=estimator.num_forking,
        cardinality=estimator.cardinality,
        embedding_dimension=estimator.embedding_dimension,
        scaling=estimator.scaling,
        scaling_decoder_dynamic_feature=estimator.scaling_decoder_dynamic_feature,
        dtype=estimator.dtype,
    )


if __name__ == "__main__":
    main()
