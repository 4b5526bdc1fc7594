"""Learning-rate schedules as a function of the optimizer step."""

from __future__ import annotations

import math

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from prunelab.training.settings import Training

# Smith and Topin 2018 (https://arxiv.org/abs/1708.07120) with the proportions of torch's OneCycleLR.
_ONE_CYCLE_RISE = 0.3
_ONE_CYCLE_START = 1 / 25
_ONE_CYCLE_END = _ONE_CYCLE_START / 1e4


def learning_rate_factor(training: Training, step: int, total_steps: int) -> float:
    """The factor of the learning rate at optimizer step ``step`` (from 0) of ``total_steps``.

    - warm-up of W steps (all schedules except "one_cycle"): (step + 1) / (W + 1), so that step W is the first step with
      the full rate;
    - "constant": 1;
    - "multistep": ``gamma`` to the power of the number of milestones passed;
    - "cosine": from 1 after the warm-up to 0 at ``total_steps`` (Loshchilov and Hutter 2017,
      https://arxiv.org/abs/1608.03983, equation 5);
    - "one_cycle": cosine from 1/25 to 1 during the first 30 % of the steps (or ``warmup_epochs``), then cosine from 1
      to 1/250,000 at the last step.
    """
    total_steps = max(total_steps, 1)
    steps_per_epoch = total_steps / training.epochs
    warmup = training.warmup_epochs * steps_per_epoch
    if training.schedule == "one_cycle":
        return _one_cycle(step, total_steps, warmup or _ONE_CYCLE_RISE * total_steps)
    if step < warmup:
        return (step + 1) / (warmup + 1)
    if training.schedule == "multistep":
        passed = sum(step >= round(milestone * steps_per_epoch) for milestone in training.milestones)
        return training.gamma**passed
    if training.schedule == "cosine":
        return _cosine(1.0, 0.0, (step - warmup) / (total_steps - warmup))
    return 1.0


def make_schedule(optimizer: Optimizer, training: Training, total_steps: int) -> LambdaLR:
    """``learning_rate_factor`` as a PyTorch scheduler; call ``step`` once after each optimizer step."""
    return LambdaLR(optimizer, lambda step: learning_rate_factor(training, step, total_steps))


def _one_cycle(step: int, total_steps: int, rise: float) -> float:
    peak, last = rise - 1, total_steps - 1
    if step < peak:
        return _cosine(_ONE_CYCLE_START, 1.0, step / peak)
    return _cosine(1.0, _ONE_CYCLE_END, (step - peak) / (last - peak))


def _cosine(start: float, end: float, progress: float) -> float:
    """Half a cosine from ``start`` to ``end``; ``progress`` in [0, 1], larger values count as 1."""
    return end + (start - end) * (1 + math.cos(math.pi * min(progress, 1.0))) / 2
