"""What a callback must find out from a Trainer and a LightningModule that it has never seen."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.strategies.launchers.multiprocessing import _MultiProcessingLauncher
from torch import nn

from prunelab.errors import UserError, nearest


def find_network(module: pl.LightningModule, name: str | None = None) -> nn.Module:
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
    if type(module).forward is not pl.LightningModule.forward:
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


def network_name(network: nn.Module) -> str:
    """The name that the network was built by, else its class."""
    return getattr(getattr(network, "prunelab_origin", None), "name", None) or _class(network)


def refuse_spawn(trainer: pl.Trainer) -> None:
    """Refuse strategies whose worker processes hand their weights back to a network that was not pruned.

    Raises:
        UserError: ddp_spawn, ddp_fork, ddp_notebook.
    """
    if isinstance(trainer.strategy.launcher, _MultiProcessingLauncher):
        raise UserError(
            "Pruning cannot work with a strategy that spawns or forks its processes "
            "(ddp_spawn, ddp_notebook): they hand the weights of a smaller network back to the full one. "
            "Use Trainer(strategy='ddp')."
        )


def scoring_device(trainer: pl.Trainer) -> torch.device:
    """Where images are looked at: the device that trains, or the CPU where that has no double precision."""
    device = trainer.strategy.root_device
    return torch.device("cpu") if device.type == "mps" else device


def shows_progress(trainer: pl.Trainer) -> bool:
    """Whether this process draws the progress bars of the run."""
    return trainer.is_global_zero and trainer.progress_bar_callback is not None


def calibration_loader(trainer: pl.Trainer, images: int) -> Iterable[Any]:
    """Batches to look at before training: the data module's ``calibration_dataloader(images)``, else the
    train batches.

    Raises:
        UserError: there is no such loader yet, or it is not a plain iterable of batches.
    """
    own = getattr(getattr(trainer, "datamodule", None), "calibration_dataloader", None)
    try:
        # Trainer.fit has not built its loaders yet; its source knows where they come from.
        loader = own(images) if own is not None else trainer.fit_loop._data_source.dataloader()
    except UserError:
        raise
    except Exception as error:
        raise UserError(
            f"The train dataloader cannot be had before training starts ({type(error).__name__}: {error}). "
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


def validation_loader(trainer: pl.Trainer, images: int) -> Iterable[Any] | None:
    """Batches held out of training: the data module's ``validation_dataloader(images)``, else its val batches.

    Test batches are never asked for. None if there are no val batches.

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
