"""The final network in another number format: training in it, outputs in a runtime, agreement with float32."""

from __future__ import annotations

import copy
import logging
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

from torch import Tensor, nn

from prunelab.distributed.ranks import from_rank_zero
from prunelab.evaluation import Compared, compared
from prunelab.export.capture import InPrecision, for_export
from prunelab.export.deploy import Deploy
from prunelab.export.int8 import weight_range
from prunelab.export.packing import PACKED
from prunelab.quantisation import Precision
from prunelab.quantisation.int8_training import end_simulation, simulate_int8
from prunelab.quantisation.low_bit import begin_rounding, end_rounding
from prunelab.quantisation.settings import LOW_BIT
from prunelab.records import Accuracy
from prunelab.records.atomic import Write
from prunelab.records.deployment import Percentiles, Stage
from prunelab.records.quantisation import QuantisationSummary
from prunelab.steps.decision import fingerprint
from prunelab.steps.deploy_run import images_of
from prunelab.steps.deployed_files import export_one, exported_files
from prunelab.steps.deployment import SECONDS, times_in_turns, weights_bytes
from prunelab.steps.full import FullNetwork
from prunelab.steps.phase import fit_phase, teacher_of
from prunelab.steps.setup import Setup
from prunelab.training import Training

log = logging.getLogger(__name__)

PHASE = "quantisation"
"""The name of the training in learning curves."""

NO_KERNELS = (
    "common runtimes have no kernels for weights of one or two bits: the file is smaller, but the network is not "
    "faster than in float32"
)


@dataclass(frozen=True)
class Quantised:
    """The final network after its training in another precision, and what was measured in that precision.

    ``network`` is stored in the folder of the run. ``test`` and ``validation`` are accuracies in the precision.
    ``stages`` have no FLOPs and parameters. ``recovery_s``: the seconds of the training.
    """

    network: nn.Module
    test: Accuracy
    validation: Accuracy
    stages: tuple[Stage, ...]
    summary: QuantisationSummary
    seconds: float
    recovery_s: float


@dataclass(frozen=True)
class Lowered:
    """A network in the precision of the run: a module that computes in its runtime, and its size in bytes."""

    name: str
    module: nn.Module
    bytes: int
    notes: tuple[str, ...] = ()
    params: int | None = None


def quantise(
    setup: Setup, full: FullNetwork, network: nn.Module, folder: Path, write: Write
) -> Quantised | None:
    """Bring a copy of ``network`` into the precision of the run; None with precision=fp32.

    A resumed run continues the training from its checkpoints in ``folder``, which ``write`` writes.

    Raises:
        UserError: the runtime does not support the network, or the calibration images are missing.
    """
    if setup.precision.name == "fp32":
        return None
    untrained = end_rounding(_rounding(setup, network)) if setup.precision.name in LOW_BIT else network
    trained, recovery_s = _trained(setup, full, network, folder, write)
    start = time.perf_counter()
    forms = [untrained] if trained is None else [untrained, trained]
    test, validation, stages, summary = from_rank_zero(lambda: _measured(setup, network, forms))
    return Quantised(forms[-1], test, validation, stages, summary, time.perf_counter() - start, recovery_s)


def _trained(
    setup: Setup, full: FullNetwork, network: nn.Module, folder: Path, write: Write
) -> tuple[nn.Module | None, float]:
    """A copy of ``network`` after the training in the precision, and its seconds; None without a training."""
    settings = setup.precision
    if not settings.epochs:
        return None, 0.0
    last = setup.recipe.rounds(setup.budget.keep)[-1]
    training = replace(
        last.training or Training(settings.epochs),
        epochs=settings.epochs,
        lr=settings.lr,
        schedule="cosine",
        milestones=(),
        warmup_epochs=0.0,
    )
    teacher = teacher_of(full.network, last.distillation)
    place = folder / f"{PHASE}-{fingerprint(network)[:12]}"
    trained = _rounding(setup, network)
    recovery_s = fit_phase(setup, trained, training, place, PHASE, write, (), teacher)
    end = end_rounding if settings.name in LOW_BIT else end_simulation
    return end(trained.cpu()), recovery_s


def _rounding(setup: Setup, network: nn.Module) -> nn.Module:
    """A copy of ``network`` that rounds weights (and inputs) in every forward pass."""
    settings, task = setup.precision, setup.task
    batches = (images.cpu() for images, _ in task.data.calibration_dataloader(settings.calibration_images))
    copied = copy.deepcopy(network).cpu()
    if settings.name in LOW_BIT:
        return begin_rounding(copied, settings.name, task.example_input(), batches, settings.exclude)
    return simulate_int8(copied, batches, weight_range(settings.reduce_range).reduced)


def _measured(
    setup: Setup, network: nn.Module, forms: Sequence[nn.Module]
) -> tuple[Accuracy, Accuracy, tuple[Stage, ...], QuantisationSummary]:
    """Accuracies on test and validation images, the stages, and the summary; ``forms``: without and with training."""
    data, settings, trial = setup.task.data, setup.precision, setup.task.machine.batches
    names = ("quantised", "quantised, trained")
    lowered = [_lowered(setup, name, each) for name, each in zip(names, forms, strict=False)]
    networks = [for_export(network, "fp32"), *(each.module for each in lowered)]
    found = compared(networks, _batches(data.some_test_images(len(data.test)), trial))[1:]
    (*_, held_out) = compared(networks, _batches(data.validation_dataloader(len(data.val)), trial))
    modules = [each.module for each in lowered]
    seconds = SECONDS if trial is None else 0.0
    times = times_in_turns(modules, data.image_shape, setup.target.threads, seconds, setup.stage_batches)
    stages = tuple(_stage(settings, *each) for each in zip(lowered, found, times, strict=True))
    return _accuracy(found[-1]), _accuracy(held_out), stages, _summary(settings, lowered, found)


def _lowered(setup: Setup, name: str, network: nn.Module) -> Lowered:
    settings = setup.precision
    if settings.name in LOW_BIT:
        params = sum(each.numel() for each in network.parameters())
        module = for_export(network, "fp32")
        return Lowered(name, module, weights_bytes(network), (_rounded_layers(network), NO_KERNELS), params)
    if settings.runs_in == "eager":
        module = InPrecision(network, settings.name)
        return Lowered(name, module, weights_bytes(module.network))
    deploy = deploy_settings(settings)
    deploy.require_packages()
    form, eager = setup.task.data.input_format, for_export(network, "fp32")
    if settings.name != "int8":
        one = export_one(eager, form, deploy, settings.name, {})
        return Lowered(name, one.runs, one.size)
    images = images_of(setup.task.data, deploy, setup.task.machine.batches)
    files, chosen = exported_files(eager, form, deploy, images, {})
    assert chosen is not None
    note = f"weights of {7 if chosen.reduced else 8} bits: {chosen.reason}"
    return Lowered(name, files[-1].runs, files[-1].size, (note,))


def _rounded_layers(network: nn.Module) -> str:
    """How many layers hold weights of one or two bits, in words."""
    bits: dict[str, int] = getattr(network, PACKED)
    layers = sum(isinstance(each, nn.Conv2d | nn.Linear) for each in network.modules())
    size = "1 bit" if 1 in bits.values() else "2 bits"
    return f"weights of {size} in {len(bits)} of {layers} layers; the others are in float32"


def deploy_settings(settings: Precision) -> Deploy:
    """The deployment that makes the same file as a run in this precision."""
    return Deploy(
        format="openvino" if settings.runs_in == "openvino" else "onnx",
        precision=settings.name,  # type: ignore[arg-type]  # fp16 and int8 have this runtime
        calibration_images=settings.calibration_images,
        reduce_range=settings.reduce_range,
        agreement=settings.agreement,
    )


def _stage(
    settings: Precision, lowered: Lowered, found: Compared, latency_ms: dict[int, Percentiles]
) -> Stage:
    return Stage(
        name=lowered.name,
        runtime=settings.runs_in,
        precision=settings.name,
        bytes=lowered.bytes,
        top1=found.top1,
        top5=found.top5,
        agreement=found.agreement,
        largest_difference=found.largest_difference,
        latency_ms=latency_ms,
        params=lowered.params,
    )


def _summary(
    settings: Precision, lowered: Sequence[Lowered], found: Sequence[Compared]
) -> QuantisationSummary:
    agreement = found[-1].agreement
    warnings = []
    if agreement < settings.agreement:
        warnings.append(
            f"{settings.name} predicts the class of the float32 network for {agreement:.2%} of {found[-1].images} test "
            f"images, less than precision.agreement={settings.agreement:g}."
        )
        log.warning("%s", warnings[0])
    return QuantisationSummary(
        precision=settings.name,
        runtime=settings.runs_in,
        agreement=agreement,
        without_training=found[0].agreement if len(found) > 1 else None,
        least_agreement=settings.agreement,
        images=found[-1].images,
        notes=lowered[-1].notes,
        warnings=tuple(warnings),
    )


def _accuracy(found: Compared) -> Accuracy:
    assert found.top1 is not None  # the images of a run have classes
    return Accuracy(found.top1, found.top5)


def _batches(loader: Iterable[tuple[Tensor, Tensor]], most: int | None) -> Iterator[tuple[Tensor, Tensor]]:
    """The batches of a loader on the processor, at most ``most`` of them."""
    return ((images.cpu(), classes.cpu()) for images, classes in islice(loader, most))
