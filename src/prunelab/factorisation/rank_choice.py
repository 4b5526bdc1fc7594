"""Ranks for a latency budget: chosen with a table of layers, built, measured, corrected."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from prunelab.distributed.ranks import from_rank_zero
from prunelab.evaluation.latency_rounds import Attempt, Words, meet
from prunelab.evaluation.latency_target import LatencyModel
from prunelab.factorisation.costs import Timed
from prunelab.factorisation.options import Knapsack, knapsack_of
from prunelab.factorisation.settings import LowRank
from prunelab.factorisation.target_layers import TargetLayer
from prunelab.records.latency import LatencySummary
from prunelab.structure import analyze
from prunelab.structure.low_rank import Factorisation, Factors
from prunelab.structure.surgery.substituting import substitute

Chosen = dict[str, Factors]


@dataclass(frozen=True)
class RankChoice:
    """The sequences of the layers that are replaced; ``latency``: the measurements under a latency budget."""

    layers: Mapping[str, Factors]
    latency: LatencySummary | None = None


def chosen_by_latency(
    network: nn.Module,
    example: Tensor,
    layers: Mapping[str, TargetLayer],
    settings: LowRank,
    replaceable: Callable[[Chosen], Chosen],
    latency: LatencyModel | None = None,
) -> RankChoice:
    """The sequences with which the network needs the fraction ``settings.latency`` of its present time.

    All processes call it together; rank zero measures.

    Args:
        replaceable: removes the layers that the code of the network does not allow to replace.
        latency: the present network on the target; None: it is measured.

    Raises:
        UserError: the target is not available, or the budget cannot be reached or was not met.
    """
    assert settings.latency is not None
    graph = analyze(network, example)
    model = LatencyModel.of(network, graph, example, settings.goal) if latency is None else latency
    total = float(model.attach(graph).cost.function("latency")()) / model.scale
    knapsack = knapsack_of(layers, settings, Timed(model.table), total)
    words = Words(
        budget=f"lowrank.latency={settings.latency:g}",
        network="a factorised network",
        reference="that of the network before",
        smallest="the smallest ranks",
        advice="Use a larger fraction.",
    )
    chosen, summary = meet(
        model,
        settings.latency,
        knapsack.smallest,
        lambda aim: _attempt(network, knapsack, replaceable, model, aim),
        words,
    )
    return RankChoice(chosen, summary)


def _attempt(
    network: nn.Module,
    knapsack: Knapsack,
    replaceable: Callable[[Chosen], Chosen],
    latency: LatencyModel,
    aim: float,
) -> Attempt[Chosen]:
    chosen, predicted = knapsack.solved(aim)
    chosen = replaceable(chosen)

    def built() -> nn.Module:
        copied = copy.deepcopy(network)
        return substitute(copied, Factorisation(chosen)) if chosen else copied

    found = from_rank_zero(lambda: latency.compare(built()))
    latency.table.save()
    return Attempt(chosen, aim, predicted, found)
