"""Networks that a user module registers."""

from __future__ import annotations

from pathlib import Path

import pytest

import prunelab
from prunelab.cli.config import configure
from prunelab.cli.profile.parts import profile
from prunelab.errors import UserError
from prunelab.steps import Setup

NETS = """
from timm.models import register_model
from torch import nn

@register_model
def two_of_mine(num_classes=10, in_chans=3, width=8, **_):
    layers = nn.Conv2d(in_chans, width, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    return nn.Sequential(*layers, nn.Linear(width, num_classes))

class WithFeatures(nn.Module):
    def __init__(self, classes, channels):
        super().__init__()
        self.body, self.last = nn.Conv2d(channels, 8, 3), nn.Conv2d(8, 6, 3)
        self.head = nn.Linear(6, classes)

    def forward(self, images):
        features = self.last(self.body(images).relu()).relu()
        return {"features": features, "scores": self.head(features.mean((2, 3)))}

@register_model
def with_features(num_classes=10, in_chans=3, **_):
    return WithFeatures(num_classes, in_chans)
"""
WORDS = ("model=timm", "model.name=two_of_mine", "budget.flops=0.5")


@pytest.fixture
def nets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The module's name; each test has its own, for Python imports a module once."""
    name = f"nets_{tmp_path.name}"
    (tmp_path / f"{name}.py").write_text(NETS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return name


def test_it_is_a_network_like_any_other(nets: str) -> None:
    words = [*WORDS, f"model.module={nets}", "data=digits", "+model.arguments.width=12"]
    setup = Setup.of(configure(words))
    assert str(setup).startswith("obs on two_of_mine, digits")
    network = setup.task.network()
    assert setup.method.structure(network, setup.task.example_input()).groups[0].size == 12
    assert profile(words).params == 12 * 9 + 12 + 12 * 10 + 10
    assert profile([*WORDS, f"model.module={nets}"]).input_size == (3, 224, 224)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "There is no Python module 'absent' in .* For nets.py write model.module=nets"),
        ("import nothing_like_it", "model.module=absent cannot be imported: ModuleNotFoundError: .*nothing_like_it"),
        ("1 / 0", "model.module=absent cannot be imported: ZeroDivisionError: division by zero"),
    ],
)  # fmt: skip
def test_an_import_error_names_the_module(
    content: str | None, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    if content is not None:
        (tmp_path / "absent.py").write_text(content)
    with pytest.raises(UserError, match=message):
        Setup.of(configure([*WORDS, "model.module=absent"]))


def test_one_of_several_outputs(nets: str, tmp_path: Path) -> None:
    """The network returns the class scores alone, so that the channels of its features can be removed; a saved network
    too."""
    words = ["model=timm", "model.name=with_features", f"model.module={nets}", "image_size=8"]
    with pytest.raises(UserError, match=r"its output for one image is dict.* model\.output=NAME or INDEX"):
        profile(words)
    found = profile([*words, "model.output=scores"])
    assert [(group.name, group.channels) for group in found.groups] == [("body", 8), ("last", 6)]
    setup = Setup.of(configure([*words[:3], "data=digits", "model.output=scores", "budget.flops=0.5"]))
    network, image = setup.task.network(), setup.task.example_input()
    plan = setup.method.structure(network, image).plan({"last": range(2)})
    prunelab.save(prunelab.apply(network, plan), tmp_path / "pruned")
    loaded = prunelab.load(tmp_path / "pruned")
    assert loaded(image).shape == (1, 10)
    assert loaded.last.out_channels == 2


@pytest.mark.parametrize(
    ("output", "message"), [("logits", "no output 'logits'"), (True, "neither a name nor")]
)
def test_an_output_that_does_not_exist(nets: str, output: object, message: str) -> None:
    words = ["model=timm", "model.name=with_features", f"model.module={nets}", "image_size=8"]
    with pytest.raises(UserError, match=message):
        profile([*words, f"model.output={output}"])
