"""The law for every network here: after removal of 30 % of every group it runs, is smaller and exact."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import prunelab
from prunelab import ChannelGraph, PruningPlan

TOLERANCE = 1e-9  # compared in float64


@dataclass(frozen=True)
class Thinned:
    """A network without 30 % of the channels of every group."""

    original: nn.Module
    model: nn.Module
    graph: ChannelGraph
    plan: PruningPlan

    @property
    def frozen(self) -> dict[str, str | None]:
        """Name -> reason of the frozen groups other than the network's outputs."""
        reasons = {group.name: group.frozen for group in self.graph.frozen}
        return {name: reason for name, reason in reasons.items() if reason != "output of the network"}


@pytest.fixture(scope="session")
def thin() -> Callable[[nn.Module, Any], Thinned]:
    """``thin(model, inputs)``: every group loses 30 % at random; the costs predicted are those of the pruned module."""
    return _thin


def _thin(model: nn.Module, inputs: Any) -> Thinned:
    model.eval()
    graph = prunelab.analyze(model, inputs)
    rng = np.random.default_rng(0)
    kept = {
        group.name: rng.choice(group.size, max(1, round(0.7 * group.size)), replace=False).tolist()
        for group in graph.groups
    }
    plan = graph.plan(kept)
    pruned = prunelab.apply(copy.deepcopy(model), plan)
    parameters = sum(parameter.numel() for parameter in pruned.parameters())
    assert graph.cost.params(plan) == parameters < graph.cost.params()
    assert graph.cost.flops(plan) < graph.cost.flops()
    args = inputs if isinstance(inputs, tuple) else () if isinstance(inputs, dict) else (inputs,)
    with torch.no_grad():
        pruned(*args, **(inputs if isinstance(inputs, dict) else {}))
    return Thinned(model, pruned, graph, plan)


@pytest.fixture(scope="session")
def exactly(randomise: Callable[[nn.Module], nn.Module]) -> Callable[[nn.Module, Any], Thinned]:
    """``exactly(model, inputs)``: thin it; it must compute the same as the masked network."""

    def check(model: nn.Module, inputs: Any) -> Thinned:
        thinned = _thin(randomise(model), inputs)
        assert all(group.exact for group in thinned.graph.groups)
        assert prunelab.check(thinned.original, thinned.model, thinned.plan, inputs) < TOLERANCE
        return thinned

    return check
