"""The cost of a network as a function of the widths of its groups; no tensor is needed."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, partial
from typing import Any, Protocol, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from prunelab.errors import UserError, nearest
from prunelab.structure.cost_terms import BlockColumns, CostSum, Described, Forms, parameter_terms
from prunelab.structure.layer_table import layer_table
from prunelab.structure.layers import Layer, LayerTable, LayerWidths, ModuleCost
from prunelab.structure.plan import PruningPlan
from prunelab.structure.tracing.ids import Components
from prunelab.structure.tracing.marks import Trace

Widths = NDArray[np.float64]
"""(B, G): the widths of all groups, in the order of ``ChannelGraph.groups``."""

Alive = NDArray[np.float64]
"""(B, blocks): 1 for a block that is kept, 0 for one that is dropped, alone or with a block around it."""

WidthCost = Callable[[Widths, Alive], NDArray[np.float64]]
"""The cost (B,) of networks of these widths and blocks."""


class CostFunction(Protocol):
    """The cost of the full network (no argument), of a plan, or of widths (B, G) and alive blocks (B, blocks)."""

    def __call__(self, widths: Any = None, alive: Any = None) -> Any:
        """One number without arguments, for a plan or for widths (G,); an array (B,) for widths (B, G)."""


class CostModel:
    """FLOPs, MACs, parameters and added resources of a network for any widths of its groups and any dropped blocks.

    FLOPs follow the survey: ``2 H W (Cin/groups) K^2 Cout + H W Cout``, the second term only with a bias; MACs are
    the multiply-accumulates alone. Both are for one forward pass of a single image. ``flops``, ``macs``, ``params`` and
    ``function(resource)`` take

    - no argument: the full network -> int;
    - a ``PruningPlan`` -> int;
    - ``widths`` (B, G) or (G,), in the order of ``ChannelGraph.groups``, with an optional ``alive`` (B, blocks) of
      0 and 1 in the order of ``ChannelGraph.blocks`` -> array (B,) or int.

    Example:
        >>> network = nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.ReLU(), nn.Conv2d(8, 4, 3, bias=False))
        >>> structure = prunelab.analyze(network, torch.zeros(1, 3, 8, 8))
        >>> structure.cost.params(), structure.cost.params(structure.plan({"0": range(4)}))
        (504, 252)
    """

    def __init__(
        self,
        full: NDArray[np.int64],
        groups: Sequence[str],
        blocks: Sequence[str],
        parents: NDArray[np.int64],
        multiplicity: NDArray[np.float64],
        constant: NDArray[np.float64],
        operations: CostSum,
        biases: CostSum,
        parameters: CostSum,
        images: int,
        homes: Sequence[tuple[int, ...]],
        table: Callable[[], LayerTable],
    ) -> None:
        self._shared = tuple(
            homes
        )  # sets of blocks with a common parameter, which is counted while one of them is alive
        self.full = full
        self._groups = tuple(groups)
        self._blocks = tuple(blocks)
        self._parents = parents
        self._multiplicity, self._constant = multiplicity, constant
        self._operations, self._biases, self._parameters = operations, biases, parameters
        self._images = images
        self._build_table = table
        self._added: Mapping[str, WidthCost] = {}

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

    @property
    def resources(self) -> tuple[str, ...]:
        """The resources of this model: flops, macs, params, and those added by ``with_resource``."""
        return "flops", "macs", "params", *self._added

    def function(self, resource: str) -> CostFunction:
        """The cost of a resource, such as ``function("flops")``, which is ``flops``.

        Raises UserError for a resource that this model does not have.
        """
        if resource in ("flops", "macs", "params"):
            built_in: CostFunction = getattr(self, resource)
            return built_in
        if resource not in self._added:
            hint = (
                " A latency needs measured times: CostModel.with_resource." if resource == "latency" else ""
            )
            raise UserError(
                f"the cost model has no resource {resource!r}. {nearest(resource, self.resources)}{hint}"
            )
        added = self._added[resource]

        def cost(widths: Any = None, alive: Any = None) -> Any:
            rows, living, single = self._rows(widths, alive)
            values = np.asarray(added(rows, living[:, : len(self._blocks)]), dtype=np.float64)
            return float(values[0]) if single else values

        return cost

    def of(self, resource: str, widths: ArrayLike, alive: ArrayLike | None = None) -> NDArray[np.float64]:
        """The cost of a resource by name, for arrays -> (B,). Raises UserError as ``function``."""
        values: NDArray[np.float64] = self.function(resource)(np.atleast_2d(np.asarray(widths)), alive)
        return values

    def with_resource(self, name: str, cost: WidthCost) -> CostModel:
        """A copy of this model with one more resource, ``name``.

        ``cost`` takes widths (B, G) and alive blocks (B, blocks) and returns (B,). ``layer_widths`` turns both into the
        widths of every layer, on which a table of measured latencies depends::

            def latency(widths, alive):
                at = cost.layer_widths(widths, alive)
                return sum(table(layer, at.inputs[:, n], at.outputs[:, n]) for n, layer in enumerate(layers))

            cost = cost.with_resource("latency", latency)

        Raises UserError if the name is taken.
        """
        if name in self.resources:
            raise UserError(f"the cost model has a resource {name!r} already")
        extended = copy.copy(self)
        extended._added = {**self._added, name: cost}
        return extended

    def layers(self, plan: PruningPlan | None = None) -> tuple[Layer, ...]:
        """The contractions of one forward pass in their order, of the full network or of that pruned by ``plan``."""
        return self._table.layers(*self._rows(plan, None)[:2])

    def layer_widths(self, widths: ArrayLike, alive: ArrayLike | None = None) -> LayerWidths:
        """The widths of all ``layers()`` for many networks at once."""
        return self._table.widths(*self._rows(np.atleast_2d(np.asarray(widths)), alive)[:2])

    def by_module(self, plan: PruningPlan | None = None) -> tuple[ModuleCost, ...]:
        """A row for each module that has parameters or computes something itself, in the order of the forward pass.

        Of the full network or of that pruned by ``plan``. The parameters, MACs and FLOPs of all rows add up to those of
        the network (up to rounding of FLOPs per image, for a batch of several).
        """
        return self._table.modules(*self._rows(plan, None)[:2])

    @cached_property
    def _table(self) -> LayerTable:
        """Built at the first use: most analyses do not need it."""
        return self._build_table()

    def _evaluate(self, sums: tuple[CostSum, ...], scale: float, widths: object, alive: object) -> object:
        rows, living, single = self._rows(widths, alive)
        dimensions = rows @ self._multiplicity.T + self._constant
        total = np.sum([part(dimensions, living) for part in sums], axis=0) * scale
        return round(float(total[0])) if single else total

    def _rows(self, widths: object, alive: object) -> tuple[NDArray[np.float64], NDArray[np.float64], bool]:
        """Widths (B, G), living (B, columns), and whether the arguments describe a single network."""
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
        return rows, self._living(alive, rows.shape[0]), single

    def _living(self, alive: object, rows: int) -> NDArray[np.float64]:
        """Columns: each block (1 if it and every block around it are kept), 'no block' (1), sets of blocks (any)."""
        count = len(self._blocks)
        living = np.ones((rows, count + 1 + len(self._shared)))
        if alive is not None:
            living[:, :count] = np.atleast_2d(np.asarray(alive, dtype=np.float64))
            for block in range(count):
                parent = self._parents[block]
                while parent >= 0:
                    living[:, block] *= living[:, parent]
                    parent = self._parents[parent]
            for number, home in enumerate(self._shared):
                living[:, count + 1 + number] = living[:, list(home)].max(axis=1)
        return living

    def _of_plan(self, plan: PruningPlan) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        widths = []
        for name, size in zip(self._groups, self.full.tolist(), strict=True):
            before, after = plan.widths.get(name, (size, size))
            if before != size:
                raise UserError(
                    f"the plan counts {before} channels in group {name}, which has {size} in this network: the plan "
                    "belongs to another network, or a later round has divided this group. Analyse the pruned network "
                    "for its cost."
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
    network: Described,
) -> CostModel:
    """Turn the terms of a trace into sums over group widths."""
    forms, homes = Forms(components, group_of, network.sizes), BlockColumns(network.blocks)
    operations, biases = (
        forms.summed(
            (t.coefficient, t.factors, homes.running(t.modules)) for t in trace.terms if t.bias == bias
        )
        for bias in (False, True)
    )
    weights = forms.summed(parameter_terms(trace, network, homes).values())
    multiplicity, constant = forms.matrices()
    table = partial(layer_table, trace, components, group_of, network)
    return CostModel(
        np.array(network.sizes, dtype=np.int64), network.names, homes.order, homes.parents, multiplicity, constant,
        operations, biases, weights, network.images, list(homes.shared), table,
    )  # fmt: skip
