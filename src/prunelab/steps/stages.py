"""The network after each stage of a run: accuracy, cost, size and time."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from torch import nn

from prunelab.errors import UserError
from prunelab.evaluation import Target
from prunelab.evaluation.programs import network_program
from prunelab.evaluation.turns import percentiles
from prunelab.export.deploy import missing_packages
from prunelab.records import Accuracy
from prunelab.records.deployment import Percentiles, Stage
from prunelab.steps.deployment import weights_bytes
from prunelab.steps.setup import Setup
from prunelab.structure import CostModel

log = logging.getLogger(__name__)

Latencies = Mapping[int, Percentiles]
"""Batch size -> milliseconds of one forward pass."""

SECONDS = 3.0
"""About how long all networks together are timed at each batch size."""


@dataclass(frozen=True)
class Architecture:
    """A network of some stages, with what these stages have in common."""

    network: nn.Module
    cost: CostModel
    latency_ms: Latencies

    def stage(self, name: str, accuracy: Accuracy, target: Target) -> Stage:
        """The description of one stage."""
        return Stage(
            name=name,
            runtime=target.runtime,
            precision=target.precision,
            bytes=weights_bytes(self.network),
            top1=accuracy.top1,
            top5=accuracy.top5,
            agreement=None,
            largest_difference=None,
            latency_ms=self.latency_ms,
            flops=int(self.cost.flops()),
            params=int(self.cost.params()),
        )


def _usable(target: Target) -> Target:
    """``target``; with PyTorch as the runtime, and a message, if the packages of onnxruntime are not installed.

    Accuracies of stages before the quantisation are those in float32, so their times are not those in int8.
    """
    if target.precision == "int8":
        target = replace(target, precision="fp32")
    if target.runtime != "onnxruntime" or not missing_packages():
        target.require_available()
        return target
    log.warning(
        "The stages are timed in PyTorch: budget.target.runtime=onnxruntime needs %s (pip install 'prunelab[deploy]').",
        ", ".join(missing_packages()),
    )
    return replace(target, runtime="eager")


def times_on_target(setup: Setup, networks: Sequence[nn.Module]) -> tuple[Target, list[Latencies]]:
    """The times of the networks on the target of ``setup``, in turns: processor time for one thread.

    At the batch sizes of ``setup`` and that of the target. In PyTorch, with a message, if the runtime of the target is
    not installed or does not support a network: the networks are trained already, and only their times depend on it.
    """
    target = _usable(setup.target)
    try:
        return target, _times(setup, networks, target)
    except UserError as error:
        if target.runtime == "eager":
            raise
        log.warning("The stages are timed in PyTorch. %s", error)
    target = replace(target, runtime="eager")
    return target, _times(setup, networks, target)


def _times(setup: Setup, networks: Sequence[nn.Module], target: Target) -> list[Latencies]:
    shape = setup.task.data.image_shape
    trial = setup.task.machine.batches is not None
    by_batch = {}
    for batch in sorted({target.batch_size, *setup.stage_batches}):
        there = replace(target, batch_size=batch)
        programs = [network_program(network, shape, there) for network in networks]
        by_batch[batch] = percentiles(programs, there, 0.0 if trial else SECONDS)
    return [{batch: found[place] for batch, found in by_batch.items()} for place in range(len(networks))]
