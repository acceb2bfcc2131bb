"""One symbol at work: from MXNet's graph pass to the answer of a forward.

``graph_pass`` partitions the symbol and makes its ``plan``, an ``engine_node`` for each segment;
``freshness`` decides when engines follow weights that changed; ``inline`` runs a node from the
calling thread, ``takeover`` has MXNet answer in place of an engine that failed; ``ledger`` counts
who holds how much memory.
"""
