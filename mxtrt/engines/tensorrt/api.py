"""NVIDIA's Python package, whichever is installed."""

from __future__ import annotations

import importlib
import importlib.util
import logging
import sys
from typing import Any

from mxtrt.engines.kinds import TENSORRT, TENSORRT_BEFORE_10
from mxtrt.errors import EngineError
from mxtrt.system.libraries import supplied
from mxtrt.system.threads import once

__all__ = ["PACKAGES", "Api", "how_to_install", "installed", "load_api"]

#: Python packages that offer the API, in the order in which they are looked for.
PACKAGES = ("tensorrt", "tensorrt_rtx")

#: Contexts for each optimization profile: shapes that come in turns keep one each, as many as
#: there are.  Before TensorRT 8.6 a profile has one context, so that each is there several times.
PROFILE_CONTEXTS, PROFILE_COPIES = 8, 2

_log = logging.getLogger("mxtrt")


def installed() -> str | None:
    """The package that is installed, None for none; a folder of its name is none."""
    return next(filter(_is_installed, PACKAGES), None)


def _is_installed(package: str) -> bool:
    spec = importlib.util.find_spec(package)
    return spec is not None and spec.origin is not None


def how_to_install() -> str:
    """How to get TensorRT for this Python."""
    if sys.version_info < (3, 11):
        return (
            "install it with: pip install 'mxtrt[gpu]' (TensorRT 8.5), or a later one of NVIDIA's"
        )
    version = ".".join(map(str, sys.version_info[:2]))
    return (
        f"mxtrt[gpu] has none for Python {version}: install NVIDIA's package tensorrt-cu11 or "
        "tensorrt-cu12 (TensorRT 10), or use Python 3.10"
    )


# For engines that serve ranges of shapes; 10 has neither, and needs none.
_RANGE_FEATURES = (
    # Several contexts use a profile; 8.5 does not know it.
    "PROFILE_SHARING_0806",
    # Without it the softmax of 8.5.3 goes over 32 numbers where an axis of 17 was open when it was
    # built, and over 16 where it is 12: what lies behind the end counts as zeros.
    "FASTER_DYNAMIC_SHAPES_0805",
)


class Api:
    """The package and a logger.

    Args:
        package: One of :data:`PACKAGES`.

    Attributes:
        trt: The package.
        package: Its name.
        version: Its version.
        dtypes: Dtypes of the tensors that it takes at its edges.
        needs_libraries: Whether it takes kernels from cuBLAS and cuDNN, as before 10.
        shares_profiles: Whether several contexts of an engine can use an optimization profile.
        range_features: Preview features to build engines for ranges of shapes with, by name.
        logger: What TensorRT logs to; see :meth:`errors`.

    Raises:
        EngineError: The package is missing, does not load, or is too old.
    """

    def __init__(self, package: str) -> None:
        if not _is_installed(package):
            raise EngineError(f"TensorRT is not installed; {how_to_install()}")
        try:
            self.trt: Any = supplied(lambda: importlib.import_module(package), "TensorRT")
            self.version = str(self.trt.__version__)
            named = hasattr(self.trt.ICudaEngine, "get_tensor_name")
        except Exception as error:  # a missing CUDA library raises one of several types
            raise EngineError(f"TensorRT does not load: {error}") from error
        self.package = package
        if not named:
            raise EngineError(f"TensorRT {self.version} is older than 8.5")
        wide = not self.version.startswith("8.") and not self.version.startswith("9.")
        self.dtypes = (TENSORRT if wide else TENSORRT_BEFORE_10).dtypes
        self.needs_libraries = not wide
        preview = getattr(self.trt, "PreviewFeature", None)
        self.range_features = {
            name: getattr(preview, name) for name in _RANGE_FEATURES if hasattr(preview, name)
        }
        sharing = "PROFILE_SHARING_0806" in self.range_features
        self.shares_profiles = sharing or not self.version.startswith("8.")
        self._errors: list[str] = []
        self.logger = self._make_logger()

    @property
    def profile_copies(self) -> int:
        """How often an engine has each optimization profile, to have as many contexts for it."""
        return 1 if self.shares_profiles else PROFILE_COPIES

    @property
    def profile_contexts(self) -> int:
        """Contexts for each optimization profile at the most."""
        return PROFILE_CONTEXTS if self.shares_profiles else PROFILE_COPIES

    def forget_errors(self) -> None:
        """Forget what was logged so far."""
        self._errors.clear()

    def errors(self) -> str:
        """What TensorRT logged as errors since then: the first, often the cause, and the last."""
        first_and_last = dict.fromkeys((*self._errors[:1], *self._errors[-1:]))
        return "; ".join(first_and_last) or "no reason was given"

    def _make_logger(self) -> Any:
        trt, errors = self.trt, self._errors
        levels = {
            trt.ILogger.Severity.INTERNAL_ERROR: logging.ERROR,
            trt.ILogger.Severity.ERROR: logging.ERROR,
            trt.ILogger.Severity.WARNING: logging.INFO,
        }

        class Logger(trt.ILogger):  # type: ignore[misc, name-defined]
            def __init__(self) -> None:
                trt.ILogger.__init__(self)

            def log(self, severity: Any, message: str) -> None:
                level = levels.get(severity, logging.DEBUG)
                if level == logging.ERROR:  # kept for the exception; the bind that gets it warns
                    errors.append(message)
                    level = logging.DEBUG
                _log.log(level, "%s", message)

        return Logger()


@once
def load_api(package: str) -> Api:
    """A package, loaded once.

    Raises:
        EngineError: It is missing, does not load, or is too old.
    """
    return Api(package)
