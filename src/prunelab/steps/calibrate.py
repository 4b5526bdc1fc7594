"""The calibration steps of a recipe: the accuracy after each, and the weights, stored so that none is repeated."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Sequence
from pathlib import Path

import pytorch_lightning as pl
import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from prunelab.calibration import Pair, Step, title
from prunelab.distributed.ranks import from_rank_zero, world
from prunelab.methods import Calibration
from prunelab.models.state import load_state
from prunelab.records import Calibrated
from prunelab.records.atomic import Write, set_aside
from prunelab.records.fields import Fields, RecordError
from prunelab.steps.setup import Setup
from prunelab.structure import PruningPlan

log = logging.getLogger(__name__)

_DONE = "calibrated"
"""Key of the metadata of a weights file that holds the accuracy after the step."""

Stored = tuple[Calibrated, dict[str, Tensor]]
"""The result of a step, and the weights and buffers after it."""


def calibrate(
    setup: Setup,
    full: nn.Module,
    network: nn.Module,
    plan: PruningPlan,
    steps: Sequence[Step],
    stem: Path,
    write: Write,
) -> tuple[Calibrated, ...]:
    """Do the steps in order. Returns the test accuracy after each, and the seconds that it took.

    Args:
        full: the network before ``plan`` was applied.
        network: ``full`` after ``plan`` was applied; adjusted in place.
        stem: path of the stored weights, without the number of the step; a step that is stored is not repeated.
        write: writes these files.
    """
    done: list[Calibrated] = []
    for number, step in enumerate(steps, start=1):
        file = stem.with_name(f"{stem.name}-calibrated-{number}.safetensors")
        found = from_rank_zero(lambda: _read(file, title(step)))  # noqa: B023 - called at once
        if found is None:
            done.append(_perform(setup, _pair(setup, full, network, plan), step))
            from_rank_zero(lambda: _store(file, done[-1], network, write))  # noqa: B023 - called at once
        else:
            load_state(network, found[1])
            done.append(found[0])
    return tuple(done)


def _perform(setup: Setup, pair: Pair, step: Step) -> Calibrated:
    pl.seed_everything(setup.task.seed, workers=True, verbose=False)
    start = time.perf_counter()
    for network in (pair.full, pair.pruned):
        network.to(pair.example.device)
    step(pair)
    for network in (pair.full, pair.pruned):
        network.to("cpu")
    seconds = time.perf_counter() - start
    accuracy = setup.task.test_accuracy(pair.pruned)
    return Calibrated(title(step), accuracy.top1, accuracy.top5, seconds)


def _pair(setup: Setup, full: nn.Module, network: nn.Module, plan: PruningPlan) -> Pair:
    device = setup.task.machine.device
    count = setup.recipe.calibration_images
    rank, ranks = world()
    images = Calibration(setup.task.data.calibration_dataloader(count), count, rank=rank, ranks=ranks)
    batches = [batch for batch, _ in images.batches(device)]
    return Pair(full, network, plan, batches, setup.task.example_input().to(device), setup.task.seed)


def _store(file: Path, found: Calibrated, network: nn.Module, write: Write) -> None:
    tensors = {
        name: torch.clone(tensor.detach(), memory_format=torch.contiguous_format)
        for name, tensor in network.state_dict().items()
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    write(file, safetensors.torch.save(tensors, metadata={_DONE: found.to_json()}))


def _read(file: Path, step: str) -> Stored | None:
    """The stored result of a step; None if there is none. A damaged file is set aside with a warning."""
    if not file.exists():
        return None
    try:
        with safe_open(file, framework="pt") as content:
            metadata = content.metadata() or {}
            found = Calibrated.from_fields(Fields(json.loads(metadata.get(_DONE, ""))))
            if found.step != step:
                raise RecordError(f"it is of the step {found.step}")
            return found, {name: content.get_tensor(name) for name in content.keys()}  # noqa: SIM118
    except (SafetensorError, ValueError, RecordError) as error:
        log.warning(
            "%s is damaged (%s). It was renamed to %s; the step is repeated.",
            file,
            error,
            set_aside(file).name,
        )
        return None
