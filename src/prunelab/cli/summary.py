"""The summary of a run or a sweep: new results, existing results, and failures with their reasons."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn
from hydra.experimental.callback import Callback
from omegaconf import DictConfig
from rich.console import Console
from rich.text import Text

from prunelab.cli.deployment import described
from prunelab.cli.ending import FAILED, is_first_process
from prunelab.cli.report import main as report
from prunelab.records import Metrics, Record
from prunelab.records.deployment import Deployment
from prunelab.report.stages import stage_lines

DEFAULT_METHOD = (
    "No method was named: {method} is the default, because EfficientNet-Lite0 and ResNet-56 kept the most accuracy "
    "with it once weights were refitted (experiments/post_training). It assumes that the other weights are adjusted "
    "afterwards, by training or recipe.calibration=[sequential]; right after pruning the accuracy is low. "
    "prunelab-methods lists all methods."
)

LISTED = 20
"""The summary names at most this number of finished runs; it names every failed run."""


@dataclass(frozen=True)
class Job:
    """The result of one run of a sweep; ``label`` is its part of the command line.

    A finished run has a record and a folder, and ``is_new`` is true if this command made it. A failed run has an error.
    ``changes`` describes what has changed since an earlier run was made; ``deployment`` what was exported from it.
    """

    label: str
    record: Record | None = None
    folder: Path | None = None
    is_new: bool = False
    error: str | None = None
    changes: str | None = None
    deployment: Deployment | None = None


class Summary(Callback):
    """Collects the results of the jobs, prints them after the last one, and exits with 1 if a job failed.

    It is a Hydra callback, because Hydra passes the results of a sweep only to callbacks.
    """

    def __init__(self) -> None:
        self._jobs: list[Job] = []
        self._console = Console(highlight=False, soft_wrap=True)

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **_: Any) -> None:
        self._jobs.append(job_return.return_value)

    def on_run_end(self, config: DictConfig, **_: Any) -> None:
        if not is_first_process():
            return
        for job in self._jobs:
            if job.record is not None:
                self._console.print(_result(job, job.record))
                self._show_deployment(job)
        self._explain_default()
        self._end()

    def on_multirun_end(self, config: DictConfig, **_: Any) -> None:
        if not is_first_process():
            return
        done = [job for job in self._jobs if job.record is not None]
        new = [job for job in done if job.is_new]
        there = [job for job in done if not job.is_new]
        for study in {job.folder.parent: None for job in done if job.folder is not None}:
            report([str(study)])
        self._list("Finished", new)
        self._list("Already there", there)
        self._list_changes(there)
        for job in done:
            self._show_deployment(job)
        self._explain_default()
        failed = len(self._jobs) - len(done)
        if not self._jobs:  # Hydra starts no run for a glob() without a match
            print(
                "prunelab: Nothing was run: a glob() matches no choice. See prunelab --help.", file=sys.stderr
            )
            sys.exit(FAILED)
        self._console.print(f"{len(new)} finished, {len(there)} already there, {failed} failed.")
        self._end()

    def _list(self, title: str, jobs: Sequence[Job]) -> None:
        """Print the names of at most ``LISTED`` runs under a title."""
        if jobs and len(self._jobs) > 1:
            self._console.print(f"{title}:")
            names = [self._names()[job.label] for job in jobs[:LISTED]]
            more = [f"... and {len(jobs) - LISTED} more"] if len(jobs) > LISTED else []
            self._console.print(Text("\n".join(f"  {line}" for line in [*names, *more])))

    def _list_changes(self, jobs: Sequence[Job]) -> None:
        """Print what has changed since the runs were made, each change once."""
        changed = [job for job in jobs if job.changes]
        for text in dict.fromkeys(str(job.changes) for job in changed):
            names = [self._names()[job.label] for job in changed if job.changes == text]
            more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
            self._console.print(Text(f"Note on {', '.join(names[:LISTED])}{more}: {text}"))

    def _show_deployment(self, job: Job) -> None:
        """Print the stages of the deployment of a run, if it has one, and its warnings."""
        if job.deployment is not None and job.folder is not None:
            self._console.print(Text("\n".join(described(job.deployment, job.folder))))

    def _explain_default(self) -> None:
        """Name the method of runs whose command line names neither a method nor an experiment."""
        for job in self._jobs:
            words = job.label.split(" ")
            if job.record is not None and not any(
                word.startswith(("method=", "experiment=")) for word in words
            ):
                self._console.print(Text(DEFAULT_METHOD.format(method=job.record.method)))
                return

    def _names(self) -> dict[str, str]:
        return short_names([job.label for job in self._jobs])

    def _end(self) -> None:
        errors = Console(stderr=True, highlight=False, soft_wrap=True)
        failed = [job for job in self._jobs if job.error is not None]
        for job in failed:
            name = f"{self._names()[job.label]}: " if len(self._jobs) > 1 else ""
            errors.print(Text(f"prunelab: {name}{job.error}"))
        if failed:
            sys.exit(FAILED)


def short_names(labels: Sequence[str]) -> dict[str, str]:
    """A short name for the label of each run of a sweep: its words that are not in all labels."""
    words = [label.split(" ") for label in labels]
    shared = set(words[0]).intersection(*words) if words else set()
    short = (" ".join(word for word in each if word not in shared) for each in words)
    return {label: name or label for label, name in zip(labels, short, strict=True)}


def _result(job: Job, record: Record) -> Text:
    """The results of a run in a few lines."""
    full, small = record.baseline, record.pruned
    lines = [
        f"{record.method} on {record.model}, {record.data}, seed {record.seed}: "
        + ("finished." if job.is_new else f"already there since {record.finished}."),
        *([f"  note: {job.changes}"] if job.changes else []),
        f"  top-1        {full.top1:.2%} -> {small.top1:.2%}"
        f" ({record.after_pruning.top1:.2%} before recovery)",
        f"  FLOPs        {_share(full, small, 'flops')}",
        f"  parameters   {_share(full, small, 'params')}",
    ]
    if record.latency is not None:
        lines.append(f"  latency      {record.latency}")
    if record.lowrank:
        lines.append(f"  low rank     {record.lowrank}: {len(record.plan.factorised)} layers")
    if record.lowrank_latency is not None:
        lines.append(f"               {record.lowrank_latency}")
    if record.quantisation is not None:
        lines.append(f"  precision    {record.quantisation}")
        lines += [f"               {each}" for each in record.quantisation.notes]
        lines += [f"  Warning: {each}" for each in record.quantisation.warnings]
    for batch, before in full.latency_ms.items():
        lines.append(f"  batch {batch:<6} {before:.2f} ms -> {small.latency_ms[batch]:.2f} ms")
    if record.lowrank or record.precision:
        lines += stage_lines(record.stages)
    return Text("\n".join([*lines, f"  {job.folder}"]))


def _share(full: Metrics, small: Metrics, resource: str) -> str:
    before, after = getattr(full, resource), getattr(small, resource)
    return f"{before:,} -> {after:,} ({after / before:.2%})"
