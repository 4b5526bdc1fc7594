"""The store of baselines: each is trained once, by one process, and used by all runs that start from it."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from prunelab.errors import UserError
from prunelab.records.atomic import remove_partial_files, set_aside
from prunelab.records.claim import Claim, claimed
from prunelab.records.fields import Fields, RecordError
from prunelab.records.own_digest import check_digest, with_digest
from prunelab.records.parts import Accuracy
from prunelab.strict_json import loads_strictly

WEIGHTS_FILE = "model.safetensors"
METRICS_FILE = "metrics.json"
DIGEST_OF_METRICS = "metrics_sha256"
TRAINING_FOLDER = "training"
"""Folder of the checkpoints, inside that of a baseline. It is removed when the baseline is complete."""

log = logging.getLogger(__name__)


class DamagedBaseline(UserError):
    """The files of a stored baseline are not the ones that were written."""


@dataclass(frozen=True)
class Sample:
    """The class that a network predicts for each of a few validation images, and the fraction of correct ones."""

    predictions: tuple[int, ...]
    top1: float

    def agreement(self, other: Sample) -> float:
        """The fraction of images with the same prediction; 0 for another number of images."""
        if len(self.predictions) != len(other.predictions):
            return 0.0
        same = sum(one == two for one, two in zip(self.predictions, other.predictions, strict=True))
        return same / len(self.predictions)


@dataclass(frozen=True)
class Baseline:
    """A trained full network: its weights, their accuracy on the test set, and the seconds of its training.

    ``sample`` is None in baselines that an earlier version stored.
    """

    weights: dict[str, Tensor]
    accuracy: Accuracy
    seconds: float
    sample: Sample | None = None


@dataclass(frozen=True)
class BaselineStore:
    """Baselines in ``root``/<key>/: the weights, and metrics.json, which is written last and makes them complete."""

    root: Path

    def folder(self, key: str) -> Path:
        """The folder of one baseline; it is created if it does not exist."""
        folder = self.root / key
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    @contextmanager
    def claimed(self, key: str) -> Iterator[Claim]:
        """The claim required for writing this baseline; waits while another process holds it."""
        with claimed(self.folder(key), f"the baseline {key}") as claim:
            remove_partial_files(self.folder(key))
            yield claim

    def has(self, key: str) -> bool:
        """Whether this baseline is complete."""
        return (self.root / key / METRICS_FILE).is_file()

    def is_sound(self, key: str) -> bool:
        """Whether this baseline is complete and undamaged."""
        try:
            return self.has(key) and self.load(key) is not None
        except DamagedBaseline:
            return False

    def load(self, key: str) -> Baseline:
        """A complete baseline.

        Raises:
            DamagedBaseline: a digest does not match, or a file is missing or cannot be read.
        """
        folder = self.folder(key)
        self.tidy(key)  # the process that stored it may have been killed before
        try:
            fields = _metrics((folder / METRICS_FILE).read_text(encoding="utf-8"))
            content = (folder / WEIGHTS_FILE).read_bytes()
            if hashlib.sha256(content).hexdigest() != fields.text("sha256"):
                raise RecordError(f"{WEIGHTS_FILE} does not have the digest in {METRICS_FILE}")
            return Baseline(
                safetensors.torch.load(content),
                Accuracy.from_fields(fields),
                fields.number("seconds"),
                _sample(fields),
            )
        except (RecordError, ValueError, FileNotFoundError, SafetensorError) as error:
            raise DamagedBaseline(
                f"The stored baseline {folder} is damaged: {error}. The next run that needs it trains it again."
            ) from error

    def set_damaged_aside(self, key: str) -> None:
        """Rename the files of this baseline if they are damaged, so that it is trained again. Needs the claim."""
        if not self.has(key):
            return
        try:
            self.load(key)
        except DamagedBaseline as error:
            folder = self.folder(key)
            names = [set_aside(file).name for file in _files(folder) if file.exists()]
            log.warning("%s The files were renamed to %s.", error, " and ".join(names))

    def save(self, key: str, baseline: Baseline, claim: Claim) -> None:
        """Store a baseline and remove the checkpoints of its training. An existing one is not replaced."""
        folder = self.folder(key)
        content = safetensors.torch.save({name: each.contiguous() for name, each in baseline.weights.items()})
        metrics: dict[str, Any] = {
            **asdict(baseline.accuracy),
            "seconds": baseline.seconds,
            "sha256": hashlib.sha256(content).hexdigest(),
            "sample": None if baseline.sample is None else asdict(baseline.sample),
        }
        claim.write(folder / WEIGHTS_FILE, content)
        claim.write_once(
            folder / METRICS_FILE, json.dumps(with_digest(metrics, DIGEST_OF_METRICS), indent=2) + "\n"
        )
        self.tidy(key)

    def tidy(self, key: str) -> None:
        """Remove the checkpoints of the training, if the baseline is complete."""
        if self.has(key):
            shutil.rmtree(self.root / key / TRAINING_FOLDER, ignore_errors=True)


def _files(folder: Path) -> tuple[Path, Path]:
    return folder / METRICS_FILE, folder / WEIGHTS_FILE


def _metrics(text: str) -> Fields:
    """The content of metrics.json. Raises ValueError or RecordError if it is damaged."""
    values = loads_strictly(text)
    fields = Fields(values)
    check_digest(values, DIGEST_OF_METRICS)
    return fields


def _sample(fields: Fields) -> Sample | None:
    sample = fields.nested_or_none("sample")
    if sample is None:
        return None
    return Sample(tuple(sample.integers("predictions")), sample.fraction("top1"))
