"""deployment.json is strict JSON, and its folder is whole or absent."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from prunelab.records import RecordError
from prunelab.records.atomic import remove_partial_files
from prunelab.records.deployment import Deployment, Percentiles, Stage
from prunelab.records.whole_folder import write_folder

STAGE = Stage(
    "pruned", "onnxruntime", "int8", 10, 0.5, None, 0.9, 0.1, {1: Percentiles(1.0, 2.0), 64: Percentiles(3.0, 4.0)}
)  # fmt: skip
DEPLOYMENT = Deployment(
    run_key=None, network="Net", settings={"format": "onnx"}, files={"model.onnx": {"bytes": 1, "sha256": "0"}},
    shipped="model.onnx", input={"resize": 8}, opset=20, checked_images=4, largest_logit=2.0, quantisation=None,
    stages=(STAGE,), warnings=("careful",), versions={"torch": "2"}, hardware={"cpu": "x"}, other_load=None, made="now",
)  # fmt: skip


def test_it_is_read_as_it_was_written() -> None:
    assert Deployment.from_json(DEPLOYMENT.to_json()) == DEPLOYMENT
    none = replace(DEPLOYMENT, opset=None, quantisation={"reduce_range": True}, run_key="k")
    assert Deployment.from_json(none.to_json()) == none


def test_an_edited_digit_is_noticed() -> None:
    with pytest.raises(RecordError, match="do not match their digest"):
        Deployment.from_json(DEPLOYMENT.to_json().replace('"checked_images": 4', '"checked_images": 5'))


def test_no_number_that_json_lacks_is_written() -> None:
    with pytest.raises(ValueError, match="JSON"):
        replace(DEPLOYMENT, largest_logit=float("nan")).to_json()


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("schema", 2, "schema 2"),
        ("stages", [{}], r"stages\[0\].latency_ms is missing"),
        ("shipped", 1, "shipped should be text"),
    ],
)
def test_a_wrong_field_is_named(field: str, value: object, message: str) -> None:
    with pytest.raises(RecordError, match=message):
        Deployment.from_json(json.dumps({**json.loads(DEPLOYMENT.to_json()), field: value}))


def nothing() -> None:
    pass


def test_a_folder_replaces_the_earlier_one_as_a_whole(tmp_path: Path) -> None:
    folder = tmp_path / "deployment"
    write_folder(folder, {"a": "1", "b": b"2"}, nothing)
    write_folder(folder, {"a": "3"}, nothing)
    assert {file.name: file.read_text() for file in folder.iterdir()} == {"a": "3"}
    assert [*tmp_path.iterdir()] == [folder]


def test_after_an_error_the_earlier_folder_is_unchanged(tmp_path: Path) -> None:
    folder = tmp_path / "deployment"
    write_folder(folder, {"a": "1"}, nothing)

    def lost() -> None:
        raise RuntimeError("claim lost")

    with pytest.raises(RuntimeError):
        write_folder(folder, {"a": "2"}, lost)
    with pytest.raises(FileNotFoundError):
        write_folder(folder, {"no/folder": "2"}, nothing)
    assert [path.name for path in tmp_path.rglob("*")] == ["deployment", "a"]
    assert (folder / "a").read_text() == "1"


def test_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    left = tmp_path / ".deployment.x.partial" / "new"
    left.mkdir(parents=True)
    (left / ".a.y.partial").write_text("half")
    write_folder(tmp_path / "deployment", {"a": "1"}, nothing)
    assert [path.name for path in tmp_path.iterdir()] == ["deployment"]
    left.mkdir(parents=True)
    (left / ".a.y.partial").write_text("half")
    remove_partial_files(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["deployment"]
