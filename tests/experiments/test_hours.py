"""The hours in the documents are those of the records, and the records those of the configurations."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
STUDIES = ("table2", "cifar10_resnet56")


def record(study: str) -> dict:
    return json.loads((ROOT / "experiments" / study / "records/hours.json").read_text())


@pytest.mark.parametrize("study", STUDIES)
def test_the_document_shows_the_table_of_the_record(study: str) -> None:
    folder = ROOT / "experiments" / study
    shown = (folder / "README.md").read_text().split(f"<!-- hours: experiments/{study}/hours.md -->")[1]
    assert shown.split("<!-- end of hours -->")[0].strip() == (folder / "hours.md").read_text().strip()
    rows = {file.stem for file in (ROOT / "conf/experiment" / study).glob("*.yaml")}
    assert {line["row"] for line in record(study)["hours"]} == rows


def test_the_cost_of_a_row_follows_from_its_configuration() -> None:
    """SFP trains the full ResNet-50 for 100 epochs: three passes over 99 % of the images and one over the rest."""
    specification = importlib.util.spec_from_file_location("hours", ROOT / "experiments/hours.py")
    assert specification and specification.loader
    module = importlib.util.module_from_spec(specification)
    sys.modules["hours"] = module  # dataclasses search for it there
    specification.loader.exec_module(module)
    found = module.hours("table2", "sfp_42", 312e12 * 0.2, {})
    images, held_out = 1_281_167, 12_812
    passes = 100 * (3 * (images - held_out) + held_out)
    assert found.learning == pytest.approx(passes * 8.178e9 / 62.4e12 / 3600, rel=1e-3)
    (written,) = [line for line in record("table2")["hours"] if line["row"] == "sfp_42"]
    assert written["learning"] == pytest.approx(found.learning)
    assert (found.epochs, found.baseline, found.scoring) == (100, 0, 0)
