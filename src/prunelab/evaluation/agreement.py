"""Networks that should compute the same, compared on the same images in one pass."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from prunelab.errors import UserError


@dataclass(frozen=True)
class Compared:
    """One network in comparison with the first one.

    Attributes:
        images: number of images.
        agreement: fraction of them with the class that the first network predicts.
        largest_difference: largest absolute difference of a logit.
        largest_logit: largest absolute logit of this network.
        top1, top5: accuracies; None if the images have no classes, top5 also for fewer than five classes.
    """

    images: int
    agreement: float
    largest_difference: float
    largest_logit: float
    top1: float | None
    top5: float | None


@torch.no_grad()
def compared(
    networks: Sequence[nn.Module], batches: Iterable[tuple[Tensor, Tensor | None]]
) -> list[Compared]:
    """Every network in comparison with the first one, on the CPU.

    Args:
        networks: in evaluation mode; images (N, C, H, W) -> logits (N, classes).
        batches: (images, classes); classes are None if they are not known.

    Raises:
        UserError: there are no images, or a network returns NaN or infinity.

    Example:
        >>> network = nn.Linear(4, 3)
        >>> one, = compared([network], [(torch.ones(2, 4), torch.tensor([0, 1]))])
        >>> one.agreement, one.largest_difference
        (1.0, 0.0)
    """
    images, with_classes = 0, False
    same, top1, top5 = (torch.zeros(len(networks), dtype=torch.int64) for _ in range(3))
    difference, largest = torch.zeros(len(networks)), torch.zeros(len(networks))
    number_of_classes = 0
    for inputs, classes in batches:
        logits = torch.stack([network(inputs).float() for network in networks])
        if not logits.isfinite().all():
            raise UserError("A network returns NaN or infinity: its weights or activations are out of range.")
        number_of_classes = logits.shape[2]
        images += len(inputs)
        predicted = logits.argmax(dim=2)
        same += (predicted == predicted[0]).sum(dim=1)
        difference = torch.maximum(difference, (logits - logits[0]).abs().amax(dim=(1, 2)))
        largest = torch.maximum(largest, logits.abs().amax(dim=(1, 2)))
        if classes is not None:
            with_classes = True
            best = logits.topk(min(5, number_of_classes), dim=2).indices == classes[None, :, None]
            top1 += best[:, :, 0].sum(dim=1)
            top5 += best.any(dim=2).sum(dim=1)
    if not images:
        raise UserError("There are no images to compare the networks on.")
    return [
        Compared(
            images=images,
            agreement=int(same[place]) / images,
            largest_difference=float(difference[place]),
            largest_logit=float(largest[place]),
            top1=int(top1[place]) / images if with_classes else None,
            top5=int(top5[place]) / images if with_classes and number_of_classes >= 5 else None,
        )
        for place in range(len(networks))
    ]
