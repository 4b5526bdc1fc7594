"""The folder of one run, outputs/<study>/<run key>/, and the files in it."""

from __future__ import annotations

import json
import logging
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

from omegaconf import OmegaConf

from prunelab.errors import UserError
from prunelab.records.atomic import remove_partial_files
from prunelab.records.claim import Claim
from prunelab.records.contents import content_digests
from prunelab.records.deployment import DEPLOYMENT_FOLDER
from prunelab.records.fields import RecordError
from prunelab.records.key import run_key
from prunelab.records.schema import Failure, Record

CONFIG_FILE = "config.yaml"
CONTENTS_FILE = "contents.json"
RECORD_FILE = "record.json"
FAILURE_FILE = "failure.json"
LOG_FILE = "run.log"
CURVES_FILE = "curves.csv"
SEARCH_FILE = "search.csv"
ROUNDS_FOLDER = "rounds"
EARLIER_FOLDER = "earlier"

log = logging.getLogger(__name__)

BASELINES = "baselines"
"""The folder, next to the studies, with the baselines that they share."""


@dataclass(frozen=True)
class RunFolder:
    """The folder of one run. The run is finished if ``record.json`` exists, which is written last."""

    path: Path
    key: str
    contents: Mapping[str, str] = field(default_factory=dict)
    """Digests of the named contents, see ``records.contents``."""

    @classmethod
    def of(cls, config: Mapping[str, Any], folders: dict[Path, str] | None = None) -> RunFolder:
        """The folder of the run that the resolved ``config`` describes; nothing is created.

        Args:
            folders: digests of image folders that were read before, see ``content_digests``.
        """
        contents = content_digests(config, folders)
        key = run_key(config, contents)
        return cls(Path(config["outputs"]).expanduser() / _study_name(config["study"]) / key, key, contents)

    @property
    def log_file(self) -> Path:
        """The messages of the run, with the traceback of an error."""
        return self.path / LOG_FILE

    @property
    def rounds(self) -> Path:
        """Files from which an interrupted run continues; removed when the run is finished."""
        return self.path / ROUNDS_FOLDER

    def record(self) -> Record | None:
        """The record of the finished run, or None.

        Raises:
            UserError: there is one that cannot be read, because it is damaged or not a record.
        """
        file = self.path / RECORD_FILE
        try:
            return Record.from_json(file.read_text())
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (RecordError, UnicodeDecodeError) as error:
            raise UserError(f"{file} is damaged: {error}. Delete it to run this experiment again.") from error

    def failure(self) -> Failure | None:
        """The reason why the run ended without a record; None if it has not ended, or if the file cannot be read."""
        try:
            return Failure.from_json((self.path / FAILURE_FILE).read_text())
        except (FileNotFoundError, NotADirectoryError, RecordError, UnicodeDecodeError):
            return None

    def create(self) -> None:
        """Create the folder and check that files can be written into it, before any work is done.

        Raises:
            UserError: no file can be written.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            with TemporaryFile(dir=self.path):
                pass
        except OSError as error:
            raise UserError(unwritable(self.path, error)) from error

    def start(self, config: Mapping[str, Any], claim: Claim) -> None:
        """Write the configuration; remove an earlier failure and the temporary files of killed processes.

        If the named code or data differ from those of the interrupted run, it starts from the beginning.
        """
        if self._has_other_contents():
            log.info(
                "Code or data have changed since this run was interrupted: it starts from the beginning."
            )
            self.tidy()
            (self.path / CURVES_FILE).unlink(missing_ok=True)
        claim.write(self.path / CONTENTS_FILE, json.dumps(dict(self.contents), indent=2) + "\n")
        claim.write(self.path / CONFIG_FILE, OmegaConf.to_yaml(OmegaConf.create(dict(config))))
        (self.path / FAILURE_FILE).unlink(missing_ok=True)
        remove_partial_files(self.path)

    def finish(self, record: Record, claim: Claim) -> None:
        """Write the record, after which the run is finished, and remove the checkpoints of its rounds.

        Raises:
            ClaimLost: another process has taken over the run.
            FileExistsError: there is a record; a finished run is never changed.
        """
        text = record.to_json()
        Record.from_json(text)  # raises if the text could not be read again
        claim.write_once(self.path / RECORD_FILE, text)
        self.tidy()

    def set_aside(self, record: Record) -> None:
        """Move a finished run into ``earlier/<time>/`` of its folder, so that it can be run again. Nothing is lost."""
        place = self.path / EARLIER_FOLDER / record.finished.replace(":", "-")
        place.mkdir(parents=True, exist_ok=True)
        (self.path / RECORD_FILE).replace(place / RECORD_FILE)  # from here on the run counts as unfinished
        for file in self.path.iterdir():
            if (file.is_file() and not file.name.startswith(".")) or file.name == DEPLOYMENT_FOLDER:
                file.replace(place / file.name)
        self.tidy()

    def tidy(self) -> None:
        """Remove the files of a finished run that remain if its process was killed after writing the record."""
        shutil.rmtree(self.rounds, ignore_errors=True)

    def _has_other_contents(self) -> bool:
        """Whether the folder holds an unfinished run of other contents; false for runs of earlier versions, which have
        no digests."""
        try:
            return bool(json.loads((self.path / CONTENTS_FILE).read_text()) != dict(self.contents))
        except FileNotFoundError:
            return False
        except ValueError:
            return True

    def fail(self, failure: Failure, claim: Claim) -> None:
        """Write the error that ended the run."""
        claim.write(self.path / FAILURE_FILE, failure.to_json())


def unwritable(folder: Path | str, error: OSError) -> str:
    """The message if nothing can be written into ``folder``."""
    return f"The output folder {folder} cannot be written: {error.strerror}. Choose another: outputs=FOLDER."


def _study_name(name: Any) -> str:
    """``name``, checked to be usable as the name of a folder of runs."""
    if not isinstance(name, str) or not re.fullmatch(r"\w[\w.+=-]*", name):
        raise UserError(f"study={name} is not a folder name. Use letters, digits, '_', '-' and '.'.")
    if name == BASELINES:
        raise UserError(f"study={BASELINES} is the folder of the baselines. Choose another name.")
    return name
