"""Baselines are used only if they are complete and undamaged."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
import torch

from prunelab.errors import UserError
from prunelab.records import Accuracy
from prunelab.steps.baseline_store import Baseline, BaselineStore

BASELINE = Baseline({"weight": torch.arange(6.0).reshape(2, 3).t()}, Accuracy(0.9, None), 12.5)


def stored(root: Path) -> BaselineStore:
    store = BaselineStore(root)
    with store.claimed("abc") as claim:
        (store.folder("abc") / "training").mkdir()
        assert not store.has("abc")
        store.save("abc", BASELINE, claim)
    return store


def test_a_stored_baseline_is_loaded_and_the_checkpoints_are_removed(tmp_path: Path) -> None:
    store = stored(tmp_path)
    loaded = store.load("abc")
    assert store.is_sound("abc")
    assert torch.equal(loaded.weights["weight"], BASELINE.weights["weight"])
    assert (loaded.accuracy, loaded.seconds) == (BASELINE.accuracy, BASELINE.seconds)
    assert sorted(file.name for file in store.folder("abc").iterdir()) == [
        ".lock",
        "metrics.json",
        "model.safetensors",
    ]


def test_weights_without_metrics_do_not_count(tmp_path: Path) -> None:
    store = stored(tmp_path)
    (tmp_path / "abc" / "metrics.json").unlink()
    assert not store.has("abc")
    assert not store.is_sound("abc")


def test_a_complete_baseline_is_not_replaced(tmp_path: Path) -> None:
    store = stored(tmp_path)
    with store.claimed("abc") as claim, pytest.raises(FileExistsError):
        store.save("abc", BASELINE, claim)


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("model.safetensors", b"\x40", b"\x41"),  # a weight
        ("model.safetensors", b"weight", b"weighs"),
        ("metrics.json", b"0.9", b"0.8"),
        ("metrics.json", b"12.5", b"13.5"),
        ("metrics.json", b"}", b""),
        ("metrics.json", b'"top1"', b'"top1": 0.1, "top1"'),  # twice the same key
        ("metrics.json", b"{", b"\xff"),
    ],
)
def test_a_damaged_baseline_is_named_and_set_aside(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str, old: bytes, new: bytes
) -> None:
    store = stored(tmp_path)
    file = tmp_path / "abc" / name
    assert old in file.read_bytes()
    file.write_bytes(file.read_bytes().replace(old, new, 1))
    assert not store.is_sound("abc")
    with pytest.raises(UserError, match="abc is damaged"):
        store.load("abc")
    with caplog.at_level(logging.WARNING, "prunelab"), store.claimed("abc") as claim:
        store.set_damaged_aside("abc")
        assert "abc is damaged" in caplog.text
        assert not store.has("abc")
        store.save("abc", BASELINE, claim)
    assert store.is_sound("abc")
    assert {"metrics.json.damaged", "model.safetensors.damaged"} <= {
        each.name for each in (tmp_path / "abc").iterdir()
    }


def test_a_baseline_of_an_earlier_version_is_used(tmp_path: Path) -> None:
    """Without a digest of the metrics."""
    store = stored(tmp_path)
    file = tmp_path / "abc" / "metrics.json"
    metrics = json.loads(file.read_text())
    del metrics["metrics_sha256"]
    file.write_text(json.dumps(metrics))
    assert store.load("abc").accuracy == BASELINE.accuracy
