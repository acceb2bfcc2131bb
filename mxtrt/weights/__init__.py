"""Who holds the bytes of the weights, and whether they are what they were.

``paging`` has MXNet's copy leave memory while an engine holds one; ``contents`` tells whether
arrays hold what they held.
"""
