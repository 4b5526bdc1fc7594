"""Latency tables: measured once, kept as numbers, shared between runs, never mixed between machines."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from prunelab import Target, UserError
from prunelab.evaluation import LatencyTable
from prunelab.evaluation.layer_shapes import LayerShape

SHAPE = LayerShape((8, 8), (3, 3), (1, 1), (1, 1), (1, 1), False, 16, 32, 1, "relu")


def target(folder: Path, **settings: Any) -> Target:
    return Target(runtime="eager", tables=str(folder), **settings)


def table_of(at: Target, milliseconds: float) -> LatencyTable:
    """A table whose layers take ``milliseconds`` each."""
    table = LatencyTable.of(at)
    table.measure = lambda shape: milliseconds
    return table


def only_file(folder: Path) -> Path:
    (file,) = folder.iterdir()
    return file


def test_a_layer_is_measured_once_and_kept(tmp_path: Path) -> None:
    first = table_of(target(tmp_path), 2.0)
    assert first.milliseconds(SHAPE) == first.milliseconds(SHAPE) == 2.0
    assert first.measured == 1
    first.save()
    second = table_of(target(tmp_path), 3.0)
    assert second.milliseconds(SHAPE) == 2.0
    assert second.measured == 0


def test_runs_that_measure_at_the_same_time_keep_the_layers_of_both(tmp_path: Path) -> None:
    one, two = table_of(target(tmp_path), 1.0), table_of(target(tmp_path), 2.0)
    one.milliseconds(SHAPE)
    two.milliseconds(SHAPE.at(8, 8, 1))
    one.save()
    two.save()
    assert len(LatencyTable.of(target(tmp_path)).entries) == 2


def test_the_file_holds_numbers_only(tmp_path: Path) -> None:
    table = table_of(target(tmp_path), 2.0)
    table.milliseconds(SHAPE)
    table.save()
    content = json.loads(only_file(tmp_path).read_text())
    assert content["entries"] == {SHAPE.key: 2.0}
    assert content["target"] == {
        "device": "cpu", "runtime": "eager", "precision": "fp32", "batch_size": 1, "threads": 1
    }  # fmt: skip


@pytest.mark.parametrize("part", ["machine", "target"])
def test_a_table_of_another_machine_or_target_is_an_error(tmp_path: Path, part: str) -> None:
    table = table_of(target(tmp_path), 2.0)
    table.milliseconds(SHAPE)
    table.save()
    file = only_file(tmp_path)
    content = json.loads(file.read_text())
    content[part][sorted(content[part])[0]] = "another"
    file.write_text(json.dumps(content))
    with pytest.raises(UserError, match=f"measured on another {part}.*'another'"):
        LatencyTable.of(target(tmp_path))


def test_targets_have_tables_of_their_own(tmp_path: Path) -> None:
    for batch_size in (1, 8):
        table = table_of(target(tmp_path, batch_size=batch_size), float(batch_size))
        table.milliseconds(SHAPE)
        table.save()
    assert len(list(tmp_path.iterdir())) == 2
    assert LatencyTable.of(target(tmp_path, batch_size=8)).entries == {SHAPE.key: 8.0}


@pytest.mark.parametrize("damage", ["{", '{"entries": {"a": NaN}}', '"text"'])
def test_a_damaged_table_is_set_aside(tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture) -> None:
    table = table_of(target(tmp_path), 2.0)
    table.milliseconds(SHAPE)
    table.save()
    only_file(tmp_path).write_text(damage)
    assert LatencyTable.of(target(tmp_path)).entries == {}
    assert "is damaged" in caplog.text
    assert only_file(tmp_path).name.endswith(".damaged")


def test_a_wrong_entry_damages_the_table(tmp_path: Path) -> None:
    table = table_of(target(tmp_path), 2.0)
    table.milliseconds(SHAPE)
    table.save()
    file = only_file(tmp_path)
    file.write_text(file.read_text().replace("2.0", '"__import__(1)"'))
    assert LatencyTable.of(target(tmp_path)).entries == {}


def test_real_layers_take_time() -> None:
    table = LatencyTable(Target(runtime="eager"))
    small, large = (table.milliseconds(SHAPE.at(width, width, 1)) for width in (8, 128))
    assert 0 < small < large
    assert table.anchor_ms is not None and table.anchor_ms > 0
