"""Top-1 and top-5 accuracy of a network, and its predictions."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.distributed import all_reduce, is_available, is_initialized

from prunelab.errors import UserError
from prunelab.records import Accuracy


@torch.no_grad()
def accuracy(
    model: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    num_classes: int,
    device: torch.device,
    memory_format: torch.memory_format = torch.contiguous_format,
) -> Accuracy:
    """The accuracies of ``model`` over batches of (images (N, C, H, W), classes (N,)), in evaluation mode and float32.

    If several processes share the images, each of them gets the result over all images. Afterwards the network is on
    the CPU, in its original mode, and can be trained further (therefore not in inference mode, whose tensors cannot).

    Raises:
        UserError: the network returns NaN or infinity, from which no prediction can be made.
        ValueError: there are no images.
    """
    was_training = model.training
    model.to(device).to(memory_format=memory_format).eval()
    # Correct, correct among the first five, all, and images whose logits are not finite.
    counts = torch.zeros(4, dtype=torch.int64, device=device)
    for images, classes in batches:
        logits = model(images.to(device, memory_format=memory_format))
        best = logits.topk(min(5, num_classes), dim=1).indices
        hits = best == classes.to(device)[:, None]
        broken = (~logits.isfinite().all(dim=1)).sum()
        counts += torch.stack(
            [hits[:, 0].sum(), hits.sum(), torch.tensor(len(images), device=device), broken]
        )
    if is_available() and is_initialized():
        all_reduce(counts)
    model.to("cpu").train(was_training)
    top1, top5, images_seen, broken_images = counts.tolist()
    if not images_seen:
        raise ValueError("accuracy needs at least one image")
    if broken_images:
        raise UserError(
            f"The network returns NaN or infinity for {broken_images} of {images_seen} images. Its weights are too "
            "large, or its training has diverged: use a smaller learning rate (lr) for it."
        )
    return Accuracy(top1 / images_seen, top5 / images_seen if num_classes >= 5 else None)


@torch.no_grad()
def predicted_classes(
    model: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    device: torch.device,
    memory_format: torch.memory_format = torch.contiguous_format,
) -> tuple[list[int], list[int]]:
    """The class that ``model`` predicts for each image in evaluation mode, and the true class.

    Nothing is shared between processes. Afterwards the network is on the CPU, in its original mode.
    """
    was_training = model.training
    model.to(device).to(memory_format=memory_format).eval()
    predicted: list[int] = []
    true: list[int] = []
    for images, classes in batches:
        predicted += model(images.to(device, memory_format=memory_format)).argmax(dim=1).tolist()
        true += classes.tolist()
    model.to("cpu").train(was_training)
    return predicted, true
