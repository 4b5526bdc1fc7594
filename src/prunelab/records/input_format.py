"""The input and the output of an image classifier, as plain data that is saved with a network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from prunelab.records.fields import Fields, RecordError


@dataclass(frozen=True)
class InputFormat:
    """The conversion of an image to the input of a network, and the names of the network's outputs.

    The network expects images (N, C, H, W) with values ``(x - mean) / std``, where x is in [0, 1]. For testing, an
    image is resized so that its shorter side has ``resize`` pixels (both sides if ``keep_aspect`` is false), and its
    centre of H x W pixels is cut out. With torchvision::

        form = prunelab.load(folder).prunelab_input
        transform = v2.Compose([
            v2.Resize(form.resize), v2.CenterCrop(form.image_shape[1:]), v2.ToImage(),
            v2.ToDtype(torch.float32, scale=True), v2.Normalize(form.mean, form.std),
        ])

    Attributes:
        image_shape: (C, H, W).
        mean, std: one value for each channel.
        resize: pixels.
        keep_aspect: whether resizing keeps the aspect ratio.
        classes: the name of each output, in the order of the outputs.
    """

    image_shape: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    resize: int
    keep_aspect: bool
    classes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {
            name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> InputFormat:
        """The inverse of ``to_dict``. Raises RecordError if a field is missing or of another type."""
        fields = Fields(values)
        shape = _numbers(values, "image_shape")
        if len(shape) != 3 or not all(isinstance(side, int) and side > 0 for side in shape):
            raise RecordError(f"image_shape should be three whole numbers above 0, found {shape!r}")
        return cls(
            image_shape=(int(shape[0]), int(shape[1]), int(shape[2])),
            mean=tuple(map(float, _numbers(values, "mean"))),
            std=tuple(map(float, _numbers(values, "std"))),
            resize=fields.integer("resize"),
            keep_aspect=fields.flag("keep_aspect"),
            classes=fields.texts("classes"),
        )


def _numbers(values: Mapping[str, Any], name: str) -> list[int | float]:
    found = values.get(name)
    if not isinstance(found, list) or not all(
        isinstance(each, int | float) and not isinstance(each, bool) for each in found
    ):
        raise RecordError(f"{name} should be a list of numbers, found {found!r}")
    return found
