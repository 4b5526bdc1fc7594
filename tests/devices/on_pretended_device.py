"""Tests that tests/devices/test_pretended.py runs in a separate process: every step of a run on a pretended device."""

from __future__ import annotations

import copy
import sys
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.accelerators import CPUAccelerator
from pytorch_lightning.strategies import SingleDeviceStrategy
from torch import Tensor, nn

sys.path.extend([str(Path(__file__).parent), str(Path(__file__).parents[1] / "methods")])

import battery
from pretended import DEVICE, Pretended, WrongDevice, pretended_device

import prunelab
from prunelab import experiment
from prunelab.calibration import STEPS, Blockwise, Distil, Pair
from prunelab.cli.config import configure
from prunelab.data import Digits
from prunelab.evaluation import accuracy, forward_times
from prunelab.methods import PruningMethod
from prunelab.methods.importance.hrank import MeanRank
from prunelab.models import CifarResNet
from prunelab.structure import PruningPlan
from prunelab.training import Machine

METHODS = [name for name in battery.METHODS if battery.decides_untrained(name)]
EXAMPLE = torch.zeros(1, 1, 8, 8)
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def network() -> nn.Module:
    torch.manual_seed(0)
    model = CifarResNet(1, in_chans=1)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.5, 0.5)
    return model.eval()


@pytest.fixture(scope="module")
def batches() -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    return [
        (torch.randn(8, 1, 8, 8, generator=generator), torch.randint(10, (8,), generator=generator))
        for _ in range(3)
    ]


def test_the_guard_detects_tensors_on_the_wrong_device() -> None:
    with pretended_device() as device:
        layer = nn.Linear(3, 2).to(device)
        with pytest.raises(WrongDevice, match="all tensors must be on the same device"):
            layer(torch.zeros(1, 3))
        with pytest.raises(RuntimeError):
            layer(torch.zeros(1, 3, device=device)).detach().numpy()
        assert layer(torch.zeros(1, 3, device=device)).cpu().detach().numpy().shape == (1, 2)


def decided(
    name: str, network: nn.Module, batches: Any, device: torch.device
) -> tuple[PruningPlan, dict[str, Tensor]]:
    uniform = {"allocation": "uniform"} if "allocation" in battery.settings(name) else {}
    method: PruningMethod = battery.made(name, **uniform)
    model = copy.deepcopy(network).to(device)
    context = method.context(model, EXAMPLE, batches, device=device, validation=batches)
    plan = method.decide(context)
    method.reconstruct(context, plan)
    assert all(tensor.device == device for tensor in (*model.parameters(), *model.buffers()))
    return plan, {key: tensor.cpu() for key, tensor in model.state_dict().items()}


@pytest.mark.parametrize("name", METHODS)
def test_a_method_decides_on_another_device(name: str, network: nn.Module, batches: Any) -> None:
    plan, weights = decided(name, network, batches, CPU)
    with pretended_device() as device:
        other, refitted = decided(name, network, batches, device)
    assert other == plan
    for key, tensor in weights.items():
        torch.testing.assert_close(refitted[key], tensor, msg=key)


@pytest.mark.parametrize("side", [6, 40])
def test_ranks_are_those_of_the_cpu(side: int) -> None:
    """Also of maps that are too wide for the batched routines of a GPU, and are decomposed on the CPU."""
    torch.manual_seed(0)
    maps = torch.randn(20, side, side).relu()
    maps[::2] = torch.randn(10, side, 2) @ torch.randn(2, side)
    maps[1::4, :, -1] = maps[1::4, :, 0]
    maps[3, 0] = 0
    expected = [int(torch.linalg.matrix_rank(each)) for each in maps]
    with pretended_device() as device:
        metric = MeanRank(len(maps)).to(device)
        metric.update(maps[None].to(device))
        found = metric.compute().cpu()
    assert found.tolist() == expected


@pytest.mark.parametrize("name", STEPS)
def test_a_calibration_step_ends_as_on_the_cpu(name: str, network: nn.Module, batches: Any) -> None:
    """For the steps that run on the device of the images."""
    short = {"distil": Distil(steps=3), "blockwise": Blockwise(steps=3)}
    graph = prunelab.analyze(network, EXAMPLE)
    plan = graph.plan(kept={group.name: list(range(0, group.size, 2)) for group in graph.groups})

    def calibrated(device: torch.device) -> dict[str, Tensor]:
        full = copy.deepcopy(network).to(device)
        pruned = prunelab.apply(copy.deepcopy(full), plan)
        images = [images.to(device) for images, _ in batches]
        short.get(name, STEPS[name])(Pair(full, pruned, plan, images, images[0][:1], 0))
        return {key: tensor.cpu() for key, tensor in pruned.state_dict().items()}

    expected = calibrated(CPU)
    with pretended_device() as device:
        found = calibrated(device)
    for key, tensor in expected.items():
        torch.testing.assert_close(found[key], tensor, msg=key)


def test_check_and_measurements_follow_the_network(network: nn.Module, batches: Any) -> None:
    graph = prunelab.analyze(network, EXAMPLE)
    plan = graph.plan(kept={group.name: [0, 2, 3] for group in graph.groups})
    with pretended_device() as device:
        full = copy.deepcopy(network).to(device)
        pruned = prunelab.apply(copy.deepcopy(full), plan)
        assert prunelab.check(full, pruned, plan, batches[0][0].to(device)) < 1e-6
        found = accuracy(pruned, batches, 10, device)
        assert all(min(ms) > 0 for ms in forward_times([full, pruned], (1, 8, 8), 2, device, seconds=0.0))
    assert found == accuracy(prunelab.apply(copy.deepcopy(network), plan), batches, 10, CPU)


def test_images_held_on_a_device_make_the_batches_of_the_cpu() -> None:
    here, there = Digits(batch_size=50, crop_padding=1), Digits(batch_size=50, crop_padding=1)
    for data in (here, there):
        data.prepare_data()
        data.setup()
    with pretended_device() as device:
        there.move_to(device)
        for loader in ("train_dataloader", "val_dataloader", "test_dataloader"):
            for ours, theirs in zip(getattr(here, loader)(), getattr(there, loader)(), strict=True):
                assert all(isinstance(tensor, Pretended) for tensor in theirs)
                assert all(torch.equal(mine, other.cpu()) for mine, other in zip(ours, theirs, strict=True))


class AnyDevice(CPUAccelerator):
    """The CPU's accelerator, which also accepts the pretended device."""

    def setup_device(self, device: torch.device) -> None:
        assert device == DEVICE


@pytest.fixture
def _trains_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every Trainer of prunelab trains on the pretended device."""

    def trainer(self: Machine, **more: Any) -> pl.Trainer:
        strategy = SingleDeviceStrategy(device=DEVICE, accelerator=AnyDevice())
        return pl.Trainer(strategy=strategy, precision="32-true", **more)

    monkeypatch.setattr(Machine, "trainer", trainer)


@pytest.mark.parametrize("name", ["l1", "thinet", "autopruner"])
@pytest.mark.usefixtures("_trains_there")
def test_a_whole_run_on_another_device(name: str, tmp_path: Path) -> None:
    learns = ["method.epochs=1"] if battery.learns(name) else []
    words = (
        "budget.flops=0.5", "data=digits", "data.batch_size=200", "baseline.training.epochs=1", f"method={name}",
        "recipe.training.epochs=1", "fast_dev_run=1", "trainer.images_on_device=true", f"outputs={tmp_path}",
        "study=devices",
    )  # fmt: skip
    with pretended_device():
        outcome = experiment.run(configure([*words, *learns]))
    assert outcome.record.pruned.flops <= 0.5 * outcome.record.baseline.flops
