"""The part of a record about the number format of the final network. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from prunelab.records.fields import Fields

_TRAINED = ("epochs", "lr", "exclude", "agreement")

USED_SETTINGS: Mapping[str, tuple[str, ...]] = {
    "fp32": (),
    "fp16": ("runtime", "agreement"),
    "bf16": ("runtime", "agreement"),
    "int8": ("runtime", "calibration_images", "reduce_range", "agreement", "epochs", "lr"),
    "ternary": _TRAINED,
    "binary": _TRAINED,
    "xnor": (*_TRAINED, "calibration_images"),
}
"""The settings of conf/precision that each number format uses, besides its name."""


def used_settings(precision: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a resolved ``precision`` without those that its number format does not use.

    Unknown names, also of settings, stay: they are reported when the object is made.

    Example:
        >>> used_settings({"name": "fp16", "agreement": 0.9, "epochs": 2})
        {'name': 'fp16', 'agreement': 0.9}
    """
    known = {name for names in USED_SETTINGS.values() for name in names}
    used = USED_SETTINGS.get(str(precision.get("name")), known)
    return {name: value for name, value in precision.items() if name in used or name not in known}


@dataclass(frozen=True)
class QuantisationSummary:
    """How the final network was quantised, and how it was checked.

    Attributes:
        precision: "fp16", "bf16", "int8", "ternary", "binary" or "xnor".
        runtime: computed the outputs that were compared.
        agreement: fraction of the checked images that the quantised network and the float32 network before it classify
            equally.
        without_training: the same fraction without the training in this precision; None if there was no such training.
        least_agreement: the setting ``precision.agreement``.
        images: number of test images that were compared.
        notes: how the weights were quantised, and what the file is good for.
        warnings: what a user has to know before the network is used; empty if nothing.
    """

    precision: str
    runtime: str
    agreement: float
    without_training: float | None
    least_agreement: float
    images: int
    notes: tuple[str, ...]
    warnings: tuple[str, ...]

    @classmethod
    def from_fields(cls, fields: Fields) -> QuantisationSummary:
        return cls(
            precision=fields.text("precision"),
            runtime=fields.text("runtime"),
            agreement=fields.fraction("agreement"),
            without_training=fields.fraction_or_none("without_training"),
            least_agreement=fields.fraction("least_agreement"),
            images=fields.integer("images"),
            notes=fields.texts("notes"),
            warnings=fields.texts("warnings"),
        )

    def __str__(self) -> str:
        before = (
            f" ({self.without_training:.2%} without training)" if self.without_training is not None else ""
        )
        return (
            f"{self.precision} in {self.runtime}: the class of float32 for {self.agreement:.2%}{before} of "
            f"{self.images} test images"
        )
