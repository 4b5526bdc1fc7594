"""Scoring, ranks, candidate networks and latency on a GPU."""

from __future__ import annotations

import copy
import gc
import itertools
from collections.abc import Callable, Container, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from gpu_timing import Row, device_milliseconds, wall_seconds
from scoring import CASES, CRITERIA, Case, forward, network_of
from torch import Tensor, nn

from prunelab.methods import Budget, EagleEye, ImportanceMethod, L1Norm
from prunelab.methods.importance.hrank import MeanRank
from prunelab.structure.surgery.candidate import candidate

CUDA = torch.device("cuda", 0)
MAPS = ((256, 32), (256, 56), (512, 28), (1024, 14), (2048, 7))
"""(channels, side) of the maps of a batch of 8 whose ranks are timed; ResNet-50's, and ResNet-56's largest."""
BUDGETS = (0.7, 0.5, 0.3)
DIVISORS = (1, 8, 16, 32)
COMPILED = (1.0, 0.5)
"""The fractions of FLOPs at which networks are also compiled, which takes half a minute each."""
LATENCY_BATCH = 64


def loaded(case: Case, quick: bool) -> tuple[Case, nn.Module, list[tuple[Tensor, Tensor]]]:
    """The network and its batches on the GPU; eight times the images of the CPU's benchmark, in larger batches."""
    case = replace(case, images=case.batch * 2 if quick else case.images * 8, batch=case.batch * 8)
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(case.images, 3, case.side, case.side, generator=generator)
    targets = torch.randint(10, (case.images,), generator=generator)
    model = network_of(case, images[:64]).to(CUDA)
    batches = [
        (some.to(CUDA), classes.to(CUDA))
        for some, classes in zip(images.split(case.batch), targets.split(case.batch), strict=True)
    ]
    return case, model, batches


def scoring(done: Container[str], quick: bool) -> Iterator[Row]:
    """Each criterion as a multiple of a forward pass, and its memory; without curl, a pass per channel."""
    for case in CASES:
        wanted = {
            name: criterion for name, criterion in CRITERIA.items() if f"{case.network}, {name}" not in done
        }
        if not wanted:
            continue
        case, model, batches = loaded(case, quick)
        method = ImportanceMethod(L1Norm(), Budget(flops=0.5), images=case.images)
        context = method.context(model, batches[0][0][:1].cpu(), batches, device=CUDA)
        pass_s = wall_seconds(partial(forward, model, batches), repetitions=5)
        for name, criterion in wanted.items():
            seconds, peak = _with_peak(partial(criterion.score, context), quick)
            yield f"{case.network}, {name}", {
                "seconds": seconds, "forward_s": pass_s, "forwards": seconds / pass_s, "peak_gib": peak,
                "side": case.side, "images": case.images, "batch": case.batch,
            }  # fmt: skip


def _with_peak(work: Callable[[], Any], quick: bool) -> tuple[float, float]:
    """Seconds, and the peak of allocated memory in GiB, network and images included."""
    work()  # what is loaded once is loaded now
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    seconds = wall_seconds(work, repetitions=1 if quick else 3)
    return seconds, torch.cuda.max_memory_allocated() / 2**30


def ranks(done: Container[str], quick: bool) -> Iterator[Row]:
    """hrank's ranks of random maps after a ReLU, half of them of a low rank, next to ``matrix_rank``."""
    for channels, side in MAPS:
        name = f"{8 * channels} of {side}x{side}"
        if name in done:
            continue
        maps = torch.randn(8, channels, side, side, device=CUDA)
        low = torch.randn(8, channels // 2, side, 3, device=CUDA) @ torch.randn(3, side, device=CUDA)
        maps[:, ::2] = low
        maps.relu_()
        ours_s, plain_s = (wall_seconds(partial(work, maps)) for work in (_mean_ranks, _matrix_ranks))
        difference = float((_mean_ranks(maps) - _matrix_ranks(maps)).abs().max())
        yield name, {"ms": 1000 * ours_s, "matrix_rank_ms": 1000 * plain_s, "largest_difference": difference}


def _mean_ranks(maps: Tensor) -> Tensor:
    metric = MeanRank(maps.shape[1]).to(CUDA)
    metric.update(maps)
    return metric.compute()


def _matrix_ranks(maps: Tensor) -> Tensor:
    return torch.linalg.matrix_rank(maps).double().mean(dim=0)


def eagleeye(done: Container[str], quick: bool) -> Iterator[Row]:
    """Candidates judged per second: pruned, statistics measured anew, accuracy on held-out images."""
    for case in CASES:
        for workers in (1, 4):
            name = f"{case.network}, workers={workers}"
            if name in done:
                continue
            small, model, batches = loaded(case, quick)
            method = EagleEye(
                Budget(flops=0.5), candidates=4 if quick else 40, images=small.images,
                validation_images=small.images, workers=workers, tolerance=0.02,
            )  # fmt: skip
            example = batches[0][0][:1].cpu()
            context = method.context(model, example, batches, device=CUDA, validation=batches)
            seconds = wall_seconds(partial(method.decide, context), repetitions=1)
            yield name, {
                "candidates_per_s": method.sampler.count / seconds, "candidates": method.sampler.count,
                "calibration_images": small.images, "held_out_images": small.images, "side": small.side,
            }  # fmt: skip


def latency(done: Container[str], quick: bool) -> Iterator[Row]:
    """ResNet-50 in bfloat16 and channels-last order, a batch of 64 images: eager and compiled."""
    case, model, _ = loaded(CASES[1], True)
    side = 64 if quick else case.side
    images = torch.randn(LATENCY_BATCH, 3, side, side, device=CUDA)
    images = images.bfloat16().contiguous(memory_format=torch.channels_last)
    for divisor, keep in ((1, 1.0), *itertools.product(DIVISORS, BUDGETS)):
        name = "full" if keep == 1 else f"flops={keep}, multiples of {divisor}"
        if name in done:
            continue
        method = ImportanceMethod(L1Norm(), Budget(flops=keep), allocation="uniform", divisor=divisor)
        context = method.context(model, torch.zeros(1, 3, side, side), device=CUDA)
        cost = context.graph.cost
        plan = context.graph.plan() if keep == 1 else method.decide(context)
        row = _latency(candidate(model, plan), images, compiles=keep in COMPILED)
        yield (
            name,
            row
            | {"flops_kept": float(cost.flops(plan) / cost.flops()), "side": side, "batch": LATENCY_BATCH},
        )


def _latency(model: nn.Module, images: Tensor, compiles: bool) -> dict[str, float]:
    network = copy.deepcopy(model).to(CUDA, torch.bfloat16).to(memory_format=torch.channels_last).eval()
    with torch.inference_mode():
        found = {"eager_ms": device_milliseconds(lambda: network(images))}
        if compiles:
            torch.compiler.reset()
            network.compile()
            found["compiled_ms"] = device_milliseconds(lambda: network(images))
    return found
