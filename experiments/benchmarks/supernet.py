"""The cost of a training step of the sliced supernet at several widths, compared with a masked one.

    OMP_NUM_THREADS=1 python experiments/benchmarks/supernet.py [--device cuda]

ResNet-56, 128 images of 32x32. All parts take turns; medians are compared with a plain step of the full network and
written to experiments/benchmarks/records/supernet_<device>.json.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
import torch
from timing import machine
from torch import Tensor, nn
from torch.nn import functional

from prunelab.models import build
from prunelab.structure import ChannelGraph, PruningPlan, SlicedNetwork, analyze, candidate

RECORDS = Path(__file__).parent / "records"
AIMS = {"supernet at 50 % FLOPs": 0.65, "switching widths": 0.05, "sandwich step": 2.2}
FULL = "full network"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repetitions", type=int, default=7)
    given = parser.parse_args()
    device = torch.device(given.device)
    found = machine("torch", "numpy", "prunelab")
    if device.type == "cuda":
        found["gpu"] = torch.cuda.get_device_name(device)
    shares, steps = _steps(device)
    seconds = _measured(steps, device, given.repetitions)
    ratios = {name: round(median(taken) / median(seconds[FULL]), 4) for name, taken in seconds.items()}
    for name, ratio in ratios.items():
        aim = f"aim {AIMS[name]}" if name in AIMS else ""
        print(f"{name:42s} {1000 * median(seconds[name]):9.2f} ms  {ratio:7.4f} of a full step  {aim}")
    record = {
        "machine": found,
        "repetitions": given.repetitions,
        "clock": "processor" if device.type == "cpu" else "wall",
        "kept_flops": shares,
        "milliseconds": {name: round(1000 * median(taken), 3) for name, taken in seconds.items()},
        "ratios": ratios,
        "aims": AIMS,
    }
    path = RECORDS / f"supernet_{device.type}.json"
    path.write_text(json.dumps(record, indent=1) + "\n")
    print(f"wrote {path}")


def _measured(
    steps: dict[str, Callable[[], None]], device: torch.device, repetitions: int
) -> dict[str, list[float]]:
    """Seconds of each part, in turns; the first turn warms up."""
    clock = time.process_time if device.type == "cpu" else time.perf_counter
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for turn in range(repetitions + 1):
        for name, step in steps.items():
            start = clock()
            step()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            if turn:
                seconds[name].append(clock() - start)
    return seconds


def _steps(device: torch.device) -> tuple[dict[str, float], dict[str, Callable[[], None]]]:
    torch.manual_seed(0)
    generator = np.random.default_rng(0)
    model = build("cifar_resnet56", num_classes=10).to(device).train()
    images = torch.randn(128, 3, 32, 32, device=device)
    targets = torch.randint(0, 10, (128,), device=device)
    graph = analyze(model, images[:1])
    network = SlicedNetwork(model, graph)
    full = [group.size for group in graph.groups]
    half, least = _uniform(graph, 0.5), [max(1, size // 10) for size in full]
    # Only inside the blocks, at multiples of eight, which are fastest, and at other widths, which are slowest.
    inside = [
        group.size if group.level == "stage" or group.name == "conv1" else group.size // 2
        for group in graph.groups
    ]
    plan = graph.plan({group.name: range(width) for group, width in zip(graph.groups, half, strict=True)})
    alone = candidate(model, plan)
    masks = _masks(model, plan)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    other = torch.optim.SGD(alone.parameters(), lr=0.1, momentum=0.9)

    def at(*several: list[int], masked: bool = False) -> Callable[[], None]:
        def step() -> None:
            for widths in several:
                tensors = {n: model.get_parameter(n) * mask for n, mask in masks.items()} if masked else None
                with network.at(widths, tensors=tensors):
                    loss = functional.cross_entropy(model(images), targets)
                loss.backward()
            optimizer.step()
            optimizer.zero_grad()

        return step

    def plain(network: nn.Module, optimizer: torch.optim.Optimizer) -> Callable[[], None]:
        def step() -> None:
            functional.cross_entropy(network(images), targets).backward()
            optimizer.step()
            optimizer.zero_grad()

        return step

    def random() -> list[int]:
        return [int(generator.integers(low, size + 1)) for low, size in zip(least, full, strict=True)]

    def switch() -> None:
        with network.at(random()):
            pass

    total = graph.cost.flops()
    shares = {
        "at 50 % FLOPs": graph.cost.flops(np.array(half)) / total,
        "inside blocks": graph.cost.flops(np.array(inside)) / total,
    }
    return {name: round(float(share), 4) for name, share in shares.items()}, {
        FULL: plain(model, optimizer),
        "supernet at full width": at(full),
        "supernet at 50 % FLOPs": at(half),
        "supernet at 50 % FLOPs, inside blocks": at(inside),
        "pruned network at 50 % FLOPs": plain(alone, other),
        "masked supernet at 50 % FLOPs": at(full, masked=True),
        "switching widths": switch,
        "sandwich step": lambda: at(full, least, random(), random())(),
    }


def _uniform(graph: ChannelGraph, keep: float) -> list[int]:
    """The largest equal share of every group that costs at most ``keep``."""
    sizes = np.array([group.size for group in graph.groups])
    shares = np.linspace(0.01, 1, 1000)
    rows = np.maximum(1, np.round(shares[:, None] * sizes)).astype(np.int64)
    fits = graph.cost.flops(rows) <= keep * graph.cost.flops()
    return [int(width) for width in rows[np.flatnonzero(fits)[-1]]]


def _masks(model: nn.Module, plan: PruningPlan) -> dict[str, Tensor]:
    """For each cut parameter ones where the plan keeps it."""
    masks = {}
    for name, parameter in model.named_parameters():
        mask = torch.ones_like(parameter, requires_grad=False)
        for cut in plan.cuts_by_tensor().get(name, []):
            kept = torch.zeros(cut.size, device=mask.device)
            kept[list(cut.indices)] = 1
            mask *= kept.reshape([-1 if dim == cut.dim else 1 for dim in range(mask.dim())])
        if not bool(mask.all()):
            masks[name] = mask
    return masks


if __name__ == "__main__":
    main()
