"""Channel ids: which elements of which tensor dimensions can only be removed together.

Every element of every dimension of every parameter has an id. Operators *tie* ids (an addition ties the channels that
it adds), *freeze* them (they must be kept) or mark them *inexact* (they pass a normalisation over channels). Ties are
collected while a network runs; the connected components are computed once, at the end.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

Ids = NDArray[np.int64]


@dataclass(frozen=True)
class Origin:
    """A dimension of a parameter or buffer, and the consecutive ids of its elements."""

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
    """The ids, ties and marks of one trace.

    ``module`` is the path of the running module; the reasons of new marks name it.
    """

    count: int = 0
    module: str | None = None
    origins: list[Origin] = field(default_factory=list)
    _starts: list[int] = field(default_factory=list)
    _ties: list[tuple[Ids, Ids]] = field(default_factory=list)
    _frozen: list[tuple[Ids, str]] = field(default_factory=list)
    _inexact: list[tuple[Ids, str]] = field(default_factory=list)
    _produced: list[Ids] = field(default_factory=list)

    def copy(self) -> ChannelIds:
        """The same ids, ties and marks; changes of the copy do not change these."""
        lists: dict[str, Any] = {
            name: value[:] for name, value in vars(self).items() if isinstance(value, list)
        }
        return replace(self, **lists)

    def fresh(self, size: int) -> Ids:
        """``size`` new ids without ties."""
        start, self.count = self.count, self.count + size
        return np.arange(start, self.count, dtype=np.int64)

    def for_dimension(self, tensor: str, dim: int, size: int) -> Ids:
        """New ids for dimension ``dim`` of the parameter or buffer ``tensor``."""
        self.origins.append(Origin(tensor, dim, self.count, size))
        self._starts.append(self.count)
        return self.fresh(size)

    def origins_of(self, ids: Ids) -> list[Origin]:
        """The dimensions of parameters that these ids belong to."""
        least, most = int(ids.min()), int(ids.max())
        found = {self._origin_before(least), self._origin_before(most)}
        if len(found) > 1:
            found.update((np.searchsorted(self._starts, ids, side="right") - 1).tolist())
        chosen = (self.origins[number] for number in sorted(found) if number >= 0)
        return [origin for origin in chosen if origin.start <= most and least < origin.start + origin.size]

    def _origin_before(self, number: int) -> int:
        """The last origin that starts at or before an id (origins are in ascending order), or -1."""
        return bisect_right(self._starts, number) - 1

    def tie(self, first: Ids, second: Ids) -> None:
        """Elementwise: first[i] and second[i] can only be removed together."""
        if first is not second:
            self._ties.append((first, second))

    def tie_rows(self, rows: Ids) -> None:
        """``rows`` (R, n): position i of all rows can only be removed together, so that parts keep equal widths."""
        for row in rows[1:]:
            self.tie(rows[0], row)

    def freeze(self, ids: Ids | None, reason: str) -> None:
        """None of ``ids`` may be removed; ``reason`` names the operator that requires it."""
        if ids is not None and ids.size:
            self._frozen.append((ids, self._located(reason)))

    def is_frozen(self, ids: Ids) -> bool:
        """Whether ``ids`` themselves have been frozen so far (not only channels that are tied to them)."""
        return any(bool(np.isin(ids, frozen).any()) for frozen, _ in self._frozen)

    def mark_inexact(self, ids: Ids | None, reason: str) -> None:
        """A statistic over channels changes if one of ``ids`` is removed, so masked and pruned network differ."""
        if ids is not None and ids.size:
            self._inexact.append((ids, self._located(reason)))

    def _located(self, reason: str) -> str:
        if self.module is None:
            return reason
        return (
            f"{reason} (in {self.module})"
            if self.module
            else f"{reason} (in the forward pass of the network)"
        )

    def produce(self, ids: Ids) -> None:
        """``ids`` are output channels of a convolution or matrix product."""
        self._produced.append(ids)

    def components(self) -> Components:
        """The connected components of all ties."""
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
