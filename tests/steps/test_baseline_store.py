"""Baselines count when they are whole."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from prunelab.errors import UserError
from prunelab.records import Accuracy
from prunelab.steps.baseline_store import Baseline, BaselineStore

BASELINE = Baseline({"weight": torch.arange(6.0).reshape(2, 3).t()}, Accuracy(0.9, None), 12.5)


def test_what_is_saved_is_loaded_and_what_training_left_is_gone(tmp_path: Path) -> None:
    store = BaselineStore(tmp_path)
    (store.folder("abc") / "training").mkdir()
    assert not store.has("abc")
    store.save("abc", BASELINE)
    loaded = store.load("abc")
    assert store.has("abc")
    assert torch.equal(loaded.weights["weight"], BASELINE.weights["weight"])
    assert (loaded.accuracy, loaded.seconds) == (BASELINE.accuracy, BASELINE.seconds)
    assert sorted(file.name for file in store.folder("abc").iterdir()) == [
        "metrics.json",
        "model.safetensors",
    ]


def test_weights_without_metrics_do_not_count(tmp_path: Path) -> None:
    store = BaselineStore(tmp_path)
    store.save("abc", BASELINE)
    (tmp_path / "abc" / "metrics.json").unlink()
    assert not store.has("abc")


def test_weights_that_are_not_those_measured_are_refused(tmp_path: Path) -> None:
    store = BaselineStore(tmp_path)
    store.save("abc", BASELINE)
    file = tmp_path / "abc" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"\x00")
    with pytest.raises(UserError, match=r"abc is damaged: .* not the file that was measured\. Delete"):
        store.load("abc")
