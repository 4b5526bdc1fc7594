"""Scores from activations and gradients; one pass over the calibration images serves all layers.

A statistic is a torchmetrics ``Metric`` of one hook point: it is updated batch by batch, declares how its state is
reduced over ranks, and computes one value per channel. The activations are those after normalisation and activation
function, before pooling. A block is judged by its branch, f(x) in y = f(x) + x, averaged over channels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal

import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from torch import Tensor
from torchmetrics import Metric

from prunelab.distributed.ranks import gather, on_all_ranks
from prunelab.errors import UserError
from prunelab.methods.allocation.scores import Scores
from prunelab.methods.calibration import Batch
from prunelab.methods.context import PruningContext
from prunelab.methods.finite_pass import finite_outputs
from prunelab.methods.importance.criterion import Reduction, joined, warn_not_pruned
from prunelab.methods.untouched import untouched
from prunelab.structure import HookPoint, channels_first, observe

Values = Mapping[HookPoint, np.ndarray]
"""The statistic of each hook point: float64, one value per channel (width,) unless documented otherwise."""

Shape = Literal["positions", "maps"]
Shaped = Callable[[Tensor, int], Tensor]


def measure(
    context: PruningContext,
    statistic: Callable[[int], Metric],
    gradients: bool = False,
    shape: Shape = "positions",
) -> Values:
    """Run the calibration images through the network once and return the statistic of every hook point.

    ``statistic(width)`` creates the metric of one hook point. It is updated with activations (N, width, positions), or
    with maps (N, width, H, W), depending on ``shape``, and, if ``gradients``, with the gradient of each image's
    own loss with respect to them, of the same shape.

    Raises:
        UserError: there are no calibration images.
    """
    metrics = {hook_point: statistic(hook_point.width).to(context.device) for hook_point in _taps(context)}
    shaped = _positions_last if shape == "positions" else _maps
    images = on_all_ranks(lambda: _one_pass(context, metrics, shaped, gradients))
    if sum(gather(images)) == 0:
        raise UserError("The calibration loader has no images.")
    return {hook_point: metric.compute().cpu().double().numpy() for hook_point, metric in metrics.items()}


def score_taps(
    context: PruningContext,
    values: Values,
    reduction: Reduction,
    per_member: Callable[[np.ndarray], np.ndarray] = lambda scores: scores,
) -> Scores:
    """Scores of groups and blocks from statistics of hook points.

    The score of a channel at several positions of a hook point is their mean. ``per_member`` transforms the scores
    (size,) of a group at one hook point before they are joined over the group's hook points.
    """
    channels = {}
    for group in context.groups:
        members = [
            per_member(values[found.hook_point][found.positions].mean(axis=1)) for found in group.hook_points
        ]
        if members:
            channels[group.name] = joined(members, reduction)
    warn_not_pruned(
        context, [group.name for group in context.groups if not group.hook_points], "can be observed nowhere"
    )
    blocks = {block.name: float(values[block.branch].mean()) for block in context.blocks if block.branch}
    return Scores(channels, blocks)


def calibration_batches(context: PruningContext) -> Iterator[Batch]:
    """The (images, targets) of this rank, with a progress bar if ``context.progress`` is true."""
    for images, targets, _ in _batches(context):
        yield images, targets


def _batches(context: PruningContext) -> Iterator[tuple[Tensor, Any, Any]]:
    calibration = context.images()
    bar = Progress(
        TextColumn("{task.description:<10}"),
        BarColumn(bar_width=30),
        TextColumn("{task.completed:.0f} images"),
        TimeElapsedColumn(),
        console=Console(stderr=True),
        disable=not context.progress,
    )
    with bar:
        task = bar.add_task("scoring", total=calibration.images / calibration.ranks)
        for images, targets, batch in calibration.with_source(context.device):
            yield images, targets, batch
            bar.advance(task, len(images))
        # The loader may have fewer images than the limit.
        bar.update(task, total=bar.tasks[task].completed)


def _taps(context: PruningContext) -> list[HookPoint]:
    hook_points = {found.hook_point for group in context.groups for found in group.hook_points}
    hook_points |= {block.branch for block in context.blocks if block.branch}
    return sorted(hook_points, key=lambda hook_point: (hook_point.module, hook_point.call, hook_point.dim))


def _one_pass(
    context: PruningContext, metrics: Mapping[HookPoint, Metric], shaped: Shaped, gradients: bool
) -> int:
    """Update the metrics with the images of this rank; returns their number."""
    seen = 0
    for hook_point, metric in metrics.items():  # a rank without a batch needs states to reduce as well
        nothing = shaped(torch.zeros(1, hook_point.width, 1, device=context.device), 1)[:0]
        metric.update(*((nothing, nothing) if gradients else (nothing,)))
    observers = {hook_point: _observer(metric, shaped, gradients) for hook_point, metric in metrics.items()}
    with (
        untouched(context.model, context.device, context.seed),
        observe(context.model, observers),
        torch.set_grad_enabled(gradients),
    ):
        for images, targets, batch in _batches(context):
            # No gradients of parameters: the activations have gradients because the images require one.
            outputs = finite_outputs(context, images.detach().requires_grad_(gradients))
            if gradients:
                (context.loss_of(outputs, targets, batch) * len(images)).backward()
            seen += len(images)
    return seen


def _observer(metric: Metric, shaped: Shaped, gradients: bool) -> Callable[[Tensor, int], None]:
    def read(tensor: Tensor, dim: int) -> None:
        metric.update(shaped(tensor, dim))

    def read_with_gradient(tensor: Tensor, dim: int) -> None:
        # Copied, because the network may change the tensor in place later (out += shortcut).
        activation = shaped(tensor.detach().clone(), dim)
        if tensor.requires_grad:
            tensor.register_hook(lambda gradient: metric.update(activation, shaped(gradient, dim)))
        else:
            metric.update(activation, torch.zeros_like(activation))

    return read_with_gradient if gradients else read


def _positions_last(tensor: Tensor, dim: int) -> Tensor:
    """(N, C, positions)"""
    channels = channels_first(tensor, dim)
    return channels.reshape(*channels.shape[:2], -1)


def _maps(tensor: Tensor, dim: int) -> Tensor:
    """(N, C, H, W); without two spatial dimensions, all positions form one row."""
    channels = channels_first(tensor, dim)
    return channels if channels.dim() == 4 else channels.reshape(*channels.shape[:2], 1, -1)
