"""Undoing surgery: the modules and tensors of a network as they were before a plan was applied."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn


class Snapshot:
    """The state of ``model`` at one moment. No tensor is copied: cut tensors are new ones, so the old ones stay valid.

    Values that change in place afterwards (a training step) are not restored.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._modules = [(module, type(module), _contents(module)) for module in model.modules()]
        self._data: list[tuple[Tensor, Tensor]] = [(each, each.data) for each in model.parameters()]
        self._data += [(each, each.data) for each in model.buffers()]

    def restore(self) -> None:
        """Make the model again what it was."""
        for module, kind, contents in self._modules:
            module.__class__ = kind
            vars(module).clear()
            vars(module).update(
                {name: dict(value) if type(value) is dict else value for name, value in contents.items()}
            )
        for tensor, data in self._data:
            tensor.data = data


def _contents(module: nn.Module) -> dict[str, Any]:
    return {name: dict(value) if type(value) is dict else value for name, value in vars(module).items()}
