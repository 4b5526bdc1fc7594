"""How long does each criterion take, compared with one forward pass over the same images?

Networks: ResNet-56 for CIFAR (512 random images of 32x32) and timm's ResNet-50 (64 random images of 224x224), with
random weights. The affine parameters of normalisations are random too (the last scale of timm's branches is zero
initially, so their channels would have no effect), and running statistics are measured on the first batch. A forward
pass and a criterion are measured alternately in one process, and the table shows the ratio of their median times.
Time is CPU time of the process on one thread, which depends little on other programs.

hrank, curl and eagleeye are also compared with direct implementations of their definitions on the same images:

- hrank: a pass for each layer and a ``matrix_rank`` call for each map, as in the authors' code ("hrank"); and with
  the maps of all layers from one pass ("hrank, one pass").
- curl: a masked pass over all images for each channel.
- eagleeye, drawing: random rates until the network meets the budget. Direct: for each draw a copy of the network is
  pruned and its FLOPs are counted in a pass; the seconds of one draw are divided by the fraction of draws that meet
  the budget. prunelab: the cost model.
- eagleeye, judging: adapting batch normalisation and measuring accuracy, of a masked copy (direct) and a pruned one.
- eagleeye, drawing and judging: the sum of both, the time of one candidate in a search.

The direct implementations would take hours for whole networks, so few images are used for both, and for curl a few
groups from all parts of the network (the record contains the numbers). By definition curl needs one pass per channel;
its time is given for these groups only.

    OMP_NUM_THREADS=1 python experiments/benchmarks/scoring.py                          # minutes to an hour
    OMP_NUM_THREADS=1 python experiments/benchmarks/scoring.py --quick                  # an eighth of the images
    OMP_NUM_THREADS=1 python experiments/benchmarks/scoring.py --networks cifar_resnet56 --repetitions 5

Writes experiments/benchmarks/records/scoring.json, network by network.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import timm
import torch
from torch import Tensor, nn
from torch.nn import functional

import prunelab.models  # noqa: F401 - registers cifar_resnet56
from prunelab.methods import (
    CHIP,
    CURL,
    FPGM,
    NISP,
    PFA,
    SCSP,
    APoZ,
    BNGamma,
    Budget,
    Criterion,
    DepGraph,
    EagleEye,
    Entropy,
    Fisher,
    HRank,
    ImportanceMethod,
    L1Norm,
    L2Norm,
    PruningContext,
    Random,
    Taylor,
)
from prunelab.methods.search.batch_norm import adapt_batch_norm
from prunelab.methods.search.widths import WidthSpace
from prunelab.structure import ChannelGroup, PruningPlan, apply, channels_first, observe
from prunelab.structure.surgery.candidate import candidate

RECORD = Path(__file__).parent / "records" / "scoring.json"
CRITERIA: dict[str, Criterion] = {
    "random": Random(),
    "l1": L1Norm(),
    "l2": L2Norm(),
    "bn_gamma": BNGamma(missing="keep"),
    "apoz": APoZ(),
    "entropy": Entropy(),
    "pfa": PFA(),
    "hrank": HRank(),
    "taylor": Taylor(),
    "nisp": NISP(),
    "fpgm": FPGM(),
    "scsp": SCSP(restarts=1),
    "fisher": Fisher(),
    "chip": CHIP(),
    "depgraph": DepGraph(),
}


@dataclass(frozen=True)
class Case:
    """One network, the number of its images, and the groups that curl scores."""

    network: str
    side: int
    images: int
    batch: int
    plain_hrank_images: int
    plain_curl_images: int
    plain_curl_groups: int


CASES = (
    Case("cifar_resnet56", 32, 512, 64, plain_hrank_images=16, plain_curl_images=16, plain_curl_groups=7),
    Case("resnet50", 224, 64, 8, plain_hrank_images=1, plain_curl_images=1, plain_curl_groups=2),
)


def timed(work: Callable[[], Any]) -> float:
    """CPU seconds."""
    started = time.process_time()
    work()
    return time.process_time() - started


def alternating(first: Callable[[], Any], second: Callable[[], Any], repetitions: int) -> tuple[float, float]:
    """The median CPU seconds of two pieces of work that take turns."""
    seconds = [(timed(first), timed(second)) for _ in range(repetitions)]
    return median(pair[0] for pair in seconds), median(pair[1] for pair in seconds)


def forward(model: nn.Module, batches: list[tuple[Tensor, Tensor]]) -> None:
    """One plain pass."""
    with torch.no_grad():
        for images, _ in batches:
            model(images)


def context_for(model: nn.Module, batches: list[tuple[Tensor, Tensor]], images: int) -> PruningContext:
    """The context of the criteria."""
    method = ImportanceMethod(L1Norm(), Budget(flops=0.5), images=images)
    return method.context(model, batches[0][0][:1], batches)


def spread_groups(context: PruningContext, count: int) -> list[ChannelGroup]:
    """A few groups of level filter, from the first to the last."""
    groups = [group for group in context.groups if group.level == "filter"]
    return [groups[i] for i in np.linspace(0, len(groups) - 1, count).round().astype(int)]


def plain_hrank(context: PruningContext, images: Tensor, one_pass: bool) -> dict[str, np.ndarray]:
    """One rank at a time, as defined; with a separate pass for each layer, or one pass for all."""
    ranks: dict[Any, list[int]] = {}

    def note(hook_point: Any) -> Callable[[Tensor, int], None]:
        def rank_maps(tensor: Tensor, dim: int) -> None:
            maps = channels_first(tensor, dim).flatten(0, 1)
            ranks[hook_point] = [int(torch.linalg.matrix_rank(single)) for single in maps]

        return rank_maps

    hook_points = list({found.hook_point for group in context.groups for found in group.hook_points})
    with torch.no_grad():
        for part in [hook_points] if one_pass else [[hook_point] for hook_point in hook_points]:
            with observe(context.model, {hook_point: note(hook_point) for hook_point in part}):
                context.model(images)
    mean = {
        hook_point: np.reshape(found, (len(images), -1)).mean(axis=0) for hook_point, found in ranks.items()
    }
    return {
        group.name: np.mean(
            [mean[found.hook_point][found.positions[:, 0]] for found in group.hook_points], axis=0
        )
        for group in context.groups
    }


def plain_curl(context: PruningContext, images: Tensor) -> dict[str, np.ndarray]:
    """One masked pass over all images for each channel."""
    scores = {}
    with torch.no_grad():
        original = functional.log_softmax(context.model(images), dim=1)
        for group in context.groups:
            found = []
            for channel in range(group.size):
                masks = {at.hook_point: zeroing(at.positions[channel]) for at in group.hook_points}
                with observe(context.model, masks):
                    masked = functional.log_softmax(context.model(images), dim=1)
                found.append(float((masked.exp() * (masked - original)).sum(dim=1).mean()))
            scores[group.name] = np.array(found)
    return scores


def zeroing(positions: np.ndarray) -> Callable[[Tensor, int], None]:
    """Sets these channels to zero."""

    def zero(tensor: Tensor, dim: int) -> None:
        channels_first(tensor, dim)[:, positions] = 0

    return zero


def against_plain(
    fast: Callable[[], dict[str, np.ndarray]], plain: Callable[[], dict[str, np.ndarray]]
) -> dict[str, float]:
    """Seconds of both, their ratio, and the largest difference of their scores."""
    found: dict[str, dict[str, np.ndarray]] = {}
    fast_s = timed(lambda: found.update(fast=fast()))
    plain_s = timed(lambda: found.update(plain=plain()))
    difference = max(
        float(np.abs(found["fast"][name] - scores).max() / max(np.abs(scores).max(), 1e-30))
        for name, scores in found["plain"].items()
    )
    return {
        "seconds": fast_s,
        "plain_seconds": plain_s,
        "times_faster": plain_s / fast_s,
        "largest_relative_difference": difference,
    }


def counted_flops(model: nn.Module, image: Tensor) -> float:
    """FLOPs of the convolutions and linear layers in one pass, from the shapes in hooks."""
    total = 0.0

    def count(module: nn.Module, given: tuple[Tensor, ...], out: Tensor) -> None:
        nonlocal total
        assert isinstance(module, nn.Conv2d | nn.Linear)
        total += 2.0 * module.weight[0].numel() * out[0].numel()

    hooks = [m.register_forward_hook(count) for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    with torch.no_grad():
        model(image)
    for hook in hooks:
        hook.remove()
    return total


def drawing(
    context: PruningContext, method: EagleEye, image: Tensor, plain_draws: int = 5
) -> dict[str, float]:
    """Seconds for one candidate that meets the budget: with the cost model, and by pruning and counting copies."""
    scores = method.criterion.score(context)
    space = WidthSpace.of(context, scores)
    rates = np.random.default_rng(0).random((100_000, space.dimensions)) * method.sampler.max_rate
    costs = np.concatenate([space.costs(space.widths(part)) for part in np.array_split(rates, 25)])
    fits = (space.target - method.sampler.tolerance * space.scale <= costs) & (costs <= space.target)

    def plain_draw(row: np.ndarray) -> None:
        network = copy.deepcopy(context.model)
        apply(network, space.plan(space.widths(row[None])[0], scores))
        counted_flops(network, image)

    fast_s = timed(lambda: method.sampler.draw(space)) / method.sampler.count
    one_s = timed(lambda: [plain_draw(row) for row in rates[:plain_draws]]) / plain_draws
    plain_s = one_s / max(fits.mean(), 1 / len(fits))
    return {
        "seconds": fast_s,
        "plain_seconds": plain_s,
        "times_faster": plain_s / fast_s,
        "draws_that_meet_the_budget": float(fits.mean()),
    }


def judging(
    context: PruningContext, method: EagleEye, batches: list[tuple[Tensor, Tensor]]
) -> dict[str, float]:
    """Seconds to judge one candidate on these batches: pruned, and as a masked copy."""
    scores = method.criterion.score(context)
    space = WidthSpace.of(context, scores)
    plan = space.plan(method.sampler.draw(space)[0], scores)
    images = [batch for batch, _ in batches]

    def accuracy(network: nn.Module) -> None:
        adapt_batch_norm(network, images)
        forward(network, batches)

    pruned_s, masked_s = alternating(
        lambda: accuracy(candidate(context.model, plan, share=True)),
        lambda: accuracy(masked_copy(context, plan)),
        repetitions=2,
    )
    return {"seconds": pruned_s, "plain_seconds": masked_s, "times_faster": masked_s / pruned_s}


def in_turn(*parts: dict[str, float]) -> dict[str, float]:
    """One piece of work after the other."""
    seconds, plain_s = (sum(part[key] for part in parts) for key in ("seconds", "plain_seconds"))
    return {"seconds": seconds, "plain_seconds": plain_s, "times_faster": plain_s / seconds}


def masked_copy(context: PruningContext, plan: PruningPlan) -> nn.Module:
    """A copy of the network in which the weights that read a removed channel are zero."""
    network = copy.deepcopy(context.model)
    with torch.no_grad():
        for group in context.graph.groups:
            removed = np.setdiff1d(np.arange(group.size), plan.kept.get(group.name, range(group.size)))
            for part in group.having("consumer"):
                weight = network.get_parameter(part.parameter)
                weight.index_fill_(part.dim, torch.from_numpy(part.index[removed].ravel()), 0.0)
    return network


def network_of(case: Case, images: Tensor) -> nn.Module:
    """Random weights and affine parameters, running statistics of these images."""
    torch.manual_seed(0)
    model: nn.Module = timm.create_model(case.network, num_classes=10)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.2)
    adapt_batch_norm(model, [images])
    return model


def measure(case: Case, repetitions: int) -> dict[str, Any]:
    """All criteria on one network."""
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(case.images, 3, case.side, case.side, generator=generator)
    targets = torch.randint(10, (case.images,), generator=generator)
    batches = list(zip(images.split(case.batch), targets.split(case.batch), strict=True))
    model = network_of(case, batches[0][0])
    context = context_for(model, batches, case.images)
    rows: dict[str, Any] = {}
    forward_s = 0.0
    print(f"\n{case.network}, {case.images} images of {case.side}x{case.side}")
    print(f"{'criterion':10s} {'reads':26s} {'seconds':>9s} {'/ forward':>10s}")
    forward(model, batches[:1])
    for name, criterion in CRITERIA.items():
        criterion.score(context_for(model, batches, 1))  # loads modules that are imported once
        if criterion.reads.startswith("activations"):
            seconds, forward_s = alternating(
                lambda criterion=criterion: criterion.score(context),
                lambda: forward(model, batches),
                repetitions,
            )
        else:  # compared with the latest forward pass, because these take almost no time
            seconds = median(timed(lambda c=criterion: c.score(context)) for _ in range(repetitions))
            forward_s = forward_s or timed(lambda: forward(model, batches))
        rows[name] = {"seconds": seconds, "forward_seconds": forward_s, "ratio": seconds / forward_s}
        print(f"{name:10s} {criterion.reads:26s} {seconds:9.2f} {seconds / forward_s:10.2f}", flush=True)
    return {"case": vars(case), "criteria": rows, "against_plain": compare(case, context, batches)}


def compare(case: Case, context: PruningContext, batches: list[tuple[Tensor, Tensor]]) -> dict[str, Any]:
    """hrank, curl and eagleeye against their definitions."""
    few = batches[0][0][: case.plain_hrank_images]
    ranked = replace(context_for(context.model, batches, case.plain_hrank_images), graph=context.graph)
    proxy = batches[0][0][: case.plain_curl_images]
    chosen = replace(context.graph, groups=tuple(spread_groups(context, case.plain_curl_groups)))
    masked = replace(context_for(context.model, batches, len(proxy)), graph=chosen)
    eagleeye = EagleEye(Budget(flops=0.5), candidates=20, tolerance=0.01)
    ranks = lambda: dict(HRank().score(ranked).channels)  # noqa: E731
    ranks()  # loads modules that are imported once
    against = {
        "hrank": against_plain(ranks, lambda: plain_hrank(ranked, few, one_pass=False)),
        "hrank, one pass": against_plain(ranks, lambda: plain_hrank(ranked, few, one_pass=True)),
        "curl": against_plain(lambda: dict(CURL().score(masked).channels), lambda: plain_curl(masked, proxy)),
        "eagleeye, drawing": drawing(context, eagleeye, few[:1]),
        "eagleeye, judging": judging(context, eagleeye, batches[:2]),
    }
    against["eagleeye, drawing and judging a candidate"] = in_turn(
        against["eagleeye, drawing"], against["eagleeye, judging"]
    )
    against["curl"]["channels"] = sum(group.size for group in chosen.groups)
    for name, row in against.items():
        differs = row.get("largest_relative_difference")
        print(
            f"{name}: {row['seconds']:.4f} s, plain {row['plain_seconds']:.3f} s: {row['times_faster']:.1f} times "
            f"faster{'' if differs is None else f'; scores differ by {differs:.1e}'}",
            flush=True,
        )
    return against


def machine() -> dict[str, Any]:
    """The environment of the measurement."""
    names = [
        line.split(":", 1)[1].strip()
        for line in (Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else [])
        if line.startswith("model name")
    ]
    return {
        "processor": names[0] if names else platform.processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "clock": "CPU time of the process",
        "load_average": list(os.getloadavg()),
        "versions": {
            "torch": torch.__version__,
            "timm": timm.__version__,
            "python": platform.python_version(),
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--quick", action="store_true", help="use an eighth of the images; nothing is written"
    )
    parser.add_argument("--images", type=int, help="number of images, which is recorded")
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--networks", nargs="*", default=[case.network for case in CASES])
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    networks = json.loads(RECORD.read_text())["networks"] if RECORD.exists() else {}
    for case in CASES:
        if case.network not in arguments.networks:
            continue
        if arguments.images:
            case = replace(case, images=arguments.images)
        if arguments.quick:
            case = replace(
                case,
                images=case.images // 8,
                plain_hrank_images=1,
                plain_curl_images=max(1, case.plain_curl_images // 8),
            )
        result = measure(case, arguments.repetitions)
        networks[case.network] = {"repetitions": arguments.repetitions, "machine": machine(), **result}
        if not arguments.quick:
            RECORD.parent.mkdir(exist_ok=True)
            RECORD.write_text(json.dumps({"networks": networks}, indent=1) + "\n")
            print(f"wrote {RECORD}")


if __name__ == "__main__":
    main()
