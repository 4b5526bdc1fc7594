"""Training steps of several processes that compute what one process computes with the whole batch.

The gradients of the processes are averaged by DDP. What remains are the operations that look at more than one image, or
draw random numbers for each image: batch normalisation, dropout and stochastic depth.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from prunelab.data.order import Shard

DROPOUTS: frozenset[Any] = frozenset(
    {
        functional.dropout,
        functional.dropout1d,
        functional.dropout2d,
        functional.dropout3d,
        functional.alpha_dropout,
        functional.feature_alpha_dropout,
    }
)


class WholeBatch(Callback):
    """Makes each training step of several processes equal to that of one process, up to rounding.

    torch.nn.SyncBatchNorm does this for batch normalisation on GPUs only, and the conversion of a network to it
    replaces layers of subclasses (the activation of timm's BatchNormAct2d is lost). Here no layer is replaced: the
    calls of ``torch.nn.functional`` are redirected while a step runs. On GPUs ``SameLayersSynchronised`` lets the usual
    layers use the faster kernels of torch. With one process nothing happens.

    Limits: dropout is redirected where the first dimension of its input is the images. In other orders of the
    dimensions (sequence first, windows), inside ``scaled_dot_product_attention`` and ``nn.MultiheadAttention``, and for
    random numbers that a network draws itself, all processes draw the same numbers for their different images.

    Args:
        batch_norm: whether statistics of batch normalisation are those of the whole batch; False: each process uses the
            statistics of its own images.
    """

    def __init__(self, batch_norm: bool = True) -> None:
        self.batch_norm = batch_norm
        self._mode: _WholeBatchMode | None = None

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        shard = Shard.of_this_process()
        if shard.ranks > 1:
            self._mode = _WholeBatchMode(shard, len(batch[0]), self.batch_norm)
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


class _WholeBatchMode(TorchFunctionMode):
    """Inside, operations on the ``images`` images of this process see the images of all processes."""

    def __init__(self, shard: Shard, images: int, batch_norm: bool) -> None:
        super().__init__()
        self._shard, self._images, self._batch_norm = shard, images, batch_norm

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is functional.batch_norm and self._batch_norm:
            return batch_norm(*args, **kwargs)
        if func in DROPOUTS and self._is_batch(args, kwargs):
            return self._of_all(lambda whole: func(whole, *args[1:], **kwargs), args[0])
        if func is Tensor.bernoulli_ and args[0].dim() > 1 and self._one_per_image(args[0]):
            drawn = self._of_all(lambda whole: func(whole, *args[1:], **kwargs), args[0])
            return args[0].copy_(drawn)  # stochastic depth: (images, 1, ..., 1)
        return func(*args, **kwargs)

    def _is_batch(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        return bool(args) and args[0].dim() > 1 and len(args[0]) == self._images

    def _one_per_image(self, tensor: Tensor) -> bool:
        return len(tensor) == tensor.numel() == self._images

    def _of_all(self, draw: Callable[[Tensor], Tensor], own: Tensor) -> Tensor:
        """The rows of this process in ``draw`` of the whole batch. The other rows are zero."""
        rank, ranks = self._shard.rank, self._shard.ranks
        sizes, dims = (ranks * len(own), *own.shape[1:]), range(own.dim())
        strides = torch.empty_like(own, device="meta").stride()  # numbers are drawn in the order of memory
        order = sorted(dims, key=lambda dim: strides[dim], reverse=True)
        whole = own.new_zeros([sizes[dim] for dim in order]).permute([order.index(dim) for dim in dims])
        whole[rank::ranks] = own
        return draw(whole)[rank::ranks]


def batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """``torch.nn.functional.batch_norm`` with the statistics of the images of all processes.

    Processes may have different numbers of images, each at least one. Works with every backend of torch.distributed,
    on CPUs and GPUs.
    """
    if not training:
        return functional.batch_norm(input, running_mean, running_var, weight, bias, False, momentum, eps)
    output, mean, variance, count = _BatchNorm.apply(input, weight, bias, eps)
    if running_mean is not None and running_var is not None:
        with torch.no_grad():
            unbiased = variance * (count / (count - 1).clamp(min=1))
            running_mean.lerp_(mean.to(running_mean.dtype), momentum)
            running_var.lerp_(unbiased.to(running_var.dtype), momentum)
    return output


class _BatchNorm(torch.autograd.Function):
    """(x, weight, bias, eps) -> normalised x, mean (C,), variance (C,), number of values per channel (1,)."""

    @staticmethod
    def forward(
        ctx: FunctionCtx, x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        wide = x if x.dtype == torch.float64 else x.float()
        (dims, shape), channels = _dims_and_shape(x), x.shape[1]
        local_variance, local_mean = torch.var_mean(wide, dims, correction=0)
        shard = Shard.of_this_process()
        parts = wide.new_zeros(shard.ranks, 2 * channels + 1)  # each row is filled by one process
        parts[shard.rank] = torch.cat([local_mean, local_variance, wide.new_tensor([x.numel() / channels])])
        dist.all_reduce(parts)
        means, variances, counts = parts.split([channels, channels, 1], dim=1)
        count = counts.sum(dim=0)
        mean = (means * counts).sum(dim=0) / count
        variance = ((variances + (means - mean) ** 2) * counts).sum(dim=0) / count
        inverse = torch.rsqrt(variance + eps)
        ctx.save_for_backward(x, weight, mean, inverse, count)  # type: ignore[arg-type]  # weight may be None
        ctx.has_bias = bias is not None  # type: ignore[attr-defined]
        ctx.mark_non_differentiable(mean, variance, count)
        scale = inverse if weight is None else inverse * weight
        output = (wide - mean.view(shape)) * scale.view(shape)
        output = output if bias is None else output + bias.view(shape)
        return output.to(x.dtype), mean, variance, count

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, inverse, count = ctx.saved_tensors
        dims, shape = _dims_and_shape(x)
        wide = gradient.to(mean.dtype)
        unit = (x.to(mean.dtype) - mean.view(shape)) * inverse.view(shape)
        sums = torch.stack([wide.sum(dims), (wide * unit).sum(dims)])
        of_bias, of_weight = sums.unbind()  # of the images of this process: DDP averages them
        whole = sums.clone()
        dist.all_reduce(whole)
        means = (whole / count).view(2, *shape)
        scale = inverse if weight is None else inverse * weight
        of_x = (wide - means[0] - unit * means[1]) * scale.view(shape)
        return (
            of_x.to(x.dtype),
            None if weight is None else of_weight.to(weight.dtype),
            of_bias if ctx.has_bias else None,
            None,
        )


def _dims_and_shape(x: Tensor) -> tuple[list[int], list[int]]:
    """Of x (N, C, ...): the dimensions that statistics are taken over, and the shape (1, C, 1, ...) of a statistic."""
    return [dim for dim in range(x.dim()) if dim != 1], [1, x.shape[1], *[1] * (x.dim() - 2)]
