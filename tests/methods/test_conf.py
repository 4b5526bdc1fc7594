"""Every choice of the group ``method`` composes, and its class gets the run's settings."""

from __future__ import annotations

import re
from pathlib import Path

import hydra
import pytest
import yaml
from hydra import compose, initialize_config_dir

from prunelab.cli.config import configure
from prunelab.methods import (
    CURL,
    FPGM,
    NISP,
    PFA,
    SCSP,
    APoZ,
    BNGamma,
    Entropy,
    HRank,
    ImportanceMethod,
    L1Norm,
    L2Norm,
    Random,
    Taylor,
)

CONF = Path(__file__).parents[2] / "conf"
CRITERIA = {
    "random": Random,
    "l1": L1Norm,
    "l2": L2Norm,
    "bn_gamma": BNGamma,
    "fpgm": FPGM,
    "apoz": APoZ,
    "taylor": Taylor,
    "entropy": Entropy,
    "scsp": SCSP,
    "hrank": HRank,
    "pfa": PFA,
    "nisp": NISP,
    "curl": CURL,
}


@pytest.fixture(scope="module")
def conf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A primary config with the keys that methods read, beside the real groups."""
    folder = tmp_path_factory.mktemp("conf")
    budget = {"flops": 0.4, "params": None, "allocation": "uniform", "min_keep": 0.2, "divisor": 4}
    run = {
        "defaults": ["_self_", {"method": "l1"}],
        "hydra": {"searchpath": [f"file://{CONF}"]},
        "seed": 3,
        "levels": ["filter"],
        "exclude": ["conv1"],
        "exact": True,
        "cardinality": True,
        "budget": {**budget, "normalisation": None},
        "recipe": {"calibration_images": 64},
    }
    (folder / "run.yaml").write_text(yaml.safe_dump(run))
    return folder


def test_there_is_one_file_for_each_criterion() -> None:
    assert {file.stem for file in (CONF / "method").glob("*.yaml")} >= set(CRITERIA)


@pytest.mark.parametrize("name", CRITERIA)
def test_a_choice_makes_its_method_with_the_settings_of_the_run(conf: Path, name: str) -> None:
    with initialize_config_dir(str(conf), version_base="1.3"):
        method = hydra.utils.instantiate(compose("run", [f"method={name}"]).method)
    assert isinstance(method, ImportanceMethod)
    assert type(method.criterion) is CRITERIA[name]
    assert (method.budget.flops, method.levels, method.images, method.seed) == (0.4, ("filter",), 64, 3)
    assert (method.exclude, method.exact, method.cardinality) == ({"conv1"}, True, True)
    assert (method.allocation.rule, method.allocation.min_keep, method.allocation.divisor) == (
        "uniform",
        0.2,
        4,
    )
    assert method.allocation.normalisation == CRITERIA[name].normalisation


@pytest.mark.parametrize("name", CRITERIA)
def test_the_file_shows_the_defaults_of_the_class(name: str) -> None:
    written = yaml.safe_load((CONF / "method" / f"{name}.yaml").read_text())["criterion"]
    settings = {key: value for key, value in written.items() if not key.startswith("_")}
    assert CRITERIA[name](**settings) == CRITERIA[name]()


def test_settings_of_a_criterion_are_keys(conf: Path) -> None:
    with initialize_config_dir(str(conf), version_base="1.3"):
        chosen = compose("run", ["method=entropy", "method.criterion.bins=20", "method.divisor=8"])
        method = hydra.utils.instantiate(chosen.method)
    assert method.criterion == Entropy(bins=20)
    assert method.allocation.divisor == 8


def offered_words(file: Path) -> list[str]:
    """Every word for the command line that the comments of a file in conf/method offer."""
    pattern = re.compile(r"\b((?:method\.|recipe|data|experiment|levels|budget)[\w.]*=[^\s;)]+)")
    comments = re.findall(r"#.*", file.read_text())
    words = [word.rstrip(",.:") for comment in comments for word in pattern.findall(comment)]
    return [word for word in words if "..." not in word]


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
