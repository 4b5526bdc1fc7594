"""LearningFit: runs a LearningMethod inside one Lightning fit. A ``PruningCallback`` forwards its hooks to it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim import Optimizer

from prunelab.distributed.messages import info
from prunelab.errors import UserError
from prunelab.methods.calibration import Unpack
from prunelab.methods.context import PruningContext
from prunelab.methods.learning.method import LearningMethod

Step = Callable[..., Any]


@dataclass
class _Forward:
    """``Forward`` of one batch."""

    network: Callable[[Tensor], Any]
    own_step: Callable[[], Any]

    def __call__(self, images: Tensor) -> Any:
        return self.network(images)

    def own_loss(self) -> Tensor:
        out = self.own_step()
        loss = out["loss"] if isinstance(out, dict) else out
        if not isinstance(loss, Tensor):
            raise UserError(
                f"training_step returned {type(loss).__name__}; a learning method needs a loss tensor."
            )
        return loss


class LearningFit:
    """Calls the hooks of ``method`` during one fit, from ``attach`` to ``detach``.

    ``unpack``: batch -> (images, targets), for methods with a ``training_loss`` of their own.
    """

    def __init__(self, method: LearningMethod, unpack: Unpack) -> None:
        self.method = method
        self.unpack = unpack
        self._rates: dict[Tensor, float] = {}
        self._epoch_is_open = False
        self._module: Any = None

    @property
    def active(self) -> bool:
        """Whether the fit is a learning fit."""
        return self.method.learning is not None

    def attach(self, module: Any) -> None:
        """Prepare the network, and replace the loss of ``training_step`` if the method defines its own."""
        context = self.method.learning
        assert context is not None
        self.method.prepare(context)
        if type(self.method).training_loss is LearningMethod.training_loss:
            return
        if not module.automatic_optimization:
            raise UserError(
                f"{self.method.title} computes the training loss itself, which needs automatic optimization; "
                f"{type(module).__name__} optimizes manually."
            )
        self._module, own_step = module, module.training_step

        def training_step(batch: Any, batch_idx: int) -> Tensor:
            forward = _Forward(context.model, lambda: own_step(batch, batch_idx))
            images, targets = self.unpack(batch)
            loss = self.method.training_loss(context, (images, targets), forward)
            module.log(
                "train/loss",
                loss.detach(),
                on_step=False,
                on_epoch=True,
                sync_dist=True,
                batch_size=len(images),
            )
            return loss

        module.training_step = training_step

    def detach(self) -> None:
        """Undo ``attach``."""
        if self._module is not None:
            del self._module.training_step
            self._module = None
        self._rates, self._epoch_is_open = {}, False
        self.method.end()

    def on_fit_start(self) -> None:
        context = self.method.learning
        assert context is not None
        if self.method.eager and context.model._compiled_call_impl is not None:
            context.model._compiled_call_impl = None  # set by Module.compile(); torch has no public inverse
            info(
                f"{self.method.title} uses hooks in forward passes: the network is not compiled while it learns."
            )

    def on_train_start(self, trainer: Any) -> None:
        context = self.method.learning
        assert context is not None
        _require_training_mode(self.method, context)
        self.method.step, self.method.steps = trainer.global_step, trainer.estimated_stepping_batches
        if self.method.step == 0:
            self.method.before_first_step(context)

    def on_train_batch_start(self, trainer: Any) -> None:
        scaler = getattr(trainer.precision_plugin, "scaler", None)
        self.method.step = trainer.global_step
        scale = 1.0 if scaler is None else scaler.get_scale()
        self.method.loss_scale = scale / trainer.accumulate_grad_batches

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        self._rates |= {
            parameter: float(group["lr"]) for group in optimizer.param_groups for parameter in group["params"]
        }
        assert self.method.learning is not None
        _require_training_mode(self.method, self.method.learning)
        self.method.before_step(self.method.learning)

    def on_train_batch_end(self, trainer: Any) -> None:
        context = self.method.learning
        assert context is not None
        if self._rates:  # empty while gradients are accumulated
            self.method.after_step(context, self._rates)
            self._rates = {}
        self._epoch_is_open = not trainer.is_last_batch
        if trainer.is_last_batch:
            self.method.after_epoch(context)

    def on_train_epoch_end(self, module: Any) -> None:
        context = self.method.learning
        assert context is not None
        if self._epoch_is_open:  # max_steps of the Trainer ended the epoch
            self.method.after_epoch(context)
            self._epoch_is_open = False
        for name, value in self.method.watch(context).items():
            module.log(f"learning/{name}", float(value), on_epoch=True, sync_dist=True, batch_size=1)


def _require_training_mode(method: LearningMethod, context: PruningContext) -> None:
    """Raise UserError if a part of the network that must be in training mode is in evaluation mode.

    Checked at the start and at every step: hooks of the user may change the mode at any time.
    """
    if method.training_mode == "any":
        return
    needed = method.training_mode
    for path, module in context.model.named_modules():
        is_needed = not path or (needed == "normalisation" and isinstance(module, _BatchNorm))
        if is_needed and not module.training:
            place = f"{path!r} of {context.name}" if path else context.name
            raise UserError(
                f"{method.title} learns in training mode, but {place} is in evaluation mode, and the Trainer does not "
                "change the mode: call module.train() before fit, and do not call eval() during training."
            )
