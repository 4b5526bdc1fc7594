"""Lightning adapter: the network, the loaders and the device of a Trainer and a LightningModule of the user.

Classes are recognised by name, so that ``pytorch_lightning`` and ``lightning.pytorch`` behave alike.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any, TypeVar

import torch
from torch import nn
from torch.nn.parameter import is_lazy
from torch.optim.swa_utils import AveragedModel

from prunelab.errors import UserError, nearest

Kind = TypeVar("Kind")
DEPTH = 4
"""Levels of nested dicts and lists in which callbacks are searched for copies of weights."""


def accepted_by_both_packages(kind: type[Kind]) -> type[Kind]:
    """``kind`` as a subclass of the ``Callback`` of ``lightning.pytorch`` too, if that package is in use.

    Trainers of ``pytorch_lightning`` and of ``lightning.pytorch`` accept only subclasses of their own ``Callback``.
    """
    other = sys.modules.get("lightning.pytorch")
    if other is None or issubclass(kind, other.Callback):
        return kind
    return type(kind.__name__, (kind, other.Callback), {"__module__": kind.__module__})


def find_network(module: Any, name: str | None = None) -> nn.Module:
    """The network inside a LightningModule: the submodule ``name``; without a name the module itself if it defines
    ``forward``, else its only child with parameters.

    Raises:
        UserError: there is no such submodule, or it is not clear which one is meant.
    """
    if name is not None:
        modules = dict(module.named_modules())
        if name not in modules:
            raise UserError(
                f"{_class(module)} has no submodule {name!r}. {nearest(name, filter(None, modules))}"
            )
        return modules[name]
    if _defines_forward(module):
        return module
    children = {
        name: child for name, child in module.named_children() if any(True for _ in child.parameters())
    }
    if len(children) == 1:
        return next(iter(children.values()))
    found = f"has {len(children)} ({', '.join(children)})" if children else "has none"
    raise UserError(
        f"Which network of {_class(module)} is to be pruned? It defines no forward, and of submodules with "
        f"parameters it {found}: name one with network=."
    )


def made_network(module: Any, name: str | None = None) -> nn.Module:
    """``find_network``, after ``configure_model`` if the network is made there.

    Callbacks are set up before the Trainer calls ``configure_model``; Lightning requires that it can be called twice.

    Raises:
        UserError: as ``find_network``; the network has lazy layers without weights.
    """
    if not any(True for _ in module.parameters()):
        module.configure_model()
    if not any(True for _ in module.parameters()):
        raise UserError(
            f"{_class(module)} has no parameters when callbacks are set up. Make the network in __init__ or in "
            "configure_model: LightningModule.setup runs after the pruning callback."
        )
    network = find_network(module, name)
    if any(is_lazy(parameter) for parameter in network.parameters()):
        raise UserError(
            f"{_class(network)} has lazy layers without weights. Run the network once on a batch before fit."
        )
    return network


def unpruned_networks(module: Any, network: nn.Module, unused: Collection[str]) -> str:
    """Sentences on the other networks of ``module``, which are not pruned; empty if there are none.

    Args:
        unused: the parameters of ``network`` that its forward pass does not use.
    """
    return _unused_parts(network, unused) + ("" if network is module else _other_parts(module, network))


def _unused_parts(network: nn.Module, unused: Collection[str]) -> str:
    """A sentence on the largest submodules of ``network`` that its forward pass does not use (of a GAN whose forward
    pass is that of the discriminator, the generator)."""
    parts: list[str] = []
    for name, part in network.named_modules():
        if not name or name.startswith(tuple(f"{other}." for other in parts)):
            continue
        parameters = [f"{name}.{parameter}" for parameter, _ in part.named_parameters()]
        if parameters and all(parameter in unused for parameter in parameters):
            parts.append(name)
    if not parts:
        return ""
    return (
        f" Not pruned: {', '.join(parts)} (not used by the forward pass of {_class(network)} on the example input; "
        "name a network with network=)."
    )


def _other_parts(module: Any, network: nn.Module) -> str:
    inside = {id(parameter) for parameter in network.parameters()}
    others = [
        name
        for name, child in module.named_children()
        if any(id(parameter) not in inside for parameter in child.parameters())
    ]
    return f" Not pruned: {', '.join(others)} (one callback prunes one network)." if others else ""


def reject_copies(trainer: Any, callback: Any, module: Any, network: nn.Module) -> None:
    """Reject callbacks that copy the weights before the module is pruned, such as weight averaging.

    Raises:
        UserError: there is one; the message names it and the right order, or the averaged network of the module.
    """
    shapes = Counter(parameter.shape for parameter in network.parameters())
    place = trainer.callbacks.index(callback)
    for number, other in enumerate(trainer.callbacks):
        if other is callback:
            continue
        held = list(_held(vars(other)))
        if number > place:  # Lightning's own callback copies the network again in each setup
            copied = "WeightAveraging" not in _class_names(other) and any(
                isinstance(value, AveragedModel) for value in held
            )
        else:
            copied = _has_copy(held, shapes, {id(parameter) for parameter in module.parameters()})
        if copied:
            raise UserError(
                f"{_class(other)} copies the network before it is pruned. Put the pruning callback first: "
                f"Trainer(callbacks=[{_class(callback)}(...), {_class(other)}(...)]), and copy the network in a hook "
                "of the callback, such as on_fit_start, not when the callback is made."
            )
    for name, child in module.named_modules():
        if isinstance(child, AveragedModel):
            raise UserError(
                f"{name!r} of {_class(module)} is a copy of the network before it is pruned, which cannot average the "
                "weights of the smaller one. Make the AveragedModel in on_fit_start of the module."
            )


def _held(values: Any, depth: int = 0) -> Iterator[Any]:
    """The modules and tensors in nested dicts, lists and tuples."""
    if isinstance(values, nn.Module | torch.Tensor):
        yield values
    elif depth < DEPTH and isinstance(values, Mapping | list | tuple):
        for value in values.values() if isinstance(values, Mapping) else values:
            yield from _held(value, depth + 1)


def _has_copy(held: Iterable[Any], shapes: Counter[torch.Size], own: Collection[int]) -> bool:
    """Whether modules and tensors include one of each of the ``shapes``, apart from those with the ``own`` ids."""
    tensors = [
        each
        for value in held
        for each in (value.parameters() if isinstance(value, nn.Module) else (value,))
        if id(each) not in own
    ]
    return bool(shapes) and shapes <= Counter(each.shape for each in tensors)


def reject_stale_optimizers(trainer: Any, module: Any) -> None:
    """Reject optimizers that were made before the network was pruned.

    Raises:
        UserError: an optimizer updates tensors that are not parameters of the module, or keeps state of other shapes.
    """
    known = set(module.parameters())
    for optimizer in trainer.optimizers:
        parameters = [each for group in optimizer.param_groups for each in group["params"]]
        shapes = [
            (each.shape, value.shape)
            for each in parameters
            for value in optimizer.state.get(each, {}).values()
            if isinstance(value, torch.Tensor) and value.dim()
        ]
        if any(each not in known for each in parameters) or any(one != two for one, two in shapes):
            raise UserError(
                f"configure_optimizers of {_class(module)} returns a {_class(optimizer)} that was made before the "
                "network was pruned. Make a new optimizer in configure_optimizers."
            )


def reject_spawn(trainer: Any) -> None:
    """Reject strategies whose worker processes return their weights to a network that was not pruned.

    Raises:
        UserError: ddp_spawn, ddp_fork, ddp_notebook.
    """
    if "_MultiProcessingLauncher" in _class_names(trainer.strategy.launcher):
        raise UserError(
            "Pruning cannot work with a strategy that spawns or forks its processes "
            "(ddp_spawn, ddp_notebook): they return the weights of a smaller network to the full one. "
            "Use Trainer(strategy='ddp')."
        )


def scoring_device(trainer: Any) -> torch.device:
    """The device for scoring: the device of the training, or the CPU if that device has no double precision."""
    device = trainer.strategy.root_device
    return torch.device("cpu") if device.type == "mps" else device


def shows_progress(trainer: Any) -> bool:
    """Whether this process draws the progress bars of the run."""
    return trainer.is_global_zero and trainer.progress_bar_callback is not None


def calibration_loader(trainer: Any, images: int) -> Iterable[Any]:
    """Batches for scoring: those of the data module's ``calibration_dataloader(images)``, else the train batches.

    Raises:
        UserError: there is no such loader yet, or it is not a plain iterable of batches.
    """
    own = getattr(getattr(trainer, "datamodule", None), "calibration_dataloader", None)
    try:
        # Trainer.fit has not built its loaders yet; its data source builds them.
        loader = own(images) if own is not None else trainer.fit_loop._data_source.dataloader()
    except UserError:
        raise
    except Exception as error:
        raise UserError(
            f"The train dataloader is not available before training starts ({type(error).__name__}: {error}). "
            "Make the data in a LightningDataModule, or give the pruning method calibration=, an iterable of "
            "batches."
        ) from error
    if (
        isinstance(loader, list | tuple | dict)
        or hasattr(loader, "iterables")
        or not isinstance(loader, Iterable)
    ):
        raise UserError(
            f"The train dataloader is a {_class(loader)}, not one loader of batches: "
            "give the pruning method calibration=, an iterable of (images, targets) batches."
        )
    return loader


def validation_loader(trainer: Any, images: int) -> Iterable[Any] | None:
    """Batches held out of training: the data module's ``validation_dataloader(images)``, else its val batches.

    Test batches are never used. None if there are no val batches.

    Raises:
        UserError: there are several val loaders, or they cannot be had before training starts.
    """
    own = getattr(getattr(trainer, "datamodule", None), "validation_dataloader", None)
    source = trainer.fit_loop.epoch_loop.val_loop._data_source
    if own is None and not source.is_defined():
        return None
    try:
        loader = own(images) if own is not None else source.dataloader()
    except UserError:
        raise
    except Exception as error:
        raise UserError(
            f"The val dataloader cannot be had before training starts ({type(error).__name__}: {error}). "
            "Give the pruning method validation=, an iterable of batches."
        ) from error
    if isinstance(loader, list | tuple) and len(loader) == 1:
        (loader,) = loader
    if isinstance(loader, list | tuple | dict) or not isinstance(loader, Iterable):
        raise UserError(
            f"The val dataloader is a {_class(loader)}, not one loader of batches: "
            "give the pruning method validation=, an iterable of (images, targets) batches."
        )
    return loader


def _class(thing: object) -> str:
    return type(thing).__name__


def _class_names(thing: object) -> list[str]:
    return [each.__name__ for each in type(thing).__mro__]


def _defines_forward(module: nn.Module) -> bool:
    """Whether the class of a LightningModule overrides ``forward``."""
    return type(module).forward.__qualname__ != "LightningModule.forward"
