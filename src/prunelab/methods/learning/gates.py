"""Gates: while a network learns, the weights (or other tensors) that read a group are scaled channel by channel.

Scaling a channel where it is read is scaling the channel, independent of the layers in between: with 0 and 1 the
network computes the same as without the channels at 0 (the masking with which ``prunelab.check`` compares a pruned
network).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.utils import parametrize

from prunelab.structure import ChannelGroup, change_gathered


class Gates:
    """The gates of the groups of ``model``; a gate without a value is open and leaves weights unchanged.

    Values hold for one forward pass. They are set before the first layer reads the group and discarded at the end of
    the pass, so that weights accessed by name between passes are unscaled.

    Args:
        groups: the groups to gate; gates of groups that no weight reads stay open.
        owned: modules by group that are trained, saved and moved together with the network.
    """

    def __init__(
        self, model: nn.Module, groups: Iterable[ChannelGroup], owned: Mapping[str, nn.Module] | None = None
    ) -> None:
        self._values: dict[str, Tensor] = {}
        waiting = dict(owned or {})
        groups = tuple(groups)
        readers: dict[str, list[Part]] = {}
        for group in groups:
            for found in group.having("consumer"):
                part = Part.of(group.name, found.dim, found.index)
                readers.setdefault(found.parameter, []).append(part)
        self._gated = [
            _Gated(self._values, parts, [waiting.pop(part.group) for part in parts if part.group in waiting])
            for parts in readers.values()
        ]
        self._places = [_place(model, name) for name in readers]
        for (module, name), gated in zip(self._places, self._gated, strict=True):
            parametrize.register_parametrization(module, name, gated)
        gathers: dict[str, list[Part]] = {}
        for group in groups:
            for gather in group.gathers:
                gathers.setdefault(gather.buffer, []).append(Part.of(group.name, 0, gather.positions))
        self._hooks = ExitStack()
        if gathers:
            self._hooks.enter_context(
                change_gathered(
                    model,
                    lambda name, tensor, dim: scale_channels(
                        tensor, [replace(part, dim=dim) for part in gathers.get(name, ())], self._values
                    ),
                )
            )
        handle = model.register_forward_hook(lambda *_: self._values.clear(), always_call=True)
        self._hooks.callback(handle.remove)

    def set(self, group: str, value: Tensor) -> None:
        """Scale the channels of a group by ``value`` (size,) for the rest of this forward pass."""
        self._values[group] = value

    def remove(self, values: Mapping[str, Tensor] | None = None) -> None:
        """Make the weights ordinary parameters again, scaled permanently by ``values`` (size,) of each group if
        given."""
        self._hooks.close()
        self._values.clear()
        self._values.update(values or {})
        for (module, name), gated in zip(self._places, self._gated, strict=True):
            original = module.parametrizations[name].original  # type: ignore[index, union-attr]
            with torch.no_grad():
                original.copy_(gated(original))
            parametrize.remove_parametrizations(module, name, leave_parametrized=False)
        self._values.clear()


@dataclass(frozen=True)
class Part:
    """The positions of a group's channels along ``dim`` of a tensor, ``repeats`` positions per channel."""

    group: str
    dim: int
    positions: Tensor
    repeats: int

    @classmethod
    def of(cls, group: str, dim: int, index: NDArray[np.int64]) -> Part:
        """A part from positions (channels, m)."""
        return cls(group, dim, torch.from_numpy(index.flatten()), index.shape[1])


class _Gated(nn.Module):
    """Parametrization: weight -> weight with the columns of each gated channel scaled."""

    def __init__(self, values: Mapping[str, Tensor], parts: list[Part], owned: list[nn.Module]) -> None:
        super().__init__()
        self.owned = nn.ModuleList(owned)  # not in the network itself, where a Sequential would run it
        self._values = values
        self._parts = parts

    def forward(self, weight: Tensor) -> Tensor:
        return scale_channels(weight, self._parts, self._values)


def scale_channels(tensor: Tensor, parts: Iterable[Part], values: Mapping[str, Tensor]) -> Tensor:
    """The tensor with its channels multiplied by the values of their groups; the tensor itself if there are none."""
    for part in parts:
        value = values.get(part.group)
        if value is None:
            continue
        spread = value.repeat_interleave(part.repeats, output_size=len(part.positions))
        factors = value.new_ones(tensor.shape[part.dim])
        factors = factors.index_copy(0, part.positions.to(value.device), spread)
        shape = [1] * tensor.dim()
        shape[part.dim] = -1
        tensor = tensor * factors.to(tensor.dtype).view(shape)
    return tensor


def _place(model: nn.Module, parameter: str) -> tuple[nn.Module, str]:
    path, _, name = parameter.rpartition(".")
    return model.get_submodule(path), name
