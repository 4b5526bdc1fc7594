"""Deploy: in which form a pruned network is shipped; the choices of conf/deploy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from typing import Any, Literal, get_args

from prunelab.errors import UserError, nearest

Format = Literal["none", "onnx", "openvino", "pt2", "torchscript"]
Precision = Literal["fp32", "fp16", "bf16", "int8"]

PACKAGES = ("onnx", "onnxruntime", "onnxscript")
"""The packages of the extra ``deploy``."""

PACKAGES_OF_OPENVINO = ("onnx", "onnxscript", "openvino", "nncf")
"""The packages that ``deploy=openvino`` uses; all of them are in the extra ``openvino``."""

RUNTIMES: Mapping[str, str] = {
    "onnx": "onnxruntime", "openvino": "openvino", "pt2": "torch.export", "torchscript": "torchscript",
}  # fmt: skip
FILES: Mapping[str, str] = {
    "onnx": "model.onnx", "openvino": "model.xml", "pt2": "model.pt2", "torchscript": "model.pt",
}  # fmt: skip
INT8_FILES: Mapping[str, str] = {"onnx": "model_int8.onnx", "openvino": "model_int8.xml"}

OLDEST_OPSET = 18
"""The oldest operator set that torch's exporter writes."""


def missing_packages(names: Sequence[str] = PACKAGES) -> list[str]:
    """The packages that are not installed; by default of those in the extra ``deploy``."""
    return [name for name in names if find_spec(name) is None]


@dataclass(frozen=True)
class Deploy:
    """The file that is made from a pruned network, and how it is checked.

    Args:
        format: "none", "onnx" (runs in onnxruntime), "openvino", "pt2" (a program of ``torch.export``) or
            "torchscript".
        precision: "fp32"; "fp16", "bf16": weights and activations of 16 bits, if the runtime has kernels for them;
            "int8": quantised by onnxruntime for "onnx", by NNCF for "openvino".
        opset: version of ONNX's operators, at least 18; None: the exporter's choice.
        calibration_images: for int8: number of training images from which the ranges of activations are measured.
        reduce_range: for int8: weights of 7 bits, so that sums of products do not saturate on processors without VNNI
            instructions; "auto": True where this processor has none.
        agreement: least fraction of the test images that the shipped and the float32 network classify equally.
        test_images: at most this many test images are used for the check; None: all.
        threads: processor threads for the measured times.

    Raises:
        UserError: an invalid value, or a combination that does not exist.

    Example:
        >>> prunelab.Deploy(format="onnx", precision="int8").files
        ('model.onnx', 'model_int8.onnx')
    """

    format: Format = "none"
    precision: Precision = "fp32"
    opset: int | None = None
    calibration_images: int = 256
    reduce_range: bool | Literal["auto"] = "auto"
    agreement: float = 0.98
    test_images: int | None = None
    threads: int = 1

    def __post_init__(self) -> None:
        for name, known in (("format", get_args(Format)), ("precision", get_args(Precision))):
            if (value := getattr(self, name)) not in known:
                raise UserError(f"deploy.{name}={value} does not exist. {nearest(str(value), known)}")
        for name in ("calibration_images", "threads", "test_images"):
            value = getattr(self, name)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
                raise UserError(f"deploy.{name} must be a whole number of at least 1, not {value!r}.")
        if not isinstance(self.reduce_range, bool) and self.reduce_range != "auto":
            raise UserError(f"deploy.reduce_range must be auto, true or false, not {self.reduce_range!r}.")
        if isinstance(self.agreement, bool) or not 0 <= self.agreement <= 1:
            raise UserError(f"deploy.agreement must lie between 0 and 1, not {self.agreement!r}.")
        if self.opset is not None and self.opset < OLDEST_OPSET:
            raise UserError(
                f"deploy.opset={self.opset} is too old: torch's exporter writes version {OLDEST_OPSET} or later. Leave "
                "deploy.opset out."
            )
        if self.precision == "int8" and self.format not in (*INT8_FILES, "none"):
            raise UserError(
                f"deploy.precision=int8 does not exist for deploy={self.format}: onnxruntime or OpenVINO quantise and "
                "run the network. Use deploy=onnx_int8 or deploy=openvino_int8."
            )
        if self.precision == "bf16" and self.format == "openvino":
            raise UserError(
                "deploy.precision=bf16 does not exist for deploy=openvino. Use fp16, or deploy=pt2."
            )

    @property
    def files(self) -> tuple[str, ...]:
        """The names of the files with the network; the last one is the file that is shipped."""
        if self.format == "none":
            return ()
        quantised = (INT8_FILES[self.format],) if self.precision == "int8" else ()
        return (FILES[self.format], *quantised)

    @property
    def runtime(self) -> str:
        """The runtime that executes the file: "onnxruntime", "openvino", "torch.export" or "torchscript"."""
        return RUNTIMES[self.format]

    def require_packages(self) -> None:
        """Check that the packages of the format are installed.

        Raises:
            UserError: names the packages that are missing, and the extra that contains them.
        """
        if self.format == "onnx" and (missing := missing_packages()):
            raise UserError(
                f"deploy=onnx needs {', '.join(missing)}: pip install 'prunelab[deploy]'. deploy=pt2 needs torch only."
            )
        if self.format == "openvino" and (missing := missing_packages(PACKAGES_OF_OPENVINO)):
            raise UserError(
                f"deploy=openvino needs {', '.join(missing)}: pip install 'prunelab[openvino]'. deploy=onnx runs in "
                "onnxruntime."
            )

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self)
