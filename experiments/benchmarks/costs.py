"""The time of analysis, of the cost model for ten thousand widths, and of one candidate.

    OMP_NUM_THREADS=1 python experiments/benchmarks/costs.py

Prints medians next to the aims and writes experiments/benchmarks/records/costs.json.
"""

from __future__ import annotations

import argparse
import copy
import json
from pathlib import Path

import numpy as np
import timm
import torch
from timing import Stopwatch, floor, machine

from prunelab.models import build
from prunelab.structure import analyze, apply
from prunelab.structure.surgery.apply import candidate

RECORD = Path(__file__).parent / "records" / "costs.json"
AIMS_MS = {
    "analysis of ResNet-50": 500,
    "10,000 width vectors of ResNet-50": 50,
    "a candidate of ResNet-56": 10,
    "a candidate of ResNet-56 that shares memory": 10,
}


def measured(repetitions: int) -> Stopwatch:
    """All parts in turn, ``repetitions`` times."""
    torch.manual_seed(0)
    generator = np.random.default_rng(0)
    images, small_images = torch.zeros(1, 3, 224, 224), torch.zeros(1, 3, 32, 32)
    model = timm.create_model("resnet50").eval()
    small = build("cifar_resnet56", num_classes=10).eval()
    forward = floor(lambda: timm.create_model("resnet50"), images)
    graph, small_graph = analyze(model, images), analyze(small, small_images)
    widths = np.stack([generator.integers(1, group.size + 1, size=10_000) for group in graph.groups], axis=1)
    # Every second channel, so that no kept channels are contiguous.
    half = small_graph.plan({group.name: range(0, group.size, 2) for group in small_graph.groups})
    large = graph.plan({group.name: range(0, group.size, 2) for group in graph.groups})
    watch = Stopwatch()
    for _ in range(repetitions):
        with watch.measure("floor: a pass of ResNet-50 on the meta device"):
            forward()
        with watch.measure("analysis of ResNet-50"):
            analyze(model, images)
        with watch.measure("10,000 width vectors of ResNet-50"):
            graph.cost.flops(widths)
        with watch.measure("a candidate of ResNet-56"):
            candidate(small, half)
        with watch.measure("a candidate of ResNet-56 that shares memory"):
            candidate(small, half, share=True)
        full = copy.deepcopy(model)
        with watch.measure("applying a plan to ResNet-50"):
            apply(full, large)
    return watch


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repetitions", type=int, default=11)
    repetitions = parser.parse_args().repetitions
    found = machine("torch", "timm", "numpy", "prunelab")
    medians = measured(repetitions).medians()
    for part, times in medians.items():
        aim = f"aim {AIMS_MS[part]} ms" if part in AIMS_MS else ""
        print(f"{part:48s} {times['wall_ms']:8.1f} ms wall {times['processor_ms']:8.1f} ms processor  {aim}")
    record = {"machine": found, "repetitions": repetitions, "aims_ms": AIMS_MS, "medians": medians}
    RECORD.write_text(json.dumps(record, indent=1) + "\n")
    print(f"wrote {RECORD}")


if __name__ == "__main__":
    main()
