"""What the process, the machine and the file system do, whatever MXNet is.

``threads`` has values that are made once and locks that survive a fork; ``recent`` keeps what was
used last; ``files`` writes files that are never half-written; ``child`` runs a function in a
process of its own.
"""
