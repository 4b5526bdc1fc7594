"""The header of a safetensors file: names, number formats and shapes, without the tensors."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from prunelab.errors import UserError
from prunelab.structure.surgery.apply import named_tensors

FORMATS: Mapping[str, torch.dtype] = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8,
    "U8": torch.uint8, "BOOL": torch.bool, "C64": torch.complex64,
}  # fmt: skip
"""Number formats by their names in the file."""


@dataclass(frozen=True)
class Entry:
    """One tensor of the file."""

    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def elements(self) -> int:
        return math.prod(self.shape)


class Header(Mapping[str, Entry]):
    """The tensors of the file ``path`` by name."""

    def __init__(self, path: Path, entries: Mapping[str, Entry]) -> None:
        self.path = path
        self._entries = dict(entries)

    @classmethod
    def read(cls, path: Path) -> Header:
        """Read the header of a file. Raises UserError if it is not a safetensors file, or has an unknown format."""
        try:
            with safe_open(path, framework="pt") as file:
                found = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
                entries = {name: (tuple(each.get_shape()), each.get_dtype()) for name, each in found.items()}
        except (SafetensorError, OSError) as error:
            raise UserError(f"{path} is not a safetensors file: {error}.") from error
        for name, (_, dtype) in entries.items():
            if dtype not in FORMATS:
                raise UserError(f"{path}: the number format {dtype} of {name} is not supported.")
        return cls(path, {name: Entry(shape, FORMATS[dtype]) for name, (shape, dtype) in entries.items()})

    def __getitem__(self, name: str) -> Entry:
        return self._entries[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def require_fit(self, network: nn.Module) -> None:
        """Check that the file holds the state of ``network``: the same names, shapes and kinds of numbers.

        Raises:
            UserError: names the first tensor that does not fit.
        """
        expected = unshared(network)
        missing, unexpected = sorted(set(expected) - set(self)), sorted(set(self) - set(expected))
        wrong = [name for name in expected if name in self and expected[name].shape != self[name].shape]
        if missing or unexpected or wrong:
            example = (missing or unexpected or wrong)[0]
            raise UserError(
                f"{self.path} does not fit the network: {len(missing)} tensors are missing, {len(unexpected)} unknown "
                f"and {len(wrong)} of another shape (first: {example})."
            )
        for name, tensor in expected.items():
            if not same_kind(self[name].dtype, tensor.dtype):
                raise UserError(
                    f"{self.path} does not fit the network: {name} holds {_text(self[name].dtype)}, the network's is "
                    f"{_text(tensor.dtype)}."
                )


def same_kind(stored: torch.dtype, wanted: torch.dtype) -> bool:
    """Whether values of the format ``stored`` may be used for ``wanted``: equal, or both floating point."""
    return stored == wanted or (stored.is_floating_point and wanted.is_floating_point)


def unshared(model: nn.Module) -> dict[str, Tensor]:
    """The state of ``model`` with every shared tensor once, under its first name.

    Raises:
        UserError: a module has extra state that is not a tensor.
    """
    seen: set[int] = set()
    state: dict[str, Tensor] = {}
    tensors = named_tensors(model)
    for name, value in model.state_dict().items():
        if not isinstance(value, Tensor):
            raise UserError(
                f"{name} of the network's state is not a tensor ({type(value).__name__}); it cannot be saved."
            )
        key = id(tensors.get(name, value))
        if key not in seen:
            seen.add(key)
            state[name] = value.detach()
    return state


def _text(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
