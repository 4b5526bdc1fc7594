"""Runs one experiment, from its configuration to its record."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from prunelab.distributed import fail_on_all_ranks, held_by_rank_zero, is_rank_zero, start_processes
from prunelab.distributed.ranks import from_rank_zero
from prunelab.export.checkpoint import write_network
from prunelab.records import Record, RunFolder, claimed
from prunelab.records.claim import Claim, ClaimLost
from prunelab.records.reason import reason
from prunelab.steps import (
    Setup,
    factorise_and_recover,
    failure_of,
    full_network,
    measure,
    prune_and_recover,
    quantise,
    record_of,
)
from prunelab.tracking import RunLogger, writing_log

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Outcome:
    """The record of a run, its folder, and whether this call wrote the record."""

    record: Record
    folder: RunFolder
    is_new: bool


def run(config: Mapping[str, Any]) -> Outcome:
    """Do the run that the resolved ``config`` describes, or resume it. A finished run is not repeated.

    With several processes each of them calls this function; only rank zero writes.

    Raises:
        UserError: the configuration is not valid or cannot be carried out.
    """
    folder = RunFolder.of(config)
    setup = Setup.of(config)
    setup.require_target()
    setup.task.machine.prepare_process()
    start_processes(setup.task.machine.trainer(logger=False), folder.key)
    if (record := from_rank_zero(folder.record)) is not None:
        return Outcome(record, folder, is_new=False)
    from_rank_zero(folder.create)
    what = f"the run {folder.key}"
    with held_by_rank_zero(lambda: claimed(folder.path, what), elsewhere=Claim(what)) as claim:
        if (record := from_rank_zero(folder.record)) is not None:  # written while this process waited
            return Outcome(record, folder, is_new=False)
        with _failure_noted(setup, folder, claim) if is_rank_zero() else nullcontext():
            from_rank_zero(lambda: folder.start(config, claim))
            record = fail_on_all_ranks(lambda: _perform(setup, folder, config, claim))
            from_rank_zero(lambda: folder.finish(record, claim))
    return Outcome(record, folder, is_new=True)


def _perform(setup: Setup, folder: RunFolder, config: Mapping[str, Any], claim: Claim) -> Record:
    """All steps of the run; writes everything in its folder except the record."""
    started = datetime.now(UTC)
    logger = setup.logger if is_rank_zero() else RunLogger()
    logger.start(folder.path, config, claim.write, setup.baseline_key)
    try:
        full = full_network(setup)
        pruned = prune_and_recover(setup, full, folder.rounds, claim.write)
        factorised = factorise_and_recover(setup, full, pruned, folder.rounds, claim.write)
        last = pruned.network if factorised is None else factorised.network
        quantised = quantise(setup, full, last, folder.rounds, claim.write)
        figures = measure(setup, full, pruned, factorised, quantised)
        network = last if quantised is None else quantised.network
        network.prunelab_input = setup.task.data.input_format  # type: ignore[assignment]  # travels with it
        from_rank_zero(lambda: write_network(network, folder.path, claim.write))
        record = from_rank_zero(
            lambda: record_of(setup, full, pruned, factorised, quantised, figures, folder, config, started)
        )
        logger.finish(record)
    finally:
        logger.close()
    return record


@contextmanager
def _failure_noted(setup: Setup, folder: RunFolder, claim: Claim) -> Iterator[None]:
    """Write messages into the log of the run, and failure.json after an error (not after an interruption)."""
    with writing_log(folder.log_file):
        log.info("%s  ->  %s", setup, folder.path)
        try:
            yield
        except Exception as error:
            log.debug("The run failed.", exc_info=True)
            try:
                folder.fail(failure_of(setup, folder.key, reason(error)), claim)
            except ClaimLost:
                log.warning(
                    "The failure is not written into %s, because another process has taken over this folder.",
                    folder.path,
                )
            except OSError as full:
                log.warning("The failure could not be written into %s: %s", folder.path, full.strerror)
            raise
