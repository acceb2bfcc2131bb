"""Coverage-guided fuzzing of the readers of symbol and parameter files (extra ``fuzz-files``).

``python -m mxtrt_fuzz.files -max_total_time=600 SEEDS``, with libFuzzer's options.  The first byte
of an input says which reader: ``p`` parameters, anything else a symbol.  A reader accepts or
raises :class:`mxtrt.errors.GraphError`; anything else is a crash.
"""

from __future__ import annotations

import sys

__all__ = ["main", "read"]


def read(data: bytes) -> None:
    """Read one input; a symbol is written and read once more."""
    from mxtrt.errors import GraphError
    from mxtrt.graph import Graph
    from mxtrt.params_file import check_params

    try:
        if data[:1] == b"p":
            check_params(data[1:])
        else:
            Graph.from_json(Graph.from_json(data[1:].decode(errors="replace")).to_json())
    except GraphError:
        pass


def main() -> None:
    """Fuzz until libFuzzer's options say so."""
    import atheris

    with atheris.instrument_imports(include=["mxtrt", "json"]):
        import mxtrt.graph
        import mxtrt.params_file  # noqa: F401 - imported to be instrumented
    atheris.Setup(sys.argv, read)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
