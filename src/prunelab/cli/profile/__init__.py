"""``prunelab-profile``: the removable parts of a network, their costs, and their scores by a method."""
