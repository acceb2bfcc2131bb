"""What binds nothing for a request is tested on the embedded engine."""

from __future__ import annotations

from support.engine import on_the_cpu as on_the_cpu
