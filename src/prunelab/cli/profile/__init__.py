"""``prunelab-profile``: what can be removed from a network, what it costs, and how a method scores it."""
