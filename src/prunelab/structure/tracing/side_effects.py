"""A run leaves no trace on the network: flags, caches and whatever its modules note down are put back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

_OF_EVERY_MODULE = frozenset(vars(nn.Module()))


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode inside; after, every attribute of every module is what it was before.

    Networks note things down when they run (anchors for this size of image, attention biases computed once): what a
    run on the meta device noted must not stay, and what was noted before must not be taken for a constant.
    """
    noted = [(module, _attributes(module), _contents(module)) for module in model.modules()]
    training = [module for module in model.modules() if module.training]
    try:
        forget_caches(model)
        for module in model.modules():
            module.training = False
        yield
    finally:
        for module, attributes, contents in noted:
            for name in _attributes(module).keys() - attributes.keys():
                delattr(module, name)
            module.__dict__.update(attributes)
            for container, content in contents:
                _refill(container, content)
        for module in training:
            module.training = True


def forget_caches(model: nn.Module) -> None:
    """Let modules forget what they computed from their weights and kept for further calls in evaluation mode.

    They do so by themselves when training begins (LeViT's attention biases, one tensor for each device).
    """
    training = [(module, module.training) for module in model.modules()]
    for module, _ in training:
        if any(_is_cache(value) for value in vars(module).values()):
            module.train()
    for module, flag in training:
        module.training = flag


def _is_cache(value: Any) -> bool:
    return type(value) is dict and bool(value) and all(isinstance(kept, Tensor) for kept in value.values())


def _attributes(module: nn.Module) -> dict[str, Any]:
    """What a module keeps beside what every module has."""
    return {name: value for name, value in vars(module).items() if name not in _OF_EVERY_MODULE}


def _contents(module: nn.Module) -> list[tuple[Any, Any]]:
    """The containers among a module's attributes, each with a copy."""
    values = _attributes(module).values()
    return [(value, value.copy()) for value in values if isinstance(value, dict | list | set)]


def _refill(container: Any, content: Any) -> None:
    """Put back into ``container`` what it held."""
    container.clear()
    container.extend(content) if isinstance(container, list) else container.update(content)
