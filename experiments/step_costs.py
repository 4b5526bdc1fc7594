"""The cost of scoring in training steps: CPU time of one process, for the methods of the studies in this folder.

Network weights and images are random. A training step (forward, backward, SGD) and scoring are measured alternately;
the record contains medians of CPU time per image, and the time of scoring an image divided by that of training on it.
Few images are scored, so computations that a method does once for all images have a larger part than in a real run.

    OMP_NUM_THREADS=1 python experiments/step_costs.py table2              # ResNet-50, 224x224
    OMP_NUM_THREADS=1 python experiments/step_costs.py cifar10_resnet56    # ResNet-56, 32x32

Writes experiments/<study>/records/step_costs.json. curl and eagleeye are not measured: their cost follows from
their number of passes (hours.py).
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch
from benchmarks.timing import machine
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from prunelab.methods import (
    CHIP,
    Budget,
    Entropy,
    HRank,
    ImportanceMethod,
    PruningMethod,
    ReconstructionPruning,
    ThiNet,
)
from prunelab.models import build

HERE = Path(__file__).parent
CASES = {
    "table2": ("resnet50", 224, 1000, 8),
    "cifar10_resnet56": ("cifar_resnet56", 32, 10, 32),
}
METHODS: dict[str, Callable[[int], PruningMethod]] = {
    "hrank": lambda images: ImportanceMethod(HRank(), Budget(flops=0.5), images=images),
    "chip": lambda images: ImportanceMethod(CHIP(), Budget(flops=0.5), images=images),
    "entropy": lambda images: ImportanceMethod(Entropy(bins=8), Budget(flops=0.5), images=images),
    "thinet": lambda images: ReconstructionPruning(
        ThiNet(), Budget(flops=0.5), images=images, levels=["filter"]
    ),
}


def seconds(work: Callable[[], Any]) -> float:
    """CPU seconds of this process."""
    start = time.process_time()
    work()
    return time.process_time() - start


def step(network: nn.Module, images: Tensor, classes: Tensor) -> None:
    """One training step."""
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-6)
    network.train()
    cross_entropy(network(images), classes).backward()
    optimizer.step()


def forward(network: nn.Module, images: Tensor) -> None:
    """One pass as in evaluation."""
    network.eval()
    with torch.no_grad():
        network(images)


def measured(study: str, repetitions: int) -> dict[str, Any]:
    """The record of one study."""
    name, side, classes, batch = CASES[study]
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(batch, 3, side, side, generator=generator)
    labels = torch.arange(batch) % classes
    network = build(name, num_classes=classes, in_chans=3, image_size=(side, side))
    times: dict[str, list[float]] = {
        "training step": [],
        "forward pass": [],
        **{method: [] for method in METHODS},
    }
    for _ in range(repetitions):
        times["training step"].append(seconds(lambda: step(network, images, labels)))
        times["forward pass"].append(seconds(lambda: forward(network, images)))
        for method, make in METHODS.items():
            context = make(batch).context(network, images[:1], [(images, labels)])
            times[method].append(
                seconds(lambda method=method, context=context: METHODS[method](batch).decide(context))
            )
    one_step = median(times["training step"])
    return {
        "network": name,
        "image_size": side,
        "images": batch,
        "repetitions": repetitions,
        "cpu_ms_per_image": {part: round(1000 * median(each) / batch, 2) for part, each in times.items()},
        "in_training_steps": {part: round(median(each) / one_step, 3) for part, each in times.items()},
        "machine": machine("torch"),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("study", choices=CASES)
    parser.add_argument("--repetitions", type=int, default=3)
    arguments = parser.parse_args()
    record = measured(arguments.study, arguments.repetitions)
    file = HERE / arguments.study / "records" / "step_costs.json"
    file.write_text(json.dumps(record, indent=2) + "\n")
    print(json.dumps(record["in_training_steps"], indent=2))


if __name__ == "__main__":
    main()
