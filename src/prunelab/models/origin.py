"""The call that built a network, as plain data, so that a saved pruned network can be built again."""

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
from prunelab.models.output import ChosenOutput

BUILDERS = frozenset({"timm"})

# Arguments of timm that download weights or read files. An origin describes only the shape of a network.
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

# Exceptions of constructors for wrong arguments; not OSError, which means a failed download.
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
    """The call that builds a network: ``name`` of ``builder`` with ``arguments`` (JSON values).

    ``output``: the name or index of the one output that the network returns; None: it returns all.

    An origin may come from an untrusted file. Therefore only a known builder, a name of timm's registry,
    and arguments that neither download nor read anything are allowed.

    Raises:
        UserError: a builder, name or argument that is not allowed, or an argument that is not a JSON value.
    """

    builder: str
    name: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    output: str | int | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.builder, str) or self.builder not in BUILDERS:
            raise UserError(
                f"There is no builder of networks {self.builder!r}. {nearest(str(self.builder), BUILDERS)}"
            )
        check_name(self.name)
        if self.output is not None and (
            isinstance(self.output, bool) or not isinstance(self.output, str | int)
        ):
            raise UserError(f"model.output={self.output!r} is neither a name nor an index of an output.")
        object.__setattr__(self, "arguments", _checked_arguments(self.name, self.arguments))

    def build(self) -> nn.Module:
        """The network with random weights and this origin as its ``prunelab_origin``; downloads nothing."""
        return create(self, pretrained=False)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        plain = {"builder": self.builder, "name": self.name, "arguments": deepcopy(dict(self.arguments))}
        return plain if self.output is None else {**plain, "output": self.output}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Origin:
        """The inverse of ``to_dict``; raises UserError for missing or unknown keys."""
        if not isinstance(data, Mapping) or set(data) - {"output"} != {"builder", "name", "arguments"}:
            raise UserError(
                f"An origin must have the keys builder, name and arguments, and may have output, not {data!r}."
            )
        return cls(**data)


def create(origin: Origin, pretrained: bool) -> nn.Module:
    """The network that ``origin`` describes, with its published weights if ``pretrained`` is true.

    Raises:
        UserError: the network cannot be built with these arguments.
        OSError: the weights cannot be downloaded.
    """
    arguments = deepcopy(dict(origin.arguments))  # constructors may store or change their arguments
    try:
        model: Any = timm.create_model(origin.name, pretrained=pretrained, **arguments)
    except _REFUSALS as error:
        listed = ", ".join(f"{key}={value!r}" for key, value in arguments.items())
        reason = f"{error} is unknown" if isinstance(error, KeyError) else error
        raise UserError(f"{origin.name} cannot be built with {listed}: {reason}.") from error
    model.prunelab_origin = origin
    network: nn.Module = model
    if origin.output is not None:
        network.register_forward_hook(ChosenOutput(origin.output))
    return network


def _checked_arguments(name: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    if not isinstance(arguments, Mapping):
        raise UserError(f"The arguments of {name} must be a mapping of names to values, not {arguments!r}.")
    sources = sorted(_WEIGHT_SOURCES & set(arguments))
    if sources:
        raise UserError(
            f"{', '.join(sources)} is not allowed among the arguments of {name}: it selects weights, not the shape of "
            "the network. Use pretrained=true, or load a weight file after building."
        )
    try:
        plain: dict[str, Any] = json.loads(json.dumps(dict(arguments)))
    except (TypeError, ValueError) as error:
        raise UserError(
            f"The arguments of {name} must be JSON values (numbers, strings, booleans, lists or mappings): {error}."
        ) from error
    return plain
