"""LatencyModel: a full network on a target, the anchor of all predictions and comparisons."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import nn

from prunelab.distributed import is_rank_zero
from prunelab.distributed.messages import info
from prunelab.distributed.ranks import from_rank_zero, on_all_ranks
from prunelab.errors import UserError
from prunelab.evaluation.latency_table import LatencyTable
from prunelab.evaluation.predicted_latency import PredictedLatency
from prunelab.evaluation.programs import network_program
from prunelab.evaluation.target import Target
from prunelab.evaluation.turns import Clocks, Program, Times, in_turns, threads
from prunelab.records.latency import Spread
from prunelab.structure import ChannelGraph

SECONDS = 3.0
"""Approximate seconds of the turns of a comparison."""

TURNS = (11, 201)


@dataclass(frozen=True)
class Comparison:
    """A network compared with the full one, measured in the same turns.

    ``ratio`` is the median over turns of the time of the network divided by the time of the full one.
    """

    ratio: float
    full: Spread
    pruned: Spread
    turns: int


@dataclass(frozen=True)
class LatencyModel:
    """The latency of a full network on a target, and of all networks pruned from it.

    Args:
        target: device, runtime, precision, batch size, threads.
        table: times of single layers on it.
        image_shape: (C, H, W).
        scale: measured time of the full network / sum of the times of its layers in the table.
        full: one forward pass of the full network; only on rank zero.
    """

    target: Target
    table: LatencyTable
    image_shape: tuple[int, ...]
    scale: float
    full: Program = field(repr=False)

    @classmethod
    def of(
        cls, network: nn.Module, graph: ChannelGraph, example_input: object, target: Target
    ) -> LatencyModel:
        """Measure the full network and its layers.

        Args:
            graph: the structure of ``network``.
            example_input: (N, C, H, W); N has no effect.

        Raises:
            UserError: the target is not available, or its runtime does not support the network.
        """
        target.require_available()
        if not isinstance(example_input, torch.Tensor) or example_input.ndim < 2:
            raise UserError(
                "A latency budget needs a network with one input tensor, (N, C, H, W) or (N, features)."
            )
        shape = tuple(example_input.shape[1:])
        full = on_all_ranks(lambda: network_program(network, shape, target) if is_rank_zero() else _nothing)
        unscaled = cls(target, LatencyTable.of(target), shape, 1.0, full)
        info(f"Latency: measuring the layers of the full network in {target}.")
        (times,) = from_rank_zero(lambda: unscaled.times([full]))
        layers = float(unscaled.attach(graph).cost.function("latency")())
        if layers <= 0:
            raise UserError(
                "A latency budget needs layers, convolutions or linear ones; this network has none."
            )
        unscaled.table.save()
        return replace(unscaled, scale=1000 * float(np.median(times.processor)) / layers)

    def attach(self, graph: ChannelGraph) -> ChannelGraph:
        """``graph`` with the predicted latency, in milliseconds, as a resource of its cost model."""
        predicted = PredictedLatency(graph.cost, self.table, self.scale)
        return replace(graph, cost=graph.cost.with_resource("latency", predicted))

    def compare(self, network: nn.Module) -> Comparison:
        """Measure ``network`` in turns with the full one. Only on rank zero."""
        program = network_program(network, self.image_shape, self.target)
        full, pruned = self.times([self.full, program])
        ratio = float(np.median(pruned.processor / full.processor))
        return Comparison(ratio, _spread(full), _spread(pruned), len(full.processor))

    def measured(self) -> Spread:
        """The time of the full network. Only on rank zero."""
        return _spread(self.times([self.full])[0])

    def times(self, programs: list[Program]) -> list[Times]:
        """The times of programs in turns, on the target."""
        with threads(self.target.threads):
            return in_turns(programs, Clocks.of(self.target), SECONDS, TURNS)


def _nothing() -> None:
    """The program of all ranks except rank zero, which never runs."""


def _spread(times: Times) -> Spread:
    values = [
        np.percentile(1000 * each, share) for each in (times.processor, times.wall) for share in (50, 90)
    ]
    return Spread(*(float(each) for each in values))
