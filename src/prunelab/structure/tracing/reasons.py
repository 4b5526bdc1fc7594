"""Why channels are frozen: what an operator does, and what would have to hold so that they could be removed.

Each constant continues the name of the operator; the trace adds the module.
"""

from __future__ import annotations

NO_RULE = "has no rule, so that its effect on channels is unknown: it would need a rule (CONTRIBUTING.md)"
UNKNOWN_INPUT = (
    "has an input without known channels: all inputs would have to get them from layers or parameters"
)
UNKNOWN_WEIGHT = (
    "has a weight without known channels: the weight would have to be a parameter, or computed from one"
)
UNKNOWN_SUMMAND = (
    "adds a tensor without known channels: that would have to get its channels from a layer or a parameter"
)
TWO_ACTIVATIONS = (
    "contracts two activations with several heads: the heads would have to be free to be removed, or there would have "
    "to be one"
)
SCALES = "divides by the root of the width"
ALONG = "moves along the channels: it would have to treat each channel for itself"
RESIZES = (
    "moves along the channels and changes their number: its result would have to have as many as its input"
)
SELECTS = (
    "selects along the channels: the positions would have to be in an integer buffer, for torch.index_select, or all "
    "channels would have to be used"
)
ORDERS = "compares the channels with each other: it would have to compare places only"
STEPS = "has a step along the channels: it would have to take adjacent channels"
SINGLE = "takes a single channel: a part would have to have several, of which some can be removed"
MERGES = "merges two dimensions of channels: one of them would have to be without channels"
REDUCES = "reduces over the channels: it would have to reduce places only"
RESIZED = "changes the number of channels: it would have to be a padding with constants"
DIFFERENT_NUMBERS = "adds different numbers of channels at several places: the numbers would have to be equal"
OFFSETS = (
    "has two offsets and a factor for each place of its kernel: the kernel would have to have fewer places"
)
MASKS_HEADS = "has a mask with channels: the mask would have to be the same for all heads"
BROADCASTS_HEADS = "broadcasts heads: queries, keys and values would have to have equally many, more than one"
LOSES_GROUPS = "loses whole groups: with cardinality=false the same channels of each group could be removed"
VOCABULARY = "looks up words by their number: the words would have to keep their numbers"
NORM_VECTOR = (
    "estimates a norm of a weight with a vector without known channels: the vector would have to be a buffer"
)
CONSTANT = "has a constant size: it would have to be -1 or computed from the shape of the tensor"
POSITION = "is at a constant position: it would have to be computed from the shape of the tensor"
SAME_OPERATORS = "the same would have to run for any width"
OTHER_OPERATORS = f"with another width the network runs other operators: {SAME_OPERATORS}"
SAME_PARTS = "the sizes of the parts would have to be computed from the shape of the tensor"
UNREAD = "a layer would have to read them, or they would have to be an output that is not used (outputs=)"
ALONE = "a single channel cannot be removed: its layer would have to make several"


RAISES = "for another width the network raises"


def raises(error: Exception) -> str:
    """The reason if the program itself raises an error, such as a check of the number of channels."""
    text = (str(error).splitlines() or [""])[0][:100]
    wanted = "its code would have to accept any width"
    return f"{RAISES} {type(error).__name__}: {wanted}; it says {text!r}"
