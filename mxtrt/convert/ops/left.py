"""Operators that stay in MXNet, with a reason that a person understands."""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase

__all__ = ["LEFT", "reason"]

#: Why operators stay in MXNet, and which: MXNet's names, in which ``*`` stands for any text.  The
#: first that fits counts.
_REASONS = {
    "ONNX has no densities of distributions": "_random_pdf_*",
    "its output depends on random numbers": """
        _random_* _sample_* _image_random_* _shuffle _npi_bernoulli _npi_choice _npi_exponential
        _npi_gamma _npi_gumbel _npi_logistic _npi_multinomial _npi_normal* _npi_pareto
        _npi_rayleigh _npi_uniform* _npi_weibull
    """,
    "its boxes reach a pixel further than those whose overlaps ONNX compares": """
        _contrib_Proposal _contrib_MultiProposal
    """,
    "it is of a model quantized for oneDNN; give the float32 model instead": """
        _contrib_quantize _contrib_quantize_asym _contrib_quantized_batch_norm
        _contrib_quantized_conv _contrib_quantized_elemwise_add _contrib_quantized_elemwise_mul
        _contrib_quantized_embedding _contrib_quantized_fully_connected _contrib_quantized_rnn
        _contrib_requantize _contrib_calibrate_entropy _sg_mkldnn_selfatt_*
    """,
    "no TensorRT takes the pooling of regions with rounded or learned borders": """
        _contrib_PSROIPooling _contrib_DeformablePSROIPooling _contrib_RROIAlign
    """,
    "its loop or branch is a graph of its own, which MXNet runs": "_foreach _while_loop _cond",
    "the size of its output depends on values": """
        _contrib_boolean_mask _npx_nonzero _npi_unique
    """,
    "it runs code of yours": "Custom _CustomFunction _Native _NDArray",
    "ONNX has no factorisations of matrices": """
        _linalg_potrf _linalg_potri _linalg_trsm _linalg_gelqf _linalg_syevd _linalg_inverse
        _linalg_det _linalg_slogdet _npi_cholesky _npi_svd _npi_eig* _npi_solve _npi_pinv*
        _npi_tensorinv _npi_tensorsolve
    """,
    "no TensorRT takes Fourier transforms": "_contrib_fft _contrib_ifft",
    "it updates weights, which inference does not do": "*_update *_update_phase*",
    "it is the loss of a training; the engine gives what it reads": """
        CTCLoss ctc_loss _contrib_CTCLoss _contrib_ctc_loss
    """,
    "it makes the target of a loss, which inference does not need": """
        _contrib_MultiBoxTarget _contrib_bipartite_matching _contrib_box_encode
    """,
    "it is a hybridized block of Gluon's": "_CachedOp*",
}

#: Why operators stay in MXNet, by name or pattern.
LEFT: Mapping[str, str] = {name: why for why, names in _REASONS.items() for name in names.split()}


def reason(op: str) -> str:
    """Why an operator without a converter stays in MXNet.

    Args:
        op: MXNet's name of the operator.
    """
    for pattern, why in LEFT.items():
        if fnmatchcase(op, pattern):
            return why
    return f"no converter for operator {op}"
