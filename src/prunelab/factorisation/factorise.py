"""factorise: layers of a network become sequences of smaller ones."""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from prunelab.calibration import LeastSquares, Pair
from prunelab.distributed.messages import info
from prunelab.errors import UserError
from prunelab.factorisation.costs import Counted
from prunelab.factorisation.decomposition import factor_weights, require_tensorly
from prunelab.factorisation.options import chosen_by_hand, chosen_by_vbmf, knapsack_of, response_moments
from prunelab.factorisation.rank_choice import RankChoice, chosen_by_latency
from prunelab.factorisation.settings import LowRank
from prunelab.factorisation.target_layers import TargetLayer, sample_inputs, target_layers
from prunelab.structure import PruningPlan, analyze
from prunelab.structure.low_rank import Factorisation, Factors, parts_of, replace_layer, set_weights
from prunelab.structure.surgery.substituting import substitute
from prunelab.structure.wrappers import uncompiled

log = logging.getLogger(__name__)


def factorise(
    model: nn.Module,
    example_input: Tensor,
    settings: LowRank,
    images: Iterable[Tensor] = (),
    seed: int = 0,
) -> nn.Module:
    """Replace convolutions and linear layers of ``model``, in place, by sequences of smaller plain layers.

    Layers with groups, shared weights, hooks or code of their own are left alone, and so is every layer that would
    become larger; messages name them and the reason. The network can be analysed, pruned, trained, saved and
    exported as any other one.

    Args:
        model: any network, pruned or not.
        example_input: one image (1, C, H, W), for the sizes of feature maps.
        settings: decomposition and rule for the ranks.
        images: batches (N, C, H, W) on the device of the network, from which responses are reconstructed; without
            images the weights alone are approximated.
        seed: of the positions at which responses are sampled.

    Returns:
        ``model``. Its attribute ``prunelab_plan`` describes what was done; ``prunelab.save`` writes it.

    Raises:
        UserError: tensorly is not installed, a layer of ``settings.ranks`` does not exist, or the budget cannot be
            reached. Nothing is changed then.

    Example:
        >>> network = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 16, 3))
        >>> low = prunelab.LowRank("svd", ranks={"2": 4}, forms=["spatial"])
        >>> prunelab.factorise(network, torch.zeros(1, 3, 8, 8), low)[2]
        Sequential(
          (0): Conv2d(16, 4, kernel_size=(3, 1), stride=(1, 1), bias=False)
          (1): Conv2d(4, 16, kernel_size=(1, 3), stride=(1, 1))
        )
    """
    factorise_as(model, example_input, settings, images, seed)
    return model


def factorise_as(
    model: nn.Module,
    example_input: Tensor,
    settings: LowRank,
    images: Iterable[Tensor] = (),
    seed: int = 0,
    known: RankChoice | None = None,
) -> RankChoice:
    """``factorise``, with the ranks that were chosen.

    Args:
        known: an earlier choice for this network; None: it is made now.
    """
    if settings.decomposition == "none":
        return RankChoice({})
    require_tensorly()
    batches = list(images)
    with uncompiled(model) as network:
        layers = target_layers(network, example_input, settings.exclude)
        if unknown := [path for path in settings.exclude if path not in dict(network.named_modules())]:
            raise UserError(f"lowrank.exclude: there is no layer {unknown[0]!r} in this network.")
        if batches and settings.decomposition == "svd":
            sample_inputs(network, layers.values(), batches, seed)
        choice = _choice(network, example_input, layers, settings) if known is None else known
        if choice.layers:
            _factorise(network, layers, choice.layers, batches, example_input, settings.reconstruct, seed)
        _report(layers, choice.layers)
    return choice


def _choice(
    network: nn.Module, example: Tensor, layers: Mapping[str, TargetLayer], settings: LowRank
) -> RankChoice:
    if settings.latency is not None:
        return chosen_by_latency(
            network, example, layers, settings, lambda chosen: _replaceable(network, example, chosen)
        )
    chosen = _smaller(layers, _chosen(network, example, layers, settings))
    return RankChoice(_replaceable(network, example, chosen))


def _chosen(
    network: nn.Module, example: Tensor, layers: Mapping[str, TargetLayer], settings: LowRank
) -> dict[str, Factors]:
    if settings.keep is None:
        by_hand = isinstance(settings.ranks, Mapping)
        return (chosen_by_hand if by_hand else chosen_by_vbmf)(layers, settings)
    total = float(analyze(network, example).cost.function(settings.resource)())
    return knapsack_of(layers, settings, Counted(settings.resource), total).solved(settings.keep)[0]


def _smaller(layers: Mapping[str, TargetLayer], chosen: Mapping[str, Factors]) -> dict[str, Factors]:
    """The sequences that are smaller than their layers; the others are named in the log."""
    for path, factors in chosen.items():
        if not layers[path].shrinks(factors):
            info(f"Low rank: {path} is left alone: {factors} would not make it smaller.")
    return {path: factors for path, factors in chosen.items() if layers[path].shrinks(factors)}


def _replaceable(network: nn.Module, example: Tensor, chosen: dict[str, Factors]) -> dict[str, Factors]:
    """The layers without which the network still runs: its code may read attributes of a layer, such as its weight."""
    if _runs(network, example, chosen):
        return chosen
    found = {path: factors for path, factors in chosen.items() if _runs(network, example, {path: factors})}
    for path in chosen.keys() - found.keys():
        info(f"Low rank: {path} is left alone: the code of the network reads its attributes.")
    return found


@torch.no_grad()
def _runs(network: nn.Module, example: Tensor, chosen: dict[str, Factors]) -> bool:
    if not chosen:
        return True
    trial = substitute(copy.deepcopy(network), Factorisation(chosen)).eval()
    try:
        trial(example)
    except Exception as error:  # of the network's own code, of any class
        log.debug("Without %s the network fails: %s", ", ".join(chosen), error)
        return False
    return True


def _factorise(
    network: nn.Module,
    layers: Mapping[str, TargetLayer],
    chosen: Mapping[str, Factors],
    batches: list[Tensor],
    example: Tensor,
    reconstruct: bool,
    seed: int,
) -> None:
    reference = _reference(network, layers, chosen) if batches and reconstruct else None
    weights = {path: _weights(layers[path], factors) for path, factors in chosen.items()}
    substitute(network, Factorisation(dict(chosen)))
    for path, (found, bias) in weights.items():
        made = network.get_submodule(path)
        assert isinstance(made, nn.Sequential)
        set_weights(made, found, bias)
    if reference is not None:
        LeastSquares()(Pair(reference, network, PruningPlan(kept={}, widths={}), batches, example, seed))


def _weights(layer: TargetLayer, factors: Factors) -> tuple[list[Tensor], Tensor | None]:
    """The weights of the sequence, and the bias of its last layer."""
    inputs = layer.sampled()
    bias = layer.module.bias
    if factors.form != "channel" or inputs is None:
        found = [torch.from_numpy(each) for each in factor_weights(layer.kernel, factors)]
        return found, None if bias is None else bias.detach()
    # Zhang et al., equation 6: responses are projected on their principal components.
    covariance, mean = response_moments(layer, inputs)
    basis = torch.linalg.eigh(torch.from_numpy(covariance)).eigenvectors.flip(1)[:, : factors.ranks[0]]
    kernel = torch.from_numpy(layer.kernel)
    first = torch.einsum("or,oikl->rikl", basis, kernel)
    centre = torch.from_numpy(mean)
    moved = centre - basis @ (basis.T @ centre)
    return [first, basis[:, :, None, None]], None if bias is None else bias.detach() + moved.to(bias)


def _reference(
    network: nn.Module, layers: Mapping[str, TargetLayer], chosen: Mapping[str, Factors]
) -> nn.Module:
    """A copy of the network in which each layer has the path of the last layer of its sequence."""
    reference = copy.deepcopy(network)
    for path, factors in chosen.items():
        before = len(parts_of(layers[path].module, factors)) - 1
        layer = reference.get_submodule(path)
        replace_layer(reference, path, nn.Sequential(*(nn.Identity() for _ in range(before)), layer))
    return reference


def _report(layers: Mapping[str, TargetLayer], chosen: Mapping[str, Factors]) -> None:
    for path, factors in chosen.items():
        log.debug("Low rank: %s becomes %s.", path, factors)

    def cost(resource: str, which: Mapping[str, Factors]) -> int:
        return sum(layer.cost(resource, which.get(path)) for path, layer in layers.items())

    before, after = ([cost(each, which) for each in ("flops", "params")] for which in ({}, chosen))
    info(
        f"Low rank: {len(chosen)} of {len(layers)} layers are factorised. Their FLOPs: {before[0]:.4g} -> "
        f"{after[0]:.4g}, parameters: {before[1]:.4g} -> {after[1]:.4g}."
    )
