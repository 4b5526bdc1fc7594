"""Networks that a user module registers."""

from __future__ import annotations

from pathlib import Path

import pytest

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
def test_what_cannot_be_imported_is_named(
    content: str | None, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    if content is not None:
        (tmp_path / "absent.py").write_text(content)
    with pytest.raises(UserError, match=message):
        Setup.of(configure([*WORDS, "model.module=absent"]))
