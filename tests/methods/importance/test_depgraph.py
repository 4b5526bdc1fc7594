"""The group norm, computed by hand on a chain, a stage, and depthwise and grouped convolutions."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from prunelab.methods import Budget, DepGraph, ImportanceMethod, PruningContext

MakeContext = Callable[..., PruningContext]


def squares(weight: Tensor, dim: int = 0) -> np.ndarray:
    """The sum of squares of each channel along ``dim``."""
    return weight.detach().double().movedim(dim, 0).flatten(1).square().sum(dim=1).numpy()


def test_producer_scale_and_reader_of_a_chain(plain: nn.Module, make_context: MakeContext) -> None:
    scores = DepGraph().score(make_context(DepGraph(), plain)).channels
    first = [
        squares(plain.conv1.weight),
        plain.norm1.weight.detach().square(),
        squares(plain.conv2.weight, 1),
    ]
    np.testing.assert_allclose(scores["conv1"], np.mean(np.stack(first), axis=0), rtol=1e-6)
    summed = DepGraph(reduction="sum").score(make_context(DepGraph(), plain)).channels
    np.testing.assert_allclose(summed["conv1"], 3 * scores["conv1"])


def test_every_tensor_of_a_stage_counts(residual: nn.Module, make_context: MakeContext) -> None:
    context = make_context(DepGraph(), residual)
    stage = next(group.name for group in context.groups if group.level == "stage")
    members = [squares(residual.stem.weight), residual.norm.weight.detach().square()]
    members.append(squares(residual.head.weight, 1))
    for block in residual.blocks:
        members += [squares(block.conv1.weight, 1), squares(block.conv2.weight)]
        members.append(block.norm2.weight.detach().square())
    found = DepGraph().score(context).channels[stage]
    np.testing.assert_allclose(found, np.mean(np.stack(members), axis=0), rtol=1e-6)


@pytest.mark.parametrize("groups", [4, 2])
def test_depthwise_and_grouped_convolutions(groups: int) -> None:
    network = nn.Sequential(
        nn.Conv2d(2, 4, 1, bias=False), nn.ReLU(), nn.Conv2d(4, 4, 3, groups=groups, bias=False), nn.ReLU(),
        nn.Conv2d(4, 1, 1),
    )  # fmt: skip
    made, between, read = (network[number].weight for number in (0, 2, 4))
    method = ImportanceMethod(DepGraph(reduction="sum"), Budget(flops=1.0))
    scores, _ = method.scored(method.context(network, torch.zeros(1, 2, 5, 5)))
    if groups == 4:  # one group: produced, filtered and read
        expected = squares(made) + squares(between) + squares(read, 1)
        np.testing.assert_allclose(scores.channels["0"], expected, rtol=1e-6)
    else:  # channels 0 and 2, and 1 and 3, have the same position in the two groups, and are removed together
        expected = squares(made).reshape(2, 2).sum(axis=0) + squares(between, 1)
        np.testing.assert_allclose(scores.channels["0"], expected, rtol=1e-6)
