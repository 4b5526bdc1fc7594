"""What a method is, for the table of all methods: where it comes from, what it needs, what it can remove."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from prunelab.errors import UserError


@dataclass(frozen=True)
class Origin:
    """Where a method comes from, and what its definition here was held against.

    paper: authors, venue and year, such as "Li et al., ICLR 2017"; empty if there is none.
    url: of the paper.
    code: owner/name on GitHub of the authors' code; empty if it is not public, or was not at hand.
    ours: what the paper leaves open and prunelab had to settle, in a few words.
    """

    paper: str = ""
    url: str = ""
    code: str = ""
    ours: str = ""


@dataclass(frozen=True)
class About:
    """One row of the table of methods.

    origin: where the method comes from.
    reads: what it looks at when it decides.
    levels: what it can remove, of "filter", "stage" and "block".
    cost: what has to be computed before it decides, next to a forward pass over the calibration images.
    """

    origin: Origin
    reads: str
    levels: tuple[str, ...]
    cost: str


def require_covered(name: str, levels: Collection[str], covers: Collection[str]) -> None:
    """Refuse levels for which a method or criterion is not defined.

    Raises:
        UserError: there is one.
    """
    if beyond := [level for level in levels if level not in covers]:
        raise UserError(
            f"{name} is not defined for level {beyond[0]}: take {beyond[0]} out of levels, or choose another "
            f"method (this one knows {', '.join(covers)})."
        )
