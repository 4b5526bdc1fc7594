"""Spectral normalisation of a weight that was cut: its stored vectors are estimated again.

PyTorch divides the weight by u^T W v with stored unit vectors u and v, which power iterations in training mode improve.
After a cut, u and v are parts of the old vectors, and in evaluation mode the quotient would be arbitrary.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn
from torch.nn.utils import parametrize
from torch.nn.utils.parametrizations import _SpectralNorm
from torch.nn.utils.spectral_norm import SpectralNorm

ITERATIONS = 15
"""Number of power iterations, as in PyTorch when a layer is wrapped."""


def estimate_norms_again(modules: Iterable[nn.Module]) -> None:
    """Power iterations for those of ``modules`` whose weights are spectrally normalised."""
    for module in modules:
        if parametrize.is_parametrized(module):
            for parts in module.parametrizations.values():  # type: ignore[operator]
                _iterate(parts)
        for hook in module._forward_pre_hooks.values():
            if isinstance(hook, SpectralNorm) and not getattr(module, f"{hook.name}_orig").is_meta:
                with torch.no_grad():
                    for _ in range(ITERATIONS):
                        hook.compute_weight(module, do_power_iteration=True)


def _iterate(parts: parametrize.ParametrizationList) -> None:
    """In training mode each call of ``_SpectralNorm`` runs a power iteration."""
    chain = list(parts)
    for number, part in enumerate(chain):
        if not isinstance(part, _SpectralNorm) or parts.original.is_meta:
            continue
        training = part.training
        part.train()
        with torch.no_grad():
            weight = parts.original
            for earlier in chain[:number]:
                weight = earlier(weight)
            for _ in range(ITERATIONS):
                part(weight)
        part.train(training)
