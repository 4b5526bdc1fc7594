"""A whole run of every row of Table 2, with a ResNet-50 and 1000 classes: one batch per pass."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from safetensors.torch import save_file

from prunelab.cli.config import configure
from prunelab.experiment import run
from prunelab.models import build
from prunelab.records import Record

ROOT = Path(__file__).parents[2]
ROWS = sorted(file.stem for file in (ROOT / "conf/experiment/table2").glob("*.yaml"))
pytestmark = pytest.mark.rows
SMALL = (
    "debug=fast_dev_run", "trainer=cpu", "data.num_workers=0", "data.image_size=32", "data.resize=36",
    "data.batch_size=4", "data.eval_batch_size=4", "data.val_fraction=0.5",
)  # fmt: skip
LESS = {
    "curl_73": ("method.criterion.proxy_images=1",),
    "eagleeye": ("method.draws=2000",),
    "autoslim": ("method.steps=3",),
    "metapruning": ("method.hidden=1", "method.generations=2", "method.population=2", "method.mutants=1",
                    "method.crossovers=1", "method.tolerance=0.02", "recipe.calibration_images=8"),
}  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output folder."""
    return tmp_path_factory.mktemp("table2")


def weights(network: str, place: Path) -> Path:
    """Random weights in place of torchvision's, which would be downloaded."""
    file = place / f"{network}.safetensors"
    if not file.exists():
        built = build(network, num_classes=1000, in_chans=3, image_size=(32, 32))
        save_file({name: tensor.contiguous() for name, tensor in built.state_dict().items()}, file)
    return file


@pytest.mark.parametrize("row", ROWS)
def test_a_row_runs(row: str, place: Path, imagenet_tree: Path) -> None:
    words = [f"experiment=table2/{row}", *SMALL, f"data.root={imagenet_tree}", f"outputs={place}"]
    words += LESS.get(row, LESS.get(row.partition("_")[0], ()))
    config = configure(words)
    if config["baseline"]["_target_"].endswith("PretrainedBaseline"):
        words += [
            "baseline=file",
            f"baseline.path={weights(config['model']['name'].partition('.')[0], place)}",
        ]
    outcome = run(configure(words))
    record = Record.from_json((outcome.folder.path / "record.json").read_text())
    assert record == outcome.record
    with (ROOT / "experiments/table2/published.csv").open(newline="") as file:
        (published,) = [line for line in csv.DictReader(file) if line["row"] == row]
    assert record.budget.keep == float(published["flops_kept"])
    assert record.budget.keep - 0.02 < record.budget.reached <= record.budget.keep
    assert record.data == "imagenet"
