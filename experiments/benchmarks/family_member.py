"""One network of a timm family: randomised, pruned with both settings, compared with the masked one, saved, loaded."""

from __future__ import annotations

import copy
import tempfile
import time
from collections import Counter
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import prunelab
from prunelab.models import build
from prunelab.structure.tracing.outputs import tensors_in

KEEP = 0.7
TRUSTED = 1e-4
"""The largest relative difference at which masked and pruned count as equal."""


def lively(model: nn.Module, images: Tensor) -> nn.Module:
    """Set random affine parameters, and statistics from ``images``, so that every zeroed channel changes the output.

    Networks are initialised with zeros (heads, last norms, gates) and layer scales of 1e-5, after which a wrong channel
    would not be noticed in the output.
    """
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        if parameter.numel() > 1 and bool((parameter == parameter.flatten()[0]).all()):
            _randomise(parameter.data, generator)
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.momentum = 1.0
            module.train()
    with torch.no_grad():
        model(torch.cat([images, torch.randn_like(images)]))
    return model.eval()


def _randomise(constant: Tensor, generator: torch.Generator) -> None:
    """Scales around 1, shifts around 0, matrices of the usual size."""
    if constant.numel() > max(constant.shape):
        constant.normal_(0, constant[0].numel() ** -0.5, generator=generator)
    elif float(constant.flatten()[0]) == 0:
        constant.normal_(0, 0.3, generator=generator)
    else:
        constant.uniform_(0.5, 1.5, generator=generator)


def prune(family: str, name: str, size: tuple[int, ...]) -> dict[str, Any]:
    """Remove 30 % of every group: of all groups, and of only the exact ones (``analyze(exact=True)``)."""
    torch.manual_seed(0)
    images = torch.randn(2, *size)
    model = lively(build(name, 1000), images)
    row: dict[str, Any] = {"family": family, "model": name}
    row["default"], pruned = _pruned(model, images, exact=False)
    row["round_trip"] = _round_trip(pruned, images)
    if row["default"]["inexact"]:
        row["exact"], _ = _pruned(model, images, exact=True)
    else:
        row["exact"] = row["default"]
    return row


def _pruned(model: nn.Module, images: Tensor, exact: bool) -> tuple[dict[str, Any], nn.Module]:
    started = time.perf_counter()
    structure = prunelab.analyze(model, images[:1], exact=exact)
    seconds = time.perf_counter() - started
    generator = np.random.default_rng(0)
    kept = {
        group.name: sorted(
            generator.choice(group.size, max(1, round(KEEP * group.size)), replace=False).tolist()
        )
        for group in structure.groups
    }
    plan = structure.plan(kept)
    pruned = prunelab.apply(copy.deepcopy(model), plan)
    parameters = sum(parameter.numel() for parameter in pruned.parameters())
    if structure.cost.params(plan) != parameters:
        raise AssertionError(f"{structure.cost.params(plan)} parameters predicted, {parameters} found")
    result = {
        "filter_groups": sum(group.level == "filter" for group in structure.groups),
        "stage_groups": sum(group.level == "stage" for group in structure.groups),
        "blocks": len(structure.blocks),
        "frozen": dict(Counter(group.frozen for group in structure.frozen)),
        "inexact": dict(Counter(group.inexact for group in structure.groups if not group.exact)),
        "flops_kept": structure.cost.flops(plan) / structure.cost.flops(),
        "params_kept": parameters / structure.cost.params(),
        "change": _change(model, pruned, images),
        "error": prunelab.check(model, pruned, plan, images),
        "analyze_seconds": seconds,
    }
    result["error_exact_groups"] = result["error"]
    if result["inexact"]:
        alone = structure.plan({group.name: kept[group.name] for group in structure.groups if group.exact})
        smaller = prunelab.apply(copy.deepcopy(model), alone)
        result["error_exact_groups"] = prunelab.check(model, smaller, alone, images)
    return result, pruned


def _change(model: nn.Module, pruned: nn.Module, images: Tensor) -> float:
    """The relative change of the output by pruning: 0 would mean that nothing was tested."""
    with torch.no_grad():
        full, smaller = (tensors_in(network(images))[0] for network in (model, pruned.eval()))
    return float((full - smaller).abs().max() / full.abs().max())


def _round_trip(pruned: nn.Module, images: Tensor) -> bool:
    """Whether the pruned network that is loaded from its folder is bit-identical."""
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        prunelab.save(pruned, folder)
        loaded = prunelab.load(folder)
        outputs = [tensors_in(network(images))[0] for network in (pruned, loaded)]
    return torch.equal(*outputs)
