"""What a person is told.

``report`` is of one bind, ``counters`` are of the process, ``metrics`` gives them to Prometheus.
"""
