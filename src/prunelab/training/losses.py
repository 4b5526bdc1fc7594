"""Losses of training beyond cross entropy."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional


def distillation(logits: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    """Hinton's loss: ``T^2 KL(softmax(teacher / T) || softmax(logits / T))``, the mean over images, a scalar.

    Hinton, Vinyals, Dean: Distilling the Knowledge in a Neural Network, arXiv:1503.02531, section 2. The factor T^2
    keeps the size of the gradients independent of the temperature. Gradients do not reach the teacher.

    Args:
        logits, teacher: (N, classes), of the same images.
        temperature: T, above 0.

    Example:
        >>> import torch
        >>> distillation(torch.zeros(2, 3), torch.zeros(2, 3), temperature=4.0)
        tensor(0.)
    """
    student = functional.log_softmax(logits.float() / temperature, dim=1)
    target = functional.log_softmax(teacher.detach().float() / temperature, dim=1)
    return functional.kl_div(student, target, reduction="batchmean", log_target=True) * temperature**2
