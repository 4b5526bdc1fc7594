"""LearningMethod: a pruning method that learns while the full network trains, and decides afterwards."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

from torch import Tensor
from torch.nn import functional

from prunelab.errors import UserError
from prunelab.methods.about import About, require_covered
from prunelab.methods.allocation.budget import Budget
from prunelab.methods.allocation.candidate_widths import Normalisation
from prunelab.methods.calibration import Batch
from prunelab.methods.context import Loss, PruningContext
from prunelab.methods.method import PruningMethod

if TYPE_CHECKING:
    from prunelab.training import Training


TrainingMode = Literal["any", "network", "normalisation"]


class Forward(Protocol):
    """The network that learns, inside a training step."""

    def __call__(self, images: Tensor) -> Any:
        """The outputs of the network for ``images`` (N, C, H, W), in training mode, with gradients."""

    def own_loss(self) -> Tensor:
        """The loss of the current batch that ``training_step`` of the LightningModule returns."""


class LearningMethod(PruningMethod):
    """Learns during a fit of the full network, then prunes before the next one::

        method = Slimming(Budget(flops=0.5))
        callback = PruningCallback(method, plan_file="plan.json")
        pl.Trainer(max_epochs=160, callbacks=[callback]).fit(module, datamodule)  # learns
        pl.Trainer(max_epochs=160, callbacks=[callback]).fit(module, datamodule)  # prunes, then trains

    A fit that is resumed from a checkpoint in the middle of learning ends like an uninterrupted one.

    A subclass overrides hooks from ``prepare`` to ``finish``, and ``decide``. The structure of the network never
    changes in them. State outside the network that must survive an interruption belongs in ``state_dict`` and
    ``load_state_dict``: tensors and plain values.

    Args:
        budget: how much to keep at the end.
        training: optimizer and schedule of the learning fit in runs of the prunelab command; your own Trainer uses its
            own.
        epochs: length of the learning fit, by default ``training.epochs``; milestones and warm-up are scaled in
            proportion.
        normalisation: see ``Allocation``; None: the default of the method.
        settings: those of ``PruningMethod``.

    Attributes:
        learning: the context of the learning fit; None outside of one.
        step: number of optimizer steps before the current one.
        steps: number of optimizer steps of the whole fit (infinite if the Trainer has no end).
        loss_scale: factor on the loss before the backward pass, for methods that add gradients in it: 1, except with
            gradient accumulation or float16.

    Raises:
        UserError: a level for which the method is not defined.

    Example:
        >>> from prunelab.training import Training
        >>> method = prunelab.Slimming(prunelab.Budget(flops=0.5), training=Training(epochs=160), epochs=3)
        >>> isinstance(method, prunelab.LearningMethod), method.training.epochs
        (True, 3)
    """

    suited_normalisation: ClassVar[Normalisation] = "mean"
    """How ``global`` allocation makes layers comparable, unless the user chooses otherwise."""

    eager: ClassVar[bool] = False
    """Whether the method uses hooks in forward passes: then the network is not compiled while it learns."""

    training_mode: ClassVar[TrainingMode] = "any"
    """What must be in training mode, without which the method learns nothing useful: the whole network (also if parts
    of it are frozen), or the network and all of its batch normalisations."""

    decides_untrained: ClassVar[bool] = True
    """Whether ``decide`` also works without a learning fit, from the weights of the network."""

    any_budget: ClassVar[bool] = False
    """Whether learning is the same for every budget. Runs that differ in the budget then share it, and
    ``context.folder``: a search that depends on the budget needs a folder of its own inside."""

    learning: PruningContext | None
    step: int
    steps: float
    loss_scale: float

    def __init__(
        self,
        budget: Budget,
        training: Training | None = None,
        epochs: int | None = None,
        normalisation: str | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(budget, normalisation=normalisation or self.suited_normalisation, **settings)
        require_covered(type(self).__name__, self.levels, self.covers)
        self.training = training if training is None or epochs is None else training.lasting(epochs)
        self.learning = None
        self.step, self.steps, self.loss_scale = 0, math.inf, 1.0

    @property
    def about(self) -> About:
        lasting = f" ({self.training.epochs} epochs)" if self.training else ""
        return About(
            self.origin, "weights as they train", self.covers, f"a training of the full network{lasting}"
        )

    @property
    def reads_images(self) -> bool:
        return False

    @property
    def progress(self) -> float:
        """The fraction of all steps of this fit that has been taken, in [0, 1].

        Raises:
            UserError: the Trainer has no end.
        """
        if math.isinf(self.steps):
            raise UserError(
                f"{type(self).__name__} changes its settings over the whole training, but this Trainer has no limit: "
                "give it max_epochs or max_steps."
            )
        return min(1.0, self.step / max(1, self.steps))

    # Hooks, in the order of their calls.

    def prepare(self, context: PruningContext) -> None:
        """Called before optimizers and DDP are created, and before the weights of a checkpoint are loaded.

        It may change values, raise UserError for an unsuitable network, or add parameters, which ``finish`` must
        remove.
        """

    def before_first_step(self, context: PruningContext) -> None:
        """Called once, on the training device; not when a fit is resumed."""

    def training_loss(self, context: PruningContext, batch: Batch, forward: Forward) -> Tensor:
        """The loss of one training step, a scalar; called inside DDP, mixed precision and gradient accumulation.

        Args:
            context: of the network that learns.
            batch: (images, targets) of this rank.
            forward: the forward pass of the network, once or several times.
        """
        return forward.own_loss()

    def label_loss(self, context: PruningContext) -> Loss:
        """The loss of ``context``, with the label smoothing of ``training``, if any; for use in ``training_loss``."""
        smoothing = 0.0 if self.training is None else self.training.label_smoothing
        return partial(functional.cross_entropy, label_smoothing=smoothing) if smoothing else context.loss

    def before_step(self, context: PruningContext) -> None:
        """Called when gradients are unscaled and averaged over ranks, for instance to add those of a penalty."""

    def after_step(self, context: PruningContext, rates: Mapping[Tensor, float]) -> None:
        """Called after the optimizer has updated the parameters, each with its learning rate in ``rates``."""

    def after_epoch(self, context: PruningContext) -> None:
        """Called after the last step of an epoch (or of training), before validation."""

    def watch(self, context: PruningContext) -> dict[str, float]:
        """Figures to log after each epoch, as learning/<name>; the same on every rank."""
        return {}

    def finish(self, context: PruningContext) -> None:
        """Called when the fit has ended or was interrupted; must make the network an ordinary one again."""

    # State.

    def state_dict(self) -> dict[str, Any]:
        """The state for a resumed learning fit, without the weights of the network: tensors and plain values."""
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what ``state_dict`` returned."""

    def begin(self, context: PruningContext) -> None:
        """Make the next fit a learning fit of ``context.model``. (A ``PruningCallback`` calls this if needed.)"""
        self.learning = context

    def end(self) -> None:
        """End the learning fit."""
        context, self.learning = self.learning, None
        if context is not None:
            self.finish(context)
