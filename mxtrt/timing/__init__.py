"""How fast and how far apart: ``measure`` times calls in turns, ``paired`` compares them."""
