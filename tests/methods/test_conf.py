"""Settings of methods on the command line, and those in comments of conf/method."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hydra.utils import instantiate

from prunelab.cli.config import configure, configure_part
from prunelab.methods import Entropy

CONF = Path(__file__).parents[2] / "conf"


def test_settings_of_a_criterion_are_keys() -> None:
    words = ["method=entropy", "method.criterion.bins=20", "method.divisor=8", "budget.flops=0.5"]
    settings = configure_part("method", words)
    settings.pop("module")
    method = instantiate(settings, _convert_="all")
    assert method.criterion == Entropy(bins=20)
    assert method.allocation.divisor == 8


def offered_words(file: Path) -> list[str]:
    """Every word for the command line that the comments of a file in conf/method offer."""
    pattern = re.compile(r"\b((?:method\.|recipe|data|experiment|levels|budget)[\w.]*=[^\s;)]+)")
    comments = re.findall(r"#.*", file.read_text())
    words = [word.rstrip(",.:") for comment in comments for word in pattern.findall(comment)]
    return [word for word in words if "..." not in word]


@pytest.mark.slow
@pytest.mark.parametrize("file", sorted((CONF / "method").glob("*.yaml")), ids=lambda file: file.stem)
def test_words_that_comments_offer_are_understood(file: Path) -> None:
    commands: list[dict[str, str]] = [{}]
    for word in offered_words(file):
        key, _, value = word.partition("=")
        if commands[-1].get(key, value) != value:  # of two variants one at a time
            commands.append({})
        commands[-1][key] = value
    for words in commands:
        data = {} if "experiment" in words else {"data": "image_folder"}
        chosen = {"method": file.stem, "budget.flops": "0.5", "data.root": "nowhere", **data, **words}
        configure([f"{key}={value}" for key, value in chosen.items()])


def test_words_are_found_in_comments() -> None:
    words = offered_words(CONF / "method" / "autopruner.yaml")
    assert words[0] == "data.batch_size=256"
    assert {"method.training.epochs=8", "method.training.milestones=[4]"} < set(words)
