"""The published figures are the printed ones, and the computed figures follow from them."""

from __future__ import annotations

import csv
from decimal import Decimal
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
ROUNDING = Decimal("0.01")
MACS = {"tas_44"}
"""Rows whose source counts multiply-accumulates, each of which is two FLOPs in all others."""


def published(study: str) -> list[dict[str, str]]:
    with (ROOT / "experiments" / study / "published.csv").open(newline="") as file:
        return list(csv.DictReader(file))


TABLE2 = published("table2")


def test_table2_is_whole() -> None:
    """43 lines, and two for the claim on ResNet-152 in the text of the survey."""
    assert len(TABLE2) == 43 + 2
    assert len({line["method"] for line in TABLE2}) == 13 + 1
    names = [line["row"] for line in TABLE2 if line["row"]]
    assert len(set(names)) == len(names) == 30 + 1


@pytest.mark.parametrize("line", TABLE2, ids=lambda line: line["row"] or f"{line['method']} baseline")
def test_computed_columns_follow_from_the_printed_ones(line: dict[str, str]) -> None:
    baseline = next(
        each for each in TABLE2 if each["method"] == line["method"] and each["pruned_percent"] == "0"
    )
    flops = Decimal(line["flops_g"]) * (2 if line["row"] in MACS else 1)
    kept = flops / Decimal(baseline["flops_g"])
    assert line["baseline_flops_g"] == baseline["flops_g"]
    assert line["baseline_top1"] == baseline["top1"]
    assert Decimal(line["computed_delta"]) == Decimal(line["top1"]) - Decimal(baseline["top1"])
    assert Decimal(line["computed_flops_g"]) == flops
    assert line["flops_kept"] == str(kept.quantize(Decimal("0.0001")))
    assert line["computed_pruned_percent"] == str((100 * (1 - kept)).quantize(Decimal("0.1")))


def test_three_deltas_and_one_unit_are_flagged_and_nothing_else() -> None:
    """A printed delta may differ by a rounded digit, a printed percentage by half of one."""
    wrong_delta = [
        line["row"]
        for line in TABLE2
        if abs(Decimal(line["computed_delta"]) - Decimal(line["printed_delta"])) > ROUNDING
    ]
    wrong_percentage = [
        line["row"]
        for line in TABLE2
        if abs(Decimal(line["computed_pruned_percent"]) - Decimal(line["pruned_percent"])) > Decimal("0.5")
    ]
    assert wrong_delta == ["hrank_44", "abcpruner_resnet152", "autoslim_27"]
    assert wrong_percentage == ["tas_44"]
    flags = {line["row"]: line["flag"] for line in TABLE2 if line["flag"]}
    assert flags == {
        "hrank_44": "delta",
        "abcpruner_resnet152": "delta",
        "tas_44": "unit",
        "autoslim_27": "delta",
    }
    assert all(line["note"] for line in TABLE2 if line["flag"])


def test_printed_figures_are_kept() -> None:
    printed = {line["row"]: (line["pruned_percent"], line["printed_delta"]) for line in TABLE2}
    assert printed["hrank_44"] == ("44", "-0.17")
    assert printed["tas_44"] == ("72", "-1.26")
    assert printed["autoslim_27"] == ("27", "-0.15")
