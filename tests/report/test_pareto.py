from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from prunelab.report import aggregate, read_study
from prunelab.report.pareto import on_front

if TYPE_CHECKING:
    from conftest import StudyFolder

POINTS = [(100, 0.95), (70, 0.96), (50, 0.90), (49.9, 0.80), (30, 0.85), (30, 0.85), (20, 0.50), (25, 0.40)]


def test_dominated_points_are_not_on_the_front() -> None:
    """100 costs more than 70 and is worse; 49.9 costs as much as 50, to 1 %; equal points do not dominate each
    other."""
    front = [point for point in POINTS if on_front(point, POINTS)]

    assert front == [(70, 0.96), (50, 0.90), (30, 0.85), (30, 0.85), (20, 0.50)]


def test_the_fronts_of_rows(study: StudyFolder) -> None:
    study.finished("accurate", top1=0.9, pruned=study.network(0.9, 40_000_000, (1.5, 30.0)))
    study.finished("fast", pruned=study.network(0.8, 40_000_000, (1.5, 20.0)))
    study.finished("slow", pruned=study.network(0.7, 20_000_000, (2.5, 50.0)))

    rows = {row.key.method: set(row.front) for row in aggregate(read_study(study.path)).tables[0].rows}

    assert rows == {
        "accurate": {"flops", "params", "forward_ms_batch_1", "forward_ms_batch_64"},
        "fast": {"forward_ms_batch_64"},
        "slow": {"flops", "params"},  # the full network, 95 % in 2 and 40 ms, beats it in time
    }


def test_times_are_compared_between_rows_of_the_same_machine(study: StudyFolder) -> None:
    gpu = study.network(0.7, 40_000_000, (0.1, 1.0))
    full = study.network(0.95, 80_000_000, (0.2, 2.0))
    study.finished("gpu", hardware={"gpus": ["a GPU"]}, baseline=full, pruned=gpu)
    study.finished("processor", pruned=study.network(0.6, 40_000_000, (1.5, 20.0)))

    (table,) = aggregate(read_study(study.path)).tables

    assert {row.key.method: "forward_ms_batch_64" in row.front for row in table.rows} == {
        "gpu": True,
        "processor": True,
    }


@pytest.mark.parametrize(("top1", "on_it"), [(0.96, True), (0.94, False)])
def test_the_full_network_can_dominate_a_row(study: StudyFolder, top1: float, on_it: bool) -> None:
    study.finished("exclude", keep=1.0, top1=top1)

    (row,) = aggregate(read_study(study.path)).tables[0].rows

    assert ("flops" in row.front) is on_it
