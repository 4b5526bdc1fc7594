"""Scoring, ranks, candidate networks and latency on a GPU."""

from __future__ import annotations

import copy
import gc
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from gpu_timing import device_milliseconds, wall_seconds
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


def scoring(quick: bool) -> dict[str, Any]:
    """Each criterion as a multiple of a forward pass, and the memory that it takes."""
    found: dict[str, Any] = {}
    for case in CASES:
        found[case.network] = _scoring(case, quick)
    return found


def _scoring(case: Case, quick: bool) -> dict[str, Any]:
    case, model, batches = loaded(case, quick)
    method = ImportanceMethod(L1Norm(), Budget(flops=0.5), images=case.images)
    context = method.context(model, batches[0][0][:1].cpu(), batches, device=CUDA)
    pass_s = wall_seconds(lambda: forward(model, batches), repetitions=5)
    rows: dict[str, Any] = {}
    for name, criterion in CRITERIA.items():  # without curl: a pass for each channel
        seconds, peak = _with_peak(lambda criterion=criterion: criterion.score(context), quick)
        rows[name] = {"seconds": seconds, "forwards": seconds / pass_s, "peak_gib": peak}
        print(case.network, name, rows[name], flush=True)
    return {
        "side": case.side, "images": case.images, "batch": case.batch, "forward_s": pass_s, "criteria": rows,
    }  # fmt: skip


def _with_peak(work: Callable[[], Any], quick: bool) -> tuple[float, float]:
    """Seconds, and the peak of allocated memory in GiB, network and images included."""
    work()  # what is loaded once is loaded now
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    seconds = wall_seconds(work, repetitions=1 if quick else 3)
    return seconds, torch.cuda.max_memory_allocated() / 2**30


def ranks(quick: bool) -> dict[str, Any]:
    """hrank's ranks of random maps after a ReLU, half of them of a low rank, next to ``matrix_rank``."""
    found = {}
    for channels, side in MAPS:
        maps = torch.randn(8, channels, side, side, device=CUDA)
        low = torch.randn(8, channels // 2, side, 3, device=CUDA) @ torch.randn(3, side, device=CUDA)
        maps[:, ::2] = low
        maps.relu_()

        def fast(maps: Tensor = maps) -> Tensor:
            metric = MeanRank(maps.shape[1]).to(CUDA)
            metric.update(maps)
            return metric.compute()

        def plain(maps: Tensor = maps) -> Tensor:
            return torch.linalg.matrix_rank(maps).double().mean(dim=0)

        fast_s = wall_seconds(fast)
        once = time.perf_counter()
        expected = plain()
        torch.cuda.synchronize()
        plain_s = time.perf_counter() - once
        difference = float((fast() - expected).abs().max())
        found[f"{8 * channels} of {side}x{side}"] = {
            "ms": 1000 * fast_s, "matrix_rank_ms": 1000 * plain_s, "largest_difference": difference,
        }  # fmt: skip
    return found


def eagleeye(quick: bool) -> dict[str, Any]:
    """Candidates judged per second: pruned, statistics measured anew, accuracy on held-out images."""
    found = {}
    for case in CASES:
        case, model, batches = loaded(case, quick)
        for workers in (1, 4):
            count = 4 if quick else 40
            method = EagleEye(
                Budget(flops=0.5), candidates=count, images=case.images, validation_images=case.images,
                workers=workers, tolerance=0.02,
            )  # fmt: skip
            context = method.context(model, batches[0][0][:1].cpu(), batches, device=CUDA, validation=batches)
            seconds = wall_seconds(lambda: method.decide(context), repetitions=1)  # noqa: B023
            found[f"{case.network}, workers={workers}"] = {
                "candidates_per_s": count / seconds, "candidates": count, "calibration_images": case.images,
                "held_out_images": case.images, "side": case.side,
            }  # fmt: skip
    return found


def latency(quick: bool) -> dict[str, Any]:
    """ResNet-50 in bfloat16 and channels-last order, a batch of 64 images of 224x224: eager and compiled."""
    case, model, _ = loaded(CASES[1], True)
    side = 64 if quick else case.side
    images = torch.randn(LATENCY_BATCH, 3, side, side, device=CUDA)
    images = images.bfloat16().contiguous(memory_format=torch.channels_last)
    example = torch.zeros(1, 3, side, side)
    rows = {"full": _latency(model, images) | {"flops_kept": 1.0}}
    for divisor in DIVISORS:
        for keep in BUDGETS:
            method = ImportanceMethod(L1Norm(), Budget(flops=keep), allocation="uniform", divisor=divisor)
            context = method.context(model, example, device=CUDA)
            plan = method.decide(context)
            cost = context.graph.cost
            kept = float(cost.flops(plan) / cost.flops())
            compiles = keep == 0.5
            row = _latency(candidate(model, plan), images, compiles) | {"flops_kept": kept}
            rows[f"flops={keep}, multiples of {divisor}"] = row
            print(keep, divisor, row, flush=True)
    return {"batch": LATENCY_BATCH, "side": side, "networks": rows}


def _latency(model: nn.Module, images: Tensor, compiles: bool = True) -> dict[str, float]:
    network = copy.deepcopy(model).to(CUDA, torch.bfloat16).to(memory_format=torch.channels_last).eval()
    found = {}
    with torch.inference_mode():
        found["eager_ms"] = device_milliseconds(lambda: network(images))
        if compiles:
            torch.compiler.reset()
            network.compile()
            found["compiled_ms"] = device_milliseconds(lambda: network(images))
    return found
