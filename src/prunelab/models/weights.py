"""Weights from a file into a network: all of them, or none and a message that says what does not fit."""

from __future__ import annotations

import pickle
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from prunelab.errors import UserError

# Keys under which checkpoints keep the weights.
_WRAPPERS = ("state_dict", "model", "model_state_dict", "net")
# What DDP, LightningModules and torch.compile put before names.
_PREFIXES = ("module.", "backbone.", "model.", "_orig_mod.")
_SHOWN = 3  # names shown of each kind of misfit


def load_weights(model: nn.Module, path: str | Path) -> None:
    """Load a baseline's weights into ``model``, in place.

    Reads ``.safetensors``, and ``.pth``, ``.pt`` or ``.ckpt`` as tensors only: no code in the file is run.
    Weights may lie under a key such as ``state_dict``, and all names may share a prefix such as ``module.``
    or ``backbone.``. Integer buffers (batch norm's step counters, a zero-padded shortcut's channel map) may
    be absent; nothing else.

    Raises:
        UserError: the file is missing or unreadable, or its names or shapes are not the network's. Nothing is
            loaded then.
    """
    path = Path(path)
    given = _without_prefixes(_unwrapped(_read(path), path), model.state_dict().keys())
    misfits = _misfits(model, given)
    if misfits:
        raise UserError(
            f"The weights in {path} do not fit this {type(model).__name__}: {'; '.join(misfits)}. "
            "Nothing was loaded. Is it the same network, with the same classes, input channels and arguments?"
        )
    model.load_state_dict(given, strict=False)  # all that may be absent has been checked


def _read(path: Path) -> Any:
    if not path.is_file():
        raise UserError(f"There is no weight file {path}.")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        if path.suffix in (".pth", ".pt", ".ckpt"):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{path} is damaged, or holds Python objects besides weights, which could run code and are not "
            "loaded. Save the network's state_dict() alone, or convert it to .safetensors."
        ) from error
    except (SafetensorError, RuntimeError, EOFError, OSError) as error:
        raise UserError(f"The weight file {path} cannot be read: {error}") from error
    raise UserError(f"{path} must end in .safetensors, .pth, .pt or .ckpt.")


def _unwrapped(content: Any, path: Path) -> dict[str, Tensor]:
    while isinstance(content, Mapping):
        inner = [content[key] for key in _WRAPPERS if isinstance(content.get(key), Mapping)]
        if not inner:
            break
        content = inner[0]
    if not isinstance(content, Mapping) or not content:
        raise UserError(f"{path} holds no weights by name, but {type(content).__name__}.")
    strangers = [
        str(name)
        for name, value in content.items()
        if not isinstance(name, str) or not isinstance(value, Tensor)
    ]
    if strangers:
        raise UserError(
            f"{path} holds more than weights: {_listed(strangers)}. Save the network's state_dict() alone."
        )
    return dict(content)


def _without_prefixes(given: dict[str, Tensor], expected: Collection[str]) -> dict[str, Tensor]:
    """Take away prefixes that all given names share and that no expected name has."""
    while True:
        shared = [prefix for prefix in _PREFIXES if all(name.startswith(prefix) for name in given)]
        if not shared or any(name.startswith(shared[0]) for name in expected):
            return given
        given = {name.removeprefix(shared[0]): tensor for name, tensor in given.items()}


def _misfits(model: nn.Module, given: Mapping[str, Tensor]) -> list[str]:
    expected = model.state_dict()
    may_be_absent = {name for name, buffer in model.named_buffers() if not buffer.is_floating_point()}
    missing = [name for name in expected if name not in given and name not in may_be_absent]
    unexpected = [name for name in given if name not in expected]
    wrong = [
        f"{name} is {tuple(given[name].shape)}, not {tuple(tensor.shape)}"
        for name, tensor in expected.items()
        if name in given and given[name].shape != tensor.shape
    ]
    kinds = (("missing", missing), ("unexpected", unexpected), ("of wrong shape", wrong))
    return [f"{len(names)} {kind} ({_listed(names)})" for kind, names in kinds if names]


def _listed(names: list[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
