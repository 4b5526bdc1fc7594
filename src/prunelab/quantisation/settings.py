"""Precision: the number format of the network that a run makes; the choices of conf/precision."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from prunelab.errors import UserError, nearest

Name = Literal["fp32", "fp16", "bf16", "int8", "ternary", "binary", "xnor"]
Runtime = Literal["onnxruntime", "openvino", "eager"]

LOW_BIT = ("ternary", "binary", "xnor")
"""Precisions of one or two bits, which a network needs training for."""

RUNTIMES: dict[str, tuple[str, ...]] = {
    "fp32": ("eager",),
    "fp16": ("onnxruntime", "openvino", "eager"),
    "bf16": ("eager",),
    "int8": ("onnxruntime", "openvino"),
    **dict.fromkeys(LOW_BIT, ("eager",)),
}
"""The runtimes that compute in each precision; the first one is the default."""


@dataclass(frozen=True)
class Precision:
    """The number format of weights and activations, the last stage of a run before export.

    Args:
        name: "fp32"; "fp16", "bf16": 16 bits; "int8": weights and activations of 8 bits; "ternary", "binary": weights
            of 2 bits or 1 bit; "xnor": weights and inputs of 1 bit.
        runtime: computes the outputs by which the quantised network is judged; None: onnxruntime for fp16 and int8,
            eager (PyTorch) for the others.
        calibration_images: for int8: number of training images from which the ranges of activations are measured.
        reduce_range: for int8 in onnxruntime: weights of 7 bits, so that sums of products do not saturate on processors
            without VNNI instructions; "auto": True where this processor has none.
        agreement: least fraction of the test images that the quantised and the float32 network classify equally.
        epochs: of training with rounded weights and activations (int8, ternary, binary, xnor); 0: none.
        lr: the highest learning rate of this training. All its other settings are those of the recipe's last training.
        exclude: for ternary, binary and xnor: paths of further layers that stay in float32. The first and the last
            layer always do.

    Raises:
        UserError: an invalid value, or a combination that does not exist.

    Example:
        >>> prunelab.Precision("int8", epochs=2).title
        'int8, 2 epochs'
    """

    name: Name = "fp32"
    runtime: Runtime | None = None
    calibration_images: int = 256
    reduce_range: bool | Literal["auto"] = "auto"
    agreement: float = 0.98
    epochs: int = 0
    lr: float = 0.002
    exclude: Sequence[str] = ()

    def __post_init__(self) -> None:
        if self.name not in get_args(Name):
            raise UserError(
                f"precision={self.name} does not exist. {nearest(str(self.name), get_args(Name))}"
            )
        if self.runtime is not None and self.runtime not in RUNTIMES[self.name]:
            raise UserError(
                f"precision.runtime={self.runtime} does not compute in {self.name}. Use "
                f"{' or '.join(RUNTIMES[self.name])}."
            )
        for name, least in (("calibration_images", 1), ("epochs", 0)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise UserError(
                    f"precision.{name} must be a whole number of at least {least}, not {value!r}."
                )
        if not isinstance(self.reduce_range, bool) and self.reduce_range != "auto":
            raise UserError(f"precision.reduce_range must be auto, true or false, not {self.reduce_range!r}.")
        if isinstance(self.agreement, bool) or not 0 <= self.agreement <= 1:
            raise UserError(f"precision.agreement must lie between 0 and 1, not {self.agreement!r}.")
        if not self.lr > 0:
            raise UserError(f"precision.lr must be above 0, not {self.lr!r}.")
        if isinstance(self.exclude, str):
            raise UserError(f"precision.exclude={self.exclude!r} is one word: write a list.")
        if self.epochs and self.name not in ("int8", *LOW_BIT):
            raise UserError(
                f"precision.epochs={self.epochs}: there is no training in {self.name}. Set it to 0."
            )
        object.__setattr__(self, "exclude", tuple(self.exclude))

    @property
    def runs_in(self) -> str:
        """The runtime, by default the first one that computes in this precision."""
        return self.runtime or RUNTIMES[self.name][0]

    @property
    def title(self) -> str:
        """``int8, 2 epochs``; empty for fp32."""
        epochs = f", {self.epochs} epoch{'s' * (self.epochs > 1)}" if self.epochs else ""
        return "" if self.name == "fp32" else f"{self.name}{epochs}"
