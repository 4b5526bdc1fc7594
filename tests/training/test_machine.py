"""What this machine has not is refused before any work."""

from __future__ import annotations

import copy

import pytest
import torch
from pytorch_lightning.plugins.layer_sync import TorchSyncBatchNorm
from torch import nn

import prunelab
from prunelab.cli.config import configure
from prunelab.errors import UserError
from prunelab.training import Machine


def test_the_cpu_is_always_there() -> None:
    machine = Machine(accelerator="cpu")
    assert machine.trainer(logger=False).world_size == 1
    assert machine.device == torch.device("cpu")


@pytest.mark.parametrize(
    "settings",
    [{"accelerator": "tpuu"}, {"precision": "7"}, {"strategy": "ddq"}],
)
def test_what_does_not_exist_is_the_users_mistake(settings: dict[str, str]) -> None:
    with pytest.raises(UserError, match="settings under trainer cannot be used"):
        Machine(**settings).trainer(logger=False)  # type: ignore[arg-type]


def test_joined_batch_normalisation_needs_gpus() -> None:
    with pytest.raises(UserError, match=r"trainer\.sync_batchnorm=true .*GPUs"):
        Machine(accelerator="cpu", sync_batchnorm=True)


def test_a_network_can_be_pruned_after_training_with_joined_batch_normalisation() -> None:
    """Lightning puts other layers in the place of batch normalisation, and others again afterwards."""
    layers = (nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(6 * 36, 3))
    network, images = nn.Sequential(*layers), torch.randn(2, 1, 8, 8)
    joined = TorchSyncBatchNorm()
    joined.revert(joined.apply(network))
    assert type(network[1]) is not nn.BatchNorm2d
    before = copy.deepcopy(network)
    structure = prunelab.analyze(network, images[:1])
    (group,) = structure.groups
    plan = structure.plan(kept={group.name: [0, 2, 5]})
    prunelab.apply(network, plan)
    assert prunelab.check(before, network, plan, images) < 1e-6
    assert network[1].num_features == 3


def test_a_fused_optimizer_and_a_loss_scale_exclude_each_other() -> None:
    Machine(accelerator="cpu", fused=True, precision="bf16-mixed")
    with pytest.raises(
        UserError, match=r"trainer\.fused=true cannot be combined with trainer\.precision=16-mixed"
    ):
        Machine(fused=True, precision="16-mixed")


@pytest.mark.parametrize("tf32", [True, False])
def test_the_precision_of_float32_is_what_was_chosen(tf32: bool) -> None:
    cudnn, products = torch.backends.cudnn.allow_tf32, torch.get_float32_matmul_precision()
    try:
        Machine(accelerator="cpu", tf32=tf32).prepare_process()
        assert torch.backends.cudnn.allow_tf32 == tf32
        assert torch.get_float32_matmul_precision() == ("high" if tf32 else "highest")
    finally:
        torch.backends.cudnn.allow_tf32 = cudnn
        torch.set_float32_matmul_precision(products)


def test_what_trainer_gpu_sets_is_in_its_configuration() -> None:
    trainer = configure(["budget.flops=0.5", "trainer=gpu"])["trainer"]
    differs = {
        key: value
        for key, value in trainer.items()
        if value != configure(["budget.flops=0.5"])["trainer"][key]
    }
    assert differs == {
        "accelerator": "gpu", "precision": "bf16-mixed", "channels_last": True, "tf32": True, "fused": True,
        "images_on_device": True, "deterministic": False,
    }  # fmt: skip
