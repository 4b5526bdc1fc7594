"""A supernet in which each group has two widths at once, and each stage several depths at once.

Dong, Yang: Network Pruning via Transformable Architecture Search, NeurIPS 2019, arXiv:1905.09717, section 3.1.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from prunelab.methods.context import PruningContext
from prunelab.methods.importance.prefix import Forward, forwards
from prunelab.methods.search.supernet import Supernet
from prunelab.methods.search.widths import Widths
from prunelab.methods.untouched import run_example
from prunelab.structure import ChannelGroup
from prunelab.structure.layer_calls import Watch, named_arguments, parameter_names

WIDTHS = "prunelab_widths"
"""The name of the ``WidthNorms`` inside a batch normalisation, which ignores it."""

_PLAIN = (nn.BatchNorm1d, nn.BatchNorm2d, nn.SyncBatchNorm)
_LEAVES: Mapping[str, Callable[[Tensor], Tensor]] = {
    "identity": lambda maps: maps,
    "relu": functional.relu,
    "relu6": functional.relu6,
}


@dataclass(frozen=True)
class Pair:
    """Two of the widths of a group.

    choices: their places in the list of widths.
    shares: their weights, (2,), which add up to 1.
    """

    choices: tuple[int, int]
    shares: Tensor


@dataclass(frozen=True)
class StageBlocks:
    """The blocks with identity shortcuts of one stage, in forward order, and how many of them may stay.

    blocks: their names.
    leaves: the function that replaces the first one if none stays.
    depths: how many of the first blocks may stay, rising; the largest is all.
    """

    blocks: tuple[str, ...]
    leaves: str
    depths: tuple[int, ...]


def interpolated(maps: Tensor, channels: int, dim: int = 1) -> Tensor:
    """Channel-wise interpolation: adaptive average pooling along ``dim`` to at least as many ``channels``.

    Channel k of C is the mean of the channels from floor(k c / C) to ceil((k + 1) c / C) - 1 of c: for C >= c these are
    one or two.
    """
    own = maps.shape[dim]
    if own == channels:
        return maps
    places = torch.arange(channels, device=maps.device)
    first, last = places * own // channels, -(-(places + 1) * own // channels) - 1
    return (maps.index_select(dim, first) + maps.index_select(dim, last)) / 2


def stage_blocks(context: PruningContext) -> tuple[StageBlocks, ...]:
    """The blocks that may be dropped, by stage.

    Of m blocks 0 to m may stay if there are at most 2, 1 to 3 of 3, and of more m, m - 2, m - 4, ...: in a ResNet-56
    each stage keeps 1, 3, 5, 7 or 9 blocks, where the first block of two stages has no identity shortcut.
    """
    stages: dict[str, list[tuple[str, str]]] = {}
    for block in context.blocks:
        if block.stage is not None and block.parent is None and block.leaves in _LEAVES:
            stages.setdefault(block.stage, []).append((block.name, block.leaves))
    found = []
    for blocks in stages.values():
        names, leaves = zip(*blocks, strict=True)
        count = len(names)
        depths = (
            range(count + 1) if count <= 2 else range(1, 4) if count == 3 else range(count % 2, count + 1, 2)
        )
        found.append(StageBlocks(names, leaves[0], tuple(depths)))
    return tuple(found)


class WidthNorms(nn.Module):
    """Scale and shift of a batch normalisation for each of several widths, one after another in two vectors."""

    def __init__(self, norm: _BatchNorm, widths: Sequence[int]) -> None:
        super().__init__()
        self.offsets = np.concatenate([[0], np.cumsum(widths)]).tolist()
        self.scale = nn.Parameter(torch.cat([norm.weight.detach()[:width] for width in widths]))
        self.shift = nn.Parameter(torch.cat([norm.bias.detach()[:width] for width in widths]))

    def of(self, choice: int) -> tuple[Tensor, Tensor]:
        """Scale and shift, (width,) each, for the width of this number."""
        places = slice(self.offsets[choice], self.offsets[choice + 1])
        return self.scale[places], self.shift[places]


@dataclass(frozen=True)
class _Place:
    """A module of which the output is mixed: the layer that makes the channels of ``group``, or the batch normalisation
    that follows it. ``dim`` is that of the channels, ``norms`` the norms of the widths (None: the module is a layer, or
    its normalisation includes an activation)."""

    module: str
    group: str
    dim: int
    norms: WidthNorms | None


class Transformable:
    """The supernet while widths and depths are searched; ``close`` makes its network an ordinary one again.

    The output O of each layer that makes the channels of a group is computed for the larger of two widths, normalised,
    and replaced by ``sum_i p_i CWI(BN_i(O[:, :c_i]), max c)``: i counts the two widths c_i, and each width has its own
    scale and shift. The output of the last block of a stage is replaced by ``sum_d q_d F_d``, with the output F_d after
    the first d blocks.

    Args:
        context: the network.
        supernet: the first channels of each group are kept.
        choices: for each group its widths, in any order.
        stages: those with several depths.

    Attributes:
        choices: as given, without the groups that cannot be mixed (see ``mixable``).
    """

    def __init__(
        self,
        context: PruningContext,
        supernet: Supernet,
        choices: Mapping[str, Widths],
        stages: Sequence[StageBlocks],
    ) -> None:
        self.supernet, self.stages = supernet, tuple(stages)
        self._model = context.model
        norms = _norms_after(context)
        groups = {group.name: group for group in context.groups}
        self.choices = {n: found for n, found in choices.items() if mixable(context.model, groups[n])}
        self._places: list[_Place] = []
        self._frozen: list[Tensor] = []
        for name, widths in self.choices.items():
            for part in groups[name].producers:
                self._places.append(self._place(name, part.parameter, norms.get(part.parameter), widths))

    def _place(self, group: str, weight: str, norm: str | None, widths: Widths) -> _Place:
        path = weight.rpartition(".")[0]
        layer = self._model.get_submodule(path)
        if norm is None:
            return _Place(path, group, -1 if isinstance(layer, nn.Linear) else 1, None)
        module = self._model.get_submodule(norm)
        if not isinstance(module, _PLAIN) or not module.affine:
            return _Place(norm, group, 1, None)
        own = WidthNorms(module, widths.tolist()).to(module.weight.device)
        module.add_module(WIDTHS, own)
        for parameter in (module.weight, module.bias):
            if parameter.requires_grad:
                self._frozen.append(
                    parameter.requires_grad_(False)
                )  # the norms of the widths are used instead
        return _Place(norm, group, 1, own)

    @contextmanager
    def at(self, pairs: Mapping[str, Pair], depths: Sequence[Tensor]) -> Iterator[nn.Module]:
        """Inside, each group has two widths, and each stage the depths of these weights, one tensor per stage."""
        widest = {
            name: max(int(self.choices[name][choice]) for choice in pair.choices)
            for name, pair in pairs.items()
        }
        constants: dict[str, Tensor] = {}
        wrappers: dict[str, Callable[[Forward], Forward]] = {}
        for place in self._places:
            wrappers[place.module] = self._mixing(place, pairs[place.group])
            if place.norms is not None:
                norm = self._model.get_submodule(place.module)
                constants[f"{place.module}.weight"] = torch.ones_like(norm.weight)  # type: ignore[arg-type]
                constants[f"{place.module}.bias"] = torch.zeros_like(norm.bias)  # type: ignore[arg-type]
        for stage, shares in zip(self.stages, depths, strict=True):
            wrappers |= _aggregating(stage, shares)
        row = self.supernet.row(widest).tolist()
        with self.supernet.sliced.at(row, tensors=constants), forwards(self._model, wrappers):
            yield self._model

    def _mixing(self, place: _Place, pair: Pair) -> Callable[[Forward], Forward]:
        widths = [int(self.choices[place.group][choice]) for choice in pair.choices]

        def mixed(out: Tensor) -> Tensor:
            parts = []
            for choice, width, share in zip(pair.choices, widths, pair.shares.to(out), strict=True):
                part = out.narrow(place.dim, 0, width)
                if place.norms is not None:
                    shape = [1, -1] + [1] * (out.dim() - 2)
                    scale, shift = (each.to(out.dtype).view(shape) for each in place.norms.of(choice))
                    part = part * scale + shift
                parts.append(share * interpolated(part, max(widths), place.dim))
            return parts[0] + parts[1]

        return lambda forward: lambda *args, **kwargs: mixed(forward(*args, **kwargs))

    def settle(self, chosen: Mapping[str, int]) -> None:
        """Give each batch normalisation the scale and shift of the chosen width (its number) of its group.

        Channels beyond this width get those of the widest one.
        """
        with torch.no_grad():
            for place in self._places:
                if place.norms is None:
                    continue
                norm = self._model.get_submodule(place.module)
                widest = int(np.argmax(self.choices[place.group]))
                for choice in (widest, chosen[place.group]):
                    scale, shift = place.norms.of(choice)
                    norm.weight[: len(scale)] = scale  # type: ignore[operator]
                    norm.bias[: len(shift)] = shift  # type: ignore[operator]

    @property
    def widest(self) -> dict[str, int]:
        """The number of the largest width of each group."""
        return {name: int(np.argmax(widths)) for name, widths in self.choices.items()}

    def close(self, chosen: Mapping[str, int]) -> None:
        """``settle``, and remove the norms of the widths."""
        self.settle(chosen)
        for place in self._places:
            if place.norms is not None:
                self._model.get_submodule(place.module)._modules.pop(WIDTHS, None)
        for parameter in self._frozen:
            parameter.requires_grad_(True)
        self._places, self._frozen = [], []


def mixable(model: nn.Module, group: ChannelGroup) -> bool:
    """Whether plain convolutions and linear layers make the channels of a group, and nothing else."""
    for part in group.producers:
        path, _, name = part.parameter.rpartition(".")
        layer = model.get_submodule(path)
        if name != "weight" or not isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Linear) or part.dim != 0:
            return False
        if not np.array_equal(part.index, np.arange(len(layer.weight))[:, None]):
            return False
    return bool(group.producers)


def _norms_after(context: PruningContext) -> dict[str, str]:
    """For each layer, by its weight, the path of the batch normalisation of its output."""
    names = parameter_names(context.model)
    found: dict[str, str] = {}

    def normalised(name: str, function: Any, args: Any, kwargs: Any) -> None:
        if function is functional.batch_norm:
            order = ("input", "running_mean", "running_var", "weight", "bias", "training", "momentum", "eps")
            weight = named_arguments(order, args, kwargs).get("weight")
            if weight is not None and id(weight) in names:
                found[name] = names[id(weight)].rpartition(".")[0]

    with Watch(names, normalised=normalised):
        run_example(context)
    modules = dict(context.model.named_modules())
    uses = Counter(found.values())
    return {
        name: norm
        for name, norm in found.items()
        if uses[norm] == 1 and isinstance(modules.get(norm), _BatchNorm)
    }


def _aggregating(stage: StageBlocks, shares: Tensor) -> dict[str, Callable[[Forward], Forward]]:
    """Wrappers with which the last block of a stage returns the weighted sum of the outputs at all depths."""
    found: dict[int, Tensor] = {}

    def wrapper(number: int) -> Callable[[Forward], Forward]:
        def wrap(forward: Forward) -> Forward:
            def run(maps: Tensor, *args: Any, **kwargs: Any) -> Tensor:
                if number == 1 and 0 in stage.depths:
                    found[0] = _LEAVES[stage.leaves](maps).clone()  # blocks may work in place
                out: Tensor = forward(maps, *args, **kwargs)
                if number in stage.depths:
                    found[number] = out.clone()
                if number < len(stage.blocks):
                    return out
                outputs = [found.pop(depth) for depth in stage.depths]
                return sum(
                    (share * each for share, each in zip(shares.to(out)[1:], outputs[1:], strict=True)),
                    start=shares.to(out)[0] * outputs[0],
                )

            return run

        return wrap

    return {name: wrapper(number) for number, name in enumerate(stage.blocks, start=1)}
