"""What a network costs, as a function of the widths of its groups: no tensor is touched."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import prod
from typing import overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from prunelab.errors import UserError
from prunelab.structure.plan import PruningPlan
from prunelab.structure.tracing.ids import Components, Ids
from prunelab.structure.tracing.marks import Trace

_Term = tuple[float, Sequence[Ids], int]
"""A coefficient, the dimensions that it is multiplied by, and its column of ``alive`` (see ``_Sum``)."""


@dataclass(frozen=True)
class _Sum:
    """sum over terms of coefficient x product of dimension widths x (enclosing blocks alive).

    ``factors`` (terms, F) are indices of dimensions; dimension 0 is the constant 1. ``block`` is the column of
    ``alive`` that each term needs.
    """

    coefficients: NDArray[np.float64]
    factors: NDArray[np.int64]
    block: NDArray[np.int64]

    def __call__(self, dimensions: NDArray[np.float64], alive: NDArray[np.float64]) -> NDArray[np.float64]:
        """``dimensions`` (B, D), ``alive`` (B, columns; see ``CostModel._living``) -> (B,)."""
        product = dimensions[:, self.factors[:, 0]]
        for column in range(1, self.factors.shape[1]):
            product = product * dimensions[:, self.factors[:, column]]
        if alive.shape[1] > 1:
            product = product * alive[:, self.block]
        return product @ self.coefficients


class CostModel:
    """FLOPs, MACs and parameters of a network for any widths of its groups and any dropped blocks.

    FLOPs follow the survey: ``2 H W (Cin/groups) K^2 Cout + H W Cout``, the second term only with a bias; MACs are
    the multiply-accumulates alone. Both are for one forward pass of a single image. Every method takes

    - nothing: the full network -> int;
    - a ``PruningPlan`` -> int;
    - ``widths`` (B, G) or (G,), in the order of ``ChannelGraph.groups``, with an optional ``alive`` (B, blocks) of
      0 and 1 in the order of ``ChannelGraph.blocks`` -> array (B,) or int.
    """

    def __init__(
        self,
        full: NDArray[np.int64],
        groups: Sequence[str],
        blocks: Sequence[str],
        parents: NDArray[np.int64],
        multiplicity: NDArray[np.float64],
        constant: NDArray[np.float64],
        operations: _Sum,
        biases: _Sum,
        parameters: _Sum,
        images: int,
        homes: Sequence[tuple[int, ...]],
    ) -> None:
        self._homes = tuple(homes)  # blocks that share a parameter: it is there while one of them is
        self.full = full
        self._groups = tuple(groups)
        self._blocks = tuple(blocks)
        self._parents = parents
        self._multiplicity, self._constant = multiplicity, constant
        self._operations, self._biases, self._parameters = operations, biases, parameters
        self._images = images

    @overload
    def flops(self, widths: PruningPlan | None = None, alive: None = None) -> int: ...
    @overload
    def flops(self, widths: ArrayLike, alive: ArrayLike | None = None) -> NDArray[np.float64]: ...
    def flops(self, widths: object = None, alive: object = None) -> object:
        """Floating-point operations of one forward pass per image (2 x MACs + bias additions)."""
        return self._evaluate((self._operations, self._biases), 1.0 / self._images, widths, alive)

    @overload
    def macs(self, widths: PruningPlan | None = None, alive: None = None) -> int: ...
    @overload
    def macs(self, widths: ArrayLike, alive: ArrayLike | None = None) -> NDArray[np.float64]: ...
    def macs(self, widths: object = None, alive: object = None) -> object:
        """Multiply-accumulates of one forward pass per image."""
        return self._evaluate((self._operations,), 0.5 / self._images, widths, alive)

    @overload
    def params(self, widths: PruningPlan | None = None, alive: None = None) -> int: ...
    @overload
    def params(self, widths: ArrayLike, alive: ArrayLike | None = None) -> NDArray[np.float64]: ...
    def params(self, widths: object = None, alive: object = None) -> object:
        """Number of parameters (buffers are not counted)."""
        return self._evaluate((self._parameters,), 1.0, widths, alive)

    def of(self, resource: str, widths: ArrayLike, alive: ArrayLike | None = None) -> NDArray[np.float64]:
        """``flops``, ``macs`` or ``params`` by name, for arrays."""
        if resource not in ("flops", "macs", "params"):
            raise ValueError(f"resource is {resource!r}; it must be one of flops, macs, params")
        values: NDArray[np.float64] = getattr(self, resource)(np.atleast_2d(np.asarray(widths)), alive)
        return values

    def _evaluate(self, sums: tuple[_Sum, ...], scale: float, widths: object, alive: object) -> object:
        if widths is None:
            widths = self.full
        elif isinstance(widths, PruningPlan):
            widths, alive = self._of_plan(widths)
        rows = np.asarray(widths, dtype=np.float64)
        single = rows.ndim == 1
        rows = np.atleast_2d(rows)
        if rows.shape[1] != len(self._groups):
            raise ValueError(
                f"widths have {rows.shape[1]} columns; this network has {len(self._groups)} groups"
            )
        dimensions = rows @ self._multiplicity.T + self._constant
        living = self._living(alive, rows.shape[0])
        total = np.sum([part(dimensions, living) for part in sums], axis=0) * scale
        return round(float(total[0])) if single else total

    def _living(self, alive: object, rows: int) -> NDArray[np.float64]:
        """Columns: each block (alive if it and every block around it are kept), 'no block', sets of blocks (any)."""
        count = len(self._blocks)
        living = np.ones((rows, count + 1 + len(self._homes)))
        if alive is not None:
            living[:, :count] = np.atleast_2d(np.asarray(alive, dtype=np.float64))
            for block in range(count):
                parent = self._parents[block]
                while parent >= 0:
                    living[:, block] *= living[:, parent]
                    parent = self._parents[parent]
            for number, home in enumerate(self._homes):
                living[:, count + 1 + number] = living[:, list(home)].max(axis=1)
        return living

    def _of_plan(self, plan: PruningPlan) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        widths = []
        for name, size in zip(self._groups, self.full.tolist(), strict=True):
            before, after = plan.widths.get(name, (size, size))
            if before != size:
                raise UserError(
                    f"the plan counts {before} channels in group {name}, which has {size} in this network: the plan is "
                    "of another network, or a later round took apart what goes together here. Analyse the pruned "
                    "network for its cost."
                )
            widths.append(after)
        if unknown := [name for name in plan.widths if name not in self._groups]:
            raise UserError(f"the plan has a group {unknown[0]!r}, which this network lacks")
        alive = [name not in plan.dropped_blocks for name in self._blocks]
        return np.array(widths), np.array([alive], dtype=np.int64).reshape(1, -1)


def cost_model(
    trace: Trace,
    components: Components,
    group_of: NDArray[np.int64],
    names: Sequence[str],
    sizes: Sequence[int],
    blocks: Sequence[tuple[str, str | None]],
    parameters: dict[str, tuple[int, ...]],
    aliases: dict[str, tuple[str, ...]],
    images: int,
) -> CostModel:
    """Turn the terms of a trace into sums over group widths.

    ``parameters`` gives each parameter's shape, ``aliases`` all names it has, ``blocks`` (name, enclosing block),
    ``images`` the batch size of the traced pass.
    """
    forms = _Forms(components, group_of, len(names))
    homes = _Homes(blocks)
    operations = forms.summed(
        (t.coefficient, t.factors, homes.running(t.modules)) for t in trace.terms if not t.bias
    )
    biases = forms.summed((t.coefficient, t.factors, homes.running(t.modules)) for t in trace.terms if t.bias)
    born: dict[str, dict[int, Ids]] = {}
    for origin in trace.ids.origins:
        born.setdefault(origin.tensor, {})[origin.dim] = origin.ids
    counted: list[_Term] = []
    for name, shape in parameters.items():
        factors = list(born.get(name, {}).values())
        rest = prod(shape) / prod(ids.size for ids in factors)
        counted.append((rest, factors, homes.of_parameter(aliases[name])))
    weights = forms.summed(counted)
    multiplicity, constant = forms.matrices()
    return CostModel(
        np.array(sizes, dtype=np.int64), names, homes.order, homes.parents, multiplicity, constant,
        operations, biases, weights, images, list(homes.shared),
    )  # fmt: skip


class _Homes:
    """Where operations and parameters live, as columns of ``alive`` (see ``CostModel._living``).

    ``shared``: sets of blocks that have a parameter in common -> their column.
    """

    def __init__(self, blocks: Sequence[tuple[str, str | None]]) -> None:
        self.order = [name for name, _ in blocks]
        self.parents = np.array(
            [self.order.index(parent) if parent else -1 for _, parent in blocks], dtype=np.int64
        )
        self.shared: dict[tuple[int, ...], int] = {}
        self._outside = len(self.order)

    def running(self, modules: tuple[str, ...]) -> int:
        """The innermost running block; a shared module may run in a block that its path does not show."""
        return next(
            (self.order.index(path) for path in reversed(modules) if path in self.order), self._outside
        )

    def of_parameter(self, names: Sequence[str]) -> int:
        """The block around a parameter, or all blocks around it if it has several names."""
        inside = sorted({self._around(name.rpartition(".")[0]) for name in names})
        if len(inside) == 1 or self._outside in inside:  # also used outside of blocks
            return inside[-1]
        return self.shared.setdefault(tuple(inside), self._outside + 1 + len(self.shared))

    def _around(self, module: str) -> int:
        around = [name for name in self.order if module == name or module.startswith(name + ".")]
        return self.order.index(max(around, key=len)) if around else self._outside


class _Forms:
    """Widths of tensor dimensions as linear forms over groups; equal ones are kept once. Form 0 is the constant 1."""

    def __init__(self, components: Components, group_of: NDArray[np.int64], groups: int) -> None:
        self._components, self._group_of, self._groups = components, group_of, groups
        self._sizes = np.bincount(group_of[group_of >= 0], minlength=groups).astype(np.float64)
        self._numbers: dict[bytes, int] = {}
        self._rows: list[NDArray[np.float64]] = []
        self._add(np.zeros(groups), 1.0)

    def _add(self, counts: NDArray[np.float64], constant: float) -> int:
        row = np.append(counts, constant)
        number = self._numbers.setdefault(row.tobytes(), len(self._rows))
        if number == len(self._rows):
            self._rows.append(row)
        return number

    def number(self, ids: Ids) -> int:
        """The form of a dimension with these ids: multiplicity per group, and how many belong to none."""
        groups = self._group_of[self._components.label[ids]]
        counts = np.bincount(groups[groups >= 0], minlength=self._groups).astype(np.float64)
        constant = float((groups < 0).sum())
        return self._add(counts / np.maximum(self._sizes, 1.0), constant)

    def summed(self, terms: Iterable[_Term]) -> _Sum:
        """The sum of these terms, whose factors are dimensions with these ids."""
        terms = list(terms)
        columns = max((len(factors) for _, factors, _ in terms), default=1) or 1
        table = np.zeros((len(terms), columns), dtype=np.int64)
        for row, (_, factors, _) in enumerate(terms):
            table[row, : len(factors)] = [self.number(ids) for ids in factors]
        return _Sum(
            np.array([coefficient for coefficient, _, _ in terms], dtype=np.float64),
            table,
            np.array([column for _, _, column in terms], dtype=np.int64),
        )

    def matrices(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Multiplicities (forms, groups) and constants (forms,)."""
        stacked = np.stack(self._rows)
        return stacked[:, :-1], stacked[:, -1]
