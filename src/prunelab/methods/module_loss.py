"""The loss that a LightningModule defines in ``training_step``, for criteria that need gradients before training."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves
from torchmetrics import Metric

from prunelab.errors import UserError
from prunelab.methods.calibration import Unpack


class ModuleLoss:
    """(outputs, batch) -> the loss that ``module.training_step`` returns for the batch.

    The outputs are those of an earlier forward pass, in which hooks read activations: ``training_step`` is run with a
    network that returns these outputs. It must therefore call the network exactly once, on the images of the batch.
    """

    def __init__(self, module: Any, network: nn.Module, unpack: Unpack) -> None:
        self.module = module
        self.network = network
        self.unpack = unpack

    def __call__(self, outputs: Any, batch: Any) -> Tensor:
        """Raises UserError if ``training_step`` cannot be used this way; the remedy is the argument ``loss=``."""
        images, calls, same = self.unpack(batch)[0], 0, True

        def returned(*args: Any, **kwargs: Any) -> Any:
            nonlocal calls, same
            calls += 1
            given = next((value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)), images)
            same = same and given.shape == images.shape and bool(torch.equal(given, images))
            return outputs

        with (
            _replaced(self.network, "forward", returned),
            _replaced(self.network, "_compiled_call_impl", returned),  # used instead of hooks and forward
            _silent(self.module),
        ):
            try:
                out = self.module.training_step(batch, 0)
            except UserError:
                raise
            except Exception as error:
                raise self._error(f"it raises {type(error).__name__}: {error}") from error
        if calls != 1:
            raise self._error(f"it calls the network {calls} times in a step, not once")
        if not same:
            raise self._error("it changes the images before it calls the network")
        loss = out["loss"] if isinstance(out, dict) else out
        if not isinstance(loss, Tensor):
            raise self._error(f"it returns {type(loss).__name__}, not a loss tensor")
        if loss.numel() != 1:
            raise self._error(f"it returns a tensor of shape {tuple(loss.shape)}, not one number")
        differentiable = any(isinstance(each, Tensor) and each.requires_grad for each in tree_leaves(outputs))
        if differentiable and torch.is_grad_enabled() and not loss.requires_grad:
            raise self._error(
                "its loss does not depend on the outputs of the network (detach, item, no_grad?)"
            )
        return loss

    def _error(self, cause: str) -> UserError:
        return UserError(
            f"The loss of {type(self.module).__name__}.training_step cannot be computed before training: {cause}. "
            "Give the pruning callback loss=, a function (outputs, targets) -> mean loss."
        )


@contextmanager
def _replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    """Context in which ``owner.name`` is ``value``: an attribute of this instance."""
    had = name in vars(owner)
    before = vars(owner).get(name)
    object.__setattr__(owner, name, value)
    try:
        yield
    finally:
        if had:
            object.__setattr__(owner, name, before)
        else:
            object.__delattr__(owner, name)


@contextmanager
def _silent(module: Any) -> Iterator[None]:
    """Context in which ``module.log`` and ``module.log_dict`` do nothing: outside a training loop they raise errors.

    Afterwards metrics of the module have their earlier state.
    """
    with (
        _replaced(module, "log", lambda *_, **__: None),
        _replaced(module, "log_dict", lambda *_, **__: None),
    ):
        metrics = [part for part in module.modules() if isinstance(part, Metric)]
        states = [copy.deepcopy(metric.metric_state) for metric in metrics]
        try:
            yield
        finally:
            for metric, state in zip(metrics, states, strict=True):
                for name, value in state.items():
                    setattr(metric, name, value)
