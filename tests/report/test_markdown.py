from __future__ import annotations

import json
from typing import TYPE_CHECKING

from prunelab.report import aggregate, read_study, to_markdown

if TYPE_CHECKING:
    from conftest import StudyFolder

EXPECTED = """\
# demo

## resnet20 on digits

All rows: levels filter, allocation global, budget 50 % FLOPs, recipe one_shot.

GRID

- failed: l2, filter, global, 50 % FLOPs, one_shot, seed 1: out of memory (l2-0.5-1/failure.json)
- A failed run is listed until it succeeds or its folder is deleted.
- missing: fpgm, filter, global, 50 % FLOPs, one_shot has no record for seed 1, unlike other rows

- unfinished: 0a0a is running or was interrupted
- left out: bad/record.json: schema 7; this version of prunelab reads schema 1
"""

GRID = """\
| Method | Seeds | Top-1, % baseline | Top-1, % just pruned | Top-1, % recovered | Change, points \
| Top-5, % recovered | FLOPs, M (kept) | MACs, M (kept) | Parameters, k (kept) | FLOPs ratio \
| Batch of 1, ms (speed-up) | Batch of 64, ms (speed-up) | Pruning, s | Recovery, s | Front |
| :-- | --: | --: | --: | --: | --: | --: | --: | --: | --: | --: | --: | --: | --: | --: | --: |
| baseline | 2 | 95.00 ± 0.00 |  | 95.00 ± 0.00 |  | 99.00 ± 0.00 | 80.00 (100 %) | 40.00 (100 %) \
| 800.00 (100 %) |  | 2.00 ± 0.00 | 40.0 ± 0.0 |  |  |  |
| l1 | 2 | 95.00 ± 0.00 | 50.00 ± 0.00 | 91.00 ± 1.41 | -4.00 ± 1.41 | 99.00 ± 0.00 | 40.00 ± 0.00 (50.0 %) \
| 20.00 ± 0.00 (50.0 %) | 400.00 ± 0.00 (50.0 %) | 2.00x | 1.60 ± 0.00 (1.25x) | 20.0 ± 0.0 (2.00x) \
| 1.50 ± 0.00 | 30.0 ± 0.0 | F P T |
| fpgm | 1 of 2 | 95.00 ± - | 50.00 ± - | 90.00 ± - | -5.00 ± - | 99.00 ± - | 40.00 ± - (50.0 %) \
| 20.00 ± - (50.0 %) | 400.00 ± - (50.0 %) | 2.00x | 1.60 ± - (1.25x) | 20.0 ± - (2.00x) \
| 1.50 ± - | 30.0 ± - |  |
"""


def test_a_small_study_in_full(study: StudyFolder) -> None:
    # 90 % and 92 %: the mean is 91 %, the sample deviation the root of (1 + 1) / 1.
    study.finished("l1", 0, top1=0.90)
    study.finished("l1", 1, top1=0.92)
    study.finished("fpgm", 0, top1=0.90)
    study.failed("l2", 1)
    study.write("0a0a/config.yaml", "seed: 0\n")
    study.write("bad/record.json", json.dumps({"schema": 7}))

    page = to_markdown(aggregate(read_study(study.path)))

    content, _, caption = page.partition("\nAccuracies: ")
    assert content == EXPECTED.replace("GRID\n", GRID)
    assert "on the test set after the last epoch" in caption
    assert "2 x MAC + bias" in caption
    assert "costs that differ by at most 1 % count as the same" in caption
    assert "±: sample standard deviation over seeds" in caption


def test_deviations_are_left_out_where_every_row_has_one_seed(study: StudyFolder) -> None:
    study.finished("l1")

    page = to_markdown(aggregate(read_study(study.path)))

    assert "| l1 | 1 | 95.00 | 50.00 | 90.00 | -5.00 |" in page
    assert "Each row has one seed, so there are no standard deviations." in page


def test_text_of_records_cannot_break_the_page(study: StudyFolder) -> None:
    study.finished("a|b\n<i>*", key="a")

    page = to_markdown(aggregate(read_study(study.path)))

    assert "| a\\|b \\<i>\\* | 1 |" in page
