"""The time of a forward pass, measured so that networks can be compared."""

from __future__ import annotations

import time
from collections.abc import Sequence

import torch
from torch import Tensor, nn

FEWEST_REPEATS = 3
MOST_REPEATS = 100
WARM_UP = 0.25
"""The fraction of the time for warming up; at least one pass, at most as many as are measured."""


def forward_times(
    models: Sequence[nn.Module],
    image_shape: tuple[int, int, int],
    batch_size: int,
    device: torch.device,
    memory_format: torch.memory_format = torch.contiguous_format,
    seconds: float = 2.0,
) -> tuple[tuple[float, ...], ...]:
    """The times of all forward passes of each model, in milliseconds, for ``batch_size`` random images.

    The models take turns, pass by pass, in this process, so that other load on the machine slows all of them equally.
    Passes are in evaluation mode and float32, after a warm-up, with the present number of threads of torch; the device
    is synchronised after each pass. All measured passes together take about ``seconds``, with 3 to 100 passes of each
    model. Afterwards the networks are on the CPU; each module has its original mode.
    """
    modes = [(module, module.training) for model in models for module in model.modules()]
    for model in models:
        model.to(device).to(memory_format=memory_format).eval()
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(batch_size, *image_shape, generator=generator).to(device, memory_format=memory_format)
    try:
        one_turn = sum(_warm_pass_seconds(model, images, seconds * WARM_UP / len(models)) for model in models)
        repeats = round(min(max(seconds / one_turn, FEWEST_REPEATS), MOST_REPEATS))
        turns = [[_pass_seconds(model, images) for model in models] for _ in range(repeats)]
    finally:
        for model in models:
            model.to("cpu")
        for module, was_training in modes:
            module.training = was_training
    return tuple(tuple(1000 * each for each in times) for times in zip(*turns, strict=True))


def _warm_pass_seconds(model: nn.Module, images: Tensor, seconds: float) -> float:
    """The fastest of the passes that fit into ``seconds``, or of the first one."""
    end = time.perf_counter() + seconds
    passes = [_pass_seconds(model, images)]
    while time.perf_counter() < end and len(passes) < MOST_REPEATS:
        passes.append(_pass_seconds(model, images))
    return min(passes)


def _pass_seconds(model: nn.Module, images: Tensor) -> float:
    if images.device.type == "cuda":
        return _seconds_between_events(model, images)
    _wait_for(images.device)
    start = time.perf_counter()
    with torch.inference_mode():
        model(images)
    _wait_for(images.device)
    return time.perf_counter() - start


def _seconds_between_events(model: nn.Module, images: Tensor) -> float:
    """The time of one pass on a CUDA device by its own clock, without the time that the CPU takes to notice the end."""
    stream = torch.cuda.current_stream(images.device)
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize(images.device)
    begin.record(stream)
    with torch.inference_mode():
        model(images)
    end.record(stream)
    end.synchronize()
    return begin.elapsed_time(end) / 1000


def _wait_for(device: torch.device) -> None:
    """Wait until the device has finished: calls return while it is still computing."""
    if device.type == "mps":
        torch.mps.synchronize()
