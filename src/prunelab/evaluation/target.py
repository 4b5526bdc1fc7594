"""Target: the machine and runtime on which the latency of a network is measured."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, get_args

import torch

from prunelab.errors import UserError, nearest
from prunelab.export.deploy import missing_packages

Runtime = Literal["eager", "compiled", "onnxruntime"]
Precision = Literal["fp32", "fp16", "bf16", "int8"]

PRECISIONS: Mapping[str, tuple[str, ...]] = {
    "onnxruntime": ("fp32", "fp16", "int8"),
    "eager": ("fp32", "fp16", "bf16"),
    "compiled": ("fp32", "fp16", "bf16"),
}
"""The precisions in which each runtime is timed."""


@dataclass(frozen=True)
class Target:
    """The device, runtime and settings for which a latency is measured.

    Args:
        device: "cpu", "cuda" or "mps", as torch names devices.
        runtime: "onnxruntime", "eager" (PyTorch, operator by operator) or "compiled" (``torch.compile``).
        precision: "fp32" or "fp16"; "int8" for onnxruntime; "bf16" for eager and compiled.
        batch_size: images in one forward pass.
        threads: processor threads of the runtime.
        tables: folder in which latency tables are stored and shared between runs; None: they are not stored.

    Raises:
        UserError: an unknown word, a number below 1, or a combination that does not exist.

    Example:
        >>> str(prunelab.Target(runtime="eager", batch_size=8))
        'eager on cpu, fp32, batch 8, 1 thread'
    """

    device: str = "cpu"
    runtime: Runtime = "onnxruntime"
    precision: Precision = "fp32"
    batch_size: int = 1
    threads: int = 1
    tables: str | None = None

    def __post_init__(self) -> None:
        _require_one_of("runtime", self.runtime, get_args(Runtime))
        _require_one_of("precision", self.precision, get_args(Precision))
        for name in ("batch_size", "threads"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise UserError(f"budget.target.{name}={value}: use a whole number, at least 1.")
        try:
            kind = torch.device(self.device).type
        except RuntimeError:
            raise UserError(
                f"budget.target.device={self.device} is not a device: use cpu, cuda or mps."
            ) from None
        if self.runtime == "onnxruntime" and kind != "cpu":
            raise UserError(
                f"budget.target.runtime=onnxruntime is measured on cpu, not on {self.device}. Set "
                "budget.target.runtime=eager or compiled."
            )
        if self.precision not in PRECISIONS[self.runtime]:
            others = [name for name, known in PRECISIONS.items() if self.precision in known]
            raise UserError(
                f"budget.target.runtime={self.runtime} is not measured in {self.precision}. Set "
                f"budget.target.precision to {' or '.join(PRECISIONS[self.runtime])}, or budget.target.runtime="
                f"{' or '.join(others)}."
            )

    @property
    def divisor(self) -> int:
        """The multiple of which widths should be: kernels process channels in vectors of at least 8, in int8 of 16."""
        return 16 if self.precision == "int8" else 8

    def require_available(self) -> None:
        """Check that this machine has the device and the runtime.

        Raises:
            UserError: names what is missing, and the extra that contains it.
        """
        if self.runtime == "onnxruntime" and (missing := missing_packages()):
            raise UserError(
                f"budget.target.runtime=onnxruntime needs {', '.join(missing)}: pip install 'prunelab[deploy]', or "
                "set budget.target.runtime=eager."
            )
        self.require_device()

    def require_device(self) -> None:
        """Check that this machine has the device. Raises UserError."""
        device = torch.device(self.device)
        there = {
            "cpu": 1,
            "cuda": torch.cuda.device_count() if torch.cuda.is_available() else 0,
            "mps": int(torch.backends.mps.is_available()),
        }
        number = there.get(device.type, 0)
        if (device.index or 0) >= number:
            what = f"only {number} of them" if number else "no such device"
            raise UserError(
                f"budget.target.device={self.device}: this machine has {what}. Latencies are measured on the machine "
                "that prunes; set budget.target.device=cpu or start the run on the target."
            )

    def settings(self) -> dict[str, Any]:
        """All settings that change a latency, as plain data."""
        return {name: value for name, value in asdict(self).items() if name != "tables"}

    def machine(self) -> dict[str, str]:
        """The processor (or GPU) and the versions on which a latency depends."""
        kind = torch.device(self.device).type
        chip = torch.cuda.get_device_name(torch.device(self.device)) if kind == "cuda" else processor()
        package = "onnxruntime" if self.runtime == "onnxruntime" else "torch"
        return {
            "system": f"{platform.system()} {platform.machine()}",
            "chip": chip,
            "instructions": torch.backends.cpu.get_cpu_capability(),
            package: version(package),
        }

    def __str__(self) -> str:
        threads = "1 thread" if self.threads == 1 else f"{self.threads} threads"
        return f"{self.runtime} on {self.device}, {self.precision}, batch {self.batch_size}, {threads}"


def processor() -> str:
    """The product name of the processor, from /proc/cpuinfo if it exists."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _require_one_of(name: str, value: object, known: Sequence[str]) -> None:
    if value not in known:
        raise UserError(f"budget.target.{name}={value}: no such {name}. {nearest(str(value), known)}")
