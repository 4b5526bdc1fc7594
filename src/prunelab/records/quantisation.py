"""The part of a record about the number format of the final network. No torch."""

from __future__ import annotations

from dataclasses import dataclass

from prunelab.records.fields import Fields


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
