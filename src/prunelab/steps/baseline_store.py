"""The store of baselines: each is made once, by one process, and shared by all runs that start from it."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import safetensors.torch
from torch import Tensor

from prunelab.errors import UserError
from prunelab.records.atomic import remove_partial_files, write_atomically
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
    """Baselines in ``root``/<key>/: the weights, and metrics.json, written last, which makes them count."""

    root: Path

    def folder(self, key: str) -> Path:
        """The folder of one baseline; it is made if need be."""
        folder = self.root / key
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    @contextmanager
    def claimed(self, key: str) -> Iterator[None]:
        """The right to make this baseline; who asks for it while another process has it waits."""
        with claimed(self.folder(key), f"the baseline {key}"):
            remove_partial_files(self.folder(key))
            yield

    def has(self, key: str) -> bool:
        """Whether this baseline is there, as a whole."""
        return (self.root / key / METRICS_FILE).is_file()

    def load(self, key: str) -> Baseline:
        """A baseline that is there.

        Raises:
            UserError: its weights are not those that were measured.
        """
        folder = self.folder(key)
        shutil.rmtree(folder / TRAINING_FOLDER, ignore_errors=True)  # its maker was killed before it could
        try:
            fields = Fields(json.loads((folder / METRICS_FILE).read_text()))
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

    def save(self, key: str, baseline: Baseline) -> None:
        """Keep a baseline; what its training needed to go on after an interruption goes."""
        folder = self.folder(key)
        content = safetensors.torch.save({name: each.contiguous() for name, each in baseline.weights.items()})
        metrics = {
            **asdict(baseline.accuracy),
            "seconds": baseline.seconds,
            "sha256": hashlib.sha256(content).hexdigest(),
        }
        write_atomically(folder / WEIGHTS_FILE, content)
        write_atomically(folder / METRICS_FILE, json.dumps(metrics, indent=2) + "\n")
        shutil.rmtree(folder / TRAINING_FOLDER, ignore_errors=True)
