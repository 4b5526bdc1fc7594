"""Building a network by its name."""

from __future__ import annotations

from typing import Any

from torch import nn

from prunelab.errors import UserError
from prunelab.models.image_size import check_image
from prunelab.models.names import check_has_weights, check_name
from prunelab.models.origin import Origin, create


def build(
    name: str,
    num_classes: int,
    in_chans: int = 3,
    image_size: int | tuple[int, int] | None = None,
    pretrained: bool = False,
    output: str | int | None = None,
    **arguments: Any,
) -> nn.Module:
    """The network ``name`` of timm's registry, which includes those of prunelab (``cifar_resnet20``, ``lenet5``, ...).

    Args:
        name: a timm name, with or without a weights tag (``resnet50``, ``resnet50.a1_in1k``).
        num_classes: width of the classifier, at least 1.
        in_chans: channels of the images; timm adapts the pretrained weights of the first convolution.
        image_size: height and width in pixels (one number for squares). If given, the network is run once on an
            image of this size to check that it accepts it.
        pretrained: start from the weights that timm publishes, which are downloaded once.
        output: for a network that returns several tensors, the name (of an entry or attribute) or index of the scores
            of the classes; the network then returns only these, and the channels of its other outputs can be removed.
        arguments: further arguments of the network's constructor, as JSON values (``shortcut="B"``,
            ``drop_rate=0.1``).

    Returns:
        The network in train mode. Its attribute ``prunelab_origin`` contains what is needed to build it again.

    Raises:
        UserError: an unknown name, impossible arguments, an image size that the network does not accept, or
            pretrained weights that do not exist or cannot be downloaded.

    Example:
        >>> from prunelab.models import build
        >>> network = build("cifar_resnet20", num_classes=10, image_size=32)
        >>> network.prunelab_origin.name
        'cifar_resnet20'
    """
    if num_classes < 1 or in_chans < 1:
        raise UserError(f"{name}: num_classes={num_classes} and in_chans={in_chans} must both be at least 1.")
    check_name(name)
    origin = Origin("timm", name, {"num_classes": num_classes, "in_chans": in_chans, **arguments}, output)
    if pretrained:
        check_has_weights(name)
    try:
        model = create(origin, pretrained)
    except OSError as error:
        raise UserError(
            f"The pretrained weights of {name} could not be downloaded: {error} Download them once on a machine with "
            "a network connection (they are stored in the cache of the Hugging Face hub, HF_HOME), or use "
            "pretrained=false."
        ) from error
    if image_size is not None:
        height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
        check_image(model, name, (in_chans, height, width), num_classes)
    return model
