"""Channel ids: which elements of which tensor dimension must live and die together.

Every element of every dimension of every parameter starts with an id of its own. Operators *tie* ids
(an addition ties the channels it adds), *freeze* them (nothing may be removed) or mark them *inexact*
(they pass a normalisation over channels). Ties are only collected while a network runs; the connected
components are found once, at the end.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

Ids = NDArray[np.int64]


@dataclass(frozen=True)
class Origin:
    """A parameter (or buffer) dimension and the consecutive ids born on it."""

    tensor: str
    dim: int
    start: int
    size: int

    @property
    def ids(self) -> Ids:
        """The ids of this dimension, in order; shape (size,)."""
        return np.arange(self.start, self.start + self.size, dtype=np.int64)


@dataclass(frozen=True)
class Components:
    """The classes of tied ids ("channels") of one traced network.

    ``label`` has shape (number of ids,); the other arrays have shape (number of channels,).
    """

    label: Ids
    count: int
    frozen: dict[int, str]
    inexact: dict[int, str]
    produced: NDArray[np.bool_]


@dataclass
class ChannelIds:
    """Collects ids, ties and marks while a network is traced."""

    count: int = 0
    origins: list[Origin] = field(default_factory=list)
    _starts: list[int] = field(default_factory=list)
    _ties: list[tuple[Ids, Ids]] = field(default_factory=list)
    _frozen: list[tuple[Ids, str]] = field(default_factory=list)
    _inexact: list[tuple[Ids, str]] = field(default_factory=list)
    _produced: list[Ids] = field(default_factory=list)

    def fresh(self, size: int) -> Ids:
        """``size`` new ids that are tied to nothing."""
        start, self.count = self.count, self.count + size
        return np.arange(start, self.count, dtype=np.int64)

    def born(self, tensor: str, dim: int, size: int) -> Ids:
        """New ids for dimension ``dim`` of the parameter or buffer ``tensor``."""
        self.origins.append(Origin(tensor, dim, self.count, size))
        self._starts.append(self.count)
        return self.fresh(size)

    def origins_of(self, ids: Ids) -> list[Origin]:
        """The parameter dimensions on which these ids were born."""
        least, most = int(ids.min()), int(ids.max())
        found = {self._origin_before(least), self._origin_before(most)}
        if len(found) > 1:
            found.update((np.searchsorted(self._starts, ids, side="right") - 1).tolist())
        chosen = (self.origins[number] for number in sorted(found) if number >= 0)
        return [origin for origin in chosen if origin.start <= most and least < origin.start + origin.size]

    def _origin_before(self, number: int) -> int:
        """The last origin that starts at or before an id (they are in ascending order), or -1."""
        return bisect_right(self._starts, number) - 1

    def tie(self, first: Ids, second: Ids) -> None:
        """Elementwise: first[i] and second[i] can only be removed together."""
        if first is not second:
            self._ties.append((first, second))

    def tie_rows(self, rows: Ids) -> None:
        """``rows`` (R, n): position i of every row can only be removed together (equal parts stay equal)."""
        for row in rows[1:]:
            self.tie(rows[0], row)

    def freeze(self, ids: Ids | None, reason: str) -> None:
        """Nothing of ``ids`` may be removed; ``reason`` names the operator."""
        if ids is not None and ids.size:
            self._frozen.append((ids, reason))

    def mark_inexact(self, ids: Ids | None, reason: str) -> None:
        """Removing one of ``ids`` changes a statistic over channels, so masked and pruned differ."""
        if ids is not None and ids.size:
            self._inexact.append((ids, reason))

    def produce(self, ids: Ids) -> None:
        """``ids`` are output channels of a convolution or matrix product."""
        self._produced.append(ids)

    def components(self) -> Components:
        """Solve all ties at once."""
        if self._ties:
            rows = np.concatenate([first.ravel() for first, _ in self._ties])
            columns = np.concatenate([second.ravel() for _, second in self._ties])
        else:
            rows = columns = np.zeros(0, dtype=np.int64)
        edges = coo_matrix((np.ones(rows.size, dtype=np.bool_), (rows, columns)), shape=(self.count,) * 2)
        count, label = connected_components(edges, directed=False)
        label = label.astype(np.int64)
        produced = np.zeros(count, dtype=np.bool_)
        for ids in self._produced:
            produced[label[ids]] = True
        return Components(
            label, count, _first_reason(self._frozen, label), _first_reason(self._inexact, label), produced
        )


def _first_reason(marks: list[tuple[Ids, str]], label: Ids) -> dict[int, str]:
    """The first reason given for each component."""
    reasons: dict[int, str] = {}
    for ids, reason in marks:
        for component in np.unique(label[ids]).tolist():
            reasons.setdefault(component, reason)
    return reasons
