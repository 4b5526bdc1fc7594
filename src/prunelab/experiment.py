"""One run, from its configuration to its record."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import prunelab
from prunelab.logging import writing_log
from prunelab.records import Record, RunFolder, claimed
from prunelab.records.reason import reason
from prunelab.steps import Setup, failure_of, full_network, measure, prune_and_recover, record_of

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Outcome:
    """The record of a run, where it is, and whether it was made just now."""

    record: Record
    folder: RunFolder
    is_new: bool


def run(config: Mapping[str, Any]) -> Outcome:
    """Do the run that the resolved ``config`` describes, or go on with it, unless its record is there.

    Raises:
        UserError: what the configuration asks for cannot be done.
    """
    folder = RunFolder.of(config)
    if (record := folder.record()) is not None:
        return Outcome(record, folder, is_new=False)
    setup = Setup.of(config)
    folder.create()
    with claimed(folder.path, f"the run {folder.key}"):
        if (record := folder.record()) is not None:  # another process was faster
            return Outcome(record, folder, is_new=False)
        with writing_log(folder.log_file), _noting_failure(setup, folder):
            log.info("%s  ->  %s", setup, folder.path)
            folder.start(config)
            record = _perform(setup, folder, config)
            folder.finish(record)
        shutil.rmtree(folder.rounds)  # checkpoints are for unfinished runs
    return Outcome(record, folder, is_new=True)


def _perform(setup: Setup, folder: RunFolder, config: Mapping[str, Any]) -> Record:
    """Everything in the run's folder but the record."""
    started = datetime.now(UTC)
    setup.logger.start(folder.path, config)
    try:
        full = full_network(setup)
        pruned = prune_and_recover(setup, full, folder.rounds)
        figures = measure(setup, full, pruned)
        prunelab.save(pruned.network, folder.path)
        record = record_of(setup, full, pruned, figures, folder.key, config, started)
        setup.logger.finish(record)
    finally:
        setup.logger.close()
    return record


@contextmanager
def _noting_failure(setup: Setup, folder: RunFolder) -> Iterator[None]:
    """An error leaves failure.json and its traceback in the log; an interruption leaves nothing."""
    try:
        yield
    except Exception as error:
        log.debug("The run failed.", exc_info=True)
        try:
            folder.fail(failure_of(setup, folder.key, reason(error)))
        except OSError as refusal:
            log.warning("That the run failed could not be noted in %s: %s", folder.path, refusal.strerror)
        raise
