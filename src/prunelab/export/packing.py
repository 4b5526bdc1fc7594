"""Weights of one or two bits as bytes: 8 or 4 weights in each, with one scale for each output channel."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from prunelab.errors import UserError
from prunelab.export.header import Entry, Header, unshared

log = logging.getLogger(__name__)

PACKED = "prunelab_packed"
"""Attribute of a network: the bits of each weight that is stored packed, by the weight's name."""

CODES, SCALE = ".codes", ".scale"
"""Endings of the two tensors that stand for a packed weight."""

Packed = dict[str, dict[str, Any]]
"""Name of a weight -> {"bits", "shape"}; the key "packed" of plan.json."""


def packed_state(network: nn.Module) -> tuple[dict[str, Tensor], Packed]:
    """The state of ``network`` as it is stored, and the description of its packed weights.

    A weight that is not a scale times -1, 0 or +1 (any more) is stored as it is, with a warning.
    """
    state = {name: value.contiguous().cpu().clone() for name, value in unshared(network).items()}
    packed: Packed = {}
    for name, bits in getattr(network, PACKED, {}).items():
        if name not in state:
            continue
        pair = pack(state[name], bits)
        if pair is None:
            log.warning(
                "%s has other values than its rounded ones: it is stored as %s.", name, state[name].dtype
            )
            continue
        packed[name] = {"bits": bits, "shape": list(state[name].shape)}
        del state[name]
        state[f"{name}{CODES}"], state[f"{name}{SCALE}"] = pair
    return state, packed


def pack(weight: Tensor, bits: int) -> tuple[Tensor, Tensor] | None:
    """Codes (bytes,) uint8 and scales (outputs,) of a weight; None if other values occur than +-scale (and 0).

    Args:
        weight: (outputs, ...).
        bits: 1: +-scale; 2: also 0.

    Example:
        >>> pack(torch.tensor([[0.5, -0.5, 0.5, -0.5]]), 1)
        (tensor([160], dtype=torch.uint8), tensor([0.5000]))
    """
    scale = weight.flatten(1).abs().amax(1)
    signs = weight.sign() if bits == 2 else torch.where(weight >= 0, 1.0, -1.0).to(weight.dtype)
    if not torch.equal(signs * per_output(scale, weight.ndim), weight):
        return None
    flat = signs.flatten().to(torch.int8).numpy()
    if bits == 1:
        codes = np.packbits(flat > 0)
    else:
        codes = np.zeros(4 * math.ceil(len(flat) / 4), np.uint8)
        codes[: len(flat)] = flat + 1
        codes = (codes.reshape(-1, 4) << np.array([6, 4, 2, 0], np.uint8)).sum(1).astype(np.uint8)
    return torch.from_numpy(codes), scale


def unpack(codes: Tensor, scale: Tensor, bits: int, shape: tuple[int, ...]) -> Tensor:
    """The weight of ``pack``.

    Example:
        >>> unpack(torch.tensor([160], dtype=torch.uint8), torch.tensor([0.5]), 1, (1, 4))
        tensor([[ 0.5000, -0.5000,  0.5000, -0.5000]])
    """
    numbers = codes.numpy()
    if bits == 1:
        signs = 2 * np.unpackbits(numbers).astype(np.int8) - 1
    else:
        signs = ((numbers[:, None] >> np.array([6, 4, 2, 0], np.uint8)) & 3).reshape(-1).astype(np.int8) - 1
    values = torch.from_numpy(signs[: math.prod(shape)].copy()).reshape(shape).to(scale.dtype)
    return values * per_output(scale, len(shape))


def per_output(scale: Tensor, dimensions: int) -> Tensor:
    """(outputs,) -> (outputs, 1, ...): a factor of each filter of a weight with this number of ``dimensions``."""
    return scale.reshape(-1, *[1] * (dimensions - 1))


def checked_packed(raw: Any, header: Header) -> Packed:
    """The key "packed" of plan.json, compared with the tensors of the file. Raises UserError if it does not fit."""
    if not isinstance(raw, dict):
        raise UserError(f"{header.path}: the description of its packed weights is not valid.")
    for name, each in raw.items():
        shape = each.get("shape") if isinstance(each, dict) else None
        codes, scale = header.get(f"{name}{CODES}"), header.get(f"{name}{SCALE}")
        if (
            not isinstance(shape, list)
            or len(shape) < 2
            or any(type(size) is not int or size < 1 for size in shape)
            or (bits := each.get("bits")) not in (1, 2)
            or codes is None
            or scale is None
        ):
            raise UserError(f"{header.path}: the description of the packed weight {name} is not valid.")
        expected = ((math.ceil(math.prod(shape) * bits / 8),), torch.uint8, (shape[0],))
        if (codes.shape, codes.dtype, scale.shape) != expected:
            raise UserError(f"{header.path}: the packed weight {name} has not the size of {tuple(shape)}.")
    return raw


def unpacked_header(header: Header, packed: Packed) -> Header:
    """The header of the same file with weights in place of their codes and scales."""
    hidden = {f"{name}{end}" for name in packed for end in (CODES, SCALE)}
    entries = {name: each for name, each in header.items() if name not in hidden}
    whole = {
        name: Entry(tuple(each["shape"]), header[f"{name}{SCALE}"].dtype) for name, each in packed.items()
    }
    return Header(header.path, {**entries, **whole})


def unpacked(weights: Mapping[str, Tensor], packed: Packed) -> dict[str, Tensor]:
    """The state of the network from the tensors of the file."""
    found = dict(weights)
    for name, each in packed.items():
        codes, scale = found.pop(f"{name}{CODES}"), found.pop(f"{name}{SCALE}")
        found[name] = unpack(codes, scale, each["bits"], tuple(each["shape"]))
    return found
