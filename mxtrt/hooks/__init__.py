"""Where MXNet binds: the calls that mxtrt wraps.

``symbol`` wraps ``Symbol.optimize_for``, ``bind`` and ``simple_bind``; ``executor`` is what the two
binds return; ``gluon`` wraps ``HybridBlock``, whose calls ``bound`` runs; ``partitioned`` runs the
graph pass and owns its engines; ``saving`` saves what was partitioned, and ``brought`` completes
binds of what was loaded; ``decision`` says whether a bind gets engines, and ``tries`` when a block
tries again; ``ready`` waits for what is built in the background; ``waiting`` for arrays that a GPU
is writing, ``seeding`` keeps engines on a GPU going when random numbers are seeded, and ``filling``
fills arrays there that MXNet cannot. With the integration off every wrapper calls MXNet's own
function.
"""

from __future__ import annotations

import warnings
from types import ModuleType

from mxtrt.errors import MxtrtWarning
from mxtrt.system.threads import loading

__all__ = ["install"]


def install(mx: ModuleType) -> None:
    """Wrap MXNet's binds, once; another MXNet than 1.9 is left alone with a warning."""
    version = getattr(mx, "__version__", "unknown")
    if not version.startswith("1.9."):
        warnings.warn(
            f"MXNet {version} is installed and mxtrt serves MXNet 1.9 only, so graphs run as plain "
            "MXNet; install mxnet 1.9.1 to use engines",
            MxtrtWarning,
            stacklevel=2,
        )
        return
    with loading:
        from mxtrt.hooks import gluon, saving, symbol, training

        if not symbol.installed():
            symbol.install()
            gluon.install()
            saving.install()
            training.install()
