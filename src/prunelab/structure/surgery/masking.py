"""``check``: does the pruned network compute what the masked full network computes?

The masked run is independent of groups and surgery's shapes: the full network runs on real images under the same
tracer, and at every contraction (convolution, matrix product, gather) the input channels that the plan removes are
set to zero: the weight columns that read a removed channel do not count, whatever the activation function between.
A dropped block's branch counts as zero at its addition.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from prunelab.structure.blocks import find_blocks
from prunelab.structure.network import Network, arguments, one_image
from prunelab.structure.plan import PruningPlan
from prunelab.structure.surgery.apply import named_tensors
from prunelab.structure.surgery.temporary import call_with
from prunelab.structure.tracing.calls import Call
from prunelab.structure.tracing.ids import Ids
from prunelab.structure.tracing.marks import Marked, Trace
from prunelab.structure.tracing.outputs import tensors_in
from prunelab.structure.tracing.side_effects import evaluating
from prunelab.structure.tracing.trace import Tracer, run

# Which argument of a contraction is read, and along which dimension.
_READS = {
    "convolution": (0, 1),
    "addmm": (1, 1),
    "mm": (0, 1),
    "bmm": (0, 2),
    "baddbmm": (1, 2),
    "index_select": (0, None),
}


def check(original: nn.Module, pruned: nn.Module, plan: PruningPlan, images: Any) -> float:
    """The largest difference between the masked ``original`` and ``pruned``, relative to the output's largest value.

    ``images`` is one batch (or a tuple or dict of inputs); both networks run in float64, evaluation mode. Exact groups
    give 1e-6 or less; see ``ChannelGroup.exact`` for those that cannot.
    """
    masked = _floating(masked_forward(original, plan, images))
    args, kwargs = arguments(_as_double(images))
    tensors = _as_double(named_tensors(pruned))
    with evaluating(pruned), torch.no_grad(), _double_precision():
        found = _floating(call_with(pruned, tensors, args, kwargs))
    if [value.shape for value in masked] != [value.shape for value in found]:
        return float("inf")
    worst = 0.0
    for expected, value in zip(masked, found, strict=True):
        scale = float(expected.abs().max()) or 1.0
        difference = float((expected - value).abs().max()) / scale
        worst = max(worst, difference if difference == difference else float("inf"))
    return worst


def masked_forward(model: nn.Module, plan: PruningPlan, images: Any) -> Any:
    """The output of the full ``model`` with everything that ``plan`` removes masked (float64, evaluation mode)."""
    network = Network(model, one_image(images))
    additions = _dropped_additions(plan, network.trace())
    args, kwargs = arguments(_as_double(images))
    tensors = _as_double(named_tensors(model))
    tracer = _Masking(tensors, plan, additions, network)
    with _double_precision():
        return run(model, tracer, lambda: call_with(model, tensors, args, kwargs))[1]


class _Masking(Tracer):
    """Follows channel ids through a real run and sets what is removed to zero wherever it is read."""

    def __init__(
        self,
        tensors: dict[str, Tensor],
        plan: PruningPlan,
        additions: dict[tuple[Call | None, str], int],
        network: Network,
    ) -> None:
        super().__init__(tensors.items(), lambda name: tensors[name], network.carry, network.kernels)
        self.additions = additions
        removed = torch.zeros(self.ledger.ids.count, dtype=torch.bool)
        first_name = {name: names[0] for names in network.aliases().values() for name in names}
        by_dimension = {(first_name[cut.tensor], cut.dim): cut for cut in plan.cuts}
        for origin in self.ledger.ids.origins:
            cut = by_dimension.get((origin.tensor, origin.dim))
            if cut is not None:
                gone = torch.ones(origin.size, dtype=torch.bool)
                gone[list(cut.indices)] = False
                removed[origin.start : origin.start + origin.size] = gone
        self.removed = removed

    def before(self, func: Any, args: Any, kwargs: Any) -> tuple[Any, Any]:
        name = func.overloadpacket.__name__
        branch = self.additions.get((self.calls.current, name)) if name in ("add", "add_") else None
        if branch is not None:
            shortcut, zeros = self.marked(args[1 - branch]), torch.zeros_like(args[branch])
            if name == "add_" and branch == 0:
                zeros = args[0].zero_()  # the result must stay the same tensor
            self.ledger.write(zeros, Marked(tuple(zeros.shape), list(shortcut.dims), activation=True))
            return (zeros, args[1]) if branch == 0 else (args[0], zeros), kwargs
        if name not in _READS:
            return args, kwargs
        position, dim = _READS[name]
        source = args[position]
        marked = self.marked(source)
        dim = int(args[1]) % source.dim() if dim is None else dim
        ids = marked.dims[dim]
        if ids is None:
            return args, kwargs
        keep = self._kept(ids)
        if bool(keep.all()):
            return args, kwargs
        shape = [1] * source.dim()
        shape[dim] = -1
        zeroed = source * keep.to(source.dtype).reshape(shape)
        self.ledger.write(zeroed, marked)
        return (*args[:position], zeroed, *args[position + 1 :]), kwargs

    def _kept(self, ids: Ids) -> Tensor:
        known = torch.tensor(ids)
        born = known < self.removed.numel()
        return ~(self.removed[known.clamp(max=self.removed.numel() - 1)] & born)


def _dropped_additions(plan: PruningPlan, trace: Trace) -> dict[tuple[Call | None, str], int]:
    """(call, operator) of each addition in a dropped block -> which operand is the branch."""
    additions = {}
    for visit, path in find_blocks(trace):
        if visit.module in plan.dropped_blocks:
            for addition, branch in zip(path.additions, path.branches, strict=True):
                additions[addition.made_in, addition.op] = addition.parents.index(branch)
    return additions


@contextmanager
def _double_precision() -> Iterator[None]:
    """Tensors that a network makes for itself (``torch.zeros``) are float64 too."""
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(default)


def _as_double(values: Any) -> Any:
    """Floating-point tensors as float64; shared tensors stay shared."""
    made: dict[int, Tensor] = {}

    def convert(value: Any) -> Any:
        if isinstance(value, Tensor) and value.is_floating_point():
            return made.setdefault(id(value), value.detach().double())
        return value

    return tree_map(convert, values)


def _floating(out: Any) -> list[Tensor]:
    return [value for value in tensors_in(out) if value.is_floating_point()]
