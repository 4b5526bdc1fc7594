"""Detection of a diverged training: weights that are NaN or infinite."""

from __future__ import annotations

from itertools import chain

from pytorch_lightning import Callback, LightningModule, Trainer
from torch import nn

from prunelab.errors import UserError
from prunelab.training.classifier import Classifier

RUNNING = ("running_mean", "running_var")


class StopOnDivergence(Callback):
    """Ends the training after the first epoch whose weights are not finite, before they are saved as a checkpoint."""

    def __init__(self, title: str) -> None:
        self.title = title

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, Classifier)
        require_finite(pl_module.backbone, f"{self.title}, epoch {trainer.current_epoch + 1}")


def require_finite(network: nn.Module, phase: str) -> None:
    """Check that every parameter and running statistic of ``network`` is finite.

    Other buffers are not checked: some hold infinity on purpose (attention masks).

    Args:
        network: the network after the ``phase``.
        phase: what has changed the weights, such as "recovery, epoch 3"; for the message.

    Raises:
        UserError: names the first tensor that is not finite and the number of such tensors.
    """
    running = ((name, found) for name, found in network.named_buffers() if name.endswith(RUNNING))
    wrong = [
        name
        for name, tensor in chain(network.named_parameters(), running)
        if tensor.is_floating_point() and not bool(tensor.detach().isfinite().all())
    ]
    if wrong:
        raise UserError(
            f"The weights are NaN or infinite after {phase}: {wrong[0]}"
            + (f" and {len(wrong) - 1} other tensors" if len(wrong) > 1 else "")
            + ". A training that gives such weights has diverged: use a smaller learning rate (lr) or a longer warm-up "
            "(warmup_epochs) for it, or trainer.precision=32-true if it ran in lower precision."
        )
