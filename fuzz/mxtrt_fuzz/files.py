"""Coverage-guided fuzzing of the readers of files from elsewhere (extra ``fuzz-files``).

``python -m mxtrt_fuzz.files -max_total_time=600 SEEDS``, with libFuzzer's options.  The first byte
of an input says which reader: ``p`` parameters, ``m`` the mark that a saved partitioned symbol
has, anything else a symbol.  A reader accepts or raises :class:`mxtrt.errors.GraphError`; anything
else is a crash.
"""

from __future__ import annotations

import sys

__all__ = ["main", "read"]


def read(data: bytes) -> None:
    """Read one input; a symbol and a mark are written and read once more."""
    import json  # here, so that it is instrumented

    from mxtrt.errors import GraphError
    from mxtrt.graph.symbol import Graph
    from mxtrt.saved.params_file import check_params, read_params
    from mxtrt.saved.symbol_file import Saved

    try:
        if data[:1] == b"p":
            check_params(data[1:])
            read_params(data[1:])
        elif data[:1] == b"m":
            symbol = {"attrs": {"mxtrt_saved": ["str", data[1:].decode(errors="replace")]}}
            saved = Saved.from_json(json.dumps(symbol))
            assert saved is not None
            assert Saved.from_json(saved.to_json()) == saved
        else:
            Graph.from_json(Graph.from_json(data[1:].decode(errors="replace")).to_json())
    except GraphError:
        pass


def main() -> None:
    """Fuzz until libFuzzer's options say so."""
    import atheris

    with atheris.instrument_imports(include=["mxtrt", "json"]):
        import mxtrt.graph.symbol
        import mxtrt.saved.params_file
        import mxtrt.saved.symbol_file  # noqa: F401 - imported to be instrumented
    atheris.Setup(sys.argv, read)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
