"""Static quantisation to int8 by onnxruntime: 8-bit weights and activations, ranges from calibration images."""

from __future__ import annotations

import platform
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from prunelab.errors import UserError
from prunelab.export.capture import quiet
from prunelab.export.onnx_file import INPUT_NAME, with_metadata

CPUINFO = Path("/proc/cpuinfo")
VNNI = frozenset({"avx512_vnni", "avx_vnni", "avx_vnni_int8"})
"""Flags of x86 processors that add products of 8 bits in 32 bits. Others add pairs in 16 bits, which saturate."""

BATCH = 32


@dataclass(frozen=True)
class Range:
    """Whether weights use 7 bits instead of 8, and why."""

    reduced: bool
    reason: str


def weight_range(setting: bool | Literal["auto"], cpuinfo: Path = CPUINFO) -> Range:
    """The range of the weights for ``deploy.reduce_range``.

    A processor without VNNI multiplies unsigned by signed 8-bit numbers and adds pairs of products in 16 bits. The
    largest pairs exceed 16 bits and saturate; with weights of 7 bits none does.

    Args:
        cpuinfo: the description of the processor, as in Linux's /proc/cpuinfo.

    Example:
        >>> weight_range(True)
        Range(reduced=True, reason='reduce_range=true')
    """
    if setting != "auto":
        return Range(setting, f"reduce_range={str(setting).lower()}")
    if platform.machine().lower() in ("arm64", "aarch64"):
        return Range(False, "ARM processors add products of 8 bits in 32 bits")
    try:
        flags = _flags(cpuinfo.read_text())
    except OSError:
        return Range(True, "the instructions of this processor are not known")
    if found := sorted(flags & VNNI):
        return Range(False, f"this processor has {found[0]}")
    return Range(True, "this processor has no VNNI instructions")


def _flags(cpuinfo: str) -> frozenset[str]:
    lines = [line.partition(":")[2].split() for line in cpuinfo.splitlines() if line.startswith("flags")]
    return frozenset(lines[0]) if lines else frozenset()


def quantised(content: bytes, batches: Iterable[Tensor], reduced: bool, metadata: Mapping[str, Any]) -> bytes:
    """An ONNX file with quantised convolutions and matrix products (QDQ: QuantizeLinear, DequantizeLinear).

    Activations are unsigned with one range per tensor (smallest and largest value), weights signed with one range per
    output channel.

    Args:
        content: the bytes of a float32 ONNX file.
        batches: calibration images (N, C, H, W), normalised.
        reduced: weights of 7 bits, see ``weight_range``.
        metadata: is stored in the file.

    Raises:
        UserError: there are no calibration images.
    """
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Images(CalibrationDataReader):
        def __init__(self) -> None:
            self.inputs: Iterator[Tensor] = (part for batch in batches for part in batch.split(BATCH))
            self.read = 0

        def get_next(self) -> dict[str, Any] | None:
            part = next(self.inputs, None)
            self.read += 0 if part is None else len(part)
            return None if part is None else {INPUT_NAME: part.cpu().numpy()}

    images = Images()
    with tempfile.TemporaryDirectory() as folder, quiet():
        full, prepared, small = (Path(folder) / name for name in ("full.onnx", "prepared.onnx", "int8.onnx"))
        full.write_bytes(content)
        quant_pre_process(str(full), str(prepared), skip_symbolic_shape=True)
        try:
            quantize_static(
                prepared,
                small,
                images,
                quant_format=QuantFormat.QDQ,
                per_channel=True,
                reduce_range=reduced,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
            )
        except ValueError as error:
            if images.read:
                raise
            raise UserError(
                "deploy.precision=int8 needs training images from which the ranges of activations are measured, and "
                "there are none. Check data.root, or give prunelab-deploy a folder with --images."
            ) from error
        return with_metadata(onnx.load(small), metadata)
