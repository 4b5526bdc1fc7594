"""Gates: while a network learns, every weight that reads a group's channels is scaled channel by channel.

To scale what is read is to scale the channel, whatever lies between: with 0 and 1 the network computes what it would
without the channels at 0 (the same masking that ``prunelab.check`` compares a pruned network with).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from prunelab.structure import ChannelGroup, Slice


class Gates:
    """The gates of the groups of ``model``; without a value a gate is open, and weights are what they are.

    Values hold for one forward pass. They are set before the first layer reads the group, and forgotten when the
    pass is over, so that weights can be looked up by their names in between.

    Args:
        groups: those to gate; what no weight reads stays open.
        owned: for a group a module that is trained, saved and moved together with the network.
    """

    def __init__(
        self, model: nn.Module, groups: Iterable[ChannelGroup], owned: Mapping[str, nn.Module] | None = None
    ) -> None:
        self._values: dict[str, Tensor] = {}
        waiting = dict(owned or {})
        readers: dict[str, list[tuple[str, Slice]]] = {}
        for group in groups:
            for part in group.having("consumer"):
                readers.setdefault(part.parameter, []).append((group.name, part))
        self._gated = [
            _Gated(self._values, parts, [waiting.pop(name) for name, _ in parts if name in waiting])
            for parts in readers.values()
        ]
        self._places = [_place(model, name) for name in readers]
        for (module, name), gated in zip(self._places, self._gated, strict=True):
            parametrize.register_parametrization(module, name, gated)
        self._handle = model.register_forward_hook(lambda *_: self._values.clear(), always_call=True)

    def set(self, group: str, value: Tensor) -> None:
        """Scale the channels of a group by ``value`` (size,) for the rest of this forward pass."""
        self._values[group] = value

    def remove(self, values: Mapping[str, Tensor] | None = None) -> None:
        """The weights become ordinary ones again, scaled for good by ``values`` (size,) of each group if given."""
        self._handle.remove()
        self._values.clear()
        self._values.update(values or {})
        for (module, name), gated in zip(self._places, self._gated, strict=True):
            original = module.parametrizations[name].original  # type: ignore[index, union-attr]
            with torch.no_grad():
                original.copy_(gated(original))
            parametrize.remove_parametrizations(module, name, leave_parametrized=False)
        self._values.clear()


class _Gated(nn.Module):
    """weight -> weight with the columns of each gated channel scaled."""

    def __init__(
        self, values: Mapping[str, Tensor], parts: list[tuple[str, Slice]], owned: list[nn.Module]
    ) -> None:
        super().__init__()
        self.owned = nn.ModuleList(owned)  # not in the network itself: a Sequential would run it
        self._values = values
        self._parts = [
            (group, part.dim, torch.from_numpy(part.index.flatten()), part.index.shape[1])
            for group, part in parts
        ]

    def forward(self, weight: Tensor) -> Tensor:
        for group, dim, positions, repeats in self._parts:
            value = self._values.get(group)
            if value is None:
                continue
            factors = value.new_ones(weight.shape[dim])
            factors = factors.index_copy(
                0, positions.to(value.device), value.repeat_interleave(repeats, output_size=len(positions))
            )
            shape = [1] * weight.dim()
            shape[dim] = -1
            weight = weight * factors.to(weight.dtype).view(shape)
        return weight


def _place(model: nn.Module, parameter: str) -> tuple[nn.Module, str]:
    path, _, name = parameter.rpartition(".")
    return model.get_submodule(path), name
