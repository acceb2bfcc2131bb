"""What mxtrt warns of while cases run."""

from __future__ import annotations

import logging
import warnings

__all__ = ["Complaints"]


class Complaints(logging.Handler):
    """Collects what mxtrt warns of inside a ``with`` block, and has Python show none of it.

    Attributes:
        first: The first message, such as that a request was left to MXNet; empty for none.
    """

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.first = ""
        self._warnings = warnings.catch_warnings()

    def emit(self, record: logging.LogRecord) -> None:
        self.first = self.first or record.getMessage()

    def __enter__(self) -> Complaints:
        self._warnings.__enter__()
        warnings.simplefilter("ignore")  # said in the report too
        logging.getLogger("mxtrt").addHandler(self)
        return self

    def __exit__(self, *_: object) -> None:
        logging.getLogger("mxtrt").removeHandler(self)
        self._warnings.__exit__(None, None, None)
