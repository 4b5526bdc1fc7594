"""Costs as sums over linear forms of the group widths."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np
from numpy.typing import NDArray

from prunelab.structure.tracing.ids import Components, Ids
from prunelab.structure.tracing.marks import Trace

CostTerm = tuple[float, Sequence[Ids], int]
"""A coefficient, the dimensions that it is multiplied by, and its column of ``alive`` (see ``CostSum``)."""


@dataclass(frozen=True)
class CostSum:
    """sum over terms of coefficient x product of dimension widths x (enclosing blocks alive).

    ``factors`` (terms, F) are indices of dimensions; dimension 0 is the constant 1. ``block`` is the column of
    ``alive`` that each term needs.
    """

    coefficients: NDArray[np.float64]
    factors: NDArray[np.int64]
    block: NDArray[np.int64]

    def __call__(self, dimensions: NDArray[np.float64], alive: NDArray[np.float64]) -> NDArray[np.float64]:
        """``dimensions`` (B, D), ``alive`` (B, columns; see ``CostModel._living``) -> (B,)."""
        return self._products(dimensions, alive) @ self.coefficients

    def values(self, dimensions: NDArray[np.float64], alive: NDArray[np.float64]) -> NDArray[np.float64]:
        """The same before the sum: each term (B, terms)."""
        return self._products(dimensions, alive) * self.coefficients

    def _products(self, dimensions: NDArray[np.float64], alive: NDArray[np.float64]) -> NDArray[np.float64]:
        product = dimensions[:, self.factors[:, 0]]
        for column in range(1, self.factors.shape[1]):
            product = product * dimensions[:, self.factors[:, column]]
        if alive.shape[1] > 1:
            product = product * alive[:, self.block]
        return product


@dataclass(frozen=True)
class Described:
    """Facts of a network that its trace does not contain.

    ``names``, ``sizes``: of the groups; ``blocks``: (name, enclosing block); ``parameters``: name -> shape, each once;
    ``aliases``: first name -> all names; ``kinds``: path of a module -> its class; ``images``: batch size of the trace.
    """

    names: Sequence[str]
    sizes: Sequence[int]
    blocks: Sequence[tuple[str, str | None]]
    parameters: Mapping[str, tuple[int, ...]]
    aliases: Mapping[str, tuple[str, ...]]
    kinds: Mapping[str, str]
    images: int


def parameter_terms(trace: Trace, network: Described, homes: BlockColumns) -> dict[str, CostTerm]:
    """The number of entries of each parameter."""
    born: dict[str, dict[int, Ids]] = {}
    for origin in trace.ids.origins:
        born.setdefault(origin.tensor, {})[origin.dim] = origin.ids
    terms: dict[str, CostTerm] = {}
    for name, shape in network.parameters.items():
        factors = list(born.get(name, {}).values())
        rest = prod(shape) / prod(ids.size for ids in factors)
        terms[name] = rest, factors, homes.of_parameter(network.aliases[name])
    return terms


class BlockColumns:
    """The blocks of operations and parameters, as columns of ``alive`` (see ``CostModel._living``).

    ``shared``: sets of blocks with a common parameter -> their column.
    """

    def __init__(self, blocks: Sequence[tuple[str, str | None]]) -> None:
        self.order = [name for name, _ in blocks]
        self.parents = np.array(
            [self.order.index(parent) if parent else -1 for _, parent in blocks], dtype=np.int64
        )
        self.shared: dict[tuple[int, ...], int] = {}
        self._outside = len(self.order)

    def running(self, modules: tuple[str, ...]) -> int:
        """The innermost running block. A shared module may run in a block that its path does not contain."""
        return next(
            (self.order.index(path) for path in reversed(modules) if path in self.order), self._outside
        )

    def of_parameter(self, names: Sequence[str]) -> int:
        """The block around a parameter, or the set of blocks if it has several names."""
        inside = sorted({self.around(name.rpartition(".")[0]) for name in names})
        if len(inside) == 1 or self._outside in inside:  # also used outside of blocks
            return inside[-1]
        return self.shared.setdefault(tuple(inside), self._outside + 1 + len(self.shared))

    def around(self, module: str) -> int:
        """The column of the innermost block around a module."""
        around = [name for name in self.order if module == name or module.startswith(name + ".")]
        return self.order.index(max(around, key=len)) if around else self._outside


class Forms:
    """Widths of tensor dimensions as linear forms over groups, without duplicates. Form 0 is the constant 1."""

    def __init__(self, components: Components, group_of: NDArray[np.int64], sizes: Sequence[int]) -> None:
        self._components, self._group_of, self._groups = components, group_of, len(sizes)
        self._sizes = np.array(sizes, dtype=np.float64)
        self._numbers: dict[bytes, int] = {}
        self._rows: list[NDArray[np.float64]] = []
        self._add(np.zeros(self._groups), 1.0)

    def _add(self, counts: NDArray[np.float64], constant: float) -> int:
        row = np.append(counts, constant)
        number = self._numbers.setdefault(row.tobytes(), len(self._rows))
        if number == len(self._rows):
            self._rows.append(row)
        return number

    def number(self, ids: Ids) -> int:
        """The form of a dimension with these ids: the multiplicity of each group, and the number of other ids."""
        groups = self._group_of[self._components.label[ids]]
        counts = np.bincount(groups[groups >= 0], minlength=self._groups).astype(np.float64)
        constant = float((groups < 0).sum())
        return self._add(counts / self._sizes, constant)

    def width(self, ids: Ids | None, size: int) -> int:
        """The form of a dimension of ``size`` entries, which carries these ids, or none."""
        return self._add(np.zeros(self._groups), float(size)) if ids is None else self.number(ids)

    def names(self, ids: Ids | None) -> list[int]:
        """The groups that have channels among ``ids``."""
        if ids is None:
            return []
        return [int(group) for group in np.unique(self._group_of[self._components.label[ids]]) if group >= 0]

    def summed(self, terms: Iterable[CostTerm]) -> CostSum:
        """The sum of these terms; their factors are dimensions, given by ids."""
        terms = list(terms)
        columns = max((len(factors) for _, factors, _ in terms), default=1) or 1
        table = np.zeros((len(terms), columns), dtype=np.int64)
        for row, (_, factors, _) in enumerate(terms):
            table[row, : len(factors)] = [self.number(ids) for ids in factors]
        return CostSum(
            np.array([coefficient for coefficient, _, _ in terms], dtype=np.float64),
            table,
            np.array([column for _, _, column in terms], dtype=np.int64),
        )

    def matrices(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Multiplicities (forms, groups) and constants (forms,)."""
        stacked = np.stack(self._rows)
        return stacked[:, :-1], stacked[:, -1]
