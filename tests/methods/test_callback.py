"""ImportancePruning as an ordinary callback of a LightningModule that prunelab has never seen."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

import prunelab
from prunelab.errors import UserError
from prunelab.methods import (
    APoZ,
    Budget,
    ImportanceMethod,
    ImportancePruning,
    L1Norm,
    PruningCallback,
    PruningContext,
    PruningMethod,
    Taylor,
)
from prunelab.methods.lightning_adapter import find_network
from prunelab.structure import PruningPlan


class Unseen(pl.LightningModule):
    """A convolutional network with functional ReLUs, written without regard to pruning."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(2, 8, 3, padding=1)
        self.conv2 = nn.Conv2d(8, 8, 3, padding=1)
        self.head = nn.Linear(8, 3)

    def forward(self, images: Tensor) -> Tensor:
        hidden = functional.relu(self.conv2(functional.relu(self.conv1(images))))
        return self.head(hidden.mean(dim=(2, 3)))

    def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> Tensor:
        return functional.cross_entropy(self(batch[0]), batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Wrapped(Unseen):
    """The same with the network as a child, and a loss that has no parameters."""

    def __init__(self) -> None:
        pl.LightningModule.__init__(self)
        self.net = nn.Sequential(
            nn.Conv2d(2, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.Flatten(), nn.Linear(8, 3)
        )
        self.loss = nn.CrossEntropyLoss()

    forward = pl.LightningModule.forward

    def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> Tensor:
        return self.loss(self.net(batch[0]), batch[1])


def train_loader(**settings: Any) -> DataLoader[tuple[Tensor, ...]]:
    generator = torch.Generator().manual_seed(0)
    images, targets = (
        torch.randn(24, 2, 5, 5, generator=generator),
        torch.randint(3, (24,), generator=generator),
    )
    return DataLoader(TensorDataset(images, targets), batch_size=8, **settings)


def trainer(*callbacks: pl.Callback, **settings: Any) -> pl.Trainer:
    settings = {"max_steps": 2, "max_epochs": 1, "accelerator": "cpu", **settings}
    return pl.Trainer(
        callbacks=list(callbacks),
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **settings,
    )


def module_of(kind: type[Unseen] = Unseen) -> Unseen:
    torch.manual_seed(0)
    return kind()


def pruning(criterion: Any = None, **settings: Any) -> ImportancePruning:
    return ImportancePruning(criterion or L1Norm(), Budget(flops=0.5), **settings)


@pytest.mark.parametrize("criterion", [L1Norm(), APoZ(), Taylor()])
def test_an_unseen_module_is_pruned_before_the_first_step_and_trained_on(criterion: Any) -> None:
    module, method = module_of(), pruning(criterion)
    full = module_of()
    trainer(method).fit(module, train_loader(shuffle=True))

    assert method.plan is not None
    cost = prunelab.analyze(module, torch.zeros(1, 2, 5, 5)).cost.flops()
    assert cost <= 0.5 * prunelab.analyze(full, torch.zeros(1, 2, 5, 5)).cost.flops()
    kept = method.plan.kept["conv1"]
    assert module.conv1.weight.shape[0] == len(kept) < 8
    assert not torch.equal(
        module.conv1.weight, full.conv1.weight[list(kept)]
    )  # the optimizer had the pruned tensors


def test_the_savings_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    module, image = module_of(), torch.zeros(1, 2, 5, 5)
    full = prunelab.analyze(module, image).cost
    with caplog.at_level("INFO", logger="prunelab"):
        trainer(pruning()).fit(module, train_loader())
    left = prunelab.analyze(module, image).cost
    share = f"{left.flops() / full.flops():.1%}"
    assert f"Pruned Unseen: {full.flops():,} -> {left.flops():,} FLOPs ({share}), " in caplog.text
    assert f"{full.params():,} -> {left.params():,} parameters" in caplog.text


@pytest.mark.parametrize(
    ("criterion", "budget"), [(L1Norm(), 0.5), (L1Norm, Budget(flops=0.5)), ("l1", Budget(flops=0.5))]
)
def test_a_wrong_criterion_or_budget_is_an_error_at_once(criterion: Any, budget: Any) -> None:
    with pytest.raises(UserError, match=r"is not a (criterion|Budget): give for example prunelab\."):
        ImportancePruning(criterion, budget)


def test_setup_has_the_plan_of_decide() -> None:
    module, method = module_of(), pruning(Taylor())
    expected = method.method.decide(
        method.method.context(module_of(), torch.zeros(1, 2, 5, 5), train_loader())
    )
    trainer(method).fit(module, train_loader())
    assert method.plan == expected


def test_the_network_is_pruned_once_however_often_it_is_fitted() -> None:
    module, method = module_of(), pruning()
    trainer(method).fit(module, train_loader())
    shapes = {name: tensor.shape for name, tensor in module.state_dict().items()}
    trainer(method).fit(module, train_loader())
    assert {name: tensor.shape for name, tensor in module.state_dict().items()} == shapes


def test_only_fit_prunes() -> None:
    module, method = module_of(), pruning()
    module.validation_step = module.training_step  # type: ignore[method-assign]
    trainer(method).validate(module, train_loader(), verbose=False)
    assert method.plan is None and module.conv1.out_channels == 8


def test_training_continues_with_the_same_random_numbers() -> None:
    drawn = []
    for callbacks in ([pruning(Taylor())], []):

        class Draw(pl.Callback):
            def on_train_start(self, *args: Any) -> None:
                drawn.append(torch.rand(1).item())

        module = module_of()
        torch.manual_seed(7)
        trainer(*callbacks, Draw()).fit(module, train_loader(shuffle=True))
    assert drawn[0] == drawn[1]


def test_the_only_child_with_parameters_is_the_network() -> None:
    module = module_of(Wrapped)
    trainer(pruning()).fit(module, train_loader())
    assert module.net[0].out_channels < 8


def test_the_network_can_be_named() -> None:
    module = module_of(Wrapped)
    module.teacher = nn.Linear(2, 2)
    with pytest.raises(UserError, match=r"has 2 \(net, teacher\): name one with network="):
        find_network(module)
    assert find_network(module, "net") is module.net
    with pytest.raises(UserError, match=r"no submodule 'nett'\. Did you mean 'net'"):
        find_network(module, "nett")


class WithCalibration(pl.LightningDataModule):
    asked = 0

    def train_dataloader(self) -> Any:
        return train_loader(shuffle=True)

    def calibration_dataloader(self, images: int) -> Any:
        self.asked = images
        return train_loader()


def test_a_data_module_may_offer_calibration_images() -> None:
    data, method = WithCalibration(), pruning(APoZ(), images=16)
    trainer(method).fit(module_of(), datamodule=data)
    assert data.asked == 16
    expected = pruning(APoZ(), images=16)
    assert method.plan == expected.method.decide(
        expected.method.context(module_of(), torch.zeros(1, 2, 5, 5), train_loader())
    )


def test_a_module_may_have_its_own_loader() -> None:
    module, method = module_of(), pruning(APoZ())
    module.train_dataloader = train_loader  # type: ignore[method-assign]
    trainer(method).fit(module)
    assert method.plan is not None


def test_criteria_of_weights_need_no_loader_before_training() -> None:
    class Late(pl.LightningDataModule):
        calls = 0

        def train_dataloader(self) -> Any:
            self.calls += 1
            return train_loader()

    data = Late()
    trainer(pruning(example_input=torch.zeros(1, 2, 5, 5))).fit(module_of(), datamodule=data)
    assert data.calls == 1  # by the trainer, to train


def test_a_loader_that_is_not_there_yet_is_explained() -> None:
    class Late(Unseen):
        def setup(self, stage: str) -> None:
            self.loader = train_loader()

        def train_dataloader(self) -> Any:
            return self.loader

    with pytest.raises(UserError, match=r"before training starts.*calibration="):
        trainer(pruning(APoZ())).fit(module_of(Late))
    trainer(pruning(APoZ(), calibration=train_loader())).fit(module_of(Late))


def test_several_loaders_at_once_are_errors() -> None:
    with pytest.raises(UserError, match=r"is a list, not one loader.*calibration="):
        trainer(pruning(APoZ())).fit(module_of(), [train_loader(), train_loader()])


def test_strategies_that_spawn_are_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    method, module = pruning(), module_of()
    spawning = trainer(method, strategy="ddp_spawn", devices=2)
    with pytest.raises(UserError, match=r"ddp_spawn.*Use Trainer\(strategy='ddp'\)"):
        method.setup(spawning, module, "fit")


def test_a_budget_out_of_reach_is_an_error_before_any_image_is_looked_at() -> None:
    class Counted(Unseen):
        passes = 0

        def forward(self, images: Tensor) -> Tensor:
            self.passes += images.shape[0] == 8
            return super().forward(images)

    module = module_of(Counted)
    with pytest.raises(
        UserError, match=r"budget\.flops=0\.001 cannot be reached: the smallest for Counted with"
    ):
        trainer(ImportancePruning(APoZ(), Budget(flops=0.001))).fit(module, train_loader())
    assert module.passes == 0


def test_a_plan_file_is_written_and_then_read(tmp_path: Path) -> None:
    path = tmp_path / "run" / "plan.json"
    first, again = module_of(), module_of()
    trainer(pruning(plan_file=path)).fit(first, train_loader())
    assert [file.name for file in path.parent.iterdir()] == ["plan.json"]

    class Forgetful(ImportanceMethod):
        def decide(self, context: PruningContext) -> PruningPlan:
            raise AssertionError("decided again")

    def forgetful() -> PruningCallback:
        return PruningCallback(Forgetful(L1Norm(), Budget(flops=0.5)), plan_file=path)

    method = forgetful()
    trainer(method).fit(again, train_loader())
    assert method.plan == PruningPlan.from_json(path.read_text())
    assert again.conv1.weight.shape == first.conv1.weight.shape
    trainer(forgetful()).fit(again, train_loader())  # pruned by it already
    assert again.conv1.weight.shape == first.conv1.weight.shape


def test_a_plan_file_that_does_not_fit_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    trainer(pruning(plan_file=path)).fit(module_of(), train_loader())
    with pytest.raises(
        UserError, match=r"plan\.json keeps 0\.4\d* of the flops, more than budget\.flops=0\.3"
    ):
        trainer(ImportancePruning(L1Norm(), Budget(flops=0.3), plan_file=path)).fit(
            module_of(), train_loader()
        )
    with pytest.raises(UserError, match="made for another network"):
        trainer(pruning(plan_file=path)).fit(module_of(Wrapped), train_loader())
    path.write_text("{")
    with pytest.raises(UserError, match=r"cannot be used: .*broken JSON.* Delete it"):
        trainer(pruning(plan_file=path)).fit(module_of(), train_loader())


def test_a_plan_file_that_cannot_be_written_is_explained(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be"):
        trainer(pruning(plan_file=tmp_path / "file" / "plan.json")).fit(module_of(), train_loader())


def test_a_user_method_is_one_class() -> None:
    class KeepTheFirst(PruningMethod):
        def decide(self, context: PruningContext) -> PruningPlan:
            return context.graph.plan({group.name: range(group.size // 2) for group in context.groups})

    module = module_of()
    trainer(PruningCallback(KeepTheFirst(Budget(flops=0.5)))).fit(module, train_loader())
    assert module.conv1.out_channels == 4


class Regression(Unseen):
    """Targets (N, 1): their cross entropy is zero for any output of the network."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(8, 1)

    def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> Tensor:
        self.log("seen", 1.0)
        return functional.mse_loss(self(batch[0]), batch[1][:, None].float())


def test_gradient_criteria_use_the_loss_of_training_step() -> None:
    callback = pruning(Taylor())
    trainer(callback).fit(module_of(Regression), train_loader())

    def squares(outputs: Tensor, targets: Tensor) -> Tensor:
        return functional.mse_loss(outputs, targets[:, None].float())

    given = pruning(Taylor(), loss=squares)
    trainer(given).fit(module_of(Regression), train_loader())
    assert callback.plan == given.plan


def test_scores_that_are_all_equal_are_an_error() -> None:
    with pytest.raises(UserError, match=r"Taylor gives all channels of Regression the same score \(0\)"):
        trainer(pruning(Taylor(), loss=lambda outputs, targets: 0 * outputs.sum())).fit(
            module_of(Regression), train_loader()
        )


def test_a_training_step_that_cannot_serve_as_loss_asks_for_one() -> None:
    class Twice(Unseen):
        def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> Tensor:
            return functional.cross_entropy(self(batch[0]) + self(batch[0]), batch[1])

    class Flipped(Unseen):
        def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> Tensor:
            return functional.cross_entropy(self(batch[0].flip(-1)), batch[1])

    class Detached(Unseen):
        def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> Tensor:
            return functional.cross_entropy(self(batch[0]).detach(), batch[1])

    class OfEachImage(Unseen):
        def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> Tensor:
            return functional.cross_entropy(self(batch[0]), batch[1], reduction="none")

    for kind, cause in (
        (Twice, "2 times"),
        (Flipped, "changes the images"),
        (Detached, "does not depend on the outputs"),
        (OfEachImage, "not one number"),
    ):
        with pytest.raises(UserError, match=f"{cause}.*Give the pruning callback loss="):
            trainer(pruning(Taylor())).fit(module_of(kind), train_loader())


def test_a_network_made_in_configure_model_is_pruned() -> None:
    class Late(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = None

        def configure_model(self) -> None:
            if self.net is None:
                self.net = nn.Sequential(nn.Conv2d(2, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.Flatten())

        def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> Tensor:
            return functional.cross_entropy(self.net(batch[0]), batch[1])

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=0.1)

    module = Late()
    trainer(pruning()).fit(module, train_loader())
    assert module.net[0].out_channels < 8


def test_a_network_that_configure_model_replaces_after_pruning_is_an_error() -> None:
    class Made(pl.LightningModule):
        def configure_model(self) -> None:
            self.net = Unseen()

        def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> Tensor:
            return functional.cross_entropy(self.net(batch[0]), batch[1])

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=0.1)

    with pytest.raises(UserError, match="configure_model of Made made a new network"):
        trainer(pruning()).fit(Made(), train_loader())


def test_networks_that_are_made_too_late_are_explained() -> None:
    class InSetup(Unseen):
        def __init__(self) -> None:
            pl.LightningModule.__init__(self)

        def setup(self, stage: str) -> None:
            self.conv1 = nn.Conv2d(2, 8, 3)

    class Lazy(Unseen):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.LazyLinear(3)

    with pytest.raises(UserError, match="__init__ or in configure_model"):
        trainer(pruning()).fit(InSetup(), train_loader())
    with pytest.raises(UserError, match="lazy layers"):
        trainer(pruning()).fit(Lazy(), train_loader())


def test_weight_averaging_before_the_pruning_callback_is_an_error() -> None:
    class Copies(pl.Callback):
        def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
            self.average = torch.optim.swa_utils.AveragedModel(pl_module)

    with pytest.raises(UserError, match=r"Copies copies the network before.*callbacks=\[ImportancePruning"):
        trainer(Copies(), pruning()).fit(module_of(), train_loader())
    trainer(pruning(), Copies()).fit(module_of(), train_loader())


@pytest.mark.parametrize("kept", [dict, lambda pairs: {"ema": {"tensors": [value for _, value in pairs]}}])
def test_a_callback_with_copies_of_all_weights_before_the_pruning_callback_is_an_error(kept: Any) -> None:
    class Copies(pl.Callback):
        def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
            self.average = kept(
                [(name, value.detach().clone()) for name, value in pl_module.named_parameters()]
            )

    with pytest.raises(UserError, match="Copies copies the network before"):
        trainer(Copies(), pruning()).fit(module_of(), train_loader())
    trainer(pruning(), Copies()).fit(module_of(), train_loader())


def test_an_average_of_the_full_network_is_an_error() -> None:
    class Copies(pl.Callback):
        def __init__(self, module: Any) -> None:
            self.average = torch.optim.swa_utils.AveragedModel(module)

    class Averaged(Unseen):
        def __init__(self) -> None:
            super().__init__()
            self.average = torch.optim.swa_utils.AveragedModel(self.conv1)

    module = module_of()
    with pytest.raises(UserError, match="not when the callback is made"):
        trainer(pruning(), Copies(module)).fit(module, train_loader())
    with pytest.raises(UserError, match=r"'average' of Averaged.*on_fit_start"):
        trainer(pruning()).fit(module_of(Averaged), train_loader())


def test_lightnings_weight_averaging_serves_several_fits_after_the_pruning_callback() -> None:
    averaging, module = pl.callbacks.EMAWeightAveraging(), module_of()
    trainer(averaging).fit(module, train_loader())
    trainer(pruning(), averaging).fit(module, train_loader())
    assert module.conv1.out_channels < 8


def test_an_optimizer_from_an_earlier_fit_is_an_error() -> None:
    class Keeps(Unseen):
        def __init__(self) -> None:
            super().__init__()
            self.kept = torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return self.kept

    module = module_of(Keeps)
    trainer().fit(module, train_loader())
    with pytest.raises(UserError, match="SGD that was made before the network was pruned"):
        trainer(pruning()).fit(module, train_loader())


def test_networks_that_are_not_pruned_are_named(caplog: pytest.LogCaptureFixture) -> None:
    module = module_of(Wrapped)
    module.critic = nn.Linear(2, 2)
    with caplog.at_level("INFO", logger="prunelab"):
        trainer(pruning(network="net")).fit(module, train_loader())
    assert "Not pruned: critic" in caplog.text

    caplog.clear()
    gan = module_of(Unseen)
    gan.generator = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    with caplog.at_level("INFO", logger="prunelab"):
        trainer(pruning()).fit(gan, train_loader())
    assert "Not pruned: generator (not used by the forward pass of Unseen" in caplog.text
