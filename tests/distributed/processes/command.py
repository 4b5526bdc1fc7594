"""``prunelab`` with another network, and a training that can fail on request: ``python command.py -m ...``.

Not a test by itself: test_runs.py starts it, and Lightning starts it again for each further process.
"""

from __future__ import annotations

import os
from typing import Any

import torch
from hydra.core.hydra_config import HydraConfig
from timm.models import register_model
from torch import Tensor, nn
from torch.nn import functional

from prunelab.cli.run import main
from prunelab.steps.baseline_store import Baseline, BaselineStore
from prunelab.training import Classifier

FAILS = "l2"
"""With this method rank 1 fails, in the second step of a training, if there is a rank 1."""

DIFFERS = "fpgm"
"""With this method rank 1 starts from another baseline than rank 0, if there is a rank 1."""


class Norm(nn.BatchNorm2d):
    """Uses running statistics in training: rounding errors then grow slowly enough to compare float32 trainings."""

    def forward(self, maps: Tensor) -> Tensor:
        statistics = (self.running_mean, self.running_var)
        return functional.batch_norm(maps, *statistics, self.weight, self.bias, False, 0.0, self.eps)


class Network(nn.Module):
    """Three convolutions with a shortcut."""

    def __init__(self, num_classes: int = 10, in_chans: int = 1, **_: Any) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(in_chans, 8, 3, padding=1), Norm(8)
        self.conv2, self.norm2 = nn.Conv2d(8, 12, 3, stride=2, padding=1), Norm(12)
        self.conv3, self.norm3 = nn.Conv2d(12, 12, 3, padding=1), Norm(12)
        self.fc = nn.Linear(12, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        maps = torch.relu(self.norm1(self.conv1(images)))
        maps = torch.relu(self.norm2(self.conv2(maps)))
        maps = torch.relu(self.norm3(self.conv3(maps)) + maps)
        return self.fc(maps.mean((2, 3)))


@register_model
def network_of_three(pretrained: bool = False, **settings: Any) -> Network:
    return Network(**{name: settings[name] for name in ("num_classes", "in_chans") if name in settings})


def fail_on_rank_1() -> None:
    step = Classifier.training_step

    def failing(self: Classifier, batch: tuple[Tensor, Tensor], index: int) -> Tensor:
        if (_method(), index, self.trainer.global_rank) == (FAILS, 1, 1):
            raise RuntimeError("no room on this card")
        return step(self, batch, index)

    Classifier.training_step = failing  # type: ignore[method-assign]


def exchange_a_weight_on_rank_1() -> None:
    load = BaselineStore.load

    def loading(self: BaselineStore, key: str) -> Baseline:
        baseline = load(self, key)
        if (_method(), os.environ.get("LOCAL_RANK")) == (DIFFERS, "1"):
            baseline.weights["fc.bias"][0] += 1
        return baseline

    BaselineStore.load = loading  # type: ignore[method-assign]


def _method() -> str:
    return str(HydraConfig.get().runtime.choices["method"])


if __name__ == "__main__":
    fail_on_rank_1()
    exchange_a_weight_on_rank_1()
    main()
