"""Facts about a method for the table of methods: its source, what it reads, what it can remove."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from prunelab.errors import UserError


@dataclass(frozen=True)
class Origin:
    """The source of a method: the paper, and the code with which the definition here was compared.

    paper: authors, venue and year, such as "Li et al., ICLR 2017"; empty if there is none.
    url: of the paper.
    code: owner/name on GitHub of the authors' code; empty if it is not public or was not available.
    ours: choices that the paper leaves open, in a few words.
    """

    paper: str = ""
    url: str = ""
    code: str = ""
    ours: str = ""


@dataclass(frozen=True)
class About:
    """One row of the table of methods.

    origin: the source of the method.
    reads: the data that it reads when it decides.
    levels: what it can remove, of "filter", "stage" and "block".
    cost: the computation before it decides, such as one forward pass over the calibration images.
    """

    origin: Origin
    reads: str
    levels: tuple[str, ...]
    cost: str


def require_covered(name: str, levels: Collection[str], covers: Collection[str]) -> None:
    """Check that a method or criterion is defined for all levels.

    Raises:
        UserError: it is not.
    """
    if beyond := [level for level in levels if level not in covers]:
        raise UserError(
            f"{name} is not defined for level {beyond[0]}: take {beyond[0]} out of levels, or choose another "
            f"method (this one covers {', '.join(covers)})."
        )
