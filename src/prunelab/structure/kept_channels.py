"""The channels of a group to keep, given by indices or by a boolean mask."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from prunelab.errors import UserError


def kept_indices(group: str, size: int, given: Any) -> tuple[int, ...]:
    """The channels that ``given`` keeps of a group of ``size`` channels, ascending.

    ``given`` holds indices, in any order and each once, or ``size`` booleans (True: keep), as a list, tuple, range,
    set, numpy array or tensor. Raises UserError for anything else.
    """
    values = _array(group, given)
    if values.dtype == np.bool_:
        if values.size != size:
            raise UserError(
                f"group {group}: the mask has {values.size} entries; it must have one for each of the {size} channels"
            )
        values = np.flatnonzero(values)
    if not values.size:
        raise UserError(f"group {group}: at least one channel must be kept")
    outside = values[(values < 0) | (values >= size)]
    if outside.size:
        raise UserError(f"group {group} has channels 0 to {size - 1}; {outside[0]} is not one of them")
    ordered = np.sort(values)
    repeated = ordered[:-1][ordered[:-1] == ordered[1:]]
    if repeated.size:
        raise UserError(
            f"group {group}: channel {repeated[0]} is named twice among those to keep. (A mask of zeros and ones is "
            "read as indices; give booleans.)"
        )
    return tuple(int(index) for index in ordered)


def _array(group: str, given: Any) -> NDArray[Any]:
    """``given`` as a vector of integers or of booleans."""
    if isinstance(given, Tensor):
        given = given.detach().cpu().numpy()
    if isinstance(given, str | bytes | dict) or not hasattr(given, "__iter__"):
        raise _unfit(group, f"{given!r} is not a list")
    entries = given if isinstance(given, np.ndarray) else list(given)
    if not isinstance(entries, np.ndarray):
        entries = [each.item() if isinstance(each, Tensor) and each.dim() == 0 else each for each in entries]
        booleans = [isinstance(each, bool | np.bool_) for each in entries]
        if any(booleans) and not all(booleans):
            raise _unfit(group, "the list mixes booleans and indices")
    try:
        values = np.asarray(entries)
    except ValueError as error:  # lists of different lengths in a list
        raise _unfit(group, f"{given!r} is not a flat list") from error
    if values.ndim != 1:
        raise _unfit(group, f"the given array has {values.ndim} dimensions")
    if not values.size:
        return np.zeros(0, dtype=np.int64)
    if values.dtype != np.bool_ and not np.issubdtype(values.dtype, np.integer):
        raise _unfit(group, f"the values are of type {values.dtype}, such as {values[0]!r}")
    return values


def _unfit(group: str, what: str) -> UserError:
    return UserError(
        f"group {group}: {what}. Give the indices of the channels to keep, such as [0, 2], or one boolean for each "
        "channel."
    )
