"""One network of a timm family: randomised, pruned with both settings, compared with the masked one, saved, loaded."""

from __future__ import annotations

import copy
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import prunelab
from prunelab.models import build
from prunelab.structure.network import arguments
from prunelab.structure.tracing.outputs import tensors_in

KEEP = 0.7
TRUSTED = 1e-4
"""The largest relative difference at which masked and pruned count as equal."""


def call(network: nn.Module, inputs: Any) -> Any:
    """One forward call: ``inputs`` as for ``prunelab.analyze``. They are copied, because some networks change them, and
    random numbers are the same in each call, because some networks draw them in evaluation mode."""
    torch.manual_seed(0)
    args, kwargs = arguments(copy.deepcopy(inputs))
    return network(*args, **kwargs)


def floating(returned: Any) -> list[Tensor]:
    """The tensors of floating point numbers that a network returned."""
    return [value for value in tensors_in(returned) if value.is_floating_point()]


def lively(model: nn.Module, forward: Callable[[], Any]) -> nn.Module:
    """Set random affine parameters, and statistics from a ``forward`` call, so that every zeroed channel changes the
    output.

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
        forward()
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
    model = build(name, 1000)
    lively(model, lambda: model(torch.cat([images, torch.randn_like(images)])))
    row: dict[str, Any] = {"family": family, "model": name}
    row["default"], pruned, _ = remove(model, images[:1], images, exact=False)
    row["round_trip"] = round_trip(pruned, images)
    if row["default"]["inexact"]:
        row["exact"], _, _ = remove(model, images[:1], images, exact=True)
    else:
        row["exact"] = row["default"]
    return row


def remove(
    model: nn.Module, example: Any, inputs: Any, exact: bool
) -> tuple[dict[str, Any], nn.Module, prunelab.ChannelGraph]:
    """Analyse ``model`` on ``example`` and remove 30 % of every group: what was found, the pruned copy, the structure.

    The outputs of the pruned and the masked network are compared on ``inputs``.
    """
    started, processor = time.perf_counter(), time.process_time()
    structure = prunelab.analyze(model, example, exact=exact)
    seconds, processor = time.perf_counter() - started, time.process_time() - processor
    kept = chosen(structure)
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
        "change": _change(model, pruned, inputs),
        "error": prunelab.check(model, pruned, plan, inputs),
        "analyze_seconds": seconds,
        "analyze_processor_seconds": processor,
    }
    result["error_exact_groups"] = result["error"]
    if result["inexact"]:
        alone = structure.plan({group.name: kept[group.name] for group in structure.groups if group.exact})
        smaller = prunelab.apply(copy.deepcopy(model), alone)
        result["error_exact_groups"] = prunelab.check(model, smaller, alone, inputs)
    return result, pruned, structure


def chosen(structure: prunelab.ChannelGraph) -> dict[str, list[int]]:
    """Random channels of each group, 70 % of them."""
    generator = np.random.default_rng(0)
    return {
        group.name: sorted(
            generator.choice(group.size, max(1, round(KEEP * group.size)), replace=False).tolist()
        )
        for group in structure.groups
    }


def _change(model: nn.Module, pruned: nn.Module, inputs: Any) -> float:
    """The relative change of the first output by pruning: 0 would mean that nothing was tested.

    Infinite if its shape depends on the data, as the number of boxes does, and has changed.
    """
    with torch.no_grad():
        full, smaller = (floating(call(network, inputs))[0] for network in (model, pruned.eval()))
    if full.shape != smaller.shape:
        return float("inf")
    return float((full - smaller).abs().max() / full.abs().max()) if full.numel() else 0.0


def round_trip(pruned: nn.Module, inputs: Any, full: nn.Module | None = None) -> bool:
    """Whether the pruned network that is loaded from its folder is bit-identical.

    ``full`` is a full network of this kind, which is pruned, for those that ``models.build`` does not make.
    """
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        prunelab.save(pruned, folder)
        loaded = prunelab.load(folder, model=full)
        first, second = (floating(call(network, inputs)) for network in (pruned, loaded))
    return len(first) == len(second) and all(map(torch.equal, first, second))
