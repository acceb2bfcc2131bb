"""Sessions found by content: nothing is built twice for the same model and weights.

Detectors bind a network anew for every image size, and whoever predicts in turns drops one executor
before the next one has answered.  So a few sessions that nobody uses any more are kept.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Hashable, Sequence

import xxhash

from mxtrt.engines.base import BuildRequest, Session, Weight
from mxtrt.node import library
from mxtrt.system.recent import Recent
from mxtrt.system.threads import lock
from mxtrt.weights.baseline import Baseline
from mxtrt.weights.paging import address_of

__all__ = ["MOST_IDLE", "MOST_IDLE_BYTES", "SharedSessions", "shared_sessions"]

#: Sessions that are kept though nobody may be using them, and most bytes of their weights together.
MOST_IDLE = 4
MOST_IDLE_BYTES = 256 << 20

# A model, and either where its weights are or what they hold.
_Key = tuple[str, Hashable]


class SharedSessions:
    """The sessions of this process that binds may share.

    A session reads its weights where they were when it was built.  It is found by that place, or
    by what they held: whoever has others of the same contents has to follow writes to these too.
    """

    def __init__(self) -> None:
        self._lock = lock()
        self._live: weakref.WeakValueDictionary[_Key, Session] = weakref.WeakValueDictionary()
        self._recent: Recent[Session] = Recent(MOST_IDLE, MOST_IDLE_BYTES)
        self._building: weakref.WeakValueDictionary[_Key, _Turn] = weakref.WeakValueDictionary()

    def find_or_build(
        self, request: BuildRequest, build: Callable[[], Session]
    ) -> tuple[Session, bool]:
        """A session for a request, and whether it was there.

        Args:
            request: What is to be built; nothing is shared on a GPU.
            build: Builds it; one at a time of each content.
        """
        model = request.segment.digest
        place = model, tuple(weight.address for weight in request.weights)
        session = self._find(place)
        if session is not None:
            return session, True
        watch = library().watch([weight.array for weight in _of_mxnet(request.weights)])
        held = _Held(request.weights)
        content = model, held.digest
        with self._lock:
            turn = self._building.setdefault(content, _Turn())
        with turn.lock:
            session = self._find(content)
            if session is not None:
                return session, True
            session = build()
            if watch.changed():  # it may have read neither the old nor the new values
                return session, False
            session.baseline = Baseline(watch, held)
            with self._lock:
                self._live[place] = self._live[content] = session
            self._recent.put(id(session), session, session.weight_bytes)
        return session, False

    def _find(self, key: _Key) -> Session | None:
        with self._lock:
            session = self._live.get(key)
        if session is None or not session.baseline.still_holds():
            return None
        self._recent.put(id(session), session, session.weight_bytes)
        return session

    def kept(self) -> list[Session]:
        """The sessions that are kept whether or not they are in use."""
        return self._recent.values()

    def forget(self, session: Session | None = None) -> None:
        """Keep a session no longer and let nobody find it; without one, all of them."""
        with self._lock:
            if session is None:
                self._recent.clear()
                self._live.clear()
                return
            self._recent.discard(id(session))
            for key in [key for key, live in self._live.items() if live is session]:
                del self._live[key]


class _Turn:
    """Whose turn it is to build."""

    def __init__(self) -> None:
        self.lock = lock()


class _Held:
    """What the weights of a session held, all of them read."""

    def __init__(self, weights: Sequence[Weight]) -> None:
        self._weights = weights
        self.digest = self._digest_now()

    def same(self) -> bool:
        """Whether they hold the same at the same addresses."""
        return (
            all(address_of(one.array) == one.address for one in _of_mxnet(self._weights))
            and self._digest_now() == self.digest
        )

    def _digest_now(self) -> bytes:
        digest = xxhash.xxh3_128()
        for weight in self._weights:
            digest.update(weight.data)
        return digest.digest()


def _of_mxnet(weights: Sequence[Weight]) -> list[Weight]:
    """Those of some weights that are where MXNet's arrays are."""
    from mxnet.ndarray import NDArray

    return [weight for weight in weights if isinstance(weight.array, NDArray)]


_shared = SharedSessions()


def shared_sessions() -> SharedSessions:
    """Those of this process."""
    return _shared
