"""prunelab-profile --scores: the channels of each group, best first, and the cut by the budget."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from prunelab.cli.config import configure
from prunelab.cli.profile.command import main
from prunelab.cli.profile.picture import shortened
from prunelab.cli.profile.scores import scored_network
from prunelab.errors import UserError
from prunelab.records import Accuracy, baseline_key
from prunelab.steps import Setup
from prunelab.steps.baseline_store import Baseline

WORDS = ["model=resnet20", "data=digits", "method=l1", "trainer=cpu"]


@pytest.fixture
def words(tmp_path: Path) -> list[str]:
    return [*WORDS, f"outputs={tmp_path}"]


def test_groups_are_sorted_and_cut_at_the_budget(words: list[str]) -> None:
    found = scored_network([*words, "budget.allocation=uniform"])
    assert (found.title, found.budget) == ("l1 on resnet20, digits", "budget.flops=0.5")
    assert found.weights.startswith("RANDOM weights")
    assert [group.name for group in found.groups][:2] == ["layer1", "layer1.0.conv1"]
    for group in found.groups:
        assert sorted(group.channels) == list(range(len(group.scores)))
        assert (np.diff(group.scores) <= 0).all()
        assert group.scores.mean() == pytest.approx(1)  # divided by their mean, as they are compared
        assert group.kept[: group.left].all() and 0.6 < group.left / len(group.scores) < 0.8


def test_the_stored_baseline_is_scored(words: list[str]) -> None:
    """Its first filter is made the weakest, so that this channel comes last."""
    config = configure([*words, "budget.flops=0.3"])
    setup = Setup.of(config)
    network = setup.task.network()
    network.get_parameter("layer3.0.conv1.weight").data[5] *= 1e-3
    accuracy = Accuracy(top1=0.5, top5=0.9)
    weights = {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}
    key = baseline_key(config)
    with setup.store.claimed(key) as claim:
        setup.store.save(key, Baseline(weights, accuracy, 1.0), claim)
    found = scored_network([*words, "budget.flops=0.3"])
    assert found.weights == f"stored baseline {baseline_key(config)}, top-1 50.00%"
    assert found.budget == "budget.flops=0.3"
    (group,) = [group for group in found.groups if group.name == "layer3.0.conv1"]
    assert group.channels[-1] == 5 and not group.kept[-1]


@pytest.mark.slow
def test_the_command_draws_both_pictures(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*words, "--scores", str(tmp_path / "pictures")]) == 0
    assert (tmp_path / "pictures" / "scores.png").read_bytes().startswith(b"\x89PNG")
    page = (tmp_path / "pictures" / "scores.html").read_text()
    assert "width:max(100%, 900px)" in page.replace("width: ", "width:")
    assert "layer3.2.conv1" in page and "channel %{customdata} is kept" in page
    shown = capsys.readouterr().out
    assert "RANDOM weights" in shown and "scores.html" in shown


def test_a_method_that_has_to_learn_first_is_an_error(words: list[str]) -> None:
    with pytest.raises(UserError, match="Slimming does not score"):
        scored_network([*words, "method=slimming"])


def test_long_names_lose_their_middle() -> None:
    assert shortened("layer1.0.conv1", 22) == "layer1.0.conv1"
    assert shortened("features.denseblock4.denselayer16.conv1", 22) == "features.d…yer16.conv1"
