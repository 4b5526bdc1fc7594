"""The values that the cuts of a plan imply for integer attributes: a plan from a file may set no others."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn
from torch.nn.modules.conv import _ConvNd

from prunelab.errors import UserError
from prunelab.structure.plan import Cut, PruningPlan
from prunelab.structure.surgery.attributes import integers

GROUPS = ("groups", "num_groups")
"""Attributes that count sets of channels: their value divides the number of channels."""

_OF_CONVOLUTIONS = frozenset(vars(nn.Conv2d(1, 1, 1)))
"""The attributes of PyTorch's own convolutions."""

Kept = tuple[int, tuple[int, ...]]
"""The size of a dimension or group, and the indices of it that are kept."""


def require_implied(modules: Mapping[str, nn.Module], plan: PruningPlan) -> None:
    """Check that each attribute in ``plan`` is set to the number of channels that is left where it counts channels.

    The ``groups`` of a convolution follow from the filters that its weight keeps, and no other attribute that PyTorch's
    convolutions have may change. Any other attribute (also of a subclass of them) must change like the width of a group
    or the dimension of a tensor that has its size (which a stride has not), or like the first or last part of a
    dimension of a tensor in the module (``weight[: self.high]``), or like the heads in such a dimension.

    Args:
        modules: all modules of the full network by path.
        plan: its modules and cuts are those of the network.

    Raises:
        UserError: names the module, the attribute and the value.
    """
    kept: set[Kept] = {(cut.size, cut.indices) for cut in plan.cuts}
    kept |= {(plan.widths[name][0], indices) for name, indices in plan.kept.items()}
    for path, module in modules.items():
        own, wanted = integers(module), plan.attributes.get(path, {})
        for name, value in wanted.items():
            before = own.get(name)
            if before is None or not 0 < value <= before:
                raise _refusal(path, name, before, value)
            if isinstance(module, _ConvNd) and name.partition("[")[0] in _OF_CONVOLUTIONS:
                follows = name == "groups"  # the value is checked below
            else:
                follows = any(_follows(name, before, value, each) for each in kept) or any(
                    _divides(before, value, each) or _counts_heads(name, before, value, each)
                    for each in plan.cuts
                    if each.tensor.startswith(f"{path}." if path else "")
                )
            if not follows:
                raise _refusal(path, name, before, value)
        if isinstance(module, _ConvNd) and module.groups > 1:
            given = wanted.get("groups", module.groups)
            if given != _groups_left(path, module.groups, plan):
                raise _refusal(path, "groups", module.groups, given)


def _groups_left(path: str, groups: int, plan: PruningPlan) -> int:
    """The groups of a convolution of which at least one filter is kept."""
    weights = tuple(f"{path}.{name}" if path else name for name in ("weight", "parametrizations.weight."))
    for cut in plan.cuts:
        if cut.dim == 0 and cut.tensor.startswith(weights) and cut.size % groups == 0:
            return _sets_left(groups, (cut.size, cut.indices))
    return groups


def _sets_left(number: int, kept: Kept) -> int:
    """How many of ``number`` equal sets of neighbouring channels have at least one kept channel."""
    size, indices = kept
    return len({index * number // size for index in indices})


def _follows(name: str, before: int, after: int, kept: Kept) -> bool:
    """Whether an attribute changes like the number of channels of which some are ``kept``, or a multiple of it."""
    width, indices = kept
    if name in GROUPS and width % before == 0 and _sets_left(before, kept) == after:
        return True
    return before % width == 0 and before * len(indices) == after * width


def _divides(before: int, after: int, cut: Cut) -> bool:
    """Whether an attribute changes like the number of channels in the first or the last ``before`` of a dimension."""
    first = sum(index < before for index in cut.indices)
    last = sum(index >= cut.size - before for index in cut.indices)
    return before < cut.size and after in (first, last)


def _counts_heads(name: str, before: int, after: int, cut: Cut) -> bool:
    """Whether an attribute counts heads, equal sets of neighbouring channels of a dimension that may belong to several
    groups, and changes by those that are removed. The others are kept as a whole."""
    if "head" not in name or cut.size % before:
        return False
    left = _sets_left(before, (cut.size, cut.indices))
    return left == after and len(cut.indices) * before == left * cut.size


def _refusal(path: str, name: str, before: int | None, after: int) -> UserError:
    return UserError(
        f"this plan was made for another network: it sets {name!r} of {path!r} from {before!r} to {after}, which does "
        "not follow from the channels that it removes"
    )
