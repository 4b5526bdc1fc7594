"""One run, from its configuration to its record."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import prunelab
from prunelab.distributed import failing_together, held_by_rank_zero, is_rank_zero, start_processes
from prunelab.distributed.ranks import from_rank_zero
from prunelab.records import Record, RunFolder, claimed
from prunelab.records.reason import reason
from prunelab.steps import Setup, failure_of, full_network, measure, prune_and_recover, record_of
from prunelab.tracking import RunLogger, writing_log

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Outcome:
    """The record of a run, where it is, and whether it was made just now."""

    record: Record
    folder: RunFolder
    is_new: bool


def run(config: Mapping[str, Any]) -> Outcome:
    """Do the run that the resolved ``config`` describes, or go on with it, unless its record is there.

    With several processes all of them come here, and the first one alone writes.

    Raises:
        UserError: what the configuration asks for cannot be done.
    """
    folder = RunFolder.of(config)
    setup = Setup.of(config)
    setup.task.machine.prepare_process()
    start_processes(setup.task.machine.trainer(logger=False), folder.key)
    if (record := from_rank_zero(folder.record)) is not None:
        return Outcome(record, folder, is_new=False)
    from_rank_zero(folder.create)
    with held_by_rank_zero(lambda: claimed(folder.path, f"the run {folder.key}")):
        if (record := from_rank_zero(folder.record)) is not None:  # made while this process waited
            return Outcome(record, folder, is_new=False)
        with _noted(setup, folder) if is_rank_zero() else nullcontext():
            from_rank_zero(lambda: folder.start(config))
            record = failing_together(lambda: _perform(setup, folder, config))
            from_rank_zero(lambda: folder.finish(record))
    return Outcome(record, folder, is_new=True)


def _perform(setup: Setup, folder: RunFolder, config: Mapping[str, Any]) -> Record:
    """Everything in the run's folder but the record."""
    started = datetime.now(UTC)
    logger = setup.logger if is_rank_zero() else RunLogger()
    logger.start(folder.path, config)
    try:
        full = full_network(setup)
        pruned = prune_and_recover(setup, full, folder.rounds)
        figures = measure(setup, full, pruned)
        from_rank_zero(lambda: prunelab.save(pruned.network, folder.path))
        record = from_rank_zero(lambda: record_of(setup, full, pruned, figures, folder, config, started))
        logger.finish(record)
    finally:
        logger.close()
    return record


@contextmanager
def _noted(setup: Setup, folder: RunFolder) -> Iterator[None]:
    """What is said goes into the run's log; an error leaves failure.json, an interruption does not."""
    with writing_log(folder.log_file):
        log.info("%s  ->  %s", setup, folder.path)
        try:
            yield
        except Exception as error:
            log.debug("The run failed.", exc_info=True)
            try:
                folder.fail(failure_of(setup, folder.key, reason(error)))
            except OSError as refusal:
                log.warning("This failure could not be noted in %s: %s", folder.path, refusal.strerror)
            raise
