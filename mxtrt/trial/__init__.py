"""An engine against MXNet, at bind: ``verify`` compares answers, ``fastest`` times.

``segment`` runs one segment either way; ``indices`` has its data in range.
"""
