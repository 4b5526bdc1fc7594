"""Distillation: the loss by hand, and a teacher that is not part of the trained module."""

from __future__ import annotations

import copy
import math
from pathlib import Path

import pytest
import torch
from torch import nn

from prunelab.cli.config import configure
from prunelab.data import Digits
from prunelab.errors import UserError
from prunelab.experiment import run
from prunelab.recipes import FrontToBack, Iterative, OneShot
from prunelab.records import run_key
from prunelab.training import Classifier, Distillation, Machine, Teacher, Training, fit
from prunelab.training.checkpoints import newest_sound
from prunelab.training.losses import distillation

TRAINING = Training(epochs=2, lr=0.05)
IMAGES = torch.randn(6, 1, 8, 8, generator=torch.Generator().manual_seed(0))
CLASSES = torch.tensor([0, 1, 2, 3, 4, 5])


class Fixed(nn.Module):
    """The same logits for every image."""

    def __init__(self, *logits: float) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.tensor(logits))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.logits.expand(len(images), -1)


@pytest.mark.parametrize("temperature", [1.0, 2.0, 5.0])
def test_the_loss_by_hand(temperature: float) -> None:
    """Teacher softmax((T log 3, 0) / T) = (3/4, 1/4), student (1/2, 1/2): T^2 (3/4 log 3/2 + 1/4 log 1/2)."""
    teacher = torch.tensor([[temperature * math.log(3), 0.0]])
    expected = temperature**2 * (0.75 * math.log(1.5) + 0.25 * math.log(0.5))
    assert float(distillation(torch.zeros(1, 2), teacher, temperature)) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(("weight", "temperature"), [(1.0, 1.0), (0.9, 4.0), (0.25, 2.0)])
def test_the_loss_of_a_classifier_by_hand(weight: float, temperature: float) -> None:
    """Labels: log 2 for every image, as the student's softmax is (1/2, 1/2)."""
    teacher = Teacher(Fixed(temperature * math.log(3), 0.0), Distillation(weight, temperature))
    model = Classifier(Fixed(0.0, 0.0), 2, TRAINING, teacher=teacher)
    soft = temperature**2 * (0.75 * math.log(1.5) + 0.25 * math.log(0.5))
    loss = model.loss(IMAGES, model(IMAGES), torch.tensor([0, 1, 0, 1, 0, 1]))
    assert float(loss.detach()) == pytest.approx((1 - weight) * math.log(2) + weight * soft, rel=1e-5)
    loss.backward()
    assert model.backbone.logits.grad is not None
    assert teacher.network.logits.grad is None and not teacher.network.logits.requires_grad


def test_a_teacher_moves_to_the_device_of_the_images_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not in each step: Module.to visits every tensor, which takes milliseconds for a deep network."""
    teacher = Teacher(Fixed(1.0, 0.0), Distillation(0.5))
    moves: list[object] = []
    move = nn.Module.to
    monkeypatch.setattr(nn.Module, "to", lambda self, *where: moves.append(*where) or move(self, *where))
    meta = torch.device("meta")  # in place of a GPU
    for place in (torch.device("cpu"), meta, meta):
        images, logits = IMAGES.to(place), torch.zeros(len(IMAGES), 2, device=place)
        assert teacher.loss(images, logits, torch.zeros((), device=place)).device == place
    assert moves == [meta]


def small(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Dropout(0.5), nn.Linear(144, 10)
    )


def train(network: nn.Module, folder: Path, teacher: Teacher | None, seed: int = 3) -> None:
    machine = Machine(accelerator="cpu")
    fit(network, Digits(), TRAINING, machine=machine, seed=seed, folder=folder, title="test", teacher=teacher)


def test_the_teacher_is_unchanged_and_in_evaluation_mode(tmp_path: Path) -> None:
    original = small(1).train()
    teacher = Teacher(original, Distillation(0.5))
    before = copy.deepcopy(teacher.network.state_dict())
    network = small(0)
    train(network, tmp_path, teacher)
    assert original.training and not any(module.training for module in teacher.network.modules())
    assert all(torch.equal(tensor, before[name]) for name, tensor in teacher.network.state_dict().items())
    alone = small(0)
    train(alone, tmp_path / "alone", None)
    assert not torch.equal(alone[0].weight, network[0].weight)


def test_a_checkpoint_does_not_contain_the_teacher(tmp_path: Path) -> None:
    train(small(0), tmp_path / "taught", Teacher(small(1), Distillation(0.5)))
    train(small(0), tmp_path / "alone", None)
    keys = []
    for name in ("taught", "alone"):
        newest = newest_sound(tmp_path / name)
        assert newest is not None
        keys.append(set(torch.load(newest, weights_only=True)["state_dict"]))
    assert keys[0] == keys[1]
    model = Classifier(small(0), 10, TRAINING, teacher=Teacher(small(1), Distillation(0.5)))
    assert len(list(model.parameters())) == len(list(model.backbone.parameters()))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"distillation": 1.5}, r"distillation=1\.5"),
        ({"distillation": -0.1}, r"distillation=-0\.1"),
        ({"distillation": 0.5, "temperature": 0.0}, r"temperature=0\.0"),
        ({"temperature": -1.0}, r"temperature=-1\.0"),
        ({"distillation": 0.5, "training": None}, r"distillation=0\.5 .*recipe\.training is null"),
    ],
)
def test_settings_out_of_range(settings: dict[str, float], words: str) -> None:
    with pytest.raises(UserError, match=words):
        OneShot(**{"training": TRAINING, **settings})


@pytest.mark.parametrize("recipe", [OneShot, Iterative, FrontToBack])
def test_every_training_of_a_recipe_is_taught(recipe: type) -> None:
    rounds = {} if recipe is OneShot else {"round_training": TRAINING}
    taught = recipe(training=TRAINING, **rounds, distillation=0.7, temperature=2.0).rounds(0.5)
    assert {each.distillation for each in taught} == {Distillation(0.7, 2.0)}
    alone = recipe(training=TRAINING, **rounds).rounds(0.5)
    assert {each.distillation for each in alone} == {None}


WORDS = (
    "budget.flops=0.5",
    "method=l1",
    "baseline.training.epochs=1",
    "recipe.training.epochs=1",
    "trainer=cpu",
)


def test_without_distillation_the_key_of_a_run_is_what_it_was() -> None:
    config = configure(list(WORDS))
    older = copy.deepcopy(config)
    del older["recipe"]["distillation"], older["recipe"]["temperature"]
    assert run_key(config) == run_key(older)
    assert run_key(configure([*WORDS, "recipe.distillation=0.9"])) != run_key(config)


@pytest.mark.slow
@pytest.mark.parametrize("weights", ["inherited", "fresh"])
def test_the_full_network_of_the_run_teaches(
    tmp_path: Path, weights: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the recovery, also from scratch."""
    teachers: list[Teacher] = []
    made = Teacher.__init__

    def noted(self: Teacher, network: nn.Module, settings: Distillation) -> None:
        made(self, network, settings)
        teachers.append(self)

    monkeypatch.setattr(Teacher, "__init__", noted)
    words = [*WORDS, f"recipe.weights={weights}", f"outputs={tmp_path}"]
    taught = run(configure([*words, "recipe.distillation=0.9"])).record
    alone = run(configure(words)).record
    (teacher,) = teachers
    assert teacher.settings == Distillation(0.9, 4.0)
    full = sum(parameter.numel() for parameter in teacher.network.parameters())
    assert full == alone.baseline.params == taught.baseline.params
    assert taught.pruned != alone.pruned


@pytest.mark.slow
def test_candidates_of_a_search_are_taught(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Teacher | None] = []
    monkeypatch.setattr("prunelab.steps.candidates.fit", lambda *given, teacher, **more: seen.append(teacher))
    words = [*WORDS, "method=abcpruner", "method.evaluations=2", f"outputs={tmp_path}"]
    run(configure([*words, "recipe.distillation=0.9"]))
    assert len(seen) == 3 and len(set(seen)) == 1 and seen[0] is not None  # two, and the winner again
