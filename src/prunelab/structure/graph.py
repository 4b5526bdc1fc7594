"""ChannelGraph: the structure of one network; ``analyze`` (see ``analysis``) finds it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray
from torch import Tensor

from prunelab.errors import UserError, nearest
from prunelab.structure.additions import ResidualAddition
from prunelab.structure.blocks import ResidualBlock
from prunelab.structure.cost import CostModel
from prunelab.structure.groups import ChannelGroup
from prunelab.structure.kept_channels import kept_indices
from prunelab.structure.layers import Layer
from prunelab.structure.plan import PruningPlan
from prunelab.structure.resolving import Resolver
from prunelab.structure.summary import html, short


@dataclass(frozen=True, repr=False)
class ChannelGraph:
    """All groups and blocks of one network, and its cost model.

    ``prunelab.analyze`` returns it. ``print(structure)`` prints one line; a notebook shows a table.

    Attributes:
        groups: the groups that can be pruned, in the order of the forward pass.
        frozen: the groups that cannot (``ChannelGroup.frozen`` is the reason), in the same order.
        blocks: residual blocks that can be dropped.
        cost: FLOPs and parameters for any widths.
        unused_parameters: parameters that no operator reads, in evaluation or in training mode. They keep their shapes.
        additions: the sums of two activations of one shape, with the block that can be dropped or the reason why there
            is none.
        training_failure: why the network cannot run in training mode on the example input (None: it can). Parts that
            only run in training mode are then not analysed.

    Example:
        >>> network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3))
        >>> structure = prunelab.analyze(network, torch.zeros(1, 3, 8, 8))
        >>> plan = structure.plan(kept={"0": [0, 2, 5]})
        >>> structure.cost.flops(), structure.cost.flops(plan)
        (25120, 9460)
    """

    groups: tuple[ChannelGroup, ...]
    frozen: tuple[ChannelGroup, ...]
    blocks: tuple[ResidualBlock, ...]
    cost: CostModel
    _resolve: Resolver = field(repr=False, compare=False)
    unused_parameters: tuple[str, ...] = ()
    additions: tuple[ResidualAddition, ...] = ()
    training_failure: str | None = None
    _separate: ChannelGraph | None = field(default=None, repr=False, compare=False)

    def __str__(self) -> str:
        return short(self)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        """The representation in a notebook."""
        return html(self)

    def group(self, name: str) -> ChannelGroup:
        """A prunable group by its name."""
        for group in self.groups:
            if group.name == name:
                return group
        raise UserError(
            f"this network has no prunable group {name!r}. {nearest(name, [g.name for g in self.groups])}"
        )

    def layers(self, group: str) -> tuple[Layer, ...]:
        """The layers that produce the channels of a prunable group, with their kernels, shapes, widths and costs.

        A depthwise convolution produces the channels that it reads, so that it belongs to the same group.
        """
        name = self.group(group).name
        return tuple(layer for layer in self.cost.layers() if name in layer.makes)

    def at(self, levels: Collection[str]) -> tuple[ChannelGroup, ...]:
        """The prunable groups of these levels."""
        return tuple(group for group in self.groups if group.level in levels)

    def plan(
        self,
        kept: Mapping[str, Sequence[int] | Sequence[bool] | NDArray[Any] | Tensor] | None = None,
        dropped_blocks: Collection[str] = (),
    ) -> PruningPlan:
        """The plan that keeps these channels (all channels of groups not named) and drops these blocks.

        Args:
            kept: name of a group -> the channels to keep: their indices, or a mask of one boolean for each channel. The
                members of a group (``ChannelGroup.members``) keep the same positions unless they are named too; each
                keeps as many as the group.
            dropped_blocks: names of residual blocks.

        Raises UserError for unknown names, indices out of range or repeated, a mask of another length, nothing kept, or
        members that keep another number than their group.

        Example::

            structure.plan(kept={"layer1": [0, 2, 5], "layer2": scores > 0.1}, dropped_blocks=["layer3.1"])
        """
        chosen = {group.name: tuple(range(group.size)) for group in self.groups}
        owner = {member.name: group for group in self.groups for member in group.members[1:]}
        members: dict[str, tuple[int, ...]] = {}
        for name, channels in (kept or {}).items():
            found = members if name in owner else chosen
            found[name] = kept_indices(name, (owner.get(name) or self.group(name)).size, channels)
        for name, indices in members.items():
            group = owner[name]
            if len(indices) != len(chosen[group.name]):
                raise UserError(
                    f"{name} must keep as many channels as {group.name}, because the program uses the number of the "
                    f"one for the other: {len(indices)} and {len(chosen[group.name])} were given"
                )
        names = [block.name for block in self.blocks]
        if isinstance(dropped_blocks, str):
            raise UserError(
                f"dropped_blocks={dropped_blocks!r} is one name; give a list: [{dropped_blocks!r}]"
            )
        for name in dropped_blocks:
            if name not in names:
                raise UserError(
                    f"this network has no residual block {name!r} to drop. {nearest(name, names)}"
                )
        dropped = tuple(name for name in names if name in set(dropped_blocks))
        return self._resolve(chosen, dropped, members)

    def separated(self) -> ChannelGraph:
        """The same structure with the members of each group as groups of their own, for scores of each.

        Its plans are valid for masks; a network that is pruned by one must keep equally many channels of each member.
        """
        return self if self._separate is None else self._separate
