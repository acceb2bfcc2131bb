"""More of MXNet's tests for engines: what they bind for gradients or never hybridize.

MXNet checks what an operator computes by binding it for gradients, which engines leave alone, and
calls most blocks as they are.  :func:`install` changes that in plain MXNet and with the integration
alike.
"""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Iterator
from typing import Any

import mxnet as mx
from mxnet import autograd, gluon, test_utils

_HybridBlock = gluon.HybridBlock


def install() -> None:
    """Check operators in binds for inference, and hybridize blocks that nobody hybridized."""
    test_utils.check_symbolic_forward = _checked(test_utils.check_symbolic_forward)
    _HybridBlock.hybridize = _asked(_HybridBlock.hybridize)
    _HybridBlock.__call__ = _hybridized(_HybridBlock.__call__)


def _checked(original: Any) -> Any:
    @functools.wraps(original)
    def check_symbolic_forward(*args: Any, **kwargs: Any) -> Any:
        with _without_gradients():
            return original(*args, **kwargs)

    return check_symbolic_forward


@contextlib.contextmanager
def _without_gradients() -> Iterator[None]:
    original = mx.sym.Symbol.bind

    @functools.wraps(original)
    def bind(self: Any, ctx: Any, args: Any, args_grad: Any = None, **kwargs: Any) -> Any:
        executor = original(self, ctx, args, **{**kwargs, "grad_req": "null"})
        executor.grad_arrays = []
        return executor

    mx.sym.Symbol.bind = bind
    try:
        yield
    finally:
        mx.sym.Symbol.bind = original


def _asked(original: Any) -> Any:
    @functools.wraps(original)
    def hybridize(self: Any, *args: Any, **kwargs: Any) -> None:
        self.__dict__["_suite_asked"] = True
        original(self, *args, **kwargs)

    return hybridize


class _Depth(threading.local):
    calls = 0


def _hybridized(original: Any) -> Any:
    depth = _Depth()

    @functools.wraps(original)
    def __call__(self: Any, *args: Any) -> Any:  # noqa: N807
        if depth.calls == 0 and not autograd.is_recording() and "_suite_asked" not in self.__dict__:
            self.hybridize()
        depth.calls += 1
        try:
            return original(self, *args)
        finally:
            depth.calls -= 1

    return __call__
