"""Loading weights from a file into a network: all of them, or none with an error that lists the mismatches."""

from __future__ import annotations

import argparse
import pickle
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from prunelab.errors import UserError
from prunelab.models.state import load_state

_PICKLES = (".pth", ".pt", ".ckpt", ".bin", ".th", ".tar")
# Keys under which checkpoints store the weights.
_WRAPPERS = ("state_dict", "model", "model_state_dict", "net")
_SHOWN = 3  # number of names that are listed of each kind of mismatch


def load_weights(model: nn.Module, path: str | Path) -> None:
    """Load the weights of a baseline into ``model``, in place.

    Reads ``.safetensors`` files and checkpoints of PyTorch (``.pth``, ``.pt``, ``.ckpt``, ``.bin``, ``.th``,
    ``.pth.tar``), timm's and torchvision's included; no code in a file is run. The weights may be stored under a key
    such as ``state_dict`` (of timm's checkpoints the averaged weights, ``state_dict_ema``, are not used), and all names
    may have a prefix such as ``module.`` or ``net.``. Integer buffers (step counters of batch normalisation, the
    channel map of a zero-padded shortcut) may be absent.

    Raises:
        UserError: the file is missing or unreadable, or its names, shapes or number formats are not those of the
            network. Then nothing is loaded.
    """
    path = Path(path)
    given = _without_prefixes(_unwrapped(_read(path), path), model.state_dict().keys())
    misfits = _misfits(model, given)
    if misfits:
        raise UserError(
            f"The weights in {path} do not fit this {type(model).__name__}: {'; '.join(misfits)}. Nothing was loaded. "
            "The network must have the same architecture, classes, input channels and arguments."
        )
    load_state(model, given, strict=False)  # _misfits has checked what may be absent


def _read(path: Path) -> Any:
    if not path.is_file():
        raise UserError(f"There is no weight file {path}.")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        if path.suffix in _PICKLES:
            # In checkpoints of timm and torchvision. It only has attributes; restoring it runs no code.
            with torch.serialization.safe_globals([argparse.Namespace]):
                return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        found = re.search(r"GLOBAL (\S+)", str(error))
        kind = f" ({found[1]})" if found else ""
        raise UserError(
            f"{path} is damaged, or contains Python objects{kind} besides weights. These could run code and are not "
            "loaded. Save only the state_dict() of the network, or convert it to .safetensors."
        ) from error
    except (SafetensorError, RuntimeError, EOFError, OSError) as error:
        raise UserError(f"The weight file {path} cannot be read: {error}") from error
    raise UserError(f"{path} must end in .safetensors or {', '.join(_PICKLES[:-1])} or .pth.tar.")


def _unwrapped(content: Any, path: Path) -> dict[str, Tensor]:
    while isinstance(content, Mapping):
        inner = [content[key] for key in _WRAPPERS if isinstance(content.get(key), Mapping)]
        inner = inner or [each for each in content.values() if _has_only_tensors(each)]
        if not inner:
            break
        if len(inner) > 1 and not any(inner[0] is content.get(key) for key in _WRAPPERS):
            names = [str(name) for name, each in content.items() if _has_only_tensors(each)]
            raise UserError(
                f"{path} contains several sets of weights: {_listed(names)}. Save only one of them."
            )
        content = inner[0]
    if not isinstance(content, Mapping) or not content:
        raise UserError(f"{path} does not contain named weights, but {type(content).__name__}.")
    strangers = [
        str(name)
        for name, value in content.items()
        if not isinstance(name, str) or not isinstance(value, Tensor)
    ]
    if strangers:
        raise UserError(
            f"{path} contains more than weights: {_listed(strangers)}. Save only the state_dict() of the network."
        )
    return dict(content)


def _has_only_tensors(value: Any) -> bool:
    return (
        isinstance(value, Mapping)
        and bool(value)
        and all(isinstance(each, Tensor) for each in value.values())
    )


def _without_prefixes(given: dict[str, Tensor], expected: Collection[str]) -> dict[str, Tensor]:
    """Remove prefixes that all given names have and no expected name has (of DDP, torch.compile, LightningModules)."""
    while True:
        prefix, dot, _ = next(iter(given)).partition(".")
        prefix += dot
        if not dot or not all(name.startswith(prefix) for name in given):
            return given
        if any(name.startswith(prefix) for name in expected):
            return given
        given = {name.removeprefix(prefix): tensor for name, tensor in given.items()}


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
    other_type = [
        f"{name} is {given[name].dtype}, not {tensor.dtype}"
        for name, tensor in expected.items()
        if name in given and given[name].is_floating_point() != tensor.is_floating_point()
    ]
    kinds = (
        ("missing", missing),
        ("unexpected", unexpected),
        ("of wrong shape", wrong),
        ("of wrong type", other_type),
    )
    return [f"{len(names)} {kind} ({_listed(names)})" for kind, names in kinds if names]


def _listed(names: list[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
