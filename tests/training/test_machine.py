"""Devices that this machine does not have are errors before the run starts."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import nn
from torch.profiler import profile

from prunelab.cli.config import configure
from prunelab.errors import UserError
from prunelab.training import Machine
from prunelab.training.sync_batchnorm import SameLayersSynchronised


def test_the_cpu_is_always_there() -> None:
    machine = Machine(accelerator="cpu")
    assert machine.trainer(logger=False).world_size == 1
    assert machine.device == torch.device("cpu")


@pytest.mark.parametrize(
    "settings",
    [{"accelerator": "tpuu"}, {"precision": "7"}, {"strategy": "ddq"}],
)
def test_an_unavailable_machine_is_a_user_error(settings: dict[str, str]) -> None:
    with pytest.raises(UserError, match="settings under trainer cannot be used"):
        Machine(**settings).trainer(logger=False)  # type: ignore[arg-type]


def test_statistics_of_each_process_need_the_number_of_processes() -> None:
    with pytest.raises(UserError, match=r"trainer\.sync_batchnorm=false .*trainer\.devices=2"):
        Machine(accelerator="cpu", devices="auto", sync_batchnorm=False)
    Machine(accelerator="cpu", devices=2, sync_batchnorm=False)


@pytest.mark.parametrize("name", ["resnet18", "efficientnet_b0", "densenet121"])
def test_synchronised_batch_normalisation_changes_no_layer_and_no_output(name: str) -> None:
    """timm's layers of normalisation and activation keep their activation, also after the fit."""
    network, images = timm.create_model(name, num_classes=3).eval(), torch.randn(2, 3, 64, 64)
    layers, classes = list(network.modules()), [type(module) for module in network.modules()]
    expected = network(images)
    synchronised = SameLayersSynchronised()
    synchronised.apply(network)
    assert any(isinstance(module, nn.SyncBatchNorm) for module in network.modules())
    assert torch.equal(network(images), expected)
    synchronised.revert(network)
    assert all(one is other for one, other in zip(network.modules(), layers, strict=True))
    assert [type(module) for module in network.modules()] == classes
    assert torch.equal(network(images), expected)


def test_a_batch_normalisation_of_another_class_is_unchanged() -> None:
    """Its calls of ``functional.batch_norm`` are synchronised by ``WholeBatch``."""

    class Scaled(nn.BatchNorm2d):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return 2 * super().forward(images)

    network = nn.Sequential(nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), Scaled(6))
    SameLayersSynchronised().apply(network)
    assert type(network[1]) is nn.SyncBatchNorm and type(network[2]) is Scaled


def test_layers_are_exchanged_only_on_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """nn.SyncBatchNorm cannot run on CPUs."""
    for settings in ({"accelerator": "cpu"}, {"accelerator": "cpu", "devices": 2}):
        trainer = Machine(**settings).trainer(logger=False)  # type: ignore[arg-type]
        assert trainer._accelerator_connector._layer_sync is None


def test_a_fused_optimizer_and_a_loss_scale_exclude_each_other() -> None:
    Machine(accelerator="cpu", fused=True, precision="bf16-mixed")
    with pytest.raises(
        UserError, match=r"trainer\.fused=true cannot be combined with trainer\.precision=16-mixed"
    ):
        Machine(fused=True, precision="16-mixed")


@pytest.mark.parametrize("precision", ["16-mixed", 16])
def test_float16_is_not_replaced_by_bfloat16_on_a_processor(precision: str | int) -> None:
    """Lightning does so with a warning; the record would name a precision that was not used."""
    with pytest.raises(UserError, match=rf"trainer\.precision={precision} needs a GPU"):
        Machine(accelerator="cpu", precision=precision).trainer(logger=False)


def test_deterministic_operators_do_not_fill_new_tensors() -> None:
    before = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
    )
    machine = Machine(accelerator="cpu", deterministic="warn")
    try:
        machine.prepare_process()
        machine.trainer(logger=False)
        assert torch.are_deterministic_algorithms_enabled()
        with profile() as found:
            torch.empty(1000)
        assert not [event.key for event in found.key_averages() if "fill" in event.key]
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        torch.utils.deterministic.fill_uninitialized_memory = True


@pytest.mark.parametrize("tf32", [True, False])
def test_the_precision_of_float32_is_the_chosen_one(tf32: bool) -> None:
    cudnn, products = torch.backends.cudnn.allow_tf32, torch.get_float32_matmul_precision()
    try:
        Machine(accelerator="cpu", tf32=tf32).prepare_process()
        assert torch.backends.cudnn.allow_tf32 == tf32
        assert torch.get_float32_matmul_precision() == ("high" if tf32 else "highest")
    finally:
        torch.backends.cudnn.allow_tf32 = cudnn
        torch.set_float32_matmul_precision(products)


@pytest.mark.slow
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
