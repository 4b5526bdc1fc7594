"""How a network was made, as plain data: what a saved pruned network needs to be made again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

import timm
from torch import nn

from prunelab.errors import UserError, nearest
from prunelab.models.names import check_name

BUILDERS = frozenset({"timm"})

# Arguments of timm that fetch weights or read files. An origin describes a network's shape alone.
_WEIGHT_SOURCES = frozenset(
    {
        "pretrained",
        "pretrained_cfg",
        "pretrained_cfg_overlay",
        "pretrained_model_args",
        "checkpoint_path",
        "cache_dir",
    }
)

# What constructors raise when an argument makes no sense to them; not OSError, which means no network.
_REFUSALS = (
    TypeError,
    ValueError,
    RuntimeError,
    AssertionError,
    LookupError,
    AttributeError,
    ArithmeticError,
)


@dataclass(frozen=True)
class Origin:
    """The call that makes a network: ``builder``'s ``name`` with ``arguments`` (JSON values).

    An origin may come from a file that somebody else wrote. So it can only say what is allowed here: a known
    builder, a name of timm's registry, and arguments that neither fetch nor read anything.

    Raises:
        UserError: a builder, name or argument that is not allowed, or an argument that JSON cannot hold.
    """

    builder: str
    name: str
    arguments: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not isinstance(self.builder, str) or self.builder not in BUILDERS:
            raise UserError(
                f"No builder of networks is called {self.builder!r}. {nearest(str(self.builder), BUILDERS)}"
            )
        check_name(self.name)
        object.__setattr__(self, "arguments", _checked_arguments(self.name, self.arguments))

    def build(self) -> nn.Module:
        """The network with fresh weights and this origin as its ``prunelab_origin``; downloads nothing."""
        return create(self, pretrained=False)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {"builder": self.builder, "name": self.name, "arguments": deepcopy(dict(self.arguments))}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Origin:
        """The inverse of ``to_dict``; missing or unknown keys are a UserError."""
        if not isinstance(data, Mapping) or set(data) != {"builder", "name", "arguments"}:
            raise UserError(f"An origin has exactly the keys builder, name and arguments, unlike {data!r}.")
        return cls(**data)


def create(origin: Origin, pretrained: bool) -> nn.Module:
    """The network that ``origin`` describes, with its published weights if asked.

    Raises:
        UserError: the network cannot be built with these arguments.
        OSError: the weights cannot be fetched.
    """
    arguments = deepcopy(dict(origin.arguments))  # networks may keep or change what they are given
    try:
        model: Any = timm.create_model(origin.name, pretrained=pretrained, **arguments)
    except _REFUSALS as error:
        listed = ", ".join(f"{key}={value!r}" for key, value in arguments.items())
        reason = f"{error} is not known" if isinstance(error, KeyError) else error
        raise UserError(f"{origin.name} cannot be built with {listed}: {reason}.") from error
    model.prunelab_origin = origin
    network: nn.Module = model
    return network


def _checked_arguments(name: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    if not isinstance(arguments, Mapping):
        raise UserError(f"The arguments of {name} must be names with values, not {arguments!r}.")
    sources = sorted(_WEIGHT_SOURCES & set(arguments))
    if sources:
        raise UserError(
            f"{', '.join(sources)} cannot be among the arguments of {name}: it says where weights come from, "
            "not how the network is built. Ask for pretrained weights, or load a weight file after building."
        )
    try:
        plain: dict[str, Any] = json.loads(json.dumps(dict(arguments)))
    except (TypeError, ValueError) as error:
        raise UserError(
            f"The arguments of {name} must be numbers, strings, booleans, lists or mappings, so that a "
            f"file can hold them: {error}."
        ) from error
    return plain
