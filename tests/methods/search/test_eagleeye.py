"""EagleEye, compared with a plain implementation, only on held-out images."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from prunelab.errors import UserError
from prunelab.methods import Budget, EagleEye, L1Norm, PruningCallback
from prunelab.methods.search.widths import WidthSpace
from prunelab.structure import apply

CONF = Path(__file__).parents[3] / "conf"
Batches = list[tuple[Tensor, Tensor]]


def made(seed: int, *sizes: int) -> Batches:
    generator = torch.Generator().manual_seed(seed)
    return [
        (torch.randn(n, 2, 5, 5, generator=generator), torch.randint(3, (n,), generator=generator))
        for n in sizes
    ]


CALIBRATION, HELD_OUT = made(1, 8, 8, 4), made(2, 30, 30)


def eagleeye(**settings: Any) -> EagleEye:
    return EagleEye(Budget(flops=0.5), **{"candidates": 12, "tolerance": 0.2, **settings})


def judged_plainly(model: nn.Module, plan: Any) -> int:
    """Physical surgery on a deep copy, batch norms in training mode with momentum None, then accuracy."""
    network = apply(copy.deepcopy(model), plan).eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
            module.momentum = None
            module.train()
    with torch.no_grad():
        for images, _ in CALIBRATION:
            network(images)
        network.eval()
        return sum(int((network(images).argmax(1) == targets).sum()) for images, targets in HELD_OUT)


@pytest.mark.parametrize("workers", [1, 2])
def test_the_winner_is_the_one_of_a_plain_implementation(residual: nn.Module, workers: int) -> None:
    method = eagleeye(workers=workers)
    before = copy.deepcopy(residual.state_dict())
    context = method.context(residual, CALIBRATION[0][0][:1], CALIBRATION, validation=HELD_OUT)
    plan = method.decide(context)

    scores = L1Norm().score(context)
    space = WidthSpace.of(context, scores)
    plans = [space.plan(widths, scores) for widths in method.sampler.draw(space)]
    counts = [judged_plainly(residual, found) for found in plans]
    assert len(plans) == 12 and len(set(counts)) > 2
    assert plan == plans[int(np.argmax(counts))]
    assert context.graph.cost.flops(plan) <= 0.5 * context.graph.cost.flops()
    assert all(torch.equal(tensor, before[name]) for name, tensor in residual.state_dict().items())


def test_smallest_filters_go_first(plain: nn.Module) -> None:
    method = eagleeye()
    plan = method.decide(method.context(plain, CALIBRATION[0][0][:1], CALIBRATION, validation=HELD_OUT))
    norms = plain.conv2.weight.detach().abs().sum(dim=(1, 2, 3))
    kept = list(plan.kept["conv2"])
    removed = [channel for channel in range(6) if channel not in kept]
    assert removed and norms[kept].min() > norms[removed].max()


def test_unneeded_channels_are_removed_and_needed_ones_kept() -> None:
    """The class is the brightest of four input channels; of the first layer's eight channels four are idle."""
    network = nn.Sequential(
        nn.Conv2d(4, 8, 1), nn.ReLU(), nn.Conv2d(8, 4, 1), nn.ReLU(), nn.Flatten(), nn.Linear(4, 4)
    )
    for layer in (network[0], network[2], network[5]):
        layer.weight.data.zero_()
        layer.bias.data.zero_()
    for channel in range(4):
        network[0].weight.data[channel, channel] = network[2].weight.data[channel, channel] = 1.0
        network[5].weight.data[channel, channel] = 1.0
    images = torch.rand(80, 4, 1, 1, generator=torch.Generator().manual_seed(0))
    batches = [(images, images.flatten(1).argmax(dim=1))]
    method = EagleEye(Budget(params=0.65), candidates=6, tolerance=0.3)
    plan = method.decide(method.context(network, images[:1], batches, validation=batches))
    assert (plan.kept["0"], plan.kept["2"]) == ((0, 1, 2, 3), (0, 1, 2, 3))


def test_the_winner_is_pruned_with_the_statistics_it_was_judged_with(residual: nn.Module) -> None:
    method = eagleeye()
    context = method.context(residual, CALIBRATION[0][0][:1], CALIBRATION, validation=HELD_OUT)
    plan = method.decide(context)
    expected = judged_plainly(residual, plan)
    weights = residual.stem.weight.clone()
    method.reconstruct(context, plan)
    pruned = apply(residual, plan).eval()
    with torch.no_grad():
        correct = sum(int((pruned(images).argmax(1) == targets).sum()) for images, targets in HELD_OUT)
    assert correct == expected and not torch.equal(weights, residual.stem.weight)


class Data(pl.LightningDataModule):
    """Images of three parts with the part encoded in a corner; reading test images fails."""

    def _loader(self, part: float, size: int) -> DataLoader[tuple[Tensor, ...]]:
        images, targets = made(int(part), size)[0]
        images[:, :, 0, 0] = part
        return DataLoader(TensorDataset(images, targets), batch_size=8)

    def train_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        return self._loader(1, 24)

    def val_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        return self._loader(2, 16)

    def test_dataloader(self) -> Any:
        raise AssertionError("a search must not see test images")

    predict_dataloader = test_dataloader


class Module(pl.LightningModule):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> Tensor:
        return functional.cross_entropy(self.network(batch[0]), batch[1])

    def validation_step(self, batch: tuple[Tensor, Tensor], index: int) -> None:
        pass

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def test_candidates_are_judged_on_held_out_images_and_never_on_test_images(
    plain: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, set[float]] = {}
    method = eagleeye()
    decide = method.decide

    def spying(context: Any) -> Any:
        for name, source in (("calibration", context.images()), ("validation", context.held_out_images())):
            seen[name] = {
                float(value) for images, _ in source.batches(context.device) for value in images[:, 0, 0, 0]
            }
        return decide(context)

    monkeypatch.setattr(method, "decide", spying)
    callback = PruningCallback(method)
    trainer = pl.Trainer(
        max_steps=1, accelerator="cpu", callbacks=[callback], logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0,
    )  # fmt: skip
    trainer.fit(Module(plain), Data())
    assert callback.plan is not None
    assert seen == {"calibration": {1.0}, "validation": {2.0}}


def test_without_held_out_images_the_error_names_the_argument(plain: nn.Module) -> None:
    method = eagleeye()
    with pytest.raises(UserError, match=r"images held out of training.*validation="):
        method.decide(method.context(plain, CALIBRATION[0][0][:1], CALIBRATION))


def test_targets_must_be_classes(plain: nn.Module) -> None:
    method = eagleeye()
    soft = [(images, torch.zeros(len(images), 3)) for images, _ in HELD_OUT]
    with pytest.raises(UserError, match="classes, integers"):
        method.decide(method.context(plain, CALIBRATION[0][0][:1], CALIBRATION, validation=soft))


def test_blocks_are_errors() -> None:
    with pytest.raises(UserError, match="EagleEye is not defined for level block: take block out of levels"):
        eagleeye(levels=["filter", "block"])
