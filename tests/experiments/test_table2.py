"""Every row of Table 2 whose method exists has a configuration with the values of the table."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from prunelab.cli.config import configure
from prunelab.steps import Setup

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
CONF = ROOT / "conf/experiment"
ROWS = sorted(file.stem for file in (CONF / "table2").glob("*.yaml"))
METHODS = sorted(file.stem for file in (CONF / "imagenet_resnet50").glob("*.yaml"))
NETWORKS = {"8.17": "resnet50", "7.72": "resnet50_v1", "23.21": "resnet152"}
HERE = {
    "SFP",
    "FPGM",
    "HRank",
    "ThiNet",
    "Entropy",
    "CURL",
    "EagleEye",
    "LFPC",
    "ABCPruner",
    "ABCPruner on ResNet-152",
    "AutoSlim",
    "DMCP",
    "MetaPruning",
    "TAS",
}


def published() -> dict[str, dict[str, str]]:
    with (ROOT / "experiments/table2/published.csv").open(newline="") as file:
        return {line["row"]: line for line in csv.DictReader(file) if line["row"]}


def setup_of(*words: str) -> Setup:
    return Setup.of(configure([*words, "trainer=cpu"]))


def test_the_rows_are_those_of_the_methods_that_exist() -> None:
    assert [row for row, line in sorted(published().items()) if line["method"] in HERE] == ROWS


@pytest.mark.parametrize("row", ROWS)
def test_a_row_has_the_budget_and_the_network_of_the_table(row: str) -> None:
    line = published()[row]
    setup = setup_of(f"experiment=table2/{row}")
    assert setup.budget.flops == float(line["flops_kept"])
    assert setup.names["model"] == NETWORKS[line["baseline_flops_g"]]
    assert (setup.study, setup.names["data"]) == ("table2", "imagenet")
    assert line["top1"] in (CONF / "table2" / f"{row}.yaml").read_text()


@pytest.mark.parametrize("method", METHODS)
def test_a_method_has_the_one_recipe_of_the_controlled_study(method: str) -> None:
    reference = setup_of("experiment=table2_controlled")
    setup = setup_of("experiment=table2_controlled", f"experiment/imagenet_resnet50={method}")
    assert setup.method.levels == ("filter", "stage")
    assert setup.method.exclude == frozenset()
    assert (setup.recipe, setup.baseline, setup.baseline_key) == (
        reference.recipe, reference.baseline, reference.baseline_key,
    )  # fmt: skip
    assert setup.names["model"] == "resnet50"
