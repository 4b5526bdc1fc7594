"""Pruning a network to the shapes of the weights in a checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile

from torch import nn

from prunelab.errors import UserError
from prunelab.structure import PruningPlan
from prunelab.structure.plan import Cut, Indices
from prunelab.structure.plan_steps import Plan, steps_of
from prunelab.structure.surgery.substituting import apply_steps


def prune_as(model: nn.Module, plan: Plan) -> None:
    """Prune, and factorise, ``model`` in place to the network that ``plan`` makes of the full network.

    The model can be the full network, a network to which the first part of the plan was applied (an earlier round of
    iterative pruning), or the result itself.

    Raises:
        UserError: the plan belongs to another network, or the model lacks channels that the plan keeps.
    """
    wanted = steps_of(plan)
    done = steps_of(getattr(model, "prunelab_plan", None))
    same = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(wanted, done, strict=False)))
    if same == len(done):
        apply_steps(model, wanted[same:])
        return
    last = done[same]
    begun = wanted[same] if same < len(wanted) else None
    if same + 1 < len(done) or not isinstance(last, PruningPlan) or not isinstance(begun, PruningPlan):
        raise UserError(
            "The checkpoint holds a network that was factorised in another way, or before this one was. Load it into "
            "the full network."
        )
    apply_steps(model, (remainder(begun, last), *wanted[same + 1 :]))


def remainder(plan: PruningPlan, done: PruningPlan) -> PruningPlan:
    """The part of ``plan`` that remains after its first part ``done``: ``done.compose(remainder)`` equals ``plan``."""
    kept, widths = dict(plan.kept), dict(plan.widths)
    for name in plan.kept.keys() & done.kept.keys():
        kept[name] = _positions(plan.kept[name], done.kept[name], name)
        widths[name] = (len(done.kept[name]), len(kept[name]))
    members = {
        name: _positions(indices, done.members[name], name) if name in done.members else indices
        for name, indices in plan.members.items()
    }
    cut_before = {(cut.tensor, cut.dim): cut.indices for cut in done.cuts}
    cuts = []
    for cut in plan.cuts:
        before = cut_before.get((cut.tensor, cut.dim))
        if before is not None:
            cut = Cut(cut.tensor, cut.dim, len(before), _positions(cut.indices, before, cut.tensor))
        cuts.append(cut)
    return PruningPlan(
        kept=kept,
        widths=widths,
        dropped_blocks=tuple(name for name in plan.dropped_blocks if name not in done.dropped_blocks),
        cuts=tuple(cuts),
        values=plan.values,
        attributes=plan.attributes,
        replaced={name: leaves for name, leaves in plan.replaced.items() if name not in done.replaced},
        rewritten=plan.rewritten,
        members=members,
    )


def _positions(wanted: Sequence[int], present: Sequence[int], name: str) -> Indices:
    """The positions of the ``wanted`` indices in ``present``; both are indices of the full network."""
    position = {index: number for number, index in enumerate(present)}
    lost = [index for index in wanted if index not in position]
    if lost:
        raise UserError(
            f"The checkpoint keeps channel {lost[0]} of {name}, which was already removed from this network. "
            "Load it into the full network."
        )
    return tuple(position[index] for index in wanted)
