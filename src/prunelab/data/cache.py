"""Decoded images in one safetensors file, so that a folder of images is decoded once and not in every run."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from prunelab.errors import UserError

FORMAT = "prunelab images 1"


def cached(path: Path, key: str, decode: Callable[[], Mapping[str, Tensor]]) -> Mapping[str, Tensor]:
    """The tensors stored in ``path`` under ``key``, or else those of ``decode()``, which are then stored there.

    A cache with another key is out of date and is replaced atomically. Raises UserError if the file is not a cache, or
    if it cannot be written.
    """
    if path.exists():
        stored = _read(path, key)
        if stored is not None:
            return stored
    tensors = decode()
    _write(path, key, tensors)
    return tensors


def _read(path: Path, key: str) -> Mapping[str, Tensor] | None:
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != FORMAT:
                raise UserError(
                    f"{path} is not an image cache and is not overwritten. Choose another data.cache."
                )
            if metadata.get("key") != key:
                return None
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    except (OSError, SafetensorError) as error:
        raise UserError(
            f"Cannot read {path} as an image cache: {error}. Choose another data.cache, or remove the file if it is a "
            "damaged cache."
        ) from error


def _write(path: Path, key: str, tensors: Mapping[str, Tensor]) -> None:
    scratch = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}-", delete=False) as file:
            scratch = Path(file.name)
        save_file(dict(tensors), scratch, metadata={"format": FORMAT, "key": key})
        scratch.replace(path)
    except (OSError, SafetensorError) as error:
        raise UserError(
            f"Cannot write the image cache {path}: {error}. Choose another data.cache, or data.cache=null."
        ) from error
    finally:
        if scratch is not None:
            scratch.unlink(missing_ok=True)
