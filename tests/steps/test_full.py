"""A baseline from the store is used only if it equals the stored network."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from prunelab.errors import UserError
from prunelab.experiment import run
from prunelab.models import build
from prunelab.steps import task

pytestmark = pytest.mark.slow

Configure = Callable[..., dict[str, Any]]


@pytest.fixture
def stored(smallest: Configure, tmp_path: Path) -> Path:
    """The metrics of a baseline that a run has trained, for some epochs more than one so that it predicts something."""
    run(smallest("method=l2", "baseline.training.epochs=3"))
    (metrics,) = (tmp_path / "outputs" / "baselines").glob("*/metrics.json")
    return metrics


def again(smallest: Configure, method: str) -> Any:
    return run(smallest(f"method={method}", "baseline.training.epochs=3"))


def with_tanh(*arguments: Any, **settings: Any) -> nn.Module:
    """A network with the same weights and another function."""
    network = build(*arguments, **settings)
    for module in list(network.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.ReLU):
                setattr(module, name, nn.Tanh())
    return network


@pytest.mark.parametrize("by_an_earlier_version", [False, True])
def test_the_same_network_is_used_and_another_one_is_an_error(
    stored: Path, smallest: Configure, monkeypatch: pytest.MonkeyPatch, by_an_earlier_version: bool
) -> None:
    assert len(json.loads(stored.read_text())["sample"]["predictions"]) == 128
    if by_an_earlier_version:  # which stored no predictions
        values = json.loads(stored.read_text())
        del values["sample"], values["metrics_sha256"]
        stored.write_text(json.dumps(values))
    assert again(smallest, "l1").record.timings.baseline_s == 0

    monkeypatch.setattr(task, "build", with_tanh)
    with pytest.raises(UserError, match=r"no longer belongs to this network .* Delete the folder"):
        again(smallest, "fpgm")
