"""Images per second: training in prunelab, a plain PyTorch loop with the same work, and several processes."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Container, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from threading import Barrier, BrokenBarrierError
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from gpu_timing import Figures, Place, Row
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import prunelab
from prunelab.data.augment import BatchTransform
from prunelab.data.module import ImageData
from prunelab.data.sources import MemoryImages
from prunelab.data.split import Split, Splits
from prunelab.models import build
from prunelab.training import Machine, Training, fit
from prunelab.training.schedule import make_schedule
from prunelab.training.settings import make_optimizer

CLASSES = 10
TRAINING = Training(epochs=4, lr=0.05, nesterov=True, weight_decay=5e-4, schedule="one_cycle")
FULL = Machine(accelerator="gpu", images_on_device=True)
FAST = replace(
    FULL, precision="bf16-mixed", channels_last=True, tf32=True, fused=True, deterministic=False
)  # as trainer=gpu
GRAPHS = replace(FAST, compile="reduce-overhead")


@dataclass(frozen=True)
class Case:
    """One network, one way to train it."""

    network: str
    side: int
    images: int
    batch: int
    machines: dict[str, Machine] = field(hash=False)


CASES = (
    Case("cifar_resnet56", 32, 25_600, 128, {
        "trainer=auto": FULL,
        "trainer=gpu": FAST,
        "trainer=gpu trainer.deterministic=warn": replace(FAST, deterministic="warn"),
        "trainer=gpu trainer.compile=reduce-overhead": GRAPHS,
        "trainer=gpu trainer.compile=reduce-overhead trainer.deterministic=warn": replace(
            GRAPHS, deterministic="warn"
        ),
    }),
    Case("resnet50", 224, 5_120, 256, {
        "trainer=gpu": FAST,
        "trainer=gpu trainer.deterministic=warn": replace(FAST, deterministic="warn"),
        "trainer=gpu trainer.compile=true": replace(FAST, compile=True),
    }),
)  # fmt: skip


class RandomImages(ImageData):
    """Random images and classes; a few of them are the validation images."""

    name = "random"

    def __init__(self, images: int, side: int, batch: int) -> None:
        super().__init__(
            image_shape=(3, side, side), batch_size=batch, eval_batch_size=batch, val_fraction=0.02, seed=0,
            split_seed=0,
        )  # fmt: skip
        self.count = images

    @property
    def num_classes(self) -> int:
        return CLASSES

    def read_splits(self) -> Splits:
        generator = torch.Generator().manual_seed(0)
        total = self.count + self.eval_batch_size
        images = torch.randint(0, 256, (total, *self.image_shape), dtype=torch.uint8, generator=generator)
        transform = BatchTransform((0.5,) * 3, (0.25,) * 3, crop_padding=4, flip=True)
        source = MemoryImages(images, np.arange(total) % CLASSES, transform)
        train, val = Split(source, np.arange(self.count)), Split(source, np.arange(self.count, total))
        return Splits(train, val, val)


class EpochSeconds(pl.Callback):
    """Seconds from the first to the last step of each epoch; the device is synchronised before each reading."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self.seconds: list[float] = []

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        self.place.wait()
        self.begin = time.perf_counter()

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        if trainer.is_last_batch:
            self.place.wait()
            self.seconds.append(time.perf_counter() - self.begin)


def training(done: Container[str], place: Place) -> Iterator[Row]:
    """Every case with each of its machines."""
    for case in CASES:
        for words, machine in case.machines.items():
            name = f"{case.network}, {words}"
            if name not in done:
                yield name, partial(_training, case, machine, place)


def _training(listed: Case, machine: Machine, place: Place) -> Figures:
    case, data, flops = ready(listed, place)
    machine = replace(machine, accelerator="gpu" if place.on_gpu else "cpu")
    machine.prepare_process()
    ours = case.images / _fit_seconds(case, data, machine, place)
    plain = case.images / _plain_seconds(case, data, machine, place)
    return {
        "images_per_s": ours, "plain_images_per_s": plain, "ratio": ours / plain,
        "tflops": ours * flops / 1e12, "side": case.side, "batch": case.batch, "images": case.images,
        "epochs": TRAINING.epochs,
    }  # fmt: skip


@lru_cache(maxsize=1)
def ready(case: Case, place: Place) -> tuple[Case, ImageData, float]:
    """The case, its images on the device, and the FLOPs of training on an image."""
    case = _here(case, place)
    data = RandomImages(case.images, case.side, case.batch)
    data.setup()
    data.move_to(place.device)
    graph = prunelab.analyze(_network(case), torch.zeros(1, 3, case.side, case.side))
    return case, data, 3 * float(graph.cost.flops())


def _here(case: Case, place: Place) -> Case:
    """The case itself; in a trial one with a small network and few images."""
    if not place.quick:
        return case
    small = {"cifar_resnet56": "cifar_resnet20", "resnet50": "resnet18"}
    return replace(case, network=small[case.network], side=32, images=8, batch=4)


def _network(case: Case) -> nn.Module:
    torch.manual_seed(0)
    return build(case.network, num_classes=CLASSES, in_chans=3, image_size=(case.side, case.side))


TOGETHER = (1, 2, 4)
"""Trainings at a time."""
STARTS_S = 900
"""The longest time between the first and the last of the processes to be ready; they compile at the same time."""


def together(done: Container[str], place: Place) -> Iterator[Row]:
    """Images per second of several processes that train ResNet-56 on the card at the same time, summed over them."""
    for count in TOGETHER[1:2] if place.quick else TOGETHER:
        name = f"{CASES[0].network}, {count} at a time"
        if name not in done:
            yield name, partial(_together, count, place)


def _together(count: int, place: Place) -> Figures:
    context = get_context("spawn")  # CUDA does not work in a forked process
    with context.Manager() as manager, ProcessPoolExecutor(count, mp_context=context) as processes:
        start = manager.Barrier(count, timeout=STARTS_S)
        trainings = [processes.submit(_one_of_several, place, start) for _ in range(count)]
        errors = [error for training in trainings if (error := training.exception()) is not None]
    if errors:  # the processes that wait for one that failed have a BrokenBarrierError
        raise next((error for error in errors if not isinstance(error, BrokenBarrierError)), errors[0])
    slowest = max(training.result() for training in trainings)
    images = count * _here(CASES[0], place).images * (TRAINING.epochs - 1)
    return {"images_per_s": images / slowest, "at_a_time": count, "slowest_s": slowest}


def _one_of_several(place: Place, start: Barrier) -> float:
    """The seconds of a training after its first epoch, which compiles and then waits for the other processes."""
    case = _here(CASES[0], place)
    machine = replace(GRAPHS, accelerator="gpu") if place.on_gpu else Machine(accelerator="cpu")
    machine.prepare_process()
    data = RandomImages(case.images, case.side, case.batch)
    data.setup()
    data.move_to(place.device)
    began: list[float] = []

    def wait_for_the_others(trainer: pl.Trainer, *_: Any) -> None:
        if trainer.current_epoch == 1:
            place.wait()
            start.wait()
            began.append(time.perf_counter())

    try:
        _fit(case, data, machine, pl.callbacks.LambdaCallback(on_train_epoch_start=wait_for_the_others))
    except BaseException:
        start.abort()  # the others wait
        raise
    place.wait()
    return time.perf_counter() - began[0]


def _fit_seconds(case: Case, data: ImageData, machine: Machine, place: Place) -> float:
    """The median of the epochs after the first one, which compiles and warms up."""
    clock = EpochSeconds(place)
    _fit(case, data, machine, clock)
    return median(clock.seconds[1:])


def _fit(case: Case, data: ImageData, machine: Machine, callback: pl.Callback) -> None:
    with tempfile.TemporaryDirectory() as folder:
        fit(
            _network(case), data, TRAINING, machine=machine, seed=0, folder=Path(folder), title=case.network,
            callbacks=[callback],
        )  # fmt: skip


def _plain_seconds(case: Case, data: ImageData, machine: Machine, place: Place) -> float:
    """The same for a plain loop that contains only the steps of a training."""
    torch.use_deterministic_algorithms(
        machine.deterministic == "warn", warn_only=True
    )  # as Lightning sets it
    torch.backends.cudnn.benchmark = False  # as Lightning leaves it
    layout = torch.channels_last if machine.channels_last else torch.contiguous_format
    model = _network(case).to(place.device).to(memory_format=layout).train()
    if machine.compile:
        model.compile(**({"mode": machine.compile} if isinstance(machine.compile, str) else {}))
    optimizer = make_optimizer(model, TRAINING, machine.fused)
    loader = data.train_dataloader()
    schedule = make_schedule(optimizer, TRAINING, TRAINING.epochs * len(loader))
    seconds = []
    for _ in range(TRAINING.epochs):
        place.wait()
        begin = time.perf_counter()
        for images, classes in loader:
            loss = _loss(model, images.contiguous(memory_format=layout), classes, machine)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        place.wait()
        seconds.append(time.perf_counter() - begin)
    if machine.compile:
        torch.compiler.reset()  # as after a fit
    return median(seconds[1:])


def _loss(model: nn.Module, images: Tensor, classes: Tensor, machine: Machine) -> Tensor:
    mixed = machine.precision == "bf16-mixed"
    device = images.device.type
    with torch.autocast(device, torch.bfloat16, enabled=mixed, cache_enabled=False):  # as Lightning does
        return cross_entropy(model(images), classes)
