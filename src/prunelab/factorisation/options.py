"""What each sequence of a layer costs and loses, and the choice of one for every layer within a budget."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prunelab.errors import UserError
from prunelab.factorisation.costs import Cost
from prunelab.factorisation.decomposition import (
    factor_weights,
    product,
    rows_by_columns,
    singular_values,
    unfolded,
)
from prunelab.factorisation.settings import LowRank
from prunelab.factorisation.target_layers import TargetLayer
from prunelab.factorisation.vbmf import vbmf_rank
from prunelab.methods.allocation.knapsack import pareto_choices
from prunelab.structure.low_rank import FORMS, Factors

Array = NDArray[np.float64]

MOST_RANKS = 32
"""Ranks of a form that are compared for each layer."""

MOST_TIMED_RANKS = 12
"""The same under a latency budget, where each rank of each layer is measured."""

CP_RANKS = 5
CP_ITERATIONS = 8
"""What a rank of "cp" loses is computed by short decompositions, because no singular values give it."""

SPATIAL_ROWS = 1024
"""Sampled positions at which the error of a "spatial" sequence is measured."""


@dataclass(frozen=True)
class Option:
    """A sequence for a layer. ``lost``: the fraction of the energy of its responses, or weights, that is lost."""

    factors: Factors
    lost: float

    @property
    def loss(self) -> float:
        """-log of the energy that is left: Zhang et al. maximise the product of the energies of all layers."""
        return -float(np.log(max(1.0 - self.lost, 1e-9)))


def options_of(layer: TargetLayer, settings: LowRank) -> list[Option]:
    """The sequences that are smaller than the layer, with ranks in about equal steps."""
    found = (
        option
        for form in _forms(layer, settings)
        for option in (
            _tucker(layer, settings)
            if form == "tucker"
            else _CURVES[form](layer, _ranks(layer, form, settings))
        )
    )
    return [option for option in found if layer.shrinks(option.factors)]


@dataclass(frozen=True)
class Knapsack:
    """The sequences of all layers with their losses and costs.

    Args:
        options: of each layer that has any, by its path.
        losses, costs: for each layer an array (1 + options,); the first entry is the layer itself.
        total: cost of the network.
    """

    options: Mapping[str, list[Option]]
    losses: Sequence[Array]
    costs: Sequence[Array]
    total: float

    @classmethod
    def of(cls, layers: Mapping[str, TargetLayer], settings: LowRank, cost: Cost, total: float) -> Knapsack:
        """The options of all layers; ``cost`` is that of a sequence, ``total`` that of the network."""
        options = {path: options_of(layer, settings) for path, layer in layers.items()}
        options = {path: found for path, found in options.items() if found}
        costs = [
            np.array(
                [cost(layers[path], factors) for factors in (None, *(each.factors for each in found))],
                dtype=np.float64,
            )
            for path, found in options.items()
        ]
        losses = [np.array([0.0, *(each.loss for each in found)]) for found in options.values()]
        return cls(options, losses, costs, total)

    @property
    def rest(self) -> float:
        """The cost of everything except these layers."""
        return self.total - sum(float(each[0]) for each in self.costs)

    @property
    def smallest(self) -> float:
        """The smallest fraction of the cost that can be reached."""
        return (self.rest + sum(float(each.min()) for each in self.costs)) / self.total

    def solved(self, keep: float) -> tuple[dict[str, Factors], float]:
        """The sequences with the least sum of losses within the fraction ``keep``, at least ``smallest``, of the cost;
        and the fraction that they have."""
        found = pareto_choices(self.costs, self.losses, keep * self.total - self.rest)
        items = found.chosen[-1].tolist() if len(found.costs) else [int(each.argmin()) for each in self.costs]
        reached = self.rest + sum(float(each[item]) for each, item in zip(self.costs, items, strict=True))
        chosen = {
            path: options[item - 1].factors
            for (path, options), item in zip(self.options.items(), items, strict=True)
            if item
        }
        return chosen, reached / self.total


def knapsack_of(layers: Mapping[str, TargetLayer], settings: LowRank, cost: Cost, total: float) -> Knapsack:
    """The sequences of all layers, for the budget of ``settings``.

    Raises:
        UserError: the budget cannot be reached; names the smallest that can.
    """
    found = Knapsack.of(layers, settings, cost, total)
    assert settings.keep is not None
    if settings.keep < found.smallest:
        raise UserError(
            f"lowrank.{settings.resource}={settings.keep:g} cannot be reached: with rank {settings.step} in every "
            f"layer {found.smallest:.3g} is left. Use a larger fraction."
        )
    return found


def chosen_by_vbmf(layers: Mapping[str, TargetLayer], settings: LowRank) -> dict[str, Factors]:
    """The estimated ranks of the weights of each layer; of two forms the one that costs less."""
    found = {}
    for path, layer in layers.items():
        tried = [_estimated(layer, form, settings.divisor) for form in _forms(layer, settings)]
        found[path] = min(tried, key=lambda factors: layer.cost("flops", factors))
    return found


def chosen_by_hand(layers: Mapping[str, TargetLayer], settings: LowRank) -> dict[str, Factors]:
    """The sequences for ``settings.ranks``; of two forms the one that loses less at this rank.

    Raises:
        UserError: an unknown layer, or a rank that does not exist.
    """
    assert isinstance(settings.ranks, Mapping)
    if unknown := [path for path in settings.ranks if path not in layers]:
        raise UserError(
            f"lowrank.ranks: there is no layer {unknown[0]!r} that can be factorised. The first ones: "
            f"{', '.join(list(layers)[:5])}."
        )
    found = {}
    for path, given in settings.ranks.items():
        ranks = tuple(given) if isinstance(given, list | tuple) else (given,)
        tried = [_given(layers[path], form, ranks) for form in _forms(layers[path], settings)]
        found[path] = min(tried, key=lambda each: each.lost).factors
    return found


def largest_ranks(layer: TargetLayer, form: str) -> tuple[int, ...]:
    """The ranks at which the sequence computes what the layer computes."""
    outputs, inputs, height, width = layer.kernel.shape
    if form == "channel":
        return (min(outputs, inputs * height * width),)
    if form == "spatial":
        return (min(outputs * width, inputs * height),)
    if form == "tucker":
        return min(inputs, outputs * height * width), min(outputs, inputs * height * width)
    sizes = (outputs, inputs, height, width)
    return (int(np.prod(sizes)) // max(sizes),)


def _forms(layer: TargetLayer, settings: LowRank) -> tuple[str, ...]:
    """The forms of the decomposition for this layer. For a kernel of one position all are products of two matrices."""
    if layer.kernel.shape[2:] == (1, 1):
        return ("channel",)
    return tuple(settings.forms) if settings.decomposition == "svd" else (settings.decomposition,)


def _given(layer: TargetLayer, form: str, ranks: tuple[Any, ...]) -> Option:
    if form == "tucker" and len(ranks) == 1:
        ranks = ranks * 2
    most = largest_ranks(layer, form)
    wrong = len(ranks) != FORMS[form] or any(
        isinstance(rank, bool) or not isinstance(rank, int) or not 1 <= rank <= limit
        for rank, limit in zip(ranks, most, strict=False)
    )
    if wrong:
        limits = " and ".join(map(str, most))
        raise UserError(
            f"lowrank.ranks.{layer.path}={list(ranks)}: the form {form} takes {FORMS[form]} rank(s), from 1 to "
            f"{limits}."
        )
    factors = Factors(form, tuple(ranks))
    kernel = layer.kernel
    error = np.sum((product(factor_weights(kernel, factors), form) - kernel) ** 2)
    return Option(factors, float(error / np.sum(kernel**2)))


def _estimated(layer: TargetLayer, form: str, divisor: int) -> Factors:
    kernel = layer.kernel

    def rank(matrix: Array) -> int:
        return vbmf_rank(singular_values(matrix), *matrix.shape)

    if form == "channel":
        ranks: tuple[int, ...] = (rank(unfolded(kernel, 0)),)
    elif form == "spatial":
        ranks = (rank(rows_by_columns(kernel)),)
    else:
        ranks = rank(unfolded(kernel, 1)), rank(unfolded(kernel, 0))
        ranks = ranks if form == "tucker" else (max(ranks),)
    return Factors(form, tuple(_multiple(each, divisor) for each in ranks))


def _multiple(rank: int, divisor: int) -> int:
    return -(-rank // divisor) * divisor


def _ranks(layer: TargetLayer, form: str, settings: LowRank) -> list[int]:
    """Ranks in about equal steps from the smallest to the largest that still makes the layer smaller."""
    step = settings.step
    every = range(step, largest_ranks(layer, form)[0] + 1, step)
    most = sum(1 for rank in every if layer.shrinks(Factors(form, (rank,))))  # cost grows with the rank
    number = min(most, CP_RANKS if form == "cp" else _most_ranks(settings))
    return sorted(
        {every[place] for place in np.linspace(0, most - 1, number).round().astype(int)} if most else set()
    )


def _most_ranks(settings: LowRank) -> int:
    return MOST_TIMED_RANKS if settings.resource == "latency" else MOST_RANKS


def _channel(layer: TargetLayer, ranks: Sequence[int]) -> Iterator[Option]:
    """Energies of the principal components of the responses (Zhang et al., section 3.2), or of the weights."""
    energies = response_energies(layer)
    lost = 1 - np.cumsum(energies) / max(energies.sum(), 1e-300)
    for rank in ranks:
        yield Option(Factors("channel", (rank,)), float(max(lost[rank - 1], 0.0)))


def response_energies(layer: TargetLayer) -> Array:
    """The variances of the responses along their principal components, the largest first.

    Without images those of the weights.
    """
    matrix, inputs = unfolded(layer.kernel, 0), layer.sampled()
    if inputs is None:
        return singular_values(matrix) ** 2
    return np.maximum(np.linalg.eigvalsh(response_moments(layer, inputs)[0])[::-1], 0.0)


def response_moments(layer: TargetLayer, inputs: Array) -> tuple[Array, Array]:
    """The covariance (O, O) and the mean (O,) of the responses without bias; of a layer that has none, the second
    moment and zero, because no constant can be added to its outputs."""
    responses = inputs @ unfolded(layer.kernel, 0).T
    mean = np.zeros(responses.shape[1]) if layer.module.bias is None else responses.mean(axis=0)
    centred = responses - mean
    return centred.T @ centred / len(centred), mean


def _spatial(layer: TargetLayer, ranks: Sequence[int]) -> Iterator[Option]:
    kernel, inputs = layer.kernel, layer.sampled()
    if inputs is None:
        energies = singular_values(rows_by_columns(kernel)) ** 2
        for rank in ranks:
            yield Option(Factors("spatial", (rank,)), float(energies[rank:].sum() / energies.sum()))
        return
    outputs = len(kernel)
    few = inputs[:: max(1, len(inputs) // SPATIAL_ROWS)]
    whole = few @ kernel.reshape(outputs, -1).T
    if layer.module.bias is not None:
        few = few - few.mean(axis=0)
        whole = few @ kernel.reshape(outputs, -1).T
    if not ranks:
        return
    first, last = factor_weights(kernel, Factors("spatial", (max(ranks),)))
    for rank in ranks:
        found = product([first[:rank], last[:, :rank]], "spatial")
        error = np.sum((whole - few @ found.reshape(outputs, -1).T) ** 2)
        yield Option(Factors("spatial", (rank,)), float(min(error / max(np.sum(whole**2), 1e-300), 1.0)))


def _tucker(layer: TargetLayer, settings: LowRank) -> Iterator[Option]:
    """Pairs of ranks that keep the same energy of both unfoldings; the sum of what they lose bounds the error."""
    kernel = layer.kernel
    energies = [singular_values(unfolded(kernel, mode)) ** 2 for mode in (1, 0)]
    kept = [np.cumsum(each) / max(each.sum(), 1e-300) for each in energies]
    seen = set()
    for missing in np.geomspace(0.95, 1e-3, _most_ranks(settings)):
        first, last = (int(np.searchsorted(each, 1 - missing)) + 1 for each in kept)
        ranks = tuple(
            min(_multiple(rank, settings.step), len(each))
            for rank, each in zip((first, last), kept, strict=True)
        )
        if ranks not in seen:
            seen.add(ranks)
            lost = sum(1 - float(each[rank - 1]) for rank, each in zip(ranks, kept, strict=True))
            yield Option(Factors("tucker", ranks), min(max(lost, 0.0), 1.0))


def _cp(layer: TargetLayer, ranks: Sequence[int]) -> Iterator[Option]:
    kernel = layer.kernel
    for rank in ranks:
        factors = Factors("cp", (rank,))
        error = np.sum((product(factor_weights(kernel, factors, CP_ITERATIONS), "cp") - kernel) ** 2)
        yield Option(factors, float(min(error / np.sum(kernel**2), 1.0)))


_CURVES = {"channel": _channel, "spatial": _spatial, "cp": _cp}
