"""The scores of the channels of a network by a method, and the channels that the budget keeps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from prunelab.cli.config import configure
from prunelab.errors import UserError
from prunelab.records.known_keys import RESOURCES

if TYPE_CHECKING:
    from torch import nn

    from prunelab.methods.context import PruningContext
    from prunelab.steps import Setup
    from prunelab.structure import ChannelGroup

BUDGET = "budget.flops=0.5"
"""The budget of the picture if the command line has none."""


@dataclass(frozen=True)
class GroupScores:
    """The channels of one group, best first.

    channels: their numbers, (size,).
    scores: (size,), falling; normalised as global allocation compares them.
    kept: (size,), whether the budget keeps the channel.
    """

    name: str
    level: str
    channels: NDArray[np.int64] = field(repr=False)
    scores: NDArray[np.float64] = field(repr=False)
    kept: NDArray[np.bool_] = field(repr=False)

    @property
    def left(self) -> int:
        """The number of kept channels."""
        return int(self.kept.sum())


@dataclass(frozen=True)
class ScoredNetwork:
    """The content of the picture of scores.

    title: method, network and data.
    weights: the origin of the weights, in words.
    budget: how much to keep.
    normalisation: the divisor of the scores of each group.
    """

    title: str
    weights: str
    budget: str
    normalisation: str
    groups: tuple[GroupScores, ...]


def scored_network(words: Sequence[str]) -> ScoredNetwork:
    """Score the network that the command line ``words`` describe, as ``prunelab`` would with the same words.

    Its weights are those of the stored baseline, a file or published; no baseline is trained for a picture.

    Raises:
        UserError: the words do not describe a run, or its method does not score an untrained network.
    """
    config = configure(words)
    if all(config["budget"].get(resource) is None for resource in RESOURCES):
        config = configure([*words, BUDGET])
    from prunelab.steps import (
        Setup,
    )  # imports Lightning, which takes seconds that a plain profile does not need

    setup = Setup.of(config)
    setup.task.machine.prepare_process()
    setup.task.prepare_data()
    network, weights = _weighted(setup)
    context = setup.context(network)
    scores, plan = setup.method.scored(context)
    groups = [
        _group(context, group, scores.channels[group.name], plan.kept[group.name])
        for group in context.graph.groups
        if group.name in scores.channels
    ]
    if not groups:
        raise UserError(
            f"{setup.names['method']} scores no channel of {setup.names['model']} at these levels."
        )
    names = setup.names
    return ScoredNetwork(
        title=f"{names['method']} on {names['model']}, {names['data']}",
        weights=weights,
        budget=str(setup.budget),
        normalisation=context.allocation.normalisation,
        groups=tuple(groups),
    )


def _weighted(setup: Setup) -> tuple[nn.Module, str]:
    """The full network and the origin of its weights."""
    from prunelab.steps.baseline import TrainedBaseline

    store, key = setup.store, setup.baseline_key
    if store.has(key):
        network, baseline = setup.task.network(), store.load(key)
        network.load_state_dict(baseline.weights)
        return network, f"stored baseline {key}, top-1 {baseline.accuracy.top1:.2%}"
    if isinstance(setup.baseline, TrainedBaseline):
        pretrained = setup.task.settings.pretrained
        network = setup.task.network(pretrained)
        if pretrained:
            return network, "published weights, not trained on these images yet"
        return (
            network,
            "RANDOM weights: this baseline was not trained yet (prunelab with the same words does it)",
        )
    network, _ = setup.baseline.train(setup.task, store.root)  # these use existing weights
    given = getattr(setup.baseline, "path", "")
    return network, f"weights of {given}" if given else "published weights"


def _group(
    context: PruningContext, group: ChannelGroup, scores: NDArray[np.float64], kept: Sequence[int]
) -> GroupScores:
    from prunelab.methods.allocation.candidate_widths import normalised

    order = np.argsort(-scores, kind="stable")
    stays = np.zeros(group.size, dtype=np.bool_)
    stays[list(kept)] = True
    shown = normalised(scores, context.allocation.normalisation)
    return GroupScores(group.name, group.level, order, shown[order], stays[order])
