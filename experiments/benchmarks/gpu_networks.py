"""Scoring, ranks, candidate networks and latency on a GPU."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Container, Iterator
from dataclasses import replace
from functools import lru_cache, partial

import torch
from gpu_timing import Figures, Place, Row
from scoring import CASES, CRITERIA, Case, forward, network_of
from torch import Tensor, nn

from prunelab.methods import OBS, Budget, Criterion, EagleEye, ImportanceMethod, L1Norm
from prunelab.methods.importance.hrank import MeanRank
from prunelab.structure.surgery.candidate import candidate

MAPS = ((256, 32), (256, 56), (512, 28), (1024, 14), (2048, 7))
"""(channels, side) of the maps of a batch of 8 whose ranks are timed; ResNet-50's, and ResNet-56's largest."""
BUDGETS = (0.7, 0.5, 0.3)
DIVISORS = (1, 8, 16, 32)
COMPILED = (1.0, 0.5)
"""The fractions of FLOPs at which networks are also compiled, which takes half a minute each."""
LATENCY_BATCH = 64
IMAGES = {"resnet50, hrank": 64}
"""Rows with fewer images than the others."""


@lru_cache(maxsize=1)
def loaded(
    case: Case, place: Place, images: int | None = None
) -> tuple[Case, nn.Module, list[tuple[Tensor, Tensor]]]:
    """The network and its batches on the device; eight times the images of the CPU's benchmark, in larger batches.

    In a trial a smaller network with smaller images.
    """
    if place.quick:
        small = {"cifar_resnet56": "cifar_resnet20", "resnet50": "resnet18"}
        case = replace(case, network=small[case.network], side=32, images=8, batch=4)
    else:
        case = replace(case, images=images or case.images * 8, batch=case.batch * 8)
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randn(case.images, 3, case.side, case.side, generator=generator)
    targets = torch.randint(10, (case.images,), generator=generator)
    model = network_of(case, pixels[:64]).to(place.device)
    batches = [
        (some.to(place.device), classes.to(place.device))
        for some, classes in zip(pixels.split(case.batch), targets.split(case.batch), strict=True)
    ]
    return case, model, batches


def criteria(place: Place) -> dict[str, Criterion]:
    """All but curl, which needs a pass for each channel. obs takes minutes on a processor, so a trial shortens it."""
    return {**CRITERIA, "obs": OBS(dampings=(0.1,), at_once=1.0, memory=2**24) if place.quick else OBS()}


def scoring(done: Container[str], place: Place) -> Iterator[Row]:
    """Each criterion as a multiple of a forward pass, and its memory."""
    for case, (name, criterion) in itertools.product(CASES, criteria(place).items()):
        row = f"{case.network}, {name}"
        if row not in done:
            yield row, partial(_scoring, case, criterion, IMAGES.get(row), place)


def _scoring(listed: Case, criterion: Criterion, images: int | None, place: Place) -> Figures:
    case, model, batches = loaded(listed, place, images)
    method = ImportanceMethod(L1Norm(), Budget(flops=0.5), images=case.images)
    first = method.context(model, batches[0][0][:1].cpu(), batches[:1], device=place.device)
    context = replace(first, calibration=replace(first.calibration, loader=batches))
    criterion.score(first)  # what is loaded once is loaded now
    forward(model, batches)
    pass_s = place.seconds(partial(forward, model, batches), repetitions=5)
    score = partial(criterion.score, context)
    peak = place.peak_gib(score)
    seconds = place.seconds(score)
    return {
        "seconds": seconds, "forward_s": pass_s, "forwards": seconds / pass_s, "peak_gib": peak,
        "side": case.side, "images": case.images, "batch": case.batch,
    }  # fmt: skip


def ranks(done: Container[str], place: Place) -> Iterator[Row]:
    """hrank's ranks of random maps after a ReLU, half of them of a low rank, next to ``matrix_rank``."""
    for channels, side in MAPS:
        name = f"{8 * channels} of {side}x{side}"
        if name not in done:
            yield name, partial(_ranks, channels // 32 if place.quick else channels, side, place)


def _ranks(channels: int, side: int, place: Place) -> Figures:
    maps = torch.randn(8, channels, side, side, device=place.device)
    ones = torch.randn(3, side, device=place.device)
    maps[:, ::2] = torch.randn(8, channels // 2, side, 3, device=place.device) @ ones
    maps.relu_()
    _mean_ranks(maps)  # what is loaded once is loaded now
    ours_s, plain_s = (place.seconds(partial(work, maps)) for work in (_mean_ranks, _matrix_ranks))
    difference = float((_mean_ranks(maps) - _matrix_ranks(maps)).abs().max())
    return {"ms": 1000 * ours_s, "matrix_rank_ms": 1000 * plain_s, "largest_difference": difference}


def _mean_ranks(maps: Tensor) -> Tensor:
    metric = MeanRank(maps.shape[1]).to(maps.device)
    metric.update(maps)
    return metric.compute()


def _matrix_ranks(maps: Tensor) -> Tensor:
    return torch.linalg.matrix_rank(maps).double().mean(dim=0)


def eagleeye(done: Container[str], place: Place) -> Iterator[Row]:
    """Candidates judged per second: pruning, new BatchNorm statistics, accuracy on held-out images."""
    for case, workers in itertools.product(CASES, (1, 4)):
        name = f"{case.network}, workers={workers}"
        if name not in done:
            yield name, partial(_eagleeye, case, workers, place)


def _eagleeye(listed: Case, workers: int, place: Place) -> Figures:
    case, model, batches = loaded(listed, place)
    method = EagleEye(
        Budget(flops=0.5), candidates=4 if place.quick else 40, images=case.images,
        validation_images=case.images, workers=workers, tolerance=0.02,
    )  # fmt: skip
    example = batches[0][0][:1].cpu()
    context = method.context(model, example, batches, device=place.device, validation=batches)
    forward(model, batches)
    seconds = place.seconds(partial(method.decide, context), repetitions=1)
    return {
        "candidates_per_s": method.sampler.count / seconds, "candidates": method.sampler.count,
        "calibration_images": case.images, "held_out_images": case.images, "side": case.side,
    }  # fmt: skip


def latency(done: Container[str], place: Place) -> Iterator[Row]:
    """ResNet-50 in bfloat16 and channels-last order, a batch of 64 images: eager and compiled."""
    named = {"full": (1, 1.0)} | {
        f"flops={keep}, multiples of {divisor}": (divisor, keep)
        for divisor, keep in itertools.product(DIVISORS, BUDGETS)
    }
    for name, (divisor, keep) in named.items():
        if name not in done:
            yield name, partial(_latency, divisor, keep, place)


def _latency(divisor: int, keep: float, place: Place) -> Figures:
    case, model, _ = loaded(CASES[1], place, images=64)
    batch = 2 if place.quick else LATENCY_BATCH
    images = torch.randn(batch, 3, case.side, case.side, device=place.device)
    images = images.bfloat16().contiguous(memory_format=torch.channels_last)
    method = ImportanceMethod(L1Norm(), Budget(flops=keep), allocation="uniform", divisor=divisor)
    context = method.context(model, torch.zeros(1, 3, case.side, case.side), device=place.device)
    cost = context.graph.cost
    plan = context.graph.plan() if keep == 1 else method.decide(context)
    times = _forward_ms(candidate(model, plan), images, keep in COMPILED, place)
    return times | {"flops_kept": float(cost.flops(plan) / cost.flops()), "side": case.side, "batch": batch}


def _forward_ms(model: nn.Module, images: Tensor, compiles: bool, place: Place) -> dict[str, float]:
    network = (
        copy.deepcopy(model).to(place.device, torch.bfloat16).to(memory_format=torch.channels_last).eval()
    )
    with torch.inference_mode():
        found = {"eager_ms": place.milliseconds(lambda: network(images))}
        if compiles:
            network.compile()
            found["compiled_ms"] = place.milliseconds(lambda: network(images))
            torch.compiler.reset()  # torch compiles a class 8 times at most
    return found
