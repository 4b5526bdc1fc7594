"""Look at a network without leaving a trace in it, or in the random numbers that come after."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from pytorch_lightning.utilities.seed import isolate_rng
from torch import nn


@contextmanager
def untouched(model: nn.Module, device: torch.device, seed: int) -> Iterator[None]:
    """Inside: the model is in evaluation mode on ``device``, its parameters need no gradient, random numbers
    start
    from ``seed``. Afterwards, whatever happened: training flags, ``requires_grad``, buffers, device and the
    states of all random number generators are what they were.
    """
    flags = {module: module.training for module in model.modules()}
    gradients = {parameter: parameter.requires_grad for parameter in model.parameters()}
    buffers = {name: buffer.detach().clone() for name, buffer in model.named_buffers()}
    home = next((parameter.device for parameter in model.parameters()), device)
    with isolate_rng(include_cuda=device.type == "cuda"):
        random.seed(seed)
        np.random.seed(seed % 2**32)  # noqa: NPY002 - data sets of users draw from the global generator
        torch.manual_seed(seed)
        try:
            model.eval().requires_grad_(False)
            if home != device:
                model.to(device)
            yield
        finally:
            if home != device:
                model.to(home)
            for module, training in flags.items():
                module.training = training
            for parameter, needed in gradients.items():
                parameter.requires_grad_(needed)
            for name, buffer in model.named_buffers():
                buffer.copy_(buffers[name])
