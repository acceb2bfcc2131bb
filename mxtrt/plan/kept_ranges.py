"""The ranges of input shapes that were learned, kept beside the engines for later processes."""

from __future__ import annotations

import contextlib
import hashlib

from mxtrt.config import Options
from mxtrt.engines import Engine
from mxtrt.engines.cache import EngineCache
from mxtrt.errors import NodeError
from mxtrt.graph.symbol import Graph
from mxtrt.node import library
from mxtrt.version import __version__

__all__ = ["KeptRanges"]


class KeptRanges:
    """What is kept of one segment; a :class:`mxtrt.plan.served.Memory`.

    It is found by the operators of the segment, whatever their names and the sizes of the data.

    Args:
        graph: The segment cut out as a graph, with shapes and dtypes.
        weights: Names of its variables that become initializers.
        engine: What builds its sessions.
        options: The options of the bind.
        gpu: The GPU that its arrays are on, None for host memory.
    """

    def __init__(
        self,
        graph: Graph,
        weights: frozenset[str],
        engine: Engine,
        options: Options,
        gpu: int | None,
    ) -> None:
        device: object = None
        with contextlib.suppress(NodeError):
            found = library().cuda.device(options.gpu_for(gpu))
            device = found.name, found.capability
        facts = __version__, engine.name, engine.version, device, options.precision, gpu is None
        digest = hashlib.sha256(repr(facts).encode())
        for node in graph.nodes:
            digest.update(repr([(entry.node, entry.output) for entry in node.inputs]).encode())
            if node.is_variable:
                shape = node.types[0].shape or ()
                size: object = shape if node.name in weights else len(shape)
                digest.update(repr((size, str(node.types[0].dtype))).encode())
            else:
                # Those in underscores are of where the node runs and how it is called.
                own = sorted(a for a in node.attrs.items() if not a[0].startswith("__"))
                digest.update(repr((node.op, own)).encode())
        digest.update(repr([(head.node, head.output) for head in graph.heads]).encode())
        self._key = "shapes-" + digest.hexdigest()
        self._cache = EngineCache(options.cache_dir, options.cache_size)

    def load(self) -> bytes | None:
        """What was stored last; None for nothing."""
        found = self._cache.load(self._key)
        return None if found is None else bytes(found)

    def store(self, data: bytes) -> None:
        """Keep something in place of it."""
        self._cache.store(self._key, data)
