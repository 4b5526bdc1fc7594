"""Checks whether a network accepts images of a given size, by a run on the meta device, which computes no values."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from prunelab.errors import UserError

# Sides that are tried in this order if a network does not accept a size, to suggest one that it accepts.
_SIDES = (8, 16, 24, 28, 32, 48, 64, 96, 128, 160, 192, 224, 256, 288, 320, 384, 448, 512)

_REFUSALS = (RuntimeError, ValueError, AssertionError, LookupError, ArithmeticError)


def check_image(model: nn.Module, name: str, image: tuple[int, int, int], num_classes: int) -> None:
    """Run one image of shape ``image`` (channels, height, width) through ``model`` in eval mode.

    Raises:
        UserError: the network does not accept this size, or its output is not of shape (1, num_classes).
    """
    was_training = model.training
    model.eval()
    try:
        output = _output(model, name, image)
    finally:
        model.train(was_training)
    if not isinstance(output, Tensor) or tuple(output.shape) != (1, num_classes):
        given = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise UserError(
            f"{name} does not classify into {num_classes} classes: its output for one image is {given}, not "
            f"{(1, num_classes)}. Leave out arguments that change its output"
            + (
                ", or choose the output with the scores of the classes: model.output=NAME or INDEX."
                if not isinstance(output, Tensor)
                else "."
            )
        )


def _output(model: nn.Module, name: str, image: tuple[int, int, int]) -> Any:
    try:
        return _dry_run(model, image)
    except _REFUSALS:
        # Some networks cannot run on the meta device; the run on the real device decides.
        try:
            with torch.no_grad():
                return model(torch.zeros(1, *image))
        except _REFUSALS as error:
            raise UserError(_refusal(model, name, image, error)) from error


def _dry_run(model: nn.Module, image: tuple[int, int, int]) -> Any:
    """The output of ``model`` for one image on the meta device: a shape without values."""
    weights = {
        name: tensor.to("meta") for name, tensor in (*model.named_parameters(), *model.named_buffers())
    }
    with torch.no_grad():
        return functional_call(model, weights, (torch.empty(1, *image, device="meta"),))


def _refusal(model: nn.Module, name: str, image: tuple[int, int, int], error: Exception) -> str:
    channels, height, width = image
    reason = str(error).strip().split("\n")[0].rstrip(".")
    message = f"{name} does not accept images of {height}x{width} pixels ({reason})."
    for side in _SIDES:
        if side == height == width:
            continue
        try:
            _dry_run(model, (channels, side, side))
        except _REFUSALS:
            continue
        message += f" It accepts {side}x{side}: use images of that size,"
        break
    else:
        message += " Use images of another size,"
    if getattr(model, "pretrained_cfg", {}).get("fixed_input_size"):
        return message + f" or build it for your size with the argument img_size={min(height, width)}."
    return message + " or a network for small images (cifar_resnet20, ...; model=resnet20)."
