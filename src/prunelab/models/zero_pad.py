"""The parameter-free shortcut of the CIFAR ResNets, in a form whose channels can be removed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn


class ZeroPadShortcut(nn.Module):
    """Option A of He et al. 2016 (https://arxiv.org/abs/1512.03385, section 3.3): subsample, zero-pad.

    The usual ``F.pad`` assigns input channels to output channels by position, so no channel on either side can be
    removed. Here this map is data: entry k of the buffer ``source`` is the input channel that becomes output channel
    k, or ``in_channels`` for a channel of zeros. Removing output channels removes entries; removing input channels
    renumbers the others, and the entry of a removed channel becomes a zero channel.

    Input (N, in_channels, H, W), output (N, out_channels, ceil(H / stride), ceil(W / stride)). Half of the zero
    channels precede the channels of the input, half follow them.

    ``source`` is saved with the weights, because a pruned network needs it. Weight files from other projects do not
    contain it; then the module keeps its own (a pre-hook of ``load_state_dict`` adds it).
    """

    source: Tensor

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        if out_channels < in_channels:
            raise ValueError(f"a zero-padded shortcut cannot narrow {in_channels} channels to {out_channels}")
        self.stride = stride
        before = (out_channels - in_channels) // 2
        source = torch.full((out_channels,), in_channels, dtype=torch.int64)
        source[before : before + in_channels] = torch.arange(in_channels)
        self.register_buffer("source", source)
        self.register_load_state_dict_pre_hook(_keep_own_source)

    def forward(self, x: Tensor) -> Tensor:
        x = x[:, :, :: self.stride, :: self.stride]
        images, _, height, width = x.shape
        # Not a slice of x, such as zeros_like(x[:, :1]): in the trace, channel 0 would then be in use.
        zero_channel = x.new_zeros(images, 1, height, width)
        return torch.index_select(torch.cat([x, zero_channel], dim=1), 1, self.source)


def _keep_own_source(
    shortcut: nn.Module, state: dict[str, Any], prefix: str, *_unused: Mapping[str, Any] | bool | list[str]
) -> None:
    state.setdefault(prefix + "source", shortcut.source)
