"""Batch normalisation over the images of all GPUs, without new layers in the network."""

from __future__ import annotations

from pytorch_lightning.plugins.layer_sync import LayerSync
from timm.layers.norm_act import BatchNormAct2d, SyncBatchNormAct
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

SYNCHRONISED: dict[type[nn.Module], type[_BatchNorm]] = {
    nn.BatchNorm1d: nn.SyncBatchNorm,
    nn.BatchNorm2d: nn.SyncBatchNorm,
    nn.BatchNorm3d: nn.SyncBatchNorm,
    BatchNormAct2d: SyncBatchNormAct,
}
"""The class with which a batch normalisation synchronises its statistics over processes."""


class SameLayersSynchronised(LayerSync):
    """Changes the class of each batch normalisation for the time of a fit.

    Lightning's own ``TorchSyncBatchNorm`` replaces the layers by ``torch.nn.SyncBatchNorm``, and after the fit by a
    third class. That removes the activation of layers that include one (timm's ``BatchNormAct2d``), so that the network
    computes another function, also after the fit; and it removes the hooks of a method that learns.
    """

    def __init__(self) -> None:
        self._changed: list[tuple[nn.Module, type[nn.Module]]] = []

    def apply(self, model: nn.Module) -> nn.Module:
        """Synchronise the batch normalisations of ``model``, in place, with the kernels of torch.

        Layers of other classes, without a synchronised class in torch, are not changed: ``WholeBatch`` redirects their
        calls.
        """
        for module in [each for each in model.modules() if isinstance(each, _BatchNorm)]:
            if type(module) in SYNCHRONISED:
                self._changed.append((module, type(module)))
                module.process_group = None  # type: ignore[assignment]  # all processes
                module.__class__ = SYNCHRONISED[type(module)]
        return model

    def revert(self, model: nn.Module) -> nn.Module:
        """Undo ``apply``."""
        for module, original in self._changed:
            module.__class__ = original
            del module.process_group
        self._changed.clear()
        return model
