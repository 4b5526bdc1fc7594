"""Evaluation and training mode for a run that leaves the network unchanged.

Flags, caches, attributes and random number generators are restored.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from prunelab.structure.tracing.training_code import same_in_both

_OF_EVERY_MODULE = frozenset(vars(nn.Module()))


@contextmanager
def outside_inference_mode() -> Iterator[None]:
    """Leaves ``torch.inference_mode``: inside it operators cannot be followed, and parameters made in it cannot be
    trained later."""
    with torch.inference_mode(False) if torch.is_inference_mode_enabled() else nullcontext():
        yield


@contextmanager
def without_autocast() -> Iterator[None]:
    """Leaves ``torch.autocast``, whose rounding would look like a difference."""
    with ExitStack() as stack:
        for device in ("cpu", "cuda"):
            if torch.is_autocast_enabled(device):
                stack.enter_context(torch.autocast(device, enabled=False))
        yield


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Evaluation mode inside; afterwards, every attribute of every module has its earlier value.

    Networks store values when they run (anchors for the size of an image, attention biases that are computed once).
    Values stored by a run on the meta device must be removed, and values stored earlier must not be used as constants.
    """
    modules = _modules(model)
    saved = [
        (module, attributes, _contents(attributes))
        for module, attributes in zip(modules, map(_attributes, modules), strict=True)
    ]
    flags = [module.training for module in modules]
    try:
        _forget_caches(modules)
        for module in modules:
            _set_training(module, False)
        with _plain_recurrence(modules):
            yield
    finally:
        for module, attributes, contents in saved:
            for name in _attributes(module).keys() - attributes.keys():
                delattr(module, name)
            module.__dict__.update(attributes)
            for container, content in contents:
                _refill(container, content)
        for module, flag in zip(modules, flags, strict=True):
            _set_training(module, flag)


def _set_training(module: nn.Module, flag: bool) -> None:
    own = vars(module)
    if "training" in own:  # ten times faster than an assignment
        own["training"] = flag
    else:  # a property, or a module of TorchScript
        module.training = flag


@contextmanager
def training_mode(model: nn.Module) -> Iterator[None]:
    """Context in training mode, for branches that evaluation mode does not run; afterwards everything is restored,
    including the states of the random number generators.

    PyTorch's own layers, normalisations and dropout remain in evaluation mode: their effect on channels is the same in
    both modes, and in evaluation mode they update no statistics and accept a batch of one image.
    """
    with evaluation_mode(model), same_random_numbers():
        for module in model.modules():
            module.training = not same_in_both(module)
        yield


@contextmanager
def same_random_numbers() -> Iterator[None]:
    """Afterwards, Python, numpy and PyTorch continue with the random numbers that they would have drawn here."""
    python, legacy = random.getstate(), np.random.get_state()  # noqa: NPY002 (networks use it)
    try:
        with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(legacy)  # noqa: NPY002


@contextmanager
def _plain_recurrence(modules: list[nn.Module]) -> Iterator[None]:
    """Context in which recurrent layers run as on the meta device: as matrix products and pointwise operators, not as
    one operator of oneDNN or cuDNN."""
    if not any(isinstance(module, nn.RNNBase) for module in modules):
        yield
        return
    backends = torch.backends.mkldnn, torch.backends.cudnn
    enabled = [backend.set_flags(_enabled=False)[0] for backend in backends]
    try:
        yield
    finally:
        for backend, before in zip(backends, enabled, strict=True):
            backend.set_flags(_enabled=before)


def forget_caches(model: nn.Module) -> None:
    """Clear what modules have computed from their weights and stored for further calls in evaluation mode.

    Modules clear such caches themselves when training mode begins (LeViT's attention biases, one tensor per device).
    """
    _forget_caches(_modules(model))


def _forget_caches(modules: list[nn.Module]) -> None:
    caching = [module for module in modules if any(map(_is_cache, vars(module).values()))]
    if not caching:
        return
    flags = [module.training for module in modules]
    for module in caching:
        module.train()
    for module, flag in zip(modules, flags, strict=True):
        module.training = flag


def _modules(model: nn.Module) -> list[nn.Module]:
    """``model.modules()`` in any order, without its generators, which pass each module through all levels."""
    found: dict[int, nn.Module] = {}
    pending: list[nn.Module | None] = [model]
    while pending:
        module = pending.pop()
        if module is not None and id(module) not in found:
            found[id(module)] = module
            pending.extend(module._modules.values())
    return list(found.values())


def has_tensor_attributes(model: nn.Module) -> bool:
    """Whether a module has tensors that are plain attributes, such as anchors of an earlier call."""
    return any(_has_tensors(value) for module in model.modules() for value in _attributes(module).values())


def attributes_on_meta(model: nn.Module) -> None:
    """Replace tensors that are plain attributes of modules by ones on the meta device. ``evaluation_mode`` around it
    restores them."""
    for module in model.modules():
        for name, value in _attributes(module).items():
            if _has_tensors(value):
                vars(module)[name] = tree_map(_on_meta, value)


def _has_tensors(value: Any) -> bool:
    leaves = tree_leaves(value) if isinstance(value, Tensor | list | tuple | dict) else ()
    return any(type(leaf) is Tensor for leaf in leaves)


def _on_meta(value: Any) -> Any:
    return value.detach().to("meta") if type(value) is Tensor else value


def _is_cache(value: Any) -> bool:
    return type(value) is dict and bool(value) and all(isinstance(kept, Tensor) for kept in value.values())


def _attributes(module: nn.Module) -> dict[str, Any]:
    """The attributes of a module other than those that every module has."""
    return {name: value for name, value in vars(module).items() if name not in _OF_EVERY_MODULE}


def _contents(attributes: Mapping[str, Any]) -> list[tuple[Any, Any]]:
    """The containers among a module's attributes, each with a copy."""
    return [(value, value.copy()) for value in attributes.values() if isinstance(value, dict | list | set)]


def _refill(container: Any, content: Any) -> None:
    """Restore the content of ``container``."""
    container.clear()
    container.extend(content) if isinstance(container, list) else container.update(content)
