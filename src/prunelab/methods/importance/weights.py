"""Scores from weights alone: one number per channel, from the rows of a tensor that belong to the channel.

A block is judged by the weights that produce its branch, relative to the other weights of the same role in
the stage it adds to: above 1 it contributes more than its peers do.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache

import numpy as np
import torch
from torch import Tensor, nn

from prunelab.methods.allocation.scores import Scores
from prunelab.methods.context import PruningContext
from prunelab.methods.importance.criterion import Reduction, joined, warn_not_pruned
from prunelab.structure import ResidualBlock, Slice

ScoreRows = Callable[[np.ndarray], np.ndarray]
"""(channels, weights of one channel), in the precision of the network -> scores (channels,), summed in float64."""


def score_producers(context: PruningContext, score_rows: ScoreRows, reduction: Reduction) -> Scores:
    """Score the filters of each group: the convolution or linear weights whose rows produce its channels."""
    channels = {}
    for group in context.groups:
        members = [score_rows(_owned(context.model, producer)) for producer in group.producers]
        if members:
            channels[group.name] = joined(members, reduction)
    warn_not_pruned(
        context, [group.name for group in context.groups if not group.producers], "have no filters"
    )
    return Scores(channels, _block_scores(context, score_rows))


def rows(model: nn.Module, part: Slice) -> np.ndarray:
    """The weights of each channel: float64 (channels of the group, everything that one channel owns)."""
    return _owned(model, part).astype(np.float64)


def _owned(model: nn.Module, part: Slice) -> np.ndarray:
    """``rows`` in the precision of the network, which avoids a copy of a large weight."""
    tensor = _tensor(model, part.parameter).movedim(part.dim, 0)
    owned = tensor.reshape(len(tensor), -1).numpy()
    if np.array_equal(part.index, np.arange(len(owned))[:, None]):
        return owned
    return owned[part.index].reshape(len(part.index), -1)


def relative(own: Sequence[float], peers: Sequence[float]) -> float:
    """The mean of a block's scores divided by that of its peers; 1 if that is zero."""
    scale = float(np.mean(peers))
    return float(np.mean(own)) / scale if scale > 0 else 1.0


def _tensor(model: nn.Module, name: str) -> Tensor:
    tensor = model.get_parameter(name).detach().cpu()
    # numpy has no bfloat16
    return tensor if tensor.dtype in (torch.float32, torch.float64) else tensor.double()


def _block_scores(context: PruningContext, score_rows: ScoreRows) -> dict[str, float]:
    """A block whose branch is not produced by a weight has no score and is kept."""
    mean_score = cache(lambda name: float(score_rows(_tensor(context.model, name).flatten(1).numpy()).mean()))
    scores = {}
    for block in context.blocks:
        if block.exits:
            peers = _peers(context, block)
            scores[block.name] = relative(
                [mean_score(n) for n in block.exits], [mean_score(n) for n in peers]
            )
    return scores


def _peers(context: PruningContext, block: ResidualBlock) -> list[str]:
    """The weights that produce the stage of a block; if it is frozen, the exits of all such blocks."""
    if block.stage is not None:
        return [producer.parameter for producer in context.graph.group(block.stage).producers]
    return [name for other in context.blocks if other.stage is None for name in other.exits]
