"""Copies the kept part of a tensor, each element once."""

from __future__ import annotations

from math import prod

import torch
from torch import Tensor

from prunelab.structure.plan import Cut, Indices

_PLACES = (0, 3, 1, 2)  # where a dimension of (O, I, H, W) is in (O, H, W, I)


class Cutter:
    """Cuts many tensors by one plan; equal lists of indices share one index tensor."""

    def __init__(self) -> None:
        self._made: dict[tuple[Indices, torch.device], Tensor] = {}

    def kept(self, tensor: Tensor, cuts: list[Cut]) -> Tensor:
        """The kept part of ``tensor`` (which requires no gradient) as a new tensor of the same memory format."""
        channels_last = tensor.dim() == 4 and not tensor.is_contiguous()
        if tensor.is_meta:
            left = {cut.dim: len(cut.indices) for cut in cuts}
            shape = [left.get(dim, size) for dim, size in enumerate(tensor.shape)]
            layout = torch.channels_last if channels_last else torch.contiguous_format
            return torch.empty(shape, dtype=tensor.dtype, device=tensor.device, memory_format=layout)
        if channels_last:
            in_memory = self._kept(tensor.permute(0, 2, 3, 1), [(_PLACES[cut.dim], cut) for cut in cuts])
            return in_memory.permute(0, 3, 1, 2)
        return self._kept(tensor, [(cut.dim, cut) for cut in cuts])

    def _kept(self, tensor: Tensor, cuts: list[tuple[int, Cut]]) -> Tensor:
        """The same for a contiguous tensor; the result is contiguous."""
        picked = []
        for dim, cut in cuts:
            if is_run(cut):
                tensor = tensor.narrow(dim, cut.indices[0], len(cut.indices))
            else:
                picked.append((dim, self._index(cut, tensor.device)))
        if not picked:
            return tensor.clone(memory_format=torch.contiguous_format)
        if len(picked) == 2:
            (low, first), (high, second) = sorted(picked, key=lambda pair: pair[0])
            return _pairs(tensor, low, first, high, second)
        for dim, index in picked:
            tensor = tensor.index_select(dim, index)
        return tensor

    def _index(self, cut: Cut, device: torch.device) -> Tensor:
        key = (cut.indices, device)
        if key not in self._made:
            self._made[key] = torch.tensor(cut.indices, device=device)
        return self._made[key]


def is_run(cut: Cut) -> bool:
    """Whether the kept indices are consecutive."""
    return cut.indices[-1] - cut.indices[0] == len(cut.indices) - 1


def _pairs(tensor: Tensor, low: int, first: Tensor, high: int, second: Tensor) -> Tensor:
    """The entries at ``first`` of dimension ``low`` and ``second`` of dimension ``high``, by one selection of pairs.

    (Two selections, one after the other, would copy entries that the second one removes.)
    """
    shape = tensor.shape
    between, behind = prod(shape[low + 1 : high]), prod(shape[high + 1 :])
    if between > 1:
        inner = torch.arange(between, device=tensor.device)
        rows = (first[:, None] * between + inner).flatten()
    else:
        rows = first
    pairs = (rows[:, None] * shape[high] + second).flatten()
    flat = tensor.reshape(*shape[:low], -1, behind) if behind > 1 else tensor.reshape(*shape[:low], -1)
    taken = flat.index_select(low, pairs)
    return taken.reshape(
        *shape[:low], first.numel(), *shape[low + 1 : high], second.numel(), *shape[high + 1 :]
    )
