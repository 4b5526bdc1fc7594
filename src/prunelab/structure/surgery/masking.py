"""The masked run: the full network on real images, in which everything that a plan removes is zero.

It depends neither on groups nor on the shapes that ``apply`` makes. The full network runs under the same tracer as in
an analysis. At every contraction (convolution, matrix product, gather, sum over weights), the input channels that the
plan removes are set to zero. This is the same as zeros in the weight columns that read a removed channel, for any
activation function before them. The branch of a dropped block is zero at its addition.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from prunelab.structure.blocks import find_blocks
from prunelab.structure.network import Network, arguments
from prunelab.structure.plan import PruningPlan
from prunelab.structure.surgery.apply import checked_cuts, named_modules, named_tensors
from prunelab.structure.surgery.precision import copied, double_precision
from prunelab.structure.surgery.temporary import call_with
from prunelab.structure.tracing.calls import Call, Calls
from prunelab.structure.tracing.ids import Ids
from prunelab.structure.tracing.marks import Marked, Trace
from prunelab.structure.tracing.outputs import Outputs
from prunelab.structure.tracing.rules.contract import FUSED_ATTENTION
from prunelab.structure.tracing.rules.reduce import reduced_dims
from prunelab.structure.tracing.trace import Tracer, run
from prunelab.structure.wrappers import uncompiled

# The argument of a contraction that is read, and its contracted dimension.
_READS = {
    "convolution": (0, 1), "deform_conv2d": (0, 1), "addmm": (1, 1), "mm": (0, 1), "bmm": (0, 2), "baddbmm": (1, 2),
    **dict.fromkeys(FUSED_ATTENTION, (0, 3)),
}  # fmt: skip


Watch = Callable[[Calls], AbstractContextManager[Any]]
"""Enters a context around a forward pass, whose Python-level calls are numbered by the argument."""


def masked_forward(model: nn.Module, plan: PruningPlan, inputs: Any) -> Any:
    """The output of the full ``model`` with everything that ``plan`` removes masked (float64, evaluation mode)."""
    return masked_run(model, plan, inputs, double=True)


def masked_run(
    model: nn.Module,
    plan: PruningPlan,
    inputs: Any,
    double: bool,
    watch: Watch = lambda calls: nullcontext(),
    outputs: Outputs | None = None,
) -> Any:
    """The same in float64 or, with ``double`` False, in the precision of the network and its inputs. ``outputs`` as for
    ``analyze``."""
    with uncompiled(model) as plain:
        return _masked_run(plain, plan, inputs, double, watch, outputs)


def _masked_run(
    model: nn.Module, plan: PruningPlan, inputs: Any, double: bool, watch: Watch, outputs: Outputs | None
) -> Any:
    checked_cuts(named_modules(model), named_tensors(model), plan)  # the plan may be that of another network
    network = Network(model, inputs, outputs=outputs)
    trace = network.trace()
    tensors = copied(named_tensors(model), double)
    tracer = _Masking(tensors, plan, network, trace)
    args, kwargs = arguments(copied(inputs, double))

    def forward() -> Any:
        with watch(tracer.calls), double_precision() if double else nullcontext():
            return call_with(model, tensors, args, kwargs)

    return run(model, tracer, forward)[1]


class _Masking(Tracer):
    """Follows channel ids through a real run and sets removed channels to zero where they are read."""

    def __init__(
        self,
        tensors: dict[str, Tensor],
        plan: PruningPlan,
        network: Network,
        trace: Trace,
    ) -> None:
        super().__init__(tensors.items(), lambda name: tensors[name], network.carry, network.kernels)
        self.additions = _dropped_additions(plan, trace)
        self._components = trace.ids.components()
        removed = torch.zeros(self.ledger.ids.count, dtype=torch.bool)
        first_name = {name: names[0] for names in network.aliases().values() for name in names}
        by_dimension = {(first_name[cut.tensor], cut.dim): cut for cut in plan.cuts}
        for origin in self.ledger.ids.origins:
            cut = by_dimension.get((origin.tensor, origin.dim))
            if cut is not None:
                gone = torch.ones(origin.size, dtype=torch.bool)
                gone[list(cut.indices)] = False
                removed[origin.start : origin.start + origin.size] = gone
        self._removed = self._with_added(removed)

    def before(self, func: Any, args: Any, kwargs: Any) -> tuple[Any, Any]:
        name = func.overloadpacket.__name__
        branch = self.additions.get((self.calls.current, name)) if name in ("add", "add_") else None
        if branch is not None:
            # Where the shortcut carries no channels (the images), the branch's stay (the addition freezes them): then
            # later channels are numbered as in the analysis.
            shortcut, removed = self.marked(args[1 - branch]), self.marked(args[branch])
            dims = [
                ids if ids is not None else own for ids, own in zip(shortcut.dims, removed.dims, strict=True)
            ]
            # In place, the result must stay the same tensor.
            zeros = args[0].zero_() if name == "add_" and branch == 0 else torch.zeros_like(args[branch])
            self.ledger.write(zeros, Marked(tuple(zeros.shape), dims, activation=True))
            return (zeros, args[1]) if branch == 0 else (args[0], zeros), kwargs
        for position, dim in self._reads(name, args, kwargs):
            args = (*args[:position], self._zeroed(args[position], dim), *args[position + 1 :])
        return args, kwargs

    def _reads(self, name: str, args: Any, kwargs: Any) -> list[tuple[int, int]]:
        """(argument, dimension) of everything that an operator contracts."""
        if name == "index_select":
            return [(0, int(args[1]) % args[0].dim())]
        if name == "sum" and not self.marked(args[0]).activation:
            # A merged bias (re-parameterised convolutions); a sum that normalises weights is a statistic.
            dims = reduced_dims(args, kwargs, args[0].dim(), 1)
            return [(0, dim) for dim in dims if not self._is_inexact(self.marked(args[0]).dims[dim])]
        return [_READS[name]] if name in _READS else []

    def _is_inexact(self, ids: Ids | None) -> bool:
        return ids is not None and not self._components.inexact.keys().isdisjoint(
            self._components.label[ids].tolist()
        )

    def _zeroed(self, source: Tensor, dim: int) -> Tensor:
        """``source`` with zeros where dimension ``dim`` carries channels that the plan removes."""
        marked = self.marked(source)
        ids = marked.dims[dim]
        if ids is None:
            return source
        keep = self._kept(ids)
        if bool(keep.all()):
            return source
        shape = [1] * source.dim()
        shape[dim] = -1
        zeroed = source * keep.to(source).reshape(shape)
        self.ledger.write(zeroed, marked)
        return zeroed

    def _with_added(self, removed: Tensor) -> Tensor:
        """``removed`` (of parameters) for all ids: channels that the program adds (zeros beside a narrow shortcut) are
        removed with the channels that they are tied to."""
        label = torch.from_numpy(self._components.label)
        gone = torch.zeros(self._components.count, dtype=torch.bool)
        gone[label[: removed.numel()][removed]] = True
        return torch.cat([removed, gone[label[removed.numel() :]]])

    def _kept(self, ids: Ids) -> Tensor:
        return ~self._removed[torch.tensor(ids)]


def _dropped_additions(plan: PruningPlan, trace: Trace) -> dict[tuple[Call | None, str], int]:
    """(call, operator) of each addition in a dropped block -> the number of the operand that is the branch."""
    additions = {}
    for visit, path in find_blocks(trace):
        if visit.module in plan.dropped_blocks:
            for addition, branch in zip(path.additions, path.branches, strict=True):
                additions[addition.made_in, addition.op] = addition.parents.index(branch)
    return additions
