"""TensorBoard's event files, read with the definitions of their format."""

from __future__ import annotations

import struct
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tensorboardX.proto.event_pb2 import Event

from prunelab.errors import UserError
from prunelab.experiment import run
from prunelab.tracking import EpochRow, TensorboardLogger

Configure = Callable[..., dict[str, Any]]
Scalars = dict[str, list[tuple[int, float]]]


def events(folder: Path) -> Iterator[Event]:
    """All events in a folder: length, its checksum, content, its checksum (TensorFlow's TFRecord)."""
    for file in sorted(folder.glob("events.*")):
        content, position = file.read_bytes(), 0
        while position < len(content):
            (length,) = struct.unpack_from("<Q", content, position)
            yield Event.FromString(content[position + 12 : position + 12 + length])
            position += 12 + length + 4


def scalars(folder: Path) -> Scalars:
    found: Scalars = {}
    for event in events(folder):
        for value in event.summary.value:
            if value.WhichOneof("value") == "simple_value":
                found.setdefault(value.tag, []).append((event.step, value.simple_value))
    return found


def jobs(run_folder: Path) -> dict[str, Path]:
    """The folders of events of a run, by the last word of their names."""
    return {path.name.split()[-1]: path for path in (run_folder / "tensorboard").iterdir()}


@pytest.mark.slow
def test_whole_runs_and_the_baseline_that_they_share(smallest: Configure) -> None:
    first = run(smallest("logger=tensorboard", "method=l1"))
    second = run(smallest("logger=tensorboard", "method=l2"))

    one, other = jobs(first.folder.path), jobs(second.folder.path)
    assert set(one) == {"baseline", "recovery", "result"}
    assert set(other) == {"recovery", "result"}  # the baseline is trained, and logged, once
    assert one["baseline"].name == "baseline resnet20 digits seed 0 baseline"
    assert other["recovery"].name == "l2 flops=0.5 resnet20 digits seed 0 recovery"
    curves = scalars(one["recovery"])
    assert {"val/top1", "train/loss", "learning_rate"} <= set(curves)
    assert [step for step, _ in curves["val/top1"]] == [1]
    baseline = scalars(one["baseline"])
    assert baseline["result/top1"][0][1] == pytest.approx(first.record.baseline.top1)
    result = scalars(one["result"])
    assert result["top1"][0][1] == pytest.approx(first.record.pruned.top1)
    assert result["flops_fraction"][0][1] == pytest.approx(first.record.budget.reached, rel=1e-3)
    tags = {value.tag for event in events(one["result"]) for value in event.summary.value}
    assert any("hparams" in tag for tag in tags)
    assert (first.folder.path / "curves.csv").is_file()


def test_a_resumed_run_continues_and_hides_repeated_epochs(smallest: Configure, tmp_path: Path) -> None:
    folder = tmp_path / "abc"
    folder.mkdir()
    for epochs in ((1, 2), (2, 3)):  # the second process repeats the epoch that was interrupted
        logger = TensorboardLogger()
        logger.start(folder, smallest())
        for epoch in epochs:
            logger.epoch(EpochRow("recovery", epoch, 0.1, {"val/top1": epoch / 4}))
        logger.close()

    (recovery,) = jobs(folder).values()
    assert scalars(recovery)["val/top1"] == [(1, 0.25), (2, 0.5), (2, 0.5), (3, 0.75)]
    starts = [event.step for event in events(recovery) if event.session_log.status == event.session_log.START]
    assert starts[-1] == 2  # TensorBoard drops events from this step on that were written before


def test_without_tensorboardx_the_extra_is_named(
    smallest: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(UserError, match=r"pip install 'prunelab\[tensorboard\]'"):
        TensorboardLogger().start(tmp_path, smallest())
