"""The description of a network that timm requires: input, classes, names of the first and the last layer."""

from __future__ import annotations

from typing import Any


def default_cfg(
    first_conv: str,
    classifier: str,
    input_size: tuple[int, int, int] = (3, 32, 32),
    num_classes: int = 10,
    crop_pct: float = 1.0,
) -> dict[str, Any]:
    """A timm config without weights; ``input_size`` is (channels, height, width)."""
    return {
        "input_size": input_size,
        "num_classes": num_classes,
        "first_conv": first_conv,
        "classifier": classifier,
        "crop_pct": crop_pct,
    }
