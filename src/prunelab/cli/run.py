"""``prunelab``: one run, or with -m a sweep of runs."""

from __future__ import annotations

import io
import logging
import os
import sys
import textwrap
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig

from prunelab.cli.config import CONFIG_NAME, VERSION_BASE, conf_folder, conf_location, explain, resolve
from prunelab.cli.deployment import is_wanted, present_deployment
from prunelab.cli.ending import (
    exit_code,
    is_first_process,
    is_one_of_several,
    take_traceback_flag,
    traceback_wanted,
)
from prunelab.cli.former_names import present_words
from prunelab.cli.summary import Job
from prunelab.errors import UserError
from prunelab.records import RunFolder, claimed, unwritable
from prunelab.records.reason import reason
from prunelab.records.reuse import changes_since
from prunelab.version import __version__

if TYPE_CHECKING:
    from prunelab.export import Deploy

PROGRAM = "prunelab"
WIDTH = 110
Result = TypeVar("Result")
CHATTY = (
    "pytorch_lightning.utilities.rank_zero",
    "lightning_fabric.utilities.rank_zero",
    "lightning_fabric.utilities.distributed",
)


def main() -> None:
    """Entry point: ends the process with code 0, with 1 after a failure, or with 130 after Ctrl-C."""
    sys.argv[1:] = take_traceback_flag(sys.argv[1:])
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra raises its errors instead of printing them
    with console_messages():
        sys.argv[1:] = present_words(sys.argv[1:])
        sys.exit(exit_code(PROGRAM, _start))


def _start() -> int:
    app = hydra.main(config_path=conf_location(), config_name=CONFIG_NAME, version_base=VERSION_BASE)(_job)
    try:
        if "--version" in sys.argv[1:]:  # Hydra would print its own version
            print(f"{PROGRAM} {__version__}")
        elif {"--help", "-h"} & set(sys.argv[1:]):
            _help(app)
        else:
            app()
    except (HydraException, ValueError) as error:
        raise UserError(explain(error, sys.argv[1:])) from error
    except (
        OSError
    ) as error:  # an error of a job is part of its result; this error concerns the folder of the sweep
        if error.filename is None:
            raise
        raise UserError(unwritable(error.filename, error)) from error
    return 0


def _help(app: Callable[[], Any]) -> None:
    """Hydra's help, with line breaks in its long lists of choices."""
    output = io.StringIO()
    with redirect_stdout(output), suppress(SystemExit):
        app()
    for line in output.getvalue().rstrip().splitlines():
        group = line.partition(":")[0]
        indent = " " * (len(group) + 2) if group.replace("/", "_").isidentifier() else ""
        print(textwrap.fill(line, WIDTH, subsequent_indent=indent) if indent else line)
    print(f"Comments in the files of this folder describe each key and its values:\n  {conf_folder()}")


def _job(config: DictConfig) -> Job:
    """One run, called by Hydra. A single run that failed before is tried again; a run of a sweep is not."""
    hydra = HydraConfig.get()
    label = " ".join(hydra.overrides.task)
    if hydra.mode == RunMode.RUN:
        config.sweep.retry_failed = True
    return attempt(lambda: perform(resolve(config, hydra.runtime), label), label)


def attempt(work: Callable[[], Result], label: str) -> Result | Job:
    """The result of ``work`` for one run. An exception becomes a failed ``Job``, so that the other runs continue."""
    try:
        return work()
    except Exception as error:
        if traceback_wanted():
            traceback.print_exc()
        return Job(label, error=reason(error))


def settled(
    config: Mapping[str, Any], label: str, image_folders: dict[Path, str] | None = None
) -> Job | None:
    """The earlier result of the run of the resolved ``config``; None if the run must be started or continued.

    A finished run counts as left if the deployment that ``config`` asks for is not there.

    A failed run stays failed unless ``sweep.retry_failed`` is true. A finished run is moved to ``earlier/`` if
    ``sweep.redo`` is true.

    Args:
        image_folders: digests of image folders that were read for other runs, see ``content_digests``.
    """
    folder = RunFolder.of(config, image_folders)
    if (record := folder.record()) is not None:
        if config["sweep"].get("redo", False):
            with claimed(folder.path, f"the run {folder.key}"):
                folder.set_aside(record)
            return None
        folder.tidy()
        deployment = present_deployment(config, folder.path) if is_wanted(config) else None
        if is_wanted(config) and deployment is None:
            return None
        changes = changes_since(record, config, folder.contents)
        return Job(label, record, folder.path, is_new=False, changes=changes, deployment=deployment)
    if config["sweep"]["retry_failed"] or (failure := folder.failure()) is None:
        return None
    return Job(label, error=f"failed earlier: {failure.error} (sweep.retry_failed=true tries it again.)")


def perform(config: Mapping[str, Any], label: str) -> Job:
    """Start or continue the run of the resolved ``config``, unless it is settled."""
    if not is_one_of_several() and (job := settled(config, label)) is not None:
        return job
    # These import Lightning, which takes seconds that a finished sweep does not need.
    from prunelab.distributed import takes_part
    from prunelab.distributed.ranks import from_rank_zero
    from prunelab.experiment import run

    if not takes_part(RunFolder.of(config).key):
        return settled(config, label) or Job(label)
    if (job := from_rank_zero(lambda: settled(config, label))) is not None:
        return job
    settings = _deployment_settings(config)
    outcome = run(config)
    deployment = None
    if settings is not None and is_first_process():
        from prunelab.steps.deploy_run import deploy_run

        deployment = deploy_run(outcome.folder.path, config, settings, outcome.folder.key)
    return Job(label, outcome.record, outcome.folder.path, outcome.is_new, deployment=deployment)


def _deployment_settings(config: Mapping[str, Any]) -> Deploy | None:
    """The deployment that ``config`` asks for, or None. Raises UserError if its packages are not installed."""
    if not is_wanted(config):
        return None
    from prunelab.steps.setup import made

    settings: Deploy = made(config["deploy"], "deploy")
    settings.require_packages()
    return settings


@contextmanager
def console_messages() -> Iterator[None]:
    """Context in which messages of prunelab go to stderr, and those of Lightning about hardware and products are
    hidden."""
    console = logging.StreamHandler()
    console.setLevel(logging.INFO if is_first_process() else logging.ERROR)
    logger = logging.getLogger("prunelab")
    logger.setLevel(logging.INFO)
    logger.propagate = False
    logger.addHandler(console)
    for name in CHATTY:
        logging.getLogger(name).setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.removeHandler(console)


if __name__ == "__main__":
    main()
