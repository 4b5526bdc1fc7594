"""Plain versions of the official procedures of searches, for ``search.py``."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from prunelab.methods import PruningContext, Scores
from prunelab.methods.reconstruction.readers import find_readers, kept_indices
from prunelab.methods.search.pruning_net import PruningNet
from prunelab.methods.search.widths import Widths, WidthSpace
from prunelab.structure import PruningPlan, apply, candidate, masked_forward

Batches = list[tuple[Tensor, Tensor]]
SAMPLES = 5120
"""Positions at which AMC's layers are refitted: 10 of each of 512 images."""


def plain_amc_episode(context: PruningContext, held_out: Batches) -> Callable[[PruningPlan], float]:
    """A function that judges one plan as the official code: each layer that loses inputs is fitted to samples of its
    inputs (here random numbers of their size), and the masked full network runs over the held-out images."""
    readers = find_readers(context.model, context.graph)
    generator = torch.Generator().manual_seed(0)
    samples = {
        name: torch.randn(SAMPLES, reader.inputs * reader.kernel_size, generator=generator)
        for name, reader in readers.items()
    }
    outputs = {
        name: torch.randn(SAMPLES, context.model.get_parameter(name).shape[0], generator=generator)
        for name in readers
    }

    def judged(plan: PruningPlan) -> float:
        for name, reader in readers.items():
            kept = kept_indices(reader, plan, dim=1)
            if kept is None:
                continue
            taps = samples[name].reshape(SAMPLES, reader.inputs, -1)[:, torch.from_numpy(kept)].flatten(1)
            torch.linalg.lstsq(taps, outputs[name])
        hits = 0
        with torch.no_grad():
            for images, targets in held_out:
                logits = masked_forward(context.model, plan, images)
                hits += int((logits.argmax(dim=1) == targets).sum())
        return hits / sum(len(targets) for _, targets in held_out)

    return judged


def plain_eagleeye(network: nn.Module, plan: PruningPlan, calibration: Batches, held_out: Batches) -> float:
    """A pruned copy of the network, whose running statistics are measured in training mode."""
    pruned = apply(copy.deepcopy(network), plan)
    with torch.no_grad():
        pruned.train()
        for images, _ in calibration:
            pruned(images)
        return _accuracy(pruned.eval(), held_out)


def plain_metapruning(
    network: nn.Module, net: PruningNet, plan: PruningPlan, calibration: Batches, held_out: Batches
) -> float:
    """The weights are generated in every forward pass, as in the official code."""
    pruned = candidate(network, plan)
    parameters = dict(pruned.named_parameters())

    def generated(images: Tensor) -> Tensor:
        for name, tensor in net.cropped(plan).items():
            parameters[name].data = tensor
        found: Tensor = pruned(images)
        return found

    with torch.no_grad():
        pruned.train()
        for images, _ in calibration:
            generated(images)
        pruned.eval()
        hits = sum(int((generated(images).argmax(dim=1) == targets).sum()) for images, targets in held_out)
    return hits / sum(len(targets) for _, targets in held_out)


def _accuracy(network: nn.Module, held_out: Batches) -> float:
    hits = sum(int((network(images).argmax(dim=1) == targets).sum()) for images, targets in held_out)
    return hits / sum(len(targets) for _, targets in held_out)


def shared_fraction(context: PruningContext, space: WidthSpace, scores: Scores, rows: Widths) -> float:
    """The fraction of multiplications that candidates, sorted by their widths in network order, share with the one
    before: those of layers in front of the first layer whose widths differ. An upper bound of what caches can save."""
    place = {path: number for number, (path, _) in enumerate(context.model.named_modules())}
    columns = {group.name: column for column, group in enumerate(context.graph.groups)}
    starts = {
        name: min(place[part.parameter.rpartition(".")[0]] for part in context.graph.group(name).slices)
        for name in space.choices
    }
    order = sorted(starts, key=lambda name: starts[name])
    ranked = sorted(rows.tolist(), key=lambda row: [row[columns[name]] for name in order])
    total = shared = 0
    before: Sequence[int] = ()
    for row in ranked:
        costs = _multiplications(context, space.plan(row, scores))
        total += sum(costs.values())
        if before:
            differing = [name for name in order if before[columns[name]] != row[columns[name]]]
            first = starts[differing[0]]
            shared += sum(cost for path, cost in costs.items() if place[path] < first)
        before = row
    return round(shared / total, 4)


def _multiplications(context: PruningContext, plan: PruningPlan) -> dict[str, int]:
    """Of each convolution and linear layer, for one image."""
    network = candidate(context.model, plan)
    found: dict[str, int] = {}

    def counted(path: str) -> Callable[..., None]:
        def hook(layer: nn.Module, given: object, out: Tensor) -> None:
            weight = layer.get_parameter("weight")
            found[path] = out[0].numel() * weight[0].numel()

        return hook

    for path, module in network.named_modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.register_forward_hook(counted(path))
    with torch.no_grad():
        network.eval()(context.example_input)
    return found


def lazily(steps: Sequence[dict[str, tuple[float, ...]]]) -> dict[str, int]:
    """Lazy evaluation of a greedy descent, simulated: ``steps`` hold the true (errors, loss) of each candidate.

    Candidates are evaluated in the order of their last known values, until the best new one is below all others' known
    ones. Each step starts from the network of the true descent.
    """
    known: dict[str, tuple[float, ...]] = {}
    evaluations = others = 0
    for values in steps:
        fresh: dict[str, tuple[float, ...]] = {}
        for name in sorted(values, key=lambda each: known.get(each, (-1.0,))):
            if fresh and name in known and min(fresh.values()) <= known[name]:
                break
            fresh[name] = known[name] = values[name]
        best = min(values, key=lambda each: values[each])
        evaluations += len(fresh)
        others += min(fresh, key=lambda each: fresh[each]) != best
        known[best] = values[best]
    return {
        "steps": len(steps),
        "evaluations of all": sum(len(values) for values in steps),
        "evaluations": evaluations,
        "decisions that differ": others,
    }
