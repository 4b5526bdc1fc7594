"""The store of baselines: each is made once, by one process, and shared by all runs that start from it."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import safetensors.torch
from torch import Tensor

from prunelab.errors import UserError
from prunelab.records.atomic import write_atomically
from prunelab.records.claim import claimed
from prunelab.records.fields import Fields, RecordError
from prunelab.records.schema import Accuracy

WEIGHTS_FILE = "model.safetensors"
METRICS_FILE = "metrics.json"
TRAINING_FOLDER = "training"
"""Inside a baseline's folder: what only an unfinished training needs. It goes when the baseline is there."""


@dataclass(frozen=True)
class Baseline:
    """A trained full network: its weights, their accuracy on the test set, and how long training took."""

    weights: dict[str, Tensor]
    accuracy: Accuracy
    seconds: float


@dataclass(frozen=True)
class BaselineStore:
    """Baselines in ``folder``/<key>/: the weights, and metrics.json, written last, which makes them count."""

    folder: Path

    def obtain(self, key: str, make: Callable[[Path], Baseline]) -> tuple[Baseline, bool]:
        """The baseline ``key``, and whether it is new: it is made, in its folder, unless it is there.

        While one process makes it, others that ask for the same key wait, on every machine that shares the
        file system. If the maker dies, the next one takes over.

        Raises:
            UserError: the stored weights are not those that were measured.
        """
        folder = self.folder / key
        if (stored := self._load(folder)) is not None:
            return stored, False
        folder.mkdir(parents=True, exist_ok=True)
        with claimed(folder, f"the baseline {key}"):
            if (stored := self._load(folder)) is not None:
                return stored, False
            baseline = make(folder)
            self._save(baseline, folder)
            shutil.rmtree(folder / TRAINING_FOLDER, ignore_errors=True)
            return baseline, True

    def _save(self, baseline: Baseline, folder: Path) -> None:
        content = safetensors.torch.save({name: each.contiguous() for name, each in baseline.weights.items()})
        metrics = {
            **asdict(baseline.accuracy),
            "seconds": baseline.seconds,
            "sha256": hashlib.sha256(content).hexdigest(),
        }
        write_atomically(folder / WEIGHTS_FILE, content)
        write_atomically(folder / METRICS_FILE, json.dumps(metrics, indent=2) + "\n")

    def _load(self, folder: Path) -> Baseline | None:
        file = folder / METRICS_FILE
        if not file.is_file():
            return None
        try:
            fields = Fields(json.loads(file.read_text()))
            content = (folder / WEIGHTS_FILE).read_bytes()
            if hashlib.sha256(content).hexdigest() != fields.text("sha256"):
                raise RecordError(f"{WEIGHTS_FILE} is not the file that was measured")
            return Baseline(
                safetensors.torch.load(content), Accuracy.from_fields(fields), fields.number("seconds")
            )
        except (RecordError, ValueError, FileNotFoundError) as error:
            raise UserError(
                f"The stored baseline {folder} is damaged: {error}. Delete the folder to make it again."
            ) from error
