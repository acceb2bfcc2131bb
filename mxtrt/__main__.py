"""``python -m mxtrt``: the command line."""

from __future__ import annotations

from mxtrt.cli import main

main()
