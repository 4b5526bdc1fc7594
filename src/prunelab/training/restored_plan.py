"""Giving a network the shapes that a checkpoint's weights were saved with."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from prunelab.errors import UserError
from prunelab.structure import PruningPlan, apply
from prunelab.structure.plan import Cut, Indices


def prune_as(model: nn.Module, plan: PruningPlan) -> None:
    """Prune ``model`` in place until it is the network that ``plan`` makes of the full one.

    The model may be the full network, or one that an earlier part of the same plan was applied to (a former
    round of iterative pruning), or already be there.

    Raises:
        UserError: the plan is of another network, or the model lost channels that the plan keeps.
    """
    done: PruningPlan | None = getattr(model, "prunelab_plan", None)
    if done is None:
        apply(model, plan)
    elif done.digest() != plan.digest():
        apply(model, remainder(plan, done))


def remainder(plan: PruningPlan, done: PruningPlan) -> PruningPlan:
    """What is left of ``plan`` after ``done``, its first part: ``done.compose(remainder)`` is ``plan``."""
    kept, widths = dict(plan.kept), dict(plan.widths)
    for name in plan.kept.keys() & done.kept.keys():
        kept[name] = _positions(plan.kept[name], done.kept[name], name)
        widths[name] = (len(done.kept[name]), len(kept[name]))
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
    )


def _positions(wanted: Sequence[int], present: Sequence[int], name: str) -> Indices:
    """Where the ``wanted`` entries are among the ``present`` ones, both numbered as in the full network."""
    position = {index: number for number, index in enumerate(present)}
    lost = [index for index in wanted if index not in position]
    if lost:
        raise UserError(
            f"The checkpoint keeps channel {lost[0]} of {name}, which this network has lost already. "
            "Load it into the full network."
        )
    return tuple(position[index] for index in wanted)
