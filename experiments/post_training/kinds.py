"""Non-residual and other networks: is ``obs`` ever worse than Taylor if both are refitted?

    python experiments/post_training/kinds.py

A small VGG, MobileNetV2, DenseNet and RegNet are trained on scikit-learn's digits (32x32, nothing to download), each
with several seeds, and pruned by both methods without training. Writes records/kinds.jsonl, one line for each network
that was evaluated on the 360 test images; existing lines are not measured again. ``table.py`` makes the table.
"""

from __future__ import annotations

import argparse
import copy
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import timm
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from study import accuracy
from torch import Tensor, nn
from torch.nn import functional

from prunelab.calibration import STEPS, Pair
from prunelab.methods import OBS, Budget, Criterion, Fisher, ImportanceMethod, Taylor
from prunelab.methods.allocation.from_scores import keep_best
from prunelab.structure import apply

RECORDS = Path(__file__).parent / "records" / "kinds.jsonl"
KEEPS = (0.7, 0.5, 0.3)
METHODS: Mapping[str, Criterion] = {"taylor": Taylor(), "fisher": Fisher(), "obs": OBS()}
COLUMNS: Mapping[str, tuple[str, ...]] = {"cut": (), "bn": ("bn",), "sequential": ("sequential",)}
CALIBRATION = 512
EPOCHS = 15


def vgg() -> nn.Module:
    """Eight convolutions in four stages, each with a batch normalisation."""
    layers: list[nn.Module] = []
    width = 1
    for stage in (24, 48, 96, 96):
        for _ in range(2):
            layers += [nn.Conv2d(width, stage, 3, padding=1, bias=False), nn.BatchNorm2d(stage), nn.ReLU()]
            width = stage
        layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 10))


def mobilenet() -> nn.Module:
    """MobileNetV2 with 0.35 of the channels; its last maps have 4x4 pixels."""
    return timm.create_model("mobilenetv2_035", num_classes=10, in_chans=1, output_stride=8)


def densenet() -> nn.Module:
    """Three dense blocks of four layers."""
    return timm.create_model(
        "densenet121", num_classes=10, in_chans=1, growth_rate=12, block_config=(4, 4, 4)
    )


def regnet() -> nn.Module:
    """RegNetX-200MF; its last maps have 4x4 pixels."""
    return timm.create_model("regnetx_002", num_classes=10, in_chans=1, output_stride=8)


NETWORKS: Mapping[str, Callable[[], nn.Module]] = {
    "vgg": vgg,
    "mobilenetv2": mobilenet,
    "densenet": densenet,
    "regnet": regnet,
}


def images_of_digits() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Training images (1437, 1, 32, 32) and classes, test images (360, 1, 32, 32) and classes."""
    digits = load_digits()
    images = torch.from_numpy(digits.images).float()[:, None] / 16
    images = (functional.interpolate(images, size=32, mode="bilinear") - 0.3) / 0.37
    classes = torch.from_numpy(digits.target)
    train, test = train_test_split(range(len(classes)), test_size=360, stratify=classes, random_state=0)
    return images[train], classes[train], images[test], classes[test]


def trained(make: Callable[[], nn.Module], seed: int, images: Tensor, classes: Tensor) -> nn.Module:
    """A network trained with Adam, one cycle, images shifted by up to two pixels."""
    torch.manual_seed(seed)
    network = make()
    steps = EPOCHS * (len(images) // 64)
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=3e-3, total_steps=steps)
    for _ in range(EPOCHS):
        for chosen in torch.randperm(len(images))[: len(images) // 64 * 64].split(64):
            top, left = (int(shift) for shift in torch.randint(-2, 3, (2,)))
            shifted = images[chosen].roll((top, left), dims=(2, 3))
            optimizer.zero_grad()
            functional.cross_entropy(network(shifted), classes[chosen]).backward()
            optimizer.step()
            schedule.step()
    return network.eval()


class Kinds:
    """The comparison, and the records of evaluated networks."""

    def __init__(self, methods: Sequence[str], keeps: Sequence[float]) -> None:
        self.methods, self.keeps = methods, keeps
        self.train, self.classes, self.test, self.test_classes = images_of_digits()
        lines = RECORDS.read_text().splitlines() if RECORDS.exists() else []
        self.done = {self._key(json.loads(line)) for line in lines}

    @staticmethod
    def _key(record: Mapping[str, Any]) -> tuple[Any, ...]:
        return tuple(record[name] for name in ("network", "seed", "method", "keep", "column"))

    def run(self, names: list[str], seeds: list[int]) -> None:
        """Evaluate the missing networks."""
        for seed in seeds:
            for name in names:
                wanted = {
                    (name, seed, method, keep, column)
                    for method in self.methods
                    for keep in self.keeps
                    for column in COLUMNS
                }
                if wanted - self.done:
                    self._network(name, seed)

    def _network(self, name: str, seed: int) -> None:
        network = trained(NETWORKS[name], seed, self.train, self.classes)
        common = {"network": name, "seed": seed}
        self._write({**common, "method": "none", "keep": 1.0, "column": "full"}, network)
        chosen = torch.randperm(len(self.train), generator=torch.Generator().manual_seed(seed))[:CALIBRATION]
        batches = list(zip(self.train[chosen].split(32), self.classes[chosen].split(32), strict=True))
        for method in self.methods:
            self._method(network, {**common, "method": method}, batches)

    def _method(
        self, network: nn.Module, common: dict[str, Any], batches: list[tuple[Tensor, Tensor]]
    ) -> None:
        """The method; its scores do not depend on the budget and are computed once."""
        criterion = METHODS[common["method"]]
        scores = None
        images = [images for images, _ in batches]
        for keep in self.keeps:
            method = ImportanceMethod(criterion, Budget(flops=keep), images=CALIBRATION, seed=common["seed"])
            context = method.context(network, images[0][:1], batches)
            scores = criterion.score(context) if scores is None else scores
            plan = keep_best(context, scores)
            cost = context.graph.cost
            reached = {"keep": keep, "flops": cost.flops(plan) / cost.flops()}
            for column, chain in COLUMNS.items():
                pruned = apply(copy.deepcopy(network), plan)
                for step in chain:
                    STEPS[step](Pair(network, pruned, plan, images, images[0][:1], common["seed"]))
                self._write({**common, **reached, "column": column}, pruned)

    def _write(self, record: dict[str, Any], network: nn.Module) -> None:
        if self._key(record) in self.done:
            return
        RECORDS.parent.mkdir(exist_ok=True)
        line = json.dumps({**record, "top1": accuracy(network, self.test, self.test_classes, 60)})
        with RECORDS.open("a") as file:
            file.write(line + "\n")
        print(line, flush=True)


def main() -> None:
    """Read the command line and run the comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--keeps", nargs="+", type=float, default=KEEPS, help="fractions of the FLOPs")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    options = parser.parse_args()
    torch.set_num_threads(1)
    Kinds(options.methods, options.keeps).run(options.networks, options.seeds)


if __name__ == "__main__":
    main()
