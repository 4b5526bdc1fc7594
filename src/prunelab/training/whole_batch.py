"""Training steps of several processes that equal those of one process with the whole batch.

The gradients of the processes are averaged by DDP. This module handles the remaining operations, which combine several
images (``whole_batch_norm.py``) or draw random numbers for each image (``whole_batch_draws.py``).
"""

from __future__ import annotations

from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from prunelab.data.order import Shard
from prunelab.training.whole_batch_draws import WholeBatchDraws
from prunelab.training.whole_batch_norm import batch_norm


class WholeBatch(Callback):
    """Makes each training step of several processes equal to that of one process, up to rounding.

    torch.nn.SyncBatchNorm does this for batch normalisation on GPUs only, and the conversion of a network to it
    replaces layers of subclasses (the activation of timm's BatchNormAct2d is lost). Here no layer is replaced: calls of
    torch functions are redirected while a step runs. On GPUs ``SameLayersSynchronised`` lets the usual layers use the
    faster kernels of torch. With one process nothing happens.

    Random numbers are drawn for the whole batch in dropout, stochastic depth, attention with dropout
    (``scaled_dot_product_attention``, ``nn.MultiheadAttention``), and where a network draws a tensor of two or more
    dimensions whose first dimension is the images. Not covered are dropout of tensors whose first dimension is neither
    the images nor a multiple of them (sequence first), vectors of one number per image, draws outside of torch, and a
    network that mixes the images of a batch. In these cases the ranks draw equal numbers for different images.

    Args:
        batch_norm: whether statistics of batch normalisation are those of the whole batch; False: each process uses the
            statistics of its own images.
    """

    def __init__(self, batch_norm: bool = True) -> None:
        self.batch_norm = batch_norm
        self._mode: WholeBatchMode | None = None

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        shard = Shard.of_this_process()
        if shard.ranks > 1:
            self._mode = WholeBatchMode(shard, len(batch[0]), self.batch_norm)
            self._mode.__enter__()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._end()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._end()

    def _end(self) -> None:
        if self._mode is not None:
            self._mode.__exit__(None, None, None)
            self._mode = None


class WholeBatchMode(TorchFunctionMode):
    """Context in which operations on the ``images`` images of this process use the images of all processes."""

    def __init__(self, shard: Shard, images: int, batch_norm: bool) -> None:
        super().__init__()
        self._draws, self._batch_norm = WholeBatchDraws(shard, images), batch_norm

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is functional.batch_norm and self._batch_norm:
            return batch_norm(*args, **kwargs)
        return self._draws.call(func, args, kwargs)
