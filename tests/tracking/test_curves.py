"""The curves file: one row per epoch, also after interruptions."""

from __future__ import annotations

from pathlib import Path

import pytest

from prunelab.tracking import CurvesFile, EpochRow

HEADER = "phase,epoch,learning_rate,train/loss,train/top1,val/loss,val/top1,val/top5\n"


def row(phase: str, epoch: int, loss: float) -> EpochRow:
    return EpochRow(phase, epoch, learning_rate=0.1, metrics={"train/loss": loss, "val/top1": 0.5})


def test_phases_follow_one_another(tmp_path: Path) -> None:
    curves = CurvesFile(tmp_path / "curves.csv")
    for each in (row("round 1", 1, 3), row("recovery", 1, 2), row("recovery", 2, 1)):
        curves.write(each)
    assert curves.path.read_text() == (
        HEADER + "round 1,1,0.1,3,,,0.5,\nrecovery,1,0.1,2,,,0.5,\nrecovery,2,0.1,1,,,0.5,\n"
    )


@pytest.mark.parametrize("restart_at", [1, 2])
def test_a_repeated_epoch_replaces_its_row_and_those_after_it(tmp_path: Path, restart_at: int) -> None:
    curves = CurvesFile(tmp_path / "curves.csv")
    for each in (row("round 1", 1, 9), row("recovery", 1, 3), row("recovery", 2, 2), row("recovery", 3, 1)):
        curves.write(each)
    curves.write(row("recovery", restart_at, 7))
    kept = [f"recovery,{epoch},0.1,{4 - epoch},,,0.5,\n" for epoch in range(1, restart_at)]
    assert curves.path.read_text() == (
        HEADER + "round 1,1,0.1,9,,,0.5,\n" + "".join(kept) + f"recovery,{restart_at},0.1,7,,,0.5,\n"
    )
