"""The symbol as data: what MXNet wrote as JSON, and what becomes of it without running it.

``symbol`` reads and writes graphs; ``roles`` tells weights from data; ``partition`` groups nodes
into segments; ``rewrite`` puts an engine node in a segment's place, and back.
"""
