from __future__ import annotations

import csv
import io
import json
from typing import TYPE_CHECKING

import pytest

from prunelab.report import aggregate, read_study, to_csv

if TYPE_CHECKING:
    from conftest import StudyFolder


def lines_of(study: StudyFolder) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(to_csv(aggregate(read_study(study.path))))))


def test_numbers_are_raw(study: StudyFolder) -> None:
    study.finished("l1", 0, top1=0.90)
    study.finished("l1", 1, top1=0.92)

    (line,) = lines_of(study)

    assert line["method"] == "l1"
    assert (line["resource"], line["keep"], line["divisor"]) == ("flops", "0.5", "1")
    assert (line["seed_count"], line["seeds"], line["missing_seeds"]) == ("2", "0 1", "")
    assert float(line["top1_mean"]) == pytest.approx(0.91)
    assert float(line["top1_std"]) == pytest.approx(0.02**0.5 / 10)
    assert float(line["flops_mean"]) == 40_000_000
    assert float(line["speedup_batch_64_mean"]) == 2


def test_unknown_values_are_empty(study: StudyFolder) -> None:
    study.finished("l1", pruned=study.network(0.9, 40, (1.0, 1.0), top5=None))

    (line,) = lines_of(study)

    assert line["top1_std"] == ""
    assert line["top5_mean"] == ""


def test_runs_without_a_record_are_lines_too(study: StudyFolder) -> None:
    study.finished("l1", levels=["filter", "stage"])
    study.failed("fpgm", seed=1, error="CUDA out of memory:\n2 GiB are missing")
    study.write("0a0a/config.yaml", "seed: 0\n")
    study.write("bad/record.json", "{")

    finished, failed, unfinished, left_out = lines_of(study)

    assert (finished["status"], finished["levels"], finished["missing_seeds"]) == (
        "finished",
        "filter+stage",
        "1",
    )
    assert (failed["status"], failed["method"], failed["seeds"]) == ("failed", "fpgm", "1")
    assert failed["error"] == "CUDA out of memory: 2 GiB are missing"
    assert failed["path"] == "fpgm-0.5-1/failure.json"
    assert failed["top1_mean"] == ""
    assert (unfinished["status"], unfinished["path"]) == ("unfinished", "0a0a")
    assert (left_out["status"], left_out["path"]) == ("left_out", "bad/record.json")
    assert "was it cut off?" in left_out["error"]


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t=", "\uff1d"])
def test_text_of_a_record_is_not_a_formula(study: StudyFolder, start: str) -> None:
    formula = f"{start}HYPERLINK(1)"
    study.finished(formula, folder="a", recipe=formula)
    study.finished("l1", folder="b", config={"seed": 0, "recipe": {"epochs": formula}})
    study.finished("l1", folder="c", key="other")
    study.failed("fpgm", error=formula)
    study.write("bad/record.json", "{")
    names = {"method": formula, "model": formula, "data": formula}
    config = {"names": names, "budget": {"flops": 0.5, "params": None}, "seed": 0, "levels": [formula]}
    study.write("open/config.yaml", json.dumps(config))

    cells = [cell for line in lines_of(study) for cell in line.values()]

    assert sum("HYPERLINK" in cell for cell in cells) >= 7
    assert not [cell for cell in cells if "HYPERLINK" in cell and cell[0] in "=+-@\uff1d"]


def test_negative_numbers_remain_numbers(study: StudyFolder) -> None:
    study.finished("l1", top1=0.90)

    (line,) = lines_of(study)

    assert float(line["top1_change_mean"]) == pytest.approx(-0.05)


def test_the_names_of_the_columns_are_stable(study: StudyFolder) -> None:
    study.finished("l1")

    (line,) = lines_of(study)

    # Other programs read these: announce a change to the users.
    names = """
        status model data method levels allocation resource keep divisor recipe lowrank target precision settings
        seed_count seeds missing_seeds path error
    """
    measures = """
        baseline_top1 after_pruning_top1 top1 top1_change baseline_top5 after_pruning_top5 top5 top5_change
        baseline_flops flops flops_fraction flops_ratio baseline_macs macs macs_fraction
        baseline_params params params_fraction params_ratio
        baseline_forward_ms_batch_1 forward_ms_batch_1 speedup_batch_1
        baseline_forward_ms_batch_64 forward_ms_batch_64 speedup_batch_64
        budget_reached score_s recovery_s total_s masked_vs_pruned best_epoch_top1 best_epoch other_load
        calibrated_top1
    """
    statistics = [f"{measure}_{part}" for measure in measures.split() for part in ("mean", "std")]
    fronts = "front_flops front_params front_forward_ms_batch_1 front_forward_ms_batch_64"
    published = """
        published_top1 published_baseline_top1 published_change published_change_printed
        published_flops published_flops_fraction published_pruned_printed published_flag
    """
    assert list(line) == [*names.split(), *statistics, *fronts.split(), *published.split()]
