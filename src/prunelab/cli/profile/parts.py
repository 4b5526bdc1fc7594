"""The removable parts of a network, and their costs, as plain data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import timm
import torch
from torch import nn

from prunelab.cli.config import configure_parts
from prunelab.errors import UserError
from prunelab.evaluation import LatencyModel, Target
from prunelab.evaluation.layer_shapes import shape_of
from prunelab.models import build
from prunelab.models.user_models import import_user_module
from prunelab.structure import ChannelGraph, ModuleCost, ResidualAddition, analyze

IMAGES, CLASSES = (3, 224, 224), 1000
"""Image shape and number of classes for networks without published weights: those of ImageNet."""


@dataclass(frozen=True)
class Part:
    """A channel group or a block, and the fractions of the network's FLOPs and parameters that are removed with it.

    A layer belongs to the group that it reads and to the group that it produces, so the sum of the fractions is
    greater than 1. ``exact``: whether the pruned network equals the masked one.
    """

    name: str
    level: str
    channels: int | None
    flops_share: float
    params_share: float
    exact: bool | None


@dataclass(frozen=True)
class Frozen:
    """A channel group from which nothing can be removed, and the reason."""

    name: str
    channels: int
    reason: str


@dataclass(frozen=True)
class Latency:
    """The measured forward time of the network on a target, and the part of each module in it, in milliseconds.

    ``p50`` and ``p90`` are percentiles over turns, of processor time if the target has one thread, else of the time on
    the clock. Times of modules are those of their layers, scaled to a first measurement of the network.
    """

    target: str
    p50: float
    p90: float
    modules: dict[str, float]


@dataclass(frozen=True)
class Profile:
    """The printed data; FLOPs (2 x multiply-accumulates + biases) and MACs are for one image.

    ``additions``: the sums of two activations, with the block that can be dropped or the reason why there is none;
    ``unused_parameters``: parameters that no operator reads; ``training_failure``: the reason why the network cannot
    run in training mode (None: it can).
    """

    model: str
    input_size: tuple[int, int, int]
    num_classes: int
    flops: int
    macs: int
    params: int
    groups: tuple[Part, ...]
    blocks: tuple[Part, ...]
    frozen: tuple[Frozen, ...]
    layers: tuple[ModuleCost, ...]
    additions: tuple[ResidualAddition, ...] = ()
    unused_parameters: tuple[str, ...] = ()
    training_failure: str | None = None
    latency: Latency | None = None


def profile(words: Sequence[str], with_latency: bool = False) -> Profile:
    """The profile of the network that the command line ``words`` choose.

    Images and classes are those of the data if the words choose any, else those of the published network.
    ``with_latency``: measure it on ``budget.target``.

    Raises:
        UserError: there is no such network or data, it cannot take images of this size, or the target is not available.
    """
    sizes = [word for word in words if word.startswith("image_size=")]
    chosen = [word for word in words if word not in sizes]
    of_data = ["data"] if any(word.startswith(("data=", "data.")) for word in chosen) else []
    settings, exact, cardinality, budget, *data = configure_parts(
        ("model", "exact", "cardinality", "budget", *of_data), chosen
    )
    name = settings["name"]
    if settings.get("module") is not None:
        import_user_module(settings["module"])
    (channels, height, width), classes = _of_data(data[0]) if data else _published(name)
    if sizes:
        height = width = _image_size(sizes[-1])
    network = build(
        name, classes, channels, (height, width), output=settings.get("output"), **settings["arguments"]
    )
    example = torch.zeros(1, channels, height, width)
    graph = analyze(network, example, exact=exact, cardinality=cardinality)
    return Profile(
        model=name,
        input_size=(channels, height, width),
        num_classes=classes,
        flops=graph.cost.flops(),
        macs=graph.cost.macs(),
        params=graph.cost.params(),
        groups=_groups(graph),
        blocks=_blocks(graph),
        frozen=tuple(Frozen(group.name, group.size, group.frozen or "") for group in graph.frozen),
        layers=graph.cost.by_module(),
        additions=graph.additions,
        unused_parameters=graph.unused_parameters,
        training_failure=graph.training_failure,
        latency=_latency(network, graph, example, budget["target"]) if with_latency else None,
    )


def _latency(
    network: nn.Module, graph: ChannelGraph, example: torch.Tensor, settings: Mapping[str, Any]
) -> Latency:
    target = Target(**{name: value for name, value in settings.items() if name != "_target_"})
    model = LatencyModel.of(network.eval(), graph, example, target)
    full = model.measured()
    modules: dict[str, float] = {}
    for layer in graph.cost.layers():
        time = model.scale * model.table.milliseconds(shape_of(layer))
        modules[layer.module] = modules.get(layer.module, 0.0) + time
    model.table.save()
    return Latency(str(target), full.p50_ms, full.p90_ms, modules)


def _of_data(settings: Mapping[str, Any]) -> tuple[tuple[int, int, int], int]:
    """Shape of the images (C, H, W) and number of classes of the data that ``settings`` describe."""
    from prunelab.steps.setup import made

    data = made(settings, "data")
    return data.image_shape, data.num_classes


def _published(name: str) -> tuple[tuple[int, int, int], int]:
    """Shape of the images (C, H, W) and number of classes of a published network."""
    known: Any = timm.get_pretrained_cfg(name)  # None for unknown networks or those without weights
    return (known.input_size, known.num_classes) if known else (IMAGES, CLASSES)


def _groups(graph: ChannelGraph) -> tuple[Part, ...]:
    without = np.tile(graph.cost.full, (len(graph.groups), 1))
    np.fill_diagonal(without, 0)
    shares = _shares(graph, without, np.ones((len(graph.groups), len(graph.blocks))))
    return tuple(
        Part(group.name, group.level, group.size, *share, group.exact)
        for group, share in zip(graph.groups, shares, strict=True)
    )


def _blocks(graph: ChannelGraph) -> tuple[Part, ...]:
    alive = 1 - np.eye(len(graph.blocks))
    shares = _shares(graph, np.tile(graph.cost.full, (len(graph.blocks), 1)), alive)
    return tuple(
        Part(block.name, "block", None, *share, None)
        for block, share in zip(graph.blocks, shares, strict=True)
    )


def _shares(graph: ChannelGraph, widths: np.ndarray, alive: np.ndarray) -> list[tuple[float, float]]:
    """For each row, the fractions of FLOPs and parameters that are removed with these widths and blocks."""
    if not len(widths):
        return []
    flops = 1 - graph.cost.flops(widths, alive) / graph.cost.flops()
    params = 1 - graph.cost.params(widths, alive) / graph.cost.params()
    return list(zip(flops.tolist(), params.tolist(), strict=True))


def _image_size(word: str) -> int:
    value = word.partition("=")[2]
    if not value.isdecimal() or int(value) < 1:
        raise UserError(f"{word}: the image size is a number of pixels, such as image_size=224.")
    return int(value)
