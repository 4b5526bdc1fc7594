"""The LightningModule: its logs, its training, and its checkpoints."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import prunelab
from prunelab.errors import UserError
from prunelab.models import CifarResNet
from prunelab.training import Classifier, Training
from prunelab.training.restored_plan import remainder


def trainer(folder: Path, **arguments: Any) -> pl.Trainer:
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False}
    return pl.Trainer(default_root_dir=folder, accelerator="cpu", **{**quiet, **arguments})


def digits(images: int) -> TensorDataset:
    data = load_digits()
    pixels = torch.tensor(data.images[:images] / 8 - 1, dtype=torch.float32)[:, None]
    return TensorDataset(pixels, torch.tensor(data.target[:images]))


def small_net() -> CifarResNet:
    return CifarResNet(1, in_chans=1)


def fit(model: Classifier, folder: Path, **arguments: Any) -> pl.Trainer:
    engine = trainer(
        folder, max_epochs=model.training_settings.epochs, enable_checkpointing=False, **arguments
    )
    data = digits(64)
    engine.fit(model, DataLoader(data, 32), DataLoader(data, 64))
    return engine


class PixelsAreLogits(nn.Module):
    """Images (N, 1, 1, classes) are their own logits."""

    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(1)


def test_metrics_are_those_counted_by_hand(tmp_path: Path) -> None:
    # The rank of the right class among six logits, for three images of a first and one of a second batch.
    logits = torch.tensor([6.0, 5, 4, 3, 2, 1])
    images = logits.expand(4, 1, 1, 6)
    classes = torch.tensor([0, 1, 5, 0])
    model = Classifier(PixelsAreLogits(), 6, Training(epochs=1))
    engine = trainer(tmp_path)
    loader = DataLoader(TensorDataset(images, classes), batch_size=3)
    for run, stage in ((engine.validate, "val"), (engine.test, "test")):
        (metrics,) = run(model, loader, verbose=False)
        assert set(metrics) == {f"{stage}/loss", f"{stage}/top1", f"{stage}/top5"}
        assert metrics[f"{stage}/top1"] == pytest.approx(2 / 4)
        assert metrics[f"{stage}/top5"] == pytest.approx(3 / 4)
        surprise = torch.logsumexp(logits, 0) - logits[classes]
        assert metrics[f"{stage}/loss"] == pytest.approx(surprise.mean().item())


def test_with_few_classes_the_right_one_is_always_in_the_top_5(tmp_path: Path) -> None:
    images = torch.tensor([[1.0, 2, 3], [3, 2, 1]])[:, None, None]
    model = Classifier(PixelsAreLogits(), 3, Training(epochs=1))
    loader = DataLoader(TensorDataset(images, torch.tensor([0, 0])), 2)
    (metrics,) = trainer(tmp_path).test(model, loader, verbose=False)
    assert (metrics["test/top1"], metrics["test/top5"]) == (0.5, 1)


def test_label_smoothing_is_used_only_in_training() -> None:
    model = Classifier(PixelsAreLogits(), 4, Training(epochs=1, label_smoothing=0.2))
    images, classes = torch.zeros(1, 1, 1, 4), torch.tensor([0])
    images[..., 0] = 2.0
    log_likelihood = torch.log_softmax(images.flatten(), 0)
    expected = -(0.8 * log_likelihood[0] + 0.2 * log_likelihood.mean())
    assert model.loss(images, model(images), classes) == pytest.approx(expected.item())


@pytest.mark.slow
def test_a_fit_learns_digits(tmp_path: Path) -> None:
    pl.seed_everything(0, verbose=False)
    training = Training(epochs=4, lr=0.1, schedule="one_cycle", nesterov=True)
    model = Classifier(small_net(), 10, training)
    engine = trainer(tmp_path, max_epochs=4, enable_checkpointing=False)
    data = digits(600)
    engine.fit(model, DataLoader(data, 50, shuffle=True), DataLoader(data, 200))
    metrics = engine.callback_metrics
    assert {"train/loss", "train/top1", "val/loss", "val/top1", "val/top5"} <= set(metrics)
    assert metrics["val/top1"] > 0.9
    assert metrics["val/top5"] >= metrics["val/top1"]


def test_the_schedule_moves_at_every_step_of_the_fit(tmp_path: Path) -> None:
    rates: list[float] = []

    class Note(pl.Callback):
        def on_train_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
            rates.append(trainer.optimizers[0].param_groups[0]["lr"])

    fit(Classifier(small_net(), 10, Training(epochs=2, lr=0.4)), tmp_path, callbacks=[Note()])
    # 2 epochs of 2 steps: 0.4 * (1 + cos(pi * step / 4)) / 2
    assert rates == pytest.approx([0.4, 0.4 * (1 + 0.5**0.5) / 2, 0.2, 0.4 * (1 - 0.5**0.5) / 2])


def test_a_trainer_without_end_is_an_error(tmp_path: Path) -> None:
    model = Classifier(small_net(), 10, Training(epochs=3))
    with pytest.raises(UserError, match="max_epochs=3"):
        trainer(tmp_path, max_epochs=-1, enable_checkpointing=False).fit(model, DataLoader(digits(32), 32))


def test_channels_last_reaches_weights_and_images(tmp_path: Path) -> None:
    model = Classifier(small_net(), 10, Training(epochs=1), channels_last=True)
    seen: list[bool] = []
    model.backbone.layer1.register_forward_pre_hook(
        lambda _, inputs: seen.append(inputs[0].is_contiguous(memory_format=torch.channels_last))
    )
    fit(model, tmp_path)
    assert seen
    assert all(seen)
    assert model.backbone.layer2[0].conv1.weight.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.slow
def test_compiling_changes_no_name_and_ends_with_the_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compile_with = nn.Module.compile
    monkeypatch.setattr(nn.Module, "compile", lambda self: compile_with(self, backend="eager"))
    model = Classifier(small_net(), 10, Training(epochs=1), compile=True)
    names = list(model.state_dict())
    compiled: list[bool] = []

    class Note(pl.Callback):
        def on_train_batch_end(self, trainer: pl.Trainer, module: pl.LightningModule, *_: Any) -> None:
            compiled.append(module.backbone._compiled_call_impl is not None)
            assert list(module.state_dict()) == names

    fit(model, tmp_path, callbacks=[Note()])
    assert compiled == [True, True]
    assert model.backbone._compiled_call_impl is None


@pytest.mark.slow
def test_every_training_of_a_process_is_compiled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """torch compiles a class at most 8 times, here twice in a fit (training and validation), then it runs eagerly."""
    compiled: list[int] = []

    def backend(graph: torch.fx.GraphModule, example_inputs: list[Tensor]) -> Any:
        compiled[-1] += 1
        return graph

    compile_with = nn.Module.compile
    monkeypatch.setattr(nn.Module, "compile", lambda self: compile_with(self, backend=backend))
    for number in range(5):
        compiled.append(0)
        fit(Classifier(small_net(), 10, Training(epochs=1), compile=True), tmp_path / str(number))
    assert compiled == [2] * 5


def test_a_checkpoint_holds_plain_data_and_can_be_loaded(tmp_path: Path) -> None:
    model = Classifier(small_net(), 10, Training(epochs=1))
    fit(model, tmp_path).save_checkpoint(tmp_path / "net.ckpt")
    checkpoint = torch.load(tmp_path / "net.ckpt", weights_only=True)
    assert "prunelab_plan" not in checkpoint
    assert not checkpoint.get("hyper_parameters")
    again = loaded(tmp_path / "net.ckpt", small_net())
    assert_same_function(again.backbone, model.backbone)


def loaded(path: Path, backbone: nn.Module) -> Classifier:
    settings = {"backbone": backbone, "num_classes": 10, "training": Training(epochs=1)}
    return Classifier.load_from_checkpoint(path, weights_only=True, **settings)


def assert_same_function(one: nn.Module, other: nn.Module) -> None:
    images = digits(8)[:][0]
    assert torch.equal(one.eval()(images), other.eval()(images))


def halved(model: nn.Module, rounds: int = 1) -> nn.Module:
    """Keep every second channel of every group, ``rounds`` times over."""
    for _ in range(rounds):
        graph = prunelab.analyze(model, digits(1)[:][0])
        kept = {group.name: range(0, group.size, 2) for group in graph.groups}
        prunelab.apply(model, graph.plan(kept))
    return model


@pytest.fixture(scope="module")
def pruned_twice(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Classifier]:
    """A checkpoint of a network that was pruned in two rounds, and the network."""
    folder = tmp_path_factory.mktemp("pruned")
    model = Classifier(halved(small_net(), rounds=2), 10, Training(epochs=1))
    fit(model, folder).save_checkpoint(folder / "net.ckpt")
    return folder / "net.ckpt", model


@pytest.mark.parametrize("rounds", [0, 1, 2])
def test_a_pruned_checkpoint_prunes_the_network_that_loads_it(
    pruned_twice: tuple[Path, Classifier], rounds: int
) -> None:
    path, model = pruned_twice
    full_or_older = halved(small_net(), rounds)
    again = loaded(path, full_or_older)
    assert again.backbone.prunelab_plan.digest() == model.backbone.prunelab_plan.digest()
    assert_same_function(again.backbone, model.backbone)


def test_a_fit_continues_from_a_pruned_checkpoint(
    pruned_twice: tuple[Path, Classifier], tmp_path: Path
) -> None:
    path, saved = pruned_twice
    model = Classifier(small_net(), 10, Training(epochs=2))
    engine = trainer(tmp_path, max_epochs=2, enable_checkpointing=False)
    engine.fit(model, DataLoader(digits(64), 32), ckpt_path=path, weights_only=True)
    assert (engine.current_epoch, engine.global_step) == (2, 4)
    shapes = [parameter.shape for parameter in saved.backbone.parameters()]
    assert [parameter.shape for parameter in model.backbone.parameters()] == shapes


def test_a_checkpoint_with_removed_channels_is_an_error(pruned_twice: tuple[Path, Classifier]) -> None:
    path, _ = pruned_twice
    other = small_net()
    graph = prunelab.analyze(other, digits(1)[:][0])
    prunelab.apply(other, graph.plan({group.name: range(1, group.size, 2) for group in graph.groups}))
    with pytest.raises(UserError, match="The checkpoint keeps channel 0 of "):
        loaded(path, other)


def test_a_full_checkpoint_is_not_for_a_pruned_network(tmp_path: Path) -> None:
    model = Classifier(small_net(), 10, Training(epochs=1))
    fit(model, tmp_path).save_checkpoint(tmp_path / "net.ckpt")
    with pytest.raises(UserError, match="The checkpoint contains a full network, but this network is pruned"):
        loaded(tmp_path / "net.ckpt", halved(small_net()))


def test_the_remainder_of_a_plan_completes_its_first_part() -> None:
    model = CifarResNet(2, in_chans=1)
    graph = prunelab.analyze(model, digits(1)[:][0])
    kept = {group.name: range(0, group.size, 2) for group in graph.groups}
    first = graph.plan(kept, dropped_blocks=[graph.blocks[0].name])
    prunelab.apply(model, first)
    smaller = prunelab.analyze(model, digits(1)[:][0])
    kept = {group.name: range(1, group.size) for group in smaller.groups}
    second = smaller.plan(kept, dropped_blocks=[smaller.blocks[-1].name])
    both = first.compose(second)
    assert first.compose(remainder(both, first)).digest() == both.digest()
    reference = copy.deepcopy(model)
    prunelab.apply(reference, second)
    prunelab.apply(model, remainder(both, first))
    assert_same_function(model, reference)
