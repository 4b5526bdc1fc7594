"""Common parts of the tests of methods that learn: a small network, a training that may crash, a whole run."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from prunelab import experiment
from prunelab.cli.config import configure
from prunelab.data import Digits
from prunelab.methods import LearningMethod, PruningCallback, PruningContext
from prunelab.training import Machine, Training, fit

Make = Callable[[], LearningMethod]
EXAMPLE = torch.zeros(1, 1, 8, 8)
CPU = Machine(accelerator="cpu")


class Block(nn.Module):
    """y = relu(x + f(x)) of 6 channels with 6 inside."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(6, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6)
        self.conv2, self.norm2 = nn.Conv2d(6, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6)

    def forward(self, images: Tensor) -> Tensor:
        hidden = functional.relu(self.norm1(self.conv1(images)))
        return functional.relu(images + self.norm2(self.conv2(hidden)))


class Small(nn.Module):
    """A stem, two blocks of one stage and a head, for digits: images (N, 1, 8, 8) to logits (N, 10)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(1, 6, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(6)
        self.blocks = nn.Sequential(Block(), Block())
        self.head = nn.Linear(6, 10)

    def forward(self, images: Tensor) -> Tensor:
        hidden = self.blocks(functional.relu(self.norm(self.stem(images))))
        return self.head(hidden.mean(dim=(2, 3)))


class Crashed(Exception):
    """Stands for a killed process."""


class Crash(pl.Callback):
    def __init__(self, epoch: int) -> None:
        self.epoch = epoch

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        if trainer.current_epoch == self.epoch:
            raise Crashed


class Epochs(pl.Callback):
    """The numbers of the epochs of a fit."""

    def __init__(self) -> None:
        self.numbers: list[int] = []

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        self.numbers.append(trainer.current_epoch)


@pytest.fixture
def small() -> nn.Module:
    torch.manual_seed(0)
    return Small()


@pytest.fixture
def context() -> Callable[[LearningMethod, nn.Module], PruningContext]:
    """(method, network for digits) -> the context of the method."""
    return lambda method, network: method.context(network, EXAMPLE, **images_of(method))


def images_of(method: LearningMethod) -> dict[str, Any]:
    """The calibration and the validation images of digits, if the method reads some."""
    data = Digits()
    data.setup()
    return {
        "calibration": data.calibration_dataloader(64) if method.reads_images else None,
        "validation": data.validation_dataloader(method.validation_images)
        if method.reads_validation
        else None,
    }


@pytest.fixture
def learn(tmp_path: Path) -> Callable[..., dict[str, float]]:
    """Trains a network for digits in place while a method learns; returns the last logged figures."""

    def learned(
        method: LearningMethod,
        network: nn.Module,
        *callbacks: pl.Callback,
        folder: str = "learning",
        training: Training | None = None,
        machine: Machine = CPU,
    ) -> dict[str, float]:
        logged = Logged()
        data = Digits()
        data.prepare_data()
        data.setup()
        method.begin(method.context(network, EXAMPLE, **images_of(method)))
        fit(
            network,
            data,
            training or Training(epochs=3, lr=0.05),
            machine=machine,
            seed=3,
            folder=tmp_path / folder,
            title="learning",
            callbacks=[PruningCallback(method), *callbacks, logged],
        )
        return logged.figures

    return learned


class Logged(pl.Callback):
    """The last logged figures, and the number of steps."""

    def __init__(self) -> None:
        self.figures: dict[str, float] = {}

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        self.figures = {name: float(value) for name, value in trainer.callback_metrics.items()}
        self.figures["steps"] = trainer.global_step


class Signals(pl.LightningModule):
    """Ten channels: numbers 2 and 7 contain the class, five are copies of noise, and three are dead.

    Images (N, 4, 2, 2) are bright in input channel 0 or 1, by their class, and noisy in channel 2.
    """

    def __init__(self, lr: float) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.lr = lr
        self.net = nn.Sequential(
            nn.Conv2d(4, 10, 1, bias=False), nn.BatchNorm2d(10), nn.ReLU(),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(10, 2),
        )  # fmt: skip
        weight = torch.zeros(10, 4)
        weight[2, 0] = weight[7, 1] = 1.0
        weight[[0, 3, 5, 6, 9], 2] = 1.0
        self.net[0].weight.data = weight.view(10, 4, 1, 1)
        self.net[0].requires_grad_(False)  # noise remains noise

    def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> Tensor:
        return functional.cross_entropy(self.net(batch[0]), batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        trained = [parameter for parameter in self.parameters() if parameter.requires_grad]
        return torch.optim.SGD(trained, lr=self.lr, momentum=0.9)

    def train_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        generator = torch.Generator().manual_seed(0)
        classes = torch.randint(2, (256,), generator=generator)
        images = 0.1 * torch.randn(256, 4, 2, 2, generator=generator)
        images[torch.arange(256), classes] += 1.0
        images[:, 2] += torch.randn(256, 1, 1, generator=generator)
        return DataLoader(TensorDataset(images, classes), batch_size=32)


@pytest.fixture
def signals() -> Callable[..., tuple[nn.Module, tuple[int, ...]]]:
    """(method, epochs, lr) -> the network of ``Signals`` after learning, and the channels that the method keeps."""

    def kept(method: LearningMethod, epochs: int = 20, lr: float = 0.05) -> tuple[nn.Module, tuple[int, ...]]:
        module, example = Signals(lr), torch.zeros(1, 4, 2, 2)
        callback = PruningCallback(method, example_input=example)
        trainer = pl.Trainer(
            max_epochs=epochs, accelerator="cpu", callbacks=[callback], logger=False, enable_checkpointing=False,
            enable_progress_bar=False, enable_model_summary=False,
        )  # fmt: skip
        trainer.fit(module)
        return module.net, method.decide(method.context(module.net, example)).kept["0"]

    return kept


@pytest.fixture
def assert_resumes(learn: Any, small: nn.Module) -> Callable[..., None]:
    """Assert that learning that crashed before its last epoch, and was resumed by new objects, ends like an
    uninterrupted one."""

    def check(make: Make, epochs: int = 3) -> None:
        for name, parameter in small.named_parameters():
            if "norm" in name and name.endswith("bias"):
                parameter.data.fill_(0.5)  # at 0 the ReLU has no gradient for a zero filter
        unbroken, broken, resumed = (copy.deepcopy(small) for _ in range(3))
        first, last, training = make(), make(), Training(epochs=epochs, lr=0.05)
        learn(first, unbroken, folder="unbroken", training=training)
        with pytest.raises(Crashed):
            learn(make(), broken, Crash(epochs - 1), folder="broken", training=training)
        seen = Epochs()
        learn(last, resumed, seen, folder="broken", training=training)
        assert seen.numbers == [epochs - 1]
        for name, tensor in unbroken.state_dict().items():
            assert torch.equal(tensor, resumed.state_dict()[name]), name
        plans = [
            method.decide(method.context(network, EXAMPLE, **images_of(method)))
            for method, network in ((first, unbroken), (last, resumed))
        ]
        assert plans[0] == plans[1]

    return check


@pytest.fixture(scope="session")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder for all runs, so that they share their baseline."""
    return tmp_path_factory.mktemp("outputs")


@pytest.fixture
def run(outputs: Path) -> Callable[..., experiment.Outcome]:
    """The smallest whole run on digits, with any more words of the command line."""

    def finished(*words: str) -> experiment.Outcome:
        smallest = (
            "budget.flops=0.5",
            "baseline.training.epochs=1",
            "recipe.training.epochs=1",
            "trainer=cpu",
        )
        return experiment.run(configure([*smallest, f"outputs={outputs}", "method.epochs=1", *words]))

    return finished
