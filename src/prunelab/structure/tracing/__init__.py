"""One pass on the meta device: which dimension of which tensor carries which channels."""
