"""Every row of the CIFAR-10 study has its published budget and can be run."""

from __future__ import annotations

import csv
from decimal import Decimal
from pathlib import Path

import pytest

from prunelab.cli.config import configure
from prunelab.experiment import run
from prunelab.steps import Setup

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
CONF = ROOT / "conf/experiment/cifar10_resnet56"
ROWS = sorted(file.stem for file in CONF.glob("*.yaml"))
METHODS = {file.stem for file in (ROOT / "conf/method").glob("*.yaml")}
SMALL = (
    "debug=fast_dev_run", "trainer=cpu", "data=image_folder", "data.batch_size=4", "data.eval_batch_size=8",
    "data.val_fraction=0.5",
)  # fmt: skip

with (ROOT / "experiments/cifar10_resnet56/published.csv").open(newline="") as file:
    PUBLISHED = {line["row"]: line for line in csv.DictReader(file)}


def test_the_rows_are_those_of_the_methods_that_exist() -> None:
    assert sorted(row for row, line in PUBLISHED.items() if line["choice"] in METHODS) == ROWS


@pytest.mark.parametrize("line", PUBLISHED.values(), ids=PUBLISHED)
def test_computed_columns_follow(line: dict[str, str]) -> None:
    kept = Decimal(line["flops_kept"])
    assert Decimal(line["computed_delta"]) == Decimal(line["top1"]) - Decimal(line["baseline_top1"])
    assert line["baseline_flops_g"] == "0.25097"
    assert Decimal(line["computed_flops_g"]) == (kept * Decimal("0.25097")).quantize(Decimal("0.00001"))
    assert Decimal(line["computed_pruned_percent"]) == (100 * (1 - kept)).quantize(Decimal("0.1"))
    if line["pruned_percent"]:
        assert Decimal(line["pruned_percent"]) == 100 * (1 - kept)
    assert line["source"] in ("paper", "code", "third party", "cited", "memory")


@pytest.mark.parametrize("row", ROWS)
def test_a_row_has_the_budget_that_was_published_and_the_baseline_of_all(row: str) -> None:
    setup = Setup.of(configure([f"experiment=cifar10_resnet56/{row}"]))
    assert setup.budget.flops == float(PUBLISHED[row]["flops_kept"])
    assert setup.names["method"] == PUBLISHED[row]["choice"]
    assert setup.baseline_key == Setup.of(configure(["experiment=cifar10_resnet56"])).baseline_key
    assert PUBLISHED[row]["top1"] in (CONF / f"{row}.yaml").read_text()


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output folder of all rows, so that they share the baseline."""
    return tmp_path_factory.mktemp("cifar10_resnet56")


@pytest.mark.rows
@pytest.mark.parametrize("row", ROWS)
def test_a_row_runs(row: str, outputs: Path, cifar_tree: Path) -> None:
    words = [f"experiment=cifar10_resnet56/{row}", *SMALL, f"data.root={cifar_tree}", f"outputs={outputs}"]
    outcome = run(configure(words))
    assert outcome.record.model == "resnet56"
    assert outcome.record.budget.keep == float(PUBLISHED[row]["flops_kept"])
    assert outcome.record.budget.keep - 0.02 < outcome.record.budget.reached <= outcome.record.budget.keep
    assert (outcome.folder.path / "record.json").is_file()
