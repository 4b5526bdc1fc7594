"""Compactors: matrices that mix the channels of a group while a network learns, and are folded into its layers.

A full compactor Q (channels, channels) follows a convolution and its batch normalisation: y = Q norm(conv(x)). The
layers of other groups cannot take up such a matrix. They have a diagonal compactor, one factor for each channel, where
the channels are read (``Gates``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from prunelab.distributed.messages import warn
from prunelab.methods.context import PruningContext
from prunelab.methods.importance.criterion import warn_not_pruned
from prunelab.methods.learning.gates import Gates
from prunelab.methods.reconstruction.shifts import norms_behind
from prunelab.methods.untouched import untouched
from prunelab.structure import ChannelGroup
from prunelab.structure.output_readers import output_readers


@dataclass(frozen=True)
class _Layers:
    """A convolution and the batch normalisation of its outputs."""

    conv: nn.Conv2d
    norm: _BatchNorm


class _Diagonal(nn.Module):
    """One factor for each channel."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.factors = nn.Parameter(torch.ones(size))


class Compactors:
    """The compactors of the groups of a context, which start as identities.

    Attributes:
        rows: for each group its compactor, (channels, channels), where row j makes channel j, or (channels,).
    """

    def __init__(self, context: PruningContext) -> None:
        self.rows: dict[str, nn.Parameter] = {}
        device = next(context.model.parameters()).device
        layers = _foldable(context)
        self._full = {name: layers[name] for name in layers}
        self._handles = [self._insert(name, found) for name, found in self._full.items()]
        others = [group for group in context.groups if group.name not in layers]
        gated = [group for group in others if group.having("consumer") and not group.gathers]
        left = [group.name for group in others if group not in gated]
        warn_not_pruned(context, left, "are read by a shortcut without weights or not at all")
        diagonals = {group.name: _Diagonal(group.size).to(device) for group in gated}
        self.rows |= {name: each.factors for name, each in diagonals.items()}
        self._gates = Gates(context.model, gated, diagonals)
        self._diagonals = list(diagonals)
        self._handles.append(context.model.register_forward_pre_hook(self._open))

    def _insert(self, name: str, found: _Layers) -> Any:
        norm = found.norm
        matrix = torch.eye(norm.num_features, dtype=norm.weight.dtype, device=norm.weight.device)
        self.rows[name] = nn.Parameter(matrix)
        norm.register_parameter("compactor", self.rows[name])
        return norm.register_forward_hook(_mix)

    def _open(self, *_: Any) -> None:
        for name in self._diagonals:
            self._gates.set(name, self.rows[name])

    @torch.no_grad()
    def fold(self) -> None:
        """Make the network an ordinary one that computes the same in evaluation mode."""
        for handle in self._handles:
            handle.remove()
        self._gates.remove({name: self.rows[name].detach() for name in self._diagonals})
        for name, found in self._full.items():
            _fold(found.conv, found.norm, self.rows[name])
            del found.norm.compactor


def norms_of(rows: Tensor) -> Tensor:
    """The length of each row of a compactor, (channels,)."""
    found = rows.detach()
    return found.abs() if found.dim() == 1 else found.norm(dim=1)


def _mix(norm: nn.Module, given: Any, maps: Tensor) -> Tensor:
    """Maps (N, C, H, W) -> the compactor times them."""
    matrix: Any = norm.compactor
    return functional.conv2d(maps, matrix[:, :, None, None])


def _fold(conv: nn.Conv2d, norm: _BatchNorm, rows: Tensor) -> None:
    """Q norm(conv(x)), with norm(z) = S (z - mean) + shift, as another convolution and normalisation.

    The convolution is Q S conv, the mean Q S mean and the shift Q shift. The running variance is that of uncorrelated
    channels, sum_i Q_ji^2 scale_i^2; the new scale cancels it, and is a scale of this size also in training mode.
    """
    assert norm.running_mean is not None and norm.running_var is not None
    scale = norm.weight / torch.sqrt(norm.running_var + norm.eps)
    mixed = rows * scale
    conv.weight.copy_(torch.einsum("oc,cihw->oihw", mixed, conv.weight))
    if conv.bias is not None:
        conv.bias.copy_(mixed @ conv.bias)
    norm.running_mean.copy_(mixed @ norm.running_mean)
    norm.running_var.copy_(rows.square() @ norm.weight.square())
    norm.bias.copy_(rows @ norm.bias)
    norm.weight.copy_(torch.sqrt(norm.running_var + norm.eps))


def _foldable(context: PruningContext) -> dict[str, _Layers]:
    """The groups that one plain convolution makes and one plain batch normalisation scales, directly after it."""
    modules = {module: path for path, module in context.model.named_modules()}
    pairs: dict[str, tuple[ChannelGroup, nn.Conv2d]] = {}
    for group in context.groups:
        made, scaled = group.having("producer", "gate", "depthwise"), group.having("scale")
        if len(made) != 1 or len(scaled) != 1:
            continue
        path, _, name = made[0].parameter.rpartition(".")
        conv = context.model.get_submodule(path)
        whole = np.arange(group.size)[:, None]
        ordered = all(np.array_equal(part.index, whole) for part in (made[0], scaled[0]))
        if type(conv) is nn.Conv2d and conv.groups == 1 and name == "weight" and ordered:
            pairs[path] = (group, conv)
    found: dict[str, _Layers] = {}
    paths: dict[str, tuple[str, str]] = {}
    for path, norm in norms_behind(context, {path: conv for path, (_, conv) in pairs.items()}).items():
        group, conv = pairs[path]
        if (
            type(norm) in (nn.BatchNorm2d, nn.SyncBatchNorm)
            and norm.running_var is not None
            and group.having("scale")[0].parameter == f"{modules[norm]}.weight"
            and conv.out_channels == norm.num_features == group.size
        ):
            found[group.name] = _Layers(conv, norm)
            paths[group.name] = path, modules[norm]
    return {name: found[name] for name in _read_by_the_norm_only(context, paths)}


def _read_by_the_norm_only(context: PruningContext, paths: Mapping[str, tuple[str, str]]) -> list[str]:
    """The groups whose convolution is read by its batch normalisation alone; ``paths`` are those of both modules.

    A folded matrix changes the outputs of the convolution, so that every other reader would compute something else.
    """
    with untouched(context.model, next(context.model.parameters()).device, context.seed), torch.no_grad():
        readers = output_readers(context.model, context.example_input, [conv for conv, _ in paths.values()])
    alone = []
    for name, (conv, norm) in paths.items():
        others = [reader or "the network" for reader in readers[conv] if reader != norm]
        if others or readers[conv].count(norm) > 1:
            warn(
                f"The outputs of {conv} are read by {' and '.join(others or [norm])} in addition to {norm}, so that "
                "they cannot be mixed by a matrix: each of its channels has one factor instead."
            )
        else:
            alone.append(name)
    return alone
