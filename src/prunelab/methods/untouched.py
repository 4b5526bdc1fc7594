"""Running a network without side effects: its state and the random number generators are restored."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from prunelab.structure.network import arguments, on_device
from prunelab.structure.tracing.evaluation import outside_inference_mode

if TYPE_CHECKING:
    from prunelab.methods.context import PruningContext


@contextmanager
def kept_randomness() -> Iterator[None]:
    """Restores all global random number generators on exit, also after an exception."""
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002 - data sets of users use it
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)  # noqa: NPY002


@contextmanager
def untouched(model: nn.Module, device: torch.device, seed: int) -> Iterator[None]:
    """Context in which the model is in evaluation mode on ``device``, its parameters require no gradient, and the
    random number generators are seeded with ``seed``.

    On exit, also after an exception, training flags, ``requires_grad``, buffers, device and random number generators
    are restored.
    """
    flags = {module: module.training for module in model.modules()}
    gradients = {parameter: parameter.requires_grad for parameter in model.parameters()}
    buffers = {name: buffer.detach().clone() for name, buffer in model.named_buffers()}
    home = next((parameter.device for parameter in model.parameters()), device)
    with kept_randomness(), outside_inference_mode():
        random.seed(seed)
        np.random.seed(seed % 2**32)  # noqa: NPY002
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


@torch.no_grad()
def run_example(context: PruningContext) -> None:
    """One forward pass of the example input without side effects, on the device of the network, for hooks."""
    device = next(context.model.parameters()).device
    args, kwargs = on_device(arguments(context.example_input), device)
    with untouched(context.model, device, context.seed):
        context.model(*args, **kwargs)
